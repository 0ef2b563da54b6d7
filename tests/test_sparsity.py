"""prune.magnitude and prune.movement: which weights are zero, when, that they stay so, and that it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import command
from folders import LABELS, model_folder
from hypothesis import given
from hypothesis import strategies as st
from reports import sample
from test_loop import SETTINGS, TASK, Interrupted, StopAfter, make_model, make_rows, newest, same_bits
from test_run import TRAIN, planned
from tiny import FAMILIES, tiny
from torch import nn

from smidgen import report
from smidgen.errors import ModelError, NoEffect
from smidgen.loop import History, train
from smidgen.method import Context
from smidgen.methods.prune.magnitude import Magnitude
from smidgen.methods.prune.movement import Movement, Scores
from smidgen.methods.tune.full import Full
from smidgen.recipe import Training
from smidgen.runner import run
from smidgen.sparsity import REMARK, cubic, highest, linears, masked, zeros
from smidgen.tape import Tape
from smidgen.watch import Silent

TRAINING = replace(SETTINGS, warmup=0.0, schedule="constant", evaluations=4)
ROWS = make_rows(48)
ORDER = [np.arange(4 * i, 4 * i + 4) for i in range(12)]  # 12 steps
BOTH = pytest.mark.parametrize("method", [Magnitude(0.6), Movement("topk", 0.6), Movement("soft", learning_rate=0.5)])


def trained(
    method: Any, model: Any, work: Path, watch: Any = None, settings: Training = TRAINING, **how: Any
) -> tuple[dict[str, torch.Tensor], History]:
    ctx = Context(work, work, TASK, (), 0, model)
    running = [(m, m.begin(ctx)) for m in (method, Full())]
    how.setdefault("order", ORDER)
    history = train(running, ctx, ROWS, make_rows(9, 3), settings, work, watch, **how)
    for each, state in reversed(running):
        each.end(state, ctx)
    return dict(model.state_dict()), history


def counts(model: Any) -> list[int]:
    """Zeros of each matrix."""
    return [int((linear._parameters["weight"] == 0).sum()) for linear in linears(model)]


class Watcher(Silent):
    """Calls a function after each step."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def bar(self, name: str, total: float) -> Any:
        return self

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def to(self, done: float, note: str = "") -> None:
        self.look(int(done))


# The schedule and the ranks.


def test_the_schedule_is_zhu_and_guptas() -> None:
    final, first, begin, span = 0.8, 0.0, 0.25, 0.5
    for t in (0.25, 0.3, 0.5, 0.75):
        expected = final + (first - final) * (1 - (t - begin) / span) ** 3
        assert final * cubic(t, begin, begin + span) == pytest.approx(expected, abs=1e-12)
    assert (cubic(0.1, begin, 0.75), cubic(0.9, begin, 0.75)) == (0.0, 1.0)


@given(
    values=st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=9), min_size=1, max_size=4
    ),
    share=st.floats(0, 1),
    scope=st.sampled_from(["global", "matrix"]),
)
def test_the_lowest_go_and_exactly_so_many(values: list[list[float]], share: float, scope: str) -> None:
    tensors = [torch.tensor(row) for row in values]
    masks = highest(tensors, share, scope)
    groups = [(tensors, masks)] if scope == "global" else [([t], [m]) for t, m in zip(tensors, masks, strict=True)]
    for some, kept in groups:
        flat, mask = torch.cat(some), torch.cat(kept)
        assert int((~mask).sum()) == round(share * len(flat))
        if mask.any() and not mask.all():
            assert flat[mask].min() >= flat[~mask].max()


def test_a_rank_within_each_matrix_or_over_all() -> None:
    small, large = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    assert [int(m.sum()) for m in highest([small, large], 0.5, "global")] == [0, 4]
    assert [m.tolist() for m in highest([small, large], 0.5, "matrix")] == [[[False, False], [True, True]]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrices_are_those_of_the_blocks_and_counted_in_the_file(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    found = linears(model)
    inside = {name for name, module in model.named_modules() if module in found}
    assert found and all(".layer" in name for name in inside)
    with torch.no_grad():
        found[0].weight[0] = 0
        found[-1].weight[:, 0] = 0
    model.save_pretrained(tmp_path)
    counted = zeros(model, tmp_path)
    assert counted.zeros == found[0].in_features + found[-1].out_features
    assert counted.weights == sum(linear.weight.numel() for linear in found)


# What training leaves.


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("kind", [Magnitude, Movement])
def test_zeros_grow_stay_and_are_as_many_as_asked(kind: Any, scope: str, tmp_path: Path) -> None:
    """No weight that magnitude made zero comes back, after no step; movement's end is exact too."""
    model = make_model()
    shares, gone = [], [np.zeros(0)]
    size = sum(linear.weight.numel() for linear in linears(model))

    def look(done: int) -> None:
        flat = torch.cat([linear._parameters["weight"].flatten() == 0 for linear in linears(model)]).numpy()
        shares.append(flat.mean())
        assert not gone[0].size or not (gone[0] & ~flat).any()
        gone[0] = flat

    trained(kind(share=0.6, scope=scope, start=0.0, until=0.5), model, tmp_path, Watcher(look))
    if kind is Magnitude:
        wanted = [round(0.6 * cubic((i + 1) / 12, 0, 0.5) * size) / size for i in range(12)]
        tolerance = len(linears(model)) / size if scope == "matrix" else 1e-9
        np.testing.assert_allclose(shares, wanted, atol=tolerance)
    else:
        assert max(shares) == 0, "while it trains the weights themselves stay whole"
    found = counts(model)
    if scope == "matrix":
        assert found == [round(0.6 * linear.weight.numel()) for linear in linears(model)]
    else:
        assert (
            sum(found) == round(0.6 * size)
            and len({n / linear.weight.numel() for n, linear in zip(found, linears(model), strict=True)}) > 1
        )


def test_magnitude_takes_the_smallest_first(tmp_path: Path) -> None:
    model = make_model()
    before = torch.cat([linear.weight.detach().abs().flatten() for linear in linears(model)])
    state = (method := Magnitude(0.3)).begin(Context(tmp_path, tmp_path, TASK, (), 0, model))
    method.step(state, 1.0)
    now = torch.cat([linear.weight.detach().flatten() for linear in linears(model)]) == 0
    assert before[now].max() <= before[~now].min() and int(now.sum()) == round(0.3 * len(now))


def test_dev_chooses_only_among_models_that_have_their_zeros(tmp_path: Path) -> None:
    """At the full rate the first evaluation, of a model without a zero, would be the best one."""
    settings = replace(TRAINING, learning_rate=0.3, evaluations=12, epochs=1)
    for method in (Magnitude(0.9, until=1.0), Movement(share=0.9, until=1.0)):
        model = make_model()
        _, history = trained(method, model, tmp_path / type(method).__name__, settings=settings)
        assert history.best_step == 12 and len(history.entries) == 12
        assert sum(counts(model)) == round(0.9 * sum(linear.weight.numel() for linear in linears(model)))
        assert history.best <= max(entry["dev"] for entry in history.entries)


@BOTH
def test_nothing_is_left_but_zeros(method: Any, tmp_path: Path) -> None:
    model = make_model()
    names = list(model.state_dict())
    weights, _ = trained(method, model, tmp_path)
    assert sum(counts(model)) > 0
    assert list(weights) == names
    for linear in linears(model):
        assert "weight" not in vars(linear) and isinstance(linear.weight, nn.Parameter)
        assert not linear._forward_hooks and not linear._forward_pre_hooks


@BOTH
@pytest.mark.parametrize("stops", [(2,), (5, 10)])
def test_resumed_equals_uninterrupted_in_every_bit(method: Any, stops: tuple[int, ...], tmp_path: Path) -> None:
    def go(work: Path, seed: int, watch: Any = None) -> tuple[Any, History]:
        torch.manual_seed(seed)
        return trained(method, make_model(0.3, seed), work, watch, checkpoint_seconds=0)

    whole, told = go(tmp_path / "a", 0)
    for i, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            go(tmp_path / "b", i, StopAfter(stop))
    resumed, retold = go(tmp_path / "b", 99)
    assert same_bits(whole, resumed) and same_bits(vars(told), vars(retold))
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))


@BOTH
def test_micro_batches_equal_one_batch(method: Any, tmp_path: Path) -> None:
    """The penalty on the scores is counted once a step too."""
    whole, _ = trained(method, make_model().double(), tmp_path / "a", settings=replace(TRAINING, clip=0))
    parts, _ = trained(
        method, make_model().double(), tmp_path / "b", settings=replace(TRAINING, clip=0, micro_tokens=30)
    )
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-6, atol=1e-8)


# Movement's own maths.


def test_the_gradient_of_a_score_is_that_of_the_weight_times_the_weight() -> None:
    """Straight through: dL/dS = dL/dW' * W everywhere, dL/dW = dL/dW' * M, with dL/dW' = g' x of y = W' x."""
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(5, 4).double()
    state = Scores([linear], 0.1).double()
    with torch.no_grad():
        state.scores[0].copy_(torch.randn(4, 5, generator=draw))
    state.put(highest([state.scores[0]], 0.4, "global"))
    state.attach()
    x, upstream = torch.randn(7, 5, generator=draw).double(), torch.randn(7, 4, generator=draw).double()
    out = linear(x)
    own, mask = linear.weight.detach(), state.masks[0].double()
    assert int(mask.sum()) == 12
    assert torch.equal(out, F.linear(x, own * mask, linear.bias))
    (out * upstream).sum().backward()
    inner = upstream.T @ x
    torch.testing.assert_close(state.scores[0].grad, inner * own)
    torch.testing.assert_close(linear.weight.grad, inner * mask)
    state.detach()
    assert torch.equal(linear(x), F.linear(x, own, linear.bias))


def test_a_weight_that_moves_away_from_zero_gains() -> None:
    weight = torch.tensor([2.0, -2.0, 2.0, -2.0], requires_grad=True)
    score = torch.zeros(4, requires_grad=True)
    wanted = torch.tensor([3.0, -3.0, 1.0, -1.0])  # the first two grow, the others shrink
    (masked(weight, score, torch.ones(4, dtype=torch.bool)) - wanted).square().sum().backward()
    assert (-score.grad).sign().tolist() == [1, 1, -1, -1]


def test_soft_keeps_what_is_above_tau_and_pays_for_scores(tmp_path: Path) -> None:
    model = make_model()
    method = Movement("soft", threshold=0.2, penalty=3.0, start=0.0, until=0.5)
    state = method.begin(Context(tmp_path, tmp_path, TASK, (), 0, model))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for score in state.scores:
            score.copy_(torch.randn(score.shape, generator=draw))
    method.step(state, 0.25)  # p = 1/2, 1 - (1/2)^3 = 7/8
    for score, mask in zip(state.scores, state.masks, strict=True):
        assert torch.equal(mask, 1 / (1 + torch.exp(-score)) > 0.2 * 7 / 8)
    mask = torch.ones(2, 4)
    terms = method.loss(state, Tape({}, {}, None, mask, examples=6, tokens=24))
    means = [1 / (1 + np.exp(-score.detach().double().numpy())) for score in state.scores]
    assert terms["scores"].item() == pytest.approx(3.0 * 7 / 8 * np.mean([m.mean() for m in means]) * 2 / 6, rel=1e-5)
    terms["scores"].backward()
    assert all((score.grad > 0).all() for score in state.scores)
    method.step(state, 0.5)
    assert Movement("topk").loss(state, Tape({}, {}, None, mask, examples=6, tokens=24)) == {}
    method.end(state, Context(tmp_path, tmp_path, TASK, (), 0, model))


def test_scores_have_a_rate_of_their_own_and_do_not_decay(tmp_path: Path) -> None:
    """Adam's first step is as long as the rate; the weights go at the stage's own."""
    model, seen = make_model(), []
    method = Movement(learning_rate=0.05)
    ctx = Context(tmp_path, tmp_path, TASK, (), 0, model)
    running = [(m, m.begin(ctx)) for m in (method, Full())]
    state = running[0][1]
    look = Watcher(lambda done: seen.append(state.scores[0].detach().clone()))
    settings = replace(TRAINING, weight_decay=0.5)
    train(running, ctx, ROWS, make_rows(9, 3), settings, tmp_path, look, order=ORDER[:1])
    moved = seen[0].abs()
    assert moved[moved > 0].median() == pytest.approx(0.05, rel=0.02)
    method.end(state, ctx)


# Bad settings, and what is told.


@pytest.mark.parametrize("kind", [Magnitude, Movement])
def test_bad_settings(kind: Any) -> None:
    wanted = "wanted a share from 0 and below 1, at which no weight would be left."
    for share in (1.0, 1.2, -0.1):
        assert list(kind(share=share).faults()) == [f"share: got {share}, {wanted}"]
    assert list(kind(scope="row").faults()) == ["scope: got 'row', wanted one of global, matrix."]
    assert list(kind(start=0.5, until=0.5).faults()) == [
        "until: got 0.5, wanted a share of the stage above start and up to 1."
    ]
    ctx = Context(Path(), Path(), TASK, (), 0, make_model())
    with pytest.raises(NoEffect, match=r"share 0 sets no weight to zero\. Write a share above 0, or drop it\."):
        kind(share=0.0).begin(ctx)
    ctx.model.config.model_type = "gpt2"
    with pytest.raises(ModelError, match="which smidgen cannot take apart"):
        kind().begin(ctx)


def test_what_is_zero_is_measured_and_told_by_plan_run_and_report(
    tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder(tmp_path / "model", labels=LABELS)
    before = (model / "model.safetensors").read_bytes()
    methods = {"tune.full": {}, "prune.magnitude": {"share": 0.25}}
    stage = {"name": "sparse", "methods": methods, "train": TRAIN}
    after = {"name": "after", "methods": {"prune.layers": {"keep": 1}}}
    data = {"train": tiny_data["train"], "dev": tiny_data["dev"]}
    made = planned(model, data, stage, after)
    done = run(made, tmp_path / "out" / "stages")
    assert (model / "model.safetensors").read_bytes() == before
    remark = f"prune.magnitude: {REMARK}"
    assert REMARK.endswith("by themselves they make nothing faster and no file smaller.")
    told = "prune.magnitude: 25.0 % of the 16,384 weights of the blocks' matrices are zero in the saved file."
    record = done[0].artefact.record
    assert record["found"] == {"prune.magnitude": {"zeros": 4096, "weights": 16384, "share": 0.25}}
    assert done[0].remarks == [remark, told] and done[1].remarks == []
    assert done[1].artefact.record["lineage"][0]["remarks"] == [remark, told]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"model": str(model), "data": data, "stages": [stage]}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert f"Note sparse, {remark}" in " ".join(command("plan recipe.yaml").err.split())
    (said,) = json.loads(command("run recipe.yaml --json").out)
    assert said["remarks"] == [remark, told] and said["state"] == "on disk"
    found = sample()
    found["winner"]["lineage"][0]["remarks"] = found["candidates"][0]["lineage"][0]["remarks"] = [told]
    assert all(
        "25.0 % of the 16,384 weights" in page
        for page in (report.html(found), report.markdown(found), report.card(found))
    )
