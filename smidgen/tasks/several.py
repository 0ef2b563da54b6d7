"""Classification of several tasks at once: one body and a head a task (Liu et al. 2019, arXiv:1911.03588).

The labels of all tasks stand side by side as `task/label`, those of one task together, so that one linear layer over
all of them is a head a task. A row of data is of one task and has its label only; a model answers every task for every
text. Texts and pairs of texts may be mixed: where the second text is empty there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from smidgen.encoded import Encoded, join
from smidgen.errors import InputError
from smidgen.tasks.classify import NO_LABEL, Classify, check_metric

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

SEPARATOR = "/"  # between a task and a label
MARK = "smidgen_tasks"  # in a model's config: the names of its tasks, in the order of their labels
Row = str | tuple[str, str]


@dataclass(frozen=True)
class Several:
    """The labels of all tasks, and all that follows from them.

    Everywhere `outputs` are logits (n, C) over the labels of all T tasks; `gold` is (n,) int64, an index among them, so
    that a row's task follows from its label.

    Raises InputError for labels that are not `task/label`, or do not stand together, or leave a task no choice.
    """

    labels: tuple[str, ...]  # their order is the order of the ids in the model's config
    metric: str = "accuracy"  # the mean over tasks of the accuracy of each

    name: ClassVar[str] = "several"
    hf_class: ClassVar[str] = "AutoModelForSequenceClassification"
    per_token: ClassVar[bool] = False
    multi_label: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "metric", check_metric(self.metric or "accuracy", self.METRICS))
        for label in self.labels:
            task, _, name = label.partition(SEPARATOR)
            if not task or not name or SEPARATOR in name:
                raise InputError(f"labels of several tasks are written task{SEPARATOR}label, got {label!r}")
        if len(self.parts) < len(list(groupby(self.labels, task_of))):
            raise InputError(f"the labels of a task must stand together, got {list(self.labels)}")

    @cached_property
    def parts(self) -> dict[str, Classify]:
        """Each task by its name, as if it were alone; in the order of the labels."""
        found: dict[str, list[str]] = {}
        for label in self.labels:
            found.setdefault(task_of(label), []).append(label.partition(SEPARATOR)[2])
        return {task: Classify(tuple(names)) for task, names in found.items()}

    @cached_property
    def segments(self) -> tuple[slice, ...]:
        """Where the labels of each task stand."""
        ends = np.cumsum([len(part.labels) for part in self.parts.values()]).tolist()
        return tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))

    @cached_property
    def owners(self) -> np.ndarray:
        """(C,) int64: the number of the task that each label is of."""
        return np.repeat(np.arange(len(self.parts)), [len(part.labels) for part in self.parts.values()])

    @cached_property
    def _union(self) -> Classify:
        """All labels as if they excluded each other: right for what only passes rows and labels on."""
        return Classify(self.labels)

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "labels": list(self.labels), "metric": self.metric}

    def config(self) -> dict[str, Any]:
        """What a Hugging Face config says about the labels, and the mark that they are of several tasks."""
        return self._union.config() | {MARK: list(self.parts)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Several:
        """The tasks of a config.json."""
        return cls(Classify.from_config(config).labels)

    # Texts to rows of tokens.

    def encode(
        self, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """One row a text, or a pair where its second text is not empty; the longer part of a pair is cut first."""
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        rows: Sequence[Any] = texts if pairs is None else mixed(zip(texts, pairs, strict=True))
        return join(tokenizer.encode_batch_fast(list(rows)))

    def targets(self, encoded: Encoded, texts: Sequence[str], gold: np.ndarray | None) -> np.ndarray:
        """`gold`, a row each."""
        return self._union.targets(encoded, texts, gold)

    def no_labels(self, count: int) -> np.ndarray:
        """The marks of so many texts of which nothing is known, not even the task: NO_LABEL (n,)."""
        return self._union.no_labels(count)

    def gather(
        self, encoded: Encoded, values: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """Logits of rows to `outputs`: they are the same."""
        return values

    def counted(self, gold: np.ndarray) -> dict[str, int]:
        """How many rows have each label."""
        return self._union.counted(gold)

    # Outputs to decisions.

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """(n, T) int64: of each task its likeliest label, as an index among all labels."""
        best = [outputs[:, at].argmax(-1) + at.start for at in self.segments]
        return np.stack(best, -1).astype(np.int64)

    def confidence(self, outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """(n,) float64: the probability of what is decided for the task that is the least sure."""
        each = zip(self.parts.values(), self.segments, strict=True)
        return np.min([part.confidence(outputs[:, at], temperature) for part, at in each], axis=0)

    def correct(self, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
        """(n,) bool: whether the answer to the row's own task is the gold one."""
        return self.decide(outputs)[np.arange(len(gold)), self.owners[gold]] == gold

    def score(self, outputs: np.ndarray, gold: np.ndarray) -> float:
        """The metric, 0 to 1; see `resampled`."""
        return float(self.resampled(outputs, gold, np.arange(len(gold))[None])[0])

    def each(self, outputs: np.ndarray, gold: np.ndarray) -> dict[str, float]:
        """The accuracy of each task that has rows, by name."""
        right, owner = self.correct(outputs, gold), self.owners[gold]
        return {name: float(right[owner == t].mean()) for t, name in enumerate(self.parts) if (owner == t).any()}

    def resampled(self, outputs: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(R,) float64: the mean over tasks of their accuracies on each of R choices of rows, `index` (R, m).

        Every task counts the same, however many rows it has; one without a row in a choice is left out of its mean.
        """
        if outputs.shape != (len(gold), len(self.labels)) or not index.shape[-1]:
            raise InputError(
                f"got logits {outputs.shape} for {len(gold)} gold rows, wanted one row for each, at least one, "
                f"and {len(self.labels)} columns, one for each label"
            )
        right = self.correct(outputs, gold)
        own = [self.owners[gold] == t for t in range(len(self.parts))]
        counts = np.stack([rows[index].sum(-1) for rows in own])
        hits = np.stack([(rows & right)[index].sum(-1) for rows in own])
        return (hits / np.maximum(counts, 1)).sum(0) / (counts > 0).sum(0)

    def answers(self, outputs: np.ndarray, top_k: int | Literal["unset"] | None = "unset") -> list[dict[str, Any]]:
        """By name of the task what a classifier of it alone would answer, a dict for each text.

        By default `{"label", "score"}` of the task's likeliest label; with `top_k` a list of that many, the likeliest
        first; with None a list of all. Scores of one task sum to 1.
        """
        each = [
            part.answers(outputs[:, at], top_k) for part, at in zip(self.parts.values(), self.segments, strict=True)
        ]
        return [dict(zip(self.parts, row, strict=True)) for row in zip(*each, strict=True)]

    # For training.

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) float32: the cross entropy among the labels of the row's own task.

        A row without a label (NO_LABEL) gives 0 and no gradient; nor does any row to the labels of other tasks. Where
        rows have a label of each task, (B, T), it is the sum over tasks.
        """
        import torch
        from torch.nn import functional as F

        if labels.dim() == 2:
            return torch.stack([self.loss(logits, own) for own in labels.unbind(1)]).sum(0)
        owners = torch.as_tensor(self.owners, device=logits.device)
        others = owners != owners[labels.clamp(min=0)][:, None]
        inside = logits.float().masked_fill(others, -torch.inf)
        return F.cross_entropy(inside, labels, reduction="none", ignore_index=NO_LABEL)


def task_of(label: str) -> str:
    """The task of a label that is written `task/label`."""
    return label.partition(SEPARATOR)[0]


def mixed(rows: Iterable[Row]) -> list[Row]:
    """Rows as the tokenizer takes them: a pair whose second text is empty is a single text."""
    return [row if isinstance(row, str) or row[1].strip() else row[0] for row in rows]
