"""Measure every claim of a report again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smidgen.artefact import open_artefact
from smidgen.budget import least_quality
from smidgen.budget import read as read_budget
from smidgen.data import Columns, Split, read_split
from smidgen.errors import ArtefactError, InputError
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.peers import TorchModel
from smidgen.measure.size import parameters
from smidgen.runtime import Cascade, deployed_bytes, load
from smidgen.source import resolve
from smidgen.tasks import Task
from smidgen.tasks import from_data as task_of
from smidgen.watch import Silent, Watch

SLACK = 1.25  # how far a timing may drift from the reported one, either way
BUDGET_SLACK = 1.10  # how far a latency may be over its limit when it is timed again


def verify(out: Path, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Check the winner of `out/report.json`: files, bytes, quality, agreement, speed and memory.

    Timings are compared as ratios to the teacher, timed in the same run; absolute times only against the budget.

    Raises:
        InputError: there is no report, no winner in it, or its test data is not there any more.
    """
    watch = watch or Silent()
    report = _read(out)
    claims = [_whole(out / "winner")]
    if not claims[0]["passed"]:
        return claims
    claims.extend(_counted(report, out / "winner"))
    watch.say("Reading the test data again")
    task = task_of(report["task"])
    test = _test(report, task)
    winner, teacher = load(out / "winner"), _teacher(report, out, task)
    if test is not None:
        claims.extend(_qualities(report, task, test, winner, teacher))
    watch.say("Timing the winner and its teacher again")
    claims.extend(_speeds(report, task, out, test, winner, teacher))
    return claims


def _claim(claim: str, reported: Any, measured: Any, passed: bool) -> dict[str, Any]:
    return {"claim": claim, "reported": reported, "measured": measured, "passed": bool(passed)}


def _read(out: Path) -> dict[str, Any]:
    file = out / "report.json"
    if not file.is_file():
        raise InputError(f"{out}: no report.json. Give the folder that 'smidgen compress --out' wrote.")
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["winner"] is None:
        raise InputError(f"{out}: the report has no winner, so nothing is claimed. {report['reason']}")
    return dict(report)


def _whole(folder: Path) -> dict[str, Any]:
    try:
        open_artefact(folder, deep=True)
    except ArtefactError as error:
        return _claim("every file of the winner is as it was written", "SHA-256", str(error), False)
    return _claim("every file of the winner is as it was written", "SHA-256", "equal", True)


def _counted(report: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    numbers = report["winner"]["numbers"]
    size = deployed_bytes(folder) / 1e6
    yield _claim("size in MB, to the byte", numbers["size_mb"], size, size == numbers["size_mb"])
    if numbers["parameters"] is None:  # of a cascade, which has graphs alone
        return
    count = int(parameters(folder).value)
    yield _claim("parameters", numbers["parameters"], count, count == numbers["parameters"])


def _test(report: Mapping[str, Any], task: Task) -> Split | None:
    said = report["data"]["test"]
    if said is None:
        return None
    columns = Columns(**report.get("columns", {}))
    test = read_split(said["source"], "test", task, columns)
    if test.fingerprint != said["fingerprint"]:
        raise InputError(
            f"{said['source']}: not the test data of the report any more (fingerprint {test.fingerprint[:12]}, the "
            f"report has {said['fingerprint'][:12]}). Restore the file, or run the compression again."
        )
    return test


def _teacher(report: Mapping[str, Any], out: Path, task: Task) -> TorchModel:
    path = report["teacher"]["path"]
    return TorchModel(out / path if path else resolve(report["model"]["reference"]).path, task)


def _qualities(
    report: Mapping[str, Any], task: Task, test: Split, winner: Any, teacher: TorchModel
) -> Iterator[dict[str, Any]]:
    said = report["winner"]["numbers"]
    logits, reference = winner.outputs(test.texts, test.pairs), teacher.outputs(test.texts, test.pairs)
    found = {"quality": entries.quality_data(task, logits, test)} | entries.compared_data(task, logits, reference, test)
    names = {"quality": f"{task.metric} on test", "agreement": "agreement with the teacher", "quality_kept": "kept"}
    for key, name in names.items():
        if said[key] is None:  # a teacher that scores 0 has nothing to keep
            continue
        value, claimed = found[key]["value"], said[key]
        yield _claim(f"{name}, in its interval", claimed["value"], value, claimed["low"] <= value <= claimed["high"])
    wanted = report["budget"]["quality"]
    if wanted:
        own = entries.quality_data(task, reference, test)["value"]
        least = least_quality(read_budget(quality=wanted["text"], metrics=task.METRICS), own)
        assert least is not None
        value = found["quality"]["value"]
        yield _claim(f"quality budget {wanted['text']}", least, value, value >= least)


def _speeds(
    report: Mapping[str, Any], task: Task, out: Path, test: Split | None, winner: Any, teacher: TorchModel
) -> Iterator[dict[str, Any]]:
    said, budget = report["winner"]["numbers"], report["budget"]
    rows = entries.timed_texts(test) if test is not None else entries.made_up(task)
    found, _ = entries.time_all({"winner": winner, "teacher": teacher}, rows, said["latency"]["n"])
    times = entries.speedup_data(found["winner"], found["teacher"], isinstance(winner, Cascade))["value"]
    claimed = said["speedup"]["value"]
    yield _claim("times as fast as the teacher", claimed, times, claimed / SLACK <= times <= claimed * SLACK)
    if budget["latency"]:
        key, limit = f"{budget['latency']['percentile']}_ms", budget["latency"]["ms"]
        value = getattr(found["winner"], key) or found["winner"].p95_ms
        yield _claim(f"latency budget, {key} (10 % slack)", limit, value, value <= limit * BUDGET_SLACK)
    if budget["size_mb"]:
        size = deployed_bytes(out / "winner") / 1e6
        yield _claim("size budget", budget["size_mb"], size, size <= budget["size_mb"])
    if said["memory_mb"]:
        peak = float(memory(out / "winner", *entries.two_lists(rows[:64])).value)
        yield _claim("peak memory in MB", said["memory_mb"], peak, peak <= said["memory_mb"] * SLACK)
