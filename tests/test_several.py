"""Several tasks at once: the maths against loops over tasks, the data, and the whole way from a file to `predict`."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import command
from folders import PLAIN, POLAR, model_folder, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import lines, spoken, steady
from transformers import AutoModelForSequenceClassification

import smidgen
from smidgen import report, search
from smidgen.data import Columns, Data, load_data, read_split, read_texts
from smidgen.errors import DataError, InputError, ModelError
from smidgen.measure import entries
from smidgen.measure.peers import TfIdfs, TorchModel
from smidgen.methods.distil.logits import Logits
from smidgen.planner import plan
from smidgen.reading import training_split
from smidgen.recipe import load as load_recipe
from smidgen.runner import CHECKED_ROWS, _context, run
from smidgen.source import load_model, resolve
from smidgen.tape import Tape
from smidgen.tasks import Classify, Several, from_data, head_of
from smidgen.tasks.classify import NO_LABEL
from smidgen.tokens import open_tokenizer

LABELS = ("mood/bad", "mood/good", "same/no", "same/yes", "stars/1", "stars/2", "stars/3")
TASK = Several(LABELS)
TRAINING = {"epochs": 8, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}

logits_and_gold = st.integers(1, 20).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, 10_000), st.sampled_from([(0, 7), (0, 4), (2, 4)]))
)


def drawn(n: int, seed: int, among: tuple[int, int] = (0, 7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 7)).astype(np.float32) * 2, rng.integers(*among, n)


# The maths.


def test_segments_are_the_labels_of_each_task() -> None:
    assert [LABELS[at] for at in TASK.segments] == [LABELS[:2], LABELS[2:4], LABELS[4:]]
    assert TASK.owners.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert TASK.parts == {
        "mood": Classify(("bad", "good")), "same": Classify(("no", "yes")), "stars": Classify(("1", "2", "3")),
    }  # fmt: skip
    assert from_data(json.loads(json.dumps(TASK.to_data()))) == TASK


def test_loss_is_the_cross_entropy_inside_the_rows_own_task() -> None:
    logits, gold = drawn(12, 0)
    expected = []
    for z, y in zip(logits.astype(np.float64), gold, strict=True):
        task = LABELS[y].split("/")[0]
        own = [i for i, label in enumerate(LABELS) if label.split("/")[0] == task]
        expected.append(-math.log(math.exp(z[y]) / sum(math.exp(z[i]) for i in own)))
    found = TASK.loss(torch.from_numpy(logits), torch.from_numpy(gold))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_gradient_reaches_another_task_or_comes_of_a_row_without_a_label() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([3, 6, NO_LABEL])
    loss = TASK.loss(logits, labels)
    loss.sum().backward()
    assert logits.grad is not None and loss[2] == 0
    reached = logits.grad.abs() > 0
    assert reached.tolist() == [[False] * 2 + [True] * 2 + [False] * 3, [False] * 4 + [True] * 3, [False] * 7]
    assert logits.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(logits_and_gold)
def test_score_is_the_mean_over_tasks_of_their_accuracies(drawing: tuple[int, int, tuple[int, int]]) -> None:
    n, seed, among = drawing
    logits, gold = drawn(n, seed, among)
    index = np.random.default_rng(seed).integers(0, n, (5, n))

    def mean(rows: list[int]) -> float:
        hits: dict[str, list[bool]] = {}
        for i in rows:
            task = LABELS[gold[i]].split("/")[0]
            own = [k for k, label in enumerate(LABELS) if label.startswith(f"{task}/")]
            hits.setdefault(task, []).append(max(own, key=lambda k: logits[i, k]) == gold[i])
        return float(np.mean([np.mean(each) for each in hits.values()]))

    assert TASK.score(logits, gold) == pytest.approx(mean(list(range(n))))
    np.testing.assert_allclose(TASK.resampled(logits, gold, index), [mean(rows) for rows in index.tolist()])
    assert np.mean(list(TASK.each(logits, gold).values())) == pytest.approx(TASK.score(logits, gold))


def test_a_small_task_counts_as_much_as_a_large_one() -> None:
    gold = np.array([0] * 98 + [2, 3])
    logits = np.zeros((100, 7), np.float32)
    logits[:, [0, 3]] = 1  # mood is always right, same half of the time
    assert TASK.score(logits, gold) == pytest.approx((1 + 0.5) / 2)
    assert TASK.each(logits, gold) == {"mood": 1.0, "same": 0.5}
    assert TASK.decide(logits[:1]).tolist() == [[0, 3, 4]]


def test_answers_are_what_a_classifier_of_each_task_would_say() -> None:
    logits, _ = drawn(4, 1)
    for top in ({}, {"top_k": 2}, {"top_k": None}):
        for i, found in enumerate(TASK.answers(logits, **top)):
            assert list(found) == ["mood", "same", "stars"]
            for (name, part), at in zip(TASK.parts.items(), TASK.segments, strict=True):
                assert found[name] == part.answers(logits[:, at], **top)[i]
    assert sum(one["score"] for one in TASK.answers(logits, None)[0]["stars"]) == pytest.approx(1, abs=1e-6)
    assert TASK.answers(np.zeros((0, 7), np.float32)) == []


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_targets_are_inside_each_task(temperature: float) -> None:
    student, teacher = (drawn(5, seed)[0] for seed in (2, 3))
    expected = []
    for z, v in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        total = 0.0
        for own in ((0, 1), (2, 3), (4, 5, 6)):
            p, q = (np.exp(x[list(own)] / temperature) for x in (v, z))
            p, q = p / p.sum(), q / q.sum()
            total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected.append(total / 3)
    said = ({"logits": torch.from_numpy(side)} for side in (student, teacher))
    tape = Tape(*said, torch.tensor([0, NO_LABEL, 2, 5, 6]), torch.ones(5, 4), 5, 20, 4)
    found = Logits(temperature=temperature).loss(TASK, tape)
    assert set(found) == {"soft"} and float(found["soft"]) == pytest.approx(np.mean(expected), rel=1e-4)
    squared = Logits(loss_kind="mse").loss(TASK, tape)["soft"]
    assert float(squared) == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-5)


def test_hard_labels_are_mixed_in_by_the_loss_of_the_task() -> None:
    student, teacher = (torch.from_numpy(drawn(3, seed)[0]) for seed in (4, 5))
    labels = torch.tensor([1, NO_LABEL, 6])
    tape = Tape({"logits": student}, {"logits": teacher}, labels, torch.ones(3, 4), 3, 12, 2)
    found = Logits(hard=0.25).loss(TASK, tape)
    assert float(found["hard"]) == pytest.approx(0.25 * float(TASK.loss(student, labels).sum()) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a/x", "y"), "labels of several tasks are written task/label, got 'y'"),
        (("a/x", "a/y/z"), "labels of several tasks are written task/label, got 'a/y/z'"),
        (("a/x", "b/x", "a/y", "b/y"), "the labels of a task must stand together"),
        (("a/x", "a/y", "b/x"), r"a classifier needs at least 2 labels, got \['x'\]"),
        (("a/x", "a/x"), "labels must be different"),
    ],
)
def test_what_are_no_labels_of_several_tasks(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Several(labels)
    with pytest.raises(InputError, match="unknown metric 'f1', wanted one of accuracy"):
        Several(LABELS, "f1")


# The data.


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Single texts of moods, and pairs whose second text has the mood of the first or not; a task after the other."""
    draw = random.Random(seed)

    def text(mood: str) -> str:
        words = [*draw.choices(PLAIN, k=draw.randint(2, 5)), *draw.choices(POLAR[mood], k=2)]
        draw.shuffle(words)
        return " ".join(words)

    moods = [draw.choice(["bad", "good"]) for _ in range(count)]
    rows = [{"task": "mood", "text": text(mood), "text_pair": "", "label": mood} for mood in moods]
    for mood in moods:
        other = draw.choice(["bad", "good"])
        same = "yes" if other == mood else "no"
        rows.append({"task": "same", "text": text(mood), "text_pair": text(other), "label": same})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read(path: Path, rows: list[dict[str, Any]]) -> Data:
    return load_data(write(path / "train.csv", rows), task="several")


def test_a_file_of_singles_and_pairs(tmp_path: Path) -> None:
    data = load_data(
        write(tmp_path / "train.csv", rows_of(20, 0)), write(tmp_path / "dev.csv", rows_of(10, 1)), task="several"
    )
    assert data.task == Several(("mood/bad", "mood/good", "same/no", "same/yes"))
    assert data.train.pairs is not None and data.train.labels is not None
    assert [bool(pair) for pair in data.train.pairs] == [False] * 20 + [True] * 20
    assert (data.train.labels < 2).tolist() == [True] * 20 + [False] * 20
    assert not data.train.describe()["pairs"], "two texts in some rows only"
    bare = [{"text": row["text"], "text_pair": row["text_pair"]} for row in rows_of(3, 2)]
    texts, pairs = read_texts(write(tmp_path / "bare.csv", bare), task="several")
    assert pairs == tuple(row["text_pair"] for row in bare) and len(texts) == 6
    assert read_texts(write(tmp_path / "single.csv", bare[:3]), task="several")[1] is None


def test_null_is_no_second_text_and_whole_numbers_are_one_label(tmp_path: Path) -> None:
    kinds = [("stars", 1.0, None), ("stars", 2, "so"), ("stars", 10, " "), ("stars", "1", None), ("mood", "x", None)]
    rows = [{"task_name": t, "text": f"a {i}", "text2": p, "label": y} for i, (t, y, p) in enumerate(kinds)]
    rows.append({"task_name": "mood", "text": "b", "text2": None, "label": "y"})
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = Several(("mood/x", "mood/y", "stars/1", "stars/2", "stars/10"))
    split = read_split(str(file), "train", task)
    assert split.pairs == ("", "so", "", "", "", "") and split.labels is not None
    assert split.labels.tolist() == [2, 3, 4, 2, 0, 1]
    assert load_data(str(file), str(_more(tmp_path, rows)), task="several").task == task
    named = read_split(str(file), "train", task, Columns(task="task_name"))
    assert named.fingerprint == split.fingerprint


def _more(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The same labels of other texts."""
    file = folder / "dev.jsonl"
    file.write_text("\n".join(json.dumps(row | {"text": f"{row['text']} more"}) for row in rows), encoding="utf-8")
    return file


def test_dev_takes_all_rows_of_a_text_and_rows_of_every_task(tmp_path: Path) -> None:
    rows = [
        {"task": task, "text": f"text {i}", "label": f"{'ab'[i % 2]}{task}"}
        for task in ("one", "two")
        for i in range(60)
    ]
    data = read(tmp_path, rows)
    assert data.dev.labels is not None and data.train.labels is not None and data.warnings == ()
    assert not set(data.train.texts) & set(data.dev.texts)
    assert np.bincount(data.dev.labels).tolist() == [3] * 4 and len(data.train) == 120 - 12


def test_a_text_of_two_tasks_is_no_conflict_but_two_labels_of_one_task_are(tmp_path: Path) -> None:
    rows = [{"task": t, "text": f"text {i}", "label": f"{i % 2}"} for t in ("one", "two") for i in range(20)]
    assert read(tmp_path, rows).warnings == ()
    conflict = {"task": "two", "text": "text 0", "label": "1"}
    assert (
        "2 of 41 rows of train (4.9%) have other labels in other rows" in read(tmp_path, [*rows, conflict]).warnings[0]
    )


def test_a_split_without_a_task_is_told_of(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.csv", rows_of(20, 0)), write(tmp_path / "dev.csv", rows_of(10, 1)[:10])
    data = load_data(train, dev, task="several")
    assert data.warnings == (f"{dev}: no row of dev is of the task same.",)


ROW = {"task": "mood", "text": "so good", "text_pair": "", "label": "good"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW | {"task": "kind"}], r"every row of the task 'kind' has the label 'good', wanted two classes or more\."),
        ([ROW | {"task": "a/b"}], r"row 42: the task 'a/b' has '/' in it, which stands between task and label"),
        ([ROW | {"label": "n/a"}], r"row 42: the label 'n/a' has '/' in it, .* Write another sign\."),
        ([ROW | {"task": " "}], r"row 42: the column 'task' has no task, got ' '\. Fill it in or remove the row\."),
        ([ROW | {"label": ""}], r"row 42: the column 'label' has no label"),
        ([ROW | {"text": ""}], r"row 42: the column 'text' is empty"),
    ],
)
def test_what_a_training_file_may_not_hold(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, rows_of(20, 0) + rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ROW | {"label": "god"},
            r"dev.csv, row 2: unknown label of the task 'mood': 'god', wanted one of bad, good. Did you mean 'good'\?",
        ),
        (ROW | {"task": "mod"}, r"dev.csv, row 2: unknown task 'mod', wanted one of mood, same. Did you mean 'mood'\?"),
        (
            {k: v for k, v in ROW.items() if k != "task"},
            r"dev.csv: no task column. Its columns: text, text_pair, label; wanted one of task, task_name, dataset. "
            "Type --task-column NAME",
        ),
    ],
)
def test_what_dev_may_not_hold(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", rows_of(20, 0))
    with pytest.raises(DataError, match=message):
        load_data(train, write(tmp_path / "dev.csv", [row]), task="several")


def test_several_labels_a_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several labels a text \(--multi-label\) go with classification"):
        load_data(write(tmp_path / "train.csv", rows_of(20, 0)), task="several", multi_label=True)


def test_a_row_without_a_second_text_is_read_as_a_single_one(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    found = TASK.encode(tokenizer, ["a film", "a film"], ["", "so good"], 20)
    single = TASK.encode(tokenizer, ["a film"], None, 20)
    assert found.ids[: found.starts[1]].tolist() == single.ids.tolist()
    assert found.types.tolist() == [0] * 4 + [0] * 4 + [1] * 3


# Models.


def test_a_config_is_marked_so_that_a_slash_alone_makes_no_tasks(tmp_path: Path) -> None:
    config = json.loads(json.dumps(TASK.config())) | {"architectures": ["BertForSequenceClassification"]}
    assert head_of(config) == "several" and Several.from_config(config) == TASK
    plain = json.loads(json.dumps(Classify(LABELS).config())) | {"architectures": config["architectures"]}
    assert head_of(plain) == "classify"
    with pytest.raises(
        ModelError, match=r"has a head for the task classify, the task is several\. Write task: classif"
    ):
        load_model(resolve(str(model_folder(tmp_path / "model", labels=LABELS))), TASK, 0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[Any]]:
    """A teacher of both tasks, a BiLSTM that learns from it with the help of grown and unlabelled texts, its graphs."""
    root = tmp_path_factory.mktemp("several")
    files = {name: write(root / f"{name}.csv", rows_of(n, i)) for i, (name, n) in enumerate(
        {"train": 60, "dev": 20, "test": 30}.items()
    )}  # fmt: skip
    files["unlabeled"] = write(root / "unlabeled.csv", [{"text": row["text"]} for row in rows_of(10, 9)])
    recipe = {
        "model": str(model_folder(root / "model")),
        "task": "several",
        "data": {name: files[name] for name in ("train", "dev", "unlabeled")},
        "stages": [
            {"name": "teacher", "methods": ["tune.full"], "train": TRAINING},
            {"name": "grown", "methods": {"data.noise": {"copies": 1, "tags": "learned"}}},
            {
                "name": "student",
                "teacher": "teacher",
                "data": "train+grown+unlabeled",
                "methods": {
                    "student.bilstm": {"embedding": 16, "width": 16, "pooling": "attention"},
                    "distil.logits": {"hard": 0.5},
                },
                "train": TRAINING | {"epochs": 4, "learning_rate": 1e-2},
            },
            {"name": "onnx", "methods": ["export.onnx"]},
            {"name": "int8", "methods": ["quant.dynamic"]},
        ],
    }
    checked = plan(load_recipe(yaml.safe_dump(recipe)))
    done = run(checked, root / "stages")
    return root, files, [checked, *done]


def test_the_whole_way(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    _, files, (checked, teacher, _, student, onnx, int8) = chain
    assert teacher.artefact.record["history"]["best"] > 0.7, "moods are learnt, sameness hardly"
    test = read_split(files["test"], "test", checked.data.task)
    for done in (student, onnx):
        config = json.loads((done.artefact.path / "config.json").read_text(encoding="utf-8"))
        assert config["smidgen_tasks"] == ["mood", "same"] and config["model_type"] == "smidgen-siamese"
    slow, quick = TorchModel(student.artefact.path, checked.data.task), smidgen.load(onnx.artefact.path)
    assert quick.task == checked.data.task
    np.testing.assert_allclose(quick.outputs(test.texts, test.pairs), slow.outputs(test.texts, test.pairs), atol=1e-4)
    assert checked.data.task.each(quick.outputs(test.texts, test.pairs), test.labels)["mood"] > 0.7
    assert int8.artefact.form == "int8" and int8.artefact.record["task"] == checked.data.task.to_data()


def test_grown_and_unlabelled_rows_are_single_or_pairs_as_they_came(
    chain: tuple[Path, dict[str, str], list[Any]],
) -> None:
    from smidgen.artefact import Store

    root, _, (checked, *_) = chain
    split = training_split(checked, checked.stages[2], Store(root / "stages"))
    assert split.pairs is not None and split.labels is not None and len(split.pairs) == len(split)
    known = split.labels != NO_LABEL
    assert known.tolist() == [True] * 120 + [False] * (len(split) - 120)
    paired = [bool(pair) for pair in split.pairs]
    assert paired[:120] == [False] * 60 + [True] * 60 and not any(paired[-20:])
    grown = paired[120:-20]
    assert 0 < sum(grown) < len(grown), "rows with and without a second text were both grown"


def test_what_methods_see_of_dev_is_from_all_over_it(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    checked, rows = chain[2][0], np.repeat([0, -1], 100)  # as a file of one task after the other
    data = dataclasses.replace(checked.data, dev=checked.data.dev.take(rows % len(checked.data.dev)))
    ctx = _context(dataclasses.replace(checked, data=data), checked.stages[0], resolve(checked.recipe.model), Path())
    assert len(ctx.texts) == CHECKED_ROWS and [bool(pair) for _, pair in ctx.texts] == [False] * 32 + [True] * 32


def test_a_teacher_of_several_tasks_opens_in_transformers(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    teacher = chain[2][1].artefact.path
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.config.id2label == dict(enumerate(chain[2][0].data.task.labels))
    recipe = {
        "model": str(teacher),
        "data": {"train": write(chain[0] / "c.csv", [{"text": f"t {i}", "label": f"{i % 4}"} for i in range(40)])},
        "stages": [{"methods": ["tune.full"]}],
    }
    with pytest.raises(ModelError, match="has a head for the task several, the task is classify"):
        plan(load_recipe(yaml.safe_dump(recipe)))


def test_predict_answers_every_task(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    model = smidgen.load(chain[2][-2].artefact.path)
    texts, pairs = ["the film was good great", "a dull book"], ["", "a sad awful play"]
    both = model.predict(texts, pairs)
    assert [list(found) for found in both] == [["mood", "same"]] * 2
    assert all(set(one) == {"label", "score"} for found in both for one in found.values())
    assert both[0]["mood"]["label"] == "good"
    single = model.predict(texts[0])
    assert single["mood"]["label"] == both[0]["mood"]["label"]
    assert single["mood"]["score"] == pytest.approx(both[0]["mood"]["score"], abs=1e-5)
    mapping = model.predict({"text": texts[1], "text_pair": pairs[1]}, top_k=None)
    assert mapping["same"][0]["label"] == both[1]["same"]["label"] and len(mapping["mood"]) == 2
    torch_answers = TorchModel(chain[2][3].artefact.path, model.task).predict(texts, pairs)
    for ours, theirs in zip(both, torch_answers, strict=True):
        assert {k: v["label"] for k, v in ours.items()} == {k: v["label"] for k, v in theirs.items()}
        assert ours["same"]["score"] == pytest.approx(theirs["same"]["score"], abs=1e-4)


def test_the_command_predicts_a_line_a_task(chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path) -> None:
    folder = chain[2][-2].artefact.path
    texts, pairs = ["the film was good", "a dull book"], ["", "a sad play"]
    answers = smidgen.load(folder).predict(texts, pairs)
    wanted = [[task, one["label"], f"{one['score']:.4f}", text]
              for text, found in zip(texts, answers, strict=True) for task, one in found.items()]  # fmt: skip
    typed = " ".join(f"'{text}' --pair '{pair}'" for text, pair in zip(texts, pairs, strict=True))
    assert lines(command(f"predict {folder} {typed}")) == wanted
    file = write(tmp_path / "new.csv", [{"text": t, "text_pair": p} for t, p in zip(texts, pairs, strict=True)])
    assert spoken(command(f"predict {folder} --file {file} --json")) == answers
    assert len(lines(command(f"predict {folder} --file {file} --top-k 2"))) == 8
    ran = command(f"predict {folder} ' '")
    assert ran.code == 2 and "text 1 is empty" in ran.err


def test_a_baseline_for_each_task(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    data = chain[2][0].data
    peer = TfIdfs(data.train, data.task)
    logits = peer.outputs(data.dev.texts, data.dev.pairs)
    assert data.dev.labels is not None and data.task.each(logits, data.dev.labels)["mood"] > 0.9
    assert peer.parameters > 10 and 0 < peer.size_mb < 1
    moods = data.train.take(data.train.labels < 2)
    alone = TfIdfs(moods, data.task).outputs(["so good"])
    assert alone[0, :2].any() and not alone[0, 2:].any(), "a task without rows has no opinion"


def test_a_compression_says_the_quality_of_each_task(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    root, files, done = chain
    data = " ".join(f"--{name} {path}" for name, path in files.items())
    out = root / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "time_all", steady)
        patch.setattr(search, "memory_of", lambda folder, search: None)
        patch.setattr(search, "_add_folder", lambda *given: None)  # baselines that take an export each
        ran = command(
            f"compress {done[1].artefact.path} --task several {data} --depth 1 --seeds 1 "
            f"--student-epochs 1 --max-size 25MB --min-quality accuracy>=0.01 --engine onnxruntime --out {out} --json"
        )
        found = spoken(ran)
        claims = spoken(command(f"verify {out} --json"))
    report.check(found)
    assert found["verdict"] == "met" and found["task"] == done[0].data.task.to_data()
    quality = found["winner"]["numbers"]["quality"]
    assert set(quality["tasks"]) == {"mood", "same"}
    assert np.mean(list(quality["tasks"].values())) == pytest.approx(quality["value"])
    assert found["data"]["train"]["classes"]["mood/bad"] + found["data"]["train"]["classes"]["mood/good"] == 60
    assert found["baselines"][0]["name"] == "TF-IDF + logistic regression, one a task"
    assert all(claim["passed"] for claim in claims) and len(claims) >= 8
    said = f"mood {100 * quality['tasks']['mood']:.1f}"
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "mean accuracy of the tasks" in page and "| Each task, test |" in page and said in page
    assert said in (out / "report.html").read_text(encoding="utf-8")
    card = (out / "winner" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card and "| Each task | " in card and said in card
