"""Another scale and shift for the norms of the blocks: kept as differences, (1 + dg/g) and db in effect."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.errors import NoEffect
from smidgen.grafts._parts import Graft, first_weight, within


class Norms(Graft):
    """`scale` and `shift`: (hidden,) each, by block and place, such as `3/0`; differences to the norm's own."""

    defaults = {"first": 0}
    sizes = ("first",)

    @classmethod
    def widest(cls, settings: Any) -> dict[str, Any]:
        return {"first": min(each["first"] for each in settings)}

    def grow(self, model: PreTrainedModel) -> None:
        found = self.places(model)
        if not found:
            raise NoEffect(f"norms: this {model.config.model_type} has no LayerNorm in its blocks.")
        shapes = {name: tuple(norm.normalized_shape) for name, norm in found.items()}
        self.scale = self.table(shapes, first_weight(model))
        self.shift = self.table(shapes, first_weight(model))

    def places(self, model: PreTrainedModel) -> dict[str, nn.LayerNorm]:
        blocks = anatomy(model).blocks
        return {
            f"{i}/{j}": norm
            for i in within(model, self.settings["first"], "norms")
            for j, norm in enumerate(m for m in blocks[i].module.modules() if isinstance(m, nn.LayerNorm))
        }

    def attach(self, model: PreTrainedModel) -> None:
        for name, norm in self.places(model).items():
            self.hook(norm, after=functools.partial(self.add, name))

    def add(self, name: str, module: nn.LayerNorm, args: Any, output: Tensor) -> Tensor:
        even = nn.functional.layer_norm(args[0], module.normalized_shape, eps=module.eps)
        scale, shift = (self.pick(table[name]).unsqueeze(1).to(output.dtype) for table in (self.scale, self.shift))
        return output + even * scale + shift

    def mergeable(self, model: PreTrainedModel) -> bool:
        return all(norm.bias is not None for norm in self.places(model).values())

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        for name, norm in self.places(model).items():
            norm.weight.add_(self.scale[name])
            norm.bias.add_(self.shift[name])
