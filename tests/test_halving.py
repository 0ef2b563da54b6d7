"""Who goes on, for how long, and what fits the time: a race of fake candidates on a fake clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import Faulty, InputError, OutOfTime
from smidgen.halving import (
    LEAST,
    SHARES,
    Clock,
    Race,
    Rung,
    Trained,
    affordable,
    best,
    following,
    promising_enough,
    rungs,
)


class World:
    """Candidates with a score and a length of their whole training, and a clock that trainings move.

    A training that would end too late is stopped after a twentieth of it, as Until does.
    """

    def __init__(self, seconds: dict[str, float], scores: dict[str, float] | None = None, limit: float | None = None):
        self.time, self.seconds = 0.0, seconds
        self.scores = scores or {name: float(i) for i, name in enumerate(seconds)}
        self.asked: list[tuple[str, float]] = []
        self.refused: set[str] = set()
        self.labels = 0.0  # seconds that the first training takes besides its own, for others too
        self.race = Race(self, Clock(0.0, limit, lambda: self.time))

    def __call__(self, name: str, share: float, until: float, kept: bool = False) -> Trained:
        self.asked.append((name, round(share, 3)))
        if name in self.refused:
            raise InputError("no such thing here.")
        whole = share * self.seconds[name]
        self.race.clock.labels += self.labels
        self.time, until, self.labels = self.time + self.labels, until + self.labels, 0.0
        if whole and self.time + whole > until:
            begun, self.time = self.time, self.time + 0.05 * whole
            raise OutOfTime("its training would end too late", max(0.0, until - begun) / whole, whole)
        self.time += whole
        return Trained(self.scores[name] * share, whole)

    def halve(self, finalists: int = 2) -> list[str]:
        return self.race.halve(list(self.seconds), finalists)


def even(count: int, seconds: float = 27.0, limit: float | None = None) -> World:
    return World({f"c{i}": seconds for i in range(count)}, limit=limit)


# Without a limit.


@pytest.mark.parametrize(
    ("count", "finalists", "wanted"),
    [
        (0, 2, ()),
        (2, 2, ()),
        (3, 2, (Rung(1 / 3, 2),)),
        (6, 2, (Rung(1 / 3, 2),)),
        (7, 2, (Rung(1 / 9, 3), Rung(1 / 3, 2))),
        (12, 1, (Rung(1 / 27, 4), Rung(1 / 9, 2), Rung(1 / 3, 1))),
        (1000, 2, (Rung(1 / 27, 13), Rung(1 / 9, 5), Rung(1 / 3, 2))),
    ],
)
def test_rungs(count: int, finalists: int, wanted: tuple[Rung, ...]) -> None:
    found = rungs(count, finalists)
    assert [(pytest.approx(r.share), r.keep) for r in wanted] == [(r.share, r.keep) for r in found]


@given(st.integers(0, 5000), st.integers(1, 5))
def test_rungs_end_with_the_finalists(count: int, finalists: int) -> None:
    found = rungs(count, finalists)
    assert bool(found) == (count > finalists)
    keeps = [count, *(rung.keep for rung in found)]
    assert keeps == sorted(keeps, reverse=True) and (not found or keeps[-1] == finalists)
    assert all(LEAST <= rung.share <= 1 / 3 for rung in found)
    assert len({round(rung.share, 6) for rung in found}) == len(found)


def test_many_candidates_cost_a_small_part_of_training_them_all() -> None:
    world = even(27)
    assert world.halve(1) == ["c26"]
    assert world.time / 27 == pytest.approx(3.0)  # whole trainings, of 27
    assert sorted(set(world.asked), key=world.asked.index)[:1] == [("c0", 0.037)]
    assert [share for _, share in world.asked].count(0.111) == 9


def test_few_candidates_are_all_finalists() -> None:
    world = even(2)
    assert world.halve() == ["c0", "c1"] and world.asked == []


def test_short_scores_are_held_against_each_other() -> None:
    """All of them are below 0.97 after a third; 0.939 is as much of the best."""
    scores = {"slow": 0.968, "middle": 0.953, "fast": 0.948, "poor": 0.923, "worst": 0.913}
    ms = {name: 5.0 - i for i, name in enumerate(scores)}
    assert best(promising_enough(scores, ms, 0.97), 5) == ["fast", "middle", "slow", "poor", "worst"]
    assert best(promising_enough(scores, ms, 1.1), 2) == ["slow", "middle"], "none has more than the best"


@pytest.mark.parametrize("fits", range(7))
def test_the_fastest_that_keeps_a_quality_is_found(fits: int) -> None:
    """From any one that was finished, where what is slower keeps more."""
    names = list("abcdef")
    for first in names:
        kept = {first: first >= names[fits]} if fits < 6 else {first: False}
        scores = dict(zip(names, range(6), strict=True))
        while (name := following(names, kept, scores)) is not None:
            assert name not in kept
            kept[name] = name in names[fits:]
        assert next((name for name in names if kept.get(name)), None) == (names[fits] if fits < 6 else None)
        assert fits < 6 or len(kept) == 6


def test_what_is_finished_next() -> None:
    names = list("abcde")
    assert following(names, {"d": True}, {}) == "c", "a step"
    assert following(names, {"e": True, "a": False}, {}) == "c", "the middle"
    assert following(names, {"d": True, "c": False, "a": False}, {}) is None, "the next faster does not keep it"
    assert following(names, {"a": False, "b": False}, {"c": 0.5, "d": 0.7, "e": 0.6}) == "d", "the likeliest"
    assert following([], {}, {}) is None


def test_why_a_candidate_did_not_go_on() -> None:
    world = even(7)
    assert world.halve() == ["c6", "c5"]
    assert world.race.out["c0"] == "0.000 on dev after 11% of its training, and 3 of 7 went on"
    assert world.race.out["c4"] == "1.333 on dev after 33% of its training, and 2 of 3 went on"
    assert set(world.race.out) == {f"c{i}" for i in range(5)}


def test_of_equals_the_one_that_promises_more_goes_on() -> None:
    assert best({"a": 0.5, "b": 0.7, "c": 0.7, "d": 0.1}, 2) == ["b", "c"]


def test_what_cannot_be_made_is_left_out_and_named() -> None:
    world = even(4)
    world.refused = {"c3"}
    assert world.halve() == ["c2", "c1"]
    assert world.race.out["c3"] == "cannot be made: no such thing here."
    world.refused = {"c2"}
    assert world.race.finish("c2") == 0 and world.race.out["c2"].startswith("cannot be made")
    world.race.train = lambda *_, **__: (_ for _ in ()).throw(Faulty("its graph says other things."))
    assert not world.race.try_for("c1", 1.0, math.inf) and world.race.refused("c1")


# With a limit.


def test_candidates_that_no_longer_fit_are_dropped_by_what_the_rung_before_took() -> None:
    seconds = {f"c{i}": 9.0 if i < 6 else 90.0 for i in range(7)}
    world = World(seconds, {name: float(i) for i, name in enumerate(seconds)} | {"c5": 7.0}, limit=80.0)
    found = world.halve()
    assert found == ["c5", "c4"] and world.race.out["c6"] == "there was no time to try it for longer"
    assert world.time <= 40


def test_the_best_so_far_is_a_finalist_though_there_is_no_time_for_its_next_rung() -> None:
    world = World({f"c{i}": 9.0 if i < 6 else 90.0 for i in range(7)}, limit=80.0)
    assert world.halve() == ["c6", "c5"] and world.time < 20
    assert {share for _, share in world.asked} == {0.111}
    assert world.race.late == {"c4"} and world.race.out["c4"] == "there was no time to try it for longer"
    assert world.race.finish("c6") == 2 / 3


def test_what_answers_slowly_is_not_begun_where_its_training_would_not_fit() -> None:
    """Before anything is trained, what a training takes is foreseen by how fast a body answers."""
    world = World({"slow": 900.0, "a": 9.0, "b": 9.0}, limit=40.0)
    world.race.guess |= {"slow": 800.0, "a": 10.0, "b": 10.0}
    assert world.halve() == ["b", "a"] and not any(name == "slow" for name, _ in world.asked)
    assert world.race.late == {"slow"} and world.race.whole["a"] == 9.0


def test_a_guess_alone_rules_no_finalist_out() -> None:
    """Only of what was dropped before it is held against what time is left."""
    world = World({"a": 25.0}, limit=30.0)
    world.race.guess["a"] = 900.0
    assert world.race.finish("a", by_guess=True) == 0.0 and not world.asked
    assert world.race.finish("a") == 1.0


@pytest.mark.parametrize("limit", [30.0, 60.0, 100.0, 150.0, 400.0])
@pytest.mark.parametrize("count", [3, 8, 20])
def test_the_limit_is_kept_and_the_time_is_used(limit: float, count: int) -> None:
    """With what measuring takes kept free; no finalist is begun that would end too late."""
    world = even(count, 60.0, limit)
    world.race.clock.kept = 10.0
    shares = [world.race.finish(name) for name in world.halve()]
    assert world.time + 10.0 <= 1.1 * limit
    assert all(share in (0.0, *SHARES) for share in shares)
    if limit >= 60:
        assert shares[0] > 0


def test_labels_are_for_all_and_come_off_the_time_before_it_is_parted() -> None:
    """Five of 9 s, and labels of 60 s: half of the 90 s that are left is for all; half of 150 was for two."""
    world = even(5, limit=150.0)
    world.labels = 60.0
    assert world.halve() == ["c4", "c3"] and [name for name, _ in world.asked] == [f"c{i}" for i in range(5)]
    assert world.time == 60 + 5 * 9
    assert not world.race.late
    stopped = World({"slow": 2000.0, **{f"c{i}": 27.0 for i in range(5)}}, limit=150.0)
    stopped.labels = 40.0
    stopped.halve()
    assert set(stopped.race.scores) == {"c0", "c1"}, "labels count also where their training is stopped, after 33 s"


def test_labels_leave_time_to_finish() -> None:
    world = even(5, limit=100.0)
    world.labels = 95.0
    world.halve()
    assert world.time <= 95 + 9, "no more than the first; half of the time is the most that labels move the rungs by"


def test_what_is_there_already_is_scored_whatever_the_time() -> None:
    """As where many hands have made it, and the last came back a little late."""
    world = even(6, limit=100.0)

    made: list[str] = []

    def prepare(names: Sequence[str], share: float, until: float) -> None:
        world.seconds, world.time = dict.fromkeys(world.seconds, 0.0), until + 2
        made.extend(names[:5])

    world.race.prepare, world.race.known = prepare, lambda name, share: name in made
    assert world.halve() == ["c4", "c3"]
    assert world.race.out["c5"] == "there was no time to try it"


def test_a_cut_that_is_made_anew_is_reckoned_with() -> None:
    world = World({"a": 60.0}, limit=100.0)
    world.race.whole["a"], world.race.fixed["a"] = 60.0, 50.0
    assert world.race.cost("a", 0.5) == 80 and world.race.finish("a") == 2 / 3


def test_what_was_dropped_for_its_time_alone_may_be_trained_in_what_is_left() -> None:
    world = World({"large": 400.0, "refused": 9.0, "a": 9.0, "b": 9.0, "c": 9.0}, limit=200.0)
    world.refused = {"refused"}
    finalists = world.halve()
    assert finalists == ["c", "b"] and world.race.late == {"large"}
    assert [world.race.finish(name) for name in finalists] == [1.0, 1.0]
    assert world.race.finish("large") == 1 / 3 and world.time < 200
    assert [share for name, share in world.asked if name == "large"] == [0.333, 0.333], (
        "its first steps told its length"
    )


def test_a_finalist_is_shortened_to_what_fits() -> None:
    world = World({"a": 100.0}, limit=60.0)
    assert world.race.finish("a") == 0.5  # foretold from its first steps
    assert world.asked == [("a", 1.0), ("a", 0.5)]
    known = World({"a": 100.0}, limit=60.0)
    known.race.whole["a"] = 100.0
    assert known.race.finish("a") == 0.5 and known.asked == [("a", 0.5)]  # known from a rung
    there = World({"a": 100.0}, limit=45.0)
    there.race.there = lambda name, share: share == 0.5
    there.seconds["a"], train = 100.0, there.race.train
    there.race.train = lambda name, share, until, kept=False: (
        Trained(0.0, 50.0, True) if share == 0.5 else train(name, share, until, kept)
    )
    assert there.race.finish("a") == 0.5 and there.asked == [("a", 1.0)], "though a third alone would fit"
    late = World({"a": 100.0}, limit=20.0)
    late.race.whole["a"] = 100.0
    assert late.race.finish("a") == 0 and late.asked == []
    assert late.race.out["a"] == "its training would not end in time"


def test_time_is_kept_for_what_comes_after() -> None:
    world = World({"a": 50.0}, limit=100.0)
    world.race.whole["a"] = 50.0
    world.race.clock.kept = 30.0
    assert world.race.finish("a", after=30.0) == 2 / 3
    assert world.time == pytest.approx(100 / 3)


def test_where_no_rung_can_be_run_the_first_are_the_finalists() -> None:
    world = even(5, 1000.0, limit=10.0)
    assert world.halve() == ["c0", "c1"]


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.floats(0, 300))
def test_affordable(costs: list[float], seconds: float) -> None:
    names = [str(i) for i in range(len(costs))]
    known = dict(zip(names, costs, strict=True))
    found = affordable(names, known, seconds)
    assert found == [name for name in names if name in found]
    left = seconds - sum(known[name] for name in found)
    assert left >= -1e-9
    assert all(known[name] > left for name in names if name not in found)
    assert affordable(names, {}, seconds) == affordable(names, known, math.inf) == names


def test_what_is_not_known_costs_what_others_do() -> None:
    assert affordable(["a", "b", "c"], {"a": 2.0, "b": 4.0}, 8.9) == ["a", "b"]
    assert affordable(["a", "b", "c"], {"a": 2.0, "b": 4.0}, 9.0) == ["a", "b", "c"]


@pytest.mark.parametrize(("left", "share"), [(100, 1), (60, 1), (59, 2 / 3), (35, 0.5), (21, 1 / 3), (19, 0), (-1, 0)])
def test_the_largest_share_that_fits(left: float, share: float) -> None:
    world = World({"a": 60.0}, limit=left)
    world.race.whole["a"] = 60.0
    assert world.race.finish("a") == share


def test_what_is_there_costs_no_time() -> None:
    """As in a second run with another budget, or where many hands have made it: it is neither dropped nor shortened."""
    world = World({f"c{i}": 60.0 for i in range(9)}, limit=110.0)
    made = {("c8", 1.0), ("c7", 0.5)} | {(f"c{i}", share) for i in range(9) for share in (1 / 9, 1 / 3)}
    world.race.there = world.race.known = lambda name, share: (name, share) in made
    train = world.race.train
    world.race.train = lambda name, share, until, kept=False: (
        Trained(float(name[1]) * share, 60 * share, True) if (name, share) in made else train(name, share, until, kept)
    )
    assert world.halve(3) == ["c8", "c7", "c6"] and world.asked == []
    assert world.race.whole["c8"] == 60 and not world.race.late
    world.time = 90.0
    assert [world.race.finish(name) for name in ("c8", "c7", "c6")] == [1.0, 0.5, 1 / 3]
    assert world.asked == []


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.floats(0, 300), st.integers(1, 4))
def test_affordable_by_many_hands(costs: list[float], seconds: float, hands: int) -> None:
    names = [str(i) for i in range(len(costs))]
    known = dict(zip(names, costs, strict=True))
    found = affordable(names, known, seconds, hands)
    assert set(affordable(names, known, seconds)) <= set(affordable(names, known, seconds, len(names)))
    assert affordable(names, known, seconds, len(names)) == [name for name in names if known[name] <= seconds]
    assert sum(known[name] for name in found) <= hands * seconds + 1e-9
