"""Bad input: one clear message that names the place and what to do, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import Ran, command, tree
from folders import LABELS, model_folder, write_csv, write_tokenizer

from smidgen.anatomy import families

COMPRESS = "compress model --train train.csv --test test.csv --out out"
GOOD = [("a good film", "good"), ("a bad film", "bad"), ("so good", "good"), ("so bad", "bad")]
HEAD = "model: model\ndata: {train: train.csv, test: test.csv}\nstages:\n"
TEACHER = "- {name: teacher, methods: {tune.full: {}}}\n"
STUDENT = "- {name: student, teacher: teacher, methods: {prune.layers: {keep: 1}, distil.logits: {}}}\n"


@pytest.fixture(scope="module")
def kept(tiny_bert: Path, tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case starts from: a good model, good data, a good recipe and a folder that predicts."""
    root = tmp_path_factory.mktemp("kept")
    for name in ("model", "same"):
        shutil.copytree(tiny_bert, root / name)
    for name, path in tiny_data.items():
        shutil.copyfile(path, root / f"{name}.csv")
    (root / "recipe.yaml").write_text(HEAD + TEACHER + STUDENT, encoding="utf-8")
    _runnable(root / "runs")
    return root


@pytest.fixture
def here(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    path = tmp_path / "here"
    shutil.copytree(kept, path)
    monkeypatch.chdir(path)
    return path


def _runnable(path: Path) -> None:
    """A folder that loads: its graph gives every text the same two logits."""
    import onnx
    from onnx import TensorProto, helper

    model_folder(path, labels=LABELS)
    free = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, free) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, 2], [0.25, -0.25])
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["mask"], ["one"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["one", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "same", inputs, outputs, [weights])
    (path / "onnx").mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, path / "onnx" / "model.onnx")


def refused(ran: Ran, *said: str) -> None:
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert ran.err.startswith("Error ") and ran.err.count("Error ") == 1
    assert "Traceback" not in ran.err
    for text in said:
        assert text in ran.err, f"{text!r} is not in:\n{ran.err}"


Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A command line, what its message must hold, and what is changed before it runs."""

    line: str
    said: tuple[str, ...]
    prepare: Prepare | None = None


def case(name: str, line: str, *said: str, given: Prepare | None = None) -> Any:
    return pytest.param(Case(line, said, given), id=name)


def file(name: str, content: str | bytes) -> Prepare:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda here: (here / name).write_bytes(data) and None


def recipe(stages: str, head: str = HEAD) -> Prepare:
    return file("recipe.yaml", head + stages)


def config(**changes: Any) -> Prepare:
    """Change `model/config.json`."""

    def prepare(here: Path) -> None:
        path = here / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return prepare


def without(name: str) -> Prepare:
    return lambda here: (here / name).unlink()


def pickled(here: Path) -> None:
    """The weights as a pickle that makes a file `canary` when it is opened."""
    (here / "model" / "model.safetensors").unlink()
    (here / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary()))


class _Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("canary", "w"))


def coded(name: str) -> Prepare:
    """Python beside the model that makes a file `canary`, and a settings file that asks to run it."""

    def prepare(here: Path) -> None:
        (here / "model" / "modeling_mine.py").write_text("open('canary', 'w').close()\nclass Mine: pass\n")
        path = here / "model" / name
        auto_map = dict.fromkeys(
            ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer"), "modeling_mine.Mine"
        )
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map, "model_type": "mine"}))

    return prepare


def weights(change: Callable[[dict[str, Any]], None]) -> Prepare:
    def prepare(here: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = here / "model" / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return prepare


def cut_short(here: Path) -> None:
    path = here / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def three_labels(here: Path) -> None:
    """A classifier with two outputs without names, and data with three labels."""
    model_folder(here / "model", labels=("LABEL_0", "LABEL_1"))
    write_csv(here / "train.csv", [*GOOD, ("it was", "so so"), ("it is", "so so")])


def claims_no_winner(here: Path) -> None:
    (here / "done").mkdir()
    found = {"schema": 1, "winner": None, "reason": "The binding constraint is size."}
    (here / "done" / "report.json").write_text(json.dumps(found))


DATA = [
    case("no such file", "compress model --train trian.csv", "trian.csv: no such file", "Did you mean 'train.csv'?"),
    case("no such test", f"{COMPRESS} --dev dve.csv", "dve.csv: no such file", "Did you mean 'dev.csv'?"),
    case(
        "no text column",
        COMPRESS,
        "train.csv: no text column. Its columns: words, label",
        "Type --text-column NAME",
        given=file("train.csv", "words,label\na,good\nb,bad\n"),
    ),
    case(
        "no label column",
        COMPRESS,
        "train.csv: no label column. Its columns: text, mark",
        "Type --label-column NAME",
        given=file("train.csv", "text,mark\na,good\nb,bad\n"),
    ),
    case("mistyped column", f"{COMPRESS} --text-column txet", "train.csv: no column 'txet'", "Did you mean 'text'?"),
    case(
        "unknown label",
        COMPRESS,
        "test.csv, row 3: unknown label 'goood', wanted one of bad, good. Did you mean 'good'?",
        given=file("test.csv", "text,label\na,good\nb,goood\n"),
    ),
    case(
        "empty text",
        COMPRESS,
        "train.csv, row 3: the column 'text' is empty, wanted a text. Fill it in or remove the row.",
        given=file("train.csv", "text,label\na,good\n ,bad\nc,bad\n"),
    ),
    case(
        "one class",
        COMPRESS,
        "train.csv: every row has the label 'good', wanted two classes or more.",
        given=file("train.csv", "text,label\na,good\nb,good\n"),
    ),
    case(
        "NaN label",
        COMPRESS,
        "train.csv, row 3: the column 'label' has no label, got 'nan'. Fill it in or remove the row.",
        given=file("train.csv", "text,label\na,good\nb,nan\nc,bad\n"),
    ),
    case(
        "NaN label in jsonl",
        "compress model --train train.jsonl",
        "train.jsonl, row 2: the column 'label' has no label, got nan.",
        given=file("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n'),
    ),
    case(
        "ragged",
        COMPRESS,
        "train.csv, row 3: got 3 cells, wanted 2 (text, label). Put quotes around a text that holds the separator",
        given=file("train.csv", "text,label\na,good\nb, c,bad\n"),
    ),
    case(
        "latin-1",
        COMPRESS,
        "train.csv, row 3: byte 21 (0xe9) is not UTF-8, perhaps latin1. Convert it: iconv -f latin1 -t utf-8",
        given=file("train.csv", "text,label\na,good\ncafé,bad\n".encode("latin-1")),
    ),
    case(
        "UTF-16",
        COMPRESS,
        "train.csv is UTF-16 from byte 0, wanted UTF-8. Convert it: iconv -f utf-16 -t utf-8",
        given=file("train.csv", "text,label\na,good\n".encode("utf-16")),
    ),
    case(
        "broken jsonl",
        "compress model --train train.jsonl",
        "train.jsonl, row 2, column 15: not JSON",
        'wanted one object a line, such as {"text": "...", "label": "..."}',
        given=file("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", label": 0}\n'),
    ),
    case(
        "test is train",
        "compress model --train train.csv --test ./train.csv",
        "./train.csv: test is the train file, wanted rows that train has not. Give another file, or leave --test out.",
    ),
    case("a folder", "compress model --train model", "model is a folder, wanted a file: csv, tsv, jsonl"),
    case("header only", COMPRESS, "train.csv has a header and no rows.", given=file("train.csv", "text,label\n")),
    case("empty", COMPRESS, "train.csv is empty. Give a file with data in it", given=file("train.csv", "")),
    case(
        "unlabeled without text",
        f"{COMPRESS} --unlabeled unlabeled.csv",
        "unlabeled.csv: no text column",
        given=file("unlabeled.csv", "words\na\n"),
    ),
    *(
        case(
            f"{line.split()[0]}, unlabeled {name}",
            f"{line} --unlabeled unlabeled.txt",
            said,
            given=file("unlabeled.txt", content),
        )
        for line in (COMPRESS, "run recipe.yaml --train train.csv", "plan recipe.yaml --train train.csv")
        for name, content, said in (
            ("empty", b"", "Error unlabeled.txt is empty. Give a file with data in it"),
            ("blank", b" \n\n", "Error unlabeled.txt is empty. Give a file with data in it"),
            (
                "not UTF-8",
                b"fine\ncaf\xe9\n",
                "Error unlabeled.txt, row 2: byte 8 (0xe9) is not UTF-8, perhaps latin1. Convert it: iconv -f latin1",
            ),
            ("cut short", b"fine\nhal\xc3", "Error unlabeled.txt, row 2: byte 8 (0xc3) is not UTF-8"),
            ("NUL bytes", b"fine, and long enough\na\0b\n", "Error unlabeled.txt, row 2: a NUL byte, wanted text."),
        )
    ),
    case("plan, no such file", "plan recipe.yaml --train trian.csv", "Error trian.csv: no such file"),
    case(
        "run, ragged",
        "run recipe.yaml",
        "Error train.csv, row 2: got 3",
        given=file("train.csv", "text,label\na,b,c\n"),
    ),
    case("bench, no such file", "bench runs --data tset.csv", "tset.csv: no such file", "Did you mean 'test.csv'?"),
    case("predict, no such file", "predict runs --file tset.csv", "tset.csv: no such file", "Did you mean 'test.csv'?"),
]

RECIPE = [
    case(
        "all faults at once",
        "plan recipe.yaml",
        "recipe.yaml: 5 faults",
        "  - data.tset: no such key. Did you mean 'test'?",
        "  - nowhere.csv: no such file.",
        "  - stage teacher: tune.ful: no such method. Did you mean 'tune.full'?",
        "  - stage student, distil.logits.temprature: no such key. Did you mean 'temperature'?",
        "  - stage student.train.epochs: got 0.0, wanted more than 0",
        given=file(
            "recipe.yaml",
            "model: model\ndata: {train: nowhere.csv, tset: test.csv}\nstages:\n"
            "- {name: teacher, methods: {tune.ful: {}}}\n"
            "- {name: student, teacher: teacher, methods: {distil.logits: {temprature: 2}}, train: {epochs: 0}}\n",
        ),
    ),
    case(
        "not YAML",
        "run recipe.yaml",
        "recipe.yaml: 1 fault\n  - line 3: this is not YAML",
        given=file("recipe.yaml", "model: model\ndata: {train: train.csv}\nstages: ]\n"),
    ),
    case(
        "a list",
        "run recipe.yaml",
        "a recipe is a mapping of keys to values, got list",
        given=file("recipe.yaml", "- tune.full\n"),
    ),
    case(
        "not UTF-8",
        "run recipe.yaml",
        "recipe.yaml: 1 fault\n  - not UTF-8 text",
        given=file("recipe.yaml", b"\xff\xfe"),
    ),
    case(
        "a tag of its own",
        "run recipe.yaml",
        "recipe.yaml: 1 fault\n  - line 4: this is not YAML: could not determine a constructor for the tag '!choice'.",
        given=recipe("- {name: s, methods: {prune.layers: {keep: !choice [1, 2]}}}\n"),
    ),
    case("no such recipe", "run recpie.yaml", "recpie.yaml: 1 fault", "no such file", "Did you mean 'recipe.yaml'?"),
    case("mistyped packaged recipe", "plan minilmm", "no packaged recipe of that name. Did you mean 'minilm'?"),
    case(
        "no model of its own",
        "run recipe.yaml",
        "it has no model of its own: give one with --model.",
        "it has no data of its own: give them with --train",
        given=recipe(TEACHER, "model: MODEL\ndata: {train: TRAIN}\nstages:\n"),
    ),
    case(
        "int8 before the graph",
        "run recipe.yaml",
        "stage small: quant.dynamic takes onnx, got float. Put a stage with export.onnx before it.",
        given=recipe("- {name: small, methods: {quant.dynamic: {}}}\n- {name: onnx, methods: {export.onnx: {}}}\n"),
    ),
    case(
        "unknown teacher",
        "run recipe.yaml",
        "Error taecher: no such folder here",
        "Did you mean 'teacher'?",
        given=recipe(TEACHER + STUDENT.replace("teacher: teacher", "teacher: taecher")),
    ),
    case(
        "unknown stage",
        "run recipe.yaml",
        "Error stduent: no such folder here",
        "Did you mean 'student'?",
        given=recipe(f"{TEACHER}{STUDENT}- {{name: onnx, from: stduent, methods: {{export.onnx: {{}}}}}}\n"),
    ),
    case(
        "a teacher that was not taught",
        "run recipe.yaml",
        "stage student.teacher: model is a bare encoder and has no answers. Name a stage that trains it",
        given=recipe(STUDENT.replace("teacher: teacher", "teacher: model")),
    ),
    case("a seed below 0", "run recipe.yaml", "seed: got -1, wanted", given=recipe(TEACHER, f"seed: -1\n{HEAD}")),
    case("dev without train", "run recipe.yaml --dev dev.csv", "--dev, --test and --unlabeled go with --train."),
    case("out is a file", "run recipe.yaml --out train.csv", "--out train.csv: train.csv is a file, wanted a folder"),
    case("out in a file", "run recipe.yaml --out train.csv/out", "--out train.csv/out: train.csv is a file"),
    case(
        "unknown tracker",
        "run recipe.yaml --track tensorbord",
        "--track tensorbord: there is none of that name. Did you mean 'tensorboard'?",
        "Use one of tensorboard, mlflow, wandb,",
    ),
    case("run, no such model", "run recipe.yaml --model modle", "Error modle: no such folder", "Did you mean 'model'?"),
]

MODEL = [
    case("no such folder", "compress ./modle --train train.csv", "./modle: no such folder. Did you mean 'model'?"),
    case("no such model", "compress modle --train train.csv", "modle: no such folder here", "Did you mean 'model'?"),
    case(
        "a file",
        "compress train.csv --train train.csv",
        "train.csv: is a file. Give the folder that holds config.json.",
    ),
    case("no config", COMPRESS, "model: no config.json. Give a folder", given=without("model/config.json")),
    case("broken config", COMPRESS, "model: config.json is not JSON", given=file("model/config.json", "{")),
    case(
        "list config",
        COMPRESS,
        "model: config.json holds list, wanted an object",
        given=file("model/config.json", "[]"),
    ),
    case(
        "pickle",
        COMPRESS,
        "model: the weights are in pytorch_model.bin, a pickle, which can run code when it is opened.",
        "model.save_pretrained(folder)",
        given=pickled,
    ),
    case("pickle, run", "run recipe.yaml", "Error model: the weights are in pytorch_model.bin", given=pickled),
    case("pickle, bench", "bench runs --torch model --calls 20", "model: the weights are in pyt", given=pickled),
    case("code", COMPRESS, "model: config.json has 'auto_map'", "smidgen never does.", given=coded("config.json")),
    case(
        "code of a tokenizer",
        COMPRESS,
        "model: tokenizer_config.json has 'auto_map', which asks to run code",
        given=coded("tokenizer_config.json"),
    ),
    case(
        "no tokenizer",
        COMPRESS,
        "model: no tokenizer.json. Save the fast tokenizer beside the model",
        given=without("model/tokenizer.json"),
    ),
    case(
        "broken tokenizer",
        COMPRESS,
        "model: tokenizer.json cannot be read",
        "Get the folder whole.",
        given=file("model/tokenizer.json", '{"version": "1.0"}'),
    ),
    case("no weights", COMPRESS, "model: no model.safetensors.", given=without("model/model.safetensors")),
    case("cut short", COMPRESS, "model/model.safetensors: cut short,", "Copy it again.", given=cut_short),
    case(
        "not safetensors",
        COMPRESS,
        "model/model.safetensors: not a safetensors file",
        given=file("model/model.safetensors", b"\x08" + bytes(7) + b"{}......"),
    ),
    case(
        "a vocabulary of a billion",
        COMPRESS,
        "model: config.json says vocab_size = 1000000000, wanted a whole number up to 100,000,000.",
        given=config(vocab_size=10**9),
    ),
    case("a million blocks", COMPRESS, "model: config.json says 1000000 blocks", given=config(num_hidden_layers=10**6)),
    case(
        "another vocabulary",
        COMPRESS,
        "model: config.json says 130 tokens x 32, the weights have 120 x 32.",
        given=config(vocab_size=130),
    ),
    case(
        "another width",
        COMPRESS,
        "model: encoder.layer.0.intermediate.dense.weight is 64 x 32 in model.safetensors, 96 x 32 by config.json.",
        "Get the folder whole.",
        given=config(intermediate_size=96),
    ),
    case("impossible heads", COMPRESS, "model: transformers cannot open it (", given=config(num_attention_heads=5)),
    case(
        "no blocks",
        COMPRESS,
        "model: config.json does not say num_hidden_layers",
        given=config(num_hidden_layers=None),
    ),
    *(
        case(
            f"family {name}, {line.split()[0]} {line.split()[1]}",
            line,
            f"model: its family is {name!r}, which smidgen cannot take apart.",
            f"Give a model of one of {', '.join(families())}.",
            given=config(model_type=name),
        )
        for name in ("gpt2", "albert")
        for line in (COMPRESS, "run recipe.yaml", "compress same --train train.csv --student model")
    ),
    case(
        "half-written",
        COMPRESS,
        "model: half-written by a run that was stopped.",
        given=file("model/.incomplete", ""),
    ),
    case(
        "weights missing",
        COMPRESS,
        "model: model.safetensors lacks 2 of the weights that config.json asks for, such as bert.encoder.layer.1.",
        "They would be random; get the folder whole.",
        given=weights(lambda w: [w.pop(k) for k in sorted(w) if "layer.1.output.dense" in k] and None),
    ),
    case(
        "another number of labels",
        COMPRESS,
        "model: has 2 outputs, the data has 3 labels: bad, good, so so.",
        given=three_labels,
    ),
    case(
        "no such package",
        "compress package:no_such_one/model --train train.csv",
        "package:no_such_one/model: no installed package 'no_such_one'. Install it first: pip install no-such-one.",
    ),
    case(
        "no such folder in a package",
        "compress package:smidgen/recipe --train train.csv",
        "package:smidgen/recipe: the package has no folder 'recipe'. Did you mean 'recipes'?",
    ),
    case("unknown student", f"{COMPRESS} --student ./studnet", "./studnet: no such folder."),
]

BUDGET = [
    case(f"{flag} {value}", f"{COMPRESS} {flag} '{value}'", f"{flag} {value}: ", *said)
    for flag, value, *said in (
        ("--max-latency", "2", "wanted a number and a unit. Write it like p95=2ms"),
        ("--max-latency", "p94=2ms", "'p94' is not one of p50, p95, p99."),
        ("--max-latency", "2mss", "no unit 'mss', wanted one of us, ms, s. Did you mean 'ms'?"),
        ("--max-latency", "0ms", "nothing can be that small."),
        ("--max-latency", "-1ms", "Write it like p95=2ms"),
        ("--max-size", "25", "wanted a number and a unit. Write it like 25MB"),
        ("--max-size", "25Mb2", "Write it like 25MB"),
        ("--max-memory", "300 MBB", "no unit 'MBB'", "Did you mean 'MB'?"),
        ("--min-quality", "97", "97 is no share of 1. Write it like 97%teacher or 0.91."),
        ("--min-quality", "foo>=0.9", "no metric 'foo', wanted one of accuracy, f1."),
        ("--min-quality", "97%techer", "Write it like 97%teacher"),
        ("--time-limit", "5", "wanted a number and a unit. Write it like 30m or 2h."),
        ("--time-limit", "5 days", "no unit 'days', wanted one of s, m, h."),
    )
] + [
    case(
        "two metrics",
        f"{COMPRESS} --metric f1 --min-quality 'accuracy>=0.9'",
        "--metric f1 and --min-quality accuracy>=0.9: two metrics. Give the same one in both.",
    ),
    case("unknown metric", f"{COMPRESS} --metric acuracy", "unknown metric 'acuracy'", "Did you mean 'accuracy'?"),
    case(
        "no such engine", f"{COMPRESS} --engine onnx", "engine: there is no 'onnx'.", "Use one of onnxruntime, openvino"
    ),
    case("too deep", f"{COMPRESS} --depth 3", "--depth 3: ./model has 2 blocks. Give a number from 1 to that."),
    case("too long", f"{COMPRESS} --max-length 4096", "data.max_length: got 4096, the model takes 4 to 48."),
    case("a seed below 0", f"{COMPRESS} --seed -1", "'--seed'", "Type: smidgen compress --help"),
    case("no epochs", f"{COMPRESS} --teacher-epochs 0", "--teacher-epochs 0: wanted a number above 0."),
    case("fewer than none", f"{COMPRESS} --student-epochs -1", "--student-epochs -1: wanted a number above 0."),
    case(
        "nothing of that depth",
        f"{COMPRESS} --depth 2 --family theseus",
        "--depth 2 --family theseus: nothing is made of these for a model of 2 blocks. Give other depths, or add",
    ),
    case(
        "compress, out is a file",
        "compress model --train train.csv --out test.csv",
        "--out test.csv: test.csv is a file",
    ),
]

OTHERS = [
    case(
        "predict, no graph", "predict model text", "model: this folder has no onnx/model.onnx. It is a model for torch"
    ),
    case("predict, no folder", "predict nowhere text", "nowhere: no such folder. Give a folder that holds config.json"),
    case("predict, no texts", "predict runs", "standard input is empty."),
    case("predict, texts and a file", "predict runs text --file test.csv", "Both texts and --file were given."),
    case("predict, lone pair", "predict runs a b --pair c", "--pair was given 1 times for 2 texts."),
    case("predict, pair of a file", "predict runs --file test.csv --pair c", "--pair was given 1 times for 0 texts."),
    case("predict, no threads", "predict runs text --threads 0", "threads: got 0, wanted 1 or more."),
    case("bench twice", "bench runs runs/../runs", "runs/../runs: given twice. Give each folder once."),
    case(
        "import, no folder",
        "delta import nowhere --from peft --base model --out out",
        "nowhere: no such folder. Give the folder that the other library",
    ),
    case(
        "import, no adapter",
        "delta import model --from peft --base model --out out",
        "model: no adapter_config.json in it. Give the folder that the",
    ),
    case("bench, no graph", "bench model", "model: this folder has no onnx/model.onnx."),
    case("verify, no report", "verify model", "model: no report.json in it. Give the folder that 'smidgen compress"),
    case("verify, no folder", "verify nowhere", "nowhere: no report.json in it."),
    case("verify, no winner", "verify done", "done: the report has no winner", "binding", given=claims_no_winner),
    case("verify, not a report", "verify .", "report.json: not a report. Run the same", given=file("report.json", "{")),
    case("report, no report", "report model", "model: no report.json in it. Give the folder that 'smidgen compress"),
    case("report, not a report", "report .", "report.json: not a report.", given=file("report.json", "[]")),
    case("unknown method", "methods distil.logit", "distil.logit: no such method. Did you mean 'distil.logits'?"),
    case("unknown option", "compress model --max-latncy 2ms", "No such option: --max-latncy", "--max-latency"),
    case("unknown command", "compres model", "No such command 'compres'. Did you mean 'compress'?"),
    case("no argument", "predict", "Missing argument 'folder'", "Type: smidgen predict --help"),
    case("no train", "compress model", "Missing option '--train'. Type: smidgen compress --help"),
    case("not a number", "compress model --train train.csv --seed x", "'--seed'", "Type: smidgen compress --help"),
    case("too few calls", "bench runs --calls 3", "'--calls'", "Type: smidgen bench --help"),
]


TAG = "compress model --task tag --train tags.jsonl --out out"
ASK = "compress model --task answer --train asks.jsonl --out out"
TAGS = [{"tokens": ["a", "zadig"], "tags": ["O", "B-x"]}, {"tokens": ["the", "film"], "tags": ["B-y", "I-y"]}] * 2
ASKS = [
    {"question": "who", "context": f"the film was {w}", "answers": {"text": [w], "answer_start": [13]}}
    for w in ("good", "bad")
]


def rows(name: str, *records: dict[str, Any]) -> Prepare:
    return file(name, "".join(json.dumps(record) + "\n" for record in records))


def also(*steps: Prepare) -> Prepare:
    def prepare(here: Path) -> None:
        for step in steps:
            step(here)

    return prepare


def tagger(here: Path) -> None:
    """`model` with a trained head for the tags B-x, B-y, I-y, O."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    names = dict(enumerate(("B-x", "B-y", "I-y", "O")))
    shape = AutoConfig.from_pretrained(here / "model", id2label=names, label2id={v: k for k, v in names.items()})
    AutoModelForTokenClassification.from_config(shape).save_pretrained(here / "model")


def tags(*extra: dict[str, Any]) -> Prepare:
    return rows("tags.jsonl", *TAGS, *extra)


def asks(*extra: dict[str, Any]) -> Prepare:
    return rows("asks.jsonl", *ASKS, *extra)


TASKS = [
    case("unknown task", f"{COMPRESS} --task tga", "task: got 'tga', wanted one of", "Did you mean 'tag'?"),
    case(
        "words and tags of different lengths",
        TAG,
        "tags.jsonl, row 5: got 2 words and 1 tags, wanted a tag for each word. Correct or remove the row.",
        given=tags({"tokens": ["a", "b"], "tags": ["O"]}),
    ),
    case(
        "broken BIO",
        TAG,
        "tags.jsonl, row 5: the tag 'I-x' of word 2 ('b') comes after 'B-y', so it continues no entity. "
        "Write 'B-x' where an entity begins.",
        given=tags({"tokens": ["a", "b"], "tags": ["B-y", "I-x"]}),
    ),
    case(
        "broken BIO everywhere",
        TAG,
        "tags.jsonl, row 5: the tag 'I-x' of word 1 ('a') comes after nothing",
        "Write 'B-x' where an entity begins, here and in 2 more rows.",
        given=tags(*[{"tokens": ["a"], "tags": ["I-x"]}] * 3),
    ),
    case(
        "words in a csv",
        TAG.replace("jsonl", "csv"),
        "tags.csv, row 2: the column 'tokens' holds 'a b', wanted a list of words. Lists come from jsonl, parquet",
        given=file("tags.csv", "tokens,tags\na b,O O\n"),
    ),
    case(
        "an unknown tag in test",
        f"{TAG} --test test.jsonl",
        "test.jsonl, row 1: unknown label 'B-z', wanted one of B-x, B-y, I-x, I-y, O.",
        "Correct it or remove the row.",
        given=also(tags(), rows("test.jsonl", {"tokens": ["q"], "tags": ["B-z"]})),
    ),
    case(
        "a tagger for other tags",
        TAG,
        "tags.jsonl, row 5: unknown label 'B-z', wanted one of B-x, B-y, I-y, O.",
        given=also(tagger, tags({"tokens": ["a"], "tags": ["B-z"]})),
    ),
    case(
        "a head for another task",
        TAG,
        "model: has a head for the task classify, the task is tag. Type --task classify with such data, or give a "
        "model that was trained to tag, or a bare encoder.",
        given=also(tags(), lambda here: model_folder(here / "model", labels=LABELS) and None),
    ),
    case(
        "a teacher with a head for another task",
        "run recipe.yaml",
        "stage student.teacher: ./tagger has a head for another task (tag) and has no answers.",
        given=also(
            tagger,
            lambda here: shutil.copytree(here / "model", here / "tagger") and None,
            recipe(
                STUDENT.replace("teacher: teacher", "teacher: ./tagger"), HEAD.replace("model: model", "model: same")
            ),
        ),
    ),
    case(
        "data of another task",
        COMPRESS.replace("train.csv", "tags.jsonl"),
        "tags.jsonl: no text column. Its columns: tokens, tags; they look like data for --task tag.",
        given=tags(),
    ),
    case(
        "no answer column",
        ASK,
        "asks.jsonl: no answers column. Its columns: question, context; wanted one of answers, answer.",
        "Type --label-column NAME",
        given=rows("asks.jsonl", {"question": "who", "context": "it was"}),
    ),
    case(
        "an answer that is not at its offset",
        ASK,
        "asks.jsonl, row 3: the answer 'film' is not in its context at 5, there is 'ilm'. It is at 4: correct",
        given=asks({"question": "q", "context": "the film", "answers": {"text": ["film"], "answer_start": [5]}}),
    ),
    case(
        "an answer that is nowhere",
        ASK,
        "asks.jsonl, row 3: the answer 'book' is not in its context at 4",
        "It is nowhere in the context. Correct or remove the row.",
        given=asks({"question": "q", "context": "the film", "answers": {"text": ["book"], "answer_start": [4]}}),
    ),
    case("several tags a text", f"{TAG} --multi-label", "go with classification, the task is tag.", given=tags()),
    case(
        "a pair to tag", f"{TAG} --text-pair-column b", "--text-pair-column: a tagger reads single texts", given=tags()
    ),
    case("no such metric of tags", f"{TAG} --metric exact", "unknown metric 'exact', wanted", "f1, acc", given=tags()),
    case("no such quality of answers", f"{ASK} --min-quality 'accuracy>=0.9'", "no metric 'accuracy'", "of f1, exact."),
    *(
        case(
            f"{how} to transfer, {line.split()[3]}",
            f"{line} --unlabeled more.{kind}",
            said,
            given=also(tags(), asks(), file(f"more.{kind}", content)),
        )
        for how, kind, content, said in (
            ("nothing", "txt", b"", "more.txt is empty. Give a file with data in it"),
            (
                "latin-1",
                "jsonl",
                '{"text": "caf\xe9"}'.encode("latin-1"),
                "row 1: byte 13 (0xe9) is not UTF-8, perhaps",
            ),
        )
        for line in (TAG, ASK)
    ),
    case(
        "no words to transfer",
        f"{TAG} --unlabeled more.csv",
        "more.csv: no tokens or text column. Its columns: sentance; wanted one of tokens, words, text,",
        "Type --text-column NAME",
        given=also(tags(), file("more.csv", "sentance\na b\n")),
    ),
    case(
        "no context to transfer",
        f"{ASK} --unlabeled more.txt",
        "more.txt: no question column. Its columns: text; wanted one of question, query.",
        given=also(asks(), file("more.txt", "who was it\n")),
    ),
]


@pytest.mark.parametrize("bad", DATA + RECIPE + MODEL + BUDGET + OTHERS + TASKS)
def test_bad_input(bad: Case, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.api.packaged", lambda: {"minilm": here / "recipe.yaml"})
    if bad.prepare is not None:
        bad.prepare(here)
    before = tree(here)
    refused(command(bad.line), *bad.said)
    assert tree(here) == before
    assert not (here / "out").exists() and not (here / "canary").exists()


def test_the_error_is_one_json_document(here: Path) -> None:
    for line in (
        "compress model --train trian.csv --json",
        "methods nothing --json",
        "plan --json",
        "verify model --json",
    ):
        ran = command(line)
        found = json.loads(ran.out)
        assert ran.code == found["exit_code"] == 2
        assert found["error"] and found["error"] in ran.err


def test_the_canaries_sing(here: Path) -> None:
    """Were they opened, the tests above would see it."""
    pickled(here)
    pickle.loads((here / "model" / "pytorch_model.bin").read_bytes()).close()
    assert (here / "canary").exists()


def test_any_family_may_teach(here: Path) -> None:
    """A classifier without an anatomy is good enough for its answers; one for other labels is not."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    shape = GPT2Config(vocab_size=120, n_positions=64, n_embd=32, n_layer=1, n_head=4, pad_token_id=1, **labels)
    GPT2ForSequenceClassification(shape).save_pretrained(here / "gpt")
    write_tokenizer(here / "gpt")
    recipe(STUDENT.replace("teacher: teacher", "teacher: gpt"))(here)
    assert command("plan recipe.yaml --json").code == 0
    write_csv(here / "train.csv", [*GOOD, ("it was", "so so")])
    refused(
        command("plan recipe.yaml"), "train.csv, row 6: unknown label 'so so', wanted one of bad, good.", "model's."
    )


@pytest.mark.parametrize("name", ["model", "teacher", "student", "onnx"])
def test_folders_may_be_named_like_stages(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that was given is found good, and the search would begin."""
    begun: list[str] = []

    def begin(search: Any) -> None:
        begun.extend(candidate.shape.name for candidate in search.candidates)
        raise KeyboardInterrupt

    monkeypatch.setattr("smidgen.outcome.feasible", begin)
    model_folder(here / name, labels=LABELS)
    model_folder(here / "int8")
    before = tree(here)
    for line in (f"compress {name} --student int8", f"compress ./same --student {name} --depth 1"):
        assert command(f"{line} --train train.csv").code == 130
    for folder in ("int8", name):
        found = [one for one in begun if one.startswith(f"./{folder}, ")]
        bodies = ("2 blocks", "pruned to 1/2 of the work", "1 block")
        shapes = [f"{body}, {finish}" for body in bodies for finish in ("int8", "float32")]
        assert found == [f"./{folder}, {shape}" for shape in shapes]
    assert tree(here) == before
