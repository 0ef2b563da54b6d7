"""Texts to rows of token ids, and the tokenizer files of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.checks import Check, cut
from smidgen.encoded import Encoded
from smidgen.splits import Split
from smidgen.tasks import Answer, MaskLanguage, Task
from smidgen.tasks.several import mixed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONGEST_WINDOW = 384  # tokens of a question with a part of its context
SLICE = 4096  # texts that are tokenised at once


def encode(task: Task, folder: Path, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Encoded:
    """The rows of a task's texts, by the folder's own tokenizer."""
    return task.encode(open_tokenizer(folder), texts, pairs, max_length)


def open_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, which neither pads nor cuts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def length_limit(folder: Path, taken: int = 0, stated: bool = True) -> int:
    """The most tokens that a model folder takes, special tokens included, where `taken` positions hold none.

    stated   heed what its tokenizer's settings say; without it the positions that there are
    """
    from smidgen.runtime.folder import read_json
    from smidgen.runtime.tokenizer import length_limit as limit

    settings = folder / "tokenizer_config.json"
    config = read_json(folder / "config.json")
    if taken:
        config["max_position_embeddings"] = config.get("max_position_embeddings", 512) - taken
    return limit(config, read_json(settings) if stated and settings.is_file() else {})


def fitting_length(task: Task, folder: Path, texts: Sequence[str], pairs: Sequence[str] | None, taken: int = 0) -> int:
    """The least multiple of 8 that cuts at most 1 % of the texts, within the model's limit; see `length_limit`."""
    limit = length_limit(folder, taken)
    if task.name == "answer":
        limit = min(limit, LONGEST_WINDOW)
    sample = slice(None, 5000)
    lengths = encode(task, folder, texts[sample], pairs[sample] if pairs is not None else None, limit).lengths
    wanted = int(np.ceil(np.quantile(lengths, 0.99) / 8) * 8)
    return min(max(wanted, 16), limit)


def whole_lengths(folder: Path, split: Split) -> np.ndarray:
    """(n,) int64: tokens of each text with its pair, special ones included, where nothing is cut."""
    tokenizer, pairs = open_tokenizer(folder), split.pairs
    rows: list[Any] = list(split.texts) if pairs is None else mixed(zip(split.texts, pairs, strict=True))
    counts = [
        len(encoding)
        for start in range(0, len(rows), SLICE)
        for encoding in tokenizer.encode_batch_fast(rows[start : start + SLICE])
    ]
    return np.array(counts, np.int64)


def cuts(task: Task, folder: Path, splits: Iterable[Split | None], most: int) -> Iterator[Check]:
    """What of these splits is cut at `most` tokens; a task that reads long texts in windows loses nothing."""
    if not isinstance(task, Answer | MaskLanguage):
        for split in splits:
            if split is not None:
                yield from cut(split, whole_lengths(folder, split), most)


def write_tokenizer(source: Path, target: Path, max_length: int) -> None:
    """Copy a tokenizer and set the length that it cuts at."""
    open_tokenizer(source).save(str(target / "tokenizer.json"), pretty=False)
    stated = source / "tokenizer_config.json"
    settings = json.loads(stated.read_text(encoding="utf-8")) if stated.is_file() else {}
    settings["model_max_length"] = max_length
    if "truncation_side" in settings:
        settings["truncation_side"] = "right"  # where training cut
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def new_tokenizer(tokenizer: Tokenizer, folder: Path, types: bool, like: Path | None = None) -> None:
    """Write a tokenizer of our own, with what transformers has to know of it.

    Args:
        types: whether its model takes token types.
        like: a folder whose tokenizer it was cut from, to go on with the settings of that one.
    """
    from smidgen.lexicon import settings

    stated = like and like / "tokenizer_config.json"
    told = json.loads(stated.read_text(encoding="utf-8")) if stated and stated.is_file() else {}
    own = settings(tokenizer, types)
    told = {**own, **told, "tokenizer_class": own["tokenizer_class"]}  # which reads tokenizer.json as it is
    told.pop("added_tokens_decoder", None)  # with ids; tokenizer.json has the new ones
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


def pad_id(folder: Path) -> int:
    """The padding token's id."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("pad_token_id") or 0)


def mask_token(folder: Path) -> str | None:
    """The mask token as it is written in a text; None where the tokenizer has none."""
    stated = folder / "tokenizer_config.json"
    token = json.loads(stated.read_text(encoding="utf-8")).get("mask_token") if stated.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {entry["content"] for entry in tokenizer.get("added_tokens") or []}
    return text if text in added else None
