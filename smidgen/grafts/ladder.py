"""A narrow encoder beside the model that reads its states on the way up, rung by rung.

s_0 = Down_0 h_0 and s_i = Layer_i(mu_i Down_i h_i + (1 - mu_i) s_(i-1)), mu_i = sigmoid(a_i / T), and at the top
Up norm(s) is added to the last state (ladder side-tuning: Sung et al. 2022, arXiv:2206.06522).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.grafts._beside import Beside, Narrow
from smidgen.grafts._parts import first_weight

TEMPERATURE = 0.1  # of the gates


def rungs(blocks: int, every: int) -> tuple[int, ...]:
    """The levels that a ladder reads: the embeddings, and every so many blocks, the last one always."""
    return (0, *range((blocks - 1) % every + 1, blocks + 1, every))


class Ladder(Beside):
    """`down` a rung, `layers` and `gates` a rung but the first. `up` starts at 0, all else at random.

    Tasks do not share a batch: the rows of each go through its own network.
    """

    defaults = {"reduction": 8, "heads": 4, "every": 1}
    stands_on = ("blocks",)

    def grow(self, model: PreTrainedModel) -> None:
        parts, like, heads = anatomy(model), first_weight(model), self.settings["heads"]
        width = max(parts.hidden_size // self.settings["reduction"] // heads, 1) * heads
        self.found = self.levels(len(parts.blocks))
        self.down = nn.ModuleList(
            nn.Linear(parts.hidden_size, width, device=like.device, dtype=like.dtype) for _ in self.found
        )
        self.layers = nn.ModuleList(Narrow(width, heads, like) for _ in self.found[1:])
        self.gates = nn.Parameter(torch.zeros(len(self.layers), device=like.device, dtype=like.dtype))
        self.norm = nn.LayerNorm(width, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(width, parts.hidden_size, device=like.device, dtype=like.dtype)
        for values in self.up.parameters():
            nn.init.zeros_(values)

    def levels(self, blocks: int) -> tuple[int, ...]:
        return rungs(blocks, self.settings["every"])

    def beside(self, last: Tensor, heard: dict[int, Tensor], seen: Tensor | None) -> Tensor:
        taken = [down(heard[level]) for down, level in zip(self.down, self.found, strict=True)]
        shares = (self.gates / TEMPERATURE).sigmoid().to(taken[0].dtype)
        values = taken[0]
        for layer, share, own in zip(self.layers, shares, taken[1:], strict=True):
            values = layer(share * own + (1 - share) * values, seen)
        return last + self.up(self.norm(values)).to(last.dtype)
