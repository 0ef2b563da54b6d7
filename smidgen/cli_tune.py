"""The commands of tuning: `tune`, `merge`, and those of `delta`; `smidgen.cli` puts them with the others."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from smidgen import console
from smidgen.errors import InputError
from smidgen.options import (
    Dev,
    Json,
    LabelColumn,
    MaxLength,
    Metric,
    MultiLabel,
    PairColumn,
    Seed,
    TaskColumn,
    TaskName,
    Test,
    TextColumn,
    Train,
)
from smidgen.tunecard import COLUMNS, rows_of, told

delta_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Folder = Annotated[Path, typer.Argument(help="A delta: a folder with delta.json in it.")]
NARROW = ("of the best", "test", "head", "peak MB")  # columns that a terminal of less than 120 goes without


def tune(
    model: Annotated[str, typer.Argument(help="The base: a folder, a Hub id, or package:NAME/FOLDER.")],
    train: Train,
    test: Test = None,
    dev: Dev = None,
    method: Annotated[
        str, typer.Option(help="bitfit, adapter, full ...; auto: several are tried. See 'smidgen methods'.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The folder of this task.")] = Path("out/task"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; again for more.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Left out: the method's habit, 3 to 10, and up to 16 where rows are few.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Left out: the method's habit, 5e-5 to 1e-2.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a step; left out: 32.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Of --method auto, which ends in it: 20m")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks the base will serve, for --method auto.", min=1)] = 1,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task_column: TaskColumn = None,
    multi_label: MultiLabel = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    task: TaskName = "classify",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Tune a frozen base for one task; what is kept of it is a small delta in OUT.

    With --method auto several ways are trained on the same rows and scored on dev; OUT/tune.md says which to take for
    this many labels and tasks, and why, and OUT/delta holds it. Methods that change the base itself, such as full,
    leave a whole model in OUT/model. The same command again resumes.

    `smidgen tune MODEL --train train.csv --test test.csv --method adapter --set width=16 --out tasks/mood` ·
    `smidgen tune MODEL --train train.csv --time-limit 20m --tasks 10 --out tasks/mood`
    """
    from smidgen import api

    found = api.tune(
        model,
        train,
        test,
        dev,
        method=method,
        out=out,
        settings=_settings(set_ or []),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        time_limit=time_limit,
        tasks=tasks,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        task_column=task_column,
        multi_label=multi_label,
        metric=metric,
        max_length=max_length,
        task=task,
        seed=seed,
        watch=console.Bars(),
        command=shlex.join(["smidgen", *sys.argv[1:]]),
    )
    if json:
        console.print_json(found)
        return
    where = out
    if method == "auto":
        _compared(found)
        where = out / "delta"
    else:
        console.pairs(told(found))
    if found["leaves"] == "model":
        console.out.print(
            f"It changes the base itself, so there is no delta: a whole model is in {out / 'model'}.", soft_wrap=True
        )
        return
    console.out.print(f"The delta is in {where}. With its base it is a model:", soft_wrap=True)
    console.out.print(f"  smidgen merge {shlex.quote(model)} {shlex.quote(str(where))} --out DIR", soft_wrap=True)


def merge(
    base: Annotated[str, typer.Argument(help="The base that the delta was made on.")],
    delta: Folder,
    out: Annotated[Path, typer.Option(help="The folder to make; its name must be free.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="With its graph, so that it predicts without torch.")] = False,
    json: Json = False,
) -> None:
    """The base with a delta in it: a Hugging Face folder, from which recipes go on.

    A plain one where the delta folds into the weights (biases, for instance); else it loads after `import smidgen`.
    The graph of --onnx is float32; a recipe with quant.dynamic makes it int8.

    `smidgen merge MODEL tasks/mood --out merged --onnx` · `smidgen predict merged "what a day"`
    """
    from smidgen import api

    record = api.merge(base, delta, out, onnx=onnx)
    if json:
        console.print_json({**record, "path": str(out)})
        return
    console.out.print(f"{out}: {record['model']} tuned to {record['task']['name']}, form {record['form']}.")


def delta() -> None:
    """Look at deltas, and take them from and to other libraries.

    `smidgen delta show tasks/mood --json`
    """


@delta_app.command()
def show(folder: Folder, json: Json = False) -> None:
    """What a delta is: its base, task, labels, method, size and numbers.

    `smidgen delta show tasks/mood`
    """
    from smidgen import api

    found = api.read_delta(folder)
    if json:
        console.print_json(found)
        return
    base, task = found["base"], found["task"]
    labels = ", ".join(task.get("labels") or ())
    rows = [
        ("base", f"{base['model']} ({base['family']}), weights {base['hash']}"),
        ("task", f"{task['name']}{': ' + labels if labels else ''}; texts of at most {found['max_length']} tokens"),
        *(("method", f"{name}({_said(settings)})") for name, settings in (found.get("methods") or {}).items()),
        *(("part", f"{part['kind']}({_said(part['settings'])})") for part in found["parts"]),
        *told(found),
    ]
    console.pairs(rows)


@delta_app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="What the other library saved.")],
    source: Annotated[str, typer.Option("--from", help="peft or adapterhub.")],
    base: Annotated[str, typer.Option(help="The model that it was made on.")],
    out: Annotated[Path, typer.Option(help="The delta to make; its name must be free.")],
    label: Annotated[list[str] | None, typer.Option(help="A label, in the order of the head's outputs.")] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Each output is a decision of its own.")] = False,
    max_length: MaxLength = None,
    json: Json = False,
) -> None:
    """A delta from an adapter of PEFT or AdapterHub, with its head.

    What is read computes the same, or is refused with the reason. Pickles are opened for tensors alone.

    `smidgen delta import saved --from peft --base MODEL --out tasks/mood --label bad --label good`
    """
    from smidgen import api

    found = api.import_delta(source, folder, base, out, label or (), max_length, multi_label)
    if json:
        console.print_json(found)
        return
    kinds = ", ".join(part["kind"] for part in found["parts"])
    console.out.print(f"{out}: a delta of {kinds} for {found['task']['name']}.", soft_wrap=True)


@delta_app.command("export")
def export(
    folder: Folder,
    target: Annotated[str, typer.Option("--to", help="peft or adapterhub.")],
    base: Annotated[str, typer.Option(help="The base that the delta was made on.")],
    out: Annotated[Path, typer.Option(help="The folder to make; its name must be free.")],
    json: Json = False,
) -> None:
    """A delta as an adapter that PEFT or AdapterHub reads.

    `smidgen delta export tasks/mood --to peft --base MODEL --out saved`
    """
    from smidgen import api

    made = api.export_delta(target, folder, base, out)
    if json:
        console.print_json({"path": str(made), "format": target, "files": sorted(p.name for p in made.iterdir())})
        return
    console.out.print(f"{made}: as {target} reads it.", soft_wrap=True)


def _compared(found: dict[str, Any]) -> None:
    """The ways that were trained as a table, and of the others why they were not."""
    keep = [i for i, name in enumerate(COLUMNS) if name and (console.out.width >= 120 or name not in NARROW)]
    trained = [row for row in rows_of(found) if row[1]]
    console.table("", [COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in trained])
    console.out.print("[dim]* advised   ~ had a third of the steps[/]")
    for way in found["ways"]:
        if way["reason"]:
            console.out.print(f"{way['name']}: {way['reason']}", markup=False)
    console.out.print(found["reason"], markup=False)


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _settings(given: list[str]) -> dict[str, Any]:
    """`width=16` and the like, values as YAML has them."""
    from smidgen.recipe import value

    found: dict[str, Any] = {}
    for text in given:
        name, sep, written = (part.strip() for part in text.partition("="))
        if not sep or not name:
            raise InputError(f"--set {text}: wanted NAME=VALUE. Write it like --set width=16.")
        if name in found:
            raise InputError(f"--set {name}: given twice. Give each setting once.")
        found[name] = value(written, f"--set {name}")
    return found
