"""The same weights as people run them today, each behind the stock tokenizer call: what smidgen's folders are measured against.

Every rival answers as the runtime does, `predict(texts)` and `outputs(texts)`, at the defaults of its library but for the
threads, which are those of this process. Graphs are made once and kept under `.bench/rivals`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import WORK

from smidgen.source import takes_types
from smidgen.tokens import length_limit

CALIBRATED_ON = 300  # texts, for the int8 of NNCF: its own default
TOGETHER = 32  # texts in a batch where all of a test set are asked


class Stock:
    """The stock tokenizer, one model, one softmax."""

    def __init__(self, folder: Path, run: Callable[[dict[str, Any]], Any], tensors: str = "np") -> None:
        """`run`: logits (B, C) as an array, of the tokenizer's tensors, which are numpy's ("np") or torch's ("pt")."""
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.limit, self.tensors, self.run = length_limit(folder), tensors, run

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        logits = self.logits(list(texts))
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return [{"label": int(row.argmax()), "score": float(row.max())} for row in scores]

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        pieces = (list(texts[start : start + TOGETHER]) for start in range(0, len(texts), TOGETHER))
        return np.concatenate([self.logits(piece) for piece in pieces])

    def logits(self, texts: list[str]) -> np.ndarray:
        batch = self.tokenizer(texts, truncation=True, max_length=self.limit, padding=True, return_tensors=self.tensors)
        return np.asarray(self.run(dict(batch)))


# In torch.


def eager(folder: Path) -> Stock:
    return _torch(folder, lambda model: model)


def eager_bf16(folder: Path) -> Stock:
    import torch

    return _torch(folder, lambda model: model.to(torch.bfloat16))


def compiled(folder: Path) -> Stock:
    import torch

    return _torch(folder, lambda model: torch.compile(model, dynamic=True))


def _torch(folder: Path, turned: Callable[[Any], Any]) -> Stock:
    import torch

    plain = open_model(folder)
    model = turned(plain)

    def run(batch: dict[str, Any]) -> np.ndarray:
        with torch.inference_mode():
            return model(**_taken(batch, plain)).logits.float().numpy()

    return Stock(folder, run, "pt")


# In ONNX Runtime.


def onnx_float32(folder: Path) -> Stock:
    return _session(folder, exported(folder))


def onnx_int8(folder: Path) -> Stock:
    return _session(folder, quantised(exported(folder)))


def onnx_fused_int8(folder: Path) -> Stock:
    """Exported by TorchScript, fused by ONNX Runtime's optimizer, which knows BERT, then quantised."""
    return _session(folder, quantised(exported(folder, fused=True)))


def _session(folder: Path, graph: Path) -> Stock:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # A resting session must not take a core from the one that is timed next; ours has the same setting.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return Stock(folder, lambda batch: session.run(None, {name: batch[name].astype(np.int64) for name in names})[0])


# In OpenVINO.


def openvino_float32(folder: Path) -> Stock:
    return _openvino(folder, _read(exported(folder)), "f32")


def openvino_bf16(folder: Path) -> Stock:
    return _openvino(folder, _read(exported(folder)), "bf16")


def nncf_int8(folder: Path, texts: Sequence[str]) -> Stock:
    """Weights and activations in int8 by NNCF's quantiser for Transformers, calibrated on some texts of train."""
    import nncf

    file = _home(folder) / "nncf.xml"
    if not file.is_file():
        import openvino

        model = _read(exported(folder))
        names = {value.get_any_name() for value in model.inputs}
        tokens = Stock(folder, lambda batch: batch).tokenizer

        def row(text: str) -> dict[str, Any]:
            return {k: v for k, v in tokens(text, truncation=True, return_tensors="np").items() if k in names}

        given = nncf.Dataset([row(text) for text in texts[:CALIBRATED_ON]])
        model = nncf.quantize(model, given, model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(model, file, compress_to_fp16=False)
    return _openvino(folder, _read(file), "")


def _read(file: Path) -> Any:
    import openvino

    return openvino.Core().read_model(file)


def _openvino(folder: Path, model: Any, precision: str) -> Stock:
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    ready = openvino.Core().compile_model(model, "CPU", settings)
    names = [value.get_any_name() for value in ready.inputs]
    request = ready.create_infer_request()
    return Stock(folder, lambda batch: request.infer({name: batch[name] for name in names})[0])


# Graphs, by the public functions of torch and ONNX Runtime alone.


def exported(folder: Path, fused: bool = False) -> Path:
    """A float32 graph of a folder's model: by torch's exporter, or by TorchScript and ONNX Runtime's optimizer."""
    file = _home(folder) / ("fused.onnx" if fused else "plain.onnx")
    if file.is_file():
        return file
    import torch
    from transformers import AutoTokenizer

    model = open_model(folder, "eager" if fused else "sdpa")
    tokens = AutoTokenizer.from_pretrained(str(folder))(
        ["one text", "two texts here"], padding=True, return_tensors="pt"
    )
    batch = _taken(dict(tokens), model)
    with _quiet():
        if fused:
            from onnxruntime.transformers import optimizer

            axes = {key: {0: "batch", 1: "length"} for key in batch}
            draft = file.with_name("draft.onnx")
            torch.onnx.export(
                model, tuple(batch.values()), str(draft), dynamo=False, input_names=list(batch), dynamic_axes=axes,
                output_names=["logits"],
            )  # fmt: skip
            heads, width = model.config.num_attention_heads, model.config.hidden_size
            optimizer.optimize_model(str(draft), "bert", num_heads=heads, hidden_size=width).save_model_to_file(
                str(file)
            )
        else:
            free = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=512)}
            program = torch.onnx.export(model, (), kwargs=batch, dynamo=True, dynamic_shapes=dict.fromkeys(batch, free))
            program.save(str(file))
    return file


def quantised(graph: Path) -> Path:
    """The same graph in int8 by `quantize_dynamic`, a scale for each output channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = graph.with_name(f"{graph.stem}-int8.onnx")
    if file.is_file():
        return file
    model = onnx.load(str(graph))
    constant = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in constant]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    with _quiet():
        quantize_dynamic(
            model,
            str(file),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return file


def _home(folder: Path) -> Path:
    home = WORK / "rivals" / folder.name
    home.mkdir(parents=True, exist_ok=True)
    return home


def open_model(folder: Path, attention: str = "sdpa") -> Any:
    from transformers import AutoModelForSequenceClassification

    settings = {"local_files_only": True, "attn_implementation": attention}
    try:
        return AutoModelForSequenceClassification.from_pretrained(str(folder), **settings).eval()
    except ValueError:  # a model that knows one kind of attention alone, or none
        return AutoModelForSequenceClassification.from_pretrained(str(folder), local_files_only=True).eval()


def _taken(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Those of the tokenizer's tensors that the model takes."""
    return batch if takes_types(model) else {k: v for k, v in batch.items() if k != "token_type_ids"}


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
