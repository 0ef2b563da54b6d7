"""Which block of the teacher each block of the student learns from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from smidgen.anatomy import anatomy, states
from smidgen.errors import InputError
from smidgen.method import Context, one_of
from smidgen.surgery import choose

RULES = ("uniform", "skip", "middle", "first", "last")
Pairing: TypeAlias = str | tuple[tuple[int, int], ...]  # a rule, or pairs of student and teacher block


def mapping_faults(mapping: Pairing, rules: Iterable[str] = RULES) -> Iterator[str]:
    """A fault of a method's setting `mapping`: got, wanted."""
    if isinstance(mapping, str):
        yield from one_of("mapping", mapping, rules)
    elif not mapping:
        yield "mapping: got [], wanted pairs of blocks, such as [[0, 1], [1, 3]], or a rule."


def matched(ctx: Context, method: str, mapping: Pairing) -> tuple[tuple[int, int], ...]:
    """`pairs` for the student and the teacher of a stage.

    Raises:
        InputError: as `pairs`; or the teacher's family has no anatomy.
    """
    assert ctx.model is not None
    if not ctx.teacher_blocks:
        raise InputError(f"{method}: the teacher's family has no anatomy here. Use distil.logits alone.")
    return pairs(mapping, len(states(ctx.model).layers), ctx.teacher_blocks)


def need_equal_widths(ctx: Context, method: str) -> None:
    """Refuse a student whose vectors cannot be compared with the teacher's as they are. Raises InputError."""
    assert ctx.model is not None
    width = states(ctx.model).hidden_size
    if width != ctx.teacher_width:
        raise InputError(
            f"{method}: the student is {width} wide, the teacher {ctx.teacher_width}; wanted equal widths. Use "
            "distil.hidden, which learns a projection, or distil.relations, which needs none."
        )


def need_equal_heads(ctx: Context, method: str, block: int) -> None:
    """Refuse a student block whose heads have no partners in the teacher. Raises InputError."""
    assert ctx.model is not None
    heads = anatomy(ctx.model).blocks[block].heads
    need_even_teacher(ctx, method)
    if heads != ctx.teacher_heads:
        raise InputError(
            f"{method}: block {block} of the student has {heads} heads, the teacher has {ctx.teacher_heads}. "
            "Wanted as many. Use distil.relations with relations: [query, key, value], which cuts the heads anew."
        )


def need_even_teacher(ctx: Context, method: str) -> None:
    """Refuse a teacher out of whose blocks heads have been cut, or dimensions of whose states. Raises InputError."""
    if not ctx.teacher_heads:
        raise InputError(
            f"{method}: heads have been cut out of the teacher's blocks, or dimensions out of its hidden size, so that "
            "the student's have no partners. Use distil.logits or distil.hidden, or a teacher that is whole."
        )


def pairs(mapping: Pairing, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """(student block, teacher block), both from 0.

    `uniform`: student block m learns from the end of its share of the teacher, g(m) = (m + 1) * T / S - 1, so the last
    learns from the last (TinyBERT). `skip`: the same spacing, but the last block is left to the logits (BERT-PKD: 6 of
    12 learn from 1, 3, 5, 7, 9). `middle`: from the middle of its share, g(m) = ceil((m + 1/2) * T / S) - 1, so that
    one block learns from the sixth of 12 (XtremeDistil). `first` and `last`: the S first or last blocks of the teacher
    in order.

    Raises:
        InputError: more student blocks than teacher blocks, or explicit pairs out of range.
    """
    if not isinstance(mapping, str):
        found = tuple((int(s) % student, int(t) % teacher) for s, t in mapping if -student <= s < student)
        if len(found) != len(mapping) or not all(-teacher <= t < teacher for _, t in mapping):
            raise InputError(
                f"mapping: {[list(pair) for pair in mapping]} does not fit a student of {student} and a teacher of "
                f"{teacher} blocks; blocks count from 0."
            )
        return found
    if student > teacher:
        raise InputError(
            f"mapping {mapping!r}: the student has {student} blocks, the teacher {teacher}. Write the pairs yourself: "
            "mapping: [[0, 0], [1, 0], ...]."
        )
    if mapping == "skip":
        return pairs("uniform", student, teacher)[: max(1, student - 1)]
    if mapping == "middle":
        return tuple((m, ((2 * m + 1) * teacher - 1) // (2 * student)) for m in range(student))
    return tuple(enumerate(choose(teacher, student, mapping)))


def in_order(distances: Sequence[Sequence[float]], allowed: Collection[int]) -> list[int]:
    """For each of some teacher blocks, in order, the nearest student block that keeps the order.

    The last teacher block chooses first among those allowed, and each before it among those below the one chosen after
    it; where there is none left it takes that one too (CoFi, Xia, Zhong, Chen 2022, arXiv:2204.00408).

    distances: of teacher block i and student block j.
    """
    found: list[int] = []
    for row in reversed(distances):
        below = [j for j in sorted(allowed) if not found or j < found[-1]]
        found.append(min(below, key=row.__getitem__) if below else found[-1])
    return found[::-1]
