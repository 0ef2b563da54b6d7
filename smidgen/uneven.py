"""Models that a plain Hugging Face config cannot describe, such as one with other heads in each block.

Their folders are Hugging Face folders still, for whoever imports smidgen. config.json has all that a plain one has, of
the model as it is, `smidgen-bert` for `model_type` (smidgen- and the family's own), and

    edits      what plain configs have no word for, and whatever was done after it, in order, as `surgery.to_data`
    skeleton   the entries that these edits changed, as they were before the first of them

The class of such a model is its family's own. It builds the skeleton, replays the edits and takes the weights. A model
changes class with the edit that makes it uneven, and changes back once a plain config can describe it again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from smidgen.anatomy import PREFIX, anatomy, families
from smidgen.edits import Edit
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

AUTO = tuple(
    f"AutoModel{task}"
    for task in (
        *("", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
        *("ForQuestionAnswering", "ForMultipleChoice"),
    )
)
OURS = ("edits", "skeleton")
UNTOLD = {*OURS, "model_type", "architectures", "transformers_version"}  # no edit changes these


class Uneven:
    """What the classes of uneven models have before their family's own."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        from smidgen.surgery import from_data, replay

        super().__init__(plain(config), *args, **kwargs)  # type: ignore[call-arg]
        replay(self, from_data(getattr(config, "edits", ())))  # type: ignore[arg-type]


@functools.cache
def config_class(family: Any) -> type[PreTrainedConfig]:
    """Of the uneven models of a family whose own config is this."""
    names = {"model_type": PREFIX + family.model_type, "__module__": __name__}
    return type(f"Uneven{family.__name__}", (family,), names)


@functools.cache
def model_class(family: Any) -> type[PreTrainedModel]:
    """Of the uneven models that are of this class otherwise."""
    names = {"config_class": config_class(family.config_class), "__module__": __name__}
    return type(f"Uneven{family.__name__}", (Uneven, family), names)


def door(name: str, auto: ModuleType) -> type[PreTrainedConfig]:
    """What leads to the config class of a family, which cannot be loaded while transformers' own tables are."""
    from transformers.configuration_utils import PreTrainedConfig

    def from_dict(cls: type, data: dict[str, Any], **more: Any) -> Any:
        return config_class(auto.CONFIG_MAPPING[name]).from_dict(data, **more)

    names = {"model_type": PREFIX + name, "from_dict": classmethod(from_dict), "__module__": __name__}
    return type("UnevenConfig", (PreTrainedConfig,), names)


def enter_configs(auto: ModuleType) -> None:
    """Tell AutoConfig; `auto` is transformers.models.auto.configuration_auto."""
    for name in families():
        auto.CONFIG_MAPPING.register(PREFIX + name, door(name, auto), exist_ok=True)


def enter_models(auto: ModuleType) -> None:
    """Tell AutoModel and its kin; `auto` is transformers.models.auto.modeling_auto."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for name in families():
        config: Any = CONFIG_MAPPING[name]
        CONFIG_MAPPING.register(PREFIX + name, config_class(config), exist_ok=True)
        for kind in (getattr(auto, name) for name in AUTO):
            mapping = kind._model_mapping
            if not isinstance(mapping._extra_content, Late):
                mapping._extra_content = Late(mapping._extra_content)
            mapping._extra_content[config_class(config)] = functools.partial(_of, mapping, config)


class Late(dict[Any, Any]):
    """What transformers has been told of, some of it made only when it is asked for.

    Its tables of models are loaded by each family's own module, half way: that family's classes are not there yet.
    """

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, functools.partial):
            self[key] = value = value()
        return value

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


def _of(mapping: Mapping[Any, Any], config: Any) -> type[PreTrainedModel]:
    return model_class(mapping[config])


def enter_tokenizers(auto: ModuleType) -> None:
    """Tell AutoTokenizer, for folders that name no class; `auto` is transformers.models.auto.tokenization_auto."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for name in families():
        config: Any = CONFIG_MAPPING[name]
        auto.TOKENIZER_MAPPING.register(config_class(config), auto.TOKENIZER_MAPPING[config], exist_ok=True)


def is_uneven(config: PreTrainedConfig) -> bool:
    return hasattr(config, "skeleton")


def plain(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy, of the skeleton before its edits; of a plain config, the same."""
    found = copy.deepcopy(config)
    if is_uneven(found):
        for name, value in found.skeleton.items():
            setattr(found, name, value)
        _to_plain(found)
    return found


def write_down(model: PreTrainedModel, edit: Edit, before: Mapping[str, Any]) -> None:
    """Record an edit that was applied in the model's config, where a plain config does not say it.

    before: `model.config.to_dict()`, from before the edit.
    """
    config: Any = model.config
    kind: Any = type(model)
    if edit.plain and not is_uneven(config):
        return
    _record(config, edit)
    now = config.to_dict()
    changed = {name: before.get(name) for name in now if name not in UNTOLD and now[name] != before.get(name)}
    config.skeleton = changed | config.skeleton
    if _is_even(model):
        parts = anatomy(model)
        setattr(config, parts.width_key, parts.blocks[0].width)
        _to_plain(config)
        model.__class__ = kind.__mro__[2] if isinstance(model, Uneven) else kind
    elif not isinstance(model, Uneven):
        model.__class__ = model_class(kind)


def read_pruned_heads(config: PreTrainedConfig) -> None:
    """Make a config of transformers 4 uneven, whose `pruned_heads` names the heads that the weights lack by block."""
    gone = vars(config).pop("pruned_heads", None) or {}
    for block, heads in sorted((int(block), heads) for block, heads in gone.items()):
        _record(config, KeepHeads(block, tuple(i for i in range(config.num_attention_heads) if i not in heads)))


def _record(config: Any, edit: Edit) -> None:
    from smidgen.surgery import to_data

    if not is_uneven(config):
        kind: Any = type(config)
        config.edits, config.skeleton, config.__class__ = [], {}, config_class(kind)
    if isinstance(edit, KeepWidth):  # which units these were is in the weights
        edit = replace(edit, units=tuple(range(len(edit.units))))
    elif isinstance(edit, KeepHidden):  # likewise
        edit = replace(edit, dimensions=tuple(range(len(edit.dimensions))))
    config.edits = [*config.edits, *to_data([edit])]


def _to_plain(config: PreTrainedConfig) -> None:
    for name in OURS:
        delattr(config, name)
    config.__class__ = type(config).__mro__[1]


def _is_even(model: PreTrainedModel) -> bool:
    """Whether a plain config could describe a model whose config is uneven."""
    from smidgen.surgery import from_data

    edits: Iterable[Edit] = from_data(model.config.edits)
    if not all(edit.plain or isinstance(edit, (KeepHeads, KeepWidth, KeepHidden)) for edit in edits):
        return False
    parts, whole = anatomy(model), model.config.num_attention_heads
    blocks = parts.blocks
    if any(b.heads * b.head_size != parts.hidden_size for b in blocks):
        return False
    return blocks[0].width > 0 and all((b.heads, b.width) == (whole, blocks[0].width) for b in blocks)
