"""Weights in 8 bits, activations quantised as they come.

Idea       w ~ s_w * q_w with a scale for each output channel, x ~ s_x * (q_x - z_x) with a range found in each call;
           products in int8, sums in int32 (Zafrir et al. 2019, arXiv:1910.06188; ONNX Runtime's dynamic
           quantisation). Only products with constant weights are quantised, and the embedding tables, which are most
           of a small model's bytes. With `max_loss` the graph is compared with its float one on dev; while it loses
           more points than that, what harms most goes back to float.
Takes      A folder with a float32 graph. No data; with `max_loss` dev, with its labels.
Leaves     The same folder with the graph in int8, about a quarter of the bytes; with `max_loss`, what was lost and what
           is in float in `found` of its record.
Beside     Training before it. Needs no calibration; quant.static measures ranges beforehand.
Fails      On processors without VNNI or AMX two products can overflow 16 bits; `reduce_range` spends a bit to prevent
           it. Outliers in the last blocks can cost quality: set `max_loss`. Finding what harms most takes a second or
           more for each product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import onnx

from smidgen.errors import NoEffect
from smidgen.integer import FLOAT, INTEGER, KINDS, count, dynamic, parts
from smidgen.method import Context, Method, at_least
from smidgen.precision import guarded
from smidgen.runtime.folder import GRAPH


@final
@dataclass(frozen=True)
class Dynamic(Method[None]):
    per_channel: bool = True  # a scale for each output channel instead of one a matrix
    embeddings: bool = True  # quantise the embedding tables too
    reduce_range: bool = False  # 7-bit weights, for processors without VNNI
    max_loss: float | None = None  # points of the metric on dev that int8 may cost, as 0.5; None = not compared

    accepts: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "int8"

    def faults(self) -> Iterator[str]:
        if self.max_loss is not None:
            yield from at_least("max_loss", self.max_loss, 0)

    def looks(self) -> bool:
        return self.max_loss is not None

    def run(self, ctx: Context) -> dict[str, Any]:
        """Quantise `ctx.target`'s graph in place of the float one; gives the counts of products, and what was lost."""
        graph = onnx.load(str(ctx.source / GRAPH))
        kinds = KINDS if self.embeddings else FLOAT

        def quantise(kept: Collection[str]) -> onnx.ModelProto:
            return dynamic(graph, kinds, self.per_channel, self.reduce_range, kept)

        if not count(quantise(()), *INTEGER):
            whole = count(graph, "MatMul")
            raise NoEffect(f"quant.dynamic: none of the graph's {whole} products has constant weights to quantise.")
        return guarded(ctx, quantise, parts(graph, kinds), self.max_loss)
