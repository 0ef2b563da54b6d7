"""Which teacher block a student block learns from: the papers' own examples, and every rule's promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.mapping import RULES, pairs


def taught(mapping: str, student: int, teacher: int) -> list[int]:
    found = pairs(mapping, student, teacher)
    assert [s for s, _ in found] == list(range(len(found)))
    return [t for _, t in found]


@pytest.mark.parametrize(
    ("mapping", "student", "teacher", "blocks"),
    [
        ("uniform", 4, 12, [2, 5, 8, 11]),  # TinyBERT, arXiv:1909.10351, section 4.1: g(m) = 3m, counted from 1
        ("uniform", 6, 12, [1, 3, 5, 7, 9, 11]),
        ("uniform", 3, 3, [0, 1, 2]),
        ("uniform", 1, 12, [11]),
        ("skip", 6, 12, [1, 3, 5, 7, 9]),  # BERT-PKD, arXiv:1908.09355, section 3.2: {2, 4, 6, 8, 10} counted from 1
        ("skip", 1, 12, [11]),  # one block has nothing to leave out
        ("middle", 1, 12, [5]),  # XtremeDistil, arXiv:2004.05686: the sixth of 12, --teacher_layer=-7 in its code
        ("middle", 1, 4, [1]),
        ("middle", 2, 12, [2, 8]),
        ("middle", 3, 3, [0, 1, 2]),
        ("first", 3, 12, [0, 1, 2]),
        ("last", 3, 12, [9, 10, 11]),
    ],
)
def test_examples(mapping: str, student: int, teacher: int, blocks: list[int]) -> None:
    assert taught(mapping, student, teacher) == blocks


@given(st.sampled_from(RULES), st.integers(1, 24), st.integers(0, 24))
def test_rules(rule: str, student: int, more: int) -> None:
    teacher = student + more
    blocks = taught(rule, student, teacher)
    assert blocks == sorted(set(blocks)) and set(blocks) <= set(range(teacher))
    assert len(blocks) == (max(1, student - 1) if rule == "skip" else student)
    if rule in ("uniform", "last"):
        assert blocks[-1] == teacher - 1


@given(st.integers(1, 8), st.integers(1, 8))
def test_uniform_is_the_formula(student: int, times: int) -> None:
    assert taught("uniform", student, student * times) == [(m + 1) * times - 1 for m in range(student)]


def test_explicit_pairs_are_kept_and_count_from_the_end() -> None:
    assert pairs(((0, 3), (1, 3)), 2, 4) == ((0, 3), (1, 3))
    assert pairs(((-1, -1), (0, -4)), 2, 4) == ((1, 3), (0, 0))


@pytest.mark.parametrize("mapping", [((2, 0),), ((0, 4),), ((-3, 0),), ((0, -5),), ((0, 0), (5, 0))])
def test_pairs_out_of_range(mapping: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InputError) as caught:
        pairs(mapping, 2, 4)
    shown = str([list(pair) for pair in mapping])
    assert str(caught.value) == (
        f"mapping: {shown} does not fit a student of 2 and a teacher of 4 blocks; blocks count from 0."
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_deeper_student_needs_pairs(rule: str) -> None:
    with pytest.raises(InputError) as caught:
        pairs(rule, 6, 4)
    assert str(caught.value) == (
        f"mapping '{rule}': the student has 6 blocks, the teacher 4. Write the pairs yourself: "
        "mapping: [[0, 0], [1, 0], ...]."
    )
    assert pairs(((5, 3),), 6, 4) == ((5, 3),)


def test_unknown_rule() -> None:
    with pytest.raises(InputError, match=r"rule is 'unifrom'\. Did you mean 'uniform'\?"):
        pairs("unifrom", 2, 4)
