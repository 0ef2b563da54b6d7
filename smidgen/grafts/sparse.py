"""A shift of a few of the weights of the blocks' matrices, W + D with D zero but at `count` places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.errors import InputError
from smidgen.grafts._parts import first_weight
from smidgen.grafts._weights import Reweighted, matrices


class Sparse(Reweighted):
    """`at`: (count,) int32, rising, of all the matrices from block `first` on, laid end to end. `shift`: (count,)."""

    at: Tensor

    defaults = {"first": 0, "count": 1}

    def grow(self, model: PreTrainedModel) -> None:
        found, count = matrices(model, self.settings["first"], "sparse shifts"), self.settings["count"]
        self.start, size = {}, 0  # of each matrix, where the one before it ends
        for name, linear in found.items():
            self.start[name] = size
            size += linear.weight.numel()
        if not 1 <= count <= size:
            raise InputError(f"graft sparse: count is {count}, but there are {size:,} weights: use 1 to {size}.")
        like = first_weight(model)
        self.register_buffer("at", torch.arange(count, dtype=torch.int32, device=like.device))
        self.shift = nn.Parameter(like.new_zeros(count))

    def places(self, model: PreTrainedModel) -> Mapping[str, tuple[nn.Module, str]]:
        found = matrices(model, self.settings["first"], "sparse shifts")
        return {name: (linear, "weight") for name, linear in found.items()}

    def other(self, name: str, own: Tensor, training: bool = False) -> Tensor:
        start = self.start[name]
        ends = torch.tensor([start, start + own.numel()], dtype=torch.int32, device=self.at.device)
        low, high = torch.searchsorted(self.at, ends).tolist()
        places = self.at[low:high].long() - start
        return own.flatten().index_add(0, places, self.shift[low:high].to(own.dtype)).view_as(own)
