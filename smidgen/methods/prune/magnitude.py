"""Set the smallest weights of the blocks to zero, more and more of them while the rest trains.

Idea       At each step the weights of least |w| become zero and stay zero. Of all of them the share
           s_t = s (1 - (1 - p)^3) is, p from 0 to 1 between `start` and `until`: fast at first, when there is much to
           spare (Zhu and Gupta 2017, arXiv:1710.01878; on BERT, Gordon et al. 2020, arXiv:2002.08307).
Takes      A float model of a family with an anatomy, and another method with a loss in the same stage.
Leaves     The same model, as large and as fast, with zeros in the matrices of its blocks. For study: zeros are stored
           and multiplied like other weights. The share that is zero is counted in the saved file. The weights kept are
           the best on dev from `until` on.
Beside     tune.full and every distil.*; prune.layers and prune.vocab, which do make it small.
Fails      Training after this stage fills the zeros again. At 90 % and more prune.movement lost much less in its paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from smidgen.errors import NoEffect
from smidgen.method import Context, Method, Needs, one_of
from smidgen.sparsity import REMARK, SCOPES, Masks, cubic, highest, linears, schedule_faults, share_faults, zeros


@final
@dataclass(frozen=True)
class Magnitude(Method[Masks]):
    share: float = 0.5  # s: of the weights of the blocks' matrices, that are zero in the end
    scope: str = "global"  # global = the smallest of all matrices together | matrix = the same share of each
    start: float = 0.0  # share of the stage at which the first weights become zero
    until: float = 0.7  # share of the stage at which as many are zero as shall be; the others go on training

    needs: ClassVar[Needs] = Needs(training=True)
    rewrites: ClassVar[bool] = True
    remark: ClassVar[str] = REMARK

    def reshapes(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        yield from share_faults(self.share)
        yield from one_of("scope", self.scope, SCOPES)
        yield from schedule_faults(self.start, self.until)

    def settled(self, t: float) -> bool:
        return t >= self.until

    def begin(self, ctx: Context) -> Masks:
        assert ctx.model is not None
        targets = linears(ctx.model)
        if self.share == 0:
            raise NoEffect("prune.magnitude: share 0 sets no weight to zero. Write a share above 0, or drop it.")
        return Masks(targets)

    @torch.no_grad()
    def step(self, state: Masks, t: float) -> None:
        state.close()
        risen = cubic(t, self.start, self.until)
        if risen > float(state.risen):
            state.put(highest([weight.abs() for weight in state.weights], self.share * risen, self.scope))
            state.risen.fill_(risen)
            state.close()

    def found(self, state: Masks, ctx: Context, folder: Path) -> dict[str, Any]:
        assert ctx.model is not None
        return zeros(ctx.model, folder).to_data()
