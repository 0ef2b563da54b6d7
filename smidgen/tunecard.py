"""What is written for people about tuning: the card of a delta, and the page of a comparison. Markdown, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.words import NBSP, bounds, calls, count, mb, md, metric_of, plain, ranged, said, seconds, settings

COLUMNS = ("way", "dev", "95 %", "of the best", "test", "trained", "head", "MB a task", "seconds", "peak MB", "")
OURS = "library_name: smidgen"
CARD = """---
library_name: smidgen
tags: [smidgen, {kind}]{base_model}
---

# {task}, tuned with {method}

{what}

{use}

## Numbers

| Measure | |
|---|---|
{rows}
{note}
## How it was made

{made}
"""
INTERVALS = "\nIn brackets: 95 % intervals.\n"
LIBRARIES = {"peft": "PEFT", "adapterhub": "AdapterHub"}
WHAT_DELTA = "A small delta beside its base, `{base}` (weights {hash}); it is nothing without it."
WHAT_MODEL = "A whole model, tuned from `{base}` (weights {hash}); it has no delta."
USE_DELTA = "`smidgen merge BASE DELTA --out DIR` makes a model of both."
USE_MODEL = "`smidgen run RECIPE --model DIR` goes on from it, with a stage of export.onnx for instance."
STATES = {"short": "a third of the steps", "refused": "refused", "skipped": "not tried"}


def card(record: Mapping[str, Any]) -> str:
    """The README.md of a delta, or of a whole model that was tuned: YAML front matter, what it is, its numbers.

    Of a delta that was read from another library's folder, and was not trained here, where it is from.
    """
    base, task, delta = record["base"], record["task"], record.get("leaves", "delta") == "delta"
    name = base["model"]
    hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not Path(name).exists()
    labels = f" Labels: {md(', '.join(task['labels']))}." if task.get("labels") else ""
    return CARD.format(
        base_model=f"\nbase_model: {name}" if hub else "",
        task=md(task["name"]),
        method=record.get("method") or _library(record["from"]),
        kind="delta" if delta else "tuned",
        what=(WHAT_DELTA if delta else WHAT_MODEL).format(base=_code(name), hash=base["hash"]) + labels,
        use=USE_DELTA if delta else USE_MODEL,
        rows="\n".join(f"| {name} | {value} |" for name, value in told(record)),
        note=INTERVALS if record.get("numbers") else "",
        made=_made(record) if "train" in record else _imported(record),
    )


def _made(record: Mapping[str, Any]) -> str:
    how = ", ".join(f"`{_code(call)}`" for call in calls(record["methods"]))
    splits = [(name, split) for name, split in record["data"].items() if split]
    data = "\n".join(f"- {n}: {count(s['rows'])} rows, fingerprint `{s['fingerprint'][:12]}`" for n, s in splits)
    return f"{how}; {md(settings(record['train']))}; seed {record['seed']}.\n\n{data}"


def _imported(record: Mapping[str, Any]) -> str:
    parts = ", ".join(f"`{part['kind']}`" for part in record["parts"])
    named = record["from"].get("base")
    base = f" It names its base `{_code(named)}`, and that this is the same was not checked." if named else ""
    return f"Read from a folder of {_library(record['from'])}, as {parts}; it was not trained by smidgen.{base}"


def _library(origin: Mapping[str, Any]) -> str:
    return next(name for key, name in LIBRARIES.items() if key in origin)


def told(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers of a record, in words."""
    numbers, metric = record.get("numbers") or {}, metric_of(record)
    found = []
    for name, key in (("dev", "dev_quality"), ("test", "quality")):
        quality = numbers.get(key)
        if quality:
            found.append((f"{name}, {metric}, n = {count(quality['n'])}", ranged(quality)))
    trained = numbers.get("trained") or record.get("parameters")
    if trained:
        share = trained["delta"] / max(trained["base"], 1)
        found.append(("trained", f"{count(trained['delta'])} numbers, {plain(100 * share)} % of the base"))
        found.append(("head", f"{count(trained['head'])} numbers"))
    size = numbers.get("bytes") or (record.get("file") or [None])[0]
    found.append(("a task on disk", mb(size / 1e6 if size else None)))
    if "seconds" in numbers:
        found.append(("training took", seconds(numbers["seconds"])))
        found.append(("peak memory of training", mb(numbers["memory_mb"])))
    return found


def page(found: Mapping[str, Any]) -> str:
    """tune.md: the advice, and a row for each way that was tried."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS)
    rows = "\n".join("| " + " | ".join(md(cell) for cell in row) + " |" for row in rows_of(found))
    data = found["data"]
    parts = [
        "# Ways of tuning, side by side",
        md(found["reason"]),
        f"{head}\n{rows}",
        f"{metric_of(found)} on the same {count(data['dev']['rows'])} rows of dev, trained on the same "
        f"{count(data['train']['rows'])} rows from seed {found['seed']}. In brackets: 95 % intervals; `of the best` is "
        "the share of the best's score, paired by row. `trained` counts numbers beside or in the base, `head` those of "
        "the task's head. Times are of this machine, peaks of the whole process. Test was "
        "read for the way that is advised alone.",
        *(md(note) for note in found["notes"]),
        "## How",
        "\n".join(f"- {md(way['name'])}: {md(settings(way['train']))}" for way in found["ways"]),
    ]
    return "\n\n".join(parts) + "\n"


def rows_of(found: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the table, a row a way: `*` is the one that is advised, `~` had a third of the steps."""
    return [_row(way, found) for way in found["ways"]]


def _row(way: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    numbers, short = way["numbers"] or {}, way["status"] == "short"
    name = ("* " if way["name"] == found["advised"] else "~ " if short else "  ") + way["name"]
    state = ": ".join(filter(None, [STATES.get(way["status"], ""), way["reason"]]))
    if not numbers:
        return [name, *[""] * (len(COLUMNS) - 2), state]
    trained = numbers["trained"]
    return [
        name,
        said(numbers["dev_quality"]),
        bounds(numbers["dev_quality"]).rstrip(NBSP + "%"),
        ranged(numbers["kept"]) if numbers.get("kept") else "",
        ranged(numbers["quality"]) if numbers["quality"] else "",
        count(trained["delta"]),
        count(trained["head"]),
        plain(numbers["bytes"] / 1e6),
        plain(numbers["seconds"]),
        plain(numbers["memory_mb"]),
        state,
    ]


def _code(text: object) -> str:
    return " ".join(str(text).split()).replace("`", "'")
