"""Learnt vectors among those of the tokens, behind the first one (Lester et al. 2021, arXiv:2104.08691).

What the body reads is x0, p1 ... pP, x1 ... with positions and mask to match; what it gives is of the tokens alone, so
that whatever stands above it finds its L places. A text holds P tokens less. With several tasks in a batch each row has
as many vectors as its own task, then its tokens, and its padding last: distances are those it has alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, ModelError
from smidgen.grafts._parts import Graft


class Prompt(Graft):
    """`vectors`: (length, size of a word's vector), at the start those of words drawn; `real`: (length,), 0 = none."""

    real: Tensor

    defaults = {"length": 20}
    sizes = ("length",)

    def grow(self, model: PreTrainedModel) -> None:
        if any(isinstance(module, Prompt) for module in model.modules()):
            raise ModelError("prompt: this model has one already. Tune the model that it was made from.")
        table: Any = model.get_input_embeddings()
        length, words = self.settings["length"], table.weight.detach()
        self.limit = places(model)
        if not length < self.limit:
            raise InputError(f"prompt: got length {length}, but the model reads {self.limit} tokens. Write a smaller.")
        drawn = torch.empty_like(words[:1]).expand(length, -1)
        if not words.is_meta:
            drawn = words[torch.randint(len(words), (length,)).to(words.device)]
        self.vectors = nn.Parameter(drawn.clone())
        self.register_buffer("real", torch.ones(length, device=words.device, dtype=words.dtype))
        self.padding = getattr(table, "padding_idx", None) or 0

    def tell(self, config: Any) -> None:
        config.max_position_embeddings -= self.settings["length"]

    def attach(self, model: PreTrainedModel) -> None:
        self.hook(model.base_model, before=self.insert, after=self.remove)
        self.hook(model.get_input_embeddings(), after=self.fill)

    def insert(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """What the body gets, with places for the vectors behind the first token."""
        given = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if ids is None or given.get("position_ids") is not None or (mask is not None and mask.dim() != 2):
            raise InputError("prompt: got embeddings, positions or a mask of pairs, wanted input_ids and (B, L) masks.")
        (batch, length), more = ids.shape, self.vectors.shape[-2]
        if not torch.compiler.is_exporting() and length + more > self.limit:
            raise InputError(
                f"prompt: got a text of {length} tokens; beside the prompt's {more} the model reads "
                f"{self.limit - more}. Write max_length: {self.limit - more}, or a shorter prompt."
            )
        real = (self.pick(self.real) > 0).expand(batch, -1)
        count = real.sum(1, keepdim=True)
        place = torch.arange(length + more, device=ids.device)
        behind = torch.where(place < count + length, place - count, place)
        order = torch.where(place == 0, 0, torch.where(place <= count, place + length - 1, behind))
        self.__dict__["count"] = count

        def among(values: Tensor, ours: Tensor) -> Tensor:  # the first, as many of ours as there are, the rest
            return torch.cat((values, ours.to(values.dtype)), 1).gather(1, order)

        first = ids[:, :1].expand(-1, more)  # no padding: RoBERTa and MPNet count positions by that
        given["input_ids"] = among(ids, torch.where(real, first, self.padding))
        given["attention_mask"] = among(torch.ones_like(ids) if mask is None else mask, real)
        if given.get("token_type_ids") is not None:
            given["token_type_ids"] = among(given["token_type_ids"], given["token_type_ids"][:, :1].expand(-1, more))
        return (), given

    def fill(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """The words' vectors (B, P + L, size) with ours in their places."""
        if "count" not in self.__dict__:
            return output
        vectors, width = self.pick(self.vectors).to(output.dtype), output.shape[1]
        place = torch.arange(width, device=output.device)
        inside = (place > 0) & (place <= self.__dict__["count"])
        return torch.where(inside[..., None], F.pad(vectors, (0, 0, 1, width - 1 - vectors.shape[1])), output)

    def remove(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What the body gives, of the tokens alone."""
        count, more = self.__dict__.pop("count"), self.vectors.shape[-2]

        def own(values: Tensor) -> Tensor:
            place = torch.arange(values.shape[1] - more, device=values.device)
            order = torch.where(place > 0, place + count, 0)
            return values.gather(1, order[..., None].expand(-1, -1, values.shape[-1]))

        if isinstance(output, tuple):
            return (own(output[0]), *output[1:])
        output.last_hidden_state = own(output.last_hidden_state)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(own(values) for values in output.hidden_states)
        return output


def places(model: PreTrainedModel) -> int:
    """The most tokens that a model reads; where padding has a position of its own, they are counted from behind it."""
    table = getattr(anatomy(model).embeddings, "position_embeddings", None)
    if table is None:
        return int(model.config.max_position_embeddings)
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
