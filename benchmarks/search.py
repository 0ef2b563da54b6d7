"""`make bench-search`: what the search finds, against a person's own work, an exhaustive run, a stranger's clock and its own cascades.

cascade    SST-2: a small student answers what it is sure of, the int8 graph of a base-size teacher the rest
outside    the numbers of a winner measured again by a script that knows nothing of smidgen
budgets    SST-2 and tweets, three budgets each: what `compress` finds, against what is made by hand in the same time
halving    successive halving against every candidate trained in full, over one space

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import distil
import numpy as np
from budgets import LIMIT, SPEEDUPS, by_hand, compared, limits, searched
from common import GRAPHS, MODEL, WORK, data, keep
from outside import timed
from races import ROWS, one, settings

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
from smidgen.runtime import load
from smidgen.runtime.folder import GRAPH, deployed_bytes
from smidgen.splits import Split
from smidgen.tasks import Classify

FILE = "search.json"
ROOT = WORK / "search"
CALLS = 300  # timed, of each model


# A cascade.

SMALL = ("MiniLM, 3 blocks", "MiniLM, 6 blocks", "CNN")  # students of `distil.py`
LARGE, TEACHER = "MPNet, int8", "MPNet, torch float32"
# Of whom SHARE is to be kept on dev, and in which share of its draws; the first is what `smidgen cascade SMALL LARGE` does.
GUARDS = ((LARGE, SURE), (TEACHER, SURE), (TEACHER, 0.5), (TEACHER, 0.0))
WANTED = {"kept": 0.99, "speedup": 5.0}


def cascade() -> None:
    """Every pair under every guard is timed on the real mix; the claim is of the pair that is the fastest on dev under the first one."""
    files, splits = films()
    teacher_folder, folders = models(files, splits)
    task, test = splits.task, splits.test
    assert isinstance(task, Classify) and test is not None and test.labels is not None
    opened: dict[str, Any] = {TEACHER: TorchModel(teacher_folder, task)}
    opened |= {name: load(folder) for name, folder in folders.items()}
    on_dev = {name: said(model, splits.dev) for name, model in opened.items()}
    made: dict[str, tuple[str, str, float, Choice]] = {}
    refused: list[dict[str, Any]] = []
    for small, (of, guard) in itertools.product(SMALL, GUARDS):
        choice = chosen(splits, on_dev, small, of, guard)
        if choice is None or not 0 < choice.passed < 1:
            why = "the large model does not keep it" if choice is None else f"{choice.passed:.0%} would go on"
            refused.append({"small": small, "of": of, "guard": guard, "why": why})
            continue
        folder = ROOT / "cascades" / identity([small, of, guard])
        build(folder, [folders[small], folders[LARGE]], [choice], {"task": task.to_data()})
        opened[str(folder)], made[str(folder)] = load(folder), (small, of, guard, choice)
    reference = said(opened[TEACHER], test)
    found = latency({name: call(model) for name, model in opened.items()}, list(test.texts), CALLS)
    rows = []
    for name, (small, of, guard, choice) in made.items():
        model = opened[name]
        outputs, by = model.answered(model.rows(test.texts))
        numbers = measured(task, outputs, reference, test)
        rows.append(
            {
                "small": small,
                "of": of,
                "guard": guard,
                "dev": {"passed": choice.passed, "held": choice.held, "threshold": choice.threshold},
                "passed": float((by > 0).mean()),
                "speedup": entries.speedup_data(found[name], found[TEACHER], mean=True),
                "mean_ms": found[name].mean_ms,
                "expected_ms": expected([found[small].mean_ms, found[LARGE].mean_ms], [choice.passed]),
                "size_mb": deployed_bytes(model.folder) / 1e6,
                **numbers,
            }
        )
        print(rows[-1], flush=True)
    own = [row for row in rows if (row["of"], row["guard"]) == GUARDS[0]]
    result = {
        "what": "SST-2; students of MPNet (12 x 768) and MPNet itself as int8 graphs, one folder each; the teacher in torch float32; "
        "batch 1, text in to label out, speeds by the mean over the texts of test",
        "n": len(test),
        "dev": len(splits.dev),
        "asked": SHARE,
        "claimed": min(own, key=lambda row: row["expected_ms"])["small"] if own else None,
        "alone": {
            name: measured(task, said(opened[name], test), reference, test)
            | {
                "mean_ms": found[name].mean_ms,
                "speedup": entries.speedup_data(found[name], found[TEACHER], mean=True),
            }
            for name in (TEACHER, LARGE, *SMALL)
        },
        "runs": rows,
        "refused": refused,
        "wanted": WANTED,
    }
    keep(FILE, "cascade", result, [0])


def chosen(splits: Data, on_dev: Mapping[str, np.ndarray], small: str, of: str, guard: float) -> Choice | None:
    """The threshold as `smidgen cascade` sets it, `of` being its --teacher."""
    assert isinstance(splits.task, Classify) and splits.dev.labels is not None
    wanted = Wanted(SHARE, on_dev[of])
    return choose(splits.task, on_dev[small], on_dev[LARGE], splits.dev.labels, wanted, guard)


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
        stages = [base, distil.student_stage(*distil.STUDENTS[name], "distilled"), *GRAPHS]
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


def call(model: Any) -> Callable[[str], Any]:
    return lambda text: model.predict([text])


def said(model: Any, split: Split) -> np.ndarray:
    """What a model says of a split; kept, by its folder and the rows, since the teacher takes minutes."""
    kind = type(model).__name__.lower()
    file = ROOT / "said" / f"{model.folder.name}-{kind}-{split.fingerprint[:16]}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"draft-{file.name}")
        np.save(draft, model.outputs(split.texts, split.pairs))
        draft.rename(file)
    found: np.ndarray = np.load(file)
    return found


# A stranger's clock.

ROUNDS, BLOCK = 150, 20  # blocks of single calls by turns
PERCENTILES = (50, 95)


def outside() -> None:
    """Smidgen and `outside.py`, in a process of its own, by turns on the same folder, threads and texts."""
    files, splits = films()
    assert splits.test is not None
    folders = {"MiniLM, 3 blocks": models(files, splits)[1]["MiniLM, 3 blocks"]}
    winners = {f"{name} budget's winner": ROOT / "sst2" / name / "winner" for name in SPEEDUPS}
    folders |= {name: folder for name, folder in winners.items() if (folder / GRAPH).is_file()}  # a cascade has more
    rows = [beside(name, folder, splits.test) for name, folder in folders.items()]
    result = {
        "what": "SST-2's test sentences one by one, text in to label out; `outside.py` imports onnxruntime, tokenizers and numpy alone",
        "n": len(splits.test),
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
    with Stranger(folder, test.texts, model.threads) as stranger:
        ways = {"smidgen": lambda rows: timed(call(model), [test.texts[i] for i in rows]), "outside": stranger.timed}
        for turn, rows in enumerate(order.reshape(ROUNDS, BLOCK).tolist()):
            for who in sorted(ways, reverse=bool(turn % 2)):
                taken[who].append(ways[who](rows))
        end = stranger.end()
    ms = {who: np.array(each) for who, each in taken.items()}
    return {
        "folder": name,
        "threads": model.threads,
        "ms": {who: {f"p{p}": float(np.percentile(each, p)) for p in PERCENTILES} for who, each in ms.items()},
        "over": {f"p{p}": over(ms["outside"], ms["smidgen"], p) for p in PERCENTILES},
        "bytes": {"smidgen": deployed_bytes(folder), "outside": end["bytes"]},
        "different": sum(a != b for a, b in zip(labels, end["labels"], strict=True)),
    }


class Stranger:
    """`outside.py` in a process of its own."""

    def __init__(self, folder: Path, texts: Sequence[str], threads: int) -> None:
        told = ROOT / "outside.json"
        told.write_text(json.dumps({"texts": list(texts), "threads": threads}), encoding="utf-8")
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
BARE = 6000  # of the sentences of film reviews
TAUGHT = 2000  # tweets that MPNet learns from


def budgets(parts: Sequence[str] = PARTS) -> None:
    """The tight budget first: its labels, graphs and trainings are there for the others. Kept after each."""
    for part in parts:
        teacher_folder, files = {"sst2": sst2, "tweets": tweets}[part]()
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
    "tweets": f"Tweets; the teacher is MPNet (12 x 768) fine-tuned on {TAUGHT:,} of them",
}


def sst2() -> tuple[Path, dict[str, Any]]:
    """The teacher's folder, and the files: all of train, and a part of the film reviews without labels."""
    whole, splits = films()
    files = whole | {"unlabeled": common.part(Path(whole["unlabeled"]), ROOT / "sst2" / "data", BARE, 0)}
    return make(splits, "teacher", [distil.base_teacher()], whole)[0].artefact.path, files


def tweets() -> tuple[Path, dict[str, Any]]:
    """The same of tweets; the teacher is made of a part of train."""
    files = {name: str(path) for name, path in write_tweets(WORK / "tweets", 0).items()}
    few = {"train": common.part(Path(files["train"]), ROOT / "tweets" / "data", TAUGHT, 0), "dev": files["dev"]}
    stages = [distil.base_teacher()]
    done = common.make(ROOT / "tweets" / "stages", load_data(**few), "teacher of tweets", stages, few, MODEL)
    return done[0].artefact.path, files


# Successive halving.


def halving(seeds: Sequence[int] = (0,)) -> None:
    """With each seed another draw of train and dev, and all trainings anew; kept after each."""
    runs = []
    for number, seed in enumerate(seeds, 1):
        files = data("sst2")
        for name, rows in ROWS.items():
            files[name] = common.part(Path(files[name]), ROOT / "halving" / f"data-{seed}", rows, seed)
        splits = load_data(**files)

        train = functools.partial(common.make, ROOT / "halving" / "stages", splits, files=files, model=MODEL, seed=seed)
        runs.append(one(train, seed, files, splits))
        result = {
            "what": "SST-2, a part of train and dev; students of MiniLM-6 fine-tuned, in torch",
            "space": settings(),
            "runs": runs,
            "wanted": {"behind": 0.005, "of_the_time": 0.2},
        }
        keep(FILE, "halving", result, list(seeds[:number]))


SECTIONS: dict[str, Callable[..., None]] = {
    "cascade": cascade,
    "outside": outside,
    "budgets": budgets,
    "halving": halving,
}

if __name__ == "__main__":
    for each in sys.argv[1:] or SECTIONS:
        name, _, parts = each.partition(":")
        chosen_parts = [int(part) if part.isdigit() else part for part in parts.split(",") if part]
        SECTIONS[name](*[chosen_parts] if chosen_parts else [])
