"""What only the first token is asked of, computed for the first token only.

Where all who read the states of the last block take the first token, as classifiers do, what is done there token by
token need not be done for the others: the projection of queries, the attention of other tokens, its output, the
feed-forward. Keys and values are still of all tokens. Nothing is lost: of (B, L, hidden) one row of L was ever read.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from smidgen.fusions._parts import add, constant, dims, is_a, numbers, said

ALONE = ("Cast", "Dropout", "Erf", "Gelu", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")
TOGETHER = ("Add", "Div", "Mul", "Pow", "Sub")
Reads = dict[int, int]  # by the number of an input, the axis of its tokens; other inputs are the same for all tokens


def fuse(graph: ir.Graph) -> int:
    """How many products are of one token now."""
    axes: dict[ir.Node, int] = {}  # of the tokens in what a node gives
    reads: dict[ir.Node, Reads] = {}
    taken = {node for node in graph if _takes_first(node)}
    for node in reversed(graph):
        axis = _asked(node, taken, axes, reads)
        found = None if axis is None else _read(node, axis)
        if axis is not None and found is not None:
            axes[node], reads[node] = axis, found
    products = sum(node.op_type == "MatMul" for node in axes)
    if products:
        for node in [node for node in graph if node in axes]:
            _narrow(node, axes, reads)
    return products


def _takes_first(node: ir.Node) -> bool:
    """Does it read (B, L, width) and give (B, width), the first token?"""
    at = constant(node.inputs[1]) if is_a(node, "Gather") else None
    return at is not None and at.ndim == 0 and at == 0 and said(node, "axis", 0) == 1 and len(dims(node.inputs[0])) == 3


def _asked(node: ir.Node, taken: set[ir.Node], axes: dict[ir.Node, int], reads: dict[ir.Node, Reads]) -> int | None:
    """The axis of tokens, if all who read what a node gives ask for the first one only."""
    found: set[int | None] = set()
    for value in node.outputs:
        if value.is_graph_output():
            return None
        for reader, at in value.uses():
            found.add(1 if reader in taken and at == 0 else reads.get(reader, {}).get(at))
    return found.pop() if len(found) == 1 else None


def _read(node: ir.Node, axis: int) -> Reads | None:
    """What a node needs for one token: which inputs, and where their tokens are; None where it needs other tokens."""
    rules: dict[str, Callable[[ir.Node, int], Reads | None]] = {
        **dict.fromkeys(ALONE, lambda node, axis: {0: axis}),
        **dict.fromkeys(TOGETHER, _together),
        **dict.fromkeys(("LayerNormalization", "Softmax", "Split"), _along),
        "MatMul": _product,
        "Transpose": lambda node, axis: {0: said(node, "perm")[axis]},
        "Reshape": _reshape,
        "Attention": _attention,
    }
    return rules[node.op_type](node, axis) if node.domain == "" and node.op_type in rules else None


def _together(node: ir.Node, axis: int) -> Reads | None:
    whole = dims(node.outputs[0])
    found: Reads = {}
    for at, value in enumerate(node.inputs):
        shape = dims(value)
        if value is None or value.shape is None or not whole:
            return None
        place = axis - len(whole) + len(shape)
        if place >= 0 and shape[place] != 1:
            if shape[place] != whole[axis]:
                return None
            found[at] = place
    return found


def _along(node: ir.Node, axis: int) -> Reads | None:
    """What works along one axis."""
    rank = len(dims(node.inputs[0]))
    own = said(node, "axis", 0 if node.op_type == "Split" else -1)
    return {0: axis} if rank and (own % rank > axis if node.op_type != "Split" else own % rank != axis) else None


def _product(node: ir.Node, axis: int) -> Reads | None:
    left, right = len(dims(node.inputs[0])), len(dims(node.inputs[1]))
    return {0: axis} if axis == left - 2 and 2 <= right <= left else None


def _reshape(node: ir.Node, axis: int) -> Reads | None:
    """Parts or joins what is behind the tokens."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    same = axis == 1 and len(before) > 2 and len(after) > 2 and before[:2] == after[:2]
    return {0: 1} if same and all(isinstance(each, int) for each in after[2:]) else None


def _attention(node: ir.Node, axis: int) -> Reads | None:
    """Only queries are of the token."""
    bias = dims(node.inputs[3]) if len(node.inputs) > 3 else ()
    if axis != len(dims(node.inputs[0])) - 2 or len(node.inputs) > 4 or len(bias) not in (0, 4):
        return None
    return {0: axis, 3: 2} if bias else {0: axis}


def _narrow(node: ir.Node, axes: dict[ir.Node, int], reads: dict[ir.Node, Reads]) -> None:
    """Have a node compute one token."""
    for at, axis in reads[node].items():
        value = node.inputs[at]
        assert value is not None
        if value.producer() not in axes:
            shape = [1 if i == axis else each for i, each in enumerate(dims(value))]
            node.replace_input_with(at, add(node, "Gather", [value, numbers(node, 0)], shape, axis=axis))
    if node.op_type == "Reshape":
        behind = [int(str(each)) for each in dims(node.outputs[0])[2:]]
        node.replace_input_with(1, numbers(node, -1, 1, *behind))
    for value in node.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([1 if i == axes[node] else each for i, each in enumerate(dims(value))])
