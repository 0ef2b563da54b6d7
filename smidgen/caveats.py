"""What a reader of figures on test has to know: which rows were as good as seen, and what so few rows can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.budget import Quality
from smidgen.checks import Check, example, examples, share_of
from smidgen.measure.entries import quality_data
from smidgen.measure.quality import difference, resolvable
from smidgen.repeats import repeated
from smidgen.splits import Split
from smidgen.tasks import Classify, Several, Task

USUAL = 0.05  # of the rows, that a student answers otherwise than its teacher


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
    """`unresolved` before there are models, for a share of the teacher's quality and rows on which one in twenty is
    answered otherwise; the teacher can be right on all rows at most."""
    if asked is None or not asked.of_teacher or not 0 < asked.at_least < 1:
        return
    allowed, told = 100 * (1 - asked.at_least), resolvable(len(test), USUAL)
    if told > allowed:
        wanted = round(len(test) * (told / allowed) ** 2)
        said = (
            f"{len(test):,} rows of {test.name} tell differences of {told:.1f} points from chance where two models "
            f"differ on one row in twenty; {asked.text} allows {allowed:.1f} points at most. About {wanted:,} rows "
            "would tell."
        )
        yield Check("unresolved", test.name, len(test), wanted, said)


def unresolved(task: Task, test: Split, outputs: np.ndarray, teacher: np.ndarray, least: float | None) -> list[Check]:
    """A check where test has too few rows to tell what was asked for from a little less: so many of those it takes.

    Args:
        outputs: what `task.decide` takes, of the model that is judged, and of its teacher.
        least: the metric's value that is asked for; None = none is.
    """
    if least is None or test.labels is None:
        return []
    allowed = 100 * (task.score(teacher, test.labels) - least)
    told = _told(task, test.labels, outputs, teacher)
    if allowed <= 0 or told <= allowed:
        return []
    wanted = round(len(test) * (told / allowed) ** 2)
    said = (
        f"{len(test):,} rows of test can tell differences of {told:.1f} points or more from chance; the budget allows "
        f"{allowed:.1f} points below the teacher. That it is kept is likely, not shown: about "
        f"{wanted:,} rows would show it."
    )
    return [Check("unresolved", test.name, len(test), wanted, said)]


def _told(task: Task, gold: np.ndarray, outputs: np.ndarray, teacher: np.ndarray) -> float:
    """The difference of two models in points that these rows tell from chance: in closed form for accuracy, else half
    of the interval of a paired bootstrap."""
    if task.metric == "accuracy" and isinstance(task, Classify | Several):
        right = [task.correct(said, gold) for said in (outputs, teacher)]
        return resolvable(len(gold), float((right[0] != right[1]).mean()))
    low, high = difference(task, teacher, outputs, gold)
    return (high - low) / 2
