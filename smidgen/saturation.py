"""What int8 graphs say on processors without VNNI: two products there meet in 16 bits.

The instruction of AVX2 and of the first AVX-512 (VPMADDUBSW) multiplies unsigned by signed bytes and adds neighbours of
the inner dimension, with everything beyond -32,768 to 32,767 cut off, before sums are kept in 32 bits. ONNX Runtime
takes it where there is nothing better. Here the same is worked out in numpy, whatever the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from smidgen.integer import CONTRIB, INTEGER, count
from smidgen.measure.quality import agreement
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.machine import cuts_off
from smidgen.runtime.model import load
from smidgen.runtime.portable import KEY, UNKNOWN
from smidgen.tasks import Task

PORTABLE = 0.995  # of decisions that are the same on other processors
LSTM = "DynamicQuantizeLSTM"  # of which it is not worked out here
LOW, HIGH, TOP = -(2**15), 2**15 - 1, 255


def cut_off(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(..., N) int64: how much more x w is than what comes out. x: (..., K) uint8; w: (K, N) int8."""
    first, second = _neighbours(w)
    columns, pairs = np.nonzero(_can_overflow(first, second).T)  # by column
    found = np.zeros((*x.shape[:-1], w.shape[1]), np.int64)
    if not len(pairs):
        return found
    rows = x.reshape(-1, x.shape[-1]).astype(np.int32)
    rows = np.concatenate([rows, np.zeros((len(rows), len(w) % 2), np.int32)], 1)
    sums = rows[:, 2 * pairs] * first[pairs, columns] + rows[:, 2 * pairs + 1] * second[pairs, columns]
    held, starts = np.unique(columns, return_index=True)
    over = np.add.reduceat(sums - sums.clip(LOW, HIGH), starts, 1, dtype=np.int64)
    found.reshape(-1, w.shape[1])[:, held] = over
    return found


def without_vnni(task: Task, folder: Path, texts: Sequence[str], pairs: Sequence[str] | None) -> float | None:
    """The share of decisions that are the same on a processor with VNNI and on one without; None where it is not known,
    of graphs with an LSTM.
    """
    graph = onnx.load(str(folder / GRAPH))
    if count(graph, LSTM):
        return None
    if not _doubtful(graph):
        return 1.0
    said = []
    for cutting in (False, True):
        model = load(folder, 1)
        model.session = ReferenceEvaluator(graph, new_ops=_operators(cutting))
        said.append(model.outputs(texts, pairs))
    return agreement(task, said[0], said[1]).value


def warning(graph: onnx.ModelProto) -> str:
    """What to know of an int8 graph where it was made; "" where nothing can overflow."""
    if not cuts_off() or not (count(graph, LSTM) or _doubtful(graph)):
        return ""
    return "sums of int8 products may overflow here, since this processor has no VNNI: write reduce_range: true."


def note(graph: onnx.ModelProto, same: float | None = None) -> None:
    """Write into a graph what is known of it without VNNI, unless that is nothing to speak of."""
    sure = not count(graph, LSTM) and not _doubtful(graph)
    if not sure and (same is None or same < PORTABLE):
        graph.metadata_props.add(key=KEY, value=UNKNOWN if same is None else f"{same:.4f}")


def _doubtful(graph: onnx.ModelProto) -> bool:
    """Could two neighbours of a product's int8 weights overflow, whatever they are multiplied by? LSTMs apart."""
    read = {node.input[1] for node in graph.graph.node if node.op_type in INTEGER and node.op_type != LSTM}
    weights = [numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if tensor.name in read]
    return any(_can_overflow(*_neighbours(w)).any() for w in weights)


def _operators(cutting: bool) -> list[type[OpRun]]:
    """The products of int8 graphs in numpy."""
    from torch import from_numpy
    from torch.nn.functional import gelu

    def product(
        x: np.ndarray, w: np.ndarray, x_zero: np.ndarray | None = None, w_zero: np.ndarray | None = None
    ) -> np.ndarray:
        """float64, in which such sums are exact. Zero points are taken off the sums, where nothing overflows."""
        left, right = (
            values.astype(np.float64) - (0 if zero is None else zero.astype(np.float64))
            for values, zero in ((x, x_zero), (w, w_zero))
        )
        return left @ right - (cut_off(x, w) if cutting else 0)

    class MatMulInteger(OpRun):
        def _run(self, *inputs: np.ndarray) -> tuple[np.ndarray]:
            return (product(*inputs).astype(np.int32),)

    class MatMulIntegerToFloat(OpRun):
        op_domain = CONTRIB

        def _run(self, *inputs: np.ndarray) -> tuple[np.ndarray]:
            x, w, x_scale, w_scale, *rest = inputs
            x_zero, w_zero, bias = (*rest, None, None, None)[:3]
            said = product(x, w, x_zero, w_zero) * x_scale * w_scale
            return ((said if bias is None else said + bias).astype(np.float32),)

    class Gelu(OpRun):  # numpy has no erf, and Python's takes most of the time
        def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
            return (gelu(from_numpy(x), approximate=approximate).numpy(),)

    return [MatMulInteger, MatMulIntegerToFloat, Gelu]


def _can_overflow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    most = np.maximum(first, 0) + np.maximum(second, 0)
    least = np.minimum(first, 0) + np.minimum(second, 0)
    return (most * TOP > HIGH) | (least * TOP < LOW)


def _neighbours(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows 0, 2, ... and 1, 3, ... of w (K, N), each (K / 2 rounded up, N) int32."""
    even = np.concatenate([w, np.zeros((len(w) % 2, w.shape[1]), w.dtype)]).astype(np.int32)
    return even[0::2], even[1::2]
