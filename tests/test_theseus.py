"""replace.theseus: successors run in the place of groups at the steps that the seed says, and nothing else trains."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, model_folder
from test_loop import SETTINGS, Interrupted, StopAfter, make_rows, newest, same_bits, worst
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.detours import Detours, tosses
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.loop import History, train
from smidgen.method import Context
from smidgen.methods.replace.theseus import Theseus, grouped, replacing
from smidgen.methods.tune.full import Full
from smidgen.prices import shape_of
from smidgen.surgery import apply
from smidgen.tasks import Classify

TASK = Classify(LABELS)
ROWS = make_rows(48)
ROWS.labels[:] = ROWS.labels % 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a family's classifier with four blocks, from which nothing but its config is read."""
    root = tmp_path_factory.mktemp("homes")
    return lambda family: model_folder(root / family, family, LABELS, blocks=4)


def context(folder: Path, model: Any, seed: int = 0) -> Context:
    return Context(folder, folder, TASK, (), seed, model)


def plain(family: str = "bert", blocks: int = 4, dropout: float = 0.0, **how: Any) -> Any:
    names = ("dropout", "attention_dropout") if family == "distilbert" else ("hidden_dropout_prob",)
    names += () if family == "distilbert" else ("attention_probs_dropout_prob",)
    return tiny(family, blocks=blocks, labels=2, **dict.fromkeys(names, dropout), **how)


# The formulas.


def test_the_rate_rises_to_one_or_stays() -> None:
    assert [replacing(t, 0.3, 0.5) for t in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.3, 0.65, 1, 1, 1])
    assert [replacing(t, 0.5, 0) for t in (0.0, 0.5, 1.0)] == [0.5, 0.5, 0.5]
    assert [replacing(t, 0.0, 1.0) for t in (0.0, 0.4, 1.0)] == pytest.approx([0, 0.4, 1])


def test_groups() -> None:
    assert grouped(12, 6) == grouped(12, 0.5) == (2,) * 6
    assert grouped(12, 5) == (2, 2, 3, 2, 3)
    assert grouped(6, (1, 2, 3)) == (1, 2, 3)
    assert grouped(3, 0.1) == (3,)
    with pytest.raises(InputError, match=r"groups \[1, 2\] are 3 blocks, but this model has 4\. Write sizes"):
        grouped(4, (1, 2))
    with pytest.raises(InputError, match="groups is 5, but this model has 4 blocks: use 1 to 4"):
        grouped(4, 5)


def test_coins_follow_from_seed_and_step_and_fall_as_often_as_asked() -> None:
    assert tosses(1, 2, 6, 0.5) == tosses(1, 2, 6, 0.5)
    assert len({tosses(seed, step, 12, 0.5) for seed in range(3) for step in range(3)}) == 9
    assert np.mean([tosses(0, step, 6, 0.3) for step in range(2000)]) == pytest.approx(0.3, abs=0.02)
    assert tosses(0, 0, 3, 1.0) == (True,) * 3 and tosses(0, 0, 3, 0.0) == (False,) * 3


# What runs.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("coins", [(True, False), (False, True), (False, False), (True, True)])
def test_a_step_is_the_model_of_the_blocks_that_its_coins_choose(
    family: str, coins: tuple[bool, ...], home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"layer_types": ["sliding_attention"] * 4} if family == "modernbert" else {}
    model = tiny(family, blocks=4, labels=2, **kinds)
    whole = copy.deepcopy(model)
    ctx = context(home(family), model)
    state = Theseus().begin(ctx)
    assert model.config.num_hidden_layers == 2
    with torch.no_grad():
        for parameter in anatomy(model).block_list.parameters():
            parameter.add_(0.05)  # as training would
    successors = list(anatomy(copy.deepcopy(model)).block_list)
    for module in successors:
        vars(module).pop("forward")
    groups = list(anatomy(whole).block_list)
    chosen = [m for i, coin in enumerate(coins) for m in ([successors[i]] if coin else groups[2 * i : 2 * i + 2])]
    del anatomy(whole).block_list[:]
    anatomy(whole).block_list.extend(chosen)
    monkeypatch.setattr(Detours, "staying", lambda self: coins)
    inputs = batch(VOCAB, [5, 9], pad_to=12)
    for module in (model, state):  # what the test compares has no dropout
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    for block in anatomy(model).blocks:
        block.module.training = True
    assert torch.allclose(model(**inputs).logits, whole(**inputs).logits, atol=1e-6)
    model.eval()
    del anatomy(whole).block_list[:]
    anatomy(whole).block_list.extend(successors)
    assert torch.allclose(model(**inputs).logits, whole(**inputs).logits, atol=1e-6)


# What trains.


def trained(
    method: Theseus, folder: Path, work: Path, dropout: float = 0.0, watch: Any = None, micro: int = 10**6
) -> tuple[dict[str, Tensor], History, Any]:
    model = plain(dropout=dropout).double()
    ctx = context(folder, model)
    running = [(m, m.begin(ctx)) for m in (method, Full())]
    settings = dataclasses.replace(SETTINGS, micro_tokens=micro, evaluations=2)
    history = train(running, ctx, ROWS, ROWS, settings, work, watch, checkpoint_seconds=0)
    for each, state in reversed(running):
        each.end(state, ctx)
    return dict(model.state_dict()), history, running[0][1]


def test_only_successors_train_and_start_from_the_blocks_that_are_named(home: Any, tmp_path: Path) -> None:
    before = plain().double()
    weights, _, state = trained(Theseus(groups=(1, 3), start="uniform"), home("bert"), tmp_path)
    assert {name.split(".")[3] for name in weights if "encoder.layer" in name} == {"0", "1"}
    for name, value in before.state_dict().items():
        if "encoder" not in name:
            assert torch.equal(value, weights[name]), name
    old = dict(before.bert.encoder.layer.named_parameters())
    for name, value in state.ways.named_parameters():
        way, place, rest = name.split(".", 2)
        assert torch.equal(value, old[f"{int(way) + int(place)}.{rest}"]), name
    for name, value in weights.items():
        if name.startswith("bert.encoder.layer.") and not name.endswith("key.bias"):  # softmax takes that one out
            place, rest = name.removeprefix("bert.encoder.layer.").split(".", 1)
            moved = (value - old[f"{1 + 2 * int(place)}.{rest}"].detach()).abs().max()
            assert 0 < moved < 0.05, name


def test_a_block_without_units_has_nothing_to_narrow(home: Any) -> None:
    model = plain()
    apply(model, KeepWidth(3, ()))
    ctx = context(home("bert"), model)
    Theseus(groups=4, successor="narrow", width=0.5).begin(ctx)
    assert [width for _, width in shape_of(model)] == [32, 32, 32, 0]


def test_a_step_in_which_no_successor_runs_changes_nothing(home: Any, tmp_path: Path) -> None:
    weights, history, _ = trained(Theseus(groups=2, rate=1e-9, rising=0), home("bert"), tmp_path)
    start = plain().double().state_dict()
    assert all(torch.equal(value, start[name]) for name, value in weights.items())
    assert all(np.isfinite(entry["loss"]) for entry in history.entries)


def test_micro_batches_see_the_same_coins(home: Any, tmp_path: Path) -> None:
    whole, _, _ = trained(Theseus(), home("bert"), tmp_path / "a")
    pieces, _, _ = trained(Theseus(), home("bert"), tmp_path / "b", micro=1)
    assert worst(whole, pieces) < 1e-7


def test_resumed_equals_uninterrupted_in_every_bit(home: Any, tmp_path: Path) -> None:
    whole, told, _ = trained(Theseus(), home("bert"), tmp_path / "a", dropout=0.3)
    for stop in (2, 4):
        with pytest.raises(Interrupted):
            trained(Theseus(), home("bert"), tmp_path / "b", dropout=0.3, watch=StopAfter(stop))
    resumed, retold, _ = trained(Theseus(), home("bert"), tmp_path / "b", dropout=0.3)
    assert same_bits(whole, resumed) and same_bits(vars(told), vars(retold))
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))


# What is refused.


def test_what_looks_inside_a_block_is_refused(home: Any) -> None:
    ctx = context(home("bert"), model := plain())
    Theseus().begin(ctx)
    ctx.listen(["block.1.hidden", "logits"])
    model.train()(**batch(VOCAB, [5, 9]))
    ctx.listen(["block.1.scores"])
    with pytest.raises(InputError, match=r"^block\.1\.scores is asked of a block that does not run in every step"):
        model.train()(**batch(VOCAB, [5, 9]))


def test_a_model_that_is_not_fine_tuned_is_refused(tmp_path: Path) -> None:
    bare = model_folder(tmp_path / "bare", blocks=4)
    with pytest.raises(InputError, match=r"no trained head for classify.*methods: \{tune\.full: \{\}\}"):
        Theseus().begin(context(bare, plain()))


def test_as_many_groups_as_blocks_change_nothing(home: Any) -> None:
    with pytest.raises(NoEffect, match=r"groups 1\.0 puts a block in the place of each of 4 blocks"):
        Theseus(groups=1.0).begin(context(home("bert"), plain()))


def test_groups_of_two_kinds_are_refused(home: Any) -> None:
    with pytest.raises(ModelError, match=r"blocks 0 to 1 and block 0.*local and global.*such as \[1, 2, 1, 2\], with"):
        Theseus().begin(context(home("modernbert"), tiny("modernbert", blocks=4, labels=2)))


def test_groups_of_one_kind_start_from_their_own_blocks(home: Any) -> None:
    """Of ModernBERT, where any other start would put a global block among local ones."""
    model = tiny("modernbert", blocks=6, labels=2)
    blocks = anatomy(model).blocks
    windows = [block.window for block in blocks]
    sizes = tuple(len(list(group)) for _, group in itertools.groupby(windows))
    ctx = context(home("modernbert"), model)
    state = Theseus(groups=sizes, start="group").begin(ctx)
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    assert [block.window for block in anatomy(model).blocks] == [windows[at] for at in firsts]
    assert [len(way) for way in state.ways] == list(sizes)


def test_narrow_widths_are_multiples(home: Any) -> None:
    model = tiny("bert", blocks=4, labels=2)
    Theseus(groups=4, successor="narrow", width=0.45, multiple=16).begin(context(home("bert"), model))
    assert [block.width for block in anatomy(model).blocks] == [32] * 4
