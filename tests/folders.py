"""Real model folders and data files, tiny: what a user would give, made in a moment."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import torch
from tiny import PAD, VOCAB, tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from smidgen.delta import write
from smidgen.grafting import part
from smidgen.grafts import build
from smidgen.source import load_model, resolve
from smidgen.tasks import Classify

SPECIAL = ("[CLS]", "[PAD]", "[SEP]", "[UNK]")  # in this order: the ids that tiny.py gives its configs
MASK = "[MASK]"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLAIN = ["the", "a", "film", "book", "meal", "room", "play", "song", "was", "is", "and", "so", "very", "quite", "it"]
POLAR = {"bad": ["bad", "awful", "dull", "sad"], "good": ["good", "great", "rich", "fun"]}
LABELS = ("bad", "good")


def vocabulary() -> dict[str, int]:
    """At most VOCAB pieces; any lower-case word can be spelt from its letters."""
    words = [*PLAIN, *POLAR["bad"], *POLAR["good"]]
    pieces = dict.fromkeys([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *words, MASK])
    assert len(pieces) <= VOCAB
    return {piece: i for i, piece in enumerate(pieces)}


def write_tokenizer(path: Path, drop: tuple[str, ...] = ()) -> None:
    """A fast WordPiece tokenizer beside a model; `drop` leaves pieces out, so that it cuts texts differently."""
    vocab = {piece: i for piece, i in vocabulary().items() if piece not in drop}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    assert vocab["[PAD]"] == PAD
    tokenizer.add_special_tokens([*SPECIAL, MASK])
    tokenizer.save(str(path / "tokenizer.json"))
    kinds = ("cls", "pad", "sep", "unk", "mask")
    named = {f"{kind}_token": f"[{kind.upper()}]" for kind in kinds}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48, **named}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def model_folder(
    path: Path, family: str = "bert", labels: tuple[str, ...] | None = None, blocks: int = 2, seed: int = 0
) -> Path:
    """A Hugging Face folder: a classifier where there are labels, else a bare encoder. Gives `path`."""
    path.mkdir(parents=True, exist_ok=True)
    model = tiny(family, blocks=blocks, labels=len(labels or LABELS), seed=seed)
    if labels is None:
        model = model.base_model
    else:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


def language_folder(path: Path, family: str = "bert", blocks: int = 2, seed: int = 0, vocab_size: int = VOCAB) -> Path:
    """A Hugging Face folder of a masked-language model. Gives `path`."""
    path.mkdir(parents=True, exist_ok=True)
    model = tiny(family, blocks=blocks, seed=seed, head="MaskedLM", vocab_size=vocab_size)
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


def adapter_folder(path: Path, base: Path, width: int = 4, seed: int = 0, **settings: Any) -> Path:
    """A delta of an adapter on a base that sorts texts into LABELS, with random numbers. Gives `path`."""
    task, source = Classify(LABELS), resolve(str(base))
    model = load_model(source, task, 0)
    torch.manual_seed(seed)
    graft = build(model, "adapter", {"width": width, **settings})
    for values in graft.parameters():
        values.data.normal_(std=0.3)
    write(path, source, model, (part(graft),), task, 48, {})
    return path


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` different (text, label), half of each label; two polar words among plain ones tell which.

    A random `model_folder` learns them: 0.9 on dev after 6 epochs at learning rate 5e-3, batch size 8.
    """
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = LABELS[len(found) % 2]
        words = [*draw.choices(PLAIN, k=draw.randint(2, 7)), *draw.choices(POLAR[label], k=2)]
        draw.shuffle(words)
        found.setdefault(" ".join(words), label)
    return list(found.items())


def data_files(path: Path) -> dict[str, str]:
    """csv files by split: train (64 rows), dev (24), test (32), unlabeled (24); no text is in two of them."""
    path.mkdir(parents=True, exist_ok=True)
    rows, files, start = sentences(144, seed=0), {}, 0
    for name, count in (("train", 64), ("dev", 24), ("test", 32), ("unlabeled", 24)):
        files[name] = write_csv(path / f"{name}.csv", rows[start : start + count], labelled=name != "unlabeled")
        start += count
    return files


def write_csv(path: Path, rows: list[tuple[str, str]], labelled: bool = True) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"] if labelled else ["text"])
        writer.writerows(rows if labelled else [[text] for text, _ in rows])
    return str(path)
