"""The mask of padding as it is, instead of gathered.

The exporter writes mask[b, k] as a `GatherND` whose indices are all pairs (b, k), made of two ranges laid along their
axes: that is the mask (B, L) itself, seen as (B, 1, 1, L).
"""

from __future__ import annotations

import onnx_ir as ir

from smidgen.fusions._parts import add, constant, dims, made_by, numbers, said


def fuse(graph: ir.Graph) -> int:
    return sum(_fused(node) for node in list(graph) if node.op_type == "GatherND")


def _fused(gather: ir.Node) -> bool:
    mask, found = gather.inputs[0], dims(gather.outputs[0])
    pairs = made_by(gather.inputs[1], "Concat")
    if mask is None or pairs is None or len(pairs.inputs) != 2 or said(gather, "batch_dims", 0) or len(dims(mask)) != 2:
        return False
    laid = [_laid(each, len(found)) for each in pairs.inputs]
    axes = [axis for axis, _ in laid]
    if -1 in axes or axes != sorted(set(axes)) or [name for _, name in laid] != list(dims(mask)):
        return False
    others = [axis for axis in range(len(found)) if axis not in axes]
    if any(found[axis] != name for axis, name in laid) or any(found[axis] != 1 for axis in others):
        return False
    new = add(gather, "Unsqueeze", [mask, numbers(gather, *others)], found)
    ir.convenience.replace_all_uses_with(gather.outputs[0], new)
    return True


def _laid(value: ir.Value | None, rank: int) -> tuple[int, int | str | None]:
    """Of indices (..., 1) that count 0, 1, 2 ... along one of `rank` axes: which, and up to what; (-1, None) if not."""
    steps: list[list[int]] = []
    while (node := made_by(value, "Unsqueeze", "Expand")) is not None:
        if node.op_type == "Unsqueeze":
            axes = constant(node.inputs[1])
            if axes is None:
                return -1, None
            whole = len(dims(node.outputs[0]))
            steps.insert(0, [int(axis) % whole for axis in axes])
        value = node.inputs[0]
    counted = made_by(value, "Range")
    if counted is None or [constant(counted.inputs[at]) for at in (0, 2)] != [0, 1]:
        return -1, None
    at, width = 0, 1
    for new in steps:
        width += len(new)
        at = [axis for axis in range(width) if axis not in new][at]
    return (at, dims(counted.outputs[0])[0]) if width == rank + 1 and at < rank else (-1, None)
