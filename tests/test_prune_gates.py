"""Hard-concrete gates against the formula and by Monte Carlo; the price, what is cut for it, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, model_folder
from test_loop import TASK, make_rows
from test_prune_fisher import Stopwatch
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.concrete import BETA, GAMMA, ZETA, chance, draw, settled
from smidgen.edits.attach import Attach
from smidgen.edits.factor import Factor
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError, NoEffect, RecipeError
from smidgen.gating import Gating, hull, line
from smidgen.loop import make_optimizer, train
from smidgen.mapping import in_order
from smidgen.method import Context, Sight
from smidgen.methods.distil.hidden import Hidden, thirds
from smidgen.methods.prune.gates import Gates
from smidgen.methods.tune.full import Full
from smidgen.planner import plan
from smidgen.prices import Costs, Macs, shape_of, weights
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.students.bilstm import BilstmForSequenceClassification
from smidgen.surgery import apply, replay

torch.set_num_threads(1)
CUTTABLE = [family for family in FAMILIES if family != "mobilebert"]
ALL_PARTS = ("heads", "units", "sublayers")
WITH_HIDDEN = (*ALL_PARTS, "hidden")
ALPHAS = torch.linspace(-6, 6, 25, dtype=torch.double)
MS = Costs("ms", 0.5, ((0, 0.1), (1, 0.4), (4, 1.0)), ((0, 0.1), (16, 0.5), (64, 2.0)))  # empty sublayers cost too


def context(model: Any) -> Context:
    return Context(Path(), Path(), TASK, (), 0, model)


def metered(meter: Any) -> Context:
    ctx = context(tiny("bert"))
    ctx.sight = Sight(meter=lambda unit: meter)
    return ctx


def begun(model: Any, **settings: Any) -> tuple[Gates, Gating, Context]:
    method, ctx = Gates(**({"multiple": 8} | settings)), context(model)
    return method, method.begin(ctx), ctx


def stirred(state: Gating, seed: int = 0, spread: float = 4.0) -> Gating:
    """The same with gates anywhere, as after training."""
    rng = torch.Generator().manual_seed(seed)
    for each in state.log_alpha.values():
        each.data = spread * torch.randn(each.shape, generator=rng, dtype=torch.double)
    return state


# One gate.


def test_a_draw_is_that_of_the_formula() -> None:
    u = np.random.default_rng(0).uniform(0.001, 0.999, 25)
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + ALPHAS.numpy()) / (2 / 3)))
    wanted = np.minimum(1, np.maximum(0, s * 1.2 - 0.1))
    np.testing.assert_allclose(draw(ALPHAS, torch.from_numpy(u)).numpy(), wanted, atol=1e-12)
    assert (GAMMA, ZETA, BETA) == (-0.1, 1.1, 2 / 3)


def test_the_chance_to_be_open_is_the_share_of_draws_that_are() -> None:
    noise = torch.rand(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    drawn = draw(ALPHAS, noise)
    np.testing.assert_allclose(chance(ALPHAS), (drawn != 0).double().mean(0), atol=0.01)
    wanted = 1 / (1 + np.exp(-(ALPHAS.numpy() - 2 / 3 * np.log(0.1 / 1.1))))
    np.testing.assert_allclose(chance(ALPHAS), wanted, rtol=1e-12)
    assert (drawn == 1).any() and (drawn == 0).any() and ((drawn > 0) & (drawn < 1)).any()


def test_a_settled_gate_is_that_of_the_formula_and_reaches_both_ends() -> None:
    wanted = np.clip(1.2 / (1 + np.exp(-ALPHAS.numpy())) - 0.1, 0, 1)
    np.testing.assert_allclose(settled(ALPHAS), wanted, atol=1e-12)
    assert settled(ALPHAS)[0] == 0 and settled(ALPHAS)[-1] == 1


def test_costs_lie_on_straight_lines() -> None:
    at = torch.tensor([0.0, 0.5, 1.0, 2.5, 4.0], dtype=torch.double, requires_grad=True)
    found = line(MS.heads, at)
    np.testing.assert_allclose(found.detach(), [MS.attention(x) for x in at.tolist()])
    found.sum().backward()
    np.testing.assert_allclose(at.grad, [0.3, 0.3, 0.3, 0.2, 0.2])


def test_a_flat_step_of_a_row_is_bent_so_that_each_part_costs_something() -> None:
    assert hull(((0, 0.0), (16, 3.0), (32, 5.0), (64, 5.0))) == ((0, 0.0), (64, 5.0))
    assert hull(((0, 0.0), (16, 1.0), (32, 3.0), (64, 9.0))) == ((0, 0.0), (16, 1.0), (32, 3.0), (64, 9.0))
    assert hull(MS.heads) == ((0, 0.1), (4, 1.0)) and hull(((0, 0.0), (4, 2.0))) == ((0, 0.0), (4, 2.0))


# The share of the price.


def test_the_share_is_the_mean_over_draws() -> None:
    model = tiny("bert")
    _, state, _ = begun(model, parts=ALL_PARTS)
    stirred(state)
    costs, total = state.costs, 0.0
    for step in range(400):
        state.stands[0] = step
        drawn = {kind: [(z != 0).double() for z in each] for kind, each in state.drawn().items()}
        heads = [float(h.sum() * a) for h, a in zip(drawn["heads"], drawn["attention"], strict=True)]
        units = [float(u.sum() * f) for u, f in zip(drawn["units"], drawn["feed_forward"], strict=True)]
        total += sum(costs.attention(h) + costs.feed_forward(u) for h, u in zip(heads, units, strict=True))
    assert float(state.share().detach()) == pytest.approx(total / 400 / state.whole, abs=0.02)


@pytest.mark.parametrize("price", ["weights", "macs"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_with_the_hidden_size_the_share_is_that_of_the_products_of_gates(family: str, price: str) -> None:
    """By brute force: each head and unit with each dimension, and heads with pairs of tokens, of all draws' mean."""
    model = tiny(family)
    _, state, _ = begun(model, parts=WITH_HIDDEN, price=price)
    stirred(state)
    length, fused = (128, 3) if family == "modernbert" else (128, 2)
    open_ = {kind: chance(alphas).detach() for kind, alphas in state.log_alpha.items()}
    heads = (open_["heads"].view(2, 4) * open_["attention"][:, None]).flatten()
    units = (open_["units"].view(2, 64) * open_["feed_forward"][:, None]).flatten()
    products = 4 * 8 * torch.outer(heads, open_["hidden"]).sum() + fused * torch.outer(units, open_["hidden"]).sum()
    whole = 4 * 8 * 8 * 32 + fused * 128 * 32
    if price == "macs":
        products, whole = length * products + 2 * length**2 * 8 * heads.sum(), length * whole + 2 * length**2 * 8 * 8
    assert float(state.share().detach()) == pytest.approx(float(products) / whole, rel=1e-9)
    state.share().backward()
    assert all((each.grad > 0).all() for each in state.log_alpha.values())


def test_the_price_at_a_hidden_size_is_that_of_a_model_of_it() -> None:
    model, meter = tiny("modernbert"), Macs(20)
    _, state, _ = begun(model, parts=WITH_HIDDEN, price="weights")
    state.costs, state.narrow = meter.costs(model), meter.costs(model, 16)
    for hidden, edits in ((24, ()), (8, (KeepHeads(0, (1,)), KeepWidth(1, (0, 5))))):
        cut = replay(tiny("modernbert"), (KeepHidden(tuple(range(hidden))), *edits))
        assert state.price(shape_of(cut), hidden) == pytest.approx(meter.measure({"cut": cut})["cut"], rel=1e-12)


def test_a_table_in_milliseconds_is_between_that_of_half_and_of_the_whole() -> None:
    _, state, _ = begun(tiny("bert"), parts=WITH_HIDDEN, price="weights")
    state.costs, state.narrow = MS, Costs("ms", 0.4, ((0, 0.1), (1, 0.2), (4, 0.5)), ((0, 0.1), (16, 0.3), (64, 3.0)))
    shape = [(4, 64), (1, 16)]
    assert state.price(shape, 32) == pytest.approx(0.5 + 1 + 2 + 0.4 + 0.5)
    assert state.price(shape, 16) == pytest.approx(min(0.4 + 0.5 + 3 + 0.2 + 0.3, 4.4))  # noise: level
    shape = [(4, 16), (1, 16)]
    whole, half = 0.5 + 1 + 0.5 + 0.4 + 0.5, 0.4 + 0.5 + 0.3 + 0.2 + 0.3
    assert [state.price(shape, at) for at in (32, 24, 16, 8)] == pytest.approx(
        [whole, (whole + half) / 2, half, half - (whole - half) / 2]
    )


@pytest.mark.parametrize(("t", "target"), [(0.0, 1.0), (0.1, 0.85), (0.2, 0.7), (0.4, 0.4), (1.0, 0.4)])
def test_the_target_falls_and_then_stays(t: float, target: float) -> None:
    _, state, _ = begun(tiny("bert"), keep=0.4, warmup=0.4)
    state.step(t)
    assert state.target() == pytest.approx(target)
    _, at_once, _ = begun(tiny("bert"), keep=0.4, warmup=0.0)
    assert at_once.target() == 0.4


def test_the_penalty_pulls_gates_down_and_multipliers_up() -> None:
    _, state, _ = begun(tiny("bert"), parts=ALL_PARTS)
    state.multipliers.data = torch.tensor([0.5, 0.25], dtype=torch.double)
    state.step(1.0)
    gap = float(state.share().detach()) - 0.5
    penalty = state.penalty()
    assert float(penalty.detach()) == pytest.approx(0.5 * gap + 0.25 * gap**2)
    penalty.backward()
    assert gap > 0 and state.multipliers.grad.tolist() == pytest.approx([gap, gap**2])
    assert all((each.grad > 0).all() for each in state.log_alpha.values())


def test_gates_and_multipliers_have_a_rate_of_their_own() -> None:
    model = tiny("bert")
    _, state, _ = begun(model, rate=0.07)
    optimizer = make_optimizer(model, nn.ModuleList([state]), Training(learning_rate=1e-3))
    decayed, plain, gates, multipliers = optimizer.param_groups
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-3, 0.07, 0.021])
    assert gates["params"] == list(state.log_alpha.values()) and gates["weight_decay"] == 0
    assert multipliers["maximize"] and multipliers["params"][0] is state.multipliers
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


# What stays.


@pytest.mark.parametrize("costs", [None, MS])
@pytest.mark.parametrize("parts", [("heads", "units"), ALL_PARTS, ("units",), ("sublayers",)])
def test_what_stays_meets_the_price_and_is_what_was_most_open(parts: tuple[str, ...], costs: Costs | None) -> None:
    model = tiny("bert", blocks=4)
    _, state, _ = begun(model, parts=parts, keep=0.8)
    state.costs = costs or state.costs
    state.whole = state.costs.predict(state.shape)
    for seed in range(5):
        cut = stirred(state, seed).decide()
        shape = [(int(h.sum()), int(u.sum())) for h, u in zip(cut.kept["heads"], cut.kept["units"], strict=True)]
        assert state.costs.predict(shape) <= 0.8 * state.whole < state.costs.predict(state.shape_at(cut.shift + 1e-6))
        assert all(any(each) for each in shape) and all(width % 8 == 0 for _, width in shape)
        for part in ("heads", "units"):
            for alphas, kept, factors in zip(state._of(part), cut.kept[part], cut.factors[part], strict=True):
                assert not kept.any() or kept.all() or alphas[kept].min() > alphas[~kept].max()
                assert not factors[~kept].any()


@pytest.mark.parametrize("parts", [WITH_HIDDEN, ("hidden",), ("heads", "hidden")])
def test_what_stays_of_the_hidden_size_is_what_was_most_open(parts: tuple[str, ...]) -> None:
    for seed in range(5):
        _, state, _ = begun(tiny("bert", blocks=3), parts=parts, keep=0.6, price="weights")
        cut = stirred(state, seed).decide()
        (kept,), (alphas,), (factors,) = cut.kept["hidden"], state._of("hidden"), cut.factors["hidden"]
        shape = [(int(h.sum()), int(u.sum())) for h, u in zip(cut.kept["heads"], cut.kept["units"], strict=True)]
        assert state.price(shape, int(kept.sum())) <= 0.6 * state.whole
        assert kept.sum() % 8 == 0 and kept.sum() > 0
        assert kept.all() or alphas[kept].min() > alphas[~kept].max()
        assert (factors[kept] > 0).all() and not factors[~kept].any()


def test_gates_that_have_met_the_price_are_not_shifted() -> None:
    _, state, _ = begun(tiny("bert"), keep=0.5, price="weights", multiple=1)
    for each in state.log_alpha.values():
        half = torch.arange(len(each)) % 2 == 0
        each.data = torch.where(half, 8.0, -8.0).double()
    cut = state.decide()
    assert state.shape_at(0.0) == [(2, 32), (2, 32)]
    assert [each.tolist() for each in cut.kept["heads"]] == [[True, False, True, False]] * 2
    assert all(set(each.tolist()) == {0.0, 1.0} for each in cut.factors["units"])


@pytest.mark.parametrize("parts", [("heads", "units"), ALL_PARTS, WITH_HIDDEN])
@pytest.mark.parametrize("family", CUTTABLE)
@torch.no_grad()
def test_the_cut_model_says_what_the_gated_one_said(family: str, parts: tuple[str, ...]) -> None:
    model, inputs = tiny(family), batch(VOCAB, [5, 12, 9])
    plain = model(**inputs).logits
    method, state, ctx = begun(model, parts=parts)
    stirred(state, spread=1.0)
    gated = model(**inputs).logits
    assert any(((f > 0) & (f < 1)).any() for each in state.decide().factors.values() for f in each)  # real-valued
    assert (gated - plain).abs().max() > 1e-3
    method.end(state, ctx)
    torch.testing.assert_close(model(**inputs).logits, gated, rtol=0, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert ctx.found["prune.gates"]["after"] == [list(each) for each in shape_of(model)]
    assert ctx.found["prune.gates"]["share"] <= 0.5
    assert ctx.found["prune.gates"]["hidden"] == [32, anatomy(model).hidden_size]
    assert ("hidden" in parts) == (anatomy(model).hidden_size < 32)


def test_gates_are_drawn_in_training_and_settled_in_judging() -> None:
    model, inputs = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), batch(VOCAB, [5, 9])
    _, state, _ = begun(model)
    stirred(state, spread=1.0)

    def says(training: bool) -> Tensor:
        return model.train(training)(**inputs).logits.detach()

    drawn, judged = says(True), says(False)
    assert torch.equal(says(True), drawn), "a step has one draw"
    assert not torch.equal(drawn, judged)
    state.step(0.5)
    assert not torch.equal(says(True), drawn) and torch.equal(says(False), judged)


@pytest.mark.parametrize(("parts", "left"), [(("heads", "units"), 1), (ALL_PARTS, 1), (("sublayers",), 4)])
def test_where_all_heads_are_shut_the_most_open_one_stays(parts: tuple[str, ...], left: int) -> None:
    """Without any head each text gets the same answer."""
    model, inputs = tiny("bert", blocks=3, hidden_dropout_prob=0.0), batch(VOCAB, [5, 9])
    method, state, ctx = begun(model, parts=parts, keep=0.9)
    for kind in {"heads", "attention"} & {*state.log_alpha}:
        state.log_alpha[kind].data.fill_(-6.0)
        state.log_alpha[kind].data[(6 if kind == "heads" else 1)] = -4.0  # the third head of block 1
    cut, drawn = state.decide(), state.drawn()
    assert [int(kept.sum()) for kept in cut.kept["heads"]] == [0, left, 0]
    assert cut.factors["heads"][1].tolist() == ([0, 0, 1, 0] if left == 1 else [1] * 4)
    for _ in range(20):
        state.step(0.0)
        drawn = state.drawn()
        if "heads" in drawn and left == 1 and "attention" not in drawn:
            heads = [each.tolist() for each in drawn["heads"]]
        else:
            each = zip(state._of("heads") if "heads" not in drawn else drawn["heads"], drawn["attention"], strict=True)
            heads = [(h.clamp(max=1) * z).tolist() for h, z in each]
        assert any(any(block) for block in heads), "as while it trains"
    with torch.no_grad():
        gated = model.eval()(**inputs).logits
        method.end(state, ctx)
        torch.testing.assert_close(model(**inputs).logits, gated, rtol=0, atol=1e-5)
    assert not torch.allclose(gated[0], gated[1], atol=1e-7)
    assert [heads for heads, _ in shape_of(model)] == [0, left, 0]


def test_all_heads_may_go_where_there_were_none() -> None:
    model = tiny("bert")
    for block in range(2):
        apply(model, KeepHeads(block, ()))
    _, state, _ = begun(model, parts=("units",), keep=0.8, price="weights")
    assert [heads for heads, _ in state.aimed()[0]] == [0, 0]


# Trained.


@pytest.mark.parametrize("parts", [("heads", "units"), ALL_PARTS])
def test_training_reaches_the_target(parts: tuple[str, ...], tmp_path: Path) -> None:
    model = tiny("bert", hidden_dropout_prob=0.0)
    method, state, ctx = begun(model, parts=parts, price="weights", multiple=1, warmup=0.3)
    full, rows = Full(), make_rows(24)
    running = [(method, state), (full, full.begin(ctx))]
    order = [np.arange(i % 3 * 8, i % 3 * 8 + 8) for i in range(160)]
    settings = Training(learning_rate=1e-3, precision="float32")
    history = train(running, ctx, rows, rows, settings, tmp_path, order=order)
    assert history.best_step == 160  # dev is of no say
    assert float(state.share().detach()) == pytest.approx(0.5, abs=0.04)
    method.end(state, ctx)
    told = ctx.found["prune.gates"]
    assert 0.35 < told["share"] <= 0.5, "less than asked by what was shut, which is not brought back"
    after = weights(tiny("bert")).predict(shape_of(model)) / weights(tiny("bert")).predict([(4, 64)] * 2)
    assert told["share"] == pytest.approx(after)
    assert told["told"].endswith(
        f" inner units are left, for {after:.2f} of the price in weights; on average the gates stood at "
        f"{told['on_average']:.2f} of it, and they were shifted by {told['shift']:+.2f}."
    )


def test_training_reaches_the_target_with_gates_on_the_hidden_size(tmp_path: Path) -> None:
    model = tiny("bert", hidden_dropout_prob=0.0)
    settings = {"price": "weights", "multiple": 1, "warmup": 0.3, "keep": 0.4}
    method, state, ctx = begun(model, parts=("heads", "hidden"), **settings)
    full, rows = Full(), make_rows(24)
    order = [np.arange(i % 3 * 8, i % 3 * 8 + 8) for i in range(130)]
    running = [(method, state), (full, full.begin(ctx))]
    train(running, ctx, rows, rows, Training(learning_rate=1e-3, precision="float32"), tmp_path, order=order)
    method.end(state, ctx)
    told, hidden = ctx.found["prune.gates"], anatomy(model).hidden_size
    assert told["on_average"] == pytest.approx(0.4, abs=0.05) and 0.35 < told["share"] <= 0.4 and hidden < 32
    assert f" inner units are left, and {hidden} of the hidden size of 32, for {told['share']:.2f} of" in told["told"]
    cut = weights(model).predict(shape_of(model)) / weights(tiny("bert")).predict([(4, 64)] * 2)
    assert told["share"] == pytest.approx(cut)
    assert {type(edit).__name__ for edit in ctx.edits} <= {"KeepHidden", "KeepHeads"}


def test_the_last_weights_are_kept_though_others_were_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny("bert"), make_rows(24)
    method, state, ctx = begun(model)
    scores = iter([0.9, 0.1])
    monkeypatch.setattr(type(TASK), "score", lambda *_: next(scores))
    full = Full()
    settings = Training(epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", patience=1)
    history = train([(method, state), (full, full.begin(ctx))], ctx, rows, rows, settings, tmp_path)
    assert [entry["dev"] for entry in history.entries] == [0.9, 0.1]
    assert history.best_step == history.entries[-1]["step"] and history.best == 0.1


# Which block learns from which while blocks go.


@pytest.mark.parametrize(
    ("distances", "allowed", "found"),
    [
        ([[3, 1, 2, 9], [9, 2, 3, 1]], [0, 1, 2, 3], [1, 3]),  # the nearest each
        ([[9, 9, 1, 2], [9, 1, 2, 3]], [0, 1, 2, 3], [0, 1]),  # the last chooses first, the first keeps the order
        ([[3, 1, 2, 9], [9, 2, 3, 1]], [0, 2], [0, 2]),  # not what is shut
        ([[1, 2], [1, 2], [1, 2]], [0, 1], [0, 0, 0]),  # where none is left below: that one too
    ],
)
def test_blocks_are_matched_in_order(distances: list[list[float]], allowed: list[int], found: list[int]) -> None:
    assert in_order(distances, allowed) == found


def test_every_third_block_of_the_teacher_is_learnt() -> None:
    assert thirds(12, 12) == ((2, 2), (5, 5), (8, 8), (11, 11))  # CoFi: 3, 6, 9 and 12, counted from 1
    assert thirds(3, 12) == ((0, 3), (1, 7), (2, 11))
    assert thirds(4, 6) == ((1, 2), (3, 5)) and thirds(4, 0) == ()


def test_the_nearest_block_that_is_not_shut_is_chosen_after_a_step() -> None:
    model = tiny("bert", blocks=6)
    ctx = context(model)
    ctx.teacher_blocks, ctx.teacher_width = 6, 32
    method = Hidden(mapping="dynamic", embeddings=True)
    state = method.begin(ctx)
    assert ctx.teacher_taps == {"embeddings", "block.2.hidden", "block.5.hidden"}
    assert {f"block.{i}.hidden" for i in range(6)} <= ctx.student_taps
    before = state.names
    state.heard[1] = torch.tensor([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    state.heard[2] = torch.tensor([9.0, 9.0, 9.0, 1.0, 2.0, 3.0])
    ctx.shut = lambda: [1, 3]
    method.step(state, 0.5)
    assert before == [("embeddings", "embeddings"), *((f"block.{i}.hidden",) * 2 for i in (2, 5))]
    assert state.names == [
        ("embeddings", "embeddings"),
        ("block.2.hidden", "block.2.hidden"),
        ("block.4.hidden", "block.5.hidden"),
    ]
    assert not state.heard.any()


def test_a_feed_forward_is_shut_by_its_own_gate_or_by_all_of_its_units() -> None:
    model = tiny("bert", blocks=3)
    _, state, ctx = begun(model, parts=ALL_PARTS)
    assert ctx.shut() == []
    state.log_alpha["feed_forward"].data[1] = -5.0
    state.log_alpha["units"].data[128:] = -5.0
    assert ctx.shut() == [1, 2]


# What is refused.


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"keep": 1.0}, "keep: got 1.0, wanted a share between 0 and 1."),
        ({"keep": 0.0}, "keep: got 0.0, wanted a share between 0 and 1."),
        ({"speedup": 1.0}, "speedup: got 1.0, wanted more than 1."),
        ({"parts": ()}, "parts: got [], wanted some of heads, units, sublayers, hidden, each once."),
        ({"parts": ("head",)}, "parts: got ['head'], wanted some of heads, units, sublayers, hidden, each once."),
        ({"rate": 0.0}, "rate: got 0.0, wanted more than 0."),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], fault: str) -> None:
    assert list(Gates(**settings).faults()) == [fault]


def test_a_speedup_is_a_share() -> None:
    assert begun(tiny("bert"), speedup=2.5)[1].keep == 0.4


@pytest.mark.parametrize("power", [0.7, 1.0, 1.5])
def test_the_target_is_set_by_what_a_model_is_measured_to_take(power: float) -> None:
    """A model that is s of the price by the table takes s ** power of it."""
    watch = Stopwatch(power=power)
    method, ctx = Gates(speedup=2.0, price="int8", multiple=8), metered(watch)
    state = method.begin(ctx)
    assert float(state.keep) == pytest.approx(0.5 ** (1 / power), abs=1e-6)
    state.step(1.0)
    assert state.target() == pytest.approx(float(state.keep))
    method.end(state, ctx)
    assert 2.0 <= ctx.found["prune.gates"]["speedup"] < 2.5
    assert Costs.from_data(ctx.found["prune.gates"]["costs"]) == watch.costs(None)
    other = Gates(speedup=1.5, price="int8", multiple=8).begin(metered(Stopwatch()))
    other.load_state_dict(state.state_dict())
    assert other.keep == state.keep, "a run that goes on aims where it did"


def test_the_target_is_set_again_by_what_would_be_cut_once_it_has_fallen() -> None:
    watch = Stopwatch()
    method, ctx = Gates(speedup=2.0, price="int8", multiple=8, warmup=0.4), metered(watch)
    state = method.begin(ctx)
    assert float(state.keep) == pytest.approx(0.5, abs=1e-6)
    watch.power = 1.5  # the shape that the gates have found is faster than one that lost as much of everything
    method.step(state, 0.3)
    assert float(state.keep) == pytest.approx(0.5, abs=1e-6), "not while the target falls"
    stirred(state, spread=1.0)
    method.step(state, 0.4)
    assert state.target() == float(state.keep) == pytest.approx(0.5 ** (1 / 1.5), abs=1e-6)
    assert state.gates._handles, "the gates work on"
    watch.power = 0.7
    method.step(state, 0.5)
    assert state.target() == pytest.approx(0.5 ** (1 / 1.5), abs=1e-6), "once"
    watch.power = 1.5
    method.end(state, ctx)
    assert 2.0 <= ctx.found["prune.gates"]["speedup"] < 2.6, "widths are multiples of 8"


def test_what_another_method_has_put_on_the_model_is_not_timed() -> None:
    method, ctx = Gates(speedup=2.0, price="int8", multiple=8), metered(Stopwatch())
    state = method.begin(ctx)
    apply(ctx.model, Factor(0, "up", 4))  # such a block cannot be cut
    method.step(state, 0.5)
    assert float(state.keep) == pytest.approx(0.5, abs=1e-6)


def test_no_target_is_set_again_below_what_no_cut_leaves() -> None:
    watch = Stopwatch()
    method = Gates(speedup=3.5, price="int8", multiple=8)
    state = method.begin(metered(watch))
    watch.power = 0.5
    method.step(state, 0.5)
    assert 1 / 3.5**2 < float(state.keep) == state.least() < 1 / 3.5


def test_a_target_that_no_model_is_measured_to_reach_is_refused() -> None:
    told = (
        "prune.gates: speedup 4.0, 0.25 of the price leaves a block with nothing: with all gates on heads, units shut "
        "but for one head, 16 units in a block without heads, 0.41 of it stands, 1.684 ms. Write a speedup up to 2.43, "
        "a lower multiple,"
    )
    with pytest.raises(InputError, match=re.escape(told)):
        Gates(speedup=4.0, price="int8", multiple=16).begin(metered(Stopwatch(power=0.7)))
    Gates(speedup=2.43, price="int8", multiple=16).begin(metered(Stopwatch(power=0.7)))


def test_a_target_in_milliseconds() -> None:
    whole = Stopwatch().measure({"now": tiny("bert")})["now"]
    method = Gates(milliseconds=whole / 2, price="int8", multiple=8)
    state = method.begin(metered(Stopwatch()))
    assert state.asked == pytest.approx(0.5)
    assert float(state.keep) == pytest.approx(float(Gates(price="int8", multiple=8).begin(metered(Stopwatch())).keep))
    told = (
        f"prune.gates: milliseconds {whole / 4}, 0.25 of the price leaves a block with nothing: with all gates on "
        "heads, units shut but for one head, 16 units in a block without heads, 0.41 of it stands, 2.105 ms. Write "
        "milliseconds from 2.105 on, a lower multiple"
    )
    with pytest.raises(InputError, match=re.escape(told)):
        Gates(milliseconds=whole / 4, price="int8", multiple=16).begin(metered(Stopwatch(power=0.7)))
    with pytest.raises(NoEffect, match=r"prune\.gates: milliseconds 99 cuts nothing: a text takes .* ms as it is\."):
        Gates(milliseconds=99, price="int8").begin(metered(Stopwatch()))


@pytest.mark.parametrize("beside", ["tune.bitfit", "tune.prefix"])
def test_what_stands_on_what_is_cut_needs_a_stage_after(beside: str, tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    stage = Stage("cut", (Use(beside), Use("prune.gates"), Use("tune.full")))
    recipe = Recipe(str(model_folder(tmp_path / "m", labels=LABELS)), Files(files["train"], files["dev"]), (stage,))
    told = rf"prune\.gates: what {beside} trains stands on heads and units, .* Give it a stage after\."
    with pytest.raises(RecipeError, match=told):
        plan(recipe)


def test_a_graft_on_heads_is_refused_before_training() -> None:
    with pytest.raises(ModelError, match=r"a prefix was put beside the heads of this model\. Cut first, attach after"):
        begun(apply(tiny("bert"), Attach("prefix", (("length", 2),))))


def test_a_target_that_leaves_a_block_with_nothing_is_refused() -> None:
    told = (
        "prune.gates: keep 0.1 of the price leaves a block with nothing: with all gates on heads, units shut but for "
        "one head, 32 units in a block without heads, 0.12 of it stands, 0.00307 million weights. Write a share of "
        "0.13 or more, a lower multiple, more parts, or drop blocks first with prune.layers."
    )
    with pytest.raises(InputError, match="^" + re.escape(told)):
        begun(tiny("bert", intermediate_size=128), keep=0.1, multiple=32, price="weights")
    with pytest.raises(InputError, match=re.escape("prune.gates: speedup 4.0, 0.25 of the price leaves")):
        begun(tiny("bert"), speedup=4.0, parts=("heads",), price="weights")
    told = "with all gates on hidden shut, 8 units in a block without heads and a hidden size of 8, 0.62 of it stands,"
    with pytest.raises(InputError, match=re.escape(told)):
        begun(tiny("bert"), keep=0.6, parts=("hidden",), price="macs")


def test_nothing_to_gate_is_told() -> None:
    model = tiny("bert")
    for block in range(2):
        apply(model, KeepHeads(block, ()))
    with pytest.raises(NoEffect, match=r"prune\.gates: parts \['heads'\] finds nothing to gate: none are left\."):
        begun(model, parts=("heads",))


def test_families_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ModelError, match="mobilebert"):
        begun(tiny("mobilebert"))
    with pytest.raises(ModelError, match=r"hidden size cannot be cut: a matrix of block 0 is FactoredLinear\."):
        begun(apply(tiny("bert"), Factor(0, "up", 4)), parts=("hidden",))
    config = BilstmForSequenceClassification.config_class(vocab_size=20, num_labels=3)
    with pytest.raises(ModelError, match="model_type is 'smidgen-bilstm', which smidgen cannot take apart"):
        begun(BilstmForSequenceClassification(config))


def test_a_stage_leaves_a_smaller_hidden_size_that_the_next_one_learns_with(tmp_path: Path) -> None:
    files, model = data_files(tmp_path), str(model_folder(tmp_path / "m", "modernbert", labels=LABELS))
    gates = {"parts": ("hidden",), "keep": 0.6, "price": "weights", "multiple": 4}
    short = Training(epochs=0.5, batch_size=16)
    cut = Stage("cut", (Use("prune.gates", gates), Use("tune.full")), train=short)
    learnt = (Use("distil.logits"), Use("distil.hidden", {"mapping": "dynamic"}))
    stages = (cut, Stage("learnt", learnt, teacher="model", train=short))
    first, second = run(plan(Recipe(model, Files(files["train"], files["dev"]), stages)), tmp_path / "stages")
    assert first.artefact.record["found"]["prune.gates"]["hidden"] == [32, 16]
    (edit,) = first.artefact.record["edits"]
    assert edit["edit"] == "KeepHidden" and second.artefact.record["edits"] == [edit]
    assert AutoModelForSequenceClassification.from_pretrained(second.artefact.path).config.hidden_size == 16


def test_gates_alone_are_refused_by_the_plan(tmp_path: Path) -> None:
    files, model = data_files(tmp_path), model_folder(tmp_path / "m", labels=LABELS)
    recipe = Recipe(str(model), Files(files["train"], files["dev"]), (Stage("s", (Use("prune.gates"),)),))
    told = "stage s: prune.gates acts while a stage trains. Add what has a loss, as tune.full."
    with pytest.raises(RecipeError, match=re.escape(told)):
        plan(recipe)


# What has been factored, attached or cut before.


def test_what_cannot_be_cut_is_refused_before_it_trains() -> None:
    model = apply(tiny("bert"), Factor(1, "up", 4))
    with pytest.raises(ModelError, match=r"KeepWidth: block 1 has FactoredLinear in place of a Linear\. Cut first"):
        begun(model)
    begun(model, parts=("heads",))
    with pytest.raises(ModelError, match="KeepHeads: block 0 has FactoredLinear"):
        begun(apply(tiny("bert"), Factor(0, "out", 4)), parts=("sublayers",))


def test_units_of_a_model_with_one_key_for_all_heads() -> None:
    model = apply(tiny("bert"), Swap((0, 1), "multi_query", ()))
    method, state, ctx = begun(model, parts=("units",), multiple=8, keep=0.8)
    method.end(state, ctx)
    assert {type(edit) for edit in ctx.edits} == {KeepWidth}


def test_parts_whose_gates_are_shut_are_not_brought_back() -> None:
    """On average more is open than is left open when the noise is gone: what would be multiplied by 0 goes too."""
    _, state, _ = begun(tiny("bert"), parts=("heads", "units"), multiple=8, keep=0.9, price="weights")
    with torch.no_grad():
        for kind, count in (("heads", 4), ("units", 64)):
            alphas = torch.full((2, count), -2.5, dtype=torch.double)
            alphas[:, : count // 4] = 3.0
            state.log_alpha[kind].copy_(alphas.flatten())
    cut = state.decide()
    assert [int(each.sum()) for each in cut.kept["heads"]] == [1, 1]
    assert [int(each.sum()) for each in cut.kept["units"]] == [16, 16]
    for kind in ("heads", "units"):
        assert all(bool(f[k].all()) for k, f in zip(cut.kept[kind], cut.factors[kind], strict=True))
