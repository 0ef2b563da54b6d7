"""One task tuned in a process of its own, so that the peak of its memory is its own, and what is kept of it: a few files.

run.json       the numbers of `smidgen tune`, the seconds of each epoch, and what the process had before it began
outputs.npy    what it said of test
delta.*        the delta, where it leaves one
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import WORK

from smidgen import tuning
from smidgen.artefact import identity, write_atomic
from smidgen.demo import write_tweets
from smidgen.measure import entries
from smidgen.measure.memory import forget_peak, peak_mb
from smidgen.measure.peers import TorchModel
from smidgen.recipe import Files, to_data
from smidgen.tuning import Job, Way
from smidgen.watch import Silent

ROOT = WORK / "tune"
DEV, TEST = 200, 600  # rows, the same for all seeds
TASKS = {"sst2": "classify", "mrpc": "classify", "tweets": "classify", "wnut17": "tag"}
RUN, SAID = "run.json", "outputs.npy"
PARTS = ("stages", "model")  # what is not kept: 90 MB and more a run
FORKED = ("torch", "transformers.modeling_utils", "sklearn", "smidgen.loop", "smidgen.tuning", "smidgen.measure.peers")


def job(name: str, rows: int, seed: int, model: str = common.MODEL) -> Job:
    """So many labelled rows of a task, drawn by the seed, and a part of its dev and test."""
    folder = ROOT / "data" / f"{name}-{rows}-{seed}"
    files = _tweets() if name == "tweets" else common.data(name)
    counts = {"train": (rows, seed), "dev": (DEV, 0), "test": (TEST, 0)}
    parts = {split: common.part(Path(files[split]), folder, *count) for split, count in counts.items()}
    return Job(model, Files(**parts), TASKS[name], seed)


def folder_of(job: Job, way: Way) -> Path:
    """Where a tuning is kept, by all that it is made of."""
    return ROOT / "runs" / identity(to_data(job.recipe(way)))


def tuned(job: Job, way: Way) -> dict[str, Any]:
    """What is known of a tuning, which is made unless it is there."""
    out = folder_of(job, way)
    if not (out / RUN).is_file():
        shutil.rmtree(out, ignore_errors=True)
        fresh = multiprocessing.get_context("forkserver")
        fresh.set_forkserver_preload(list(FORKED))  # imports are the same for all, so they are made once
        with ProcessPoolExecutor(1, fresh) as pool:
            pool.submit(_tune, job, way, out).result()
    found: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
    return found


def outputs(job: Job, way: Way) -> np.ndarray:
    """What a model that was tuned says of test."""
    said: np.ndarray = np.load(folder_of(job, way) / SAID, allow_pickle=True)
    return said


class Epochs(Silent):
    """Takes the time of each epoch of a training: of its steps, and of dev after them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Epochs]:
        if name == "training":
            self.since = time.monotonic()
        yield self

    def to(self, done: float, note: str = "") -> None:
        if note:
            now = time.monotonic()
            self.seconds.append(round(now - self.since, 3))
            self.since = now


def _tune(job: Job, way: Way, out: Path) -> None:
    forget_peak()
    before, watch = peak_mb(), Epochs()
    tuner = tuning.begin(job, out, watch, way)
    made, task, test = tuner.tune(way), tuner.data.task, tuner.data.test
    assert test is not None
    said = TorchModel(made.artefact.path, task).outputs(test.texts, test.pairs)
    made.numbers["quality"] = entries.quality_data(task, said, test)
    tuning.leave(tuner, made, out)
    np.save(out / SAID, said, allow_pickle=True)
    for name in PARTS:
        shutil.rmtree(out / name, ignore_errors=True)
    history = made.artefact.record["history"]
    told = {"before_mb": before, "epochs": watch.seconds, "examples": history["examples"], "device": common.device()}
    write_atomic(out / RUN, json.dumps(made.numbers | told, indent=1))


def _tweets() -> dict[str, str]:
    return {name: str(path) for name, path in write_tweets(WORK / "tweets", 0).items()}
