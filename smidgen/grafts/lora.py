"""Low-rank shifts of projections: out + (x A) B (LoRA: Hu et al. 2021, arXiv:2106.09685).

The usual scale, alpha / rank or another, is inside B, so tasks of one batch need not agree on it. With `factors`, each
output without its bias is scaled by 1 + f too, which is what DoRA's magnitudes (arXiv:2402.09353) come to:
m / |W + BA| = 1 + f, with B already times 1 + f.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, NoEffect, did_you_mean
from smidgen.grafts._parts import Graft, first_weight, own_bias

SITES = ("query", "key", "value", "out", "up", "down")
STD = 2e-2  # of A at the start; B is 0


class Lora(Graft):
    """By block and site, such as `3/query`: into (inputs, rank), back (rank, outputs), and factor (outputs,) or none.

    A Linear that makes query, key and value is one site, `query`, whichever of the three is asked for.
    """

    defaults = {"rank": 8, "sites": ("query", "value"), "factors": False}
    stands_on = ("heads", "widths")
    sizes = ("rank", "factors")

    @classmethod
    def widest(cls, settings: Any) -> dict[str, Any]:
        return {**super().widest(settings), "sites": joined(each["sites"] for each in settings)}

    @classmethod
    def key(cls, settings: Mapping[str, Any]) -> Hashable:
        """Nothing: where a task has no shift it has zeros."""
        return ()

    def grow(self, model: PreTrainedModel) -> None:
        found, like, rank = linears(model, self.settings["sites"]), first_weight(model), self.settings["rank"]
        self.into = self.table({name: (linear.in_features, rank) for name, linear in found.items()}, like, STD)
        self.back = self.table({name: (rank, linear.out_features) for name, linear in found.items()}, like)
        scaled = found if self.settings["factors"] else {}
        self.factor = self.table({name: (linear.out_features,) for name, linear in scaled.items()}, like)

    def attach(self, model: PreTrainedModel) -> None:
        for name, linear in linears(model, self.settings["sites"]).items():
            self.hook(linear, after=functools.partial(self.add, name))

    def add(self, name: str, module: nn.Linear, args: Any, output: Tensor) -> Tensor:
        into, back = (self.pick(table[name]).to(output.dtype) for table in (self.into, self.back))
        shift = args[0].to(output.dtype) @ into @ back
        if name in self.factor:
            bias = own_bias(module)
            plain = output if bias is None else output - bias.to(output.dtype)
            shift = shift + self.pick(self.factor[name]).unsqueeze(1).to(output.dtype) * plain
        return output + shift

    def mergeable(self, model: PreTrainedModel) -> bool:
        return True

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        for name, linear in linears(model, self.settings["sites"]).items():
            if name in self.factor:
                linear.weight.mul_(1 + self.factor[name].unsqueeze(1))
            linear.weight.add_((self.into[name] @ self.back[name]).T)


def linears(model: PreTrainedModel, sites: Iterable[str]) -> dict[str, nn.Linear]:
    """The modules of these sites by `block/site`, each once, under the first of SITES that it is.

    Raises:
        InputError: a site that is none, or whose module is no plain matrix.
        NoEffect: no block has any of them.
    """
    asked = tuple(sites)
    if wrong := [site for site in asked if site not in SITES]:
        raise InputError(f"sites: got {wrong[0]!r}, wanted one of {', '.join(SITES)}.{did_you_mean(wrong[0], SITES)}")
    found: dict[str, nn.Linear] = {}
    for block in anatomy(model).blocks:
        for site in asked:
            module = getattr(block, site)
            if not getattr(module, "out_features", 0) or not module.in_features:
                continue  # all of it was cut out
            if not hasattr(module, "weight") or not isinstance(module.weight, nn.Parameter):
                raise InputError(
                    f"sites: {site} of block {block.index} is a {type(module).__name__} and no matrix of its own. "
                    f"Name other sites of {', '.join(SITES)}."
                )
            first = next(other for other in SITES if getattr(block, other) is module)
            found[f"{block.index}/{first}"] = module
    if asked and not found:
        raise NoEffect(f"sites: no block of this model has {', '.join(asked)}. Name other sites of {', '.join(SITES)}.")
    return found


def joined(sites: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All sites of several tasks, in the order of SITES."""
    wanted = {site for each in sites for site in each}
    return tuple(site for site in SITES if site in wanted)
