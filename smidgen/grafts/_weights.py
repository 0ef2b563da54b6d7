"""What kinds share that put other numbers in the place of the model's own weights."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.errors import NoEffect
from smidgen.grafts._parts import Graft, within
from smidgen.grafts.bias import places

MATRICES = ("query", "key", "value", "out", "up", "down")


class Reweighted(Graft):
    """A kind that says what a module reads in the place of its weight. It is always merged.

    A kind defines
        places    the weights: a name, and where each is
        other     what is read in the place of one; the model's own stays as it was
    """

    stacks: ClassVar[bool] = False

    @abc.abstractmethod
    def places(self, model: PreTrainedModel) -> Mapping[str, tuple[nn.Module, str]]:
        """By name a module and the name of its parameter."""

    @abc.abstractmethod
    def other(self, name: str, own: Tensor, training: bool = False) -> Tensor:
        """Of the same shape as `own`, with a gradient for what trains."""

    def attach(self, model: PreTrainedModel) -> None:
        for name, (module, key) in self.places(model).items():
            self.hook(module, before=functools.partial(self.put, name, key))
            taken = functools.partial(self.take, key)
            self._handles.append(module.register_forward_hook(taken, always_call=True))

    def put(self, name: str, key: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """While its forward runs the module has this in the place of its parameter, which nobody else sees change."""
        own = module._parameters[key]
        assert own is not None
        vars(module)[key] = self.other(name, own, module.training)

    def take(self, key: str, module: nn.Module, args: Any, output: Any) -> None:
        vars(module).pop(key, None)

    def mergeable(self, model: PreTrainedModel) -> bool:
        return True

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        for name, (module, key) in self.places(model).items():
            own = module._parameters[key]
            assert own is not None
            own.copy_(self.other(name, own))


def matrices(model: PreTrainedModel, first: int, kind: str) -> dict[str, nn.Linear]:
    """The six of each block from `first` on, by block and place, such as `3/query`; one that is three is there once.

    Raises NoEffect where there are none.
    """
    blocks = set(within(model, first, kind))
    found = {
        name: module
        for name, module in places(model, MATRICES).items()
        if isinstance(module, nn.Linear) and int(name.partition("/")[0]) in blocks
    }
    if not found:
        raise NoEffect(f"{kind}: these blocks have no whole matrices left. Take more blocks, or tune.adapter.")
    return found


def packed(flags: Tensor) -> Tensor:
    """Flags of any shape as bits, the first the highest: (ceil(n / 8),) uint8."""
    flat = nn.functional.pad(flags.flatten().to(torch.uint8), (0, -flags.numel() % 8)).view(-1, 8)
    return (flat << _places(flat)).sum(1, dtype=torch.uint8)


def unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """The flags of this shape that were packed."""
    flat = (bits[:, None] >> _places(bits)) & 1
    return flat.flatten()[: shape.numel()].view(shape).bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
