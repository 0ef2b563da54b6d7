"""Which trained models are worth making a cascade of: by what they say of dev, their times and their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from smidgen.budget import Budget
from smidgen.deferral import SURE, Choice, Graded, Wanted, choose, expected, keeps, percentile

SHARE = 0.99  # of the larger one's quality, where no other is asked for
GAIN = 0.9  # of the larger one's time a cascade may take at most, to be worth its bytes


@dataclass(frozen=True)
class Trained:
    """A model that a cascade may be made of, and what was measured of it."""

    name: str
    outputs: np.ndarray  # on dev, (n, C)
    latency: Mapping[str, Any]  # of single texts, as `report.json` has it: p50_ms, p95_ms, mean_ms ...
    size_mb: float

    @property
    def ms(self) -> float:
        """What a text takes; the mean, if it was measured, since that is what adds up."""
        return float(self.latency.get("mean_ms") or self.latency["p50_ms"])

    def within(self, key: str) -> float:
        """The time of a percentile; for p99 that of p95, where too few calls were made to tell."""
        return float(self.latency.get(key) or self.latency["p95_ms"])


@dataclass(frozen=True)
class Pair:
    """A cascade that is worth building, the smaller model first."""

    small: str
    large: str
    choice: Choice
    latency: Mapping[str, float]  # as of its parts follows: p50_ms, p95_ms, p99_ms, mean_ms
    size_mb: float

    @property
    def expected_ms(self) -> float:
        return self.latency["mean_ms"]


def cascades(
    task: Graded,
    trained: Sequence[Trained],
    gold: np.ndarray,
    budget: Budget,
    teacher: np.ndarray | None = None,
    most: int = 2,
) -> list[Pair]:
    """Which two models are worth making a cascade of, the fastest first and at most so many.

    A pair is worth it where it keeps the quality that the budget asks for (without one, SHARE of its larger model's),
    is within the limits of size and latency by what its parts measure, takes less than GAIN of the larger one's time,
    and no model alone that keeps as much is as fast. Pairs are first judged by dev as it is, which costs little;
    those that come out on top then by its bootstrap draws.

    Args:
        teacher: its outputs on dev; needed where the budget asks for a share of its quality.
    """
    ranked = sorted(trained, key=lambda one: one.ms)

    def judged(small: Trained, large: Trained, sure: float) -> Pair | None:
        wanted = wanted_of(budget, large.outputs, teacher)
        choice = choose(task, small.outputs, large.outputs, gold, wanted, sure)
        if choice is None or not 0 < choice.passed < 1:
            return None
        made = _priced(small, large, choice)
        alone = [one.ms for one in ranked if keeps(task, one.outputs, gold, wanted, sure)]
        slow = made.expected_ms > GAIN * large.ms or made.expected_ms >= min(alone, default=np.inf)
        return None if slow or not _fits(made, budget) else made

    def best(pairs: Iterable[tuple[Trained, Trained]], sure: float) -> list[Pair]:
        found = [pair for small, large in pairs if (pair := judged(small, large, sure)) is not None]
        return sorted(found, key=lambda pair: pair.expected_ms)

    scores = {one.name: task.score(one.outputs, gold) for one in trained}
    by_name = {one.name: one for one in trained}
    rough = best(((a, b) for a, b in combinations(ranked, 2) if scores[a.name] < scores[b.name]), 0.0)
    return best(((by_name[pair.small], by_name[pair.large]) for pair in rough[: 3 * most]), SURE)[:most]


def _priced(small: Trained, large: Trained, choice: Choice) -> Pair:
    each, passed = (small, large), [choice.passed]
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    slow = {key: percentile([one.within(key) for one in each], passed, share) for key, share in shares.items()}
    mean = {"mean_ms": expected([one.ms for one in each], passed)}
    return Pair(small.name, large.name, choice, slow | mean, small.size_mb + large.size_mb)


def _fits(pair: Pair, budget: Budget) -> bool:
    """Is a pair within the limits, by what is known of its parts?"""
    ms, limit, size = pair.latency[f"{budget.percentile}_ms"], budget.latency_ms, budget.size_mb
    return (limit is None or ms <= limit) and (size is None or pair.size_mb <= size)


def wanted_of(budget: Budget, large: np.ndarray, teacher: np.ndarray | None) -> Wanted:
    """What a budget asks of a cascade whose larger model says `large`."""
    if budget.quality is None:
        return Wanted(SHARE, large)
    return Wanted(budget.quality.at_least, teacher if budget.quality.of_teacher else None)
