"""Learn the teacher's block outputs where the widths agree.

Idea       L = MSE(H_s, H_t) of what block m of the student and block g(m) of the teacher give, a mean over the width,
           over real tokens and over the given blocks (feature map transfer of MobileBERT, Sun et al. 2020,
           arXiv:2004.02984); with equal depths g(m) = m. Stages with one block each, from the bottom up, with
           tune.freeze below, are its progressive transfer; one stage with all of them is the joint one.
Takes      A float student and a teacher of the same tokenizer and width. No labels.
Leaves     The same model with other weights.
Beside     distil.attention with `kind: probs`, the other half of MobileBERT's transfer. distil.hidden for other widths.
Fails      Blocks above the last one that is given, and the head, are not trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from smidgen.distances import mse
from smidgen.errors import NoEffect
from smidgen.mapping import matched, need_equal_widths
from smidgen.method import Context, Method, Needs, above
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class FeatureMaps(Method[list[tuple[str, str]]]):
    blocks: str | tuple[int, ...] = "all"  # of the student, counted from 0; their partners are spread evenly
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        if self.blocks != "all" and (isinstance(self.blocks, str) or not self.blocks or min(self.blocks) < 0):
            yield f"blocks: got {self.blocks!r}, wanted all, or blocks counted from 0, such as [0, 1]."
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> list[tuple[str, str]]:
        pairs = matched(ctx, "distil.feature_maps", "uniform")
        need_equal_widths(ctx, "distil.feature_maps")
        wanted = range(len(pairs)) if isinstance(self.blocks, str) else self.blocks
        if max(wanted) >= len(pairs):
            raise NoEffect(
                f"distil.feature_maps: no block {max(wanted)}, the student has {len(pairs)}. Count from 0 to "
                f"{len(pairs) - 1}."
            )
        names = [(f"block.{s}.hidden", f"block.{t}.hidden") for s, t in pairs if s in wanted]
        ctx.listen(student=[s for s, _ in names], teacher=[t for _, t in names])
        return names

    def loss(self, state: list[tuple[str, str]], tape: Tape) -> dict[str, Tensor]:
        found = [(s, mse(tape.student[s].float(), tape.teacher[t].float())) for s, t in state]
        return {name: self.weight / len(state) * tape.mean(rows) for name, rows in found}
