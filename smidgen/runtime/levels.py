"""`cascade.json`: the models of a cascade, the fastest first, and how sure each but the last has to be to answer.

{"schema": 1, "levels": [{"folder": "small", "temperature": 1.4, "threshold": 0.93}, {"folder": "large"}]}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import ModelError

FILE = "cascade.json"
SCHEMA = 1
FORM = "cascade"  # of a folder
LEAST, HOTTEST = 2, 1000.0  # levels; temperature
NAME = re.compile(r"\w[\w-]{0,59}", re.ASCII)  # of a folder inside the folder, so no path that leads out
BOUNDS = {"temperature": (0.0, HOTTEST), "threshold": (0.0, 1.0)}
SHOWN = 60  # characters of an entry that is wrong


@dataclass(frozen=True)
class Level:
    """One model of a cascade. What it is as sure of as its threshold, or less, goes on to the next.

    temperature: what its logits are divided by before they become the probability that the threshold is on.
    """

    folder: str
    temperature: float = 1.0
    threshold: float = 0.0  # of the last one means nothing

    def to_data(self, last: bool = False) -> dict[str, Any]:
        told = {"folder": self.folder, "temperature": self.temperature, "threshold": self.threshold}
        return {"folder": self.folder} if last else told


def to_data(levels: Sequence[Level]) -> dict[str, Any]:
    """What stands in `cascade.json`."""
    last = len(levels) - 1
    return {"schema": SCHEMA, "levels": [level.to_data(i == last) for i, level in enumerate(levels)]}


def from_data(data: Mapping[str, Any], file: Path) -> tuple[Level, ...]:
    """The levels of a `cascade.json`.

    Raises:
        ModelError: it is not valid; the first fault.
    """
    if fault := next(_faults(data), ""):
        raise ModelError(f"{file}: {fault} Copy the folder again, or make the cascade again.")
    return tuple(Level(told["folder"], **{k: float(told[k]) for k in BOUNDS if k in told}) for told in data["levels"])


def _faults(data: Mapping[str, Any]) -> Iterator[str]:
    if set(data) != {"schema", "levels"}:
        yield f"has {_shown(', '.join(sorted(map(str, data))) or 'nothing')}, wanted schema and levels."
    elif data["schema"] != SCHEMA:
        yield f"schema is {_shown(data['schema'])}, wanted {SCHEMA}."
    elif not isinstance(data["levels"], list) or len(data["levels"]) < LEAST:
        yield f"levels is {_shown(data['levels'])}, wanted a list of {LEAST} models or more."
    else:
        for i, told in enumerate(data["levels"]):
            yield from _faults_of(i, told, i == len(data["levels"]) - 1)
        names = [told["folder"] for told in data["levels"]]
        if len(set(names)) < len(names):
            yield f"its levels are in {', '.join(names)}, wanted another folder for each."


def _faults_of(i: int, told: Any, last: bool) -> Iterator[str]:
    wanted = ["folder"] if last else ["folder", *BOUNDS]
    if not isinstance(told, dict) or set(told) != set(wanted):
        yield f"level {i + 1} is {_shown(told)}, wanted {', '.join(wanted)}."
        return
    if not isinstance(told["folder"], str) or not NAME.fullmatch(told["folder"]):
        yield f"level {i + 1} has the folder {_shown(told['folder'])}, wanted the name of one inside this folder."
    for key in wanted[1:]:
        low, high = BOUNDS[key]
        value = told[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low <= value <= high and (value or key == "threshold")):
            yield f"level {i + 1} has the {key} {_shown(value)}, wanted a number from {low:g} to {high:g}."


def _shown(value: object) -> str:
    said = value if isinstance(value, str) else repr(value)
    return said if len(said) < SHOWN else f"{said[:SHOWN]} ..."
