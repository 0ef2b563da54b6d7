"""tune.mask, tune.sparse and the delta of tune.freeze: what trains, what is kept, how large it is."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from folders import data_files, model_folder
from hypothesis import given
from hypothesis import strategies as st
from test_delta import tuned
from test_loop import SETTINGS, TASK, Interrupted, StopAfter, make_model, make_rows, newest, same_bits
from test_sparsity import Watcher
from tiny import FAMILIES, batch, tiny
from transformers import AutoModelForSequenceClassification

from smidgen.batch import Batch
from smidgen.delta import fit, read
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.grafts import build, kind
from smidgen.grafts._weights import matrices, packed, unpacked
from smidgen.loop import History, train
from smidgen.method import Context, Sight
from smidgen.methods.tune.adapter import Adapter
from smidgen.methods.tune.bitfit import BitFit
from smidgen.methods.tune.freeze import Freeze, parts
from smidgen.methods.tune.full import Full
from smidgen.methods.tune.head import NewHead
from smidgen.methods.tune.mask import Mask, entropy
from smidgen.methods.tune.sparse import Sparse, fisher
from smidgen.recipe import Use
from smidgen.sampling import batches
from smidgen.source import load_model, resolve
from smidgen.sparsity import top

TRAINING = replace(SETTINGS, warmup=0.0, schedule="constant", evaluations=4, weight_decay=0.5)
ROWS = make_rows(48)
ORDER = [np.arange(4 * i, 4 * i + 4) for i in range(12)]  # 12 steps
MASKS = [Mask(learning_rate=0.05), Mask(sample="bernoulli", learning_rate=0.5)]
SHIFTS = [Sparse(budget=0.02, explore=0.4), Sparse(budget=0.02, rule="fisher", blocks=1)]
EACH = pytest.mark.parametrize("method", [*MASKS, *SHIFTS], ids=str)
SIX = ("query", "key", "value", "out", "up", "down")


def begun(method: Any, model: Any, base: Path) -> tuple[Context, Any]:
    """A context on a base that is this model's body, and the method's state."""
    if not (base / "model.safetensors").is_file():
        model.base_model.save_pretrained(base)
    sight = Sight(sample=lambda count: batches(ROWS, TASK, model, torch.device("cpu")))
    ctx = Context(base, base, TASK, (), 0, model, sight=sight)
    return ctx, method.begin(ctx)


def trained(method: Any, model: Any, work: Path, watch: Any = None, settings: Any = TRAINING, **how: Any) -> Any:
    """The method's state and the history of a stage; the model is tuned in place."""
    ctx, state = begun(method, model, work / "base")
    full = Full()
    running = [(method, state), (full, full.begin(ctx))]
    how.setdefault("order", ORDER)
    history: History = train(running, ctx, ROWS, make_rows(9, 3), settings, work, watch, **how)
    for each, one in reversed(running):
        each.end(one, ctx)
    return state, history, ctx


def inside(model: Any, first: int = 0) -> dict[str, torch.Tensor]:
    return {name: linear.weight.detach().clone() for name, linear in matrices(model, first, "test").items()}


# Bits.


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_flags_are_packed_to_a_bit_each_and_come_back(values: list[bool]) -> None:
    flags = torch.tensor(values)
    bits = packed(flags)
    assert np.array_equal(bits.numpy(), np.packbits(flags.numpy()))
    assert torch.equal(unpacked(bits, flags.shape), flags)
    assert torch.equal(unpacked(packed(flags[None]), flags[None].shape), flags[None])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mobilebert"])
def test_the_six_matrices_of_the_chosen_blocks(family: str) -> None:
    model = tiny(family, blocks=3)
    six = ("query", *SIX[3:]) if family == "modernbert" else SIX  # there one Linear is query, key and value
    assert list(matrices(model, 1, "test")) == [f"{i}/{place}" for i in (1, 2) for place in six]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12), st.data())
def test_so_many_of_the_highest_and_of_equals_the_first(values: list[float], data: Any) -> None:
    count = data.draw(st.integers(1, len(values)))
    wanted = sorted(np.argsort(-np.array(values), kind="stable")[:count].tolist())
    assert top(torch.tensor(values), count).nonzero().flatten().tolist() == wanted


# Masks.


def test_the_gradient_of_a_score_is_straight_through_and_the_weight_has_none(tmp_path: Path) -> None:
    """dL/dS = dL/dW' * W with dL/dW' = g' x of y = W' x, also where M is 0; W' = W [S > tau]."""
    model = make_model()
    _, state = begun(Mask(zeros=0.4), model, tmp_path)
    linear, score = matrices(model, 0, "test")["1/up"], state.scores["1/up"]
    draw = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(7, 32, generator=draw), torch.randn(7, 64, generator=draw)
    out = linear(x)
    own, mask = linear.weight.detach(), (score > 0.01).float()
    assert 0 < mask.mean() < 1
    torch.testing.assert_close(out, F.linear(x, own * mask, linear.bias))
    (out * upstream).sum().backward()
    torch.testing.assert_close(score.grad, (upstream.T @ x) * own)
    assert linear.weight.grad is None
    state.detach()
    assert torch.equal(linear(x), F.linear(x, own, linear.bias))


def test_a_forward_that_fails_leaves_the_weight_alone(tmp_path: Path) -> None:
    model = make_model()
    begun(Mask(), model, tmp_path)
    linear = matrices(model, 0, "test")["0/query"]
    with pytest.raises(RuntimeError):
        linear(torch.zeros(2, 5))
    assert isinstance(linear.weight, torch.nn.Parameter)


@pytest.mark.parametrize("zeros", [0.05, 0.3])
@pytest.mark.parametrize("sample", ["threshold", "bernoulli"])
def test_the_share_of_zeros_at_the_start_is_as_asked(sample: str, zeros: float, tmp_path: Path) -> None:
    _, state = begun(Mask(sample=sample, zeros=zeros), make_model(), tmp_path)
    shut = torch.cat([~state.kept(name, training=True).flatten() for name in state.scores]).double()
    assert shut.mean().item() == pytest.approx(zeros, abs=4 * math.sqrt(zeros * (1 - zeros) / len(shut)))


def test_drawn_masks_follow_from_the_step_alone_and_the_likelier_is_kept(tmp_path: Path) -> None:
    method = Mask(sample="bernoulli")
    _, state = begun(method, make_model(), tmp_path)
    with torch.no_grad():
        state.scores["0/up"].normal_(generator=torch.Generator().manual_seed(0))
    first = state.kept("0/up", training=True)
    assert torch.equal(first, state.kept("0/up", training=True))
    assert torch.equal(state.kept("0/up"), state.scores["0/up"] > 0)
    drawn = []
    for _ in range(200):
        method.step(state, 0.0)
        drawn.append(state.kept("0/up", training=True).double())
    assert not torch.equal(drawn[0].bool(), first)
    chance = 1 / (1 + torch.exp(-state.scores["0/up"].double()))
    assert (torch.stack(drawn).mean(0) - chance).abs().max() < 5 * 0.5 / math.sqrt(200)


@pytest.mark.parametrize("method", MASKS, ids=str)
def test_only_zeros_come_into_the_body_and_scores_go_at_a_rate_of_their_own(method: Mask, tmp_path: Path) -> None:
    model, seen = make_model(), []
    before = copy.deepcopy(model)
    ctx, state = begun(method, model, tmp_path / "base")
    start = state.scores["0/up"].detach().clone()
    look = Watcher(lambda done: seen.append(state.scores["0/up"].detach().clone()))
    train([(method, state), (Full(), TASK)], ctx, ROWS, make_rows(9, 3), TRAINING, tmp_path, look, order=ORDER)
    assert (seen[0] - start).abs().median().item() == pytest.approx(method.learning_rate, rel=0.02)
    method.end(state, ctx)
    after, own = inside(model), inside(before)
    assert all(torch.equal(after[name], own[name] * state.kept(name)) for name in own)
    rest = {id(linear.weight) for linear in matrices(model, 0, "test").values()}
    for (name, value), old in zip(model.base_model.named_parameters(), before.base_model.parameters(), strict=True):
        assert id(value) in rest or torch.equal(value, old), name
    assert not torch.equal(model.classifier.weight, before.classifier.weight)
    found = method.found(state, ctx, tmp_path)
    assert found["zeros"] == sum(int((w == 0).sum()) for w in after.values()) > 0
    assert found["weights"] == sum(w.numel() for w in after.values())
    assert found["entropy_bytes"] < found["weights"] / 8
    assert f"{100 * found['share']:.1f} % of {found['weights']:,} weights" in found["told"]


def test_entropy_of_a_flag() -> None:
    assert entropy(0.05) == pytest.approx(0.286, abs=5e-4)
    assert (entropy(0.5), entropy(0), entropy(1)) == (1, 0, 0)


# Sparse shifts.


def chosen(state: Any) -> dict[str, list[int]]:
    """The places of each matrix."""
    at, ends = state.graft.at.tolist(), [*[*state.graft.start.values()][1:], math.inf]
    return {
        name: [place - start for place in at if start <= place < end]
        for (name, start), end in zip(state.graft.start.items(), ends, strict=True)
    }


@pytest.mark.parametrize("method", SHIFTS, ids=str)
def test_the_budget_is_kept_exactly_and_nothing_else_moves(method: Sparse, tmp_path: Path) -> None:
    model = make_model()
    before = copy.deepcopy(model)
    state, _, ctx = trained(method, model, tmp_path, settings=replace(TRAINING, weight_decay=0.0))
    count = round(0.02 * sum(p.numel() for p in model.base_model.parameters()))
    assert len(set(state.graft.at.tolist())) == len(state.graft.shift) == count
    after, own, places = inside(model), inside(before), chosen(state)
    moved = {name: (after[name] != own[name]).flatten().nonzero().flatten().tolist() for name in own}
    assert all(set(moved[name]) <= set(places.get(name, [])) for name in own)
    assert sum(map(len, moved.values())) > 0.95 * count
    matrix = {id(linear.weight) for linear in matrices(model, 0, "test").values()}
    for (name, value), old in zip(model.base_model.named_parameters(), before.base_model.parameters(), strict=True):
        assert id(value) in matrix or torch.equal(value, old), name
    found = method.found(state, ctx, tmp_path)
    assert found["weights"] == count
    assert found["by_matrix"] == {name: len(each) for name, each in places.items()}


def test_what_moved_the_furthest_is_chosen_goes_back_and_trains_from_there(tmp_path: Path) -> None:
    """Against the dense training, done by hand for as many steps."""
    method, model = Sparse(budget=0.02, explore=0.5), make_model()
    start = inside(model)
    dense = copy.deepcopy(model)
    ctx, state = begun(method, model, tmp_path / "base")
    for name, value in dense.named_parameters():
        value.requires_grad = name.startswith("classifier") or any(
            value is linear.weight for linear in matrices(dense, 0, "test").values()
        )
    kept: list[Any] = []

    def look(done: int) -> None:
        kept.append((state.chosen, inside(model), state.graft.shift.detach().clone(), state.graft.at.clone()))

    other = Context(tmp_path, tmp_path, TASK, (), 0, dense)
    half, dev = replace(TRAINING, evaluations=1), make_rows(9, 3)
    train([(Full(), TASK)], other, ROWS, dev, half, tmp_path / "a", order=ORDER[:6])
    train([(method, state), (Full(), TASK)], ctx, ROWS, dev, half, tmp_path / "b", Watcher(look), order=ORDER)
    assert [each[0] for each in kept] == [False] * 5 + [True] * 7
    assert not torch.equal(kept[4][1]["0/up"], start["0/up"])
    far = np.concatenate([(now - start[name]).abs().numpy().ravel() for name, now in inside(dense).items()])
    count = len(state.graft.at)
    assert kept[5][3].tolist() == sorted(np.argsort(-far, kind="stable")[:count].tolist())
    assert same_bits(kept[5][1], start) and not kept[5][2].any()
    assert same_bits(kept[11][1], start) and kept[11][2].all()


def test_dev_chooses_only_from_where_the_places_are_chosen(tmp_path: Path) -> None:
    method = Sparse(budget=0.02, explore=0.6)
    assert [method.settled(t) for t in (0.59, 0.6, 1.0)] == [False, True, True]
    assert all(Sparse(rule="fisher").settled(t) for t in (0.0, 1.0))
    _, history, _ = trained(method, make_model(), tmp_path)
    assert history.best_step / len(ORDER) >= 0.6 and len(history.entries) > 1


@pytest.mark.parametrize("rule", ["change", "fisher"])
def test_the_most_critical_matrices_alone_hold_shifts(rule: str, tmp_path: Path) -> None:
    """Those whose weights moved the most on average, or have the largest squared gradients on average."""
    method = Sparse(budget=0.05, matrices=2, rule=rule, explore=0.5)
    model = make_model()
    start = inside(model)
    ctx, state = begun(method, model, tmp_path)
    names = list(state.graft.places(model))
    draw = torch.Generator().manual_seed(0)
    worth = [torch.rand(weight.shape, generator=draw) * (1 + i % 5) for i, weight in enumerate(state.weights)]
    if rule == "change":
        with torch.no_grad():
            for weight, each in zip(state.weights, worth, strict=True):
                weight += each
        method.step(state, 0.5)
        assert same_bits(inside(model), start)
    else:
        state.choose(worth, 2)
    critical = sorted(sorted(names, key=lambda name: -float(worth[names.index(name)].mean()))[:2])
    found = method.found(state, ctx, tmp_path)["by_matrix"]
    assert sorted(name for name, count in found.items() if count) == critical
    assert sum(found.values()) == len(state.graft.at)


def test_matrices_that_are_too_few_or_too_small(tmp_path: Path) -> None:
    assert list(Sparse(matrices=0).faults()) == ["matrices: got 0, wanted a number from 1, or all."]
    with pytest.raises(InputError, match=r"matrices is 99, but these blocks have 12\. Write matrices: all\."):
        begun(Sparse(matrices=99), make_model(), tmp_path)
    wrong = (
        r"budget 0\.4 is [\d,]+ weights, but 1 of the matrices may have no more than 1,024\. Write a budget up to 0\.0"
    )
    with pytest.raises(InputError, match=wrong):
        begun(Sparse(budget=0.4, matrices=1), make_model(), tmp_path)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_fisher_is_the_sum_of_squares_of_each_rows_gradient(family: str) -> None:
    model, lengths = tiny(family), [5, 9, 3, 7]
    modules = list(matrices(model, 0, "test").values())
    labels = torch.tensor([0, 2, 1, 0])
    wanted = [torch.zeros_like(module.weight) for module in modules]
    for row, length in enumerate(lengths):
        inputs = {name: value[row : row + 1, :length] for name, value in batch(120, lengths).items()}
        loss = F.cross_entropy(model(**inputs).logits, labels[row : row + 1])
        for total, slope in zip(wanted, torch.autograd.grad(loss, [m.weight for m in modules]), strict=True):
            total += slope**2
    whole = Batch(TASK, batch(120, lengths, pad_to=12), labels)
    halves = [Batch(TASK, {k: v[i : i + 2] for k, v in batch(120, lengths).items()}, labels[i : i + 2]) for i in (0, 2)]
    for some in ([whole], halves):
        for got, want in zip(fisher(model, modules, some), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(want.max()))
    assert not any(module._forward_hooks for module in modules)


# The loop.


@pytest.mark.parametrize("method", [*MASKS, *SHIFTS, Adapter(drop="random", width=4)], ids=str)
def test_resumed_equals_uninterrupted_in_every_bit(method: Any, tmp_path: Path) -> None:
    """Stopped before and after places are chosen, and where others of the lowest adapters are passed by than at the
    start."""

    def go(work: Path, watch: Any = None) -> tuple[Any, ...]:
        torch.manual_seed(0)
        model = make_model(0.3)
        state, history, _ = trained(method, model, work, watch, checkpoint_seconds=0)
        return dict(model.state_dict()), dict(state.state_dict()), vars(history)

    whole = go(tmp_path / "a")
    for stop in (4, 9):
        with pytest.raises(Interrupted):
            go(tmp_path / "b", StopAfter(stop))
    assert all(map(same_bits, whole, go(tmp_path / "b")))
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))


@EACH
def test_micro_batches_equal_one_batch(method: Any, tmp_path: Path) -> None:
    settings = replace(TRAINING, clip=0)
    models = []
    for name, micro in (("a", settings.micro_tokens), ("b", 30)):
        torch.manual_seed(0)
        model = make_model().double()
        trained(method, model, tmp_path / name, settings=replace(settings, micro_tokens=micro))
        models.append(model.state_dict())
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], rtol=1e-6, atol=1e-8)


# Deltas.


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reweighted")
    model_folder(root / "base")
    data_files(root)
    return root


def sizes(root: Path, method: str, settings: dict[str, Any]) -> tuple[Any, int]:
    """A delta, and the bytes of its tensors beside the head."""
    delta = read(tuned(root, method, settings).artefact.path)
    file = delta.path / "delta.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    return delta, file.stat().st_size - header - sum(4 * value.numel() for value in delta.head.values())


def test_a_delta_has_a_bit_a_weight_or_eight_bytes_a_shift_or_the_weights(root: Path) -> None:
    one = 4 * 32 * 32 + 2 * 32 * 64  # weights of a block's matrices
    masks, size = sizes(root, "tune.mask", {"blocks": 1})
    assert size == one / 8
    assert masks.record["parameters"]["delta"] == one and masks.record["parameters"]["stored"] == one / 8
    assert [part.kind for part in masks.parts] == ["mask"] and masks.parts[0].settings == {"first": 1}
    shifts, size = sizes(root, "tune.sparse", {"budget": 0.05})
    assert size == 8 * round(0.05 * shifts.record["parameters"]["base"])
    assert shifts.record["parameters"]["delta"] == size / 8, "places do not train"
    whole, size = sizes(root, "tune.freeze", {"blocks": 1})
    names = {name.removeprefix("new.") for name in whole.parts[0].tensors}
    assert all(name.startswith("encoder/layer/1/") for name in names if not name.startswith("pooler"))
    assert size == 4 * sum(value.numel() for value in whole.parts[0].tensors.values())
    assert all(not kind(part.kind).stacks for delta in (masks, shifts, whole) for part in delta.parts)


def test_a_fitted_model_is_plain(root: Path, tmp_path: Path) -> None:
    delta = read(tuned(root, "tune.sparse", {"budget": 0.05}).artefact.path)
    model = fit(delta, resolve(str(root / "base")))
    assert model.config.model_type == "bert" and type(model).__name__ == "BertForSequenceClassification"
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same_bits(dict(model.state_dict()), dict(again.state_dict()))


def test_freezing_beside_a_method_that_freezes_all_adds_no_weights(tmp_path: Path) -> None:
    """Else what the other one folds into them would be kept twice."""
    model = make_model()
    method = Freeze(blocks=1)
    ctx, state = begun(method, model, tmp_path)
    Mask().begin(ctx)
    method.step(state, 0.1)
    assert list(method.adds(state, ctx)) == []
    thawing = Freeze(blocks=1, thaw="top_down")
    ctx, state = begun(thawing, make_model(), tmp_path)
    assert list(thawing.adds(state, ctx)) == []


TOP = {"embeddings": False, "head": True}


@pytest.mark.parametrize("turned", [False, True], ids=["freeze last", "freeze first"])
@pytest.mark.parametrize(
    ("freeze", "method", "settings"),
    [
        (TOP, "tune.adapter", {"width": 4}),
        ({"blocks": "all", "head": True}, "tune.adapter", {"width": 4}),
        (TOP, "tune.lora", {"rank": 2}),
        ({"blocks": 1}, "tune.sparse", {"budget": 0.02, "explore": 0.6}),
        ({"blocks": 1}, "tune.sparse", {"budget": 0.02, "rule": "fisher"}),
    ],
    ids=str,
)
def test_what_is_frozen_stays_so_beside_another_method(
    freeze: dict[str, Any], method: str, settings: dict[str, Any], turned: bool, root: Path
) -> None:
    uses = [Use(method, settings), Use("tune.freeze", freeze)]
    first, second = reversed(uses) if turned else uses
    done = tuned(root, first.method, dict(first.settings), beside=(second,))
    delta = read(done.artefact.path)
    before, after = (load_model(resolve(str(p)), delta.task, 0) for p in (root / "base", done.artefact.path))
    held = {id(p) for group in Freeze(**freeze)._named(*parts(before)) for p in group}
    names, own = [name for name, p in before.named_parameters() if id(p) in held], dict(after.named_parameters())
    assert names and all(torch.equal(before.get_parameter(name), own[name]) for name in names)
    assert [part.kind for part in delta.parts] == [method.removeprefix("tune.")]
    assert all(bool(values.any()) for values in delta.parts[0].tensors.values()), "it has trained all the same"


def test_nothing_left_to_train_is_told(root: Path) -> None:
    with pytest.raises(InputError, match=r"stage t: nothing is left to train, .* Name less in tune\.freeze, or write"):
        tuned(root, "tune.freeze", {"blocks": "all", "head": True})
    with pytest.raises(InputError, match=r"tune\.freeze holds all matrices of these blocks\. Freeze fewer blocks\."):
        tuned(root, "tune.sparse", {"blocks": 1}, beside=(Use("tune.freeze", {"blocks": "all"}),))
    assert list(Freeze(head=True).clashes([NewHead()])) == [
        "head: true freezes what tune.head puts a new head in the place of. Write head: false."
    ]


def test_blocks_below_the_lowest_matrix_are_frozen() -> None:
    for method in (Mask(blocks=2), Sparse(blocks=2)):
        assert method.frozen(6) == (4,) and method.frozen(2) == ()
    assert Mask().frozen(6) == Sparse().frozen(6) == ()


def test_matrices_that_another_method_froze_are_told(tmp_path: Path) -> None:
    method = Sparse(budget=0.05)
    ctx, state = begun(method, make_model(), tmp_path)
    BitFit().begin(ctx)
    with pytest.raises(InputError, match=r"no weight has moved, since another .* froze them\. Give each a"):
        method.step(state, 1.0)


# What is refused.


def test_bad_settings_and_models() -> None:
    assert list(Mask(blocks=0).faults()) == ["blocks: got 0, wanted a number from 1, or all."]
    assert list(Mask(zeros=0.0).faults()) == ["zeros: got 0.0, wanted a share above 0 and below 1."]
    assert list(Sparse(budget=0.0).faults()) == ["budget: got 0.0, wanted a share above 0 and up to 1."]
    assert list(Sparse(explore=1.0).faults()) == ["explore: got 1.0, wanted a share above 0 and below 1."]
    model = make_model()
    with pytest.raises(ModelError, match=r"weights: this bert has no parameter pool\.er\. Give their own base\."):
        build(model, "weights", {"names": ("pool.er",)})
    with pytest.raises(InputError, match=r"count is 20000, but there are 16,384 weights: use 1 to 16384\."):
        build(model, "sparse", {"count": 20000})


def test_more_blocks_than_there_are_no_budget_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tune\.mask: blocks is 3, but this model has 2\. Write blocks: all\."):
        begun(Mask(blocks=3), make_model(), tmp_path)
    with pytest.raises(NoEffect, match=r"tune\.sparse: budget 1e-06 of [\d,]+ weights is none\. Write more\."):
        begun(Sparse(budget=1e-6), make_model(), tmp_path)
    ctx = Context(tmp_path, tmp_path, TASK, (), 0, make_model())
    with pytest.raises(InputError, match=r"rule fisher got no rows to measure on\. Give labelled rows"):
        Sparse(rule="fisher").begin(ctx)
