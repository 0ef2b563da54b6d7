"""What the budget allows, found before anything is trained: every shape with untrained weights, built and timed.

Latency and size do not depend on what the weights are. What a family cannot do, the plan or the method says, and it is
left out. Of a family the smallest shape is built first: where it is far over a limit, larger ones are not built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smidgen.artefact import identity, write_atomic
from smidgen.budget import over
from smidgen.candidates import MEMORY_ROWS, Candidate, Pace, Search, broken_words, memory_of
from smidgen.choosing import speed
from smidgen.data import Data
from smidgen.errors import UNMADE, InputError, ModelError, OutOfTime, RecipeError
from smidgen.halving import Clock, affordable
from smidgen.measure import entries
from smidgen.measure.environment import versions
from smidgen.measure.size import parameters
from smidgen.planner import Plan, plan
from smidgen.recipe import to_data
from smidgen.running import START
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes
from smidgen.runtime.serving import machine
from smidgen.shapes import SCARCE, Body, Job, Shape, bodies, distilled, shapes, untrained
from smidgen.source import Source, need_anatomy, resolve
from smidgen.watch import Watch

FOR_BUILDING = 1 / 3  # of the time, at most
FOR_TIMING = 1 / 6  # of what is then left, at most
HASTE = 3  # times fewer calls, and one pass in batches, where there is no time for all
TOO_FEW = "not one shape could be built in a third of them and timed in a sixth of the others"
FAR = 1.3  # times over a limit: more of its kind is over it too, though a glance at a latency is not exact
# A head of another kind, as of pretraining, is dropped without a word.
ANSWERING = ("classify", "several", "tag", "answer")


def start(job: Job, out: Path, watch: Watch, root: Path | None = None, storage: str | None = None) -> Search:
    """Check everything that was given, before anything is written.

    root: of the stages; None = `out/stages`. storage: of the Optuna study; None = a journal file in `root`.

    Raises:
        InputError: the model, the data or a setting; the message says which.
    """
    clock = Clock(limit=job.budget.time_limit_s)
    model = resolve(job.model)
    students = [resolve(reference) for reference in job.students]
    for source in (model, *students):
        need_anatomy(source)
        if source.head not in ("", job.task) and source.head in ANSWERING:
            raise ModelError(
                f"{source.reference}: has a head for the task {source.head}, the task is {job.task}. Type --task "
                f"{source.head} with such data, or give a model that was trained to {job.task}, or a bare encoder."
            )
    for depth in job.depths:
        if not 1 <= depth <= model.blocks:
            raise InputError(f"--depth {depth}: {job.model} has {model.blocks} blocks. Give a number from 1 to that.")
    possible = bodies(model, students, job.depths, job.families)
    if not possible:
        named = " ".join([*(f"--depth {n}" for n in job.depths), *(f"--family {name}" for name in job.families)])
        raise InputError(
            f"{named}: nothing is made of these for a model of {model.blocks} blocks. Give other depths, or add "
            "--family depth."
        )
    kept, planned, notes = _possible(job, model, possible)
    data = planned.data
    job = replace(job, files=replace(job.files, max_length=planned.max_length))  # so that no plan looks for it again
    scarce = job.budget.size_mb is not None or job.budget.memory_mb is not None
    found = [_candidate(shape) for shape in shapes(kept, job.finishes, scarce)]
    search = Search(job, out, root or out / "stages", watch, model, data, found, clock=clock)
    search.notes, search.checks = [*_notes(data), *notes], list(planned.checks)
    if storage is not None:
        search.trials = search.open_trials(storage)
    return search


def feasible(search: Search) -> None:
    """Time and weigh every shape with untrained weights; mark what the budget forbids.

    Raises:
        InputError: the time limit left no time to build and time one.
    """
    job = search.job
    search.watch.say(f"Building {len(search.candidates)} shapes with untrained weights, to see what fits the budget")
    until = search.clock.now() + FOR_BUILDING * search.clock.left
    late: dict[Candidate, str] = {}
    refused: list[tuple[Shape, str]] = []
    there = search.prepare((untrained(job, candidate.shape) for candidate in search.candidates), begin_by=until)
    waiting = _by_haste(search.candidates)
    while waiting:
        held = _build(search, waiting, there, until, late, refused)
        late |= dict.fromkeys(_time(search, [c for c in waiting if c.folder is not None]), TOO_FEW)
        waiting = [c for small, larger in held.items() if _timed(small) and small.fits for c in larger]
        for small, larger in held.items():
            if larger and larger[0] not in waiting:
                names = ", ".join(c.shape.body.name for c in larger)
                search.notes.append(f"{_far_over(search, small)}, by far. So not built: {names}.")
    search.candidates = [c for c in search.candidates if _timed(c)]
    search.notes += _left_out(refused[::-1])
    if late and not search.candidates:
        why = next((why for why in late.values() if why != TOO_FEW), TOO_FEW)
        raise InputError(f"--time-limit: {search.clock.limit:g} s are too few: {why}. Give more time.")
    if late:
        what = "1 shape" if len(late) == 1 else f"{len(late)} shapes"
        names = "; ".join(c.shape.name for c in late)
        search.notes.append(f"The time limit left no time to build or to time {what}: {names}.")


def _build(
    search: Search,
    waiting: Sequence[Candidate],
    there: Collection[str],
    until: float,
    late: dict[Candidate, str],
    refused: list[tuple[Shape, str]],
) -> dict[Candidate, list[Candidate]]:
    """Build candidates and glance at them. Gives what is far over the budget, and by it what is larger, not built.

    there: names of the recipes whose stages are built already.
    late, refused: what there is no time for and what cannot be built are added to these, with the reason.
    """
    begun, made, graphs = search.clock.now(), set[str](), 0
    held: dict[Candidate, list[Candidate]] = {}
    with search.watch.bar("building", len(waiting)) as bar:
        for i, candidate in enumerate(waiting):
            recipe = untrained(search.job, candidate.shape)
            if search.clock.now() > until and recipe.name not in there:
                late[candidate] = TOO_FEW
                continue
            small = next((c for c in held if _kind(c.shape) == _kind(candidate.shape)), None)
            if small is not None:
                held[small].append(candidate)
                continue
            try:
                done = search.make(recipe, patience=until)
            except OutOfTime as waited:
                late[candidate] = str(waited)
                continue
            except UNMADE as refusal:
                if search.job.families and candidate.shape.finish != SCARCE:
                    raise
                refused.append((candidate.shape, str(refusal)))
                continue
            candidate.folder = done[-1].artefact.path
            made |= {candidate.shape.body.name for one in done if not one.reused}
            graphs += candidate.shape.body.name in made
            if _far_over(search, candidate) and candidate.shape.body.steps:
                held[candidate] = []
            bar.to(i + 1, candidate.shape.name)
    search.pace.build = (search.clock.now() - begun) / graphs if graphs else search.pace.build
    return held


def _time(search: Search, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Time candidates that are built, and mark what the budget forbids; gives those that there is no time for."""
    folders = {c.shape.name: c.folder for c in candidates if c.folder is not None}
    measured = (_remembered(search, folders) or _measure_shapes(search, folders)) if folders else {}
    for candidate in (c for c in candidates if c.shape.name in measured):
        candidate.entry["numbers"] |= measured[candidate.shape.name]
        broken = over(search.job.budget, candidate.entry["numbers"], None, "dev_quality")
        if broken:
            words = broken_words(search.job.budget, candidate.entry, broken)
            candidate.entry |= {"status": "infeasible", "reason": words}
    return [c for c in candidates if c.shape.name not in measured]


def _timed(candidate: Candidate) -> bool:
    return candidate.entry["numbers"]["latency"] is not None


def _kind(shape: Shape) -> tuple[str, str, str]:
    """Shapes of one kind differ in how much of it they have."""
    return shape.body.family, shape.body.model, shape.finish


def _far_over(search: Search, candidate: Candidate) -> str:
    """What is far over the budget, in words; "" where nothing is. A latency by the median: a few calls tell no other
    percentile, and one moment in which the machine is busy does not move it."""
    budget, folder = replace(search.job.budget, percentile="p50"), candidate.folder
    assert folder is not None
    numbers = _glance(search, folder)
    broken = {name: times for name, times in over(budget, numbers, None, "dev_quality").items() if times > FAR}
    if not broken:
        return ""
    entry = {"numbers": candidate.entry["numbers"] | numbers}
    return f"{candidate.shape.name}: {broken_words(budget, entry, broken).rstrip('.')}"


def _glance(search: Search, folder: Path) -> dict[str, Any]:
    """What a few calls say of a shape. Kept on disk, so that another run builds the same."""
    memo = search.root / f"glance-{_where(search, folder.name)}.json"
    if not memo.is_file():
        rows = entries.timed_texts(search.data.dev, search.job.seed)
        glance = {"latency": entries.glance(load(folder), rows), "size_mb": deployed_bytes(folder) / 1e6}
        write_atomic(memo, json.dumps(glance))
    return dict(json.loads(memo.read_text(encoding="utf-8")))


def _by_haste(candidates: Sequence[Candidate]) -> list[Candidate]:
    """What is trained already first, then the smallest, so that what there is no time for is large."""
    own = [candidate for candidate in candidates if not candidate.shape.body.steps]
    return own + [candidate for candidate in reversed(candidates) if candidate.shape.body.steps]


def _possible(job: Job, model: Source, found: Sequence[Body]) -> tuple[list[Body], Plan, list[str]]:
    """The bodies that a plan has no fault of, the plan of the first, and what is said of the others.

    Raises:
        InputError: of the first, or of one whose family was named, since then the fault is in what was given.
    """
    first: Plan | None = None
    kept: list[Body] = []
    faults: dict[str, str] = {}
    for body in found:
        recipe = replace(distilled(job, model, Shape(body)), name="what was given")
        try:
            if first is None:
                first = plan(recipe)
                job = replace(job, files=replace(job.files, max_length=first.max_length))
            else:
                plan(recipe, first.data)
            kept.append(body)
        except RecipeError as error:
            if first is None or job.families or body.model:
                raise
            faults[body.name] = error.faults[0]
    assert first is not None
    return kept, first, [f"Left out: {name}. {why}" for name, why in faults.items()]


def _left_out(refused: Sequence[tuple[Shape, str]]) -> list[str]:
    """What is said of shapes that could not be built: once for each reason, by the finish or the body they share."""
    by_reason: dict[str, list[Shape]] = {}
    for shape, why in refused:
        by_reason.setdefault(why, []).append(shape)
    said = []
    for why, alike in by_reason.items():
        finishes = list(dict.fromkeys(shape.finish for shape in alike))
        bodies_ = list(dict.fromkeys(shape.body.name for shape in alike))
        names = finishes if len(finishes) < len(bodies_) else bodies_ if len(finishes) > 1 else [alike[0].name]
        said.append(f"Left out: {' and '.join(names)}. {why}")
    return said


def _notes(data: Data) -> list[str]:
    """What a reader has to know of the task's baselines."""
    if data.task.name != "answer":
        return []
    split = data.dev if data.test is None else data.test
    assert split.labels is not None
    share = data.task.counted(split.labels)["without"] / len(split)
    note = "No baseline without an encoder is shown: none points into a context."
    if share:
        note += (
            f" {share:.1%} of the questions of {split.name} have no answer: to answer none of them scores that much."
        )
    return [note]


def _candidate(shape: Shape) -> Candidate:
    body = shape.body
    recipe = {
        "model": body.model or "the model given",
        "family": body.family,
        "made": [to_data(use) for use in body.made],
        "steps": [[to_data(use) for use in step.uses] for step in body.steps],
        "finish": shape.finish,
    }
    return Candidate(shape, entries.entry(shape.name, "not_trained", recipe=recipe))


def _measure_shapes(search: Search, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Of each shape that there is time for; two that are one folder while they are untrained are measured once."""
    job, calls, turns = search.job, search.job.calls, entries.TURNS
    unlike = {str(folder): folder for folder in folders.values()}
    in_full, fit = _within(search, unlike)
    if not in_full:
        calls, turns = math.ceil(calls / HASTE), 1
        search.notes.append(
            f"The time limit left time for {calls} calls of each shape, of {job.calls}. What is trained is timed in "
            "full in the end."
        )
    begun = search.clock.now()
    models = {name: load(unlike[name]) for name in fit}
    measured: dict[str, dict[str, Any]] = {}
    if models:
        with search.watch.bar("timing shapes", 1) as bar:
            texts = entries.timed_texts(search.data.dev, job.seed)
            found, together = entries.time_all(models, texts, calls, **({} if in_full else {"turns": turns}))
            bar.to(1)
        took = (search.clock.now() - begun) * entries.answered(job.calls) / entries.answered(calls, turns)
        search.pace.timing = took / sum(one.mean_ms for one in found.values())
    for name, model in models.items():
        folder = unlike[name]
        measured[name] = {
            "latency": entries.latency_data(found[name], model.threads),
            "throughput": together[name],
            "size_mb": deployed_bytes(folder) / 1e6,
            "parameters": int(parameters(folder).value),
            "memory_mb": memory_of(folder, search) if job.budget.memory_mb is not None else None,
        }
    of_shapes = {name: measured[str(folder)] for name, folder in folders.items() if str(folder) in measured}
    if in_full:
        memo = {"of": _ids(folders), "measured": of_shapes, "pace": vars(search.pace)}
        write_atomic(_memo(search, folders), json.dumps(memo))
    return of_shapes


def _within(search: Search, folders: Mapping[str, Path]) -> tuple[bool, list[str]]:
    """Is there time to time all of these in full? And those that there is time for then, or else in haste, the fastest
    first; by what a glance at each foretells.
    """
    seconds = FOR_TIMING * search.clock.left
    if math.isinf(seconds):
        return True, list(folders)
    memory = search.job.budget.memory_mb is not None
    start, rows = (START, MEMORY_ROWS + 1) if memory else (0.0, 0)
    ms = {name: speed(_glance(search, folder)) for name, folder in folders.items()}
    fastest_first = sorted(ms, key=lambda name: ms[name])

    def affordable_by(calls: int, turns: int) -> list[str]:
        texts = entries.answered(calls, turns) + rows
        return affordable(fastest_first, {name: start + texts * one / 1e3 for name, one in ms.items()}, seconds)

    if len(affordable_by(search.job.calls, entries.TURNS)) == len(ms):
        return True, list(folders)
    return False, affordable_by(math.ceil(search.job.calls / HASTE), 1)


def _remembered(search: Search, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]] | None:
    """What was measured before: the same shapes are not timed again, so the choice stays the same."""
    file = _memo(search, folders)
    if not file.is_file():
        return None
    memo = json.loads(file.read_text(encoding="utf-8"))
    search.pace = Pace(**memo["pace"])
    lacking = search.job.budget.memory_mb is not None and any(m["memory_mb"] is None for m in memo["measured"].values())
    return None if lacking else memo["measured"]


def _memo(search: Search, folders: Mapping[str, Path]) -> Path:
    return search.root / f"shapes-{_where(search, [2, _ids(folders)])}.json"


def _where(search: Search, what: Any) -> str:
    """A name for times: of what, on which texts, by which machine and versions."""
    return identity([what, machine(), versions(), search.data.dev.fingerprint, search.job.seed, search.job.calls])


def _ids(folders: Mapping[str, Path]) -> dict[str, str]:
    return {name: folder.name for name, folder in folders.items()}
