"""Attention as one node.

Two products with scale, bias and softmax between them become ONNX's `Attention`, which reads and gives
(B, L, heads * size), as projections do: nothing is reshaped or transposed. Each node has its own number of heads, so
they may differ from block to block. Where heads are parted before, as for rotary positions, it reads
(B, heads, L, size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from smidgen.fusions._parts import BY_HEADS, add, constant, dims, graph_of, made_by, read_by, said

TURNED = (0, 2, 3, 1)  # (B, L, heads, size) to (B, heads, size, L)
ACROSS = (0, 1, 3, 2)
STEPS = ("MatMul", "Mul", "Div", "Add")


@dataclass(frozen=True)
class Scores:
    """What a softmax reads: scale * query key^T, and all of `bias`."""

    product: ir.Node
    scale: float = 1.0
    bias: tuple[ir.Value, ...] = ()  # each (B or 1, heads or 1, L, L)


def fuse(graph: ir.Graph) -> int:
    return sum(_fused(node) for node in list(graph) if node.op_type == "Softmax")


def _fused(softmax: ir.Node) -> bool:
    """Write the attention around a softmax as one node, if it is one that the operator can do."""
    scores, output = _scores(softmax.inputs[0]), read_by(softmax.outputs[0], "MatMul")
    across = None if scores is None else made_by(scores.product.inputs[1], "Transpose")
    if scores is None or output is None or across is None or output.inputs[0] is not softmax.outputs[0]:
        return False
    perm, last = tuple(said(across, "perm")), said(softmax, "axis", -1) in (-1, 3)
    query, key, value = scores.product.inputs[0], across.inputs[0], output.inputs[1]
    four = all(len(dims(each)) == 4 for each in (query, key, value, *scores.bias))
    if not last or not four or perm not in (TURNED, ACROSS):
        return False
    pairs = (dims(query)[2], dims(value)[2])
    if any(dims(each)[2:] != pairs for each in scores.bias):  # ONNX Runtime does not spread it over queries or keys
        return False
    assert query is not None and key is not None and value is not None
    flat = [_flat(query), _parted(key) if perm == TURNED else _flat(key), _flat(value)]
    joined = _joined(output)
    if joined is not None and all(each is not None for each in flat):
        heads = {"q_num_heads": dims(query)[1], "kv_num_heads": dims(value)[1]}
        _write(output, [each for each in flat if each is not None], joined, scores, heads)
    else:
        if perm == TURNED:
            b, length, heads_, size = dims(key)
            key = add(output, "Transpose", [key], (b, heads_, length, size), perm=BY_HEADS)
        _write(output, [query, key, value], output.outputs[0], scores, {})
    return True


def _scores(value: ir.Value | None) -> Scores | None:
    """What is between two products and a softmax, where nobody else reads any of it."""
    node = made_by(value, *STEPS)
    if value is None or node is None or read_by(value, "Softmax", *STEPS) is None:
        return None
    first, second = node.inputs
    if node.op_type == "MatMul":
        return Scores(node) if constant(second) is None else None
    if node.op_type == "Add":
        for term, other in ((first, second), (second, first)):
            found = _scores(term)
            if found is not None and other is not None:
                return Scores(found.product, found.scale, (*found.bias, other))
        return None
    factor, found = constant(second), _scores(first)
    if factor is None or factor.size != 1 or found is None or found.bias:
        return None
    by = float(factor.item())
    return Scores(found.product, found.scale * by if node.op_type == "Mul" else found.scale / by)


def _flat(value: ir.Value) -> ir.Value | None:
    """(B, L, heads * size) that (B, heads, L, size) was made of."""
    node = made_by(value, "Transpose")
    return None if node is None or tuple(said(node, "perm")) != BY_HEADS else _parted(node.inputs[0])


def _parted(value: ir.Value | None) -> ir.Value | None:
    """(B, L, heads * size) that (B, L, heads, size) was made of."""
    node = made_by(value, "Reshape")
    if node is None or len(shape := dims(node.inputs[0])) != 3:
        return None
    *_, heads, size = dims(value)
    whole = isinstance(heads, int) and isinstance(size, int) and shape[2] == heads * size
    return node.inputs[0] if whole else None


def _joined(output: ir.Node) -> ir.Value | None:
    """(B, L, heads * size) that is made of an attention's (B, heads, L, size), and nothing else."""
    back = read_by(output.outputs[0], "Transpose")
    join = None if back is None or tuple(said(back, "perm")) != BY_HEADS else read_by(back.outputs[0], "Reshape")
    return join.outputs[0] if join is not None and len(dims(join.outputs[0])) == 3 else None


def _write(
    before: ir.Node, inputs: Sequence[ir.Value], old: ir.Value, scores: Scores, heads: dict[str, int | str]
) -> None:
    """Put the operator in front of a node, and have it give what `old` was."""
    bias: list[ir.Value] = []
    for each in scores.bias:
        if not bias:
            bias = [each]
        else:
            wide = [max(a, b, key=lambda n: n != 1) for a, b in zip(dims(bias[0]), dims(each), strict=True)]
            bias = [add(before, "Add", [bias[0], each], wide)]
    node = ir.node("Attention", [*inputs, *bias], {**heads, "scale": scores.scale}, name=f"{before.name}_attention")
    node.outputs[0].shape, node.outputs[0].type = old.shape, old.type
    node.metadata_props.update(before.metadata_props)
    graph_of(before).insert_before(before, node)
    ir.convenience.replace_all_uses_with(old, node.outputs[0])
