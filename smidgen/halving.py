"""Which candidates are trained, and for how long: successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943)
under a time limit.

All candidates train for a small share of their steps, the best third of them for three times as many, and so on until
as many are left as are to be trained in full. A share below one epoch is a share of the data. Scores are of dev. A
training is begun anew in each rung, since its schedule is made for its length.

With a time limit the rungs take at most half of the time that there is to train, each an equal part; what labels take,
which other students read too, comes off before it is parted, up to as much again. What trained says how long its whole
training would take, and before that how fast it answers; by that, candidates are dropped that do not fit, and finalists
are trained for less. Where the best so far has no time for the next rung, it and the next best are the finalists. What
time is left behind them goes to those that were dropped for their time alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from smidgen.errors import UNMADE, OutOfTime

Rank = Callable[[Mapping[str, float]], Mapping[str, float]]
FACTOR = 3
LEAST = FACTOR**-3  # of its steps; less says little
SHARES = (1.0, 2 / 3, 1 / 2, 1 / 3)  # of its steps, that a finalist is trained for; a coarse list, to be found again
FOR_RUNGS = 0.5  # of the time


@dataclass(frozen=True)
class Rung:
    """Every candidate that is left trains for `share` of its steps; the `keep` best go on."""

    share: float
    keep: int


@dataclass(frozen=True)
class Trained:
    """What a training came to: its score on dev, and what it took by itself, also if it was on disk already.

    fixed: seconds of what has to be done again however long it trains, such as a cut of what was trained.
    """

    score: float
    seconds: float
    reused: bool = False
    fixed: float = 0.0


class Train(Protocol):
    """Trains a candidate for a share of its steps; with `kept` its weights are wanted too, and not its score alone.

    Raises:
        OutOfTime: it would not end before `until`.
        one of UNMADE: this candidate cannot be made of what was given.
    """

    def __call__(self, name: str, share: float, until: float, kept: bool = False) -> Trained: ...


@dataclass
class Clock:
    """When it has to be over; `now` is a test's to set."""

    started: float = field(default_factory=time.monotonic)
    limit: float | None = None
    now: Callable[[], float] = time.monotonic
    kept: float = 0.0  # seconds for what comes after the last training
    labels: float = 0.0  # seconds that went into labels

    @property
    def end(self) -> float:
        """When all has to be over."""
        return math.inf if self.limit is None else self.started + self.limit

    @property
    def until(self) -> float:
        """When the last training has to end."""
        return self.end - self.kept

    @property
    def left(self) -> float:
        return self.until - self.now()


@dataclass
class Race:
    """A search on its way: how long whole trainings take, as far as is known, and why candidates left it."""

    train: Train
    clock: Clock
    guess: dict[str, float] = field(default_factory=dict)  # seconds of whole trainings, before anything is known
    whole: dict[str, float] = field(default_factory=dict)  # seconds
    scores: dict[str, float] = field(default_factory=dict)  # on dev, of the longest training
    out: dict[str, str] = field(default_factory=dict)  # why
    late: set[str] = field(default_factory=set)  # dropped for their time alone
    fixed: dict[str, float] = field(default_factory=dict)  # seconds, beside those of the training
    # Many at once, where there are many hands.
    prepare: Callable[[Sequence[str], float, float], object] = lambda names, share, until: None
    there: Callable[[str, float], bool] = lambda name, share: False  # is it trained for this share already?
    known: Callable[[str, float], bool] = lambda name, share: False  # or is its score known, at least?
    hands: int = 1  # how many are trained at a time

    def halve(self, names: Sequence[str], finalists: int, rank: Rank = dict) -> list[str]:
        """The finalists, the best first. `rank` says of the scores of a rung what is better: the higher."""
        left, plan = list(names), rungs(len(names), finalists)
        begun, time_left, labels = self.clock.now(), self.clock.left, self.clock.labels

        def end(number: int) -> float:
            """When a rung has to be over."""
            shared = min(self.clock.labels - labels, FOR_RUNGS * time_left)
            return begun + shared + FOR_RUNGS * (time_left - shared) * (number + 1) / len(plan)

        for number, rung in enumerate(plan):
            until = end(number)
            lacking = [name for name in left if not self.known(name, rung.share)]
            costs = {name: self.cost(name, rung.share) for name in lacking if name in self.guess | self.whole}
            fits = affordable(lacking, costs, until - self.clock.now(), self.hands)
            tried = [name for name in left if name in fits or name not in lacking]
            ends = number > 0 and left[0] not in tried
            for name in left[finalists:] if ends else (name for name in left if name not in tried):
                self.out[name] = "there was no time to try it for longer" if number else "there was no time to try it"
                self.late.add(name)
            if ends:
                return left[:finalists]
            self.prepare([name for name in tried if name in lacking], rung.share, until)
            scored = [n for n in tried if self.try_for(n, rung.share, end(number))]
            if not scored:
                return [name for name in left if not self.refused(name)][:finalists]
            left = best(rank({name: self.scores[name] for name in scored}), rung.keep)
            for name in scored:
                if name not in left:
                    self.out[name] = (
                        f"{self.scores[name]:.3f} on dev after {percent(rung.share)} of its training, and "
                        f"{rung.keep} of {len(scored)} went on"
                    )
        return left

    def try_for(self, name: str, share: float, until: float) -> bool:
        """Train it for a share of its steps; False, and the reason is kept, where that came to nothing. What is there
        already is scored whatever the time."""
        self.late.add(name)
        if self.clock.now() > until and not self.known(name, share):
            self.out[name] = "there was no time to try it"
            return False
        try:
            found = self.train(name, share, until)
        except OutOfTime as late:
            self.out[name] = str(late)
            if late.seconds:
                self.whole.setdefault(name, late.seconds / share)
            return False
        except UNMADE as refusal:
            self.out[name] = f"{REFUSED}{refusal}"
            self.late.discard(name)
            return False
        self._note(name, share, found)
        self.late.discard(name)
        return True

    def _note(self, name: str, share: float, found: Trained) -> None:
        self.scores[name], self.whole[name], self.fixed[name] = found.score, found.seconds / share, found.fixed
        self.out.pop(name, None)

    def cost(self, name: str, share: float) -> float:
        """Seconds that a share of its training takes, as far as is known, or else by a guess."""
        return share * self.whole.get(name, self.guess.get(name, 0.0)) + self.fixed.get(name, 0.0)

    def finish(self, name: str, after: float = 0.0, by_guess: bool = False) -> float:
        """Train a finalist in full, or for as large a share as fits or is there; gives the share, 0 where none does.

        after: seconds more to keep free. by_guess: what takes too long by a guess alone is not begun either.
        """
        until = self.clock.until - after
        left, told = until - self.clock.now(), by_guess or name in self.whole
        costs = {s: 0.0 if self.there(name, s) or not told else self.cost(name, s) for s in SHARES}
        share = next((s for s in SHARES if costs[s] <= left), 0.0)
        self.out[name] = "its training would not end in time"
        while share:
            try:
                found = self.train(name, share, until, kept=True)
            except OutOfTime as late:
                self.out[name] = self.out[name] if late.share else str(late)
                fits = share * late.share
                share = next((s for s in SHARES if s < share and (s <= fits or self.there(name, s))), 0.0)
            except UNMADE as refusal:
                self.out[name] = f"{REFUSED}{refusal}"
                return 0.0
            else:
                self._note(name, share, found)
                return share
        return 0.0

    def refused(self, name: str) -> bool:
        """Can it not be made of what was given?"""
        return self.out.get(name, "").startswith(REFUSED)


REFUSED = "cannot be made: "


def rungs(count: int, finalists: int) -> tuple[Rung, ...]:
    """From so many candidates to so many finalists: none where there are no more than that. Each share is trained once:
    what goes on from LEAST is for one score to say."""
    steps = 0
    while finalists * FACTOR**steps < count:
        steps += 1
    keeps = [max(finalists, math.ceil(count / FACTOR ** (i + 1))) for i in range(steps)]
    by_share = {max(FACTOR ** (i - steps), LEAST): keep for i, keep in enumerate(keeps)}
    return tuple(Rung(share, keep) for share, keep in by_share.items())


def best(scores: Mapping[str, float], keep: int) -> list[str]:
    """So many names with the highest scores, the highest first; of equals the first."""
    return sorted(scores, key=lambda name: -scores[name])[:keep]


def promising_enough(scores: Mapping[str, float], ms: Mapping[str, float], share: float) -> dict[str, float]:
    """A rank for where only a share of the teacher's quality is asked: of those that have as large a share of the best
    score here the faster, then the others by their scores. Short trainings leave all of them below what they have in
    full, so they are held against each other.
    """
    least = share * max(scores.values())
    return {name: 1e9 - ms[name] if score >= least else score for name, score in scores.items()}


def following(fastest_first: Sequence[str], kept: Mapping[str, bool], scores: Mapping[str, float]) -> str | None:
    """Which to finish next in order to find the fastest that keeps a quality; None where that is found.

    It is looked for between the fastest that keeps it and the next faster that was finished and does not: in the
    middle, or right below the former where no faster one was finished. Where none keeps it, the best score is next.

    Args:
        kept: of those that were finished, whether they keep it.
        scores: on dev, as far as they are known.
    """
    if not any(kept.values()):
        return max((n for n in fastest_first if n not in kept), key=lambda n: scores.get(n, 0.0), default=None)
    end = next(i for i, name in enumerate(fastest_first) if kept.get(name))
    start = next((i + 1 for i in reversed(range(end)) if fastest_first[i] in kept), 0)
    between = fastest_first[start:end]
    if not between:
        return None
    return between[len(between) // 2] if start else between[-1]


def affordable(names: Sequence[str], costs: Mapping[str, float], seconds: float, hands: int = 1) -> list[str]:
    """Those that fit in so many seconds, so many at a time, the first ones first; what is not known costs what the
    others do on average.

    Where nothing is known they are all tried, and the clock stops them.
    """
    if not costs or math.isinf(seconds):
        return list(names)
    usual = sum(costs.values()) / len(costs)
    busy, found = [0.0] * hands, list[str]()  # of each hand, until when
    for name in names:
        free = min(range(hands), key=busy.__getitem__)
        end = busy[free] + costs.get(name, usual)
        if end <= seconds:
            found.append(name)
            busy[free] = end
    return found


def percent(share: float) -> str:
    return f"{share:.0%}"
