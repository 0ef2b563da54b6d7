"""Engines: one interface over ONNX Runtime and OpenVINO, how a folder is run, and the search for the fastest way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from folders import LABELS, sentences, write_tokenizer
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny

from smidgen.errors import InputError, MissingExtra, ModelError, SmidgenError
from smidgen.integer import dynamic, sources, static
from smidgen.measure import child, trial, ways
from smidgen.measure.number import Number
from smidgen.method import Context
from smidgen.methods.export.onnx import Onnx
from smidgen.methods.quant.half import halved
from smidgen.runtime import Model, deployed_files, engines, load, machine, serving
from smidgen.runtime.batches import batches, shares
from smidgen.runtime.engines import Way
from smidgen.runtime.products import multiplications
from smidgen.runtime.serving import Serving, by_rule, kept, write
from smidgen.tasks import Classify

WIDTH, VOCAB = 32, 90
TEXTS = [text for text, _ in sentences(40, seed=3)]
needs_openvino = pytest.mark.skipif(not engines.installed("openvino"), reason="openvino is not installed")
BOTH = ["onnxruntime", pytest.param("openvino", marks=needs_openvino)]


def graph() -> onnx.ModelProto:
    """Vectors of tokens, a layer, the mean over real tokens, and a head: small, and with all that int8 changes."""
    draw = np.random.default_rng(0)
    shapes = {"table": (VOCAB, WIDTH), "inner": (WIDTH, WIDTH), "outer": (WIDTH, len(LABELS)), "bias": (WIDTH,)}
    constants = [numpy_helper.from_array(draw.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    constants += [numpy_helper.from_array(np.array(value), n) for n, value in (("one", [1]), ("two", [2]))]

    def make(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)

    nodes = [
        make("Gather", ["table", "input_ids"], ["x"]),
        make("MatMul", ["x", "inner"], ["product"]),
        make("Add", ["product", "bias"], ["moved"]),
        make("Tanh", ["moved"], ["bent"]),
        make("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["mask", "two"], ["column"]),
        make("Mul", ["bent", "column"], ["real"]),
        make("ReduceSum", ["real", "one"], ["sum"], keepdims=0),
        make("ReduceSum", ["column", "one"], ["count"], keepdims=0),
        make("Div", ["sum", "count"], ["mean"]),
        make("MatMul", ["mean", "outer"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    built = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def in_form(form: str) -> onnx.ModelProto:
    whole = graph()
    if form == "dynamic":
        return dynamic(whole, ["MatMul", "Gather"], True, False, ())
    if form == "half":
        return halved(whole, "float16")[0]
    if form == "static":
        ranges = {x: (-3.0, 3.5) for x in sources(whole)}
        return dynamic(static(whole, ranges, False, ()), ["Gather"], True, False, ())
    return whole


def deployed(path: Path, form: str = "float32") -> Path:
    (path / "onnx").mkdir(parents=True)
    onnx.save(in_form(form), path / "onnx" / "model.onnx")
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "id2label": dict(enumerate(LABELS)),
        "max_position_embeddings": 48,
        "pad_token_id": 1,
    }
    (path / "config.json").write_text(json.dumps(config))
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return deployed(tmp_path_factory.mktemp("served") / "float32")


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder to write into."""
    return deployed(tmp_path / "own")


@pytest.fixture
def four(monkeypatch) -> None:
    """A machine of four processors."""
    monkeypatch.setattr(serving, "usable_cores", lambda: 4)


# ---- engines


@needs_openvino
@pytest.mark.parametrize("form", ["float32", "dynamic", "static"])
def test_both_engines_say_the_same_of_the_same_file(tmp_path, form):
    place = deployed(tmp_path / form, form)
    found = {name: load(place, threads=1, engine=name).outputs(TEXTS) for name in engines.names()}
    assert np.ptp(found["onnxruntime"]) > 0.5, "else nothing is compared"
    if form == "dynamic":  # activations share a scale in groups there and in whole batches here
        np.testing.assert_allclose(found["openvino"], found["onnxruntime"], atol=0.05)
    else:
        np.testing.assert_allclose(found["openvino"], found["onnxruntime"], atol=1e-4)


@needs_openvino
@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_products_in_int8_are_read_in_forms_that_openvino_has_kernels_for(tmp_path, form):
    from smidgen.runtime.engines.openvino import _core

    model = _core().read_model(str(deployed(tmp_path / form, form) / "onnx/model.onnx"))
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert ("FakeQuantize" in kinds) == (form == "static")
    weights = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    assert len(weights) == 2
    for product in weights:
        factor = product.input_value(1).get_node()
        assert factor.get_type_name() == "Multiply"
        assert "int8" in str(_root(factor).get_element_type())


def _root(node: Any) -> Any:
    """The constant that a chain of first inputs begins with."""
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


@pytest.mark.parametrize("engine", BOTH)
def test_every_engine_is_safe_to_call_from_several_threads(folder, engine):
    from concurrent.futures import ThreadPoolExecutor

    model = load(folder, threads=1, engine=engine)
    wanted = [model.outputs([text]) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: model.outputs([text]), TEXTS * 5))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted * 5), atol=1e-6)


@pytest.mark.parametrize("engine", BOTH)
def test_a_graph_that_an_engine_does_not_know_is_told_in_one_line(own, engine):
    graph = onnx.load(own / "onnx/model.onnx")
    graph.graph.node[0].op_type = "Nothing"
    onnx.save(graph, own / "onnx/model.onnx")
    with pytest.raises(ModelError) as raised:
        load(own, engine=engine)
    title = engines.find(engine).TITLE
    assert f"model.onnx: {title} " in str(raised.value) and "cannot open it (" in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_openvino
def test_convolutions_in_int8_are_refused_by_openvino(own):
    whole = onnx.load(own / "onnx/model.onnx")
    shape = [numpy_helper.from_array(np.ones((1, 1, 1), np.uint8), "kernel")]
    whole.graph.initializer.extend(shape)
    make = helper.make_node
    whole.graph.node.extend(
        [
            make("Unsqueeze", ["logits", "one"], ["deep"]),
            make("DynamicQuantizeLinear", ["deep"], ["q", "scale", "zero"]),
            make("ConvInteger", ["q", "kernel", "zero"], ["conv"]),
        ]
    )
    whole.graph.output.extend([helper.make_tensor_value_info("conv", TensorProto.INT32, None)])
    onnx.save(whole, own / "onnx/model.onnx")
    with pytest.raises(ModelError, match=r"OpenVINO .* cannot open it .*Take the engine onnxruntime"):
        load(own, engine="openvino")


def test_an_unknown_engine_lists_the_known_ones(folder):
    with pytest.raises(InputError) as raised:
        load(folder, engine="openvin")
    assert str(raised.value) == (
        "engine: there is no 'openvin'. Did you mean 'openvino'? Use one of onnxruntime, openvino."
    )


def test_a_precision_that_an_engine_lacks_is_refused(folder):
    with pytest.raises(InputError, match="got 'bfloat16', wanted float32 with the engine onnxruntime"):
        load(folder, precision="bfloat16")
    with pytest.raises(InputError, match="got 'float16', wanted float32 or bfloat16 with the engine openvino"):
        load(folder, engine="openvino", precision="float16")


def test_a_precision_that_would_be_emulated_is_refused(folder, monkeypatch):
    monkeypatch.setattr(machine, "instructions", lambda: frozenset({"avx2", "avx512f", "avx512_vnni"}))
    with pytest.raises(InputError) as raised:
        load(folder, engine="openvino", precision="bfloat16")
    assert str(raised.value) == (
        "precision bfloat16: this processor has none of amx_bf16, avx512_bf16, bf16, and would only emulate it, many "
        "times as slow. Use float32."
    )
    assert {way.precision for way in ways.ways(2)} == {"float32"}, "nor is it tried"


def test_an_engine_that_is_not_installed_names_the_extra(folder, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda engine: engine != "openvino")
    with pytest.raises(MissingExtra, match=r"engine openvino: it is not installed\. Type: pip install 'smidgen\[openv"):
        load(folder, engine="openvino")


# ---- threads and batches


@pytest.mark.parametrize("form", ["float32", "dynamic", "static", "half"])
def test_multiplications_are_counted_from_the_file(tmp_path, form):
    file = deployed(tmp_path / form, form) / "onnx/model.onnx"
    assert multiplications(file) == WIDTH * WIDTH + WIDTH * len(LABELS)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x3a\xff\xff\xff\xff\x0f", bytes(range(256))])
def test_what_is_no_graph_counts_nothing(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert multiplications(tmp_path / "file") == 0


@pytest.mark.parametrize(("count", "threads", "calls"), [(0, 1, 4), (900_000, 1, 4), (1_700_000, 3, 1), (10**7, 4, 1)])
def test_small_graphs_run_on_one_thread_and_batches_beside_each_other(folder, four, monkeypatch, count, threads, calls):
    monkeypatch.setattr(serving, "multiplications", lambda graph: count)
    found = by_rule(folder / "onnx/model.onnx")
    assert found.latency == Way(threads=threads)
    assert found.throughput == Way(threads=threads, calls=calls)


def test_threads_that_are_given_are_those_of_everything(folder, four):
    found = load(folder, threads=2).serving
    assert found.latency == found.throughput == Way(threads=2)


@pytest.mark.parametrize("calls", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 7, 32, 500])
def test_few_rows_are_shared_over_the_calls_and_many_keep_to_the_budget(calls, rows):
    lengths = np.random.default_rng(rows).integers(3, 40, rows)
    cut = shares(lengths, 256, calls)
    assert sorted(np.concatenate(cut)) == list(range(rows))
    assert all(len(one) * lengths[one].max() <= 256 for one in cut)
    fewest = len(list(batches(lengths, 256)))
    assert len(cut) <= max(fewest, min(calls, rows))
    if calls == 1:
        assert len(cut) == fewest


def test_batches_at_once_say_what_batches_in_turn_say(folder):
    alone = load(folder, threads=1)
    beside = Model(folder, told=Serving(Way(), Way(calls=3), 64))
    np.testing.assert_allclose(beside.outputs(TEXTS), alone.outputs(TEXTS), atol=1e-5)
    assert beside._batched is beside.session, "one session for both, where threads are the same"
    other = Model(folder, told=Serving(Way(), Way(threads=2), 64))
    np.testing.assert_allclose(other.outputs(TEXTS), alone.outputs(TEXTS), atol=1e-5)
    assert other._batched is not other.session
    with pytest.raises(ModelError, match="ONNX Runtime could not run the graph"):
        beside._run(beside.session, {})


# ---- serve.json


def test_what_was_found_is_deployed_and_holds_on_such_a_machine(own, four, monkeypatch):
    told = Serving(Way(), Way(calls=4), 512)
    write(own, told)
    assert own / "serve.json" in deployed_files(own)
    assert kept(own) == told == load(own).serving
    assert load(own, threads=2).serving == Serving(Way(threads=2), Way(threads=2), 512)
    monkeypatch.setattr(serving, "cpu", lambda: "another")
    assert kept(own) is None
    assert load(own).serving.batch_tokens == 1024


def test_an_engine_that_is_not_there_leaves_the_rule(own, four, monkeypatch):
    write(own, Serving(Way("openvino"), Way("openvino", calls=4), 512))
    monkeypatch.setattr(serving, "installed", lambda engine: engine != "openvino")
    assert kept(own) is None
    assert load(own).serving.latency.engine == "onnxruntime"


@needs_openvino
def test_an_engine_that_is_asked_for_is_taken_from_the_file_or_by_rule(own, four):
    write(own, Serving(Way("openvino"), Way("openvino", calls=4), 512))
    assert load(own, engine="openvino").serving.batch_tokens == 512
    assert load(own, engine="onnxruntime").serving == by_rule(own / "onnx/model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": {"engine": "x", "precision": "float32", "threads": 1, "calls": 1}}, "latency.engine: there is no"),
        ({"latency": {"threads": 1}}, r"latency: got \{'threads': 1\}, wanted engine, precision, threads, calls\."),
        ({"throughput": Way(threads=0).to_data()}, r"throughput.threads: got 0, wanted a whole number of 1 or more\."),
        ({"throughput": Way(threads=9).to_data()}, "got 9 threads in 1 calls at once, more than its 4 cores"),
        ({"latency": Way(precision="int4").to_data()}, "latency.precision: got 'int4', wanted float32"),
        ({"batch_tokens": True}, "batch_tokens: got True, wanted a whole number from 1 to 1,000,000"),
        ({"machine": {"cores": 4}}, "machine: got {'cores': 4}, wanted cpu, features and a number of cores"),
        ({"schema": 2}, "schema: got 2, wanted 1"),
        ({"more": 1}, "has batch_tokens, latency, machine, more, schema, throughput, wanted batch_tokens"),
    ],
)
def test_a_file_that_is_not_valid_is_told(own, four, change, message):
    file = write(own, Serving(Way(), Way(calls=4)))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message) as raised:
        load(own)
    assert str(raised.value).endswith(f"Delete the file; smidgen bench {own} --tune then finds it anew.")


# ---- the fastest way


def told(way: dict[str, Any], ms: float, speed: float, decided: Any = None) -> dict[str, Any]:
    return {"ms": [ms] * 3, "texts_per_s": {512: speed, 1024: 2 * speed}, "decided": decided or ["a"] * 200}


def test_the_fastest_is_chosen_and_what_fails_is_told(folder, monkeypatch):
    monkeypatch.setattr(ways, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "instructions", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(ways, "installed", lambda engine: True)
    jobs = []

    def run(job):
        way = job["way"]
        jobs.append((way["engine"], way["precision"], way["threads"], way["calls"]))
        if way["engine"] == "onnxruntime":
            return told(way, ms=2.0 / way["threads"], speed=100)
        if way["precision"] == "float32":
            raise ModelError("its process crashed (signal 11)")
        if way["threads"] == 1:
            return told(way, ms=0.1, speed=999, decided=["a"] * 198 + ["b"] * 2)
        return told(way, ms=0.98, speed=150)

    found = ways.trials(folder, [("a text", None)], run=run)
    assert jobs[:6] == [
        *(("onnxruntime", "float32", threads, 2 // threads) for threads in (1, 2)),
        *(
            ("openvino", precision, threads, 2 // threads)
            for precision in ("float32", "bfloat16")
            for threads in (1, 2)
        ),
    ]
    assert len(jobs) == 3 * 4 + 2, "what failed is not tried again"
    crashed = {(one.way.precision, one.way.threads): one.reason for one in found if one.reason}
    assert crashed == {("float32", threads): "its process crashed (signal 11)" for threads in (1, 2)}
    assert [one.same for one in found if not one.reason] == [1, 1, 0.99, 1]
    assert ways.fastest(found).latency == Way("openvino", "bfloat16")
    assert ways.fastest(found[:-2]).latency == Way(threads=2)
    slow = [*found[:-2], found[-1]]
    assert ways.fastest(slow).latency == Way(threads=2), "2 % is no gain"
    assert ways.fastest(slow).throughput == Way("openvino", "bfloat16", 2) and ways.fastest(slow).batch_tokens == 1024


@pytest.mark.parametrize(("ms", "single", "together"), [(2, 60, 128), (63, 60, 128), (440, 8, 18), (1100, 4, 7)])
def test_fewer_texts_are_timed_where_one_takes_long(folder, ms, single, together):
    """MPNet at 512 tokens takes 440 to 1,100 ms."""
    jobs = []

    def run(job):
        jobs.append(job)
        return told(job["way"], ms=ms, speed=1)

    found = ways.paced(folder, [(text, None) for text in TEXTS], run)
    assert (found.single, found.together) == (single, together)
    assert found.calls * ms / 1e3 <= ways.TIMEOUT / 3
    assert len(jobs) == 1 and len(jobs[0]["rows"]) == jobs[0]["single"] == 4 and not jobs[0]["budgets"]


def test_few_texts_are_timed_in_every_way_alike(folder):
    rows, asked = [(text, None) for text in TEXTS], []

    def run(job):
        asked.append((job["single"], len(job["rows"])))
        return told(job["way"], ms=1100, speed=1)

    ways.trials(folder, rows, run=run, tried=[Way(), Way(threads=2)], effort=ways.paced(folder, rows, run))
    assert asked == [(4, 4), *[(4, 7)] * 6]


def test_what_would_be_chosen_is_judged(folder):
    wrong, asked = {("openvino", "bfloat16"): "it is wrong"}, []

    def judge(way):
        asked.append((way.engine, way.precision))
        return wrong.get(asked[-1], "")

    def timed(engine, precision, ms):
        return ways.Trial(Way(engine, precision), ms, {512: 1 / ms}, 1.0)

    found = [timed("onnxruntime", "float32", 3), timed("openvino", "float32", 2), timed("openvino", "bfloat16", 1)]
    left, best = ways.chosen(found, judge)
    assert [one.reason for one in left] == ["", "", "it is wrong"]
    assert best.latency == best.throughput == Way("openvino")
    assert asked == [("openvino", "bfloat16"), ("openvino", "float32")], "each kind once"
    wrong["openvino", "float32"] = "too"
    assert ways.chosen(found, judge)[1].latency == Way()


def test_other_answers_are_wrong_only_where_labels_say_so():
    task, gold = Classify(LABELS), np.arange(1000) % 2
    exact = np.eye(2, dtype=np.float32)[gold]

    def flipped(*rows):
        found = exact.copy()
        found[list(rows)] = found[list(rows), ::-1]
        return found

    few, many = flipped(*range(4)), flipped(*range(20))
    assert ways.amiss(task, exact, few) == ""
    assert ways.amiss(task, exact, many) == (
        "2.0% of its answers are others than those of onnxruntime; with labels in --data it may be seen whether they "
        "are worse"
    )
    assert ways.amiss(task, exact, many, gold) == (
        "2.0% of its answers are others than those of onnxruntime, and it costs 2.0 points of accuracy"
    )
    assert ways.amiss(task, many, exact, gold) == "", "more of them are right"
    assert ways.amiss(task, flipped(*range(10)), flipped(*range(10, 20)), gold) == "", "as many are right"


def test_where_onnx_runtime_fails_nothing_is_chosen(folder):
    def run(job):
        raise ModelError("took longer than 1 s and was stopped")

    with pytest.raises(ModelError, match=r"onnxruntime did not run it \(took longer than 1 s"):
        ways.trials(folder, [("a text", None)], run=run)
    with pytest.raises(ModelError, match=r"onnxruntime did not run it \(took longer than 1 s and was stopped\)\.$"):
        ways.paced(folder, [("a text", None)], run=run)


def test_a_process_that_crashes_or_hangs_is_one_line(folder, monkeypatch):
    job = {"folder": str(folder), "way": Way().to_data(), "budgets": [512], "rows": [["a film", None]], "single": 1}
    monkeypatch.setattr(child.sys, "executable", "/bin/sh")
    monkeypatch.setattr(ways, "MODULE", ["-c", "kill -SEGV $$"])
    with pytest.raises(ModelError, match=r"its process crashed \(signal 11\)"):
        ways.alone(job)
    monkeypatch.setattr(ways, "MODULE", ["-c", "exec sleep 5"])
    with pytest.raises(ModelError, match=r"took longer than 0\.2 s and was stopped"):
        ways.alone(job, timeout=0.2)
    monkeypatch.setattr(ways, "MODULE", ["-c", "echo one >&2; echo two >&2; exit 1"])
    with pytest.raises(ModelError, match=r"^two$"):
        ways.alone(job)


def test_a_fresh_process_times_a_folder_and_decides_as_it_does(folder):
    rows = [(text, None) for text in TEXTS[:8]]
    job = {"folder": str(folder), "way": Way().to_data(), "budgets": [64, 512], "rows": rows, "single": 3}
    found = ways.alone(job)
    assert len(found["ms"]) == 3 and set(found["texts_per_s"]) == {"64", "512"}
    assert found["decided"] == [{"label": answer["label"]} for answer in load(folder).predict(TEXTS[:8])]
    assert ways.paced(folder, rows) == ways.THOROUGH
    with pytest.raises(ModelError, match="engine: there is no 'x'"):
        ways.alone(job | {"way": Way("x").to_data()})


def test_a_trial_is_kept_to_its_processors(monkeypatch):
    kept_to = []
    monkeypatch.setattr(trial.os, "sched_getaffinity", lambda pid: {5, 2, 7, 9}, raising=False)
    monkeypatch.setattr(trial.os, "sched_setaffinity", lambda pid, cores: kept_to.append(cores), raising=False)
    trial.pin(2)
    assert kept_to == [[2, 5]]


def test_scores_do_not_count_in_answers():
    said = [{"label": "a", "score": 0.5}, {"t": [{"word": "x", "score": 1.0}]}]
    assert trial.bare(said) == [{"label": "a"}, {"t": [{"word": "x"}]}]


def test_bench_finds_the_fastest_and_says_how_folders_are_run(own, monkeypatch):
    from smidgen import benching
    from smidgen.data import Columns
    from smidgen.watch import Silent

    monkeypatch.setattr(ways, "usable_cores", lambda: 1)
    timed = {"onnxruntime": 2.0, "openvino": 1.0}
    monkeypatch.setattr(ways, "alone", lambda job: told(job["way"], timed[job["way"]["engine"]], 100))
    monkeypatch.setattr(benching, "memory", lambda *args, **more: Number("memory_mb", 1.0, "MB", 1))

    def bench(**more):
        return benching.bench([own], None, Columns(), [], 20, None, Silent(), **more)

    found = bench(tune=True)
    engine = "openvino" if engines.installed("openvino") else "onnxruntime"
    assert kept(own).latency.engine == engine
    assert f"; {engine}, 1 thread; batches of 1,024 tokens, 1 at once: {engine}, 1 thread" in found["conditions"]
    assert {trial["engine"] for trial in found["trials"][str(own)]} == {"onnxruntime", engine}
    assert found["entries"][0]["serving"]["batch_tokens"] == 1024
    assert "trials" not in (other := bench(engine="onnxruntime"))
    assert other["entries"][0]["serving"]["latency"] == Way().to_data()
    with pytest.raises(InputError, match="Leave --threads, --engine and --precision out"):
        bench(tune=True, engine="openvino")


@pytest.mark.parametrize("way", ["directory", "read-only"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_timed(own, monkeypatch, way):
    from smidgen import benching
    from smidgen.data import Columns
    from smidgen.watch import Silent

    if way == "directory":
        (own / serving.FILE).mkdir()
    else:  # root may write anywhere
        monkeypatch.setattr(serving.os, "access", lambda path, mode: path != own or mode != serving.os.W_OK)
    monkeypatch.setattr(benching, "paced", None)
    with pytest.raises(ModelError) as raised:
        benching.bench([own], None, Columns(), [], 20, None, Silent(), tune=True)
    assert str(raised.value) == (
        f"{own / serving.FILE}: cannot be written, and what is found would be lost. Copy the folder to where you may "
        "write, or make it writable: chmod u+w."
    )


def test_what_was_found_is_told_where_it_cannot_be_written(own):
    (own / serving.FILE).mkdir()
    with pytest.raises(ModelError) as raised:
        write(own, Serving(Way(), Way(threads=2)))
    assert str(raised.value) == (
        f"{own / serving.FILE}: cannot be written (Is a directory). What was found: onnxruntime, 1 thread; batches of "
        "1,024 tokens, 1 at once: onnxruntime, 2 threads. Make room for it, then type the command again."
    )


def test_a_way_that_fails_on_the_whole_of_the_data_is_left_out(folder, monkeypatch):
    from smidgen import benching

    class Failing(Model):
        def outputs(self, texts, pairs=None):
            raise ModelError(f"{self.serving.latency.engine} ran out of memory.")

    faster, rows = Way("openvino"), [(text, None) for text in TEXTS[:8]]
    monkeypatch.setattr(benching, "Model", Failing)
    found, best = benching.fastest_way(
        *(folder, rows, None, lambda done, of: None),
        run=lambda job: told(job["way"], ms=1.0 if job["way"]["engine"] == faster.engine else 2.0, speed=1),
        tried=[Way(), faster],
    )
    assert [one.reason for one in found] == ["", "openvino ran out of memory"] and best.latency == Way()


# ---- the page


PAGES = Path(__file__).parents[1]
SCRIPT = (PAGES / "docs" / "runtime.md").read_text(encoding="utf-8").split("```python\n# serve.py")[1].split("```")[0]


def served(folder: Path, texts: list[str], place: Path) -> list[list[str]]:
    """What the script of docs/runtime.md, as it stands there, prints in a process that cannot import smidgen."""
    (place / "serve.py").write_text("# serve.py" + SCRIPT)
    command = [sys.executable, "-I", str(place / "serve.py"), str(folder), *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_the_script_without_smidgen_says_the_same(problem, own, tmp_path):
    file = own / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"problem_type": problem}))
    assert "smidgen" not in "".join(line for line in SCRIPT.splitlines() if "import" in line)
    texts = ["a good film", "a very very dull and awful play"]
    found, wanted = served(own, texts, tmp_path), load(own).predict(texts)
    assert [label for label, _, _ in found] == [answer["label"] for answer in wanted]
    for (_, score, text), answer, given in zip(found, wanted, texts, strict=True):
        assert float(score) == pytest.approx(answer["score"], abs=1e-4) and text == given


@pytest.mark.parametrize("length", [16, 700, None])
def test_the_script_cuts_where_smidgen_does_and_knows_labels_without_names(own, tmp_path, length):
    """A student has no places; transformers leaves LABEL_0 and LABEL_1 out of a config."""
    for name, more in (("config.json", {"id2label": None}), ("tokenizer_config.json", {"model_max_length": length})):
        told = json.loads((own / name).read_text()) | {"max_position_embeddings": None} | more
        (own / name).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    text = " ".join(4 * TEXTS)
    assert len(text.split()) > 700
    ((label, score, _),), (wanted,) = served(own, [text], tmp_path), load(own).predict([text])
    assert label == wanted["label"] and label.startswith("LABEL_")
    assert float(score) == pytest.approx(wanted["score"], abs=1e-4) and wanted["score"] < 0.99


def test_the_pages_count_the_lines_of_the_script():
    count = sum(bool(line.strip()) for line in SCRIPT.splitlines()[1:])  # below the one that says how it is called
    for page in ("README.md", "docs/runtime.md"):
        assert f" in {count} lines" in (PAGES / page).read_text(encoding="utf-8")


def test_a_graph_whose_logits_are_no_numbers_is_not_left(tmp_path):
    """inf less inf is no difference of 0."""
    model = tiny("bert", labels=2)
    model.classifier.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(SmidgenError, match=r"export\.onnx: graph and model differ by nan in a logit"):
        Onnx().run(Context(tmp_path, tmp_path, Classify(LABELS), (("a good film", None), ("a dull play", None)), 0))


@pytest.mark.parametrize("multi", [False, True])
def test_a_graph_s_folder_names_the_labels_of_its_task(multi, tmp_path):
    """A model with LABEL_0 and LABEL_1, of which its config says nothing, and data that says what they are."""
    task, nameless, made = Classify(LABELS, multi_label=multi), tmp_path / "nameless", tmp_path / "made"
    tiny("bert", labels=2).save_pretrained(nameless)
    write_tokenizer(nameless)
    assert "id2label" not in json.loads((nameless / "config.json").read_text())
    shutil.copytree(nameless, made)
    Onnx().run(Context(nameless, made, task, (("a good film", None), ("a dull play", None)), 0))
    assert load(made).task == task
    ((label, _, _),) = served(made, ["a good film"], tmp_path)
    assert label in LABELS
