"""One entry of a report: a model with its numbers, in the shape of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from smidgen.artefact import RECORD
from smidgen.data import Split
from smidgen.measure.quality import agreement, kept, quality
from smidgen.measure.speed import Latency, latency, made, ratio, throughput
from smidgen.tasks import Several, Task

TIMED_TEXTS = 1000  # of the data, drawn by seed, in every timing
TOGETHER, BATCH, TURNS = 256, 32, 4  # of these, in batches of so many texts, so often
Row = tuple[str, str | None]  # a text and its pair: of an answer the question and its context
PLAIN = tuple(" ".join(["the", "service", "was", "good", "but"] * n) for n in (1, 2, 3, 4, 6, 8, 12))


class Predictor(Protocol):
    """Anything from texts to answers; `outputs` is what its task decides on."""

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any: ...

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray: ...


def entry(name: str, status: str, path: str | None = None, reason: str = "", **more: Any) -> dict[str, Any]:
    """An entry with nothing measured yet."""
    measured = ("quality", "dev_quality", "latency", "throughput", "size_mb", "parameters", "memory_mb")
    compared = ("agreement", "quality_kept", "speedup")
    return {
        "name": name,
        "path": path,
        "status": status,
        "reason": reason,
        "recipe": None,
        "lineage": None,
        "curves": None,
        "numbers": dict.fromkeys([*measured, *compared]),
        **more,
    }


def made_up(task: Task) -> list[Row]:
    """Rows to time on where there is no data: texts or contexts of 5 to 60 words, as reviews and messages are."""
    return [("what was good", text) if task.name == "answer" else (text, None) for text in PLAIN]


def two_lists(rows: Sequence[Row]) -> tuple[list[str], list[str] | None]:
    """Rows as texts and pairs; None where they have no pairs."""
    pairs = [pair for _, pair in rows if pair is not None]
    return [text for text, _ in rows], pairs or None


def timed_texts(split: Split, seed: int = 0) -> list[Row]:
    """Rows to time on: the lengths of the data, in an order drawn by the seed."""
    order = np.random.default_rng(seed).permutation(len(split))[:TIMED_TEXTS]
    return [(split.texts[i], split.pairs[i] if split.pairs is not None else None) for i in order]


def time_all(
    models: Mapping[str, Predictor], rows: Sequence[Row], calls: int, turns: int = TURNS
) -> tuple[dict[str, Latency], dict[str, dict[str, Any]]]:
    """Latency at batch 1 and throughput at batch 32 of all models, side by side in one run."""
    single = {name: _one(model) for name, model in models.items()}
    many = {name: _many(model) for name, model in models.items()}
    fast = throughput(many, list(rows)[:TOGETHER], BATCH, repeats=turns)
    return latency(single, list(rows), calls=calls), {name: found.to_data() for name, found in fast.items()}


def answered(calls: int, turns: int = TURNS) -> int:
    """Texts that each model answers in `time_all`, at most."""
    return made(calls) + BATCH + turns * (BATCH + TOGETHER)


def glance(model: Predictor, rows: Sequence[Row]) -> dict[str, Any]:
    """A latency of few calls, that says whether a model is far too slow."""
    return latency_data(latency({"": _one(model)}, list(rows), calls=40)[""], getattr(model, "threads", 1))


def latency_data(found: Latency, threads: int) -> dict[str, Any]:
    """A latency as `report.json` has it."""
    return {
        "p50_ms": found.p50_ms,
        "p95_ms": found.p95_ms,
        "p99_ms": found.p99_ms,
        "mean_ms": found.mean_ms,
        "n": found.n,
        "batch": 1,
        "threads": threads,
    }


def speedup_data(of: Latency, over: Latency, mean: bool = False) -> dict[str, Any]:
    """How many times faster than `over`, by the medians; by the means where one of them is a cascade, whose median says
    nothing of the texts that it passes on."""
    found = ratio(over, of, None if mean else 50)
    return {"value": found.value, "low": found.low, "high": found.high}


def quality_data(task: Task, outputs: np.ndarray, split: Split) -> dict[str, Any]:
    """A quality as `report.json` has it, with its interval; of several tasks also that of each, under `tasks`."""
    assert split.labels is not None
    found = quality(task, outputs, split.labels)
    each = {"tasks": task.each(outputs, split.labels)} if isinstance(task, Several) else {}
    return {
        "metric": task.metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": len(split),
        "split": split.name,
        **each,
    }


def compared_data(task: Task, outputs: np.ndarray, teacher: np.ndarray, split: Split) -> dict[str, Any]:
    """Agreement with the teacher and the share of its quality that is kept; None where the teacher scores 0."""
    assert split.labels is not None
    same = agreement(task, outputs, teacher)
    share = kept(task, outputs, teacher, split.labels) if task.score(teacher, split.labels) > 0 else None
    return {
        name: number and {"value": number.value, "low": number.low, "high": number.high, "n": len(split)}
        for name, number in (("agreement", same), ("quality_kept", share))
    }


def curves(lineage: Sequence[Mapping[str, Any]], root: Path) -> dict[str, list[dict[str, Any]]]:
    """The training curves of a lineage, from the records of its stages."""
    import json

    found: dict[str, list[dict[str, Any]]] = {}
    for stage in lineage:
        record = root / str(stage["id"]) / RECORD
        history = json.loads(record.read_text(encoding="utf-8")).get("history") if record.is_file() else None
        if history:
            found[str(stage["name"])] = history["entries"]
    return found


def _one(model: Predictor) -> Any:
    return lambda row: model.predict([row[0]], [row[1]] if row[1] is not None else None)


def _many(model: Predictor) -> Any:
    return lambda rows: model.predict(*two_lists(rows))
