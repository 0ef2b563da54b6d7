"""The command `cascade`; `smidgen.cli` puts it with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smidgen import console
from smidgen.options import Json, LabelColumn, Metric, PairColumn, TaskColumn, TextColumn

NOT_MET = 3


def cascade(
    folders: Annotated[
        list[Path], typer.Argument(metavar="SMALL LARGE", help="Folders that predict, the fastest first; two or more.")
    ],
    dev: Annotated[str, typer.Option(help="Labelled texts that the thresholds are set on; not those of training.")],
    test: Annotated[str | None, typer.Option(help="Labelled texts to report on; read once, at the end.")] = None,
    min_quality: Annotated[
        str, typer.Option(help="What is to be kept: 99%teacher, 'accuracy>=0.91' or 0.91")
    ] = "99%teacher",
    teacher: Annotated[
        str | None, typer.Option(help="Whose quality a share is of: a folder or model; left out: the last folder.")
    ] = None,
    sure: Annotated[
        float, typer.Option(help="In which share of bootstrap draws of dev it has to be kept.", min=0, max=1)
    ] = 0.95,
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("cascade"),
    calls: Annotated[int, typer.Option(help="Timed calls of each; 300 carry a p95, 1000 a p99.", min=20)] = 300,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task_column: TaskColumn = None,
    metric: Metric = None,
    json: Json = False,
) -> None:
    """Models in a row in one folder: a fast one answers what it is sure of, the next one the rest.

    Thresholds are set on dev, so that as few texts as possible are passed on while the wanted quality is kept. Then
    the cascade is timed and scored beside its models. OUT runs without torch, with predict and bench like any other.

    **Exit codes:** 0 quality kept, 3 not kept or no cascade is needed (the reason is told), 2 bad input.

    `smidgen cascade out/small out/large --dev dev.csv --test test.csv --min-quality 99%teacher --out cascade` ·
    `smidgen predict cascade "what a day"`
    """
    from smidgen import api

    found = api.cascade(
        folders,
        dev,
        test,
        min_quality=min_quality,
        teacher=teacher,
        sure=sure,
        out=out,
        calls=calls,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        task_column=task_column,
        metric=metric,
        watch=console.Bars(),
    )
    if json:
        console.print_json(found)
    else:
        _show(found)
    if found["verdict"] != "met":
        raise typer.Exit(NOT_MET)


def _show(found: dict[str, Any]) -> None:
    if found["path"] is not None:
        console.entries_table("", found["entries"], found["speed_by"])
        for level, after in zip(found["levels"], found["levels"][1:], strict=False):
            console.out.print(
                f"{level['folder']} answers where it is surer than {level['threshold']:.3f} (temperature "
                f"{level['temperature']:.2f}); {level['passed']:.1%} of dev goes on to {after['folder']}."
            )
        console.out.print(f"[dim]{found['expected_ms']:.2f} ms a text expected from the share of dev that goes on.[/]")
        console.out.print(f"[dim]{found['conditions']}[/]")
    for note in found["notes"]:
        console.err.print("[yellow]Note[/] ", end="")
        console.err.print(note, markup=False)
    word = "[green]Quality kept.[/]" if found["verdict"] == "met" else "[yellow]No.[/]"
    console.out.print(f"{word} ", end="")
    console.out.print(found["reason"], markup=False)
    if found["path"] is not None:
        console.out.print(f"The cascade is in {found['path']}", soft_wrap=True, markup=False)
