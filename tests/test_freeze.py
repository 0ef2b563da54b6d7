"""tune.freeze: what is frozen does not move, what thaws trains from then on, and a stop on the way changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import SETTINGS, TASK, Interrupted, StopAfter, make_model, make_rows, newest, same_bits
from tiny import FAMILIES, tiny
from torch import Tensor, nn

from smidgen.errors import InputError, NoEffect
from smidgen.loop import History, train
from smidgen.method import Context
from smidgen.methods.tune.freeze import Freeze, parts
from smidgen.methods.tune.full import Full
from smidgen.watch import Silent

TRAINING = replace(SETTINGS, weight_decay=0.5, schedule="constant", warmup=0.0)
ROWS = make_rows(48)
ORDER = [np.arange(4 * i, 4 * i + 4) for i in range(12)]  # 12 steps
DOWN = Freeze(blocks="all", head=True, thaw="top_down")
GROUPS = ("head", "block 1", "block 0", "embeddings")


class Record(Silent):
    """Which groups changed in each step."""

    def __init__(self, model: Any) -> None:
        embeddings, blocks, head = parts(model)
        self.groups = dict(zip(GROUPS, (head, blocks[1], blocks[0], embeddings), strict=True))
        self.moved: list[list[str]] = []
        self.last = self.copy()

    def copy(self) -> dict[str, list[Tensor]]:
        return {name: [p.detach().clone() for p in group] for name, group in self.groups.items()}

    def bar(self, name: str, total: float) -> Any:
        return self

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def to(self, done: float, note: str = "") -> None:
        now = self.copy()
        changed = [n for n in GROUPS if any(not torch.equal(a, b) for a, b in zip(now[n], self.last[n], strict=True))]
        self.moved, self.last = [*self.moved, changed], now


def trained(method: Freeze, model: Any, work: Path, watch: Any = None, **how: Any) -> tuple[Any, History]:
    ctx = Context(work, work, TASK, (), 0, model)
    running = [(m, m.begin(ctx)) for m in (method, Full())]
    history = train(running, ctx, ROWS, make_rows(9, 3), TRAINING, work, watch, order=ORDER, **how)
    for each, state in reversed(running):
        each.end(state, ctx)
    assert all(p.requires_grad for p in model.parameters())
    return dict(model.state_dict()), history


@pytest.mark.parametrize(
    ("method", "steps"),  # the groups that move, and how many steps in a row
    [
        (Freeze(), [(GROUPS[:3], 12)]),
        (Freeze(blocks=1), [(GROUPS[:2], 12)]),
        (Freeze(blocks="all", head=True, embeddings=False), [(GROUPS[3:], 12)]),
        (DOWN, [(GROUPS[:1], 3), (GROUPS[:2], 3), (GROUPS[:3], 3), (GROUPS, 3)]),
        (replace(DOWN, head=False), [(GROUPS[:1], 3), (GROUPS[:2], 3), (GROUPS[:3], 3), (GROUPS, 3)]),
        (
            replace(DOWN, head=False, embeddings=False),
            [(("head", "embeddings"), 4), (("head", "block 1", "embeddings"), 4), (GROUPS, 4)],
        ),
        (replace(DOWN, blocks=1), [(("block 1",), 3), (("head", "block 1"), 3), (GROUPS[:3], 3), (GROUPS, 3)]),
        (Freeze(thaw="top_down"), [(GROUPS[:3], 6), (GROUPS, 6)]),
    ],
    ids=str,
)
def test_what_is_frozen_neither_moves_nor_decays_and_what_thaws_does(
    method: Freeze, steps: list[tuple[tuple[str, ...], int]], tmp_path: Path
) -> None:
    model = make_model()
    record = Record(model)
    trained(method, model, tmp_path, record)
    assert record.moved == [list(groups) for groups, count in steps for _ in range(count)]


def test_a_group_trains_after_its_thaw_as_if_training_began_there(tmp_path: Path) -> None:
    """The first step of what thaws is Adam's first: as large as the learning rate, whatever came before."""
    model = make_model()
    seen = {}

    class Look(Record):
        def to(self, done: float, note: str = "") -> None:
            seen[done] = self.groups["block 1"][0].detach().clone()

    trained(DOWN, model, tmp_path, Look(model))
    step = (seen[4] - seen[3] * (1 - TRAINING.learning_rate * TRAINING.weight_decay)).abs()
    assert torch.equal(seen[3], seen[1])
    assert step.median() == pytest.approx(TRAINING.learning_rate, rel=0.02)


@pytest.mark.parametrize("stops", [(2,), (3, 4, 8)])
def test_resumed_equals_uninterrupted_in_every_bit(stops: tuple[int, ...], tmp_path: Path) -> None:
    def go(work: Path, seed: int, watch: Any = None) -> tuple[Any, History]:
        torch.manual_seed(seed)
        return trained(DOWN, make_model(0.3, seed), work, watch, checkpoint_seconds=0)

    whole, told = go(tmp_path / "a", 0)
    for i, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            go(tmp_path / "b", i, StopAfter(stop))
    resumed, retold = go(tmp_path / "b", 99)
    assert same_bits(whole, resumed)
    assert same_bits(vars(told), vars(retold))
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Freeze(embeddings=False), "the settings name nothing"),
        (Freeze(embeddings=False, thaw="top_down"), "the settings name nothing"),
    ],
)
def test_a_target_that_matches_nothing_is_an_error(method: Freeze, why: str) -> None:
    with pytest.raises(NoEffect, match=rf"tune\.freeze: {why}\. Name what to freeze: blocks, embeddings or head\."):
        method.begin(Context(Path(), Path(), TASK, (), 0, make_model()))


def test_a_head_that_is_not_there() -> None:
    body = tiny("distilbert").base_model
    with pytest.raises(NoEffect, match=r"this model has no weights in its head\. Name what to freeze"):
        Freeze(head=True).begin(Context(Path(), Path(), TASK, (), 0, body))


def test_more_blocks_than_there_are() -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, make_model())
    with pytest.raises(InputError, match=r"blocks is 3, but this model has 2\. Write blocks: all\."):
        Freeze(blocks=3).begin(ctx)
    assert list(Freeze(blocks=-1).faults()) == ["blocks: got -1, wanted a number from 0, or all."]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_one_group(family: str) -> None:
    model = tiny(family)
    embeddings, blocks, head = parts(model)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = [id(p) for group in (embeddings, *blocks, head) for p in group]
    assert sorted(grouped) == sorted(names)
    assert len(blocks) == 2
    assert all("embed" in names[id(p)] or "relative" in names[id(p)] for p in embeddings)
    assert all(word not in names[id(p)] for p in head for word in ("embed", "layer.", "layers."))


class Plain(nn.Module):
    """What a student of another kind looks like: a body with parts in order, then what decides."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"model_type": "bilstm"})()
        self.base_model = nn.Module()
        self.base_model.embeddings = nn.Embedding(5, 4)
        self.base_model.dropout = nn.Dropout()
        self.base_model.lstm = nn.LSTM(4, 3)
        self.base_model.mix = nn.Linear(3, 3)
        self.classifier = nn.Linear(3, 2)
        self.transitions = nn.Parameter(torch.zeros(2, 2))


def test_a_model_of_no_known_family_is_grouped_by_its_children() -> None:
    model: Any = Plain()
    embeddings, blocks, head = parts(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in embeddings] == ["base_model.embeddings.weight"]
    assert [len(group) for group in blocks] == [4, 2]
    assert [names[id(p)] for p in head] == ["classifier.weight", "classifier.bias", "transitions"]
    assert sorted(id(p) for g in (embeddings, *blocks, head) for p in g) == sorted(names)
    state = Freeze(blocks="all", head=True, thaw="top_down").begin(Context(Path(), Path(), TASK, (), 0, model))
    assert [start for start, _ in state.groups] == [0, 0.25, 0.5, 0.75]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "transitions",
        "classifier.weight",
        "classifier.bias",
    ]
