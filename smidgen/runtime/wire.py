"""What an ONNX file says of its tensors and nodes, read from its bytes: before anything is opened, without the package
onnx, and without memory for a weight.

The walk follows every way from a model to a tensor that the format has (`INSIDE`): weights, sparse ones, constants of
nodes, graphs inside of nodes, functions, training steps. Where it and a protobuf reader could take the same bytes for
different things (groups, numbers that are too long), the file is refused.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smidgen.errors import ModelError

Field = tuple[int, int, int]  # its number; where its bytes begin and end, or its value and NUMBER
NUMBER = -1

INSIDE: dict[str, dict[int, str]] = {  # which fields of a message hold which messages
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
DIMS, TYPE, RAW, EXTERNAL = 1, 2, 9, 13  # fields of a tensor
TYPED = (4, 5, 6, 7, 10, 11)  # those that hold its numbers one by one
OP_TYPE, METADATA = 4, 14  # of a node; of a model
BITS = {  # of an element, by its type
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    14: 64,
    15: 128,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
    24: 8,
    25: 2,
    26: 2,
}
STRING = 8
PACKED = 16  # elements that one byte of a typed field can hold at most
DEEPEST, WIDEST = 100, 64  # messages inside of each other; dimensions of a tensor
ENDLESS = b"Loop"  # the operator that may never end


@dataclass
class Tensor:
    """What a file says of one tensor."""

    dims: list[int] = field(default_factory=list)
    type: int = 0
    raw: int | None = None  # bytes
    typed: int = 0  # bytes
    external: list[dict[str, str]] = field(default_factory=list)  # key and value of each entry


def check(graph: Path, data: Path) -> None:
    """Refuse a graph that is not whole, says more of its tensors than it holds, or keeps weights elsewhere than in
    `data`.

    Raises:
        ModelError: see there.
    """
    beside = data.stat().st_size if data.is_file() else None
    for tensor in tensors(graph):
        for told in tensor.external:
            if told.get("key") == "location" and told.get("value", "") != data.name:
                raise ModelError(
                    f"{graph}: keeps weights in {told.get('value', '')!r}, wanted none or {data.name!r} beside it. "
                    "Nothing else is read; save the graph as one file."
                )
        if wrong := fault(tensor, beside):
            raise ModelError(f"{graph}: a weight {wrong}. Copy the folder again, or export it again.")


def fault(tensor: Tensor, beside: int | None) -> str:
    """What does not add up in a tensor, "" for nothing; `beside` are the bytes of the file with weights."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {tensor.dims}"
    count = 1
    for size in tensor.dims:
        count *= size
    shape = f"of shape {tensor.dims}"
    if tensor.type == STRING or (not tensor.external and tensor.raw is None):
        return f"{shape} has {tensor.typed} bytes" if count > PACKED * tensor.typed else ""
    if tensor.type not in BITS:
        return f"has numbers of the unknown type {tensor.type}"
    needed = -(-count * BITS[tensor.type] // 8)
    if not tensor.external:
        return "" if tensor.raw == needed else f"{shape} has {tensor.raw} bytes, wanted {needed}"
    if beside is None:
        return "lies in a file beside the graph that is not there"
    told = {one.get("key", ""): one.get("value", "") for one in tensor.external}
    numbers = [told.get("offset", "0"), told.get("length", str(needed))]
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        return f"lies at {numbers[0]!r} with {numbers[1]!r} bytes"
    offset, length = map(int, numbers)
    if length != needed:
        return f"{shape} has {length} bytes, wanted {needed}"
    if offset + length > beside:
        return f"lies at {offset} with {length} bytes, in a file of {beside}"
    return ""


def tensors(graph: Path) -> Iterator[Tensor]:
    """All tensors of an ONNX file, wherever they are.

    Raises:
        ModelError: the bytes are no ONNX graph, or it has an operator that may never end.
    """
    if graph.stat().st_size == 0:
        raise _broken(graph, "it is empty")
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        wire, there = Wire(graph, data), False
        open_ones = [("Model", wire.fields(0, len(data)))]
        while open_ones:
            kind, fields = open_ones[-1]
            for number, at, end in fields:
                inside = INSIDE[kind].get(number)
                if kind == "Node" and number == OP_TYPE and data[at : wire.end(at, end)] == ENDLESS:
                    raise ModelError(f"{graph}: has a Loop, which may never end. Export the model without it.")
                if inside == "Function":
                    raise ModelError(
                        f"{graph}: has functions of its own, which may grow without end. Export the model with them "
                        "inlined: onnx.inliner."
                    )
                if inside == "Tensor":
                    yield wire.tensor(at, wire.end(at, end))
                elif inside is not None:
                    there = there or inside == "Graph"
                    open_ones.append((inside, wire.fields(at, wire.end(at, end))))
                    break
            else:
                open_ones.pop()
            if len(open_ones) > DEEPEST:
                raise _broken(graph, f"more than {DEEPEST} parts inside of each other")
        if not there:
            raise _broken(graph, "there is no graph in it")


def metadata(graph: Path) -> dict[str, str]:
    """What was written into a graph that is whole, beside the graph itself."""
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        wire = Wire(graph, data)
        places = [(at, end) for number, at, end in wire.fields(0, len(data)) if number == METADATA and end != NUMBER]
        return dict(wire.entry(*place) for place in places)


@dataclass(frozen=True)
class Wire:
    """The bytes of a file in protobuf's wire format."""

    path: Path
    data: mmap.mmap

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """The fields of the message between two places."""
        while at < end:
            key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            if not 0 < number < 1 << 29 or kind not in (0, 1, 2, 5):
                raise _broken(self.path, f"byte {at} is no field")
            if kind == 0:
                value, at = self.varint(at, end)
                yield number, value, NUMBER
                continue
            length, at = self.varint(at, end) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            if length > end - at:
                raise _broken(self.path, f"cut short at byte {at}")
            yield number, at, at + length
            at += length

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of up to 64 bits and the place behind it."""
        value = shift = 0
        for place in range(at, min(end, at + 10)):
            byte = self.data[place]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 and not value >> 64:
                return value, place + 1
        raise _broken(self.path, f"no number at byte {at}")

    def end(self, at: int, end: int) -> int:
        """Where a field ends that has to have bytes."""
        if end == NUMBER:
            raise _broken(self.path, f"the number {at} where bytes are wanted")
        return end

    def tensor(self, start: int, end: int) -> Tensor:
        found = Tensor()
        for number, at, stop in self.fields(start, end):
            if number == DIMS:
                found.dims += [at] if stop == NUMBER else self.packed(at, stop)
            elif number == TYPE:
                found.type = at if stop == NUMBER else -1
            elif number == RAW:
                found.raw = self.end(at, stop) - at
            elif number == EXTERNAL:
                key, value = self.entry(at, self.end(at, stop))
                found.external.append({"key": key, "value": value})
            elif number in TYPED:
                found.typed += 8 if stop == NUMBER else max(stop - at, 1)
            if len(found.dims) > WIDEST:
                raise _broken(self.path, f"more than {WIDEST} dimensions of a weight")
        found.dims = [size - (1 << 64) if size >> 63 else size for size in found.dims]
        return found

    def entry(self, at: int, end: int) -> tuple[str, str]:
        """A key and its value."""
        found = {1: "", 2: ""}
        for number, first, last in self.fields(at, end):
            found[number] = self.data[first : self.end(first, last)].decode("utf-8", "replace")
        return found[1], found[2]

    def packed(self, at: int, end: int) -> list[int]:
        found: list[int] = []
        while at < end and len(found) <= WIDEST:
            value, at = self.varint(at, end)
            found.append(value)
        return found


def _broken(graph: Path, what: str) -> ModelError:
    return ModelError(f"{graph}: cannot open it as an ONNX graph ({what}). Copy the folder again, or export it again.")
