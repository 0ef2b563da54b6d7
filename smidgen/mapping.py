"""Which block of the teacher each block of the student learns from."""

from __future__ import annotations

from smidgen.errors import InputError
from smidgen.surgery import choose

RULES = ("uniform", "skip", "first", "last")


def pairs(mapping: str | tuple[tuple[int, int], ...], student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """(student block, teacher block), both from 0.

    `uniform`: student block m learns from the end of its share of the teacher, g(m) = (m + 1) * T / S - 1, so the last
    learns from the last (TinyBERT). `skip`: the same spacing, but the last block is left to the logits (BERT-PKD: 6 of
    12 learn from 1, 3, 5, 7, 9). `first` and `last`: the S first or last blocks of the teacher in order.

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
    return tuple(enumerate(choose(teacher, student, mapping)))
