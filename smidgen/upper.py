"""The part of a model above its lowest changed block: what a task that cannot share a batch needs for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.edits._parts import put
from smidgen.edits.attach import attached
from smidgen.tape import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Passing(nn.Module):
    """Stands in the place of embeddings and gives the vectors that came in their stead."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Tensor:
        return next(v for v in (inputs_embeds, *args) if isinstance(v, Tensor) and v.is_floating_point())


class Upper(nn.Module):
    """A model from block `first` on, which takes the states that block first - 1 leaves; from 0, the whole model."""

    def __init__(self, model: PreTrainedModel, first: int) -> None:
        super().__init__()
        if first:
            parts = anatomy(model)
            body: Any = parts.body
            put(body, parts.embeddings, Passing())
            if hasattr(body, "embeddings_project"):
                body.embeddings_project = nn.Identity()
            del parts.block_list[:first]
        self.model = model.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """`inputs_embeds` (B, L, hidden) or `input_ids` (B, L), with their mask, to logits."""
        return {"logits": logits_of(self.model(**inputs))}


def lowest(model: PreTrainedModel, base: PreTrainedModel) -> int:
    """The number of the first block in which a model differs from its base; all blocks where only what is above them
    does, and 0 where something below them does, or a graft stands beside the blocks and may read any of them.
    A head that reads several states wants the lowest of them."""
    ours, theirs = anatomy(model), anatomy(base)
    count = len(ours.blocks)
    reads = {"mix": 0, "last_four": count - 3}.get(getattr(model, "pool", ""), count)
    if attached(ours.body):
        return 0
    inside = {
        id(value) for m in (ours.block_list, *ours.states.above) for value in m.state_dict(keep_vars=True).values()
    }
    known = theirs.body.state_dict()
    for name, value in ours.body.state_dict(keep_vars=True).items():
        if id(value) not in inside and not torch.equal(value, known[name]):
            return 0
    for one, other in zip(ours.blocks, theirs.blocks, strict=True):
        numbers = one.module.state_dict(), other.module.state_dict()
        if any(not torch.equal(numbers[0][name], numbers[1][name]) for name in numbers[1]):
            return min(one.index, reads)
    return reads
