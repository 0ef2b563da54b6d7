"""The one training loop.

It sums the named loss terms of the methods, accumulates, clips and steps, in one place. Batches hold texts of like
length and are filled to a token budget. A step's loss is a mean over the whole step, across micro-batches and
processes, so how a step is cut changes nothing but memory. Gradients are summed over the processes by hand: what a
method trains beside the model (projections, gates) is then synchronised like the model itself, and no parameter has
to be used in every step. Accelerate brings the processes, the device, mixed precision and the trackers.

Everything random follows from the seed and the step's number or is in the checkpoint, so a run that is killed and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.batch import agreed
from smidgen.encoded import Encoded
from smidgen.errors import InputError
from smidgen.frozen import Kept, handing, keep, levels_of, rest
from smidgen.halves import DTYPES, NAMES, autocast, resolved
from smidgen.masking import Masker
from smidgen.method import Context, Method, name_of, trains
from smidgen.recipe import Training
from smidgen.source import takes_types
from smidgen.splits import Split
from smidgen.tape import Tape, listen
from smidgen.tasks import MaskLanguage, Task
from smidgen.tasks.classify import NO_LABEL
from smidgen.teacher import Teacher
from smidgen.watch import Silent, Watch


@dataclass(frozen=True)
class Rows:
    """What a stage trains on or is judged by: rows of tokens.

    `labels` are the task's targets, a row or a token; they hold NO_LABEL (or NaN) where there is none. `split` are the
    texts that the rows are of; without it row i is text i and its label the gold one. A `masker` makes the inputs of
    each step anew, and what is masked then takes the place of labels and units. `kept` is what the model's frozen
    blocks give for the rows.
    """

    encoded: Encoded
    labels: np.ndarray
    pad_id: int
    teacher: Teacher | None = None
    split: Split | None = None
    masker: Masker | None = None
    kept: Kept | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    @cached_property
    def labelled(self) -> np.ndarray:
        """(rows,) how many labels each row has: none or one, or as many as words."""
        known = ~np.isnan(self.labels) if self.labels.dtype.kind == "f" else self.labels != NO_LABEL
        if self.encoded.units is not None:
            return self._decided(known)
        return (known if known.ndim == 1 else known[:, 0]).astype(np.int64)

    @cached_property
    def units(self) -> np.ndarray:
        """(rows,) how many decisions each row asks for: one, or as many as words."""
        if self.encoded.units is None:
            return np.ones(len(self), np.int64)
        return self._decided(self.encoded.units)

    def _decided(self, tokens: np.ndarray) -> np.ndarray:
        """(rows,) how many of these tokens (total,) each row has; with a masker, how many of them are masked."""
        counts = np.add.reduceat(tokens.astype(np.int64), self.encoded.starts[:-1])
        return counts if self.masker is None else self.masker.counts(counts)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Labels of some rows: (B, ...), or (B, L) where each token has one."""
        if self.encoded.units is None:
            return self.labels[rows]
        return self.encoded.padded(self.labels, rows, NO_LABEL)

    def decided(self, rows: np.ndarray) -> np.ndarray | None:
        """(B, L) bool: the tokens of some rows at which the task decides; None where it decides a row."""
        return None if self.encoded.units is None else self.encoded.padded(self.encoded.units, rows, 0)

    def score(self, task: Task, values: np.ndarray) -> float:
        """The task's metric of what a model says about these rows."""
        if self.split is None:
            return task.score(task.gather(self.encoded, values, (), None), self.labels)
        assert self.split.labels is not None
        return task.score(task.gather(self.encoded, values, self.split.texts, self.split.pairs), self.split.labels)


@dataclass
class History:
    """What happened: one entry an evaluation, and which weights were kept."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    examples: int = 0
    seconds: float = 0.0


Running = Sequence[tuple[Method[Any], Any]]


def train(
    running: Running,
    ctx: Context,
    rows: Rows,
    dev: Rows,
    settings: Training,
    work: Path,
    watch: Watch | None = None,
    checkpoint_seconds: float = 60.0,
    accelerator: Accelerator | None = None,
    order: Sequence[np.ndarray] | None = None,
    store: Path | None = None,
) -> History:
    """Train `ctx.model` in place; at the end it holds the weights that were best on dev, of those that are `settled`.

    Where every loss is about what is inside the model, its answers on dev say nothing yet: the last weights are kept.

    Args:
        running: the methods and their states, from `begin`.
        work: the folder for checkpoints; a run that finds one there goes on from it.
        order: the rows of each step, in place of the loop's own batches.
        store: the folder in which what frozen blocks give is kept, see `smidgen.frozen`; None = they run in each step.
    """
    run = _Run(running, ctx, rows, dev, settings, accelerator or make_accelerator(settings.precision), order)
    history = run.restore(work)
    if store is not None:
        run.keep_frozen(store, watch or Silent())
    started, saved = time.monotonic() - history.seconds, time.monotonic()
    with (watch or Silent()).bar("training", run.total) as bar:
        for step in range(run.done, run.total):
            run.step(step)
            if step + 1 in run.evaluations:
                score = run.evaluate(step + 1, history)
                history.seconds = time.monotonic() - started
                bar.to(step + 1, f"{ctx.task.metric} on dev {score:.3f}")
                if settings.patience and run.unimproved >= settings.patience:
                    break
            else:
                bar.to(step + 1)
            waited = torch.tensor(time.monotonic() - saved)
            if step + 1 < run.total and agreed(waited) >= checkpoint_seconds:  # clocks differ
                history.seconds = time.monotonic() - started
                run.save(work, history)
                saved = time.monotonic()
    history.seconds = time.monotonic() - started
    run.restore_best()
    return history


class _Run:
    """The moving parts of one training: model, optimiser, position, best weights."""

    def __init__(
        self,
        running: Running,
        ctx: Context,
        rows: Rows,
        dev: Rows,
        settings: Training,
        accelerator: Accelerator,
        order: Sequence[np.ndarray] | None,
    ) -> None:
        assert ctx.model is not None
        self.running, self.ctx, self.rows, self.dev, self.settings = running, ctx, rows, dev, settings
        self.accelerator, self.model = accelerator, ctx.model
        self.attention = ctx.model.config._attn_implementation
        if accelerator.device.type == "cpu" and self.attention != "eager":
            ctx.model.set_attn_implementation("eager")  # with dropout, torch's fused attention is the slower on a CPU
        self.extra = nn.ModuleList([state for _, state in running if isinstance(state, nn.Module)])
        self.model.to(accelerator.device)
        self.extra.to(accelerator.device)
        self.uses_types = takes_types(self.model)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=accelerator.mixed_precision == "fp16")
        self.plan = list(order) if order is not None else batches(rows.encoded.lengths, settings, ctx.seed)
        self.total = len(self.plan)
        self.parameters = [p for m in (self.model, self.extra) for p in m.parameters()]  # some may be frozen, for now
        self.optimizer = make_optimizer(self.model, self.extra, settings)
        ours, own = self.optimizer.param_groups[:2], self.optimizer.param_groups[2:]
        self.clipped = [p for group in ours for p in group["params"]]
        scale = [lambda t: rate(t, self.total, settings)] * len(ours) + [lambda t: 1.0] * len(own)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, scale)
        per_epoch = self.total / max(settings.epochs, 1e-9)
        count = max(1, round(settings.epochs * settings.evaluations))
        self.evaluations = {
            max(1, min(self.total, round(per_epoch * i / settings.evaluations))) for i in range(1, count)
        }
        self.evaluations.add(self.total)
        self.done, self.unimproved = 0, 0
        self.judged = any(trains(m) and (m.needs.labels or not m.needs.inside) for m, _ in running)
        self.kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.sums: dict[str, Tensor] = {}
        self.since = 0
        torch.manual_seed(ctx.seed + 1000 * accelerator.process_index)

    # One step.

    def step(self, step: int) -> None:
        chosen = self.plan[step]
        lengths = self.rows.encoded.lengths
        pieces = cut(chosen, lengths, self.settings.micro_tokens, self.accelerator.num_processes)
        counts = (lengths, self.rows.labelled, lengths if self.ctx.every_token else self.rows.units)
        whole = (float(len(chosen)), *(float(count[chosen].sum()) for count in counts))
        self.model.train()
        rest(self.model)
        told: dict[str, Tensor] = {}
        for piece in pieces[self.accelerator.process_index]:
            if len(piece):
                terms = self.terms(piece, step, *whole)
                self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
                for name, value in terms.items():
                    told[name] = told.get(name, torch.zeros(())) + value.detach().float().cpu()
        self.sum_gradients()
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.clipped, self.settings.clip, foreach=True)
        self.scaler.step(self.optimizer)  # not where a gradient overflows: after the sum all processes see that alike
        self.scaler.update()
        used = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done, self.since = step + 1, self.since + 1
        for name, value in told.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value
        if self.accelerator.log_with:
            losses = self.whole(told)
            self.accelerator.log({"loss": sum(losses.values()), "lr": used, **losses}, step=self.done)
        for method, state in self.running:
            method.step(state, self.done / self.total)

    def terms(
        self, piece: np.ndarray, step: int, examples: float, tokens: float, labelled: float, count: float
    ) -> dict[str, Tensor]:
        """Every method's loss terms for one micro-batch, by `method.term`."""
        device = self.accelerator.device
        batch = self.rows.encoded.batch(piece, self.rows.pad_id)
        labels, units, at = self.rows.targets(piece), self.rows.decided(piece), None
        if self.rows.masker is not None and units is not None:
            batch["input_ids"], labels, units = self.rows.masker.draw(batch["input_ids"], units, piece, step)
            at = batch["attention_mask"] > 0 if self.ctx.every_token else units
            labels, units = labels[at], at[at]
        inputs, where = self.inputs(batch), None if at is None else torch.from_numpy(at).to(device)
        said = self.ask(piece, batch, where)
        with (
            mixed(self.accelerator),
            handing(self.model, self.rows.kept, piece, batch["input_ids"].shape[1]),
            listen(self.model, self.ctx.student_taps, where) as recording,
        ):
            outputs = self.model(**inputs)
        tape = Tape(
            student=recording.read(outputs, inputs["attention_mask"]),
            teacher=said,
            labels=torch.from_numpy(labels).to(device),
            mask=inputs["attention_mask"],
            examples=examples,
            tokens=tokens,
            labelled=labelled,
            units=None if units is None else torch.from_numpy(units).to(device),
            unit_count=count,
        )
        return {f"{name_of(m)}.{k}": v for m, state in self.running for k, v in m.loss(state, tape).items()}

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
        wanted = ("input_ids", "attention_mask", *(("token_type_ids",) if self.uses_types else ()))
        return {name: torch.from_numpy(batch[name]).to(self.accelerator.device) for name in wanted}

    def ask(self, piece: np.ndarray, batch: dict[str, np.ndarray], at: Tensor | None) -> dict[str, Tensor]:
        """What the teacher says; it may take token types where the student does not."""
        if self.rows.teacher is None:
            return {}
        inputs = {name: torch.from_numpy(value).to(self.accelerator.device) for name, value in batch.items()}
        with mixed(self.accelerator):
            return self.rows.teacher.answers(piece, inputs if at is None else inputs | {"at": at})

    def sum_gradients(self) -> None:
        """A parameter that no process used keeps no gradient, so that it does not decay, as on one process."""
        if self.accelerator.num_processes == 1:
            return
        used = torch.tensor([p.grad is not None for p in self.parameters], device=self.accelerator.device).float()
        torch.distributed.all_reduce(used)
        for parameter, users in zip(self.parameters, used.tolist(), strict=True):
            if users:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(parameter.grad)

    def whole(self, shares: dict[str, Tensor]) -> dict[str, float]:
        """Terms over all processes, each of which has seen its share of a step's rows."""
        mine = {name: float(value) for name, value in shares.items()}
        if self.accelerator.num_processes == 1:
            return mine
        found: dict[str, float] = {}
        for each in gather_object([mine]):
            for name, value in each.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def keep_frozen(self, store: Path, watch: Watch) -> None:
        """Have what frozen blocks give computed once, where they would run again."""
        if self.settings.cache == "off" or self.settings.epochs <= 1:
            return
        methods = [method for method, _ in self.running]
        levels, why = levels_of(self.model, methods, self.ctx.student_taps, self.rows.masker is not None)
        kind = "bfloat16" if self.accelerator.mixed_precision == "bf16" else "float16"
        kind = kind if self.settings.cache == "auto" else self.settings.cache
        if levels:
            kept = [self._kept(rows, levels, kind, store, watch) for rows in (self.rows, self.dev)]
            if all(kept):
                self.rows, self.dev = (replace(r, kept=k) for r, k in zip((self.rows, self.dev), kept, strict=True))
            else:
                why = f"{kind} cannot hold what they give (cache: float32 can)"
        if why:
            watch.say(f"The frozen blocks run in every step: {why}.")

    def _kept(self, rows: Rows, levels: tuple[int, ...], kind: str, store: Path, watch: Watch) -> Kept | None:
        """The main process computes what is missing, the others read."""
        found = None
        with self.accelerator.main_process_first(), watch.bar("running frozen blocks once", len(rows)) as bar:
            precision = self.accelerator.mixed_precision
            auto = partial(mixed, self.accelerator)
            found = keep(self.model, rows.encoded, levels, store, kind, rows.pad_id, precision, auto, bar.to)
        return found

    # Looking at dev, keeping the best.

    def evaluate(self, step: int, history: History) -> float:
        task = self.ctx.task
        brief = task.brief if isinstance(task, MaskLanguage) else None
        score = self.dev.score(task, predict(self.model, self.dev, self.accelerator, brief))
        terms = {name: value / max(self.since, 1) for name, value in self.whole(self.sums).items()}
        if not math.isfinite(loss := sum(terms.values())):
            raise InputError(
                f"the loss is {loss} by step {step} of {self.total}: training has diverged. Write a lower "
                "learning_rate, or precision: float32."
            )
        lr = self.scheduler.get_last_lr()[0]
        entry = {"step": step, "dev": score, "loss": sum(terms.values()), "terms": terms, "lr": lr}
        history.entries.append(entry)
        history.examples = int(sum(len(chosen) for chosen in self.plan[:step]))
        self.accelerator.log({"dev": score}, step=step)
        self.sums, self.since = {}, 0
        if not all(method.settled(step / self.total) for method, _ in self.running):
            return score
        if score > history.best or not self.judged:
            history.best, history.best_step, self.unimproved = score, step, 0
            self.kept = copy.deepcopy((dict(self.model.state_dict()), dict(self.extra.state_dict())))
        else:
            self.unimproved += 1
        return score

    def restore_best(self) -> None:
        if self.kept is not None:
            self.model.load_state_dict(self.kept[0])
            self.extra.load_state_dict(self.kept[1])
        if self.attention != self.model.config._attn_implementation:
            self.model.set_attn_implementation(self.attention)
        nn.Module.to(self.model, "cpu")
        self.model.eval()

    # Stopping and going on.

    def save(self, work: Path, history: History) -> None:
        """Publish a checkpoint by rename; the one before it goes afterwards."""
        rank = self.accelerator.process_index
        folder = work / f"step-{self.done:08d}"
        draft = work / f".draft-step-{self.done:08d}"
        draft.mkdir(parents=True, exist_ok=True)
        _save({"random": _random_state(), "sums": self.sums, "since": self.since}, draft / f"rank-{rank}.pt")
        if self.accelerator.is_main_process:
            state = {
                "model": self.model.state_dict(),
                "extra": self.extra.state_dict(),
                "open": [parameter.requires_grad for parameter in self.parameters],
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "best": self.kept,
                "done": self.done,
                "unimproved": self.unimproved,
                "history": vars(history),
            }
            _save(state, draft / "state.pt")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            draft.rename(folder)
            for old in sorted(work.glob("step-*"))[:-1]:
                _remove(old)
        self.accelerator.wait_for_everyone()

    def restore(self, work: Path) -> History:
        """Go on from the newest checkpoint, or from the start."""
        found = sorted(work.glob("step-*")) if work.is_dir() else []
        for draft in work.glob(".draft-*"):
            if self.accelerator.is_main_process:
                _remove(draft)
        self.accelerator.wait_for_everyone()
        if not found:
            return History()
        before, now = len(list(found[-1].glob("rank-*.pt"))), self.accelerator.num_processes
        if before != now:  # said by all of them, so that none waits for the others
            raise InputError(
                f"{work}: the run that was stopped had {before} processes, this one has {now}. Start it with as many, "
                "or delete the folder."
            )
        state = torch.load(found[-1] / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.extra.load_state_dict(state["extra"])
        for parameter, opened in zip(self.parameters, state["open"], strict=True):
            parameter.requires_grad = opened
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.scheduler.load_state_dict(state["scheduler"])
        self.kept, self.done, self.unimproved = state["best"], state["done"], state["unimproved"]
        own = torch.load(found[-1] / f"rank-{self.accelerator.process_index}.pt", weights_only=True)
        _set_random_state(own["random"])
        self.sums, self.since = own["sums"], own["since"]
        return History(**state["history"])


# Pure parts.


def batches(lengths: np.ndarray, settings: Training, seed: int) -> list[np.ndarray]:
    """The rows of every step, all epochs end to end.

    Rows are shuffled, sorted by length inside stretches of 64 steps, cut where a step would hold more padded tokens
    than `batch_size` texts of mean length, and the steps shuffled again. All of it follows from the seed.
    """
    budget = settings.batch_size * max(float(lengths.mean()), 1.0)
    steps: list[np.ndarray] = []
    whole = math.ceil(settings.epochs)
    for epoch in range(whole):
        rng = np.random.default_rng([seed, epoch])
        mixed = rng.permutation(len(lengths))
        stretch = settings.batch_size * 64
        found: list[np.ndarray] = []
        for start in range(0, len(mixed), stretch):
            part = mixed[start : start + stretch]
            found.extend(_fill(part[np.argsort(lengths[part], kind="stable")], lengths, budget))
        rng.shuffle(found)
        steps.extend(found[: math.ceil(len(found) * min(1.0, settings.epochs - epoch))])
    return steps


def _fill(ordered: np.ndarray, lengths: np.ndarray, budget: float) -> list[np.ndarray]:
    """Cut rows sorted by length so that rows * longest <= budget, but for single rows."""
    steps, start = [], 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or (i + 1 - start) * lengths[ordered[i]] > budget:
            steps.append(ordered[start:i])
            start = i
    return steps


def cut(rows: np.ndarray, lengths: np.ndarray, micro_tokens: int, processes: int) -> list[list[np.ndarray]]:
    """A step's rows as micro-batches: `[process][i]`, the same number for every process, some perhaps empty."""
    shares = [rows[p::processes] for p in range(processes)]
    padded = max(len(share) * int(lengths[share].max(initial=0)) for share in shares)
    count = max(1, math.ceil(padded / micro_tokens))
    return [list(np.array_split(share, count)) for share in shares]


def rate(step: int, total: int, settings: Training) -> float:
    """The learning rate's factor at a step: linear warm-up, then the schedule."""
    warm = max(1, round(settings.warmup * total)) if settings.warmup else 0
    if step < warm:
        return step / warm
    left = (step - warm) / max(1, total - warm)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))
    return 1.0 if settings.schedule == "constant" else max(0.0, 1.0 - left)


def make_optimizer(model: nn.Module, extra: nn.Module, settings: Training) -> torch.optim.AdamW:
    """AdamW in one fused pass; no decay for biases and normalisations (every tensor of one dimension).

    Frozen parameters are in it, for they may thaw later: without a gradient they neither move nor decay. What a state
    gives as `groups()` comes last, as it gives it.
    """
    own = [group for state in extra.children() for group in getattr(state, "groups", list)()]
    apart = {id(p) for group in own for p in group["params"]}
    trained = [p for m in (model, extra) for p in m.parameters() if id(p) not in apart]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        *own,
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def make_accelerator(precision: str, trackers: Sequence[GeneralTracker] = ()) -> Accelerator:
    """An Accelerator for this machine; `precision` is that of a recipe."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # it holds one precision for a whole process, and stages may differ
    return Accelerator(
        mixed_precision=NAMES[resolved(precision)],
        cpu=not torch.cuda.is_available(),
        log_with=list(trackers) or None,
    )


def mixed(accelerator: Accelerator) -> AbstractContextManager[None]:
    """In the accelerator's precision, by `smidgen.halves`."""
    return autocast(accelerator.device, DTYPES[accelerator.mixed_precision])


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    rows: Rows,
    accelerator: Accelerator,
    brief: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Logits (rows, C), or (tokens, C) of all rows end to end, in the loop's precision, each process a share.

    Args:
        brief: makes (N, k) of the logits (N, V) of the tokens at which the task decides and of their labels (N,). The
            result is then (tokens, k), 0 at other tokens.
    """
    was_training, device = model.training, accelerator.device
    model.eval()
    order = np.argsort(rows.encoded.lengths, kind="stable")
    pieces = np.array_split(order, max(1, math.ceil(len(order) / (64 if brief is None else 16))))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for piece in pieces[accelerator.process_index :: accelerator.num_processes]:
        batch = {k: torch.from_numpy(v).to(device) for k, v in rows.encoded.batch(piece, rows.pad_id).items()}
        units = None if brief is None else rows.decided(piece)
        decided = None if units is None else torch.from_numpy(units).to(device)
        if not takes_types(model):
            del batch["token_type_ids"]
        with (
            mixed(accelerator),
            handing(model, rows.kept, piece, batch["input_ids"].shape[1]),
            listen(model, ("logits",), decided) as recording,
        ):
            values = recording.read(model(**batch))["logits"].float()
        places = piece if brief is None and values.dim() == 2 else rows.encoded.flat(piece)
        if brief is not None:
            values = brief(values, torch.from_numpy(rows.targets(piece)).to(device)[decided])
            assert rows.encoded.units is not None
            places = places[rows.encoded.units[places]]
        elif values.dim() == 3:
            values = values[batch["attention_mask"].bool()]
        found.append((places, values.cpu().numpy()))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    model.train(was_training)
    by_token = rows.encoded.spans is not None or rows.encoded.units is not None
    logits = np.zeros((len(rows.encoded.ids) if by_token else len(rows), found[0][1].shape[1]), np.float32)
    for places, said in found:
        logits[places] = said
    return logits


def _random_state() -> list[Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def _save(value: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
