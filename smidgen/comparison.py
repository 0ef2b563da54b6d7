"""Several runs side by side: one page, one Markdown text, one picture of all that they chose.

    [folder of a run ...] ──read──► [Run ...] ──► page(), markdown(), data()

Runs are compared as they were reported. Where they were judged on different test data, or timed on different machines,
that is said, and what cannot be compared for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from smidgen.artefact import write_atomic
from smidgen.errors import ArtefactError
from smidgen.findings import chosen, latency_of, percentile, quality_of
from smidgen.pages import filled, styled
from smidgen.picture import Point, arranged, drawn, point_of
from smidgen.report import load
from smidgen.words import NBSP, count, known, mb, metric_of, ms, plain, ranged, seconds

NAMES = ("comparison.html", "comparison.md", "comparison.json")


@dataclass(frozen=True)
class Run:
    """A report and the name it goes by, its folder below the one that all share; `link` leads from the page to it."""

    name: str
    report: Mapping[str, Any]
    link: str


def read(folders: Sequence[Path], out: Path) -> list[Run]:
    """The runs of some folders; the page that compares them will lie in `out`.

    Raises:
        ArtefactError: a folder without a report of ours, or one that is named twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ArtefactError(f"{folder}: named twice. Give each run once.")
    shared = os.path.commonpath([place.parent for place in places])
    return [
        Run(
            place.relative_to(shared).as_posix(),
            load(folder),
            quote(Path(os.path.relpath(place, out.resolve())).as_posix()),
        )
        for folder, place in zip(folders, places, strict=True)
    ]


def render(folders: Sequence[Path], out: Path) -> dict[str, Path]:
    """Write the page, the text and the data of a comparison into `out`; returns their paths by file name."""
    runs = read(folders, out)
    texts = (page(runs), markdown(runs), json.dumps(data(runs), indent=1, ensure_ascii=False))
    out.mkdir(parents=True, exist_ok=True)
    for name, text in zip(NAMES, texts, strict=True):
        write_atomic(out / name, text)
    return {name: out / name for name in NAMES}


def page(runs: Sequence[Run]) -> str:
    """One HTML text that loads nothing and runs nothing, as a report's."""
    return filled("comparison.html.j2", _view(runs) | styled())


def markdown(runs: Sequence[Run]) -> str:
    """The same facts as GitHub-flavoured Markdown."""
    return filled("comparison.md.j2", _view(runs))


def data(runs: Sequence[Run]) -> dict[str, Any]:
    """Plain data: a row each run, and what has to be known of comparing them."""
    rows = [
        {
            "run": run.name,
            **{key: run.report[key] for key in ("verdict", "reason", "budget", "task", "model", "seed", "timing")},
            "winner": run.report["winner"] and {key: run.report["winner"][key] for key in ("name", "path", "numbers")},
            "teacher": run.report["teacher"]["numbers"],
            "test": run.report["data"]["test"],
            "environment": run.report["environment"],
        }
        for run in runs
    ]
    return {"schema": 1, "runs": rows, "notes": notes(runs)}


def notes(runs: Sequence[Run]) -> list[str]:
    """What cannot be compared, and why."""
    found = []
    tests = {(run.report["data"]["test"] or {}).get("fingerprint") for run in runs}
    if len(tests) > 1:
        found.append(
            "The runs were judged on different test data, or without any: their qualities cannot be compared, only "
            "what each keeps of its own teacher."
        )
    if len({metric_of(run.report) for run in runs}) > 1:
        found.append("The runs are judged by different metrics.")
    if len({_machine(run) for run in runs}) > 1:
        found.append(
            "The runs were timed on different machines: compare how many times faster than its teacher each winner is, "
            "not milliseconds."
        )
    else:
        found.append("Each run was timed by itself: a few percent between two runs is the machine, not the models.")
    return found


@dataclass(frozen=True)
class Row:
    """A run in words."""

    run: Run
    budget: str
    met: bool
    name: str
    cells: tuple[str, ...]


COLUMNS = ("Quality", "Keeps of its teacher", "Latency p50 / p95", "Faster than its teacher", "Size", "Memory", "Took")


def row(run: Run) -> Row:
    """A run as the table has it: what was chosen, even where it missed the budget in the end."""
    entry = chosen(run.report)
    numbers = entry["numbers"] if entry else {}
    quality, split = quality_of(entry) if entry else (None, "")
    speeds = [ms(latency_of(entry, which)) if entry else plain(None) for which in ("p50", "p95")]
    cells = (
        f"{metric_of(run.report, quality['metric'])} {ranged(quality)}, {split}" if quality else ranged(None),
        ranged(numbers.get("quality_kept")),
        " / ".join(speeds) if entry and numbers["latency"] else plain(None),
        ranged(numbers.get("speedup"), "times"),
        mb(numbers.get("size_mb")),
        mb(numbers.get("memory_mb")),
        seconds(run.report["timing"]["seconds"]),
    )
    return Row(run, budget(run.report), run.report["verdict"] == "met", entry["name"] if entry else "none", cells)


def budget(report: Mapping[str, Any]) -> str:
    """`p95 10 ms, 20 MB, quality 97%teacher`."""
    limits = report["budget"]
    latency, quality = limits["latency"], limits["quality"]
    words = (
        f"{latency['percentile']} {plain(latency['ms'], NBSP + 'ms')}" if latency else "",
        mb(limits["size_mb"]) if limits["size_mb"] is not None else "",
        f"memory {mb(limits['memory_mb'])}" if limits["memory_mb"] is not None else "",
        f"quality {quality['text']}" if quality else "",
        f"time {seconds(limits['time_limit_s'])}" if limits["time_limit_s"] is not None else "",
    )
    return ", ".join(filter(None, words)) or "none"


def _machine(run: Run) -> tuple[Any, ...]:
    told = run.report["environment"]
    return told["cpu"], told["cores"]


def _view(runs: Sequence[Run]) -> dict[str, Any]:
    rows = [row(run) for run in runs]
    met = sum(one.met for one in rows)
    headline = f"{count(len(runs))} runs, {count(met)} of which met their budget"
    return {
        "runs": runs,
        "rows": rows,
        "columns": COLUMNS,
        "notes": notes(runs),
        "headline": headline,
        "points": (points := _points(runs))[0],
        "picture": drawn(*points, headline, linked=True),
    }


def _points(runs: Sequence[Run]) -> tuple[list[Point], Any]:
    """What each run chose, named by its run; the first run says what the axes are called."""
    picked = [(run, entry) for run in runs if (entry := chosen(run.report))]
    largest = max((known(entry["numbers"]["size_mb"]) or 0.0 for _, entry in picked), default=0.0)
    found, which = [], percentile(runs[0].report)
    for run, entry in picked:
        role = "winner" if run.report["winner"] else "candidate"
        point = point_of(run.report, entry, role, largest, f"{run.link}/report.html", which)
        if point:
            found.append(replace(point, name=run.name, about=(entry["name"], *point.about)))
    first = runs[0].report
    return arranged(found, None, None, metric_of(first), first["task"]["metric"], which)
