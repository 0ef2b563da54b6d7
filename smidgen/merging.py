"""A base with a delta in it, as one Hugging Face folder: `smidgen merge`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smidgen.artefact import RECORD, Artefact, file_hash, identity, open_artefact, publish
from smidgen.delta import TENSORS, Delta, fit, read
from smidgen.edits import Edit
from smidgen.edits.attach import Attach, attached
from smidgen.errors import ArtefactError, InputError, SmidgenError
from smidgen.grafting import plain
from smidgen.measure.entries import made_up, two_lists
from smidgen.method import Context, find
from smidgen.runtime.folder import GRAPH
from smidgen.source import MODEL_FILES, Source, auto_class, resolve, taken
from smidgen.surgery import to_data
from smidgen.tokens import encode, pad_id, write_tokenizer


def merge(base: Source, folder: Path, out: Path, onnx: bool = False) -> Artefact:
    """Write the base with a delta in it to `out`, whole or not at all; one that is there is given again.

    Where the delta folds into the weights, the folder is a plain one of the base's kind; else it is read after `import
    smidgen`. With `onnx` it has its graph too and predicts without torch.

    Raises:
        ModelError, ArtefactError: see `smidgen.delta`.
        InputError: something else is in `out`.
    """
    delta = read(folder)
    id = identity({"merge": [base.id, file_hash(delta.path / TENSORS), delta.record["digest"]]})
    there = _there(out, id)
    if there is None:
        _write(base, delta, out, id)
    if onnx and not (out / GRAPH).is_file():
        _draw(delta, out)
    return open_artefact(out)


def _there(out: Path, id: str) -> Artefact | None:
    """The same merge, if `out` has it; None where it is free."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = open_artefact(out)
        if found.id == id:
            return found
    except ArtefactError:
        pass
    raise InputError(f"--out {out}: something else is there. Give a name that is free, or delete it first.")


def _write(base: Source, delta: Delta, out: Path, id: str) -> None:
    model = fit(delta, base)
    before = _grafts(base.config.get("edits") or ())
    own: dict[str, Any] = {
        "id": id,
        "name": "merge",
        "methods": delta.record.get("methods") or {},
        "teacher": None,
        "seed": delta.record.get("seed"),
        "train": delta.record.get("train"),
        "on": None,
        "remarks": [],
    }
    parent: dict[str, Any] = {}
    if (base.path / RECORD).is_file():
        parent = dict(open_artefact(base.path).record)
    record = {
        **own,
        "form": "float",
        "parent": base.id,
        "model": parent.get("model", base.reference),
        "task": delta.task.to_data(),
        "max_length": delta.max_length,
        "edits": [*parent.get("edits", []), *to_data(delta.edits), *to_data(_attached(model)[before:])],
        "lineage": [*parent.get("lineage", []), own],
        "numbers": delta.record.get("numbers"),
    }
    with publish(out, record) as draft:
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(draft)
        write_tokenizer(base.path, draft, delta.max_length)
        _check(model, delta, draft)


def _draw(delta: Delta, out: Path) -> None:
    """Write the graph beside the model, in a folder that takes the place of the one without."""
    record = {**open_artefact(out).record, "form": "onnx"}
    rows = tuple(made_up(delta.task))
    with publish(out, record) as draft:
        for name in MODEL_FILES:
            if (out / name).is_file():
                shutil.copyfile(out / name, draft / name)
        graph: Any = find("export.onnx")()
        graph.run(Context(out, draft, delta.task, rows, 0))


def _attached(model: Any) -> list[Edit]:
    """The edits that put grafts into a model, in order."""
    found: list[Any] = attached(model.base_model)
    return [Attach(type(graft).__module__.rpartition(".")[2], plain(graft.settings)) for graft in found]


def _grafts(edits: Sequence[Any]) -> int:
    return sum(edit.get("edit") == Attach.__name__ for edit in edits)


def _check(model: Any, delta: Delta, folder: Path) -> None:
    """The folder read back answers as the model in hand."""
    import torch

    from smidgen.tape import logits_of

    texts, pairs = two_lists(made_up(delta.task))
    encoded = encode(delta.task, folder, texts, pairs, delta.max_length)
    batch = taken(model, encoded.batch(list(range(len(encoded))), pad_id(folder)))
    inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
    again = auto_class(delta.task).from_pretrained(str(folder), local_files_only=True).eval()
    with torch.inference_mode():
        ours, theirs = (logits_of(m(**inputs)) for m in (model, again))
    if not torch.allclose(ours, theirs, atol=1e-5):
        worst = float((ours - theirs).abs().max())
        raise SmidgenError(f"reloading the merged folder gives other outputs (by {worst:.2g}). This is a bug.")


def merged(base: str, delta: str | Path, out: str | Path, onnx: bool = False) -> Artefact:
    """`merge` by the words of the command line."""
    return merge(resolve(base), Path(delta), Path(out), onnx)
