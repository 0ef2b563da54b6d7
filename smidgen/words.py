"""Numbers and names in words, for the pages of a report.

A number that is missing is said to be "not measured", and is never 0. At least three significant digits, and the unit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class TaskWords:
    """How a task is spoken of."""

    flow: str  # what goes in, what comes out
    labels: str  # what it tells apart; "" where that is the same whatever the data
    counted: str  # what the answers of a split are
    shell: str  # what follows `smidgen predict winner`
    python: str  # what `predict` of Python is given
    metrics: Mapping[str, str]  # names of metrics that need more than their own


CLASSIFY = TaskWords("Text in, label out", "labels", "Classes", '"text"', '["text"]', {})
TASKS = {
    "classify": CLASSIFY,
    "several": TaskWords(
        "Text in, a label of each task out",
        "labels",
        "Classes",
        '"text"',
        '["text"]',
        {"accuracy": "mean accuracy of the tasks"},
    ),
    "tag": TaskWords(
        "Text in, tags out", "tags", "Tagged", '"text"', '["text"]', {"f1": "entity F1", "accuracy": "word accuracy"}
    ),
    "answer": TaskWords(
        "Question and context in, answer out",
        "",
        "Questions",
        '"question" --pair "context"',
        '["question"], ["context"]',
        {"f1": "word F1", "exact": "exact match"},
    ),
}
NOT_MEASURED = "not measured"
NBSP = "\u00a0"
# What a text must not do to the page it stands on: control it, turn the direction of its letters, or be half a letter.
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
# Where GitHub would see a mention, an address, an issue or an emoji: a comment there is read by nobody and breaks it.
ACTS = re.compile(r"(?<=@)(?=\S)|(?<=:)(?=//|[\w+-]+:)|(?<=www)(?=\.)|(?<=gh)(?=-\d)|(?<=#)(?=\d)", re.IGNORECASE)


def of_task(name: object) -> TaskWords:
    """The words of a task; those of classification for one that is not known."""
    return TASKS.get(str(name), CLASSIFY)


def metric_of(report: Mapping[str, Any], metric: object = None) -> str:
    """A metric as it is called in the report's task, such as `entity F1`; without one, the report's own."""
    key = str(metric or report["task"]["metric"])
    return of_task(report["task"]["name"]).metrics.get(key, key)


def known(value: object) -> float | None:
    """The number, or None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def plain(value: object, unit: str = "") -> str:
    """`1.43 ms`, `53.9 ms`, `112.4 MB`, `1,392`."""
    number = known(value)
    if number is None:
        return NOT_MEASURED
    size = abs(number)
    whole = size >= 1000 or (size >= 100 and size == round(size)) or size == 0
    digits = 0 if whole else 1 if size >= 100 else 2 - math.floor(math.log10(size))
    return f"{number:,.{digits}f}{unit}"


def ms(value: object) -> str:
    return plain(value, NBSP + "ms")


def mb(value: object) -> str:
    return plain(value, NBSP + "MB")


def gb(value: object) -> str:
    """Megabytes, said in gigabytes."""
    number = known(value)
    return plain(None if number is None else number / 1000, NBSP + "GB")


def times(value: object) -> str:
    return plain(value, "×")


def count(value: object) -> str:
    number = known(value)
    return NOT_MEASURED if number is None else f"{number:,.0f}"


def seconds(value: object) -> str:
    """`6.24 s`, `301.2 s (5 min)`."""
    number = known(value)
    return plain(value, NBSP + "s") + (f" ({number / 60:,.0f}{NBSP}min)" if number and number >= 120 else "")


def without_password(text: str) -> str:
    """A text whose URLs name no password."""
    return re.sub(r"(://[^\s:/@]+):[^\s/@]+@", r"\1:...@", text)


def score(value: object, metric: str = "accuracy", digits: int = 1) -> str:
    """A quality: in percent for shares (accuracy, F1, exact match ...), else to three decimals."""
    number = known(value)
    if number is None:
        return NOT_MEASURED
    share = re.search(r"accuracy|f1|exact|precision|recall", metric)
    return f"{100 * number:.{digits}f}{NBSP}%" if share else f"{number:.3f}"


def said(number: Mapping[str, Any] | None, unit: str = "") -> str:
    """The value of a measured number: `98.2 %`, or `5.38×` where `unit` is `times`."""
    return _show(number, unit)(number["value"]) if number else NOT_MEASURED


def bounds(number: Mapping[str, Any] | None, unit: str = "") -> str:
    """The 95 % interval of a measured number: `97.1–99.3 %`; empty where it has none."""
    if not number or known(number.get("low")) is None or known(number.get("high")) is None:
        return ""
    show = _show(number, unit)
    return f"{show(number['low']).rstrip(NBSP + '%×')}–{show(number['high'])}"


def ranged(number: Mapping[str, Any] | None, unit: str = "") -> str:
    """`98.2 % (97.1–99.3 %)`."""
    interval = bounds(number, unit)
    return said(number, unit) + (f" ({interval})" if interval else "")


def each(quality: Mapping[str, Any] | None) -> str:
    """The quality of each task, where there are several: `mood 91.0 %, topic 85.2 %`."""
    found = ((quality or {}).get("tasks") or {}).items()
    return ", ".join(f"{name} {score(value)}" for name, value in found) or NOT_MEASURED


def pairs(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """A small dict as rows of text."""
    return [(str(key), _value(value)) for key, value in (values or {}).items()]


def settings(values: Mapping[str, Any] | None) -> str:
    """`keep=3, rule=auto`."""
    return ", ".join(f"{key}={value}" for key, value in pairs(values))


def calls(methods: Mapping[str, Any] | None) -> list[str]:
    """The methods of a stage with their settings: `prune.layers(keep=3, rule=auto)`."""
    return [f"{name}({settings(values)})" for name, values in (methods or {}).items()]


def way(told: Mapping[str, Any]) -> str:
    """How a graph is run: `openvino bfloat16, 2 threads`; float32 goes without saying."""
    threads, precision = told.get("threads"), told.get("precision")
    named = told.get("engine") if precision == "float32" else f"{told.get('engine')} {precision}"
    return f"{named}, {count(threads)} thread{'s' if threads != 1 else ''}"


def served(serving: Mapping[str, Any] | None) -> str:
    """How single texts are run, and several where that differs; of a cascade for each of its models."""
    told = serving or {}
    if "latency" not in told:
        return "; ".join(f"{name}: {served(one)}" for name, one in told.items())
    one, many = way(told["latency"]), way(told.get("throughput") or told["latency"])
    return one if one == many else f"{one}; several texts: {many}"


def tried(ways: Sequence[Mapping[str, Any]] | None) -> str:
    """What was timed, and what was left out and why: `onnxruntime, 1 thread 1.43 ms; ...`."""
    each = ((way(one), ms(one.get("ms")), one.get("reason")) for one in ways or ())
    return "; ".join(f"{name} left out: {why}" if why else f"{name} {took}" for name, took, why in each)


def visible(value: object) -> str:
    """Text in which every character can be seen: `\u27e8U+202E\u27e9` stands for one that turns what follows."""
    return UNSEEN.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", str(value))


def share(value: object, digits: int = 1) -> str:
    """`74.2 %`."""
    return score(value, "accuracy", digits)


def some(values: Sequence[object], most: int = 12) -> str:
    """`a, b, c and 997 more`."""
    more = len(values) - most
    named = ", ".join(short(value) for value in values[:most])
    return f"{named} and {more:,} more" if more > 0 else named


def one_line(value: object) -> str:
    return " ".join(str(value).split())


def short(name: object, most: int = 36) -> str:
    """A name in one line of at most so many characters."""
    text = one_line(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def md(value: object) -> str:
    """Text that Markdown, GitHub's too, shows as it is: one line, no markup, no HTML, no link, no broken table."""
    return "<!-- -->".join(map(_escaped, ACTS.split(re.sub(r"[\r\n]", " ", str(value)))))


def _escaped(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _show(number: Mapping[str, Any] | None, unit: str) -> Callable[[object], str]:
    return times if unit == "times" else partial(score, metric=str((number or {}).get("metric") or "accuracy"))
