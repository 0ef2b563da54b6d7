"""What each fusion of a graph brings: a section of the benchmark of the runtime, `gains(folder, ...)`.

Of one float folder the graph with all fusions, with each one left out, and with none, in float32 or int8; all timed
side by side in one run, text in to label out. What a fusion brings is the time of the graph without it over that with
all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import make

from smidgen.data import Data, Split
from smidgen.fusions import FUSIONS
from smidgen.measure.entries import timed_texts, two_lists
from smidgen.measure.speed import latency, ratio
from smidgen.recipe import Stage, Use
from smidgen.runtime import load

ALL, NONE = "all", "none"
BATCHES = {1: 300, 32: 200}  # timed calls, by the texts in each


def variants() -> dict[str, tuple[str, ...]]:
    """What is left out of each graph."""
    return {ALL: (), **{f"without {name}": (name,) for name in FUSIONS}, NONE: FUSIONS}


def graphs(root: Path, folder: str, splits: Data, files: dict[str, Any], int8: bool = True) -> dict[str, Path]:
    """The folder of each variant of a model; those that are there are not made again."""
    found = {}
    for name, without in variants().items():
        stages = [Stage("onnx", (Use("export.onnx", {"without": list(without)} if without else {}),))]
        if int8:
            stages.append(Stage("int8", (Use("quant.dynamic"),)))
        found[name] = make(root, splits, name, stages, files, folder)[-1].artefact.path
    return found


def gains(folders: Mapping[str, Path], split: Split, threads: int | None = None) -> dict[str, Any]:
    """By the batch, how many times as long each variant takes as the graph with all fusions, with an interval."""
    models = {name: load(folder, threads) for name, folder in folders.items()}
    rows, found = timed_texts(split), {}
    for size, calls in BATCHES.items():
        groups = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
        runs = {name: lambda group, model=model: model.predict(*two_lists(group)) for name, model in models.items()}
        times = latency(runs, groups, calls=calls)
        found[str(size)] = {name: _slower(times, name) for name in folders}
    return {"fusions": list(FUSIONS), "threads": models[ALL].threads, "batches": found}


def _slower(times: Mapping[str, Any], name: str) -> dict[str, Any]:
    by = ratio(times[name], times[ALL])
    return {"p50_ms": times[name].p50_ms, "value": by.value, "low": by.low, "high": by.high, "n": by.n}
