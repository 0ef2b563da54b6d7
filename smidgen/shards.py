"""Arrays on disk, found by key: a teacher's answers, the states that frozen blocks give.

A folder says in about.json what it holds. A shard in it has some rows' keys and arrays of them by name: a row of the
array each, or, ragged, as many as the row has tokens, from `starts[i]` to `starts[i + 1]`. A shard is named by its keys
and published by one rename, so that a killed run loses at most the one it was making and several processes may work in
one folder; rows are found by key, in whatever order and shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.artefact import draft_of, write_atomic
from smidgen.errors import ArtefactError

Shard = dict[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """Where some rows are: `shards[k][name]` is a memory-mapped array, row i is row `row[i]` of shard `shard[i]`."""

    shards: tuple[Shard, ...]
    shard: np.ndarray
    row: np.ndarray

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) the tokens of each row, where something ragged is kept."""
        starts = [self.shards[self.shard[i]]["starts"][self.row[i] :][:2] for i in rows]
        return np.array([stop - start for start, stop in starts])

    def flat(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(B, ...) of what has one row each."""
        return np.stack([self.shards[self.shard[i]][name][self.row[i]] for i in rows])

    def padded(self, name: str, rows: np.ndarray, length: int) -> np.ndarray:
        """(B, length, ...) of what is ragged, zeros at the padding."""
        like = self.shards[0][name]
        out = np.zeros((len(rows), length, *like.shape[1:]), like.dtype)
        for b, i in enumerate(rows):
            shard, row = self.shards[self.shard[i]], self.row[i]
            start, stop = shard["starts"][row], shard["starts"][row + 1]
            out[b, : stop - start] = shard[name][start:stop]
        return out


def claim(folder: Path, about: Mapping[str, object], what: str) -> None:
    """Make a folder say what it is for, or check that it does.

    Raises:
        ArtefactError: the folder holds something else.
    """
    file = folder / "about.json"
    if file.is_file():
        if (found := json.loads(file.read_text(encoding="utf-8"))) != about:
            raise ArtefactError(
                f"{folder}: holds {what} for {found.get('fingerprint')}, wanted {about['fingerprint']}. Delete it."
            )
    else:
        write_atomic(file, json.dumps(about, indent=1))


def open_shards(folder: Path) -> tuple[Shard, ...]:
    """Memory-map every published shard of a folder."""
    found = sorted(folder.glob("shard-*"))
    return tuple({f.stem: np.load(f, mmap_mode="r") for f in sorted(shard.glob("*.npy"))} for shard in found)


def lacking(shards: Iterable[Shard], keys: np.ndarray) -> np.ndarray:
    """The first row with each key that is in none of the shards, in the rows' order: a text that comes twice is one."""
    known = {int(key) for shard in shards for key in shard["keys"]}
    unique, rows = np.unique(keys, return_index=True)
    return np.sort(rows[[int(key) not in known for key in unique]]).astype(np.int64)


def place(folder: Path, keys: np.ndarray) -> Path:
    """Where the shard of these keys is, or will be."""
    return folder / f"shard-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}"


def publish(folder: Path, keys: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Add a shard; where another process has been quicker, its own stays."""
    target = place(folder, keys)
    draft = draft_of(target)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for each, array in {"keys": keys, **arrays}.items():
        with (draft / f"{each}.npy").open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
    try:
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft)
        if not target.is_dir():
            raise


def locate(shards: tuple[Shard, ...], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) in which shard each key is, and at which row of it. All of them have to be there."""
    held = np.concatenate([shard["keys"] for shard in shards])
    where = np.concatenate([np.full(len(shard["keys"]), k) for k, shard in enumerate(shards)])
    rows = np.concatenate([np.arange(len(shard["keys"])) for shard in shards])
    order = np.argsort(held, kind="stable")
    at = order[np.searchsorted(held[order], keys)]
    assert (held[at] == keys).all()
    return where[at], rows[at]
