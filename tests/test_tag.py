"""Tagging: words and their tokens, entities as seqeval reads them, and the whole way from a data file to `predict`."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import command
from folders import PLAIN, model_folder, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score
from seqeval.metrics.sequence_labeling import get_entities
from test_cli import lines, spoken, steady
from tokenizers import Tokenizer, models, pre_tokenizers

import smidgen
from smidgen import report
from smidgen.data import load_data, read_split
from smidgen.encoded import objects
from smidgen.errors import DataError, InputError, RecipeError
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel, UsualTag
from smidgen.planner import plan
from smidgen.recipe import load as load_recipe
from smidgen.runner import run
from smidgen.tables import read_text
from smidgen.tasks import Tag
from smidgen.tasks.classify import NO_LABEL
from smidgen.tasks.tag import broken, chunks, word_of
from smidgen.tokens import open_tokenizer

TAGS = ("B-x", "B-y", "I-x", "I-y", "O")
TASK = Tag(TAGS)
NAMES = ["zadig", "wexel", "quix"]  # none is a piece: each is spelt in letters
TRAINING = {"epochs": 10, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}

sequences = st.lists(st.lists(st.sampled_from(TAGS), min_size=1, max_size=9), min_size=1, max_size=6)


def logits_of_tags(rows: list[list[str]]) -> np.ndarray:
    return objects(np.eye(len(TAGS), dtype=np.float32)[[TAGS.index(tag) for tag in row]] for row in rows)


def gold(rows: list[list[str]]) -> np.ndarray:
    return objects(tuple(TAGS.index(tag) for tag in row) for row in rows)


@given(sequences, st.data())
def test_scores_are_seqevals(right: list[list[str]], data: st.DataObject) -> None:
    decided = [data.draw(st.lists(st.sampled_from(TAGS), min_size=len(r), max_size=len(r))) for r in right]
    outputs = logits_of_tags(decided)
    assert TASK.score(outputs, gold(right)) == pytest.approx(f1_score(right, decided, zero_division=0))
    assert replace(TASK, metric="accuracy").score(outputs, gold(right)) == pytest.approx(accuracy_score(right, decided))
    twice = [*range(len(right)), 0]
    expected = f1_score([right[i] for i in twice], [decided[i] for i in twice], zero_division=0)
    assert TASK.resampled(outputs, gold(right), np.array([twice]))[0] == pytest.approx(expected)


def test_chunks_of_tags_with_and_without_prefixes() -> None:
    assert list(chunks(["B-x", "I-x", "B-x", "I-y", "O", "I-y"])) == [
        ("x", 0, 2), ("x", 2, 3), ("y", 3, 4), ("y", 5, 6),
    ]  # fmt: skip
    assert list(chunks(["NOUN", "NOUN", "VERB"])) == [("NOUN", 0, 2), ("VERB", 2, 3)]
    iobes = ["S-x", "S-x", "O", "B-x", "E-x", "B-x", "I-x", "E-x", "I-x"]
    assert list(chunks(iobes)) == [("x", 0, 1), ("x", 1, 2), ("x", 3, 5), ("x", 5, 8), ("x", 8, 9)]
    assert list(chunks([tag.translate(str.maketrans("SE", "UL")) for tag in iobes])) == list(chunks(iobes))
    assert [(kind, a, b) for kind, a, b in get_entities(iobes)] == [(kind, a, b - 1) for kind, a, b in chunks(iobes)]
    assert list(chunks(["-LRB-", "NN-TL", "VB-TL"])) == [("-LRB-", 0, 1), ("NN-TL", 1, 2), ("VB-TL", 2, 3)]
    assert broken(["B-x", "I-x", "O"]) is None and broken(["I-x"]) == 0 and broken(["B-x", "I-y"]) == 1


WORDS = st.lists(st.text("abc'.-", min_size=1, max_size=6), min_size=1, max_size=8)


@given(WORDS)
def test_every_word_is_decided_at_its_first_token(words: list[str]) -> None:
    pieces = {piece: i for i, piece in enumerate(["?", *"abc'.-", "##a", "##b", "##c"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    text = " ".join(words)
    encoded = TASK.encode(tokenizer, [text], None, 500)
    assert encoded.units is not None and encoded.spans is not None
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    assert encoded.spans[encoded.units, 0].tolist() == starts.tolist()
    assert word_of(text, encoded.spans[encoded.units]).tolist() == list(range(len(words)))
    targets = TASK.targets(encoded, [text], objects([tuple(range(len(words)))]))
    assert targets[encoded.units].tolist() == list(range(len(words)))
    assert (targets[~encoded.units] == NO_LABEL).all()


def test_outputs_go_over_to_another_tokenizer(tmp_path: Path) -> None:
    """What one tokenizer's tokens say comes out at the first tokens of another's, word by word."""
    for name, drop in (("one", ()), ("two", ("film", "great"))):
        (tmp_path / name).mkdir()
        write_tokenizer(tmp_path / name, drop=drop)
    texts = ["the film was great", "a great , great zadig"]
    one, two = (TASK.encode(open_tokenizer(tmp_path / n), texts, None, 40) for n in ("one", "two"))
    assert len(one.ids) != len(two.ids)
    values = np.random.default_rng(0).normal(size=(len(one.ids), len(TAGS))).astype(np.float32)
    source = TASK.aligned(two, one, texts)
    rows = np.repeat([0, 1], two.lengths)
    assert np.array_equal(values[one.starts[rows] + source][two.units], values[one.units])
    assert (source[~two.units] == -1).all() and (source[two.units] >= 0).all()


def test_words_behind_the_cut_are_outside(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    text = " ".join(["the"] * 30)
    encoded = TASK.encode(open_tokenizer(tmp_path), [text], None, 10)
    values = np.tile(np.eye(len(TAGS), dtype=np.float32)[0], (10, 1))
    (tags,) = TASK.decide(TASK.gather(encoded, values, [text]))
    assert [TAGS[i] for i in tags] == ["B-x"] * 8 + ["O"] * 22


# Files.


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Sentences in which a name, of one word or two, is an entity: x behind `the`, y behind `a`."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        kind, before = draw.choice([("x", "the"), ("y", "a")])
        name = draw.choices(NAMES, k=draw.randint(1, 2))
        left, right = draw.choices(PLAIN[2:], k=draw.randint(1, 4)), draw.choices(PLAIN[2:], k=draw.randint(1, 4))
        tags = [*["O"] * (len(left) + 1), f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1), *["O"] * len(right)]
        rows.append({"tokens": [*left, before, *name, *right], "tags": tags})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


GOOD = [{"tokens": ["a", "b"], "tags": ["B-x", "O"]}, {"tokens": ["c"], "tags": ["B-y"]}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 3: got 2 words and 1 tags, wanted a tag for each word."),
        ({"tokens": ["a", "b"], "tags": ["O", "I-x"]}, "row 3: the tag 'I-x' of word 2 ('b') comes after 'O'"),
        ({"tokens": ["a"], "tags": ["I-x"]}, "comes after nothing, so it continues no entity. Write 'B-x'"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "row 3: the column 'tokens' holds 'a b', wanted a list of words."),
        ({"tokens": [], "tags": []}, "row 3: the column 'tokens' holds an empty list, wanted a list of words."),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "row 3: the column 'tokens' has the word '', wanted a text"),
        ({"tokens": ["a"], "tags": [None]}, "row 3: the column 'tags' has no label, got None."),
        ({"tokens": ["a"], "tags": "O"}, "row 3: the column 'tags' holds 'O', wanted a list of tags."),
    ],
)  # fmt: skip
def test_bad_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(write(tmp_path / "train.jsonl", [*GOOD, row]), task="tag")
    assert message in str(caught.value) and "train.jsonl" in str(caught.value)


def test_an_unknown_tag_in_test(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*GOOD, *GOOD])
    test = write(tmp_path / "test.jsonl", [{"tokens": ["q"], "tags": ["B-z"]}])
    with pytest.raises(DataError, match=r"test.jsonl, row 1: unknown label 'B-z', wanted one of B-x, B-y, I-x, I-y, O"):
        load_data(train, test=test, task="tag")


def test_conll_files(tmp_path: Path) -> None:
    file = tmp_path / "train.conll"
    file.write_text("-DOCSTART- -X- O\n\nEU NNP B-x\nis VB O\n\nhere O\n\n", encoding="utf-8")
    data = load_data(str(file), task="tag", dev=write(tmp_path / "dev.jsonl", [{"tokens": ["q"], "tags": ["O"]}]))
    assert data.train.texts == ("EU is", "here") and data.task.labels == ("B-x", "I-x", "O")
    assert data.train.labels is not None and data.train.labels.tolist() == [(0, 2), (2,)]
    told = "# id 17ab domain=en\n# text = Rome is\nRome B-LOC\n# O\n\n# _ _ O\n"
    table = read_text("train.conll", told, "conll")
    assert table.columns == {"tokens": [["Rome", "#"], ["#"]], "tags": [["B-LOC", "O"], ["O"]]}
    file.write_text("Rome B-LOC\nis\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.conll, row 2: got 'is', wanted a word and its tag"):
        load_data(str(file), task="tag")


# The whole way.


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[Any]]:
    """Teacher, a student of one block on labelled and bare sentences, its graph and its int8 graph."""
    root = tmp_path_factory.mktemp("tag")
    files = {name: write(root / f"{name}.jsonl", rows_of(count, seed)) for seed, (name, count) in enumerate(
        {"train": 120, "dev": 30, "test": 60}.items()
    )}  # fmt: skip
    bare = [{"tokens": row["tokens"]} for row in rows_of(60, 9)]
    files["unlabeled"] = write(root / "unlabeled.jsonl", bare)
    student = {"prune.layers": {"keep": 1}, "distil.logits": {"hard": 0.5}}
    recipe = {
        "model": str(model_folder(root / "model")),
        "task": "tag",
        "data": files,
        "stages": [
            {"name": "teacher", "methods": ["tune.full"], "train": TRAINING},
            {"name": "student", "teacher": "teacher", "data": "train+unlabeled", "methods": student, "train": TRAINING},
            {"methods": ["export.onnx"]},
            {"methods": ["quant.dynamic"]},
        ],
    }
    return root, files, run(plan(load_recipe(yaml.safe_dump(recipe))), root / "stages")


def test_a_tagger_learns_and_teaches(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    _, files, done = chain
    teacher, student = (one.artefact.record["history"]["best"] for one in done[:2])
    assert teacher > 0.9 and student > 0.8
    data = load_data(**files, task="tag")
    assert data.test is not None and data.test.labels is not None
    graph = smidgen.load(done[2].artefact.path)
    outputs = graph.outputs(data.test.texts)
    assert data.task.score(outputs, data.test.labels) > 0.8
    torch_outputs = TorchModel(done[2].artefact.path, data.task).outputs(data.test.texts)
    assert max(np.abs(a - b).max() for a, b in zip(outputs, torch_outputs, strict=True)) < 1e-4
    small = smidgen.load(done[3].artefact.path).outputs(data.test.texts)
    assert np.mean([a == b for a, b in zip(data.task.decide(small), data.task.decide(outputs), strict=True)]) > 0.9


def test_predict_equals_the_pipeline(chain: tuple[Path, dict[str, str], list[Any]]) -> None:
    import transformers

    folder = chain[2][2].artefact.path
    model = smidgen.load(folder)
    texts = ["so the zadig quix was here, and it", "it was a wexel!", "nothing here"]
    peer = transformers.pipeline("token-classification", model=str(folder), aggregation_strategy="first")
    for mine, theirs, text in zip(model.predict(texts), peer(texts), texts, strict=True):
        assert [{k: e[k] for k in ("entity_group", "start", "end")} for e in mine] == [
            {k: e[k] for k in ("entity_group", "start", "end")} for e in theirs
        ]
        assert [e["score"] for e in mine] == pytest.approx([e["score"] for e in theirs], abs=1e-4)
        assert all(e["word"] == text[e["start"] : e["end"]] for e in mine)
    assert model.predict(texts[0]) == model.predict(texts)[0]
    (words,) = model.predict([["so", "the", "zadig", "quix", "was"]])
    assert [(e["entity_group"], e["word"]) for e in words] == [("x", "zadig quix")]


def test_a_teacher_for_other_tags_is_refused(chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path) -> None:
    done = chain[2]
    other = [{"tokens": r["tokens"], "tags": [t.replace("x", "z") for t in r["tags"]]} for r in rows_of(40, 3)]
    recipe = {
        "model": str(model_folder(tmp_path / "model")),
        "task": "tag",
        "data": {"train": write(tmp_path / "train.jsonl", other)},
        "stages": [{"teacher": str(done[0].artefact.path), "methods": ["distil.logits"]}],
    }
    with pytest.raises((RecipeError, DataError), match=r"unknown label 'B-z', wanted one of B-x, B-y, I-x, I-y, O"):
        plan(load_recipe(yaml.safe_dump(recipe)))


@pytest.mark.parametrize("family", ["mpnet", "modernbert"])
def test_other_families_tag(family: str, tmp_path: Path) -> None:
    recipe = {
        "model": str(model_folder(tmp_path / "model", family)),
        "task": "tag",
        "data": {"train": write(tmp_path / "train.jsonl", rows_of(40, 0))},
        "stages": [{"methods": ["tune.full"], "train": TRAINING | {"epochs": 1}}, {"methods": ["export.onnx"]}],
    }
    done = run(plan(load_recipe(yaml.safe_dump(recipe))), tmp_path / "stages")
    assert done[1].artefact.record["found"]["largest_difference"] <= 1e-4
    assert isinstance(smidgen.load(done[1].artefact.path).predict("the zadig was"), list)


def test_words_carry_over_to_a_student_with_another_tokenizer(
    chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path
) -> None:
    student = model_folder(tmp_path / "student", "electra", blocks=1, seed=4)
    write_tokenizer(student, drop=("the", "a", "film"))
    recipe = {
        "model": str(student),
        "task": "tag",
        "data": chain[1],
        "stages": [
            {
                "teacher": str(chain[2][0].artefact.path),
                "methods": {"distil.logits": {"loss_kind": "mse"}},
                "train": TRAINING | {"epochs": 24},
            }
        ],
    }
    (done,) = run(plan(load_recipe(yaml.safe_dump(recipe))), tmp_path / "stages")
    assert done.artefact.record["history"]["best"] > 0.7


# What a user sees.


@pytest.fixture(scope="module")
def compressed(chain: tuple[Path, dict[str, str], list[Any]]) -> tuple[Path, dict[str, Any]]:
    """A finished `smidgen compress --task tag` of the trained tagger, to one block."""
    root, files, done = chain
    data = " ".join(f"--{name} {path}" for name, path in files.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "time_all", steady)
        ran = command(
            f"compress {done[0].artefact.path} --task tag {data} --depth 1 --seeds 1 "
            f"--student-epochs 2 --max-size 25MB --min-quality f1>=0.01 --engine onnxruntime "
            f"--out {root / 'out'} --json"
        )
    return root / "out", spoken(ran)


def test_a_tagger_is_compressed(
    compressed: tuple[Path, dict[str, Any]], chain: tuple[Path, dict[str, str], list[Any]]
) -> None:
    out, found = compressed
    report.check(found)
    assert found["verdict"] == "met" and found["task"] == {"name": "tag", "labels": list(TAGS), "metric": "f1"}
    rows = [json.loads(line) for line in Path(chain[1]["train"]).read_text(encoding="utf-8").splitlines()]
    tags = [tag for row in rows for tag in row["tags"]]
    assert found["data"]["train"]["classes"] == {"x": tags.count("B-x"), "y": tags.count("B-y")}
    assert "classes" not in found["data"]["unlabeled"]
    usual, *others = found["baselines"]
    assert usual["name"] == "most frequent tag of each word" and usual["numbers"]["quality"]["metric"] == "f1"
    assert [entry["name"] for entry in others] == ["teacher, int8", f"{found['winner']['name']}, without distillation"]
    measured = found["winner"]["numbers"]
    assert measured["quality"]["n"] == 60 and 0 < measured["quality_kept"]["value"] <= 1.2 and measured["memory_mb"]
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "entity F1" in page and "Text in, tags out" in page and "| Tagged |" in page
    front, card = (out / "winner" / "README.md").read_text(encoding="utf-8").split("---\n")[1:]
    meta = yaml.safe_load(front)
    assert meta["pipeline_tag"] == "token-classification"
    assert meta["model-index"][0]["results"][0]["metrics"][0] | {"value": 0} == {
        "type": "f1", "value": 0, "name": "entity F1",
    }  # fmt: skip
    assert f"Tags: {', '.join(TAGS)}." in card


def test_a_tagger_is_verified_and_timed(
    compressed: tuple[Path, dict[str, Any]], chain: tuple[Path, dict[str, str], list[Any]]
) -> None:
    out, found = compressed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "time_all", steady)
        claims = spoken(command(f"verify {out} --json"))
        assert all(claim["passed"] for claim in claims) and len(claims) >= 8
        (timed,) = spoken(command(f"bench {out / 'winner'} --data {chain[1]['test']} --json"))["entries"]
    assert timed["numbers"]["quality"]["value"] == found["winner"]["numbers"]["quality"]["value"]
    assert timed["numbers"]["memory_mb"] > 10


def test_predict_writes_a_line_an_entity(chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path) -> None:
    folder = chain[2][2].artefact.path
    texts = ["so the zadig  quix was", "nothing here", "it was a wexel!"]
    answers = smidgen.load(folder).predict(texts)
    wanted = [[str(i), e["entity_group"], f"{e['score']:.4f}", " ".join(e["word"].split())]
              for i, found in enumerate(answers, 1) for e in found]  # fmt: skip
    assert [wanted[0][i] for i in (0, 1, 3)] == ["1", "x", "zadig quix"]
    quoted = " ".join(f"'{text}'" for text in texts)
    assert lines(command(f"predict {folder} {quoted}")) == wanted
    assert lines(command(f"predict {folder}", stdin="\n".join(texts))) == wanted
    assert spoken(command(f"predict {folder} {quoted} --json")) == answers
    plain = write(tmp_path / "plain.jsonl", [{"id": i, "text": text} for i, text in enumerate(texts)])
    assert spoken(command(f"predict {folder} --file {plain} --json")) == answers
    words = [["so", "the", "zadig", "quix"], ["wexel's"]]
    given = smidgen.load(folder).predict(words)
    for names, more in ((("tokens", "text"), ""), (("w", "tokens"), "--text-column w")):
        file = write(tmp_path / "words.jsonl", [{names[0]: row, names[1]: "other"} for row in words])
        assert spoken(command(f"predict {folder} --file {file} --json {more}")) == given


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a --pair b", "--pair and --text-pair-column: this model tags single texts. Leave them out."),
        ("a --top-k 2", "--top-k goes with classification, the task of this model is tag. Leave it out."),
        ("a ' '", "text 2 is empty, wanted a text. Fill it in or leave it out."),
        ("", "standard input is empty."),
        ("--file words.jsonl --text-column wrods", "no column 'wrods'. Did you mean 'words'?"),
    ],
)
def test_predict_refuses_what_is_not_for_a_tagger(
    words: str, message: str, chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "words.jsonl", [{"words": ["a"]}])
    ran = command(f"predict {chain[2][2].artefact.path} {words}")
    assert (ran.code, ran.out) == (2, "") and message in ran.err and ran.err.count("\n") == 1
    with pytest.raises(InputError, match="pairs: a tagger reads single texts"):
        smidgen.load(chain[2][2].artefact.path).predict(["a"], ["b"])


def test_plan_of_a_recipe_that_tags(chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path) -> None:
    stage = {"teacher": str(chain[2][0].artefact.path), "methods": {"prune.layers": {"keep": 1}, "distil.logits": {}}}
    recipe = {"model": "MODEL", "task": "tag", "data": {"train": "TRAIN"}, "stages": [stage | {"train": TRAINING}]}
    (tmp_path / "tagger.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    given = f"--model {chain[2][0].artefact.path} --train {chain[1]['train']} --dev {chain[1]['dev']}"
    (planned,) = spoken(command(f"plan {tmp_path / 'tagger.yaml'} {given} --json"))["stages"]
    assert (planned["rows"], planned["examples"]) == (120, 1200) and planned["to_label"] <= 120


def test_folders_of_two_tasks_are_not_timed_together(
    chain: tuple[Path, dict[str, str], list[Any]], tmp_path: Path
) -> None:
    from test_bad_input import _runnable

    _runnable(tmp_path / "classifier")
    ran = command(f"bench {chain[2][2].artefact.path} {tmp_path / 'classifier'}")
    assert ran.code == 2 and "its task is classify, that of" in ran.err and "Give folders of one task." in ran.err


def test_the_usual_tag_of_a_word(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "zadig"], "tags": ["O", "B-x"]}] * 3 + [{"tokens": ["zadig", "q"], "tags": ["B-y", "B-x"]}]
    train = read_split(write(tmp_path / "train.jsonl", rows), "train", TASK)
    peer = UsualTag(train, TASK)
    assert [[TAGS[i] for i in row] for row in TASK.decide(peer.outputs(["zadig a new"]))] == [["B-x", "O", "B-x"]]
    (entities,) = peer.predict(["a zadig"])
    assert [(e["entity_group"], e["word"], e["start"]) for e in entities] == [("x", "zadig", 2)]


def test_transfer_texts_are_plain_or_words(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"w": row["tokens"], "tags": row["tags"]} for row in rows_of(20, 0)])
    columns = smidgen.data.Columns(text="w")
    for name, rows in (("text", [{"text": "so  good"}]), ("tokens", [{"tokens": ["so", "good"], "text": "other"}])):
        more = write(tmp_path / f"{name}.jsonl", rows)
        data = load_data(train, unlabeled=more, columns=columns, task="tag")
        assert data.unlabeled is not None and data.unlabeled.texts == ("so good",) and data.unlabeled.labels is None
