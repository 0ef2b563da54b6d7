"""`smidgen advise`: what a model, its data and this machine are, a few measurements that decide, and the recipe that
follows from them by the rules of smidgen.roads. Nothing is kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.budget import Budget
from smidgen.caveats import foreseen, near
from smidgen.checks import Check, floor
from smidgen.data import Data
from smidgen.facts import Encoder, Facts, Machine, Texts
from smidgen.measure.environment import memory_free, memory_total
from smidgen.planner import plan
from smidgen.probing import measure, quantised, restless
from smidgen.recipe import Files, Recipe, Stage, Training, Use, dump
from smidgen.repeats import repeated
from smidgen.roads import COPIES, EPOCHS, Course, Road, course, expected, roads, takes
from smidgen.runtime.machine import cpu, features, usable_cores
from smidgen.source import Source
from smidgen.tasks import Answer, MaskLanguage
from smidgen.tokens import length_limit, mask_token, whole_lengths
from smidgen.tuning import HABITS, long_enough, way_of
from smidgen.watch import Silent, Watch

LENGTHS = (64, 128, 256, 512)  # tokens at which a cut is weighed
COMPARED = 60_000  # rows of train and test, in all, whose likeness is looked for
STUDENT = {  # by kind
    "cut": Training(epochs=EPOCHS["student"], learning_rate=2e-4),
    **dict.fromkeys(("bilstm", "cnn", "static"), Training(epochs=EPOCHS["student"], learning_rate=1e-3, batch_size=64)),
}


@dataclass(frozen=True)
class Job:
    """What is asked."""

    model: str
    files: Files
    budget: Budget
    task: str = "classify"
    tasks: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Advised:
    """What was found, and what follows from it."""

    facts: Facts
    checks: tuple[Check, ...]
    roads: tuple[Road, ...]
    course: Course
    recipe: Recipe
    seconds: float
    notes: tuple[str, ...] = ()
    training_s: float | None = None  # that the recipe would take here

    def to_data(self) -> dict[str, Any]:
        """As --json prints it."""
        return {
            "facts": asdict(self.facts) | {"budget": self.facts.budget.to_data()},
            "checks": [check.to_data() for check in self.checks],
            "roads": [asdict(road) for road in self.roads],
            "notes": list(self.notes),
            "recipe": dump(self.recipe),
            "training_s": self.training_s,
            "seconds": round(self.seconds, 1),
        }


def advise(job: Job, watch: Watch | None = None) -> Advised:
    """Look at what was given, measure, and say what to do.

    Raises:
        InputError: the model, the data or a setting; the message says which.
    """
    started, watch = time.monotonic(), watch or Silent()
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(Recipe(job.model, job.files, (Stage("onnx", (Use("export.onnx"),)),), job.task, job.seed))
        source, data = planned.models[job.model], planned.data
        model = encoder(source, data)
        texts = told(data, source, planned.max_length)
        machine = Machine(cpu(), usable_cores(), features(), memory_total(), memory_free())
        measured = measure(planned, model, machine, job.budget, Path(folder), watch)
    facts = Facts(model, texts, machine, measured, job.budget, job.tasks)
    found = roads(facts)
    chosen = course(facts, found)
    watch.say("Comparing the texts of test with those of train")
    checks = (*planned.checks, *alike(data, watch), *foreseen(data.test or data.dev, job.budget.quality))
    made = recipe(facts, chosen, job)
    notes = tuple(filter(None, (restless(measured), expected(facts, chosen))))
    seconds = time.monotonic() - started
    return Advised(facts, checks, tuple(found), chosen, made, seconds, notes, takes(facts, chosen))


# Facts that are read.


def encoder(source: Source, data: Data) -> Encoder:
    """The model, from its config and the headers of its weights."""
    config = source.config
    hidden = int(config.get("hidden_size") or config.get("dim") or 0)
    table = int(config.get("vocab_size") or 0) * int(config.get("embedding_size") or hidden)
    trained, mask = source.head == data.task.name, mask_token(source.path) is not None
    limit = length_limit(source.path)
    return Encoder(
        source.reference, source.family, source.blocks, hidden, source.parameters, table, limit, trained, mask
    )


def told(data: Data, source: Source, max_length: int) -> Texts:
    """The data, in numbers."""
    task, train, judged = data.task, data.train, data.test or data.dev
    lengths, limit = whole_lengths(source.path, train), length_limit(source.path)
    counts = {} if isinstance(task, Answer | MaskLanguage) or train.labels is None else task.counted(train.labels)
    at = sorted({limit, *(length for length in LENGTHS if length < limit)})
    return Texts(
        task=task.name,
        metric=task.metric,
        classes=len(counts),
        train=len(train),
        dev=len(data.dev),
        test=len(data.test or ()),
        unlabeled=len(data.unlabeled or ()),
        pairs=task.name != "answer" and train.pairs is not None,
        rarest=min(counts.items(), key=lambda item: item[1]) if counts else None,
        floor=floor(task, train, judged),
        mean=float(lengths.mean()),
        p50=int(np.percentile(lengths, 50)),
        p95=int(np.percentile(lengths, 95)),
        longest=int(lengths.max()),
        max_length=max_length,
        lost={most: float((lengths - most).clip(0).sum() / lengths.sum()) for most in at},
        over=float((lengths > limit).mean()),
    )


def alike(data: Data, watch: Watch) -> Iterator[Check]:
    """Rows of test that are nearly rows of train, unless there are too many to compare in a moment."""
    if data.test is None:
        return
    if len(data.test) + len(data.train) > COMPARED:
        watch.say(f"More than {COMPARED:,} rows: texts that are nearly alike are looked for by smidgen compress.")
        return
    yield from near(data.test, data.train, repeated(data.test, data.train))


# The recipe.


def recipe(facts: Facts, chosen: Course, job: Job) -> Recipe:
    """What the course says, as stages that `smidgen run` takes."""
    stages = list(_stages(facts, chosen))
    return Recipe(job.model, job.files, tuple(stages), job.task, job.seed, "advised")


def _stages(facts: Facts, chosen: Course) -> Iterator[Stage]:
    def trained(training: Training) -> Training:
        epochs = max(round(training.epochs * chosen.shorter, 2), 0.1)
        return replace(training, epochs=epochs, micro_tokens=chosen.micro_tokens or training.micro_tokens)

    teacher = "model"
    if chosen.deltas or not facts.model.trained:
        teacher = "tuned" if chosen.deltas else "teacher"
        way = long_enough(way_of(chosen.tuned), facts.texts.train)
        yield Stage(teacher, _tuned(chosen), train=trained(way.training))
    if chosen.window:
        local = {"groups": 1.0, "rate": 0.3, "successor": "local", "window": chosen.window}
        full = HABITS["full"]
        yield Stage("local", (Use("replace.theseus", local), Use("tune.full")), train=trained(replace(full, epochs=2)))
        teacher = "mended"
        yield Stage(teacher, (Use("tune.full"),), train=trained(replace(full, epochs=1, learning_rate=5e-5)))
    if chosen.vocabulary and chosen.student in ("", "cut"):
        yield Stage("fewer-tokens", (Use("prune.vocab"),), data="train+unlabeled" if facts.texts.unlabeled else "train")
        teacher = "fewer-tokens"
    if chosen.student and not chosen.deltas:
        yield from _student(facts, chosen, teacher, trained)
    yield Stage("onnx", (Use("export.onnx"),))
    yield Stage("int8", (quantised(),))


def _tuned(chosen: Course) -> tuple[Use, ...]:
    if chosen.tuned != "full":
        return Use("tune.full"), Use(f"tune.{chosen.tuned}")
    return (Use("tune.full"), *([Use("tune.freeze", {"blocks": chosen.frozen})] if chosen.frozen else ()))


def _student(facts: Facts, chosen: Course, teacher: str, trained: Callable[[Training], Training]) -> Iterator[Stage]:
    parts = ["train", *(["unlabeled"] if facts.texts.unlabeled else ()), *(["grown"] if chosen.grown else ())]
    if chosen.grown:
        more = {} if facts.model.mask else {"mask": 0.0}
        yield Stage("grown", (Use("data.noise", {"copies": COPIES, **more}),), data="train")
    learnt = Use("distil.logits", {"loss_kind": "mse"})
    if chosen.student == "cut":
        cut_off = Use("prune.layers", {"keep": chosen.blocks})
        methods: tuple[Use, ...] = (cut_off, learnt, Use("distil.hidden", {"mapping": "uniform"}))
    else:
        methods = (Use(f"student.{chosen.student}"), learnt)
    yield Stage("student", methods, teacher=teacher, data="+".join(parts), train=trained(STUDENT[chosen.student]))
