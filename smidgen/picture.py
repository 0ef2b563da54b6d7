"""Quality against latency: a point for each entry, named where there is room, and the still picture of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen import axes
from smidgen.axes import Axes, limits, span
from smidgen.findings import headline, latency_of, listed, percentile, quality_of
from smidgen.pages import filled
from smidgen.schema import check
from smidgen.words import bounds, count, known, mb, metric_of, ms, ranged, short

SIZE = {
    "width": axes.WIDTH,
    "height": axes.HEIGHT,
    "left": axes.LEFT,
    "right": axes.RIGHT,
    "top": axes.TOP,
    "bottom": axes.BOTTOM,
}
LARGEST, SMALLEST = 20.0, 5.0  # radius of a circle of the same area, pixels

KINDS = (  # role, split, title, symbol
    ("winner", "test", "Winner", "star"),
    ("winner", "dev", "Winner (dev)", "star-open"),
    ("teacher", "test", "Teacher", "diamond"),
    ("teacher", "dev", "Teacher (dev)", "diamond-open"),
    ("candidate", "test", "Candidate", "circle"),
    ("candidate", "dev", "Candidate (dev)", "circle-open"),
    ("baseline", "test", "Baseline", "square"),
    ("baseline", "dev", "Baseline (dev)", "square-open"),
)


@dataclass(frozen=True)
class Point:
    """An entry with a latency and a quality; `label` is the side where its name fits, "" where it fits nowhere."""

    name: str
    role: str
    split: str
    latency: float
    quality: float
    low: float
    high: float
    radius: float
    about: tuple[str, ...]
    link: str = ""  # where all of it is told
    label: str = ""


def picture(report: Mapping[str, Any]) -> str:
    """The quality/latency chart alone: an SVG of 820 x 420 without scripts, on white, fit for a README."""
    check(report)
    return drawn(*chart(report), headline(report))


def drawn(points: Sequence[Point], frame: Axes, says: str, linked: bool = False) -> str:
    """The chart as SVG, with a title that `says` what it shows; `linked`: each point is a link to its `link`."""
    kinds = [kind for kind in KINDS if any((point.role, point.split) == kind[:2] for point in points)]
    labels = [(point, *anchor(point, frame)) for point in points if point.label]
    given = {"points": points, "frame": frame, "kinds": kinds, "labels": labels, "size": SIZE, "linked": linked}
    return filled("picture.svg.j2", {**given, "says": says})


def chart(report: Mapping[str, Any]) -> tuple[list[Point], Axes]:
    """What can be drawn, the largest mark first and the winner last, named where there is room; and the axes."""
    entries = listed(report)
    largest = max((known(one.entry["numbers"]["size_mb"]) or 0.0 for one in entries), default=0.0)
    found = [point for one in entries if (point := point_of(report, one.entry, one.role, largest, f"#{one.anchor}"))]
    return arranged(found, *limits(report), metric_of(report), report["task"]["metric"], percentile(report))


def arranged(
    found: Sequence[Point], limit: float | None, floor: float | None, name: str, metric: str, which: str
) -> tuple[list[Point], Axes]:
    """Points in the order they are painted in, with a side for their names, and axes that hold them and the limits."""
    points = sorted(found, key=lambda point: (point.role == "winner", -point.radius))
    ends = [end for point in points for end in (point.low, point.high)]
    frame = span([point.latency for point in points], ends, limit, floor, name, metric, which)
    return place(points, frame), frame


def point_of(
    report: Mapping[str, Any],
    entry: Mapping[str, Any],
    role: str,
    largest: float,
    link: str = "",
    which: str | None = None,
) -> Point | None:
    """Where an entry stands; None without a latency or a quality.

    largest: the size in MB that LARGEST stands for. which: the percentile of the axis; None = that of the budget.
    """
    numbers, (quality, split), which = entry["numbers"], quality_of(entry), which or percentile(report)
    latency, value = latency_of(entry, which), known((quality or {}).get("value"))
    if not latency or quality is None or value is None:
        return None
    low, high = (quality["low"], quality["high"]) if bounds(quality) else (value, value)
    kept = numbers.get("quality_kept")
    about = (
        f"{metric_of(report, quality['metric'])} {ranged(quality)} on {split}, n = {count(quality['n'])}",
        f"latency {which} {ms(latency)}",
        f"size {mb(numbers['size_mb'])}",
        *([f"keeps {ranged(kept)} of the teacher’s quality"] if kept else []),
    )
    size = known(numbers["size_mb"]) or 0.0
    radius = max(SMALLEST, LARGEST * math.sqrt(size / largest)) if largest else SMALLEST
    return Point(entry["name"], role, split, latency, value, low, high, round(radius, 1), about, link)


# Where the names go.

Box = tuple[float, float, float, float]  # left, top, right, bottom
SIDES = ("middle right", "middle left", "top right", "bottom right", "top left", "bottom left")
ROLES = ("winner", "teacher", "baseline", "candidate")
LETTER = 6.8  # width, pixels


def place(points: Sequence[Point], frame: Axes) -> list[Point]:
    """Give each point the first side where its name hits no mark, no other name and, if possible, no interval bar."""
    marks, bars = [_mark(point, frame) for point in points], [_bar(point, frame) for point in points]
    labels = [""] * len(points)
    names: list[Box] = []
    for role, spare_bars in itertools.product(ROLES, (True, False)):
        for index in (index for index, point in enumerate(points) if point.role == role and not labels[index]):
            taken = names + marks[:index] + marks[index + 1 :]
            taken += bars[:index] + bars[index + 1 :] if spare_bars else []
            boxes = {side: name_box(points[index], frame, side) for side in SIDES}
            labels[index] = next((side for side in SIDES if is_free(boxes[side], taken)), "")
            names += [boxes[labels[index]]] if labels[index] else []
    return [replace(point, label=label) for point, label in zip(points, labels, strict=True)]


def anchor(point: Point, frame: Axes) -> tuple[float, float, str]:
    """Where the name of a point goes: x and y of the text, and its text-anchor."""
    up, side = point.label.split()
    lift = {"top": -1, "middle": 0, "bottom": 1}[up] * (point.radius + 5)
    away = (1.3 * point.radius if up == "middle" else 0.7 * point.radius) + 6
    x, y = frame.x(point.latency), frame.y(point.quality) + lift + 4
    return (round(x + away, 1), round(y, 1), "start") if side == "right" else (round(x - away, 1), round(y, 1), "end")


def name_box(point: Point, frame: Axes, side: str) -> Box:
    """What the name of a point covers on this side of it."""
    x, y, at = anchor(replace(point, label=side), frame)
    width = LETTER * len(short(point.name))
    return (x, y - 11, x + width, y + 3) if at == "start" else (x - width, y - 11, x, y + 3)


def is_free(box: Box, taken: Sequence[Box]) -> bool:
    """Inside the axes, and over nothing that is taken."""
    left, top, right, bottom = box
    inside = left >= axes.LEFT and right <= axes.WIDTH - 4 and top >= axes.TOP and bottom <= axes.BOTTOM
    return inside and not any(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in taken)


def _mark(point: Point, frame: Axes) -> Box:
    x, y, r = frame.x(point.latency), frame.y(point.quality), 1.2 * point.radius
    return x - r, y - r, x + r, y + r


def _bar(point: Point, frame: Axes) -> Box:
    x = frame.x(point.latency)
    return x - 4, frame.y(point.high), x + 4, frame.y(point.low)
