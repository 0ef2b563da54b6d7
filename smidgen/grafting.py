"""How methods of `tune` train a graft beside a frozen model, and what becomes of it; what of a model is its head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.anatomy import anatomy
from smidgen.edits.attach import NAME, Attach, attached
from smidgen.errors import InputError
from smidgen.grafts import build
from smidgen.method import Context, Part
from smidgen.source import tensor_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from smidgen.grafts._parts import Graft


def begin(ctx: Context, kind: str, settings: Mapping[str, Any]) -> Graft:
    """Freeze the model but its head, and put a new graft beside it. The graft is the state of the method: it trains."""
    assert ctx.model is not None
    freeze(ctx)
    graft = build(ctx.model, kind, settings)
    graft.folds = graft.mergeable(ctx.model)
    graft.attach(ctx.model)
    return graft


def freeze(ctx: Context) -> None:
    """Leave nothing of the model to train but its head, as far as tune.freeze leaves that."""
    assert ctx.model is not None
    head = head_names(ctx.model, ctx.source)
    for name, parameter in ctx.model.named_parameters(remove_duplicate=False):
        parameter.requires_grad = name in head and parameter not in ctx.frozen


def end(graft: Graft, ctx: Context) -> None:
    """Fold the graft into the weights, or make it a part of the model; thaw the model."""
    assert ctx.model is not None
    graft.detach()
    settle(ctx.model, graft, ctx)
    ctx.model.requires_grad_(True)


def settle(model: PreTrainedModel, graft: Graft, ctx: Context | None = None) -> None:
    """What `end` does to the model; without a context the Edit is applied and not recorded elsewhere."""
    from smidgen.surgery import apply

    graft.to(model.device)
    if graft.mergeable(model):
        graft.merge(model)
        return
    edit = Attach(type(graft).__module__.rpartition(".")[2], plain(graft.settings))
    if ctx is None:
        apply(model, edit)
    else:
        ctx.edit(edit)
    attached(model.base_model)[-1].load_state_dict(graft.state_dict())


def part(graft: Graft) -> Part:
    """What a delta keeps of it."""
    tensors = {name: value.detach().cpu().clone() for name, value in graft.state_dict().items()}
    return Part(type(graft).__module__.rpartition(".")[2], graft.settings, tensors)


def plain(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Settings as an Edit records them: sorted pairs, lists as tuples."""
    return tuple((name, tuple(v) if isinstance(v, (list, tuple)) else v) for name, v in sorted(settings.items()))


def head_names(model: PreTrainedModel, base: Path) -> frozenset[str]:
    """Parameters of the task and not of the base: all outside the body, and of the body what the base's file lacks.

    Such as the pooler of a BERT that came without one: it is random, so it is trained and kept with the head.
    """
    prefix = f"{model.base_model_prefix}."
    known = {name.removeprefix(prefix) for name in tensor_shapes(base / "model.safetensors")}
    named = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names = [name for name in named if not name.startswith(f"{prefix}{NAME}")]  # a graft is neither
    return frozenset(n for n in names if not n.startswith(prefix) or n.removeprefix(prefix) not in known)


def first_of(model: PreTrainedModel, blocks: int | str, method: str) -> int:
    """The block from which the last so many are, or all. Raises InputError where there are fewer."""
    count = len(anatomy(model).blocks)
    if isinstance(blocks, str):
        return 0
    if blocks > count:
        raise InputError(f"{method}: blocks is {blocks}, but this model has {count}. Write blocks: all.")
    return count - blocks
