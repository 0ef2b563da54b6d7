"""Measure again what a report claims of its winner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.artefact import open_artefact
from smidgen.budget import least_quality
from smidgen.budget import read as read_budget
from smidgen.data import Columns, Split, read_split
from smidgen.errors import ArtefactError, DataError, InputError
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.peers import TorchModel
from smidgen.measure.size import parameters
from smidgen.portrait import WHO, portrait
from smidgen.runtime import Cascade, deployed_bytes, load, serving
from smidgen.runtime.folder import read_json
from smidgen.runtime.serving import machine
from smidgen.source import resolve
from smidgen.splits import take_dev
from smidgen.tasks import Several, Task
from smidgen.tasks import from_data as task_of
from smidgen.watch import Silent, Watch
from smidgen.words import served

SLACK = 1.25  # how far a timing may drift from the reported one, either way
TAIL_SLACK = 1.5  # the same for p95 and p99, which hang on few calls
BUDGET_SLACK = 1.10  # how far a latency may be over its limit when it is timed again
CLOSE = 0.01  # how far a share without an interval may be from the reported one


def verify(out: Path, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Measure again what `out/report.json` claims of its winner, and a little of what that is shown beside.

    Of the winner: files, bytes, parameters, labels, how it is run, quality on dev and test, what it keeps of the
    teacher and agrees with it, mistakes, calibration, speed, memory, and the limits of the budget. Of the teacher:
    quality and calibration on test. Of baselines that are folders: bytes and quality on test. Nothing else: not the
    other candidates and the choice among them, the speed and memory of baselines, those without a folder (TF-IDF, the
    usual tag), the size of the teacher, and the scores without rows of test that are nearly in train.

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
    claims.append(_labels(task, winner))
    claims.extend(_run_by(report, winner))
    claims.extend(_on_dev(report, task, winner))
    if test is not None:
        reference = teacher.outputs(test.texts, test.pairs)
        claims.extend(_qualities(report, task, test, winner, reference))
        claims.extend(_peers(report, task, out, test, reference))
    watch.say("Timing the winner and its teacher again")
    claims.extend(_speeds(report, task, out, winner, teacher))
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
    size = (deployed_bytes(folder) - _tuned_since(report, folder)) / 1e6
    yield _claim("size in MB, to the byte", numbers["size_mb"], size, size == numbers["size_mb"])
    if numbers["parameters"] is None:  # of a cascade, which has graphs alone
        return
    count = int(parameters(folder).value)
    yield _claim("parameters", numbers["parameters"], count, count == numbers["parameters"])


def _tuned_since(report: Mapping[str, Any], folder: Path) -> int:
    """By how many bytes `serve.json` has grown, where `smidgen bench --tune` has written it anew."""
    if not _anew(report, folder):
        return 0
    then = serving.text(report["winner"]["serving"], _host(report))
    return (folder / serving.FILE).stat().st_size - len(then.encode())


def _anew(report: Mapping[str, Any], folder: Path) -> bool:
    """Does `serve.json` say something else than the report?"""
    said, file = report["winner"].get("serving"), folder / serving.FILE
    return bool(said) and file.is_file() and read_json(file) != json.loads(serving.text(said, _host(report)))


def _host(report: Mapping[str, Any]) -> dict[str, Any]:
    """The machine of the report, as `serve.json` names one."""
    return {key: report["environment"].get(key) for key in machine()}


def _test(report: Mapping[str, Any], task: Task) -> Split | None:
    said = report["data"]["test"]
    if said is None:
        return None
    test = read_split(said["source"], "test", task, _columns(report))
    if test.fingerprint != said["fingerprint"]:
        raise InputError(
            f"{said['source']}: not the test data of the report any more (fingerprint {test.fingerprint[:12]}, the "
            f"report has {said['fingerprint'][:12]}). Restore the file, or run the compression again."
        )
    return test


def _columns(report: Mapping[str, Any]) -> Columns:
    return Columns(**report.get("columns", {}))


def _labels(task: Task, winner: Any) -> dict[str, Any]:
    mine = winner.task.labels
    same = tuple(mine) == tuple(task.labels)
    return _claim("labels, in their order", len(task.labels), len(mine) if same else "others", same)


def _run_by(report: Mapping[str, Any], winner: Any) -> Iterator[dict[str, Any]]:
    """On a machine like that of the report the winner is run as it was there; elsewhere `serve.json` does not hold."""
    said = report["winner"].get("serving")
    if said and _host(report) == machine():
        found = winner.serving.to_data()
        yield _claim("engine, precision and threads", served(said), served(found), found == said)


def _on_dev(report: Mapping[str, Any], task: Task, winner: Any) -> Iterator[dict[str, Any]]:
    said, data = report["winner"]["numbers"]["dev_quality"], report["data"]
    if said is None:
        return
    name = f"{task.metric} on dev, in its interval"
    try:
        dev = _dev(data, task, _columns(report), report["seed"])
    except DataError as error:
        yield _claim(name, said["value"], str(error), False)
        return
    if dev.fingerprint != data["dev"]["fingerprint"]:
        yield _claim(name, said["value"], f"{dev.source}: not the dev data of the report any more", False)
        return
    value = entries.quality_data(task, winner.outputs(dev.texts, dev.pairs), dev)["value"]
    if said.get("seeds"):  # the value is the mean of several models, the folder holds the best of them
        best = said["seeds"][0] if isinstance(winner, Cascade) else max(said["seeds"])  # a cascade's own come first
        yield _claim(f"{task.metric} on dev, of the best seed", best, value, abs(value - best) <= CLOSE)
    else:
        yield _claim(name, said["value"], value, said["low"] <= value <= said["high"])
    if data["test"] is None and report["budget"]["quality"]:
        if isinstance(winner, Cascade) and said.get("seeds"):  # the mean kept it, and the deployed may be any of them
            value = float(np.mean([value, *said["seeds"][1:]]))
        yield _enough(report, task, value, report["teacher"]["numbers"]["dev_quality"]["value"])


def _enough(report: Mapping[str, Any], task: Task, value: float, teacher: float) -> dict[str, Any]:
    text = report["budget"]["quality"]["text"]
    least = least_quality(read_budget(quality=text, metrics=task.METRICS), teacher)
    assert least is not None
    return _claim(f"quality budget {text}", least, value, value >= least)


def _peers(
    report: Mapping[str, Any], task: Task, out: Path, test: Split, reference: np.ndarray
) -> Iterator[dict[str, Any]]:
    """What the winner is shown beside: the teacher, by what it says of test, and the baselines that are folders."""
    shown = [("teacher", report["teacher"], reference)]
    for entry in report.get("baselines", ()):
        if entry["path"] and (folder := out / entry["path"]).is_dir():
            size, told = deployed_bytes(folder) / 1e6, entry["numbers"]["size_mb"]
            yield _claim(f"{entry['name']}: size in MB, to the byte", told, size, size == told)
            shown.append((entry["name"], entry, load(folder).outputs(test.texts, test.pairs)))
    for name, entry, outputs in shown:
        if said := entry["numbers"].get("quality"):
            value = entries.quality_data(task, outputs, test)["value"]
            claim = f"{name}: {task.metric} on test, in its interval"
            yield _claim(claim, said["value"], value, said["low"] <= value <= said["high"])


def _dev(data: Mapping[str, Any], task: Task, columns: Columns, seed: int) -> Split:
    """The dev set as the search had it: a file of its own, or a part of train drawn by the seed."""
    source = data["dev"]["source"]
    if source != data["train"]["source"]:
        return read_split(source, "dev", task, columns)
    return take_dev(read_split(source, "train", task, columns), seed, every=isinstance(task, Several))[1]


def _teacher(report: Mapping[str, Any], out: Path, task: Task) -> TorchModel:
    path = report["teacher"]["path"]
    return TorchModel(out / path if path else resolve(report["model"]["reference"]).path, task)


def _qualities(
    report: Mapping[str, Any], task: Task, test: Split, winner: Any, reference: np.ndarray
) -> Iterator[dict[str, Any]]:
    said = report["winner"]["numbers"]
    logits = winner.outputs(test.texts, test.pairs)
    found = {"quality": entries.quality_data(task, logits, test)} | entries.compared_data(task, logits, reference, test)
    names = {"quality": f"{task.metric} on test", "agreement": "agreement with the teacher", "quality_kept": "kept"}
    for key, name in names.items():
        if said[key] is None:  # a teacher that scores 0 has nothing to keep
            continue
        value, claimed = found[key]["value"], said[key]
        yield _claim(f"{name}, in its interval", claimed["value"], value, claimed["low"] <= value <= claimed["high"])
    for name, claimed in (said["quality"].get("tasks") or {}).items():
        value = found["quality"]["tasks"][name]
        yield _claim(f"accuracy of the task {name}", claimed, value, abs(value - claimed) <= CLOSE)
    if report.get("portrait"):
        yield from _portrayed(report["portrait"], portrait(task, test, logits, reference))
    if report["budget"]["quality"]:
        own = entries.quality_data(task, reference, test)["value"]
        yield _enough(report, task, found["quality"]["value"], own)


def _portrayed(said: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Labels to the last text, counts to the last mistake; calibration with a little room."""
    same = said["decided"] == found["decided"]
    yield _claim("labels of test, every text", said["n"], found["n"] if same else "other labels", same)
    for key, name in (
        ("confusion", "what was taken for what, every count"),
        ("found", "found and missed, every count"),
    ):
        if said[key]:
            same = said[key] == found[key]
            yield _claim(name, "as told", "equal" if same else "other counts", same)
    told, mine = said["right"], found["right"]
    yield _claim("texts that both, or one alone, get right", _four(told), _four(mine), told == mine)
    for who in WHO:
        error, value = (each["calibration"][who]["error"] for each in (said, found))
        yield _claim(f"calibration error of the {who}", error, value, abs(value - error) <= CLOSE)


def _four(right: Mapping[str, Any]) -> str:
    return " ".join(str(right[key]) for key in ("both", "winner", "teacher", "neither"))


def _company(report: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the winner was timed among, as far as it is there: a call is slower behind one that empties the caches."""
    timed = [e for e in (*report.get("candidates", ()), *report.get("baselines", ())) if e["numbers"]["speedup"]]
    return {
        f"beside {e['name']}": load(out / e["path"])
        for e in timed
        if e["path"] and e["status"] != "winner" and (out / e["path"]).is_dir()
    }


def _speeds(
    report: Mapping[str, Any], task: Task, out: Path, winner: Any, teacher: TorchModel
) -> Iterator[dict[str, Any]]:
    said, budget = report["winner"]["numbers"], report["budget"]
    try:  # the texts that the search timed on
        dev = _dev(report["data"], task, _columns(report), report["seed"])
        rows = entries.timed_texts(dev, report["seed"])
    except DataError:  # said where dev is scored
        rows = entries.made_up(task)
    models = {"winner": winner, "teacher": teacher, **_company(report, out)}
    found, speed = entries.time_all(models, rows, said["latency"]["n"])
    times = entries.speedup_data(found["winner"], found["teacher"], isinstance(winner, Cascade))["value"]
    yield _ratio("times as fast as the teacher", said["speedup"]["value"], times, SLACK)
    then = report["teacher"]["numbers"]
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        now = [getattr(found[name], key) for name in ("winner", "teacher")]
        if said["latency"].get(key) and (then["latency"] or {}).get(key) and all(now):
            claimed = said["latency"][key] / then["latency"][key]
            slack = SLACK if key == "p50_ms" else TAIL_SLACK
            yield _ratio(f"{key[:3]} as a share of the teacher's", claimed, now[0] / now[1], slack)
    if said["throughput"] and then["throughput"]:
        claimed = said["throughput"]["texts_per_s"] / then["throughput"]["texts_per_s"]
        value = speed["winner"]["texts_per_s"] / speed["teacher"]["texts_per_s"]
        yield _ratio("texts a second, times the teacher's", claimed, value, TAIL_SLACK)
    if budget["latency"]:
        key, limit = f"{budget['latency']['percentile']}_ms", budget["latency"]["ms"]
        value = getattr(found["winner"], key)
        kept = value is not None and value <= limit * BUDGET_SLACK
        yield _claim(f"latency budget, {key} (10 % slack)", limit, value, kept)
    if budget["size_mb"]:
        size = deployed_bytes(out / "winner") / 1e6
        yield _claim("size budget", budget["size_mb"], size, size <= budget["size_mb"])
    if said["memory_mb"]:
        peak = float(memory(out / "winner", *entries.two_lists(rows[:64])).value)
        yield _claim("peak memory in MB", said["memory_mb"], peak, peak <= said["memory_mb"] * SLACK)
        if budget["memory_mb"]:
            limit = budget["memory_mb"]
            yield _claim("memory budget (10 % slack)", limit, peak, peak <= limit * BUDGET_SLACK)


def _ratio(claim: str, claimed: float, value: float, slack: float) -> dict[str, Any]:
    return _claim(claim, claimed, value, claimed / slack <= value <= claimed * slack)
