"""One way to run a folder, timed in a process of its own: `python -m smidgen.measure.trial`, a job in, numbers out.

The process is kept to as many processors as the way uses, so that no thread of its own has a place that it would not
have otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.errors import SmidgenError
from smidgen.measure.entries import two_lists
from smidgen.runtime.engines import Way
from smidgen.runtime.model import Model
from smidgen.runtime.serving import Serving


def trial(
    folder: str, way: Mapping[str, Any], budgets: Sequence[int], rows: Sequence[tuple[str, str | None]], single: int
) -> dict[str, Any]:
    """`ms` of the first `single` rows one by one, `texts_per_s` of all together by budget, and what was decided."""
    many = Way(**way)
    pin(many.threads * many.calls)
    one = Way(many.engine, many.precision, many.threads)
    model = Model(folder, told=Serving(one, many))
    alone = [two_lists([row]) for row in rows[:single]]
    for text in alone:  # engines prepare for each length when they first see it
        model.predict(*text)
    times = []
    for text in alone:
        start = time.perf_counter_ns()
        model.predict(*text)
        times.append((time.perf_counter_ns() - start) / 1e6)
    decided: Any = model.predict(*two_lists(rows))
    speeds = {}
    for budget in budgets:
        start = time.perf_counter_ns()
        model.predict(*two_lists(rows), batch_tokens=budget)
        speeds[budget] = len(rows) * 1e9 / (time.perf_counter_ns() - start)
    return {"ms": times, "texts_per_s": speeds, "decided": [bare(answer) for answer in decided]}


def bare(answer: Any) -> Any:
    """An answer without its scores."""
    if isinstance(answer, dict):
        return {name: bare(value) for name, value in answer.items() if name != "score"}
    return [bare(value) for value in answer] if isinstance(answer, list) else answer


def pin(processors: int) -> None:
    """Keep this process to so many of the processors that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])


if __name__ == "__main__":
    try:
        found = trial(**json.load(sys.stdin))
    except SmidgenError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(found))
