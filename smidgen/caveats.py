"""What a reader of figures on test has to know: which rows were as good as seen, and what so few rows can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.measure.entries import quality_data
from smidgen.measure.quality import resolvable
from smidgen.repeats import repeated
from smidgen.splits import Split
from smidgen.tasks import Classify, Several, Task


def seen(task: Task, test: Split, train: Split, outputs: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """How many rows of test nearly are rows of train, and what each model scores on the others.

    Args:
        outputs: by model, what `task.decide` takes, of all rows of test.

    Returns:
        `rows`, `share` and `quality` of the models without them; and a sentence where there are any.
    """
    at = repeated(test, train)
    rows = np.flatnonzero(at >= 0)
    found: dict[str, Any] = {"rows": len(rows), "share": len(rows) / len(test), "quality": {}}
    if not len(rows) or len(rows) == len(test):
        return found, _all(test, train) if len(rows) else []
    rest = test.take(at < 0)
    found["quality"] = {name: quality_data(task, said[at < 0], rest) for name, said in outputs.items()}
    scores = ", ".join(f"{name} {score['value']:.3f}" for name, score in found["quality"].items())
    return found, [
        f"{len(rows):,} of {len(test):,} rows of test ({found['share']:.1%}) are nearly or wholly rows of train, "
        f"as row {rows[0] + 1} of test and row {at[rows[0]] + 1} of train. Without them, {task.metric}: {scores}."
    ]


def _all(test: Split, train: Split) -> list[str]:
    return [f"Every row of test is nearly or wholly one of train: {test.source} says nothing of new texts."]


def unresolved(task: Task, test: Split, outputs: np.ndarray, teacher: np.ndarray, least: float | None) -> list[str]:
    """A sentence where test has too few rows to tell what was asked for from a little less.

    Args:
        outputs: what `task.decide` takes, of the model that is judged, and of its teacher.
        least: the metric's value that is asked for; None = none is.
    """
    if least is None or task.metric != "accuracy" or not isinstance(task, Classify | Several) or test.labels is None:
        return []
    right = [task.correct(said, test.labels) for said in (outputs, teacher)]
    allowed = 100 * (float(right[1].mean()) - least)
    told = resolvable(len(test), float((right[0] != right[1]).mean()))
    if allowed <= 0 or told <= allowed:
        return []
    return [
        f"{len(test):,} rows of test can tell differences of {told:.1f} points or more from chance; the budget allows "
        f"{allowed:.1f} points below the teacher. That it is kept is likely, not shown: about "
        f"{len(test) * (told / allowed) ** 2:,.0f} rows would show it."
    ]
