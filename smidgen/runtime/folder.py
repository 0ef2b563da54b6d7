"""What is deployed: the few files of a folder that are needed to predict, and nothing outside it.

Weights that an ONNX file keeps elsewhere are found by scanning its bytes for the `location` field, in the order in
which every known writer puts it; a file made by hand could hide one from this scan. Behind it stands a check of ONNX
Runtime itself, which refuses paths that leave the folder.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smidgen.artefact import RECORD, half_written
from smidgen.errors import ModelError
from smidgen.tasks import head_of

GRAPH = "onnx/model.onnx"
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", GRAPH)
OPTIONAL = ("onnx/model.onnx.data", "serve.json")
LOCATION = b"\n\x08location\x12"  # the key of a protobuf StringStringEntryProto, then the tag of its value


def deployed_files(folder: Path | str) -> tuple[Path, ...]:
    """The files that must be copied to run the model elsewhere.

    Raises:
        ModelError: the folder or one of its files is missing, or a file lies outside the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        kind = "a file" if root.exists() else "no such folder"
        raise ModelError(f"{root}: {kind}. Give a folder that holds config.json and onnx/model.onnx.")
    if half_written(root):
        raise ModelError(f"{root}: half-written by a run that was stopped. Run the same command again.")
    missing = [name for name in REQUIRED if not (root / name).is_file()]
    if missing:
        raise ModelError(f"{root}: this folder has no {' and no '.join(missing)}.{_hint(root)}")
    names = (*REQUIRED, *OPTIONAL) if (tasks := tasks_of(root)) is None else (RECORD, *REQUIRED, *own_graphs(tasks))
    files = tuple(root / name for name in names if (root / name).is_file())
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise ModelError(
                f"{file}: a link to a file outside the folder, which is never read. Copy the folder with its links "
                "followed: cp -rL FROM TO."
            )
    return files


def tasks_of(folder: Path) -> dict[str, Any] | None:
    """What the record of a bundle says of its tasks, by name; None where the folder is no bundle."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return record["tasks"] if record.get("form") == "bundle" else None


def own_graphs(tasks: dict[str, Any]) -> dict[str, str]:
    """The tasks of a bundle that have a graph of their own, by its file."""
    return {f"onnx/{task['graph']}": name for name, task in tasks.items() if task.get("graph")}


def deployed_bytes(folder: Path | str) -> int:
    """The size of what is deployed, in bytes."""
    return sum(file.stat().st_size for file in deployed_files(folder))


def graph_file(folder: Path) -> Path:
    """The ONNX file of a whole folder.

    Raises:
        ModelError: see `deployed_files`; or the graph keeps weights anywhere but in `onnx/model.onnx.data`.
    """
    deployed_files(folder)
    return closed(folder / GRAPH)


def closed(graph: Path) -> Path:
    """The same file, if it keeps its weights where it may. Raises ModelError."""
    for location in external_locations(graph):
        if location != Path(OPTIONAL[0]).name:
            raise ModelError(
                f"{graph}: keeps weights in {location!r}, wanted none or '{Path(OPTIONAL[0]).name}' beside it. "
                "Nothing else is read; save the graph as one file."
            )
    return graph


def external_locations(graph: Path) -> Iterator[str]:
    """The files in which an ONNX file keeps weights, as it names them."""
    if graph.stat().st_size == 0:
        return
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(LOCATION)
        while at >= 0:
            length, start = _varint(data, at + len(LOCATION))
            yield data[start : start + length].decode("utf-8", "replace")
            at = data.find(LOCATION, start)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: it is something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not JSON ({error}). Copy the folder again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: holds {type(value).__name__}, wanted a JSON object. Copy the folder again.")
    return value


def first_line(error: Exception) -> str:
    """The first line of what a library says, to be quoted in one of our own messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A protobuf varint and the position behind it."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def _hint(root: Path) -> str:
    if (root / "config.json").is_file() and head_of(read_json(root / "config.json")) == "mask_language":
        return (
            " It is a masked-language model, which predicts nothing that is wanted: give it as the model of a recipe "
            "for another task."
        )
    if (root / "winner").is_dir():
        return f" There is one under winner/: give {root / 'winner'}."
    return " A folder made by 'smidgen compress' has a whole one under winner/."
