"""What the user can afford, read from a few words.

p95=2ms   1.5ms   p50=800us        latency of one text, text in to label out, at batch 1
25MB   25MiB   300KB               bytes on disk of what must be deployed; memory alike
97%teacher   accuracy>=0.91   0.91 quality on the test set
30m   2h   90s                     time for the whole command
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.errors import BudgetError, did_you_mean

TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DURATIONS = {"s": 1, "m": 60, "h": 3600}
PERCENTILES = ("p50", "p95", "p99")
NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


@dataclass(frozen=True)
class Quality:
    """A least quality: a share of the teacher's, or a value of a metric (None = the task's own)."""

    at_least: float
    of_teacher: bool
    metric: str | None
    text: str


@dataclass(frozen=True)
class Budget:
    """Limits; None = no limit. Latency in ms, sizes in MB of 10^6 bytes, time in seconds."""

    percentile: str = "p95"
    latency_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    quality: Quality | None = None
    time_limit_s: float | None = None

    @property
    def calls(self) -> int:
        """Timed calls of each model that tell the percentile."""
        return 1000 if self.percentile == "p99" else 300

    def to_data(self) -> dict[str, Any]:
        """As `report.json` holds it."""
        quality = self.quality
        return {
            "latency": {"percentile": self.percentile, "ms": self.latency_ms} if self.latency_ms is not None else None,
            "size_mb": self.size_mb,
            "memory_mb": self.memory_mb,
            "quality": vars(quality) if quality else None,
            "time_limit_s": self.time_limit_s,
        }


def read(
    latency: str | None = None,
    size: str | None = None,
    memory: str | None = None,
    quality: str | None = None,
    time_limit: str | None = None,
    metrics: tuple[str, ...] = ("accuracy", "f1"),
) -> Budget:
    """A budget from the words of the command line.

    Raises:
        BudgetError: one of them does not parse; the message shows how it is written.
    """
    percentile, limit = _latency(latency) if latency is not None else ("p95", None)
    return Budget(
        percentile=percentile,
        latency_ms=limit,
        size_mb=_unit(size, BYTES, "--max-size", "25MB or 20MiB", str.upper, 1e-6) if size is not None else None,
        memory_mb=_unit(memory, BYTES, "--max-memory", "300MB", str.upper, 1e-6) if memory is not None else None,
        quality=_quality(quality, metrics) if quality is not None else None,
        time_limit_s=_unit(time_limit, DURATIONS, "--time-limit", "30m or 2h", str.lower)
        if time_limit is not None
        else None,
    )


def over(budget: Budget, numbers: Mapping[str, Any], teacher_quality: float | None, key: str) -> dict[str, float]:
    """Which limits an entry's numbers break: the limit's name -> how many times over it is, always above 1.

    Args:
        numbers: as in `report.json`; what was not measured breaks nothing, but for a p99, which is no less than p95.
        teacher_quality: on the same split as `numbers[key]`.
        key: `quality` (test) or `dev_quality`.
    """
    found = {name: times for name, times in used(budget, numbers).items() if times > 1}
    wanted = least_quality(budget, teacher_quality)
    value = (numbers.get(key) or {}).get("value")
    if wanted is not None and value is not None and value < wanted:
        found["quality"] = wanted / max(value, 1e-9)
    return found


def used(budget: Budget, numbers: Mapping[str, Any]) -> dict[str, float]:
    """How many times each limit on what a model takes its numbers come to; of what was measured and has a limit."""
    measured = (
        ("latency", budget.latency_ms, at_percentile(numbers, budget.percentile)),
        ("size", budget.size_mb, numbers.get("size_mb")),
        ("memory", budget.memory_mb, numbers.get("memory_mb")),
    )
    return {name: value / limit for name, limit, value in measured if limit is not None and value is not None}


def fitting(budget: Budget, numbers: Mapping[str, Any], teacher_quality: float | None, key: str) -> str:
    """Words of the command line for the limits that are broken, such as `--max-latency p95=3.2ms`, with which these
    numbers would keep to the budget: a time a twentieth above what was measured, the others at the next digit; "" where
    the quality is none to ask for.
    """
    broken, words = over(budget, numbers, teacher_quality, key), []
    if "quality" in broken and float(numbers[key]["value"]) < 0.001:
        return ""
    if "latency" in broken:
        measured = 1.05 * (at_percentile(numbers, budget.percentile) or 0.0)
        words.append(f"--max-latency {budget.percentile}={_rounded(measured, math.ceil):g}ms")
    for name in ("size", "memory"):
        if name in broken:
            words.append(f"--max-{name} {_rounded(float(numbers[f'{name}_mb']), math.ceil, 3):g}MB")
    if "quality" in broken and budget.quality is not None:
        value, limit = float(numbers[key]["value"]), budget.quality
        if limit.of_teacher and teacher_quality:
            words.append(f"--min-quality {math.floor(1000 * value / teacher_quality) / 10:g}%teacher")
        else:
            words.append(f"--min-quality '{limit.metric or ''}{'>=' if limit.metric else ''}{_floor(value):g}'")
    return " ".join(words)


def at_percentile(numbers: Mapping[str, Any], percentile: str) -> float | None:
    """Milliseconds of a percentile; those of p95 where too few calls were made to tell p99."""
    latency = numbers.get("latency") or {}
    return latency.get(f"{percentile}_ms") or (latency.get("p95_ms") if percentile == "p99" else None)


def least_quality(budget: Budget, teacher_quality: float | None) -> float | None:
    """The quality that is asked for, as a value of the metric; None where none is, or the teacher is not known yet."""
    if budget.quality is None:
        return None
    if not budget.quality.of_teacher:
        return budget.quality.at_least
    return None if teacher_quality is None else budget.quality.at_least * teacher_quality


def _latency(text: str) -> tuple[str, float]:
    percentile, found = "p95", text.strip()
    if "=" in found:
        percentile, _, found = (part.strip() for part in found.partition("="))
        if percentile not in PERCENTILES:
            raise BudgetError(
                f"--max-latency {text}: {percentile!r} is not one of {', '.join(PERCENTILES)}."
                f"{did_you_mean(percentile, PERCENTILES)} Write it like p95=2ms."
            )
    return percentile, _unit(found, TIMES, "--max-latency", "p95=2ms or 1.5ms", str.lower)


def _unit(
    text: str, units: Mapping[str, float], flag: str, example: str, fold: Callable[[str], str], scale: float = 1.0
) -> float:
    match = re.fullmatch(NUMBER + r"\s*([A-Za-z]+)", text.strip())
    if not match:
        raise BudgetError(f"{flag} {text}: wanted a number and a unit. Write it like {example}.")
    unit = fold(match[2])
    if unit not in units:
        raise BudgetError(
            f"{flag} {text}: no unit {match[2]!r}, wanted one of {', '.join(units)}.{did_you_mean(unit, units)} "
            f"Write it like {example}."
        )
    if float(match[1]) <= 0:
        raise BudgetError(f"{flag} {text}: nothing can be that small. Write it like {example}.")
    return round(float(match[1]) * units[unit] * scale, 9)  # 1.1MB is 1.1 again


def _quality(text: str, metrics: tuple[str, ...]) -> Quality:
    folded = text.strip().replace(" ", "")
    if match := re.fullmatch(NUMBER + r"%(?:of)?(?:the)?teacher", folded):
        return Quality(_share(float(match[1]) / 100, text), True, None, text)
    if match := re.fullmatch(r"([A-Za-z_0-9]+)>=?" + NUMBER + "(%?)", folded):
        if match[1] not in metrics:
            raise BudgetError(
                f"--min-quality {text}: no metric {match[1]!r}, wanted one of {', '.join(metrics)}."
                f"{did_you_mean(match[1], metrics)}"
            )
        return Quality(_share(float(match[2]) / (100 if match[3] else 1), text), False, match[1], text)
    if match := re.fullmatch(NUMBER + "(%?)", folded):
        return Quality(_share(float(match[1]) / (100 if match[2] else 1), text), False, None, text)
    raise BudgetError(
        f"--min-quality {text}: not understood. Write it like 97%teacher, 'accuracy>=0.91' (in quotes) or 0.91."
    )


def _rounded(value: float, to: Callable[[float], int], digits: int = 2) -> float:
    """To so many digits that count."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return round(to(value / step - 1e-9) * step, 12)


def _floor(value: float) -> float:
    return math.floor(1000 * value) / 1000


def _share(value: float, text: str) -> float:
    if not 0 < value <= 1.2:
        raise BudgetError(f"--min-quality {text}: {value:g} is no share of 1. Write it like 97%teacher or 0.91.")
    return value
