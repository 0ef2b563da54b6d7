"""Put a new head in the place of a classifier's own: one Linear on what the body gives, pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOLS = ("first", "mean", "mix", "last_four")


@dataclass(frozen=True)
class Head:
    """pool: what the head reads, see `smidgen.pooling`. The model's own pooler and head go."""

    pool: str

    plain: ClassVar[bool] = False
    above: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise InputError(
                f"Head got pool={self.pool!r}, wanted one of {', '.join(POOLS)}.{did_you_mean(self.pool, POOLS)}"
            )

    def apply_to(self, model: PreTrainedModel) -> None:
        from torch import nn

        from smidgen.pooling import Headed, Mix, headed
        from smidgen.source import takes_types

        changed: Any = model
        own: Any = type(model)
        parts, name = anatomy(model), own.__name__
        if isinstance(model, Headed):
            raise ModelError("Head: this model's head has been put there by a Head already. Start from its base.")
        if not name.endswith("ForSequenceClassification"):
            raise ModelError(f"Head is for models that classify texts, got {name}. Give one of these.")
        if self.pool == "last_four" and len(parts.blocks) < 4:
            raise InputError(f"Head got pool='last_four' for a model of {len(parts.blocks)} blocks. Take mix or mean.")
        kind = headed(own, takes_types(model))
        for child, module in list(model.named_children()):
            if module is not parts.body:
                delattr(model, child)
        if getattr(parts.body, "pooler", None) is not None:
            changed.base_model.pooler = None
        like, layers = next(parts.body.parameters()), len(parts.blocks) + 1
        width = parts.hidden_size * (4 if self.pool == "last_four" else 1)
        if self.pool == "mix":
            changed.mix = Mix(layers).to(like.device, like.dtype)
        changed.classifier = nn.Linear(width, changed.config.num_labels, device=like.device, dtype=like.dtype)
        changed.__class__, changed.pool = kind, self.pool
