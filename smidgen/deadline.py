"""Work under a time limit: a training that would not end in time is foretold from its first steps, and stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from smidgen.errors import OutOfTime
from smidgen.watch import Bar, Watch

SHARED = "labelling"
SURE = 5  # steps after which the end of a training is foretold


def foretold(started: float, now: float, first: float, done: float, total: float) -> float:
    """When a training ends that had done `first` steps at `started`, if it goes on as it did."""
    return now + (total - done) * (now - started) / (done - first)


@dataclass
class Until:
    """A Watch that stops a training which would not end in time, by raising OutOfTime.

    Labels are read by other students too: until `latest` they may be made on top of the time of the training that asks
    for them. `spent` is told what they took, also where they or the training are stopped.
    """

    watch: Watch
    until: float
    now: Callable[[], float]
    bars: Collection[str] = ("training",)
    latest: float = -math.inf
    spent: Callable[[float], object] = lambda seconds: None

    def say(self, text: str) -> None:
        self.watch.say(text)

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Bar]:
        opened = self.now()
        try:
            with self.watch.bar(name, total) as bar:
                yield _Until(bar, name, total, self, opened) if name in self.bars else bar
        finally:
            if name == SHARED:
                took = self.now() - opened
                self.until = max(self.until, min(self.until + took, self.latest))
                self.spent(took)


@dataclass
class _Until:
    bar: Bar
    name: str
    total: float
    of: Until
    opened: float
    first: tuple[float, float] | None = None  # when, and how many steps were done

    def to(self, done: float, note: str = "") -> None:
        self.bar.to(done, note)
        now = self.of.now()
        self.first = self.first or (now, done)
        started, first = self.first
        if done - first >= min(SURE, self.total - 2) and done > first:
            end, until = foretold(started, now, first, done, self.total), self.of.until
            until = max(until, self.of.latest) if self.name == SHARED else until
            if end > until and done < self.total:
                takes = end - self.opened if self.name == "training" else 0.0
                share = max(0.0, until - self.opened) / takes if takes else 0.0
                raise OutOfTime(f"its {self.name} would end {end - until:,.0f} s too late", share, takes)
