"""What a plan would cost: rows, steps, texts to label, and what is on disk already."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.artefact import Store
from smidgen.data import Split
from smidgen.frozen import hindrance
from smidgen.loop import batches
from smidgen.planner import Plan, Planned, resolved_model
from smidgen.reading import training_split
from smidgen.runner import describe
from smidgen.tokens import encode


def costs(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """One entry a stage: `rows`, `steps`, `examples` over all epochs, `to_label` by its teacher, `keeps_mb`, `state`.

    `keeps_mb` is about what the states take on disk that its frozen blocks give; see `smidgen.frozen`.
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
        "keeps_mb": None,
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
    if found["keeps_mb"]:
        takes = f"what its frozen blocks give takes about {found['keeps_mb']:,.4g} MB on disk, once for all epochs."
        found["remarks"] = [*found["remarks"], takes]
    return found


def _training(plan: Plan, planned: Planned, store: Store) -> dict[str, Any]:
    rows, at_most = _rows(plan, planned, store)
    if at_most:
        training = planned.stage.train
        steps, examples, different = _steps(rows, training.batch_size, training.epochs), rows * training.epochs, rows
        tokens = rows * plan.max_length
    else:
        split = training_split(plan, planned, store)
        lengths = _lengths(plan, planned, split)
        made = batches(lengths, planned.stage.train, planned.seed)
        steps, examples, different = len(made), sum(map(len, made)), len(set(split.keys.tolist()))
        tokens = int(lengths.sum())
    asked = planned.teachers and not any(method.needs.online for method in planned.methods)
    to_label = different * len(planned.teachers) if asked else None
    return {
        "rows": rows,
        "steps": steps,
        "examples": math.ceil(examples),
        "to_label": to_label,
        "at_most": at_most,
        "keeps_mb": _kept(plan, planned, tokens),
    }


def _kept(plan: Plan, planned: Planned, tokens: int) -> float | None:
    """MB of the states that frozen blocks give for so many tokens and those of dev; None where none are kept."""
    training, source = planned.stage.train, plan.models[resolved_model(plan.stages, planned.source)]
    levels = {level for method in planned.methods for level in method.frozen(source.blocks)}
    if training.cache == "off" or training.epochs <= 1 or max(levels, default=0) < 1 or _makes(plan, planned):
        return None
    if any(method.thaws() for method in planned.methods) or hindrance(
        planned.methods, plan.data.task.name == "mask_language"
    ):
        return None
    width = int(source.config.get("hidden_size") or source.config.get("dim") or 0)
    tokens += int(_lengths(plan, planned, plan.data.dev).sum())
    return tokens * width * len(levels) * (4 if training.cache == "float32" else 2) / 1e6


def _makes(plan: Plan, planned: Planned | None) -> bool:
    """Is the model of a stage one that it, or a stage before, has made, so that its sizes are not known yet?"""
    if planned is None:
        return False
    return any(method.new_model for method in planned.methods) or _makes(plan, plan.by_id(planned.source))


def _lengths(plan: Plan, planned: Planned, split: Split) -> np.ndarray:
    """(rows,) tokens, by the tokenizer that the stage's model comes with."""
    folder = plan.models[resolved_model(plan.stages, planned.source)].path
    return encode(plan.data.task, folder, split.texts, split.pairs, plan.max_length).lengths


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
