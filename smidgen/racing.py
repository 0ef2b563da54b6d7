"""Quality, the only thing that is searched: from the shapes that fit to finalists that are trained in full.

Every training is a recipe run through `smidgen.runner`, so what is on disk is not made again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from smidgen.artefact import Artefact
from smidgen.budget import least_quality
from smidgen.candidates import (
    Candidate,
    Search,
    has_learnt,
    in_budget,
    judge,
    only_quality,
    over_on_dev,
    teacher_quality,
    whole_body,
)
from smidgen.choosing import mean_quality
from smidgen.errors import UNMADE, OutOfTime
from smidgen.halving import FOR_RUNGS, REFUSED, SHARES, Race, Rank, Trained, following, percent, promising_enough, rungs
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel
from smidgen.method import find
from smidgen.planner import plan
from smidgen.running import time_for
from smidgen.runtime import load
from smidgen.shapes import Body, Job, Shape, distilled, plain, taught
from smidgen.source import model_bytes

FOR_TEACHER = 0.5  # of the time that is left, at most
LEARNING = 2.0  # times what answering a text takes in float32, that learning from it takes, about
SPARE = 1.2  # times what measuring at the end is thought to take


def train_finalists(search: Search) -> None:
    """Train the teacher, search among what fits, and train the finalists in full; judge them on dev."""
    chosen, passed = promising(search.candidates, search.job)
    fit = [candidate for candidate in search.candidates if candidate.fits]
    for candidate in fit:
        candidate.entry["reason"] = passed.get(candidate.shape.body.name, "")
    if not chosen:
        return
    _make_teacher(search)
    if search.teacher_folder is None:
        return
    if not has_learnt(search):
        for candidate in fit:
            candidate.entry["reason"] = candidate.entry["reason"] or "fits, but its teacher has learnt nothing yet"
        return
    out = _race(search, {body.name: body for body in chosen})
    for candidate in fit:
        if not candidate.outputs:
            candidate.entry["reason"] = out.get(candidate.shape.body.name, candidate.entry["reason"])


def _race(search: Search, bodies_: Mapping[str, Body]) -> dict[str, str]:
    """From bodies that fit to finalists that are trained; gives why the others are not among them."""
    job = search.job
    names = [name for name, body in bodies_.items() if body.steps]
    if not only_quality(job.budget):  # what promises most comes first, while there is time
        names.sort(key=lambda name: -_ms(search, name))
    search.clock.kept = reserve(search)

    def learn(name: str, share: float, until: float, kept: bool = False) -> Trained:
        return _learn(search, bodies_[name], share, until, 0 if kept else None)

    def prepare(names: Sequence[str], share: float, until: float) -> None:
        search.prepare((taught(job, search.model, bodies_[name], share, job.seed) for name in names), until)

    def there(name: str, share: float) -> bool:
        return not bodies_[name].steps or search.there(taught(job, search.model, bodies_[name], share, job.seed))

    def known(name: str, share: float) -> bool:
        ids = search.ids(taught(job, search.model, bodies_[name], share, job.seed))
        scored = search.trials is not None and bool(ids) and search.trials.known(ids[-1]) is not None
        return scored or there(name, share)

    hands = getattr(search.executor, "hands", 1)
    guess = foreseen(search, names)
    race = Race(learn, search.clock, guess, prepare=prepare, there=there, known=known, hands=hands)
    race.fixed |= {name: labelling(search, bodies_[name]) for name in guess}
    if rungs(len(names), job.finalists):
        search.trials = search.trials or search.open_trials()
        search.watch.say(f"Comparing {len(names)} of them on dev, by short trainings")
    search.labelled = search.clock.now() + FOR_RUNGS * search.clock.left
    last = race.halve(names, job.finalists, _rank(search))
    search.labelled = -math.inf
    last = [*(name for name in bodies_ if name not in names), *last]
    trained = _finish_all(search, race, last)
    if not only_quality(job.budget):
        slowest_first = sorted(race.late - set(trained), key=lambda name: -_ms(search, name))
        trained |= _finish_all(search, race, slowest_first, by_guess=True)
        if not any(bodies_[name].steps for name in trained):  # the guesses may be wrong
            trained |= _finish_all(search, race, sorted(race.late, key=lambda name: _ms(search, name)))
        _more_seeds(search, race, trained)
    else:
        tried, more = {name for name in last if name in trained or name in race.out}, trained
        while more := more | _go_on(search, race, [name for name in bodies_ if not race.refused(name)], tried):
            _more_seeds(search, race, more)  # by the mean of which another one may be the fastest
            trained, more = trained | more, {}
    search.compared = len({*race.scores, *trained})
    if search.trials is not None:
        search.trials.close({name: race.scores[name] for name in trained if name in race.scores})
    return race.out


def promising(candidates: Sequence[Candidate], job: Job) -> tuple[list[Body], dict[str, str]]:
    """Of the bodies that fit, those to search among, and why the others are passed over: of each family the largest,
    since more of the same is no worse; all of them, from the fastest up, where only a quality is asked.
    """
    fit = list({c.shape.body.name: c.shape.body for c in candidates if c.fits}.values())
    if only_quality(job.budget):
        fastest = {b.name: min(c.ms for c in candidates if c.shape.body == b and c.fits) for b in fit}
        return sorted(fit, key=lambda body: fastest[body.name]), {}
    chosen: list[Body] = []
    passed: dict[str, str] = {}
    for body in fit:
        alike = [other.name for other in chosen if other.family == body.family and other.steps]
        if len(alike) < job.per_family or not body.steps:
            chosen.append(body)
        else:
            passed[body.name] = f"fits, but so does more of its kind: {' and '.join(alike)}"
    return chosen, passed


def reserve(search: Search) -> float:
    """Seconds that measuring takes in the end, by what was measured on the way there, SPARE times: the teacher in torch
    and in int8, the winner's shape from labels, test, and the finalists on every engine. What else each finalist takes
    is in `_after`.
    """
    pace, data = search.pace, search.data
    graphs = (search.job.finalists + 1) * len({c.shape.finish for c in search.candidates})
    whole = [c.ms for c in search.candidates if c.shape == Shape(whole_body(search), "int8")]
    teacher = search.model.parameters * pace.build + pace.timing * max(whole or [1e3 * pace.row])
    may_win = [c for c in search.candidates if c.fits and c.shape.body.steps]
    winner = max((_graph(search, c) + pace.timing * c.ms for c in may_win), default=0.0)
    rows = 3 * search.job.calls + 1024 + (len(data.test) if data.test is not None else 0)
    return SPARE * (teacher + winner + rows * pace.row) + time_for(search, graphs)


def foreseen(search: Search, names: Sequence[str]) -> dict[str, float]:
    """Seconds that whole trainings take, about, by how much faster than the teacher a body is and what a row takes it;
    none where no time is limited, only a quality is asked, or no whole blocks of the teacher were timed."""
    timed = [c for c in search.candidates if c.shape.body.even and not c.shape.body.model]
    if search.clock.limit is None or only_quality(search.job.budget) or not timed:
        return {}
    a_block = min(c.ms / c.shape.body.work for c in timed)
    lesson = search.job.student.epochs * _rows(search) * LEARNING * search.pace.row
    return {name: lesson * _ms(search, name) / (a_block * search.model.blocks) for name in names}


def _rows(search: Search) -> int:
    """Texts that a student learns from."""
    more = search.data.unlabeled
    return len(search.data.train) + (len(more) if more is not None else 0)


def labelling(search: Search, body: Body) -> float:
    """Seconds, about, for labels that no other body reads: those with what is inside the teacher, at its own depths."""
    inside = any(find(use.method).needs.inside for step in body.steps for use in step.uses)
    return _rows(search) * search.pace.row if inside else 0.0


def _graph(search: Search, candidate: Candidate) -> float:
    """Seconds to build the graph of a candidate, by its parameters and what others took."""
    return search.pace.build * float(candidate.entry["numbers"].get("parameters") or 0)


def _after(search: Search, race: Race, name: str, first: bool) -> float:
    """Seconds from the end of a finalist's training to that of its measuring; behind the first one, time is also kept
    to train the winner's shape on the labels alone.
    """
    graphs = sum(_graph(search, c) + 2 * search.pace.timing * c.ms for c in search.of(name))
    rows, more = len(search.data.train), search.data.unlabeled
    if first or search.there(plain(search.job, search.model, search.of(name)[0].shape)):
        return SPARE * graphs
    plainly = race.whole.get(name, 0.0) * rows / (rows + (len(more) if more is not None else 0))
    return SPARE * graphs + plainly + race.fixed.get(name, 0)


def _rank(search: Search) -> Rank:
    """What is better: a higher score; where only a quality is asked, of those that promise it the faster."""
    whole = teacher_quality(search)
    least = least_quality(search.job.budget, whole)
    if not only_quality(search.job.budget) or least is None or not whole:
        return dict
    return lambda scores: promising_enough(scores, {name: _ms(search, name) for name in scores}, least / whole)


def _ms(search: Search, body: str) -> float:
    """Of its fastest finish."""
    return min(c.ms for c in search.of(body))


def _finish_all(search: Search, race: Race, names: Sequence[str], by_guess: bool = False) -> dict[str, float]:
    """Train the finalists, the best first; gives those that were, and for which share of their steps.

    Where only a quality is asked, from the fastest up, until one has it.
    """
    fastest_first, done = only_quality(search.job.budget), dict[str, float]()
    if fastest_first:
        names = sorted(names, key=lambda name: _ms(search, name))
    elif names:
        race.prepare([name for name in names if search.of(name)[0].shape.body.steps], 1.0, race.clock.until)
    for name in names:
        free = not search.of(name)[0].shape.body.steps
        share = 1.0 if free else race.finish(name, _after(search, race, name, first=not any(done)), by_guess)
        if not share:
            continue
        for candidate in search.of(name):
            try:
                _judge_on_dev(search, candidate, share, 0)
            except OutOfTime as late:
                race.out[name] = str(late)
                break
            except UNMADE as refusal:  # in this finish
                candidate.entry["reason"] = f"{REFUSED}{refusal}"
        if not any(candidate.outputs for candidate in search.of(name)):
            race.out.setdefault(name, search.of(name)[0].entry["reason"])
            continue
        done[name] = share
        if share < 1:
            search.notes.append(f"{name} was trained for {percent(share)} of its steps: the time limit left no more.")
        if fastest_first and in_budget(search):
            break
    return done


def _go_on(search: Search, race: Race, names: Sequence[str], tried: set[str]) -> dict[str, float]:
    """Where only a quality is asked: from what was finished to what is faster until one does not keep it, or to what
    may keep it where that does not; see `following`. Gives those that were trained, and for which share of their steps.

    tried: what was to be finished so far; the others are added.
    """

    def keeps(name: str) -> bool:
        return any(c.outputs and not over_on_dev(search, c) for c in search.of(name))

    fastest_first = sorted(names, key=lambda name: _ms(search, name))
    kept, done = {name: keeps(name) for name in tried}, dict[str, float]()
    while (name := following(fastest_first, kept, race.scores)) is not None:
        done |= _finish_all(search, race, [name])
        kept[name] = keeps(name)
    tried.update(kept)
    return done


def _more_seeds(search: Search, race: Race, trained: Mapping[str, float]) -> None:
    """The finalists again with other seeds, all of them with one before any has the next, as long as time allows."""
    job = search.job
    shapes_ = {name: [c for c in search.of(name) if c.outputs] for name in trained}
    learn = {name: share for name, share in trained.items() if shapes_[name][0].shape.body.steps}
    for seed in range(job.seed + 1, job.seed + job.seeds):
        lessons = {
            name: taught(job, search.model, shapes_[name][0].shape.body, share, seed) for name, share in learn.items()
        }
        left = race.clock.left
        search.prepare((lessons[n] for n, share in learn.items() if race.cost(n, share) < left), race.clock.until)
        for name, share in learn.items():
            until = race.clock.until - _after(search, race, name, first=False)
            try:
                there = search.there(lessons[name])
                if (0.0 if there else race.cost(name, share)) > until - race.clock.now():
                    raise OutOfTime("its training would end too late")
                _learn(search, shapes_[name][0].shape.body, share, until, seed - job.seed)
            except OutOfTime:
                search.notes.append(f"The time limit left no time for seed {seed} of {name}.")
                continue
            except UNMADE as refusal:
                search.notes.append(f"Seed {seed} of {name} {REFUSED}{refusal}")
                continue
            for candidate in shapes_[name]:
                try:
                    _judge_on_dev(search, candidate, share, seed - job.seed)
                except (OutOfTime, *UNMADE) as missed:
                    search.notes.append(f"Seed {seed} of {candidate.shape.name} was not judged: {missed}")


def _learn(search: Search, body: Body, share: float, until: float, turn: int | None) -> Trained:
    """Train a body for a share of its steps; without a `turn`, the number of a seed, its score alone is wanted."""
    recipe = taught(search.job, search.model, body, share, search.job.seed + (turn or 0))
    planned = plan(recipe, search.data)
    id = planned.stages[-1].id
    known = search.trials.known(id) if search.trials is not None and turn is None else None
    if known is not None:
        return known
    done = search.make(recipe, until)
    own = [one for one in done if one.planned.stage.name != "teacher"]
    trained = [one for one in own if "history" in one.artefact.record]
    histories = [one.artefact.record["history"] for one in trained]
    seconds = sum(history["seconds"] for history in histories)
    ids = {one.artefact.id for one in trained}  # a cut of these is made anew for another share
    cuts = [one.artefact.record for one in own if one.artefact.id not in ids and one.planned.source in ids]
    fixed = sum(record.get("seconds", 0.0) for record in cuts)
    found = Trained(histories[-1]["best"], seconds, done[-1].reused, fixed)
    if search.trials is not None and not turn:
        search.trials.tell(body.name, share, id, found)
    return found


def _make_teacher(search: Search) -> None:
    if search.model.head == search.data.task.name:
        search.teacher_folder = search.model.path
    else:
        first = _trained_teacher(search)
        if first is None:
            return
        search.teacher_folder = first.path
        search.teacher |= {
            "path": search.place(first),
            "lineage": list(first.record["lineage"]),
            "curves": entries.curves(first.record["lineage"], search.root),
        }
    numbers, dev = search.teacher["numbers"], search.data.dev
    numbers["size_mb"] = model_bytes(search.teacher_folder) / 1e6
    model = TorchModel(search.teacher_folder, search.data.task)
    begun = search.clock.now()
    search.teacher_dev = model.outputs(dev.texts, dev.pairs)
    search.pace.row = (search.clock.now() - begun) / len(dev)
    numbers["dev_quality"] = entries.quality_data(search.data.task, search.teacher_dev, dev)


def _trained_teacher(search: Search) -> Artefact | None:
    """The teacher, trained for less where its time is short; None, and it is said, where there is none for it."""
    clock, whole = search.clock, search.job.teacher.epochs
    until = clock.now() + FOR_TEACHER * clock.left
    share = 1.0
    while share:
        lesson = replace(search.job.teacher, epochs=round(share * whole, 3))
        search.job = replace(search.job, teacher=lesson)
        try:
            done = search.make(taught(search.job, search.model, whole_body(search)), until)
        except OutOfTime as late:
            fits = share * late.share
            share = next((s for s in SHARES if s <= fits and s < share), 0.0)
            continue
        if share < 1:
            told = f"The teacher was trained for {percent(share)} of its steps: the time limit left no more."
            search.notes.append(told)
        return done[0].artefact
    search.too_short = (
        f"The time limit of {clock.limit:g} s is too short: half of what was left of it is the teacher's, and a third "
        "of its steps would not end in that. Give more time, a model that was trained to the task, or fewer "
        "--teacher-epochs."
    )
    return None


def _judge_on_dev(search: Search, candidate: Candidate, share: float, turn: int) -> None:
    """What a candidate says of dev, once its body has been trained; of several seeds the best is deployed. Raises
    OutOfTime where another run holds the store to the end."""
    dev, task, seed = search.data.dev, search.data.task, search.job.seed + turn
    done = search.make(distilled(search.job, search.model, candidate.shape, share, seed), search.clock.end)
    folder = done[-1].artefact.path
    said = load(folder).outputs(dev.texts, dev.pairs)
    assert dev.labels is not None
    if all(task.score(said, dev.labels) > task.score(one, dev.labels) for one in candidate.outputs):
        judge(search, candidate.entry, done[-1])
        candidate.folder = folder
    candidate.outputs.append(said)
    candidate.entry |= {"status": "trained", "reason": ""}
    candidate.entry["numbers"]["dev_quality"] = mean_quality(task, candidate.outputs, dev)
