"""Rows of many tables, read at once: the graph says the same, with fewer nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common

from smidgen.fusions import tables

TASKS, WIDTH = 3, 4


class Written:
    """A graph in the making: states `x`, (B, L, 4), and the task of each row, (B,)."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.node("Unsqueeze", ["tasks", self.hold(np.array([-1]))], "index")

    def hold(self, values: np.ndarray) -> str:
        self.held.append(numpy_helper.from_array(values, f"held_{len(self.held)}"))
        return self.held[-1].name

    def floats(self, *shape: int) -> str:
        return self.hold(self.draw.normal(size=shape).astype(np.float32))

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: float) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def row(self, width: int = WIDTH) -> str:
        """Each row's own of a table, (B, 1, width)."""
        read = self.node("GatherND", [self.floats(TASKS, width), "index"])
        return self.node("Unsqueeze", [read, self.hold(np.array([1]))])

    def done(self, *outputs: str) -> onnx.ModelProto:
        states = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "L", WIDTH])
        index = helper.make_tensor_value_info("tasks", TensorProto.INT64, ["B"])
        told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "written", [states, index], told, self.held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)


def fused(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    program = ir.from_proto(model)
    found = tables.fuse(program.graph)
    common.RemoveUnusedNodesPass()(program)
    return ir.to_proto(program), found


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(1)
    states = draw.normal(size=(5, 2, WIDTH)).astype(np.float32)
    return list(session.run(None, {"x": states, "tasks": draw.integers(0, TASKS, 5)}))


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def same(model: onnx.ModelProto) -> tuple[Counter[str], int]:
    """The kinds of nodes of the fused graph, and how many tables it read, once it has said the same."""
    after, found = fused(model)
    for left, right in zip(answers(model), answers(after), strict=True):
        assert left.shape == right.shape
        np.testing.assert_array_equal(left, right)
    return kinds(after), found


def test_tables_of_one_index_are_read_at_once() -> None:
    graph = Written()
    product = graph.node("Mul", ["x", graph.row()])
    found, count = same(graph.done(graph.node("Mul", [product, graph.row()])))
    assert count == 2
    assert found == Counter(Mul=2, GatherND=1, Unsqueeze=2, Split=1)


def test_a_single_table_is_left_as_it_is() -> None:
    graph = Written()
    model = graph.done(graph.node("Mul", ["x", graph.row()]))
    assert fused(model)[1] == 0
    assert kinds(fused(model)[0]) == kinds(model)


def test_a_number_is_in_the_table_and_a_bias_is_not() -> None:
    graph = Written()
    total = graph.node("Add", [graph.node("Add", ["x", graph.floats(WIDTH)]), graph.row()])
    factor = graph.node("Add", [graph.hold(np.float32(1)), graph.row()])
    found, count = same(graph.done(graph.node("Mul", [total, factor])))
    assert count == 2
    assert found == Counter(Add=2, Mul=1, GatherND=1, Unsqueeze=2, Split=1)


def test_what_is_told_or_read_twice_stays() -> None:
    graph = Written()
    rows = graph.row()
    factor = graph.node("Add", [graph.row(), graph.floats(1)])
    both = graph.node("Mul", [graph.node("Mul", ["x", rows]), graph.node("Neg", [rows])])
    found, count = same(graph.done(both, factor))
    assert count == 2
    assert found["Add"] == 1


@given(
    st.recursive(
        st.sampled_from(["x", "row", "narrow", "bias", "number"]),
        lambda inner: st.tuples(st.sampled_from(["Add", "Mul", "Sub"]), inner, inner),
        max_leaves=9,
    ),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_graph_says_the_same_to_the_bit(tree: object, seed: int) -> None:
    graph = Written(seed)
    leaves = {
        "x": lambda: "x",
        "row": graph.row,
        "narrow": lambda: graph.row(1),
        "bias": lambda: graph.floats(WIDTH),
        "number": lambda: graph.floats(1),
    }

    def written(part: object) -> str:
        if isinstance(part, tuple):
            return graph.node(part[0], [written(each) for each in part[1:]])
        return leaves[str(part)]()

    same(graph.done(graph.node("Add", [graph.node("Mul", [written(tree), graph.row()]), graph.row()])))
