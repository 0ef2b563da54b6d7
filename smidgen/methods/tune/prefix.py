"""Give every block's attention learnt keys and values beside the tokens' own, and tune these alone.

Idea       A head gives softmax(q K^T / sqrt(d)) V with K = [W_k x; key] and V = [W_v x; value], `length` rows of key
           and value in each block (Li and Liang 2021, arXiv:2101.00190; for encoders P-tuning v2, Liu et al. 2021,
           arXiv:2110.07602): 2 x length x hidden numbers a block. With `hidden` they come from an MLP while they train,
           tanh(e W) U of a learnt e for each row, and only what it gives is kept.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with the prefix in it, reloaded after `import smidgen`; and a delta: keys, values and head.
Beside     tune.full, distil.*, tune.bitfit, tune.adapter. Taps are of the tokens: `scores` and `probs` do not know the
           prefix.
Fails      A prefix takes probability from the tokens from the first step on, so the start is no longer the model's
           own. Wants a learning rate near 1e-2. `length` more keys cost time in each block. Not where attention was
           swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from smidgen import grafting
from smidgen.method import Context, Method, Needs, Part, between

STD = 0.02  # of what the MLP gives at the start


class Encoder(nn.Module):
    """Keys and values of all blocks from an embedding of the places, (length, hidden), while they train."""

    def __init__(self, graft: Any, hidden: int) -> None:
        super().__init__()
        shapes = {name: (key.shape[1], graft.values[name].shape[1]) for name, key in graft.keys.items()}
        like = next(graft.parameters())
        self.places = nn.Parameter(torch.randn(graft.settings["length"], hidden))
        self.into = nn.Linear(hidden, hidden)
        self.out = nn.ModuleDict({name: nn.Linear(hidden, sum(sizes)) for name, sizes in shapes.items()})
        for linear in self.out.values():
            nn.init.normal_(linear.weight, std=2 * STD / hidden**0.5)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        self.sizes = shapes
        self.to(like)

    def forward(self, name: str) -> tuple[Tensor, Tensor]:
        key, value = self.out[name](self.into(self.places).tanh()).split(self.sizes[name], -1)
        return key, value


@final
@dataclass(frozen=True)
class Prefix(Method[nn.ModuleList]):
    length: int = 16  # keys and values a block
    hidden: int = 0  # width of the MLP that they come from while they train; 0 = none, they train themselves

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        yield from between("length", self.length, 1, 512)
        yield from between("hidden", self.hidden, 0, 4096)

    def begin(self, ctx: Context) -> nn.ModuleList:
        graft: Any = grafting.begin(ctx, "prefix", {"length": self.length})
        if not self.hidden:
            return nn.ModuleList([graft])
        encoder = Encoder(graft, self.hidden)
        graft.requires_grad_(False)
        graft.made = encoder.forward  # no part of the graft
        return nn.ModuleList([graft, encoder])

    @torch.no_grad()
    def end(self, state: nn.ModuleList, ctx: Context) -> None:
        graft: Any = state[0]
        if graft.made is not None:
            for name in graft.keys:
                for kept, made in zip((graft.keys[name], graft.values[name]), graft.made(name), strict=True):
                    kept.copy_(made)
            graft.made = None
        grafting.end(graft, ctx)

    def adds(self, state: nn.ModuleList, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state[0])  # type: ignore[arg-type]
