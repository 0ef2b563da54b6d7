"""`smidgen tune`, `smidgen merge` and `smidgen delta`, as a user types them, on a tiny model and tiny data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Ran, command, tree
from folders import LABELS, model_folder, write_csv
from tiny import batch

import smidgen
from smidgen import loop, sweep, tuning
from smidgen.delta import fit, read
from smidgen.errors import InputError
from smidgen.measure.memory import forget_peak, peak_mb
from smidgen.method import names
from smidgen.recipe import Files, Training
from smidgen.schema import TUNE, lacking
from smidgen.source import load_model, resolve

ADAPTER = "--method adapter --set width=4 --epochs 1"
NUMBERS = {"quality", "dev_quality", "trained", "bytes", "seconds", "memory_mb"}


def spoken(ran: Ran, code: int = 0) -> Any:
    assert ran.code == code, ran.err
    return json.loads(ran.out)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_data: dict[str, str]) -> Iterator[Path]:
    """The current folder, with a base, data, and a tuned task in tasks/a."""
    root = tmp_path_factory.mktemp("tune")
    shutil.copytree(tiny_bert, root / "base")
    for name, path in tiny_data.items():
        shutil.copyfile(path, root / f"{name}.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tune(f"{ADAPTER} --out tasks/a")
        yield root


def squeezed(text: str) -> str:
    return " ".join(text.split())


def tune(words: str, data: str = "--train train.csv --dev dev.csv --test test.csv", base: str = "base") -> Any:
    return spoken(command(f"tune {base} {data} {words} --json"))


# ---- one method


def test_a_task_is_a_small_delta_with_its_numbers(place: Path) -> None:
    found = json.loads((place / "tasks/a/delta.json").read_text())
    assert {p.name for p in (place / "tasks/a").iterdir()} == {"delta.json", "delta.safetensors", "README.md", "stages"}
    numbers = found["numbers"]
    assert set(numbers) == NUMBERS
    assert (numbers["quality"]["n"], numbers["quality"]["split"]) == (32, "test")
    assert (numbers["dev_quality"]["n"], numbers["dev_quality"]["split"]) == (24, "dev")
    for score in (numbers["quality"], numbers["dev_quality"]):
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    assert numbers["trained"]["delta"] == 2 * (2 * 32 * 4 + 32 + 4) == found["parameters"]["delta"]
    assert numbers["trained"]["head"] == 32 * 2 + 2, "the adapters are no part of the head"
    assert numbers["trained"]["base"] == sum(
        p.numel() for p in load_model(resolve("base"), read(place / "tasks/a").task, 0).bert.parameters()
    )
    files = (place / "tasks/a/stages").glob("*/delta/delta.*")
    assert numbers["bytes"] == sum(file.stat().st_size for file in files) < 20_000
    assert numbers["seconds"] > 0 and numbers["memory_mb"] > 50
    assert found["base"]["model"] == "base" and found["method"] == "tune.adapter" and found["seed"] == 0
    assert found["train"] == {"epochs": 1.0, "learning_rate": 1e-3}
    assert found["data"]["train"]["rows"] == 64


def test_the_delta_in_out_is_the_model_that_was_scored(place: Path) -> None:
    from smidgen.data import read_split
    from smidgen.measure.peers import TorchModel

    delta = read(place / "tasks/a")
    (stage,) = (path.parent for path in (place / "tasks/a/stages").glob("*/model.safetensors"))
    split = read_split("dev.csv", "dev", delta.task)
    scored = TorchModel(stage, delta.task).outputs(split.texts)
    assert delta.task.score(scored, split.labels) == delta.record["numbers"]["dev_quality"]["value"]
    model, inputs = fit(delta, resolve("base")), batch(30, [4, 7, 2])
    whole = load_model(resolve(str(stage)), delta.task, 0)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, whole(**inputs).logits, atol=1e-5, rtol=0)


def test_the_card_says_what_it_is(place: Path) -> None:
    card = (place / "tasks/a/README.md").read_text().replace("\u00a0", " ")
    assert card.startswith("---\nlibrary_name: smidgen\ntags: [smidgen, delta]\n---\n")
    for words in ("tuned with tune.adapter", "Labels: bad, good.", "| test, accuracy, n = 32 |", "width=4", "64 rows"):
        assert words in card


def test_the_same_command_again_trains_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(place / "tasks/a")
    monkeypatch.setattr(loop, "train", None)
    monkeypatch.setattr(tuning, "TorchModel", None)
    ran = command(f"tune base --train train.csv --dev dev.csv --test test.csv {ADAPTER} --out tasks/a")
    assert ran.code == 0, ran.err
    assert "With its base it is a model:\n  smidgen merge base tasks/a --out DIR" in ran.out
    assert "test, accuracy, n = 32" in ran.out
    assert tree(place / "tasks/a") == before


def test_another_test_set_is_read_and_nothing_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "tasks/a", place / "tasks/again")
    rows = (place / "test.csv").read_text().splitlines()
    (place / "half.csv").write_text("\n".join(rows[:17]) + "\n")
    monkeypatch.setattr(loop, "train", None)
    found = tune(f"{ADAPTER} --out tasks/again", "--train train.csv --dev dev.csv --test half.csv")
    assert found["numbers"]["quality"]["n"] == 16
    assert tune(f"{ADAPTER} --out tasks/again", "--train train.csv --dev dev.csv")["numbers"]["quality"] is None


def test_full_tuning_leaves_a_whole_model_and_says_so(place: Path) -> None:
    data = "--train train.csv --dev dev.csv"
    ran = command(f"tune base {data} --method tune.full --epochs 1 --out tasks/full")
    assert ran.code == 0, ran.err
    assert "It changes the base itself, so there is no delta: a whole model is in tasks/full/model." in ran.out
    found = tune("--method full --epochs 1 --out tasks/full", data)
    assert found["leaves"] == "model" and not (place / "tasks/full/delta.json").exists()
    assert set(found["numbers"]) == NUMBERS and found["numbers"]["quality"] is None
    trained = found["numbers"]["trained"]
    assert trained["share"] == 1 and trained["delta"] == trained["base"] and trained["head"] == 66
    model = place / "tasks/full/model"
    assert resolve(str(model)).head == "classify" and "it has no delta" in (model / "README.md").read_text()
    assert found["numbers"]["bytes"] > 90_000


def test_a_head_alone_is_a_delta_too(place: Path) -> None:
    """Of a base without a pooler, which is then the head's."""
    shutil.copytree(place / "base", place / "bare")
    from transformers import BertModel

    BertModel.from_pretrained("bare", add_pooling_layer=False).save_pretrained("bare")
    found = tune("--method freeze --set blocks=all --epochs 1 --out tasks/head", base="bare")
    assert found["leaves"] == "delta" and found["parts"] == []
    assert found["numbers"]["trained"] | {"base": 0} == {
        "delta": 0,
        "stored": 0,
        "head": 32 * 33 + 66,
        "base": 0,
        "share": 0,
    }
    assert fit(read(place / "tasks/head"), resolve("bare")).config.num_labels == 2


def test_every_method_of_tuning_is_found_by_walking() -> None:
    assert {f"tune.{short}" for short in tuning.known()} == {name for name in names() if name.startswith("tune.")}
    assert tuning.way_of("adapter") == tuning.way_of("tune.adapter")
    assert tuning.long_enough(tuning.way_of("lora"), 2000).training.epochs == 8  # 500 steps of 32
    assert tuning.long_enough(tuning.way_of("lora"), 500).training.epochs == 16
    for way, rows in (
        (tuning.way_of("lora"), 20_000),
        (tuning.way_of("lora", None, 2), 500),
        (tuning.way_of("full"), 500),
    ):
        assert tuning.long_enough(way, rows) == way
    assert tuning.way_of("bitfit", {}, 2, None, 8).training == Training(epochs=2, learning_rate=1e-3, batch_size=8)
    assert tuning.way_of("lora", {"kind": "ia3"}).training.learning_rate == 1e-2  # as `tune.lora` says that it wants
    assert tuning.way_of("lora", {"kind": "dora"}).training.learning_rate == 1e-3
    assert [use.method for use in tuning.way_of("bitfit").methods] == ["tune.full", "tune.bitfit"]
    assert [use.method for use in tuning.way_of("full").methods] == ["tune.full"]


# ---- what is refused

DATA = "--train train.csv --dev dev.csv"
REFUSED = {
    f"tune base {DATA} --method adaptor": (
        "--method adaptor: no such method of tuning. Did you mean 'adapter'? Use one of adapter, bitfit,"
    ),
    f"tune base {DATA} --method adapter --set wdth=4": "tune.adapter.wdth: no such key. Did you mean 'width'?",
    f"tune base {DATA} --method adapter --set width=wide": "width: wanted a whole number, got 'wide'",
    f"tune base {DATA} --method adapter --set width": "--set width: wanted NAME=VALUE. Write it like --set width=16.",
    f"tune base {DATA} --method adapter --set width=4 --set width=8": "--set width: given twice.",
    f"tune base {DATA} --method adapter --set 'width=[4'": "--set width: 1 fault",
    f"tune base {DATA} --set width=4": "--set and --learning-rate go with one method.",
    f"tune base {DATA} --method bitfit --time-limit 20m": "--time-limit and --tasks go with --method auto.",
    f"tune base {DATA} --time-limit 20": "--time-limit 20: wanted a number and a unit.",
    "tune base --method bitfit": "Missing option '--train'",
    f"tune base {DATA} --task mask_language --method bitfit": "--task mask_language: is pretraining",
    f"tune nowhere {DATA} --method bitfit": "nowhere: no such folder",
    "merge base base --out m": "base: not a delta, there is no delta.json.",
    "merge base nowhere --out m": "nowhere: not a delta",
    "merge base tasks/a --out base": "--out base: something else is there.",
    "delta show base": "base: not a delta, there is no delta.json.",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_and_why(line: str, place: Path) -> None:
    out = " --out refused" if line.startswith("tune") else ""
    ran = command(line + out)
    assert ran.code == 2, ran.err
    assert REFUSED[line] in ran.err and ran.err.count("Error ") == 1 and ran.out == ""
    assert not (place / "refused").exists() and not (place / "m").exists()


def test_a_method_that_the_family_has_nothing_for(place: Path) -> None:
    model_folder(place / "modern", "modernbert")
    ran = command(f"tune modern {DATA} --method bitfit --out tasks/modern")
    assert ran.code == 2
    assert "this modernbert has none in query, key, value" in ran.err and "Write add: true" in ran.err
    assert not (place / "tasks/modern/delta.json").exists()


def test_a_folder_of_another_task_is_left_alone(place: Path) -> None:
    other = [(f"text {i}", ("up", "down", "level")[i % 3]) for i in range(30)]
    write_csv(place / "other.csv", other)
    before = tree(place / "tasks/a")
    ran = command(f"tune base --train other.csv {ADAPTER} --out tasks/a")
    assert ran.code == 2
    assert "--out tasks/a: delta.json there is of another task (classify: bad, good; train.csv)." in ran.err
    same_labels = command(f"tune base --train dev.csv --dev test.csv {ADAPTER} --out tasks/a")
    assert same_labels.code == 2 and "is of another task" in same_labels.err
    assert tree(place / "tasks/a") == before


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"task": '])
def test_what_is_no_record_of_ours_is_left_alone(text: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "delta.json").write_text(text)
    ran = command(f"tune base {DATA} {ADAPTER} --out {tmp_path}")
    assert ran.code == 2 and "delta.json there is not smidgen's, or not whole. Give another --out" in ran.err
    assert tree(tmp_path) == {"delta.json": text.encode()}


def test_work_that_cannot_be_read_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/tuned.json").write_text('{"numbers": {')
    ran = command(f"tune base {DATA} {ADAPTER} --out {tmp_path}")
    assert ran.code == 2 and "tuned.json: cannot be read" in ran.err and "Delete" in ran.err


def test_a_readme_of_someone_else_is_left_alone(place: Path) -> None:
    (place / "theirs").mkdir()
    (place / "theirs/README.md").write_text("# Mine\n")
    ran = command(f"tune base {DATA} {ADAPTER} --out theirs")
    assert ran.code == 2 and "--out theirs: has a README.md that smidgen did not write." in ran.err
    assert tree(place / "theirs") == {"README.md": b"# Mine\n"}


# ---- merge and show


def test_what_folds_into_the_weights_gives_a_plain_folder(place: Path) -> None:
    tune("--method bitfit --epochs 1 --lr 0.1 --out tasks/bias")
    record = spoken(command("merge base tasks/bias --out plain --json"))
    config = json.loads((place / "plain/config.json").read_text())
    assert config["model_type"] == "bert" and record["edits"] == [] and record["form"] == "float"
    from transformers import AutoModelForSequenceClassification

    inputs = batch(30, [4, 7, 2])
    model = fit(read(place / "tasks/bias"), resolve("base"))
    plain = AutoModelForSequenceClassification.from_pretrained("plain").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)
    assert tuple(plain.config.id2label.values()) == LABELS


def test_a_merged_folder_predicts_and_recipes_go_on_from_it(place: Path) -> None:
    record = spoken(command("merge base tasks/a --out merged --onnx --json"))
    assert record["form"] == "onnx" and [edit["edit"] for edit in record["edits"]] == ["Attach"]
    assert [stage["name"] for stage in record["lineage"]] == ["merge"] and "tune.adapter" in record["methods"]
    delta = read(place / "tasks/a")
    from smidgen.data import read_split

    split = read_split("test.csv", "test", delta.task)
    scored = delta.task.score(smidgen.load("merged").outputs(split.texts), split.labels)
    assert scored == pytest.approx(delta.record["numbers"]["quality"]["value"])
    assert command("predict merged 'a good film'").out.split("\t")[0] in LABELS

    before = tree(place / "merged")
    assert command("merge base tasks/a --out merged --onnx").code == 0
    assert tree(place / "merged") == before, "made once"

    (place / "on.yaml").write_text(
        "model: merged\ndata: {train: train.csv, dev: dev.csv}\n"
        "stages:\n- {name: more, methods: {tune.full: {}}, train: {epochs: 0.2}}\n"
    )
    (done,) = spoken(command("run on.yaml --out on --json"))
    last = json.loads((place / "on/stages" / done["id"] / "smidgen.json").read_text())
    assert [stage["name"] for stage in last["lineage"]] == ["merge", "more"] and last["model"] == "base"
    assert [edit["edit"] for edit in last["edits"]] == ["Attach"]


def test_another_base_is_not_merged(place: Path) -> None:
    model_folder(place / "stranger", seed=7)
    ran = command("merge stranger tasks/a --out nothing")
    assert ran.code == 2 and "made on a base whose weights hash to" in ran.err and not (place / "nothing").exists()


def test_show_tells_what_a_delta_is(place: Path) -> None:
    found = spoken(command("delta show tasks/a --json"))
    assert found == json.loads((place / "tasks/a/delta.json").read_text()) | {"path": "tasks/a"}
    said = " ".join(command("delta show tasks/a").out.replace("\u00a0", " ").split())
    for words in ("base (bert), weights", "classify: bad, good", "tune.adapter(kind=pfeiffer, width=4", "66 numbers"):
        assert words in said


@pytest.mark.parametrize("name", ["show", "import", "export"])
def test_help_of_what_is_done_with_deltas(name: str) -> None:
    said = " ".join(command(f"delta {name} --help").out.split())
    assert said.count(f"smidgen delta {name}") >= 2 and "--json" in said


def test_a_delta_goes_to_another_library_and_comes_back(place: Path) -> None:
    pytest.importorskip("smidgen.exchange")
    gone = spoken(command("delta export tasks/a --to adapterhub --base base --out hub --json"))
    assert gone["format"] == "adapterhub" and "adapter_config.json" in gone["files"]
    found = spoken(command("delta import hub --from adapterhub --base base --out back --label bad --label good --json"))
    assert found["task"]["labels"] == ["bad", "good"] and found["parts"][0]["kind"] == "adapter"
    inputs = batch(30, [4, 7, 2])
    ours, theirs = (fit(read(place / name), resolve("base")) for name in ("tasks/a", "back"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, ours(**inputs).logits, atol=1e-6, rtol=0)
    taken = command("delta import hub --from adapterhub --base base --out back")
    assert taken.code == 2 and "--out back: something is there." in taken.err
    unknown = command("delta export tasks/a --to pfet --base base --out other")
    assert unknown.code == 2 and "--to pfet: no such format. Did you mean 'peft'?" in unknown.err
    assert not (place / "other").exists()


# ---- several, side by side


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method beside freezing and full, so that it is quick."""
    monkeypatch.setattr(sweep, "DEFAULT", ("bitfit", "not-there-yet"))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways alone."""
    monkeypatch.setattr(sweep, "ways", lambda *given: [tuning.way_of(n, None, 0.5) for n in ("bitfit", "full")])


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The epochs of every training from now on."""
    seen: list[float] = []
    train = loop.train

    def count(running: Any, ctx: Any, rows: Any, dev: Any, settings: Training, *rest: Any, **more: Any) -> Any:
        seen.append(settings.epochs)
        return train(running, ctx, rows, dev, settings, *rest, **more)

    monkeypatch.setattr(loop, "train", count)
    return seen


def test_ways_side_by_side(place: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = trainings(monkeypatch)
    found = tune("--epochs 1 --tasks 10 --out tasks/auto")
    assert list(lacking(found, TUNE)) == [] and found["schema"] == 1
    assert found == json.loads((place / "tasks/auto/tune.json").read_text())
    ways = {way["name"]: way for way in found["ways"]}
    assert list(ways) == ["bitfit", "freeze(blocks=2)", "freeze(blocks=1)", "full"] and seen == [1.0] * 4
    assert {way["status"] for way in ways.values()} == {"trained"}
    assert found["advised"] in found["tied"] and found["best"] in found["tied"] and found["tasks"] == 10
    assert set(ways[found["advised"]]["numbers"]) == {*NUMBERS, "kept"}
    read_test = [name for name, way in ways.items() if way["numbers"]["quality"]]
    assert read_test == [found["advised"]], "test is read for the way that is advised alone"
    assert "On test, read for it alone:" in found["reason"]
    assert ways[found["best"]]["numbers"]["kept"]["value"] == 1
    page = (place / "tasks/auto/tune.md").read_text()
    assert all(f" {name} |" in page for name in ways) and f"| \\* {found['advised']} |" in page
    kept = {p.name for p in (place / "tasks/auto").iterdir()}
    assert kept == {"stages", "tune.json", "tune.md", "model" if found["leaves"] == "model" else "delta"}

    again = tune("--epochs 1 --tasks 10 --out tasks/auto")
    assert again | {"seconds": 0} == found | {"seconds": 0} and seen == [1.0] * 4, "nothing is trained twice"
    said = command(f"tune base {DATA} --test test.csv --epochs 1 --tasks 10 --out tasks/auto")
    assert said.code == 0 and f"* {found['advised']}" in said.out and squeezed(found["reason"]) in squeezed(said.out)


def test_with_little_time_a_third_first_then_the_best_half(
    place: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trainings(monkeypatch)
    found = tune("--epochs 1.5 --time-limit 10m --out tasks/short")
    assert seen[:4] == [0.5] * 4 and seen[4:] in ([1.5] * 2, [1.5] * 3)
    states = [way["status"] for way in found["ways"]]
    assert states.count("trained") == len(seen) - 4 and states[-1] == "trained", "full is what others are compared with"
    assert {way["train"]["epochs"] for way in found["ways"] if way["status"] == "short"} == {0.5}
    assert found["time_limit_s"] == 600


def test_what_a_model_has_nothing_for_is_told_and_passed_by(place: Path, two: None) -> None:
    model_folder(place / "modern", "modernbert")
    found = tune("--epochs 1 --out tasks/modern", base="modern")
    bitfit = found["ways"][0]
    assert (bitfit["name"], bitfit["status"], bitfit["numbers"]) == ("bitfit", "refused", None)
    assert "this modernbert has none" in bitfit["reason"] and "bitfit" not in found["tied"]


def test_an_interrupted_comparison_goes_on(place: Path, two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    train, seen = loop.train, []

    def interrupted(*args: Any, **more: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train(*args, **more)

    monkeypatch.setattr(loop, "train", interrupted)
    ran = command(f"tune base {DATA} --epochs 1 --out tasks/stopped")
    assert ran.code == 130 and "The same command goes on where it was." in ran.err
    assert not (place / "tasks/stopped/tune.json").exists()
    assert command(f"tune base {DATA} --epochs 1 --out tasks/stopped").code == 0
    assert len(seen) == 2 + 1, "the first was not trained again"


def test_no_time_at_all_is_said(place: Path, few: None) -> None:
    ran = command(f"tune base {DATA} --time-limit 0.001s --out tasks/none")
    assert ran.code == 2 and "no way of tuning could be trained in it (bitfit: the time was over;" in ran.err


def test_with_little_time_full_tuning_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(sweep, "_try", lambda tuner, entry, *rest: order.append(entry.way.name))
    tried = [sweep.Entry(way) for way in sweep.ways(2)]
    nobody: Any = None
    sweep.train_all(nobody, tried, sweep.Clock(0.0, limit=9.0))
    assert order[0] == "full" and order[1:] == [entry.way.name for entry in tried[:-1]]


def test_time_is_left_to_score_what_was_trained() -> None:
    clock = sweep.Clock(started=10.0, limit=100.0)
    assert (clock.until(), clock.until(0.5)) == (110.0, 60.0)
    clock.after = 5.0
    assert clock.until() == 100.0
    assert sweep.Clock(started=10.0).until() == float("inf")


def test_depths_that_are_frozen_are_of_the_model() -> None:
    def depths(blocks: int) -> list[Any]:
        return [way.settings["blocks"] for way in sweep.ways(blocks) if way.method == "tune.freeze"]

    assert depths(12) == [12, 9, 6] and depths(2) == [2, 1] and depths(1) == [1]
    assert sweep.ways(12)[-1].method == "tune.full"


def test_the_peak_of_memory_is_of_what_was_done_since() -> None:
    forget_peak()
    before = peak_mb()
    assert before is not None
    held = np.ones(40_000_000 // 8)
    assert (peak_mb() or 0) > before + 30
    del held
    forget_peak()
    after = peak_mb()
    assert after is not None and after < before + 30


def test_from_python(place: Path) -> None:
    found = smidgen.tune("base", "train.csv", "test.csv", "dev.csv", method="adapter", out="tasks/py", epochs=1)
    assert found["method"] == "tune.adapter" and found["numbers"]["quality"]["n"] == 32
    record = smidgen.merge("base", "tasks/py", "merged-py")
    assert record["form"] == "float" and resolve("merged-py").head == "classify"
    with pytest.raises(InputError, match="no such method of tuning"):
        smidgen.tune("base", "train.csv", method="nothing", out="tasks/py")
    assert tuning.Job("m", Files("t")).recipe(tuning.way_of("full")).name == "full"
