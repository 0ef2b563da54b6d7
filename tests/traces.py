"""Graphs that one process of a run has traced, for the others to read.

A trace takes seconds, and depends on the structure of a module alone, which many tests share.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Hashable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import onnx
import onnx_ir


class Traces(dict[Hashable, onnx_ir.Model]):
    """`graph._traces` with a folder beside it; what is read from there is the same to the byte."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __contains__(self, key: object) -> bool:
        if not super().__contains__(key) and (file := self._file(key)) and file.is_file():
            bare, graph = pickle.loads(file.read_bytes())
            program = onnx_ir.from_proto(onnx.load_from_string(graph))
            for name in bare:
                program.graph.initializers[name].const_value = None
            super().__setitem__(key, program)
        return super().__contains__(key)

    def __setitem__(self, key: Hashable, program: onnx_ir.Model) -> None:
        super().__setitem__(key, program)
        if file := self._file(key):
            full = program.clone()
            bare = {name: value for name, value in full.graph.initializers.items() if value.const_value is None}
            for name, value in bare.items():
                zeros = np.zeros(value.shape.numpy(), value.dtype.numpy())
                value.const_value = onnx_ir.tensor(zeros, value.dtype, name=name)
            self.folder.mkdir(exist_ok=True)
            draft = file.with_name(f"{file.name}-{os.getpid()}")
            draft.write_bytes(pickle.dumps((list(bare), onnx_ir.to_proto(full).SerializeToString())))
            draft.replace(file)

    def _file(self, key: object) -> Path | None:
        """None of what another process would not know by name: a class or a function inside another."""
        words = _words(key)
        return None if "<locals>" in words else self.folder / hashlib.sha256(words.encode()).hexdigest()


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_words, value))})"
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
