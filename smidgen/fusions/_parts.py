"""What the fusions share: how a graph is read and added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

BY_HEADS = (0, 2, 1, 3)  # (B, L, heads, size) to (B, heads, L, size), and back


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that a value comes from, if it is one of these kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and is_a(node, *kinds) else None


def read_by(value: ir.Value, *kinds: str) -> ir.Node | None:
    """The one node that reads a value, if it is one of these kinds; None too where others read it or it is told."""
    readers = [node for node, _ in value.uses()]
    alone = len(readers) == 1 and not value.is_graph_output() and is_a(readers[0], *kinds)
    return readers[0] if alone else None


def is_a(node: ir.Node, *kinds: str) -> bool:
    return node.domain == "" and node.op_type in kinds


def said(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def constant(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def dims(value: ir.Value | None) -> tuple[int | str, ...]:
    """Numbers, and names of what is free; what is not known has a name of its own. Empty where the rank is not known,
    and for a single number."""
    if value is None or value.shape is None:
        return ()
    return tuple(
        each if isinstance(each, int) else each.value or f"{value.name}?{axis}" for axis, each in enumerate(value.shape)
    )


def add(before: ir.Node, kind: str, inputs: Sequence[ir.Value], shape: Sequence[Any], **attributes: Any) -> ir.Value:
    """Put a node in front of another; gives its output, of the type of its first input."""
    output = ir.Value(shape=ir.Shape(shape), type=inputs[0].type)
    graph_of(before).insert_before(before, ir.node(kind, inputs, attributes, outputs=[output]))
    return output


def numbers(before: ir.Node, *values: int) -> ir.Value:
    """A constant, int64 (n,)."""
    name = "_".join(map(str, ("fused", *values))).replace("-", "m")
    found = graph_of(before).initializers
    if name not in found:
        tensor = ir.tensor(np.array(values, np.int64), name=name)
        shape, kind = ir.Shape([len(values)]), ir.TensorType(tensor.dtype)
        found[name] = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    return found[name]


def graph_of(node: ir.Node) -> Any:
    assert node.graph is not None
    return node.graph
