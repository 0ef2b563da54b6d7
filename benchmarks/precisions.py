"""`python benchmarks/precisions.py`: what fewer bits cost and bring, in training and in graphs.

training      MiniLM-6 on SST-2 trained in float32 and in bfloat16: quality over seeds; steps of both timed in turn
calibrators   int8 graphs of MiniLM-6 on three tasks: each calibrator with and without the limit on dev, SmoothQuant,
              ranges measured in each call, weights in 16 bits, and a model that was trained as if in int8

`python benchmarks/precisions.py training:0,1,2` runs one section with these seeds. Figures are of test; nothing was chosen
on it. A run that was stopped goes on where it was. One thread: OMP_NUM_THREADS=1 taskset -c 0 python ...
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import MODEL, WORK, ahead, data, keep, mpnet, part

from smidgen.data import Data, load_data
from smidgen.measure import entries
from smidgen.measure.quality import interval
from smidgen.precision import lost
from smidgen.recipe import Stage, Training, Use
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes

SEEDS = (0, 1, 2)
FILE = "runtime.json"
ROOT = WORK / "precisions"
ROWS = 4000  # of train
CALLS = 300  # timed, of each graph
STEPS = 12  # timed, in each precision
SHAPES = {"cpu": (16, 32), "cuda": (64, 128)}  # of a timed step: texts, tokens

make = functools.partial(common.make, ROOT / "stages")


# Training.


def training(seeds: Sequence[int] = SEEDS, rows: int = ROWS, models: Sequence[str] = ("MiniLM-6", "MPNet")) -> None:
    """The same stage in both precisions for each seed, judged by its float32 graph."""
    files = fewer("sst2", rows)
    splits = load_data(**files)
    assert splits.test is not None and splits.test.labels is not None
    runs, right = [], []
    for seed in seeds:
        correct = []
        for precision in ("float32", "bfloat16"):
            train = Training(epochs=2, learning_rate=1e-4, precision=precision)
            stages = (Stage("t", (Use("tune.full"),), train=train), Stage("onnx", (Use("export.onnx"),)))
            trained, graph = (done.artefact for done in make(splits, precision, stages, files, MODEL, seed))
            outputs = load(graph.path).outputs(splits.test.texts)
            correct.append(splits.task.correct(outputs, splits.test.labels))
            quality = entries.quality_data(splits.task, outputs, splits.test)
            seconds = trained.record["history"]["seconds"]
            runs.append({"seed": seed, "precision": precision, "quality": quality, "seconds": seconds})
            print(runs[-1], flush=True)
        right.append(correct)
    exact, half = (np.stack([pair[i] for pair in right]) for i in (0, 1))
    where = common.device() if torch.cuda.is_available() else ""
    texts, tokens = SHAPES["cuda" if where else "cpu"]
    result = {
        "what": f"SST-2, MiniLM-6, {rows:,} sentences, two epochs; steps of {texts} texts of {tokens} tokens, AdamW included",
        "n": len(splits.test),
        "runs": runs,
        "gained": ahead(half, exact),
        "steps": [{"model": name, **in_turn({"MiniLM-6": MODEL, "MPNet": ""}[name] or mpnet())} for name in models],
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "trained_on": [common.device()],
    }
    keep(FILE, "training, GPU" if where else "training", result, list(seeds))


def in_turn(reference: str, steps: int = STEPS) -> dict[str, Any]:
    """Steps in float32 and in bfloat16 by turns, and their ratio: seconds of processor time, or of the clock on a GPU."""
    from smidgen.halves import autocast
    from smidgen.loop import make_optimizer
    from smidgen.source import load_model, resolve
    from smidgen.tasks import Classify

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(resolve(reference), Classify(("bad", "good")), 0).to(device).train()
    model.set_attn_implementation("eager")
    optimizer = make_optimizer(model, torch.nn.ModuleList(), Training())
    shape = SHAPES[device.type]
    ids, labels = torch.randint(1000, 20000, shape, device=device), torch.randint(0, 2, shape[:1], device=device)

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def step(dtype: Any) -> float:
        started = now()
        with autocast(device, dtype):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return now() - started

    pairs = [(step(torch.float32), step(torch.bfloat16)) for _ in range(steps + 1)][1:]
    ratios = np.array([exact / half for exact, half in pairs])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = interval(np.median(draws, 1))
    exact, half = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {"float32": exact, "bfloat16": half, "faster": {"value": float(np.median(ratios)), "low": low, "high": high}}


# Calibrators.

TASKS: dict[str, tuple[str, float, float]] = {  # the kind of task, epochs, and those of training as if in int8
    "sst2": ("classify", 2, 1),
    "mrpc": ("classify", 3, 1),
    "wnut17": ("tag", 5, 2),
}
LIMIT = {"max_loss": 0.5}
FREE = {"max_loss": None}
WAYS: dict[str, Use] = {
    "half": Use("quant.half"),
    "dynamic": Use("quant.dynamic"),
    "dynamic, limit": Use("quant.dynamic", LIMIT),
    **{
        f"static, {ranges}{told}": Use("quant.static", {"ranges": ranges, **limit})
        for ranges in ("minmax", "percentile", "entropy", "mse")
        for told, limit in (("", FREE), (", limit", LIMIT))
    },
    "static, smooth 0.7": Use("quant.static", {"smooth": 0.7, **FREE}),
    "static, no embeddings": Use("quant.static", {"embeddings": False, **FREE}),
}


# Claims of the literature: the graph that is said to be better, and the one that it is to be better than.
CLAIMS = (
    ("entropy calibration beats min-max", "static, entropy", "static, minmax"),
    ("percentiles beat min-max", "static, percentile", "static, minmax"),
    ("the limit on dev gives quality back", "static, minmax, limit", "static, minmax"),
    ("SmoothQuant gives quality back", "static, smooth 0.7", "static, minmax"),
    ("trained as if in int8 beats calibration", "aware, static", "static, minmax"),
    ("ranges measured in each call keep more than static ones", "dynamic", "static, minmax"),
)


def stages(epochs: float, more: float) -> tuple[Stage, ...]:
    """The float model, its graph, every way from it, and the model that goes on as if in int8."""
    rounded = (Use("quant.aware"), Use("distil.logits", {"hard": 0.5}))
    return (
        Stage("float", (Use("tune.full"),), train=Training(epochs=epochs, learning_rate=1e-4)),
        Stage("onnx", (Use("export.onnx"),)),
        *(Stage(name, (use,), source="onnx") for name, use in WAYS.items()),
        Stage("aware", rounded, source="float", teacher="float", train=Training(epochs=more, learning_rate=3e-5)),
        Stage("aware onnx", (Use("export.onnx"),)),
        Stage("aware, static", (Use("quant.static", {"ranges": "trained", **FREE}),)),
        Stage("aware, dynamic", (Use("quant.dynamic"),), source="aware onnx"),
    )


def calibrators(seeds: Sequence[int] = (0,), rows: int = ROWS, tasks: Sequence[str] = tuple(TASKS)) -> None:
    """Every graph of a task beside its float one: quality on test, what is lost, and speed, all in one run."""
    runs: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        for name in tasks:
            task, epochs, more = TASKS[name]
            files = fewer(name, rows)
            splits = load_data(**files, task=task)
            chain = stages(epochs, more)
            done = {d.planned.stage.name: d.artefact for d in make(splits, name, chain, files, MODEL, seed, task)}
            graphs = {stage: artefact for stage, artefact in done.items() if artefact.form in ("onnx", "half", "int8")}
            measured, ahead_by = beside({stage: found.path for stage, found in graphs.items()}, splits)
            claims += [{"seed": seed, "task": name, **each} for each in ahead_by]
            for graph, told in measured.items():
                record = graphs[graph].record
                runs.append({"seed": seed, "task": name, "graph": graph, "found": record.get("found", {}), **told})
                print({k: v for k, v in runs[-1].items() if k != "found"}, flush=True)
        result = {
            "what": f"MiniLM-6 fine-tuned on at most {rows:,} rows; batch 1, text in to label out, timed side by side",
            "runs": runs,
            "claims": claims,
        }
        keep(FILE, "calibrators", result, list(seeds[:number]))


def beside(folders: dict[str, Path], splits: Data) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Of each graph quality, loss against `onnx` on the same rows, size, and speed against `onnx` and `dynamic`; and for
    each claim by how many points one graph is ahead of the other."""
    test = splits.test
    assert test is not None
    models = {name: load(folder) for name, folder in folders.items()}
    outputs = {name: model.outputs(test.texts, test.pairs) for name, model in models.items()}
    times, _ = entries.time_all(models, entries.timed_texts(test), CALLS)
    found = {}
    for name, folder in folders.items():
        cost = lost(splits.task, outputs["onnx"], outputs[name], test)
        found[name] = {
            "quality": entries.quality_data(splits.task, outputs[name], test),
            "lost": {"value": cost.points, "low": cost.low, "high": cost.high},
            "same": cost.same,
            "speedup": entries.speedup_data(times[name], times["onnx"]),
            "beside_dynamic": entries.speedup_data(times[name], times["dynamic"]),
            "size_mb": deployed_bytes(folder) / 1e6,
        }
    claims = []
    for claim, better, worse in CLAIMS:
        gain = lost(splits.task, outputs[better], outputs[worse], test)
        ahead_by = {"value": gain.points, "low": gain.low, "high": gain.high}
        claims.append({"claim": claim, "better": better, "than": worse, "points": ahead_by})
    return found, claims


def fewer(name: str, rows: int) -> dict[str, Any]:
    """The files of a data set, with so many rows of train."""
    files = data(name)
    return files | {"train": part(Path(files["train"]), ROOT / f"{name}-{rows}", rows, 0)}


SECTIONS: dict[str, Callable[..., None]] = {"training": training, "calibrators": calibrators}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or SECTIONS:
        name, _, seeds = chosen.partition(":")
        SECTIONS[name](*[tuple(map(int, seeds.split(",")))] if seeds else [])
