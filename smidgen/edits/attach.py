"""Make a graft a part of the model: small tensors that act beside its modules, such as an adapter's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
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
        body = model.base_model
        count = sum(name.startswith(NAME) for name, _ in body.named_children())
        body.add_module(f"{NAME}{count}", graft)
        graft.attach(model)
        graft.tell(model.config)
