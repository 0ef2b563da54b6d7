"""What runs a graph: one small file an engine, found by its name, all of them of one interface.

An engine's file has `TITLE`, `PRECISIONS` and `Session`. It imports its package when a session is opened, not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from smidgen.errors import InputError, MissingExtra, did_you_mean
from smidgen.runtime.machine import BF16, lacking

DEFAULT = "onnxruntime"
NATIVE = {"bfloat16": BF16}  # what a processor must have, one of them


@dataclass(frozen=True)
class Way:
    """How a graph is run.

    engine     a file beside this one
    precision  of what the graph has in float; what it has in int8 stays so
    threads    inside one call
    calls      that may run at once; all of them together use threads * calls processors
    """

    engine: str = DEFAULT
    precision: str = "float32"
    threads: int = 1
    calls: int = 1

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """`openvino bfloat16, 2 threads`; float32 goes without saying: an int8 graph would be taken for one in it."""
        named = self.engine if self.precision == "float32" else f"{self.engine} {self.precision}"
        return f"{named}, {self.threads} thread{'s' * (self.threads > 1)}"


class Session(Protocol):
    """A graph that is ready to run; safe to call from several threads."""

    inputs: tuple[str, ...]
    outputs: Mapping[str, Sequence[Any]]  # shapes by name; what is not a number is free

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names. feed: all inputs and nothing else, int64, (B, L)."""


def names() -> tuple[str, ...]:
    """All engines there are, installed or not."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


def installed(engine: str) -> bool:
    return importlib.util.find_spec(engine) is not None


def find(engine: str) -> Any:
    """The module of an engine.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    if engine not in names():
        known = ", ".join(names())
        raise InputError(f"engine: there is no {engine!r}.{did_you_mean(engine, names())} Use one of {known}.")
    return importlib.import_module(f"{__name__}.{engine}")


def need(engine: str) -> None:
    """Raises InputError for an engine that there is none of, MissingExtra for one that is not installed."""
    find(engine)
    if not installed(engine):
        raise MissingExtra(
            f"engine {engine}: it is not installed. Type: pip install 'smidgen[{engine}]', or take the engine "
            f"{DEFAULT}."
        )


def refusal(engine: str, precision: str) -> str:
    """Why this processor should not run an engine in a precision, in a sentence or two; "" if nothing is wrong."""
    known = find(engine).PRECISIONS
    if precision not in known:
        other = " With --engine openvino there is bfloat16 too." if engine == DEFAULT else ""
        return f"precision: got {precision!r}, wanted {' or '.join(known)} with the engine {engine}.{other}"
    why = lacking(NATIVE[precision]) if precision in NATIVE else ""
    return f"precision {precision}: {why}, and would only emulate it, many times as slow. Use float32." if why else ""


def session(graph: Path, way: Way) -> Session:
    """Open a graph.

    Raises:
        InputError: an unknown engine, or a precision that it or the processor does not have.
        MissingExtra: the engine is not installed.
        ModelError: it cannot read the graph.
    """
    if found := refusal(way.engine, way.precision):
        raise InputError(found)
    need(way.engine)
    opened: Session = find(way.engine).Session(graph, way)
    return opened
