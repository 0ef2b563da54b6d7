"""How sure a choice is, the best along each axis, and the nearest to a budget that nothing keeps to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smidgen.budget import read
from smidgen.choosing import RESAMPLES, alternatives, draws, mean_quality, mean_score, nearest, pick, sureness
from smidgen.deferral import Wanted
from smidgen.measure.quality import mcnemar, resampled_rows
from smidgen.splits import Split
from smidgen.tasks import Classify

TASK = Classify(("no", "yes"))
ROWS = 400
GOLD = np.random.default_rng(0).integers(0, 2, ROWS)


def right(share: float, seed: int = 0) -> np.ndarray:
    """Outputs (n, 2) that are right on a share of the rows, drawn by the seed."""
    wrong = np.random.default_rng(seed).permutation(ROWS)[round(share * ROWS) :]
    said = GOLD.copy()
    said[wrong] = 1 - said[wrong]
    return np.eye(2)[said]


def test_the_share_of_resamples_in_which_it_is_the_best() -> None:
    """Against the definition, one drawing at a time."""
    outputs = {"a": [right(0.90, 1)], "b": [right(0.88, 2)], "c": [right(0.80, 3)]}
    found = sureness(TASK, GOLD, outputs, "a", compared=9)
    best, luck = 0.0, 0.0
    here = {name: TASK.score(said, GOLD) for name, (said,) in outputs.items()}
    for index in np.concatenate(list(resampled_rows(ROWS, RESAMPLES, 0))):
        scores = {name: TASK.score(said[index], GOLD[index]) for name, (said,) in outputs.items()}
        top = max(scores.values())
        winners = [name for name, score in scores.items() if score == pytest.approx(top)]
        best += ("a" in winners) / len(winners)
        luck += top - here[winners[0]]
    assert found.sure == pytest.approx(best / RESAMPLES)
    assert found.luck == pytest.approx(luck / RESAMPLES, abs=1e-3)
    assert (found.compared, found.among, found.next) == (9, 3, "b")
    assert 0.6 < found.sure < 0.95 and found.ties == ("b",)


def test_intervals_hold_together() -> None:
    """The interval of the nearest one is wider where more were compared, and more so than by a half of it."""
    few = {"a": [right(0.9, 1)], "b": [right(0.85, 2)]}
    many = few | {f"c{i}": [right(0.6, 10 + i)] for i in range(18)}
    alone, among = (sureness(TASK, GOLD, outputs, "a", len(outputs)) for outputs in (few, many))
    assert alone.ahead is not None and among.ahead is not None
    assert alone.ahead[0] == among.ahead[0] == pytest.approx(0.05)
    widths = [found.ahead[2] - found.ahead[1] for found in (alone, among) if found.ahead]
    assert widths[1] > 1.3 * widths[0]


def test_one_candidate_is_sure_and_says_so() -> None:
    found = sureness(TASK, GOLD, {"a": [right(0.9)]}, "a", compared=4)
    assert (found.sure, found.among, found.ahead, found.luck) == (1.0, 1, None, 0.0)
    assert found.told("a", 400) == (
        "4 candidates were compared on dev (400 rows); a alone was trained to the end and keeps to the budget."
    )


def test_twins_share_their_sureness_and_a_sentence_says_all() -> None:
    outputs = {"a, int8": [right(0.9)], "a, float32": [right(0.9)], "b": [right(0.5)]}
    found = sureness(TASK, GOLD, outputs, "a, int8", compared=12)
    assert found.sure == 0.5 and found.ties == ("a, float32",)
    told = found.told("a, int8", 400).replace("\u00a0", " ")
    assert told.startswith(
        "12 candidates were compared on dev (400 rows), 3 of them trained to the end and within the budget. Of these "
        "a, int8 is the best in 50 % of 2,000 resamples: +0.0 points (+0.0 to +0.0, corrected for 2 comparisons) ahead "
        "of a, float32. Dev cannot tell it from 1 other. By luck alone the best of 3 looks about "
    )
    data = found.to_data()
    assert data["compared"] == 12 and data["resamples"] == 2000 and data["ahead"]["value"] == 0


def test_the_mean_over_seeds_decides() -> None:
    """Two seeds of 0.95 and 0.81 are no better than two of 0.89 and 0.88."""
    lucky, steady = [right(0.95, 1), right(0.81, 2)], [right(0.89, 3), right(0.88, 4)]
    assert mean_score(TASK, lucky, GOLD) == pytest.approx(0.88) and mean_score(TASK, steady, GOLD) > 0.88
    split = Split("dev", tuple(map(str, range(ROWS))), None, GOLD, "")
    one, two = mean_quality(TASK, lucky[:1], split), mean_quality(TASK, lucky, split)
    assert "seeds" not in one and one["value"] == pytest.approx(0.95)
    assert two["seeds"] == pytest.approx([0.95, 0.81]) and two["value"] == pytest.approx(0.88)
    assert two["low"] < 0.88 < two["high"] and two["n"] == ROWS
    assert sureness(TASK, GOLD, {"lucky": lucky, "steady": steady}, "steady", 2).sure > 0.5


def numbers(quality: float, ms: float, mb: float, error: float = 0.01) -> dict[str, Any]:
    return {
        "dev_quality": {"value": quality, "low": quality - 1.96 * error, "high": quality + 1.96 * error},
        "latency": {"p50_ms": ms, "p95_ms": 2 * ms},
        "size_mb": mb,
    }


def test_the_fastest_of_those_that_cannot_be_told_from_the_best() -> None:
    found = {"best": numbers(0.90, 3.0, 9), "close": numbers(0.895, 2.0, 6), "far": numbers(0.85, 1.0, 3)}
    drawn = draws(TASK, GOLD, {"best": [right(0.90, 1)], "close": [right(0.895, 2)], "far": [right(0.80, 3)]})
    assert pick(found, drawn) == "close"
    assert pick(found, None) == "far"
    assert pick({}, {}) is None


def test_the_choice_is_of_pairs() -> None:
    """Nine errors more, and all of its errors, are less than a standard error of either, and no chance."""
    order = np.random.default_rng(1).permutation(ROWS)

    def wrong(rows: np.ndarray) -> np.ndarray:
        said = GOLD.copy()
        said[rows] = 1 - said[rows]
        return np.eye(2)[said]

    best, worse = wrong(order[:40]), wrong(order[:49])
    other = wrong(np.concatenate([order[:20], order[100:129]]))  # as many errors as the worse, but others
    found = {"best": numbers(0.900, 3.0, 9), "worse": numbers(0.8775, 2.0, 9), "other": numbers(0.8775, 2.5, 9)}
    assert mcnemar(TASK.correct(best, GOLD), TASK.correct(worse, GOLD)) < 0.01
    assert mcnemar(TASK.correct(best, GOLD), TASK.correct(other, GOLD)) > 0.05
    assert pick(found, draws(TASK, GOLD, {"best": [best], "worse": [worse], "other": [other]})) == "other"


def test_where_only_a_quality_is_asked_it_is_how_surely_that_is_kept() -> None:
    teacher, student = right(0.90, 1), right(0.88, 2)
    wanted = Wanted(0.97, teacher)
    found = sureness(TASK, GOLD, {"a": [student]}, "a", 4, wanted=wanted)
    kept = [
        TASK.score(student[index], GOLD[index]) >= 0.97 * TASK.score(teacher[index], GOLD[index])
        for index in np.concatenate(list(resampled_rows(ROWS, RESAMPLES, 0)))
    ]
    assert found.sure == pytest.approx(np.mean(kept)) and 0.5 < found.sure < 0.9
    assert found.keeps and found.to_data()["keeps"]
    assert found.told("a", 400).replace("\u00a0", " ") == (
        "4 candidates were compared on dev (400 rows), 1 of them trained to the end and within the budget. Of these a "
        f"is the fastest, and keeps the quality asked for in {100 * found.sure:.0f} % of 2,000 resamples."
    )
    both = sureness(TASK, GOLD, {"a": [student], "b": [teacher]}, "a", 4, wanted=Wanted(0.5))
    assert both.sure == 1.0 and both.keeps, "though the other is better"


def test_the_best_along_each_axis_with_what_it_breaks() -> None:
    trained = {"large": numbers(0.9, 3.0, 30), "middle": numbers(0.88, 1.0, 10), "tiny": numbers(0.7, 0.1, 2)}
    budget = read(size="15MB", quality="90%teacher")
    found = {one["axis"]: (one["name"], one["breaks"]) for one in alternatives(trained, "middle", budget, 0.9)}
    assert found == {"fastest": ("tiny", ["quality"]), "smallest": ("tiny", ["quality"]), "best": ("large", ["size"])}
    same = {"one": numbers(0.9, 1.0, 1), "two": numbers(0.9, 1.0, 1)}
    assert {one["name"] for one in alternatives(same, "two", read(), None)} == {"two"}  # no better than the winner
    assert alternatives({}, None, budget, None) == []


def test_the_nearest_is_the_one_whose_worst_limit_is_broken_least() -> None:
    candidates = {"slow": numbers(0.9, 2.0, 10), "large": numbers(0.9, 1.0, 18)}
    found = nearest(candidates, read("p95=2ms", "15MB"), None)
    assert found is not None and (found.name, found.binding, found.fits) == ("large", "size", "--max-size 18MB")
    assert found.to_data()["over"] == {"size": 1.2}
    assert nearest(candidates, read("p95=9ms"), None) is None
