"""When the larger model is asked: how sure the smaller one has to be, from what both say of dev.

Outputs are logits (n, C) as the task takes them, gold what its `score` takes: labels, or what a teacher decided
(`task.decide` of its outputs) where there are none. Nothing here opens a model.

A threshold is found by walking from "all rows are passed on" towards "none", a step at a time, for as long as the
cascade keeps what is wanted in so many of the bootstrap draws of dev, paired with the reference. The walk ends at the
first step that fails, and is never taken up again further down: testing in an order that is fixed beforehand needs no
correction for the number of thresholds that were looked at, and luck at a single one of them chooses nothing
(Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.measure.quality import resampled_rows
from smidgen.runtime.cascade import passes
from smidgen.tasks import Classify, Several

Graded = Classify | Several  # tasks of which a cascade can be made
STEPS = 100  # of the walk at most, each of as many rows of dev
DRAWS = 1000
COLDEST, HOTTEST = 0.1, 10.0  # temperatures
SURE = 0.95


@dataclass(frozen=True)
class Wanted:
    """A least quality: a share of what a reference scores on the same rows, or a value of the metric."""

    at_least: float
    reference: np.ndarray | None = None  # outputs, (n, C)


@dataclass(frozen=True)
class Choice:
    """One threshold, and what it does on dev."""

    temperature: float
    threshold: float
    passed: float  # the share of all rows that goes on to the next model
    held: float  # the share of the draws in which the cascade keeps what is wanted


def temperature(task: Graded, logits: np.ndarray, gold: np.ndarray) -> float:
    """What to divide logits by, so that the log loss on these rows is the least (Guo et al. 2017, arXiv:1706.04599).

    The loss is convex in b = 1 / temperature, and its slope is the mean of E_p[z] - z_gold under p = softmax(b z).
    """
    cases = list(_cases(task, logits.astype(np.float64), gold))
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(50):
        middle = (low + high) / 2
        slope = sum(_slope(z, right, np.exp(middle)) for z, right in cases)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def thresholds(confidence: np.ndarray) -> np.ndarray:
    """At most STEPS + 1 thresholds that part these rows, from 0 (none is passed on) up to 1 (all are).

    Each lies between two neighbouring values, so that rounding moves no row.
    """
    values, counts = np.unique(confidence, return_counts=True)
    below, above = values[:-1], values[1:]
    if len(below) >= STEPS:
        at = np.searchsorted(np.cumsum(counts)[:-1], len(confidence) * np.arange(1, STEPS) / STEPS)
        at = np.unique(at.clip(max=len(below) - 1))
        below, above = below[at], above[at]
    middle = (below + above) / 2
    return np.unique(np.concatenate([[0.0], np.where(middle < above, middle, below), [1.0]]))


def choose(
    task: Graded,
    small: np.ndarray,
    large: np.ndarray,
    gold: np.ndarray,
    wanted: Wanted,
    sure: float = SURE,
    heat: float | None = None,
    out_of: np.ndarray | None = None,
) -> Choice | None:
    """The threshold that passes the fewest rows on, of those from which on upward quality is kept.

    Args:
        small, large: what the model says that is asked first, and what becomes of a row that it passes on.
        sure: in which share of the draws at least; 0 = only dev as it is has to keep it, as it always has to.
        heat: the temperature; None = the best.
        out_of: which rows come to this model, (n,) bool; of the others `large` is what they are answered. None = all.

    Returns:
        None where even passing all rows on does not keep it.
    """
    heat = temperature(task, small, gold) if heat is None else heat
    here = np.ones(len(gold), bool) if out_of is None else out_of
    confidence = task.confidence(small, heat)
    floors = _floors(task, gold, wanted, sure)
    found = None
    for value in thresholds(confidence[here])[::-1]:
        passed = here & passes(confidence, value)
        mixed = np.where((here & ~passed)[:, None], small, large)
        held = _held(task, mixed, gold, wanted, floors)
        if held is None or held < sure:
            break
        found = Choice(heat, float(value), float(passed.mean()), held)
    return found


def mixed(task: Graded, small: np.ndarray, large: np.ndarray, choice: Choice) -> np.ndarray:
    """What a cascade of two says, by what both say of all rows."""
    passed = passes(task.confidence(small, choice.temperature), choice.threshold)
    return np.where(passed[:, None], large, small)


def together(small: Sequence[np.ndarray], large: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What two models say, seed by seed; what has fewer seeds is taken again, as a teacher that has but one."""
    count = max(len(small), len(large))
    return [(small[i % len(small)], large[i % len(large)]) for i in range(count)]


def chain(
    task: Graded, outputs: Sequence[np.ndarray], gold: np.ndarray, wanted: Wanted, sure: float = SURE
) -> list[Choice] | None:
    """A threshold for each model but the last, the fastest first; None where the last alone does not keep enough.

    The first is chosen as if the last stood right behind it, so that the fastest answers as many as it may. The next
    takes over from the last what the quality that is left allows, and so on.
    """
    found: list[Choice] = []
    left, last = np.ones(len(gold), bool), outputs[-1]
    mixed = last
    for small in outputs[:-1]:
        choice = choose(task, small, mixed, gold, wanted, sure, out_of=left)
        if choice is None:
            return None
        found.append(choice)
        passed = left & passes(task.confidence(small, choice.temperature), choice.threshold)
        mixed = np.where((left & ~passed)[:, None], small, mixed)
        left = passed
    return found


def expected(milliseconds: Sequence[float], passed: Sequence[float]) -> float:
    """The mean time of a row: the first model's, and that of each further one for the share that comes to it."""
    return float(milliseconds[0] + sum(ms * share for ms, share in zip(milliseconds[1:], passed, strict=True)))


def percentile(milliseconds: Sequence[float], passed: Sequence[float], share: float) -> float:
    """The time that a share of the rows stays within, where every model takes the same time for every row."""
    deepest = sum(going > 1 - share for going in passed)
    return float(sum(milliseconds[: deepest + 1]))


def keeps(task: Graded, outputs: np.ndarray, gold: np.ndarray, wanted: Wanted, sure: float = SURE) -> bool:
    """Do these outputs reach what is wanted, on dev as it is and in so many of its draws?"""
    held = _held(task, outputs, gold, wanted, _floors(task, gold, wanted, sure))
    return held is not None and held >= sure


def _floors(task: Graded, gold: np.ndarray, wanted: Wanted, sure: float) -> list[np.ndarray]:
    """What is wanted in each draw, (R,) a piece; no draws where nobody asks how sure it is."""
    return [_asked(task, gold, wanted, index) for index in _draws(gold)] if sure > 0 else []


def _draws(gold: np.ndarray) -> Iterator[np.ndarray]:
    """The same ones each time: they would take much memory."""
    return resampled_rows(len(gold), DRAWS, 0)


def _asked(task: Graded, gold: np.ndarray, wanted: Wanted, index: np.ndarray) -> np.ndarray:
    """What is wanted on each choice of rows, (R,)."""
    if wanted.reference is None:
        return np.full(len(index), wanted.at_least)
    return wanted.at_least * task.resampled(wanted.reference, gold, index)


def _held(
    task: Graded, outputs: np.ndarray, gold: np.ndarray, wanted: Wanted, floors: Sequence[np.ndarray]
) -> float | None:
    """The share of the draws in which these outputs reach what is wanted; None where dev as it is does not."""
    whole = np.arange(len(gold))[None]
    if task.resampled(outputs, gold, whole)[0] < _asked(task, gold, wanted, whole)[0]:
        return None
    kept = [task.resampled(outputs, gold, at) >= floor for at, floor in zip(_draws(gold), floors, strict=False)]
    return float(np.concatenate(kept).mean()) if kept else 1.0


def _cases(task: Graded, logits: np.ndarray, gold: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits with the gold label of each row, (n, c) and (n,), of each choice that is made among c labels."""
    if isinstance(task, Several):
        for number, at in enumerate(task.segments):
            rows = task.owners[gold] == number
            yield logits[rows, at], gold[rows] - at.start
    elif task.multi_label:  # of each label yes or no: a softmax over its logit and 0
        flat = logits.reshape(-1)
        yield np.stack([np.zeros_like(flat), flat], -1), (gold.reshape(-1) > 0.5).astype(np.int64)
    else:
        yield logits, gold


def _slope(logits: np.ndarray, gold: np.ndarray, beta: float) -> float:
    """The derivative of the summed log loss in beta, the inverse of the temperature."""
    grown = np.exp(beta * (logits - logits.max(-1, keepdims=True)))
    mean = (grown * logits).sum(-1) / grown.sum(-1)
    return float((mean - logits[np.arange(len(gold)), gold]).sum())
