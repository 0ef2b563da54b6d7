"""Examples in order: their keys, their fingerprint, their parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from smidgen.errors import DataError

DEV_SHARE = 0.1
DEV_MOST = 2000


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in order.

    `pairs` has "" for a text without a second one, where a task mixes both; None: no text has one.
    `labels` is what the task calls gold: (n,) int64 class ids, (n, C) float32 of 0 and 1 where a text may have several,
    or (n,) object, one tuple a text, of tag ids or of accepted answers; None: not labelled.
    `rows` are the numbers that messages call the examples by; None: they count from 1.
    """

    name: str  # "train", "dev", "test" or "unlabeled"
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: np.ndarray | None
    source: str  # the path or id that it came from
    rows: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, index: int) -> int:
        """The number of an example in its file."""
        return index + 1 if self.rows is None else int(self.rows[index])

    @cached_property
    def keys(self) -> np.ndarray:
        """(n,) uint64: the same for the same text and pair, on every machine and in every order."""
        return example_keys(self.texts, self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits: SHA-256 over texts, pairs and labels, in this order."""
        digest = hashlib.sha256()
        for column in (self.texts, self.pairs or ()):
            digest.update(f"{len(column)};".encode())
            for text in column:
                data = text.encode()
                digest.update(f"{len(data)}:".encode() + data)
        if self.labels is not None:
            digest.update(f"{self.labels.dtype.str}{self.labels.shape}".encode())
            digest.update(repr(self.labels.tolist()).encode() if self.labels.dtype == object else self.labels.tobytes())
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The examples at these indices, in their order; or those where a mask (n,) of bool is true."""
        at = np.asarray(indices)
        at = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64)
        return Split(
            self.name,
            tuple(self.texts[i] for i in at),
            None if self.pairs is None else tuple(self.pairs[i] for i in at),
            None if self.labels is None else self.labels[at],
            self.source,
            None if self.rows is None else [self.rows[int(i)] for i in at],
        )

    def describe(self) -> dict[str, Any]:
        """Where it is from, its rows, and their characters; a pair counts with its text."""
        pairs = self.pairs or ("",) * len(self)
        lengths = np.array([len(a) + len(b) for a, b in zip(self.texts, pairs, strict=True)] or [0])
        return {
            "source": self.source,
            "rows": len(self),
            "pairs": self.pairs is not None and all(self.pairs),
            "mean_chars": round(float(lengths.mean()), 1),
            "p95_chars": float(np.percentile(lengths, 95)),
            "max_chars": int(lengths.max()),
        }


def example_keys(texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """(n,) uint64: a hash of each text and its pair, the same on every machine."""
    seconds = pairs if pairs is not None else ("",) * len(texts)
    joined = (f"{len(text)}:{text}{pair}".encode() for text, pair in zip(texts, seconds, strict=True))
    digests = b"".join(hashlib.blake2b(data, digest_size=8).digest() for data in joined)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def take_dev(train: Split, seed: int, every: bool = False) -> tuple[Split, Split]:
    """What is left of train, and the dev set taken from it: a tenth of each class, at least 1, at most 2,000 in all.

    A class with one example keeps it in train. No text is in both: the copies of a text that dev takes are dropped.
    Tagged texts are one class; of questions, whole contexts are taken.

    Args:
        every: dev takes all rows of a text, since they are of different tasks.
    """
    assert train.labels is not None
    if train.labels.dtype == object and train.pairs is not None:
        return _take_contexts(train, seed)
    first = np.sort(np.unique(train.keys, return_index=True)[1])
    classes = np.zeros(len(train), np.int64) if train.labels.dtype == object else train.labels
    _, strata, counts = np.unique(classes[first], axis=0, return_inverse=True, return_counts=True)
    strata = strata.reshape(-1)
    if train.labels.ndim == 2:
        strata = np.where(counts[strata] == 1, -1, strata)  # combinations that occur once are drawn together
    share = min(DEV_SHARE, DEV_MOST / len(first))
    rng = np.random.default_rng(seed)
    drawn = []
    for stratum in np.unique(strata):
        rows = rng.permutation(first[strata == stratum])
        drawn.append(rows[: min(max(1, int(share * len(rows))), len(rows) - 1)])
    picked = np.sort(rng.permutation(np.concatenate(drawn))[:DEV_MOST])
    if not len(picked):
        raise DataError(
            f"{train.source}: {len(first)} different texts are too few to take a dev set from. Type --dev FILE."
        )
    shared = np.isin(train.keys, train.keys[picked])
    taken = train.take(shared if every else picked)
    return train.take(~shared), replace(taken, name="dev")


def _take_contexts(train: Split, seed: int) -> tuple[Split, Split]:
    assert train.pairs is not None
    names = sorted(set(train.pairs))
    if len(names) < 2:
        raise DataError(f"{train.source}: one context is too few to take a dev set from. Type --dev FILE.")
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = max(1, min(DEV_MOST, int(DEV_SHARE * len(train))))
    counts = Counter(train.pairs)
    picked: set[str] = set()
    taken = 0
    for i in order[:-1]:
        if taken >= wanted:
            break
        picked.add(names[i])
        taken += counts[names[i]]
    inside = np.array([pair in picked for pair in train.pairs])
    return train.take(~inside), replace(train.take(inside), name="dev")
