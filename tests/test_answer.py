"""Answering: windows, the official metrics, and the whole way from questions to `predict`."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import command
from folders import PLAIN, model_folder, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_cli import lines, spoken, steady
from test_tag import NAMES, TRAINING, write
from tiny import FAMILIES, VOCAB, batch, tiny

import smidgen
from smidgen import report
from smidgen.batch import Batch
from smidgen.data import load_data
from smidgen.encoded import objects
from smidgen.errors import DataError, InputError, RecipeError
from smidgen.graph import single_output
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel
from smidgen.planner import plan
from smidgen.recipe import load as load_recipe
from smidgen.runner import run
from smidgen.tape import logits_of
from smidgen.tasks import Answer, from_data
from smidgen.tasks.answer import Found, best_span, exact, word_f1
from smidgen.tokens import open_tokenizer

TASK = Answer()


# The metrics, against the official definition written out.


def official(prediction: str, truths: list[str]) -> tuple[float, float]:
    """Exact match and F1 of SQuAD 2.0: (Rajpurkar et al. 2018), the best over the accepted answers."""

    def normal(text: str) -> str:
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())

    def f1(truth: str) -> float:
        gold, said = normal(truth).split(), normal(prediction).split()
        same = sum((Counter(gold) & Counter(said)).values())
        if not gold or not said:
            return float(gold == said)
        if not same:
            return 0.0
        precision, recall = same / len(said), same / len(gold)
        return 2 * precision * recall / (precision + recall)

    truths = [t for t in truths if normal(t)] or [""]
    return max(float(normal(prediction) == normal(t)) for t in truths), max(f1(t) for t in truths)


TEXT = st.text(alphabet="the an cat.,' BÉ", max_size=14)


@given(TEXT, st.lists(TEXT.filter(lambda t: re.search(r"[bc\u00e9]", t.lower()) is not None), max_size=3))
def test_metrics_are_the_official_ones(said: str, truths: list[str]) -> None:
    outputs = objects([Found(said, 0, len(said), 0.5)])
    gold = objects([tuple((t, 0) for t in truths)])
    em, f1 = official(said, truths)
    assert replace(TASK, metric="exact").score(outputs, gold) == pytest.approx(em)
    assert TASK.score(outputs, gold) == pytest.approx(f1)


def test_metrics_of_known_answers() -> None:
    assert exact("The cat.", "cat") == 1 and exact("cats", "cat") == 0
    assert word_f1("the black cat", "a cat") == pytest.approx(2 / 3)
    assert word_f1("", "") == 1 and word_f1("", "cat") == 0
    outputs = objects([Found("cat", 0, 3, 1.0), Found("", -1, -1, 1.0)])
    gold = objects([(("dog", 0), ("the cat", 4)), ()])
    assert TASK.score(outputs, gold) == 1
    assert TASK.resampled(outputs, gold, np.array([[0, 0], [1, 1]])).tolist() == [1, 1]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=45))
def test_the_best_span_is_the_best_of_all(scores: list[tuple[float, float]]) -> None:
    start, end = (np.array(side) for side in zip(*scores, strict=True))
    first, last = best_span(start, end)
    spans = [(i, j) for i in range(len(start)) for j in range(i, min(i + 30, len(start)))]
    assert (first, last) in spans
    assert start[first] + end[last] == max(start[i] + end[j] for i, j in spans)


# Windows.


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_tokenizer(tmp_path)
    return open_tokenizer(tmp_path)


def test_windows_overlap_and_hold_every_token(tokenizer: Any) -> None:
    context = " ".join(random.Random(0).choices(PLAIN, k=60))
    encoded = TASK.encode(tokenizer, ["the film", "a book"], [context, "so good"], 24)
    assert encoded.example is not None and encoded.spans is not None
    assert encoded.example.tolist() == [0] * (len(encoded) - 1) + [1] and len(encoded) > 4
    assert encoded.lengths.max() <= 24
    seen = {tuple(s) for s in encoded.spans.tolist() if s[0] >= 0}
    words = [m.span() for m in re.finditer(r"\S+", context)]
    assert seen >= set(words)
    assert (encoded.spans[:3] == -1).all(), "[CLS] and the question point nowhere"


def test_targets_are_in_the_windows_that_hold_the_answer(tokenizer: Any) -> None:
    context = " ".join(random.Random(0).choices(PLAIN, k=60))
    at = [m.span() for m in re.finditer(r"\S+", context)][40:42]
    answer = context[at[0][0] : at[1][1]]
    gold = objects([((answer, at[0][0]),)])
    encoded = TASK.encode(tokenizer, ["the film"], [context], 24)
    targets = TASK.targets(encoded, ["the film"], gold)
    held = 0
    for row, (first, last) in enumerate(targets.tolist()):
        spans = encoded.spans[encoded.starts[row] : encoded.starts[row + 1]]
        inside = any((s == at[0][0]) for s, _ in spans) and any(e == at[1][1] for _, e in spans)
        assert ((first, last) != (0, 0)) == inside
        if inside:
            held += 1
            assert (spans[first][0], spans[last][1]) == (at[0][0], at[1][1])
    assert held >= 1
    values = np.full((len(encoded.ids), 2), -4.0, np.float32)
    for row, (first, last) in enumerate(targets):
        values[encoded.starts[row] + first, 0] = values[encoded.starts[row] + last, 1] = 4.0 if first else 1.0
    (found,) = TASK.gather(encoded, values, ["the film"], [context])
    assert (found.text, found.start, found.end) == (answer, at[0][0], at[1][1])


def test_no_answer_wins_where_it_scores_more(tokenizer: Any) -> None:
    encoded = TASK.encode(tokenizer, ["the film"], ["so good"], 24)
    values = np.zeros((len(encoded.ids), 2), np.float32)
    values[0] = 1.0
    (found,) = TASK.gather(encoded, values, ["the film"], ["so good"])
    assert (found.text, found.start) == ("", -1)
    (always,) = replace(TASK, null=False).gather(encoded, values, ["the film"], ["so good"])
    assert always.text and always.text in "so good", "where each question of the training data has an answer"
    assert Answer.from_config(replace(TASK, null=False).config()) == replace(TASK, null=False)
    assert from_data(replace(TASK, null=False).to_data()) == replace(TASK, null=False)
    assert TASK.targets(encoded, ["the film"], objects([()])).tolist() == [[0, 0]]


# Files.

GOOD = {"question": "who", "context": "the film was good", "answers": {"text": ["film"], "answer_start": [4]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["film"], "answer_start": [5]}}, "row 2: the answer 'film' is not in its context at 5"),
        ({"answers": {"text": ["film"], "answer_start": [5]}}, "there is 'ilm '. It is at 4: correct answer_start."),
        ({"answers": {"text": ["play"], "answer_start": [4]}}, "It is nowhere in the context."),
        ({"answers": {"text": ["film"], "answer_start": []}}, 'wanted {"text": [...], "answer_start": [...]}'),
        ({"answers": "film"}, "row 2: the column 'answers' holds film, wanted"),
        ({"context": " "}, "row 2: the column 'context' is empty, wanted a text."),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(write(tmp_path / "train.jsonl", [GOOD, GOOD | change]), task="answer")
    assert message in str(caught.value) and "train.jsonl" in str(caught.value)


def test_a_dev_set_takes_whole_contexts(tmp_path: Path) -> None:
    rows = [GOOD | {"question": f"who {i}", "context": f"the film was good {i % 7}"} for i in range(70)]
    data = load_data(write(tmp_path / "train.jsonl", rows), task="answer")
    assert data.train.pairs and data.dev.pairs and not set(data.train.pairs) & set(data.dev.pairs)
    assert len(data.train) + len(data.dev) == 70 and len(data.dev) == 10


# The whole way.


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Where is the name behind the word that is asked for? Every fifth context has none."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        asked, name = draw.choice(["film", "book"]), draw.choice(NAMES)
        other = "book" if asked == "film" else "film"
        left, right = draw.choices(PLAIN[5:], k=draw.randint(0, 3)), draw.choices(PLAIN[5:], k=draw.randint(0, 3))
        middle = [other, draw.choice(PLAIN[8:])] if i % 5 == 0 else [asked, name]
        context = " ".join([*left, *middle, *right])
        start = context.find(name)
        answers = {"text": [], "answer_start": []} if i % 5 == 0 else {"text": [name], "answer_start": [start]}
        rows.append({"question": f"the {asked}", "context": context, "answers": answers})
    return rows


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[Any]]:
    root = tmp_path_factory.mktemp("answer")
    files = {
        name: write(root / f"{name}.jsonl", rows_of(count, seed))
        for seed, (name, count) in enumerate({"train": 160, "dev": 30, "test": 60}.items())
    }
    recipe = {
        "model": str(model_folder(root / "model")),
        "task": "answer",
        "data": files | {"max_length": 24},
        "stages": [
            {"name": "teacher", "methods": ["tune.full"], "train": TRAINING},
            {
                "name": "student",
                "teacher": "teacher",
                "methods": {"prune.layers": {"keep": 1}, "distil.logits": {"hard": 0.5}, "distil.hidden": {}},
                "train": TRAINING,
            },
            {"methods": ["export.onnx"]},
            {"methods": ["quant.dynamic"]},
        ],
    }
    return root, files, run(plan(load_recipe(yaml.safe_dump(recipe))), root / "stages")


def test_it_learns_and_teaches(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    _, files, done = chain
    teacher, student = (one.artefact.record["history"]["best"] for one in done[:2])
    assert teacher > 0.7 and student > 0.7
    data = load_data(**files, task="answer")
    assert data.test is not None and data.test.labels is not None
    outputs = smidgen.load(done[2].artefact.path).outputs(data.test.texts, data.test.pairs)
    assert data.task.score(outputs, data.test.labels) > 0.7
    peer = TorchModel(done[2].artefact.path, data.task).outputs(data.test.texts, data.test.pairs)
    assert [f.text for f in outputs] == [f.text for f in peer]
    assert [f.score for f in outputs] == pytest.approx([f.score for f in peer], abs=1e-4)
    assert len(smidgen.load(done[3].artefact.path).predict(list(data.test.texts), data.test.pairs)) == 60


def test_predict_takes_lists_and_mappings(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    model = smidgen.load(chain[2][2].artefact.path)
    context = "very quite film zadig was"
    (one,) = model.predict(["the film"], [context])
    assert set(one) == {"score", "start", "end", "answer"}
    assert one["answer"] == (context[one["start"] : one["end"]] if one["answer"] else "")
    assert model.predict({"question": "the film", "context": context}) == one
    with pytest.raises(InputError, match=r"an answer is looked for in a context; wanted questions and contexts"):
        model.predict(["the film"])
    with pytest.raises(InputError, match=r"got 1 questions and 2 contexts"):
        model.predict(["the film"], [context, context])


def test_a_student_with_another_tokenizer_is_refused(
    chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path
) -> None:
    student = model_folder(tmp_path / "student")
    write_tokenizer(student, drop=("film",))
    recipe = {
        "model": str(student),
        "task": "answer",
        "data": chain[1] | {"max_length": 24},
        "stages": [{"teacher": str(chain[2][0].artefact.path), "methods": ["distil.logits"]}],
    }
    with pytest.raises(RecipeError, match=r"cut texts differently. Take a student that starts from its teacher."):
        plan(load_recipe(yaml.safe_dump(recipe)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_two_outputs_is_a_tagger_of_one(family: str) -> None:
    """In every family, with the same weights: what its graph is made of."""
    model = tiny(family, labels=2, head="QuestionAnswering")
    given = batch(VOCAB, [5, 9])
    with torch.inference_mode():
        torch.testing.assert_close(single_output(model)(**given).logits, logits_of(model(**given)))


def test_the_loss_of_a_span_does_not_hang_on_padding() -> None:
    """A start and an end are each a choice among real tokens: however wide the batch, whatever row is beside it."""
    model, lengths = tiny("bert", labels=2, head="QuestionAnswering"), [5, 9, 3]
    labels = torch.tensor([[1, 3], [0, 0], [2, 2]])
    narrow, wide = (Batch(Answer(), batch(VOCAB, lengths, pad_to=width), labels).losses(model) for width in (9, 40))
    torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-5)
    alone = Batch(Answer(), {k: v[2:, :3] for k, v in batch(VOCAB, lengths).items()}, labels[2:]).losses(model)
    torch.testing.assert_close(alone, wide[2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["mpnet", "modernbert"])
def test_other_families_find_spans(family: str, tmp_path: Path) -> None:
    """A graph with one output, equal to the model with two."""
    train = write(tmp_path / "train.jsonl", rows_of(40, 0))
    recipe = {
        "model": str(model_folder(tmp_path / "model", family)),
        "task": "answer",
        "data": {"train": train},
        "stages": [{"methods": ["tune.full"], "train": TRAINING | {"epochs": 1}}, {"methods": ["export.onnx"]}],
    }
    done = run(plan(load_recipe(yaml.safe_dump(recipe))), tmp_path / "stages")
    assert done[1].artefact.record["found"]["largest_difference"] <= 1e-4
    assert smidgen.load(done[1].artefact.path).session.outputs["logits"][-1] == 2


# What a user sees.


@pytest.fixture(scope="module")
def compressed(chain: tuple[Path, dict[str, str], list[Any]]) -> tuple[Path, dict[str, Any]]:
    """A finished `smidgen compress --task answer` of the trained model at its own depth."""
    root, files, done = chain
    data = " ".join(f"--{name} {path}" for name, path in files.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "time_all", steady)
        ran = command(
            f"compress {done[0].artefact.path} --task answer {data} --depth 2 --seeds 1 --max-size 25MB "
            f"--max-length 24 --min-quality exact>=0.01 --engine onnxruntime --out {root / 'out'} --json"
        )
    return root / "out", spoken(ran)


def test_it_is_compressed(compressed: tuple[Path, dict[str, Any]]) -> None:
    out, found = compressed
    report.check(found)
    assert found["verdict"] == "met" and found["task"]["metric"] == "exact"
    assert found["data"]["train"]["classes"] == {"with an answer": 128, "without": 32}
    assert found["baselines"] == [] and found["notes"][:1] == [
        "No baseline without an encoder is shown: none points into a context. 20.0% of the questions of test have no "
        "answer: to answer none of them scores that much."
    ]
    assert any(
        "15 of 60 rows of test (25.0%) are nearly or wholly in train" in said for said in found["data"]["warnings"]
    )
    measured = found["winner"]["numbers"]
    assert measured["quality"]["n"] == 60 and measured["quality_kept"]["value"] > 0 and measured["memory_mb"] > 10
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "exact match" in page and "Question and context in, answer out" in page and found["notes"][0] in page
    assert "start, end" not in page
    front, card = (out / "winner" / "README.md").read_text(encoding="utf-8").split("---\n")[1:]
    meta = yaml.safe_load(front)
    assert meta["pipeline_tag"] == "question-answering"
    assert meta["model-index"][0]["results"][0]["metrics"][0]["type"] == "exact_match"
    assert 'smidgen predict winner "question" --pair "context"' in card and "Labels" not in card
    assert 'predict(["question"], ["context"])' in card


@pytest.mark.alone
def test_it_is_verified_and_timed(
    compressed: tuple[Path, dict[str, Any]], chain: tuple[Path, dict[str, str], list[Any]]
) -> None:
    out, found = compressed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "time_all", steady)
        claims = spoken(command(f"verify {out} --json"))
        assert all(claim["passed"] for claim in claims) and len(claims) >= 8
        line = f"bench {out / 'winner'} {chain[2][3].artefact.path} --json"
        timed = spoken(command(f"{line} --data {chain[1]['test']}"))["entries"]
        made_up = spoken(command(line))
    assert timed[0]["numbers"]["quality"]["metric"] == "f1" and timed[1]["numbers"]["agreement"]["n"] == 60
    assert "question and context in, answer out, interleaved; " in made_up["conditions"]
    assert "; on made-up texts" in made_up["conditions"]
    assert made_up["entries"][0]["numbers"]["memory_mb"] > 10 and found["winner"]["numbers"]["latency"]


def test_predict_writes_a_line_a_question(chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path) -> None:
    folder = chain[2][2].artefact.path
    asked = [("the film", "very quite film zadig was"), ("the  book", "film so was")]
    answers = smidgen.load(folder).predict([q for q, _ in asked], [c for _, c in asked])
    wanted = [[a["answer"], f"{a['score']:.4f}", " ".join(q.split())] for a, (q, _) in zip(answers, asked, strict=True)]
    typed = " ".join(f"'{q}' --pair '{c}'" for q, c in asked)
    assert lines(command(f"predict {folder} {typed}")) == wanted
    assert spoken(command(f"predict {folder} {typed} --json")) == answers
    usual = write(tmp_path / "usual.jsonl", [{"question": q, "context": c} for q, c in asked])
    other = write(tmp_path / "other.jsonl", [{"q": q, "c": c} for q, c in asked])
    assert lines(command(f"predict {folder} --file {usual}")) == wanted
    assert lines(command(f"predict {folder} --file {other} --text-column q --text-pair-column c")) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("who", "This model looks for answers in contexts. Give --pair CONTEXT for each question, or --file with"),
        ("", "This model looks for answers in contexts."),
        ("who what --pair there", "--pair was given 1 times for 2 texts. Give one for each text."),
        ("who --pair ''", "--pair 1 is empty, wanted a text. Fill it in or leave it out."),
        ("who --pair there --top-k 2", "--top-k goes with classification, the task of this model is answer."),
        ("--file asks.csv", "asks.csv: no context column. Its columns: question, kontext; wanted one of context,"),
        ("--file asks.csv --text-pair-column contxt", "no column 'contxt'. Did you mean 'kontext'?"),
    ],
)
def test_predict_refuses_what_has_no_context(
    words: str, message: str, chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.csv").write_text("question,kontext\nwho,there\n", encoding="utf-8")
    ran = command(f"predict {chain[2][2].artefact.path} {words}", stdin="who\n")
    assert (ran.code, ran.out) == (2, "") and message in ran.err and ran.err.count("\n") == 1
