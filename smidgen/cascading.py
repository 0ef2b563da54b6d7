"""A cascade made and measured: thresholds set on dev, one folder that runs without torch, speed on the real mix.

smidgen.json, cascade.json   the record with the hash of every file; the thresholds (see `runtime.levels`)
small/, large/               what is deployed of each model; those between them are middle-1/, middle-2/ ...
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen import budget
from smidgen.artefact import RECORD, Artefact, Store, file_hash, identity, open_artefact, publish
from smidgen.benching import bench
from smidgen.cells import USUAL, Columns
from smidgen.data import read_split
from smidgen.deferral import SURE, Choice, Graded, Wanted, chain, expected
from smidgen.errors import BudgetError, InputError, ModelError
from smidgen.pairing import Pair
from smidgen.runtime import Model, deployed_files, load
from smidgen.runtime.cascade import common_task
from smidgen.runtime.folder import GRAPH, read_json
from smidgen.runtime.levels import FILE, FORM, LEAST, Level, to_data
from smidgen.splits import Split
from smidgen.watch import Watch

QUALITY = "99%teacher"
FEW = 5  # rows of dev that may be lost; where it is fewer, little can be told


@dataclass(frozen=True)
class Job:
    """What a cascade is made of, and what it is to keep."""

    folders: tuple[Path, ...]  # the fastest first
    dev: str
    test: str | None = None
    quality: str = QUALITY
    sure: float = SURE
    teacher: str | None = None  # whose quality a share is of; None = the last model's
    metric: str | None = None
    columns: Columns = USUAL
    calls: int = 300

    @property
    def base(self) -> str:
        """What the cascade is compared with."""
        return str(Path(self.teacher) if self.teacher else self.folders[-1])


def cascade(job: Job, out: Path, watch: Watch) -> dict[str, Any]:
    """Calibrate on dev, build `out`, and measure it beside its models; see `api.cascade`.

    Raises:
        InputError: models that do not go together, or data that cannot be used; nothing was written.
    """
    if out.exists() and not (out / FILE).is_file():
        raise InputError(f"--out {out}: is there and not a cascade. Give a name that is free.")
    models = opened(job.folders)
    common = common_task(list(models.values()))
    least = budget.read(quality=job.quality, metrics=common.METRICS).quality
    assert least is not None
    if job.metric and least.metric and job.metric != least.metric:
        raise BudgetError(f"--metric {job.metric} and --min-quality {job.quality}: two metrics. Give the same in both.")
    task = replace(common, metric=job.metric or least.metric or common.metric)
    dev = _dev(job, task)
    if job.base not in models:
        models[job.base] = _teacher(job.base, task, models)
    watch.say(f"Asking {len(models)} models about {len(dev):,} rows of dev")
    said = {name: model.outputs(dev.texts, dev.pairs) for name, model in models.items()}
    assert dev.labels is not None
    wanted = Wanted(least.at_least, said[job.base] if least.of_teacher else None)
    choices = chain(task, [said[str(folder)] for folder in job.folders], dev.labels, wanted, job.sure)
    told = {"quality": job.quality, "sure": job.sure, "of": job.base, "metric": task.metric}
    if choices is None or (idle := _idle(job, choices)):
        lone = f"{job.folders[-1]} alone does not keep {job.quality} on dev. Give a larger model, or ask for less."
        return told | {"verdict": "not_met", "reason": lone if choices is None else idle, "path": None, "notes": []}
    about = told | {"task": task.to_data(), "dev": dev.describe() | {"fingerprint": dev.fingerprint}}
    levels = build(out, job.folders, choices, about).record["levels"]
    watch.say("Timing the cascade beside its models, interleaved")
    found = _measured(job, out, task.metric, watch)
    numbers = {one["name"]: one["numbers"] for one in found["entries"]}
    word, reason, notes = _verdict(job, out, least, choices, numbers)
    notes += _few(task, said[str(job.folders[-1])], dev.labels, wanted)
    times = [numbers[str(folder)]["latency"]["mean_ms"] for folder in job.folders]
    ms = expected(times, [choice.passed for choice in choices])
    verdict = {"verdict": word, "reason": reason, "path": str(out), "levels": levels, "expected_ms": ms, "notes": notes}
    return about | found | verdict


def _dev(job: Job, task: Graded) -> Split:
    """The rows of dev. Those of test are looked at too, so that whatever is wrong with them is told first."""
    dev = read_split(job.dev, "dev", task, job.columns)
    if job.test and read_split(job.test, "test", task, job.columns).fingerprint == dev.fingerprint:
        raise InputError(f"{job.test}: has the rows of --dev, on which thresholds are set. Give others, or none.")
    return dev


def opened(folders: Sequence[Path]) -> dict[str, Any]:
    """The models by the names of their folders, as they were given.

    Raises:
        InputError: too few folders, or one given twice.
        ModelError: a folder that is not of one model.
    """
    if len(folders) < LEAST:
        raise InputError(f"got {len(folders)} folder, wanted {LEAST} or more: the fastest first, the best last.")
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
            raise InputError(f"{folder}: given twice. Give each folder once.")
    found = {str(folder): load(folder) for folder in folders}
    for name, model in found.items():
        if not isinstance(model, Model):
            raise ModelError(f"{name}: is a {type(model).__name__.lower()}, wanted a folder of one model.")
    return found


def build(out: Path, folders: Sequence[Path], choices: Sequence[Choice], about: Mapping[str, Any]) -> Artefact:
    """Make the folder, whole or not at all.

    Args:
        folders: of models that were found to go together, the fastest first.
        choices: a threshold for each but the last.
        about: what else its record says.
    """
    levels, files = _contents(folders, choices)
    records = [read_json(folder / RECORD) if (folder / RECORD).is_file() else {} for folder in folders]
    told = [{"folder": level.folder, "id": one.get("id")} for level, one in zip(levels, records, strict=True)]
    lineage = {stage["id"]: stage for record in reversed(records) for stage in record.get("lineage", ())}
    record = {
        **about,
        "id": _id(levels, files),
        "form": FORM,
        "levels": [one | asdict(choice) for one, choice in zip(told, choices, strict=False)] + told[-1:],
        "lineage": list(lineage.values()),
    }
    with publish(out, record) as draft:
        for name, file in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, draft / name)
        (draft / FILE).write_text(json.dumps(to_data(levels), indent=1), encoding="utf-8")
    return open_artefact(out)


def built(root: Path, pair: Pair, folders: Mapping[str, Path], about: Mapping[str, Any]) -> Artefact:
    """The cascade of a pair among the artefacts of `root`, made if it is not there; `folders` by the models' names."""
    two = [folders[pair.small], folders[pair.large]]
    id = _id(*_contents(two, [pair.choice]))
    return Store(root).find(id) or build(root / id, two, [pair.choice], about)


def _contents(folders: Sequence[Path], choices: Sequence[Choice]) -> tuple[list[Level], dict[str, Path]]:
    """The levels, and where each file of theirs is now."""
    names = ["small", *(f"middle-{i}" for i in range(1, len(folders) - 1)), "large"]
    levels = [Level(name, one.temperature, one.threshold) for name, one in zip(names, choices, strict=False)]
    placed = zip(names, folders, strict=True)
    files = {f"{name}/{f.relative_to(folder).as_posix()}": f for name, folder in placed for f in deployed_files(folder)}
    return [*levels, Level(names[-1])], files


def _id(levels: Sequence[Level], files: Mapping[str, Path]) -> str:
    return identity([FORM, to_data(levels), {name: file_hash(file) for name, file in files.items()}])


def _measured(job: Job, out: Path, metric: str, watch: Watch) -> dict[str, Any]:
    """What `bench` says of the cascade and its models: on test, which is scored here and nowhere else, or on dev."""
    own = [Path(job.base)] if _deployed(job.base) else []
    folders = [*own, *(folder for folder in job.folders if folder not in own), out]
    torch = [] if own else [job.base]
    found = bench(folders, job.test or job.dev, job.columns, torch, job.calls, None, watch, metric=metric)
    for one in found["entries"] if job.test is None else ():
        one["numbers"]["dev_quality"], one["numbers"]["quality"] = one["numbers"]["quality"], None
    return found


def _verdict(
    job: Job, out: Path, least: budget.Quality, choices: Sequence[Choice], numbers: Mapping[str, Any]
) -> tuple[str, str, list[str]]:
    """`met` or `not_met`, why, and what else there is to know."""
    mine, last, notes = numbers[str(out)], str(job.folders[-1]), []
    kept = mine["quality_kept"] if least.of_teacher else mine["quality"] or mine["dev_quality"]
    times = [numbers[name]["latency"]["mean_ms"] for name in (str(out), last)]
    if times[0] >= times[1]:
        notes.append(f"{out} takes {times[0]:.2f} ms a text and {last} alone {times[1]:.2f} ms: take that.")
    if job.test and kept["low"] < least.at_least <= kept["value"]:
        notes.append(
            f"On {job.test} it is {kept['value']:.3f}, interval {kept['low']:.3f} to {kept['high']:.3f}: that "
            f"{job.quality} is kept is likely, not shown."
        )
    if kept["value"] < least.at_least:
        where = job.test or job.dev
        return "not_met", f"{job.quality} is kept on dev; on {where} it is {kept['value']:.3f}.", notes
    return "met", f"{job.quality} is kept, on dev in {choices[-1].held:.1%} of its bootstrap draws.", notes


def _idle(job: Job, choices: Sequence[Choice]) -> str:
    """Which model has nothing to do, in a sentence; "" where all have."""
    came = 1.0
    for choice, name, after in zip(choices, job.folders, job.folders[1:], strict=False):
        if choice.passed == 0:
            return f"{job.quality} is kept on dev without {after}. Take {name}, or ask for more."
        if choice.passed == came:
            return (
                f"{name} is never sure enough to answer by itself. Leave it out, give more rows of dev, or ask for "
                f"less than {job.quality} at --sure {job.sure:g}."
            )
        came = choice.passed
    return ""


def _few(task: Graded, last: np.ndarray, gold: np.ndarray, wanted: Wanted) -> list[str]:
    """A sentence where dev is too small for what is asked."""
    floor = wanted.at_least * (1.0 if wanted.reference is None else task.score(wanted.reference, gold))
    spare = len(gold) * (task.score(last, gold) - floor)
    if spare >= FEW:
        return []
    more = f" Give about {len(gold) * FEW / spare:,.0f} rows." if spare > 0 else ""
    return [f"Of {len(gold):,} rows of dev no more than {spare:.1f} may be lost, which chance alone can do.{more}"]


def needs_torch(job: Job) -> bool:
    """Is there a teacher that has no graph?"""
    return job.teacher is not None and not _deployed(job.teacher)


def _deployed(reference: str) -> bool:
    return (Path(reference) / GRAPH).is_file() or (Path(reference) / FILE).is_file()


def _teacher(reference: str, task: Graded, models: Mapping[str, Any]) -> Any:
    """A folder that runs without torch, or else a model in torch."""
    if not _deployed(reference):
        from smidgen.measure.peers import TorchModel
        from smidgen.source import resolve

        source = resolve(reference)
        if source.head != task.name:
            kind = f"has a head for another task ({source.head})" if source.head else "is a bare encoder"
            raise ModelError(
                f"--teacher {reference}: {kind} and has no answers. Give a model that was trained to {task.name}."
            )
        return TorchModel(source.path, task)
    found = load(reference)
    common_task([*models.values(), found])
    return found
