"""`make bench-search`: what the search finds, against a person's own work, an exhaustive run, a stranger's clock and its own cascades.

cascade    SST-2: a small student answers what it is sure of, the int8 graph of a base-size teacher the rest
outside    the numbers of a winner measured again by a script that knows nothing of smidgen
budgets    SST-2 and tweets, three budgets each: what `compress` finds, against what is made by hand in the same time
halving    successive halving against every candidate trained in full, over one space
halving, five rates    the same over a larger one

`python benchmarks/search.py budgets:sst2` runs one part of a section, `halving:0,1,2` one with these seeds. Thresholds, models and
settings are chosen on dev; figures are of test. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import distil
import numpy as np
from budgets import LIMIT, SPEEDUPS, by_hand, compared, limits, searched
from common import GRAPHS, MODEL, WORK, data, keep, one_by_one, remembered, said
from outside import timed
from races import RATES, ROWS, one, settings

from smidgen.artefact import draft_of, identity
from smidgen.cascading import build
from smidgen.data import Data, load_data
from smidgen.deferral import SURE, Choice, Wanted, choose, expected
from smidgen.demo import write_tweets
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel
from smidgen.measure.quality import interval, kept
from smidgen.measure.speed import latency
from smidgen.pairing import SHARE
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage
from smidgen.runner import Done
from smidgen.runtime import Cascade, load
from smidgen.runtime.folder import deployed_bytes
from smidgen.runtime.levels import to_data as levels_data
from smidgen.splits import Split
from smidgen.tasks import Classify

FILE = "search.json"
ROOT = WORK / "search"
CALLS = 300  # timed, of each model


# A cascade.

SMALL = ("MiniLM, 3 blocks", "MiniLM, 6 blocks", "CNN")  # students of `distil.py`
LARGE, TEACHER = "MPNet, int8", "MPNet, torch float32"
# What the threshold is to keep on dev: a share of whose quality, in how many of dev's draws. The first is what `smidgen cascade SMALL
# LARGE` does; the next ones ask for more, as one may whose cascade is faster than it has to be.
ASKED = ((LARGE, SHARE, SURE), (LARGE, 0.995, SURE), (LARGE, 1.0, SURE), (TEACHER, SHARE, SURE), (TEACHER, SHARE, 0.5))
WANTED = {"kept": 0.99, "speedup": 5.0}


def cascade() -> None:
    """Every small model with every threshold, timed on the real mix. The claim is of the one that by dev keeps the most of the large
    model under smidgen's own guard, of those that by dev are fast enough."""
    files, splits = films()
    teacher_folder, folders = models(files, splits)
    task, test = splits.task, splits.test
    assert isinstance(task, Classify) and test is not None and test.labels is not None
    opened: dict[str, Any] = {TEACHER: TorchModel(teacher_folder, task)}
    opened |= {name: load(folder) for name, folder in folders.items()}
    on_dev = {name: said(ROOT, model, splits.dev) for name, model in opened.items()}
    made: dict[str, tuple[dict[str, Any], Choice]] = {}
    refused: list[dict[str, Any]] = []
    for small, (of, share, guard) in itertools.product(SMALL, ASKED):
        about = {"small": small, "of": of, "share": share, "guard": guard}
        choice = choose(task, on_dev[small], on_dev[LARGE], splits.dev.labels, Wanted(share, on_dev[of]), guard)
        if choice is None or not 0 < choice.passed < 1:
            why = "the large model does not keep it" if choice is None else f"{choice.passed:.0%} would go on"
            refused.append(about | {"why": why})
            continue
        folder = ROOT / "cascades" / identity(about)
        build(folder, [folders[small], folders[LARGE]], [choice], {"task": task.to_data()})
        opened[str(folder)], made[str(folder)] = load(folder), (about, choice)
    reference = said(ROOT, opened[TEACHER], test)
    found = latency({name: one_by_one(model) for name, model in opened.items()}, list(test.texts), CALLS)
    speeds = {name: entries.speedup_data(each, found[TEACHER], mean=True) for name, each in found.items()}
    rows = []
    for name, (about, choice) in made.items():
        outputs, by = answered(opened[name], test)
        ms = expected([found[about["small"]].mean_ms, found[LARGE].mean_ms], [choice.passed])
        rows.append(
            {
                **about,
                "dev": {
                    "passed": choice.passed,
                    "held": choice.held,
                    "threshold": choice.threshold,
                    "speedup": found[TEACHER].mean_ms / ms,
                },
                "passed": float((by > 0).mean()),
                "mean_ms": found[name].mean_ms,
                "speedup": speeds[name],
                "size_mb": deployed_bytes(opened[name].folder) / 1e6,
                **measured(task, outputs, reference, test),
            }
        )
        print(rows[-1], flush=True)
    fast = [row for row in rows if row["of"] == LARGE and row["dev"]["speedup"] >= WANTED["speedup"]]
    result = {
        "what": "SST-2; students of MPNet (12 x 768) and MPNet itself as int8 graphs, one folder each; the teacher in torch float32; "
        "batch 1, text in to label out, speeds by the mean over the texts of test",
        "n": len(test),
        "dev": len(splits.dev),
        "claimed": rows.index(max(fast, key=lambda row: (row["share"], row["dev"]["speedup"]))) if fast else None,
        "alone": {
            name: {"mean_ms": found[name].mean_ms, "speedup": speeds[name]}
            | measured(task, said(ROOT, opened[name], test), reference, test)
            for name in (TEACHER, LARGE, *SMALL)
        },
        "runs": rows,
        "refused": refused,
        "wanted": WANTED,
    }
    keep(FILE, "cascade", result, [0])


def measured(task: Classify, outputs: np.ndarray, reference: np.ndarray, test: Split) -> dict[str, Any]:
    """Quality on test, and the share of the teacher's."""
    assert test.labels is not None
    share = kept(task, outputs, reference, test.labels)
    return {
        "quality": entries.quality_data(task, outputs, test),
        "kept": {"value": share.value, "low": share.low, "high": share.high},
    }


def films() -> tuple[dict[str, Any], Data]:
    """The files of `distil.students`, and what is in them."""
    files = data("sst2") | {"unlabeled": distil.films()}
    return files, load_data(**files)


def models(files: Mapping[str, Any], splits: Data) -> tuple[Path, dict[str, Path]]:
    """The teacher of `distil.students`, and the int8 graphs of it and of its students of seed 0."""
    base = distil.base_teacher()
    done = make(splits, LARGE, [base, *GRAPHS], files)
    folders = {LARGE: done[-1].artefact.path}
    for name in SMALL:
        stages = [base, *distil.STUDENTS[name]("distilled"), *GRAPHS]
        folders[name] = make(splits, name, stages, files)[-1].artefact.path
    return done[0].artefact.path, folders


def make(splits: Data, name: str, stages: Sequence[Stage], files: Mapping[str, Any]) -> list[Done]:
    """As `common.make`; what `distil.py` has finished is linked and not made again, also while it runs."""
    stages_of = plan(Recipe(MODEL, Files(**files), tuple(stages), name=name), splits).stages
    for id in (planned.id for planned in stages_of):
        theirs, ours = distil.ROOT / id, ROOT / "stages" / id
        if theirs.is_dir() and not ours.exists():
            shutil.copytree(theirs, draft_of(ours), copy_function=os.link, dirs_exist_ok=False)
            draft_of(ours).rename(ours)
    return common.make(ROOT / "stages", splits, name, stages, dict(files), MODEL)


def answered(model: Cascade, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """What a cascade says, and which model said it."""
    name = f"{model.folder.name}-{identity(levels_data(model.levels))}-{split.fingerprint[:16]}"
    both = remembered(ROOT / "said", name, lambda: np.column_stack(model.answered(model.rows(split.texts))))
    return both[:, :-1], both[:, -1]


# A stranger's clock.

ROUNDS, BLOCK = 150, 20  # blocks of single calls by turns
STILL = 0.1  # seconds before each: threads of the other process that have no work spin on for a while
PERCENTILES = (50, 95)


def outside() -> None:
    """Smidgen and `outside.py`, in a process of its own, by turns on the same folder, threads and texts: a student, and the winners that
    `budgets` has left."""
    files, splits = films()
    assert splits.test is not None
    measured = [("MiniLM, 3 blocks", models(files, splits)[1]["MiniLM, 3 blocks"], splits.test)]
    for part, budget in itertools.product(PARTS, SPEEDUPS):
        folder = ROOT / part / budget / "winner"
        if folder.is_dir():
            measured.append((f"{part}, {budget} budget's winner", folder, test_of(part)))
    rows = [beside(*each) for each in measured]
    result = {
        "what": "SST-2's test sentences or tweets one by one, text in to label out; `outside.py` imports onnxruntime, tokenizers and numpy alone",
        "n": sum(row["n"] for row in rows),
        "calls": ROUNDS * BLOCK,
        "runs": rows,
        "wanted": "p95 within 10 %, size to the byte, labels exactly",
    }
    keep(FILE, "outside", result, [0])


def beside(name: str, folder: Path, test: Split) -> dict[str, Any]:
    """The percentiles of both, their ratios, and whether size and labels are the same."""
    model = load(folder)
    labels = [model.predict([text])[0]["label"] for text in test.texts]
    order = np.random.default_rng(0).permutation(ROUNDS * BLOCK) % len(test)
    taken: dict[str, list[list[float]]] = {"smidgen": [], "outside": []}
    threads = [each.threads for each in (model.models if isinstance(model, Cascade) else [model])]
    with Stranger(folder, test.texts, threads) as stranger:
        ways = {
            "smidgen": lambda rows: timed(one_by_one(model), [test.texts[i] for i in rows]),
            "outside": stranger.timed,
        }
        for turn, rows in enumerate(order.reshape(ROUNDS, BLOCK).tolist()):
            for who in sorted(ways, reverse=bool(turn % 2)):
                time.sleep(STILL)
                taken[who].append(ways[who](rows))
        end = stranger.end()
    ms = {who: np.array(each) for who, each in taken.items()}
    return {
        "folder": name,
        "n": len(test),
        "threads": threads,
        "ms": {who: {f"p{p}": float(np.percentile(each, p)) for p in PERCENTILES} for who, each in ms.items()},
        "tokenizer_ms": {
            "smidgen": float(np.median(timed(lambda text: model.encode([text]), test.texts))),
            "outside": float(np.median(end["tokenizer_ms"])),
        },
        "over": {f"p{p}": over(ms["outside"], ms["smidgen"], p) for p in PERCENTILES},
        "bytes": {"smidgen": deployed_bytes(folder), "outside": end["bytes"]},
        "different": sum(a != b for a, b in zip(labels, end["labels"], strict=True)),
    }


class Stranger:
    """`outside.py` in a process of its own."""

    def __init__(self, folder: Path, texts: Sequence[str], threads: Sequence[int]) -> None:
        told = ROOT / "outside.json"
        told.write_text(json.dumps({"texts": list(texts), "threads": list(threads)}), encoding="utf-8")
        script = [sys.executable, "-I", str(common.ROOT / "benchmarks" / "outside.py"), str(folder), str(told)]
        self.process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *about: object) -> None:
        self.process.__exit__(*about)

    def timed(self, rows: list[int]) -> list[float]:
        assert self.process.stdin is not None
        print(json.dumps(rows), file=self.process.stdin, flush=True)
        return list(self._heard())

    def end(self) -> dict[str, Any]:
        """What it has to say when nothing more is asked."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return dict(self._heard())

    def _heard(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def over(a: np.ndarray, b: np.ndarray, percentile: int) -> dict[str, float]:
    """The ratio of a percentile of two, (rounds, calls) each, with a bootstrap interval over rounds."""
    draw = np.random.default_rng(0).integers(0, len(a), (1000, len(a)))
    low, high = interval(np.array([np.percentile(a[i], percentile) / np.percentile(b[i], percentile) for i in draw]))
    return {"value": float(np.percentile(a, percentile) / np.percentile(b, percentile)), "low": low, "high": high}


# Three budgets.

PARTS = ("sst2", "tweets")


def budgets(parts: Sequence[str] = PARTS) -> None:
    """The loose budget first: its labels, graphs and trainings are there for the others. Kept after each."""
    for part in parts:
        teacher_folder, files = FILES[part]()
        splits, home = load_data(**files), ROOT / part
        teacher = TorchModel(teacher_folder, splits.task)
        ms = limits(teacher, splits, home)
        hands, told = by_hand(splits, home)
        reports: dict[str, dict[str, Any]] = {}
        for name in SPEEDUPS:
            reports[name] = searched(teacher_folder, files, ms[name], home, name)
            result = compared(splits, teacher, hands, told, reports, home, CALLS)
            keep(FILE, f"budgets, {part}", {"what": WHAT[part], "limit": LIMIT, **result}, [0])


WHAT = {
    "sst2": "SST-2; the teacher is MPNet (12 x 768) fine-tuned",
    "tweets": "Tweets; the teacher is MPNet (12 x 768) fine-tuned",
}


def sst2() -> tuple[Path, dict[str, Any]]:
    """The teacher's folder, and the files. No texts without labels: to label one takes MPNet as long as to learn from two."""
    whole, splits = films()
    return make(splits, "teacher", [distil.base_teacher()], whole)[0].artefact.path, data("sst2")


def tweets() -> tuple[Path, dict[str, Any]]:
    """The same of tweets."""
    files = {name: str(path) for name, path in write_tweets(WORK / "tweets", 0).items() if name != "unlabeled"}
    learnt = {"train": files["train"], "dev": files["dev"]}
    stages = [distil.base_teacher()]
    done = common.make(ROOT / "tweets" / "stages", load_data(**learnt), "teacher of tweets", stages, learnt, MODEL)
    return done[0].artefact.path, files


FILES = {"sst2": sst2, "tweets": tweets}


@functools.cache
def test_of(part: str) -> Split:
    test = load_data(**FILES[part]()[1]).test
    assert test is not None
    return test


# Successive halving.


def halving(seeds: Sequence[int] = (0,), section: str = "halving") -> None:
    """With each seed another draw of train and dev, and all trainings anew; kept after each."""
    rates, runs = RATES[section], []
    for number, seed in enumerate(seeds, 1):
        files = data("sst2")
        for name, rows in ROWS.items():
            files[name] = common.part(Path(files[name]), ROOT / "halving" / f"data-{seed}", rows, seed)
        splits = load_data(**files)

        train = functools.partial(common.make, ROOT / "halving" / "stages", splits, files=files, model=MODEL, seed=seed)
        runs.append(one(train, seed, files, splits, rates))
        result = {
            "what": "SST-2, a part of train and dev; students of MiniLM-6 fine-tuned, in torch",
            "space": settings(rates),
            "runs": runs,
            "wanted": {"behind": 0.005, "of_the_time": 0.2},
        }
        keep(FILE, section, result, list(seeds[:number]))


SECTIONS: dict[str, Callable[..., None]] = {
    "cascade": cascade,
    "outside": outside,
    "budgets": budgets,
    **{section: functools.partial(halving, section=section) for section in RATES},
}

if __name__ == "__main__":
    for each in sys.argv[1:] or SECTIONS:
        name, _, parts = each.partition(":")
        chosen_parts = [int(part) if part.isdigit() else part for part in parts.split(",") if part]
        SECTIONS[name](*[chosen_parts] if chosen_parts else [])
