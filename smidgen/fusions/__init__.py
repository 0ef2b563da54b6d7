"""Parts of a graph written so that they run faster and say the same: one small file for each.

A file declares `fuse(graph) -> int`: it changes what it understands, leaves the rest as it is, and gives how often it
did. What is left unread goes afterwards. All of it is ONNX's own operators, so that other runtimes read it too.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

FUSIONS = ("padding", "attention", "queries", "first_token", "tables")  # in this order: two read what the second made
OPSET = 23  # of ONNX, the first that has an operator for attention


def fused(model: onnx_ir.Model, without: Collection[str] = ()) -> dict[str, int]:
    """Fuse a model in place, but for what is named; how often each fusion found its place."""
    from onnx_ir.passes import common
    from onnxscript.version_converter import convert_version

    found = {}
    for name in FUSIONS:
        if name not in without and (times := import_module(f"{__name__}.{name}").fuse(model.graph)):
            found[name] = times
            common.CommonSubexpressionEliminationPass()(model)
            common.RemoveUnusedNodesPass()(model)
    if "attention" in found:
        convert_version(model, OPSET)
    return found
