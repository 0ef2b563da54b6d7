"""What several kinds of attention share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smidgen.anatomy import Block
from smidgen.edits._parts import put
from smidgen.errors import ModelError


class SelfAttention(nn.Module):
    """In the place of a family's attention, with its projections under their names; `mix` makes one of the three.

    mix   called with query, key, value (B, heads, L, head_size), `real` (B, L) bool, true at real tokens, and the
          probability of dropout; gives (B, heads, L, head_size)
    """

    dropout: nn.Dropout

    def __init__(self, block: Block, mix: nn.Module, shared: bool = False) -> None:
        """`shared`: the query is the key too, and the block's own key is thrown away."""
        super().__init__()
        assert block.attend is not None
        names = {id(child): name for name, child in block.attend.named_children()}
        inside = {part: id(getattr(block, part)) for part in ("query", "key", "value", "out")}
        self.parts = {part: names[found] for part, found in inside.items() if found in names}
        for name, child in block.attend.named_children():
            if not (shared and child is block.key):
                self.add_module(name, child)
        if shared:
            self.parts["key"] = self.parts["query"]
        self.attention_head_size = block.head_size
        self.mix = mix

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        query, key, value = (self.heads(part, hidden_states) for part in ("query", "key", "value"))
        dropout = self.dropout.p if self.training else 0.0
        mixed = self.mix(query, key, value, real(attention_mask, hidden_states), dropout)
        mixed = mixed.transpose(1, 2).flatten(2)
        return (self.get_submodule(self.parts["out"])(mixed) if "out" in self.parts else mixed), None

    def score(self, *_: Any) -> Tensor:
        raise ModelError(
            "scores of all pairs of tokens are asked of a block whose attention makes only some of them. Compare what "
            "blocks give: block.<i>.hidden."
        )

    def heads(self, part: str, hidden_states: Tensor) -> Tensor:
        projected = self.get_submodule(self.parts[part])(hidden_states)
        return projected.unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)


def real(attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor:
    """(B, L) bool, true at real tokens, of the mask that the family hands to a block: none, (B, L), or (B, 1, any, L),
    bool, or 0 where a key is seen."""
    if attention_mask is None:
        return torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    if attention_mask.dim() == 2:
        return attention_mask.bool()
    row = attention_mask[:, 0, 0, :]
    return row if row.dtype == torch.bool else row == 0


def take_over(block: Block, attention: SelfAttention) -> None:
    assert block.attend is not None
    put(block.module, block.attend, attention)


def fill(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores with the least number there is where a key is not seen; a query that sees none has even probabilities."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min)


def windows(length: int, step: int, width: int, device: torch.device) -> Tensor:
    """(pieces, width): the places from i * step on, for so many pieces that all of `length` are in one, and one more.

    At least two pieces, and no view that has to divide: the shapes of a graph hold for any length then.
    """
    pieces = (length + step - 1) // step + 1
    return torch.arange(pieces, device=device)[:, None] * step + torch.arange(width, device=device)
