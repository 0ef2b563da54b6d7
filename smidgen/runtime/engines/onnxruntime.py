"""ONNX Runtime, the default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.errors import ModelError
from smidgen.runtime.engines import Way
from smidgen.runtime.folder import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TITLE = "ONNX Runtime"
PRECISIONS = ("float32",)


class Session:
    """See `smidgen.runtime.engines.Session`. Calls of one thread run in the thread that makes them, side by side."""

    def __init__(self, graph: Path, way: Way) -> None:
        opened = open_session(graph, way.threads)
        self.inputs = tuple(value.name for value in opened.get_inputs())
        self.outputs = {value.name: value.shape for value in opened.get_outputs()}
        self.run = opened.run


def open_session(graph: Path, threads: int) -> InferenceSession:
    """An ONNX Runtime session on the processor; its threads sleep as soon as a call is over.

    Raises:
        ModelError: the file does not open; in one line.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(
            str(graph),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    except Exception as error:
        raise ModelError(
            f"{graph}: ONNX Runtime {onnxruntime.__version__} cannot open it ({first_line(error)}). "
            "Copy the folder again, or export it again."
        ) from None
