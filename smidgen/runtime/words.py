"""Token ids word by word from a dictionary, for texts of plain ASCII: the same ids, several times as fast.

Where a tokenizer splits at spaces and punctuation before anything else, as BERT's does, what becomes of a word does not
depend on its neighbours. Each word is given to the tokenizer once and remembered; a text is then one regular expression
and a look-up a word. Whatever could be read in another way is left to the tokenizer: other than ASCII, control
characters, text that holds an added token such as [MASK], pairs, and very long words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|\r")
LONGEST = 100  # characters of a word that is remembered
MOST = 50_000  # words that are remembered


class WordEncoder:
    """Ids of a text, or None where the tokenizer has to be asked. See the module's text.

    Args:
        tokenizer: without padding and without truncation; only this object uses it.
        limit: the most tokens of one input, special tokens included.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}
        inside = self._ids("a")
        whole = tokenizer.encode("a").ids
        at = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
        self.before, self.after = whole[:at], whole[at + len(inside) :]
        self.room = limit - len(self.before) - len(self.after)
        added = (token.content.lower() for token in tokenizer.get_added_tokens_decoder().values())
        self.added = tuple(dict.fromkeys(added))

    def __call__(self, text: str) -> list[int] | None:
        """The ids, cut to the limit."""
        found = self.inside(text)
        return None if found is None else [*self.before, *found[: self.room], *self.after]

    def inside(self, text: str) -> list[int] | None:
        """All ids without special tokens."""
        if not text.isascii() or CONTROLS.search(text):
            return None
        lower = text.lower()
        for token in self.added:
            if token in lower:
                return None
        ids: list[int] = []
        known = self.known
        for word in WORDS.findall(text):
            pieces = known.get(word)
            if pieces is None:
                if len(word) > LONGEST:
                    return None
                pieces = self._remember(word)
            ids += pieces
        return ids

    def _remember(self, word: str) -> list[int]:
        if len(self.known) >= MOST:
            self.known.clear()
        return self.known.setdefault(word, self._ids(word))

    def _ids(self, word: str) -> list[int]:
        return list(self.tokenizer.encode(word, add_special_tokens=False).ids)


def by_words(description: Mapping[str, Any]) -> bool:
    """Does a `tokenizer.json` treat each word alone, as `WordEncoder` splits them, and give one type to a text?"""
    normalizer = description.get("normalizer")
    model = description.get("model") or {}
    single = (description.get("post_processor") or {}).get("single") or []
    types = {entry.get("type_id", 0) for part in single for entry in part.values()}
    return (
        (normalizer is None or (normalizer.get("type") == "BertNormalizer" and normalizer.get("clean_text") is True))
        and (description.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and model.get("type") in ("WordPiece", "WordLevel")
        and types <= {0}
    )
