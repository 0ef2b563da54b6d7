"""Token ids of long pairs: each text is tokenised alone and cut, and both are put together.

Left to itself, the `tokenizers` library also makes every combination of what is cut from one text with what is cut from
the other: two texts of 42,000 characters took 6 s and 5.8 GB, twice as many four times that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smidgen.encoded import Pair
from smidgen.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROBE = "a"


class PairEncoder:
    """Ids of a pair of texts, cut by `longest_first` as the library does it.

    Args:
        tokenizer: without padding and without truncation; only this object uses it.
        limit: the most tokens of one input, special tokens included.
        left: cut from the left?

    Raises:
        ModelError: a tokenizer that does not put two texts one behind the other.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int, left: bool) -> None:
        self.tokenizer, self.left = tokenizer, left
        self.room = max(limit - tokenizer.num_special_tokens_to_add(True), 0)
        inside = self.ids(PROBE)
        whole = tokenizer.encode(PROBE, PROBE)
        at = [i for i in range(len(whole.ids)) if whole.ids[i : i + len(inside)] == inside]
        if len(at) != 2:
            raise ModelError("tokenizer.json: it does not put pairs together one text behind the other.")
        ends = [i + len(inside) for i in at]
        self.parts = [slice(0, at[0]), slice(ends[0], at[1]), slice(ends[1], None)]  # what is special in it
        self.whole, self.types = whole, [whole.type_ids[i] for i in at]

    def ids(self, text: str) -> list[int]:
        """All of a text's, without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, first: str, second: str, cut: Callable[[str], str]) -> Pair:
        """
        Args:
            cut: gives the beginning of a long text, whose tokens are the first ones of the whole.
        """
        texts = first, second
        found = [self.ids(cut(text)) for text in texts]
        kept = longest_first(len(found[0]), len(found[1]), self.room)
        short = [len(cut(text)) < len(text) for text in texts]
        if any(cut_off and len(ids) <= self.room for cut_off, ids in zip(short, found, strict=True)) or (
            self.room % 2 and min(map(len, found)) > self.room
        ):  # too little is known of their lengths
            found = [self.ids(text) for text in texts]
            kept = longest_first(len(found[0]), len(found[1]), self.room)
        sides = [ids[len(ids) - n :] if self.left else ids[:n] for ids, n in zip(found, kept, strict=True)]
        ids, types = ([*said[self.parts[0]]] for said in (self.whole.ids, self.whole.type_ids))
        for side, kind, part in zip(sides, self.types, self.parts[1:], strict=True):
            ids += [*side, *self.whole.ids[part]]
            types += [*[kind] * len(side), *self.whole.type_ids[part]]
        return Pair(ids, types)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept: of the shorter at most half of the room, of the longer the rest."""
    if first + second <= room:
        return first, second
    low = min(first, second)
    low = low if low <= room // 2 else room // 2
    return (room - low, low) if first > second else (low, room - low)
