"""The axes of the picture: what they span, where their ticks are, and where a value lies in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.findings import quality_of
from smidgen.words import score

WIDTH, HEIGHT = 820, 420
LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 20, 46, HEIGHT - 52


@dataclass(frozen=True)
class Axes:
    """Data ranges, ticks as (value, text), and the budget's limits, None where there is none."""

    metric: str
    percentile: str
    low_ms: float
    high_ms: float
    low: float
    high: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    limit_ms: float | None
    floor: float | None

    def x(self, latency: float) -> float:
        share = math.log(latency / self.low_ms) / math.log(self.high_ms / self.low_ms)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def y(self, quality: float) -> float:
        share = (quality - self.low) / (self.high - self.low)
        return round(BOTTOM - share * (BOTTOM - TOP), 1)


def span(
    latencies: Sequence[float],
    qualities: Sequence[float],
    limit: float | None,
    floor: float | None,
    name: str,
    metric: str,
    which: str,
) -> Axes:
    """Axes that show all of these latencies (ms) and qualities, and the budget's limits.

    Args:
        name, metric: what the quality is called, and what it is.
        which: the percentile of the latencies.
    """
    across = [*latencies, *([limit] if limit else [])] or [1.0]
    up = [*qualities, *([floor] if floor is not None else [])] or [0.5]
    room = max(0.1 * (max(up) - min(up)), 0.005)
    low_ms, high_ms, low, high = min(across) / 1.6, max(across) * 1.6, min(up) - room, max(up) + room
    marks = ticks(low, high)
    digits = 0 if len(marks) > 1 and marks[1] - marks[0] >= 0.01 else 1
    xs = tuple((tick, f"{tick:g}") for tick in log_ticks(low_ms, high_ms))
    ys = tuple((tick, score(tick, metric, digits)) for tick in marks)
    return Axes(name, which, low_ms, high_ms, low, high, xs, ys, limit, floor)


def limits(report: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The most latency and the least quality that the budget allows."""
    latency, quality = report["budget"]["latency"], report["budget"]["quality"]
    limit = float(latency["ms"]) if latency else None
    if not quality or not quality["of_teacher"]:
        return limit, float(quality["at_least"]) if quality else None
    teacher, _ = quality_of(report["teacher"])
    return limit, float(quality["at_least"]) * teacher["value"] if teacher else None


def log_ticks(low: float, high: float) -> list[float]:
    """The 1, 2, 5 series between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round values between `low` and `high`."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
