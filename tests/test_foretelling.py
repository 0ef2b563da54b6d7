"""Which shapes are built: found with as few of them as can be."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from smidgen.foretelling import Kind, Piece, Wanted

NEVER = math.inf


def kind(*works: float, family: str = "depth", **more: bool) -> Kind[str]:
    return Kind([Piece(f"{family} {work:g}", family, work, **more) for work in sorted(works, reverse=True)])


def built(found: Kind[str], times: dict[str, float], wanted: Wanted) -> list[str]:
    """The names of what is built, in its order."""
    names = []
    while wave := found.next(wanted):
        assert len({piece.family for piece in wave}) == len(wave)
        for piece in wave:
            names.append(piece.of)
            piece.used = {"latency": times[piece.of]}
    return names


def depths(first: float, each: float, *works: float) -> dict[str, float]:
    return {f"depth {work:g}": first + each * work for work in works}


ALL = (1, 2, 3, 4, 6, 8, 12)


@pytest.mark.parametrize(
    ("each", "wanted"),
    [
        (1.5, [1]),  # far over at once
        (0.35, [1, 2, 3]),  # 3 at 1.05 is a little over, and 4 far
        (0.08, [1, 12, 8]),  # all fit
        (0.15, [1, 6, 4]),
    ],
)
def test_two_that_fit_are_found_with_few(each: float, wanted: list[int]) -> None:
    found = built(kind(*ALL), depths(0.0, each, *ALL), Wanted(1.1, 2))
    assert found == [f"depth {work}" for work in wanted]


@given(
    first=st.floats(0, 0.9),
    each=st.floats(0.01, 2),
    works=st.sets(st.integers(1, 24), min_size=1),
    enough=st.integers(1, 3),
)
def test_the_largest_that_fit_are_always_among_what_is_built(
    first: float, each: float, works: set[int], enough: int
) -> None:
    times = depths(first, each, *works)
    found = built(kind(*works), times, Wanted(1.1, enough))
    fitting = [work for work in sorted(works, reverse=True) if times[f"depth {work}"] <= 1]
    assert {f"depth {work}" for work in fitting[:enough]} <= set(found)
    assert len(found) == len(set(found))


@given(each=st.floats(0.01, 2), works=st.sets(st.integers(1, 24), min_size=1))
def test_without_hurry_all_that_may_fit_is_built(each: float, works: set[int]) -> None:
    times = depths(0.1, each, *works)
    found = built(kind(*works), times, Wanted(1.3, NEVER))
    assert set(found) >= {name for name, one in times.items() if one <= 1}
    assert {name for name in found if times[name] > 1.3 + 1e-9} <= {f"depth {min(works)}", *_second(found)}


def _second(found: list[str]) -> list[str]:
    """Two points make a line: the second may be over, too."""
    return found[1:2]


def test_what_is_no_whole_blocks_is_told_by_them_and_waits_for_them() -> None:
    other = [Piece("pruned 8", "pruned", 8, even=False), Piece("pruned 4.8", "pruned", 4.8, even=False)]
    both = Kind([*kind(*ALL).pieces, *other])
    assert [piece.of for piece in both.next(Wanted(1.1, 2))] == ["depth 1"]
    found = built(both, depths(0.0, 0.35, *ALL) | {"pruned 4.8": 1.7, "pruned 8": 2.8}, Wanted(1.1, 2))
    assert not any(name.startswith("pruned") for name in found), "4.8 blocks are 1.68 times the limit at least"
    assert both.foretold(other[1]) == pytest.approx(1.68)
    roomy = Kind([*kind(*ALL).pieces, *(Piece(p.of, p.family, p.work, even=False) for p in other)])
    found = built(roomy, depths(0.0, 0.05, *ALL) | {"pruned 4.8": 0.5, "pruned 8": 1.2}, Wanted(1.1, 2))
    assert found == ["depth 1", "depth 12", "depth 8", "pruned 8", "pruned 4.8"]


def test_where_one_depth_is_known_the_next_is_a_near_one_of_any_family() -> None:
    """4 blocks of another family would tell as much, and cost more."""
    both = Kind([*kind(1, 2, 12).pieces, *kind(4, 6, family="theseus").pieces])
    found = built(both, depths(0.0, 0.6, 1, 2, 12), Wanted(1.1, 2))
    assert found == ["depth 1", "depth 2"]


def test_of_the_size_of_a_narrow_shape_whole_blocks_say_nothing() -> None:
    """Half the width is half the embeddings too, which are most of a small model."""
    both = Kind([*kind(1, 2).pieces, Piece("narrow", "narrow", 1.5, even=False)])
    both.pieces[1].used, both.pieces[0].used = {"latency": 0.2, "size": 1.8}, {"latency": 0.3, "size": 2.0}
    assert [piece.of for piece in both.next(Wanted(1.1, 2))] == ["narrow"]
    assert both.foretold(both.pieces[2]) == pytest.approx(0.25)


def test_what_there_was_no_time_to_time_is_not_enough() -> None:
    alike = kind(1, 2, 3, 4)
    for piece, gone in zip(alike.pieces, ("too few", "too few", "", ""), strict=True):
        piece.used, piece.gone = ({"latency": 0.2 * piece.work}, gone) if piece.work != 2 else (None, "")
    assert [piece.of for piece in alike.next(Wanted(1.1, 2))] == ["depth 2"]


def test_what_needs_no_training_does_not_count() -> None:
    """The model itself is a candidate as it stands, and leaves room for as many others."""
    own = Piece("whole", "depth", 12, counts=False)
    found = built(Kind([own, *kind(1, 4, 6, 8).pieces]), {"whole": 0.9} | depths(0.0, 0.05, 1, 4, 6, 8), Wanted(1.1, 2))
    assert found == ["depth 1", "whole", "depth 8", "depth 6"]


def test_networks_are_all_built_and_what_is_gone_is_passed_by() -> None:
    networks = Kind([Piece(name, name, 0.0, even=False) for name in ("BiLSTM", "CNN")])
    assert [piece.of for piece in networks.next(Wanted(1.1, 2))] == ["BiLSTM", "CNN"]
    alike = kind(1, 2, 3)
    alike.pieces[-1].gone = "cannot be built"
    assert [piece.of for piece in alike.next(Wanted(1.1, 2))] == ["depth 2"]


def test_where_only_a_quality_is_asked_the_smallest_come_first() -> None:
    found, names = kind(1, 2, 3), []
    while wave := found.next(Wanted(1.1, NEVER, rising=True)):
        names += [piece.of for piece in wave]
        wave[0].used = {}
    assert names == ["depth 1", "depth 2", "depth 3"]


def test_each_limit_has_its_own_line() -> None:
    """Most of a small model's size are its embeddings."""
    alike = kind(1, 2, 12)
    alike.pieces[2].used = {"latency": 0.1, "size": 0.5}
    alike.pieces[1].used = {"latency": 0.2, "size": 0.55}
    assert alike.foretold(alike.pieces[0]) == pytest.approx(1.2)
    alike.pieces[1].used = {"latency": 0.11, "size": 0.55}
    assert alike.foretold(alike.pieces[0]) == pytest.approx(1.05)
