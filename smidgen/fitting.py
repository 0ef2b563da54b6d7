"""The largest shape that keeps to a budget, of those that were measured and of the depths between them.

A depth that was not measured is on the line through the two that were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smidgen.facts import Facts, Timed

LITTLE = 0.01  # of the size, for which no token is dropped


@dataclass(frozen=True)
class Pick:
    """The largest shape that keeps to the limits, or the smallest one and the limits that it breaks."""

    shape: Timed
    vocabulary: bool
    broken: tuple[str, ...]


def pick(facts: Facts) -> Pick:
    """The largest shape that keeps to the limits: whole, then of fewer blocks, each also with fewer tokens; others."""
    last = None
    for shape in shapes(facts):
        for vocabulary in (False, True) if shape.kind in ("whole", "cut") and _may_shrink(facts) else (False,):
            last = Pick(shape, vocabulary, tuple(broken(facts, shape, vocabulary)))
            if not last.broken:
                return last
    assert last is not None
    return last


def shapes(facts: Facts) -> Iterator[Timed]:
    """From the largest to the smallest; a depth that was not measured is on the line through the two that were."""
    for blocks in range(facts.model.blocks, 0, -1):
        yield deep(facts, blocks)
    yield from facts.measured.small


def deep(facts: Facts, blocks: int) -> Timed:
    """The shape with so many blocks."""
    whole, cut = facts.measured.whole, facts.measured.cut
    if blocks == whole.blocks or cut is None:
        return whole
    if blocks == cut.blocks:
        return cut

    def between(a: float, b: float) -> float:
        return max(a + (b - a) * (blocks - cut.blocks) / (whole.blocks - cut.blocks), 0.0)

    pairs = {name: (getattr(cut, name), getattr(whole, name)) for name in ("p50_ms", "p95_ms", "size_mb", "p99_ms")}
    told = {name: None if None in pair else between(*pair) for name, pair in pairs.items()}
    words = "1 block" if blocks == 1 else f"{blocks} blocks"
    return Timed(words, "cut", blocks, **told)  # type: ignore[arg-type]


def broken(facts: Facts, shape: Timed, vocabulary: bool) -> Iterator[str]:
    """The limits that a shape breaks: latency, size, memory."""
    budget, measured = facts.budget, facts.measured
    size = shape.size_mb - (measured.spared_mb if vocabulary else 0.0)
    memory = measured.bare_mb + (measured.run_mb - measured.bare_mb) * size / measured.whole.size_mb
    latency = shape.at(budget.percentile) if budget.latency_ms is not None else None
    for name, limit, value in (
        ("latency", budget.latency_ms, latency),
        ("size", budget.size_mb, size),
        ("memory", budget.memory_mb, memory),
    ):
        if limit is not None and value is not None and value > limit:
            yield name


def _may_shrink(facts: Facts) -> bool:
    budget, measured = facts.budget, facts.measured
    asked = budget.size_mb is not None or budget.memory_mb is not None
    return asked and measured.spared_mb > LITTLE * measured.whole.size_mb
