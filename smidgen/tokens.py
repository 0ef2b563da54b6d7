"""Texts as token ids, ragged: no padding until a batch is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts, end to end.

    Shapes: `ids` and `types` (total,), `starts` (n + 1,); text i is `ids[starts[i]:starts[i + 1]]`.
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows: Sequence[int] | np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """Rows padded to the longest of them: `input_ids`, `attention_mask`, `token_type_ids`, each (B, L) int64."""
        lengths = self.lengths[rows]
        shape = (len(rows), int(lengths.max()))
        mask = np.arange(shape[1]) < lengths[:, None]
        ids, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
        flat = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        ids[mask], types[mask] = self.ids[flat], self.types[flat]
        return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}


def encode(folder: Path, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Encoded:
    """Encode texts (or pairs) with the folder's own tokenizer, longest part cut first, as transformers does."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    inputs: Sequence[Any] = list(zip(texts, pairs, strict=True)) if pairs is not None else list(texts)
    found = tokenizer.encode_batch_fast(inputs)
    starts = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(e) for e in found], out=starts[1:])
    ids = np.fromiter((i for e in found for i in e.ids), np.int32, count=int(starts[-1]))
    types = np.fromiter((i for e in found for i in e.type_ids), np.int8, count=int(starts[-1]))
    return Encoded(ids, types, starts)


def length_limit(folder: Path) -> int:
    """The most tokens that a model folder takes, special tokens included."""
    from smidgen.runtime.folder import read_json
    from smidgen.runtime.tokenizer import length_limit as limit

    stated = folder / "tokenizer_config.json"
    return limit(read_json(folder / "config.json"), read_json(stated) if stated.is_file() else {})


def fitting_length(folder: Path, texts: Sequence[str], pairs: Sequence[str] | None) -> int:
    """The least multiple of 8 that cuts at most 1 % of the texts, within the model's limit."""
    limit = length_limit(folder)
    sample = slice(None, 5000)
    lengths = encode(folder, texts[sample], pairs[sample] if pairs is not None else None, limit).lengths
    wanted = int(np.ceil(np.quantile(lengths, 0.99) / 8) * 8)
    return min(max(wanted, 16), limit)


def write_tokenizer(source: Path, target: Path, max_length: int) -> None:
    """Copy a tokenizer and set the length that it cuts at."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(target / "tokenizer.json"), pretty=False)
    stated = source / "tokenizer_config.json"
    settings = json.loads(stated.read_text(encoding="utf-8")) if stated.is_file() else {}
    settings["model_max_length"] = max_length
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


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
