"""A classifier's folder, or a cascade of such, served and timed by ONNX Runtime and tokenizers alone: nothing of smidgen is imported here.

`python benchmarks/outside.py FOLDER TEXTS.json`, where TEXTS.json is {"texts": [...], "threads": [1]}, the threads of each model. Each line
on stdin is a list of row numbers, and is answered by a line with the milliseconds of these calls. When stdin ends the last line has the
folder's size in bytes, the label of every text, one call each, and the milliseconds of its first tokenizer alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

DEPLOYED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "onnx/model.onnx",
    "onnx/model.onnx.data",
    "serve.json",
)
CASCADE = ("smidgen.json", "cascade.json")
SETTLE = 2  # calls that do not count, before those that do


def opened(folder: Path, threads: Sequence[int]) -> Callable[[str], dict[str, Any]]:
    """From a text to its label and score; in a cascade by the first model that is sure of it, or the last."""
    levels = zip(levels_of(folder), threads, strict=True)
    calls = [(level, single(folder / level["folder"], its_threads)) for level, its_threads in levels]

    def answer(text: str) -> dict[str, Any]:
        for level, call in calls:
            label, logits = call(text)
            logits = logits.astype(np.float64) / level.get("temperature", 1.0)
            scores = np.exp(logits - logits.max())
            score = float(scores.max() / scores.sum())
            if score > level.get("threshold", 0.0):
                break
        return {"label": label, "score": score}

    return answer


def levels_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "cascade.json"
    return list(json.loads(file.read_text())["levels"]) if file.is_file() else [{"folder": "."}]


def reader(folder: Path) -> Tokenizer:
    config = json.loads((folder / "config.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(config.get("max_position_embeddings", 512), settings.get("model_max_length", 512)))
    return tokenizer


def single(folder: Path, threads: int) -> Callable[[str], tuple[str, np.ndarray]]:
    """From a text to its label and logits."""
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    tokenizer = reader(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / "onnx/model.onnx"),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    names = {value.name: columns[value.name] for value in session.get_inputs()}

    def call(text: str) -> tuple[str, np.ndarray]:
        row = tokenizer.encode(text)
        (logits,) = session.run(["logits"], {name: np.array([getattr(row, column)]) for name, column in names.items()})
        return labels[str(int(logits[0].argmax()))], logits[0]

    return call


def timed(call: Callable[[str], Any], texts: Sequence[str]) -> list[float]:
    """Milliseconds of single calls."""
    for text in texts[:SETTLE]:
        call(text)
    taken = []
    for text in texts:
        start = time.perf_counter_ns()
        call(text)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def main(folder: Path, told: dict[str, Any]) -> None:
    answer, texts = opened(folder, told["threads"]), told["texts"]
    for line in sys.stdin:
        print(json.dumps(timed(answer, [texts[i] for i in json.loads(line)])), flush=True)
    files = [folder / name for name in CASCADE if (folder / CASCADE[-1]).is_file()]
    files += [folder / level["folder"] / name for level in levels_of(folder) for name in DEPLOYED]
    size = sum(file.stat().st_size for file in files if file.is_file())
    end = {"bytes": size, "labels": [answer(text)["label"] for text in texts]}
    tokenizer = reader(folder / levels_of(folder)[0]["folder"])
    print(json.dumps(end | {"tokenizer_ms": timed(tokenizer.encode, texts)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
