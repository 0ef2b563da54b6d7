"""How fast, side by side: text in, label out, all candidates interleaved in one run.

A run has rounds. In each round every candidate makes one block of calls in a row, and the order of the candidates
turns by one from round to round, so that whatever the machine does at that time falls on all of them. The first calls
of a block are thrown away: threads of the candidate before may still be spinning and the caches are not ours yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smidgen.errors import InputError
from smidgen.measure.number import Number
from smidgen.measure.quality import interval

Candidate = Callable[[Any], object]

BLOCK = 20  # calls that count, in a row
SETTLE = 2  # calls before them that do not
P99_CALLS = 1000  # fewer cannot carry a p99


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single calls; `low` and `high` are the 95 % interval of p95."""

    p50_ms: float
    p95_ms: float
    p99_ms: float | None  # None when n < 1000
    low: float
    high: float
    n: int
    threads: int | None
    samples: np.ndarray = field(repr=False, compare=False)  # (rounds, calls of a block), ms
    batch: int = 1

    @property
    def mean_ms(self) -> float:
        return float(self.samples.mean())

    def to_data(self) -> dict[str, Any]:
        """Plain data without the samples."""
        names = ("p50_ms", "p95_ms", "p99_ms", "mean_ms", "low", "high", "n", "batch", "threads")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Throughput:
    """Texts a second in batches; the median over the rounds and their 95 % interval by order statistics."""

    texts_per_s: float
    low: float
    high: float
    n: int  # rounds
    batch: int
    threads: int | None
    samples: np.ndarray = field(repr=False, compare=False)  # (rounds,), texts a second

    def to_data(self) -> dict[str, Any]:
        """Plain data without the samples."""
        names = ("texts_per_s", "low", "high", "n", "batch", "threads")
        return {name: getattr(self, name) for name in names}


def latency(
    candidates: Mapping[str, Candidate],
    inputs: Sequence[Any],
    calls: int = 300,
    warm_up: int = 10,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Time single calls of each candidate on the same inputs in the same order, drawn from all of `inputs`.

    Args:
        calls: timed calls of each, rounded up to whole blocks of 20; 300 carry a p95, 1,000 a p99.
        warm_up: calls of each before anything is timed.
        threads: what the candidates use, only to be stated.

    Raises:
        InputError: no candidate, no input, or no call.
    """
    _check(candidates, inputs, calls)
    rounds = math.ceil(calls / BLOCK)
    picks = [inputs[i] for i in _picks(len(inputs), rounds * BLOCK, seed)]
    samples = {name: np.empty((rounds, BLOCK)) for name in candidates}
    for call in candidates.values():
        for k in range(warm_up):
            call(picks[k % len(picks)])
    for turn, name in _turns(tuple(candidates), rounds):
        block = picks[turn * BLOCK : (turn + 1) * BLOCK]
        samples[name][turn] = _time_each(candidates[name], block)
    return {name: _latency(taken, threads) for name, taken in samples.items()}


def throughput(
    candidates: Mapping[str, Callable[[list[Any]], object]],
    inputs: Sequence[Any],
    batch: int = 32,
    repeats: int = 10,
    threads: int | None = None,
) -> dict[str, Throughput]:
    """Texts a second of each candidate, called on lists of `batch` inputs; a round is one pass over all inputs.

    Raises:
        InputError: no candidate, no input, or no repeat.
    """
    _check(candidates, inputs, min(batch, repeats))
    pieces = [list(inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
    samples = {name: np.empty(repeats) for name in candidates}
    for call in candidates.values():
        call(pieces[0])
    for turn, name in _turns(tuple(candidates), repeats):
        call = candidates[name]
        call(pieces[0])
        start = time.perf_counter_ns()
        for piece in pieces:
            call(piece)
        samples[name][turn] = len(inputs) * 1e9 / (time.perf_counter_ns() - start)
    return {name: _throughput(taken, batch, threads) for name, taken in samples.items()}


def ratio(a: Latency, b: Latency, percentile: float | None = 50) -> Number:
    """How many times as long `a` takes as `b`, of one run, with a bootstrap interval.

    Whole rounds are drawn, the same for both: calls of one round share what the machine did at that time.

    Args:
        percentile: of the calls; None = their mean, which is what calls of very different lengths cost together.

    Raises:
        InputError: the two were not measured in one run of `latency`.
    """
    if a.samples.shape != b.samples.shape:
        raise InputError(
            f"got {a.n} and {b.n} calls, wanted two candidates of one run: latency({{'a': ..., 'b': ...}})."
        )
    drawn = np.random.default_rng(0).integers(0, len(a.samples), (1000, len(a.samples)))

    def value(samples: np.ndarray, index: np.ndarray) -> np.ndarray:
        calls = samples[index].reshape(len(index), -1)
        return np.asarray(calls.mean(-1) if percentile is None else np.percentile(calls, percentile, axis=-1))

    low, high = interval(value(a.samples, drawn) / value(b.samples, drawn))
    whole = np.arange(len(a.samples))[None]
    found = float((value(a.samples, whole) / value(b.samples, whole))[0])
    return Number("latency_ratio", found, "", a.n, low, high, {"percentile": percentile, "batch": a.batch})


def order_interval(samples: np.ndarray, share: float) -> tuple[float, float]:
    """A 95 % interval of a percentile from order statistics, without any assumption on the distribution.

    The number of samples below the true percentile is Binomial(n, share). The ends are the samples at the ranks
    between which this number stays with at least 95 %; the least or the largest sample where n is too small.
    """
    ordered, n = np.sort(samples, axis=None), samples.size
    k = np.arange(n + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)])
    below = np.cumsum(np.exp(choose + k * math.log(share) + (n - k) * math.log1p(-share)))
    first = int(np.searchsorted(below, 0.025))  # P(B < first) < 2.5 %
    last = int(np.searchsorted(below, 0.975))  # P(B > last) <= 2.5 %
    return float(ordered[max(first - 1, 0)]), float(ordered[min(last, n - 1)])


def made(calls: int, warm_up: int = 10) -> int:
    """Calls that `latency` makes of each candidate, with those that do not count."""
    return warm_up + math.ceil(calls / BLOCK) * (BLOCK + SETTLE)


def _check(candidates: Mapping[str, Any], inputs: Sequence[Any], calls: int) -> None:
    if not candidates or not len(inputs) or calls < 1:
        raise InputError(
            f"got {len(candidates)} candidates, {len(inputs)} inputs, {calls} repeats; wanted 1 or more of each."
        )


def _picks(count: int, wanted: int, seed: int) -> np.ndarray:
    """Input numbers: each input once in random order, then again, so that lengths are those of the data."""
    draw = np.random.default_rng(seed)
    passes = [draw.permutation(count) for _ in range(math.ceil(wanted / count))]
    return np.concatenate(passes)[:wanted]


def _turns(names: tuple[str, ...], rounds: int) -> Iterator[tuple[int, str]]:
    for turn in range(rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            yield turn, name


def _time_each(call: Candidate, block: Sequence[Any]) -> np.ndarray:
    """Milliseconds of each call, after `SETTLE` calls that do not count."""
    clock, taken = time.perf_counter_ns, []
    for k in range(SETTLE):
        call(block[k % len(block)])
    for item in block:
        start = clock()
        call(item)
        taken.append(clock() - start)
    return np.array(taken) / 1e6


def _latency(samples: np.ndarray, threads: int | None) -> Latency:
    p50, p95, p99 = (float(value) for value in np.percentile(samples, [50, 95, 99]))
    low, high = order_interval(samples, 0.95)
    return Latency(p50, p95, p99 if samples.size >= P99_CALLS else None, low, high, samples.size, threads, samples)


def _throughput(samples: np.ndarray, batch: int, threads: int | None) -> Throughput:
    low, high = order_interval(samples, 0.5)
    return Throughput(float(np.median(samples)), low, high, len(samples), batch, threads, samples)
