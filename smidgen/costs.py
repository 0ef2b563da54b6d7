"""What a plan would cost: rows, steps, texts to label, and what is on disk already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smidgen.artefact import Store
from smidgen.loop import batches
from smidgen.planner import Plan, Planned, resolved_model
from smidgen.runner import describe, training_split
from smidgen.tokens import encode


def costs(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """One entry a stage: `rows`, `steps`, `examples` over all epochs, `to_label` by its teacher, `state`."""
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
        "steps": None,
        "examples": None,
        "to_label": None,
        "state": "on disk" if store.path(planned.id).is_dir() else "to do",
    }
    if planned.trains:
        split = training_split(plan, planned)
        folder = plan.models[resolved_model(planned, plan.stages, planned.source)].path
        lengths = encode(plan.data.task, folder, split.texts, split.pairs, plan.max_length).lengths
        steps = batches(lengths, planned.stage.train, planned.seed)
        found |= {"rows": len(split), "steps": len(steps), "examples": sum(len(rows) for rows in steps)}
        if planned.teachers and not any(method.needs.online for method in planned.methods):
            found["to_label"] = len(set(split.keys.tolist())) * len(planned.teachers)
    return found
