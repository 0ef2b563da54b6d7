"""What a candidate is measured against: the model as it runs in torch, and what needs no encoder at all.

Both answer as the runtime does: `predict(texts, pairs)` from text to answer, `outputs(texts, pairs)` for scoring.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.encoded import Encoded, objects
from smidgen.source import load_model, quiet, resolve, takes_types
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, Several, Tag, Task
from smidgen.tasks.several import mixed
from smidgen.tasks.tag import word_spans
from smidgen.tokens import length_limit, open_tokenizer, pad_id


class TorchModel:
    """A Hugging Face folder in torch float32, as most people run it: the stock tokenizer call, then the model."""

    def __init__(self, folder: Path, task: Task) -> None:
        from transformers import AutoTokenizer

        quiet()
        self.folder, self.task = folder, task
        self.model = load_model(resolve(str(folder)), task, 0)
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.own_tokenizer = open_tokenizer(folder)
        self.limit = length_limit(folder)
        self.pad = pad_id(folder)
        self.inputs = {"input_ids", "attention_mask"} | ({"token_type_ids"} if takes_types(self.model) else set())
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """What the runtime's `predict` gives for a list of texts."""
        if isinstance(self.task, Classify | Several):
            return list(self.task.answers(self._stock(texts, pairs)))
        if isinstance(self.task, Tag):
            encoded = self.task.encode(self.own_tokenizer, texts, pairs, self.limit, given=False)
            return self.task.answers(encoded, self._values(encoded), texts)
        assert isinstance(self.task, Answer)
        return self.task.answers(self.outputs(texts, pairs))

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """What the task decides on; rows of like length run together."""
        self.own_tokenizer.no_truncation()
        encoded = self.task.encode(self.own_tokenizer, texts, pairs, self.limit)
        return self.task.gather(encoded, self._values(encoded), texts, pairs)

    def _stock(self, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        import torch

        rows: Sequence[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
        batch = self.tokenizer(
            mixed(rows) if isinstance(self.task, Several) else list(rows),
            truncation=True,
            max_length=self.limit,
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            return self.model(**batch).logits.numpy()

    def _values(self, encoded: Encoded) -> np.ndarray:
        """Logits (rows, C), or (tokens, C) of all rows end to end."""
        import torch

        from smidgen.tape import logits_of

        by_token = self.task.per_token
        found = np.zeros((len(encoded.ids) if by_token else len(encoded), len(self.task.labels)), np.float32)
        order = np.argsort(encoded.lengths, kind="stable")
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = encoded.batch(rows, self.pad)
            given = {k: torch.from_numpy(v) for k, v in batch.items() if k in self.inputs}
            with torch.inference_mode():
                said = logits_of(self.model(**given)).numpy()
            if by_token:
                found[encoded.flat(rows)] = said[batch["attention_mask"] > 0]
            else:
                found[rows] = said
        return found


class TfIdf:
    """TF-IDF of words and word pairs, and logistic regression: the baseline that a compressed encoder has to beat."""

    def __init__(self, train: Split, task: Classify, seed: int = 0) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline

        assert train.labels is not None
        self.task = task
        regression = LogisticRegression(max_iter=1000, random_state=seed)
        self.pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
            OneVsRestClassifier(regression) if task.multi_label else regression,
        )
        self.pipeline.fit(_joined(train.texts, train.pairs), train.labels)

    @property
    def parameters(self) -> int:
        return len(self.pipeline[0].vocabulary_) * len(self.task.labels)

    @property
    def size_mb(self) -> float:
        """MB of the fitted pipeline as it would be written."""
        import joblib

        file = io.BytesIO()
        joblib.dump(self.pipeline, file)
        return len(file.getvalue()) / 1e6

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(n, C); a class that train lacks never wins."""
        scores = np.asarray(self.pipeline.decision_function(_joined(texts, pairs)), np.float32)
        if self.task.multi_label:
            return scores.reshape(len(texts), -1)
        scores = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
        found = np.full((len(texts), len(self.task.labels)), -1e4, np.float32)
        found[:, self.pipeline[-1].classes_] = scores
        return found

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        return list(self.task.answers(self.outputs(texts, pairs)))


class TfIdfs:
    """The same for several tasks: one of it for each, fitted on the rows of that task."""

    def __init__(self, train: Split, task: Several, seed: int = 0) -> None:
        assert train.labels is not None
        self.task = task
        self.parts: list[tuple[slice, TfIdf]] = []
        for part, at in zip(task.parts.values(), task.segments, strict=True):
            rows = train.take((train.labels >= at.start) & (train.labels < at.stop))
            assert rows.labels is not None
            if len(set(rows.labels.tolist())) > 1:  # a model may know a task that the data has not
                self.parts.append((at, TfIdf(replace(rows, labels=rows.labels - at.start), part, seed)))

    @property
    def parameters(self) -> int:
        return sum(part.parameters for _, part in self.parts)

    @property
    def size_mb(self) -> float:
        return sum(part.size_mb for _, part in self.parts)

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(n, C) over the labels of all tasks."""
        found = np.zeros((len(texts), len(self.task.labels)), np.float32)
        for at, part in self.parts:
            found[:, at] = part.outputs(texts, pairs)
        return found

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        return self.task.answers(self.outputs(texts, pairs))


class UsualTag:
    """The tag that train most often gives a word, and to a new word the one that it most often gives: the baseline that
    a compressed tagger has to beat."""

    def __init__(self, train: Split, task: Tag) -> None:
        assert train.labels is not None
        self.task = task
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for text, tags in zip(train.texts, train.labels, strict=True):
            for word, tag in zip(text.split(" "), tags, strict=True):
                counts[word][tag] += 1
        self.usual = sum(counts.values(), Counter[int]()).most_common(1)[0][0]
        self.tags = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
        self.rows = np.eye(len(task.labels), dtype=np.float32) * 20  # as logits: all but sure

    @property
    def parameters(self) -> int:
        return len(self.tags)

    @property
    def size_mb(self) -> float:
        """MB of the table as it would be written."""
        return len(json.dumps(self.tags, ensure_ascii=False).encode()) / 1e6

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(n,) object: (words, C) of each text."""
        return objects(self.rows[[self.tags.get(word, self.usual) for word in text.split(" ")]] for text in texts)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        found = zip(texts, self.outputs(texts), map(word_spans, texts), strict=True)
        return [self.task.located(logits, text, spans[:, 0], spans[:, 1]) for text, logits, spans in found]


def _joined(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    return list(texts) if pairs is None else [f"{text} {pair}" for text, pair in zip(texts, pairs, strict=True)]
