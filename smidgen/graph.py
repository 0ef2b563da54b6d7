"""A model as an ONNX graph: traced by the exporter of transformers, and compared with the model."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from smidgen.anatomy import plain_type
from smidgen.errors import Faulty, SmidgenError
from smidgen.fusions import fused
from smidgen.saving import save
from smidgen.source import quiet, taken
from smidgen.structure import structure
from smidgen.tape import logits_of

if TYPE_CHECKING:
    import onnx_ir

TRACES = 32  # of different structures, that are kept for the next of the same
FOLDED = 1 << 30  # bytes of the largest constant that is worked out beforehand


def export(
    model: PreTrainedModel, batch: dict[str, np.ndarray], file: Path, limit: int, without: Collection[str] = ()
) -> dict[str, int]:
    """Trace the model on a batch of at least two rows, with free batch size and length, and save the graph."""
    inputs = taken(model, batch)
    if len(inputs["input_ids"]) == 1:
        inputs = {name: value.repeat(2, 0) for name, value in inputs.items()}
    slices = plain_type(model.config.model_type) == "mobilebert"  # at length - 1, which must not look like 1
    return trace(model, inputs, file, limit, 3 if slices else 2, without)


def trace(
    model: torch.nn.Module,
    batch: dict[str, np.ndarray],
    file: Path,
    limit: int,
    least: int = 2,
    without: Collection[str] = (),
) -> dict[str, int]:
    """The graph of a module that takes these inputs, (B, ...) or (B, L, ...), with B and L free, and gives tensors.

    Gives how often each fusion found its place; `without` names those that are left out.
    """
    import onnx_ir
    from onnxscript.optimizer import fold_constants, optimize
    from onnxscript.rewriter import onnx_fusions

    program = _program(model, batch, limit, least)
    optimize(program)
    onnx_fusions.fuse(program)
    if any(node.op_type == "LSTM" for node in program.graph):
        fold_constants(program, input_size_limit=FOLDED, output_size_limit=FOLDED)  # its gates were put in order
    found = fused(program, without)
    save(onnx_ir.to_proto(program), file)
    return found


_traces: dict[Hashable, onnx_ir.Model] = {}  # the latest last, without their weights


def _program(model: torch.nn.Module, batch: dict[str, np.ndarray], limit: int, least: int) -> onnx_ir.Model:
    """What the exporter makes of a module, before anything in it is worked out.

    A trace takes seconds, so that a module of the same structure as one of the last ones is not traced: its weights are
    put into a copy of that one's graph, as they are the first time, so that a graph is the same to the byte either way.
    """
    weights = dict(model.named_parameters())
    inputs = tuple((name, value.dtype, value.shape[2:]) for name, value in batch.items())
    key = (structure(model), inputs, limit, least)
    if key not in _traces:
        program = _traced(model, batch, limit, least)
        if key[0] is None or not weights.keys() <= program.graph.initializers.keys():
            return program
        while len(_traces) >= TRACES:
            del _traces[next(iter(_traces))]
        _traces[key] = _filled(program, dict.fromkeys(weights))
    return _filled(_traces[key].clone(), weights)


def _filled(program: onnx_ir.Model, weights: Mapping[str, torch.Tensor | None]) -> onnx_ir.Model:
    from onnx_ir.tensor_adapters import TorchTensor

    for name, values in weights.items():
        held = None if values is None else TorchTensor(values.detach(), name)
        program.graph.initializers[name].const_value = held
    return program


def _traced(model: torch.nn.Module, batch: dict[str, np.ndarray], limit: int, least: int) -> onnx_ir.Model:
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    quiet()
    inputs: dict[str, Any] = {name: torch.from_numpy(value) for name, value in batch.items()}
    free = {0: torch.export.Dim("batch", min=1, max=65536), 1: torch.export.Dim("length", min=least, max=limit)}
    shapes = {name: {axis: free[axis] for axis in range(min(value.ndim, 2))} for name, value in batch.items()}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, optimize=False)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter tells its steps there
        try:
            program: onnx_ir.Model = OnnxExporter().export(model, inputs, config=config).program  # type: ignore[arg-type]
        except (SmidgenError, MemoryError):
            raise
        except Exception as error:  # of many kinds; what it traces is a model of anybody's
            why = " ".join(str(error).split())[:300]
            raise Faulty(
                f"{type(model).__name__}: torch's ONNX exporter cannot trace it ({type(error).__name__}: {why}). Use "
                "it without a graph, in torch, or report this with the model's config.json."
            ) from error
    return program


def single_output(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself; one that finds spans as a tagger with the outputs start and end, with the same weights, so that
    every graph has one output."""
    from transformers import AutoModelForTokenClassification

    if not type(model).__name__.endswith("ForQuestionAnswering"):
        return model
    tagger = AutoModelForTokenClassification.from_config(model.config, attn_implementation="eager")
    tagger.load_state_dict({name.replace("qa_outputs", "classifier"): v for name, v in model.state_dict().items()})
    return tagger.eval()


def difference(model: torch.nn.Module, file: Path, batch: dict[str, np.ndarray]) -> float:
    """The largest difference of a logit between a model and its graph on one batch."""
    return float(differences(model, file, batch).max())


def differences(model: torch.nn.Module, file: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    """(B,): the same of each row."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    graph = session.run(["logits"], {name: batch[name] for name in names})[0]
    with torch.inference_mode():
        logits = logits_of(model(**{name: torch.from_numpy(batch[name]) for name in names})).numpy()
    apart = np.abs(graph - logits)
    if logits.ndim > 2:
        apart[batch["attention_mask"] == 0] = 0
    found: np.ndarray = apart.reshape(len(apart), -1).max(1)
    return found
