"""Training as if in int8: the numbers that are rounded, their gradients, ranges, and the graph that answers alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from folders import LABELS, data_files, model_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import SETTINGS, make_model, make_rows, trained, worst
from tiny import VOCAB, batch, tiny
from transformers import AutoConfig, AutoModelForSequenceClassification

from smidgen.calibration import RANGES
from smidgen.errors import InputError, NoEffect
from smidgen.fake import Fake, rounded, rounded_weights
from smidgen.graph import export
from smidgen.integer import affine, dynamic, products, static, symmetric, trained_ranges
from smidgen.method import Context, find
from smidgen.planner import plan
from smidgen.precision import logits
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.tasks import Classify

SIX = ("bert", "roberta", "distilbert", "electra", "mpnet", "modernbert")


# What is rounded.


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, 0), st.floats(0.1, 8), st.integers(0, 10**6))
def test_activations_are_rounded_as_in_the_graph(low: float, high: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(0, 5, 200).astype(np.float32)
    scale, zero = affine((low, high))
    wanted = (np.clip(np.round(x / np.float32(scale)) + zero, 0, 255) - zero) * np.float32(scale)
    ends = torch.tensor([low, high], dtype=torch.double)
    for learned in (False, True):
        got = rounded(torch.from_numpy(x), *ends.clone().requires_grad_(learned).unbind())
        far = np.abs(got.detach().numpy() - wanted) > 1e-4 * scale  # a tie may fall to either side
        assert far.mean() < 0.02 and np.abs(got.detach().numpy() - wanted).max() <= 1.01 * scale


@pytest.mark.parametrize("levels", [127, 63])
def test_weights_are_rounded_as_in_the_graph(levels: int) -> None:
    weights = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weights[2] = 0
    scales, ints = symmetric(weights.numpy().T, levels)
    np.testing.assert_allclose(rounded_weights(weights, levels).numpy(), (ints * scales).T, atol=1e-6)


def test_gradients_pass_rounding_and_stop_where_it_is_cut_off() -> None:
    x = torch.tensor([-3.0, -1.0, 0.2, 1.5, 9.0], requires_grad=True)
    rounded(x, torch.tensor(-2.0), torch.tensor(2.0)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    weights = torch.randn(3, 4, requires_grad=True)
    rounded_weights(weights, 127).sum().backward()
    assert weights.grad is not None and bool((weights.grad == 1).all())


def test_the_gradient_of_a_learned_range_is_that_of_lsq() -> None:
    """With one end fixed at 0 the step s = high / 255 gets round(x / s) - x / s inside, and 255 where x is cut off."""
    x = torch.tensor([0.303, 1.717, 5.0, -1.0])
    high = torch.tensor(2.0, dtype=torch.double, requires_grad=True)
    rounded(x, torch.tensor(0.0, dtype=torch.double), high).sum().backward()
    s = 2.0 / 255
    inside = sum(round(v / s) - v / s for v in (0.303, 1.717))
    assert high.grad is not None and float(high.grad) == pytest.approx((inside + 255) / 255, abs=1e-4)


# Ranges.


def still(model: Any) -> Any:
    """The model without dropout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def fake_of(model: Any, rate: float | None = None, momentum: float = 0.5) -> Fake:
    state = Fake(model, 127, True, momentum, rate)
    state.attach()
    return state


def test_ranges_move_towards_what_a_step_saw_of_real_tokens() -> None:
    model = still(tiny("bert")).train()
    state, seen, heard = fake_of(model), [], []
    linear = model.bert.encoder.layer[0].intermediate.dense
    linear.register_forward_pre_hook(lambda module, args: heard.append(args[0].detach()))
    for step in (((5, 9), (3,)), ((7, 2),)):
        for lengths in step:
            inputs = batch(VOCAB, lengths, 12, seed=len(seen))
            model(**inputs)
            heard[-1] = heard[-1][inputs["attention_mask"] > 0]
        seen.append((min(float(x.min()) for x in heard), max(float(x.max()) for x in heard)))
        heard.clear()
        state.step(False)
    (low, high), (low_2, high_2) = seen
    wanted = (low + 0.5 * (low_2 - low), high + 0.5 * (high_2 - high))
    assert state.ranges()["bert.encoder.layer.0.intermediate.dense"] == pytest.approx(wanted, rel=1e-6)
    same = {state.ranges()[f"bert.encoder.layer.0.attention.self.{name}"] for name in ("query", "key", "value")}
    assert len(same) == 1


def test_nothing_is_rounded_before_its_time_nor_seen_in_evaluation() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, (5, 9))
    plain = model(**inputs).logits
    state = fake_of(model)
    assert torch.equal(model(**inputs).logits, plain)
    state.step(True)
    assert state.ranges() == {}, "in evaluation mode nothing is seen"
    model.train()(**inputs)
    state.step(True)
    assert not torch.equal(model.eval()(**inputs).logits, plain)
    state.detach()
    assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("ranges", ["average", "learned"])
def test_micro_batches_equal_one_batch(ranges: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, dev = make_rows(45), make_rows(9, 3)
    aware = find("quant.aware")(ranges=ranges, start=0.0)  # type: ignore[call-arg]
    monkeypatch.setattr("test_loop.methods", lambda names: [find("tune.full")(), aware])

    def go(name: str, micro_tokens: int) -> dict[str, torch.Tensor]:
        training = replace(SETTINGS, micro_tokens=micro_tokens)
        return trained((), rows, dev, tmp_path / name, training, make_model().double())[0]

    whole = go("a", 10**6)
    assert worst(whole, go("b", 64)) < 1e-6
    assert whole["Aware.on"] and bool(whole["Aware.known"].any())


# The graph that answers alike.


@pytest.mark.parametrize("family", [*SIX, "smidgen-bilstm", "smidgen-cnn"])
def test_the_rounded_model_answers_as_the_int8_graph(family: str, tmp_path: Path) -> None:
    if family in SIX:
        model = still(tiny(family, attn_implementation="eager"))
    else:
        config = AutoConfig.for_model(family, vocab_size=VOCAB, embedding_size=16, num_labels=3, head_size=9)
        torch.manual_seed(0)
        model = still(AutoModelForSequenceClassification.from_config(config))
    given = batch(VOCAB, (9, 6, 4, 9))
    feed = {name: value.numpy() for name, value in given.items()} | {"token_type_ids": np.zeros((4, 9), np.int64)}
    export(model.eval(), feed, tmp_path / "m.onnx", 64)
    graph = onnx.load(str(tmp_path / "m.onnx"))
    for rate in (None, 1e-3):
        state = fake_of(model, rate)
        model.train()(**given)
        state.step(True)
        known = trained_ranges(graph, state.ranges())
        assert set(known) == {node.input[0] for node in products(graph)}, "each product's module has a range"
        with torch.no_grad():
            said = model.eval()(**given).logits.numpy()
        state.detach()
        made = dynamic(static(graph, known), ["Gather"], True, False)
        exact, ints = logits(graph, [feed]), logits(made, [feed])
        cost, apart = np.abs(ints - exact).max(), np.abs(ints - said).max()
        assert cost > 1e-4 and apart < 0.05 * cost, (cost, apart)


def test_trained_ranges_are_read_by_quant_static(tmp_path: Path) -> None:
    names = data_files(tmp_path / "data")
    train = Training(epochs=2, learning_rate=1e-3, batch_size=8, precision="float32")
    stages = (
        Stage("aware", (Use("tune.full"), Use("quant.aware", {"start": 0.2})), train=train),
        Stage("onnx", (Use("export.onnx"),)),
        Stage("int8", (Use("quant.static", {"ranges": "trained"}),)),
        Stage("again", (Use("tune.full"),), source="aware", train=train),
        Stage("onnx again", (Use("export.onnx"),)),
        Stage("refused", (Use("quant.static", {"ranges": "trained"}),)),
    )
    recipe = Recipe(str(model_folder(tmp_path / "model", labels=LABELS)), Files(names["train"], names["dev"]), stages)
    done = run(plan(replace(recipe, stages=stages[:3])), tmp_path / "stages")
    aware, _, int8 = (one.artefact for one in done)
    found = aware.record["found"]["quant.aware"]
    ranges = json.loads((aware.path / RANGES).read_text(encoding="utf-8"))
    assert found["ranges"] == len(ranges) == 14 and RANGES in aware.record["files"]
    assert int8.record["found"]["trained_ranges"] == 11, (
        "query, key and value read the same, but for the last query: of the first token"
    )
    graph = onnx.load(str(int8.path / "onnx" / "model.onnx"))
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name.endswith("/scale")}
    low, high = ranges["bert.encoder.layer.1.output.dense"]
    assert any(np.isclose(value, (high - low) / 255, rtol=1e-6).any() for value in scales.values() if value.ndim == 0)
    wanted = (
        r"quant\.static: ranges: trained, but there is no ranges\.json beside the graph\. quant\.aware leaves it: add "
        r"it to the last stage that trains, or write ranges: mse\."
    )
    with pytest.raises(InputError, match=wanted):
        run(plan(recipe), tmp_path / "stages")


# What is refused.


def test_what_cannot_be_rounded_is_refused(tmp_path: Path) -> None:
    ctx = Context(tmp_path, tmp_path, Classify(LABELS), (), 0, torch.nn.Module())
    with pytest.raises(NoEffect, match=r"^quant\.aware: the model has no Linear whose weights could be rounded\."):
        find("quant.aware")().begin(ctx)
    ctx.model = make_model()
    ctx.model.classifier.base_layer = torch.nn.Identity()
    with pytest.raises(InputError, match=r"^quant\.aware: tune\.lora acts on the same projections\. Give it a stage"):
        find("quant.aware")().begin(ctx)
    (fault,) = find("quant.static")(ranges="trained", smooth=0.5).faults()  # type: ignore[call-arg]
    assert fault == "smooth: got 0.5, wanted 0 with ranges trained, which are of what is not smoothed."
