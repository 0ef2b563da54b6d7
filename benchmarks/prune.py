"""`make bench-prune`: what pruning keeps, and how much faster what is left really is.

fisher   MiniLM-6 on SST-2, cut to 1.5 times the speed of its int8 graph by `prune.fisher`, without training

`python benchmarks/prune.py fisher:0,1,2` runs one section with these seeds. Figures are of test; nothing was chosen on it.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import sys
from collections.abc import Callable, Sequence

import numpy as np
from common import MODEL, WORK, ahead, data, keep

from smidgen.data import load_data
from smidgen.measure import entries
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.runtime import load

SEEDS = (0, 1, 2)
FILE = "prune.json"
ROOT = WORK / "prune" / "stages"
SPEEDUP = 1.5
TEACHER = Training(epochs=2, learning_rate=1e-4)


def fisher(seeds: Sequence[int] = SEEDS) -> None:
    """The teacher and what is left of it, both as int8 graphs, timed side by side."""
    files = data("sst2")
    splits = load_data(**files)
    assert splits.test is not None and splits.test.labels is not None
    rows, right = [], []
    for seed in seeds:
        stages = (
            Stage("teacher", (Use("tune.full"),), train=TEACHER),
            Stage("teacher onnx", (Use("export.onnx"),)),
            Stage("teacher int8", (Use("quant.dynamic"),)),
            Stage("cut", (Use("prune.fisher", {"speedup": SPEEDUP, "price": "int8"}),), source="teacher"),
            Stage("onnx", (Use("export.onnx"),)),
            Stage("int8", (Use("quant.dynamic"),)),
        )
        recipe = Recipe(model=MODEL, data=Files(**files), stages=stages, seed=seed, name="fisher")
        done = {one.planned.stage.name: one.artefact for one in run(plan(recipe, splits), ROOT)}
        models = {name: load(done[name].path) for name in ("teacher int8", "int8")}
        outputs = {name: model.outputs(splits.test.texts) for name, model in models.items()}
        right.append([splits.task.correct(outputs[name], splits.test.labels) for name in models])
        times, _ = entries.time_all(models, entries.timed_texts(splits.test), calls=300)
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
        "what": "SST-2, MiniLM-6; the teacher and what prune.fisher left of it, both int8 graphs, batch 1, text in to label out",
        "n": len(splits.test),
        "asked": SPEEDUP,
        "lost": ahead(teacher, cut),
        "runs": rows,
        "wanted": "1.5x in under 3 minutes, at most 1.5 points lost",
    }
    keep(FILE, "fisher", result, list(seeds))


SECTIONS: dict[str, Callable[[Sequence[int]], None]] = {"fisher": fisher}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or SECTIONS:
        name, _, seeds = chosen.partition(":")
        SECTIONS[name](tuple(map(int, seeds.split(","))) if seeds else SEEDS)
