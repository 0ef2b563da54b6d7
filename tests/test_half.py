"""Graphs with their weights in 16 bits: what is stored, what is cast, what does not fit, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from folders import LABELS, data_files, model_folder
from onnx import TensorProto, numpy_helper
from test_quant import feed, layers, said

from smidgen.errors import RecipeError, SmidgenError
from smidgen.method import Context, find
from smidgen.methods.quant.half import KINDS, Half, halved
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.tasks import Classify

MATRICES = ("table", "w1", "w2", "w3")


def rounded(graph: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The same float32 graph, each matrix as the nearest numbers in 16 bits: halves of a last place up or down."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    for tensor in made.graph.initializer:
        if tensor.name in MATRICES:
            exact = numpy_helper.to_array(tensor)
            if kind == "float16":
                near = exact.astype(np.float16).astype(np.float32)
            else:  # the upper half of the bits, rounded to even
                bits = exact.view(np.uint32)
                near = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_rounded_and_nothing_else(kind: str) -> None:
    graph = layers()
    made, beyond = halved(graph, kind)
    onnx.checker.check_model(made)
    assert beyond == [] and {t.name for t in graph.graph.initializer} >= set(MATRICES), "the given graph is as it was"
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert {name for name, type in types.items() if type == KINDS[kind]} == {f"{name}/half" for name in MATRICES}
    assert all(types[name] == TensorProto.FLOAT for name in ("b1", "scale", "shift", "b3")), "biases and norms stay"
    np.testing.assert_allclose(said(made, feed()), said(rounded(graph, kind), feed()), rtol=1e-5, atol=1e-6)
    assert np.abs(said(made, feed()) - said(graph, feed())).max() > 1e-5


def test_rows_of_a_table_are_cast_when_they_are_looked_up() -> None:
    graph = layers()
    nodes = {node.output[0]: node for node in halved(graph, "float16")[0].graph.node}
    assert list(nodes["x/half"].input) == ["table/half", "input_ids"] and nodes["x"].op_type == "Cast"
    assert "table" not in nodes, "the whole table is not cast"
    graph.graph.node.append(onnx.helper.make_node("Identity", ["table"], ["again"]))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("again", TensorProto.FLOAT, [20, 6]))
    both, _ = halved(graph, "float16")
    assert "table" in {node.output[0] for node in both.graph.node}, "save for others that read it"
    onnx.checker.check_model(both)


def test_what_float16_cannot_hold_stays_in_float32() -> None:
    graph = layers()
    (table,) = (tensor for tensor in graph.graph.initializer if tensor.name == "w2")
    large = numpy_helper.to_array(table).copy()
    large[0, 0] = 70000
    table.CopyFrom(numpy_helper.from_array(large, "w2"))
    made, beyond = halved(graph, "float16")
    assert beyond == ["w2"] and np.isfinite(said(made, feed())).all()
    np.testing.assert_allclose(said(made, feed()), said(graph, feed()), rtol=1e-2, atol=1)
    assert halved(graph, "bfloat16")[1] == []


def test_products_in_float16() -> None:
    graph = layers()
    made, _ = halved(graph, "float16", compute=True)
    onnx.checker.check_model(made)
    nodes = {node.output[0]: node for node in made.graph.node}
    for name in ("m1", "m2", "logits"):
        assert nodes[name].op_type == "Cast" and nodes[f"{name}/half"].op_type in ("MatMul", "Gemm")
        kinds = {nodes[given].attribute[0].i for given in nodes[f"{name}/half"].input if given in nodes}
        assert kinds == {TensorProto.FLOAT16}
    assert nodes["n"].op_type == "LayerNormalization" and nodes["a1"].op_type == "Add"
    assert np.abs(said(made, feed()) - said(graph, feed())).max() < 0.05


def refusals(monkeypatch: pytest.MonkeyPatch, names: list[str], **settings: Any) -> list[str]:
    for module in ("runtime.machine", "methods.quant.half"):
        monkeypatch.setattr(f"smidgen.{module}.instructions", lambda: frozenset(names))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    return list(Half(**settings).faults())


def test_what_would_be_emulated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusals(monkeypatch, ["avx512_fp16"]) == [], "weights alone cost nothing"
    assert refusals(monkeypatch, ["avx512_fp16"], compute=True) == [
        "compute: got true, wanted false: this processor has none of asimdhp, so that products in float16 would be "
        "emulated."
    ]
    (unknown,) = refusals(monkeypatch, [], compute=True)
    assert unknown.startswith("compute: got true, wanted false: the system does not tell what this processor can do")
    assert refusals(monkeypatch, ["asimd", "asimdhp"], compute=True) == []
    assert refusals(monkeypatch, ["asimdhp"], compute=True, kind="bfloat16") == [
        "compute: got true, wanted false with kind bfloat16, which ONNX Runtime does not multiply in."
    ]


def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "onnx").mkdir(parents=True)
    onnx.save(layers(), str(source / "onnx" / "model.onnx"))
    monkeypatch.setattr("smidgen.methods.quant.half.checked", lambda ctx, rows: [feed()])
    return Context(source, target, Classify(LABELS), (), 0)


def test_the_folder_is_half_as_large_and_says_how_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(tmp_path, monkeypatch)
    found = find("quant.half")().run(ctx)  # type: ignore[attr-defined]
    assert found["tensors_half"] == 4 and found["tensors_float"] == [] and 0 < found["largest_difference"] < 0.05
    told = f"4 tensors are in float16; a logit differs by at most {found['largest_difference']:.2g}."
    assert found["told"] == told and (ctx.target / "onnx" / "model.onnx").is_file()


def test_a_graph_that_says_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(tmp_path, monkeypatch)
    wanted = (
        r"quant\.half: in bfloat16 a logit differs by 0\.\d+, at most 1e-06 is allowed\. Nothing was written\. Write "
        r"kind: float16, a higher tolerance, or leave the graph in float32\."
    )
    with pytest.raises(SmidgenError, match=wanted):
        Half(kind="bfloat16", tolerance=1e-6).run(ctx)
    assert not ctx.target.exists()


def test_int8_is_not_made_of_halves(tmp_path: Path) -> None:
    names = data_files(tmp_path / "data")
    stages = tuple(
        Stage(name.rpartition(".")[2], (Use(name),)) for name in ("export.onnx", "quant.half", "quant.dynamic")
    )
    recipe = Recipe(str(model_folder(tmp_path / "model")), Files(names["train"], names["dev"], max_length=16), stages)
    with pytest.raises(RecipeError, match=r"stage dynamic: quant\.dynamic takes onnx, got half\."):
        plan(recipe)
