"""Folders and texts that mean harm: one line each, no file read outside the folder, no memory taken, the same ids."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from folders import write_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from smidgen.artefact import open_artefact, publish, sealed
from smidgen.errors import ArtefactError, InputError, ModelError, SmidgenError
from smidgen.runtime import deployed_files, load, machine, portable, wire
from smidgen.runtime.folder import closed
from smidgen.runtime.pairs import longest_first
from smidgen.runtime.tokenizer import TextEncoder
from smidgen.saturation import note
from smidgen.saving import LEAST, copy_graph, save

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

WORDS, WIDE = 120, 200
EXTERNAL = TensorProto.EXTERNAL


def graph(width: int = WIDE) -> onnx.ModelProto:
    """Ids (B, L) to logits (B, 2): the mean of the words' vectors, and a product."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(WORDS, width)).astype(np.float32)
    weights = {"table": table, "product": draw.normal(size=(width, 2)).astype(np.float32), "axes": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["last"], value=numpy_helper.from_array(np.array([2]))),
        helper.make_node("Unsqueeze", ["real", "last"], ["mask"]),
        helper.make_node("Mul", ["vectors", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "product"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask")
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that predicts, with weights beside its graph."""
    path = tmp_path_factory.mktemp("hostile") / "model"
    path.mkdir()
    write_tokenizer(path)
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "pad_token_id": 1}
    config |= {"id2label": {"0": "bad", "1": "good"}, "vocab_size": WORDS, "max_position_embeddings": 48}
    (path / "config.json").write_text(json.dumps(config))
    save(graph(), path / "onnx" / "model.onnx")
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


# Weights beside the graph.


def test_large_weights_lie_beside_the_graph_on_pages(whole, tmp_path):
    file, data = whole / "onnx/model.onnx", whole / "onnx/model.onnx.data"
    outside = [t for t in onnx.load(file, load_external_data=False).graph.initializer if t.data_location == EXTERNAL]
    assert [tensor.name for tensor in outside] == ["table"] and data.stat().st_size == WORDS * WIDE * 4 >= LEAST
    assert all(int(e.value) % 4096 == 0 for tensor in outside for e in tensor.external_data if e.key == "offset")
    assert data in deployed_files(whole)
    inside = tmp_path / "inside"
    shutil.copytree(whole, inside)
    (inside / "onnx/model.onnx.data").unlink()
    (inside / "onnx/model.onnx").write_bytes(graph().SerializeToString())
    texts = ["the film was good", "a bad book", ""]
    np.testing.assert_array_equal(load(whole, 1).outputs(texts), load(inside, 1).outputs(texts))


def test_a_graph_takes_the_place_of_another_and_leaves_its_readers_alone(tmp_path):
    first, second = tmp_path / "a" / "model.onnx", tmp_path / "b" / "other.onnx"
    save(graph(), first)
    said = (first.with_name("model.onnx.data")).open("rb")
    copy_graph(first, tmp_path / "c" / "model.onnx")
    assert (tmp_path / "c" / "model.onnx.data").is_file()
    save(graph(4), first)
    assert len(said.read()) == WORDS * WIDE * 4, "whoever has mapped the old file keeps it"
    assert not first.with_name("model.onnx.data").exists(), "small weights stay inside"
    save(graph(4), tmp_path / "c" / "model.onnx")
    save(graph(), second)
    assert second.with_name("other.onnx.data").is_file()


# ONNX files.


def test_every_way_to_a_tensor_is_known():
    """Against the format itself: a field of a new version that leads to a tensor must be in INSIDE."""
    found: dict[str, dict[int, str]] = {}
    left = [onnx.ModelProto.DESCRIPTOR]
    while left:
        message = left.pop()
        if message.name not in found:
            inner = [each for each in message.fields if each.message_type]
            found[message.name] = {each.number: each.message_type.name for each in inner}
            left += [each.message_type for each in inner]
    leading = {"TensorProto"}
    while more := {n for n, fields in found.items() if n not in leading and leading & set(fields.values())}:
        leading |= more
    short = {"TrainingInfoProto": "Training", "SparseTensorProto": "Sparse"}
    name = {message: short.get(message, message.removesuffix("Proto")) for message in leading}
    wanted = {
        name[m]: {n: name[kind] for n, kind in found[m].items() if kind in leading} for m in leading - {"TensorProto"}
    }
    assert wanted == wire.INSIDE
    known = set(TensorProto.DataType.values()) - {0, 8}
    assert set(wire.BITS) <= known and known - set(wire.BITS) <= {27, 28}


def test_the_walk_sees_what_onnx_sees(whole):
    made = onnx.load(whole / "onnx/model.onnx", load_external_data=False)
    seen = list(wire.tensors(whole / "onnx/model.onnx"))
    assert sorted(t.dims for t in seen) == sorted([[WORDS, WIDE], [WIDE, 2], [1], [1]])
    assert {t.type for t in seen} == {1, 7}
    (outside,) = (tensor for tensor in seen if tensor.external)
    stored = made.graph.initializer[0].external_data
    assert {e["key"]: e["value"] for e in outside.external} == {e.key: e.value for e in stored}


def elsewhere(place: str, where: str) -> onnx.ModelProto:
    """A graph with a tensor that is kept in `where`, at a place where one may be."""
    made = graph(4)
    tensor = TensorProto(name="hidden", dims=[1], data_type=TensorProto.FLOAT, data_location=EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", where
    constant = helper.make_node("Constant", [], ["hidden"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    inner = helper.make_graph([constant], "inner", [], [])
    if place == "weight":
        made.graph.initializer.append(tensor)
    elif place == "sparse":
        made.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "constant":
        made.graph.node.append(constant)
    elif place == "inner graph":
        made.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))
    elif place == "function":
        made.functions.add(name="f", domain="d").node.append(constant)
    elif place == "default of a function":
        made.functions.add(name="f", domain="d").attribute_proto.add(name="v", type=4).t.CopyFrom(tensor)
    else:
        made.training_info.add().algorithm.CopyFrom(inner)
    return made


PLACES = ("weight", "sparse", "constant", "inner graph", "function", "default of a function", "training")


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found_wherever_they_hide(folder, place):
    (folder / "onnx/model.onnx").write_bytes(elsewhere(place, "../config.json").SerializeToString())
    wanted = r"keeps weights in '\.\./config\.json', wanted none or 'model\.onnx\.data'"
    with pytest.raises(ModelError, match="has functions of its own" if "function" in place else wanted):
        load(folder)


@pytest.mark.parametrize(
    "where",
    ["/etc/passwd", "../../x", "./model.onnx.data", "", "*/_ORT_MEM_ADDR_/*", "model.onnx.data\0", "config.json"],
)
def test_no_other_place_will_do(folder, where):
    (folder / "onnx/model.onnx").write_bytes(elsewhere("weight", where).SerializeToString())
    with pytest.raises(ModelError, match="keeps weights in"):
        load(folder)


def test_the_key_may_come_after_the_value_and_twice(folder):
    """As no writer does; a protobuf reader takes it."""
    made = elsewhere("weight", "X" * 9).SerializeToString()
    entry = b"\x0a\x08location\x12\x09" + b"X" * 9
    key = b"\x0a\x08location"
    for hidden in (b"\x12\x09/shadow__" + key, b"\x12\x02ok" + key + b"\x12\x05/shad"):
        assert len(hidden) == len(entry) and entry in made
        (folder / "onnx/model.onnx").write_bytes(made.replace(entry, hidden))
        with pytest.raises(ModelError, match="keeps weights in '/shad"):
            load(folder)


def spoil(folder: Path, key: str, value: str | None) -> None:
    file = folder / "onnx/model.onnx"
    made = onnx.load(file, load_external_data=False)
    entries = made.graph.initializer[0].external_data
    for entry in list(entries):
        if entry.key == key:
            entries.remove(entry)
    if value is not None:
        entries.add(key=key, value=value)
    file.write_bytes(made.SerializeToString())


BYTES = WORDS * WIDE * 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("offset", "4096", f"a weight lies at 4096 with {BYTES} bytes, in a file of {BYTES}."),
        ("offset", "-4096", f"a weight lies at '-4096' with '{BYTES}' bytes."),
        ("offset", "9" * 30, "a weight lies at '999"),
        ("offset", "0x10", "a weight lies at '0x10'"),
        ("offset", "\u0661", "a weight lies at"),
        ("length", "8", f"a weight of shape [{WORDS}, {WIDE}] has 8 bytes, wanted {BYTES}."),
        ("length", str(2**62), "bytes, wanted"),
    ],
)
def test_places_in_the_file_that_do_not_add_up(folder, key, value, message):
    spoil(folder, key, value)
    with pytest.raises(ModelError) as raised:
        load(folder)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_file_beside_is_cut_missing_a_pipe_or_a_link(folder, tmp_path):
    data = folder / "onnx/model.onnx.data"
    kept = data.read_bytes()
    data.write_bytes(kept[:-1])
    with pytest.raises(ModelError, match=f"in a file of {BYTES - 1}"):
        load(folder)
    data.unlink()
    with pytest.raises(ModelError, match="lies in a file beside the graph that is not there"):
        load(folder)
    os.mkfifo(data)
    with pytest.raises(ModelError, match="lies in a file beside the graph that is not there"):
        load(folder)
    data.unlink()
    (tmp_path / "outside").write_bytes(kept)
    data.symlink_to(tmp_path / "outside")
    with pytest.raises(ModelError, match="a link to a file outside the folder"):
        load(folder)


def test_a_record_that_is_a_link_is_not_read(folder, tmp_path):
    (tmp_path / "outside.json").write_text('{"form": "onnx"}')
    (folder / "smidgen.json").unlink(missing_ok=True)
    (folder / "smidgen.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ModelError, match="a link to a file outside the folder"):
        load(folder)


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [1 << 62, 4], [-5], [7], [1] * 65, [1 << 63]])
@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_that_says_it_is_huge_is_refused_before_memory_is_taken(folder, dims, raw):
    made = graph(4)
    tensor = made.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT)
    tensor.dims.extend(size - (1 << 64) if size >> 63 > 0 else size for size in dims)
    if raw:
        tensor.raw_data = b"1234"
    elif dims == [7]:
        return  # seven numbers that are not there: ONNX Runtime counts typed ones itself
    file = folder / "onnx/model.onnx"
    file.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match=r"a weight|dimensions of a weight") as raised:
        closed(file)
    assert "\n" not in str(raised.value)


def test_what_may_never_end_is_refused(folder):
    made = graph(4)
    made.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=helper.make_graph([], "b", [], [])))
    (folder / "onnx/model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="has a Loop, which may never end"):
        load(folder)


def test_functions_that_may_grow_without_end_are_refused(folder):
    """Each of which calls the next one twice: what is inlined doubles with each."""
    made = graph(4)
    for i in range(12):
        calls = [helper.make_node(f"F{i + 1}", ["x"], ["y"], domain="own")] * 2 if i < 11 else []
        nodes = calls or [helper.make_node("Identity", ["x"], ["y"])]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made.functions.append(helper.make_function("own", f"F{i}", ["x"], ["y"], nodes, opsets))
    (folder / "onnx/model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="has functions of its own, which may grow without end"):
        load(folder)


def test_a_normalizer_that_makes_much_of_little_is_refused(folder):
    file = folder / "tokenizer.json"
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    told = json.loads(file.read_text()) | {"normalizer": {"type": "Sequence", "normalizers": [double] * 30}}
    file.write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"its normalizer makes more than 64 letters of one\. Copy the folder"):
        load(folder)
    told["normalizer"]["normalizers"] = [
        {"type": "Replace", "pattern": {"String": old}, "content": "..."} for old in "\u2026\u22ef\u2025\ufe19\u205d"
    ]
    file.write_text(json.dumps(told))
    assert load(folder).predict("a\u2026"), "what is replaced once grows once"


def test_what_a_link_leads_to_is_not_read_for_a_hint(folder, tmp_path):
    (tmp_path / "secret.json").write_text("root:x:0")
    for name in ("config.json", "onnx/model.onnx"):
        (folder / name).unlink()
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelError) as raised:
        load(folder)
    assert "not JSON" not in str(raised.value)


def test_an_unknown_operator_is_one_line(folder):
    made = graph(4)
    made.graph.node[-1].domain = "evil.ops"
    made.opset_import.append(helper.make_opsetid("evil.ops", 1))
    (folder / "onnx/model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="cannot open it") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # a graph in an attribute in a node
            inner = tag + _varint(len(inner)) + inner
    return b"\x3a" + _varint(len(inner)) + inner


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x08\x07", "there is no graph in it"),
        (b"\x3a\x05\x0a", "cut short"),
        (b"\x3b\x3c", "is no field"),
        (b"\x38\x05", "the number 5 where bytes are wanted"),
        (b"\xff" * 11, "no number at byte 0"),
        (nested(5000), "more than 100 parts inside of each other"),
    ],
)
def test_bytes_that_are_no_graph(tmp_path, content, message):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"cannot open it as an ONNX graph .*{message}"):
        closed(file)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cut_and_flipped_files_are_told_or_answer(whole, tmp_path_factory, data):
    """A file that was spoilt anywhere opens and answers, or is refused in one line."""
    folder = tmp_path_factory.mktemp("flipped") / "model"
    shutil.copytree(whole, folder)
    file = folder / "onnx/model.onnx"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)) if content else ():
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        said = load(folder, 1).predict(["the film was good", "a"])
    except SmidgenError as error:
        assert "\n" not in str(error)
    else:
        assert len(said) == 2 and all(row["label"] in ("bad", "good") for row in said)


def test_a_graph_that_needs_vnni_says_so_where_there_is_none(folder, monkeypatch):
    file = folder / "onnx/model.onnx"
    made = onnx.load(file, load_external_data=False)
    made.metadata_props.add(key=portable.KEY, value="0.969")
    file.write_bytes(made.SerializeToString())
    for has, told in (("avx2 avx512f", True), ("avx2 avx_vnni", False), ("neon", False), ("", False)):
        monkeypatch.setattr(machine, "instructions", lambda has=has: frozenset(has.split()))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(folder, 1)
        assert [str(one.message) for one in caught] == [
            f"{file}: its int8 products need VNNI, which this processor lacks; 3.1% of decisions may be others than "
            "were measured. For such machines quantise with reduce_range: true."
        ] * told


@pytest.mark.parametrize(
    ("levels", "same", "said"), [(127, None, "unknown"), (127, 0.9, "0.9000"), (127, 1, None), (63, None, None)]
)
def test_what_is_known_without_vnni_is_noted_in_the_graph(tmp_path, levels, same, said):
    weights = numpy_helper.from_array(np.full((4, 2), levels, np.int8), "w")
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    made = helper.make_model(helper.make_graph([node], "g", [], [], [weights]))
    note(made, same)
    save(made, tmp_path / "model.onnx")
    assert wire.metadata(tmp_path / "model.onnx") == ({} if said is None else {portable.KEY: said})


# The small files.


CONFIGS = {
    '{"max_position_embeddings": "12"}': "max_position_embeddings is '12', wanted a whole number from 1",
    '{"max_position_embeddings": -1}': "max_position_embeddings is -1",
    '{"max_position_embeddings": 1000000000000}': "max_position_embeddings is 1000000000000",
    '{"pad_token_id": 120, "vocab_size": 120}': "pad_token_id is 120, wanted a whole number from 0 to 119",
    '{"pad_token_id": NaN}': "pad_token_id is nan",
    '{"pad_token_id": [0]}': "pad_token_id is [0]",
    '{"num_labels": 1000000000000}': "num_labels is 1000000000000, wanted a whole number from 0 to 100000",
    '{"num_labels": 1}': "predicts a number",
    '{"id2label": []}': None,
    '{"id2label": ["a", "b"]}': "id2label is ['a', 'b'], wanted labels by number",
    '{"id2label": {"0": null, "1": "b"}}': "id2label is {'0': None, '1': 'b'}",
    '{"id2label": {"x": "a", "1": "b"}}': "id2label is",
    '{"id2label": {"0": "a", "1": "a"}}': "config.json: labels must be different and not empty, got ['a', 'a']",
    '{"id2label": {"0": "a", "7": "b"}}': "config.json: id2label of the config has ids [0, 7]",
    '{"architectures": {"a": 1}}': "architectures is {'a': 1}, wanted a list of names",
    '{"model_type": 5}': "model_type is 5, wanted a name",
    "[" * 100_000: "not JSON (maximum recursion depth",
    '{"pad_token_id": ' + "9" * 5000 + "}": "not JSON (Exceeds the limit",
    "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"): "not JSON",
}


@pytest.mark.parametrize(("content", "message"), CONFIGS.items(), ids=range(len(CONFIGS)))
def test_configs_are_told_in_one_line(folder, content, message):
    (folder / "config.json").write_text(content)
    _one_line(folder, message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_max_length", "12", "model_max_length is '12', wanted a number of tokens"),
        ("model_max_length", -3, "model_max_length is -3"),
        ("model_max_length", True, "model_max_length is True"),
        ("model_max_length", 2, "takes 2 tokens, of which 2 mark where a text begins and ends"),
        ("model_max_length", 10**30, None),
        ("truncation_side", "up", "truncation_side is 'up', wanted left or right"),
    ],
)
def test_settings_of_a_tokenizer_are_told_in_one_line(folder, name, value, message):
    (folder / "tokenizer_config.json").write_text(json.dumps({name: value}))
    _one_line(folder, message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("model", {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "max_input_chars_per_word": 9}),
        ("added_tokens", [{"id": -1}]),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[NO]", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            },
        ),
    ],
)
def test_tokenizers_that_give_up_are_told_in_one_line(folder, name, value):
    told = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**told, name: value}))
    _one_line(folder, "tokenizer.json: ")


def _one_line(folder: Path, message: str | None) -> None:
    if message is None:
        assert len(load(folder, 1).predict(["a film", ""])) == 2
        return
    with pytest.raises(ModelError) as raised:
        load(folder, 1)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link"])
def test_a_record_names_no_file_outside(tmp_path, name):
    (tmp_path / "secret").write_text("x")
    with publish(tmp_path / "made", {"id": "0", "form": "bundle"}) as draft:
        (draft / "link").write_text("x")
    record = json.loads((tmp_path / "made/smidgen.json").read_text())
    record["files"][name] = record["files"].get("link")
    if name == "link":
        (tmp_path / "made/link").unlink()
        (tmp_path / "made/link").symlink_to(tmp_path / "secret")
    (tmp_path / "made/smidgen.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"smidgen\.json is missing or changed"):
        open_artefact(tmp_path / "made", deep=True)


@pytest.mark.parametrize(
    "tasks", [None, [], {"a": 5}, {"a": {"graph": "../../x.onnx"}}, {"a": {"graph": "own-/../../../x.onnx"}}]
)
def test_a_bundle_names_no_graph_outside(folder, tasks):
    (folder / "smidgen.json").write_text(json.dumps({"form": "bundle", "tasks": tasks, "files": {}}))
    _one_line(folder, "smidgen.json: its tasks cannot be read. Make the bundle again.")


@pytest.mark.parametrize("told", [{}, {"task": {"name": "x"}}, {"task": {"name": "classify", "labels": 5}}])
def test_a_bundle_with_a_task_that_is_none(folder, told):
    record = sealed({"form": "bundle", "tasks": {"a": told}, "files": {}})
    (folder / "smidgen.json").write_text(json.dumps(record))
    _one_line(folder, "the record of a cannot be read")


# Texts.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict([b"a"]), "text 0: got bytes"),
        (lambda m: m.predict(None), "got NoneType"),
        (lambda m: m.predict(["a"], []), "pairs: wanted a list with one second text for each text"),
        (lambda m: m.predict(["a", "b"], ["c"]), "pairs: wanted a list"),
        (lambda m: m.predict(["a"], [None]), "pair 0: got NoneType, wanted two strings"),
        (lambda m: m.predict(["a"], ["\udfff"]), "text 0: holds U+DFFF, half of a character"),
        (lambda m: m.predict(["a" * 9999], ["\udfff" + "b " * 9999]), "text 0: holds U+DFFF, half of a character"),
    ],
)
def test_what_is_no_text_is_told(whole, call, message):
    with pytest.raises(InputError) as raised:
        call(load(whole, 1))
    assert message in str(raised.value)


def test_nothing_gives_nothing(whole):
    model = load(whole, 1)
    assert model.predict([]) == [] and model.predict([], []) == []
    assert len(model.predict(["", " ", "\x00", "\r\n"])) == 4


KINDS = [
    "a film ",
    "a",
    "日本語",
    "日",
    "😀",
    "e\u0301",
    "\u0301",
    "\x00",
    "a\r\n",
    "\x1c",
    "שלום ",
    "!",
    " ",
    "[MASK]",
    "Σ\u3000",
]


@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
def test_long_texts_of_one_kind_have_the_same_ids(whole, kind):
    encoder = TextEncoder(whole)
    for text in (kind * (20_000 // len(kind)), "film" + kind * (20_000 // len(kind)) + " film"):
        assert encoder.ids([text])[0][0] == encoder.tokenizer.encode(text).ids


def test_chinese_is_cut_before_it_is_tokenised(whole):
    encoder = TextEncoder(whole)
    assert len(encoder._cut("日本語" * 100_000)) <= encoder.window + 2
    told = json.loads((whole / "tokenizer.json").read_text())
    assert told["normalizer"]["handle_chinese_chars"], "which the cut rests on"


def test_a_million_characters(whole):
    model = load(whole, 1)
    found = model.predict(["a film " * 150_000, "日" * 10**6, "x" * 10**6])
    assert len(found) == 3
    assert len(model.predict(["a film " * 20_000], ["good book " * 20_000])) == 1, "quadratic in the library: 45 GB"


def test_pairs_are_cut_as_the_library_cuts_them(whole, tmp_path):
    words = ["the", "film", "naïve", "xyzzy", "日本", "e\u0301t", "[MASK]", "\n", "don't", "!?"]
    draw = random.Random(0)
    for side in ("right", "left"):
        folder = Path(shutil.copytree(whole, tmp_path / side))
        (folder / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))
        for limit in (4, 7, 8, 13):
            encoder = TextEncoder(folder, limit)
            for _ in range(60):
                first, second = (
                    " ".join(draw.choices(words, k=draw.choice([0, 1, limit // 2, 3 * limit]))) for _ in range(2)
                )
                wanted, found = encoder.tokenizer.encode(first, second), encoder.pairs(first, second, encoder._cut)
                assert (found.ids, found.type_ids) == (wanted.ids, wanted.type_ids)


def test_longest_first_keeps_what_fits():
    assert longest_first(3, 4, 9) == (3, 4)
    assert longest_first(3, 40, 9) == (3, 6) and longest_first(40, 3, 9) == (6, 3)
    assert longest_first(40, 41, 9) == (4, 5) and longest_first(41, 40, 9) == (5, 4)
    assert longest_first(40, 40, 8) == (4, 4) and longest_first(5, 0, 0) == (0, 0)


def test_ids_of_real_and_hostile_strings(whole):
    """The quick part of `benchmarks/strings.py`."""
    from strings import hostile, same_ids

    made = hostile(random.Random(0), ["The film was quite good, and so very rich.", "日本の映画 is fun!"])
    found = same_ids(whole, [next(made) for _ in range(2000)], 0, (8, 24, 48))
    assert found["different"] == 0, found["first"]
    assert found["pairs"] > 400 and found["word by word"] > 50 and found["limits"] == [8, 24, 48]
