"""OpenVINO, an extra: what a graph has in float it can compute in bfloat16, and it is the faster on long texts.

It reads the same file as ONNX Runtime. Products in int8 are told to it in the forms that it has kernels for, since its
own reading of them computes in float32, in 3 to 4 times the time:

- `DynamicQuantizeLinear` and `MatMulInteger` (quant.dynamic) become a product with weights in 8 bits, whose
  activations OpenVINO quantises itself, in groups of `GROUP` and so more finely than over the whole batch;
- `MatMulIntegerToFloat` (quant.static) becomes a product of dequantised numbers, from which it makes one in int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np

from smidgen.errors import ModelError
from smidgen.runtime.engines import Way

TITLE = "OpenVINO"
PRECISIONS = ("float32", "bfloat16")
HINTS = {"float32": "f32", "bfloat16": "bf16"}
GROUP = 128  # activations that share a scale; measured: 32, OpenVINO's own, takes 1.2 times as long


class Session:
    """See `smidgen.runtime.engines.Session`."""

    def __init__(self, graph: Path, way: Way) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[way.precision],
            "INFERENCE_NUM_THREADS": way.threads * way.calls,
            "NUM_STREAMS": way.calls,
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,
        }
        try:
            self.compiled = _core().compile_model(_core().read_model(str(graph)), "CPU", settings)
        except Exception as error:
            import openvino

            version = openvino.get_version().split("-")[0]
            raise ModelError(
                f"{graph}: OpenVINO {version} cannot open it ({_reason(error)}). Take the engine onnxruntime."
            ) from None
        self.inputs = tuple(port.any_name for port in self.compiled.inputs)
        self.outputs = {port.any_name: _shape(port) for port in self.compiled.outputs}
        self._places = {name: i for i, name in enumerate(self.outputs)}
        self._own = local()

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """A request of OpenVINO holds what it computes, so every thread has its own."""
        if (request := getattr(self._own, "request", None)) is None:
            request = self._own.request = self.compiled.create_infer_request()
        request.infer([feed[name] for name in self.inputs], share_inputs=True, share_outputs=True)
        return [request.get_output_tensor(self._places[name]).data.copy() for name in outputs]


@cache
def _core() -> Any:
    """OpenVINO with our reading of products in int8."""
    import openvino
    from openvino.frontend.onnx import ConversionExtension

    core = openvino.Core()
    core.add_extension(ConversionExtension("DynamicQuantizeLinear", _left_in_float))
    core.add_extension(ConversionExtension("MatMulInteger", _product))
    core.add_extension(ConversionExtension("MatMulIntegerToFloat", "com.microsoft", _product_of_ranges))
    core.add_extension(ConversionExtension("ConvInteger", _refused))
    return core


def _left_in_float(node: Any) -> list[Any]:
    """x itself, with scale 1 and zero 0."""
    from openvino import opset13 as ops

    constants = ops.constant(np.float32(1)), ops.constant(np.uint8(0))
    return [node.get_input(0), *(constant.output(0) for constant in constants)]


def _product(node: Any) -> list[Any]:
    """(x - zero_x) (w - zero_w); the factor of ones is what OpenVINO knows weights in 8 bits by."""
    from openvino import opset13 as ops

    x, w = (_centred(node.get_input(i), _given(node, i + 2)) for i in (0, 1))
    ones = ops.constant(np.ones(_columns(node.get_input(1)), np.float32))
    return [ops.matmul(x, ops.multiply(w, ones), False, False).output(0)]


def _product_of_ranges(node: Any) -> list[Any]:
    """s_x (x - zero_x) s_w (w - zero_w) + bias, with x in 8 bits by a range that is known."""
    from openvino import opset13 as ops

    x, w = (ops.multiply(_centred(node.get_input(i), _given(node, i + 4)), node.get_input(i + 2)) for i in (0, 1))
    found = ops.matmul(x, w, False, False)
    bias = _given(node, 6)
    return [(found if bias is None else ops.add(found, bias)).output(0)]


def _refused(node: Any) -> list[Any]:
    raise ModelError("its convolutions in int8 are not read")


def _centred(values: Any, zero: Any) -> Any:
    from openvino import opset13 as ops

    found = ops.convert(values, "f32")
    return found if zero is None else ops.subtract(found, ops.convert(zero, "f32"))


def _given(node: Any, place: int) -> Any:
    """An input that may be left out; None where it is."""
    if place >= node.get_input_size():
        return None
    found = node.get_input(place)
    return None if "Null" in found.get_node().get_type_name() else found


def _columns(weights: Any) -> tuple[int, ...]:
    """(1, N), or () where the weights are no table of a known width."""
    shape = weights.get_partial_shape()
    known = shape.rank.is_static and shape.rank.get_length() == 2 and shape[1].is_static
    return (1, shape[1].get_length()) if known else ()


def _shape(port: Any) -> list[Any]:
    return [axis.get_length() if axis.is_static else str(axis) for axis in port.partial_shape]


def _reason(error: Exception) -> str:
    """The line of what OpenVINO says that is not about its own files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return (told or lines or [type(error).__name__])[0].rstrip(".")[:200]
