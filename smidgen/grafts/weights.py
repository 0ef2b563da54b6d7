"""Other weights in the place of the model's own, kept whole."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.errors import ModelError
from smidgen.grafts._weights import Reweighted


class Weights(Reweighted):
    """`new`: a tensor by the name of the body's parameter, '/' for '.'; `names`: which ones, none = all of them."""

    defaults = {"names": ()}

    def grow(self, model: PreTrainedModel) -> None:
        own = dict(model.base_model.named_parameters())
        names = tuple(self.settings["names"]) or tuple(own)
        if lacking := [name for name in names if name not in own]:
            raise ModelError(
                f"weights: this {model.config.model_type} has no parameter {lacking[0]}. Give their own base."
            )
        copies = {name.replace(".", "/"): own[name].detach().clone() for name in names}
        self.new = nn.ParameterDict({name: nn.Parameter(values) for name, values in copies.items()})

    def places(self, model: PreTrainedModel) -> dict[str, tuple[nn.Module, str]]:
        found = {}
        for name in self.new:
            where, _, key = name.replace("/", ".").rpartition(".")
            found[name] = (model.base_model.get_submodule(where), key)
        return found

    def other(self, name: str, own: Tensor, training: bool = False) -> Tensor:
        return self.new[name]
