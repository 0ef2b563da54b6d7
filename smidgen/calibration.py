"""Where the activations of a graph lie, and where they are clipped before they become 8 bits.

A tensor's numbers are streamed into a histogram of |x|; a calibrator is a function from a histogram to the threshold T
at which |x| is cut:

    minmax        T = max |x|: nothing is cut
    percentile    the least T with so many hundredths of |x| up to it
    entropy       the T whose cut histogram P is nearest to itself in 128 levels, Q: least KL(P || Q) = sum P log(P / Q)
                  (Migacz 2017, 8-bit inference with TensorRT)
    mse           the T with the least sum of squared errors: step^2 / 12 below it, (|x| - T)^2 above
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smidgen.runtime.machine import usable_cores

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

BINS = 2048
LEVELS = 128  # of |x| in 8 bits with a sign
STEPS = 255  # between the least and the largest of 8 bits
RANGES = "ranges.json"  # in a folder: of what each Linear reads, by its name, as quant.aware left them

Feed = Mapping[str, np.ndarray]  # what a graph takes, by name, each (B, L)
Range = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """`counts` (bins,) of |x| in bins of equal width from 0 to max(-low, high); x lies from `low` to `high`."""

    counts: np.ndarray
    low: float
    high: float

    @property
    def edges(self) -> np.ndarray:
        """(bins,): the upper edge of each bin."""
        bins = len(self.counts)
        return max(-self.low, self.high) * np.arange(1, bins + 1) / bins

    def clipped(self, threshold: float) -> Range:
        """The range of x that is kept; 0 is in it, so that 0 stays 0."""
        return max(min(self.low, 0.0), -threshold), min(max(self.high, 0.0), threshold)


def minmax(found: Histogram) -> float:
    return float(found.edges[-1])


def percentile(found: Histogram, percent: float) -> float:
    inside = np.cumsum(found.counts)
    return float(found.edges[np.searchsorted(inside, percent / 100 * inside[-1])])


def entropy(found: Histogram) -> float:
    ends = np.arange(min(LEVELS, len(found.counts)), len(found.counts) + 1)
    return float(found.edges[ends[np.argmin([divergence(found.counts, int(end)) for end in ends])] - 1])


def mse(found: Histogram) -> float:
    counts, edges = found.counts.astype(np.float64), found.edges
    middles = edges - edges[0] / 2
    below = np.cumsum(counts)
    above = [np.cumsum((counts * middles**power)[::-1])[::-1] - counts * middles**power for power in range(3)]
    spans = np.minimum(max(found.high, 0), edges) + np.minimum(max(-found.low, 0), edges)
    cut = above[2] - 2 * edges * above[1] + edges**2 * above[0]
    return float(edges[np.argmin(below * (spans / STEPS) ** 2 / 12 + cut)])


def divergence(counts: np.ndarray, end: int) -> float:
    """KL(P || Q) where the first `end` bins are kept: P has what is cut in its last bin; Q has the kept counts in
    LEVELS levels, each spread evenly over those of its bins that hold something."""
    kept = counts[:end].astype(np.float64)
    cut = counts[end:].sum()
    if not kept.sum() or (cut and not kept[-1]):
        return float("inf") if cut else 0.0
    level, filled = np.arange(end) * LEVELS // end, kept > 0
    held = np.bincount(level, kept, LEVELS) / np.maximum(np.bincount(level, filled, LEVELS), 1)
    q = held[level][filled] / kept.sum()
    kept[-1] += cut
    p = kept[filled] / kept.sum()
    return float((p * np.log(p / q)).sum())


CALIBRATORS: Mapping[str, Callable[[Histogram], float]] = {"minmax": minmax, "entropy": entropy, "mse": mse}


def calibrator(name: str, percent: float) -> Callable[[Histogram], float]:
    """By its name; `percentile` cuts at `percent`."""
    return CALIBRATORS.get(name, lambda found: percentile(found, percent))


# From a graph and rows.


def extremes(graph: ModelProto, tensors: Sequence[str], feeds: Iterable[Feed]) -> dict[str, tuple[np.ndarray, ...]]:
    """The least and the largest number of each channel, (d,) and (d,), by tensor; of real tokens only."""
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for name, values in _seen(graph, tensors, feeds):
        low, high = found.get(name, (values[0], values[0]))
        found[name] = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    return found


def histograms(
    graph: ModelProto, seen: Mapping[str, tuple[np.ndarray, ...]], feeds: Iterable[Feed], bins: int = BINS
) -> dict[str, Histogram]:
    """By tensor, where `extremes` of the same rows are known."""
    ends = {name: (float(low.min()), float(high.max())) for name, (low, high) in seen.items()}
    counts = {name: np.zeros(bins, np.int64) for name in seen}
    for name, values in _seen(graph, list(seen), feeds):
        top = max(-ends[name][0], ends[name][1])
        at = (np.abs(values) * np.float32(bins / top if top else 0)).astype(np.int32).ravel()
        counts[name] += np.bincount(np.minimum(at, bins - 1), minlength=bins)
    return {name: Histogram(counts[name], *ends[name]) for name in seen}


def _seen(graph: ModelProto, tensors: Sequence[str], feeds: Iterable[Feed]) -> Iterable[tuple[str, np.ndarray]]:
    """Each tensor on each batch, as (rows, d)."""
    session = opened(graph, tensors)
    inputs = [value.name for value in session.get_inputs()]
    for feed in feeds:
        real = feed["attention_mask"] > 0
        for name, values in zip(tensors, session.run(list(tensors), {i: feed[i] for i in inputs}), strict=True):
            tokens = values.ndim == 3 and values.shape[:2] == real.shape
            yield name, values[real] if tokens else values.reshape(-1, values.shape[-1])


def opened(graph: ModelProto, tensors: Iterable[str] = ()) -> InferenceSession:
    """A session of a graph in memory, that gives these tensors too."""
    import onnx
    import onnxruntime

    wider = onnx.ModelProto()
    wider.CopyFrom(graph)
    there = {value.name for value in wider.graph.output}
    more = (onnx.helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, None) for t in tensors if t not in there)
    wider.graph.output.extend(more)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
