"""A recipe as data: YAML text to frozen dataclasses and back.

A recipe says which model, which data and which stages, and nothing about how they run. A method is named by its path
under `smidgen/methods` (`prune.layers`) and its settings stay plain values here; `smidgen.planner` looks them up and
checks them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from smidgen.errors import MissingExtra, RecipeError, did_you_mean

SCHEMA = 1


@dataclass(frozen=True)
class Use:
    """One method of a stage: its name and its settings as written."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How a stage trains. Lengths of time are in epochs; a step holds about `batch_size` examples."""

    epochs: float = 3.0
    learning_rate: float = 5e-5
    batch_size: int = 32  # the mean; a step is filled up to batch_size * the mean length in tokens
    warmup: float = 0.1  # share of all steps
    schedule: str = "linear"  # linear | cosine | constant, after the warm-up
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm; 0 = no clipping
    precision: str = "auto"  # auto | float32 | bfloat16 | float16; auto = bfloat16 where the processor has it
    evaluations: int = 1  # on dev, per epoch; the best weights are kept
    patience: int = 0  # evaluations without a better score before stopping; 0 = never
    cache: str = "auto"  # auto | float32 | off: what frozen blocks give, computed once; auto keeps it in 16 bits
    micro_tokens: int = 16384  # most padded tokens in one forward pass; larger steps are cut and accumulated

    def __post_init__(self) -> None:
        for each in fields(self):  # 8 epochs and 8.0 are one training, and have one id
            value = getattr(self, each.name)
            if each.type == "float" and type(value) is int:
                object.__setattr__(self, each.name, float(value))


@dataclass(frozen=True)
class Files:
    """Where the data is and which columns to read; None = found by the usual names."""

    train: str
    dev: str | None = None
    test: str | None = None
    unlabeled: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    task_column: str | None = None
    multi_label: bool | None = None
    metric: str | None = None
    max_length: int | None = None  # tokens; None = the least multiple of 8 that cuts at most 1 % of train


@dataclass(frozen=True)
class Stage:
    """From one artefact folder to the next."""

    name: str
    methods: tuple[Use, ...]
    source: str | None = None  # an earlier stage's name or a model; None = the stage before
    teacher: str | tuple[str, ...] | None = None  # an earlier stage's name or a model; several are averaged
    data: str = "train"  # train, unlabeled, earlier data steps by name; several with + between
    train: Training = Training()
    seed: int | None = None  # None = the recipe's

    @property
    def teachers(self) -> tuple[str, ...]:
        """All of them; none for a stage that learns from labels alone."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher or ()


@dataclass(frozen=True)
class Recipe:
    """The whole of it."""

    model: str
    data: Files
    stages: tuple[Stage, ...]
    task: str = "classify"
    seed: int = 0
    name: str = "recipe"


def load(text: str, where: str = "recipe") -> Recipe:
    """Read a recipe from YAML text.

    Raises:
        RecipeError: with every fault of the text at once.
    """
    recipe, faults = read(text, where)
    if faults or recipe is None:
        raise RecipeError(faults, where)
    return recipe


def read(text: str, where: str = "recipe") -> tuple[Recipe | None, list[str]]:
    """What can be read of a recipe's text, and its faults; None where no recipe can be made of it.

    Raises:
        RecipeError: the text is not YAML.
    """
    faults: list[str] = []
    data = _yaml_load(text, where)
    recipe = build(Recipe, data, "", faults) if isinstance(data, dict) else None
    if data is None:
        faults.append("it is empty. A recipe has a model, data and stages; see 'smidgen run --help'.")
    elif recipe is None and not faults:
        faults.append(f"a recipe is a mapping of keys to values, got {type(data).__name__}; see 'smidgen run --help'.")
    return recipe, faults


def value(text: str, where: str) -> Any:
    """One setting as it would be written in a recipe: a number, true, a list ... or a text.

    Raises:
        RecipeError: the text is not YAML.
    """
    return _yaml_load(text, where)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML text; `load(dump(r)) == r`."""
    import yaml

    return str(yaml.safe_dump({"schema": SCHEMA, **to_data(recipe)}, sort_keys=False, width=110))


def to_data(value: Any) -> Any:
    """Dataclasses to plain data, without what is at its default; methods in their short form."""
    if isinstance(value, Use):
        return {value.method: dict(value.settings)} if value.settings else value.method
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value) if not _at_default(value, f)}
        return {_KEYS.get(name, name): to_data(item) for name, item in named.items()}
    if isinstance(value, tuple):
        return [to_data(item) for item in value]
    return value


def packaged() -> dict[str, Path]:
    """The recipes that come with smidgen, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


# Text to dataclasses: names and types are checked against the annotations, and every fault is kept.

_KEYS = {"source": "from"}  # a Python keyword cannot be a field


def build(cls: type, data: Mapping[str, Any], where: str, faults: list[str]) -> Any | None:
    """An instance of the dataclass `cls` from a mapping; None if that is impossible. Faults are added to `faults`."""
    hints = typing.get_type_hints(cls)
    known = {_KEYS.get(f.name, f.name): f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "schema" and cls is Recipe:
            if value != SCHEMA:
                faults.append(f"schema: got {value!r}, this smidgen reads schema {SCHEMA}.")
        elif key not in known:
            faults.append(f"{where}{key}: no such key.{did_you_mean(str(key), known)} Known here: {', '.join(known)}.")
        else:
            values[known[key].name] = _convert(hints[known[key].name], value, f"{where}{key}", faults)
    missing = [key for key, f in known.items() if _required(f) and f.name not in values]
    if cls is Stage and "name" in missing and "methods" in values:
        uses = values["methods"]
        values["name"] = _BAD if uses is _BAD else "+".join(use.method for use in uses)
        missing.remove("name")
    faults.extend(f"{where}{key}: missing; write '{key}: ...'." for key in missing)
    return None if missing or any(value is _BAD for value in values.values()) else cls(**values)


_BAD = object()


def _convert(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _either([arg for arg in args if arg is not type(None)], value, where, faults)
    if hint == tuple[Use, ...]:
        return _uses(value, where, faults)
    if origin is tuple and isinstance(value, list | tuple) and (args[-1] is ... or len(value) == len(args)):
        parts = [_convert(args[0], part, f"{where}[{i}]", faults) for i, part in enumerate(value)]
        return _BAD if any(part is _BAD for part in parts) else tuple(parts)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            built = build(typing.cast(type, hint), value, f"{where}.", faults)
            return _BAD if built is None else built
        faults.append(f"{where}: wanted a mapping of keys to values, got {value!r}.")
        return _BAD
    return _scalar(hint, value, where, faults)


def _either(hints: list[Any], value: Any, where: str, faults: list[str]) -> Any:
    """The first of several types that fits; if none does, what is wrong in a list, or one fault that names them."""
    tried: list[str] = []
    for hint in hints:
        tried.clear()
        found = _convert(hint, value, where, tried)
        if not tried:
            return found
    in_list = len(hints) == 1 or isinstance(value, list | tuple)
    told = [hint for hint in hints if hint is not int or float not in hints]
    faults.extend(tried if in_list else [f"{where}: wanted {' or '.join(map(_spelt, told))}, got {value!r}."])
    return _BAD


def _scalar(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 5e-5 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    allowed = hint if isinstance(hint, type) else tuple
    if isinstance(value, allowed) and not (isinstance(value, bool) and hint in (int, float)):
        return value
    faults.append(f"{where}: wanted {_spelt(hint)}, got {value!r}.")
    return _BAD


def _spelt(hint: Any) -> str:
    """A type in words, a list as it is written."""
    args = typing.get_args(hint)
    if args:
        return f"[{', '.join('...' if arg is ... else _spelt(arg) for arg in args)}]"
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(hint, "a mapping of keys to values")


def _uses(value: Any, where: str, faults: list[str]) -> Any:
    """Methods are a mapping `{name: settings}`, or a list of names and one-entry mappings."""
    items = list(value.items()) if isinstance(value, Mapping) else None
    if isinstance(value, list | tuple):
        items = [next(iter(v.items())) if isinstance(v, Mapping) and len(v) == 1 else (v, {}) for v in value]
    if not items or not all(isinstance(name, str) for name, _ in items):
        faults.append(f"{where}: wanted methods by name, such as {{tune.full: {{}}}}, got {value!r}.")
        return _BAD
    bad = [name for name, settings in items if not isinstance(settings, Mapping | None)]
    faults.extend(f"{where}.{name}: wanted a mapping of settings." for name in bad)
    return _BAD if bad else tuple(Use(name, dict(settings or {})) for name, settings in items)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _at_default(value: Any, f: dataclasses.Field[Any]) -> bool:
    return not _required(f) and getattr(value, f.name) == f.default


def _yaml_load(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("recipes need PyYAML. Install it with: pip install 'smidgen[train]'") from error

    class Loader(yaml.SafeLoader):
        pass

    def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            loader.flatten_mapping(node)  # what is merged comes first, and a key of its own replaces it
            return loader.construct_mapping(node, deep=True)
        keys = [loader.construct_object(key) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} comes twice", mark)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError([f"{line}this is not YAML: {problem}."], where) from error
