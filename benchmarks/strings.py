"""Token ids beside the stock tokenizer's, on real and hostile strings; and the smallest student, text in to label out,
beside what people write: AutoTokenizer, then ONNX Runtime.

    python benchmarks/strings.py STUDENT...     folders with graphs, such as the convolution of one width, and the static one
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import SHARED, WORK

from smidgen import runtime
from smidgen.demo import write_tweets
from smidgen.measure import entries
from smidgen.measure.speed import latency
from smidgen.runtime.inputs import Row
from smidgen.runtime.machine import usable_cores
from smidgen.runtime.tokenizer import TextEncoder
from smidgen.source import resolve

COUNT, CALLS, SLICE = 100_000, 2000, 500
LIMITS = (8, 32, 128, 512)  # tokens that a row is cut at
WORDS = (
    "the",
    "Film",
    "ISN'T",
    "naïve",
    "re-use",
    "antidisestablishmentarianism",
    "x" * 101,
    "a" * 300,
    "[MASK]",
    "[sep]",
)
WORDS += (
    "https://a.org/b?c=d&e=%20#f",
    "user@host.de",
    "for(i=0;i<9;i++){x[i]=~y;}",
    "C:\\dir\\f.txt",
    "3.141592e-10",
    "</s>",
)
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\u200b",
    "\u200d",
    "\x1c",
    "\x85",
    "",
)
RANGES = {  # of code points
    "every plane": (0x0, 0x10FFFF),
    "controls": (0x0, 0xA0),
    "latin": (0xA0, 0x24F),
    "accents": (0x300, 0x36F),
    "greek and cyrillic": (0x370, 0x52F),
    "right to left": (0x590, 0x7BF),
    "indic": (0x900, 0xDFF),
    "punctuation": (0x2000, 0x206F),
    "kana": (0x3040, 0x30FF),
    "chinese": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "private": (0xE000, 0xF8FF),
    "forms": (0xFB00, 0xFFFF),
    "emoji": (0x1F300, 0x1FAFF),
    "tags": (0xE0000, 0xE01EF),
}


def section(encoder: Path, students: Sequence[Path], count: int, seed: int) -> dict[str, Any]:
    """Ids of the tokenizers of all folders on so many strings, and the students' times."""
    texts = strings(count, seed)
    folders = {"MiniLM-6": encoder} | {kind_of(student): student for student in students}
    return {
        "what": "ids of the runtime and of transformers' AutoTokenizer; times of single texts of SST-2",
        "ids": {name: same_ids(folder, texts, seed) for name, folder in folders.items()},
        "time": {
            f"{kind_of(student)}, threads: {threads}": faster(student, threads)
            for student in students
            for threads in sorted({1, usable_cores()})
        },
        "wanted": {"different": 0, "times": 2.0},
    }


def kind_of(student: Path) -> str:
    """What it is, by its config and its record."""
    config, record = (
        json.loads((student / name).read_text(encoding="utf-8")) for name in ("config.json", "smidgen.json")
    )
    return f"{config['model_type'].removeprefix('smidgen-')}, {record['form']}"


def strings(count: int, seed: int) -> list[str]:
    """So many, as many real ones as there are up to half of them, in any order."""
    draw = random.Random(seed)
    real = list(dict.fromkeys(real_strings()))
    draw.shuffle(real)
    found = real[: count // 2]
    made = hostile(draw, found or ["a film"])
    found += [next(made) for _ in range(count - len(found))]
    draw.shuffle(found)
    return found


def real_strings() -> Iterator[str]:
    """Sentences, pairs, tweets, reviews, and contexts and questions in several languages, of the data that is there."""
    for file in sorted(SHARED.glob("*/*.csv")) + sorted(write_tweets(WORK / "tweets", 0).values()):
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                yield from (row[key] for key in ("text", "text_pair") if row.get(key))
    for file in sorted(SHARED.glob("*/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row[key] for key in ("question", "context") if key in row)
            if "tokens" in row:
                yield " ".join(row["tokens"])


def hostile(draw: random.Random, real: list[str]) -> Iterator[str]:
    """Without end: of one range of characters, of odd words, of real strings that are spoilt, and long ones."""

    def characters(most: int) -> str:
        low, high = RANGES[draw.choice(list(RANGES))]
        drawn = (draw.randint(low, high) for _ in range(draw.randint(0, most)))
        return "".join(chr(point) for point in drawn if not 0xD800 <= point < 0xE000)

    def words(most: int) -> str:
        drawn = (draw.choice(WORDS) if draw.random() < 0.7 else characters(8) for _ in range(draw.randint(0, most)))
        return "".join(word + draw.choice(SPACES) for word in drawn)

    def spoilt() -> str:
        text = draw.choice(real)
        for _ in range(draw.randint(1, 6)):
            at = draw.randint(0, len(text))
            text = text[:at] + draw.choice((characters(3), draw.choice(SPACES), draw.choice(WORDS))) + text[at:]
        return draw.choice((text, text.upper(), text.title(), text[::-1]))

    while True:
        yield draw.choice((lambda: characters(40), lambda: words(20), spoilt, spoilt))()
        if draw.random() < 0.02:
            yield draw.choice((words(8), characters(12), spoilt())) * draw.randint(20, 200)


def same_ids(folder: Path, texts: list[str], seed: int, limits: tuple[int, ...] = LIMITS) -> dict[str, Any]:
    """Each string at one of the limits, one in four with another as its pair; the first that differs is shown."""
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    own = TextEncoder(folder).max_length
    encoders = [TextEncoder(folder, limit) for limit in sorted({min(limit, own) for limit in limits})]
    draw, different, first = random.Random(seed), 0, None
    pairs = alone = 0
    for start in range(0, len(texts), SLICE):
        encoder = encoders[start // SLICE % len(encoders)]
        rows: list[Row] = [(t, draw.choice(texts)) if draw.random() < 0.25 else t for t in texts[start : start + SLICE]]
        rows.sort(key=lambda row: isinstance(row, tuple))
        count = sum(isinstance(row, tuple) for row in rows)
        cut = {"truncation": True, "max_length": encoder.max_length, "return_token_type_ids": True}
        said: list[tuple[list[int], list[int]]] = []
        for given in ([rows[: len(rows) - count]], list(zip(*rows[len(rows) - count :], strict=True))):
            if given and given[0]:
                stocked = stock(*(list(column) for column in given), **cut)
                said += zip(stocked["input_ids"], stocked["token_type_ids"], strict=True)
        for row, (ids, types), wanted in zip(rows, encoder.ids(rows), said, strict=True):
            alone += encoder.words is not None and isinstance(row, str) and encoder.words(row) is not None
            if (ids, types or [0] * len(ids)) != wanted:
                different += 1
                first = first or {"row": ascii(row), "limit": encoder.max_length}
        pairs += count
    limited = [encoder.max_length for encoder in encoders]
    counts = {"strings": len(texts), "pairs": pairs, "word by word": alone, "limits": limited}
    return {**counts, "different": different, "first": first}


def faster(student: Path, threads: int) -> dict[str, Any]:
    """How many times as fast as the stock call, single texts, interleaved; both give the label's name."""
    texts = [row for row in _sentences() if row]
    model = runtime.load(student, threads)
    calls: dict[str, Callable[[str], str]] = {
        "ours": lambda text: model.predict(text)[0]["label"],
        "stock": by_hand(student, threads),
    }
    assert [calls["ours"](text) for text in texts[:200]] == [calls["stock"](text) for text in texts[:200]]
    found = latency(calls, texts, calls=CALLS, threads=threads)
    told = {name: one.to_data() for name, one in found.items()}
    return {**told, "times": entries.speedup_data(found["ours"], found["stock"])}


def by_hand(folder: Path, threads: int) -> Callable[[str], str]:
    """What people write."""
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else it would slow ours, which has it too
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]

    def call(text: str) -> str:
        inputs = tokenizer(text, truncation=True, return_tensors="np")
        logits = session.run(None, {name: np.asarray(inputs[name], np.int64) for name in names})[0]
        return str(labels[str(int(logits[0].argmax()))])

    return call


def _sentences() -> list[str]:
    with Path(common.data("sst2")["test"]).open(encoding="utf-8", newline="") as opened:
        return [row["text"] for row in csv.DictReader(opened)]


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if len(sys.argv) < 2:
        sys.exit("Give the folders of the smallest students: python benchmarks/strings.py STUDENT...")
    result = section(resolve(common.MODEL).path, [Path(folder) for folder in sys.argv[1:]], COUNT, 0)
    common.keep("runtime.json", "strings", result, [0])
