"""Ranges of activations: each calibrator against its formula, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from smidgen.calibration import (
    LEVELS,
    Histogram,
    calibrator,
    divergence,
    entropy,
    extremes,
    histograms,
    minmax,
    mse,
    percentile,
)

COUNTS = st.lists(st.sampled_from([0, 0, 1, 2, 5, 40, 300]), min_size=130, max_size=160).filter(lambda c: sum(c) > 0)
ENDS = st.tuples(st.floats(0, 8), st.floats(0.1, 8))


def made(counts: list[int], ends: tuple[float, float]) -> Histogram:
    return Histogram(np.array(counts), -ends[0], ends[1])


def slow_divergence(counts: list[int], end: int) -> float:
    p = [float(c) for c in counts[:end]]
    p[-1] += sum(counts[end:])
    q = [0.0] * end
    for level in range(LEVELS):
        bins = [b for b in range(end) if b * LEVELS // end == level and counts[b]]
        for b in bins:
            q[b] = sum(counts[b] for b in bins) / len(bins)
    if any(a and not b for a, b in zip(p, q, strict=True)):
        return math.inf
    whole_p, whole_q = sum(p), sum(q)
    return sum(a / whole_p * math.log(a / whole_p / (b / whole_q)) for a, b in zip(p, q, strict=True) if a)


@settings(max_examples=30, deadline=None)
@given(COUNTS, st.integers(0, 30))
def test_divergence_is_the_formula(counts: list[int], more: int) -> None:
    end = min(LEVELS + more, len(counts))
    assert divergence(np.array(counts), end) == pytest.approx(slow_divergence(counts, end), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(COUNTS, ENDS)
def test_entropy_takes_the_least_divergence(counts: list[int], ends: tuple[float, float]) -> None:
    found = made(counts, ends)
    all_of_them = {end: slow_divergence(counts, end) for end in range(LEVELS, len(counts) + 1)}
    end = round(entropy(found) / max(ends) * len(counts))
    assert end in all_of_them and all_of_them[end] == pytest.approx(min(all_of_them.values()), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(COUNTS, ENDS)
def test_mse_takes_the_least_error(counts: list[int], ends: tuple[float, float]) -> None:
    found, width = made(counts, ends), max(ends) / len(counts)

    def error(threshold: float) -> float:
        low, high = found.clipped(threshold)
        middles = [(b + 0.5) * width for b in range(len(counts))]
        inside = ((high - low) / 255) ** 2 / 12
        return sum(
            c * (inside if m < threshold else (m - threshold) ** 2) for c, m in zip(counts, middles, strict=True)
        )

    every = [error((b + 1) * width) for b in range(len(counts))]
    assert error(mse(found)) == pytest.approx(min(every), rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(COUNTS, ENDS, st.floats(50, 100))
def test_percentile_holds_what_it_says(counts: list[int], ends: tuple[float, float], percent: float) -> None:
    found = made(counts, ends)
    bins = round(percentile(found, percent) / max(ends) * len(counts))
    wanted = percent / 100 * sum(counts)
    assert sum(counts[:bins]) >= wanted - 1e-6 and sum(counts[: bins - 1]) < wanted
    assert calibrator("percentile", percent)(found) == percentile(found, percent)


def test_an_outlier_is_cut_by_entropy_and_kept_where_it_is_worth_it() -> None:
    draw = np.random.default_rng(0).normal(size=200_000)
    seen = np.concatenate([draw, [30.0] * 4])
    counts = np.histogram(np.abs(seen), 2048, (0, 30))[0]
    found = Histogram(counts, float(seen.min()), 30.0)
    assert minmax(found) == 30 and 3 < entropy(found) < 8 and 3.8 < percentile(found, 99.99) < 4.1
    assert 5 < mse(found) <= 30
    many = Histogram(counts + 5000 * (np.arange(2048) == 2047), found.low, 30.0)
    assert mse(many) > 29.9, "a signal is no outlier"


def test_a_range_has_0_in_it_and_ends_where_the_numbers_do() -> None:
    counts = np.ones(2048, int)
    assert Histogram(counts, -0.2, 9.0).clipped(4.0) == (-0.2, 4.0)
    assert Histogram(counts, 2.0, 9.0).clipped(9.0) == (0.0, 9.0)
    assert Histogram(counts, -9.0, -2.0).clipped(9.0) == (-9.0, 0.0)
    silent = Histogram(np.eye(1, 2048, dtype=int)[0], 0.0, 0.0)
    assert all(silent.clipped(calibrator(name, 99.9)(silent)) == (0.0, 0.0) for name in ("minmax", "entropy", "mse"))


def scaled() -> onnx.ModelProto:
    """x (B, L, 2) = input_ids times (1, -2)."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "l"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "l", 2])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "last"], ["wide"]),
        helper.make_node("Mul", ["wide", "by"], ["x"]),
        helper.make_node("Identity", ["x"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("by", TensorProto.FLOAT, [2], [1.0, -2.0]),
    ]
    graph = helper.make_graph(nodes, "g", [ids], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_histograms_are_streamed_over_real_tokens() -> None:
    ids = [np.array([[1, 2, 900], [3, 4, 5]]), np.array([[8, 7]])]
    mask = [np.array([[1, 1, 0], [1, 1, 1]]), np.array([[1, 1]])]
    feeds = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    seen = extremes(scaled(), ["x"], feeds)
    assert [ends.tolist() for ends in seen["x"]] == [[1, -16], [8, -2]]
    found = histograms(scaled(), seen, feeds, bins=16)["x"]
    assert (found.low, found.high) == (-16, 8)
    values = np.array([1, 2, 3, 4, 5, 8, 7, 2, 4, 6, 8, 10, 16, 14])
    assert found.counts.tolist() == np.histogram(values, 16, (0, 16))[0].tolist()
