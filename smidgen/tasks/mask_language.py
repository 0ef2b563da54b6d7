"""Masked language modelling, the pretraining of encoders on raw text: which token stood where [MASK] stands now.

Texts are their own labels. A long one is cut into consecutive rows, so that nothing of it is lost. Which tokens of a
row are masked is drawn anew in each step, see `smidgen.masking`; only of these are logits made, since a vocabulary is
wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from smidgen.encoded import Encoded, objects
from smidgen.errors import InputError
from smidgen.tasks.classify import NO_LABEL, check_metric

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

SLICE = 4096  # texts that are tokenised at once


@dataclass(frozen=True)
class MaskLanguage:
    """Finding masked tokens, and all that follows from it.

    `outputs` is (n,) object, one (masked, 2) array a text: whether each masked token was found, and its loss in nats.
    `gold` says nothing: it is 0 for every text.
    """

    metric: str = "accuracy"  # share of masked tokens that are found; likelihood = 1 / perplexity

    name: ClassVar[str] = "mask_language"
    hf_class: ClassVar[str] = "AutoModelForMaskedLM"
    labels: ClassVar[tuple[str, ...]] = ()  # the vocabulary is the model's own
    per_token: ClassVar[bool] = True
    multi_label: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ("accuracy", "likelihood")

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", check_metric(self.metric or "accuracy", self.METRICS))

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "metric": self.metric}

    def config(self) -> dict[str, Any]:
        """Nothing: the size of the vocabulary is in every config."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MaskLanguage:
        return cls()

    # Texts to rows of tokens.

    def encode(
        self, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """One row for every `max_length` tokens of a text, special ones included; `units` are the tokens that may be
        masked, all but the special ones. Rows without any are left out.

        Raises:
            InputError: no row is left.
        """
        tokenizer.enable_truncation(max_length)
        plain = np.ones(max(tokenizer.get_vocab().values()) + 1, bool)
        plain[special_ids(tokenizer)] = False
        rows: list[tuple[int, np.ndarray, np.ndarray]] = []
        for start in range(0, len(texts), SLICE):
            for i, first in enumerate(tokenizer.encode_batch(list(texts[start : start + SLICE])), start):
                for window in (first, *first.overflowing):
                    ids = np.array(window.ids, np.int32)
                    units = plain[ids] & ~np.array(window.special_tokens_mask, bool)
                    if units.any():
                        rows.append((i, ids, units))
        if not rows:
            shown = " ".join(texts[:3])[:40]
            raise InputError(
                f"none of {len(texts)} texts has a token that could be masked, got {shown!r} and so on; wanted words "
                "that the model's tokenizer knows. Give other texts."
            )
        starts = np.cumsum([0, *(len(ids) for _, ids, _ in rows)])
        ids, units = (np.concatenate([row[part] for row in rows]) for part in (1, 2))
        example = np.array([i for i, _, _ in rows], np.int64)
        return Encoded(ids, np.zeros(len(ids), np.int8), starts, units=units, example=example)

    def targets(self, encoded: Encoded, texts: Sequence[str], gold: np.ndarray | None) -> np.ndarray:
        """(total,) int64: the token itself where it may be masked, NO_LABEL elsewhere."""
        assert encoded.units is not None
        return np.where(encoded.units, encoded.ids, NO_LABEL).astype(np.int64)

    def no_labels(self, count: int) -> np.ndarray:
        """The marks of so many texts, which are their own labels."""
        return np.zeros(count, np.int64)

    def gather(
        self, encoded: Encoded, values: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """What `brief` gives at the `units` of rows, in (total, 2), to `outputs`."""
        assert encoded.units is not None and encoded.example is not None
        example = np.repeat(encoded.example, encoded.lengths)[encoded.units]
        ends = np.cumsum(np.bincount(example, minlength=len(texts)))
        return objects(np.split(values[encoded.units], ends[:-1]))

    def counted(self, gold: np.ndarray) -> dict[str, int]:
        """Nothing: texts are their own labels."""
        return {}

    # Outputs to decisions.

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) object: one tuple a text, whether each of its masked tokens was found."""
        return objects(tuple((found[:, 0] > 0).tolist()) for found in outputs)

    def score(self, outputs: np.ndarray, gold: np.ndarray) -> float:
        """The metric, 0 to 1; see `resampled`."""
        return float(self.resampled(outputs, gold, np.arange(len(gold))[None])[0])

    def resampled(self, outputs: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(R,) float64: the metric on each of R choices of texts, `index` (R, m).

        accuracy     share of the masked tokens of all chosen texts that are found
        likelihood   exp of minus their mean loss, 1 / perplexity
        """
        sums = np.array([(*found.sum(0, dtype=np.float64), len(found)) for found in outputs], np.float64).reshape(-1, 3)
        hits, losses, masked = np.moveaxis(sums[index].sum(1), -1, 0)
        if self.metric == "accuracy":
            return hits / np.maximum(masked, 1)
        return np.exp(-losses / np.maximum(masked, 1))

    # For training.

    def brief(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is kept of logits (N, V) of masked tokens, given which they were: (N, 2), see `outputs`."""
        import torch

        return torch.stack([(logits.argmax(-1) == labels).float(), self.loss(logits, labels)], -1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) float32: cross entropy of logits (N, V); 0 at tokens that are not masked."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=NO_LABEL)


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that stand for no text, such as [CLS], [MASK] and [UNK]."""
    return [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
