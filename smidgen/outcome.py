"""The whole of `smidgen compress`: search, then one winner, one report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smidgen import report
from smidgen.artefact import RECORD, alone, file_hash, identity, open_artefact, publish, write_atomic
from smidgen.candidates import Candidate, Search, in_budget, only_quality, over_on_dev
from smidgen.choosing import speed
from smidgen.data import Split
from smidgen.errors import ArtefactError, InputError
from smidgen.feasibility import feasible, start
from smidgen.measure.environment import environment, versions
from smidgen.racing import train_finalists
from smidgen.recipe import to_data
from smidgen.running import run_fastest
from smidgen.runtime import deployed_bytes, deployed_files
from smidgen.runtime.serving import machine
from smidgen.search import (
    add_cascades,
    decide,
    measure_memory,
    missed,
    other_ways,
    read_test,
    sure,
    time_trained,
    verdict,
    without_encoder,
)
from smidgen.shapes import Job
from smidgen.source import MODEL_FILES, resolve
from smidgen.tasks import Task
from smidgen.watch import Silent, Watch

SCHEMA = 1


def carry_out(
    job: Job,
    out: Path,
    watch: Watch | None = None,
    command: str = "",
    store: Path | None = None,
    storage: str | None = None,
    trackers: tuple[str, ...] = (),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """A budget in, a winner out: `out/winner`, `out/report.html|md|json`, `out/stages`.

    Args:
        store: where the stages are kept instead, so that several searches share them.
        storage: a database for the scores.
        trackers, executor: of the stages, as `smidgen.runner.run` takes them.

    Returns:
        The report. A finished command that is run again gives its report again.

    Raises:
        InputError: what was given cannot be used, or `out/winner` is no winner; nothing was written then.
    """
    watch = watch or Silent()
    need_place(out)
    search = start(job, out, watch, store, storage)
    search.trackers, search.executor = trackers, executor
    print_ = _fingerprint(search)
    found = _finished(out, print_)
    if found is not None:
        watch.say("Nothing has changed since this was run: here is its report again.")
        with alone(out, wait=True):
            report.render(out)
        return found
    feasible(search)
    search.simple = without_encoder(search.data.train, search.data.task, job.seed)
    train_finalists(search)
    winner = None
    if search.teacher_folder is not None:
        if run_fastest(search):
            time_trained(search, {})
        add_cascades(search)
        winner, models = decide(search)
        read_test(search, winner, models)
        measure_memory(search, winner)
    word, reason = verdict(search, winner)
    _explain(search, winner, word, reason)
    miss = missed(search, winner)
    choice = sure(search, winner) if winner is not None and word == "met" else None
    if winner is not None and choice is not None:
        search.notes.append(choice.told(winner.shape.name, len(search.data.dev)))
    written = _report(search, winner if word == "met" else None, word, reason, command) | {
        "choice": choice.to_data() if choice is not None else None,
        "alternatives": other_ways(search, winner),
        "nearest": miss.to_data() if word != "met" and miss is not None else None,
        "fingerprint": print_,
    }
    deliver(out, winner.folder if winner is not None and word == "met" else None, written)
    return written


def _fingerprint(search: Search) -> str:
    """All that a compression depends on, the machine and what is installed on it among it."""
    return identity(
        {
            "model": search.model.id,
            "job": to_data(search.job) | {"budget": search.job.budget.to_data()},
            "data": search.data.fingerprint,
            "metric": search.data.task.metric,
            "students": [resolve(student).id for student in search.job.students],
            "machine": [machine(), versions()],
        }
    )


def _finished(out: Path, print_: str) -> dict[str, Any] | None:
    """The report of the same command, if it is there with a whole winner."""
    try:
        found = json.loads((out / "report.json").read_text(encoding="utf-8"))
        if found.get("fingerprint") != print_:
            return None
        if found["winner"] is not None:
            open_artefact(out / "winner")
        return dict(found)
    except (OSError, ValueError, ArtefactError):
        return None


def _explain(search: Search, winner: Candidate | None, word: str, reason: str) -> None:
    """Say of each trained candidate why it is not the winner."""
    for candidate in search.candidates:
        entry = candidate.entry
        if candidate is winner and word != "met":
            entry["status"], entry["reason"] = "chosen", reason
        elif candidate is winner:
            entry["status"], entry["reason"] = "winner", _why(search, candidate)
        elif entry["status"] == "trained":
            entry["reason"] = _why_not(search, candidate, winner)
        elif entry["status"] == "not_trained" and not entry["reason"]:
            entry["reason"] = "fits, but a faster one that keeps to the budget was found first"


def _why(search: Search, winner: Candidate) -> str:
    if only_quality(search.job.budget):
        return "the fastest that keeps the quality asked for"
    best = max(c.entry["numbers"]["dev_quality"]["value"] for c in in_budget(search))
    if winner.entry["numbers"]["dev_quality"]["value"] >= best:
        return "best on dev among what keeps to the budget"
    return "not worse on dev than any that keeps to the budget by more than chance, and faster"


def _why_not(search: Search, candidate: Candidate, winner: Candidate | None) -> str:
    if candidate.wavers:
        return "went over the budget when it was timed beside the others"
    if winner is None or over_on_dev(search, candidate):
        return "does not keep to the budget on dev"
    mine, best = (c.entry["numbers"] for c in (candidate, winner))
    difference = mine["dev_quality"]["value"] - best["dev_quality"]["value"]
    if difference < 0:
        return f"{-difference:.3f} below the winner on dev"
    slower = speed(mine) / speed(best)
    if only_quality(search.job.budget):
        return f"keeps the quality too, and is {slower:.1f} times as slow"
    return f"not better than the winner by more than chance on dev, and {slower:.1f} times as slow"


def _report(search: Search, winner: Candidate | None, word: str, reason: str, command: str) -> dict[str, Any]:
    job, data = search.job, search.data
    splits = {name: getattr(data, name) for name in ("train", "dev", "test", "unlabeled")}
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "verdict": word,
        "reason": reason,
        "budget": job.budget.to_data(),
        "task": data.task.to_data(),
        "columns": {
            "text": job.files.text_column,
            "text_pair": job.files.text_pair_column,
            "label": job.files.label_column,
            "task": job.files.task_column,
        },
        "model": {"reference": job.model, "id": search.model.id},
        "seed": job.seed,
        "teacher": search.teacher,
        "winner": winner.entry | {"path": "winner"} if winner else None,
        "candidates": [c.entry for c in search.candidates],
        "baselines": search.baselines,
        "data": {
            **{name: _describe(split, data.task) if split is not None else None for name, split in splits.items()},
            "warnings": [check.words for check in search.checks if check.loud],
            "checks": [check.to_data() for check in search.checks],
            "seen": search.seen,
        },
        "portrait": search.portrait,
        "environment": environment(),
        "cluster": search.executor is not None,
        "timing": {"seconds": round(search.clock.now() - search.clock.started, 1), "stages": search.timing},
        "notes": search.notes,
    }


def _describe(split: Split, task: Task) -> dict[str, Any]:
    told = split.describe() | {"fingerprint": split.fingerprint}
    return told if split.labels is None else told | {"classes": task.counted(split.labels)}


def is_winner(folder: Path) -> bool:
    """Is it a folder that `compress` may replace? The record of a winner alone has numbers."""
    try:
        return "numbers" in json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def need_place(out: Path) -> None:
    """Raise InputError where something else has the winner's place."""
    target = out / "winner"
    if target.exists() and not is_winner(target):
        raise InputError(
            f"--out {out}: {target} is there and no winner of smidgen compress. Give another --out, or move it away."
        )


def deliver(out: Path, folder: Path | None, written: Mapping[str, Any]) -> None:
    """The winner first, the report last: a report speaks of a winner that is there. One search at a time.

    Args:
        folder: the artefact that won; None = nothing did.
    """
    with alone(out, wait=True):
        need_place(out)
        (out / "report.json").unlink(missing_ok=True)
        shutil.rmtree(out / "winner", ignore_errors=True)
        if folder is not None:
            publish_winner(folder, out / "winner", written)
            # The record of a cascade is deployed with it, and has grown by the numbers.
            written["winner"]["numbers"]["size_mb"] = deployed_bytes(out / "winner") / 1e6
        write_atomic(out / "report.json", json.dumps(written, indent=1, ensure_ascii=False))
        report.render(out)


def publish_winner(folder: Path, target: Path, written: Mapping[str, Any]) -> None:
    """Copy an artefact to where it is found, with its numbers and its card."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["numbers"] = written["winner"]["numbers"]
    with publish(target, record) as draft:
        own = [name for name in MODEL_FILES if (folder / name).is_file()]
        for name in {*own, *(file.relative_to(folder).as_posix() for file in deployed_files(folder))} - {RECORD}:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, draft / name)
        (draft / "README.md").write_text(report.card(written), encoding="utf-8")
        measured = {name: told for name, told in record["files"].items() if "onnx/" in name}
        assert all(file_hash(draft / name) == told[1] for name, told in measured.items())
