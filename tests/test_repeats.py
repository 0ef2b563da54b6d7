"""Rows that are nearly others are all found, and no more."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from smidgen.repeats import LEAST, near, repeated
from smidgen.splits import Split

WORDS = st.sampled_from(["good", "film", "the", "a", "bad", "actors", "played", "well", "story", "of", "x"])
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=12)


def alike(a: str, b: str) -> float:
    """The Jaccard index, from its definition."""
    one, other = (
        {plain[i : i + 4] for i in range(len(plain) - 3)}
        for plain in (" ".join(re.findall(r"\w+", text.lower())) for text in (a, b))
    )
    return len(one & other) / len(one | other) if one and other else 0.0


@given(TEXTS, TEXTS, st.sampled_from([0.5, LEAST, 1.0]))
@settings(max_examples=60, deadline=None)
def test_all_that_is_near_is_found(texts: list[str], known: list[str], least: float) -> None:
    for text, at in zip(texts, near(texts, known, least).tolist(), strict=True):
        best = max((alike(text, other) for other in known), default=0.0)
        assert (at >= 0) == (best >= least)
        assert at < 0 or alike(text, known[at]) >= least


def test_a_changed_word_is_near_and_another_text_is_not() -> None:
    known = ["the actors of this long and winding film played their parts very well", "nothing at all"]
    texts = [known[0].replace("winding", "wide"), known[0].upper() + "!!", "the actors were nothing", "", "???"]
    assert near(texts, known).tolist() == [0, 0, -1, -1, -1]
    assert near([], known).tolist() == [] and near(texts, []).tolist() == [-1] * 5


def test_many_rows_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.repeats.ROWS", 3)
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcdefgh"), 30)) for _ in range(10)]
    assert near(texts, texts[::-1]).tolist() == list(range(9, -1, -1))


def test_what_is_the_same_is_a_repeat_however_short() -> None:
    """Also without four letters in a row, or in a script without spaces."""

    def split(name: str, *texts: str) -> Split:
        return Split(name, texts, None, None, name)

    found = repeated(
        split("test", "ok", "好的", "no", "so good a film"), split("train", "好的", "ok", "ok", "So good a film!")
    )
    assert found.tolist() == [1, 0, -1, 3]
