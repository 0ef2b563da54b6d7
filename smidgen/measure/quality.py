"""How good, and how sure: scores, shares of a teacher's score and agreement, each with a 95 % interval.

Outputs and gold are n of each, as the task takes them. Bootstrap intervals are percentile intervals (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, ch. 13); where two models are compared, both see the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from smidgen.errors import InputError
from smidgen.measure.number import Number

Z = 1.959963984540054  # the 97.5 % point of the normal distribution
CELLS = 2_000_000  # resampled rows held at once


class Task(Protocol):
    """What is asked of a task of `smidgen.tasks`."""

    @property
    def metric(self) -> str: ...

    def decide(self, outputs: np.ndarray) -> np.ndarray: ...

    def score(self, outputs: np.ndarray, gold: np.ndarray) -> float: ...

    def resampled(self, outputs: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray: ...


def quality(task: Task, outputs: np.ndarray, gold: np.ndarray, seed: int = 0, resamples: int = 1000) -> Number:
    """The task's metric with its bootstrap interval."""
    n = len(gold)
    drawn = [task.resampled(outputs, gold, index) for index in resampled_rows(n, resamples, seed)]
    low, high = interval(np.concatenate(drawn))
    conditions = {"metric": task.metric, "resamples": resamples, "seed": seed}
    return Number("quality", task.score(outputs, gold), "", n, low, high, conditions)


def kept(
    task: Task, student: np.ndarray, teacher: np.ndarray, gold: np.ndarray, seed: int = 0, resamples: int = 1000
) -> Number:
    """Student's score over teacher's score, with a paired bootstrap interval.

    Raises:
        InputError: the teacher scores 0 or less, so there is nothing to keep.
    """
    whole = task.score(teacher, gold)
    if whole <= 0:
        raise InputError(
            f"the teacher's {task.metric} is {whole:.3f}, wanted more than 0. Check the labels of the data."
        )
    drawn = []
    for index in resampled_rows(len(gold), resamples, seed):
        below = task.resampled(teacher, gold, index)
        drawn.append(task.resampled(student, gold, index)[below > 0] / below[below > 0])
    low, high = interval(np.concatenate(drawn))
    conditions = {"metric": task.metric, "resamples": resamples, "seed": seed, "paired": True}
    return Number("quality_kept", task.score(student, gold) / whole, "", len(gold), low, high, conditions)


def difference(task: Task, a: np.ndarray, b: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    """The paired bootstrap interval of how far the score of `a` is above that of `b`, in points."""
    drawn = [
        task.resampled(a, gold, index) - task.resampled(b, gold, index) for index in resampled_rows(len(gold), 1000, 0)
    ]
    return interval(100 * np.concatenate(drawn))


def agreement(task: Task, a: np.ndarray, b: np.ndarray) -> Number:
    """The share of rows on which two models decide the same, with Wilson's interval."""
    if len(a) != len(b) or not len(a):
        raise InputError(f"got outputs of {len(a)} and {len(b)} rows, wanted the same rows for both, at least one.")
    same = task.decide(a) == task.decide(b)
    same = same.reshape(len(a), -1).all(-1)
    low, high = wilson(int(same.sum()), len(a))
    return Number("agreement", float(same.mean()), "", len(a), low, high)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); holds near 0 and 1, where a bootstrap collapses."""
    share, shrink = hits / n, 1 + Z**2 / n
    middle = (share + Z**2 / (2 * n)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # rounding leaves the share in it


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """The exact two-sided p-value that two models are right equally often on the same rows (McNemar 1947).

    Of the rows on which only one is right, either is as likely under the hypothesis: twice the lower tail of
    Binomial(n, 1/2), at most 1. Summed in whole numbers, so it is exact for any n.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape:
        raise InputError(f"got {a.size} and {b.size} rows, wanted the same rows for both.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    total, term = 0, 1
    for k in range(min(only_a, only_b) + 1):
        total += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)


def resolvable(n: int, disagreement: float) -> float:
    """The smallest difference of two accuracies, in points, that n paired rows can tell from 0 at 95 %.

    `disagreement` is the share d of rows on which exactly one of the two is right. The difference x has the variance
    (d - x^2) / n, and its interval x +- z sqrt((d - x^2) / n) leaves out 0 from x = z sqrt(d / (n + z^2)) on.
    """
    if n < 1 or not 0 <= disagreement <= 1:
        raise InputError(f"got n = {n}, disagreement = {disagreement}; wanted n of 1 or more and a share from 0 to 1.")
    return 100 * Z * math.sqrt(disagreement / (n + Z**2))


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrap distribution."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def resampled_rows(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers drawn with replacement, (R, n) int64 in several pieces that make up `resamples` rows."""
    if n < 1:
        raise InputError("got no rows to measure on, wanted at least one.")
    draw, step = np.random.default_rng(seed), max(1, CELLS // n)
    for start in range(0, resamples, step):
        yield draw.integers(0, n, (min(step, resamples - start), n))
