"""Work under a time limit: a training that would not end in time is foretold from its first steps, and stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from smidgen.errors import OutOfTime
from smidgen.watch import Bar, Watch

SURE = 5  # steps after which the end of a training is foretold


def foretold(started: float, now: float, first: float, done: float, total: float) -> float:
    """When a training ends that had done `first` steps at `started`, if it goes on as it did."""
    return now + (total - done) * (now - started) / (done - first)


@dataclass
class Until:
    """A Watch that stops a training which would not end in time, by raising OutOfTime."""

    watch: Watch
    until: float
    now: Callable[[], float]
    bars: Collection[str] = ("training",)

    def say(self, text: str) -> None:
        self.watch.say(text)

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Bar]:
        with self.watch.bar(name, total) as bar:
            yield _Until(bar, name, total, self, self.now()) if name in self.bars else bar


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
            if end > until and done < self.total:
                share = max(0.0, until - self.opened) / (end - self.opened) if self.name == "training" else 0.0
                raise OutOfTime(f"its {self.name} would end {end - until:,.0f} s too late", share)
