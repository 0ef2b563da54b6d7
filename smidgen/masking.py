"""Which tokens of a row are masked: drawn anew in each step, from nothing but the seed, the step and the row.

So a run that is resumed draws what it would have drawn, and however a step is cut its rows are masked alike. The count
is fixed by the row: as many tokens as BERT takes (Devlin et al. 2019, arXiv:1810.04805, section 3.1 and its code),
max(1, round(0.15 n)) of the n that are not special; the step's counts are then known before anything is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from smidgen.encoded import Encoded
from smidgen.errors import ModelError
from smidgen.tasks.classify import NO_LABEL
from smidgen.tasks.mask_language import special_ids
from smidgen.tokens import open_tokenizer

SHARE = 0.15  # of a row's tokens
HIDDEN, SWAPPED = 0.8, 0.1  # of those: become [MASK], become another token; the rest stay as they are
USUAL = ("[MASK]", "<mask>")


@dataclass(frozen=True, eq=False)
class Masker:
    """Masks rows of tokens for one tokenizer.

    mask_id    the token that hides others
    ordinary   (k,) the tokens that may take another's place: all but the special ones
    """

    mask_id: int
    ordinary: np.ndarray
    seed: int = 0

    def draw(
        self, ids: np.ndarray, units: np.ndarray, rows: Sequence[int] | np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mask rows of a batch. Padding changes nothing.

        Args:
            ids, units: (B, L), the tokens, and which of them may be masked.
            rows: (B,) their numbers among the rows of the stage.

        Returns:
            ids (B, L) to be read; labels (B, L) int64, the tokens that were masked, NO_LABEL elsewhere; and where that
            is, (B, L) bool.
        """
        masked, labels = ids.copy(), np.full(ids.shape, NO_LABEL, np.int64)
        for b, row in enumerate(rows):
            rng = np.random.default_rng([self.seed, step, int(row)])
            there = np.flatnonzero(units[b])
            at = rng.permutation(there)[: self.counts(np.array(len(there)))]
            fate, other = rng.random(len(at)), rng.choice(self.ordinary, len(at))
            labels[b, at] = ids[b, at]
            masked[b, at] = np.select([fate < HIDDEN, fate < HIDDEN + SWAPPED], [self.mask_id, other], ids[b, at])
        return masked, labels, labels != NO_LABEL

    def counts(self, units: np.ndarray) -> np.ndarray:
        """How many tokens are masked of so many that may be."""
        return np.where(units > 0, np.maximum(1, np.round(SHARE * units)), 0).astype(np.int64)

    def once(self, encoded: Encoded) -> tuple[Encoded, np.ndarray]:
        """Rows masked for good, the same whatever the seed, with the masked tokens as their `units`; and their labels
        (total,)."""
        assert encoded.units is not None
        masker, found = replace(self, seed=0), []
        for row in range(len(encoded)):
            at = slice(encoded.starts[row], encoded.starts[row + 1])
            found.append(masker.draw(encoded.ids[None, at], encoded.units[None, at], [row], 0))
        ids, labels, units = (np.concatenate([parts[k][0] for parts in found]) for k in range(3))
        return replace(encoded, ids=ids, units=units), labels


def masker(folder: Path, seed: int) -> Masker:
    """The masker for a model folder's tokenizer.

    Raises:
        ModelError: the tokenizer has no token for masking.
    """
    tokenizer = open_tokenizer(folder)
    stated = folder / "tokenizer_config.json"
    given = json.loads(stated.read_text(encoding="utf-8")).get("mask_token") if stated.is_file() else None
    named = [given["content"] if isinstance(given, dict) else given] if given else USUAL
    found = [i for name in named if (i := tokenizer.token_to_id(name)) is not None]
    if not found:
        raise ModelError(
            f"{folder}: its tokenizer has no mask token, wanted {' or '.join(named)} in its vocabulary. Give a model "
            "that was pretrained by masking."
        )
    ordinary = np.setdiff1d(list(tokenizer.get_vocab().values()), [*special_ids(tokenizer), found[0]])
    return Masker(found[0], ordinary.astype(np.int64), seed)
