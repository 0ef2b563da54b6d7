"""What a plan would cost: rows, steps, texts to label, and what is on disk already."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from smidgen.artefact import Store
from smidgen.loop import batches
from smidgen.planner import Plan, Planned, resolved_model
from smidgen.reading import training_split
from smidgen.runner import describe
from smidgen.tokens import encode


def costs(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """One entry a stage: `rows`, `steps`, `examples` over all epochs, `to_label` by its teacher, `state`.

    A data step has `rows` that it grows and `makes`, the texts that come of it. Where a data step has not run yet, what
    depends on it is the most that it can be, and `at_most` is true.
    """
    store = Store(root)
    return [_cost(plan, planned, store) for planned in plan.stages]


def _cost(plan: Plan, planned: Planned, store: Store) -> dict[str, Any]:
    named = {p.id: p.stage.name for p in plan.stages}
    found: dict[str, Any] = {
        "name": planned.stage.name,
        "id": planned.id,
        "methods": describe(planned),
        "source": named.get(planned.source, planned.source),
        "rows": None,
        "makes": None,
        "steps": None,
        "examples": None,
        "to_label": None,
        "at_most": False,
        "state": "on disk" if store.path(planned.id).is_dir() else "to do",
        "remarks": planned.remarks,
    }
    if planned.leaves == "texts":
        rows, _ = _rows(plan, planned, store)
        makes, at_most = _made(plan, planned, store)
        return found | {"rows": rows, "makes": makes, "at_most": at_most}
    if planned.trains:
        found |= _training(plan, planned, store)
    return found


def _training(plan: Plan, planned: Planned, store: Store) -> dict[str, Any]:
    rows, at_most = _rows(plan, planned, store)
    if at_most:
        training = planned.stage.train
        steps, examples, different = _steps(rows, training.batch_size, training.epochs), rows * training.epochs, rows
    else:
        split = training_split(plan, planned, store)
        folder = plan.models[resolved_model(planned, plan.stages, planned.source)].path
        lengths = encode(plan.data.task, folder, split.texts, split.pairs, plan.max_length).lengths
        made = batches(lengths, planned.stage.train, planned.seed)
        steps, examples, different = len(made), sum(map(len, made)), len(set(split.keys.tolist()))
    asked = planned.teachers and not any(method.needs.online for method in planned.methods)
    to_label = different * len(planned.teachers) if asked else None
    return {"rows": rows, "steps": steps, "examples": math.ceil(examples), "to_label": to_label, "at_most": at_most}


def _steps(rows: int, batch_size: int, epochs: float) -> int:
    """About how many steps so many rows take; see `smidgen.loop.batches`."""
    return math.ceil(math.ceil(rows / batch_size) * epochs)


def _rows(plan: Plan, planned: Planned, store: Store) -> tuple[int, bool]:
    """How many rows a stage reads, and whether that is only the most they can be."""
    splits = {"train": plan.data.train, "unlabeled": plan.data.unlabeled}
    counts = []
    for part in planned.parts:
        split, step = splits.get(part), plan.by_id(part)
        counts.append((len(split), False) if split is not None else _made(plan, step, store) if step else (0, False))
    return sum(count for count, _ in counts), any(most for _, most in counts)


def _made(plan: Plan, step: Planned, store: Store) -> tuple[int, bool]:
    """How many texts a data step leaves, and whether that is only the most they can be."""
    done = store.find(step.id)
    if done is not None:
        return int(done.record["found"]["grown"]), False
    rows, _ = _rows(plan, step, store)
    return int(step.methods[0].most(rows)), True  # type: ignore[attr-defined]
