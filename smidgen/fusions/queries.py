"""Queries that are thrown away, not asked.

A prefix runs a block's attention on P more places behind the tokens, for their keys and values: states are padded by P
and cut again for the projections, and what the queries of these places get is cut off behind the attention. Here the
attention has the queries of the tokens alone, and what is padded and cut is left as it was.
"""

from __future__ import annotations

import onnx_ir as ir

from smidgen.fusions._parts import add, constant, dims, is_a, made_by, numbers, read_by, said


def fuse(graph: ir.Graph) -> int:
    """How many attentions have fewer queries now."""
    found = 0
    for node in list(graph):
        if more := _cut(node):
            padded = _padded(node.inputs[0], more)
            if padded is not None:
                ir.convenience.replace_all_uses_with(node.outputs[0], padded)
            else:
                found += _fewer(node, more)
    return found


def _cut(node: ir.Node) -> int:
    """How many places at the end of (B, L, width) a node takes away; 0 where it does anything else."""
    if not is_a(node, "Slice") or len(node.inputs) != 5 or len(dims(node.inputs[0])) != 3:
        return 0
    found = [constant(value) for value in node.inputs[1:]]
    if any(each is None or each.size != 1 for each in found):
        return 0
    start, end, axis, step = (int(each.item()) for each in found if each is not None)
    return -end if (start, axis, step) == (0, 1, 1) and end < 0 else 0


def _padded(value: ir.Value | None, more: int) -> ir.Value | None:
    """(B, L, width) that a value is, with so many places more at the end."""
    node = made_by(value, "Pad")
    pads = None if node is None or len(node.inputs) > 3 else constant(node.inputs[1])
    return node.inputs[0] if node is not None and pads is not None and pads.tolist() == [0, 0, 0, 0, more, 0] else None


def _fewer(cut: ir.Node, more: int) -> bool:
    """Have an attention of which the end is cut off answer the queries before it, if they stand apart."""
    node, output = made_by(cut.inputs[0], "Attention"), cut.outputs[0]
    if node is None or read_by(node.outputs[0], "Slice") is not cut or output.is_graph_output() or len(node.inputs) > 4:
        return False
    both = made_by(node.inputs[0], "Concat")
    if both is None or len(both.inputs) != 2 or said(both, "axis") not in (1, -2):
        return False
    first, rest = both.inputs
    if first is None or dims(rest)[1:2] != (more,):
        return False
    node.replace_input_with(0, first)
    if len(node.inputs) == 4 and (bias := node.inputs[3]) is not None:
        ends = [numbers(node, each) for each in (0, -more, 2, 1)]
        shape = [*dims(bias)[:2], dims(first)[1], dims(bias)[3]]
        node.replace_input_with(3, add(node, "Slice", [bias, *ends], shape))
    node.outputs[0].shape = output.shape
    ir.convenience.replace_all_uses_with(output, node.outputs[0])
    return True
