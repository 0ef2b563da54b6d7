"""The loop's golden tests: equal to the Trainer, to itself cut up, to itself resumed, to itself on two processes."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import start
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PAD, VOCAB, tiny
from torch.utils.data import DataLoader

from smidgen import loop
from smidgen.encoded import Encoded
from smidgen.errors import InputError
from smidgen.loop import History, Rows, batches, cut, make_accelerator, predict, rate, train
from smidgen.method import Context, Method, find
from smidgen.recipe import Training
from smidgen.tape import Tape
from smidgen.tasks.classify import NO_LABEL, Classify
from smidgen.teacher import Labels
from smidgen.watch import Silent

TASK = Classify(("a", "b", "c"))
TEACHER_BLOCKS, TEACHER_WIDTH = 4, 48
SETTINGS = Training(learning_rate=1e-3, batch_size=8, warmup=0.2, precision="float32", epochs=1)
ALL = ("tune.full", "distil.logits", "distil.hidden")
GATED = ("tune.full", "prune.gates", "dynamic")
BURST = ("burst",)
AWARE = ("quant.aware", *ALL)


@dataclass(frozen=True)
class Burst(Method[None]):
    """The task's loss, which is past float32 once it is scaled, wherever a row of class 2 is."""

    def loss(self, state: None, tape: Tape) -> dict[str, torch.Tensor]:
        losses = TASK.loss(tape.student["logits"], tape.labels)
        return {"task": tape.labelled_mean(losses * torch.where(tape.labels == 2, 1e36, 1.0))}


def make_rows(count: int, seed: int = 0, shortest: int = 3, longest: int = 20) -> Rows:
    """Random texts of ragged lengths with labels."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(shortest, longest + 1, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.integers(3, VOCAB, starts[-1]).astype(np.int32)
    return Rows(Encoded(ids, np.zeros(len(ids), np.int8), starts), draw.integers(0, 3, count), PAD)


def taught(rows: Rows, seed: int = 1) -> Rows:
    """The same rows with the answers of a teacher of other sizes."""
    draw, tokens = np.random.default_rng(seed), int(rows.encoded.starts[-1])
    taps = ("block.1.hidden", "block.3.hidden", "embeddings", "logits")
    shard = {tap: draw.normal(size=(tokens, TEACHER_WIDTH)).astype(np.float16) for tap in taps[:3]}
    shard |= {"logits": draw.normal(size=(len(rows), 3)).astype(np.float16), "starts": rows.encoded.starts}
    one = np.zeros(len(rows), np.int64)
    return replace(rows, teacher=Labels((shard,), one, np.arange(len(rows)), taps, frozenset(taps[:3])))


def make_model(dropout: float = 0.0, seed: int = 0) -> Any:
    return tiny("bert", seed=seed, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


def methods(names: Sequence[str]) -> list[Method[Any]]:
    given: dict[str, dict[str, Any]] = {
        "distil.hidden": {"embeddings": True},
        "distil.logits": {"hard": 0.3},
        "prune.gates": {"parts": ("heads", "units", "sublayers"), "multiple": 8},
        "dynamic": {"mapping": "dynamic"},
    }
    made = [find(name.replace("dynamic", "distil.hidden"))(**given.get(name, {})) for name in names if name != "burst"]
    return made + [Burst()] * ("burst" in names)


def trained(
    names: Sequence[str],
    rows: Rows,
    dev: Rows,
    work: Path,
    training: Training = SETTINGS,
    model: Any = None,
    seed: int = 0,
    **how: Any,
) -> tuple[dict[str, torch.Tensor], History]:
    """Every weight that was trained, the projections' too, and the history."""
    ctx = Context(work, work, TASK, (), seed, model or make_model().double(), TEACHER_BLOCKS, TEACHER_WIDTH)
    running = [(method, method.begin(ctx)) for method in methods(names)]
    history = train(running, ctx, rows, dev, training, work, **how)
    weights = dict(ctx.model.state_dict())
    for method, state in running:
        if isinstance(state, torch.nn.Module):
            weights |= {f"{type(method).__name__}.{k}": v for k, v in state.state_dict().items()}
    return weights, history


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def same_bits(one: Any, other: Any) -> bool:
    """Equal in every bit, however nested."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one if k != "seconds")
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same_bits(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


# The Trainer.


def trainer_weights(
    model: Any, rows: Rows, order: list[np.ndarray], folder: Path, **other: Any
) -> dict[str, torch.Tensor]:
    """The same steps by the Hugging Face Trainer."""
    from transformers import Trainer, TrainingArguments

    def collate(picked: list[int]) -> dict[str, torch.Tensor]:
        batch = {k: torch.from_numpy(v) for k, v in rows.encoded.batch(np.array(picked), PAD).items()}
        return batch | {"labels": torch.from_numpy(rows.labels[picked])}

    class Fixed(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(range(len(rows)), batch_sampler=[o.tolist() for o in order], collate_fn=collate)

    given = {"learning_rate": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "warmup_steps": 2} | other
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(order),
        lr_scheduler_type="linear",
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **given,
    )
    Fixed(model=model, args=arguments, train_dataset=range(len(rows))).train()
    return {name: value.cpu() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_steps_equal_the_hugging_face_trainer(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = make_rows(60)
    order = list(np.random.default_rng(2).permutation(60).reshape(10, 6))
    theirs = trainer_weights(make_model().to(dtype), rows, order, tmp_path)
    ours, history = trained(["tune.full"], rows, rows, tmp_path / "w", model=make_model().to(dtype), order=order)
    assert history.best_step == 10
    if dtype == torch.float32:  # a key's bias cancels in the softmax: its gradient is rounding, and Adam scales it up
        ours, theirs = ({k: v for k, v in w.items() if not k.endswith("key.bias")} for w in (ours, theirs))
        assert worst(ours, theirs) < 2e-6
        return
    assert worst(ours, theirs) < 1e-7
    assert worst(ours, dict(make_model().state_dict())) > 1e-3  # something was learnt
    for wrong in ({"weight_decay": 0.0}, {"max_grad_norm": 0.0}, {"warmup_steps": 1}):  # and mistakes would show
        assert worst(ours, trainer_weights(make_model().to(dtype), rows, order, tmp_path, **wrong)) > 1e-5


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(10, 0.0), (10, 0.2), (100, 0.1), (7, 0.3), (1, 0.1)])
def test_rate_is_that_of_transformers(schedule: str, total: int, warmup: float) -> None:
    from transformers import get_scheduler

    training = Training(warmup=warmup, schedule=schedule)
    warm = max(1, round(warmup * total)) if warmup else 0
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    name = {"constant": "constant_with_warmup"}.get(schedule, schedule)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=total).lr_lambdas[0]
    for step in range(total):
        assert rate(step, total, training) == pytest.approx(theirs(step), abs=1e-12)


def test_rate_starts_at_zero_peaks_after_warm_up_and_ends_at_zero() -> None:
    training = Training(warmup=0.1)
    assert [rate(step, 100, training) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.5, 1, 0.5, 0])


# Cut into micro-batches.


@pytest.mark.parametrize("names", [("tune.full",), ("distil.logits",), ("distil.hidden",), ALL, GATED])
@pytest.mark.parametrize("micro_tokens", [1, 64])
def test_micro_batches_equal_one_batch(names: tuple[str, ...], micro_tokens: int, tmp_path: Path) -> None:
    rows = taught(make_rows(45))
    rows.labels[::5] = NO_LABEL
    whole, _ = trained(names, rows, make_rows(9, 3), tmp_path / "a")
    pieces, history = trained(
        names, rows, make_rows(9, 3), tmp_path / "b", replace(SETTINGS, micro_tokens=micro_tokens)
    )
    assert worst(whole, pieces) < 1e-7
    assert history.examples == 45


def test_padding_changes_no_gradient(tmp_path: Path) -> None:
    class Wide(Encoded):
        def batch(self, rows: Any, pad_id: int) -> dict[str, np.ndarray]:
            found = super().batch(rows, pad_id)
            fill = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0}
            short = 40 - found["input_ids"].shape[1]
            return {k: np.pad(v, ((0, 0), (0, short)), constant_values=fill[k]) for k, v in found.items()}

    rows = taught(make_rows(24))
    wide = replace(rows, encoded=Wide(rows.encoded.ids, rows.encoded.types, rows.encoded.starts))
    narrow, one = trained(ALL, rows, rows, tmp_path / "a")
    padded, other = trained(ALL, wide, rows, tmp_path / "b")
    assert worst(narrow, padded) < 1e-7
    for name, value in one.entries[-1]["terms"].items():
        assert other.entries[-1]["terms"][name] == pytest.approx(value, rel=1e-6)


def test_the_terms_that_are_told_are_those_of_a_mean_step(tmp_path: Path) -> None:
    rows = taught(make_rows(16))
    still = replace(SETTINGS, learning_rate=1e-12, batch_size=4, epochs=3)
    _, history = trained(ALL, rows, rows, tmp_path, still)
    logits = predict(make_model(), rows, make_accelerator("float32"))
    task = float(TASK.loss(torch.from_numpy(logits), torch.from_numpy(rows.labels)).mean())
    terms = history.entries[-1]["terms"]
    hidden = [f"distil.hidden.{tap}" for tap in ("embeddings", "block.0.hidden", "block.1.hidden")]
    assert list(terms) == ["tune.full.task", "distil.logits.soft", "distil.logits.hard", *hidden]
    assert terms["tune.full.task"] == pytest.approx(task, rel=0.1)  # steps differ a little in size
    assert terms["distil.logits.hard"] == pytest.approx(0.3 * terms["tune.full.task"], rel=1e-5)
    assert history.entries[-1]["loss"] == pytest.approx(sum(terms.values()))


# Rows without labels.


def test_rows_without_labels_get_no_task_gradient(tmp_path: Path) -> None:
    rows, order = make_rows(12), [np.arange(12)] * 4
    rows.labels[4:] = NO_LABEL
    mixed, _ = trained(["tune.full"], rows, rows, tmp_path / "a", order=order)
    alone, _ = trained(["tune.full"], rows, rows, tmp_path / "b", order=[np.arange(4)] * 4)
    assert worst(mixed, alone) < 1e-8
    rows.labels[:] = NO_LABEL
    before = dict(make_model().double().state_dict())
    none, _ = trained(
        ["tune.full"], rows, make_rows(4), tmp_path / "c", replace(SETTINGS, weight_decay=0.0), order=order
    )
    assert worst(none, before) == 0


def test_rows_without_labels_where_a_text_may_have_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_loop.TASK", Classify(("a", "b", "c"), multi_label=True))
    rows = make_rows(12)
    labels = np.random.default_rng(0).integers(0, 2, (12, 3)).astype(np.float32)
    dev = replace(rows, labels=labels.copy())
    labels[4:] = np.nan
    rows = replace(rows, labels=labels)
    mixed, _ = trained(["tune.full"], rows, dev, tmp_path / "a", order=[np.arange(12)] * 4)
    alone, _ = trained(["tune.full"], rows, dev, tmp_path / "b", order=[np.arange(4)] * 4)
    assert worst(mixed, alone) < 1e-8
    assert all(torch.isfinite(value).all() for value in mixed.values())


# Stopped and resumed.


class Interrupted(Exception):
    pass


class StopAfter(Silent):
    """Raises once a training has made so many steps."""

    def __init__(self, step: float) -> None:
        self.step = step

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Any]:  # type: ignore[override]
        yield self

    def to(self, done: float, note: str = "") -> None:
        if done >= self.step:
            raise Interrupted


def newest(work: Path) -> dict[str, Any]:
    (folder,) = work.glob("step-*")
    return {file.name: torch.load(file, weights_only=True) for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("names", "precision", "stops"),
    [
        *((ALL, precision, stops) for precision in ("float32", "bfloat16") for stops in ((2,), (3, 4, 9, 14))),
        (GATED, "bfloat16", (3, 9)),
        ((*ALL, "burst"), "float16", (4, 9)),
        (AWARE, "bfloat16", (4, 9)),
    ],
)
def test_resumed_equals_uninterrupted_in_every_bit(
    names: tuple[str, ...], precision: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    rows, dev = taught(make_rows(40)), make_rows(20, 7)
    training = replace(SETTINGS, epochs=2.5, evaluations=2, precision=precision, micro_tokens=100)

    def go(work: Path, seed: int, watch: Any = None) -> tuple[dict[str, torch.Tensor], History]:
        torch.manual_seed(seed)
        return trained(names, rows, dev, work, training, make_model(0.3, seed), watch=watch, checkpoint_seconds=0)

    whole, told = go(tmp_path / "a", 0)
    for i, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            go(tmp_path / "b", i, StopAfter(stop))
    resumed, retold = go(tmp_path / "b", 99)  # nothing but the checkpoint knows the weights
    assert same_bits(whole, resumed)
    assert same_bits(vars(told), vars(retold))
    assert len(told.entries) == 5
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))  # optimiser, scheduler, projections, best, random
    assert any("maps" in name for name in whole)


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    rows = make_rows(40)
    with pytest.raises(Interrupted):
        trained(["tune.full"], rows, rows, tmp_path, watch=StopAfter(3), checkpoint_seconds=0)
    (kept,) = tmp_path.glob("step-*")
    draft = tmp_path / ".draft-step-00000099"
    draft.mkdir()
    (draft / "state.pt").write_bytes((kept / "state.pt").read_bytes()[:100])
    resumed, _ = trained(["tune.full"], rows, rows, tmp_path)
    whole, _ = trained(["tune.full"], rows, rows, tmp_path / "other")
    assert same_bits(whole, resumed)
    assert not draft.exists()


def test_precision_may_change_from_stage_to_stage() -> None:
    asked = ("bfloat16", "float32", "float16", "bfloat16")
    assert [make_accelerator(precision).mixed_precision for precision in asked] == ["bf16", "no", "fp16", "bf16"]


# Scaled losses.


def one_of_class_2(count: int = 41) -> Rows:
    rows = make_rows(count)
    rows.labels[:] = rows.labels % 2
    rows.labels[7] = 2
    return rows


def test_a_step_that_overflows_is_left_out(tmp_path: Path) -> None:
    rows, first, last = one_of_class_2(), np.arange(8, 16), np.arange(16, 24)
    training = replace(SETTINGS, precision="float16", schedule="constant", warmup=0)

    def go(work: Path, order: list[np.ndarray], precision: str = "float16") -> dict[str, torch.Tensor]:
        asked, dev = replace(training, precision=precision), make_rows(9)
        return trained(BURST, rows, dev, work, asked, order=order, checkpoint_seconds=0)[0]

    with_it = go(tmp_path / "a", [first, np.arange(8), last, first])
    assert same_bits(with_it, go(tmp_path / "b", [first, last, first]))
    assert [newest(tmp_path / name)["state.pt"]["scaler"]["scale"] for name in "ab"] == [2.0**15, 2.0**16]
    assert worst(with_it, go(tmp_path / "c", [first, last, first], "float32")) < 1e-12, "a scale changes nothing else"
    assert worst(with_it, go(tmp_path / "d", [first, np.arange(8), last, first], "float32")) > 1e-3


# Two processes.


def one_of_two(rank: int, port: int, folder: Path, names: tuple[str, ...], stop: float) -> None:
    """One process of two; its clock runs at its own speed, and its checkpoints must still be the other's."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    began, clock = time.monotonic(), time.monotonic
    loop.time.monotonic = lambda: clock() + (clock() - began) * 1000 * (1 - rank)  # type: ignore[attr-defined]
    rows, precision = taught(make_rows(41)), "float32"
    rows.labels[::5] = NO_LABEL
    if names == BURST:
        rows, precision = one_of_class_2(), "float16"
    try:
        weights, history = trained(
            names,
            rows,
            make_rows(20, 7),
            folder / "work",
            replace(SETTINGS, epochs=2, evaluations=2, micro_tokens=100, precision=precision),
            watch=StopAfter(stop),
            checkpoint_seconds=1.0,
        )
    except Interrupted:
        os._exit(3)
    torch.save({"weights": weights, "history": vars(history)}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def on_two(folder: Path, names: tuple[str, ...], stop: float = np.inf) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(one_of_two, rank, port, folder, names, stop) for rank in range(2)]
    for process in both:
        process.join(90)
        process.kill()
    return [process.exitcode for process in both]


@pytest.mark.parametrize("names", [ALL, ("distil.hidden",), GATED, BURST, AWARE])
def test_two_processes_equal_one(names: tuple[str, ...], tmp_path: Path) -> None:
    rows, precision = taught(make_rows(41)), "float32"
    rows.labels[::5] = NO_LABEL
    if names == BURST:  # on one of the two
        rows, precision = one_of_class_2(), "float16"
    training = replace(SETTINGS, epochs=2, evaluations=2, precision=precision)
    one, told = trained(names, rows, make_rows(20, 7), tmp_path / "one", training)
    if names == ALL:  # stopped on the way
        assert on_two(tmp_path, names, stop=7) == [3, 3]
        assert len(list((tmp_path / "work").glob("step-*/rank-*.pt"))) == 2
    assert on_two(tmp_path, names) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same_bits(first["weights"], second["weights"])
    assert worst(one, first["weights"]) < 1e-7
    assert [e["dev"] for e in told.entries] == [e["dev"] for e in first["history"]["entries"]]
    assert first["history"]["best_step"] == second["history"]["best_step"] == told.best_step


# Order.

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=300).map(np.array)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_every_row_comes_once_an_epoch_and_steps_fit_the_budget(lengths: np.ndarray, size: int, seed: int) -> None:
    training = Training(epochs=1, batch_size=size)
    steps = batches(lengths, training, seed)
    assert sorted(np.concatenate(steps)) == list(range(len(lengths)))
    budget = size * lengths.mean()
    assert all(len(step) == 1 or len(step) * lengths[step].max() <= budget * (1 + 1e-9) for step in steps)
    assert same_bits([s.tolist() for s in steps], [s.tolist() for s in batches(lengths, training, seed)])


@given(LENGTHS, st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 2.75]))
@settings(deadline=None, max_examples=40)
def test_fractions_of_epochs(lengths: np.ndarray, epochs: float) -> None:
    steps = batches(lengths, Training(epochs=epochs, batch_size=4), 0)
    counts = np.bincount(np.concatenate(steps), minlength=len(lengths))
    assert counts.min() >= int(epochs)
    assert counts.max() <= np.ceil(epochs)
    whole = len(batches(lengths, Training(epochs=1, batch_size=4), 0))
    assert abs(len(steps) - epochs * whole) <= 0.1 * epochs * whole + 2


def test_order_follows_the_seed_and_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    one, other = (batches(lengths, Training(epochs=2), seed) for seed in (0, 1))
    assert not same_bits([s.tolist() for s in one], [s.tolist() for s in other])
    half = len(one) // 2
    assert not same_bits([s.tolist() for s in one[:half]], [s.tolist() for s in one[half:]])


def test_steps_hold_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 100, 5000)
    steps = batches(lengths, Training(epochs=1, batch_size=16), 0)
    padded = sum(len(step) * lengths[step].max() for step in steps)
    assert padded < 1.05 * lengths.sum()
    assert sum(map(len, steps)) / len(steps) == pytest.approx(16, rel=0.15)


@given(LENGTHS, st.integers(1, 500), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_cut_keeps_every_row_and_gives_each_process_as_many_pieces(
    lengths: np.ndarray, micro: int, processes: int
) -> None:
    rows = np.random.default_rng(0).permutation(len(lengths))
    pieces = cut(rows, lengths, micro, processes)
    assert len(pieces) == processes
    assert len({len(share) for share in pieces}) == 1
    assert sorted(np.concatenate([piece for share in pieces for piece in share])) == list(range(len(lengths)))
    longest = int(lengths.max())
    assert all(len(piece) <= 1 or len(piece) * longest <= micro + longest for share in pieces for piece in share)


# Looking at dev.


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def play(*scores: float) -> None:
        left = iter(scores)
        monkeypatch.setattr(Classify, "score", lambda self, logits, gold: next(left))

    return play


def test_stops_when_patience_ends_and_keeps_the_best(scripted: Callable[..., None], tmp_path: Path) -> None:
    rows = make_rows(40)
    order = [np.arange(i, i + 5) for i in range(0, 40, 5)]
    training = replace(SETTINGS, evaluations=8, patience=2)
    scripted(0.1, 0.5, 0.3, 0.5, 0.9)
    stopped, history = trained(["tune.full"], rows, rows, tmp_path / "a", training, order=order)
    assert [entry["step"] for entry in history.entries] == [1, 2, 3, 4]
    assert (history.best, history.best_step, history.examples) == (0.5, 2, 20)

    class Look(StopAfter):
        def to(self, done: float, note: str = "") -> None:
            if done == 2:
                seen.update({k: v.clone() for k, v in model.state_dict().items()})

    seen: dict[str, torch.Tensor] = {}
    model = make_model().double()
    scripted(*[0.0] * 8)
    trained(["tune.full"], rows, rows, tmp_path / "b", replace(training, patience=0), model, watch=Look(0), order=order)
    assert same_bits(stopped, seen)


def test_without_patience_it_goes_on_to_the_end(scripted: Callable[..., None], tmp_path: Path) -> None:
    rows = make_rows(40)
    scripted(0.5, 0.4, 0.3, 0.2)
    _, history = trained(["tune.full"], rows, rows, tmp_path, replace(SETTINGS, evaluations=4))
    assert len(history.entries) == 4
    assert history.best == 0.5


def test_what_trains_no_answers_is_not_judged_by_them(scripted: Callable[..., None], tmp_path: Path) -> None:
    rows, training = taught(make_rows(40)), replace(SETTINGS, evaluations=4, patience=1)
    scripted(0.9, 0.1, 0.1, 0.1)
    _, history = trained(["distil.hidden"], rows, rows, tmp_path / "a", training)
    assert (len(history.entries), history.best, history.best_step) == (4, 0.1, history.entries[-1]["step"])
    scripted(0.9, 0.1)
    _, history = trained(["distil.hidden", "distil.logits"], rows, rows, tmp_path / "b", training)
    assert (len(history.entries), history.best) == (2, 0.9)


def test_predict_gives_rows_in_their_order_without_dropout() -> None:
    rows, model = make_rows(150), make_model(0.5).train()
    together = predict(model, rows, make_accelerator("float32"))
    assert model.training
    for i in (0, 77, 149):
        inputs = {k: torch.from_numpy(v) for k, v in rows.encoded.batch([i], PAD).items()}
        with torch.inference_mode():
            alone = model.eval()(**inputs).logits
        np.testing.assert_allclose(together[i], alone[0].numpy(), atol=1e-5)


def test_learns_what_can_be_learnt(tmp_path: Path) -> None:
    rows = make_rows(120, seed=5, shortest=4, longest=8)
    rows.labels[:] = rows.encoded.ids[rows.encoded.starts[:-1]] % 3
    training = replace(SETTINGS, epochs=30, learning_rate=3e-3)
    _, history = trained(["tune.full"], rows, rows, tmp_path, training, make_model())
    assert history.best > 0.95


def test_what_diverges_is_stopped_and_said(tmp_path: Path) -> None:
    """And not found at the end, as a model of NaN."""
    model = make_model().double()
    model.classifier.weight.data.fill_(math.nan)  # as a step too large leaves it
    with pytest.raises(InputError, match=r"the loss is nan by step \d+ of \d+: training has diverged\. Write a lower"):
        trained(["tune.full"], make_rows(12), make_rows(6, 1), tmp_path, model=model)
