"""What the terminal shows: bars on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from smidgen.watch import Bar

WIDE, SPARED = 100, ("p50 ms", "texts/s")  # a terminal narrower than that goes without these columns
MAIN = os.environ.get("RANK", "0") == "0"  # of the processes of a training, the one that speaks for all
err = Console(stderr=True, highlight=False, quiet=not MAIN)
out = Console(highlight=False, quiet=not MAIN)


class Bars:
    """A Watch that draws: one line for each piece of work, a bar while it goes on."""

    def say(self, text: str) -> None:
        err.print(f"[bold]>[/] {escape(text)}")

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Bar]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=err, transient=True, disable=err.quiet or not err.is_terminal) as progress:
            yield _Bar(progress, progress.add_task(name, total=total, note=""))


class _Bar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task

    def to(self, done: float, note: str = "") -> None:
        fields = {"note": escape(note)} if note else {}
        self.progress.update(self.task, completed=done, **fields)  # type: ignore[arg-type]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    if not MAIN:
        return
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the first column to the left, the others to the right. Nothing in it is markup."""
    found = Table(title=escape(title) if title else None, title_justify="left", header_style="bold", box=SIMPLE)
    for i, column in enumerate(columns):
        numeric = i > 0 and all(_is_number(row[i]) for row in rows)
        found.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in rows:
        found.add_row(*(escape(cell) for cell in row))
    out.print(found)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """A name and what is to be said of it, which may take several lines."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=True)
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, said in rows:
        grid.add_row(f"  {escape(name)}", escape(said))
    out.print(grid)
    out.print()


def entries_table(title: str, entries: Sequence[Mapping[str, Any]], speed_by: str = "p50") -> None:
    """The models of a report, a row each, what matters most in 80 columns; report.html has the rest.

    speed_by: `p50` or `mean`, the time that is shown beside p95.
    """
    columns = ["model", "quality", f"{speed_by} ms", "p95 ms", "texts/s", "MB", "kept", "speed"]
    shown = [i for i, column in enumerate(columns) if out.width >= WIDE or column not in SPARED]
    rows = [[cells[i] for i in shown] for cells in (_cells(entry, speed_by) for entry in entries)]
    table(title, [columns[i] for i in shown], rows)
    if any(entry["status"] == "winner" for entry in entries):
        out.print("[dim]* winner   - over the budget, not trained   d quality of dev; all others of test[/]")


def ways_table(title: str, ways: Sequence[Mapping[str, Any]]) -> None:
    """Ways to run a folder, as `smidgen bench --tune` timed them; those that were left out are told by a line each."""
    columns = ["way", "threads", "ms a text", "at once", "texts/s", "tokens", "same"]
    rows = []
    for way in (way for way in ways if way["ms"] is not None):
        tokens, speed = max(way["texts_per_s"].items(), key=lambda item: item[1])
        timed = [f"{way['ms']:.2f}", str(way["calls"]), f"{speed:,.0f}", str(tokens), f"{way['same']:.1%}"]
        rows.append([f"{way['engine']} {way['precision']}", str(way["threads"]), *timed])
    table(title, columns, rows)


def _cells(entry: Mapping[str, Any], speed_by: str) -> list[str]:
    n = entry["numbers"]
    latency, speed = n.get("latency") or {}, n.get("throughput") or {}
    mark = {"winner": "* ", "infeasible": "- "}.get(str(entry["status"]), "  ")
    quality = _number(n.get("quality"), "{:.3f}") or _number(n.get("dev_quality"), "d {:.3f}")
    return [
        mark + str(entry["name"]),
        quality,
        _plain(latency.get(f"{speed_by}_ms"), "{:.2f}"),
        _plain(latency.get("p95_ms"), "{:.2f}"),
        _plain(speed.get("texts_per_s"), "{:,.0f}"),
        _plain(n.get("size_mb"), "{:.1f}"),
        _number(n.get("quality_kept"), "{:.1%}"),
        _number(n.get("speedup"), "{:.1f}x"),
    ]


def _is_number(cell: str) -> bool:
    return len(cell) < 12 and not cell.strip("d x%.,-0123456789e+")


def _number(value: Mapping[str, Any] | None, form: str) -> str:
    return form.format(value["value"]) if value else ""


def _plain(value: float | None, form: str) -> str:
    return form.format(value) if value is not None else ""
