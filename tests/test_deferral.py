"""When a cascade asks its larger model: thresholds against brute force, and which pairs are worth building."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen import budget, deferral
from smidgen.deferral import Wanted, chain, choose, expected, keeps, percentile, temperature, thresholds
from smidgen.measure.quality import resampled_rows
from smidgen.pairing import GAIN, SHARE, Trained, cascades
from smidgen.runtime.cascade import passes
from smidgen.tasks import Classify, Several

TWO, THREE = Classify(("no", "yes")), Classify(("a", "b", "c"))
MANY = Classify(("a", "b", "c"), multi_label=True)
BOTH = Several(("mood/bad", "mood/good", "stars/1", "stars/2", "stars/3"))
TASKS = [TWO, THREE, MANY, BOTH, Classify(("a", "b", "c"), metric="f1")]

cases = st.tuples(st.sampled_from(TASKS), st.integers(1, 40), st.integers(0, 10**6))
shares = st.floats(0, 1.1)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferral, "DRAWS", 60)


def drawn(task: Any, n: int, seed: int, levels: int = 2) -> tuple[list[np.ndarray], np.ndarray]:
    """Logits of so many models, each better than the one before it, and gold."""
    draw = np.random.default_rng(seed)
    gold = draw.integers(0, len(task.labels), n)
    right = np.eye(len(task.labels))[gold]
    if task.multi_label:
        gold = right = draw.integers(0, 2, (n, len(task.labels)))
    noise = [draw.normal(size=right.shape) for _ in range(levels)]
    return [((right - 0.5) * (1.2 * i + 0.8) + z).astype(np.float32) for i, z in enumerate(noise)], gold


def mixture(task: Any, small: np.ndarray, large: np.ndarray, choice: Any) -> np.ndarray:
    going = task.confidence(small, choice.temperature) <= choice.threshold
    return np.where(going[:, None], large, small)


# Thresholds.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=30))
def test_thresholds_part_the_rows_in_every_way(tenths: list[int]) -> None:
    confidence = np.array(tenths, float) / 12
    found = thresholds(confidence)
    going = [int(passes(confidence, value).sum()) for value in found]
    values = sorted(set(tenths))
    wanted = [sum(t <= v for t in tenths) for v in values[:-1]]
    assert sorted(set(going)) == sorted({0, *wanted, len(tenths)})
    assert found[0] == 0 and found[-1] == 1 and (np.diff(found) > 0).all()
    assert not any(v / 12 == value for v in values[:-1] for value in found), "rounding of a confidence moves no row"


def test_of_many_values_there_are_a_hundred_steps_of_as_many_rows() -> None:
    confidence = np.random.default_rng(0).random(5000) ** 0.2
    going = np.array([passes(confidence, value).sum() for value in thresholds(confidence)])
    assert len(going) == deferral.STEPS + 1 and (np.abs(np.diff(going) - 50) <= 1).all()


def test_neighbouring_numbers_are_told_apart() -> None:
    pair = np.array([0.7, np.nextafter(0.7, 1)])
    assert passes(pair, thresholds(pair)[1]).tolist() == [True, False]


def test_a_row_of_which_nothing_is_known_goes_on() -> None:
    assert passes(np.array([np.nan, 0.4, 1.0]), 0.0).tolist() == [True, False, False]
    assert passes(np.array([np.nan, 0.4, 1.0]), 1.0).all()


# Confidence and temperature.


@settings(max_examples=40, deadline=None)
@given(cases, st.floats(0.3, 4))
def test_confidence_is_the_probability_of_the_decision(case: tuple[Any, int, int], heat: float) -> None:
    task, n, seed = case
    (logits, _), _ = drawn(task, n, seed)
    found = task.confidence(logits, heat)
    if task is BOTH:
        each = [
            part.probabilities(logits[:, at] / heat).max(-1)
            for part, at in zip(task.parts.values(), task.segments, strict=True)
        ]
        wanted = np.min(each, axis=0)
    else:
        chances = task.probabilities(logits / heat)
        wanted = np.maximum(chances, 1 - chances).min(-1) if task.multi_label else chances.max(-1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def log_loss(task: Any, logits: np.ndarray, gold: np.ndarray, heat: float) -> float:
    """Of the gold labels, written from the formula."""
    wide, total = logits.astype(np.float64) / heat, 0.0
    for row, label in zip(wide, gold, strict=True):
        if task.multi_label:
            total += sum(math.log1p(math.exp(-z if y else z)) for z, y in zip(row, label, strict=True))
            continue
        at = task.segments[task.owners[label]] if task is BOTH else slice(None)
        total += math.log(np.exp(row[at]).sum()) - row[label]
    return total


@settings(max_examples=30, deadline=None)
@given(cases)
def test_the_temperature_has_the_least_log_loss(case: tuple[Any, int, int]) -> None:
    task, n, seed = case
    (logits, _), gold = drawn(task, n, seed)
    found = temperature(task, logits, gold)
    best = log_loss(task, logits, gold, found)
    for heat in (0.1, 0.3, 0.7, 1, 1.5, 3, 10, found * 1.01, found / 1.01):
        if 0.1 <= heat <= 10:
            assert best <= log_loss(task, logits, gold, heat) + 1e-9


def test_logits_that_are_too_sure_are_cooled() -> None:
    draw = np.random.default_rng(0)
    true = draw.normal(size=(4000, 3)) * 2
    gold = np.array([draw.choice(3, p=np.exp(z) / np.exp(z).sum()) for z in true])
    assert temperature(THREE, 3 * true, gold) == pytest.approx(3, rel=0.06)


# The choice.


def brute(task: Any, small: np.ndarray, large: np.ndarray, gold: np.ndarray, wanted: Wanted, sure: float) -> Any:
    """Every threshold judged by itself; then the lowest of those with none above it that fails."""
    heat, n, best = temperature(task, small, gold), len(gold), None
    for value in sorted(thresholds(task.confidence(small, heat)), reverse=True):
        mixed = np.where((task.confidence(small, heat) <= value)[:, None], large, small)

        def kept(rows: np.ndarray, mixed: np.ndarray = mixed) -> bool:
            floor = 1.0 if wanted.reference is None else task.score(wanted.reference[rows], gold[rows])
            return task.score(mixed[rows], gold[rows]) >= wanted.at_least * floor

        draws = [row for index in resampled_rows(n, deferral.DRAWS, 0) for row in index]
        if not kept(np.arange(n)) or (sure > 0 and np.mean([kept(rows) for rows in draws]) < sure):
            break
        best = value
    return best


@settings(max_examples=40, deadline=None)
@given(cases, shares, st.sampled_from([0.0, 0.5, 0.95]), st.booleans())
def test_the_choice_is_that_of_brute_force(case: Any, share: float, sure: float, absolute: bool) -> None:
    task, n, seed = case
    (small, large), gold = drawn(task, n, seed)
    wanted = Wanted(share, None if absolute else large)
    found = choose(task, small, large, gold, wanted, sure)
    value = brute(task, small, large, gold, wanted, sure)
    assert (found and found.threshold) == value
    if found is not None:
        mixed = mixture(task, small, large, found)
        assert keeps(task, mixed, gold, wanted, sure) and found.held >= sure
        assert found.passed == np.mean(passes(task.confidence(small, found.temperature), found.threshold))


@settings(max_examples=40, deadline=None)
@given(cases, shares, shares, st.floats(0, 1), st.floats(0, 1))
def test_who_asks_for_more_passes_on_no_fewer(case: Any, a: float, b: float, x: float, y: float) -> None:
    task, n, seed = case
    (small, large), gold = drawn(task, n, seed)
    less = choose(task, small, large, gold, Wanted(min(a, b), large), min(x, y))
    more = choose(task, small, large, gold, Wanted(max(a, b), large), max(x, y))
    assert more is None or (less is not None and less.passed <= more.passed)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_the_ends_are_the_models_alone(case: Any) -> None:
    task, n, seed = case
    (small, large), gold = drawn(task, n, seed)
    nothing = choose(task, small, large, gold, Wanted(0.0, large))
    assert nothing is not None and (nothing.threshold, nothing.passed) == (0, 0)
    np.testing.assert_array_equal(mixture(task, small, large, nothing), small)
    right = 20 * (np.eye(len(task.labels))[gold] if not task.multi_label else gold) - 10
    everything = choose(task, -right, right, gold, Wanted(1.0, None))
    assert everything is not None and (everything.threshold, everything.passed) == (1, 1)
    np.testing.assert_array_equal(mixture(task, -right, right, everything), right)
    assert choose(task, small, large, gold, Wanted(1.2, large if task.score(large, gold) else None)) is None


def test_labels_that_a_teacher_gave_do() -> None:
    (small, large), _ = drawn(THREE, 300, 0)
    found = choose(THREE, small, large, THREE.decide(large), Wanted(0.9, None))
    assert found is not None and 0 < found.passed < 1
    assert np.mean(THREE.decide(mixture(THREE, small, large, found)) == THREE.decide(large)) >= 0.9


def test_a_cascade_that_kept_enough_on_dev_keeps_it_elsewhere() -> None:
    """Dev is drawn again and again; by its bare score every second choice or more falls short, by its draws few do."""
    many = drawn(TWO, 20_000, 1)
    (small, large), gold = many
    wanted = 0.97
    short = {0.0: 0, 0.95: 0}
    draw = np.random.default_rng(0)
    for _ in range(40):
        rows = draw.choice(len(gold), 300, replace=False)
        for sure in short:
            choice = choose(TWO, small[rows], large[rows], gold[rows], Wanted(wanted, large[rows]), sure)
            assert choice is not None
            short[sure] += TWO.score(mixture(TWO, small, large, choice), gold) < wanted * TWO.score(large, gold)
    assert short[0.95] <= 4 < 12 < short[0.0]


# More than two.


@settings(max_examples=25, deadline=None)
@given(cases, st.floats(0.8, 1.0))
def test_a_chain_keeps_what_its_last_model_is_asked_for(case: Any, share: float) -> None:
    task, n, seed = case
    outputs, gold = drawn(task, n, seed, 3)
    wanted = Wanted(share, outputs[-1])
    found = chain(task, outputs, gold, wanted)
    alone = choose(task, outputs[0], outputs[2], gold, wanted)
    assert found is not None and alone is not None and found[0] == alone
    assert chain(task, outputs[::2], gold, wanted) == [alone]
    assert found[1].passed <= found[0].passed
    mixed, left = outputs[0].copy(), np.arange(n)
    for choice, small, large in zip(found, outputs, outputs[1:], strict=False):
        left = left[task.confidence(small[left], choice.temperature) <= choice.threshold]
        mixed[left] = large[left]
        assert choice.passed == len(left) / n
    assert keeps(task, mixed, gold, wanted)


def test_a_chain_that_cannot_keep_it() -> None:
    outputs, gold = drawn(TWO, 50, 0, 3)
    assert chain(TWO, outputs, gold, Wanted(1.0, None)) is None


# Time.


def test_expected_time_and_percentiles() -> None:
    assert expected([1.0, 10.0], [0.2]) == pytest.approx(3.0)
    assert expected([1.0, 4.0, 20.0], [0.5, 0.1]) == pytest.approx(5.0)
    assert expected([1.0, 10.0], [0.0]) == 1 and expected([1.0, 10.0], [1.0]) == 11
    assert percentile([1.0, 10.0], [0.04], 0.95) == 1 and percentile([1.0, 10.0], [0.06], 0.95) == 11
    assert percentile([1.0, 4.0, 20.0], [0.6, 0.2], 0.5) == 5


# Which pairs are worth building.


def trained(name: str, outputs: np.ndarray, ms: float, mb: float = 10.0) -> Trained:
    return Trained(name, outputs, {"p50_ms": ms, "p95_ms": 1.5 * ms, "p99_ms": None}, mb)


@pytest.fixture(scope="module")
def three() -> tuple[list[Trained], np.ndarray]:
    """Right on 58, 85 and 97 % of 600 rows."""
    outputs, gold = drawn(THREE, 600, 3, 3)
    times = {"small": 1.0, "middle": 3.0, "large": 30.0}
    return [trained(n, o, ms) for (n, ms), o in zip(times.items(), outputs, strict=True)], gold


def test_pairs_that_are_worth_it_the_fastest_first(three: Any) -> None:
    models, gold = three
    limits = budget.read(quality="95%teacher")
    found = cascades(THREE, models[::-1], gold, limits, models[-1].outputs, most=3)
    assert [(pair.small, pair.large) for pair in found] == [("middle", "large"), ("small", "large")]
    assert found[0].expected_ms < found[1].expected_ms
    for pair in found:
        small = next(one for one in models if one.name == pair.small)
        wanted = Wanted(0.95, models[-1].outputs)
        assert pair.choice == choose(THREE, small.outputs, models[-1].outputs, gold, wanted)
        assert pair.expected_ms == pytest.approx(small.latency["p50_ms"] + pair.choice.passed * 30)
        assert pair.expected_ms <= GAIN * 30 and pair.size_mb == 20
        both = small.latency["p95_ms"] + 45
        assert pair.latency["p95_ms"] == pair.latency["p99_ms"] == both and pair.choice.passed > 0.05
    assert cascades(THREE, models, gold, limits, models[-1].outputs, most=1) == found[:1]


def test_the_mean_counts_where_it_is_known(three: Any) -> None:
    models, gold = three
    slow = [Trained(m.name, m.outputs, m.latency | {"mean_ms": 2 * m.latency["p50_ms"]}, m.size_mb) for m in models]
    limits = budget.read(quality="95%teacher")
    pairs = zip(*(cascades(THREE, given, gold, limits, models[-1].outputs) for given in (models, slow)), strict=True)
    assert all(b.expected_ms == pytest.approx(2 * a.expected_ms) for a, b in pairs)


def test_without_a_quality_a_share_of_the_larger_one_is_kept(three: Any) -> None:
    models, gold = three
    for pair in cascades(THREE, models, gold, budget.read(), most=3):
        small, large = (next(one for one in models if one.name == name) for name in (pair.small, pair.large))
        assert pair.choice == choose(THREE, small.outputs, large.outputs, gold, Wanted(SHARE, large.outputs))


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"quality": "95%teacher", "size": "19MB"}, "the bytes of both"),
        ({"quality": "95%teacher", "latency": "p95=46ms"}, "a row that is passed on takes the time of both"),
        ({"quality": "accuracy>=0.999"}, "even the larger one does not keep it"),
        ({"quality": "30%teacher"}, "the smaller one alone keeps it"),
    ],
)
def test_pairs_that_are_not(three: Any, limits: dict[str, str], why: str) -> None:
    models, gold = three
    pair = [models[0], models[-1]]
    loose = cascades(THREE, pair, gold, budget.read(quality="95%teacher"), models[-1].outputs)
    assert len(loose) == 1, "it is the limit that forbids it"
    assert cascades(THREE, pair, gold, budget.read(**limits), models[-1].outputs) == [], why


def test_a_pair_is_not_worth_more_than_a_model_that_is_as_good_and_as_fast(three: Any) -> None:
    models, gold = three
    limits = budget.read(quality="95%teacher")
    twin = trained("twin", models[-1].outputs, 1.5)
    found = cascades(THREE, [*models, twin], gold, limits, models[-1].outputs)
    assert found == [], "what takes as long as one that keeps it alone brings nothing"
    near = [models[0], trained("large", models[-1].outputs, 1.2)]
    assert cascades(THREE, near, gold, limits, models[-1].outputs) == [], "a model as fast as the small one"
