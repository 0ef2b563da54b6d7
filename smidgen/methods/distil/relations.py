"""Learn how the teacher's tokens relate, in one block.

Idea       A relation is R = softmax(A A^T / sqrt(d)) for A the queries, keys or values of all heads, joined and cut
           anew into `heads` parts of width d; L = sum_A KL(R_t || R_s), a mean over parts and real tokens, in one block
           (MiniLMv2, Wang et al. 2021, arXiv:2012.15828). Width and heads of student and teacher may differ.
           `attention`, the KL of the attention itself, with `value` is MiniLM v1 (Wang et al. 2020, arXiv:2002.10957).
           Padded keys are hidden before the softmax, padded queries dropped.
Takes      A float student and a teacher of the same tokenizer; as many heads in both for `attention`. No labels.
Leaves     The same model with other weights. Blocks above the student's block, and its head, are left as they are.
Beside     A stage with distil.logits or tune.full after it. distil.hidden to learn from each block.
Fails      The last block of a large teacher is a poor one: v2 takes 20 of 24 in BERT-large, 18 in RoBERTa-large,
           counted from 0. `attention` runs the teacher in every step; alone, the others are read from disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from smidgen.anatomy import anatomy
from smidgen.distances import row_kl
from smidgen.errors import InputError
from smidgen.mapping import matched, need_equal_heads, need_even_teacher
from smidgen.method import Context, Method, Needs, above, at_least, one_of
from smidgen.tape import Tape

KNOWN = ("attention", "query", "key", "value")


@dataclass(frozen=True)
class Related:
    """Taps of student and teacher by relation, and into how many parts to cut."""

    taps: tuple[tuple[str, str, str], ...]
    heads: int


@final
@dataclass(frozen=True)
class Relations(Method[Related]):
    relations: tuple[str, ...] = ("query", "key", "value")  # of attention, query, key, value; v1: [attention, value]
    heads: int = 0  # parts to cut queries, keys and values into; 0 = as many as the teacher has heads
    student_block: int | str = "last"  # counted from 0, or last
    teacher_block: int | str = "last"  # counted from 0, or last
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        if not self.relations or len(set(self.relations)) < len(self.relations):
            yield f"relations: got {list(self.relations)}, wanted one or more of {', '.join(KNOWN)}, each once."
        for relation in self.relations:
            yield from one_of("relations", relation, KNOWN)
        yield from at_least("heads", self.heads, 0)
        for name, block in (("student_block", self.student_block), ("teacher_block", self.teacher_block)):
            if block != "last" and (isinstance(block, str) or block < 0):
                yield f"{name}: got {block!r}, wanted a block counted from 0, or last."
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> Related:
        blocks = [-1 if isinstance(block, str) else block for block in (self.student_block, self.teacher_block)]
        ((student, teacher),) = matched(ctx, "distil.relations", ((blocks[0], blocks[1]),))
        if "attention" in self.relations:
            need_equal_heads(ctx, "distil.relations", student)
        need_even_teacher(ctx, "distil.relations")
        heads = self.heads or ctx.teacher_heads
        if self.relations != ("attention",):
            _need_even_parts(ctx, student, heads)
        parts = [(relation, "scores" if relation == "attention" else relation) for relation in self.relations]
        taps = tuple((name, f"block.{student}.{part}", f"block.{teacher}.{part}") for name, part in parts)
        ctx.listen(student=[s for _, s, _ in taps], teacher=[t for _, _, t in taps])
        return Related(taps, heads)

    def loss(self, state: Related, tape: Tape) -> dict[str, Tensor]:
        terms = {}
        for name, student, teacher in state.taps:
            here, there = tape.student[student], tape.teacher[teacher]
            if name != "attention":
                here, there = relation(here, state.heads), relation(there, state.heads)
            terms[name] = self.weight * tape.mean(row_kl(here, there, tape.mask))
        return terms


def relation(vectors: Tensor, heads: int) -> Tensor:
    """A A^T / sqrt(d) before the softmax, the heads joined and cut into so many of width d = all / heads.

    (B, any heads, L, any size) -> (B, heads, L, L), float32.
    """
    joined = vectors.float().transpose(1, 2).flatten(2)
    parts = joined.unflatten(-1, (heads, -1)).transpose(1, 2)
    return parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])


def _need_even_parts(ctx: Context, block: int, heads: int) -> None:
    assert ctx.model is not None
    own = anatomy(ctx.model).blocks[block]
    widths = (own.heads * own.head_size, ctx.teacher_width)
    if any(width % heads for width in widths):
        raise InputError(
            f"distil.relations: {widths[0]} numbers a token (student) and {widths[1]} (teacher) cannot both be cut "
            f"into {heads} parts. Write heads: a divisor of {math.gcd(*widths)}."
        )
