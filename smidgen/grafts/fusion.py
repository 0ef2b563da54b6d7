"""Several trained adapters in each block, and an attention that says how much of each a token takes.

h   the feed-forward's output          z_n = h + U_n f(D_n h + d_n) + u_n   what adapter n leaves of it
s = softmax_n((h Q) (z_n K)')          o = sum_n s_n z_n V

(AdapterFusion: Pfeiffer et al. 2021, arXiv:2005.00247). V is kept as its difference from the identity. h is in every
z_n, so it does not change the softmax and is added once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from smidgen.anatomy import anatomy
from smidgen.grafts._parts import Graft, first_weight, within

STD = 0.02  # of Q and K at the start
SPECK = 1e-6  # of V beside its diagonal at the start


class Fusion(Graft):
    """By block: the adapters on top of each other, frozen; `queries` and `keys`, (size, rank); `shifts`, V - I.

    size: of h, the hidden size but in MobileBERT. Zeros leave h as it is. Tasks of one batch have the same number of
    adapters.
    """

    defaults = {"count": 2, "width": 48, "activation": "relu", "first": 0, "rank": 0, "values": True}
    sizes = ("width", "first")

    @classmethod
    def widest(cls, settings: Any) -> dict[str, Any]:
        return {**super().widest(settings), "first": min(each["first"] for each in settings)}

    def grow(self, model: PreTrainedModel) -> None:
        blocks, like = anatomy(model).blocks, first_weight(model)
        count, width, rank = self.settings["count"], self.settings["width"], self.settings["rank"]
        sizes = {str(i): blocks[i].down.out_features for i in within(model, self.settings["first"], "fusion")}
        self.into = self.table({name: (count, size, width) for name, size in sizes.items()}, like)
        self.into_bias = self.table({name: (count, width) for name in sizes}, like)
        self.back = self.table({name: (count, width, size) for name, size in sizes.items()}, like)
        self.back_bias = self.table({name: (count, size) for name, size in sizes.items()}, like)
        for table in self.adapters:
            table.requires_grad_(False)
        self.queries = self.table({name: (size, rank or size) for name, size in sizes.items()}, like, STD)
        self.keys = self.table({name: (size, rank or size) for name, size in sizes.items()}, like, STD)
        values = sizes if self.settings["values"] else {}
        self.shifts = self.table({name: (size, size) for name, size in values.items()}, like)
        for shift in self.shifts.values():
            shift.data.fill_(SPECK).fill_diagonal_(0.0)
        self.act: nn.Module = ACT2FN[self.settings["activation"]]
        self.shares: dict[str, Tensor] | None = None  # by block, (B, count, L) of the latest forward, where asked for

    @property
    def adapters(self) -> tuple[nn.ParameterDict, ...]:
        return self.into, self.into_bias, self.back, self.back_bias

    @property
    def own(self) -> int:
        """Numbers that are the fusion's, and not its adapters'."""
        return sum(values.numel() for table in (self.queries, self.keys, self.shifts) for values in table.values())

    def attach(self, model: PreTrainedModel) -> None:
        blocks = anatomy(model).blocks
        for name in self.queries:
            self.hook(blocks[int(name)].down, after=functools.partial(self.join, name))

    def join(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """(B, L, size) to the same."""
        into, into_bias, back, back_bias, query, key = (
            self.pick(table[name]).to(output.dtype) for table in (*self.adapters, self.queries, self.keys)
        )
        inner = self.act(output.unsqueeze(1) @ into + into_bias.unsqueeze(2))
        added = inner @ back + back_bias.unsqueeze(2)  # (B, count, L, size)
        asked = output @ query @ key.transpose(-1, -2)
        shares = (added * asked.unsqueeze(1)).sum(-1).softmax(1)
        if self.shares is not None:
            self.shares[name] = shares.detach()
        joined = output + (shares.unsqueeze(-1) * added).sum(1)
        return joined + joined @ self.pick(self.shifts[name]).to(output.dtype) if name in self.shifts else joined

    def pull(self) -> Tensor:
        """||I - V||^2, summed over blocks."""
        return torch.stack([shift.square().sum() for shift in self.shifts.values()]).sum()

    def keep(self, chosen: Mapping[str, Tensor]) -> None:
        """Drop all adapters of each block but these, as many in each, (kept,) int64."""
        (count,) = {len(which) for which in chosen.values()}
        for table in self.adapters:
            for name, which in chosen.items():
                table[name] = nn.Parameter(table[name].detach()[which], requires_grad=False)
        self.settings["count"] = count
