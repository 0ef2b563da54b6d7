"""What several Edits share. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smidgen.anatomy import Block, anatomy
from smidgen.errors import InputError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def rising(indices: object) -> bool:
    """Whether this is a tuple of indices, each 0 or more and larger than the one before; the empty one is."""
    if not isinstance(indices, tuple) or any(type(i) is not int or i < 0 for i in indices):
        return False
    return all(before < after for before, after in itertools.pairwise(indices))


def check_fields(edit: str, block: int, what: str, kept: tuple[int, ...]) -> None:
    """Refuse fields that suit no model."""
    if type(block) is not int or block < 0:
        raise InputError(f"{edit} got block={block!r}, wanted a block's number, counted from 0.")
    if not rising(kept):
        raise InputError(
            f"{edit} got {what}={kept!r}, wanted a tuple of indices counted from 0, each larger than the one before, "
            f"such as (0, 2, 3), or () for none."
        )


def unattached(model: PreTrainedModel, edit: str, part: str) -> None:
    """Raise ModelError where a graft of the model stands on a part that is to change: heads, widths, blocks, matrices
    or attention."""
    from smidgen.edits.attach import attached

    graft: Any
    for graft in attached(model.base_model):
        if part in graft.stands_on:
            kind = type(graft).__module__.rpartition(".")[2]
            raise ModelError(f"{edit}: a {kind} was put beside the {part} of this model. Cut first, attach after.")


def block_of(model: PreTrainedModel, edit: str, index: int) -> Block:
    """The block, if its inside can be cut."""
    from torch import nn

    from smidgen.hollow import Constant, Nothing

    parts = anatomy(model)
    count = len(parts.blocks)
    if index >= count:
        raise InputError(
            f"{edit} got block {index}, but this model has {count} blocks: use indices from 0 to {count - 1}."
        )
    block = parts.blocks[index]
    if block.attend is None:
        raise ModelError(
            f"{edit} cannot cut inside a block of {parts.family}, where several feed-forwards share a block. Drop "
            f"whole blocks with KeepBlocks, or take a model of another family."
        )
    whole = (block.out, block.query, block.key, block.value) if edit == "KeepHeads" else (block.up, block.down)
    others = sorted({type(p).__name__ for p in whole if not isinstance(p, (nn.Linear, Nothing, Constant))})
    if edit == "KeepHeads" and not block.fused and block.key.out_features != block.query.out_features:
        others = ["one key for all heads"]
    if others:
        raise ModelError(f"{edit}: block {index} has {', '.join(others)} in place of a Linear. Cut first, swap after.")
    return block


def check_range(edit: str, index: int, what: str, kept: Sequence[int], count: int, other: int) -> None:
    """Refuse what is not there, and a block that would have nothing left. `other` is the size of its other sublayer."""
    if kept and kept[-1] >= count:
        last = f"use indices from 0 to {count - 1}" if count else "it has none to keep"
        raise InputError(f"{edit} got {what[:-1]} {kept[-1]}, but block {index} has {count} {what}: {last}.")
    if not kept and not other:
        raise InputError(f"{edit} leaves block {index} with nothing: drop the block with KeepBlocks.")


def cut(linear: Any, outputs: Sequence[int] | None = None, inputs: Sequence[int] | None = None) -> None:
    """Keep these rows of a Linear's weight and bias, or these columns of its weight, in place; of a hollow one, of what
    it has."""
    if outputs is not None:
        linear.out_features = len(outputs)
        _keep(linear, "weight", 0, outputs)
        _keep(linear, "bias", 0, outputs)
    if inputs is not None:
        linear.in_features = len(inputs)
        _keep(linear, "weight", 1, inputs)


def narrow(module: Any, kept: Sequence[int]) -> None:
    """Keep these dimensions of the vectors of an Embedding, or of a LayerNorm, in place."""
    from torch import nn

    table = isinstance(module, nn.Embedding)
    _keep(module, "weight", 1 if table else 0, kept)
    if table:
        module.embedding_dim = len(kept)
    else:
        _keep(module, "bias", 0, kept)
        module.normalized_shape = (len(kept),)


def _keep(module: nn.Module, name: str, axis: int, indices: Sequence[int]) -> None:
    from torch import nn

    values = module._parameters.get(name)
    if values is not None:
        kept = nn.Parameter(picked(values.detach(), axis, indices), requires_grad=values.requires_grad)
        module._parameters[name] = kept


def picked(values: Tensor, axis: int, indices: Sequence[int]) -> Tensor:
    import torch

    return values.index_select(axis, torch.tensor(list(indices), dtype=torch.long, device=values.device))


def put(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another one below `root`, training or not as that was."""
    new.train(old.training)
    for parent in root.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
