"""What both formats need: files read without running them, the task, a delta written, a delta's one part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen import delta as deltas
from smidgen.artefact import write_atomic
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.grafting import head_names
from smidgen.method import Part
from smidgen.source import Source, load_model, tensor_shapes
from smidgen.tasks import TASKS, Task, from_data
from smidgen.tokens import length_limit
from smidgen.tunecard import card

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
LAST = ("classifier", "out_proj", "qa_outputs")  # the modules whose weight has a row a class
INNER = {"into": 1, "into_bias": 0, "back": 0}  # by table, the axis of rank or width, which may be less than others'
HEADLESS = (
    "Save it again with its head (in PEFT name the modules in modules_to_save, in adapters save the head with the "
    "adapter), or give a base that has it."
)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError where there is no such file, ArtefactError where it is not whole."""
    if not file.is_file():
        lacks = f"no {file.name} in it" if file.parent.is_dir() else "no such folder"
        raise InputError(f"{file.parent}: {lacks}. Give the folder that the other library saved, whole.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{file}: cannot be read ({error}). Get the folder whole.") from error
    if not isinstance(found, dict):
        raise ArtefactError(f"{file}: holds no object. Get the folder whole.")
    return found


def read_tensors(folder: Path, safe: str, pickled: str) -> dict[str, Tensor]:
    """The tensors of the safetensors file, else of the pickle, of which nothing but tensors is opened; {} for neither.

    Raises ArtefactError for a file that is cut short, holds anything else, or numbers that are not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if (folder / safe).is_file():
            found: Any = load_file(folder / safe)
        elif (folder / pickled).is_file():
            found = torch.load(folder / pickled, map_location="cpu", weights_only=True)
        else:
            return {}
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        said = str(error).partition("\n")[0][:120]
        raise ArtefactError(f"{folder}: its weights cannot be read ({said}). Get the folder whole.") from error
    except Exception as error:  # of pickle, of many kinds
        raise ArtefactError(
            f"{folder}: {pickled} holds more than tensors, which could run code, so it was not opened. Get {safe}."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ArtefactError(f"{folder}: {pickled} does not hold tensors by name. Get {safe}.")
    if wild := sorted(name for name, value in found.items() if not bool(value.isfinite().all())):
        raise ArtefactError(f"{folder}: {wild[0]} has numbers that are not finite. Get the folder whole.")
    return dict(found)


def task_of(
    folder: Path, base: Source, name: str, labels: Sequence[str], head: Mapping[str, Tensor], multi_label: bool = False
) -> Task:
    """The task of a foreign folder: the base's where it has such a head, else `name`, with labels given or LABEL_i.

    multi_label: each output of the head of a classifier is a decision of its own.
    """
    if multi_label and name != "classify":
        raise InputError(
            f"{folder}: has a head for the task {name}, and --multi-label is of classifiers. Leave it out."
        )
    if base.head and not labels and TASKS[base.head].hf_class == TASKS[name].hf_class:
        task = TASKS[base.head].from_config(base.config)
        if not multi_label or task.multi_label:
            return task
    if name == "answer":
        return from_data({"name": name})
    counts = [
        len(value)
        for key, value in head.items()
        if key.endswith(".weight") and key.split(".")[-2] in LAST and value.dim()
    ]
    if not counts:
        raise ModelError(f"{folder}: holds no head, and {base.reference} has none either. {HEADLESS}")
    named = tuple(labels) or tuple(f"LABEL_{i}" for i in range(counts[-1]))
    if len(named) != counts[-1]:
        raise InputError(
            f"{folder}: got {len(named)} labels, wanted {counts[-1]}, as many as its head has outputs, in their order."
        )
    return from_data({"name": name, "labels": named} | ({"multi_label": True} if multi_label else {}))


def keep(
    out: Path,
    base: Source,
    model: PreTrainedModel,
    part: Part,
    head: Mapping[str, Tensor],
    task: Task,
    max_length: int | None,
    about: Mapping[str, Any],
) -> Path:
    """Write the delta of a model of `base` with this part and this head. Gives its folder.

    Raises ModelError where the head lacks something, or replaces what belongs to the base.
    """
    import torch

    wanted = head_names(model, base.path)
    own, filed = dict(model.named_parameters()), set(tensor_shapes(base.path / "model.safetensors"))
    if lacking := sorted(name for name in wanted if name not in head and name not in filed):
        raise ModelError(
            f"{out}: the head lacks {', '.join(lacking)}, and {base.reference} does not have it either. {HEADLESS}"
        )
    with torch.no_grad():
        for name, value in head.items():
            if name not in own or own[name].shape != value.shape:
                raise ModelError(
                    f"{out}: the head's {name} {tuple(value.shape)} is not in a {base.family} for the task "
                    f"{task.name}. Give the base and the labels that it was made with."
                )
            if name not in wanted and not torch.equal(own[name], value.to(own[name].dtype)):
                raise ModelError(
                    f"{out}: replaces {name}, which belongs to the base; a delta shifts that or leaves it. Give a base "
                    "whose file does not have it, so that it is the head's."
                )
            own[name].copy_(value)
    length = max_length or length_limit(base.path)
    deltas.write(out, base, model, (part,), task, length, {"methods": {}, **about})
    write_atomic(out / "README.md", card(deltas.read(out).record))
    return out


def filled(model: PreTrainedModel, kind: str, settings: Mapping[str, Any], given: Mapping[str, Tensor]) -> Part:
    """A part with these tensors, narrower ones in the upper left of its own, and zeros where there are none.

    Raises ModelError for a tensor of another base.
    """
    import torch

    from smidgen.grafts import build

    graft = build(model, kind, settings)
    tensors = {name: torch.zeros_like(value).detach() for name, value in graft.state_dict().items()}
    for name, value in given.items():
        own, inner = tensors[name], INNER.get(name.partition(".")[0])
        if [size for axis, size in enumerate(value.shape) if axis != inner] != [
            size for axis, size in enumerate(own.shape) if axis != inner
        ]:
            raise ModelError(
                f"{name} is {tuple(value.shape)}, wanted {tuple(own.shape)}. Give the base that the folder was made on."
            )
        own[tuple(slice(size) for size in value.shape)] = value
    return Part(kind, graft.settings, tensors)


NORMS = "Adapters of houlsby without norms are tuned with norms: false. "


def only_part(delta: deltas.Delta, kinds: tuple[str, ...], format: str) -> Part:
    """The part of a delta that has one, of these kinds, and a head of the model's class. Raises InputError."""
    if delta.edits:
        raise InputError(
            f"{delta.path}: has a head of tune.head, of which a folder of {format} has no word. Use the delta as it "
            "is, or the folder of the whole model beside it."
        )
    got = [part.kind for part in delta.parts]
    if len(got) != 1 or got[0] not in kinds:
        raise InputError(
            f"{delta.path}: has the parts {', '.join(got)}; a folder of {format} holds one, of {' or '.join(kinds)}. "
            f"{NORMS if 'norms' in got else ''}Use the delta as it is, or the folder of the whole model beside it."
        )
    return delta.parts[0]


def loaded(base: Source, task: Task) -> PreTrainedModel:
    return load_model(base, task, 0)
