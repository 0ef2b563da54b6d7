"""Bottleneck adapters: h + U f(D h + d) + u, after a sublayer or beside it.

houlsby    after attention's output projection and after the feed-forward, before the residual (Houlsby et al. 2019,
           arXiv:1902.00751)
pfeiffer   after the feed-forward alone (Pfeiffer et al. 2020, arXiv:2005.00052)
parallel   from the feed-forward's input to its output, times `scale` (He et al. 2022, arXiv:2110.04366)
normed     pfeiffer as AdapterHub has it: what is added after the feed-forward is made of norm(residual + feed-forward)
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from smidgen.anatomy import Block, anatomy
from smidgen.errors import InputError
from smidgen.grafts._parts import Graft, first_weight, within

KINDS = ("houlsby", "pfeiffer", "parallel", "normed")
STD = 1e-2  # of the two matrices at the start, so that a block stays near the identity


class Adapter(Graft):
    """Tensors by block and place, such as `3/down`: into (size, width), back (width, size), and a bias of each.

    size: of what the place gives, the hidden size but in MobileBERT.
    """

    skip: int | Tensor  # the first so many blocks pass their adapters by: AdapterDrop, as it trains

    defaults = {"kind": "pfeiffer", "width": 48, "activation": "relu", "scale": 1.0, "first": 0}
    sizes = ("width", "first")

    @classmethod
    def widest(cls, settings: Any) -> dict[str, Any]:
        kinds = {each["kind"] for each in settings}
        first = min(each["first"] for each in settings)
        return {**super().widest(settings), "kind": "houlsby" if "houlsby" in kinds else kinds.pop(), "first": first}

    @classmethod
    def key(cls, settings: Mapping[str, Any]) -> Hashable:
        """After the feed-forward both of the sequential kinds do the same; what a task lacks is zeros."""
        same = {**settings, "kind": "houlsby"} if settings["kind"] == "pfeiffer" else settings
        return super().key(same)

    def grow(self, model: PreTrainedModel) -> None:
        if self.settings["kind"] not in KINDS:
            raise InputError(f"kind is {self.settings['kind']!r}, wanted one of {', '.join(KINDS)}")
        blocks, width, like = anatomy(model).blocks, self.settings["width"], first_weight(model)
        places = ["out", "down"] if self.settings["kind"] == "houlsby" else ["down"]
        parallel = self.settings["kind"] == "parallel"
        sizes: dict[str, tuple[int, int]] = {}  # of what an adapter reads, and of what it is added to
        for i in within(model, self.settings["first"], "adapters"):
            for place in places:
                given = getattr(blocks[i], place).out_features
                sizes[f"{i}/{place}"] = blocks[i].up.in_features if parallel else given, given
        self.blocks, self.skip = len(blocks), 0
        self.into = self.table({name: (got, width) for name, (got, _) in sizes.items()}, like, STD)
        self.into_bias = self.table({name: (width,) for name in sizes}, like)
        back_std = 0.0 if parallel else STD
        self.back = self.table({name: (width, given) for name, (_, given) in sizes.items()}, like, back_std)
        self.back_bias = self.table({name: (given,) for name, (_, given) in sizes.items()}, like)
        self.act: nn.Module = ACT2FN[self.settings["activation"]]

    def attach(self, model: PreTrainedModel) -> None:
        for block in anatomy(model).blocks:
            for place in ("out", "down"):
                name = f"{block.index}/{place}"
                if name not in self.into:
                    continue
                if self.settings["kind"] == "parallel":
                    self.hook(block.up, before=functools.partial(self.keep, name))
                    self.hook(block.down, after=functools.partial(self.beside, name))
                elif self.settings["kind"] == "normed":
                    self.hook(norm_behind(block), before=functools.partial(self.ahead, name))
                else:
                    self.hook(getattr(block, place), after=functools.partial(self.behind, name))

    def keep(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.__dict__["input"] = args[0]

    def beside(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + self.bottleneck(name, self.__dict__.pop("input"), module.training)

    def ahead(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (args[0] + self.bottleneck(name, module.forward(args[0]), module.training),), kwargs

    def behind(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + self.bottleneck(name, output, module.training)

    def bottleneck(self, name: str, values: Tensor, training: bool) -> Tensor:
        """(B, L, size) to the same, near 0 at the start; passed by for a step, where that is how it trains."""
        if training and int(name.partition("/")[0]) < self.skip:
            return torch.zeros_like(values)
        into, into_bias, back, back_bias = (
            self.pick(table[name]).to(values.dtype) for table in (self.into, self.into_bias, self.back, self.back_bias)
        )
        inner = self.act(values @ into + into_bias.unsqueeze(1))
        return self.settings["scale"] * (inner @ back + back_bias.unsqueeze(1))


def norm_behind(block: Block) -> nn.Module:
    """What norms the sum of residual and feed-forward. Raises InputError where norms stand in front of sublayers."""
    if block.feed_norm is not None:
        raise InputError("adapter: kind normed wants the norm behind the feed-forward; this family has it in front.")
    return [module for module in block.module.modules() if isinstance(module, nn.LayerNorm)][-1]
