"""PEFT's folders: adapter_config.json and adapter_model.safetensors, of LoRA (also rsLoRA and DoRA) and (IA)^3.

A tensor is named `base_model.model.<module>.lora_A.weight`, (rank, inputs), `lora_B.weight`, (outputs, rank),
`lora_magnitude_vector`, (outputs,), or `ia3_l`, (outputs, 1) of an output and (1, inputs) of an input; a module that
was saved whole has its own names. PEFT notes its base by name and without a hash, so that the base is the
same is taken on trust; the name goes into the delta's record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.delta import Delta, check_base
from smidgen.errors import InputError, ModelError
from smidgen.exchange._shared import CONFIG, filled, keep, loaded, only_part, read_json, read_tensors, task_of
from smidgen.method import Part
from smidgen.source import Source

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SAFE, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
BEFORE = "base_model.model."
OWN = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|ia3_l)(?:\.weight)?")
TASKS = {"classify": "SEQ_CLS", "tag": "TOKEN_CLS", "answer": "QUESTION_ANS"}
HEADLESS = ("", "FEATURE_EXTRACTION")
STARTS = ("gaussian", "eva", "orthogonal", "mica", "True", "False")  # inits that leave the base's weights as they are
# What in a config is of its making alone, or is read below. Anything else that is set is another function.
READ = """
    alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules
    fan_in_fan_out feedforward_modules inference_mode init_ia3_weights init_lora_weights layers_pattern
    layers_to_transform loftq_config lora_alpha lora_dropout lora_ga_config megatron_config megatron_core
    modules_to_save peft_type peft_version qalora_group_size r rank_pattern revision runtime_config target_modules
    task_type use_dora use_rslora
"""


def from_peft(
    folder: Path,
    base: Source,
    out: Path,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    multi_label: bool = False,
) -> Path:
    """A delta on `base` from a folder of PEFT, whose head has to be in it, or in the base. Gives the delta's folder.

    Args:
        labels: in the order of the head's outputs; none = the base's, or LABEL_0 and so on.
        max_length: tokens that a text is cut to; None = as many as the base takes.
        multi_label: each output of the head is a decision of its own, of which a folder of PEFT says nothing.

    Raises:
        ArtefactError: a file cannot be read.
        InputError, ModelError: another function than smidgen computes, or another base; the message says what to do.
    """
    config = read_json(folder / CONFIG)
    kind = str(config.get("peft_type"))
    check(folder, config, kind)
    shifts: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    for name, value in read_tensors(folder, SAFE, PICKLED).items():
        bare = name.removeprefix(BEFORE)
        if found := OWN.fullmatch(bare):
            shifts.setdefault(found[1], {})[found[2]] = value.float()
        else:
            head[bare.replace(".modules_to_save.", ".")] = value.float()
    magnitude = {"lora_magnitude_vector"} if config.get("use_dora") else set()
    complete(folder, shifts, {"ia3_l"} if kind == "IA3" else {"lora_A", "lora_B"} | magnitude)
    said = next((ours for ours, theirs in TASKS.items() if theirs == config.get("task_type")), "classify")
    task = task_of(folder, base, said, labels, head, multi_label)
    model = loaded(base, task)
    at = {path: name for name, path in paths(model).items()}
    prefix = f"{model.base_model_prefix}."
    placed: dict[str, dict[str, Tensor]] = {}
    for path, values in shifts.items():
        place = at.get(path) or at.get(prefix + path)
        if place is None:
            raise InputError(
                f"{folder}: acts on {path}, which is no projection of a block of {base.reference}. Give the base that "
                "it was made on; where it is, train again with target_modules inside the blocks."
            )
        placed[place] = values
        if kind == "LORA":
            values["lora_B"] = values["lora_B"] * scale_of(folder, config, path, len(values["lora_A"]))
    part = _factors(model, placed) if kind == "IA3" else _shifts(model, placed, bool(config.get("use_dora")))
    return keep(
        out,
        base,
        model,
        part,
        head,
        task,
        max_length,
        {"from": {"peft": kind, "base": config.get("base_model_name_or_path")}},
    )


def check(folder: Path, config: Mapping[str, Any], kind: str) -> None:
    """Refuse a config whose function is another than that of the grafts `lora` and `scale`."""
    if kind not in ("LORA", "IA3"):
        raise InputError(
            f"{folder}: its peft_type is {kind}, smidgen reads LORA and IA3. Merge it (merge_and_unload) and give the "
            "whole model, or turn it into LoRA with PEFT's convert_to_lora."
        )
    if config.get("task_type") not in (None, *TASKS.values(), *HEADLESS):
        raise InputError(
            f"{folder}: its task_type is {config['task_type']!r}, smidgen reads {', '.join(TASKS.values())}. Give "
            "one of an encoder."
        )
    if (start := str(config.get("init_lora_weights", True))) not in STARTS:
        raise InputError(
            f"{folder}: starts from {start}, which changed the base's weights too. Save it again with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it a plain LoRA."
        )
    wrong = {key: value for key, value in config.items() if value and key not in READ.split()}
    if config.get("bias") not in (None, "none"):
        wrong["bias"] = config["bias"]
    if wrong:
        key, value = next(iter(wrong.items()))
        raise InputError(
            f"{folder}: sets {key} to {value!r}, and what that computes is not a shift of projections alone. Merge it "
            "(merge_and_unload) and give the whole model, or train again without it."
        )


def paths(model: PreTrainedModel) -> dict[str, str]:
    """The full name of the module at each `block/site`."""
    from smidgen.grafts.lora import SITES, linears

    named = {id(module): path for path, module in model.named_modules()}
    return {name: named[id(module)] for name, module in linears(model, SITES).items()}


def complete(folder: Path, shifts: Mapping[str, Mapping[str, Tensor]], wanted: set[str]) -> None:
    """Refuse a module of which a tensor is missing, or has another shape than they have."""
    if not shifts:
        raise InputError(f"{folder}: holds no tensors named {', '.join(sorted(wanted))}. Get {SAFE} whole.")
    for path, values in shifts.items():
        if set(values) != wanted or not _whole(values):
            got = ", ".join(f"{name} {tuple(value.shape)}" for name, value in sorted(values.items()))
            raise InputError(f"{folder}: {path} has {got}, wanted {', '.join(sorted(wanted))}, matrices. Get it whole.")


def _whole(values: Mapping[str, Tensor]) -> bool:
    """Are they matrices, with as many columns in B as A has rows, and a length for each row of B?"""
    matrices = [value for name, value in values.items() if name != "lora_magnitude_vector"]
    if any(value.dim() != 2 or not value.numel() for value in matrices):
        return False
    if "lora_B" not in values:
        return True
    outputs, rank = values["lora_B"].shape
    lengths = values.get("lora_magnitude_vector")
    return rank == len(values["lora_A"]) and (lengths is None or lengths.numel() == outputs)


def scale_of(folder: Path, config: Mapping[str, Any], path: str, rank: int) -> float:
    """By what PEFT multiplies the shift of a module: its alpha, or the first pattern's that it matches, by its rank."""
    try:
        patterns = (config.get("alpha_pattern") or {}).items()
        own = [value for key, value in patterns if re.fullmatch(rf"(.*\.)?({key})", path)]
        alpha = float(own[0] if own else config.get("lora_alpha", 8))
    except (re.error, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder}: lora_alpha or alpha_pattern cannot be read ({error}). Get {CONFIG} whole."
        ) from error
    if not math.isfinite(alpha):
        raise InputError(f"{folder}: its lora_alpha is {alpha}, wanted a number. Get {CONFIG} whole.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _shifts(model: PreTrainedModel, placed: Mapping[str, Mapping[str, Tensor]], factors: bool) -> Part:
    from smidgen.grafts.lora import linears

    sites = tuple(dict.fromkeys(name.partition("/")[2] for name in placed))
    modules, given = linears(model, sites), {}
    for name, values in placed.items():
        into, back = values["lora_A"].T, values["lora_B"].T
        if (into.shape[0], back.shape[1]) != (modules[name].in_features, modules[name].out_features):
            raise ModelError(f"{name}: {tuple(into.shape)} to {tuple(back.shape)}. Give the base that it was made on.")
        if factors:
            lengths = (modules[name].weight + (into @ back).T).norm(dim=1).detach()
            factor = values["lora_magnitude_vector"].flatten() / lengths
            given[f"factor.{name}"], back = factor - 1, back * factor
        given |= {f"into.{name}": into, f"back.{name}": back}
    rank = max(values["lora_A"].shape[0] for values in placed.values())
    return filled(model, "lora", {"rank": rank, "sites": sites, "factors": factors}, given)


def _factors(model: PreTrainedModel, placed: Mapping[str, Mapping[str, Tensor]]) -> Part:
    inputs = [name for name, values in placed.items() if values["ia3_l"].shape[0] == 1]
    given = {f"{'got' if n in inputs else 'given'}.{n}": v["ia3_l"].flatten() - 1 for n, v in placed.items()}
    sides = {"outputs": [n for n in placed if n not in inputs], "inputs": inputs}
    sites = {side: tuple(dict.fromkeys(n.partition("/")[2] for n in names)) for side, names in sides.items()}
    return filled(model, "scale", sites, given)


def to_peft(delta: Delta, base: Source, out: Path) -> Path:
    """A folder that PEFT's `PeftModel.from_pretrained(model, folder)` reads, on the base with a head of any numbers.

    Raises:
        InputError: the delta holds what PEFT's LoRA and IA3 do not compute.
        ModelError: another base.
    """
    from peft import IA3Config, LoraConfig
    from safetensors.torch import save_file

    check_base(delta, base)
    part = only_part(delta, ("lora", "scale"), "PEFT")
    if delta.task.name not in TASKS:
        raise InputError(f"{delta.path}: PEFT has no name for the task {delta.task.name}. Use the delta as it is.")
    model = loaded(base, delta.task)
    prefix, where = model.base_model_prefix, paths(model)
    saved = {n.partition(".")[0] if not n.startswith(f"{prefix}.") else ".".join(n.split(".")[:2]) for n in delta.head}
    about: dict[str, Any] = {
        "task_type": TASKS[delta.task.name],
        "modules_to_save": sorted(saved) or None,
        "base_model_name_or_path": base.reference,
        "inference_mode": True,
    }
    config: Any
    if part.kind == "lora":
        tensors, rank = _to_shifts(part, model), part.settings["rank"]
        sites = _names(part, "into")
        config = LoraConfig(r=rank, lora_alpha=rank, use_dora=bool(part.settings["factors"]), **about)
    else:
        inputs, outputs = _names(part, "got"), _names(part, "given")
        if both := sorted(set(inputs) & set(outputs)):
            raise InputError(f"{delta.path}: has factors on both sides of {both[0]}, PEFT has one. Use the delta.")
        tensors = {f"{n}.ia3_l": 1 + part.tensors[f"given.{n}"].unsqueeze(1) for n in outputs}
        tensors |= {f"{n}.ia3_l": 1 + part.tensors[f"got.{n}"].unsqueeze(0) for n in inputs}
        sites = [*outputs, *inputs]
        config = IA3Config(feedforward_modules=[where[n] for n in inputs], **about)
    config.target_modules = [where[name] for name in sites]
    config.save_pretrained(str(out))
    named = {f"{BEFORE}{where[name.partition('.')[0]]}.{name.partition('.')[2]}": v for name, v in tensors.items()}
    named |= {f"{BEFORE}{name}": value for name, value in delta.head.items()}
    save_file({name: value.contiguous() for name, value in named.items()}, out / SAFE, {"format": "pt"})
    return out


def _to_shifts(part: Part, model: PreTrainedModel) -> dict[str, Tensor]:
    from smidgen.grafts.lora import linears

    modules: Mapping[str, nn.Linear] = linears(model, part.settings["sites"])
    found = {}
    for name in _names(part, "into"):
        into, back = part.tensors[f"into.{name}"], part.tensors[f"back.{name}"]
        if part.settings["factors"]:
            factor = 1 + part.tensors[f"factor.{name}"]
            back = back / factor
            lengths = (modules[name].weight.detach() + (into @ back).T).norm(dim=1)
            found[f"{name}.lora_magnitude_vector"] = factor * lengths
        found |= {f"{name}.lora_A.weight": into.T, f"{name}.lora_B.weight": back.T}
    return found


def _names(part: Part, table: str) -> list[str]:
    """The `block/site` of a part's tensors in one table."""
    return [name.removeprefix(f"{table}.") for name in part.tensors if name.startswith(f"{table}.")]
