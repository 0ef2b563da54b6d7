"""Weights in 16 bits, half the bytes; what is worked out with them stays in float32, unless asked.

Idea       w ~ w16, a relative error of 2^-11 in float16 and 2^-8 in bfloat16, which has the range of float32
           (Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322). Tables and matrices
           are stored so and cast when the graph is loaded, rows of embeddings when they are looked up: softmax, norms
           and sums stay in float32. With `compute` the products are in float16 as well.
Takes      A folder with a float32 graph. No data.
Leaves     The same folder with the graph in half its bytes and, but for the tables, the same memory and time. With z
           the logits on rows of dev, max |z16 - z| <= tolerance, or there is no artefact. A tensor that goes beyond
           65,504 stays in float32, and is named.
Beside     quant.dynamic instead of it, which is a quarter of the bytes and faster where there is VNNI.
Fails      Nothing is faster by it, save with `compute`, which is refused where ONNX Runtime would emulate float16: it
           has such products on ARM and on GPUs; on x86 it casts their inputs back to float32, whatever is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from smidgen.errors import Faulty, NoEffect
from smidgen.integer import products, reads
from smidgen.method import Context, Method, above, one_of
from smidgen.precision import checked, logits
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.machine import instructions, lacking
from smidgen.saving import save

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
MULTIPLIED = frozenset({"asimdhp"})  # by ONNX Runtime on a processor
TOP = 65504.0  # of float16
ROWS = 32


@final
@dataclass(frozen=True)
class Half(Method[None]):
    kind: str = "float16"  # float16 | bfloat16: how weights are stored
    compute: bool = False  # products in float16 too, where that is not emulated
    tolerance: float = 0.05  # largest difference of a logit

    accepts: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "half"

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, KINDS)
        yield from above("tolerance", self.tolerance, 0)
        if self.compute and self.kind != "float16":
            yield f"compute: got true, wanted false with kind {self.kind}, which ONNX Runtime does not multiply in."
        elif self.compute and (why := emulated()):
            yield f"compute: got true, wanted false: {why}, so that products in float16 would be emulated."

    def run(self, ctx: Context) -> dict[str, Any]:
        """Store `ctx.target`'s graph in place of the float one; gives what changed, and by how much."""
        graph = onnx.load(str(ctx.source / GRAPH))
        made, beyond = halved(graph, self.kind, self.compute)
        count = sum(tensor.data_type == KINDS[self.kind] for tensor in made.graph.initializer)
        if not count:
            raise NoEffect("quant.half: the graph has no table and no matrix in float32 to store in 16 bits.")
        feeds = checked(ctx, ROWS)
        worst = float(np.abs(logits(made, feeds) - logits(graph, feeds)).max())
        if not worst <= self.tolerance:
            raise Faulty(
                f"quant.half: in {self.kind} a logit differs by {worst:.2g}, at most {self.tolerance:.2g} is allowed. "
                "Nothing was written. Write kind: float16, a higher tolerance, or leave the graph in float32."
            )
        save(made, ctx.target / GRAPH)
        told = f"{count} tensors are in {self.kind}; a logit differs by at most {worst:.2g}."
        if beyond:
            told += f" Beyond {TOP:,.0f}, hence in float32: {', '.join(beyond)}."
        return {"told": told, "largest_difference": worst, "tensors_half": count, "tensors_float": beyond}


def emulated() -> str:
    """Why products in float16 would be, in words; "" where they would not. Graphs run on the processor alone."""
    return lacking(MULTIPLIED) if instructions() else "the system does not tell what this processor can do"


def halved(graph: ModelProto, kind: str, compute: bool = False) -> tuple[ModelProto, list[str]]:
    """A copy that stores tables and matrices in 16 bits, and the names of those that float16 cannot hold."""
    made, beyond = ModelProto(), []
    made.CopyFrom(graph)
    small: dict[str, TensorProto] = {}
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)
            if kind == "float16" and np.abs(values).max(initial=0) > TOP:
                beyond.append(tensor.name)
            else:
                narrow = values.astype(helper.tensor_dtype_to_np_dtype(KINDS[kind]))
                small[tensor.name] = numpy_helper.from_array(narrow, f"{tensor.name}/half")
    multiplied = {node.output[0] for node in products(graph) if node.input[1] in small} if compute else set()
    nodes: list[NodeProto] = []
    for given in graph.graph.node:
        node = NodeProto()
        node.CopyFrom(given)
        if node.output[0] in multiplied:
            nodes.extend(_multiplied(node))
        elif node.op_type == "Gather" and node.input[0] in small:
            node.input[0] += "/half"
            nodes.extend(_then_cast(node))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in reads(node)}
    casts = [_cast(f"{name}/half", name, TensorProto.FLOAT) for name in small if name in used]
    kept = [tensor for tensor in graph.graph.initializer if tensor.name not in small]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend([*casts, *nodes])
    made.graph.initializer.extend([*kept, *small.values()])
    return made, beyond


def _multiplied(node: NodeProto) -> list[NodeProto]:
    """A product of what is cast before it, its bias too."""
    casts = []
    for at, name in enumerate(node.input):
        if at == 1:
            node.input[at] = f"{name}/half"
        elif name:
            node.input[at] = f"{node.output[0]}/{at}"
            casts.append(_cast(name, node.input[at], TensorProto.FLOAT16))
    return [*casts, *_then_cast(node)]


def _then_cast(node: NodeProto) -> list[NodeProto]:
    out = node.output[0]
    node.output[0] = f"{out}/half"
    return [node, _cast(node.output[0], out, TensorProto.FLOAT)]


def _cast(given: str, made: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [given], [made], f"{made}/cast", to=kind)
