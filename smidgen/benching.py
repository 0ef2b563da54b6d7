"""`smidgen bench`: folders side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.data import Columns, Split, read_split
from smidgen.errors import InputError, ModelError
from smidgen.measure import entries
from smidgen.measure.environment import environment
from smidgen.measure.memory import memory
from smidgen.measure.speed import Latency
from smidgen.measure.ways import THOROUGH, Effort, Run, Trial, amiss, chosen, paced, trials
from smidgen.runtime import Bundle, Cascade, Model, deployed_bytes, load
from smidgen.runtime.engines import DEFAULT, Way
from smidgen.runtime.folder import first_line
from smidgen.runtime.machine import usable_cores
from smidgen.runtime.serving import FILE, Serving, check_writable, write
from smidgen.tasks import Task
from smidgen.watch import Watch
from smidgen.words import of_task

DEPLOYED = (Model, Cascade)


def bench(
    folders: Sequence[Path],
    data: str | None,
    columns: Columns,
    torch_models: Sequence[str],
    calls: int,
    threads: int | None,
    watch: Watch,
    engine: str | None = None,
    precision: str | None = None,
    tune: bool = False,
    metric: str | None = None,
) -> dict[str, Any]:
    """Time, weigh and (with labelled data) score folders in one interleaved run.

    Args:
        tune: first find the fastest way to run each folder on this machine, and write it into the folder.
        metric: of the qualities; None = the task's own.

    Returns:
        `entries` as in a report, of a cascade with the share of the rows that is `passed` on to each further model;
        `speed_by`, p50 or, with a cascade among them, mean; `environment`, and the `conditions` in words; of `tune` the
        `trials` by folder.
    """
    if tune and (threads, engine, precision) != (None, None, None):
        raise InputError(
            "--tune finds threads, engine and precision itself. Leave --threads, --engine and --precision out."
        )
    models = _opened(folders, threads, engine, precision)
    mean = any(isinstance(model, Cascade) for model in models.values())
    if tune and mean:
        raise InputError("--tune finds how to run one model. Tune the models of the cascade, then make it again.")
    for folder in folders if tune else ():
        check_writable(folder)
    first: Model = models[str(folders[0])]
    task = replace(first.task, metric=metric) if metric else first.task
    split = read_split(data, "test", task, columns) if data else None
    if split is not None:
        _same_labels(models)
    rows = entries.timed_texts(split) if split is not None else entries.made_up(first.task)
    ways = {name: tuned(Path(name), rows, split, watch) for name in models} if tune else {}
    models |= {name: load(name) for name in ways}
    first = models[str(folders[0])]
    for reference in torch_models:
        models[f"{reference} (torch float32)"] = _torch(reference, first)
    with watch.bar("timing", 1) as bar:
        timed, speed = entries.time_all(models, rows, calls)
        bar.to(1)
    base = f"{torch_models[0]} (torch float32)" if torch_models else str(folders[0])
    said = {name: _answers(model, split) for name, model in models.items()} if split else {}
    logits = {name: outputs for name, (outputs, _) in said.items()}
    found = []
    for name, model in models.items():
        entry = _entry(name, model, said[name][1] if said else {})
        entry["numbers"] |= _speeds(model, timed[name], timed[base], mean) | {"throughput": speed[name]}
        if isinstance(model, DEPLOYED):
            entry["numbers"] |= _weights(name, rows, threads, engine, precision)
        if split is not None:
            entry["numbers"] |= _scores(task, logits, name, base, split)
        found.append(entry)
    told: dict[str, Any] = {"entries": found, "speed_by": "mean" if mean else "p50"}
    told |= {"conditions": _conditions(models, timed[base].n, data, mean, base), "environment": environment()}
    if tune:
        told["trials"] = {name: [trial.to_data() for trial in tried] for name, tried in ways.items()}
    return told


def tuned(folder: Path, rows: Sequence[entries.Row], split: Split | None, watch: Watch) -> list[Trial]:
    """Every way to run a folder, timed; the fastest is written into it."""
    with watch.bar(f"ways to run {folder.name}", 1) as bar:
        effort = paced(folder, rows)
        found, best = fastest_way(folder, rows, split, lambda done, of: bar.to(done / of), effort=effort)
    for trial in found:
        if trial.reason:
            watch.say(f"{folder}: {trial.way} is left out: {trial.reason}.")
    write(folder, best)
    watch.say(f"{folder}: {best}; written into {FILE}.")
    return found


def fastest_way(
    folder: Path,
    rows: Sequence[entries.Row],
    split: Split | None,
    done: Callable[[int, int], None],
    refuse: Callable[[Way], str] = lambda way: "",
    run: Run | None = None,
    tried: Sequence[Way] = (),
    effort: Effort = THOROUGH,
) -> tuple[list[Trial], Serving]:
    """Every way to run a folder, timed, and the fastest that answers as ONNX Runtime does.

    Args:
        rows: to time on, and to compare answers on where there is no `split`.
        refuse: what else is wrong with a way that would be chosen, in words; "" if nothing is.
        run, tried, effort: as `smidgen.measure.ways.trials` takes them.

    Raises:
        ModelError: no way is left.
    """
    found = trials(folder, rows, done, run, tried, effort)
    texts, pairs = (split.texts, split.pairs) if split is not None else entries.two_lists(rows)
    usual = load(folder, engine=DEFAULT, precision="float32")
    reference = cache(lambda: usual.outputs(texts, pairs))

    def judge(way: Way) -> str:
        if wrong := refuse(way):
            return wrong
        try:
            said = Model(folder, told=Serving(way, way)).outputs(texts, pairs)
        except ModelError as error:
            return first_line(error)
        return amiss(usual.task, reference(), said, split.labels if split is not None else None)

    return chosen(found, judge, effort.gain)


def run_by(models: Mapping[str, Any]) -> str:
    """How the folders are run, in words; of several each by its name."""
    told = {name: str(model.serving) for name, model in models.items() if isinstance(model, DEPLOYED)}
    return next(iter(told.values())) if len(set(told.values())) == 1 else "; ".join(map(": ".join, told.items()))


def _opened(folders: Sequence[Path], threads: int | None, engine: str | None, precision: str | None) -> dict[str, Any]:
    """The folders by name. Raises InputError where one is given twice, is a bundle, or they do different tasks."""
    places = [folder.resolve() for folder in folders]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise InputError(f"{folders[i]}: given twice. Give each folder once.")
    models: dict[str, Any] = {str(folder): load(folder, threads, engine, precision) for folder in folders}
    for name, model in models.items():
        if isinstance(model, Bundle):
            raise InputError(
                f"{name}: is a bundle of {len(model.tasks)} tasks; bench times folders of one. Make one of a delta: "
                "smidgen merge BASE DELTA --out DIR, then type smidgen bench DIR."
            )
    first: Model = models[str(folders[0])]
    for name, model in models.items():
        if model.task.name != first.task.name:
            raise InputError(
                f"{name}: its task is {model.task.name}, that of {folders[0]} is {first.task.name}. Give folders of "
                "one task."
            )
    return models


def _same_labels(models: Mapping[str, Model]) -> None:
    """Raises InputError where they have other labels, or in another order."""
    base, first = next(iter(models.items()))
    for name, model in models.items():
        if model.labels != first.labels:
            raise InputError(
                f"{name}: has the labels {', '.join(model.labels)}; {base} has {', '.join(first.labels)}. With "
                "--data, give folders of the same labels in the same order."
            )


def _entry(name: str, model: Any, passed: Mapping[str, Any]) -> dict[str, Any]:
    serving = model.serving.to_data() if isinstance(model, DEPLOYED) else None
    return entries.entry(name, "bench", path=name, serving=serving, **passed)


def _speeds(model: Any, timed: Latency, base: Latency, mean: bool) -> dict[str, Any]:
    cores = model.threads if isinstance(model, DEPLOYED) else usable_cores()
    return {"latency": entries.latency_data(timed, cores), "speedup": entries.speedup_data(timed, base, mean)}


def _weights(
    name: str, rows: Sequence[entries.Row], threads: int | None, engine: str | None, precision: str | None
) -> dict[str, float]:
    """What a folder takes on disk and in memory."""
    peak = memory(name, *entries.two_lists(rows[:64]), threads, engine=engine, precision=precision)
    return {"size_mb": deployed_bytes(Path(name)) / 1e6, "memory_mb": float(peak.value)}


def _conditions(models: Mapping[str, Any], calls: int, data: str | None, mean: bool, base: str) -> str:
    """How all of it was measured, in words."""
    flow = of_task(models[base].task.name).flow.lower()
    speeds = "speed by the mean" if mean else "speed"
    return (
        f"{calls} calls each at batch 1, {flow}, interleaved; {run_by(models)}; on "
        f"{data or 'made-up texts of 5 to 60 words (give --data for your own)'}; {speeds} and agreement against {base}"
    )


def _answers(model: Any, split: Split) -> tuple[np.ndarray, dict[str, Any]]:
    """What a model says of all rows; of a cascade also the share of them that it passes on to each further model."""
    if not isinstance(model, Cascade):
        return model.outputs(split.texts, split.pairs), {}
    outputs, by = model.answered(model.rows(split.texts, split.pairs))
    return outputs, {"passed": [float((by >= level).mean()) for level in range(1, len(model.levels))]}


def _scores(task: Task, logits: Mapping[str, Any], name: str, base: str, split: Split) -> dict[str, Any]:
    quality = {"quality": entries.quality_data(task, logits[name], split)}
    same_shape = logits[name].shape == logits[base].shape
    return quality | (entries.compared_data(task, logits[name], logits[base], split) if same_shape else {})


def _torch(reference: str, first: Model) -> Any:
    from smidgen.measure.peers import TorchModel
    from smidgen.source import resolve

    return TorchModel(resolve(reference).path, first.task)
