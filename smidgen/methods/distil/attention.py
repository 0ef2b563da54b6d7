"""Learn where the teacher looks, head by head.

Idea       Student block m learns from teacher block g(m). `scores`: L = MSE(A_s, A_t), A = QK^T / sqrt(d) before the
           softmax (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). `probs`: L = KL(softmax(A_t) || softmax(A_s)) of each
           query's row (MobileBERT, Sun et al. 2020, arXiv:2004.02984). Padded keys are left out, as are keys that
           either model cannot see; padded queries are dropped. A mean over heads, over the keys of a query (of
           scores), over real queries and over the pairs of blocks.
Takes      A float student and a teacher of the same tokenizer with as many heads in a block; any widths. No labels.
Leaves     The same model with other weights.
Beside     distil.hidden, with which TinyBERT adds it up. distil.relations where the heads differ in number.
Fails      The teacher runs in every step, since scores grow with the square of the length and are not kept on disk.
           Trained alone it leaves the last block's feed-forward and the head untrained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from smidgen.distances import row_kl, visible
from smidgen.mapping import mapping_faults, matched, need_equal_heads
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Attention(Method[list[tuple[str, str]]]):
    kind: str = "scores"  # scores (TinyBERT) | probs (MobileBERT)
    mapping: str | tuple[tuple[int, int], ...] = "uniform"  # or another rule of distil.hidden but dynamic, or pairs
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True, online=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, ("scores", "probs"))
        yield from mapping_faults(self.mapping)
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> list[tuple[str, str]]:
        pairs = matched(ctx, "distil.attention", self.mapping)
        for student, _ in pairs:
            need_equal_heads(ctx, "distil.attention", student)
        names = [(f"block.{s}.scores", f"block.{t}.scores") for s, t in pairs]
        ctx.listen(student=[s for s, _ in names], teacher=[t for _, t in names])
        return names

    def loss(self, state: list[tuple[str, str]], tape: Tape) -> dict[str, Tensor]:
        distance = score_mse if self.kind == "scores" else row_kl
        terms = {}
        for student, teacher in state:
            rows = distance(tape.student[student], tape.teacher[teacher], tape.mask)
            terms[student.replace("scores", self.kind)] = self.weight / len(state) * tape.mean(rows)
        return terms


def score_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over heads and the keys that both see: two (B, heads, L, L), mask (B, L) -> (B, L)."""
    seen = visible(student, teacher, mask)
    square = torch.where(seen, student.float() - teacher.float(), 0).square()
    return (square.sum(-1) / seen.sum(-1).clamp(min=1)).mean(1)
