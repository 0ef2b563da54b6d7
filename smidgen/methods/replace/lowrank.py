"""Write large matrices as products of two thin ones.

Idea       W (m x n) = U S V^T; keep the r largest singular values and put two Linears in its place, U_r S_r^(1/2) and
           S_r^(1/2) V_r^T: r (m + n) weights for m n, the nearest matrix of this rank. A token table V x H is split the
           same way, as ALBERT does from the start (Lan et al. 2019, arXiv:1909.11942). The rank is given, or follows
           from a share of the energy, sum_{i <= r} s_i^2 >= energy sum_i s_i^2. What would not shrink is left.
Takes      A float model of a family with an anatomy. No data.
Leaves     A model of fewer weights that transformers loads after `import smidgen`.
Beside     Any training method in the same stage or after it, which mends much of what was cut off.
Fails      Weights of Transformers are close to full rank: 90 % of the energy often needs more than half of it, and then
           nothing shrinks. Two thin products are slower than their count says; measure. The table does not make a model
           faster, only smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.edits.factor import MATRICES, TABLE, Factor
from smidgen.errors import NoEffect
from smidgen.factors import largest_rank, needed
from smidgen.method import Context, Method, at_least, one_of

WHAT = {"attention": MATRICES[:4], "feed_forward": MATRICES[4:], "embeddings": (TABLE,)}


@final
@dataclass(frozen=True)
class Lowrank(Method[None]):
    rank: int | float = 0.8  # of every product, or the share of a matrix's energy that it has to keep
    what: tuple[str, ...] = ("attention", "feed_forward")  # of attention, feed_forward, embeddings

    def faults(self) -> Iterator[str]:
        if isinstance(self.rank, int):
            yield from at_least("rank", self.rank, 1)
        elif not 0 < self.rank < 1:
            yield f"rank: got {self.rank}, wanted a whole number, or a share of the energy between 0 and 1."
        if not self.what or len(set(self.what)) < len(self.what):
            yield f"what: got {list(self.what)}, wanted one or more of {', '.join(WHAT)}, each once."
        for part in self.what:
            yield from one_of("what", part, WHAT)

    def begin(self, ctx: Context) -> None:
        assert ctx.model is not None
        chosen = list(self._chosen(ctx))
        if not chosen:
            raise NoEffect(
                f"replace.lowrank: rank {self.rank} shrinks none of {', '.join(self.what)}. Write a lower one."
            )
        for edit in chosen:
            ctx.edit(edit)

    def _chosen(self, ctx: Context) -> Iterator[Factor]:
        """The edits that make a matrix smaller."""
        assert ctx.model is not None
        found: dict[nn.Module, tuple[int, str]] = {}  # each once: a fused projection is query, key and value
        for block in anatomy(ctx.model).blocks:
            for name in (name for part in self.what for name in WHAT[part] if name != TABLE):
                found.setdefault(getattr(block, name), (block.index, name))
        if TABLE in self.what:
            found[ctx.model.get_input_embeddings()] = (-1, TABLE)
        for module, (index, name) in found.items():
            if not hasattr(module, "weight"):
                continue  # all of it was cut out
            weight = cast(Tensor, module.weight)
            rank = needed(weight, self.rank) if isinstance(self.rank, float) else self.rank
            if rank <= largest_rank(weight.shape[0], weight.shape[1]):
                yield Factor(index, name, rank)
