"""A head that reads what a body gives, pooled over its tokens, and nothing else of the model's own head.

    first       the first token's state after the last block                       hidden_size
    mean        the mean of the last block's states over the real tokens           hidden_size
    mix         the same of scale * sum_l softmax(weights)_l h_l over all layers   hidden_size
    last_four   the same of the states of the last four layers, side by side       4 * hidden_size

Layer 0 is the embeddings; the last layer is after the final norm where a family has one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from smidgen.anatomy import anatomy
from smidgen.errors import ModelError
from smidgen.hearing import hearing


class Mix(nn.Module):
    """A weight a layer and a scale (Peters et al. 2018, arXiv:1802.05365, equation 1)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights, self.scale = nn.Parameter(torch.zeros(layers)), nn.Parameter(torch.ones(()))

    def forward(self, states: list[Tensor]) -> Tensor:
        """(B, L, H) of each layer -> (B, L, H)."""
        if len(states) != len(self.weights):
            raise ModelError(
                f"the head mixes {len(self.weights)} layers, the model has {len(states)} now, the embeddings with "
                "them. Cut blocks in a stage before tune.head."
            )
        shares = self.weights.softmax(0)
        return self.scale * sum(share * state for share, state in zip(shares, states, strict=True))


class Headed:
    """What the classes of models with such a head have before their own."""

    pool: str

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **more: Any
    ) -> SequenceClassifierOutput:
        model: Any = self
        parts = anatomy(model)
        asked = beneath(self.pool, len(parts.blocks))
        with hearing(parts, asked) as heard:
            last = model.base_model(input_ids=input_ids, attention_mask=attention_mask, **more)[0]
        states = [*(heard[level] for level in asked), last]
        values = model.mix(states) if self.pool == "mix" else torch.cat(states, -1)
        if self.pool == "first":
            vector = values[:, 0]
        else:
            mask = last.new_ones(last.shape[:2]) if attention_mask is None else attention_mask
            shares = (mask / mask.sum(1, keepdim=True).clamp(min=1)).to(values.dtype)
            vector = (shares.unsqueeze(1) @ values).squeeze(1)
        return SequenceClassifierOutput(logits=model.classifier(vector))


class HeadedOfTypes(Headed):
    """The same where the model takes token types."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **more: Any,
    ) -> SequenceClassifierOutput:
        return super().forward(input_ids, attention_mask, token_type_ids=token_type_ids, **more)


def beneath(pool: str, blocks: int) -> range:
    """The levels that a head reads beside the last state; see `smidgen.hearing`."""
    return {"mix": range(blocks), "last_four": range(blocks - 3, blocks)}.get(pool, range(0))


@functools.cache
def headed(kind: Any, types: bool) -> type:
    """The class of models that are of this kind otherwise."""
    return type(f"Headed{kind.__name__}", (HeadedOfTypes if types else Headed, kind), {"__module__": __name__})
