"""Keep some tokens of the vocabulary, drop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.anatomy import anatomy
from smidgen.edits._parts import rising
from smidgen.errors import InputError, ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepVocab:
    """tokens: ids from 0, strictly rising; `tokens[i]` is token i afterwards.

    The table of the embeddings is cut, and what gives logits over the vocabulary. The tokenizer is not part of a model:
    cut it in the same way.
    """

    tokens: tuple[int, ...]

    plain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tokens or not rising(self.tokens):
            raise InputError(
                f"KeepVocab got tokens={str(self.tokens)[:60]}, wanted a tuple of one or more ids counted from 0, each "
                "larger than the one before, such as (0, 1, 2, 7)."
            )

    def apply_to(self, model: PreTrainedModel) -> None:
        parts = anatomy(model)
        table: Any = model.get_input_embeddings()
        if "weight" not in table._parameters:
            raise ModelError(f"KeepVocab cannot cut a table that is a {type(table).__name__}. Cut first, factor after.")
        if self.tokens[-1] >= table.num_embeddings:
            raise InputError(
                f"KeepVocab got token {self.tokens[-1]}, but this model has {table.num_embeddings} tokens: use ids "
                f"from 0 to {table.num_embeddings - 1}."
            )
        new = {token: i for i, token in enumerate(self.tokens)}
        configs = {id(config): config for config in (model.config, parts.body.config)}.values()
        for config in configs:
            _refuse(config, new, table.num_embeddings)
        if (first := fixed(model)) > 0 and self.tokens[:first] != tuple(range(first)):
            raise ModelError(
                f"KeepVocab drops a token before {first - 1}, the padding token. {parts.family} counts positions from "
                f"its id, so it must stay where it is: keep tokens 0 to {first - 1}."
            )
        heads = [] if model.get_output_embeddings() is None else _outside(model, parts.body)
        _cut([(table, "weight"), *heads], self.tokens, table.num_embeddings)
        if table.padding_idx is not None:
            table.padding_idx = new[table.padding_idx]
        for config in configs:
            _describe(config, new)


def fixed(model: PreTrainedModel) -> int:
    """How many tokens from 0 on must stay: those up to padding, where positions are counted from its id; else 0."""
    positions = getattr(anatomy(model).embeddings, "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def special_ids(config: Any) -> dict[str, int]:
    """The tokens that a config names: `pad_token_id` and the like."""
    named = config.to_dict().items()
    return {name: value for name, value in named if name.endswith("_token_id") and isinstance(value, int)}


def _outside(model: PreTrainedModel, body: nn.Module) -> list[tuple[nn.Module, str]]:
    """The parameters of a model's head, each by every module that holds it."""
    inside = set(body.modules())
    return [(module, name) for module in model.modules() if module not in inside for name in module._parameters]


def _cut(places: Sequence[tuple[nn.Module, str]], tokens: tuple[int, ...], rows: int) -> None:
    """Keep these tokens along every axis that has one place a token; what was tied stays so."""
    import torch

    index, made = torch.tensor(tokens), {}
    for module, name in places:
        old = module._parameters[name]
        if old is None or rows not in old.shape:
            continue
        if id(old) not in made:
            values = old.detach()
            for axis in (axis for axis, size in enumerate(old.shape) if size == rows):
                values = values.index_select(axis, index.to(old.device))
            made[id(old)] = (torch.nn.Parameter(values, requires_grad=old.requires_grad), old)
        module._parameters[name] = made[id(old)][0]
        for size in ("num_embeddings", "in_features", "out_features"):
            if getattr(module, size, None) == rows:
                setattr(module, size, len(tokens))


def _refuse(config: Any, new: Mapping[int, int], rows: int) -> None:
    for name, token in special_ids(config).items():
        if token < rows and token not in new:
            raise InputError(f"KeepVocab drops token {token}, which is {name} in config.json: keep it.")


def _describe(config: Any, new: Mapping[int, int]) -> None:
    """Make a Hugging Face config say how many tokens are left, and where the special ones are."""
    for name, token in special_ids(config).items():
        setattr(config, name, new.get(token, token))
    config.vocab_size = len(new)
