"""What is deployed: the few files of a folder that are needed to predict, and nothing outside it.

A graph may keep weights in one file beside it, `onnx/model.onnx.data`. Its bytes are walked before anything opens it
(`wire.py`), so that it names no other file and says nothing of its weights that does not add up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from smidgen.artefact import RECORD, half_written
from smidgen.errors import ModelError
from smidgen.runtime import levels, wire
from smidgen.runtime.levels import Level
from smidgen.tasks import head_of

GRAPH = "onnx/model.onnx"
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", GRAPH)
OPTIONAL = (f"{GRAPH}.data", "serve.json")
OWN = re.compile(r"own-[\w.-]*\.onnx")  # graphs of single tasks in a bundle
MOST, MOST_LABELS = 10**9, 10**5
DELTA = "It is a delta: 'smidgen merge BASE DELTA --out DIR --onnx' makes a folder of it that predicts."
FOUND = {  # what a folder without a graph has in it, and what to do with it
    "delta.json": DELTA,
    "delta": DELTA,
    "stages": "It holds what a run made: give the folder under stages/ that the run named last.",
}
SHOWN = 60  # characters of an entry that is wrong


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
    if (found := levels_of(root)) is not None:
        return _inside(root, [root / RECORD, root / levels.FILE, *_deployed_levels(root, found)])
    missing = [name for name in REQUIRED if not (root / name).is_file()]
    if missing:
        raise ModelError(f"{root}: this folder has no {' and no '.join(missing)}.{_hint(root)}")
    names: tuple[str, ...] = (*REQUIRED, *OPTIONAL)
    if (tasks := tasks_of(root)) is not None:
        names = (RECORD, *names, *(name for graph in own_graphs(tasks) for name in (graph, f"{graph}.data")))
    return _inside(root, [root / name for name in names if (root / name).is_file()])


def _inside(root: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """The same files, none of which lies outside the folder. Raises ModelError."""
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise ModelError(
                f"{file}: a link to a file outside the folder, which is never read. Copy the folder with its links "
                "followed: cp -rL FROM TO."
            )
    return tuple(files)


def levels_of(folder: Path) -> tuple[Level, ...] | None:
    """The levels of a cascade, the fastest first; None where the folder is no cascade. Raises ModelError."""
    file = folder / levels.FILE
    if not file.exists() and form_of(folder) != levels.FORM:
        return None
    if missing := [name for name in (levels.FILE, RECORD) if not (folder / name).is_file()]:
        raise ModelError(f"{folder}: this cascade has no {' and no '.join(missing)}. Copy the folder again.")
    _inside(folder, [file])
    return levels.from_data(read_json(file), file)


def _deployed_levels(root: Path, found: Sequence[Level]) -> Iterator[Path]:
    for level in found:
        inner = root / level.folder
        if not inner.is_dir():
            raise ModelError(f"{root}: this cascade has no folder {level.folder}. Copy the folder again.")
        _inside(root, [inner, inner / RECORD])
        if (inner / levels.FILE).exists() or form_of(inner) in ("bundle", levels.FORM):
            raise ModelError(f"{inner}: is a cascade or bundle, wanted a folder of one model. Make the cascade again.")
        yield from _inside(root, deployed_files(inner))


def form_of(folder: Path) -> str:
    """What the record of a folder says it is; "" without a record. Raises ModelError."""
    return str(_record(folder).get("form")) if (folder / RECORD).is_file() else ""


def _record(folder: Path) -> dict[str, Any]:
    """The record, {} where there is none. Raises ModelError."""
    return read_json(*_inside(folder, [folder / RECORD])) if (folder / RECORD).is_file() else {}


def tasks_of(folder: Path) -> dict[str, Any] | None:
    """What the record of a bundle says of its tasks, by name; None where the folder is no bundle. Raises ModelError."""
    record = _record(folder)
    if record.get("form") != "bundle":
        return None
    tasks = record.get("tasks")
    if not isinstance(tasks, dict) or not all(
        isinstance(told, dict) and OWN.fullmatch(str(told.get("graph") or "own-.onnx")) for told in tasks.values()
    ):
        raise ModelError(f"{folder / RECORD}: its tasks cannot be read. Make the bundle again.")
    return tasks


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


def beside(graph: Path) -> Path:
    """The file in which a graph keeps its large weights, if it does."""
    return graph.with_name(f"{graph.name}.data")


def closed(graph: Path) -> Path:
    """The same file, if it is whole and keeps its weights where it may. Raises ModelError."""
    wire.check(graph, beside(graph))
    return graph


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: it is something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not JSON ({first_line(error)}). Copy the folder again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: holds {type(value).__name__}, wanted a JSON object. Copy the folder again.")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, of whose entries those that are read here are what they should be. Raises ModelError."""
    file = folder / "config.json"
    config = read_json(file)
    words = config.get("vocab_size")
    most = {
        "pad_token_id": (0, words - 1 if type(words) is int and words > 0 else MOST),
        "max_position_embeddings": (1, MOST),
        "num_labels": (0, MOST_LABELS),
    }
    for key, (low, high) in most.items():
        if config.get(key) is not None and not (type(config[key]) is int and low <= config[key] <= high):
            raise _entry(file, key, config[key], f"a whole number from {low} to {high}")
    if not isinstance(config.get("model_type") or "", str):
        raise _entry(file, "model_type", config["model_type"], "a name")
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise _entry(file, "architectures", named, "a list of names")
    labels = config.get("id2label") or {}
    if not isinstance(labels, dict) or not all(
        re.fullmatch("[0-9]{1,9}", number) and isinstance(label, str | int) for number, label in labels.items()
    ):
        raise _entry(file, "id2label", labels, 'labels by number, as {"0": "bad", "1": "good"}')
    return config


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json in the same way. Raises ModelError."""
    file = folder / "tokenizer_config.json"
    settings = read_json(file)
    length, side = settings.get("model_max_length"), settings.setdefault("truncation_side", "right")
    if length is not None and not (type(length) in (int, float) and length > 0):
        raise _entry(file, "model_max_length", length, "a number of tokens")
    if side not in ("left", "right"):
        raise _entry(file, "truncation_side", side, "left or right")
    return settings


def _entry(file: Path, key: str, value: object, wanted: str) -> ModelError:
    shown = repr(value) if len(repr(value)) < SHOWN else f"{repr(value)[:SHOWN]} ..."
    return ModelError(f"{file}: {key} is {shown}, wanted {wanted}. Copy the folder again.")


def first_line(error: BaseException) -> str:
    """The first line of what a library says, to be quoted in one of our own messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _hint(root: Path) -> str:
    if (
        (root / "config.json").is_file()
        and _inside(root, [root / "config.json"])
        and head_of(read_config(root)) == "mask_language"
    ):
        return (
            " It is a masked-language model, which predicts nothing that is wanted: give it as the model of a recipe "
            "for another task."
        )
    if (root / "winner").is_dir():
        return f" There is one under winner/: give {root / 'winner'}."
    found = next((words for name, words in FOUND.items() if (root / name).exists()), None)
    if found:
        return f" {found}"
    if all((root / name).is_file() for name in ("config.json", "model.safetensors")) and form_of(root) in ("", "float"):
        return " It is a model for torch: a recipe with the stage export.onnx writes its graph."
    return " A folder made by 'smidgen compress' has a whole one under winner/."
