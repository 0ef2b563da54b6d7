"""A graph on disk: its large weights lie in a file beside it, as pages of the disk that the runtime maps.

Measured, ONNX Runtime 1.32: of weights inside a graph it holds the file and a copy of its own while it opens it, and
the copy for good; those beside it are read where they lie, and only what is packed anew for products is copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.runtime.folder import beside

if TYPE_CHECKING:
    from onnx import ModelProto

LEAST = 1 << 14  # bytes of a weight that is put outside; one page or two are not worth it
PAGE = 4096


def save(graph: ModelProto, file: Path) -> None:
    """Write a graph, whose large weights are taken out of it. The files are new ones: who has mapped those of these
    names keeps them as they were.
    """
    from onnx.external_data_helper import set_external_data

    file.parent.mkdir(parents=True, exist_ok=True)
    data = beside(file)
    for old in (file, data):
        old.unlink(missing_ok=True)
    large = [tensor for tensor in graph.graph.initializer if len(tensor.raw_data) >= LEAST]
    if large:
        with data.open("wb") as opened:
            for tensor in large:
                opened.seek(-opened.tell() % PAGE, 1)
                at, length = opened.tell(), opened.write(tensor.raw_data)
                set_external_data(tensor, data.name, at, length)
                tensor.ClearField("raw_data")
    file.write_bytes(graph.SerializeToString())


def copy_graph(file: Path, target: Path) -> None:
    """Copy a graph, with the weights beside it if there are any, to another name in another folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for old, new in ((file, target), (beside(file), beside(target))):
        new.unlink(missing_ok=True)
        if old.is_file():
            shutil.copyfile(old, new)
