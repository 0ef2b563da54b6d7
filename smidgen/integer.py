"""ONNX graphs in 8 bits: which nodes can be, what they become, and how outliers move from activations into weights.

Measured on a processor with AVX-512 VNNI, ONNX Runtime 1.32: activations as uint8 and weights as int8 in its own
operator `MatMulIntegerToFloat`, bias included, is the fastest form. Of pairs of QuantizeLinear and DequantizeLinear it
makes the same operator, but leaves the bias outside; with int8 activations half of the products stay in float.
"""

from __future__ import annotations

import ast
import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from smidgen.calibration import STEPS, Range

PRODUCTS = ("MatMul", "Gemm")
FLOAT = (*PRODUCTS, "LSTM")
KINDS = (*FLOAT, "Gather")  # all that can be measured in each call; Gather is a table of embeddings
INTEGER = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeLSTM")
CONTRIB = "com.microsoft"
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules that a node comes from
LEAST = 1e-5  # of a channel, to divide by


def products(graph: ModelProto) -> list[NodeProto]:
    """The products x W or x W + b with constant weights."""
    constant = {tensor.name: tensor for tensor in graph.graph.initializer}

    def plain(node: NodeProto) -> bool:
        weights = constant.get(node.input[1])
        if weights is None or len(weights.dims) != 2 or weights.data_type != TensorProto.FLOAT:
            return False
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        as_is = said.get("alpha", 1) == said.get("beta", 1) == 1 and not said.get("transA", 0)
        bias = [constant.get(name) for name in node.input[2:3] if name]
        return as_is and all(tensor is not None and len(tensor.dims) == 1 for tensor in bias)

    return [node for node in graph.graph.node if node.op_type in PRODUCTS and plain(node)]


def sources(graph: ModelProto) -> list[str]:
    """What the products multiply, x, by name."""
    return list(dict.fromkeys(node.input[0] for node in products(graph)))


def trained_ranges(graph: ModelProto, by_name: Mapping[str, Sequence[float]]) -> dict[str, Range]:
    """Of what the products multiply, from ranges by the names of their modules: the widest of those that read it."""
    found: dict[str, Range] = {}
    for node in products(graph):
        if (own := by_name.get(title(node))) is not None:
            low, high = found.get(node.input[0], (0.0, 0.0))
            found[node.input[0]] = min(low, own[0]), max(high, own[1])
    return found


def parts(graph: ModelProto, kinds: Collection[str]) -> dict[str, str]:
    """What can be quantised, of these kinds: names of nodes, and of the modules that they come from."""
    able = {node.name for node in products(graph)}
    floats = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return {
        node.name: title(node)
        for node in graph.graph.node
        if node.op_type in kinds
        and (
            node.name in able
            if node.op_type in PRODUCTS
            else node.input[0 if node.op_type == "Gather" else 1] in floats
        )
    }


def picks(graph: ModelProto) -> list[str]:
    """Names of the Gathers by which the rows of a bundle pick what is their task's: small, and not one embedding.

    Those that have no name are given one.
    """
    numbers, found = {"tasks"}, []
    for i, node in enumerate(graph.graph.node):
        if numbers & set(node.input[1:] if node.op_type == "Gather" else node.input[:1]):
            if node.op_type == "Gather":
                node.name = node.name or f"pick_{i}"
                found.append(node.name)
            if node.op_type in ("Gather", "Cast", "Unsqueeze", "Reshape", "Identity"):
                numbers.update(node.output)
    return found


def title(node: NodeProto) -> str:
    """The module of the model that a node comes from; its own name where the graph does not say."""
    said = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    scopes = [scope for scope in ast.literal_eval(said)[:-1] if scope]
    return scopes[-1] if scopes else node.name


def count(graph: ModelProto, *kinds: str) -> int:
    return sum(node.op_type in kinds for node in graph.graph.node)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the advice that ONNX Runtime's quantiser gives to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def dynamic(
    graph: ModelProto, kinds: Sequence[str], per_channel: bool, reduce_range: bool, kept: Collection[str] = ()
) -> ModelProto:
    """A copy with nodes of these kinds in int8, their activations measured in each call; `kept` names what is not."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = _without_stale_types(graph)
    excluded = [name for each in kept for name in (each, f"{each}_MatMul")]  # which it calls the product of a Gemm
    with tempfile.TemporaryDirectory() as folder, _hushed():
        file = str(Path(folder) / "model.onnx")
        quantize_dynamic(
            made,
            file,
            op_types_to_quantize=list(kinds),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*excluded, *picks(made)],
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return onnx.load(file)


def static(
    graph: ModelProto, ranges: Mapping[str, Range], reduce_range: bool = False, kept: Collection[str] = ()
) -> ModelProto:
    """A copy with its products in int8, their activations cut to `ranges`; `kept` names what is not.

    With x in the range (low, high): q_x = round(x / s_x) + z_x in uint8, s_x = (high - low) / 255. Of column n of W:
    q_w = round(w / s_n) in int8, s_n = max |w| / 127, or / 63 with `reduce_range`.
    """
    made = _copy(graph)
    plain = [node for node in products(made) if node.name not in kept and node.input[0] in ranges]
    biased = _biases(made, plain)
    new = _Constants()
    levels = 63 if reduce_range else 127
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in made.graph.node:
        if node.name in biased.values():
            continue
        if not any(node is one for one in plain):
            nodes.append(node)
            continue
        x, (bias, out) = node.input[0], _bias_of(made, node, biased)
        if x not in done:
            done.add(x)
            scale, zero = affine(ranges[x])
            new.add(f"{x}/scale", np.float32(scale))
            new.add(f"{x}/zero", np.uint8(zero))
            names = [x, f"{x}/scale", f"{x}/zero"]
            nodes.append(helper.make_node("QuantizeLinear", names, [f"{x}/int8"], f"{x}/quantize"))
        scales, weights = symmetric(_weights(made, node), levels)
        new.add(f"{node.name}/weight", weights)
        new.add(f"{node.name}/scale", scales)
        names = [f"{x}/int8", f"{node.name}/weight", f"{x}/scale", f"{node.name}/scale", f"{x}/zero", "", bias]
        nodes.append(helper.make_node("MatMulIntegerToFloat", names, [out], node.name, domain=CONTRIB))
        nodes[-1].metadata_props.extend(node.metadata_props)
    _replace(made, nodes, new)
    if not any(each.domain == CONTRIB for each in made.opset_import):
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return made


def affine(found: Range) -> tuple[float, int]:
    """Scale and zero point of uint8 for a range with 0 in it."""
    low, high = found
    scale = (high - low) / STEPS or 1.0
    return scale, int(np.clip(round(-low / scale), 0, STEPS))


def symmetric(weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales (N,) float32 and weights (K, N) int8, a scale for each column."""
    scales = (np.abs(weights).max(0) / levels).astype(np.float32)
    scales[scales == 0] = 1
    return scales, np.clip(np.round(weights / scales), -levels, levels).astype(np.int8)


# Outliers.


def smoothed(graph: ModelProto, largest: Mapping[str, np.ndarray], alpha: float) -> ModelProto:
    """A copy that says the same, with s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) taken out of channel j of each
    product's input X and put into row j of its weights (Xiao et al. 2022, arXiv:2211.10438).

    The division is in the weights of the normalisation that X comes from, where nothing but products reads it; else it
    is a product of its own.

    largest: max|X_j|, (K,), by tensor.
    """
    made = _copy(graph)
    readers: dict[str, list[NodeProto]] = {}
    for node in products(made):
        if node.input[0] in largest:
            readers.setdefault(node.input[0], []).append(node)
    uses = Counter(name for node in made.graph.node for name in node.input)
    outputs = {value.name for value in made.graph.output}
    nodes, new = [], _Constants()
    for node in made.graph.node:
        nodes.append(node)
        for x in (name for name in node.output if name in readers):
            rows = np.max([np.abs(_weights(made, reader)).max(1) for reader in readers[x]], 0)
            factors = smoothing(largest[x], rows, alpha)
            for reader in readers[x]:
                across = factors if _transposed(reader) else factors[:, None]
                new.add(f"{reader.name}/smooth", (_array(made, reader.input[1]) * across).astype(np.float32))
                reader.input[1] = f"{reader.name}/smooth"
            if node.op_type == "LayerNormalization" and uses[x] == len(readers[x]) and x not in outputs:
                for at in (at for at in (1, 2) if at < len(node.input) and node.input[at]):
                    new.add(f"{node.name}/smooth{at}", (_array(made, node.input[at]) / factors).astype(np.float32))
                    node.input[at] = f"{node.name}/smooth{at}"
            else:
                new.add(f"{x}/factors", (1 / factors).astype(np.float32))
                nodes.append(helper.make_node("Mul", [x, f"{x}/factors"], [f"{x}/smooth"], f"{x}/smoothing"))
                for reader in readers[x]:
                    reader.input[0] = f"{x}/smooth"
    _replace(made, nodes, new)
    return made


def smoothing(largest: np.ndarray, rows: np.ndarray, alpha: float) -> np.ndarray:
    """s (K,) of max|X_j| and max|W_j|, each (K,); 1 where a channel is silent."""
    silent = (largest < LEAST) | (rows < LEAST)
    factors = np.maximum(largest, LEAST).astype(np.float64) ** alpha / np.maximum(rows, LEAST) ** (1 - alpha)
    return np.where(silent, 1.0, factors)


# Parts of a graph.


class _Constants(dict[str, TensorProto]):
    def add(self, name: str, value: np.ndarray | np.generic) -> None:
        self[name] = numpy_helper.from_array(np.asarray(value), name)


def _copy(graph: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(graph)
    return made


def _without_stale_types(graph: ModelProto) -> ModelProto:
    """The quantiser transposes Gemm weights in place, then trips over the shapes noted for them before."""
    made = _copy(graph)
    constant = {tensor.name for tensor in made.graph.initializer}
    kept = [info for info in made.graph.value_info if info.name not in constant]
    del made.graph.value_info[:]
    made.graph.value_info.extend(kept)
    return made


def _array(graph: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in graph.graph.initializer if tensor.name == name))


def _transposed(node: NodeProto) -> bool:
    return any(each.name == "transB" and each.i for each in node.attribute)


def _weights(graph: ModelProto, node: NodeProto) -> np.ndarray:
    """W (K, N) of a product."""
    stored = _array(graph, node.input[1])
    return stored.T if _transposed(node) else stored


def _biases(graph: ModelProto, plain: Sequence[NodeProto]) -> dict[str, str]:
    """The name of the Add behind a MatMul that adds a constant vector to it and to nothing else, by the MatMul's."""
    vectors = {tensor.name: tensor.dims[0] for tensor in graph.graph.initializer if len(tensor.dims) == 1}
    said = {value.name for value in graph.graph.output}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    after = {name: node for node in graph.graph.node if node.op_type == "Add" for name in node.input}
    found = {}
    for node in plain:
        add = after.get(node.output[0])
        if node.op_type == "MatMul" and add is not None and uses[node.output[0]] == 1 and node.output[0] not in said:
            width = _weights(graph, node).shape[1]
            if any(vectors.get(name) == width for name in add.input):
                found[node.name] = add.name
    return found


def _bias_of(graph: ModelProto, node: NodeProto, biased: Mapping[str, str]) -> tuple[str, str]:
    """The names of a product's bias, "" for none, and of what it then gives."""
    if node.name not in biased:
        return (node.input[2] if len(node.input) > 2 else ""), node.output[0]
    add = next(each for each in graph.graph.node if each.name == biased[node.name])
    return next(name for name in add.input if name != node.output[0]), add.output[0]


def _replace(graph: ModelProto, nodes: Sequence[NodeProto], new: _Constants) -> None:
    """Put these nodes into a graph, and the constants that they need; what nothing reads goes."""
    kept = list(nodes)
    read = {name for node in kept for name in reads(node)} | {value.name for value in graph.graph.output}
    constants = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    given = {name for node in kept for name in node.output}
    known = [info for info in graph.graph.value_info if info.name in given]
    for field, values in ((graph.graph.node, kept), (graph.graph.value_info, known)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend([*copies, *new.values()])


def reads(node: NodeProto) -> Iterator[str]:
    """All that a node reads, inside of it too."""
    yield from node.input
    for each in node.attribute:
        for inner in each.g.node:
            yield from reads(inner)
