"""Put fewer and narrower blocks of the same family in the place of the stage's model.

Idea       A new encoder of the same family with h' < h: its embeddings are the source's times P, the first h' right
           singular vectors of the centred token table, E' = (E - mean) P (Mukherjee and Awadallah 2020,
           arXiv:2004.05686; XtremeDistilTransformers, arXiv:2106.04563); its blocks are random, since no block of
           another width fits (MiniLM, Wang et al. 2020, arXiv:2002.10957).
Takes      A float model of a family with an anatomy. No data.
Leaves     A plain Hugging Face model of that family with the source's tokenizer, so that objectives on tokens compare.
Beside     distil.hidden, whose projections carry it to the teacher's width, and many texts.
Fails      Its blocks know nothing. With few texts prune.layers, which keeps what the blocks know, is far ahead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import nn
from transformers import PreTrainedConfig

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, NoEffect
from smidgen.lexicon import components
from smidgen.making import LARGEST, make
from smidgen.method import Context, Method, between
from smidgen.uneven import plain


@final
@dataclass(frozen=True)
class Narrow(Method[None]):
    width: int = 0  # of the hidden states; 0 = half the source's
    blocks: int = 0  # 0 = half the source's, rounded up
    heads: int = 0  # 0 = as many as keep the source's head size
    feed_forward: int = 0  # 0 = as many times the width as in the source

    new_model: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        for name in ("width", "blocks", "heads", "feed_forward"):
            yield from between(name, getattr(self, name), 0, LARGEST)

    def begin(self, ctx: Context) -> None:
        assert ctx.model is not None
        here = anatomy(ctx.model)
        if here.family == "mobilebert":
            raise InputError("student.narrow: the widths of a MobileBERT are those of student.mobile. Use that.")
        first, blocks = here.blocks[0], len(here.blocks)
        width = self.width or max(1, here.hidden_size // 2)
        shape = Shape(
            blocks=self.blocks or (blocks + 1) // 2,
            width=width,
            heads=self.heads or max(1, width // first.head_size),
            feed_forward=self.feed_forward or max(1, first.width * width // here.hidden_size),
        )
        if shape == Shape(blocks, here.hidden_size, first.heads, first.width):
            raise NoEffect(f"student.narrow: this is the source's own shape, {shape}. Ask for less, or drop it.")
        if shape.width > here.hidden_size or shape.blocks > blocks:
            raise InputError(
                f"student.narrow: got {shape.blocks} blocks of width {shape.width}, the source has {blocks} of width "
                f"{here.hidden_size}. Ask for less."
            )
        if shape.width % shape.heads:
            raise InputError(
                f"student.narrow: a width of {shape.width} cannot be cut into {shape.heads} heads. Make it a multiple."
            )
        model = make(ctx, narrowed(plain(ctx.model.config), shape, ctx.task.config()), "student.narrow")
        carry_embeddings(here.embeddings, anatomy(model).embeddings, ctx.model.get_input_embeddings())
        ctx.adopt(model)


@dataclass(frozen=True)
class Shape:
    """Of an encoder, in the same words for every family."""

    blocks: int
    width: int
    heads: int
    feed_forward: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks of width {self.width}, {self.heads} heads, feed-forward {self.feed_forward}"


def narrowed(config: PreTrainedConfig, shape: Shape, task: dict[str, Any]) -> PreTrainedConfig:
    """The same family's config in another shape, for a task."""
    data = copy.deepcopy(config.to_dict())
    feed_forward = "hidden_dim" if "hidden_dim" in data else "intermediate_size"
    sizes = {"num_hidden_layers": shape.blocks, "hidden_size": shape.width, "num_attention_heads": shape.heads}
    names = config.attribute_map
    data |= {names.get(name, name): value for name, value in sizes.items()} | {feed_forward: shape.feed_forward}
    if data.get("layer_types"):
        data["layer_types"] = data["layer_types"][: shape.blocks]
    return type(config).from_dict(data | task)


def carry_embeddings(source: nn.Module, target: nn.Module, words: Any) -> None:
    """Every table of the source, cut to the target's width; a table of the same width is copied as it is.

    The token table is centred first; tables of positions and types are cut by the same P, so that their sums with
    tokens keep what they can of their geometry.
    """
    table = words.weight.detach()
    basis = torch.from_numpy(components(table.numpy())).float()
    old = dict(source.named_parameters())
    with torch.no_grad():
        for name, new in target.named_parameters():
            found = old[name].detach()
            if found.shape == new.shape:
                new.copy_(found)
            elif found.ndim == 2:
                centred = found - found.mean(0) if found.shape == table.shape else found
                new.copy_(centred @ basis[:, : new.shape[1]])
