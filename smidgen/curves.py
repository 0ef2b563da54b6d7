"""The training curves of a stage, as lines in a small box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.words import known

Points = list[tuple[float, float]]  # step, value


@dataclass(frozen=True)
class Line:
    """A curve: its (x, y) in a box of 100 x 40, its first and its last value."""

    name: str
    points: tuple[tuple[float, float], ...]
    first: float
    last: float


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Line]]:
    """The curves of one stage: `loss` (the sum and the part of each method, from 0) and `dev` (on its own scale)."""
    losses: dict[str, Points] = {}
    dev: Points = []
    for row in rows:
        step = known(row.get("step")) or 0.0
        for name, value in [("loss", row.get("loss")), *_parts(row.get("terms") or {}).items()]:
            if (number := known(value)) is not None:
                losses.setdefault(name, []).append((step, number))
        if (number := known(row.get("dev"))) is not None:
            dev.append((step, number))
    if "loss" in losses and len(losses) == 2:  # a single part is the loss itself
        losses = {"loss": losses["loss"]}
    last = max((step for found in [*losses.values(), dev] for step, _ in found), default=1.0)
    top = max((value for found in losses.values() for _, value in found), default=1.0)
    values = [value for _, value in dev]
    drawn = {
        "loss": [_line(name, found, last, 0.0, top) for name, found in losses.items()],
        "dev": [_line("dev", dev, last, min(values), max(values))] if dev else [],
    }
    return {kind: lines for kind, lines in drawn.items() if lines}


def _parts(terms: Mapping[str, Any]) -> dict[str, float]:
    """Terms summed by method: `distil.hidden.block.0.hidden` is a part of `distil.hidden`."""
    found: dict[str, float] = {}
    for name, value in terms.items():
        method = ".".join(str(name).split(".")[:2])
        found[method] = found.get(method, 0.0) + (known(value) or 0.0)
    return found


def _line(name: str, found: Points, last: float, low: float, high: float) -> Line:
    scale = 38 / ((high - low) or 1.0)
    points = ((round(100 * step / (last or 1.0), 1), round(39 - (value - low) * scale, 1)) for step, value in found)
    return Line(name, tuple(points), found[0][1], found[-1][1])
