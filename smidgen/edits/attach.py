"""Make a graft a part of the model: small tensors that act beside its modules, such as an adapter's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

NAME = "graft_"  # and a number, of the module below the body


@dataclass(frozen=True)
class Attach:
    """graft: a kind of `smidgen.grafts`. settings: its settings, as pairs of name and value."""

    graft: str
    settings: tuple[tuple[str, Any], ...]

    plain: ClassVar[bool] = False

    def apply_to(self, model: PreTrainedModel) -> None:
        from smidgen.grafts import build

        graft = build(model, self.graft, dict(self.settings))
        model.base_model.add_module(f"{NAME}{len(attached(model.base_model))}", graft)
        graft.attach(model)
        graft.tell(model.config)


def attached(body: nn.Module) -> list[nn.Module]:
    """The grafts that are parts of a body, in order."""
    return [child for name, child in body.named_children() if name.startswith(NAME)]
