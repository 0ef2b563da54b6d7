"""What an anatomy says, in the same words for each family. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def product(query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Scaled dot products of all pairs of tokens: two (B, heads, L, head_size) give (B, heads, L, L).

    `args` and `kwargs` are what the block's `forward` got. Families whose scores need more than query and key (a
    relative bias, rotary angles) find it there.
    """
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def untold(heads: tuple[int, ...]) -> None:
    return None


def as_is(values: Tensor) -> Tensor:
    return values


def tanh(values: Tensor) -> Tensor:
    return values.tanh()


def relu(values: Tensor) -> Tensor:
    return values.relu()


@dataclass(frozen=True, eq=False)
class Block:
    """One Transformer block. All projections are `nn.Linear` unless an Edit has swapped them."""

    index: int
    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear  # attention's output projection
    up: nn.Linear  # first of the feed-forward pair; with a gated feed-forward, both halves: (2 * width, hidden)
    down: nn.Linear
    head_size: int
    attend: nn.Module | None = None  # runs query, key and value; None where the inside of a block cannot be cut
    feed: nn.Module | None = None  # runs `up`
    attend_norm: nn.Module | None = None  # a norm that the attention alone reads
    feed_norm: nn.Module | None = None
    fused: bool = False  # query is key is value: one Linear whose output is query, key, value in this order
    gated: bool = False  # the feed-forward is down(act(first half of up) * second half of up)
    window: int | None = None  # local attention: keys further away than this many tokens are masked
    in_tuple: bool = False  # its forward gives a tuple, the hidden states first, and not the hidden states themselves
    score: Callable[[Tensor, Tensor, tuple[Any, ...], Mapping[str, Any]], Tensor] = product
    tell: Callable[[tuple[int, ...]], None] = untold  # which of its heads have stayed, of those it had

    @property
    def heads(self) -> int:
        return self.query.out_features // self.head_size // (3 if self.fused else 1)

    @property
    def width(self) -> int:
        """Neurons of the feed-forward."""
        return self.down.in_features


@dataclass(frozen=True, eq=False)
class States:
    """Where the states of a model's tokens are: all that its taps, but those of heads, and its thawing have to know.

    The modules are the model's own. Of the body, what is neither in a layer nor above them is below.
    """

    family: str
    body: nn.Module  # all but what makes the logits
    layers: tuple[nn.Module, ...]  # in order; each gives a state a token, (B, L, hidden_size)
    hidden_size: int
    input_size: int  # width of what the first layer gets
    above: tuple[nn.Module, ...] = ()  # of the body, above the last layer
    norm: nn.Module | None = None  # one of these: what gives the last layer's state in its place

    def giver(self, index: int) -> nn.Module:
        """The module whose output is the state that layer `index`, from 0, leaves."""
        return self.norm if self.norm is not None and index == len(self.layers) - 1 else self.layers[index]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where the parts of one model are. The modules are the model's own, not copies.

    The pooled vector, which the last Linear of a sentence classifier reads, is `activate(pooler(...))`, then dropout.
    """

    family: str
    body: nn.Module
    block_list: nn.ModuleList
    blocks: tuple[Block, ...]
    embeddings: nn.Module
    hidden_size: int
    project: nn.Module | None = None  # between the embeddings and the first block
    pooler: nn.Module | None = None
    activate: Callable[[Tensor], Tensor] = as_is
    head: nn.Module | None = None  # the last Linear: classes, tags, spans or vocabulary; None for a bare body
    norm: nn.Module | None = None  # a norm between the last block and `last_hidden_state`
    pinned: tuple[int, ...] = ()  # blocks that cannot be dropped or moved
    width_key: str = "intermediate_size"  # the config's word for the width of the feed-forward

    @property
    def states(self) -> States:
        return States(
            family=self.family,
            body=self.body,
            layers=tuple(block.module for block in self.blocks),
            hidden_size=self.hidden_size,
            input_size=self.hidden_size,
            above=tuple(module for module in (self.pooler, self.norm) if module is not None),
            norm=self.norm,
        )


def last_linear(model: PreTrainedModel) -> nn.Module | None:
    """What makes the logits, or None for a bare body."""
    for name in ("classifier", "qa_outputs"):
        if (head := getattr(model, name, None)) is not None:
            return getattr(head, "out_proj", head)
    return model.get_output_embeddings()


def pooling(
    model: PreTrainedModel, activate: Callable[[Tensor], Tensor]
) -> tuple[nn.Module | None, Callable[[Tensor], Tensor]]:
    """Pooler and activation where a classification head of `dense` and `out_proj` may do the pooling.

    `activate` is the head's own activation; a body's own pooler has it inside.
    """
    head: Any = getattr(model, "classifier", None)
    if hasattr(head, "out_proj"):
        return head.dense, activate
    return getattr(model.base_model, "pooler", None), as_is
