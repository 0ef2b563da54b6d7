"""Run a plan: fold its stages, from one artefact folder to the next, and skip what is on disk."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.artefact import Artefact, Store, alone, open_artefact, publish
from smidgen.corpus import Corpus, read_grown
from smidgen.errors import SmidgenError
from smidgen.masking import masker
from smidgen.method import Context, makes_texts, name_of, owns_stage, settings_of, trains
from smidgen.planner import Plan, Planned
from smidgen.prices import Macs, Meter
from smidgen.source import Source, resolve
from smidgen.tasks import MaskLanguage, Tag
from smidgen.tokens import encode, pad_id, write_tokenizer
from smidgen.watch import Silent, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from smidgen.batch import Batch
    from smidgen.data import Split
    from smidgen.loop import History, Rows, Running
    from smidgen.teacher import Labels, Teacher

CHECKED_ROWS = 64  # rows of dev that exports and reloads are compared on


@dataclass(frozen=True)
class Done:
    """A stage after its run."""

    planned: Planned
    artefact: Artefact
    reused: bool
    seconds: float

    @property
    def remarks(self) -> list[str]:
        """What has to be said of it, what was measured on its folder included."""
        return list(self.artefact.record["lineage"][-1].get("remarks", ()))


def run(
    plan: Plan,
    root: Path,
    watch: Watch | None = None,
    checkpoint_seconds: float = 60.0,
    trackers: tuple[str, ...] = (),
) -> list[Done]:
    """Run every stage of a plan, in order; artefacts are kept under `root`, a folder per id.

    A stage whose artefact is there is not run again. A run that was killed goes on where it was. Two runs cannot work
    under one `root` at the same time.
    """
    watch = watch or Silent()
    store = Store(root)
    done: list[Done] = []
    with alone(root) if _main_process() else nullcontext():
        if _main_process():
            store.sweep()
        for planned in plan.stages:
            started = time.monotonic()
            found = store.find(planned.id)
            _wait()  # every process has looked before one publishes
            if found is None:
                watch.say(f"{planned.stage.name}: {describe(planned)}")
            artefact = found or run_stage(plan, planned, store, watch, checkpoint_seconds, trackers)
            done.append(Done(planned, artefact, found is not None, time.monotonic() - started))
    return done


def describe(planned: Planned) -> str:
    """A stage in a few words: its methods and the settings that are not at their default."""
    words = []
    for use in planned.stage.methods:
        settings = ", ".join(f"{k}={v}" for k, v in use.settings.items())
        words.append(f"{use.method}({settings})" if settings else use.method)
    return " + ".join(words)


def source_of(plan: Plan, store: Store, reference: str) -> Source:
    """The folder behind a planned stage's id or a model's reference."""
    return plan.models[reference] if reference in plan.models else resolve(str(store.path(reference)))


def run_stage(
    plan: Plan,
    planned: Planned,
    store: Store,
    watch: Watch,
    checkpoint_seconds: float,
    trackers: tuple[str, ...] = (),
) -> Artefact:
    """From the source folder to the stage's own, published when it is whole."""
    started = time.monotonic()
    source = source_of(plan, store, planned.source)
    record = _record(plan, planned, source)
    owner = next((method for method in planned.methods if owns_stage(method)), None)
    if owner is None:
        _train_stage(plan, planned, store, source, record, watch, checkpoint_seconds, trackers)
    elif _main_process():
        with publish(store.path(planned.id), record) as target:
            ctx = _context(plan, planned, source, target)
            if makes_texts(owner):
                ctx.corpus = _corpus(plan, planned, store, watch)
            else:
                _carry_over(source.path, target, plan.max_length)
            found = owner.run(ctx)  # type: ignore[attr-defined]
            record |= {"found": found or {}, "seconds": time.monotonic() - started}
        shutil.rmtree(store.work(planned.id), ignore_errors=True)
    _wait()
    return open_artefact(store.path(planned.id))


def _train_stage(
    plan: Plan,
    planned: Planned,
    store: Store,
    source: Source,
    record: dict[str, Any],
    watch: Watch,
    checkpoint_seconds: float,
    trackers: tuple[str, ...],
) -> None:
    import torch

    from smidgen.loop import make_accelerator, train
    from smidgen.source import load_model
    from smidgen.surgery import to_data

    started, work = time.monotonic(), store.work(planned.id)
    ctx = _context(plan, planned, source, store.root)
    ctx.model = load_model(source, plan.data.task, planned.seed)
    ctx.training_texts = lambda: _texts_of(training_split(plan, planned, store))
    ctx.sample = lambda count: _sample(plan, planned, store, home_of(ctx, source, work / "student"), ctx, count, watch)
    ctx.dev_texts = lambda: _texts_of(plan.data.dev)
    ctx.dev_loss = _dev_loss(plan, ctx, source, work)
    ctx.meter = lambda unit: _meter(plan, store, home_of(ctx, source, work / "student"), unit)
    if len(planned.teachers) == 1:
        teacher = source_of(plan, store, planned.teachers[0])
        ctx.teacher_blocks, ctx.teacher_width, ctx.teacher_heads = _shape(teacher)
    torch.manual_seed(planned.seed)
    # What makes the model comes before what cuts it, that before what acts while it trains, and that before the losses.
    first = sorted(planned.methods, key=lambda m: (trains(m), m.needs.training, not m.new_model))
    running = [(method, method.begin(ctx)) for method in first]
    history: History | None = None
    home = home_of(ctx, source, work / "student")
    if planned.trains:
        accelerator = make_accelerator(planned.stage.train.precision, trackers, store.root.parent / "logs")
        if trackers:
            accelerator.init_trackers("smidgen", config={"stage": planned.stage.name, "id": planned.id})
        split = training_split(plan, planned, store)
        rows = _rows(plan, planned, store, home, split, ctx.teacher_taps, accelerator, watch)
        dev = _dev_rows(plan, home)
        history = train(running, ctx, rows, dev, planned.stage.train, work, watch, checkpoint_seconds, accelerator)
        if trackers:
            accelerator.end_training()
    for method, state in reversed(running):
        method.end(state, ctx)
    before = [] if ctx.skeleton is not None else record["edits"]
    record |= {"edits": [*before, *to_data(ctx.edits)], "seconds": time.monotonic() - started}
    if history is not None:
        record["history"] = dataclasses.asdict(history)
    if _main_process():
        with publish(store.path(planned.id), record) as target:
            _save_model(plan, source, home, ctx, target)
            _tell(record, running, ctx, target)
        shutil.rmtree(work, ignore_errors=True)


def _save_model(plan: Plan, source: Source, home: Source, ctx: Context, target: Path) -> None:
    """Save the model as a plain Hugging Face folder, and check that it can be made again from what is recorded."""
    assert ctx.model is not None
    ctx.model.config.architectures = [type(ctx.model).__name__]
    ctx.model.save_pretrained(target)
    write_tokenizer(home.path, target, plan.max_length)
    _check_reload(plan, source, ctx, target)


def _tell(record: dict[str, Any], running: Running, ctx: Context, target: Path) -> None:
    """Put what methods found, on their way and in their folder, into its record; in words too."""
    for method, state in running:
        name = name_of(method)
        found = {**ctx.found.get(name, {}), **method.found(state, ctx, target)}
        told = found.pop("told", None)
        record["lineage"][-1]["remarks"] += [f"{name}: {told}"] if told else []
        if found:
            record["found"] = record.get("found", {}) | {name: found}


def _check_reload(plan: Plan, source: Source, ctx: Context, target: Path) -> None:
    """Replayed edits with the weights, and the folder read back, give the outputs of the model in hand."""
    import torch

    from smidgen.source import auto_class, load_model, takes_types
    from smidgen.surgery import replay
    from smidgen.tape import logits_of

    model = ctx.model
    assert model is not None
    encoded = encode(ctx.task, target, *_texts(ctx), plan.max_length)
    batch = encoded.batch(list(range(min(8, len(encoded)))), pad_id(target))
    inputs = {k: torch.from_numpy(v) for k, v in batch.items() if k != "token_type_ids" or takes_types(model)}
    if ctx.skeleton is None:
        skeleton = load_model(source, ctx.task, ctx.seed)
    else:
        skeleton = type(model)(copy.deepcopy(ctx.skeleton))
    again = replay(skeleton, ctx.edits)
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise SmidgenError(
            f"replaying its edits gives another shape ({why}); nothing was written. This is a bug."
        ) from error
    reloaded = auto_class(ctx.task).from_pretrained(str(target), local_files_only=True)
    with torch.inference_mode():
        outputs = [logits_of(m.eval()(**inputs)) for m in (model, again, reloaded)]
    for name, other in (("replaying its edits", outputs[1]), ("reloading its folder", outputs[2])):
        if not torch.allclose(outputs[0], other, atol=1e-5):
            worst = float((outputs[0] - other).abs().max())
            raise SmidgenError(f"{name} gives other outputs (by {worst:.2g}); nothing was written. This is a bug.")


def _rows(
    plan: Plan,
    planned: Planned,
    store: Store,
    source: Source,
    split: Split,
    taps: set[str],
    accelerator: Accelerator,
    watch: Watch,
) -> Rows:
    """Rows of a split that the stage reads, with the teacher where it is asked something."""
    from smidgen.teacher import Mean, online, too_big

    rows, task = _plain_rows(plan, split, source), plan.data.task
    if isinstance(task, MaskLanguage):
        rows = dataclasses.replace(rows, masker=masker(source.path, planned.seed))
    if not planned.teachers or not taps:
        return rows
    sources = [source_of(plan, store, reference) for reference in planned.teachers]
    fresh = rows.masker is not None or any(method.needs.online for method in planned.methods)
    if fresh or too_big(taps):
        found: list[Teacher] = [online(s, task, taps, accelerator.device) for s in sources]
    else:
        found = []
        for teacher in sources:
            labels = label_rows(plan, teacher, store, split, taps, accelerator, watch)
            rows, said = _by_word(plan, rows, split, source, teacher, labels)
            found.append(said)
    return dataclasses.replace(rows, teacher=found[0] if len(found) == 1 else Mean(tuple(found)))


def _sample(
    plan: Plan, planned: Planned, store: Store, source: Source, ctx: Context, count: int, watch: Watch
) -> Iterable[Batch]:
    """Of the labelled rows where the stage reads some, else of all rows, with the teacher's decisions as labels."""
    from smidgen.loop import make_accelerator
    from smidgen.sampling import batches, draw

    assert ctx.model is not None
    labelled = isinstance(ctx.task, MaskLanguage) or "train" in planned.parts
    pool = plan.data.train if "train" in planned.parts else training_split(plan, planned, store)
    accelerator = make_accelerator(planned.stage.train.precision)
    split, taps = draw(pool, count, planned.seed), set() if labelled else {"logits"}
    rows = _rows(plan, planned, store, source, split, taps, accelerator, watch)
    return batches(rows, ctx.task, ctx.model, accelerator.device)


def _meter(plan: Plan, store: Store, source: Source, unit: str) -> Meter:
    """Of texts as long as those of dev."""
    from smidgen.clock import Clock
    from smidgen.measure.entries import timed_texts, two_lists

    rows, task = timed_texts(plan.data.dev), plan.data.task
    if unit == "macs":
        return Macs(float(encode(task, source.path, *two_lists(rows), plan.max_length).lengths.mean()))
    return Clock(task, source.path, rows, plan.max_length, store.root, unit)


def _by_word(
    plan: Plan, rows: Rows, split: Split, source: Source, teacher: Source, labels: Labels
) -> tuple[Rows, Teacher]:
    """A tagger's labels for a student with another tokenizer; words that the teacher cut off are not learnt."""
    from smidgen.teacher import Words

    task = plan.data.task
    if not isinstance(task, Tag) or source.tokenizer_id == teacher.tokenizer_id:
        return rows, labels
    theirs = encode(task, teacher.path, split.texts, split.pairs, plan.max_length)
    at = task.aligned(rows.encoded, theirs, split.texts)
    rows = dataclasses.replace(rows, encoded=dataclasses.replace(rows.encoded, units=at >= 0))
    return rows, Words(labels, rows.encoded, at)


def label_rows(
    plan: Plan, teacher: Source, store: Store, split: Split, taps: set[str], accelerator: Accelerator, watch: Watch
) -> Labels:
    """The teacher's labels for a split: the main process makes what is missing, the others read."""
    import torch

    from smidgen.teacher import label

    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    found: Labels | None = None
    with accelerator.main_process_first(), watch.bar("labelling", len(split)) as bar:
        found = label(
            teacher,
            plan.data.task,
            split,
            taps,
            plan.max_length,
            store.root,
            _to(bar.to, len(split)),
            precision=dtype,
        )
    return found


def training_split(plan: Plan, planned: Planned, store: Store) -> Split:
    """The rows a stage trains on or grows; those without a label last."""
    from smidgen.data import Split

    splits = {"train": plan.data.train, "unlabeled": plan.data.unlabeled}
    parts = []
    for part in sorted(planned.parts, key="train".__ne__):
        split, step = splits.get(part), plan.by_id(part)
        parts.append(split or read_grown(store.path(part), step.stage.name if step else part))
    if len(parts) == 1:
        return parts[0]
    return Split(
        name=planned.stage.data,
        texts=tuple(text for part in parts for text in part.texts),
        pairs=_all_pairs(parts),
        labels=np.concatenate([p.labels if p.labels is not None else plan.data.task.no_labels(len(p)) for p in parts]),
        source=" + ".join(part.source for part in parts),
    )


def _all_pairs(parts: Sequence[Split]) -> tuple[str, ...] | None:
    """The second texts of all parts; "" for the rows of one without any, where a task mixes both."""
    if all(part.pairs is None for part in parts):
        return None
    return tuple(itertools.chain.from_iterable(part.pairs or ("",) * len(part) for part in parts))


def home_of(ctx: Context, source: Source, folder: Path) -> Source:
    """Where the tokenizer of the stage's model is: the source, or `folder`, into which a new one is written."""
    from smidgen.source import takes_types
    from smidgen.tokens import new_tokenizer

    assert ctx.model is not None
    if ctx.tokenizer is None:
        return source
    if _main_process():
        folder.mkdir(parents=True, exist_ok=True)
        like = source.path if ctx.skeleton is None else None
        new_tokenizer(ctx.tokenizer, folder, takes_types(ctx.model), like)
        ctx.model.config.save_pretrained(folder)
    _wait()
    return Source(source.reference, folder, ctx.model.config.to_dict())


def _corpus(plan: Plan, planned: Planned, store: Store, watch: Watch) -> Corpus:
    keep_out = tuple(split for split in (plan.data.dev, plan.data.test) if split is not None)
    return Corpus(training_split(plan, planned, store), keep_out, store.work(planned.id), watch)


def _texts_of(split: Split) -> Iterable[str]:
    return itertools.chain(split.texts, split.pairs or ())


def _plain_rows(plan: Plan, split: Split, source: Source) -> Rows:
    from smidgen.loop import Rows

    task = plan.data.task
    encoded = encode(task, source.path, split.texts, split.pairs, plan.max_length)
    return Rows(encoded, task.targets(encoded, split.texts, split.labels), pad_id(source.path), split=split)


def _dev_rows(plan: Plan, source: Source) -> Rows:
    """What a stage is judged by; where tokens are to be found, they are masked once and for all."""
    rows = _plain_rows(plan, plan.data.dev, source)
    if not isinstance(plan.data.task, MaskLanguage):
        return rows
    encoded, labels = masker(source.path, 0).once(rows.encoded)
    return dataclasses.replace(rows, encoded=encoded, labels=labels)


def _dev_loss(plan: Plan, ctx: Context, source: Source, work: Path) -> Callable[[], float]:
    """What measures the loss of the stage's model on dev; the rows are made when it is first asked."""
    from smidgen.loop import mean_loss

    rows = functools.cache(lambda: _dev_rows(plan, home_of(ctx, source, work / "student")))

    def loss() -> float:
        assert ctx.model is not None
        return mean_loss(ctx.model, ctx.task, rows())

    return loss


def _context(plan: Plan, planned: Planned, source: Source, target: Path) -> Context:
    dev = plan.data.dev
    pairs = dev.pairs if dev.pairs is not None else [None] * len(dev)
    rows = tuple(zip(dev.texts, pairs, strict=True))
    spread = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(int)  # files are often in some order
    texts = tuple(rows[i] for i in spread)
    return Context(source.path, target, plan.data.task, texts, planned.seed)


def _texts(ctx: Context) -> tuple[list[str], list[str] | None]:
    pairs = [pair for _, pair in ctx.texts if pair is not None]
    return [text for text, _ in ctx.texts], pairs or None


def _shape(source: Source) -> tuple[int, int, int]:
    """Blocks, width and heads of a teacher; zeros where its family has no anatomy, or the heads differ by block."""
    from smidgen.anatomy import supported

    if not supported(source.family):
        return 0, 0, 0
    said = source.config
    width, heads = said.get("hidden_size") or said.get("dim"), said.get("num_attention_heads") or said.get("n_heads")
    return source.blocks, int(width or 0), int(heads or 0) if source.even_heads else 0


def _carry_over(source: Path, target: Path, max_length: int) -> None:
    """Copy the Hugging Face folder into the draft; graphs are left behind, the stage makes its own."""
    for name in ("config.json", "model.safetensors"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    write_tokenizer(source, target, max_length)


def _record(plan: Plan, planned: Planned, source: Source) -> dict[str, Any]:
    """What is known of an artefact before it is made; `lineage` has its ancestors and itself, oldest first."""
    parent: dict[str, Any] = {}
    if (source.path / "smidgen.json").is_file():
        parent = json.loads((source.path / "smidgen.json").read_text(encoding="utf-8"))
    own = {
        "id": planned.id,
        "name": planned.stage.name,
        "methods": {name_of(m): settings_of(m) for m in planned.methods},
        "teacher": planned.teacher,
        "seed": planned.seed,
        "train": dataclasses.asdict(planned.stage.train) if planned.trains else None,
        "on": planned.stage.data if planned.reads else None,
        "remarks": planned.remarks,
    }
    task = plan.data.task
    return {
        **own,
        "form": planned.leaves,
        "parent": planned.source if planned.source not in plan.models else plan.models[planned.source].id,
        "model": parent.get("model", source.reference),
        "task": task.to_data(),
        "max_length": plan.max_length,
        "edits": list(parent.get("edits", [])),
        "lineage": [*parent.get("lineage", []), own],
    }


def _to(update: Callable[[float], None], total: int) -> Callable[[int, int], None]:
    """Labelling counts only what is missing; the bar counts every row."""
    return lambda done, missing: update(total - missing + done)


def _main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait() -> None:
    """Until every process is here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
