"""Rows of one split that are nearly rows of another: a score on them is a score of memory.

Two texts are near where the sets of their sequences of four characters have a Jaccard index of at least `LEAST`. All
such pairs are found, not a sample: texts that are so alike share one of the rarest sequences of each (prefix
filtering; Chaudhuri, Ganti and Kaushik 2006, doi:10.1109/ICDE.2006.9), so only those that do are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from smidgen.splits import Split

LEAST = 0.7  # a sentence of ten words with one word changed is just within it
LENGTH = 4  # characters of a sequence
COLUMNS = 2**22  # that sequences are hashed into
ROWS = 2048  # compared at once


def near(texts: Sequence[str], known: Sequence[str], least: float = LEAST) -> np.ndarray:
    """For each text the number of a known one that it nearly is, (n,) int64; -1 where there is none.

    Case, and whatever is no letter or digit, do not count. A text without four letters and digits is near to none.
    """
    found = np.full(len(texts), -1, np.int64)
    if not len(texts) or not len(known):
        return found
    here, there = _sequences(texts), _sequences(known)
    rarity = np.asarray(here.sum(0)).ravel() + np.asarray(there.sum(0)).ravel()
    prefixes = _rarest(there, rarity, least).T.tocsr()
    sizes, others = (np.diff(matrix.indptr) for matrix in (here, there))
    for start in range(0, len(texts), ROWS):
        rows, columns = (_rarest(here[start : start + ROWS], rarity, least) @ prefixes).nonzero()
        rows = rows + start
        for part in _parts(len(rows)):
            shared = np.asarray(here[rows[part]].multiply(there[columns[part]]).sum(1)).ravel()
            alike = shared >= least * (sizes[rows[part]] + others[columns[part]] - shared)
            found[rows[part][alike]] = columns[part][alike]
    return found


def repeated(split: Split, known: Split) -> np.ndarray:
    """`near` for rows, a pair with its text; also of those too short or in a script without spaces what is the same."""
    found = near(_joined(split), _joined(known))
    first = {key: i for i, key in reversed([*enumerate(known.keys.tolist())])}
    same = np.array([first.get(key, -1) for key in split.keys.tolist()], np.int64)
    return np.where(same >= 0, same, found)


def _joined(split: Split) -> Sequence[str]:
    pairs = split.pairs
    return split.texts if pairs is None else [f"{a} {b}" for a, b in zip(split.texts, pairs, strict=True)]


def _sequences(texts: Sequence[str]) -> Any:
    """(n, COLUMNS) sparse, 1 where a text has a sequence."""
    import re

    from sklearn.feature_extraction.text import HashingVectorizer

    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    hashed = HashingVectorizer(
        analyzer="char", ngram_range=(LENGTH, LENGTH), preprocessor=plain, n_features=COLUMNS, norm=None, binary=True,
        alternate_sign=False, dtype=np.float32,
    )  # fmt: skip
    return hashed.transform(texts)


def _rarest(matrix: Any, rarity: np.ndarray, least: float) -> Any:
    """Of each row as many of its rarest columns as one of them must be shared by any row that is near."""
    sizes = np.diff(matrix.indptr)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((matrix.indices, rarity[matrix.indices], owner))
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], sizes)
    kept = order[rank <= (sizes - np.ceil(least * sizes - 1e-9))[owner]]
    cut = matrix.copy()
    cut.data = np.zeros_like(cut.data)
    cut.data[kept] = 1
    cut.eliminate_zeros()
    return cut


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + 100_000) for start in range(0, n, 100_000))
