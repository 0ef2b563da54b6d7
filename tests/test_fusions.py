"""Fused graphs say what they said before, are fused where they should be, and left alone where they should not."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from folders import LABELS, data_files, model_folder
from tiny import VOCAB, batch, tiny

from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import RecipeError
from smidgen.fusions import FUSIONS, fused
from smidgen.grafts import build
from smidgen.graph import export, single_output
from smidgen.integer import KINDS, count, dynamic, parts
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.runner import run
from smidgen.surgery import apply

LIKE_BERT = {"padding": 1, "attention": 2, "first_token": 4}
FIRED = {
    "bert": LIKE_BERT,
    "roberta": LIKE_BERT,
    "distilbert": LIKE_BERT,
    "electra": LIKE_BERT,
    "mpnet": LIKE_BERT,
    "modernbert": LIKE_BERT | {"first_token": 3},  # queries, keys and values are one product
}
ALONE = {  # of first_token, without attention as one node: its two products, but for rotary positions, are seen through
    family: found["first_token"] + 2 for family, found in FIRED.items()
}
OTHERS = {"tag": "TokenClassification", "answer": "QuestionAnswering"}
TYPES = ("bert", "electra")


def model_of(kind: str) -> Any:
    """A family's classifier, or `tag`, `answer`, `uneven-FAMILY`, `prefix-FAMILY` or `hollow`."""
    if kind in OTHERS:
        return tiny("bert", head=OTHERS[kind], labels=2)
    model = tiny("bert" if kind == "hollow" else kind.rpartition("-")[2], blocks=3 if "-" in kind else 2)
    if kind.startswith("prefix-"):
        build(model, "prefix", {"length": 5}).attach(model)
    if kind == "hollow":
        apply(model, KeepHeads(0, ()))
        apply(model, KeepWidth(1, ()))
    if kind.startswith("uneven-"):
        for block, heads in enumerate(((0, 3), (1,), (0, 1, 2))):
            apply(model, KeepHeads(block, heads))
            apply(model, KeepWidth(block, tuple(range(24 + 8 * block))))
    return model


def inputs_of(lengths: tuple[int, ...], seed: int = 1) -> dict[str, np.ndarray]:
    """Pairs, of rows that are padded where they differ in length."""
    found = {name: values.numpy() for name, values in batch(VOCAB, lengths, seed=seed).items()}
    middle = np.arange(found["input_ids"].shape[1]) >= 3
    return found | {"token_type_ids": middle * found["attention_mask"]}


BATCHES = [inputs_of(lengths) for lengths in ((9, 20, 4), (13,), (2,), (7, 7))]


@cache
def unfused(kind: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model = single_output(model_of(kind))
        model.set_attn_implementation("eager")
        assert export(model, BATCHES[0], file, 64, FUSIONS) == {}
        return onnx.load(file).SerializeToString()  # with what lies beside it


def graph_of(kind: str) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(unfused(kind)))


def answers(model: ir.Model | bytes) -> list[np.ndarray]:
    """The logits of real rows in each batch."""
    data = model if isinstance(model, bytes) else ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    said = []
    for feed in BATCHES:
        values = session.run(None, {name: feed[name] for name in names})[0]
        said.append(values[feed["attention_mask"] > 0] if values.ndim == 3 else values)
    return said


def near(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(np.abs(a - b).max() < 1e-5 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("family", FIRED)
def test_each_fusion_finds_its_place_and_says_the_same(family: str) -> None:
    wanted = answers(unfused(family))
    assert min(np.ptp(np.concatenate(wanted), 0)) > 1e-2, "the answers differ from row to row"
    for name in ("padding", "attention", "first_token"):
        model = graph_of(family)
        times = ALONE[family] if name == "first_token" else FIRED[family][name]
        assert fused(model, set(FUSIONS) - {name}) == {name: times}
        assert near(answers(model), wanted), name
    model = graph_of(family)
    assert fused(model) == FIRED[family] and near(answers(model), wanted)
    nodes = Counter(node.op_type for node in model.graph)
    assert nodes["Attention"] == 2 and not nodes["Softmax"] and not nodes["GatherND"] and not model.functions
    assert {node.domain for node in model.graph} == {""}, "all of it is ONNX's own"
    assert fused(model) == {}, "there is no more to do"


@pytest.mark.parametrize("task", OTHERS)
def test_what_asks_for_every_token_gets_every_token(task: str) -> None:
    model = graph_of(task)
    assert fused(model) == {"padding": 1, "attention": 2} and near(answers(model), answers(unfused(task)))


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_uneven_blocks_keep_their_own_heads(family: str) -> None:
    model = graph_of(f"uneven-{family}")
    assert fused(model) == {"padding": 1, "attention": 3, "first_token": 4}
    heads = [node.attributes["q_num_heads"].value for node in model.graph if node.op_type == "Attention"]
    assert heads == [2, 1, 3] and near(answers(model), answers(unfused(f"uneven-{family}")))


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_prefix_asks_nothing(family: str) -> None:
    """Its places bring keys and values; of the last block only the first token asks."""
    model, wanted = graph_of(f"prefix-{family}"), answers(unfused(f"prefix-{family}"))
    assert fused(model) == {"padding": 1, "attention": 3, "queries": 3, "first_token": 4}
    assert near(answers(model), wanted)
    assert not any(node.op_type == "Pad" and len(node.outputs[0].shape) == 3 for node in model.graph)
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    lengths = [[str(value.shape[1]) for value in node.inputs[:2]] for node in attentions]
    assert all(key == f"{query} + 5" for query, key in lengths[:2]) and lengths[2][0] == "1", lengths


def test_what_has_been_emptied_stays_so() -> None:
    model = graph_of("hollow")
    found = fused(model)
    assert found["attention"] == 1 and near(answers(model), answers(unfused("hollow")))


# What is not understood.


def after(kind: str, change: Any, without: tuple[str, ...] = ()) -> dict[str, int]:
    """What was fused in a graph that has been changed; it says the same as before it was fused."""
    proto = onnx.load_from_string(unfused(kind))
    change(proto.graph)
    model = ir.from_proto(proto)
    found = fused(model, without)
    assert near(answers(model), answers(proto.SerializeToString()))
    return found


def node(graph: onnx.GraphProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [each for each in graph.node if each.op_type == kind][number]


def constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return name


def test_another_token_than_the_first_is_left_alone() -> None:
    def second(graph: onnx.GraphProto) -> None:
        node(graph, "Gather", -1).input[1] = constant(graph, "second", np.array(1))

    assert "first_token" not in after("bert", second)


def test_states_that_are_told_are_of_all_tokens() -> None:
    def tell(graph: onnx.GraphProto) -> None:
        states = node(graph, "Gather", -1).input[0]
        graph.output.append(onnx.helper.make_tensor_value_info(states, onnx.TensorProto.FLOAT, None))

    assert "first_token" not in after("bert", tell)


def test_what_two_read_is_of_all_tokens() -> None:
    """The feed-forward of the last block, whose first product somebody else takes the mean of."""

    def read(graph: onnx.GraphProto) -> None:
        states, logits = node(graph, "Gelu", -1).input[0], node(graph, "Gemm", -1)
        axes = constant(graph, "axes", np.array([1, 2]))
        graph.node.append(onnx.helper.make_node("ReduceMean", [states, axes], ["mean"], keepdims=0))
        graph.node.append(onnx.helper.make_node("Unsqueeze", ["mean", constant(graph, "one", np.array([1]))], ["far"]))
        logits.output[0] = "near"
        graph.node.append(onnx.helper.make_node("Add", ["near", "far"], ["logits"]))

    assert after("bert", read) == {"padding": 1, "attention": 2, "first_token": 1}, "what is above it is of one"


def test_scores_that_somebody_reads_stay() -> None:
    def tell(graph: onnx.GraphProto) -> None:
        graph.output.append(
            onnx.helper.make_tensor_value_info(node(graph, "Softmax").output[0], onnx.TensorProto.FLOAT, None)
        )

    assert after("bert", tell)["attention"] == 1


def test_a_softmax_over_queries_is_no_attention() -> None:
    def turn(graph: onnx.GraphProto) -> None:
        node(graph, "Softmax").attribute[0].i = 2

    assert after("bert", turn, ("first_token",)) == {"padding": 1, "attention": 1}


def test_a_scale_of_each_head_is_no_scale() -> None:
    def scale(graph: onnx.GraphProto) -> None:
        factors = np.linspace(0.1, 0.4, 4, dtype=np.float32)[:, None, None]
        next(each for each in graph.node if each.op_type == "Mul").input[1] = constant(graph, "factors", factors)

    assert after("bert", scale)["attention"] == 1


def test_a_mask_that_is_gathered_in_another_way_stays() -> None:
    """With the row of a batch counted from 1: indices of a range that is not 0, 1, 2 ..."""

    def shift(graph: onnx.GraphProto) -> None:
        ranges = [each for each in graph.node if each.op_type == "Range"]
        rows = next(each for each in ranges if each.output[0] == "arange")
        rows.input[2] = constant(graph, "still", np.array(10**6))  # one number: 0

    model = onnx.load_from_string(unfused("bert"))
    shift(model.graph)
    found = ir.from_proto(model)
    assert "padding" not in fused(found)


# The method.


def test_the_method_leaves_out_what_it_is_asked_to_and_tells_the_rest(tmp_path: Path) -> None:
    folder = str(model_folder(tmp_path / "model", labels=LABELS))
    stages = (Stage("onnx", (Use("export.onnx", {"without": ["attention"]}),)),)
    (done,) = run(plan(Recipe(folder, Files(**data_files(tmp_path)), stages)), tmp_path / "stages")
    assert done.artefact.record["found"]["fused"] == {"padding": 1, "first_token": 6}


def test_products_keep_their_names_and_become_integers() -> None:
    model = graph_of("bert")
    fused(model)
    made = ir.to_proto(model)
    before, after = (list(parts(graph, KINDS).items()) for graph in (onnx.load_from_string(unfused("bert")), made))
    assert sorted(after) == sorted(before) and any("attention.self.query" in title for _, title in after)
    assert count(dynamic(made, KINDS, True, False), "MatMulInteger") == 14


def test_a_fusion_that_there_is_not(tmp_path: Path) -> None:
    stages = (Stage("onnx", (Use("export.onnx", {"without": ["atention"]}),)),)
    with pytest.raises(
        RecipeError, match="without: got 'atention', wanted one of padding, attention, queries, first_token"
    ):
        plan(Recipe(str(model_folder(tmp_path / "model", labels=LABELS)), Files(**data_files(tmp_path)), stages))
