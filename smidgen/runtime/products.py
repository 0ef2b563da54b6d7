"""How much a graph computes, read from its file: the weights themselves are stepped over."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from smidgen.errors import ModelError
from smidgen.runtime.wire import Wire

PRODUCTS = (b"MatMul", b"Gemm", b"Conv", b"LSTM")  # in the names of operators
GRAPH, NODE, INITIALIZER = 7, 1, 5  # fields of a model and of its graph
INPUT, OUTPUT, OPERATOR = 1, 2, 4  # of a node
PASSING = (b"Cast", b"DequantizeLinear", b"Transpose", b"Identity")  # of a weight, which is then as large
NAME = 8  # of a tensor


def multiplications(graph: Path) -> int:
    """Of one token, in products with constant weights: the numbers in these weights. Of what is no graph: 0."""
    if graph.stat().st_size == 0:
        return 0
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        wire = Wire(graph, data)
        try:
            return sum(_of_graph(wire, *place) for number, *place in wire.fields(0, len(data)) if number == GRAPH)
        except ModelError:
            return 0


def _of_graph(wire: Wire, start: int, end: int) -> int:
    sizes: dict[bytes, int] = {}
    taken: list[bytes] = []
    passed: dict[bytes, bytes] = {}  # what is another form of a weight, and what it is made of
    for number, first, last in wire.fields(start, end):
        if number == INITIALIZER:
            dims = wire.tensor(first, wire.end(first, last)).dims
            sizes |= {name: math.prod(dims) if len(dims) > 1 else 0 for name in _said(wire, first, last, NAME)}
        elif number == NODE:
            operators = [*_said(wire, first, wire.end(first, last), OPERATOR)]
            if any(operator in PASSING for operator in operators):
                given = [*_said(wire, first, last, INPUT)][:1]  # the others are scales and zero points
                passed |= {name: one for one in given for name in _said(wire, first, last, OUTPUT)}
            if any(word in operator for operator in operators for word in PRODUCTS):
                taken += _said(wire, first, last, INPUT)
    return sum(sizes.get(_made_of(name, passed), 0) for name in taken)


def _made_of(name: bytes, passed: Mapping[bytes, bytes]) -> bytes:
    for _ in range(len(passed)):
        if name not in passed:
            break
        name = passed[name]
    return name


def _said(wire: Wire, start: int, end: int, wanted: int) -> Iterator[bytes]:
    """What a message says in one of its fields."""
    return (wire.data[at : wire.end(at, to)] for number, at, to in wire.fields(start, end) if number == wanted)
