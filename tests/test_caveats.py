"""Rows of test that train has, and what a test set can tell."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from smidgen.caveats import seen, unresolved
from smidgen.measure.quality import quality
from smidgen.splits import Split
from smidgen.tasks import Classify

TASK = Classify(labels=("bad", "good"))


def split(name: str, rows: int, seed: int) -> Split:
    draw = np.random.default_rng(seed)
    texts = tuple(" ".join("".join(draw.choice(list("abcdefghij"), 5)) for _ in range(12)) for _ in range(rows))
    return Split(name, texts, None, draw.integers(0, 2, rows), f"{name}.csv")


def outputs(gold: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Logits that are right but for the rows `wrong`."""
    said = np.where(np.isin(np.arange(len(gold)), wrong), 1 - gold, gold)
    return np.eye(2, dtype=np.float32)[said]


def test_a_leak_is_told_with_the_score_without_it() -> None:
    train, test = split("train", 300, 0), split("test", 90, 1)
    known = tuple(text.replace(text[:5], "vwxyz") for text in train.texts[:10])
    leaky = Split("test", (*test.texts, *known), None, np.concatenate([test.labels, train.labels[:10]]), "test.csv")
    said = {"winner": outputs(leaky.labels, np.arange(9)), "teacher": outputs(leaky.labels, np.arange(0))}
    found, told = seen(TASK, leaky, train, said)
    assert found["rows"] == 10 and found["share"] == 0.1
    assert found["quality"]["winner"]["value"] == 0.9 and found["quality"]["winner"]["n"] == 90
    assert [check.words for check in told] == [
        "test.csv: 10 of 100 rows of test (10.0%) are nearly or wholly in train, as row 91 of test and row 1 of train. "
        "Without them, accuracy: winner 0.900, teacher 1.000."
    ]
    assert (told[0].check, told[0].split, told[0].count, told[0].of) == ("near", "test", 10, 100)
    assert told[0].rows == tuple((91 + i, 1 + i) for i in range(5))


def test_nothing_is_told_of_a_clean_test_set_and_a_warning_of_one_that_is_all_train() -> None:
    train, test = split("train", 50, 0), split("test", 20, 1)
    assert seen(TASK, test, train, {"winner": outputs(test.labels, np.arange(3))}) == (
        {"rows": 0, "share": 0.0, "quality": {}},
        [],
    )
    found, told = seen(TASK, train, train, {})
    assert found["share"] == 1 and "Every row of test is nearly or wholly one of train: train.csv" in told[0].words


def test_a_test_set_that_is_too_small_is_told() -> None:
    """8 % disagreement of 100 rows: 1.96 sqrt(0.08 / 103.84) = 5.4 points, where 3 are allowed."""
    gold = split("test", 100, 0)
    teacher, student = outputs(gold.labels, np.arange(0)), outputs(gold.labels, np.arange(8))
    told = unresolved(TASK, gold, student, teacher, 0.97)
    assert len(told) == 1
    said = told[0].words
    assert "100 rows of test can tell differences of 5.4 points" in said and "allows 3.0 points" in said
    assert "about 329 rows would show it" in said and (told[0].count, told[0].of) == (100, 329)
    assert unresolved(TASK, gold, student, teacher, 0.9) == []  # ten points are allowed
    assert unresolved(TASK, gold, student, teacher, None) == []


def test_a_score_that_is_asked_for_is_held_against_the_interval_of_the_model() -> None:
    """91.0 % of 300 rows: 1.96 sqrt(0.91 * 0.09 / 300) = 3.2 points, and 90.5 % is half a point below."""
    gold = split("test", 300, 0)
    teacher, student = outputs(gold.labels, np.arange(15)), outputs(gold.labels, np.arange(27))
    (told,) = unresolved(TASK, gold, student, teacher, 0.905, of_teacher=False)
    half = quality(TASK, student, gold.labels)
    points = 50 * (half.high - half.low)
    assert points == pytest.approx(3.2, abs=0.2)
    assert f"300 rows of test tell accuracy to {points:.1f} points either way; the budget's 0.905 is 0.5" in told.words
    assert (told.count, told.of) == (300, round(300 * (points / 0.5) ** 2))
    assert unresolved(TASK, gold, student, teacher, 0.95, of_teacher=False) == []  # it is 4 points below
    assert unresolved(TASK, gold, student, teacher, 0.87, of_teacher=False) == []  # and 4 above
    (on_it,) = unresolved(TASK, gold, student, teacher, 0.91, of_teacher=False)
    assert on_it.of == round(300 * (points / 0.1) ** 2)
