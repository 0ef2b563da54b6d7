"""The command `advise`; `smidgen.cli` puts it with the others."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen import console
from smidgen.options import (
    Dev,
    Json,
    LabelColumn,
    MaxLatency,
    MaxLength,
    MaxMemory,
    MaxSize,
    Metric,
    MinQuality,
    MultiLabel,
    PairColumn,
    Seed,
    TaskColumn,
    TaskName,
    Test,
    TextColumn,
    Train,
    Unlabeled,
)
from smidgen.words import count, gb, plain, score

if TYPE_CHECKING:
    from smidgen.advising import Advised
    from smidgen.facts import Facts

NAMES = (
    *("train", "dev", "test", "unlabeled", "text_column", "text_pair_column", "label_column", "task_column"),
    *("metric", "max_length"),
)


def advise(
    model: Annotated[str, typer.Argument(help="A folder, a Hub id, or package:NAME/FOLDER.")],
    train: Train,
    test: Test = None,
    dev: Dev = None,
    unlabeled: Unlabeled = None,
    max_latency: MaxLatency = None,
    max_size: MaxSize = None,
    max_memory: MaxMemory = None,
    min_quality: MinQuality = None,
    time_limit: Annotated[str | None, typer.Option(help="Of the training that the recipe takes: 30m")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks one base will serve.", min=1)] = 1,
    recipe: Annotated[Path | None, typer.Option(help="Write the recipe into this file.")] = None,
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
    """What to do with a model, its data and this machine: which roads to take, why, and the recipe; in a minute.

    Reads all that was given, tells what is wrong with the data, times a few shapes with untrained weights and the
    first steps of training, and weighs long documents, few labels, many tasks, and little memory, size, latency or
    time. Nothing is trained and nothing is kept.

    `smidgen advise MODEL --train train.csv --test test.csv --max-latency p95=2ms --recipe advised.yaml` ·
    `smidgen run advised.yaml --out out`
    """
    from smidgen import api

    found = api.advise(
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
    )
    limits = {"latency": max_latency, "size": max_size, "memory": max_memory}
    budget = {f"--max-{name}": value for name, value in limits.items()}
    budget |= {"--min-quality": min_quality, "--time-limit": time_limit}
    lines = commands(found, budget, recipe)
    told = found.to_data() | {"commands": lines}
    if recipe is not None:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(told["recipe"], encoding="utf-8")
    if json:
        console.print_json(told)
        return
    _show(found)
    console.out.print(f"[bold]The recipe[/]{'' if recipe is None else f', in {recipe}'}")
    console.out.print(told["recipe"], markup=False, soft_wrap=True)
    console.out.print("[bold]What you could type[/]")
    for line in lines:
        console.out.print(f"  {line}", markup=False, soft_wrap=True)


def commands(found: Advised, budget: dict[str, str | None], file: Path | None) -> list[str]:
    """The command lines that go on from here, the recipe's own first."""
    made = found.recipe
    words = {f"--{name.replace('_', '-')}": getattr(made.data, name) for name in NAMES}
    words |= {"--task": made.task if made.task != "classify" else None}
    several = {None: None, True: "--multi-label", False: "--single-label"}[made.data.multi_label]

    def line(command: str, options: dict[str, str | None], *more: str) -> str:
        named = [text for option, value in options.items() if value is not None for text in (option, str(value))]
        flags = [several] if several else []
        return shlex.join(["smidgen", command, made.model, *named, *flags, *more])

    own = shlex.join(["smidgen", "run", str(file or "recipe.yaml"), "--out", "out"])
    first = own if file is not None else f"{own}   # once the recipe is saved there"
    labelled = {option: value for option, value in words.items() if option != "--unlabeled"}
    if found.course.deltas:
        tuned = line("tune", labelled, "--method", found.course.tuned, "--out", "tasks/NAME")
        return [tuned, shlex.join(["smidgen", "bundle", made.model, "tasks/NAME", "tasks/OTHER", "--out", "bundle"])]
    lines = [first, line("compress", words | budget, "--out", "out")]
    if found.course.tuned != "full":
        lines.append(line("tune", labelled, "--method", "auto", "--out", "tasks/NAME"))
    return lines


def _show(found: Advised) -> None:
    facts = found.facts
    console.pairs([("model", _model(facts)), ("data", _data(facts)), ("machine", _machine(facts))])
    for check in (check for check in found.checks if check.loud):
        console.out.print("[yellow]Note[/] ", end="")
        console.out.print(check.words, markup=False)
    measured = facts.measured
    shapes = [measured.whole, *([measured.cut] if measured.cut else []), *measured.small]
    rows = [[one.name, f"{one.p50_ms:.2f}", f"{one.p95_ms:.2f}", f"{one.size_mb:.1f}"] for one in shapes]
    rows.append(["the tokenizer, of all these", f"{measured.tokenizer_ms:.2f}", "", ""])
    console.table("", ["int8, untrained weights, batch 1", "p50 ms", "p95 ms", "MB"], rows)
    console.pairs((f"{'*' if road.taken else ' '} {road.name}", road.why) for road in found.roads)
    console.out.print("[dim]* taken[/]")
    for note in found.notes:
        console.out.print(note, markup=False)
    console.out.print()


def _model(facts: Facts) -> str:
    model = facts.model
    kind = f"trained to {facts.texts.task}" if model.trained else "a bare encoder, for this task"
    return (
        f"{model.reference} ({model.family}): {model.blocks} blocks of {model.hidden}, {plain(model.numbers / 1e6)} "
        f"million numbers, {model.table / max(model.numbers, 1):.0%} of them in the table of tokens; at most "
        f"{model.limit:,} tokens; {kind}"
    )


def _data(facts: Facts) -> str:
    texts = facts.texts
    splits = {"train": texts.train, "dev": texts.dev, "test": texts.test, "unlabeled": texts.unlabeled}
    rows = ", ".join(f"{name} {count(n)}" for name, n in splits.items() if n)
    classes = f"{texts.classes} classes, the rarest {texts.rarest[0]!r} ({texts.rarest[1]:,}); " if texts.rarest else ""
    base = "" if texts.floor is None else f"; the most frequent label alone scores {score(texts.floor, texts.metric)}"
    return (
        f"{texts.task}: {classes}{rows}; half the texts have at most {texts.p50:,} tokens, 95 % {texts.p95:,}, the "
        f"longest {texts.longest:,}, cut at {texts.max_length:,}{base}"
    )


def _machine(facts: Facts) -> str:
    machine, measured = facts.machine, facts.measured
    can = " ".join(machine.features) or "features unknown"
    pace = "" if measured.texts_per_s is None else f"; fine-tuning takes {plain(measured.texts_per_s)} texts a second"
    return (
        f"{machine.cpu}, {machine.cores} core{'s' * (machine.cores > 1)}, {can}; "
        f"{gb(machine.total_mb)} of memory, {gb(machine.free_mb)} free{pace}"
    )
