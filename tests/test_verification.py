"""What `verify` makes of labels, counts, calibration and ratios that are not what a report says."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reports import portrayed, sample

from smidgen import verification
from smidgen.data import Columns, load_data
from smidgen.runtime.serving import machine, text
from smidgen.tasks import Classify
from smidgen.verification import _dev, _labels, _on_dev, _portrayed, _ratio, _run_by, _tuned_since

TASK = Classify(("bad", "good"))


def failing(said: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [claim["claim"] for claim in _portrayed(said, found) if not claim["passed"]]


def test_one_other_decision_is_seen() -> None:
    said = portrayed()["portrait"]
    assert failing(said, copy.deepcopy(said)) == []
    found = copy.deepcopy(said) | {"decided": "0" * 64}
    found["confusion"][0]["winner"][0][0] += 1
    found["right"]["both"] += 1
    found["calibration"]["winner"]["error"] += 0.02
    found["calibration"]["teacher"]["error"] += 0.005
    assert failing(said, found) == [
        "labels of test, every text",
        "what was taken for what, every count",
        "texts that both, or one alone, get right",
        "calibration error of the winner",
    ]


def test_labels_have_an_order() -> None:
    assert _labels(TASK, SimpleNamespace(task=TASK))["passed"]
    assert not _labels(TASK, SimpleNamespace(task=Classify(("good", "bad"))))["passed"]


def test_how_a_winner_is_run_is_claimed_on_such_a_machine_alone(tmp_path: Path) -> None:
    """By `serve.json`, which does not hold elsewhere; a report without it claims nothing. Where it was written anew the
    winner is not run as was claimed, and is as large as it was."""
    ways = [{"engine": engine, "precision": "float32", "threads": 1, "calls": 1} for engine in ("onnxruntime", "x")]
    said, other = ({"latency": way, "throughput": way, "batch_tokens": 1024} for way in ways)
    report: dict[str, Any] = {"winner": {"serving": said}, "environment": machine()}

    def claims(serving: dict[str, Any]) -> list[Any]:
        winner = SimpleNamespace(serving=SimpleNamespace(to_data=lambda: serving))
        return [(claim["measured"], claim["passed"]) for claim in _run_by(report, winner)]

    assert claims(said) == [("onnxruntime, 1 thread", True)]
    assert claims(other) == [("x, 1 thread", False)]
    file = tmp_path / "serve.json"
    file.write_text(text(said, machine()), encoding="utf-8")
    assert claims(said) == [("onnxruntime, 1 thread", True)] and _tuned_since(report, tmp_path) == 0
    file.write_text(text(said | {"batch_tokens": 16}, machine()), encoding="utf-8")
    assert claims(other) == [("x, 1 thread", False)] and _tuned_since(report, tmp_path) == -2, "two digits less"
    report["environment"] = machine() | {"cores": 1000}
    assert claims(other) == []
    report = {"winner": {}, "environment": machine()}
    assert claims(other) == []


@pytest.mark.parametrize(("value", "passes"), [(8.0, True), (6.5, True), (6.3, False), (9.9, True), (10.1, False)])
def test_a_ratio_may_drift_by_a_quarter_either_way(value: float, passes: bool) -> None:
    assert _ratio("times as fast", 8.0, value, 1.25)["passed"] is passes


def test_dev_that_is_gone_is_a_claim_that_fails() -> None:
    report = sample()
    report["data"]["dev"]["source"] = report["data"]["train"]["source"] = "nowhere/train.csv"
    (claim,) = _on_dev(report, TASK, None)
    assert not claim["passed"] and "nowhere/train.csv: no such file" in claim["measured"]
    report["winner"]["numbers"]["dev_quality"] = None
    assert list(_on_dev(report, TASK, None)) == []


@pytest.mark.parametrize("seeds", [None, [0.5, 0.5]])
def test_without_a_test_set_the_quality_budget_is_held_against_dev(
    seeds: list[float] | None, tiny_data: dict[str, str]
) -> None:
    data = load_data(tiny_data["train"], tiny_data["dev"])
    report = sample()
    report["data"] = {"dev": {"source": tiny_data["dev"], "fingerprint": data.dev.fingerprint}, "test": None}
    report["data"]["train"] = {"source": tiny_data["train"]}
    report["budget"]["quality"] = {"text": "accuracy>=0.9"}
    report["winner"]["numbers"]["dev_quality"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    if seeds:
        report["winner"]["numbers"]["dev_quality"]["seeds"] = seeds
    right = SimpleNamespace(outputs=lambda texts, pairs: np.eye(2)[data.dev.labels])
    asked = [claim for claim in _on_dev(report, data.task, right) if claim["claim"].startswith("quality budget")]
    assert [(claim["claim"], claim["passed"]) for claim in asked] == [("quality budget accuracy>=0.9", True)]


@pytest.mark.parametrize("own", [True, False])
def test_dev_is_a_file_or_taken_from_train_again(own: bool, tiny_data: dict[str, str]) -> None:
    data = load_data(tiny_data["train"], tiny_data["dev"] if own else None, seed=3)
    said = {name: {"source": getattr(data, name).source} for name in ("train", "dev")}
    assert _dev(said, data.task, Columns(), 3).fingerprint == data.dev.fingerprint


def test_the_winner_is_timed_among_what_it_was_timed_among(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other model of that run that is still there; not what was never timed, and not the winner twice."""
    monkeypatch.setattr(verification, "load", lambda folder: folder)
    for name in ("a", "b", "never", "won"):
        (tmp_path / "stages" / name).mkdir(parents=True)

    def entry(name: str, status: str, path: str | None, speedup: Any = None) -> dict[str, Any]:
        return {"name": name, "status": status, "path": path, "numbers": {"speedup": speedup}}

    timed = {"value": 2.0}
    report = {
        "candidates": [
            entry("a", "trained", "stages/a", timed),
            entry("never", "not_trained", "stages/never"),
            entry("won", "winner", "stages/won", timed),
            entry("gone", "trained", "stages/gone", timed),
        ],
        "baselines": [entry("words", "baseline", None, timed), entry("b", "baseline", "stages/b", timed)],
    }
    found = verification._company(report, tmp_path)
    assert found == {"beside a": tmp_path / "stages" / "a", "beside b": tmp_path / "stages" / "b"}
