"""The recipe, checked: `plan(recipe)` gives a Plan, or one error with every fault.

A plan knows each stage's methods with their settings, where it starts, who teaches it, how many steps it trains, and
the id of the artefact it makes: the hash of everything that its result depends on, and of nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smidgen.artefact import identity
from smidgen.checks import Check
from smidgen.data import Columns, Data, load_data
from smidgen.errors import InputError, ModelError, RecipeError, did_you_mean
from smidgen.method import Method, find, makes_texts, name_of, owns_stage, settings_of, trains
from smidgen.recipe import Recipe, Stage, Training, build
from smidgen.source import Source, check_whole, need_anatomy, resolve
from smidgen.tasks import TASKS, Task
from smidgen.tokens import cuts, fitting_length, length_limit

DATA = ("train", "unlabeled")  # parts that a stage's data names with + between, beside earlier data steps
SPLITS = (*DATA, "dev", "test", "model")  # no data step may have one of these names
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
CACHES = ("auto", "float32", "off")
SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Planned:
    """One stage, ready to run. `source` and `teachers` are ids of other planned stages, or references of models.

    `parts` is what it trains on or grows: `train`, `unlabeled`, or the id of a planned data step.
    """

    stage: Stage
    methods: tuple[Method[Any], ...]
    id: str
    source: str
    teachers: tuple[str, ...]
    seed: int
    trains: bool
    accepts: str
    leaves: str
    parts: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """Does what it leaves depend on the rows of its data?"""
        return self.trains or self.leaves == "texts" or any(m.needs.examples or m.needs.rows for m in self.methods)

    @property
    def teacher(self) -> str | list[str] | None:
        """As a recipe would write it: one, several or none."""
        return written(self.teachers)

    @property
    def remarks(self) -> list[str]:
        """What one has to know of what its methods make."""
        return [f"{name_of(method)}: {method.remark}" for method in self.methods if method.remark]


@dataclass(frozen=True)
class Plan:
    """A checked recipe with its data, its models by reference, and its stages in order."""

    recipe: Recipe
    data: Data
    models: Mapping[str, Source]
    stages: tuple[Planned, ...]
    max_length: int

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """What is to be known of the data, with what is cut of its texts. Each text is tokenised for that."""
        task, splits = self.data.task, (self.data.train, self.data.dev, self.data.test)
        cut = cuts(task, self.models[self.recipe.model].path, splits, self.max_length)
        return (*self.data.checks, *cut)

    def by_id(self, id: str) -> Planned | None:
        return next((planned for planned in self.stages if planned.id == id), None)


def plan(recipe: Recipe, data: Data | None = None) -> Plan:
    """Check a recipe and work out what it does.

    Args:
        data: the recipe's data where it is loaded already.

    Raises:
        RecipeError: with every fault of the recipe, its models and its data at once.
        ModelError, DataError: the only fault is one of a model or of the data.
    """
    faults: list[str] = []
    errors: list[InputError] = []
    _tasks(recipe, faults)
    methods = [_methods(stage, faults) for stage in recipe.stages]
    models = _models(recipe, errors)
    data = data or _data(recipe, models, errors)
    _teachers(recipe, models, faults)
    _whole(recipe, methods, models, data, errors)
    _names(recipe, faults)
    _data_steps(recipe, methods, models, faults)
    for stage, chosen in zip(recipe.stages, methods, strict=True):
        faults.extend(_stage_faults(recipe, stage, chosen, data))
    _forms(recipe, methods, faults)
    _refuse(recipe, faults, errors)
    assert data is not None
    max_length = _max_length(recipe, methods, models, data)
    planned = _identify(recipe, methods, models, data, max_length)
    _refuse(recipe, [*_misfits(planned, models), *_tokenizer_faults(data.task, planned, models)], [])
    return Plan(recipe, data, models, planned, max_length)


def written(teachers: tuple[str, ...]) -> str | list[str] | None:
    """One name as itself, several as a list."""
    return list(teachers) if len(teachers) > 1 else next(iter(teachers), None)


def resolved_model(stages: tuple[Planned, ...], reference: str) -> str:
    """Follow stages back to the model that a stage's tokenizer comes from."""
    found = next((p for p in stages if p.id == reference), None)
    return resolved_model(stages, found.source) if found else reference


# The parts of the check. Each adds to `faults` (of the recipe) or to `errors` (of models and data), and goes on.


def _refuse(recipe: Recipe, faults: list[str], errors: list[InputError]) -> None:
    """Everything in one error; a lone error of a model or of the data is raised as it is."""
    if len(errors) == 1 and not faults:
        raise errors[0]
    if faults or errors:
        raise RecipeError([*(str(error) for error in errors), *faults], recipe.name)


def _tasks(recipe: Recipe, faults: list[str]) -> None:
    if recipe.task not in TASKS:
        faults.append(f"task: got {recipe.task!r}, wanted one of {', '.join(TASKS)}.{did_you_mean(recipe.task, TASKS)}")
    for where, seed in (("seed", recipe.seed), *((f"stage {s.name}.seed", s.seed) for s in recipe.stages)):
        if seed is not None and not 0 <= seed < 2**32:
            faults.append(f"{where}: got {seed}, wanted a whole number from 0 up to 2**32.")
    if not recipe.stages:
        faults.append("stages: none. Write at least one, such as {methods: {tune.full: {}}}.")


def _methods(stage: Stage, faults: list[str]) -> tuple[Method[Any], ...]:
    made = []
    for use in stage.methods:
        where = f"stage {stage.name}, {use.method}"
        try:
            cls = find(use.method)
        except RecipeError as error:
            faults.extend(f"stage {stage.name}: {fault}" for fault in error.faults)
            continue
        method = build(cls, use.settings, f"{where}.", faults)
        if method is not None:
            faults.extend(f"{where}.{fault}" for fault in method.faults())
            made.append(method)
    return tuple(made)


def _models(recipe: Recipe, errors: list[InputError]) -> dict[str, Source]:
    stages = {stage.name for stage in recipe.stages}
    others = [*(s.source for s in recipe.stages), *(t for s in recipe.stages for t in s.teachers)]
    asked = [recipe.model, *(r for r in others if r and r not in stages and r != "model")]
    found: dict[str, Source] = {}
    for reference in dict.fromkeys(asked):
        try:
            found[reference] = resolve(reference)
        except ModelError as error:
            errors.append(ModelError(f"{error}{did_you_mean(reference, stages)}"))
    return found


def _data(recipe: Recipe, models: Mapping[str, Source], errors: list[InputError]) -> Data | None:
    files = recipe.data
    teachers = [t for s in recipe.stages for t in s.teachers] + [recipe.model]
    fitted = [models[t] for t in teachers if t in models and models[t].head == recipe.task]
    labels = next((source.labels for source in fitted if source.labels), None)
    try:
        return load_data(
            train=files.train,
            dev=files.dev,
            test=files.test,
            unlabeled=files.unlabeled,
            columns=Columns(files.text_column, files.text_pair_column, files.label_column, files.task_column),
            labels=labels,
            multi_label=files.multi_label,
            metric=files.metric,
            seed=max(recipe.seed, 0),
            task=recipe.task if recipe.task in TASKS else "classify",
        )
    except InputError as error:
        errors.append(error)
        return None


def _whole(
    recipe: Recipe,
    methods: list[tuple[Method[Any], ...]],
    models: Mapping[str, Source],
    data: Data | None,
    errors: list[InputError],
) -> None:
    """Models that stages start from can be taken apart; these and the teachers fit the labels of the data."""
    made = [s.source for s, chosen in zip(recipe.stages, methods, strict=True) if not any(map(makes_texts, chosen))]
    first, *later = made or [None]
    starts = {recipe.model if name in (None, "model") else name for name in (first, *filter(None, later))}
    for reference, source in models.items():
        try:
            if reference in starts and not source.is_own:
                need_anatomy(source)
            if data is not None and (reference in starts or source.head == data.task.name):
                check_whole(source, data.task)
        except ModelError as error:
            errors.append(error)


def _teachers(recipe: Recipe, models: Mapping[str, Source], faults: list[str]) -> None:
    for stage in recipe.stages:
        for name in stage.teachers:
            teacher = models.get(recipe.model if name == "model" else name)
            if teacher is not None and teacher.head != recipe.task:
                kind = f"has a head for another task ({teacher.head})" if teacher.head else "is a bare encoder"
                faults.append(
                    f"stage {stage.name}.teacher: {teacher.reference} {kind} and has no answers. Name a stage "
                    f"that trains it, or a model that was trained to {recipe.task}."
                )


def _names(recipe: Recipe, faults: list[str]) -> None:
    seen: set[str] = set()
    for stage in recipe.stages:
        if stage.name in seen:
            faults.append(f"stage {stage.name}: the name is taken. Give each stage a name of its own.")
        if stage.name == "model":
            faults.append("stage model: the name stands for the recipe's own model. Take another.")
        later = {s.name for s in recipe.stages} - seen
        for key, value in (("from", stage.source), *(("teacher", name) for name in stage.teachers)):
            if value in later:
                faults.append(f"stage {stage.name}.{key}: {value} does not come before it.")
        seen.add(stage.name)


def _stage_faults(recipe: Recipe, stage: Stage, methods: tuple[Method[Any], ...], data: Data | None) -> list[str]:
    where, faults = f"stage {stage.name}", []
    if not stage.methods:
        faults.append(f"{where}: no methods. Write at least one, such as methods: {{tune.full: {{}}}}.")
    parts = stage.data.split("+")
    if "unlabeled" in parts and recipe.data.unlabeled is None and (data is None or data.unlabeled is None):
        faults.append(f"{where}.data: wants unlabeled texts, the recipe's data has none. Write data.unlabeled: FILE.")
    for method in methods:
        if method.needs.teacher and not stage.teachers:
            faults.append(f"{where}: {name_of(method)} needs a teacher. Write teacher: STAGE or a model.")
        if method.needs.inside and len(stage.teachers) > 1:
            faults.append(
                f"{where}: {name_of(method)} looks inside the teacher, got {len(stage.teachers)} of them. Only "
                "logits can be averaged: name one teacher, or use distil.logits alone."
            )
        if method.needs.training and not any(trains(other) for other in methods if other is not method):
            faults.append(f"{where}: {name_of(method)} acts while a stage trains. Add what has a loss, as tune.full.")
        if method.reads_labels() and "train" not in parts and recipe.task != "mask_language":
            faults.append(f"{where}: {name_of(method)} needs labels, the stage trains on unlabeled texts.")
        if method.needs.examples and not stage.teachers and "train" not in parts and recipe.task != "mask_language":
            faults.append(
                f"{where}: {name_of(method)} needs labels or a teacher, the stage reads unlabeled texts. Write "
                "data: train, or teacher: STAGE or a model."
            )
    faults.extend(_task_faults(recipe, where, methods))
    faults.extend(_together(where, methods))
    return faults + [f"{where}.train.{fault}" for fault in _training_faults(stage.train)]


def _together(where: str, methods: tuple[Method[Any], ...]) -> list[str]:
    """Why methods cannot share a stage."""
    faults: list[str] = []
    if len(methods) > 1 and any(owns_stage(method) for method in methods):
        own = next(name_of(method) for method in methods if owns_stage(method))
        faults.append(f"{where}: {own} needs a stage of its own.")
    for method in methods:
        others = [other for other in methods if other is not method]
        faults.extend(f"{where}, {name_of(method)}: {why}" for why in method.clashes(others))
    shaping = [name_of(method) for method in methods if method.reshapes()]
    if len(shaping) > 1:
        faults.append(
            f"{where}: {' and '.join(shaping)} each cut, skip or replace parts while the stage trains. Give each a "
            "stage of its own."
        )
    makers = [name_of(method) for method in methods if method.new_model]
    if len(makers) > 1:
        faults.append(f"{where}: {' and '.join(makers)} each make a model. Give each a stage of its own.")
    return faults


def _data_steps(
    recipe: Recipe, methods: list[tuple[Method[Any], ...]], models: Mapping[str, Source], faults: list[str]
) -> None:
    """Each stage's data names splits and earlier data steps; a data step is no model, and fits where it starts from."""
    steps: list[str] = []
    for stage, chosen in zip(recipe.stages, methods, strict=True):
        where, known = f"stage {stage.name}", (*DATA, *steps)
        parts = stage.data.split("+")
        for part in parts:
            if part not in known:
                faults.append(
                    f"{where}.data: got {part!r}, wanted {', '.join(known)}, or some of them with + between."
                    f"{did_you_mean(part, known)}"
                )
        if len(set(parts)) < len(parts):
            faults.append(f"{where}.data: got {stage.data!r}, which names a part twice. Name each once.")
        for key, value in (("from", stage.source), *(("teacher", name) for name in stage.teachers)):
            if value in steps:
                faults.append(f"{where}.{key}: {value} is a data step and leaves texts, no model. Name it in data.")
        if not any(map(makes_texts, chosen)):
            continue
        steps.append(stage.name)
        if stage.name in SPLITS or "+" in stage.name:
            faults.append(f"{where}: a data step cannot have this name. Take another, without +, such as grown.")
        if stage.teacher is not None:
            faults.append(
                f"{where}.teacher: a data step asks no teacher. Give it to the stage that trains on the texts."
            )
        start = models.get(recipe.model if stage.source in (None, "model") else stage.source or "")
        if start is not None:
            faults.extend(f"{where}, {name_of(m)}: {why}" for m in chosen for why in m.misfits(start))


def _task_faults(recipe: Recipe, where: str, methods: tuple[Method[Any], ...]) -> list[str]:
    faults = []
    for method in methods:
        if method.needs.task not in ("", recipe.task):
            faults.append(
                f"{where}: {name_of(method)} is for the task {method.needs.task}, got {recipe.task}. Write "
                f"task: {method.needs.task}, or take another method."
            )
        if recipe.task == "mask_language" and method.leaves == "onnx":
            faults.append(
                f"{where}: {name_of(method)} makes a graph that predicts, and a masked-language model predicts nothing "
                "that is wanted. Drop it, and give the folder as the model of a recipe for another task."
            )
    return faults


def _training_faults(training: Training) -> list[str]:
    faults = []
    for name in ("epochs", "learning_rate", "batch_size", "evaluations", "micro_tokens"):
        if not 0 < getattr(training, name) < math.inf:
            faults.append(f"{name}: got {getattr(training, name)}, wanted more than 0, and finite.")
    for name in ("weight_decay", "clip", "patience"):
        if not 0 <= getattr(training, name) < math.inf:
            faults.append(f"{name}: got {getattr(training, name)}, wanted at least 0, and finite.")
    if not 0 <= training.warmup < 1:
        faults.append(f"warmup: got {training.warmup}, wanted a share from 0 up to 1.")
    for name, known in (("precision", PRECISIONS), ("schedule", SCHEDULES), ("cache", CACHES)):
        value = getattr(training, name)
        if value not in known:
            faults.append(f"{name}: got {value!r}, wanted one of {', '.join(known)}.{did_you_mean(value, known)}")
    if training.precision in ("bfloat16", "float16"):
        from smidgen.halves import refused

        if why := refused(training.precision):
            faults.append(f"precision: got '{training.precision}', but {why}: it would be emulated. Write auto.")
    return faults


def _forms(recipe: Recipe, methods: list[tuple[Method[Any], ...]], faults: list[str]) -> None:
    left: dict[str | None, str] = {"model": "float"}
    before = "float"
    for stage, chosen in zip(recipe.stages, methods, strict=True):
        form = left.get(stage.source, "float") if stage.source else before
        if any(map(makes_texts, chosen)):
            continue
        for method in chosen:
            if method.accepts != form:
                hint = " Put a stage with export.onnx before it." if method.accepts == "onnx" else ""
                faults.append(f"stage {stage.name}: {name_of(method)} takes {method.accepts}, got {form}.{hint}")
            form = method.leaves
        left[stage.name] = before = form


def _max_length(
    recipe: Recipe, methods: list[tuple[Method[Any], ...]], models: Mapping[str, Source], data: Data
) -> int:
    """The tokens that texts are cut at: no more than the model takes, or than any other that reads them has places.

    A teacher's tokenizer states the length of its own training, counted in its own tokens: no limit of another's.
    """
    taken = sum(method.places for chosen in methods for method in chosen)
    limits = {name: length_limit(each.path, taken, stated=name == recipe.model) for name, each in models.items()}
    model, least = models[recipe.model], 5 if data.task.name == "answer" else 4
    binding = min(limits, key=lambda name: (limits[name], name != recipe.model))
    limit, who = limits[binding], "the model" if binding == recipe.model else binding
    beside = f" beside the {taken} places of a prompt" if taken else ""
    if recipe.data.max_length is None and limit >= least:
        return min(limit, fitting_length(data.task, model.path, data.train.texts, data.train.pairs, taken))
    if recipe.data.max_length is None or not least <= recipe.data.max_length <= limit:
        got = f"data.max_length: got {recipe.data.max_length}, {who} takes {least} to {limit}{beside}."
        raise RecipeError([got], recipe.name)
    return recipe.data.max_length


def _identify(
    recipe: Recipe, methods: list[tuple[Method[Any], ...]], models: Mapping[str, Source], data: Data, max_length: int
) -> tuple[Planned, ...]:
    ids: dict[str | None, str] = {"model": recipe.model}
    steps: dict[str, str] = {}
    done: list[Planned] = []
    before = recipe.model
    for stage, chosen in zip(recipe.stages, methods, strict=True):
        grows = any(map(makes_texts, chosen))
        source = ids.get(stage.source, stage.source) if stage.source else recipe.model if grows else before
        teachers = tuple(ids.get(name, name) for name in stage.teachers)
        assert source is not None
        seed = recipe.seed if stage.seed is None else stage.seed
        read = tuple(steps.get(name, name) for name in stage.data.split("+"))
        training, measures = any(map(trains, chosen)), any(method.needs.examples for method in chosen)
        parts: dict[str, Any] = {
            "source": models[source].id if source in models else source,
            "methods": [[name_of(m), m.version, {**settings_of(m), **m.reads()}] for m in chosen],
        }
        if grows:
            parts |= {"seed": seed} | _prints(read, ("dev", "test"), data)
        else:
            parts["task"] = [*_of_task(data.task), max_length]
        if source in models or any(method.new_model for method in chosen):
            parts["seed"] = seed  # what the model lacks is drawn from it
        if any(method.new_tokenizer for method in chosen):
            parts["vocabulary"] = _prints(read, (), data)
        if any(method.looks() for method in chosen):
            parts["looked"] = _prints((), ("dev",), data)
        if training:
            parts |= _training_parts(stage, read, data, seed)
        elif measures or any(method.needs.rows for method in chosen):
            parts |= {"seed": seed} | _prints(read, (), data)
        if training or measures:
            parts["teacher"] = written(tuple(models[name].id if name in models else name for name in teachers))
        id = identity(parts)
        accepts = chosen[0].accepts if chosen else "float"
        leaves = chosen[-1].leaves if chosen else "float"
        done.append(Planned(stage, chosen, id, source, teachers, seed, training, accepts, leaves, read))
        ids[stage.name] = id
        if grows:
            steps[stage.name] = id
        else:
            before = id
    return tuple(done)


def _misfits(stages: tuple[Planned, ...], models: Mapping[str, Source]) -> list[str]:
    """Why methods cannot work on what a model given brings along; a stage that makes a model has one of its own."""
    faults: list[str] = []
    made: set[str] = set()
    for planned in stages:
        if planned.source in made or any(method.new_model for method in planned.methods):
            made.add(planned.id)
        elif planned.leaves != "texts":
            start = models[resolved_model(stages, planned.source)]
            told = ((name_of(method), why) for method in planned.methods for why in method.misfits(start))
            faults.extend(f"stage {planned.stage.name}, {name}: {why}" for name, why in told)
    return faults


def _of_task(task: Task) -> list[Any]:
    """What a model's shape and answers depend on; the metric is not part of it."""
    told = {name: value for name, value in task.to_data().items() if name != "metric"}
    return list(told.values())


def _training_parts(stage: Stage, read: tuple[str, ...], data: Data, seed: int) -> dict[str, Any]:
    from smidgen.halves import resolved

    training = dataclasses.asdict(stage.train) | {"precision": resolved(stage.train.precision)}
    if stage.train.cache == "auto":
        del training["cache"]  # ids are older than this setting
    return {"train": training, "metric": data.task.metric, "seed": seed} | _prints(read, ("dev",), data)


def _prints(read: tuple[str, ...], beside: tuple[str, ...], data: Data) -> dict[str, Any]:
    """What is read: fingerprints of splits, ids of data steps."""
    used = {"train": data.train, "unlabeled": data.unlabeled, "dev": data.dev, "test": data.test}
    prints = {name: split.fingerprint for name in (*read, *beside) if (split := used.get(name)) is not None}
    grown = [part for part in read if part not in used]
    return {"data": prints, "grown": grown} if grown else {"data": prints}


def _tokenizer_faults(task: Task, stages: tuple[Planned, ...], models: Mapping[str, Source]) -> list[str]:
    faults = []
    advice = (
        "Use distil.logits, which compares answers, or a student that keeps its teacher's tokens, as student.bilstm "
        "does with vocabulary: full."
    )
    tokens = task.name in ("answer", "mask_language")  # are what is answered
    if tokens:
        advice = "Take a student that starts from its teacher."
    for planned in stages:
        needs = [(name_of(method), method.needs) for method in planned.methods]
        answered = [name for name, need in needs if need.teacher or need.examples] if tokens else []
        strict = [*answered, *(name for name, need in needs if need.same_tokenizer or need.online)]
        for teacher in planned.teachers if strict else ():
            own, own_name = _tokenizer(planned.id, stages, models)
            other, other_name = _tokenizer(teacher, stages, models)
            if own != other:
                faults.append(
                    f"stage {planned.stage.name}: {strict[0]} compares tokens, but teacher ({other_name}) and "
                    f"student ({own_name}) cut texts differently. {advice}"
                )
            elif task.name == "mask_language":
                both = (resolved_model(stages, reference) for reference in (teacher, planned.source))
                theirs, mine = (models[reference].config.get("vocab_size") for reference in both)
                if theirs != mine:
                    faults.append(
                        f"stage {planned.stage.name}: the teacher gives {theirs} logits a token, the student {mine}: "
                        f"one vocabulary is padded. {advice}"
                    )
    return faults


def _tokenizer(reference: str, stages: tuple[Planned, ...], models: Mapping[str, Source]) -> tuple[str, str]:
    """What tells a tokenizer from others, and where it comes from in words: a model, or a stage that makes its own."""
    found = next((p for p in stages if p.id == reference), None)
    if found is None:
        return models[reference].tokenizer_id, models[reference].reference
    maker = next((name_of(method) for method in found.methods if method.new_tokenizer), None)
    if maker is not None:
        return found.id, f"{maker}, with its own vocabulary"
    return _tokenizer(found.source, stages, models)
