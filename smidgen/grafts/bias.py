"""A shift of the output of projections and norms: b' = b + delta (BitFit: Ben Zaken et al. 2022, arXiv:2106.10199)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import Block, anatomy
from smidgen.errors import InputError, NoEffect, did_you_mean
from smidgen.grafts._parts import Graft

SITES = ("query", "key", "value", "out", "up", "down", "norms")


class Bias(Graft):
    """`shift`: (outputs,) by block and place, such as `3/query`. Where a model has no such bias, `add` puts one in.

    With all sites it is of those that a model has; of fewer, each has to have one.
    """

    defaults = {"sites": SITES, "add": False}
    stands_on = ("heads", "widths")

    def grow(self, model: PreTrainedModel) -> None:
        sites, add = tuple(self.settings["sites"]), self.settings["add"]
        tuned = {n: m for n, m in places(model, sites).items() if add or _bias(m) is not None}
        idle = [site for site in sites if all(m not in tuned.values() for m in places(model, (site,)).values())]
        if idle and (sites != SITES or not tuned):
            lacks = add or not places(model, tuple(idle))  # the modules themselves
            raise NoEffect(
                f"biases: this {model.config.model_type} has none in {', '.join(idle)}, so there is nothing to tune "
                f"there. {'Name other sites' if lacks else 'Write add: true to put zero biases in'}, or take "
                "tune.adapter or tune.lora."
            )
        like = anatomy(model).blocks[0].out.weight
        self.shift = self.table({name: (_outputs(module),) for name, module in tuned.items()}, like)

    def attach(self, model: PreTrainedModel) -> None:
        wanted = places(model, tuple(self.settings["sites"]))
        for name in self.shift:
            self.hook(wanted[name], after=functools.partial(self.add, name))

    def add(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + self.pick(self.shift[name]).unsqueeze(1).to(output.dtype)

    def absorb(self, model: PreTrainedModel) -> None:
        """Have the projections' own biases in what each row picks, so that one sum does for both; see `own_bias`."""
        for name, module in places(model, tuple(self.settings["sites"])).items():
            if name in self.shift and isinstance(module, nn.Linear):
                self.shift[name].add_(module.bias.detach())
                module.register_buffer("absorbed", module.bias.detach(), persistent=False)
                module.register_parameter("bias", None)

    def mergeable(self, model: PreTrainedModel) -> bool:
        wanted = places(model, tuple(self.settings["sites"]))
        return all(_bias(wanted[name]) is not None for name in self.shift)

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        wanted = places(model, tuple(self.settings["sites"]))
        for name, values in self.shift.items():
            bias = _bias(wanted[name])
            assert bias is not None
            bias += values


def places(model: PreTrainedModel, sites: tuple[str, ...]) -> dict[str, nn.Module]:
    """The modules of the blocks that the sites name, by block and place: `3/query`, `3/norms/0`.

    One Linear that makes query, key and value is all three of them.
    """
    if wrong := [site for site in sites if site not in SITES]:
        raise InputError(f"sites: got {wrong[0]!r}, wanted one of {', '.join(SITES)}.{did_you_mean(wrong[0], SITES)}")
    found: dict[str, nn.Module] = {}
    for block in anatomy(model).blocks:
        for site in sites:
            modules = norms(block) if site == "norms" else [getattr(block, site)]
            for i, module in enumerate(modules):
                if all(module is not other for other in found.values()):
                    found[f"{block.index}/{site}/{i}" if site == "norms" else f"{block.index}/{site}"] = module
    return found


def norms(block: Block) -> list[nn.Module]:
    return [module for module in block.module.modules() if isinstance(module, nn.LayerNorm)]


def _bias(module: nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)


def _outputs(module: Any) -> int:
    return int(module.out_features if hasattr(module, "out_features") else module.normalized_shape[0])
