"""Graphs in int8: what becomes of a product, outliers moved into weights, overflow, and what goes back to float."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from folders import LABELS, data_files, model_folder, sentences, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoModelForSequenceClassification

from smidgen.calibration import extremes
from smidgen.data import load_data
from smidgen.errors import InputError, RecipeError
from smidgen.integer import (
    KINDS,
    affine,
    count,
    dynamic,
    parts,
    products,
    smoothed,
    smoothing,
    sources,
    static,
    symmetric,
)
from smidgen.method import Context, Sight, find
from smidgen.planner import Plan, plan
from smidgen.precision import NONE, Loss, growing, told
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import Done, run
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.model import load
from smidgen.saturation import cut_off, warning, without_vnni
from smidgen.source import quiet
from smidgen.tasks import Classify

RNG = np.random.default_rng(0)
POISONED = "bert.pooler.dense"


# A graph of every kind of product: x from ids; MatMul, Add, LayerNormalization, MatMul, Gemm of transposed weights.


def layers() -> onnx.ModelProto:
    draw = np.random.default_rng(1)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)

    nodes = [
        ("Gather", ["table", "input_ids"], ["x"], {}),
        ("MatMul", ["x", "w1"], ["m1"], {}),
        ("Add", ["m1", "b1"], ["a1"], {}),
        ("LayerNormalization", ["a1", "scale", "shift"], ["n"], {}),
        ("MatMul", ["n", "w2"], ["m2"], {}),
        ("ReduceMean", ["m2", "one"], ["pooled"], {"keepdims": 0}),
        ("Gemm", ["pooled", "w3", "b3"], ["logits"], {"transB": 1}),
    ]
    shapes = {"table": (20, 6), "w1": (6, 8), "b1": (8,), "scale": (8,), "shift": (8,), "w2": (8, 6), "w3": (3, 6)}
    constants = [constant(name, *shape) for name, shape in (shapes | {"b3": (3,)}).items()]
    constants.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(
        [helper.make_node(kind, *names, name=names[1][0], **more) for kind, *names, more in nodes],
        "layers",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, 20, (16, 5))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def said(graph: onnx.ModelProto, given: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {i.name: given[i.name] for i in session.get_inputs()})[0]


def ranges(graph: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    seen = extremes(graph, sources(graph), [feed()])
    return {x: (min(float(low.min()), 0.0), max(float(high.max()), 0.0)) for x, (low, high) in seen.items()}


def test_products_become_integers() -> None:
    graph = layers()
    made = static(graph, ranges(graph))
    assert count(made, "MatMulIntegerToFloat") == 3 and count(made, "MatMul", "Gemm", "Add") == 0
    assert {t.name for t in made.graph.initializer} & {"w1", "w2", "w3"} == set()
    onnx.checker.check_model(graph)  # the graph that it was made from is as it was
    assert count(graph, "MatMul", "Gemm", "Add") == 4
    exact, near = said(graph, feed()), said(made, feed())
    assert 0 < np.abs(near - exact).max() < 0.1 * exact.std()


def test_what_is_kept_stays_in_float() -> None:
    graph = layers()
    names = list(parts(graph, ("MatMul", "Gemm", "Gather")))
    assert names == ["x", "m1", "m2", "logits"]
    for kept in (["m1"], ["m2", "logits"]):
        made = static(graph, ranges(graph), kept=kept)
        assert count(made, "MatMul", "Gemm") == len(kept) and count(made, "MatMulIntegerToFloat") == 3 - len(kept)
    same = static(graph, ranges(graph), kept=names)
    np.testing.assert_array_equal(said(same, feed()), said(graph, feed()))
    for kept in (["m1", "x"], ["logits", "x"]):
        assert count(dynamic(graph, ["MatMul", "Gather"], True, False, kept), "MatMulInteger") == 2


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 0), st.floats(0, 50))
def test_uint8_reaches_both_ends_and_keeps_0(low: float, high: float) -> None:
    scale, zero = affine((low, high))
    levels = scale * (np.arange(256) - zero)
    assert levels[zero] == 0
    if high - low > 1e-6:
        assert abs(levels[0] - low) <= 0.51 * scale and abs(levels[-1] - high) <= 0.51 * scale


def test_weights_have_a_scale_for_each_column() -> None:
    weights = np.array([[1.0, 0.0, -50.0], [-2.0, 0.0, 25.0]], np.float32)
    scales, ints = symmetric(weights, 127)
    np.testing.assert_allclose(scales, [2 / 127, 1, 50 / 127], rtol=1e-6)
    assert ints.tolist() == [[64, 0, -127], [-127, 0, 64]]
    assert np.abs(symmetric(weights, 63)[1]).max() == 63


# Outliers.


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_smoothing_says_the_same_in_float(alpha: float) -> None:
    graph = layers()
    seen = extremes(graph, sources(graph), [feed()])
    largest = {x: np.maximum(-low, high) for x, (low, high) in seen.items()}
    made = smoothed(graph, largest, alpha)
    np.testing.assert_allclose(said(made, feed(5)), said(graph, feed(5)), rtol=1e-4, atol=1e-5)
    assert sources(made) == ["x/smooth", "n", "pooled/smooth"] and count(made, "Mul") == 2, "n is folded into its norm"
    after = extremes(made, sources(made), [feed()])
    for node, new, old in zip(products(graph), sources(made), sources(graph), strict=True):
        rows = np.abs(weights_of(graph, node)).max(1)
        wanted = largest[old] ** alpha / rows ** (1 - alpha)
        np.testing.assert_allclose(smoothing(largest[old], rows, alpha), wanted, rtol=1e-5)
        got = np.maximum(-after[new][0], after[new][1])
        np.testing.assert_allclose(got, largest[old] / wanted, rtol=1e-4)


def weights_of(graph: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray:
    found = next(numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == node.input[1])
    return found.T if node.op_type == "Gemm" else found


def test_a_silent_channel_stays_as_it_is() -> None:
    assert smoothing(np.array([0.0, 4.0, 1.0]), np.array([1.0, 0.0, 4.0]), 0.5).tolist() == [1, 1, 0.5]


def test_a_norm_that_others_read_is_left_alone() -> None:
    graph = layers()
    graph.graph.node.append(helper.make_node("Identity", ["n"], ["states"], name="states"))
    graph.graph.output.append(helper.make_tensor_value_info("states", TensorProto.FLOAT, ["b", "l", 8]))
    made = smoothed(graph, {"n": np.arange(1.0, 9.0)}, 0.5)
    assert count(made, "Mul") == 1
    np.testing.assert_allclose(said(made, feed()), said(graph, feed()), rtol=1e-4, atol=1e-5)


# Overflow.


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 10**6))
def test_what_is_cut_off_is_the_formula(inner: int, columns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.choice([0, 3, 200, 255], (2, 3, inner)).astype(np.uint8)
    w = draw.choice([-128, -127, -5, 0, 60, 127], (inner, columns)).astype(np.int8)
    wanted = np.zeros((2, 3, columns), int)
    for place in np.ndindex(wanted.shape):
        row, column = x[place[:2]].astype(int), w[:, place[2]].astype(int)
        for k in range(0, inner, 2):
            pair = int((row[k : k + 2] * column[k : k + 2]).sum())
            wanted[place] += pair - min(max(pair, -32768), 32767)
    np.testing.assert_array_equal(cut_off(x, w), wanted)


# Trained, and poisoned: in float the same, in int8 one product loses what it reads.


def poison(folder: Path) -> None:
    """One channel of the last norm is 10,000 times as large, and the product that reads it has it back."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    norm, pooler = model.bert.encoder.layer[-1].output.LayerNorm, model.bert.pooler.dense
    for values in (norm.weight.data, norm.bias.data):
        values[3] *= 1e4
    pooler.weight.data[:, 3] /= 1e4
    model.save_pretrained(folder)


GATED = {"max_loss": 2.0}
STAGES = (
    Stage("onnx", (Use("export.onnx"),)),
    Stage("static", (Use("quant.static", GATED),), source="onnx"),
    Stage("dynamic", (Use("quant.dynamic", GATED),), source="onnx"),
    Stage("smooth", (Use("quant.static", GATED | {"smooth": 0.9}),), source="onnx"),
)
MORE = (
    Stage("reduced", (Use("quant.static", GATED | {"reduce_range": True}),), source="onnx"),
    Stage("plain", (Use("quant.dynamic"),), source="onnx"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quant")


@pytest.fixture(scope="module")
def files(home: Path) -> Files:
    rows = sentences(320, seed=0)
    train, dev = write_csv(home / "train.csv", rows[:120]), write_csv(home / "dev.csv", rows[120:])
    return Files(train, dev, max_length=16)


@pytest.fixture(scope="module")
def trained(home: Path, files: Files) -> Path:
    training = Training(epochs=6, learning_rate=5e-3, batch_size=8)
    start = model_folder(home / "start", labels=LABELS)
    (done,) = run(plan(Recipe(str(start), files, (Stage("t", (Use("tune.full"),), train=training),))), home / "stages")
    return done.artefact.path


@pytest.fixture(scope="module")
def healthy(home: Path, files: Files, trained: Path) -> dict[str, Done]:
    return stages(home, files, trained, STAGES + MORE)


@pytest.fixture(scope="module")
def poisoned(home: Path, files: Files, trained: Path) -> dict[str, Done]:
    folder = shutil.copytree(trained, home / "poisoned", ignore=shutil.ignore_patterns("smidgen.json"))
    poison(folder)
    return stages(home, files, folder, STAGES)


def stages(home: Path, files: Files, model: Path, chain: tuple[Stage, ...]) -> dict[str, Done]:
    return {done.planned.stage.name: done for done in run(plan(Recipe(str(model), files, chain)), home / "stages")}


def found(done: Done) -> dict[str, Any]:
    return dict(done.artefact.record["found"])


def test_int8_is_near_float_on_a_trained_model(healthy: dict[str, Done]) -> None:
    texts = [text for text, _ in sentences(200, seed=3)]
    exact = load(healthy["onnx"].artefact.path).outputs(texts)
    for name in ("static", "dynamic", "reduced", "smooth"):
        near = load(healthy[name].artefact.path).outputs(texts)
        assert (near.argmax(1) == exact.argmax(1)).mean() > 0.97, name
        assert np.sqrt(((near - exact) ** 2).mean()) < 0.1 * exact.std(), name
        record = found(healthy[name])
        assert record["float"] == {} and record["loss"] == record["loss_before"] <= 2 and record["rows"] == 200
        assert record["products_int8"] == 14 and record["products_float"] == 0
        assert any(
            "points" in remark and "of accuracy on 200 rows of dev" in remark for remark in healthy[name].remarks
        )
    assert found(healthy["static"])["calibrated_on"] == 120
    assert found(healthy["plain"]) == {"products_int8": 14, "products_float": 0}
    assert all("may overflow here" in remark for remark in healthy["plain"].remarks), "where there is no VNNI"


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_a_poisoned_product_goes_back_to_float(name: str, poisoned: dict[str, Done]) -> None:
    record = found(poisoned[name])
    assert list(record["float"].values()) == [POISONED]
    assert record["loss_before"] > 10 and record["loss"] <= 2 and record["products_int8"] == 13
    (remark,) = poisoned[name].remarks
    assert remark.startswith(f"quant.{name}: int8 would cost {record['loss_before']:.1f} points (")
    assert f"1 of 17 parts went back to float32 ({POISONED}), and it costs {record['loss']:.1f} points (" in remark


def test_smoothing_heals_what_is_poisoned(poisoned: dict[str, Done]) -> None:
    record = found(poisoned["smooth"])
    assert record["float"] == {} and record["loss"] <= 2


def test_fewer_bits_never_overflow(healthy: dict[str, Done]) -> None:
    assert found(healthy["reduced"])["same_without_vnni"] == 1.0
    assert 0 <= found(healthy["static"])["same_without_vnni"] <= 1


def test_only_what_is_cut_off_changes_decisions(healthy: dict[str, Done], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = healthy["plain"].artefact.path
    texts = [text for text, _ in sentences(24, seed=3)]
    task = Classify(LABELS)
    monkeypatch.setattr("smidgen.saturation.cut_off", lambda x, w: 0)
    assert without_vnni(task, folder, texts, None) == 1.0
    monkeypatch.setattr("smidgen.saturation.cut_off", lambda x, w: 10**6 * np.arange(w.shape[1]))
    assert without_vnni(task, folder, texts, None) < 1.0


def test_a_folder_says_that_it_is_not_portable(
    healthy: dict[str, Done], files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dev = load_data(files.train, files.dev, labels=LABELS).dev
    texts = tuple((text, None) for text in dev.texts[:10])
    ctx = Context(healthy["onnx"].artefact.path, tmp_path, Classify(LABELS), texts, 0, sight=Sight(dev=lambda: dev))
    method: Any = find("quant.dynamic")(max_loss=100.0)  # type: ignore[call-arg]
    for same, said in ((1.0, False), (0.996, False), (0.9, True), (None, False)):
        monkeypatch.setattr("smidgen.precision.without_vnni", lambda *_, same=same: same)
        record = method.run(ctx)
        assert record["same_without_vnni"] == same
        wanted = (
            f" Where the processor has no VNNI, 10.0% of {len(dev)} decisions would be others: for such machines write "
            "reduce_range: true."
        )
        assert record["told"].endswith(wanted) == said and ("VNNI" in record["told"]) == said


@pytest.mark.parametrize(("names", "wanted"), [(["avx2"], True), (["avx2", "avx_vnni"], False), ([], False)])
def test_overflow_is_told_where_it_can_happen(
    names: list[str], wanted: bool, healthy: dict[str, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smidgen.runtime.machine.instructions", lambda: frozenset(names))
    plain, reduced = (onnx.load(str(healthy[name].artefact.path / GRAPH)) for name in ("plain", "reduced"))
    said = "sums of int8 products may overflow here, since this processor has no VNNI: write reduce_range: true."
    assert warning(plain) == (said if wanted else "") and warning(reduced) == ""
    recurrent = helper.make_node("DynamicQuantizeLSTM", ["x", "w", "r"], ["y"], domain="com.microsoft")
    weights = [numpy_helper.from_array(np.full((2, 4, 12), 127, np.int8), name) for name in ("w", "r")]
    lstm = helper.make_model(helper.make_graph([recurrent], "lstm", [], [], weights))
    assert warning(lstm) == (said if wanted else ""), "what its sums come to is not worked out"


def test_the_hosts_logging_is_left_alone(healthy: dict[str, Done], caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    try:
        quiet()
        dynamic(onnx.load(str(healthy["onnx"].artefact.path / GRAPH)), KINDS, per_channel=True, reduce_range=False)
        assert root.level == logging.INFO and not [r for r in caplog.records if r.name == "root"]
    finally:
        root.setLevel(before)


LOST = Loss(12.34, 8.0, 16.0, 0.8)


def test_what_was_done_is_told() -> None:
    before = "int8 would cost 12.3 points (8.0 to 16.0) of accuracy on 900 rows of dev, and 0.5 are allowed; "
    cases: list[tuple[Loss, Sequence[str], str]] = [
        (LOST, ["a", "b"], f"{before}2 of 9 parts went back to float32 (a, b), and it costs 0.0 points (0.0 to 0.0)."),
        (LOST, list("abcdef"), f"{before}6 of 9 parts went back to float32 (a, b, c, d ...), and it costs"),
        (LOST, list("abcdefghi"), f"{before}no part of the graph could stay in int8, so that it is in float32 as it"),
    ]
    for first, back, wanted in cases:
        assert told(first, NONE, back, 9, 0.5, "accuracy", 900).startswith(wanted)
    again = told(LOST, Loss(2.0, -0.25, 4.5, 0.9), ["a"], 9, 0.5, "accuracy", 900)
    assert again == (
        f"{before}1 of 9 parts went back to float32 (a), and it costs 2.0 points (-0.2 to 4.5), and so few rows cannot "
        "tell it from none: give a larger dev to be sure."
    )
    within, unsure = "int8 costs 12.3 points (8.0 to 16.0)", Loss(12.34, -2.0, 30.0, 0.8)
    assert told(LOST, LOST, [], 9, 15.0, "f1", 900) == f"{within} of f1 on 900 rows of dev; up to 15 are allowed."
    assert told(unsure, unsure, [], 9, 0.5, "f1", 9) == (
        "int8 costs 12.3 points (-2.0 to 30.0) of f1 on 9 rows of dev; up to 0.5 are allowed, and so few rows cannot "
        "tell it from none: give a larger dev to be sure."
    )


def test_a_loss_exceeds_the_limit_where_rows_can_tell() -> None:
    assert LOST.exceeds(12.0) and not LOST.exceeds(12.34) and not Loss(12.34, 0.0, 30.0, 0.8).exceeds(0.5)


def test_few_go_back_before_many() -> None:
    assert growing(41) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32] and growing(4) == [1, 2, 3] and growing(1) == []


# What is read, and what is refused.


def quantised(files: Files, model: Path, data: str = "train", seed: int = 0, **more: Any) -> Plan:
    use = (Use("quant.static", more),)
    recipe = Recipe(str(model), files, (STAGES[0], Stage("static", use, data=data)), seed=seed)
    return plan(recipe)


def test_the_id_has_rows_seed_and_dev_in_it(tmp_path: Path) -> None:
    names = data_files(tmp_path / "data")
    model = model_folder(tmp_path / "model", labels=LABELS)
    both = Files(names["train"], names["dev"], unlabeled=names["unlabeled"], max_length=16)
    other = Files(names["train"], names["test"], unlabeled=names["unlabeled"], max_length=16)
    ids = [quantised(*given).stages[-1].id for given in ((both, model), (both, model, "unlabeled"), (other, model))]
    ids.append(quantised(both, model, max_loss=None).stages[-1].id)
    ids.append(quantised(other, model, max_loss=None).stages[-1].id)
    assert len(set(ids)) == 4 and ids[3] == ids[4], "without a limit dev is not read"


@pytest.mark.parametrize("rows", [0, 20])
def test_too_few_rows_are_refused(rows: int, healthy: dict[str, Done], tmp_path: Path) -> None:
    few = [{"input_ids": np.ones((rows, 4), np.int64)}] if rows else []
    sight = Sight(inputs=lambda count: few)
    ctx = Context(healthy["onnx"].artefact.path, tmp_path, Classify(LABELS), (), 0, sight=sight)
    wanted = (
        rf"quant\.static: got {rows} rows to measure ranges on, wanted at least 32\. Give more rows of training data, "
        r"or take quant\.dynamic, which needs none\."
    )
    with pytest.raises(InputError, match=wanted):
        find("quant.static")().run(ctx)  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_data_that_is_not_there_or_not_the_tasks_is_refused(tmp_path: Path) -> None:
    names = data_files(tmp_path / "data")
    model = model_folder(tmp_path / "model", labels=("red", "green", "blue"))
    files = Files(names["train"], names["dev"], max_length=16)
    with pytest.raises(InputError, match="red"):
        quantised(files, model)
    fitting = model_folder(tmp_path / "fitting", labels=LABELS)
    with pytest.raises(RecipeError, match="stage static\\.data: wants unlabeled texts, the recipe's data has none"):
        quantised(files, fitting, "unlabeled")
