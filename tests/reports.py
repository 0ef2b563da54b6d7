"""One realistic report.json, and the same with no winner."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.portrait import portrait
from smidgen.splits import Split
from smidgen.tasks import Task, from_data

SAMPLE: dict[str, Any] = json.loads(Path(__file__).with_name("sample_report.json").read_text(encoding="utf-8"))


def sample() -> dict[str, Any]:
    """A copy to change."""
    return copy.deepcopy(SAMPLE)


def lost() -> dict[str, Any]:
    """No candidate keeps to the budget."""
    found = sample() | {"verdict": "not_met", "winner": None, "reason": "Quality binds; nearest: 2 blocks, int8."}
    del found["candidates"][0]
    return found


def missed() -> dict[str, Any]:
    """The candidate that was chosen on dev misses the budget on test."""
    reason = "3 blocks, int8 fits on dev but not in the end: quality is 98.9% of the least that 97%teacher allows."
    found = sample() | {"verdict": "not_met", "winner": None, "reason": reason}
    found["candidates"][0]["numbers"]["quality_kept"] = {"value": 0.959, "low": 0.947, "high": 0.971, "n": 1821}
    return found


def untested() -> dict[str, Any]:
    """No test set was given, and too few calls for p99."""
    found = sample()
    found["data"]["test"] = None
    for entry in (found["teacher"], found["winner"], *found["candidates"], *found["baselines"]):
        entry["numbers"] |= {"quality": None, "quality_kept": None, "agreement": None}
        entry["numbers"]["latency"]["p99_ms"] = None
    return found


def portrayed(texts: tuple[str, ...] = (), labels: tuple[str, ...] = (), rows: int = 60) -> dict[str, Any]:
    """What today's search writes besides: how the winner answers test, how sure the choice is, what else there is."""
    found = sample()
    found["task"]["labels"] = list(labels or found["task"]["labels"])
    task = from_data(found["task"])
    test, winner, teacher = answered(task, texts or tuple(f"text number {i}" for i in range(rows)))
    found["portrait"] = portrait(task, test, winner, teacher)
    found["choice"] = {"compared": 5, "among": 3, "sure": 0.742, "ties": ["4 blocks, int8"], "resamples": 2000}
    found["alternatives"] = [
        {"axis": "fastest", "name": "2 blocks, int8", "breaks": ["quality"]},
        {"axis": "smallest", "name": "3 blocks, int8", "breaks": []},
        {"axis": "best", "name": "4 blocks, int8", "breaks": []},
    ]
    return found


def answered(task: Task, texts: tuple[str, ...], seed: int = 0) -> tuple[Split, np.ndarray, np.ndarray]:
    """A test set of a classification, and what a winner and a better teacher make of it."""
    draw, shape = np.random.default_rng(seed), (len(texts), len(task.labels))
    gold = draw.integers(0, shape[1], shape[0])
    near = 3 * np.eye(shape[1])[gold]
    teacher = near + 2 * draw.normal(size=shape)
    winner = teacher + 1.5 * draw.normal(size=shape)
    return Split("test", texts, None, gold, "test.csv"), winner.astype(np.float32), teacher.astype(np.float32)
