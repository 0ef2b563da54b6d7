"""Extractive question answering, as SQuAD has it: the span of a context that answers a question, or none.

A long context is read in windows that overlap. The first token of a window stands for "no answer here", so questions
without an answer need nothing of their own (Devlin et al. 2019, arXiv:1810.04805; Rajpurkar et al. 2018,
arXiv:1806.03822). Where each question of the training data has one, as in SQuAD 1.1, the best span is always given.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from smidgen.encoded import Encoded, join, objects
from smidgen.errors import InputError
from smidgen.tasks.classify import NO_LABEL, check_metric, softmax

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

LONGEST = 30  # tokens of an answer
NULL = "null_answers"  # of a model's config: may it say that there is none?


@dataclass(frozen=True)
class Found:
    """The best answer to one question: its text and characters of the context; "" and -1 where none is better."""

    text: str
    start: int
    end: int
    score: float  # its probability in its window


@dataclass(frozen=True)
class Answer:
    """Finding answers, and all that follows from it.

    `texts` are questions and `pairs` their contexts. `outputs` is (n,) object, one `Found` a question; `gold` is (n,)
    object, one tuple of accepted (text, first character) a question.
    """

    metric: str = "f1"  # f1 of words, or exact match; the mean over questions, as SQuAD's official definition
    labels: tuple[str, ...] = ("start", "end")
    null: bool = True  # may there be no answer? False where each question of the training data has one

    name: ClassVar[str] = "answer"
    hf_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    per_token: ClassVar[bool] = True
    multi_label: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ("f1", "exact")

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", check_metric(self.metric or "f1", self.METRICS))

    def to_data(self) -> dict[str, Any]:
        told = {"name": self.name, "labels": list(self.labels), "metric": self.metric}
        return told if self.null else told | {"null": False}

    def config(self) -> dict[str, Any]:
        """A span has a start and an end: two outputs a token, whatever the data."""
        return {"num_labels": 2} if self.null else {"num_labels": 2, NULL: False}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Answer:
        return cls(null=bool(config.get(NULL, True)))

    # Questions to rows of tokens.

    def encode(
        self, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """One row a window of a context, each with its question; windows overlap by half of what they hold.

        Raises:
            InputError: no contexts, or a question that leaves its context no room.
        """
        if pairs is None:
            raise InputError("got questions without contexts, wanted a context for each. Give them as pairs.")
        tokenizer.no_truncation()
        room = max_length - tokenizer.num_special_tokens_to_add(True)
        longest = max((len(e) for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)), default=0)
        short = texts if longest <= room // 2 else [_cut(text, tokenizer, room // 2) for text in texts]
        stride = max(0, (room - min(longest, room // 2)) // 2)
        tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
        found = tokenizer.encode_batch(list(zip(short, pairs, strict=True)))
        rows = [(i, window) for i, first in enumerate(found) for window in (first, *first.overflowing)]
        plain = join(window for _, window in rows)
        spans = np.concatenate([_context_spans(window) for _, window in rows])
        return Encoded(plain.ids, plain.types, plain.starts, spans, example=np.array([i for i, _ in rows], np.int64))

    def targets(self, encoded: Encoded, texts: Sequence[str], gold: np.ndarray | None) -> np.ndarray:
        """(rows, 2) int64: first and last token of the answer in the row; (0, 0) where the row does not hold it."""
        assert encoded.example is not None and encoded.spans is not None
        found = np.zeros((len(encoded), 2), np.int64)
        for row, example in enumerate(encoded.example):
            accepted = None if gold is None else gold[example]
            if accepted is None:
                found[row] = NO_LABEL
            elif accepted:
                text, start = accepted[0]
                spans = encoded.spans[encoded.starts[row] : encoded.starts[row + 1]]
                found[row] = _tokens_of(spans, start, start + len(text))
        return found

    def no_labels(self, count: int) -> np.ndarray:
        """The marks of so many questions of which nothing is known."""
        return objects([None] * count)

    def gather(
        self, encoded: Encoded, values: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """Logits of tokens (total, 2) to `outputs`: over all windows of a question, its best span or none."""
        assert encoded.example is not None and encoded.spans is not None and pairs is not None
        best: dict[int, tuple[float, float, int, int]] = {}  # score, chance, first and last character
        none: dict[int, tuple[float, float]] = {}
        for row, example in enumerate(encoded.example.tolist()):
            at = slice(encoded.starts[row], encoded.starts[row + 1])
            start, end, spans = values[at, 0], values[at, 1], encoded.spans[at]
            inside = spans[:, 0] >= 0
            seen = inside.copy()
            seen[0] = True
            chances = [softmax(np.where(seen, scores, -1e9)) for scores in (start, end)]
            missing = (float(start[0] + end[0]), float(chances[0][0] * chances[1][0]))
            none[example] = min(none.get(example, missing), missing)
            first, last = best_span(np.where(inside, start, -1e9), np.where(inside, end, -1e9))
            if inside[first] and inside[last]:
                found = (
                    float(start[first] + end[last]),
                    float(chances[0][first] * chances[1][last]),
                    int(spans[first, 0]),
                    int(spans[last, 1]),
                )
                best[example] = max(best.get(example, found), found)
        none = none if self.null else {i: (-math.inf, chance) for i, (_, chance) in none.items()}
        return objects(_choose(best.get(i), none[i], pairs[i]) for i in range(len(texts)))

    def counted(self, gold: np.ndarray) -> dict[str, int]:
        """How many questions have an answer in their context, and how many have none."""
        without = sum(not accepted for accepted in gold)
        return {"with an answer": len(gold) - without, "without": without}

    # Outputs to decisions.

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) object: the text of each answer, "" for none."""
        return objects(found.text for found in outputs)

    def score(self, outputs: np.ndarray, gold: np.ndarray) -> float:
        """The metric, 0 to 1: the mean over questions of the best match among the accepted answers."""
        return float(self.resampled(outputs, gold, np.arange(len(gold))[None])[0])

    def resampled(self, outputs: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(R,) float64: the metric on each of R choices of questions, `index` (R, m)."""
        match = exact if self.metric == "exact" else word_f1
        each = [
            max(match(text, right) for right in ([t for t, _ in accepted] or [""]))
            for text, accepted in zip(self.decide(outputs), gold, strict=True)
        ]
        return np.array(each, np.float64)[index].mean(-1)

    def answers(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """One `{"score", "start", "end", "answer"}` a question; without an answer "" from -1 to -1."""
        return [{"score": f.score, "start": f.start, "end": f.end, "answer": f.text} for f in outputs]

    # For training.

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) float32: the mean of the cross entropies of start and end over the positions of the row."""
        from torch.nn import functional as F

        wide = logits.float()
        parts = [
            F.cross_entropy(wide[..., side], labels[:, side], reduction="none", ignore_index=NO_LABEL)
            for side in (0, 1)
        ]
        return (parts[0] + parts[1]) / 2


def best_span(start: np.ndarray, end: np.ndarray) -> tuple[int, int]:
    """First and last token of the span with the highest start + end, at most LONGEST tokens long."""
    best = (-np.inf, 0, 0)
    for shift in range(min(LONGEST, len(start))):
        both = start[: len(start) - shift] + end[shift:]
        at = int(both.argmax())
        best = max(best, (float(both[at]), at, at + shift), key=lambda item: item[0])
    return best[1], best[2]


def exact(found: str, right: str) -> float:
    """Whether two answers are the same once case, punctuation, articles and spaces are left aside."""
    return float(plain(found) == plain(right))


def word_f1(found: str, right: str) -> float:
    """2 common words / (words of both), after the same normalisation; with an empty answer, whether both are empty."""
    ours, theirs = plain(found).split(), plain(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def plain(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous spaces (Rajpurkar et al. 2016)."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _tokens_of(spans: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """First and last token of the characters from start to end; (0, 0) where the row does not hold all of them."""
    inside = np.flatnonzero((spans[:, 0] >= 0) & (spans[:, 0] < end) & (spans[:, 1] > start))
    if not len(inside) or spans[inside[0], 0] > start or spans[inside[-1], 1] < end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


def _choose(best: tuple[float, float, int, int] | None, none: tuple[float, float], context: str) -> Found:
    if best is None or best[0] <= none[0]:
        return Found("", -1, -1, none[1])
    _, chance, start, end = best
    start += len(context[start:end]) - len(context[start:end].lstrip())
    return Found(context[start:end], start, end, chance)


def _context_spans(window: Encoding) -> np.ndarray:
    """(tokens, 2): characters of the context's tokens; (-1, -1) at the question and the special tokens."""
    inside = np.array([s == 1 for s in window.sequence_ids])
    return np.where(inside[:, None], np.array(window.offsets, np.int32).reshape(-1, 2), -1)


def _cut(question: str, tokenizer: Tokenizer, tokens: int) -> str:
    """A question cut to so many tokens: it must leave its context room."""
    found = tokenizer.encode(question, add_special_tokens=False)
    return question if len(found) <= tokens else question[: found.offsets[tokens - 1][1]]
