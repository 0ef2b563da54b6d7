"""The rule by which a way of tuning is advised, and its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smidgen.advice import Tried, advise, best, choose, held, tied

BASE = 90_000_000
FULL = Tried("full", 0.90, (1.0, 1.0), 91_000_000, False, 100.0)
ADAPTER = Tried("adapter", 0.89, (0.97, 1.01), 4_000_000, True, 80.0)
BITFIT = Tried("bitfit", 0.88, (0.96, 1.0), 400_000, True, 90.0)
HEAD = Tried("head", 0.70, (0.70, 0.85), 10_000, True, 5.0)
ALL = [HEAD, BITFIT, ADAPTER, FULL]


def test_those_whose_interval_reaches_the_best_stay() -> None:
    assert best(ALL) is FULL
    assert tied(ALL) == [BITFIT, ADAPTER, FULL]
    assert tied([HEAD, FULL]) == [FULL]


def test_one_task_takes_the_fastest_and_many_the_fewest_bytes() -> None:
    assert choose(ALL, 1, BASE) is ADAPTER, "head is faster, but worse by more than chance"
    assert choose(ALL, 10, BASE) is BITFIT


def test_bytes_count_the_base_once_and_whole_models_each() -> None:
    assert held(FULL, 3, BASE) == 3 * 91_000_000
    assert held(BITFIT, 3, BASE) == 3 * 400_000 + BASE
    small = replace(FULL, bytes=30_000_000)
    assert choose([BITFIT, small], 2, BASE) is small, "two small models take less than the base and two deltas"
    assert choose([BITFIT, small], 4, BASE) is BITFIT


def test_the_faster_where_bytes_are_the_same() -> None:
    twin = replace(BITFIT, name="twin", seconds=1.0)
    assert choose([BITFIT, twin, FULL], 10, BASE) is twin


def test_of_equal_scores_the_fastest_is_the_best() -> None:
    assert best([FULL, replace(FULL, name="quick", seconds=1.0)]).name == "quick"


def test_the_order_of_what_was_tried_changes_nothing() -> None:
    for tasks in (1, 2, 10):
        assert choose(ALL, tasks, BASE) is choose(ALL[::-1], tasks, BASE)


def test_the_words_say_what_is_not_resolved() -> None:
    advice = advise(ALL, 10, BASE, 2000, 500, "accuracy")
    assert (advice.name, advice.best, advice.tied) == ("bitfit", "full", ("bitfit", "adapter", "full"))
    said = advice.why.replace("\u00a0", " ")
    for words in (
        "With 2,000 labelled rows and 10 tasks, take bitfit.",
        "that of the highest, full, 90.0 %: the difference is not resolved at n=500.",
        "Nor can adapter be told from full.",
        "Below by more than chance: head.",
        "10 tasks take 94.0 MB on disk, the base of 90.0 MB among them.",
        "One seed, one set of 500 rows of dev",
    ):
        assert words in said, said


def test_the_words_for_one_task_and_for_too_little_time() -> None:
    said = advise([HEAD, FULL], 1, BASE, 64, 24, "accuracy", whole=False).why.replace("\u00a0", " ")
    assert "With 64 labelled rows and one task, take full. Its accuracy on dev is 90.0 %, the highest of 2." in said
    assert "A task is a whole model, no delta, of 91.0 MB, trained in 100 s." in said
    assert "There was time for a part of the steps only" in said


@pytest.mark.parametrize("tasks", [1, 10])
def test_one_way_is_advised_whatever_the_tasks(tasks: int) -> None:
    assert advise([HEAD], tasks, BASE, 10, 10, "f1").name == "head"
