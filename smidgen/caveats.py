"""What a reader of figures on test has to know: which rows were as good as seen, and what so few rows can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.budget import Quality
from smidgen.checks import Check, example, examples, share_of
from smidgen.measure.entries import quality_data
from smidgen.measure.quality import Z, difference, quality, resolvable
from smidgen.repeats import repeated
from smidgen.splits import Split
from smidgen.tasks import Classify, Several, Task

USUAL = 0.05  # of the rows, that a student answers otherwise than its teacher
CLOSE = 1.0  # points from a score that is asked for, that a test set should tell
LEAST = 0.1  # points: nearer than that a score is on its limit, and no number of rows tells the side


def seen(
    task: Task, test: Split, train: Split, outputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], list[Check]]:
    """How many rows of test nearly are rows of train, and what each model scores on the others.

    Args:
        outputs: by model, what `task.decide` takes, of all rows of test.

    Returns:
        `rows`, `share` and `quality` of the models without them; and a check where there are any.
    """
    at = repeated(test, train)
    told, count = list(near(test, train, at)), int((at >= 0).sum())
    found: dict[str, Any] = {"rows": count, "share": count / len(test), "quality": {}}
    if not 0 < count < len(test):
        return found, told
    rest = test.take(at < 0)
    found["quality"] = {name: quality_data(task, said[at < 0], rest) for name, said in outputs.items()}
    scores = ", ".join(f"{name} {score['value']:.3f}" for name, score in found["quality"].items())
    return found, [replace(one, words=f"{one.words} Without them, {task.metric}: {scores}.") for one in told]


def near(test: Split, train: Split, at: np.ndarray) -> Iterator[Check]:
    """Rows of test that nearly are rows of train, those included that wholly are; `at` is what `repeated` gives."""
    pairs = [(int(row), int(at[row])) for row in np.flatnonzero(at >= 0)]
    if len(pairs) == len(test):
        said = f"Every row of test is nearly or wholly one of train: {test.source} says nothing of new texts."
    elif pairs:
        said = f"{share_of(len(pairs), test)} {'is' if len(pairs) == 1 else 'are'} nearly or wholly "
        said += f"in train, {example(test, pairs[0], train)}."
    if pairs:
        yield Check("near", test.name, len(pairs), len(test), said, examples(test, pairs, train))


def foreseen(test: Split, asked: Quality | None) -> Iterator[Check]:
    """`unresolved` before there are models.

    For a share of the teacher's quality by rows of which one in twenty is answered otherwise; the teacher can be right
    on all rows at most. For a score by its standard error at the limit, that of a share.
    """
    if asked is None or not 0 < asked.at_least < 1:
        return
    rows = f"{len(test):,} rows of {test.name} tell"
    if asked.of_teacher:
        allowed, told = 100 * (1 - asked.at_least), resolvable(len(test), USUAL)
        said = (
            f"{rows} differences of {told:.1f} points from chance where two models differ on one row in twenty; "
            f"{asked.text} allows {allowed:.1f} points at most."
        )
    else:
        allowed, told = CLOSE, 100 * Z * math.sqrt(asked.at_least * (1 - asked.at_least) / len(test))
        said = (
            f"{rows} such a score to {told:.1f} points either way; a model shows that it keeps {asked.text} by being "
            "that far above it."
        )
    if told > allowed:
        wanted = _rows(test, told, allowed)
        said += f" About {wanted:,} rows would tell {allowed:.1f} points."
        yield Check("unresolved", test.name, len(test), wanted, said)


def unresolved(
    task: Task, test: Split, outputs: np.ndarray, teacher: np.ndarray, least: float | None, of_teacher: bool = True
) -> list[Check]:
    """A check where test has too few rows to tell what was asked for from a little less: so many of those it takes.

    Args:
        outputs: what `task.decide` takes, of the model that is judged, and of its teacher.
        least: the metric's value that is asked for; None = none is.
        of_teacher: it is a share of the teacher's on the same rows, so that both are compared row by row; else it is a
            number, against which the model's own interval counts.
    """
    if least is None or test.labels is None:
        return []
    if not of_teacher:
        return list(_beside(task, test, outputs, least))
    allowed = 100 * (task.score(teacher, test.labels) - least)
    told = _told(task, test.labels, outputs, teacher)
    if allowed <= 0 or told <= allowed:
        return []
    wanted = _rows(test, told, allowed)
    said = (
        f"{len(test):,} rows of test can tell differences of {told:.1f} points or more from chance; the budget allows "
        f"{allowed:.1f} points below the teacher. That it is kept is likely, not shown: about "
        f"{wanted:,} rows would show it."
    )
    return [Check("unresolved", test.name, len(test), wanted, said)]


def _beside(task: Task, test: Split, outputs: np.ndarray, least: float) -> Iterator[Check]:
    """`unresolved` of a score that is nearer to a number than half of its interval."""
    assert test.labels is not None
    found = quality(task, outputs, test.labels)
    assert found.low is not None and found.high is not None
    told, apart = 50 * (found.high - found.low), max(100 * abs(found.value - least), LEAST)
    if told > apart:
        wanted = _rows(test, told, apart)
        said = (
            f"{len(test):,} rows of test tell {task.metric} to {told:.1f} points either way; the budget's {least:g} is "
            f"{apart:.1f} points from what was measured. On which side of it the model is, is likely, not shown: about "
            f"{wanted:,} rows would show it."
        )
        yield Check("unresolved", test.name, len(test), wanted, said)


def _rows(test: Split, told: float, wanted: float) -> int:
    """How many rows tell the points that are wanted, where those of test tell so many."""
    return round(len(test) * (told / wanted) ** 2)


def _told(task: Task, gold: np.ndarray, outputs: np.ndarray, teacher: np.ndarray) -> float:
    """The difference of two models in points that these rows tell from chance: in closed form for accuracy, else half
    of the interval of a paired bootstrap."""
    if task.metric == "accuracy" and isinstance(task, Classify | Several):
        right = [task.correct(said, gold) for said in (outputs, teacher)]
        return resolvable(len(gold), float((right[0] != right[1]).mean()))
    low, high = difference(task, teacher, outputs, gold)
    return (high - low) / 2
