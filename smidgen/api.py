"""What a program calls: the commands as functions, with the same words for the same things."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen import budget
from smidgen.errors import BudgetError, InputError, MissingExtra, RecipeError, did_you_mean
from smidgen.far import is_url, near
from smidgen.recipe import Files, Recipe, packaged, read
from smidgen.watch import Watch

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from smidgen.advising import Advised
    from smidgen.planner import Plan
    from smidgen.runner import Done


TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


def compress(
    model: str,
    train: str,
    test: str | None = None,
    dev: str | None = None,
    unlabeled: str | None = None,
    *,
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    min_quality: str | None = None,
    time_limit: str | None = None,
    out: str | Path = "out",
    students: Sequence[str] = (),
    depths: Sequence[int] = (),
    families: Sequence[str] = (),
    finishes: Sequence[str] = (),
    per_family: int = 2,
    finalists: int = 2,
    seeds: int = 3,
    teacher_epochs: float | None = None,
    student_epochs: float | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
    multi_label: bool | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    task: str = "classify",
    seed: int = 0,
    engine: str | None = None,
    store: str | Path | None = None,
    storage: str | None = None,
    trackers: Sequence[str] = (),
    on: str | None = None,
    ray_address: str | None = None,
    cores: int | None = None,
    watch: Watch | None = None,
    command: str = "smidgen.compress(...)",
) -> dict[str, Any]:
    """A model, data and a budget in; one measured winner out, in `out/winner`.

    Args:
        model: a folder, a Hub id or `package:NAME/FOLDER`; a model that was fine-tuned for the task, which is the
            teacher as it stands, or a bare encoder, from which a teacher is fine-tuned first.
        train, test, dev, unlabeled: csv, tsv, jsonl or parquet files, or Hub ids. No dev: a seeded part of train.
        max_latency, max_size, max_memory, min_quality, time_limit: as on the command line, see `smidgen.budget`.
        students: other pretrained models to consider as students.
        depths: numbers of blocks to consider, in the `families` that are named, else in `depth` alone; `students` come
            beside them.
        families, finishes: kinds of candidates, and what becomes of them, in place of the usual ones: `FAMILIES` and
            `FINISHES` of `smidgen.shapes`.
        per_family: of each family so many of the largest that fit are searched.
        text_column, text_pair_column, label_column, task_column: where the names are not usual; to `tag` the columns of
            words and tags, to `answer` those of questions, contexts and answers.
        task: `classify`; `several`, classifications of which each row names its own, `task`; `tag`, of words in rows of
            `tokens` and `tags`; or `answer`, in rows of `question`, `context` and `answers`.
        finalists: how many candidates are trained in full at most.
        seeds: that finalists are trained with, as far as the time limit allows; the mean over them decides.
        engine: what the winner is to run on; None = the fastest of those that are installed.
        store: a folder for the stages in place of `out/stages`; what one search has trained is there for the next.
        storage: a database for the scores of short trainings, as `sqlite:///trials.db`, in place of a file.
        trackers, on, ray_address, cores: as `run` takes them.

    Returns:
        The report, as `out/report.json` has it; `report["verdict"]` is `met` or `not_met`.

    Raises:
        InputError: what was given cannot be used; nothing was written.
    """
    from smidgen.tasks import task_class

    kind = task_class(task)
    limits = budget.read(max_latency, max_size, max_memory, min_quality, time_limit, kind.METRICS)
    metric = _metric(metric, limits)
    if task == "mask_language":
        raise InputError(
            "--task mask_language: is pretraining, and leaves nothing to deploy. Type smidgen run distilbert, and "
            "compress what it makes for another task."
        )
    _refuse_out(out)
    if store is not None:
        _refuse_out(store, "--store")
    need_training()
    _refuse_trackers(trackers)
    _one_process("compress")
    from smidgen.outcome import carry_out
    from smidgen.runtime.engines import need
    from smidgen.shapes import FAMILIES, FINISHES, STUDENT, TEACHER, Job

    _refuse_unknown("--family", families, FAMILIES)
    _refuse_unknown("--finish", finishes, FINISHES)
    if engine is not None:
        need(engine)

    for option, number in (
        ("--finalists", finalists),
        ("--per-family", per_family),
        ("--seeds", seeds),
        ("--teacher-epochs", teacher_epochs),
        ("--student-epochs", student_epochs),
    ):
        if number is not None and number <= 0:
            raise InputError(f"{option} {number:g}: wanted a number above 0.")

    columns = (text_column, text_pair_column, label_column, task_column)
    files = Files(train, dev, test, unlabeled, *columns, multi_label, metric, max_length)
    job = Job(
        model=_as_path(model),
        files=files,
        budget=limits,
        students=tuple(dict.fromkeys(map(_as_path, students))),
        depths=tuple(dict.fromkeys(depths)),
        families=tuple(dict.fromkeys(families)),
        finishes=tuple(dict.fromkeys(finishes)),
        per_family=per_family,
        finalists=finalists,
        seeds=seeds,
        seed=seed,
        engine=engine,
        task=kind.name,
        teacher=TEACHER if teacher_epochs is None else replace(TEACHER, epochs=teacher_epochs),
        student=STUDENT if student_epochs is None else replace(STUDENT, epochs=student_epochs),
        calls=limits.calls,
    )
    where = Path(store) if store is not None else None
    with _hands(on, ray_address, cores) as executor:
        return carry_out(job, Path(out), watch, command, where, storage, tuple(trackers), executor)


def _metric(metric: str | None, limits: budget.Budget) -> str | None:
    """The metric that is asked for, by its own name or in the quality."""
    asked = limits.quality
    least = asked.metric if asked else None
    if metric and asked and least and metric != least:
        raise BudgetError(f"--metric {metric} and --min-quality {asked.text}: two metrics. Give the same one in both.")
    return metric or least


def advise(
    model: str,
    train: str,
    test: str | None = None,
    dev: str | None = None,
    unlabeled: str | None = None,
    *,
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    min_quality: str | None = None,
    time_limit: str | None = None,
    tasks: int = 1,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
    multi_label: bool | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    task: str = "classify",
    seed: int = 0,
    watch: Watch | None = None,
) -> Advised:
    """What to do with a model, its data and this machine: the roads, why, and the recipe; nothing is kept.

    Args:
        max_latency, max_size, max_memory, min_quality, time_limit: as `compress` takes them.
        tasks: how many tasks the model is to serve.

    Raises:
        InputError: what was given cannot be used.
    """
    from smidgen.tasks import task_class

    kind = task_class(task)
    limits = budget.read(max_latency, max_size, max_memory, min_quality, time_limit, kind.METRICS)
    metric = _metric(metric, limits)
    if task == "mask_language":
        raise InputError(
            "--task mask_language: is pretraining, and leaves nothing to deploy. Ask for the task that comes after it."
        )
    need_training()
    from smidgen.advising import Job
    from smidgen.advising import advise as look

    columns = (text_column, text_pair_column, label_column, task_column)
    files = Files(train, dev, test, unlabeled, *columns, multi_label, metric, max_length)
    return look(Job(_as_path(model), files, limits, kind.name, tasks, seed), watch)


def tune(
    model: str,
    train: str,
    test: str | None = None,
    dev: str | None = None,
    *,
    method: str = "auto",
    out: str | Path = "out/task",
    settings: Mapping[str, Any] | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    time_limit: str | None = None,
    tasks: int = 1,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
    multi_label: bool | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    task: str = "classify",
    seed: int = 0,
    watch: Watch | None = None,
    command: str = "smidgen.tune(...)",
) -> dict[str, Any]:
    """Tune a frozen base for one task: a small delta in `out`, or a whole model in `out/model`.

    Args:
        model: the base; the delta is made against it as it is given.
        method: of `smidgen methods`, with or without `tune.` before it; `auto` has several trained and compared, and
            the one that is advised is left in `out/delta`.
        settings: of the method, as a recipe writes them.
        epochs, learning_rate, batch_size: None = the habits of the method, in `smidgen.tuning`.
        time_limit: of `auto`, as `20m`.
        tasks: how many tasks the base is to serve; `auto` weighs the bytes of all of them.

    Returns:
        What `out/delta.json` says, or of `auto` what `out/tune.json` says.

    Raises:
        InputError: what was given cannot be used.
        NoEffect: there is nothing in this model that the method could tune.
    """
    from smidgen.tasks import task_class

    kind = task_class(task)
    limits = budget.read(time_limit=time_limit)
    if task == "mask_language":
        raise InputError(
            "--task mask_language: is pretraining, which changes the base. Type smidgen run distilbert, and tune what "
            "it makes for another task."
        )
    if method == "auto" and (settings or learning_rate is not None):
        raise InputError("--set and --learning-rate go with one method. Give --method too, or leave them out.")
    if method != "auto" and (time_limit is not None or tasks != 1):
        raise InputError("--time-limit and --tasks go with --method auto. Leave them out.")
    _refuse_out(out)
    need_training()
    _one_process("tune")
    from smidgen.sweep import sweep
    from smidgen.tuning import Job, way_of
    from smidgen.tuning import tune as tune_one
    from smidgen.watch import Silent

    columns = (text_column, text_pair_column, label_column, task_column)
    job = Job(model, Files(train, dev, test, None, *columns, multi_label, metric, max_length), kind.name, seed)
    seen = watch or Silent()
    if method == "auto":
        return sweep(job, Path(out), seen, tasks, limits.time_limit_s, epochs, batch_size, command)
    return tune_one(job, way_of(method, settings, epochs, learning_rate, batch_size), Path(out), seen)


def cascade(
    folders: Sequence[str | Path],
    dev: str,
    test: str | None = None,
    *,
    min_quality: str = "99%teacher",
    teacher: str | None = None,
    sure: float = 0.95,
    out: str | Path = "cascade",
    calls: int = 300,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
    metric: str | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Models in a row in one folder, `out`: each answers what it is sure of and passes the rest on to the next.

    Args:
        folders: of models of one task with the same labels, the fastest first; two or more.
        dev: labelled texts, of which nothing was trained on; the thresholds are set on them.
        test: labelled texts to report on.
        min_quality: `99%teacher` is a share of what `teacher`, or else the last model, scores; or `accuracy>=0.91`.
        sure: in which share of bootstrap draws of dev the cascade keeps that; 0 = only dev as it is counts.
        teacher: a folder that predicts, or a model to run in torch.

    Returns:
        `verdict` and its `reason`; and where a cascade was made its `path`, of each of the `levels` its threshold, the
        share of dev that it passes on and the share of draws in which quality is `held`, `expected_ms`, `notes`, and
        the `entries` and `conditions` of `smidgen bench`.

    Raises:
        InputError: what was given cannot be used; nothing was written.
    """
    _refuse_out(out)
    if not 0 <= sure <= 1:
        raise InputError(f"sure: got {sure:g}, wanted a share from 0 to 1.")
    from smidgen.cascading import Job, needs_torch
    from smidgen.cascading import cascade as make
    from smidgen.data import Columns
    from smidgen.watch import Silent

    columns = Columns(text_column, text_pair_column, label_column, task_column)
    job = Job(tuple(map(Path, folders)), dev, test, min_quality, sure, teacher, metric, columns, calls)
    if needs_torch(job):
        need_training()
    return make(job, Path(out), watch or Silent())


def merge(base: str, delta: str | Path, out: str | Path, *, onnx: bool = False) -> dict[str, Any]:
    """The base with a delta in it, as a Hugging Face folder; with `onnx` it predicts without torch.

    Returns:
        The folder's record, as its smidgen.json has it.

    Raises:
        InputError: another base than the delta's, or no delta.
        ArtefactError: the delta is not whole.
    """
    _refuse_out(out)
    need_training()
    from smidgen.merging import merged

    return dict(merged(base, delta, out, onnx).record)


def read_delta(folder: str | Path) -> dict[str, Any]:
    """What a delta's delta.json says, once the delta has been found whole."""
    need_training()
    from smidgen.delta import read as read_whole

    found = read_whole(Path(folder))
    return {**found.record, "path": str(found.path)}


def import_delta(
    source: str,
    folder: str | Path,
    base: str,
    out: str | Path,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    multi_label: bool = False,
) -> dict[str, Any]:
    """A delta from a folder of another library, `peft` or `adapterhub`; gives what its delta.json says.

    multi_label: each output of a classifier's head is a decision of its own.

    Raises:
        InputError, ModelError: it computes another function, or on another base.
    """
    read_foreign = _exchange("--from", "from_", source)
    _refuse_taken(out)
    from smidgen.source import resolve

    source_of = resolve(base)
    return read_delta(read_foreign(Path(folder), source_of, Path(out), tuple(labels), max_length, multi_label))


def export_delta(target: str, folder: str | Path, base: str, out: str | Path) -> Path:
    """A delta as a folder of another library, `peft` or `adapterhub`; gives that folder.

    Raises:
        InputError: that library computes no such function.
        ModelError: another base than the delta's.
    """
    write_foreign = _exchange("--to", "to_", target)
    _refuse_taken(out)
    from smidgen.delta import read as read_whole
    from smidgen.source import resolve

    return Path(write_foreign(read_whole(Path(folder)), resolve(base), Path(out)))


def plan(recipe: str | Path | Recipe) -> Plan:
    """Check a recipe: a file, the name of a packaged one, or a Recipe.

    Raises:
        RecipeError: with every fault at once.
    """
    need_training()
    from smidgen.planner import plan as check

    return check(recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe)))


def run(
    recipe: str | Path | Recipe,
    out: str | Path = "out",
    *,
    watch: Watch | None = None,
    checkpoint_seconds: float = 60.0,
    trackers: Sequence[str] = (),
    on: str | None = None,
    ray_address: str | None = None,
    cores: int | None = None,
) -> list[Done]:
    """Run a recipe; artefacts are kept in `out/stages`, a folder per id, and are not made twice.

    Args:
        out: a folder, or a URL that fsspec opens, such as s3://bucket/run: artefacts are then made in this user's cache
            and kept there.
        trackers: any of TRACKERS; training is logged there too.
        on: `ray`: stages that do not wait for each other at once, on a Ray cluster, which sees `out` as this process
            does; None: here, one after the other.
        ray_address: of the cluster; None: as RAY_ADDRESS says, or a new one on this machine.
        cores: of the cluster, for each stage; None: one.
    """
    far = near(str(out)) if is_url(out) else None
    root = far.root if far else Path(out) / "stages"
    _refuse_out(root.parent if far else out)
    checked = plan(recipe)
    _refuse_trackers(trackers)
    from smidgen.hands import run as carry_out

    with _hands(on, ray_address, cores) as executor:
        return carry_out(checked, root, executor, watch, checkpoint_seconds, tuple(trackers), far)


def verify(out: str | Path, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Measure again what `out/report.json` claims of its winner: a list of `{claim, reported, measured, passed}`.

    docs/report.md lists the claims, and what is not measured again.
    """
    need_training()
    from smidgen.verification import verify as check

    return check(Path(out), watch)


def read_recipe(
    reference: str, model: str | None = None, files: Files | None = None, task: str | None = None
) -> Recipe:
    """A recipe from a file or by the name of a packaged one, with its model, data and task replaced where given."""
    known = packaged()
    path = known.get(reference, Path(reference))
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.y*ml")]
        hint = did_you_mean(reference, known) or did_you_mean(path.name, beside)
        have = f" Packaged are {', '.join(known)}." if known else ""
        raise RecipeError([f"no such file, and no packaged recipe of that name.{hint}{have}"], reference)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([f"not UTF-8 text (byte {error.start})."], reference) from error
    recipe, faults = read(text, reference)
    if recipe is None:
        raise RecipeError(faults, reference)
    name = reference if recipe.name == Recipe.name else recipe.name
    filled = replace(
        recipe, model=model or recipe.model, data=files or recipe.data, name=name, task=task or recipe.task
    )
    lacking = []
    if filled.model == "MODEL":
        lacking.append("it has no model of its own: give one with --model.")
    if filled.data.train == "TRAIN":
        lacking.append("it has no data of its own: give them with --train, and --dev, --test, --unlabeled.")
    if faults or lacking:
        raise RecipeError([*faults, *(lacking or _further(filled))], reference)
    return filled


def _further(recipe: Recipe) -> list[str]:
    """What a check of the recipe finds beside the faults of its text."""
    try:
        plan(recipe)
    except RecipeError as error:
        return list(error.faults)
    except InputError as error:
        return [str(error)]
    return []


def _as_path(reference: str) -> str:
    """A folder named like one of the search's own stages, written so that it cannot be taken for it."""
    from smidgen.shapes import STAGES

    return f"./{reference}" if reference in STAGES and Path(reference).is_dir() else reference


def _refuse_unknown(option: str, given: Sequence[str], known: Iterable[str]) -> None:
    known = tuple(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"{option} {name}: there is none of that name.{hint} Use one of {', '.join(map(shlex.quote, known))}."
            )


def _refuse_out(out: str | Path, option: str = "--out") -> None:
    if is_url(out):
        raise InputError(f"{option} {out}: only smidgen run keeps what it makes at a URL. Give a folder.")
    path = Path(out).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise InputError(
            f"{option} {out}: {there.name} is a file, wanted a folder or a name that is free. Give another."
        )
    if not os.access(there, os.W_OK):
        raise InputError(f"{option} {out}: nothing may be written in {there}. Give a folder that is yours.")


def _refuse_taken(out: str | Path) -> None:
    _refuse_out(out)
    if Path(out).is_dir() and any(Path(out).iterdir()):
        raise InputError(f"--out {out}: something is there. Give a name that is free, or delete it first.")


def _exchange(option: str, prefix: str, format: str) -> Callable[..., Any]:
    """The function that reads, or writes, a format of another library."""
    need_training()
    import smidgen.exchange as exchange

    known = [name.removeprefix(prefix) for name in exchange.__all__ if name.startswith(prefix)]
    if format not in known:
        raise InputError(
            f"{option} {format}: no such format.{did_you_mean(format, known)} Use one of {', '.join(known)}."
        )
    found: Callable[..., Any] = getattr(exchange, prefix + format)
    return found


def _refuse_trackers(names: Sequence[str]) -> None:
    import importlib.util

    _refuse_unknown("--track", names, TRACKERS)
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"--track {name}: it is not installed. Type: pip install {name}")


def _hands(on: str | None, ray_address: str | None, cores: int | None) -> AbstractContextManager[Executor | None]:
    """Who runs stages, while a block lasts; None = this process."""
    if on not in (None, "ray"):
        raise InputError(f"--on {on}: no such place. Write --on ray, or leave it out: this process then does it all.")
    if on is None and (ray_address or cores):
        raise InputError("--ray-address and --cores go with --on ray. Add it, or leave them out.")
    if on is None:
        return nullcontext()
    from smidgen.cluster import cluster

    return cluster(ray_address, cores or 1)


def _one_process(command: str) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"smidgen {command} is one process, which torchrun and accelerate launch cannot share out. Start it by "
            "itself; on a cluster, compress with --on ray. One training in several processes is smidgen run."
        )


def need_training() -> None:
    """Refuse what needs torch where only the runtime is installed."""
    import importlib.util

    lacking = [name for name in ("torch", "transformers", "accelerate", "yaml") if not importlib.util.find_spec(name)]
    if lacking:
        raise MissingExtra(
            f"This needs {', '.join(lacking)}, which the runtime alone does not install. Type: "
            "pip install 'smidgen[train]'"
        )
