"""AdapterHub's folders, of the `adapters` library: adapter_config.json and pytorch_adapter.bin or adapter.safetensors.

Its bottlenecks by their configs, F being what the sublayer gives, x what it got, and A = U f(D . + d) + u:

    double_seq_bn                          norm(x + F + A(F)), behind attention too: `houlsby`, without tuned norms
    original_ln_before false, output only  norm(x + F + A(F)): `pfeiffer`
    seq_bn                                 norm(x + F + A(norm(x + F))): `normed`, not `pfeiffer`
    par_bn                                 norm(x + F + scaling A(x)): `parallel`

A tensor is named `bert.encoder.layer.0.output.adapters.<name>.adapter_down.0.weight`; in DistilBERT, which it calls
`transformer.layer.0`, `output_adapters.adapters.<name>`. Its head is in files of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.artefact import write_atomic
from smidgen.delta import Delta, check_base
from smidgen.errors import InputError, ModelError
from smidgen.exchange._shared import CONFIG, filled, keep, loaded, only_part, read_json, read_tensors, task_of
from smidgen.source import Source

if TYPE_CHECKING:
    from torch import Tensor

SAFE, PICKLED = "adapter.safetensors", "pytorch_adapter.bin"
HEAD_CONFIG, HEAD_SAFE, HEAD_PICKLED = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"
MULTI_LABEL = "multilabel_classification"  # a head_type; computes what `classification` does
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")  # that both know, with the norms behind
OLD = re.compile(r"(attention|layer)_text_(task|lang)_adapters")
OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}  # before its configs had a version
OWN = re.compile(
    r"(?:.+\.)?layer\.(\d+)\.(attention\.output|attention_adapters|output|output_adapters)\.adapters\.[^.]+\."
    r"(adapter_down\.0|adapter_up)\.(weight|bias)"
)
TABLES = {
    ("adapter_down.0", "weight"): "into",
    ("adapter_down.0", "bias"): "into_bias",
    ("adapter_up", "weight"): "back",
    ("adapter_up", "bias"): "back_bias",
}
# By the keys that choose a function: mh_adapter, output_adapter, original_ln_before, is_parallel.
KINDS = {
    (True, True, False, False): "houlsby",
    (False, True, False, False): "pfeiffer",
    (False, True, True, False): "normed",
    (False, True, False, True): "parallel",
}
USUAL = {
    "original_ln_after": (True,),
    "ln_before": (False,),
    "ln_after": (False,),
    "use_gating": (False,),
    "residual_before_ln": (True,),
    "inv_adapter": (None,),
    "cross_adapter": (False,),
    "phm_layer": (False,),
    "stochastic_depth": (0.0, None),
    "architecture": (None,),
}


def from_adapterhub(
    folder: Path,
    base: Source,
    out: Path,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    multi_label: bool = False,
) -> Path:
    """A delta on `base` from a folder of AdapterHub, whose head has to be in it, or in the base. Gives its folder.

    Args and raises: see `smidgen.exchange.peft.from_peft`. A head of the kind `multilabel_classification` says itself
    that each of its outputs is a decision of its own.
    """
    about = read_json(folder / CONFIG)
    config = about.get("config")
    if not isinstance(config, dict):
        raise InputError(
            f"{folder}: its config is {config!r}, wanted one of a bottleneck. Save it again with adapters."
        )
    if base.family not in FAMILIES:
        raise InputError(f"{folder}: adapters and smidgen both know {', '.join(FAMILIES)}; the base is {base.family}.")
    if about.get("version") is None and config.get("non_linearity") in OLD_ACTIVATIONS:
        config = {**config, "non_linearity": OLD_ACTIVATIONS[config["non_linearity"]]}
    settings = settings_of(folder, config)
    given: dict[str, Tensor] = {}
    for name, value in read_tensors(folder, SAFE, PICKLED).items():
        found = OWN.fullmatch(OLD.sub("adapters", name))
        if found is None:
            raise InputError(f"{folder}: holds {name}, which is no bottleneck of a block. It needs adapters itself.")
        if value.dim() != (2 if found[4] == "weight" else 1):
            raise InputError(f"{folder}: {name} is {tuple(value.shape)}, which is no {found[4]}. Get the folder whole.")
        place = "out" if found[2].startswith("attention") else "down"
        given[f"{TABLES[found[3], found[4]]}.{found[1]}/{place}"] = (value.T if value.dim() > 1 else value).float()
    head = _head(folder, base)
    multi_label = multi_label or _head_config(folder).get("head_type") == MULTI_LABEL
    task = task_of(folder, base, _task_name(folder), labels or _labels(folder), head, multi_label)
    model = loaded(base, task)
    places = ("out", "down") if settings["kind"] == "houlsby" else ("down",)
    left_out = config.get("leave_out") or []
    if not isinstance(left_out, list):
        raise InputError(f"{folder}: its leave_out is {left_out!r}, wanted a list of blocks. Get {CONFIG} whole.")
    blocks = [i for i in range(base.blocks) if i not in left_out]
    wanted = {f"{table}.{i}/{place}" for table in TABLES.values() for i in blocks for place in places}
    if wanted != set(given) or not wanted:
        name = min(wanted ^ set(given), default="no adapter")
        raise ModelError(f"{folder}: {name} is in the file or in this base, not in both. Give the base it was made on.")
    width = max(value.shape[1] for name, value in given.items() if name.startswith("into."))
    part = filled(model, "adapter", {**settings, "width": width}, given)
    return keep(
        out,
        base,
        model,
        part,
        head,
        task,
        max_length,
        {"from": {"adapterhub": about.get("name"), "base": about.get("model_name")}},
    )


def settings_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the graft `adapter` for a config; InputError with the reason where that is another function."""
    from transformers.activations import ACT2FN

    for key, values in USUAL.items():
        if config.get(key, values[0]) not in values:
            raise InputError(
                f"{folder}: sets {key} to {config[key]!r}, smidgen's adapters compute {values[0]!r} alone. Train again "
                "with tune.adapter."
            )
    parallel = bool(config.get("is_parallel", False))
    heads, output = bool(config.get("mh_adapter")), bool(config.get("output_adapter"))
    before = bool(config.get("original_ln_before", False)) and not parallel
    kind = KINDS.get((heads, output, before, parallel))
    if kind is None:
        raise InputError(
            f"{folder}: mh_adapter {heads}, output_adapter {output}, original_ln_before {before} and is_parallel "
            f"{parallel} together are none of seq_bn, double_seq_bn and par_bn. Train again with tune.adapter."
        )
    scaling = config.get("scaling", 1.0)
    if isinstance(scaling, bool) or not isinstance(scaling, int | float):
        raise InputError(f"{folder}: its scaling is {scaling!r}, wanted a number. Train again with tune.adapter.")
    activation = str(config.get("non_linearity")).lower().replace("leakyrelu", "leaky_relu")
    if activation not in ACT2FN:
        raise InputError(f"{folder}: its non_linearity is {activation!r}, which transformers does not have.")
    return {"kind": kind, "activation": activation, "scale": float(scaling)}


def _head(folder: Path, base: Source) -> dict[str, Tensor]:
    """The head by the names of the base's own class; a flexible head where that computes the same."""
    found = read_tensors(folder, HEAD_SAFE, HEAD_PICKLED)
    if not any(name.startswith("heads.") for name in found):
        return {name: value.float() for name, value in found.items()}
    config = _head_config(folder)
    kind, layers, pooler = config.get("head_type"), config.get("layers"), bool(config.get("use_pooler"))
    kind = "classification" if kind == MULTI_LABEL else kind
    activation = config.get("activation_function")
    plain = {"tagging": ["classifier"], "question_answering": ["qa_outputs"]}
    names: list[str] = []
    if kind in plain and layers == 1:
        names = plain[kind]
    elif kind == "classification" and base.family == "bert" and layers == 1 and pooler:
        names = ["classifier"]
    elif kind == "classification" and base.family.endswith("roberta") and (layers, activation) == (2, "tanh"):
        names = ["classifier.dense", "classifier.out_proj"]
    if not names:
        raise InputError(
            f"{folder}: its head is {kind} of {layers} layers with {activation}, {'with' if pooler else 'without'} the "
            f"pooler, which is not what the class of {base.family} computes. Save it from the class with its own head."
        )
    numbers = sorted({int(name.split(".")[2]) for name in found})
    return {
        f"{to}.{what}": found[name].float()
        for number, to in zip(numbers, names, strict=True)
        for what in ("weight", "bias")
        for name in found
        if name.split(".")[2:] == [str(number), what]
    }


def _head_config(folder: Path) -> dict[str, Any]:
    about = read_json(folder / HEAD_CONFIG) if (folder / HEAD_CONFIG).is_file() else {}
    config = about.get("config") or {}
    if not isinstance(config, dict):
        raise InputError(
            f"{folder}: the config in {HEAD_CONFIG} is {config!r}, wanted an object. Get the folder whole."
        )
    return {**about, **config}


def _labels(folder: Path) -> tuple[str, ...]:
    """The labels that its head names, in the order of their ids; () where they are LABEL_0 and so on."""
    named = _head_config(folder).get("label2id") or {}
    if not isinstance(named, dict) or {*map(str, range(len(named)))} != {str(number) for number in named.values()}:
        raise InputError(
            f"{folder}: label2id in {HEAD_CONFIG} is {named!r}, wanted a number from 0 for each label. Give --label "
            "for each, in the order of the head's outputs."
        )
    ordered = tuple(sorted(named, key=named.__getitem__))
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(ordered)) else ordered


def _task_name(folder: Path) -> str:
    about = _head_config(folder)
    said = f"{about.get('head_type')} {about.get('model_class')}".lower()
    tags, answers = ("tagging", "tokenclassification"), ("question_answering", "questionanswering")
    return "tag" if any(t in said for t in tags) else "answer" if any(a in said for a in answers) else "classify"


def to_adapterhub(delta: Delta, base: Source, out: Path, name: str = "smidgen") -> Path:
    """A folder that `load_adapter` of the adapters library reads into the base's class with its own head.

    Raises:
        InputError: the delta holds what its bottlenecks do not compute.
        ModelError: another base.
    """
    from safetensors.torch import save_file

    check_base(delta, base)
    part = only_part(delta, ("adapter",), "AdapterHub")
    if base.family not in FAMILIES:
        raise InputError(f"{delta.path}: adapters and smidgen both know {', '.join(FAMILIES)}, not {base.family}.")
    model, kinds = loaded(base, delta.task), {kind: key for key, kind in KINDS.items()}
    head, output, before, parallel = kinds[part.settings["kind"]]
    size = model.config.hidden_size
    if size % (width := part.settings["width"]):
        raise InputError(f"{delta.path}: its width {width} is no whole share of {size}, as AdapterHub has it.")
    if inside := sorted(n for n in delta.head if n.startswith(f"{model.base_model_prefix}.")):
        raise InputError(f"{delta.path}: its head has {inside[0]}, which adapters keeps with the base. Use the delta.")
    config = {key: values[0] for key, values in USUAL.items() if key != "architecture"} | {
        "mh_adapter": head,
        "output_adapter": output,
        "original_ln_before": before,
        "is_parallel": parallel,
        "non_linearity": part.settings["activation"],
        "reduction_factor": size // width,
        "scaling": float(part.settings["scale"]),
        "adapter_residual_before_ln": False,
        "leave_out": list(range(part.settings["first"])),
        "dropout": 0.0,
    }
    about = {
        "model_type": base.family,
        "hidden_size": size,
        "model_name": base.reference,
        "model_class": type(model).__name__,
        "version": "adapters.1.0.0",
    }
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        _name(model.base_model_prefix, path, name): v.T if v.dim() > 1 else v for path, v in part.tensors.items()
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / SAFE)
    write_atomic(out / CONFIG, json.dumps({**about, "name": name, "config": config}, indent=2) + "\n")
    save_file({key: value.contiguous() for key, value in delta.head.items()}, out / HEAD_SAFE)
    labels = {label: i for i, label in enumerate(delta.task.labels)}
    named = {**about, "name": None, "config": None, "label2id": labels}
    write_atomic(out / HEAD_CONFIG, json.dumps(named, indent=2, ensure_ascii=False) + "\n")
    return out


def _name(body: str, path: str, name: str) -> str:
    """`into.3/down` as AdapterHub has it."""
    table, _, place = path.partition(".")
    index, _, site = place.partition("/")
    (layer, what) = next(key for key, value in TABLES.items() if value == table)
    if body == "distilbert":
        where = f"distilbert.transformer.layer.{index}.{'attention' if site == 'out' else 'output'}_adapters"
    else:
        where = f"{body}.encoder.layer.{index}.{'attention.output' if site == 'out' else 'output'}"
    return f"{where}.adapters.{name}.{layer}.{what}"
