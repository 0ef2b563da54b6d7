"""Which way of tuning to take: a rule over what was measured, and its reasons in words.

1. The best is the one with the highest score on dev.
2. Those stay whose share of that score, on the same rows, has an interval that reaches 1: at this many rows of dev the
   difference is not resolved.
3. Of these, for one task the one that trains fastest; for more, the one that takes the fewest bytes with all tasks on
   disk (deltas stand beside one base, whole models each by itself), the faster where two take the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smidgen.words import count, mb, score, seconds

LEAST_STEPS, MOST_EPOCHS = 500, 16


@dataclass(frozen=True)
class Tried:
    """One way of tuning, trained and scored on dev."""

    name: str
    value: float  # on dev
    kept: tuple[float, float]  # its share of the best's score: the paired 95 % interval
    bytes: int  # of a task on disk: a delta, or a whole model
    delta: bool  # stands beside a base
    seconds: float  # of training


@dataclass(frozen=True)
class Advice:
    """The way to take, and why."""

    name: str
    best: str
    tied: tuple[str, ...]  # cannot be told from the best, itself among them
    why: str


def enough_epochs(rows: int, batch_size: int = 32) -> int:
    """Epochs of so many rows that what trains few numbers takes: LEAST_STEPS steps, but MOST_EPOCHS at most."""
    return min(math.ceil(LEAST_STEPS * batch_size / rows), MOST_EPOCHS)


def choose(tried: Sequence[Tried], tasks: int, base: int) -> Tried:
    """The rule of the module's text. `base`: bytes of the frozen model; `tried` must not be empty."""
    fit = tied(tried)
    if tasks == 1:
        return min(fit, key=lambda t: (t.seconds, t.bytes))
    return min(fit, key=lambda t: (held(t, tasks, base), t.seconds))


def tied(tried: Sequence[Tried]) -> list[Tried]:
    """The best, and all whose interval does not exclude that they score as much."""
    top = best(tried)
    return [t for t in tried if t is top or t.kept[1] >= 1]


def best(tried: Sequence[Tried]) -> Tried:
    """The highest on dev; of equal ones the fastest."""
    return max(tried, key=lambda t: (t.value, -t.seconds))


def held(tried: Tried, tasks: int, base: int) -> int:
    """Bytes on disk of so many tasks tuned that way."""
    return tasks * tried.bytes + (base if tried.delta else 0)


def advise(tried: Sequence[Tried], tasks: int, base: int, rows: int, n: int, metric: str, whole: bool = True) -> Advice:
    """What to take for so many labelled rows and tasks, in words.

    Args:
        rows, n: of train and of dev.
        whole: were all trained in full, and not on a part of their steps?
    """
    found, top, fit = choose(tried, tasks, base), best(tried), tied(tried)
    many = f"{tasks} tasks" if tasks > 1 else "one task"
    said = [f"With {count(rows)} labelled rows and {many}, take {found.name}."]
    own = f"Its {metric} on dev is {score(found.value, metric)}"
    if found is top:
        said.append(f"{own}, the highest of {len(tried)}.")
    else:
        said.append(
            f"{own}, that of the highest, {top.name}, {score(top.value, metric)}: the difference is not resolved at "
            f"n={count(n)}."
        )
    others = [t.name for t in fit if t is not found and t is not top]
    if others:
        said.append(f"Nor can {', '.join(others)} be told from {top.name}.")
    below = [t.name for t in tried if t not in fit]
    if below:
        said.append(f"Below by more than chance: {', '.join(below)}.")
    kind = "a delta" if found.delta else "a whole model, no delta,"
    price = f"A task is {kind} of {mb(found.bytes / 1e6)}, trained in {seconds(found.seconds)}"
    if tasks > 1:
        said.append(f"{price}; {many} take {mb(held(found, tasks, base) / 1e6)} on disk{_beside(found, base)}.")
    else:
        said.append(f"{price}{', the fastest of these' if len(fit) > 1 else ''}.")
    if not whole:
        said.append("There was time for a part of the steps only: with all of them the order may be another.")
    said.append(f"One seed, one set of {count(n)} rows of dev, on which it was also chosen: read it as a hint.")
    return Advice(found.name, top.name, tuple(t.name for t in fit), " ".join(said))


def _beside(found: Tried, base: int) -> str:
    return f", the base of {mb(base / 1e6)} among them" if found.delta else ""
