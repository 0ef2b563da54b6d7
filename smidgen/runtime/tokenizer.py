"""Text to token ids with the `tokenizers` library, truncated as transformers does it.

A long text is cut in characters before it is tokenised, so that a book costs no more than a page. The ids do not
change:

1. The cut is made before a space that follows a non-space, and only for tokenizers that split at spaces first
   (`splits_at_spaces`), so that the tokens of the kept part are the first tokens of the whole text. BERT's own splits
   at line ends too, and around each of the Chinese characters.
2. If the kept part does not overflow the token limit, the whole text is tokenised after all.

Long pairs have a module of their own (`pairs.py`): which part gives way depends on the full length of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.encoded import Pair
from smidgen.errors import InputError, ModelError
from smidgen.runtime.folder import first_line, read_config, read_json, read_settings
from smidgen.runtime.inputs import Row, refuse_halves
from smidgen.runtime.pairs import PairEncoder
from smidgen.runtime.words import WordEncoder, by_words

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Ids = tuple[list[int], list[int] | None]
WINDOW = 8  # characters kept per token of the limit; English has between 4 and 5 in a token
BOUNDARY = re.compile(r"\S(?= )")
BERT_BOUNDARY = re.compile(r"\S(?=[ \t\r\n])|[\u4e00-\u9fff](?=[\u4e00-\u9fff])")
PLAIN = "BertPreTokenizer"
GROWS, MOST_STEPS = 64, 1000  # letters that a normalizer may make of one; what it may replace
SPLITTERS = (PLAIN, "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit")
SHIFTED = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")


class TextEncoder:
    """The tokenizer of a folder with its token limit, or with a lower one.

    Raises:
        ModelError: `tokenizer.json` cannot be read.
    """

    def __init__(self, folder: Path, max_length: int | None = None) -> None:
        config, settings = read_config(folder), read_settings(folder)
        side = settings["truncation_side"]
        self.tokenizer: Tokenizer = _opened(folder / "tokenizer.json")
        limit = length_limit(config, settings)
        self.left = side == "left"
        self.max_length = limit if max_length is None else min(limit, max_length)
        special = self.tokenizer.num_special_tokens_to_add(False)
        if self.max_length <= special:
            raise ModelError(
                f"{folder}: takes {self.max_length} tokens, of which {special} mark where a text begins and ends; "
                "wanted more. Copy the folder again."
            )
        self.pad_id = int(config.get("pad_token_id") or 0)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length, strategy="longest_first", direction=side)
        described = read_json(folder / "tokenizer.json")
        may_cut = side == "right" and splits_at_spaces(described)
        self.window = WINDOW * self.max_length if may_cut else None
        self.boundary = boundary(described)
        self.words: WordEncoder | None = None
        if may_cut and by_words(described):
            self.words = WordEncoder(_alone(self.tokenizer), self.max_length)

    def ids(self, rows: Sequence[Row], first: int = 0) -> list[Ids]:
        """Token ids and token types of each row, not padded; None for types that are all 0. first: the first's number.

        Raises:
            InputError: a row that cannot be tokenised, with its index.
        """
        if self.words is None:
            return [(found.ids, found.type_ids) for found in self(rows, range(first, first + len(rows)))]
        found: list[Ids | None] = [self._by_words(row) for row in rows]
        left = [i for i, ids in enumerate(found) if ids is None]
        if left:
            numbers = [first + i for i in left]
            for i, said in zip(left, self([rows[i] for i in left], numbers), strict=True):
                found[i] = (said.ids, said.type_ids)
        return found  # type: ignore[return-value]

    def _by_words(self, row: Row) -> Ids | None:
        if type(row) is not str or self.words is None:
            return None
        short = self._cut(row)
        ids = self.words(str(short))
        if ids is not None and short is not row and len(ids) < self.max_length:
            ids = self.words(row)
        return None if ids is None else (ids, None)

    def __call__(self, rows: Sequence[Row], numbers: Sequence[int] | None = None) -> list[Encoding | Pair]:
        """One encoding per row, not padded.

        numbers: what the rows are called in an error; None = 0, 1, ...

        Raises:
            InputError: a row that cannot be tokenised, with its index.
        """
        short = [self._cut(row) for row in rows]
        long = [i for i, row in enumerate(rows) if self._long(row)]
        for i in long:
            short[i] = ""
        try:
            found: list[Encoding | Pair] = [*self.tokenizer.encode_batch_fast(short)]
            for i in long:
                found[i] = self.pairs(rows[i][0], rows[i][1], self._cut)
            for i, row in enumerate(rows):
                if short[i] is not row and type(row) is str and not found[i].overflowing:
                    found[i] = self.tokenizer.encode_batch_fast([row])[0]
        except TypeError:
            refuse_halves(rows, numbers or range(len(rows)))
            raise InputError("a text that the tokenizer cannot read. Give plain strings.") from None
        except Exception as error:
            raise ModelError(
                f"the tokenizer cannot read a text ({first_line(error)}). Copy the folder again."
            ) from None
        return found

    @cached_property
    def pairs(self) -> PairEncoder:
        """For long pairs; made when the first of them comes."""
        return PairEncoder(_alone(self.tokenizer), self.max_length, self.left)

    def _long(self, row: Row) -> bool:
        return type(row) is not str and len(row[0]) + len(row[1]) > 2 * WINDOW * self.max_length

    def _cut(self, row: Any) -> Any:
        if self.window is None or type(row) is not str or len(row) <= self.window:
            return row
        found = self.boundary.search(row, self.window)
        return row[: found.start() + 1] if found else row


def _opened(file: Path) -> Tokenizer:
    """The tokenizer of a file, that has tokenised something."""
    from tokenizers import Tokenizer

    if grows(read_json(file).get("normalizer")):
        raise ModelError(f"{file}: its normalizer makes more than {GROWS} letters of one. Copy the folder again.")
    try:
        found: Tokenizer = Tokenizer.from_file(str(file))
        found.no_padding()
        found.no_truncation()
        found.encode("a"), found.encode("a", "b")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # where the library gives up, it raises no Exception
        raise ModelError(f"{file}: {first_line(error)}. Copy the folder again.") from None
    return found


def grows(normalizer: Any) -> bool:
    """Does one thing that a normalizer replaces come to more than GROWS times its letters, once all have replaced? Of
    more than MOST_STEPS it is taken for granted."""
    steps = [step for step in _replaced(normalizer) if step[0]]
    if len(steps) > MOST_STEPS:
        return True
    for start, _ in steps:
        text = start
        for old, new in steps:
            text = text.replace(old, new)
            if len(text) > GROWS * len(start):
                return True
    return False


def _replaced(normalizer: Any) -> Iterator[tuple[str, str]]:
    """What the parts of a normalizer replace, as it is written, by what; in order."""
    if not isinstance(normalizer, Mapping):
        return
    pattern, content = normalizer.get("pattern"), normalizer.get("content")
    if isinstance(pattern, Mapping) and isinstance(content, str):
        old = pattern.get("String", pattern.get("Regex"))  # of an expression: where it stands for itself
        yield (old, content) if isinstance(old, str) else ("", "")
    parts = normalizer.get("normalizers")
    for part in parts if isinstance(parts, list) else ():
        yield from _replaced(part)


def _alone(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that does not cut."""
    found: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    found.no_truncation()
    return found


def length_limit(config: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The most tokens of one input, from `config.json` and `tokenizer_config.json`, special tokens included.

    RoBERTa-like models count positions from behind the padding index: 514 positions hold 512 tokens.
    """
    positions = config.get("max_position_embeddings")
    if positions and str(config.get("model_type")).removeprefix("smidgen-") in SHIFTED:
        pad = config.get("pad_token_id")
        positions -= 2 if pad is None else pad + 1
    stated = settings.get("model_max_length")
    known = [int(limit) for limit in (positions, stated) if limit and 0 < limit < 1_000_000]
    return min(known, default=512)


def splits_at_spaces(tokenizer: Mapping[str, Any]) -> bool:
    """Does a `tokenizer.json` treat the text before a space without regard to what follows?"""
    first = tokenizer.get("pre_tokenizer") or {}
    parts = first.get("pretokenizers", [first])
    known = all(part.get("type") in SPLITTERS for part in parts) and bool(parts)
    whole = any(part.get("use_regex") is False or part.get("split") is False for part in parts)
    spaced = any(any(c.isspace() for c in token["content"]) for token in tokenizer.get("added_tokens") or ())
    return known and not whole and not spaced


def boundary(tokenizer: Mapping[str, Any]) -> re.Pattern[str]:
    """Behind which characters a text may be cut, for one that `splits_at_spaces`."""
    normalizer = tokenizer.get("normalizer") or {}
    bert = normalizer.get("type") == "BertNormalizer" and (tokenizer.get("pre_tokenizer") or {}).get("type") == PLAIN
    added = "".join(token["content"] for token in tokenizer.get("added_tokens") or ())
    apart = normalizer.get("clean_text") is True and normalizer.get("handle_chinese_chars") is True
    return BERT_BOUNDARY if bert and apart and added.isascii() else BOUNDARY
