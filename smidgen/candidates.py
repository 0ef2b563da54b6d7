"""A search on its way: its candidates, its teacher, and what is known of both."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from smidgen.artefact import Artefact, identity
from smidgen.budget import Budget, at_percentile, over
from smidgen.checks import Check
from smidgen.choosing import speed
from smidgen.data import Data
from smidgen.deadline import Until
from smidgen.errors import UNMADE, Busy, InputError, NoEffect, OutOfTime, SmidgenError
from smidgen.halving import Clock
from smidgen.hands import run, run_all
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.size import parameters
from smidgen.planner import Plan, plan, resolved_model
from smidgen.recipe import Recipe, to_data
from smidgen.runner import Done
from smidgen.runtime.folder import deployed_bytes
from smidgen.shapes import Body, Job, Shape, bodies
from smidgen.source import Source
from smidgen.trials import Trials
from smidgen.watch import Silent, Watch

T = TypeVar("T")
Entry = dict[str, Any]
WAIT = 5.0  # seconds between two looks at a store that another run holds
MEMORY_ROWS = 64  # of dev, that a process answers whose memory is measured
CUT_ROWS = 12_000  # rows that the model could answer while prune.fisher cuts it: by what cuts have taken


@dataclass(eq=False)
class Candidate:
    """A shape on its way through the search."""

    shape: Shape
    entry: Entry
    folder: Path | None = None  # with several seeds the best on dev
    outputs: list[np.ndarray] = field(default_factory=list)  # on dev, one a seed; none before it is trained
    wavers: bool = False  # it broke the budget when it was timed beside the others

    @property
    def fits(self) -> bool:
        """Does the budget allow what it takes, as far as that was measured?"""
        return self.entry["status"] != "infeasible"

    @property
    def ms(self) -> float:
        return speed(self.entry["numbers"])


@dataclass
class Pace:
    """Seconds of what is done again at the end, measured on the way there."""

    build: float = 0.0  # of a graph, for each parameter of its model
    timing: float = 0.0  # of a model among others, for each millisecond that a text takes it
    row: float = 0.0  # that the teacher answers
    graphs: tuple[float, float] = (0.0, 0.0)  # seconds of those that were built, and parameters
    calls: tuple[float, float] = (0.0, 0.0)  # seconds of those that were timed, and milliseconds of a text

    def built(self, seconds: float, parameters: float) -> None:
        """Note graphs that were built, with so many parameters."""
        self.graphs = self.graphs[0] + seconds, self.graphs[1] + parameters
        self.build = self.graphs[0] / max(1.0, self.graphs[1])

    def timed(self, seconds: float, ms: float) -> None:
        """Note models that were timed in full, or would have been in so many seconds."""
        self.calls = self.calls[0] + seconds, self.calls[1] + ms
        self.timing = self.calls[0] / self.calls[1]


@dataclass
class Search:
    """What a search has found so far."""

    job: Job
    out: Path
    root: Path  # of the stages
    watch: Watch
    model: Source
    data: Data
    candidates: list[Candidate] = field(default_factory=list)
    teacher: Entry = field(default_factory=lambda: entries.entry("teacher", "teacher"))
    teacher_folder: Path | None = None
    teacher_dev: np.ndarray | None = None
    baselines: list[Entry] = field(default_factory=list)
    simple: tuple[str, Any] | None = None  # the name of a baseline without an encoder, and the model
    timing: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)  # what is to be known of the data, and of test once it is read
    seen: dict[str, Any] | None = None  # rows of test that are nearly rows of train
    portrait: dict[str, Any] | None = None  # how the winner answers test, beside the teacher
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=Pace)
    labelled: float = -math.inf  # when labels have to be there, if that is later than a short training's end
    trials: Trials | None = None
    compared: int = 0  # bodies with a score on dev
    too_short: str = ""  # why the time limit left no teacher
    trackers: tuple[str, ...] = ()
    executor: Executor | None = None  # who runs the stages; None = this process
    _ids: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)  # of the stages, by recipe

    def make(self, recipe: Recipe, until: float | None = None, patience: float = math.inf) -> list[Done]:
        """Run a recipe; its stages join the lineage of the report. Raises OutOfTime where it would end too late, or
        another run holds the store until then, or until `patience` is over."""
        watch = self.watch
        if until is not None and self.clock.limit is not None:
            watch = Until(watch, until, self.clock.now, ("training", "labelling"), self.labelled, self._labels_took)
        planned, there = plan(recipe, self.data), self._until(until)
        self._foresee_cuts(planned, until)
        work = partial(run, planned, self.root, self.executor, watch, trackers=self.trackers, inside=there)
        return self._told(recipe, self._patient(work, min(patience, math.inf if until is None else until)))

    def _patient(self, work: Callable[[], T], until: float) -> T:
        """Do it once no other run holds the store; its stages are then there for this one too. Raises OutOfTime where
        one does for too long."""
        until = min(until, self.clock.end)
        while True:
            try:
                return work()
            except Busy as busy:
                if self.clock.now() > until:
                    raise OutOfTime("another run held the store for too long") from busy
                self.watch.say(f"{self.root}: another run is working there; waiting for it")
                time.sleep(WAIT)

    def _foresee_cuts(self, planned: Plan, until: float | None) -> None:
        """A cut that looks at examples shows no steps by which it could be stopped. Raises OutOfTime where it is to be
        made and would end too late, by the pace of the teacher and the sizes of both."""
        if until is None or self.clock.limit is None:
            return
        for one in planned.stages:
            looks = not one.trains and any(method.needs.examples for method in one.methods)
            if looks and not (self.root / one.id).is_dir():
                cut = planned.models[resolved_model(planned.stages, one.id)]
                takes = CUT_ROWS * self.pace.row * cut.parameters / self.model.parameters
                if (late := self.clock.now() + takes - until) > 0:
                    raise OutOfTime(f"its {one.stage.name} would end {late:,.0f} s too late")

    def _labels_took(self, seconds: float) -> None:
        self.clock.labels += seconds

    def prepare(self, recipes: Iterable[Recipe], until: float | None = None, begin_by: float = math.inf) -> None:
        """Where there are many hands, run the stages of several recipes at a time; `make` then finds them on disk, and
        meets what is wrong with one of them. Nothing is begun after `begin_by`."""
        if self.executor is None:
            return
        plans: list[Plan] = []
        for recipe in recipes:
            with suppress(InputError, NoEffect, OutOfTime):
                planned = plan(recipe, self.data)
                self._foresee_cuts(planned, until)
                plans.append(planned)
        there, hour = self._until(until), begin_by + self._shift
        told = partial(run_all, trackers=self.trackers, inside=there, begin_by=hour)
        work = partial(told, plans, self.root, self.executor, self.watch)
        try:
            made = self._patient(work, min(begin_by, math.inf if until is None else until))
        except OutOfTime:
            return
        for one, done in zip(plans, made, strict=True):
            if not isinstance(done, SmidgenError):
                self._told(one.recipe, done)

    def there(self, recipe: Recipe) -> bool:
        """Are all stages of a recipe on disk?"""
        return bool(ids := self.ids(recipe)) and all((self.root / id).is_dir() for id in ids)

    def ids(self, recipe: Recipe) -> tuple[str, ...]:
        """Of its stages; none where it cannot be made."""
        key = identity(to_data(recipe))
        if key not in self._ids:
            try:
                self._ids[key] = tuple(planned.id for planned in plan(recipe, self.data).stages)
            except UNMADE:
                self._ids[key] = ()
        return self._ids[key]

    def _until(self, until: float | None) -> Watch:
        """Who looks at the time in a stage on another machine."""
        if until is None or self.clock.limit is None:
            return Silent()
        shift = self._shift
        return Until(Silent(), until + shift, time.time, ("training", "labelling"), self.labelled + shift)

    @property
    def _shift(self) -> float:
        """From this search's clock to the hour, which other machines have too."""
        return time.time() - self.clock.now()

    def _told(self, recipe: Recipe, done: list[Done]) -> list[Done]:
        known = {stage["id"] for stage in self.timing}
        for one in done:
            if one.artefact.id not in known:
                self.timing.append(
                    {
                        "id": one.artefact.id,
                        "name": f"{one.planned.stage.name} ({recipe.name})",
                        "seconds": round(one.seconds, 2),
                        "reused": one.reused,
                    }
                )
        return done

    def open_trials(self, storage: str | None = None) -> Trials:
        """The study that holds scores on this dev."""
        name = identity([self.data.task.metric, self.data.dev.fingerprint, self.model.id])
        return Trials(f"smidgen-{name}", self.root, storage)

    def place(self, artefact: Artefact) -> str:
        """Where an artefact is, from the folder of the report."""
        return Path(os.path.relpath(self.root / artefact.id, self.out)).as_posix()

    def of(self, body: str) -> list[Candidate]:
        """The candidates of a body that fit."""
        return [c for c in self.candidates if c.shape.body.name == body and c.fits]


def teacher_quality(search: Search, key: str = "dev_quality") -> float | None:
    quality = search.teacher["numbers"][key]
    return quality["value"] if quality else None


def judged_by(search: Search) -> str:
    """The quality that a budget is held against in the end."""
    return "quality" if search.data.test is not None else "dev_quality"


def over_on_dev(search: Search, candidate: Candidate) -> dict[str, float]:
    return over(search.job.budget, candidate.entry["numbers"], teacher_quality(search), "dev_quality")


def in_budget(search: Search) -> list[Candidate]:
    """What was trained and keeps to the budget on dev; of these what never broke it when timed anew, if any is."""
    found = [c for c in search.candidates if c.outputs and not over_on_dev(search, c)]
    return [c for c in found if not c.wavers] or found


def only_quality(budget: Budget) -> bool:
    return budget.quality is not None and (budget.latency_ms, budget.size_mb, budget.memory_mb) == (None, None, None)


def broken_words(budget: Budget, entry: Entry, broken: Mapping[str, float]) -> str:
    """`p95 is 3.1 ms, the budget is 2 ms.` for each limit that is broken."""
    numbers = entry["numbers"]
    words: list[str] = []
    if "latency" in broken:
        got = at_percentile(numbers, budget.percentile)
        words.append(f"{budget.percentile} is {got:.2f} ms, the budget is {budget.latency_ms:g} ms")
    for name, limit in (("size", budget.size_mb), ("memory", budget.memory_mb)):
        if name in broken:
            words.append(f"{name} is {numbers[f'{name}_mb']:.1f} MB, the budget is {limit:g} MB")
    if "quality" in broken and budget.quality is not None:
        words.append(f"quality is {1 / broken['quality']:.1%} of the least that {budget.quality.text} allows")
    return "; ".join(words) + "."


def whole_body(search: Search) -> Body:
    """The teacher itself."""
    (body,) = bodies(search.model, (), (search.model.blocks,), ("depth",))
    return body


def has_learnt(search: Search) -> bool:
    quality = search.teacher["numbers"]["dev_quality"]
    return quality is None or quality["value"] > 0


def judge(search: Search, entry: Entry, done: Done) -> None:
    """What an entry can say of its artefact without running it."""
    artefact = done.artefact
    entry |= {
        "path": search.place(artefact),
        "lineage": list(artefact.record["lineage"]),
        "curves": entries.curves(artefact.record["lineage"], search.root),
    }
    entry["numbers"]["size_mb"] = deployed_bytes(artefact.path) / 1e6
    entry["numbers"]["parameters"] = int(parameters(artefact.path).value)


def memory_of(folder: Path, search: Search) -> float:
    """Peak MB of a fresh process that loads a folder and predicts some rows of dev."""
    rows = entries.timed_texts(search.data.dev, search.job.seed)[:MEMORY_ROWS]
    return float(memory(folder, *entries.two_lists(rows)).value)
