"""Learnt factors on what projections give and get: (IA)^3 (Liu et al. 2022, arXiv:2205.05638), kept as factor - 1."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.errors import InputError
from smidgen.grafts._parts import Graft, first_weight
from smidgen.grafts.lora import SITES, joined, linears


class Scale(Graft):
    """By block and site, such as `3/key`: given (outputs,), of a site's output, and got (inputs,), of its input."""

    defaults = {"outputs": ("key", "value"), "inputs": ("down",)}
    stands_on = ("heads", "widths")

    @classmethod
    def widest(cls, settings: Any) -> dict[str, Any]:
        return {side: joined(each[side] for each in settings) for side in cls.defaults}

    @classmethod
    def key(cls, settings: Mapping[str, Any]) -> Hashable:
        """Nothing: where a task has no factor it has 0, which stands for 1."""
        return ()

    def grow(self, model: PreTrainedModel) -> None:
        like = first_weight(model)
        if not self.settings["outputs"] and not self.settings["inputs"]:
            raise InputError(f"scale: got no sites, wanted some of {', '.join(SITES)} as outputs or inputs.")
        given, got = (linears(model, self.settings[side]) for side in ("outputs", "inputs"))
        self.given = self.table({name: (linear.out_features,) for name, linear in given.items()}, like)
        self.got = self.table({name: (linear.in_features,) for name, linear in got.items()}, like)

    def attach(self, model: PreTrainedModel) -> None:
        for name, linear in linears(model, self.settings["outputs"]).items():
            self.hook(linear, after=functools.partial(self.behind, name))
        for name, linear in linears(model, self.settings["inputs"]).items():
            self.hook(linear, before=functools.partial(self.ahead, name))

    def behind(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * self.factor(self.given[name], output)

    def ahead(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (args[0] * self.factor(self.got[name], args[0]), *args[1:]), kwargs

    def factor(self, values: Tensor, like: Tensor) -> Tensor:
        """(B or 1, 1, numbers)."""
        return 1 + self.pick(values).unsqueeze(1).to(like.dtype)

    def mergeable(self, model: PreTrainedModel) -> bool:
        return True

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        for name, linear in linears(model, self.settings["outputs"]).items():
            linear.weight.mul_(1 + self.given[name].unsqueeze(1))
            if linear.bias is not None:
                linear.bias.mul_(1 + self.given[name])
        for name, linear in linears(model, self.settings["inputs"]).items():
            linear.weight.mul_(1 + self.got[name])
