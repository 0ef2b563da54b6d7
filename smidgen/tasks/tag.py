"""Tagging of words: named entities in BIO tags (or IOBES, BILOU), or one tag a word such as parts of speech.

A text is words joined by single spaces where its words are given (data files have them), or plain text whose words are
those that its tokenizer sees. Each word is decided at its first token, in training, distillation and prediction: words,
not pieces, carry over from one tokenizer to another.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from smidgen.encoded import Encoded, join, objects
from smidgen.errors import InputError, ModelError
from smidgen.tasks.classify import NO_LABEL, check_metric, softmax

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

OUTSIDE = "O"
Entity = tuple[str, int, int]  # type, first word, word after the last


@dataclass(frozen=True)
class Tag:
    """The tags of a tagger, and all that follows from them.

    `outputs` is (n,) object, one (words, C) array of logits a text; `gold` is (n,) object, one tuple of tag ids a text.
    Words behind the cut of a long text are decided as `O`, or as the first tag where there is none.

    Raises InputError for repeated, empty or too few tags, and for an unknown metric.
    """

    labels: tuple[str, ...]
    metric: str = "f1"  # f1 of entities, as seqeval's; accuracy of words

    name: ClassVar[str] = "tag"
    hf_class: ClassVar[str] = "AutoModelForTokenClassification"
    per_token: ClassVar[bool] = True
    multi_label: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ("f1", "accuracy")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "metric", check_metric(self.metric or "f1", self.METRICS))
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise InputError(f"tags must be two or more, different and not empty, got {list(self.labels)}")

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "labels": list(self.labels), "metric": self.metric}

    def config(self) -> dict[str, Any]:
        """What a Hugging Face config says about the tags."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Tag:
        """The task of a config.json; ModelError where its ids are not 0, 1, 2 ..."""
        names = {int(i): str(label) for i, label in (config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}).items()}
        if sorted(names) != list(range(len(names))):
            raise ModelError(f"id2label of the config has ids {sorted(names)}, wanted 0 to {len(names) - 1}")
        return cls(tuple(names[i] for i in range(len(names))))

    # Texts to rows of tokens.

    def encode(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        max_length: int,
        given: bool = True,
    ) -> Encoded:
        """One row a text, cut at `max_length`, with the first token of each word marked.

        Args:
            given: the words are those between single spaces; else those that the tokenizer sees.
        """
        tokenizer.enable_truncation(max_length)
        found = tokenizer.encode_batch(list(texts))
        plain = join(found)
        spans = np.full((len(plain.ids), 2), -1, np.int32)
        units = np.zeros(len(plain.ids), bool)
        for text, encoding, start in zip(texts, found, plain.starts, strict=False):
            inside = [i for i, s in enumerate(encoding.sequence_ids) if s is not None]
            if not inside:
                continue
            at = start + np.array(inside)
            offsets = np.array([encoding.offsets[i] for i in inside], np.int32)
            spans[at] = offsets
            word = word_of(text, offsets) if given else np.array([encoding.word_ids[i] for i in inside])
            units[at] = np.concatenate([[True], word[1:] != word[:-1]])
        return Encoded(plain.ids, plain.types, plain.starts, spans, units)

    def targets(self, encoded: Encoded, texts: Sequence[str], gold: np.ndarray | None) -> np.ndarray:
        """(total,) int64: the tag's id at the first token of each word, NO_LABEL elsewhere."""
        found = np.full(len(encoded.ids), NO_LABEL, np.int64)
        for i, (at, words) in enumerate(_words(encoded, texts)):
            if gold is not None and gold[i] is not None:
                found[at] = np.array(gold[i], np.int64)[words]
        return found

    def no_labels(self, count: int) -> np.ndarray:
        """The marks of so many texts without tags."""
        return objects([None] * count)

    def gather(
        self, encoded: Encoded, values: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """Logits of tokens (total, C) to `outputs`: those of the first token of each of a text's given words."""
        outside = np.zeros(len(self.labels), np.float32)
        outside[self.labels.index(OUTSIDE) if OUTSIDE in self.labels else 0] = 1e-3
        found = []
        for text, (at, words) in zip(texts, _words(encoded, texts), strict=True):
            logits = np.tile(outside, (text.count(" ") + 1, 1))
            logits[words] = values[at]
            found.append(logits)
        return objects(found)

    def aligned(self, mine: Encoded, theirs: Encoded, texts: Sequence[str]) -> np.ndarray:
        """(total of mine,) for the first token of each word the first token that another tokenizer has for it, counted
        within its text; -1 at other tokens, and at words that the other one cut off."""
        found = np.full(len(mine.ids), -1, np.int64)
        both = zip(_words(mine, texts), _words(theirs, texts), theirs.starts, strict=False)
        for (at, words), (there, known), start in both:
            places = np.full(max(known.max(initial=-1), words.max(initial=-1)) + 1, -1, np.int64)
            places[known] = there - start
            found[at] = places[words]
        return found

    def counted(self, gold: np.ndarray) -> dict[str, int]:
        """How many entities of each type; of tags without B- and I-, how many words with each tag."""
        types = dict.fromkeys(kind for prefix, kind in map(parted, self.labels) if prefix)
        found = (
            Counter(kind for row in gold for kind, *_ in self.entities(row))
            if types
            else Counter(self.labels[tag] for row in gold for tag in row)
        )
        return {name: found[name] for name in types or self.labels}

    # Outputs to decisions.

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) object: one tuple of tag ids a text."""
        return objects(tuple(logits.argmax(-1).tolist()) for logits in outputs)

    def counts(self, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
        """(n, 5): entities hit, decided and gold; words right and words, of each text."""
        found = []
        for mine, right in zip(self.decide(outputs), gold, strict=True):
            ours, theirs = set(self.entities(mine)), set(self.entities(right))
            same = sum(a == b for a, b in zip(mine, right, strict=True))
            found.append((len(ours & theirs), len(ours), len(theirs), same, len(right)))
        return np.array(found, np.float64).reshape(-1, 5)

    def score(self, outputs: np.ndarray, gold: np.ndarray) -> float:
        """The metric, 0 to 1; see `resampled`."""
        return float(self.resampled(outputs, gold, np.arange(len(gold))[None])[0])

    def resampled(self, outputs: np.ndarray, gold: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(R,) float64: the metric on each of R choices of texts, `index` (R, m).

        f1        2 hits / (decided + gold) over the entities of all chosen texts: seqeval's `f1_score`, 0 where there
                  are none
        accuracy  share of words whose tag is right
        """
        hits, decided, right, same, words = np.moveaxis(self.counts(outputs, gold)[index].sum(1), -1, 0)
        if self.metric == "accuracy":
            return same / np.maximum(words, 1)
        return 2 * hits / np.maximum(decided + right, 1)

    def entities(self, tags: Sequence[int]) -> list[Entity]:
        """The entities of a text's tag ids, as seqeval reads them: I- after another type, or after O, begins one."""
        return list(chunks([self.labels[i] for i in tags]))

    def answers(self, encoded: Encoded, values: np.ndarray, texts: Sequence[str]) -> list[Any]:
        """What `pipeline("token-classification", aggregation_strategy="first")` of transformers returns, a list a text.

        Args:
            values: logits of tokens, (total, C).
        """
        assert encoded.spans is not None and encoded.units is not None
        found = []
        for i, text in enumerate(texts):
            inside = np.arange(encoded.starts[i], encoded.starts[i + 1])
            inside = inside[encoded.spans[inside, 0] >= 0]
            first = np.flatnonzero(encoded.units[inside])
            ends = np.maximum.reduceat(encoded.spans[inside, 1], first) if len(first) else first
            starts = encoded.spans[inside[first], 0]
            found.append(self.located(values[inside[first]], text, starts, ends))
        return found

    def located(self, logits: np.ndarray, text: str, starts: np.ndarray, ends: np.ndarray) -> list[dict[str, Any]]:
        """The entities of one text, as `answers` gives them, from logits (words, C) and where its words are."""
        chances = softmax(logits)
        found = []
        for kind, first, after in chunks([self.labels[i] for i in logits.argmax(-1)]):
            start, end = int(starts[first]), int(ends[after - 1])
            start += len(text[start:end]) - len(text[start:end].lstrip())
            score = float(chances[first:after].max(-1).mean())
            found.append({"entity_group": kind, "score": score, "word": text[start:end], "start": start, "end": end})
        return found

    # For training.

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, L) float32: cross entropy at the first token of each word; 0 at the others."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none", ignore_index=NO_LABEL)


def word_of(text: str, spans: np.ndarray) -> np.ndarray:
    """The given word that each token stands in, counted from 0; words are cut at single spaces.

    spans   (tokens, 2) characters of the text. A token that begins with a space belongs to the word behind it.
    """
    ends = np.array([i for i, c in enumerate(text) if c == " "], np.int64)
    return np.searchsorted(ends, np.maximum(spans[:, 1] - 1, spans[:, 0]), side="left")


def word_spans(text: str) -> np.ndarray:
    """(words, 2) characters of the given words."""
    ends = np.cumsum([len(word) + 1 for word in text.split(" ")]) - 1
    return np.stack([np.concatenate([[0], ends[:-1] + 1]), ends], 1).astype(np.int32)


def chunks(tags: Sequence[str]) -> Iterator[Entity]:
    """Entities of BIO tags, IOBES or BILOU; a tag without their prefixes is a type of its own."""
    kind, first, closed = "", 0, False
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, mine = parted(tag)
        goes_on = tag != OUTSIDE and mine == kind and prefix not in ("B", "S", "U") and not closed
        if kind and not goes_on:
            yield kind, first, i
        if not goes_on:
            kind, first = ("" if tag == OUTSIDE else mine), i
        closed = prefix in ("E", "L", "S", "U")


def parted(tag: str) -> tuple[str, str]:
    """A tag's prefix, of BIO, IOBES or BILOU, and its type; "" and the tag where it has none."""
    return (tag[0], tag[2:]) if re.match(r"[BIESLU]-.", tag) else ("", tag)


def broken(tags: Sequence[str]) -> int | None:
    """The first word whose I- tag continues nothing of its type; None where BIO is kept."""
    for i, (before, tag) in enumerate(itertools.pairwise([OUTSIDE, *tags])):
        if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
            return i
    return None


def _words(encoded: Encoded, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each text: where the first tokens of its words stand in `encoded.ids`, and which words these are."""
    assert encoded.units is not None and encoded.spans is not None
    for i, text in enumerate(texts):
        inside = slice(encoded.starts[i], encoded.starts[i + 1])
        at = np.flatnonzero(encoded.units[inside]) + encoded.starts[i]
        yield at, word_of(text, encoded.spans[at])
