"""`make bench-prune`: what pruning keeps, and how much faster what is left really is.

fisher      MiniLM-6 on SST-2, cut to 1.5 times the speed of its int8 graph by `prune.fisher`, without training
table       MiniLM-6 on SST-2: quality kept against measured speed for each method, beside distilled students
base        the same for a base-size model, the same teacher for all seeds, with fewer ways and steps
ledger      one row for each testable claim of the papers, on MiniLM-6 and a part of SST-2
attention   MiniLM-6 with attention of other kinds, by Theseus, on news articles of up to 2,048 tokens

`python benchmarks/prune.py fisher:0,1,2` runs one section with these seeds. Figures are of test; nothing was chosen on it.
A run that was stopped goes on where it was. All speeds are of int8 graphs, batch 1, one thread, timed side by side with the uncut one.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import GRAPHS, MODEL, WORK, ahead, data, keep

from smidgen import clock
from smidgen.data import Data, load_data
from smidgen.errors import SmidgenError
from smidgen.measure import entries
from smidgen.measure.quality import kept
from smidgen.recipe import Stage, Training, Use
from smidgen.runner import Done
from smidgen.runtime import load, serving
from smidgen.runtime.folder import deployed_bytes
from smidgen.runtime.machine import instructions

SEEDS = (0, 1, 2)
FILE = "prune.json"
ROOT = WORK / "prune"  # sections that may run at the same time have folders of their own
SPEEDUP = 1.5
TEACHER = Stage("teacher", (Use("tune.full"),), train=Training(epochs=2, learning_rate=1e-4))
CALLS = 300  # timed, of each model

make = functools.partial(common.make, ROOT / "stages")


def fisher(seeds: Sequence[int] = SEEDS) -> None:
    """The teacher and what is left of it, both as int8 graphs, timed side by side."""
    files = data("sst2")
    splits = load_data(**files)
    assert splits.test is not None and splits.test.labels is not None
    rows, right = [], []
    for seed in seeds:
        stages = (
            TEACHER,
            Stage("teacher onnx", (Use("export.onnx"),)),
            Stage("teacher int8", (Use("quant.dynamic"),)),
            Stage("cut", (Use("prune.fisher", {"speedup": SPEEDUP, "price": "int8"}),), source="teacher"),
            *GRAPHS,
        )
        done = {one.planned.stage.name: one.artefact for one in make(splits, "fisher", stages, files, MODEL, seed)}
        models = {name: load(done[name].path) for name in ("teacher int8", "int8")}
        outputs = {name: model.outputs(splits.test.texts) for name, model in models.items()}
        right.append([splits.task.correct(outputs[name], splits.test.labels) for name in models])
        times, _ = entries.time_all(models, entries.timed_texts(splits.test), CALLS)
        record = done["cut"].record
        rows.append(
            {
                "seed": seed,
                "teacher": entries.quality_data(splits.task, outputs["teacher int8"], splits.test),
                "cut": entries.quality_data(splits.task, outputs["int8"], splits.test),
                "seconds": record["seconds"],
                "speedup": entries.speedup_data(times["int8"], times["teacher int8"]),
                "found": record["found"]["prune.fisher"],
            }
        )
        print(rows[-1], flush=True)
    teacher, cut = (np.stack([pair[i] for pair in right]) for i in (0, 1))
    result = {
        "what": "SST-2, MiniLM-6; the teacher and what prune.fisher left of it, both int8 graphs, batch 1, one thread, text in to label out",
        "n": len(splits.test),
        "asked": SPEEDUP,
        "lost": ahead(teacher, cut),
        "runs": rows,
        "wanted": "1.5x in under 3 minutes, at most 1.5 points lost",
    }
    keep(FILE, "fisher", result, list(seeds))


# Quality kept against speed.

TWICE = {"claim": "at 2x the speed a pruned model keeps 98 %", "of": None, "speedup": 2.0, "kept": 0.98}
GATES = {
    "claim": "after gates with distillation, at 3x the speed, 96 %",
    "of": "gates, distilled",
    "speedup": 3.0,
    "kept": 0.96,
}


def table(seeds: Sequence[int] = SEEDS) -> None:
    from cuts import TABLE

    files = data("sst2")
    splits = load_data(**files)

    def uncut(seed: int) -> Path:
        folder: Path = make(splits, "teacher", [TEACHER], files, MODEL, seed)[0].artefact.path
        return folder

    side_by_side(here("table"), "SST-2, MiniLM-6 (6 blocks x 384)", TABLE, uncut, seeds, [TWICE, GATES])


def base(seeds: Sequence[int] = SEEDS) -> None:
    """Of the teacher that `distil.py` makes of all-mpnet-base-v2."""
    import distil
    from cuts import BASE, ONCE

    files = data("sst2")
    splits = load_data(**files)

    def uncut(seed: int) -> Path:
        folder: Path = distil.make(splits, "teacher", [distil.base_teacher()], files, MODEL)[0].artefact.path
        return folder

    side_by_side(
        here("base"),
        "SST-2, MPNet (12 blocks x 768)",
        BASE,
        uncut,
        seeds,
        [TWICE, GATES],
        functools.partial(common.make, ROOT / "base"),
        ONCE,
    )


def here(section: str) -> str:
    """Where a machine's figures go: a cut brings less where products cost less."""
    return f"{section}, AMX" if "amx_int8" in instructions() else section


def side_by_side(
    section: str,
    what: str,
    ways: Mapping[tuple[str, str], tuple[Stage, ...]],
    uncut: Callable[[int], Path],
    seeds: Sequence[int],
    wanted: Sequence[dict[str, Any]],
    make: Callable[..., list[Done]] = make,
    once: Collection[tuple[str, str]] = (),
) -> None:
    """Each way with each seed, those of `once` with the first alone, from the fine-tuned model that `uncut` gives for a seed; the
    result is kept after each."""
    files = data("sst2")
    splits = load_data(**files)
    runs: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        teacher = str(uncut(seed))
        folders = {"uncut": make(splits, "uncut", GRAPHS, files, teacher, seed)[-1].artefact.path}
        took: dict[str, float] = {}
        for (method, asked), stages in ways.items():
            if number > 1 and (method, asked) in once:
                continue
            try:
                done = make(splits, f"{method}, {asked}", (*stages, *GRAPHS), files, teacher, seed)
                folders[f"{method}, {asked}"] = done[-1].artefact.path
                took[f"{method}, {asked}"] = sum(one.artefact.record["seconds"] for one in done)
            except SmidgenError as error:
                refused.append({"seed": seed, "method": method, "asked": asked, "why": str(error)})
                print(refused[-1], flush=True)
        measured = compared(folders, splits)
        runs.append({"seed": seed, "method": "uncut", "asked": "", "settings": {}, **measured["uncut"]})
        for (method, asked), stages in ways.items():
            if f"{method}, {asked}" in measured:
                told = {"seed": seed, "method": method, "asked": asked, "settings": settings(stages)}
                told["seconds"] = took[f"{method}, {asked}"]
                runs.append(told | measured[f"{method}, {asked}"])
                print(runs[-1], flush=True)
        assert splits.test is not None
        result = {
            "what": f"{what}; int8 graphs, batch 1, one thread, text in to label out, timed side by side with the uncut model's",
            "n": len(splits.test),
            "runs": runs,
            "refused": refused,
            "wanted": list(wanted),
        }
        keep(FILE, section, result, list(seeds[:number]))


def settings(stages: Sequence[Stage]) -> dict[str, Any]:
    """What was asked of the methods of each stage, and for how long it trained where it has a loss."""
    return {
        stage.name: {use.method: use.settings for use in stage.methods}
        | (
            {"epochs": stage.train.epochs}
            if any(use.method.startswith(("distil", "tune")) for use in stage.methods)
            else {}
        )
        for stage in stages
    }


def compared(folders: Mapping[str, Path], splits: Data) -> dict[str, dict[str, Any]]:
    """Of each graph speed, quality and size, all in one run beside `uncut`."""
    assert splits.test is not None and splits.test.labels is not None
    models = {name: load(folder) for name, folder in folders.items()}
    outputs = {name: model.outputs(splits.test.texts) for name, model in models.items()}
    times, _ = entries.time_all(models, entries.timed_texts(splits.test), CALLS)
    found = {}
    for name, folder in folders.items():
        share = kept(splits.task, outputs[name], outputs["uncut"], splits.test.labels)
        found[name] = {
            "speedup": entries.speedup_data(times[name], times["uncut"]),
            "latency": entries.latency_data(times[name], models[name].threads),
            "quality": entries.quality_data(splits.task, outputs[name], splits.test),
            "kept": {"value": share.value, "low": share.low, "high": share.high},
            "size_mb": deployed_bytes(folder) / 1e6,
        }
    return found


# The ledger.


def ledger(seeds: Sequence[int] = SEEDS) -> None:
    from cuts import CLAIMS, speed_of_heads
    from ledger import Bench

    bench = Bench(functools.partial(common.make, ROOT / "ledger"), MODEL, seeds)
    rows = [bench.judged(claim) for claim in CLAIMS]
    result = {
        "what": "SST-2, MiniLM-6, in torch float32; differences of test accuracy over seeds",
        "rows": rows,
        "heads": speed_of_heads(bench),
        "trained_on": sorted(bench.devices),
    }
    keep(FILE, "ledger", result, list(seeds))


# Attention of other kinds.


def attention(seeds: Sequence[int] = SEEDS) -> None:
    from long import attentions

    keep(FILE, "attention", attentions(functools.partial(common.make, ROOT / "attention"), seeds), list(seeds))


def served_on_one_thread() -> None:
    """Graphs, those of a table of costs too; trainings take all processors. A second thread brings a small graph little, and
    noise where two processors of a virtual machine are one of a real one."""
    for module in (clock, serving):
        vars(module)["usable_cores"] = lambda: 1


SECTIONS: dict[str, Callable[..., None]] = {
    "fisher": fisher,
    "table": table,
    "base": base,
    "ledger": ledger,
    "attention": attention,
}

if __name__ == "__main__":
    served_on_one_thread()
    for chosen in sys.argv[1:] or SECTIONS:
        name, _, seeds = chosen.partition(":")
        SECTIONS[name](*[tuple(map(int, seeds.split(",")))] if seeds else [])
