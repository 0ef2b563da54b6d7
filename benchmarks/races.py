"""The rule of the search, successive halving, against every candidate trained in full: what `search.py halving` runs for one seed.

A candidate is a body of `smidgen.shapes` with a learning rate. Both ways train through the same stages, so a training that both need is
run once, and counts its seconds in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import MODEL, ahead

from smidgen.budget import Budget
from smidgen.data import Data
from smidgen.halving import Clock, Race, Trained, rungs
from smidgen.measure.peers import TorchModel
from smidgen.recipe import Files, Stage, Training
from smidgen.runner import Done
from smidgen.shapes import Body, Job, bodies, taught, teacher_stages
from smidgen.source import resolve

ROWS = {"train": 1600, "dev": 436}
DEPTHS = (1, 2, 3, 4)
FAMILIES = ("depth", "answers", "theseus", "narrow", "bilstm", "cnn", "static")
RATES = {
    "halving": (1 / 3, 1.0, 3.0),
    "halving, five rates": (1 / 4, 1 / 2, 1.0, 2.0, 4.0),
}  # times the learning rate of a body
TEACHER, STUDENT = Training(epochs=2, learning_rate=1e-4), Training(epochs=2, learning_rate=2e-4)
FINALISTS = (1, 2)  # smidgen's own number is the last

Make = Callable[[str, Sequence[Stage]], list[Done]]


def space(seed: int, files: dict[str, str], rates: Sequence[float]) -> tuple[Job, dict[str, Body]]:
    """The job, and the candidates by name."""
    job = Job(MODEL, Files(**files), Budget(), seed=seed, teacher=TEACHER, student=STUDENT)
    found = {}
    for body in bodies(resolve(MODEL), (), DEPTHS, FAMILIES):
        for times in rates:
            name = f"{body.name}, {times:.2g}x the rate"
            steps = tuple(_faster(step, times) for step in body.steps)
            found[name] = replace(body, name=name, steps=steps)
    return job, found


def _faster(step: Any, times: float) -> Any:
    rate = step.train.get("learning_rate", STUDENT.learning_rate)
    return replace(step, train={**step.train, "learning_rate": times * rate})


@dataclass
class Trainings:
    """Trains candidates, and keeps what each training took by itself, whoever asked first."""

    make: Make
    job: Job
    bodies: dict[str, Body]
    made: dict[tuple[str, float], tuple[Trained, Path]] = field(default_factory=dict)

    def __call__(self, name: str, share: float, until: float = np.inf) -> Trained:
        if (name, share) not in self.made:
            stages = taught(self.job, resolve(MODEL), self.bodies[name], share, self.job.seed).stages
            done = self.make(f"{name}, {share:.0%}", stages)
            records = [one.artefact.record for one in done if one.planned.stage.name != "teacher"]
            histories = [record["history"] for record in records if "history" in record]
            found = Trained(histories[-1]["best"], sum(history["seconds"] for history in histories))
            self.made[name, share] = found, done[-1].artefact.path
        return self.made[name, share][0]

    def outputs(self, name: str, data: Data) -> np.ndarray:
        """What a candidate that was trained in full says of test."""
        assert data.test is not None
        return TorchModel(self.made[name, 1.0][1], data.task).outputs(data.test.texts)


def raced(train: Trainings, finalists: int) -> dict[str, Any]:
    """Successive halving as `compress` does it without a time limit, with the seconds of all that it trained."""
    asked: dict[tuple[str, float], float] = {}

    def counted(name: str, share: float, until: float, kept: bool = False) -> Trained:
        found = train(name, share, until)
        asked[name, share] = found.seconds
        return found

    race = Race(counted, Clock())
    last = race.halve(list(train.bodies), finalists)
    for name in last:
        race.finish(name)
    best = max(last, key=lambda name: race.scores[name])
    return {
        "finalists": finalists,
        "rungs": [vars(rung) for rung in rungs(len(train.bodies), finalists)],
        "trainings": len(asked),
        "seconds": sum(asked.values()),
        "best": best,
        "dev": race.scores[best],
    }


def one(make: Make, seed: int, files: dict[str, str], data: Data, rates: Sequence[float]) -> dict[str, Any]:
    """Both ways with one seed, on one draw of the rows. The race comes first, so what is known the sooner is told."""
    job, found = space(seed, files, rates)
    make("teacher", teacher_stages(job, resolve(MODEL)))
    train = Trainings(make, job, found)
    races = [raced(train, finalists) for finalists in FINALISTS]
    full = {name: train(name, 1.0) for name in found}
    best = max(full, key=lambda name: full[name].score)
    whole = {"seconds": sum(each.seconds for each in full.values()), "best": best, "dev": full[best].score}
    task, test = data.task, data.test
    assert test is not None and test.labels is not None
    right = {}
    for name in {best, *(race["best"] for race in races)}:
        outputs = train.outputs(name, data)
        right[name] = task.correct(outputs, test.labels)
    for way in (whole, *races):
        way["test"] = float(right[way["best"]].mean())
    for race in races:
        race["of_the_time"] = race["seconds"] / whole["seconds"]
        race["behind_on_dev"] = whole["dev"] - race["dev"]
        race["behind"] = ahead(right[best][None], right[race["best"]][None])
        race["place"] = 1 + sum(each.score > race["dev"] for each in full.values())
    scores = {name: {"dev": each.score, "seconds": each.seconds} for name, each in full.items()}
    return {
        "seed": seed,
        "n": len(test),
        "dev_rows": len(data.dev),
        "whole": whole,
        "races": races,
        "candidates": scores,
    }


def settings(rates: Sequence[float]) -> dict[str, Any]:
    """What is told of the space."""
    return {"rows": ROWS, "rates": list(rates), "epochs": STUDENT.epochs}
