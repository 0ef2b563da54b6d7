"""What a model takes on this machine, measured before anything is trained.

Shapes with untrained weights as int8 graphs, text in to answer out at this data's lengths: the model whole, with fewer
blocks, and students without any; the tokenizer alone; the memory of a process that predicts; and the first steps of
fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.budget import Budget
from smidgen.data import Data, Split
from smidgen.errors import OutOfTime
from smidgen.facts import Encoder, Machine, Measured, Timed
from smidgen.lexicon import count, cut, endless
from smidgen.loop import Rows, batches, train
from smidgen.measure import entries
from smidgen.measure.memory import forget_peak, memory, peak_mb
from smidgen.measure.speed import Latency, latency
from smidgen.method import Context, find
from smidgen.planner import Plan, plan
from smidgen.reading import texts_of
from smidgen.recipe import Recipe, Stage, Use
from smidgen.roads import PER_NUMBER, ROOM
from smidgen.runner import run
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes
from smidgen.runtime.machine import cuts_off
from smidgen.source import Source, load_model
from smidgen.tasks import Classify, Several
from smidgen.tokens import encode, open_tokenizer, pad_id
from smidgen.tuning import HABITS
from smidgen.watch import Bar, Watch

CUT = 3  # blocks of the shape that is cut
STEPS, ENOUGH = 6, 8.0  # steps of training that are timed, and seconds after which fewer will do
WORDS = {"whole": "the whole model", "bilstm": "a BiLSTM", "cnn": "a CNN", "static": "a static student"}
ALONE = 0.9  # of a processor, that a timing has where nothing else runs


def measure(planned: Plan, model: Encoder, machine: Machine, budget: Budget, folder: Path, watch: Watch) -> Measured:
    """See the module's text. `planned` has the model and its data, read and checked; `folder` is for what is made."""
    data, source = planned.data, planned.models[planned.recipe.model]
    pace, peak = (None, None)
    if machine.free_mb is None or model.numbers * PER_NUMBER / 1e6 <= ROOM * machine.free_mb:
        watch.say("Timing the first steps of fine-tuning")
        pace, peak = training(planned, source, folder / "steps")
    watch.say("Building shapes with untrained weights, to see what they take")
    folders: dict[str, Path] = {}
    kinds = probes(source, data)
    with watch.bar("building", len(kinds)) as bar:
        for number, (kind, methods) in enumerate(kinds.items(), 1):
            made = run(plan(probe(planned, kind, methods), data), folder / "stages")
            folders[kind] = made[-1].artefact.path
            bar.to(number, kind)
    rows = entries.timed_texts(data.dev)
    watch.say("Timing them")
    timed, tokenizer, had = timing(folders, rows, budget.calls)
    whole, *others = (shape(name, model.blocks, folders[name], timed[name]) for name in folders)
    ran = memory(folders["whole"], *entries.two_lists(rows[:64]))
    return Measured(
        whole=whole,
        cut=next((one for one in others if one.kind == "cut"), None),
        small=tuple(one for one in others if one.kind != "cut"),
        tokenizer_ms=tokenizer,
        had=had,
        bare_mb=float(ran.conditions["baseline_mb"]),
        run_mb=float(ran.value),
        texts_per_s=pace,
        train_mb=peak,
        **vocabulary(source, data),
    )


def probes(source: Source, data: Data) -> dict[str, tuple[Use, ...]]:
    """What makes each of the shapes that are timed."""
    kinds: dict[str, tuple[Use, ...]] = {"whole": ()}
    if source.blocks > 1:
        kinds["cut"] = (Use("prune.layers", {"keep": min(CUT, source.blocks // 2)}),)
    return kinds | {kind: (Use(f"student.{kind}"),) for kind in without_blocks(data)}


def without_blocks(data: Data) -> tuple[str, ...]:
    """The students without blocks that there are for such data, the best first; none finds answers."""
    if data.task.name == "answer":
        return ()
    if data.train.pairs is not None:
        return ("bilstm",)
    return ("bilstm", "static") if data.task.name == "tag" else ("cnn", "static")


def probe(planned: Plan, kind: str, methods: tuple[Use, ...]) -> Recipe:
    """A shape as it is before training, as an int8 graph."""
    made = [Stage("made", methods)] if methods else []
    stages = (*made, Stage("onnx", (Use("export.onnx"),)), Stage("int8", (quantised(),)))
    files = replace(planned.recipe.data, max_length=planned.max_length)
    return replace(planned.recipe, data=files, stages=stages, name=kind)


def quantised() -> Use:
    """Dynamic int8, a bit less wide where this processor would overflow."""
    return Use("quant.dynamic", {"reduce_range": True} if cuts_off() else {})


def timing(folders: Mapping[str, Path], rows: list[entries.Row], calls: int) -> tuple[dict[str, Latency], float, float]:
    """Latency of the folders side by side in one run, the median milliseconds of the tokenizer of the first, and
    how much of a processor all that had."""
    models = {name: load(folder) for name, folder in folders.items()}
    first = next(iter(models.values()))

    def predict(model: Any) -> Any:
        return lambda row: model.predict([row[0]], None if row[1] is None else [row[1]])

    def tokenise(row: entries.Row) -> object:
        if isinstance(first.task, Classify | Several):
            return first.encoder.ids([row[0] if row[1] is None else row])
        return first.task.encode(first.encoder.tokenizer, *entries.two_lists([row]), first.max_length)

    timed = {**{name: predict(model) for name, model in models.items()}, "ids": tokenise}
    began, busy = time.perf_counter(), time.process_time()
    found = latency(timed, rows, calls=calls)
    had = (time.process_time() - busy) / (time.perf_counter() - began)
    return found, found["ids"].p50_ms, min(had, 1.0)


def restless(measured: Measured) -> str:
    """A sentence where the timing had to share its processors; "" where it had not."""
    if measured.had >= ALONE:
        return ""
    return (
        f"Something else was running: the timing had {measured.had:.0%} of a processor. Ask again on a quiet machine "
        "before you rely on these times."
    )


def shape(kind: str, blocks: int, folder: Path, timed: Latency) -> Timed:
    """A probe with its numbers."""
    kept = {"whole": blocks, "cut": min(CUT, blocks // 2)}.get(kind, 0)
    name = ("1 block" if kept == 1 else f"{kept} blocks") if kind == "cut" else WORDS[kind]
    size = deployed_bytes(folder) / 1e6
    return Timed(name, kind, kept, timed.p50_ms, timed.p95_ms, size, timed.p99_ms)


@dataclass
class Steps:
    """A Watch that notes when steps of training end, and stops it once enough have."""

    ends: list[float] = field(default_factory=list)

    def say(self, text: str) -> None:
        return None

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Bar]:
        yield self

    def to(self, done: float, note: str = "") -> None:
        self.ends.append(time.monotonic())
        if len(self.ends) > STEPS or (len(self.ends) > 2 and self.ends[-1] - self.ends[0] > ENOUGH):
            raise OutOfTime("enough steps were timed")


def training(planned: Plan, source: Source, work: Path) -> tuple[float, float | None]:
    """Texts a second of fine-tuning all of the model, after its first step; and the peak of this process in MB."""
    task, settings = planned.data.task, HABITS["full"]
    some = planned.data.train.take(np.arange(min(len(planned.data.train), 2 * STEPS * settings.batch_size)))
    encoded = encode(task, source.path, some.texts, some.pairs, planned.max_length)
    rows = Rows(encoded, task.targets(encoded, some.texts, some.labels), pad_id(source.path), split=some)
    forget_peak()
    ctx = Context(source.path, work, task, (), 0, load_model(source, task, 0))
    full: Any = find("tune.full")()
    order = [step for _ in range(STEPS + 2) for step in batches(encoded.lengths, replace(settings, epochs=1), 0)]
    steps = Steps()
    with suppress(OutOfTime):
        train([(full, full.begin(ctx))], ctx, rows, rows, settings, work, steps, order=order[: STEPS + 2])
    counted = sum(len(step) for step in order[1 : len(steps.ends)])
    pace = counted / (steps.ends[-1] - steps.ends[0]) * len(some) / len(encoded)
    return pace, peak_mb()


def vocabulary(source: Source, data: Data) -> dict[str, Any]:
    """What prune.vocab would leave for train and unlabelled texts, and MB of an int8 folder that go with the rest."""
    if any(find("prune.vocab")().misfits(source)):
        return {}
    before = endless(open_tokenizer(source.path))
    counts = count(before, _corpus(data.train, data.unlabeled))
    width = int(
        source.config.get("embedding_size") or source.config.get("hidden_size") or source.config.get("dim") or 0
    )
    after, kept = cut(before, map(int, counts.nonzero()[0]), None)
    tokens = before.get_vocab_size()
    spared = (tokens - len(kept)) * width + len(before.to_str()) - len(after.to_str())
    return {"tokens": tokens, "used": len(kept), "spared_mb": max(spared, 0) / 1e6}


def _corpus(*splits: Split | None) -> Iterable[str]:
    return (text for split in splits if split is not None for text in texts_of(split))
