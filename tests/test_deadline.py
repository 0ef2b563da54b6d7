"""Work that would end too late is stopped from its first steps on: a made-up clock."""

from __future__ import annotations

import pytest

from smidgen.deadline import Until, foretold
from smidgen.errors import OutOfTime
from smidgen.watch import Silent


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def work(watch: Until, clock: Clock, name: str, seconds: float, steps: int = 20) -> None:
    with watch.bar(name, steps) as bar:
        for step in range(steps + 1):
            bar.to(step)
            clock.time += seconds / steps


def test_a_training_that_would_end_too_late_is_stopped_early() -> None:
    now = Clock()
    watch = Until(Silent(), until=100.0, now=now)
    with watch.bar("training", 101) as bar, pytest.raises(OutOfTime, match="would end 102 s too late"):
        for step in range(1, 102):
            now.time += 2
            bar.to(step)
    assert now.time == 12, "foretold from five steps"


def test_a_training_that_ends_in_time_is_let_be_and_other_work_too() -> None:
    now = Clock()
    watch = Until(Silent(), until=100.0, now=now)
    with watch.bar("training", 100) as bar:
        for step in range(1, 101):
            now.time += 1
            bar.to(step)
    with watch.bar("labelling", 10) as bar:
        now.time = 1000
        bar.to(10)


def test_when_a_training_ends() -> None:
    assert foretold(started=10, now=20, first=5, done=10, total=20) == 40


def test_labels_may_be_made_on_top_of_the_time_of_a_training() -> None:
    clock = Clock()
    watch = Until(Silent(), 10.0, clock, ("training", "labelling"), latest=50.0)
    work(watch, clock, "labelling", 30.0)
    work(watch, clock, "training", 9.0)
    with pytest.raises(OutOfTime, match=r"its training would end 30 s too late"):
        work(watch, clock, "training", 31.0)


def test_but_not_for_ever() -> None:
    clock = Clock()
    watch = Until(Silent(), 10.0, clock, ("training", "labelling"), latest=50.0)
    with pytest.raises(OutOfTime, match=r"its labelling would end 10 s too late"):
        work(watch, clock, "labelling", 60.0)
    assert clock.time < 20
    clock = Clock()
    watch = Until(Silent(), 10.0, clock, ("training", "labelling"), latest=25.0)
    work(watch, clock, "labelling", 20.0)
    with pytest.raises(OutOfTime, match=r"its training would end \d s too late"):
        work(watch, clock, "training", 9.0)


def test_without_more_labels_take_of_the_trainings_time() -> None:
    clock = Clock()
    watch = Until(Silent(), 10.0, clock, ("training", "labelling"))
    work(watch, clock, "labelling", 6.0)
    with pytest.raises(OutOfTime, match=r"its training would end 2 s too late"):
        work(watch, clock, "training", 6.0)
    again = Clock()
    with pytest.raises(OutOfTime, match="its labelling would end"):
        work(Until(Silent(), 10.0, again, ("labelling",)), again, "labelling", 20.0)
