"""A small network of its own beside the model, mixed with it: R(x) = alpha B(x) + (1 - alpha) S(x).

B is the model's last state and S reads what its embeddings give (side-tuning: Zhang et al. 2020, arXiv:1912.13503).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.grafts._beside import Beside, Narrow
from smidgen.grafts._parts import first_weight


class Side(Beside):
    """Down to `width`, so many `blocks`, and back; `mix` is the a of alpha = sigmoid(a). It changes much at the start.

    Tasks do not share a batch: the rows of each go through its own network.
    """

    defaults = {"width": 96, "blocks": 2, "heads": 4, "alpha": 0.5}

    def grow(self, model: PreTrainedModel) -> None:
        size, width, like = anatomy(model).hidden_size, self.settings["width"], first_weight(model)
        self.into = nn.Linear(size, width, device=like.device, dtype=like.dtype)
        self.layers = nn.ModuleList(Narrow(width, self.settings["heads"], like) for _ in range(self.settings["blocks"]))
        self.norm = nn.LayerNorm(width, device=like.device, dtype=like.dtype)
        self.back = nn.Linear(width, size, device=like.device, dtype=like.dtype)
        alpha = self.settings["alpha"]
        start = torch.full((), math.log(alpha / (1 - alpha)), device=like.device, dtype=like.dtype)
        self.mix = nn.Parameter(start)

    def levels(self, blocks: int) -> tuple[int, ...]:
        return (0,)

    def beside(self, last: Tensor, heard: dict[int, Tensor], seen: Tensor | None) -> Tensor:
        values = self.into(heard[0])
        for layer in self.layers:
            values = layer(values, seen)
        alpha = self.mix.sigmoid().to(last.dtype)
        return alpha * last + (1 - alpha) * self.back(self.norm(values)).to(last.dtype)
