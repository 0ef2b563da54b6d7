"""Weights in 8 bits, activations quantised as they come.

Idea       w ~ s_w * q_w with a scale for each output channel, x ~ s_x * (q_x - z_x) with a range found in each call;
           products in int8, sums in int32 (Zafrir et al. 2019, arXiv:1910.06188; ONNX Runtime's dynamic
           quantisation). Only products with constant weights are quantised, and the embedding tables, which are most
           of a small model's bytes.
Takes      A folder with a float32 graph. No data.
Leaves     The same folder with the graph in int8, about a quarter of the bytes.
Beside     Training before it. Needs no calibration.
Fails      On processors without VNNI or AMX two products can overflow 16 bits; `reduce_range` spends a bit to prevent
           it. Outliers in the last blocks can cost quality: compare it with the float graph, as the report does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from smidgen.errors import NoEffect
from smidgen.method import Context, Method


@final
@dataclass(frozen=True)
class Dynamic(Method[None]):
    per_channel: bool = True  # a scale for each output channel instead of one a matrix
    embeddings: bool = True  # quantise the embedding tables too
    reduce_range: bool = False  # 7-bit weights, for processors without VNNI

    accepts: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "int8"

    def faults(self) -> Iterator[str]:
        return iter(())

    def run(self, ctx: Context) -> dict[str, float]:
        """Quantise `ctx.target`'s graph in place of the float one; gives the counts of quantised matrices."""
        target = ctx.target / "onnx" / "model.onnx"
        target.parent.mkdir(parents=True, exist_ok=True)
        return self.quantise(ctx.source / "onnx" / "model.onnx", target)

    def quantise(self, source: Path, target: Path) -> dict[str, float]:
        """One graph into another file, or in place."""
        import logging

        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)
        graph = onnx.load(str(source))
        _drop_stale_types(graph)
        before = _count(graph, "MatMul")
        kinds = ["MatMul", "Gemm", "LSTM"] + (["Gather"] if self.embeddings else [])
        quantize_dynamic(
            graph,
            str(target),
            op_types_to_quantize=kinds,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_picks(graph),
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        after = onnx.load(str(target))
        integer = _count(after, "MatMulInteger") + _count(after, "DynamicQuantizeLSTM")
        if not integer:
            raise NoEffect(f"quant.dynamic: none of the graph's {before} products has constant weights to quantise.")
        return {"products_int8": integer, "products_float": _count(after, "MatMul") + _count(after, "LSTM")}


def _drop_stale_types(graph: onnx.ModelProto) -> None:  # type: ignore[name-defined]  # noqa: F821
    """The quantiser transposes Gemm weights in place, then trips over the shapes noted for them before."""
    constant = {tensor.name for tensor in graph.graph.initializer}
    kept = [info for info in graph.graph.value_info if info.name not in constant]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)


def _picks(graph: onnx.ModelProto) -> list[str]:  # type: ignore[name-defined]  # noqa: F821
    """Names of the Gathers by which the rows of a bundle pick what is their task's: small, and not one embedding."""
    numbers, found = {"tasks"}, []
    for i, node in enumerate(graph.graph.node):
        if numbers & set(node.input[1:] if node.op_type == "Gather" else node.input[:1]):
            if node.op_type == "Gather":
                node.name = node.name or f"pick_{i}"
                found.append(node.name)
            if node.op_type in ("Gather", "Cast", "Unsqueeze", "Reshape", "Identity"):
                numbers.update(node.output)
    return found


def _count(graph: onnx.ModelProto, kind: str) -> int:  # type: ignore[name-defined]  # noqa: F821
    return sum(node.op_type == kind for node in graph.graph.node)
