"""Write the model as an ONNX graph, and prove that it answers the same.

Idea       Export to ONNX (https://onnx.ai) through the exporter of transformers, with attention written out
           (`eager`), then fused where that was measured to pay: attention as one node that counts its own heads, so
           that uneven models stay right; the last block for the first token alone where the head reads no other; the
           mask as it is. The rest ONNX Runtime fuses when it loads the graph. With z the logits on real rows,
           max |z_graph - z_model| <= tolerance, or there is no artefact. Attention by hashing jumps: a token whose two
           best buckets are alike to the last digits falls into one here and the other there, so that of a model with it
           one row in ten may be apart; how many were is in `found`.
Takes      A float model.
Leaves     The same folder with onnx/model.onnx in float32, of ONNX's own operators (opset 23 where attention is one of
           them); inputs input_ids, attention_mask and token_type_ids where the model has it, int64 of any batch and
           length; output logits, (B, C), (B, L, C), or (B, L, 2) for spans.
Beside     quant.dynamic after it.
Fails      Families whose code the exporter cannot trace: the error of the exporter is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from smidgen.attention.lsh import Hashed
from smidgen.errors import Faulty
from smidgen.fusions import FUSIONS
from smidgen.graph import differences, export, single_output
from smidgen.method import Context, Method, above, one_of
from smidgen.runtime.folder import GRAPH
from smidgen.source import Source, load_model, resolve
from smidgen.tasks import Task
from smidgen.tokens import encode, length_limit, pad_id

APART = 0.1  # of the rows, where attention hashes


@final
@dataclass(frozen=True)
class Onnx(Method[None]):
    tolerance: float = 1e-4  # largest difference of a logit between graph and model
    without: tuple[str, ...] = ()  # fusions to leave out, of padding, attention, queries, first_token, tables

    leaves: ClassVar[str] = "onnx"
    version: ClassVar[int] = 2

    def faults(self) -> Iterator[str]:
        yield from above("tolerance", self.tolerance, 0)
        for name in self.without:
            yield from one_of("without", name, FUSIONS)

    def run(self, ctx: Context) -> dict[str, Any]:
        """Export `ctx.source` into `ctx.target`; gives the largest difference that was seen, and what was fused."""
        source = resolve(str(ctx.source))
        model = load_model(source, ctx.task, ctx.seed)
        if not _says(source, ctx.task):  # a head that was drawn for it belongs to the folder too, and so do its labels
            model.save_pretrained(ctx.target)
        model.set_attn_implementation("eager")
        limit = length_limit(ctx.source)
        texts = [text for text, _ in ctx.texts] or [
            "one text",
            "another text, a little longer than the one before it",
        ]
        pairs = [pair or "" for _, pair in ctx.texts] if ctx.texts and ctx.texts[0][1] is not None else None
        encoded = encode(ctx.task, ctx.source, texts, pairs, limit)
        file = ctx.target / GRAPH
        file.parent.mkdir(parents=True, exist_ok=True)
        pad = pad_id(ctx.source)
        longest = encoded.batch(np.argsort(encoded.lengths)[-2:], pad)
        found = export(single_output(model), longest, file, limit, self.without)
        pieces = np.array_split(np.arange(len(encoded)), math.ceil(len(encoded) / 16))
        rows = np.concatenate([differences(model, file, encoded.batch(piece, pad)) for piece in pieces])
        hashes = any(isinstance(module, Hashed) for module in model.modules())
        if not same(rows, self.tolerance, hashes):
            raise Faulty(
                f"export.onnx: graph and model differ by {rows.max():.2g} in a logit, at most {self.tolerance:.2g} is "
                "allowed. Nothing was written. Please report this with the model's config.json."
            )
        apart = {"apart": [int((rows > self.tolerance).sum()), len(rows)]} if hashes else {}
        return {"largest_difference": float(rows.max()), "fused": found, **apart}


def same(rows: np.ndarray, tolerance: float, hashes: bool) -> bool:
    """Are the rows of graph and model, that differ by so much, as near as they can be? (rows,) to bool."""
    few = int(APART * len(rows)) if hashes else 0
    return bool(np.isfinite(rows).all() and (rows > tolerance).sum() <= few)


def _says(source: Source, task: Task) -> bool:
    """Does its config.json say this task? transformers leaves out of it that there are LABEL_0 and LABEL_1."""
    return source.head == task.name and task.from_config(source.config).config() == task.config()
