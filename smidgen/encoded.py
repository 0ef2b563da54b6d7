"""Token ids of many texts, ragged: no padding until a batch is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a model reads, end to end: row i is `ids[starts[i]:starts[i + 1]]`.

    ids, types  (total,) token ids and segment numbers
    starts      (rows + 1,)
    spans       (total, 2) for tasks that point into the text: where a token stands in it, in characters; (-1, -1) at
                tokens that are not part of what is pointed into. None: not asked for
    units       (total,) bool for tasks that decide about words: true at the first token of each. None: not asked for
    example     (rows,) the text that a row is of; a long one may have several rows. None: row i is text i
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    spans: np.ndarray | None = None
    units: np.ndarray | None = None
    example: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows: Sequence[int] | np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """Rows padded to the longest of them: `input_ids`, `attention_mask`, `token_type_ids`, each (B, L) int64."""
        lengths = self.lengths[rows]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        ids, types = np.full(mask.shape, pad_id, np.int64), np.zeros(mask.shape, np.int64)
        flat = self.flat(rows)
        ids[mask], types[mask] = self.ids[flat], self.types[flat]
        return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}

    def flat(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where the tokens of these rows stand in `ids`, end to end."""
        return np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])

    def take(self, rows: Sequence[int] | np.ndarray) -> Encoded:
        """These rows, in their order."""
        flat, starts = self.flat(rows), np.concatenate([[0], np.cumsum(self.lengths[rows])])
        spans, units = (values if values is None else values[flat] for values in (self.spans, self.units))
        example = None if self.example is None else self.example[rows]
        return Encoded(self.ids[flat], self.types[flat], starts, spans, units, example)

    def padded(self, values: np.ndarray, rows: Sequence[int] | np.ndarray, fill: float) -> np.ndarray:
        """What is known of each token, `values` (total, ...), of these rows: (B, L, ...) with `fill` at the padding."""
        lengths = self.lengths[rows]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        found = np.full((*mask.shape, *values.shape[1:]), fill, values.dtype)
        found[mask] = values[self.flat(rows)]
        return found


@dataclass(frozen=True)
class Pair:
    """A pair of texts, as much of an `Encoding` as is asked for."""

    ids: list[int]
    type_ids: list[int]
    overflowing: tuple[()] = ()

    def __len__(self) -> int:
        return len(self.ids)


def join(encodings: Iterable[Encoding | Pair]) -> Encoded:
    """The tokenizer's own rows end to end, without spans."""
    found = list(encodings)
    starts = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(e) for e in found], out=starts[1:])
    ids = np.fromiter((i for e in found for i in e.ids), np.int32, count=int(starts[-1]))
    types = np.fromiter((i for e in found for i in e.type_ids), np.int8, count=int(starts[-1]))
    return Encoded(ids, types, starts)


def objects(values: Iterable[object]) -> np.ndarray:
    """(n,) object: one cell each, whatever it is."""
    listed = list(values)
    found = np.empty(len(listed), object)
    for i, value in enumerate(listed):
        found[i] = value
    return found
