"""Cascades: who answers which text, what is deployed and checked, the command; and folders that mean harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import command, tree
from folders import LABELS, POLAR, model_folder, sentences, vocabulary, write_csv, write_tokenizer
from onnx import TensorProto, helper, numpy_helper

import smidgen
from smidgen import benching, budget, verification
from smidgen.artefact import RECORD, open_artefact
from smidgen.benching import bench
from smidgen.cascading import build, built
from smidgen.data import Columns, read_split
from smidgen.deferral import Choice
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.measure.memory import memory
from smidgen.measure.number import Number
from smidgen.pairing import Trained, cascades
from smidgen.runtime import Cascade, deployed_bytes, deployed_files, load
from smidgen.tasks import Classify, Several
from smidgen.watch import Silent

KNOWN = {"bad": ("bad", "awful"), "good": ("good", "great")}  # polar words that the small model knows
ROWS = sentences(300, seed=5)
TEXTS = [text for text, _ in ROWS]


def word_folder(path: Path, words: Mapping[str, Sequence[float]], config: Mapping[str, Any], slow: int = 0) -> Path:
    """A folder that predicts: logits are the sum of what each word says. Gives `path`.

    slow: how often the graph works its vectors out anew.
    """
    classes = len(next(iter(words.values())))
    draw = np.random.default_rng(0)
    table = draw.normal(size=(len(vocabulary()), classes), scale=0.05).astype(np.float32)
    for word, values in words.items():
        table[vocabulary()[word]] = values
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["v0"]),
        *(helper.make_node("MatMul", [f"v{i}", "same"], [f"v{i + 1}"]) for i in range(slow)),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["mask"]),
        helper.make_node("Mul", [f"v{slow}", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["logits"], keepdims=0),
    ]
    weights = {"table": table, "same": np.eye(classes, dtype=np.float32), "last": np.array([2]), "axis": np.array([1])}
    made = helper.make_graph(
        nodes,
        "words",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    (path / "onnx").mkdir(parents=True)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path / "onnx/model.onnx"
    )
    usual = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "pad_token_id": 1}
    (path / "config.json").write_text(json.dumps({**usual, "max_position_embeddings": 48, **config}))
    write_tokenizer(path)
    return path


def moods(words: Mapping[str, Sequence[str]], sure: float = 2.0) -> dict[str, list[float]]:
    return {word: [sure * (label == one) for one in LABELS] for label in LABELS for word in words[label]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small, which knows half of the polar words; large, which knows all; dev and test."""
    root = tmp_path_factory.mktemp("cascade")
    config = Classify(LABELS).config()
    word_folder(root / "small", moods(KNOWN), config)
    word_folder(root / "large", moods(POLAR), config, slow=40)
    word_folder(root / "wrong", moods({"bad": POLAR["good"], "good": POLAR["bad"]}), config)
    write_csv(root / "dev.csv", ROWS[:200])
    write_csv(root / "test.csv", ROWS[200:])
    return root


def made(out: Path, folders: Sequence[Path], thresholds: Sequence[float]) -> Path:
    build(out, folders, [Choice(1.5, value, 0.5, 1.0) for value in thresholds], {})
    return out


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return made(root / "made", [root / "small", root / "large"], [0.8])


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory takes a process each."""
    monkeypatch.setattr(benching, "memory", lambda *args, **more: Number("memory_mb", 1.0, "MB", 1))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "cascade"))


# Who answers.


def test_the_large_one_answers_where_the_small_one_is_not_sure(root: Path, folder: Path) -> None:
    model, small, large = load(folder), load(root / "small"), load(root / "large")
    assert isinstance(model, Cascade)
    first, second = small.outputs(TEXTS), large.outputs(TEXTS)
    going = model.task.probabilities(first / 1.5).max(-1) <= 0.8
    assert 20 < going.sum() < 280
    wanted = np.where(going[:, None], second, first)
    np.testing.assert_allclose(model.outputs(TEXTS), wanted, atol=1e-5)
    np.testing.assert_array_equal(model.answered(model.rows(TEXTS))[1], going)
    for text, logits, level in list(zip(TEXTS, wanted, going, strict=True))[:30]:
        np.testing.assert_allclose(model.outputs(text), logits[None], atol=1e-5)
        assert model.predict(text)[0]["label"] == LABELS[(second if level else first)[TEXTS.index(text)].argmax()]


def test_the_interface_is_that_of_a_model(root: Path, folder: Path) -> None:
    model, large = load(folder, threads=1), load(root / "large", threads=1)
    assert (model.task, model.labels, model.threads) == (large.task, LABELS, 1)
    assert model.max_length == large.max_length and model.encode(TEXTS[:3]) == large.encode(TEXTS[:3])
    assert model.predict([]) == [] and model.outputs([]).shape == (0, 2)
    pair = {"text": "a dull", "text_pair": "film"}
    assert model.predict(pair) == large.predict(pair)
    assert model.predict(["a dull"], ["film"], top_k=None) == large.predict(["a dull"], ["film"], top_k=None)
    assert [len(row) for row in model.predict(TEXTS[:3], top_k=1, batch_tokens=1)] == [1, 1, 1]
    with pytest.raises(InputError, match="top_k: got 0, wanted 1 or more"):
        model.predict("a film", top_k=0)
    with pytest.raises(InputError, match="text 1: got int"):
        model.predict(["a", 1])
    assert str(model.serving).startswith("small: onnxruntime, 1 thread;")
    assert set(model.serving.to_data()) == {"small", "large"}


@pytest.mark.parametrize(("threshold", "alone"), [(0.0, "small"), (1.0, "large")])
def test_the_ends_are_the_models_alone(root: Path, tmp_path: Path, threshold: float, alone: str) -> None:
    model = load(made(tmp_path / "made", [root / "small", root / "large"], [threshold]))
    np.testing.assert_array_equal(model.outputs(TEXTS), load(root / alone).outputs(TEXTS))


def test_three_in_a_row(root: Path, tmp_path: Path) -> None:
    middle = word_folder(tmp_path / "middle", moods({"bad": POLAR["bad"], "good": ()}), Classify(LABELS).config())
    model = load(made(tmp_path / "made", [root / "small", middle, root / "large"], [0.8, 0.7]))
    assert [level.folder for level in model.levels] == ["small", "middle-1", "large"]
    outputs, by = model.answered(model.rows(TEXTS))
    assert set(by.tolist()) == {0, 1, 2}
    for i, name in enumerate((root / "small", middle, root / "large")):
        np.testing.assert_allclose(outputs[by == i], load(name).outputs(TEXTS)[by == i], atol=1e-5)


def test_several_tasks_and_several_labels(tmp_path: Path) -> None:
    """A text goes on as soon as one of its answers is not sure."""
    several = Several(("mood/bad", "mood/good", "thing/film", "thing/room", "thing/song"))
    words = {"good": [0, 4, 0, 0, 0], "bad": [4, 0, 0, 0, 0], "film": [0, 0, 4, 0, 0], "room": [0, 0, 0, 4, 0]}
    texts = ["good film", "good", "film", "bad room", "the"]
    for task, known in ((several, words), (Classify(("x", "y"), True), {"good": [4, -4], "bad": [4, 0]})):
        config = dict(task.config())
        small = word_folder(tmp_path / f"{task.name}-small", known, config)
        large = word_folder(
            tmp_path / f"{task.name}-large", {word: [-z for z in v] for word, v in known.items()}, config
        )
        model = load(made(tmp_path / f"{task.name}-made", [small, large], [0.7]))
        by = model.answered(model.rows(texts))[1].tolist()
        assert by == ([0, 1, 1, 0, 1] if task is several else [0, 0, 1, 1, 1])
        np.testing.assert_array_equal(model.outputs(texts[:1]), load(small).outputs(texts[:1]))
        assert model.predict(texts[4:]) == load(large).predict(texts[4:])


# The folder.


def test_what_is_deployed(folder: Path) -> None:
    names = {str(file.relative_to(folder)) for file in deployed_files(folder)}
    assert names == {name for name, data in tree(folder).items() if data is not None}
    assert {"smidgen.json", "cascade.json", "small/onnx/model.onnx", "large/tokenizer.json"} <= names
    assert deployed_bytes(folder) == sum((folder / name).stat().st_size for name in names)
    record = open_artefact(folder, deep=True).record
    assert record["form"] == "cascade" and [level["folder"] for level in record["levels"]] == ["small", "large"]
    told = json.loads((folder / "cascade.json").read_text())
    assert told["levels"] == [{"folder": "small", "temperature": 1.5, "threshold": 0.8}, {"folder": "large"}]


def test_it_has_another_id_with_other_thresholds(root: Path, folder: Path, tmp_path: Path) -> None:
    folders = [root / "small", root / "large"]
    again, other = made(tmp_path / "a", folders, [0.8]), made(tmp_path / "b", folders, [0.9])
    ids = [open_artefact(path).id for path in (folder, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_what_a_search_finds_is_built_once(root: Path, tmp_path: Path) -> None:
    """From what candidates said of dev to an artefact in the store."""
    folders = {name: root / name for name in ("small", "large", "wrong")}
    gold = np.array([LABELS.index(label) for _, label in ROWS[:200]])
    times = {"small": 1.0, "large": 10.0, "wrong": 0.5}
    trained = [
        Trained(name, load(folder).outputs(TEXTS[:200]), {"p50_ms": times[name], "p95_ms": times[name]}, 0.1)
        for name, folder in folders.items()
    ]
    (pair,) = cascades(Classify(LABELS), trained, gold, budget.read(quality="97%teacher"), trained[1].outputs)
    assert (pair.small, pair.large) == ("small", "large")
    made = built(tmp_path, pair, folders, {"task": Classify(LABELS).to_data()})
    assert made.path == tmp_path / made.id and made.form == "cascade" and made.record["lineage"] == []
    assert load(made.path).levels[0].threshold == pair.choice.threshold
    before = made.path.stat()
    again = built(tmp_path, pair, folders, {})
    assert again.record == made.record and made.path.stat().st_mtime_ns == before.st_mtime_ns


def test_no_torch_is_needed(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; sys.modules['onnx'] = None\n"
        f"import smidgen; print(smidgen.load({str(folder)!r}).predict('so fun and rich')[0]['label'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == "good", ran.stderr


SMALL: dict[str, Any] = {"folder": "small", "temperature": 1.0, "threshold": 0.5}
LARGE: dict[str, Any] = {"folder": "large"}


def levels(*told: Any) -> dict[str, Any]:
    return {"schema": 1, "levels": list(told)}


BAD: list[tuple[Any, str]] = [
    ("[", "not JSON"),
    ([], "holds list, wanted a JSON object"),
    ({"schema": 1}, "has schema, wanted schema and levels"),
    ({"schema": 2, "levels": []}, "schema is 2, wanted 1"),
    ({"schema": 1, "levels": "small"}, "levels is small, wanted a list of 2 models or more"),
    (levels(LARGE), "wanted a list of 2 models or more"),
    (levels(1, LARGE), "level 1 is 1, wanted folder, temperature, threshold"),
    (levels(LARGE, SMALL), "level 1 is {'folder': 'large'}, wanted folder, temperature, threshold"),
    (levels(SMALL, LARGE | {"threshold": 0.5}), "level 2 is {'folder': 'large', 'threshold': 0.5}, wanted folder."),
    (levels(SMALL | {"threshold": 1.5}, LARGE), "level 1 has the threshold 1.5, wanted a number from 0 to 1"),
    (levels(SMALL | {"threshold": -0.1}, LARGE), "the threshold -0.1, wanted a number from 0 to 1"),
    (levels(SMALL | {"threshold": float("nan")}, LARGE), "the threshold nan, wanted a number from 0 to 1"),
    (levels(SMALL | {"threshold": "0.5"}, LARGE), "the threshold 0.5, wanted a number"),
    (levels(SMALL | {"threshold": True}, LARGE), "the threshold True, wanted a number"),
    (levels(SMALL | {"threshold": 10**400}, LARGE), "the threshold 1000"),
    (levels(SMALL | {"temperature": 0}, LARGE), "the temperature 0, wanted a number from 0 to 1000"),
    (levels(SMALL | {"temperature": 1e400}, LARGE), "the temperature inf, wanted a number"),
    (levels(SMALL | {"folder": "../small"}, LARGE), "level 1 has the folder ../small, wanted the name of one inside"),
    (levels(SMALL | {"folder": "/etc"}, LARGE), "level 1 has the folder /etc, wanted the name"),
    (levels(SMALL | {"folder": ["small"]}, LARGE), "level 1 has the folder ['small'], wanted the name"),
    (levels(SMALL | {"folder": "x" * 500}, LARGE), "level 1 has the folder xxxx"),
    (levels(SMALL, {"folder": "."}), "level 2 has the folder ., wanted the name"),
    (levels(SMALL, {"folder": "small"}), "its levels are in small, small, wanted another folder for each"),
    (levels(SMALL, {"folder": "huge"}), "this cascade has no folder huge"),
]


@pytest.mark.parametrize(("told", "message"), BAD)
def test_a_cascade_json_that_is_none_of_ours(copy: Path, told: Any, message: str) -> None:
    (copy / "cascade.json").write_text(told if isinstance(told, str) else json.dumps(told), encoding="utf-8")
    with pytest.raises(ModelError) as raised:
        load(copy)
    assert message in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 500
    with pytest.raises(ModelError):
        deployed_bytes(copy)


def test_what_is_missing_changed_or_elsewhere(root: Path, copy: Path, tmp_path: Path) -> None:
    def refused(message: str, kind: type[Exception] = ModelError) -> None:
        with pytest.raises(kind) as raised:
            load(copy)
        assert message in str(raised.value) and "\n" not in str(raised.value)

    told = (copy / "cascade.json").read_text()
    (copy / "cascade.json").write_text(told.replace("0.8", "0.7"))
    refused("cascade.json is missing or changed", ArtefactError)
    (copy / "cascade.json").unlink()
    refused("this cascade has no cascade.json. Copy the folder again.")
    (copy / "cascade.json").symlink_to(root / "made" / "cascade.json")
    refused("cascade.json: a link to a file outside the folder")
    (copy / "cascade.json").unlink()
    (copy / "cascade.json").write_text(told)
    load(copy)

    graph = copy / "large/onnx/model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("large/onnx/model.onnx is missing or changed", ArtefactError)
    graph.unlink()
    refused("large: this folder has no onnx/model.onnx.")
    shutil.rmtree(copy / "large")
    (copy / "large").symlink_to(root / "large")
    refused("large: a link to a file outside the folder")
    (copy / "large").unlink()
    shutil.copytree(root / "made", copy / "large")
    refused("large: is a cascade or bundle, wanted a folder of one model")
    shutil.rmtree(copy / "large")
    refused("this cascade has no folder large")

    (copy / ".incomplete").touch()
    refused("half-written by a run that was stopped")
    (copy / ".incomplete").unlink()
    (copy / RECORD).unlink()
    refused("this cascade has no smidgen.json")


def other_folder(path: Path, kind: str) -> Path:
    """A large model that does not go with the small one."""
    config = {
        "labels": Classify(("good", "bad")).config(),
        "more": Classify((*LABELS, "mixed")).config(),
        "lists": Classify(LABELS, multi_label=True).config(),
        "several": Several(("mood/bad", "mood/good")).config(),
        "tag": Classify(LABELS).config() | {"architectures": ["BertForTokenClassification"]},
    }[kind]
    return word_folder(path, {"bad": [1.0] * config["num_labels"]}, config)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("labels", "has the labels good, bad; {small} has bad, good. The models of a cascade have the same labels"),
        ("more", "has the labels bad, good, mixed; {small} has bad, good."),
        ("lists", "its task is classify with several labels a text, that of {small} is classify. The models"),
        ("several", "its task is several, that of {small} is classify."),
    ],
)
def test_models_that_do_not_go_together(root: Path, tmp_path: Path, kind: str, message: str) -> None:
    """Where a cascade is made, nothing is written; where one was forged, it is not opened."""
    large = other_folder(tmp_path / kind, kind)
    with pytest.raises(ModelError) as raised:
        smidgen.cascade([root / "small", large], str(root / "dev.csv"), out=tmp_path / "out")
    assert str(raised.value).startswith(f"{large}: {message.format(small=root / 'small')}")
    assert not (tmp_path / "out").exists()
    forged = made(tmp_path / "forged", [root / "small", large], [0.5])
    with pytest.raises(ModelError) as raised:
        load(forged)
    assert str(raised.value).startswith(f"{forged / 'large'}: {message.format(small=forged / 'small')}")


def test_tasks_that_are_not_passed_on(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        path = other_folder(tmp_path / name, "tag")
        graph = onnx.load(path / "onnx/model.onnx")
        graph.graph.node[-1].op_type = "Identity"
        del graph.graph.node[-1].attribute[:], graph.graph.node[-1].input[1:]
        graph.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", len(LABELS)])
        )
        onnx.save(graph, path / "onnx/model.onnx")
        folders.append(path)
    with pytest.raises(ModelError) as raised:
        smidgen.cascade(folders, "dev.csv", out=tmp_path / "out")
    assert str(raised.value) == (
        f"{folders[0]}: its task is tag, wanted classify or several. A cascade passes whole texts on by how sure a "
        "model is of its label; run this model alone."
    )


# The command.


def test_a_cascade_is_calibrated_built_and_measured(root: Path, tmp_path: Path, no_memory: None) -> None:
    out = tmp_path / "out"
    line = f"cascade {root / 'small'} {root / 'large'} --dev {root / 'dev.csv'} --test {root / 'test.csv'}"
    ran = command(f"{line} --min-quality 97%teacher --calls 20 --out {out} --json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["verdict"] == "met" and found["path"] == str(out) and found["of"] == str(root / "large")
    assert found["reason"].startswith("97%teacher is kept, on dev in ")
    small, large = found["levels"]
    assert 0 < small["passed"] < 1 and small["held"] >= 0.95 and large == {"folder": "large", "id": None}
    assert json.loads((out / "cascade.json").read_text())["levels"][0]["threshold"] == small["threshold"]
    entries = {one["name"]: one for one in found["entries"]}
    assert set(entries) == {str(out), str(root / "small"), str(root / "large")} and found["speed_by"] == "mean"
    mine = entries[str(out)]
    assert mine["numbers"]["size_mb"] == deployed_bytes(out) / 1e6
    assert mine["numbers"]["quality"]["n"] == 100 and mine["numbers"]["quality_kept"]["value"] >= 0.97
    means = [entries[str(root / name)]["numbers"]["latency"]["mean_ms"] for name in ("small", "large")]
    assert found["expected_ms"] == pytest.approx(means[0] + small["passed"] * means[1])
    record = open_artefact(out, deep=True).record
    assert record["quality"] == "97%teacher" and record["sure"] == 0.95 and record["dev"]["rows"] == 200
    assert record["task"] == Classify(LABELS).to_data()

    model = load(out)
    texts = [text for text, _ in ROWS[200:]]
    assert mine["passed"] == [model.answered(model.rows(texts))[1].mean()]
    ran = command(f"predict {out} '{texts[0]}' 'a dull book'")
    answers = model.predict([texts[0], "a dull book"])
    assert [line.split("\t")[0] for line in ran.out.splitlines()] == [answer["label"] for answer in answers]

    ran = command(f"{line} --min-quality 97%teacher --calls 20 --out {out}")
    assert ran.code == 0, "made again in its place"
    assert "Quality kept. 97%teacher is kept" in ran.out and "small answers where it is surer than 0." in ran.out
    assert "mean ms" in ran.out and f"The cascade is in {out}" in ran.out


def test_bench_and_memory_take_it_like_any_other(root: Path, folder: Path) -> None:
    folders = [root / "large", folder]
    found = bench(folders, str(root / "test.csv"), Columns(), [], 20, 1, Silent(), metric="f1")
    large, mine = found["entries"]
    assert mine["numbers"]["memory_mb"] > 0 and mine["numbers"]["quality"]["metric"] == "f1"
    assert set(mine["serving"]) == {"small", "large"} and len(mine["passed"]) == 1
    assert mine["numbers"]["speedup"]["value"] == pytest.approx(
        large["numbers"]["latency"]["mean_ms"] / mine["numbers"]["latency"]["mean_ms"]
    )
    assert "; speed by the mean and agreement against " in found["conditions"]
    with pytest.raises(InputError, match="--tune finds how to run one model"):
        bench([folder], None, Columns(), [], 20, None, Silent(), tune=True)
    assert float(memory(folder, TEXTS[:4]).value) > 0


def test_without_a_cascade_that_helps(root: Path, tmp_path: Path) -> None:
    """Exit code 3 and the reason; nothing is left."""
    small, large, wrong, out = root / "small", root / "large", root / "wrong", tmp_path / "out"
    for folders, more, reason in [
        (
            f"{small} {large}",
            "--min-quality 50%teacher",
            f"50%teacher is kept on dev without {large}. Take {small}, or",
        ),
        (f"{wrong} {large}", "", f"{wrong} is never sure enough to answer by itself. Leave it out, give more rows of"),
        (f"{large} {small}", "--min-quality 0.99", f"{small} alone does not keep 0.99 on dev. Give a larger model, or"),
        (f"{wrong} {small} {large}", "", f"{wrong} is never sure enough"),
    ]:
        ran = command(f"cascade {folders} --dev {root / 'dev.csv'} {more} --out {out} --json")
        found = json.loads(ran.out)
        assert ran.code == 3 and found["verdict"] == "not_met" and found["path"] is None
        assert found["reason"].startswith(reason)
        assert not out.exists()


def test_a_teacher_without_a_head_is_refused(root: Path, tmp_path: Path) -> None:
    """Its answers would be drawn, and anything keeps these."""
    bare = model_folder(tmp_path / "bare")
    ran = command(
        f"cascade {root / 'small'} {root / 'large'} --dev {root / 'dev.csv'} --teacher {bare} --out {tmp_path}/out"
    )
    assert ran.code == 2 and not (tmp_path / "out").exists()
    assert f"--teacher {bare}: is a bare encoder and has no answers. Give a model that was trained to" in ran.err


def test_what_dev_and_test_cannot_tell_is_said(root: Path, tmp_path: Path, no_memory: None) -> None:
    """Few rows of dev; a test set on which it does not hold."""
    few = write_csv(tmp_path / "few.csv", ROWS[:40])
    swapped = [(text, LABELS[label == "bad"]) for text, label in ROWS[200:]]
    flipped = [*ROWS[200:260], *(row for row in swapped[60:] if not set(row[0].split()) & {*sum(KNOWN.values(), ())})]
    found = smidgen.cascade(
        [root / "small", root / "large"],
        few,
        write_csv(tmp_path / "hard.csv", flipped),
        min_quality="accuracy>=0.9",
        sure=0.5,
        calls=20,
        out=tmp_path / "out",
    )
    assert found["notes"][-1].startswith("Of 40 rows of dev no more than ") and "Give about" in found["notes"][-1]
    assert found["verdict"] == "not_met" and "0.9 is kept on dev; on " in found["reason"]
    assert (tmp_path / "out" / "cascade.json").is_file(), "what was made stays"


def test_words_that_cannot_be(root: Path, tmp_path: Path) -> None:
    small, large, dev = root / "small", root / "large", root / "dev.csv"
    (tmp_path / "full").mkdir()
    for line, message in [
        (f"{small} --dev {dev}", "got 1 folder, wanted 2 or more: the fastest first, the best last."),
        (f"{small} {small}/../small --dev {dev}", "given twice. Give each folder once."),
        (f"{small} {root / 'none'} --dev {dev}", "none: no such folder."),
        (f"{small} {root / 'made'} --dev {dev}", "made: is a cascade, wanted a folder of one model."),
        (f"{small} {large} --dev {dev} --min-quality lots", "--min-quality lots: not understood. Write it like 97%te"),
        (f"{small} {large} --dev {dev} --metric f2", "unknown metric 'f2', wanted one of accuracy, f1"),
        (
            f"{small} {large} --dev {dev} --test {dev}",
            "has the rows of --dev, on which thresholds are set. Give others, or none.",
        ),
        (f"{small} {large} --dev {root / 'dve.csv'}", "dve.csv: no such file"),
        (f"{small} {large} --dev {dev} --out {tmp_path / 'full'}", "full: is there and not a cascade."),
        (f"{small} {large} --dev {dev} --sure 1.5", "'--sure'"),
        (f"{small} {large}", "--dev"),
    ]:
        out = "" if "--out" in line else f"--out {tmp_path / 'out'}"
        ran = command(f"cascade {line} {out}")
        assert ran.code == 2 and message in " ".join(ran.err.split()), ran.err
        assert "Traceback" not in ran.err and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="sure: got 2, wanted a share from 0 to 1"):
        smidgen.cascade([small, large], str(dev), sure=2)


def test_a_teacher_in_torch_and_a_winner_that_is_verified(root: Path, tmp_path: Path, no_memory: None) -> None:
    """A cascade as the winner of a report: its claims are measured again as those of any other."""
    teacher = str(model_folder(tmp_path / "teacher", labels=LABELS, blocks=1))
    given = [root / "small", root / "large"], str(root / "dev.csv"), str(root / "test.csv")
    found = smidgen.cascade(*given, min_quality="0.97", teacher=teacher, calls=20, out=tmp_path / "winner")
    assert found["verdict"] == "met" and found["of"] == teacher
    mine = next(one for one in found["entries"] if one["name"] == str(tmp_path / "winner"))
    assert {one["name"] for one in found["entries"]} > {f"{teacher} (torch float32)"}
    report = {
        "winner": mine | {"numbers": mine["numbers"] | {"memory_mb": None}},
        "task": Classify(LABELS).to_data(),
        "data": {
            "train": {"source": "train.csv"},
            "dev": {"source": given[2]},  # what it is timed on
            "test": {"source": given[2], "fingerprint": read_split(given[2], "test", Classify(LABELS)).fingerprint},
        },
        "seed": 0,
        "budget": {"latency": None, "size_mb": 1.0, "quality": None},
        "teacher": {"path": None, "numbers": {"latency": None, "throughput": None}},
        "model": {"reference": teacher},
        "environment": {},
    }
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    claims = {one["claim"]: one for one in verification.verify(tmp_path)}
    timed = claims.pop("times as fast as the teacher")
    assert timed["reported"] == mine["numbers"]["speedup"]["value"]
    assert set(claims) >= {"size in MB, to the byte", "accuracy on test, in its interval", "size budget"}
    assert all(one["passed"] for one in claims.values()), claims
