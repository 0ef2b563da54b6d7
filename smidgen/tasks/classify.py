"""Text classification: of single texts and of pairs, with one label a text or with several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from smidgen.encoded import Encoded, join
from smidgen.errors import InputError, ModelError, did_you_mean

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

NO_LABEL = -100  # marks a row without a label
METRICS = ("accuracy", "f1")


@dataclass(frozen=True)
class Classify:
    """The classes of a classifier, and all that follows from them.

    Everywhere `outputs` are logits (n, C); `gold` is (n,) int64 class ids, or (n, C) of 0 and 1 when `multi_label`.

    Raises InputError for repeated, empty or too few labels, and for an unknown metric.
    """

    labels: tuple[str, ...]  # their order is the order of the ids in the model's config
    multi_label: bool = False
    metric: str = ""  # one of METRICS; "" stands for accuracy, or for f1 when multi_label

    name: ClassVar[str] = "classify"
    hf_class: ClassVar[str] = "AutoModelForSequenceClassification"
    per_token: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = METRICS

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "metric", self.metric or ("f1" if self.multi_label else "accuracy"))
        check_metric(self.metric)
        wanted = 1 if self.multi_label else 2
        if len(self.labels) < wanted:
            raise InputError(f"a classifier needs at least {wanted} labels, got {list(self.labels)}")
        if len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise InputError(f"labels must be different and not empty, got {list(self.labels)}")

    def to_data(self) -> dict[str, Any]:
        names = {"name": self.name, "labels": list(self.labels)}
        return names | {"multi_label": self.multi_label, "metric": self.metric}

    def config(self) -> dict[str, Any]:
        """What a Hugging Face config says about the classes."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": ("multi" if self.multi_label else "single") + "_label_classification",
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Classify:
        """The task of a config.json; ModelError where it is not the config of a classifier.

        A config without `id2label` has the two classes that transformers gives it, LABEL_0 and LABEL_1.
        """
        count = int(config.get("num_labels") or 2)
        given = config.get("id2label") or {i: f"LABEL_{i}" for i in range(count)}
        names = {int(i): str(label) for i, label in given.items()}
        if sorted(names) != list(range(len(names))):
            raise ModelError(f"id2label of the config has ids {sorted(names)}, wanted 0 to {len(names) - 1}")
        problem = config.get("problem_type")
        multi_label = problem == "multi_label_classification"
        if problem == "regression" or (len(names) == 1 and not multi_label):
            raise ModelError(
                f"the config has problem_type {problem!r} and {len(names)} output(s), so it predicts a number; "
                "wanted a classifier. Give a model with an output for each class."
            )
        return cls(tuple(names[i] for i in range(len(names))), multi_label)

    def encode(
        self, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """One row a text or pair; the longer part of a pair is cut first, as transformers does."""
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        inputs: Sequence[Any] = list(zip(texts, pairs, strict=True)) if pairs is not None else list(texts)
        return join(tokenizer.encode_batch_fast(inputs))

    def targets(self, encoded: Encoded, texts: Sequence[str], gold: np.ndarray | None) -> np.ndarray:
        """`gold`, a row each."""
        return self.no_labels(len(encoded)) if gold is None else gold

    def no_labels(self, count: int) -> np.ndarray:
        """The marks of so many texts without a label: NO_LABEL (n,), or NaN (n, C) when `multi_label`."""
        unknown = np.full((count, len(self.labels)), np.nan, np.float32)
        return unknown if self.multi_label else np.full(count, NO_LABEL)

    def gather(
        self, encoded: Encoded, values: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """Logits of rows to `outputs`: they are the same."""
        return values

    def counted(self, gold: np.ndarray) -> dict[str, int]:
        """How many texts have each class."""
        counts = gold.sum(0) if self.multi_label else np.bincount(gold, minlength=len(self.labels))
        return {label: int(count) for label, count in zip(self.labels, counts, strict=True)}

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Class ids (n,) int64, or (n, C) int8 of 0 and 1 when `multi_label`."""
        return (logits > 0).astype(np.int8) if self.multi_label else logits.argmax(-1).astype(np.int64)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(n, C) float32: a softmax over the classes, or a sigmoid for each when `multi_label`."""
        if not self.multi_label:
            return softmax(logits)
        wide = logits.astype(np.float64)
        small = np.exp(-np.abs(wide))
        return (np.where(wide >= 0, 1, small) / (1 + small)).astype(np.float32)

    def confidence(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """(n,) float64: the probability of what is decided, of its least sure label when `multi_label`."""
        wide = logits.astype(np.float64) / temperature
        if self.multi_label:
            return np.asarray((1 / (1 + np.exp(-np.abs(wide)))).min(-1))
        return np.asarray(1 / np.exp(wide - wide.max(-1, keepdims=True)).sum(-1))

    def correct(self, logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
        """(n,) bool: whether the decision is the gold one; with several labels, whether all of them are."""
        same = self.decide(logits) == gold
        return same.all(-1) if self.multi_label else same

    def score(self, logits: np.ndarray, gold: np.ndarray) -> float:
        """The metric, 0 to 1; see `resampled`."""
        return float(self.resampled(logits, gold, np.arange(len(gold))[None])[0])

    def resampled(self, logits: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(R,) float64: the metric on each of R choices of rows, `index` (R, m), as a bootstrap needs it.

        accuracy    share of rows that are wholly right
        f1          macro over the classes that occur in gold or decision of the chosen rows; micro when `multi_label`

        These are scikit-learn's `accuracy_score` and `f1_score`, which leaves absent classes out in the same way.
        """
        if logits.shape != (len(gold), len(self.labels)) or not index.shape[-1]:
            raise InputError(
                f"got logits {logits.shape} for {len(gold)} gold rows, wanted one row for each, at least one, "
                f"and {len(self.labels)} columns, one for each label"
            )
        if self.metric == "accuracy":
            return self.correct(logits, gold)[index].mean(-1)
        decided = self.decide(logits)
        if self.multi_label:
            return _micro_f1(decided > 0, gold > 0.5, index)
        return _macro_f1(decided, gold, index, len(self.labels))

    def answers(self, logits: np.ndarray, top_k: int | Literal["unset"] | None = "unset") -> list[Any]:
        """What `pipeline("text-classification")` of transformers returns, a row for each text.

        By default `{"label", "score"}` of the likeliest class; with `top_k` a list of that many, the likeliest first;
        with None a list of all.
        """
        rows = [self._likeliest(row, 1 if top_k == "unset" else top_k) for row in logits.tolist()]
        return [row[0] for row in rows] if top_k == "unset" else rows

    def _likeliest(self, logits: list[float], count: int | None) -> list[dict[str, Any]]:
        """Of one text. In plain Python: of so few numbers an array costs more than what is worked out."""
        most = 0.0 if self.multi_label else max(logits)
        grown = [math.exp(min(z - most, 700.0)) for z in logits]
        whole = sum(grown)
        chances = [g / (1 + g) if self.multi_label else g / whole for g in grown]
        order = sorted(range(len(chances)), key=chances.__getitem__, reverse=True)
        return [{"label": self.labels[i], "score": chances[i]} for i in order[:count]]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) float32, one loss an example: cross entropy, or the mean of C binary ones when `multi_label`.

        A row without a label (NO_LABEL, or NaN) gives 0 and no gradient in the first case; in the second its number
        means nothing.
        """
        from torch.nn import functional as F

        if self.multi_label:
            known = labels.float().nan_to_num()
            return F.binary_cross_entropy_with_logits(logits.float(), known, reduction="none").mean(-1)
        return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=NO_LABEL)


def check_metric(metric: str, known: Sequence[str] = METRICS) -> str:
    """The metric itself; InputError where a task does not know it."""
    if metric not in known:
        raise InputError(f"unknown metric {metric!r}, wanted one of {', '.join(known)}.{did_you_mean(metric, known)}")
    return metric


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float32."""
    wide = logits.astype(np.float64)
    grown = np.exp(wide - wide.max(-1, keepdims=True))
    return (grown / grown.sum(-1, keepdims=True)).astype(np.float32)


def _macro_f1(decided: np.ndarray, gold: np.ndarray, index: np.ndarray, classes: int) -> np.ndarray:
    """(R,): 2 hits / (decided + gold) for each class, a mean over the classes that occur."""
    rounds = len(index)
    bins = np.arange(rounds)[:, None] * (classes + 1)

    def counts(ids: np.ndarray) -> np.ndarray:
        flat = np.bincount((ids[index] + bins).ravel(), minlength=rounds * (classes + 1))
        return flat.reshape(rounds, classes + 1)[:, :classes]

    hits = counts(np.where(decided == gold, gold, classes))  # a miss falls into the bin that is cut off
    total = counts(decided) + counts(gold)
    return (2 * hits / np.maximum(total, 1)).sum(-1) / np.maximum((total > 0).sum(-1), 1)


def _micro_f1(decided: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(R,): 2 hits / (decided + gold), counted over all classes together; 0 where nothing is decided or gold."""
    hits = (decided & gold).sum(-1)[index].sum(-1)
    total = (decided.sum(-1) + gold.sum(-1))[index].sum(-1)
    return 2 * hits / np.maximum(total, 1)
