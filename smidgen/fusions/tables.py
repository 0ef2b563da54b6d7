"""Rows of many tables by one index, read at once.

In a graph of many tasks each row of a batch reads its task's row of every table: a shift here, a scale there, (T, n)
each, to (B, 1, n). Two nodes a table are more work than what they read. Here the tables stand side by side in one, that
is read once and split. A number that is added to all of a table, such as the 1 of a scale, is in it.

Nothing else is put in, a bias least of all: the order of sums would hang on which other tasks there are, and so would
the last bits of what a task says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from smidgen.fusions._parts import constant, dims, graph_of, numbers, read_by, said


@dataclass(frozen=True)
class Read:
    """A table, (T, n), the index by which `node` reads it, (B, 1), and what that gives, (B, 1, n)."""

    node: ir.Node
    table: np.ndarray
    index: ir.Value
    rows: ir.Value


def fuse(graph: ir.Graph) -> int:
    """How many tables are read with others."""
    groups: dict[tuple[int, str], list[Read]] = {}
    for node in list(graph):
        if (read := _read(node)) is not None:
            groups.setdefault((id(read.index), read.table.dtype.name), []).append(read)
    found = [group for group in groups.values() if len(group) > 1]
    for number, group in enumerate(found):
        _side_by_side(group, f"fused_tables_{number}")
    return sum(map(len, found))


def _read(node: ir.Node) -> Read | None:
    if node.op_type != "GatherND" or said(node, "batch_dims", 0):
        return None
    table, index, laid = constant(node.inputs[0]), node.inputs[1], read_by(node.outputs[0], "Unsqueeze")
    if table is None or table.ndim != 2 or table.dtype.kind != "f" or index is None or laid is None:
        return None
    axis = constant(laid.inputs[1])
    if dims(index)[1:] != (1,) or axis is None or axis.tolist() != [1]:
        return None
    added = read_by(laid.outputs[0], "Add")
    number = None if added is None else next((c for c in map(constant, added.inputs) if c is not None), None)
    if added is None or number is None or number.size != 1 or number.ndim > 3 or added.outputs[0].is_graph_output():
        return Read(node, table, index, laid.outputs[0])
    return Read(node, table + number.reshape(()), index, added.outputs[0])


def _side_by_side(group: Sequence[Read], name: str) -> None:
    """One read in the place of all, in front of the first of them."""
    first, index, kind = group[0].node, group[0].index, group[0].rows.type
    both = np.concatenate([read.table for read in group], 1)
    table = ir.Value(name=name, shape=ir.Shape(both.shape), type=kind, const_value=ir.tensor(both, name=name))
    graph_of(first).register_initializer(table)
    rows, width = dims(index)[0], both.shape[1]
    whole, laid = (ir.Value(shape=ir.Shape(shape), type=kind) for shape in ([rows, width], [rows, 1, width]))
    sizes = [read.table.shape[1] for read in group]
    parts = [ir.Value(shape=ir.Shape([rows, 1, size]), type=kind) for size in sizes]
    for node in (
        ir.node("GatherND", [table, index], outputs=[whole]),
        ir.node("Unsqueeze", [whole, numbers(first, 1)], outputs=[laid]),
        ir.node("Split", [laid, numbers(first, *sizes)], {"axis": 2}, outputs=parts),
    ):
        graph_of(first).insert_before(first, node)
    for read, part in zip(group, parts, strict=True):
        ir.convenience.replace_all_uses_with(read.rows, part)
