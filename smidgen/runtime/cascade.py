"""Several models of one task, the fastest first: each answers what it is sure of and passes the rest on to the next.

A row is passed on where the probability of the label that is decided on, after temperature scaling, is not above the
threshold of its level. Under a probability that holds what it says that is the rule which, of all that pass on as many
rows, leaves the fewest errors with the first model (Chow 1970, On optimum recognition error and reject tradeoff). A
margin of logits would give the same order for two labels; for more, and over the tasks of `several`, only
probabilities are on one scale, and a threshold on them can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smidgen.artefact import open_artefact
from smidgen.errors import ModelError
from smidgen.runtime.folder import deployed_files, levels_of
from smidgen.runtime.inputs import Row, Text
from smidgen.runtime.levels import Level
from smidgen.runtime.model import Model, classes
from smidgen.runtime.serving import Serving
from smidgen.tasks import Classify, Several, Task


def passes(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool: which rows go on to the next model; all at 1, none at 0, and those of which nothing is known (NaN)."""
    return ~(confidence > threshold)


@dataclass(frozen=True)
class Servings:
    """How each model of a cascade is run, by the name of its folder."""

    each: Mapping[str, Serving]

    def to_data(self) -> dict[str, Any]:
        return {name: one.to_data() for name, one in self.each.items()}

    def __str__(self) -> str:
        return "; ".join(f"{name}: {one}" for name, one in self.each.items())


class Cascade:
    """A cascade that is ready to run, as a `Model` is; safe to call from several threads. See `load`.

    Args:
        models: open, in the order of the levels.

    Raises:
        ModelError: the models do different tasks, have different labels, or a task that is not passed on.
    """

    def __init__(self, folder: Path, levels: Sequence[Level], models: Sequence[Model]) -> None:
        self.folder, self.levels, self.models = folder, tuple(levels), tuple(models)
        self.task = common_task(models)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        threads: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Cascade:
        """The cascade in a folder.

        Raises:
            ArtefactError: a file is missing or changed, by its hash.
            ModelError: the folder is not ours to read, its models do not go together, or a graph does not open.
        """
        root = Path(folder)
        deployed_files(root)
        levels = levels_of(root) or ()
        open_artefact(root, deep=True)
        return cls(root, levels, [Model(root / level.folder, threads, engine, precision) for level in levels])

    @property
    def threads(self) -> int:
        """Of a call with one text, at most."""
        return max(model.threads for model in self.models)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    @property
    def max_length(self) -> int:
        """The most tokens of one input that every model reads."""
        return min(model.max_length for model in self.models)

    @property
    def serving(self) -> Servings:
        return Servings({level.folder: model.serving for level, model in zip(self.levels, self.models, strict=True)})

    def predict(
        self,
        texts: Any,
        pairs: Sequence[str] | None = None,
        top_k: int | Literal["unset"] | None = "unset",
        batch_tokens: int | None = None,
    ) -> Any:
        """As `Model.predict`, of classes."""
        return classes(self.task, texts, top_k, lambda: self.outputs(texts, pairs, batch_tokens))

    def outputs(
        self, texts: Text | Sequence[Text], pairs: Sequence[str] | None = None, batch_tokens: int | None = None
    ) -> np.ndarray:
        """Logits (n, C): of each text those of the model that answered it."""
        return self.answered(self.rows(texts, pairs), batch_tokens)[0]

    def rows(self, texts: Text | Sequence[Text], pairs: Sequence[str] | None = None) -> list[Row]:
        """As `Model.rows`."""
        return self.models[0].rows(texts, pairs)

    def answered(self, rows: Sequence[Row], batch_tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, C) as in `outputs`, and the number of the level that answered, (n,) int64."""
        found = np.array(self.models[0].logits(rows, batch_tokens), np.float32)
        by = np.zeros(len(rows), np.int64)
        left = np.arange(len(rows))
        for i, (level, model) in enumerate(zip(self.levels, self.models[1:], strict=False), 1):
            left = left[passes(self.task.confidence(found[left], level.temperature), level.threshold)]
            if not len(left):
                break
            found[left] = model.logits([rows[row] for row in left], batch_tokens)
            by[left] = i
        return found, by

    def encode(self, texts: Text | Sequence[Text], pairs: Sequence[str] | None = None) -> list[list[int]]:
        """The token ids of each text for the first model, not padded: the tokenizer alone."""
        return self.models[0].encode(texts, pairs)


def common_task(models: Sequence[Model]) -> Classify | Several:
    """The task of all.

    Raises:
        ModelError: they do not go together; the message names the first that does not.
    """
    first = models[0]
    for model in models:
        if not isinstance(model.task, Classify | Several):
            raise ModelError(
                f"{model.folder}: its task is {model.task.name}, wanted classify or several. A cascade passes whole "
                "texts on by how sure a model is of its label; run this model alone."
            )
        if _kind(model.task) != _kind(first.task):
            raise ModelError(
                f"{model.folder}: its task is {_kind(model.task)}, that of {first.folder} is {_kind(first.task)}. The "
                "models of a cascade do one task."
            )
        if model.labels != first.labels:
            raise ModelError(
                f"{model.folder}: has the labels {', '.join(model.labels)}; {first.folder} has "
                f"{', '.join(first.labels)}. The models of a cascade have the same labels in the same order."
            )
    assert isinstance(first.task, Classify | Several)
    return first.task


def _kind(task: Task) -> str:
    return f"{task.name}{' with several labels a text' if isinstance(task, Classify) and task.multi_label else ''}"
