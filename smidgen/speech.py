"""Words of a text: where they are, what may stand in their place, and which class they are of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from smidgen.errors import DataError, MissingExtra

_CJK = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: a character is a word
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff\u0e00-\u0eff"  # vowels, accents
_IN = rf"(?:[^\W{_CJK}]|[{_MARKS}])+"
_WORD = re.compile(
    rf"\[MASK\]|<mask>|[A-Za-z]+?(?=n['’]t\b)|n['’]t\b|(?<=\w)['’]\w{{1,2}}\b|[{_CJK}]|{_IN}(?:-{_IN})*|[^\w\s]"
)

Tagger = Callable[[Sequence[str]], Sequence[str]]  # the words of a text -> a class for each


@dataclass(frozen=True)
class Cut:
    """A text cut into n words and the n + 1 gaps around them."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    def text(self, words: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> str:
        """The text with other words in the same places; or the stretch of it from one word to another."""
        if not self.words:
            return self.gaps[0]
        words = self.words if words is None else words
        stop = len(words) if stop is None else stop
        inside = "".join(word + gap for word, gap in zip(words[start : stop - 1], self.gaps[start + 1 :], strict=False))
        whole = start == 0 and stop == len(words)
        return (self.gaps[0] if whole else "") + inside + words[stop - 1] + (self.gaps[-1] if whole else "")


def cut(text: str) -> Cut:
    """Words, punctuation marks, clitics (`is` `n't`, `film` `'s`) and mask tokens, each one word."""
    places = [match.span() for match in _WORD.finditer(text)]
    ends = [0, *(stop for _, stop in places)]
    starts = [*(start for start, _ in places), len(text)]
    return Cut(
        tuple(text[start:stop] for start, stop in places),
        tuple(text[end:start] for end, start in zip(ends, starts, strict=True)),
    )


def spans(text: str) -> list[tuple[int, int]]:
    """Where the words of `cut(text)` are, in characters."""
    return [match.span() for match in _WORD.finditer(text)]


@cache
def stop_words() -> frozenset[str]:
    """English function words, as scikit-learn lists them."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def is_content(word: str) -> bool:
    """May this word be replaced, or stand in for another? Letters only, three or more, and no stop word."""
    return len(word) > 2 and word.isalpha() and word.lower() not in stop_words()


def in_case_of(word: str, other: str) -> str:
    """`word`, written with capitals where `other` is: Film for Movie, FILM for MOVIE."""
    if len(other) > 1 and other.isupper():
        return word.upper()
    return word[0].upper() + word[1:] if other[0].isupper() else word


def swapped(whole: Cut, options: Sequence[Sequence[str]], share: float, rng: np.random.Generator) -> str:
    """Each word that has options is, with probability `share`, replaced by one of them, each as likely."""
    drawn = rng.random(len(whole.words)) < share
    words = [
        in_case_of(other[int(rng.integers(len(other)))], word) if yes and other else word
        for word, other, yes in zip(whole.words, options, drawn, strict=True)
    ]
    return whole.text(words)


# Classes of words.


@dataclass(frozen=True, eq=False)
class Bag:
    """Words with how often each was seen."""

    words: tuple[str, ...]
    upto: np.ndarray  # (n,) int64, running sums of the counts

    def draw(self, rng: np.random.Generator) -> str:
        """A word, as likely as it is frequent."""
        return self.words[int(np.searchsorted(self.upto, rng.integers(self.upto[-1]), side="right"))]


def bags(texts: Iterable[str], tagger: Tagger) -> dict[str, Bag]:
    """The words of a corpus by class."""
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        words = cut(text).words
        for word, tag in zip(words, tagger(words), strict=True):
            counts.setdefault(tag, Counter())[word] += 1
    return {tag: Bag(tuple(sorted(c)), np.cumsum([c[word] for word in sorted(c)])) for tag, c in counts.items()}


def english_tagger() -> Tagger:
    """Penn Treebank tags by Brill's lexicon and rules, as textblob ships them; nothing is downloaded.

    Raises:
        MissingExtra: textblob is not installed.
    """
    try:
        from textblob.en import parser
    except ImportError as error:
        raise MissingExtra("parts of speech need textblob. Install it with: pip install 'smidgen[train]'") from error
    return lambda words: [tag for _, tag in parser.find_tags(list(words))]


def table_tagger(tags: Mapping[str, str]) -> Tagger:
    """Classes by a table, by the word or the word in small letters; one that is not in it is alone in its class."""
    return lambda words: [tags.get(word) or tags.get(word.lower()) or f"={word}" for word in words]


def read_tags(path: Path) -> dict[str, str]:
    """A file of words and tags, `word<TAB>tag` a line.

    Raises:
        DataError: it cannot be read, or a row is not that.
    """
    from smidgen.tables import decode

    try:
        lines = decode(str(path), path.read_bytes()).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give a file with word<TAB>tag lines.") from error
    found: dict[str, str] = {}
    for row, line in enumerate(lines, start=1):
        word, _, tag = (part.strip() for part in line.partition("\t"))
        if line.strip() and not (word and tag):
            raise DataError(f"{path}, row {row}: got {line[:40]!r}, wanted a word, a tab and its tag.")
        if line.strip():
            found[word] = tag
    if not found:
        raise DataError(f"{path} is empty. Give a file with word<TAB>tag lines.")
    return found
