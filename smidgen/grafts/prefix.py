"""Learnt keys and values that every query sees beside those of the tokens, in every block.

    softmax(q [K; key]^T / sqrt(d)) [V; value]

Prefix-tuning (Li and Liang 2021, arXiv:2101.00190), for encoders P-tuning v2 (Liu et al. 2021, arXiv:2110.07602).

Encoders take no past keys in transformers 5. Here a block's attention runs on P more places behind the tokens, whose
keys and values are the prefix and whose queries are thrown away. So it is the family's own attention, of whatever kind,
that attends: what it adds to scores and hides is made longer, and positions of tokens stay as they are. The hooks on
the projections are put in for one forward, which makes them the last: other grafts and taps see the tokens alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from smidgen.anatomy import Block, anatomy
from smidgen.attention._parts import SelfAttention
from smidgen.errors import ModelError, NoEffect
from smidgen.grafts._parts import Graft

STD = 0.02  # at the start: a prefix near 0 takes its share of the probabilities and brings nothing with it
Pair = tuple[Tensor, Tensor]


class Prefix(Graft):
    """`keys` and `values`: (length, heads * head_size) by block; `real`: (length,), 0 where no query sees them."""

    real: Tensor

    defaults = {"length": 16}
    stands_on = ("heads", "attention", "matrices")
    sizes = ("length",)

    def grow(self, model: PreTrainedModel) -> None:
        length = self.settings["length"]
        blocks = [block for block in anatomy(model).blocks if block.heads]
        if not blocks:
            raise NoEffect("prefix: no block has heads left, so no query would see it. Take tune.adapter.")
        for block in blocks:
            if block.attend is None or isinstance(block.attend, SelfAttention):
                what = "its family's inside is not known" if block.attend is None else "its attention was swapped"
                raise ModelError(f"prefix: block {block.index} takes no more keys: {what}. Take tune.adapter.")
        like = blocks[0].out.weight
        shapes = {str(block.index): (length, _width(block)) for block in blocks}
        self.keys = self.table(shapes, like, STD)
        self.values = self.table(shapes, like, STD)
        self.register_buffer("real", torch.ones(length, device=like.device, dtype=like.dtype))
        self.made: Callable[[str], Pair] | None = None  # gives key and value of a block, in place of the tensors
        self._passing: dict[int, list[torch.utils.hooks.RemovableHandle]] = {}

    def attach(self, model: PreTrainedModel) -> None:
        for block in anatomy(model).blocks:
            if str(block.index) in self.keys:
                assert block.attend is not None
                self.hook(block.attend, before=functools.partial(self.widen, block))
                close = functools.partial(self.close, block)
                self._handles.append(block.out.register_forward_pre_hook(close, prepend=True))

    def widen(self, block: Block, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """What a block's attention gets, for so many places more; the projections' hooks until it is through."""
        name, hidden = str(block.index), args[0]
        given = dict(zip(("attention_mask", "position_bias"), args[1:], strict=False)) | kwargs
        key, value = self.made(name) if self.made else (self.keys[name], self.values[name])
        key, value, more = self.pick(key), self.pick(value), self.settings["length"]
        if key.shape[-1] != _width(block):
            raise ModelError(f"prefix: heads of block {name} were cut since it was made. Cut first, tune after.")
        given["attention_mask"] = longer(given.get("attention_mask"), self.pick(self.real) > 0, hidden)
        if given.get("position_bias") is not None:
            given["position_bias"] = F.pad(given["position_bias"], (0, more, 0, more))
        if given.get("position_embeddings") is not None:  # cos and sin of angle 0
            cos, sin = given["position_embeddings"]
            given["position_embeddings"] = F.pad(cos, (0, 0, 0, more), value=1.0), F.pad(sin, (0, 0, 0, more))
        query = torch.zeros_like(key[..., :1]).expand(-1, -1, _width(block, "query"))
        rows = {block.query: query, block.key: key, block.value: value}
        if block.fused:
            rows = {block.query: torch.cat((query, key, value), -1)}
        self._done(block.index)  # where a forward before this one has failed
        passing = self._passing[block.index] = []
        for linear, values in rows.items():
            passing.append(linear.register_forward_pre_hook(functools.partial(_shorten, more), prepend=True))
            passing.append(linear.register_forward_hook(functools.partial(_lengthen, values, self.tasks is None)))
        return (F.pad(hidden, (0, 0, 0, more)),), given

    def close(self, block: Block, module: nn.Module, args: Any) -> Any:
        """What the output projection gets, of the tokens alone."""
        if not self._done(block.index):
            raise ModelError(f"prefix: the attention of block {block.index} was swapped since. Swap first, tune after.")
        return _shorten(self.settings["length"], module, args)

    def _done(self, index: int) -> bool:
        handles = self._passing.pop(index, [])
        for handle in handles:
            handle.remove()
        return bool(handles)


def longer(mask: Tensor | None, real: Tensor, hidden: Tensor) -> Tensor:
    """A block's mask for as many more keys as `real` (1 or B, P) has, seen where true, and as many queries.

    mask   (1 or B, 1, 1 or L, L), true or 0 where a key is seen; None = all are
    """
    batch, length = hidden.shape[:2]
    if mask is None:
        mask = hidden.new_zeros(batch, 1, 1, length)
    seen = real[:, None, None, :]
    if mask.dtype != torch.bool:
        seen = torch.zeros_like(seen, dtype=mask.dtype).masked_fill(~seen, torch.finfo(mask.dtype).min)
    mask = mask.expand(batch, -1, -1, -1)
    if mask.shape[2] != 1:  # the queries that are thrown away see what the first token sees
        mask = torch.cat((mask, mask[:, :, :1].expand(-1, -1, real.shape[1], -1)), 2)
    return torch.cat((mask, seen.expand(batch, mask.shape[1], mask.shape[2], -1)), -1)


def _width(block: Block, part: str = "key") -> int:
    return block.heads * block.head_size if block.fused else int(getattr(block, part).out_features)


def _shorten(more: int, module: nn.Module, args: Any) -> Any:
    return (args[0][:, :-more], *args[1:])


def _lengthen(rows: Tensor, shared: bool, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """shared: are the rows, (1, P, width), those of the whole batch?"""
    own = rows.to(output.dtype)
    return torch.cat((output, own.expand(output.shape[0], -1, -1) if shared else own), 1)
