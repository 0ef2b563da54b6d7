"""Weights and activations in 8 bits, with ranges of activations that were measured beforehand.

Idea       w ~ s_w * q_w with a scale for each output channel, x ~ s_x * (q_x - z_x) with the range of x from rows of
           the training data, so that nothing is measured in a call; products in int8, sums in int32. The range is
           all that was seen (minmax), a share of it (percentile), or cut where KL(P || Q) of 2,048 bins and 128 levels
           (entropy: Migacz 2017, 8-bit inference with TensorRT) or the squared error (mse) is least. With `smooth` = a,
           s_j = max|X_j|^a / max|W_j|^(1-a) moves from channel j of x into row j of the weights, which says the same
           and leaves fewer outliers in x (Xiao et al. 2022, arXiv:2211.10438). Or ranges are those that quant.aware
           trained with (trained). The graph is then compared with its float one on dev; while it loses more than
           `max_loss` points, beyond what chance explains, what harms most goes back to float.
Takes      A folder with a float32 graph, and rows of the stage's data; no labels of them. Dev, with its labels, says
           how much is lost.
Leaves     The same folder with the graph in int8, about a quarter of the bytes; `found` in its record has the loss on
           dev and what is in float.
Beside     Training before it, quant.aware in it. quant.dynamic, which needs no rows and measures ranges in each call.
Fails      On rows unlike those of its data: what is beyond a range is cut. `percentile` and `entropy` also cut outliers
           that encoders need: they cost MiniLM 3 to 4 points on tweets, mse and minmax none. Its products are ONNX
           Runtime's own operator; other runtimes read quant.dynamic's graph. On processors without VNNI or AMX two
           products can overflow 16 bits; `reduce_range` spends a bit to prevent it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import onnx

from smidgen.calibration import CALIBRATORS, RANGES, Range, calibrator, extremes, histograms
from smidgen.errors import InputError, NoEffect
from smidgen.integer import count, dynamic, parts, products, smoothed, sources, static, trained_ranges
from smidgen.method import Context, Method, Needs, at_least, one_of, share
from smidgen.precision import guarded
from smidgen.runtime.folder import GRAPH

LEAST = 32  # rows that say anything
TRAINED = "trained"


@final
@dataclass(frozen=True)
class Static(Method[None]):
    ranges: str = "mse"  # minmax | percentile | entropy | mse: where activations are cut; trained = by quant.aware
    percent: float = 99.99  # of the numbers that a range of `percentile` holds
    rows: int = 512  # to measure ranges on; all there are where the data has fewer
    smooth: float = 0.0  # how much of the outliers moves into the weights, as 0.7; 0 = none
    embeddings: bool = True  # quantise the embedding tables too
    reduce_range: bool = False  # 7-bit weights, for processors without VNNI
    max_loss: float | None = 0.5  # points of the metric on dev that int8 may cost; None = not compared

    needs: ClassVar[Needs] = Needs(rows=True)
    accepts: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "int8"

    def faults(self) -> Iterator[str]:
        yield from one_of("ranges", self.ranges, (*CALIBRATORS, "percentile", TRAINED))
        if not 50 <= self.percent <= 100:
            yield f"percent: got {self.percent}, wanted a number from 50 to 100, as 99.99."
        yield from at_least("rows", self.rows, LEAST)
        yield from share("smooth", self.smooth)
        if self.smooth and self.ranges == TRAINED:
            yield f"smooth: got {self.smooth}, wanted 0 with ranges trained, which are of what is not smoothed."
        if self.max_loss is not None:
            yield from at_least("max_loss", self.max_loss, 0)

    def looks(self) -> bool:
        return self.max_loss is not None

    def run(self, ctx: Context) -> dict[str, Any]:
        """Quantise `ctx.target`'s graph in place of the float one; gives the counts of products, and what was lost."""
        graph = onnx.load(str(ctx.source / GRAPH))
        if not products(graph):
            whole = count(graph, "MatMul", "Gemm")
            raise NoEffect(f"quant.static: none of the graph's {whole} products has constant weights to quantise.")
        trained = self._trained(ctx, graph)
        feeds = list(ctx.sight.inputs(self.rows))
        rows = sum(len(feed["input_ids"]) for feed in feeds)
        if rows < LEAST:
            raise InputError(
                f"quant.static: got {rows} rows to measure ranges on, wanted at least {LEAST}. Give more rows of "
                "training data, or take quant.dynamic, which needs none."
            )
        if self.smooth:
            seen = extremes(graph, sources(graph), feeds)
            graph = smoothed(graph, {x: np.maximum(-low, high) for x, (low, high) in seen.items()}, self.smooth)
        cut = calibrator("mse" if trained else self.ranges, self.percent)
        spread = histograms(graph, extremes(graph, sources(graph), feeds), feeds)
        ranges = {x: found.clipped(cut(found)) for x, found in spread.items()} | trained
        others = ["LSTM", "Gather"] if self.embeddings else ["LSTM"]

        def quantise(kept: Collection[str]) -> onnx.ModelProto:
            return dynamic(static(graph, ranges, self.reduce_range, kept), others, True, self.reduce_range, kept)

        found = guarded(ctx, quantise, parts(graph, ["MatMul", "Gemm", *others]), self.max_loss)
        return found | {"calibrated_on": rows, "trained_ranges": len(trained)}

    def _trained(self, ctx: Context, graph: onnx.ModelProto) -> dict[str, Range]:
        """What a product reads of which nothing was trained is measured, by the least squares."""
        if self.ranges != TRAINED:
            return {}
        if not (ctx.source / RANGES).is_file():
            raise InputError(
                f"quant.static: ranges: trained, but there is no {RANGES} beside the graph. quant.aware leaves it: add "
                "it to the last stage that trains, or write ranges: mse."
            )
        return trained_ranges(graph, json.loads((ctx.source / RANGES).read_text(encoding="utf-8")))
