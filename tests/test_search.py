"""How a winner is chosen, apart from how candidates are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from smidgen import search as searching
from smidgen.budget import read
from smidgen.search import Candidate, decide, train_finalists, verdict
from smidgen.shapes import Shape


def candidate(precision: str, p50: float, p95: float) -> Candidate:
    numbers = {
        "latency": {"p50_ms": p50, "p95_ms": p95},
        "dev_quality": {"value": 0.9, "low": 0.88, "high": 0.92},
        "size_mb": 1.0,
    }
    return Candidate(Shape("", 1, 2, precision), {"numbers": numbers}, logits=np.zeros((1, 2)))


def found(candidates: list[Candidate]) -> Any:
    job = SimpleNamespace(budget=read(latency="p95=2ms"))
    teacher = {"numbers": {"dev_quality": {"value": 0.9}}}
    return SimpleNamespace(candidates=candidates, job=job, teacher=teacher)


def test_baselines_are_of_the_winner_that_the_last_timing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fast as an untrained shape and breaks the budget beside its peers makes way, and its baselines too."""
    fast, steady = candidate("int8", 1.0, 1.5), candidate("float32", 1.2, 1.6)
    asked: list[Candidate | None] = []
    monkeypatch.setattr(searching, "baselines", lambda _, winner: asked.append(winner) or {"of": winner})

    def slower(search: Any, models: Any) -> None:
        fast.entry["numbers"]["latency"] = {"p50_ms": 1.0, "p95_ms": 2.5}

    monkeypatch.setattr(searching, "time_trained", slower)
    winner, models = decide(found([fast, steady]))
    assert winner is steady and models == {"of": steady} and asked == [fast, steady]


def test_a_winner_stays_when_another_gets_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate("int8", 1.0, 1.5), candidate("float32", 1.1, 1.6)
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})

    def faster(search: Any, models: Any) -> None:
        second.entry["numbers"]["latency"] = {"p50_ms": 0.5, "p95_ms": 0.6}

    monkeypatch.setattr(searching, "time_trained", faster)
    assert decide(found([first, second])) == (first, {"of": first})


def test_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    only = candidate("int8", 1.0, 1.5)
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})
    slow = {"p50_ms": 3.0, "p95_ms": 4.0}
    monkeypatch.setattr(searching, "time_trained", lambda *_: only.entry["numbers"].update(latency=slow))
    assert decide(found([only])) == (None, {"of": None})


def test_a_teacher_that_has_learnt_nothing_teaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entity F1 is 0 as long as a tagger finds nothing: to keep 97 % of that is no feat."""
    fits, too_slow = candidate("int8", 1.0, 1.5), candidate("float32", 2.0, 3.0)
    fits.entry |= {"status": "not_trained", "reason": ""}
    too_slow.entry |= {"status": "infeasible", "reason": "p95 is 3 ms"}
    search = found([fits, too_slow])
    search.job.finalists = 2
    search.data = SimpleNamespace(task=SimpleNamespace(metric="f1"), test=None)
    search.teacher["numbers"]["dev_quality"] = {"value": 0.0}
    monkeypatch.setattr(searching, "_make_teacher", lambda _: None)
    monkeypatch.setattr(searching, "_train", None)
    train_finalists(search)
    assert fits.entry["reason"] == "fits, but its teacher has learnt nothing yet"
    assert too_slow.entry["reason"] == "p95 is 3 ms"
    word, reason = verdict(search, None)
    assert word == "not_met" and reason.startswith(
        "The teacher's f1 on dev is 0, so there is nothing to keep. Train it"
    )
