"""Learn the teacher's first-token states, block by block.

Idea       L = || h_s / |h_s| - h_t / |h_t| ||^2, a sum over the width, for h_s and h_t the first token's states ([CLS])
           that student block m and teacher block g(m) give; a mean over examples and pairs of blocks (BERT-PKD, Sun et
           al. 2019, arXiv:1908.09355). By `skip` and `last` the student's last block is left to the logits: 6
           blocks learn from 2, 4, 6, 8, 10 or from 7 to 11 of 12, counted from 1.
Takes      A float student of two blocks or more and a teacher as wide as it; any tokenizers. No labels.
Leaves     The same model with other weights.
Beside     distil.logits, which PKD adds to it, for the last block and the head. distil.hidden compares all tokens.
Fails      Tasks that read the other tokens, such as tagging. The paper's weights of 10 to 1000 go with a mean over the
           width, where this is a sum: divide them by the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from smidgen.anatomy import states
from smidgen.errors import NoEffect
from smidgen.mapping import mapping_faults, matched, need_equal_widths
from smidgen.method import Context, Method, Needs, above
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Patient(Method[list[tuple[str, str]]]):
    mapping: str | tuple[tuple[int, int], ...] = "skip"  # skip | last | [[student, teacher], ...]
    normalise: bool = True  # compare directions, not lengths
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, inside=True)

    def faults(self) -> Iterator[str]:
        yield from mapping_faults(self.mapping, ("skip", "last"))
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> list[tuple[str, str]]:
        pairs = matched(ctx, "distil.patient", self.mapping)
        need_equal_widths(ctx, "distil.patient")
        if isinstance(self.mapping, str):
            assert ctx.model is not None
            last = len(states(ctx.model).layers) - 1
            pairs = tuple((s, t) for s, t in pairs if s != last)
        if not pairs:
            raise NoEffect(
                f"distil.patient: {self.mapping!r} leaves the last block to the logits, and this student has no other. "
                "Write the pair yourself, such as mapping: [[0, 11]], or use distil.logits alone."
            )
        names = [(f"block.{s}.first", f"block.{t}.first") for s, t in pairs]
        ctx.listen(student=[s for s, _ in names], teacher=[t for _, t in names])
        return names

    def loss(self, state: list[tuple[str, str]], tape: Tape) -> dict[str, Tensor]:
        share = self.weight / len(state)
        found = [(s, distance(tape.student[s].float(), tape.teacher[t].float(), self.normalise)) for s, t in state]
        return {name: share * tape.mean(rows) for name, rows in found}


def distance(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    """Squared distance, of the unit vectors if normalised: (B, H), (B, H) -> (B,)."""
    if normalise:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return (student - teacher).square().sum(-1)
