"""Run a plan: fold its stages, from one artefact folder to the next, and skip what is on disk."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.artefact import RECORD, Artefact, Storage, Store, alone, publish
from smidgen.calibration import RANGES
from smidgen.corpus import Corpus
from smidgen.errors import Faulty, InputError
from smidgen.measure.entries import two_lists
from smidgen.method import Context, makes_texts, name_of, owns_stage, settings_of, trains
from smidgen.planner import Plan, Planned
from smidgen.reading import dev_rows, sight, source_of, training_rows, training_split
from smidgen.source import Source
from smidgen.tokens import encode, pad_id, write_tokenizer
from smidgen.tracking import opened
from smidgen.watch import Silent, Watch

if TYPE_CHECKING:
    from smidgen.loop import History, Running

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
    far: Storage | None = None,
) -> list[Done]:
    """Run every stage of a plan, in order; artefacts are kept under `root`, a folder per id.

    A stage whose artefact is there is not run again. A run that was killed goes on where it was. Two runs cannot work
    under one `root` at the same time.

    Args:
        far: where artefacts are kept besides `root`, and found.
    """
    watch = watch or Silent()
    store = Store(root, far=far)
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
                ctx.sight = sight(plan, planned, store, ctx, lambda: source, watch)
            found = dict(owner.run(ctx) or {})  # type: ignore[attr-defined]
            _say(record, name_of(owner), found.pop("told", None))
            record |= {"found": found, "seconds": time.monotonic() - started}
        shutil.rmtree(store.work(planned.id), ignore_errors=True)
    if _main_process():
        store.made(planned.id)
    _wait()
    return store.wait_for(planned.id)


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
    ctx.sight = sight(plan, planned, store, ctx, lambda: home_of(ctx, source, work / "student"), watch)
    if len(planned.teachers) == 1:
        teacher = source_of(plan, store, planned.teachers[0])
        ctx.teacher_blocks, ctx.teacher_width, ctx.teacher_heads = _shape(teacher)
    torch.manual_seed(planned.seed)
    # What makes the model comes before what cuts it, that before what acts while it trains, and that before the losses.
    first = sorted(planned.methods, key=lambda m: (trains(m), m.needs.training, not m.new_model, m.wraps, m.picks))
    running = [(method, method.begin(ctx)) for method in first]
    if planned.trains and not _open(ctx, running):
        raise InputError(
            f"stage {planned.stage.name}: nothing is left to train, all of the model is frozen. Name less in "
            "tune.freeze, or write thaw: top_down."
        )
    history: History | None = None
    home = home_of(ctx, source, work / "student")
    if planned.trains:
        run = f"{planned.stage.name}-{planned.id}"
        logs = opened(trackers, store.root.parent / "logs", run, planned.id)
        accelerator = make_accelerator(planned.stage.train.precision, logs)
        if logs:
            accelerator.init_trackers("smidgen", config={"stage": planned.stage.name, "id": planned.id})
        split = training_split(plan, planned, store)
        rows = training_rows(plan, planned, store, home, split, ctx.teacher_taps, accelerator, watch)
        dev = dev_rows(plan, home)
        history = train(
            *(running, ctx, rows, dev, planned.stage.train, work, watch, checkpoint_seconds, accelerator),
            store=store.root,
        )
        for tracker in accelerator.trackers:  # end_training would end the process group as well
            tracker.finish()
    opened_numbers = _open(ctx, running)
    for method, state in reversed(running):
        method.end(state, ctx)
    before = [] if ctx.skeleton is not None else record["edits"]
    record |= {"edits": [*before, *to_data(ctx.edits)], "seconds": time.monotonic() - started}
    if history is not None:
        record["history"] = dataclasses.asdict(history)
    if _main_process():
        with publish(store.path(planned.id), record) as target:
            _save_model(plan, source, home, ctx, target)
            _say(record, "delta", _save_delta(plan, planned, source, ctx, running, opened_numbers, target))
            _tell(record, running, ctx, target)
        shutil.rmtree(work, ignore_errors=True)


def _save_model(plan: Plan, source: Source, home: Source, ctx: Context, target: Path) -> None:
    """Save the model as a plain Hugging Face folder, and check that it can be made again from what is recorded."""
    assert ctx.model is not None
    ctx.model.config.architectures = [type(ctx.model).__name__]
    ctx.model.save_pretrained(target)
    write_tokenizer(home.path, target, plan.max_length)
    _check_reload(plan, source, ctx, target)


def _open(ctx: Context, running: Running) -> int:
    """How many numbers train, of the model and of what methods have put beside it."""
    from torch import nn

    assert ctx.model is not None
    held = [ctx.model, *(state for _, state in running if isinstance(state, nn.Module))]
    found = {id(p): p.numel() for each in held for p in each.parameters() if p.requires_grad}
    return sum(found.values())


def _save_delta(
    plan: Plan, planned: Planned, source: Source, ctx: Context, running: Running, trained: int, target: Path
) -> str:
    """Keep apart what was put beside a frozen base, or the head alone, if the stage did nothing else to the model.

    A method beside it may have: zeros in frozen weights, say. The base with the delta is then another model, and none
    is kept; gives that in words, else "".

    Args:
        trained: how many numbers did, the head's among them.
    """
    import torch

    from smidgen.delta import fit, read, untouched, write
    from smidgen.edits.attach import Attach
    from smidgen.surgery import to_data

    assert ctx.model is not None
    parts = tuple(part for method, state in reversed(running) for part in method.adds(state, ctx))  # as they ended
    heads = [edit for edit in ctx.edits if getattr(edit, "above", False)]
    if ctx.skeleton is not None or not all(isinstance(edit, Attach) or edit in heads for edit in ctx.edits):
        return ""
    if parts or (planned.trains and untouched(ctx.model, source.path)):
        about = {"methods": {name_of(m): settings_of(m) for m in planned.methods}, "edits": to_data(heads)}
        write(target / "delta", source, ctx.model, parts, plan.data.task, plan.max_length, about, trained)
        made, own = fit(read(target / "delta"), source).state_dict(), ctx.model.state_dict()
        if made.keys() != own.keys() or not all(torch.allclose(made[name], own[name], atol=1e-6) for name in own):
            shutil.rmtree(target / "delta")
            return "none is kept: what the stage left is not the base with it."
    return ""


def _tell(record: dict[str, Any], running: Running, ctx: Context, target: Path) -> None:
    """Put what methods found, on their way and in their folder, into its record; in words too."""
    for method, state in running:
        name = name_of(method)
        found = {**ctx.found.get(name, {}), **method.found(state, ctx, target)}
        _say(record, name, found.pop("told", None))
        if found:
            record["found"] = record.get("found", {}) | {name: found}


def _say(record: dict[str, Any], name: str, told: str | None) -> None:
    """Put what a method tells of its work among the remarks on the artefact."""
    record["lineage"][-1]["remarks"] += [f"{name}: {told}"] if told else []


def _check_reload(plan: Plan, source: Source, ctx: Context, target: Path) -> None:
    """Replayed edits with the weights, and the folder read back, give the outputs of the model in hand."""
    import torch

    from smidgen.source import auto_class, load_model, taken
    from smidgen.surgery import replay
    from smidgen.tape import logits_of

    model = ctx.model
    assert model is not None
    encoded = encode(ctx.task, target, *two_lists(ctx.texts), plan.max_length)
    batch = taken(model, encoded.batch(list(range(min(8, len(encoded)))), pad_id(target)))
    inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
    if ctx.skeleton is None:
        skeleton = load_model(source, ctx.task, ctx.seed)
    else:
        skeleton = type(model)(copy.deepcopy(ctx.skeleton))
    again = replay(skeleton, ctx.edits)
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise Faulty(f"replaying its edits gives another shape ({why}); nothing was written. This is a bug.") from error
    reloaded = auto_class(ctx.task).from_pretrained(str(target), local_files_only=True)
    with torch.inference_mode():
        outputs = [logits_of(m.eval()(**inputs)) for m in (model, again, reloaded)]
    for name, other in (("replaying its edits", outputs[1]), ("reloading its folder", outputs[2])):
        if not torch.allclose(outputs[0], other, atol=1e-5):
            worst = float((outputs[0] - other).abs().max())
            raise Faulty(f"{name} gives other outputs (by {worst:.2g}); nothing was written. This is a bug.")


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


def _context(plan: Plan, planned: Planned, source: Source, target: Path) -> Context:
    dev = plan.data.dev
    pairs = dev.pairs if dev.pairs is not None else [None] * len(dev)
    rows = tuple(zip(dev.texts, pairs, strict=True))
    spread = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(int)  # files are often in some order
    texts = tuple(rows[i] for i in spread)
    return Context(source.path, target, plan.data.task, texts, planned.seed)


def _shape(source: Source) -> tuple[int, int, int]:
    """Blocks, width and heads of a teacher; zeros where its family has no anatomy, or not all heads are there."""
    from smidgen.anatomy import supported

    if not supported(source.family):
        return 0, 0, 0
    said = source.config
    width, heads = said.get("hidden_size") or said.get("dim"), said.get("num_attention_heads") or said.get("n_heads")
    return source.blocks, int(width or 0), int(heads or 0) if source.even_heads else 0


def _carry_over(source: Path, target: Path, max_length: int) -> None:
    """Copy the Hugging Face folder into the draft; graphs are left behind, the stage makes its own."""
    for name in ("config.json", "model.safetensors", RANGES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    write_tokenizer(source, target, max_length)


def _record(plan: Plan, planned: Planned, source: Source) -> dict[str, Any]:
    """What is known of an artefact before it is made; `lineage` has its ancestors and itself, oldest first."""
    parent: dict[str, Any] = {}
    if (source.path / RECORD).is_file():
        parent = json.loads((source.path / RECORD).read_text(encoding="utf-8"))
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


def _main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait() -> None:
    """Until every process is here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
