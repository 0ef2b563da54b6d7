"""A delta: a tuned task as a small folder beside its frozen base.

    delta.json          schema, the base's hash, config and family, task and labels, tokenizer, the parts and their
                        settings, how it was made and what it scored
    delta.safetensors   tensors of the parts, `<index>/<name>`, and of the head, `head/<parameter>`

What is kept of weights that a task shifts is the shift, so that many tasks can share one base; what replaces weights is
kept whole. Either means nothing without the exact base, so its weights, by their hash, and its config are checked
before anything is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.artefact import file_hash, intact, sealed, write_atomic
from smidgen.edits.attach import NAME
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.grafting import head_names, settle
from smidgen.method import Part
from smidgen.source import Source, load_model, open_config, settings_below, tensor_shapes
from smidgen.surgery import from_data, replay
from smidgen.tasks import Task
from smidgen.tasks import from_data as task_from_data

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from smidgen.edits import Edit
    from smidgen.grafts._parts import Graft

SCHEMA = 1
RECORD, TENSORS = "delta.json", "delta.safetensors"
HEAD = "head/"
IDLE = ("dropout", "initializer", "output_", "return_dict", "use_cache")  # in names of settings: no answer changes
SHOWN = 60  # characters of a setting that differs
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class Delta:
    """A delta that has been read and found whole."""

    path: Path
    record: Mapping[str, Any]
    parts: tuple[Part, ...]
    head: Mapping[str, Tensor]  # by the parameter's name in the model with its head

    @property
    def task(self) -> Task:
        return task_from_data(self.record["task"])

    @property
    def max_length(self) -> int:
        return int(self.record["max_length"])

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What was changed above the blocks, such as another kind of head."""
        return from_data(self.record.get("edits", ()))


def write(
    folder: Path,
    base: Source,
    model: PreTrainedModel,
    parts: tuple[Part, ...],
    task: Task,
    max_length: int,
    about: Mapping[str, Any],
    trained: int | None = None,
) -> None:
    """Write the delta of a model that was tuned from `base`; `about` is kept as it is, `edits` above the blocks too.

    Args:
        trained: how many numbers did, the head's among them; None where it is not known, and the file's are told.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = head_names(model, base.path)
    head = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if name in names}
    tensors = {f"{i}/{name}": v.contiguous() for i, part in enumerate(parts) for name, v in part.tensors.items()}
    save_file({**tensors, **{HEAD + name: value.clone() for name, value in head.items()}}, folder / TENSORS)
    file, stored = folder / TENSORS, sum(value.numel() for value in tensors.values())
    of_head = sum(value.numel() for value in head.values())
    record = {
        "schema": SCHEMA,
        "base": {
            "hash": body_hash(base),
            "config": body_config(base),
            "model": base.reference,
            "family": base.family,
        },
        "tokenizer": base.tokenizer_id,
        "task": task.to_data(),
        "max_length": max_length,
        "parts": [{"kind": part.kind, "settings": dict(part.settings)} for part in parts],
        "parameters": {
            "delta": stored if trained is None else max(trained - of_head, 0),
            "stored": stored,
            "head": of_head,
            "base": sum(p.numel() for n, p in model.named_parameters() if n not in head and f".{NAME}" not in n),
        },
        "file": [file.stat().st_size, file_hash(file)],
        **about,
    }
    write_record(folder, record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `delta.json`, sealed."""
    write_atomic(folder / RECORD, json.dumps(sealed(record), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Delta:
    """Read a delta and check that it is whole.

    Raises:
        InputError: not a delta.
        ArtefactError: of another schema, cut short, changed, with numbers that are not finite, or with pickled weights
            in it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / RECORD).is_file() and (folder / "delta" / RECORD).is_file():
        folder = folder / "delta"
    pickled = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickled:
        raise ArtefactError(f"{folder}: {pickled[0]} is a pickle, which can run code. A delta has {TENSORS} alone.")
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder}: not a delta, there is no {RECORD}. Make one with 'smidgen tune'.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        schema, (size, digest) = record["schema"], record["file"]
        kinds = [(str(entry["kind"]), dict(entry["settings"])) for entry in record["parts"]]
        _understood(record)
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{folder}: {RECORD} cannot be read ({error!r}). Make the delta again.") from error
    if schema != SCHEMA:
        raise ArtefactError(f"{folder}: schema {schema}, this smidgen reads {SCHEMA}. Make the delta again.")
    if not intact(record):
        raise ArtefactError(f"{folder}: {RECORD} is changed. Copy the delta again.")
    file = folder / TENSORS
    if not file.is_file() or file.stat().st_size != size or file_hash(file) != digest:
        raise ArtefactError(f"{folder}: {TENSORS} is missing, cut short or changed. Copy the delta again.")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ArtefactError(f"{folder}: {TENSORS} cannot be read ({error}). Make the delta again.") from error
    if wild := sorted(name for name, value in tensors.items() if not bool(value.isfinite().all())):
        raise ArtefactError(f"{folder}: {wild[0]} has numbers that are not finite. Make the delta again.")
    parts = tuple(
        Part(kind, settings, {n.removeprefix(f"{i}/"): v for n, v in tensors.items() if n.startswith(f"{i}/")})
        for i, (kind, settings) in enumerate(kinds)
    )
    head = {n.removeprefix(HEAD): value for n, value in tensors.items() if n.startswith(HEAD)}
    return Delta(folder, record, parts, head)


def _understood(record: Mapping[str, Any]) -> None:
    """Raise for what is lacking or of another type, of all that is read of a record later."""
    task_from_data(record["task"])
    from_data(record.get("edits", ()))
    texts = (*(record["base"][name] for name in ("hash", "model", "family")), record["tokenizer"])
    tables = (record.get("methods") or {}, record.get("numbers") or {}, record["base"].get("config") or {})
    for kind, values in ((str, texts), (int, (record["max_length"],)), (dict, tables)):
        if wrong := [value for value in values if not isinstance(value, kind)]:
            raise InputError(f"{wrong[0]!r} is no {kind.__name__}")


def check_base(delta: Delta, base: Source) -> None:
    """Refuse another base than the delta was made on.

    Raises:
        ModelError: its weights, what its config says of the body, or its tokenizer differ.
    """
    said = delta.record["base"]
    if body_hash(base) != said["hash"]:
        raise ModelError(
            f"{delta.path}: made on a base whose weights hash to {said['hash']} ({said['model']}); {base.reference} "
            f"has {body_hash(base)}. Give that base, or tune again on this one."
        )
    own, made = body_config(base), said.get("config") or {}  # deltas of old have no word of it
    if differ := sorted(name for name in own.keys() & made.keys() if own[name] != made[name]):
        each = (f"{name} is {_shown(own[name])}, was {_shown(made[name])}" for name in differ)
        raise ModelError(
            f"{delta.path}: made on a base of the same weights and another config; in that of {base.reference} "
            f"{'; '.join(each)}. Give the base with the config that it had, or tune again on this one."
        )
    if base.tokenizer_id != delta.record["tokenizer"]:
        raise ModelError(
            f"{delta.path}: made with another tokenizer than that of {base.reference}, so it would read other tokens. "
            "Give the base with its own tokenizer.json."
        )


def fit(delta: Delta, base: Source) -> PreTrainedModel:
    """The base with the delta in it: a model of the task, in evaluation mode.

    Raises:
        ModelError: another base, or a tensor that does not fit it.
    """
    import torch

    check_base(delta, base)
    model = load_model(base, delta.task, 0)
    replay(model, delta.edits)
    for part in delta.parts:
        put(model, part, delta.path)
    own = dict(model.named_parameters())
    for name in {name for name in head_names(model, base.path) if name in own} | set(delta.head):
        if name not in own or name not in delta.head or delta.head[name].shape != own[name].shape:
            raise ModelError(f"{delta.path}: {name} of the head does not fit the base. Make the delta again.")
    with torch.no_grad():
        for name, value in delta.head.items():
            own[name].copy_(value)
    return model.eval()


def put(model: PreTrainedModel, part: Part, path: Path) -> None:
    """One part of a delta into a model, in place."""
    settle(model, built(model, part, path))


def built(model: PreTrainedModel, part: Part, path: Path) -> Graft:
    """A part of a delta as a graft, not attached. Raises ModelError where it does not fit the model."""
    from smidgen.grafts import build

    try:
        graft = build(model, part.kind, part.settings)
        graft.load_state_dict(dict(part.tensors))
    except (InputError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: its {part.kind} does not fit the base ({why}). Make the delta again.") from error
    return graft


def untouched(model: PreTrainedModel, base: Path) -> bool:
    """Is the body the base's to the bit, so that the head is all there is to keep?"""
    import torch
    from safetensors import safe_open

    prefix = f"{model.base_model_prefix}."
    own = {name.removeprefix(prefix): value for name, value in model.state_dict().items() if name.startswith(prefix)}
    with safe_open(str(base / "model.safetensors"), framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            bare = name.removeprefix(prefix)
            if bare in own and not torch.equal(own[bare], opened.get_tensor(name).to(own[bare].dtype)):
                return False
    return True


def body_hash(base: Source) -> str:
    """16 hex digits of the SHA-256 of names, types and numbers of a model's body, the same with any head or none."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModel

    file = base.path / "model.safetensors"
    model_class: Any = AutoModel._model_mapping[type(open_config(base))]
    prefix = f"{model_class.base_model_prefix}."
    names = sorted(tensor_shapes(file))
    inside = [name for name in names if name.startswith(prefix)] or names
    digest = hashlib.sha256()
    with safe_open(str(file), framework="pt") as opened:
        for name in inside:
            value = opened.get_tensor(name).contiguous()
            digest.update(f"{name.removeprefix(prefix)} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def body_config(base: Source) -> dict[str, Any]:
    """What a model's config says of how its body computes, the same with any head or none, defaults included.

    The settings and not a hash of them: an error can then name what differs, and what a later transformers knows
    besides does not count as a difference.
    """
    said = settings_below(open_config(base)) | {"family": base.family}
    kept = {name: value for name, value in said.items() if not any(word in name for word in IDLE)}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
