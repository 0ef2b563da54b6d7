"""How what was trained is run: every engine that is installed, on one thread and on more, timed as `bench --tune` does.

What is the fastest, and answers dev as ONNX Runtime does, goes into the `serve.json` of a folder of its own, whose
other files are those of the folder that was trained. Its name says all that the times depend on, so that they are taken
once, and a store that several machines share holds what each of them found.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smidgen.artefact import Artefact, Store, identity, open_artefact, publish
from smidgen.benching import fastest_way
from smidgen.candidates import Candidate, Search, memory_of, over_on_dev
from smidgen.choosing import mean_quality
from smidgen.errors import ModelError, OutOfTime
from smidgen.measure import entries
from smidgen.measure.environment import versions
from smidgen.measure.memory import memory
from smidgen.measure.ways import BRIEF, TIMEOUT, Effort, Trial, alone, ways
from smidgen.runtime import deployed_bytes, load
from smidgen.runtime.engines import DEFAULT, Way, names
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.machine import usable_cores
from smidgen.runtime.products import multiplications
from smidgen.runtime.serving import WORTH, Serving, by_rule, machine, write

SHARE = 0.1  # of the time limit, at most
START = 2.0  # seconds of a process that opens a graph, about
GRACE = 10.0  # seconds that a process has at least, so that none is stopped for our hurry


def run_fastest(search: Search) -> bool:
    """Find how each candidate that was trained is run the fastest here, and have it run so; was there a choice?

    Those that keep to the budget come first; what there is no time for is run by rule.
    """
    trained = sorted((c for c in search.candidates if c.outputs), key=lambda c: bool(over_on_dev(search, c)))
    if not trained:
        return False
    until = math.inf if search.clock.limit is None else search.clock.now() + time_for(search, len(trained))
    late: list[str] = []
    with search.watch.bar("engines and threads", len(trained)) as bar:
        for i, candidate in enumerate(trained):
            try:
                _run_fastest(search, candidate, until, lambda done, of, i=i: bar.to(i + done / of))  # type: ignore[misc]
            except OutOfTime:
                late.append(candidate.shape.name)
            except ModelError as fault:
                search.notes.append(f"{candidate.shape.name} is run by rule: {fault}")
            bar.to(i + 1, candidate.shape.name)
    if late:
        search.notes.append(f"The time limit left no time to try engines and threads for {'; '.join(late)}.")
    return any(candidate.entry.get("ways") for candidate in trained)


def time_for(search: Search, count: int) -> float:
    """Seconds that so many candidates may take, by what their shapes take; with a time limit a tenth of it at most."""
    fit = [(c.folder, c.ms) for c in search.candidates if c.fits and c.folder is not None]
    turns = [(BRIEF.turns * len(tried(search, folder)), ms) for folder, ms in fit]
    each = sorted(count * (START + BRIEF.within(ms).calls * ms / 1e3) for count, ms in turns)
    most = math.inf if search.clock.limit is None else SHARE * search.clock.limit
    return min(most, sum(each[-count:]))


def tried(search: Search, folder: Path) -> list[Way]:
    """The ways to try: of threads no more than twice those that there is work for; none where there is but one."""
    most = 2 * multiplications(folder / GRAPH) // WORTH
    found = list(ways(usable_cores(), most, search.job.engine))
    return found if len(found) > 1 else []


def _run_fastest(search: Search, candidate: Candidate, until: float, done: Callable[[int, int], None]) -> None:
    assert candidate.folder is not None
    made = Store(search.root).find(_id(search, candidate.folder))
    if made is None:
        found, best = _found(search, candidate.folder, until, done, BRIEF.within(candidate.ms))
        made = _with_serving(search.root / _id(search, candidate.folder), candidate.folder, best, found)
    candidate.folder, entry = made.path, candidate.entry
    entry |= {"path": search.place(made), "ways": made.record["ways"]}
    entry["numbers"]["size_mb"] = deployed_bytes(made.path) / 1e6
    if search.job.budget.memory_mb is not None:
        entry["numbers"]["memory_mb"] = memory_of(made.path, search)
    model = load(made.path)
    if any(way.engine != DEFAULT for way in (model.serving.latency, model.serving.throughput)):
        _answer_again(search, candidate, model)


def _id(search: Search, folder: Path) -> str:
    """Of the folder with its `serve.json`."""
    engines = {name: version for name, version in versions().items() if name in names()}
    asked = [search.job.engine, search.job.budget.memory_mb, search.data.dev.fingerprint]
    return identity(["served", folder.name, machine(), engines, asked])


def _found(
    search: Search, folder: Path, until: float, done: Callable[[int, int], None], effort: Effort
) -> tuple[list[Trial], Serving]:
    """Raises OutOfTime, or ModelError where nothing runs it."""
    wanted = tried(search, folder)
    if not wanted:
        return [], by_rule(folder / GRAPH, search.job.engine or DEFAULT)
    rows, most = entries.timed_texts(search.data.dev, search.job.seed), search.job.budget.memory_mb

    def run(job: Mapping[str, Any]) -> dict[str, Any]:
        if (left := until - search.clock.now()) <= 0:
            raise OutOfTime("there was no time to try engines and threads")
        return alone(job, min(TIMEOUT, max(GRACE, left)))

    def refuse(way: Way) -> str:
        if most is None:
            return ""
        found = memory(folder, *entries.two_lists(rows[:64]), engine=way.engine, precision=way.precision).value
        return f"it needs {found:,.0f} MB of memory" if found > most else ""

    return fastest_way(folder, rows, search.data.dev, done, refuse, run, wanted, effort)


def _with_serving(target: Path, folder: Path, best: Serving, found: list[Trial]) -> Artefact:
    """The same folder with a `serve.json`, as an artefact of its own; the other files are links."""
    record = dict(open_artefact(folder).record)
    record |= {"id": target.name, "ways": [trial.to_data() for trial in found]}
    with publish(target, record) as draft:
        for name in record["files"]:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            _link(folder / name, draft / name)
        write(draft, best)
    return open_artefact(target)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a disk without links
        shutil.copyfile(file, to)


def _answer_again(search: Search, candidate: Candidate, model: Any) -> None:
    """What a candidate says of dev by another engine, in place of what its best seed said."""
    task, dev = search.data.task, search.data.dev
    assert dev.labels is not None
    scores = [task.score(one, dev.labels) for one in candidate.outputs]
    candidate.outputs[scores.index(max(scores))] = model.outputs(dev.texts, dev.pairs)
    candidate.entry["numbers"]["dev_quality"] = mean_quality(task, candidate.outputs, dev)
