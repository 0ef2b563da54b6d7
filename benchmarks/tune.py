"""`make bench-tune`: what tuning a small part keeps, what it costs, and many tasks over one base.

table       MiniLM-6 on parts of SST-2, MRPC, tweets and WNUT-17: every method beside full tuning, for as long as a thread can afford
longer      the same with epochs enough for all of them
base        a base-size model on fewer rows of them, with what its frozen blocks give kept on disk
base, longer  the same with as many epochs, which takes a GPU; runs only where it is named
cache       seconds an epoch with three quarters of the blocks frozen, with and without that
bundle      ten tasks over MiniLM-6 in one bundle: memory and time, beside folders of their own and beside PEFT
ledger      one row for each testable claim of the papers, on MiniLM-6 and a part of SST-2

`python benchmarks/tune.py table:0,1,2` runs one section with these seeds. Figures are of test; nothing was chosen on it.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import alone
import common
import numpy as np
import tunings
from common import MODEL, ahead, keep, mpnet

from smidgen.data import Data, load_data
from smidgen.measure.quality import kept
from smidgen.recipe import to_data
from smidgen.tuning import Job, Way

SEEDS = (0, 1, 2)
FILE = "tune.json"
LITTLE = 0.005  # of the base's numbers
MARKS = [
    {"claim": "a way that trains at most 0.5 % of the numbers keeps 97 %", "share": LITTLE, "of": "", "kept": 0.97},
    {"claim": "adapters keep 99 %", "share": 1.0, "of": "adapter", "kept": 0.99},
]


def table(seeds: Sequence[int] = SEEDS, section: str = "table", change: Callable[[Way], Way] = lambda way: way) -> None:
    what = f"MiniLM-6 (6 blocks x 384); labelled rows: {_told(tunings.ROWS)}"
    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        ways = {name: (change(way), tuple(tunings.ROWS)) for name, way in tunings.TABLE.items()}
        ways |= {name: (change(way), tunings.CHEAP) for name, way in tunings.REST.items()}
        runs += side_by_side(ways, tunings.ROWS, MODEL, seed)
        if section == "table":
            fusion = {tunings.FULL: ways[tunings.FULL], tunings.FUSION: (tunings.fusion(MODEL, seed), tunings.CHEAP)}
            runs += [run for run in side_by_side(fusion, tunings.ROWS, MODEL, seed) if run["way"] == tunings.FUSION]
        result = {"what": what, "runs": runs, "wanted": MARKS, "trained_on": _devices(runs)}
        keep(FILE, section, result, list(seeds[:number]))


def longer(seeds: Sequence[int] = SEEDS) -> None:
    """Without fusion, which is made of the adapters that have been left."""
    table(seeds, "longer", tunings.longer)


def base(seeds: Sequence[int] = SEEDS, section: str = "base", change: Callable[[Way], Way] = lambda way: way) -> None:
    what = f"MPNet (12 blocks x 768); labelled rows: {_told(tunings.BASE_ROWS)}"
    if section == "base":
        what += (
            "; full tuning has two epochs, too few on tweets and MRPC, where what it is held against is therefore low"
        )
    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        ways = {name: (change(way), tuple(tunings.BASE_ROWS)) for name, way in tunings.BASE.items()}
        ways |= {name: (change(way), tunings.CHEAP) for name, way in tunings.BASE_REST.items()}
        runs += side_by_side(ways, tunings.BASE_ROWS, mpnet(), seed)
        result = {"what": what, "runs": runs, "wanted": MARKS, "trained_on": _devices(runs)}
        keep(FILE, section, result, list(seeds[:number]))


def longer_base(seeds: Sequence[int] = SEEDS) -> None:
    base(seeds, "base, longer", tunings.longer)


def side_by_side(
    ways: Mapping[str, tuple[Way, Sequence[str]]], rows: Mapping[str, int], model: str, seed: int
) -> list[dict[str, Any]]:
    """Each way on its tasks, and what it keeps of full tuning's score on the same rows of test."""
    runs = []
    for name, (way, tasks) in ways.items():
        for task in tasks:
            job = alone.job(task, rows[task], seed, model)
            numbers, splits = alone.tuned(job, way), data_of(job)
            assert splits.test is not None and splits.test.labels is not None
            said, whole = (alone.outputs(job, one) for one in (way, ways[tunings.FULL][0]))
            share = None
            if splits.task.score(whole, splits.test.labels) > 0:
                found = kept(splits.task, said, whole, splits.test.labels)
                share = {"value": found.value, "low": found.low, "high": found.high}
            settings = {key: value for key, value in way.settings.items() if key != "adapters"}
            told = {"seed": seed, "task": task, "way": name, "method": way.method, "settings": settings}
            runs.append({**told, "train": to_data(way.training), **numbers, "kept": share})
            print(runs[-1], flush=True)
    return runs


def cache(seeds: Sequence[int] = SEEDS) -> None:
    """Of the same training with what frozen blocks give kept on disk and without; full tuning beside them, one epoch."""
    runs = []
    for model, reference in (("MiniLM-6", MODEL), ("MPNet", mpnet())):
        epochs = tunings.CACHE_EPOCHS[model]
        jobs = [alone.job("sst2", tunings.CACHE_ROWS[model], seed, reference) for seed in seeds]
        whole = tunings.whole(2.0)
        full = [alone.tuned(job, whole)["epochs"][1] for job in jobs]
        for blocks in tunings.CACHED[model]:
            ways = {how: tunings.frozen(blocks, epochs, how) for how in ("auto", "off")}
            found = {how: [alone.tuned(job, way) for job in jobs] for how, way in ways.items()}
            later = {how: [float(np.median(one["epochs"][1:])) for one in each] for how, each in found.items()}
            first = [one["seconds"] - sum(one["epochs"][1:]) for one in found["auto"]]
            right = {how: np.stack([correct(job, way) for job in jobs]) for how, way in ways.items()}
            runs.append(
                {
                    "model": model,
                    "blocks": blocks,
                    "rows": tunings.CACHE_ROWS[model],
                    "seconds": {"cache": later["auto"], "first": first, "off": later["off"], "full": full},
                    "faster": _ratio(later["off"], later["auto"]),
                    "than_full": _ratio(full, later["auto"]),
                    "accuracy": {how: each.mean(1).tolist() for how, each in right.items()},
                    "difference": ahead(right["auto"], right["off"]),
                }
            )
            print(runs[-1], flush=True)
    result = {"what": f"SST-2, an epoch and {alone.DEV} rows of dev after it", "runs": runs, "wanted": 3.0}
    keep(FILE, "cache", result, list(seeds))


def bundle(seeds: Sequence[int] = (0,)) -> None:
    from many import together

    keep(FILE, "bundle", together(MODEL, alone.ROOT / "many", seeds[0]), list(seeds[:1]))


def ledger(seeds: Sequence[int] = SEEDS) -> None:
    from ledger import Bench

    bench = Bench(functools.partial(common.make, alone.ROOT / "ledger"), MODEL, seeds, tunings.DEV)
    rows = [bench.judged(claim) for claim in tunings.CLAIMS]
    result = {
        "what": "SST-2, MiniLM-6, in torch float32; differences of test accuracy over seeds",
        "rows": [*rows, tunings.overfitting(bench)],
        "speed": tunings.speed(bench),
        "trained_on": sorted(bench.devices),
    }
    keep(FILE, "ledger", result, list(seeds))


def data_of(job: Job) -> Data:
    return load_data(train=job.files.train, dev=job.files.dev, test=job.files.test, task=job.task)


def correct(job: Job, way: Way) -> np.ndarray:
    """(n,) bool, of test."""
    splits = data_of(job)
    assert splits.test is not None and splits.test.labels is not None
    right: np.ndarray = splits.task.correct(alone.outputs(job, way), splits.test.labels)
    return right


def _ratio(over: Sequence[float], of: Sequence[float]) -> dict[str, float]:
    """How many times as fast as `over`: the mean of the seeds, the least and the most."""
    each = [a / b for a, b in zip(over, of, strict=True)]
    return {"value": float(np.mean(each)), "low": min(each), "high": max(each)}


def _devices(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({run.get("device", "") for run in runs})


def _told(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{task} {count}" for task, count in rows.items())


SECTIONS: dict[str, Callable[..., None]] = {
    "table": table,
    "longer": longer,
    "base": base,
    "base, longer": longer_base,
    "cache": cache,
    "bundle": bundle,
    "ledger": ledger,
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or (name for name in SECTIONS if name != "base, longer"):
        name, _, seeds = chosen.partition(":")
        SECTIONS[name](*[tuple(map(int, seeds.split(",")))] if seeds else [])
