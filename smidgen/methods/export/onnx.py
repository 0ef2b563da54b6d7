"""Write the model as an ONNX graph, and prove that it answers the same.

Idea       Export to ONNX (https://onnx.ai) through the exporter of transformers, with attention written out
           (`eager`): ONNX Runtime fuses what pays on the processor it runs on when it loads the graph. With z the
           logits on real rows, max |z_graph - z_model| <= tolerance, or there is no artefact.
Takes      A float model.
Leaves     The same folder with onnx/model.onnx in float32; inputs input_ids, attention_mask and token_type_ids where
           the model has it, int64 of any batch and length; output logits, (B, C), (B, L, C), or (B, L, 2) for spans.
Beside     quant.dynamic after it.
Fails      Families whose code the exporter cannot trace: the error of the exporter is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from transformers import PreTrainedModel

from smidgen.errors import SmidgenError
from smidgen.method import Context, Method, above
from smidgen.source import load_model, quiet, resolve, takes_types
from smidgen.tape import logits_of
from smidgen.tokens import encode, length_limit, pad_id

FOLDED = 1 << 30  # bytes of the largest constant that is worked out beforehand


@final
@dataclass(frozen=True)
class Onnx(Method[None]):
    tolerance: float = 1e-4  # largest difference of a logit between graph and model

    leaves: ClassVar[str] = "onnx"

    def faults(self) -> Iterator[str]:
        yield from above("tolerance", self.tolerance, 0)

    def run(self, ctx: Context) -> dict[str, float]:
        """Export `ctx.source` into `ctx.target`; gives the largest difference that was seen."""
        source = resolve(str(ctx.source))
        model = load_model(source, ctx.task, ctx.seed)
        if source.head != ctx.task.name:  # the head that was drawn for it belongs to the folder too
            model.save_pretrained(ctx.target)
        model.set_attn_implementation("eager")
        limit = length_limit(ctx.source)
        texts = [text for text, _ in ctx.texts] or [
            "one text",
            "another text, a little longer than the one before it",
        ]
        pairs = [pair or "" for _, pair in ctx.texts] if ctx.texts and ctx.texts[0][1] is not None else None
        encoded = encode(ctx.task, ctx.source, texts, pairs, limit)
        file = ctx.target / "onnx" / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        pad = pad_id(ctx.source)
        export(single_output(model), encoded.batch(np.argsort(encoded.lengths)[-2:], pad), file, limit)
        worst = 0.0
        for start in range(0, len(encoded), 16):
            batch = encoded.batch(np.arange(start, min(start + 16, len(encoded))), pad)
            worst = max(worst, difference(model, file, batch))
        if not worst <= self.tolerance:
            raise SmidgenError(
                f"export.onnx: graph and model differ by {worst:.2g} in a logit, at most {self.tolerance:.2g} is "
                "allowed. Nothing was written. Please report this with the model's config.json."
            )
        return {"largest_difference": worst}


def export(model: PreTrainedModel, batch: dict[str, np.ndarray], file: Path, limit: int) -> None:
    """Trace the model on a batch of at least two rows, with free batch size and length, and save the graph."""
    import onnx_ir
    from onnxscript.optimizer import fold_constants
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    quiet()
    inputs: dict[str, Any] = {name: torch.from_numpy(value) for name, value in batch.items()}
    if not takes_types(model):
        del inputs["token_type_ids"]
    if len(inputs["input_ids"]) == 1:
        inputs = {name: value.repeat(2, 1) for name, value in inputs.items()}
    least = 3 if model.config.model_type == "mobilebert" else 2  # it slices length - 1, which must not look like 1
    free = {0: torch.export.Dim("batch", min=1, max=65536), 1: torch.export.Dim("length", min=least, max=limit)}
    config = OnnxConfig(dynamic=True, dynamic_shapes=dict.fromkeys(inputs, free))
    with _hush():
        program = OnnxExporter().export(model, inputs, config=config).program
    if any(node.op_type == "LSTM" for node in program.graph):
        fold_constants(program, input_size_limit=FOLDED, output_size_limit=FOLDED)  # its gates were put in order
    onnx_ir.save(program, str(file))


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
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    graph = session.run(["logits"], {name: batch[name] for name in names})[0]
    with torch.inference_mode():
        logits = logits_of(model(**{name: torch.from_numpy(batch[name]) for name in names})).numpy()
    real = slice(None) if logits.ndim == 2 else batch["attention_mask"] > 0
    return float(np.abs(graph[real] - logits[real]).max())


def _hush():  # type: ignore[no-untyped-def]
    """The exporter tells its steps on standard output."""
    import contextlib
    import io

    return contextlib.redirect_stdout(io.StringIO())
