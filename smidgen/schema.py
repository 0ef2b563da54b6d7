"""The shapes of `report.json` and `tune.json`, schema 1, and the check that a report has its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.errors import ArtefactError

SCHEMA = 1

# What a report must hold. A name that ends in `?` may be null; [x] is a list of x; None is any value.
_NUMBERS = {
    "quality?": {"metric": None, "value": None, "low?": None, "high?": None, "n": None},
    "latency?": {"p50_ms": None, "p95_ms": None, "p99_ms?": None, "n": None, "batch": None, "threads": None},
    "throughput?": {"texts_per_s": None, "batch": None},
    "size_mb?": None,
    "parameters?": None,
    "memory_mb?": None,
}
_ENTRY = {"name": None, "status": None, "reason?": None, "numbers": _NUMBERS}
_SPLIT = {"rows": None, "source?": None, "fingerprint?": None}
SHAPE = {
    "schema": None,
    "created": None,
    "command": None,
    "verdict": None,
    "reason?": None,
    "budget": {
        "latency?": {"percentile": None, "ms": None},
        "size_mb?": None,
        "memory_mb?": None,
        "quality?": {"text": None, "metric?": None, "at_least": None, "of_teacher": None},
        "time_limit_s?": None,
    },
    "task": {"name": None, "labels?": None, "metric": None},
    "model": {"reference": None, "id": None},
    "seed": None,
    "teacher": _ENTRY,
    "winner?": _ENTRY,
    "candidates": [_ENTRY],
    "baselines": [_ENTRY],
    "data": {"train?": _SPLIT, "dev?": _SPLIT, "test?": _SPLIT, "unlabeled?": _SPLIT, "warnings": [None]},
    "environment": {"cpu": None, "cores": None, "python": None, "versions": None},
    "timing": {"seconds": None, "stages": [{"name": None, "seconds": None}]},
    "notes": [None],
}

# What a report may hold besides: a search that read no test set, or an older one, has it not, or null.
_SAID = {"label": None, "p": None, "right": None}
_RELIABILITY = {
    **dict.fromkeys(("n", "error")),
    "bins": [dict.fromkeys(("low", "high", "n", "sure", "right"))],
}
OPTIONAL = {
    "portrait": {
        "n": None,
        "right": dict.fromkeys(("both", "winner", "teacher", "neither", "p")),
        "confusion": [dict.fromkeys(("name", "labels", "of", "wrong", "shown", "most", "winner", "teacher"))],
        "found": [dict.fromkeys(("label", "gold", "winner", "teacher"))],
        "calibration": {"winner": _RELIABILITY, "teacher": _RELIABILITY},
        "differ": [{**dict.fromkeys(("row", "text", "pair?", "gold", "on?")), "winner": _SAID, "teacher": _SAID}],
        "decided": None,
    },
    "choice": {"compared": None, "sure": None},
    "alternatives": [{"axis": None, "name": None}],
    "cluster": None,  # did a cluster run the stages?
}

_COUNTED = {"delta": None, "head": None, "base": None, "share": None}
_SCORE = {"metric": None, "value": None, "low": None, "high": None, "n": None, "split": None}
_TUNED = {
    "quality?": _SCORE,
    "dev_quality": _SCORE,
    "kept?": {"value": None, "low": None, "high": None, "n": None, "of": None},
    "trained": _COUNTED,
    "bytes": None,
    "seconds": None,
    "memory_mb?": None,
}
_WAY = {
    **dict.fromkeys(("name", "method", "settings", "train", "status", "reason", "leaves?", "path?")),
    "numbers?": _TUNED,
}
TUNE = {
    **dict.fromkeys(("schema", "command", "advised", "reason", "best", "leaves", "tasks", "time_limit_s?")),
    "tied": [None],
    "task": {"name": None, "labels?": None, "metric": None},
    "base": dict.fromkeys(("model", "hash", "family", "bytes", "parameters")),
    "seed": None,
    "data": {"train": _SPLIT, "dev": _SPLIT, "test?": _SPLIT},
    "ways": [_WAY],
    "seconds": None,
    "environment": {"cpu": None, "cores": None, "python": None, "versions": None},
    "notes": [None],
}


def check(report: Mapping[str, Any]) -> None:
    """Raise ArtefactError, naming every key that is missing, unless `report` is schema 1."""
    if not isinstance(report, Mapping):
        raise ArtefactError(f"report.json: got {type(report).__name__}, wanted an object with schema {SCHEMA}.")
    if report.get("schema", SCHEMA) != SCHEMA:
        raise ArtefactError(
            f"report.json: got schema {report['schema']!r}, this smidgen reads schema {SCHEMA}. "
            f"Type: pip install --upgrade smidgen, or run the smidgen compress command again."
        )
    missing = list(lacking(report, SHAPE))
    for key, shape in OPTIONAL.items():
        missing += lacking(report[key], shape, key) if report.get(key) is not None else ()
    if missing:
        raise ArtefactError(
            f"report.json: missing {', '.join(missing)}. Wanted every key of schema {SCHEMA}. "
            f"Run the smidgen compress command again: it resumes and writes the report anew."
        )
    if report["verdict"] not in ("met", "not_met"):
        raise ArtefactError(f"report.json: got verdict {report['verdict']!r}, wanted 'met' or 'not_met'.")


def lacking(value: Any, shape: Any, where: str = "") -> Iterator[str]:
    """The keys of a shape that a value lacks."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} (a list)"
            return
        for index, item in enumerate(value):
            yield from lacking(item, shape[0], f"{where}[{index}]")
    elif isinstance(shape, dict):
        if not isinstance(value, Mapping):
            yield f"{where} (an object)"
            return
        for key, inner in shape.items():
            name = key.rstrip("?")
            path = f"{where}.{name}".lstrip(".")
            if value.get(name) is not None:
                yield from lacking(value[name], inner, path)
            elif name not in value or name == key:
                yield path
