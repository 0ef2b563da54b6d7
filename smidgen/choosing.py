"""The choice among candidates that were trained: pure functions of their answers on dev and of their numbers.

The best of several looks better on dev than it is, and the more so the more were compared. Both are resampled: rows of
dev are drawn anew, all candidates are scored on the same rows, and the best is picked again. How often it is the same
one says how sure the choice is; by how much the best of a drawing is worse on all rows says what luck gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.budget import Budget, fitting, over
from smidgen.data import Split
from smidgen.deferral import Wanted
from smidgen.measure import entries
from smidgen.measure.quality import resampled_rows
from smidgen.tasks import Task
from smidgen.words import score

RESAMPLES = 2000
LEVEL = 0.05  # chance that any of the differences to the chosen one is outside its interval

Numbers = Mapping[str, Any]
Outputs = Sequence[np.ndarray]  # on dev, one a seed
Draws = Mapping[str, np.ndarray]  # scores by name, (RESAMPLES,), of the same rows


@dataclass(frozen=True)
class Choice:
    """How sure it is that one of several is the best; scores are of dev."""

    compared: int  # candidates with a score on dev, those of short trainings too
    among: int  # trained in full, or as far as time allowed, and within the budget
    sure: float  # share of the resamples in which the one chosen is the best of these, or keeps the quality asked for
    ties: tuple[str, ...]  # others whose difference to it is not told from none, all intervals holding together
    luck: float  # by which the best of so many looks better than it is, in the metric
    next: str | None  # the best of the others
    ahead: tuple[float, float, float] | None  # of it: value, low, high, corrected for how many were compared
    keeps: bool = False  # `sure` is of the quality asked for, since nothing else was

    def to_data(self) -> dict[str, Any]:
        found = vars(self) | {"ties": list(self.ties), "resamples": RESAMPLES}
        if self.ahead is not None:
            found["ahead"] = dict(zip(("value", "low", "high"), self.ahead, strict=True))
        return found

    def told(self, name: str, rows: int) -> str:
        """In a sentence or two."""
        many = f"{self.compared} candidates were compared on dev ({rows:,} rows)"
        drawn = f"{score(self.sure, digits=0)} of {RESAMPLES:,} resamples"
        if self.keeps:
            return (
                f"{many}, {self.among} of them trained to the end and within the budget. Of these {name} is the "
                f"fastest, and keeps the quality asked for in {drawn}."
            )
        if self.next is None or self.ahead is None:
            return f"{many}; {name} alone was trained to the end and keeps to the budget."
        value, low, high = (f"{100 * number:+.1f}" for number in self.ahead)
        said = (
            f"{many}, {self.among} of them trained to the end and within the budget. Of these {name} is the best in "
            f"{drawn}: {value} points ({low} to {high}, corrected for "
            f"{self.among - 1} comparison{'s' if self.among > 2 else ''}) ahead of {self.next}."
        )
        if self.ties:
            others = len(self.ties)
            said += f" Dev cannot tell it from {others} other{'s' if others > 1 else ''}."
        luck = f"{100 * self.luck:.1f}"
        return said + f" By luck alone the best of {self.among} looks about {luck} points better than it is."


def draws(task: Task, gold: np.ndarray, outputs: Mapping[str, Outputs], seed: int = 0) -> Draws:
    """Scores of each, the mean over its seeds, where rows of dev are drawn anew, the same rows for all."""
    pieces = [
        [_resampled(task, one, gold, index) for one in outputs.values()]
        for index in resampled_rows(len(gold), RESAMPLES, seed)
    ]
    return {name: np.concatenate(found) for name, found in zip(outputs, zip(*pieces, strict=True), strict=True)}


def sureness(
    task: Task,
    gold: np.ndarray,
    outputs: Mapping[str, Outputs],
    chosen: str,
    compared: int,
    seed: int = 0,
    wanted: Wanted | None = None,
) -> Choice:
    """How sure it is that `chosen` is the best of `outputs`, by a paired bootstrap over the rows of dev; or that it
    keeps what is `wanted`, where that is all that was asked.
    """
    names = [chosen, *(name for name in outputs if name != chosen)]
    found = draws(task, gold, outputs, seed)
    drawn = np.stack([found[name] for name in names])  # (candidates, resamples)
    here = np.array([mean_score(task, outputs[name], gold) for name in names])
    first = drawn.max(0) <= drawn[0] + 1e-12
    sure = float((first / np.isclose(drawn, drawn.max(0)).sum(0)).mean())  # what is equally good shares
    luck = float((drawn.max(0) - here[drawn.argmax(0)]).mean())
    if wanted is not None:
        whole = 1.0 if wanted.reference is None else draws(task, gold, {"": [wanted.reference]}, seed)[""]
        sure = float((drawn[0] >= wanted.at_least * whole - 1e-12).mean())
    if len(names) == 1:
        return Choice(compared, 1, sure, (), 0.0, None, None, wanted is not None)
    differences, level = drawn[0] - drawn[1:], LEVEL / (len(names) - 1)
    lows, highs = np.quantile(differences, [level / 2, 1 - level / 2], axis=1)
    nearest = int(here[1:].argmax())
    ahead = (float(here[0] - here[1 + nearest]), float(lows[nearest]), float(highs[nearest]))
    ties = tuple(name for name, low, high in zip(names[1:], lows, highs, strict=True) if low <= 0 <= high)
    return Choice(compared, len(names), sure, ties, max(0.0, luck), names[1 + nearest], ahead, wanted is not None)


def mean_score(task: Task, outputs: Outputs, gold: np.ndarray) -> float:
    """The mean over seeds."""
    return float(np.mean([task.score(one, gold) for one in outputs]))


def mean_quality(task: Task, outputs: Outputs, split: Split) -> dict[str, Any]:
    """A quality as `report.json` has it; of several seeds the mean, its interval over rows, and each seed's value."""
    first = entries.quality_data(task, outputs[0], split)
    if len(outputs) == 1:
        return first
    assert split.labels is not None
    drawn = np.concatenate(
        [_resampled(task, outputs, split.labels, index) for index in resampled_rows(len(split), RESAMPLES, 0)]
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    each = [task.score(one, split.labels) for one in outputs]
    return first | {"value": float(np.mean(each)), "low": float(low), "high": float(high), "seeds": each}


def pick(numbers: Mapping[str, Numbers], drawn: Draws | None) -> str | None:
    """The fastest of those that none is better than on dev by more than chance, by the 95 % interval of their paired
    difference; without `drawn`, where only a quality is asked, the fastest of all. None of none.
    """
    if not numbers:
        return None
    best = max(numbers, key=lambda name: numbers[name]["dev_quality"]["value"])
    fit = [name for name in numbers if drawn is None or name == best or not _beaten(name, drawn)]
    return min(fit, key=lambda name: speed(numbers[name]))


def _beaten(name: str, drawn: Draws) -> bool:
    return any(np.quantile(other - drawn[name], 0.025) > 0 for other in drawn.values())


def speed(numbers: Numbers) -> float:
    """Milliseconds of a text in the mean, since a cascade's median is that of its faster model."""
    latency = numbers["latency"]
    return float(latency.get("mean_ms") or latency["p50_ms"])


AXES = {
    "fastest": lambda numbers: -speed(numbers),
    "smallest": lambda numbers: -numbers["size_mb"],
    "best": lambda numbers: numbers["dev_quality"]["value"],
}


def alternatives(
    trained: Mapping[str, Numbers], winner: str | None, budget: Budget, teacher_quality: float | None
) -> list[dict[str, Any]]:
    """Along each axis the best of what was trained, within the budget or not: `axis`, `name`, `breaks` and numbers.

    The winner itself where nothing is ahead of it.
    """
    found = []
    for axis, worth in AXES.items():
        if not trained:
            break
        ahead = max(trained, key=lambda name: (worth(trained[name]), name == winner))
        numbers = trained[ahead]
        found.append(
            {
                "axis": axis,
                "name": ahead,
                "breaks": sorted(over(budget, numbers, teacher_quality, "dev_quality")),
                "numbers": {key: numbers[key] for key in ("dev_quality", "latency", "size_mb")},
            }
        )
    return found


@dataclass(frozen=True)
class Miss:
    """The candidate that comes nearest to a budget that nothing keeps to."""

    name: str
    binding: str  # the limit that is broken the most
    broken: Mapping[str, float]
    fits: str  # words of the command line with which it would keep to the budget

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "binding": self.binding, "over": dict(self.broken), "fits": self.fits}


def nearest(
    candidates: Mapping[str, Numbers], budget: Budget, teacher_quality: float | None, key: str = "dev_quality"
) -> Miss | None:
    """The one whose worst broken limit is broken the least; None where no candidate breaks one. `key`: as of `over`."""
    broken = {name: over(budget, n, teacher_quality, key) for name, n in candidates.items()}
    missed = {name: found for name, found in broken.items() if found}
    if not missed:
        return None
    name = min(missed, key=lambda one: max(missed[one].values()))
    binding = max(missed[name], key=lambda limit: missed[name][limit])
    words = fitting(budget, candidates[name], teacher_quality, key)
    return Miss(name, binding, missed[name], words)


def _resampled(task: Task, outputs: Outputs, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.mean([task.resampled(one, gold, index) for one in outputs], axis=0)
