"""What the budget allows, found before anything is trained: shapes with untrained weights, built and timed.

Latency and size do not depend on what the weights are. What a family cannot do, the plan or the method says, and it is
left out. The smallest shapes are built first, and what they take says which of the larger ones are worth building; with
a time limit no more of a family is built than is searched among.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smidgen.artefact import identity, write_atomic
from smidgen.budget import over, used
from smidgen.candidates import MEMORY_ROWS, Candidate, Search, broken_words, memory_of, only_quality
from smidgen.choosing import speed
from smidgen.data import Data
from smidgen.errors import UNMADE, InputError, ModelError, OutOfTime, RecipeError
from smidgen.foretelling import Kind, Piece, Wanted
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
IN_FULL = 1 / 20  # of the same, at most, where all calls are made: what is trained is timed again
HASTE = 3  # times fewer calls, and one pass in batches, where there is no time for all
TOO_FEW = "not one shape could be built in a third of them and timed in a sixth of the others"
FAR = 1.3  # times over a limit: more of its kind is over it too, though a glance at a latency is not exact
NEAR = 1.1  # the same, where a shape that is built and does not fit costs time that others need
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
    """Time and weigh shapes with untrained weights, and mark what the budget forbids. What is not worth it is not
    built, see `smidgen.foretelling`.

    Raises:
        InputError: the time limit left no time to build and time one.
    """
    count = len(search.candidates)
    search.watch.say(f"Building up to {count} shapes with untrained weights, to see what fits the budget")
    until = search.clock.now() + FOR_BUILDING * search.clock.left
    kinds, wanted = _kinds(search.candidates), _wanted(search)
    pieces = [piece for kind in kinds for piece in kind.pieces]
    late: dict[Candidate, str] = {}
    stages: set[str] = set()
    with search.watch.bar("building", len(pieces)) as bar:
        while True:
            if wave := sorted((piece for kind in kinds for piece in kind.next(wanted)), key=lambda piece: piece.work):
                late |= _build(search, wave, until, stages)
                bar.to(sum(not piece.open for piece in pieces), wave[-1].of.shape.name)
                continue
            built = [piece for piece in pieces if piece.used is not None and piece.of not in late]
            built = [piece for piece in built if not _timed(piece.of)]
            if not built:
                break
            late |= dict.fromkeys(_time(search, [piece.of for piece in built]), TOO_FEW)
            for piece in built:
                if _timed(piece.of):
                    piece.used = used(search.job.budget, piece.of.entry["numbers"])
                else:
                    piece.gone = TOO_FEW
    search.notes += [note for kind in kinds for note in _not_built(search, kind, wanted)]
    search.notes += _left_out([(piece.of.shape, piece.gone) for piece in pieces if piece.gone and piece.of not in late])
    search.candidates = [c for c in search.candidates if _timed(c)]
    if late and not search.candidates:
        why = next((why for why in late.values() if why != TOO_FEW), TOO_FEW)
        raise InputError(f"--time-limit: {search.clock.limit:g} s are too few: {why}. Give more time.")
    if late:
        what = "1 shape" if len(late) == 1 else f"{len(late)} shapes"
        names = "; ".join(c.shape.name for c in late)
        search.notes.append(f"The time limit left no time to build or to time {what}: {names}.")


def _wanted(search: Search) -> Wanted:
    """With a time limit no more is built than will be searched among."""
    quality, hurried = only_quality(search.job.budget), search.clock.limit is not None
    enough = search.job.per_family if hurried and not quality else math.inf
    return Wanted(NEAR if hurried else FAR, enough, rising=quality)


def _kinds(candidates: Sequence[Candidate]) -> list[Kind[Candidate]]:
    """Parted by the model that they are made of and by the finish."""
    kinds: dict[tuple[str, str, bool], Kind[Candidate]] = {}
    for one in candidates:
        body, finish = one.shape.body, one.shape.finish
        piece = Piece(one, body.family, body.work, body.even, counts=bool(body.steps))
        kinds.setdefault((body.model, finish, body.work > 0), Kind()).pieces.append(piece)
    return list(kinds.values())


def _build(search: Search, wave: Sequence[Piece[Candidate]], until: float, stages: set[str]) -> dict[Candidate, str]:
    """Build shapes and glance at them; gives those that there is no time for, and why.

    stages: those whose seconds the search's pace knows, also from when they came onto the disk, are added to these.
    """
    budget = replace(search.job.budget, percentile="p50")  # a few calls tell no other, and no busy moment moves it
    search.prepare((untrained(search.job, piece.of.shape) for piece in wave), begin_by=until)
    late: dict[Candidate, str] = {}
    for piece in wave:
        candidate, recipe = piece.of, untrained(search.job, piece.of.shape)
        try:
            if search.clock.now() > until and not search.there(recipe):
                raise OutOfTime(TOO_FEW)
            done = search.make(recipe, patience=until)
        except OutOfTime as waited:
            late[candidate] = piece.gone = str(waited)
            continue
        except UNMADE as refusal:
            if search.job.families and candidate.shape.finish != SCARCE:
                raise
            piece.gone = str(refusal)
            continue
        candidate.folder = done[-1].artefact.path
        new = {one.artefact.id: float(one.artefact.record["seconds"]) for one in done if one.artefact.id not in stages}
        stages |= new.keys()
        if len(new) == len(done):
            search.pace.built(sum(new.values()), parameters(candidate.folder).value)
        piece.used = used(budget, _glance(search, candidate.folder))
    return late


def _not_built(search: Search, kind: Kind[Candidate], wanted: Wanted) -> list[str]:
    """What is said of the shapes that were not worth it, and by which of those that were built."""
    lacking = [piece for piece in kind.pieces if piece.open]
    more = [piece for piece in lacking if kind.foretold(piece) > wanted.most]
    built = sorted((piece for piece in kind.pieces if piece.used is not None), key=lambda piece: piece.work)
    least = min((piece.work for piece in more), default=0.0)
    over_ = [piece.of for piece in built if piece.even and piece.work <= least and not piece.of.fits]
    said, finish = list[str](), kind.pieces[0].of.shape.finish
    if more and over_:
        said.append(f"{over_[0].shape.name}: {over_[0].entry['reason'].rstrip('.')}. So not built: {_names(more)}.")
    elif more:
        said.append(f"By what {_names(built)} take in {finish}, too much for the budget, so not built: {_names(more)}.")
    if less := [piece for piece in lacking if piece not in more]:
        said.append(f"Enough that is larger fits the budget in {finish}, so not built: {_names(less)}.")
    return said


def _names(pieces: Sequence[Piece[Candidate]]) -> str:
    return ", ".join(piece.of.shape.body.name for piece in pieces)


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


def _glance(search: Search, folder: Path) -> dict[str, Any]:
    """What a few calls say of a shape. Kept on disk, so that another run builds the same."""
    memo = search.root / f"glance-{_where(search, folder.name)}.json"
    if not memo.is_file():
        rows = entries.timed_texts(search.data.dev, search.job.seed)
        glance = {"latency": entries.glance(load(folder), rows), "size_mb": deployed_bytes(folder) / 1e6}
        write_atomic(memo, json.dumps(glance))
    return dict(json.loads(memo.read_text(encoding="utf-8")))


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
        note = f"The time limit left time for {calls} calls of each shape, of {job.calls}. What is trained is timed in "
        note += "full in the end."
        search.notes += [note] if fit and note not in search.notes else []
    models = {name: load(unlike[name]) for name in fit}
    begun = search.clock.now()
    measured: dict[str, dict[str, Any]] = {}
    if models:
        with search.watch.bar("timing shapes", 1) as bar:
            texts = entries.timed_texts(search.data.dev, job.seed)
            found, together = entries.time_all(models, texts, calls, **({} if in_full else {"turns": turns}))
            bar.to(1)
        took = (search.clock.now() - begun) * entries.answered(job.calls) / entries.answered(calls, turns)
        search.pace.timed(took, sum(one.mean_ms for one in found.values()))
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
        memo = {"of": _ids(folders), "measured": of_shapes, "calls": search.pace.calls}
        write_atomic(_memo(search, folders), json.dumps(memo))
    return of_shapes


def _within(search: Search, folders: Mapping[str, Path]) -> tuple[bool, list[str]]:
    """Is there time to time all of these in full? And those that there is time for then, or else in haste, the fastest
    first; by what a glance at each foretells.
    """
    left = search.clock.left
    if math.isinf(left):
        return True, list(folders)
    memory = search.job.budget.memory_mb is not None
    start, rows = (START, MEMORY_ROWS + 1) if memory else (0.0, 0)
    ms = {name: speed(_glance(search, folder)) for name, folder in folders.items()}
    fastest_first = sorted(ms, key=lambda name: ms[name])

    def affordable_by(calls: int, turns: int, share: float) -> list[str]:
        texts = entries.answered(calls, turns) + rows
        return affordable(fastest_first, {name: start + texts * one / 1e3 for name, one in ms.items()}, share * left)

    if len(affordable_by(search.job.calls, entries.TURNS, IN_FULL)) == len(ms):
        return True, list(folders)
    return False, affordable_by(math.ceil(search.job.calls / HASTE), 1, FOR_TIMING)


def _remembered(search: Search, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]] | None:
    """What was measured before: the same shapes are not timed again, so the choice stays the same."""
    file = _memo(search, folders)
    if not file.is_file():
        return None
    memo = json.loads(file.read_text(encoding="utf-8"))
    search.pace.timed(*memo["calls"])
    lacking = search.job.budget.memory_mb is not None and any(m["memory_mb"] is None for m in memo["measured"].values())
    return None if lacking else memo["measured"]


def _memo(search: Search, folders: Mapping[str, Path]) -> Path:
    return search.root / f"shapes-{_where(search, [4, _ids(folders)])}.json"


def _where(search: Search, what: Any) -> str:
    """A name for times: of what, on which texts, by which machine and versions."""
    return identity([what, machine(), versions(), search.data.dev.fingerprint, search.job.seed, search.job.calls])


def _ids(folders: Mapping[str, Path]) -> dict[str, str]:
    return {name: folder.name for name, folder in folders.items()}
