"""How much a graph computes, read from its file without a library that knows ONNX.

What is read are the fields of protobuf that say which constants there are, how large, and which nodes take them; the
weights themselves are stepped over. A file that is no such thing counts nothing.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from smidgen.errors import ModelError

PRODUCTS = (b"MatMul", b"Gemm", b"Conv", b"LSTM")  # in the names of operators
GRAPH, NODE, INITIALIZER = 7, 1, 5  # fields of ModelProto and of GraphProto
INPUT, OPERATOR = 1, 4  # of NodeProto
DIMENSION, NAME = 1, 8  # of TensorProto


def multiplications(graph: Path) -> int:
    """Of one token, in products with constant weights: the numbers in these weights."""
    if graph.stat().st_size == 0:
        return 0
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return sum(_of_graph(data, *place) for field, place in _fields(data, 0, len(data)) if field == GRAPH)
        except (IndexError, ModelError):
            return 0


def _of_graph(data: mmap.mmap, start: int, end: int) -> int:
    sizes: dict[bytes, int] = {}
    taken: list[bytes] = []
    for field, (first, last) in _fields(data, start, end):
        if field == INITIALIZER:
            name, shape = _tensor(data, first, last)
            sizes[name] = math.prod(shape) if len(shape) > 1 else 0
        elif field == NODE:
            inside = list(_fields(data, first, last))
            operators = [data[a:b] for key, (a, b) in inside if key == OPERATOR]
            if operators and any(word in operators[0] for word in PRODUCTS):
                taken += [data[a:b] for key, (a, b) in inside if key == INPUT]
    return sum(sizes.get(name, 0) for name in taken)


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[bytes, list[int]]:
    """Name and shape; dimensions come packed in one field, or a field each."""
    name, shape = b"", list[int]()
    for field, (first, last) in _fields(data, start, end):
        if field == NAME:
            name = data[first:last]
        elif field == DIMENSION:
            while first < last:
                value, first = _varint(data, first)
                shape.append(value)
    return name, shape


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number and place of each field of a message. Raises ModelError at what is none."""
    while start < end:
        key, start = _varint(data, start)
        field, kind = key >> 3, key & 7
        if kind == 2:
            length, start = _varint(data, start)
            stop = start + length
        elif kind == 0:
            stop = _varint(data, start)[1]
        elif kind in (1, 5):
            stop = start + (8 if kind == 1 else 4)
        else:
            raise ModelError(f"no field is of kind {kind}")
        if stop > end:
            raise ModelError(f"a field ends at {stop}, the message at {end}")
        yield field, (start, stop)
        start = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ModelError(f"no number ends at {at}")
