"""Growing a corpus: the noise by its formula, near words, a language model's words, and rows that stay rows."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import command, tree
from folders import LABELS, PLAIN, POLAR, language_folder, model_folder, sentences
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny

from smidgen import fill as fill_module
from smidgen.artefact import Store
from smidgen.corpus import FILE, Copy, Corpus, grow, grown, read_grown
from smidgen.costs import costs
from smidgen.errors import DataError, ModelError, NoEffect, RecipeError
from smidgen.fill import fill
from smidgen.methods.data.language_model import LanguageModel
from smidgen.methods.data.neighbours import Neighbours
from smidgen.methods.data.noise import Noise, noised
from smidgen.planner import Plan, plan
from smidgen.recipe import load
from smidgen.runner import run
from smidgen.source import resolve
from smidgen.speech import (
    Bag,
    Cut,
    bags,
    cut,
    english_tagger,
    in_case_of,
    is_content,
    read_tags,
    swapped,
    table_tagger,
)
from smidgen.splits import Split
from smidgen.tasks import Classify
from smidgen.tokens import encode, pad_id
from smidgen.vectors import Vectors, learned_classes, model_vectors, nearest, neighbours, read_vectors, whole_words
from smidgen.watch import Silent

TEXTS = tuple(text for text, _ in sentences(40, seed=5))
DRAWS = 4000

TASK = Classify(("bad", "good"))


def corpus_of(
    texts: tuple[str, ...], work: Path, pairs: tuple[str, ...] | None = None, out: tuple[str, ...] = ()
) -> Corpus:
    kept = (Split("dev", out, None if pairs is None else out, None, "dev"),) if out else ()
    return Corpus(Split("train", texts, pairs, None, "here"), kept, work)


def near(count: int, n: int, p: float) -> bool:
    """Is a count within 4.5 standard deviations of a binomial's mean?"""
    return abs(count - n * p) <= 4.5 * np.sqrt(n * p * (1 - p))


# Words of a text.


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_a_text_is_its_words_and_gaps(text: str) -> None:
    whole = cut(text)
    assert whole.text() == text
    assert not any(set(word) & set(" \n\t") for word in whole.words)
    assert not any(gap.strip() for gap in whole.gaps)


def test_words_marks_and_clitics() -> None:
    assert cut("It isn't Bob's well-made film, [MASK]!").words == tuple(
        ["It", "is", "n't", "Bob", "'s", "well-made", "film", ",", "[MASK]", "!"]
    )
    assert cut("电影 ok").words == ("电", "影", "ok")
    assert cut("हिन्दी café").words == ("हिन्दी", "café")
    assert cut("  ").text(()) == "  "


def test_a_stretch_keeps_its_own_gaps() -> None:
    whole = cut("  one  two,three four ")
    assert whole.text(whole.words, 0, 2) == "one  two"
    assert whole.text(whole.words, 1, 4) == "two,three"
    assert whole.text(("1", "2", ";", "3", "4")) == "  1  2;3 4 "


def test_content_words() -> None:
    words = ["film", "the", "not", "x", "ok", "3rd", "well-made", "Film", "café"]
    assert [word for word in words if is_content(word)] == ["film", "Film", "café"]


def test_capitals_are_kept() -> None:
    assert [in_case_of("film", other) for other in ("movie", "Movie", "MOVIE", "I")] == ["film", "Film", "FILM", "Film"]
    assert in_case_of("Paris", "city") == "Paris"


# The noise, by its formula.


def classed(n: int) -> tuple[Cut, list[Bag]]:
    """A text of n different words, each with two others of its class, one three times as frequent."""
    whole = cut(" ".join(f"w{i}" for i in range(n)))
    return whole, [Bag((f"a{i}", f"b{i}"), np.array([3, 4])) for i in range(n)]


def test_words_are_masked_and_replaced_as_the_formula_says() -> None:
    whole, others = classed(8)
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(DRAWS):
        words = noised(whole, others, "[MASK]", 0.1, 0.2, 0.0, rng).split()
        assert len(words) == 8
        for i, word in enumerate(words):
            assert word in ("[MASK]", f"w{i}", f"a{i}", f"b{i}")
            counts[word[0]] += 1
    n = 8 * DRAWS
    assert near(counts["["], n, 0.1) and near(counts["w"], n, 0.7), counts
    assert near(counts["a"], n, 0.2 * 3 / 4) and near(counts["b"], n, 0.2 / 4), counts


def test_words_are_drawn_independently() -> None:
    """Two words of a copy are both masked in mask^2 of the copies."""
    whole, others = classed(2)
    rng = np.random.default_rng(1)
    both = sum(noised(whole, others, "[MASK]", 0.3, 0, 0, rng) == "[MASK] [MASK]" for _ in range(DRAWS))
    assert near(both, DRAWS, 0.09)


def test_ngrams_are_cut_as_the_formula_says() -> None:
    whole, others = classed(12)
    rng = np.random.default_rng(2)
    lengths: Counter[int] = Counter()
    starts: Counter[int] = Counter()
    for _ in range(DRAWS):
        words = noised(whole, others, "[MASK]", 0, 0, 0.25, rng).split()
        first = int(words[0][1:])
        assert words == [f"w{first + i}" for i in range(len(words))]
        lengths[len(words)] += 1
        if len(words) == 3:
            starts[first] += 1
    assert set(lengths) == {1, 2, 3, 4, 5, 12}
    assert near(lengths[12], DRAWS, 0.75)
    assert all(near(lengths[n], DRAWS, 0.25 / 5) for n in range(1, 6)), lengths
    assert set(starts) == set(range(10)), "every place is possible"


def test_an_ngram_longer_than_its_text_is_the_text() -> None:
    whole, others = classed(2)
    rng = np.random.default_rng(3)
    found = Counter(noised(whole, others, "", 0, 0, 1, rng) for _ in range(DRAWS))
    assert near(found["w0 w1"], DRAWS, 4 / 5) and near(found["w0"], DRAWS, 1 / 10)


def test_bags_hold_the_frequencies_of_the_corpus() -> None:
    tagger = table_tagger({"good": "J", "bad": "J", "film": "N"})
    found = bags(["a good film", "Good film", "bad film !"], tagger)
    assert {tag: bag.words for tag, bag in found.items()} == {
        "=a": ("a",),
        "J": ("Good", "bad", "good"),
        "N": ("film",),
        "=!": ("!",),
    }
    rng = np.random.default_rng(0)
    drawn = Counter(Bag(("x", "y", "z"), np.array([1, 3, 8])).draw(rng) for _ in range(DRAWS))
    assert all(near(drawn[word], DRAWS, p) for word, p in (("x", 1 / 8), ("y", 2 / 8), ("z", 5 / 8))), drawn


def test_english_parts_of_speech() -> None:
    words = ["the", "film", "'s", "actors", "were", "really", "bad", "!"]
    assert english_tagger()(words) == ["DT", "NN", "POS", "NNS", "VBD", "RB", "JJ", "."]
    assert len(english_tagger()(["a/b", "[MASK]", "café", "&slash;"])) == 4, "one for each word, whatever it is"


def test_learned_classes_are_those_of_like_vectors(tmp_path: Path) -> None:
    """Two clouds of words that the table sets apart come out as two classes."""
    from safetensors.torch import load_file, save_file

    folder = model_folder(tmp_path / "model")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    (name,) = [name for name in tensors if name.endswith("word_embeddings.weight")]
    rows = {word: i for i, word in whole_words(resolve(str(folder))).items()}
    words = [word for word in (*PLAIN, *POLAR["bad"]) if len(word) > 1]
    for word in words:
        tensors[name][rows[word]] *= 0.05
        tensors[name][rows[word]][0] += 1.0 if word in PLAIN else -1.0
    save_file(tensors, file, {"format": "pt"})
    found = learned_classes(resolve(str(folder)), [" ".join(words), "3 , !"], seed=0)
    assert set(found) == set(words)
    of_plain = {found[word] for word in words if word in PLAIN}
    assert len(of_plain) == 1 and not of_plain & {found[word] for word in POLAR["bad"]}


# Rows stay rows, and none comes twice.


def test_same_seed_same_rows_whatever_the_order(tmp_path: Path) -> None:
    def made(texts: tuple[str, ...], seed: int) -> list[Any]:
        tags = table_tagger(dict.fromkeys(PLAIN, "P"))
        by_tag = bags(texts, tags)

        def change(text: str) -> Copy:
            whole = cut(text)
            others = [by_tag[tag] for tag in tags(whole.words)]
            return lambda rng: noised(whole, others, "[MASK]", 0.2, 0.3, 0, rng)

        return list(grown(corpus_of(texts, tmp_path), change, 4, "any", seed))

    assert made(TEXTS, 0) == made(TEXTS, 0)
    assert made(TEXTS, 0) != made(TEXTS, 1)
    assert sorted(made(TEXTS[::-1], 0)) == sorted(made(TEXTS, 0))
    first = next(i for i, row in enumerate(made(TEXTS, 0)) if row[0].split()[-1] == TEXTS[1].split()[-1])
    assert first <= 8, "in the order of the corpus"


def test_no_row_comes_twice_nor_from_dev_or_the_corpus(tmp_path: Path) -> None:
    held_out = ("a Secret  row", "another one")
    options = ["a secret row", "ANOTHER one", "one two", "three", "Three ", "four"]
    copies = iter(options * 3)
    corpus = corpus_of(("one two", "five"), tmp_path, out=held_out)
    found = list(grown(corpus, lambda text: lambda rng: next(copies), 9, "any", 0))
    assert found == [("three", None), ("four", None)]


def test_nothing_new_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoEffect, match=r"^data\.x: no copy differs from what is there already\. Raise its shares"):
        grow(corpus_of(TEXTS, tmp_path), lambda text: lambda rng: text.upper(), 3, "any", 0, tmp_path, "data.x")


plain_text = st.text("abc ,", min_size=1).filter(str.strip)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(plain_text, plain_text), min_size=1, max_size=8),
    st.sampled_from(["any", "first", "second", "both"]),
)
def test_pairs_stay_together(rows: list[tuple[str, str]], sides: str) -> None:
    """Whatever is changed of a row, its halves were halves of one row before, and only the sides asked for change."""
    texts, pairs = zip(*rows, strict=True)
    count = iter(range(10**6))
    corpus = Corpus(Split("train", texts, pairs, None, "here"), (), Path())
    found = list(grown(corpus, lambda text: lambda rng: f"{text}#{next(count)}", 5, sides, 0))
    assert len(found) == 5 * len(rows)
    for first, second in found:
        assert second is not None
        assert (first.partition("#")[0], second.partition("#")[0]) in rows
        changed = ("#" in first, "#" in second)
        assert changed in {"first": [(1, 0)], "second": [(0, 1)], "both": [(1, 1)]}.get(sides, [(1, 0), (0, 1), (1, 1)])


def test_the_three_ways_with_a_pair_are_equally_likely(tmp_path: Path) -> None:
    texts = tuple(f"text {i}" for i in range(400))
    count = iter(range(10**6))
    corpus = corpus_of(texts, tmp_path, pairs=texts[::-1])
    found = Counter(
        ("#" in first, "#" in str(second))
        for first, second in grown(corpus, lambda text: lambda rng: f"{text}#{next(count)}", 10, "any", 0)
    )
    assert len(found) == 3 and all(near(n, 4000, 1 / 3) for n in found.values()), found


def test_what_is_written_is_read(tmp_path: Path) -> None:
    texts, pairs = ('say "ja"\u2028and\u0085go', "plain"), ("straße\n", "other")
    corpus = corpus_of(texts, tmp_path, pairs)
    said = grow(corpus, lambda text: lambda rng: f"{text}{rng.integers(10)}", 2, "both", 0, tmp_path, "data.x")
    found = read_grown(tmp_path, "grown")
    assert said == {"rows": 2, "grown": len(found)} and found.labels is None and found.pairs is not None
    assert (found.texts[0][:-1], found.pairs[0][:-1]) == (texts[0], pairs[0])


# Near words.


def test_words_are_swapped_as_the_formula_says() -> None:
    whole, options = cut("one the two"), [("a", "b", "c"), (), ("d",)]
    rng = np.random.default_rng(0)
    found = Counter(word for _ in range(DRAWS) for word in swapped(whole, options, 0.4, rng).split())
    assert found["the"] == DRAWS
    assert near(found["d"], DRAWS, 0.4) and near(found["one"], DRAWS, 0.6)
    assert all(near(found[word], DRAWS, 0.4 / 3) for word in "abc"), found


def test_nearest_words_by_an_explicit_loop() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    table = rng.normal(size=(60, 5)).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    found = nearest(Vectors(tuple(words[:20]), table[:20]), Vectors(tuple(words), table), 4, at_once=7)
    for i in range(20):
        cosines = sorted(((float(table[i] @ table[j]), words[j]) for j in range(60) if j != i), reverse=True)
        assert found[words[i]] == tuple(word for _, word in cosines[:4])


def test_a_spelling_of_a_word_is_no_neighbour() -> None:
    vectors = Vectors(("Film", "film", "movie"), np.eye(3, dtype=np.float32))
    assert nearest(vectors, vectors, 9) == {"Film": ("movie",), "film": ("movie",), "movie": ("Film", "film")}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"])
def test_a_models_vectors_are_the_means_of_its_pieces(family: str, tmp_path: Path) -> None:
    source = resolve(str(model_folder(tmp_path / family, family)))
    table = tiny(family, labels=len(LABELS)).base_model.get_input_embeddings().weight.detach().numpy()
    words = ["film", "qed", "book"]
    found = model_vectors(source, words)
    for word, vector in zip(words, found.table, strict=True):
        ids = encode(TASK, source.path, [word], None, 16).ids[1:-1]
        mean = table[ids].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def test_whole_words_are_words(tiny_bert: Path) -> None:
    found = whole_words(resolve(str(tiny_bert)))
    assert {"film", "great", "a", "b"} <= set(found.values())
    assert not any(word.startswith(("#", "[")) for word in found.values())


GLOVE = "good 1 0\ngreat 0.9 0.1\nbad -1 0.2\nfilm 0 1\nthe 1 0.01\nnew york 0.5 0.5\n"


@pytest.mark.parametrize("text", [GLOVE, "6 2\n" + GLOVE], ids=["GloVe", "word2vec"])
def test_vectors_from_a_file(text: str, tmp_path: Path, tiny_bert: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(text)
    found = read_vectors(file)
    assert found.words[0] == "good" and found.table.shape == (6, 2)
    np.testing.assert_allclose(found.table[1], np.array([0.9, 0.1]) / np.hypot(0.9, 0.1), rtol=1e-6)
    near_words = neighbours(["Good", "film", "the", "unheard"], resolve(str(tiny_bert)), str(file), 1)
    assert near_words == {"Good": ("great",), "film": ("bad",)}


@pytest.mark.parametrize(
    "text, said",
    [
        ("a 1 2\nb 1\n", r"row 2: got 'b 1', wanted a word and as many numbers as the row before it"),
        ("a 1 2\nb 1 x\n", "row 2: got 'b 1 x'"),
        ("a 1 2\nb 1 nan\n", "row 2: got 'b 1 nan'"),
        ("", "is empty"),
        ("abc\n", "row 1: got 'abc'"),
    ],
)
def test_bad_vectors_name_their_row(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=f"vectors.txt,? {said}"):
        read_vectors(file)


# Words of a language model.


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_folder(tmp_path_factory.mktemp("masked"))


def test_a_language_models_words_by_an_explicit_loop(masked: Path, tmp_path: Path) -> None:
    """One place at a time, unpadded, over the whole vocabulary."""
    from transformers import AutoModelForMaskedLM

    source = resolve(str(masked))
    model = AutoModelForMaskedLM.from_pretrained(str(masked)).eval()
    known = {i: word for i, word in whole_words(source).items() if is_content(word)}
    texts = ("the film was great , Qed", "a dull and sad book", "so is it")
    mask = max(encode(TASK, masked, ["[MASK]"], None, 8).ids)
    found = fill(source, texts, 5, tmp_path / "work", Silent())
    assert [sorted(places) for places in found] == [[1, 3], [1, 3, 4], []]
    for text, places in zip(texts, found, strict=True):
        for word, said in places.items():
            batch = encode(TASK, masked, [text], None, 32).batch([0], pad_id(masked))
            own = int(batch["input_ids"][0, word + 1])
            batch["input_ids"][0, word + 1] = mask
            with torch.inference_mode():
                logits = model(**{k: torch.from_numpy(v) for k, v in batch.items()}).logits[0, word + 1]
            order = [i for i in logits.argsort(descending=True).tolist() if i in known and i != own]
            assert said == tuple(known[i] for i in order[:5])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"])
def test_the_product_with_the_vocabulary_at_one_token(family: str) -> None:
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(tiny(family).config).eval()
    inputs = {"input_ids": torch.randint(3, 100, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    tokens = torch.tensor([2, 0, 6])
    with torch.inference_mode():
        whole = model(**inputs).logits[torch.arange(3), tokens]
        torch.testing.assert_close(fill_module._at(model, inputs, tokens), whole)
        assert model(**inputs).logits.shape[1] == 7, "no hook is left"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many places the language model was asked for, shard by shard; after `stop` shards it is killed."""
    real, counts = fill_module._asker, []

    def asker(*args: Any) -> Callable[[Any], np.ndarray]:
        answer = real(*args)

        def ask(places: Any) -> np.ndarray:
            if len(counts) == asker.stop:  # type: ignore[attr-defined]
                raise KeyboardInterrupt
            counts.append(len(places.text))
            return answer(places)

        return ask

    asker.stop = -1  # type: ignore[attr-defined]
    monkeypatch.setattr(fill_module, "_asker", asker)
    monkeypatch.setattr(fill_module, "SHARD", 16)
    yield counts


def test_killed_and_resumed_equals_uninterrupted(
    asked: list[int], masked: Path, tmp_path: Path, tiny_bert: Path, tiny_data: dict[str, str]
) -> None:
    made = planned(tiny_bert, tiny_data, step("grown", "data.language_model", model=str(masked), copies=3))
    whole = run(made, tmp_path / "whole")[0].artefact
    assert len(asked) == 4  # 64 texts
    every = list(asked)
    asked.clear()
    fill_module._asker.stop = 2  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "killed")
    work = Store(tmp_path / "killed").work(made.stages[0].id)
    assert len(list(work.glob("shard-*"))) == 2
    (work / ".draft-shard-00002.npy-1").write_bytes(b"half")
    asked.clear()
    fill_module._asker.stop = -1  # type: ignore[attr-defined]
    resumed = run(made, tmp_path / "killed")[0].artefact
    assert asked == every[2:]
    assert resumed.record["files"] == whole.record["files"]
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [made.stages[0].id], "nothing is left of the work"


def test_what_is_no_language_model_is_refused(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tiny_bert, tiny_data, step("grown", "data.language_model"))
    assert caught.value.faults == (
        f"stage grown, data.language_model: {tiny_bert}: its config.json names BertModel, which predicts no words. "
        "Write model: a masked language model.",
    )
    (fault,) = LanguageModel(model=str(tiny_bert)).faults()
    assert fault.startswith(f"model: got '{tiny_bert}', wanted a masked language model with its head.")
    headless = model_folder(tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ModelError, match=r"model\.safetensors lacks cls\..*so its words would be random"):
        fill(resolve(str(headless)), TEXTS[:2], 3, tmp_path / "work", Silent())


def test_a_language_model_with_a_pickle_is_refused(masked: Path, tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (fault,) = LanguageModel(model=str(folder)).faults()
    assert "a pickle, which can run code" in fault


# Through a recipe.


def step(name: str, method: str, data: str = "train", **values: Any) -> dict[str, Any]:
    return {"name": name, "methods": {method: values}, "data": data}


def planned(model: Path, data: dict[str, str], *stages: dict[str, Any], **more: Any) -> Plan:
    return plan(load(recipe_text(model, data, *stages, **more)))


def recipe_text(model: Path, data: dict[str, str], *stages: dict[str, Any], **more: Any) -> str:
    return yaml.safe_dump({"model": str(model), "data": data, "stages": list(stages), **more}, sort_keys=False)


TRAIN = {"epochs": 1, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32"}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
STUDENT = {
    "name": "student",
    "teacher": "teacher",
    "data": "train+grown",
    "methods": {"prune.layers": {"keep": 1}, "tune.full": {}, "distil.logits": {}},
    "train": TRAIN,
}
NOISE = step("grown", "data.noise", copies=3)


def test_from_a_teacher_over_a_grown_corpus_to_a_prediction(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    graph = {"name": "graph", "methods": {"export.onnx": {}}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text(tiny_bert, tiny_data, TEACHER, NOISE, STUDENT, graph))
    before = command(f"plan {recipe} --out {tmp_path / 'out'} --json")
    stages = json.loads(before.out)["stages"]
    assert [stages[1][key] for key in ("rows", "makes", "at_most")] == [64, 192, True]
    assert [stages[2][key] for key in ("rows", "examples", "to_label", "at_most")] == [256, 256, 256, True]
    ran = command(f"run {recipe} --out {tmp_path / 'out'}")
    assert ran.code == 0, ran.err
    assert "> grown: data.noise(copies=3)" in ran.err
    made = plan(load(recipe.read_text()))
    root = tmp_path / "out" / "stages"
    assert made.stages[2].source == made.stages[0].id, "a data step is not where the next stage starts"
    texts = read_grown(root / made.stages[1].id, "grown")
    assert f"{len(texts)} texts" in ran.out and 64 < len(texts) <= 192
    after = costs(made, root)
    assert after[2]["rows"] == 64 + len(texts) and not after[2]["at_most"]
    record = json.loads((root / made.stages[2].id / "smidgen.json").read_text())
    assert record["on"] == "train+grown" and record["history"]["examples"] == 64 + len(texts)
    (labels,) = root.glob("labels-*")
    assert sum(len(np.load(shard / "keys.npy")) for shard in labels.glob("shard-*")) >= 64 + len(texts)
    said = command(f"predict {root / made.stages[3].id} 'the film was great' --json")
    assert said.code == 0 and json.loads(said.out)[0]["label"] in LABELS
    again = run(made, root)
    assert [done.reused for done in again] == [True] * 4


def rows_of(file: str) -> set[str]:
    with Path(file).open(encoding="utf-8", newline="") as stream:
        return {" ".join(row["text"].casefold().split()) for row in csv.DictReader(stream)}


def test_no_example_of_dev_or_test_enters(tiny_bert: Path, tmp_path: Path) -> None:
    """Seven words in two places: without the check, copies would hit dev and test at once."""
    texts = np.random.default_rng(0).permutation([f"{a} {b}" for a in PLAIN[:7] for b in PLAIN[:7]])
    rows = [(text, LABELS[i % 2]) for i, text in enumerate(texts)]
    files = {}
    for name, start, stop in (("train", 0, 16), ("dev", 16, 26), ("test", 26, 36)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows[start:stop]])
        files[name] = str(tmp_path / f"{name}.csv")
    tags = tmp_path / "tags.tsv"
    tags.write_text("\n".join(f"{word}\tX" for word in PLAIN))
    noise = step("grown", "data.noise", tags=str(tags), mask=0, pos=0.9, ngram=0, copies=100)
    free = planned(tiny_bert, {k: files[k] for k in ("train", "dev")}, noise)
    strict = planned(tiny_bert, files, noise)
    assert free.stages[0].id != strict.stages[0].id
    found = [set(read_grown(run(p, tmp_path / "s")[0].artefact.path, "grown").texts) for p in (free, strict)]
    assert found[0] & rows_of(files["test"]), "they would have come"
    assert not found[1] & (rows_of(files["test"]) | rows_of(files["dev"]) | rows_of(files["train"]))
    assert found[1]


def test_pairs_grow_through_a_recipe(tiny_bert: Path, tmp_path: Path) -> None:
    rows = sentences(60, seed=3)
    files = {}
    for name, start, stop in (("train", 0, 20), ("dev", 20, 30)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            pairs = [(rows[2 * i][0], rows[2 * i + 1][0], LABELS[i % 2]) for i in range(start, stop)]
            csv.writer(stream).writerows([("text", "text_pair", "label"), *pairs])
        files[name] = str(tmp_path / f"{name}.csv")
    made = planned(tiny_bert, files, step("grown", "data.neighbours", share=1.0, copies=4, sides="second"))
    found = read_grown(run(made, tmp_path / "s")[0].artefact.path, "grown")
    own = dict(zip(made.data.train.texts, made.data.train.pairs or (), strict=True))
    assert found.pairs is not None
    for text, pair in zip(found.texts, found.pairs, strict=True):
        assert text in own and len(pair.split()) == len(own[text].split()) and pair != own[text]
        for word, before in zip(pair.split(), own[text].split(), strict=True):
            assert word == before or is_content(before)


def test_ids_know_what_a_corpus_depends_on(
    tiny_bert: Path, tiny_data: dict[str, str], masked: Path, tmp_path: Path
) -> None:
    def ids(grow: dict[str, Any], data: dict[str, str] = tiny_data) -> list[str]:
        return [stage.id for stage in planned(tiny_bert, data, TEACHER, grow, STUDENT).stages]

    base = ids(NOISE)
    fewer = {k: v for k, v in tiny_data.items() if k != "test"}
    others = [
        ids(step("grown", "data.noise", copies=4)),
        ids(NOISE | {"data": "unlabeled"}),
        ids(NOISE | {"data": "train+unlabeled"}),
        ids(NOISE | {"seed": 9}),
        ids(NOISE, fewer),
    ]
    for other in others:
        assert other[0] == base[0], "the teacher is none of its business"
        assert other[1] != base[1] and other[2] != base[2]
    assert len({other[1] for other in others}) == len(others)
    renamed = planned(tiny_bert, tiny_data, TEACHER, NOISE | {"name": "more"}, STUDENT | {"data": "train+more"})
    assert [stage.id for stage in renamed.stages] == base
    tags = tmp_path / "tags.tsv"
    prints = []
    for text in ("film\tN\n", "film\tV\n"):
        tags.write_text(text)
        prints.append(ids(step("grown", "data.noise", tags=str(tags)))[1])
    assert prints[0] != prints[1], "by what is in the file"
    copy = language_folder(tmp_path / "copy")
    same, other = (ids(step("grown", "data.language_model", model=str(m)))[1] for m in (masked, copy))
    assert same == other, "not by its path"
    assert ids(step("grown", "data.language_model", model=str(language_folder(tmp_path / "o", seed=1))))[1] != same


def test_a_corpus_can_be_grown_from_a_grown_one(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    made = planned(
        tiny_bert,
        tiny_data,
        NOISE,
        step("more", "data.neighbours", data="unlabeled+grown", copies=2),
    )
    assert [(c["rows"], c["makes"], c["at_most"]) for c in costs(made, tmp_path)] == [(64, 192, True), (216, 432, True)]
    first, second = run(made, tmp_path)
    grown_first = first.artefact.record["found"]["grown"]
    assert second.artefact.record["found"]["rows"] == 24 + grown_first
    assert not set(read_grown(second.artefact.path, "m").texts) & set(read_grown(first.artefact.path, "g").texts)


def test_faults_of_data_steps(tiny_bert: Path, tiny_data: dict[str, str]) -> None:
    fewer = {k: v for k, v in tiny_data.items() if k != "unlabeled"}
    with pytest.raises(RecipeError) as caught:
        planned(
            tiny_bert,
            fewer,
            TEACHER,
            step("grown", "data.noise", mask=2) | {"teacher": "teacher"},
            step("more", "data.neighbours", data="grwn"),
            step("dev", "data.neighbours", data="train+train"),
            STUDENT | {"teacher": "grown", "data": "grown", "from": "more"},
            step("late", "data.noise", data="unlabeled"),
        )
    assert caught.value.faults == (
        "stage grown, data.noise.mask: got 2.0, wanted a share from 0 to 1.",
        "stage grown.teacher: a data step asks no teacher. Give it to the stage that trains on the texts.",
        "stage more.data: got 'grwn', wanted train, unlabeled, grown, or some of them with + between. "
        "Did you mean 'grown'?",
        "stage dev.data: got 'train+train', which names a part twice. Name each once.",
        "stage dev: a data step cannot have this name. Take another, without +, such as grown.",
        "stage student.from: more is a data step and leaves texts, no model. Name it in data.",
        "stage student.teacher: grown is a data step and leaves texts, no model. Name it in data.",
        "stage student: tune.full needs labels, the stage trains on unlabeled texts.",
        "stage late.data: wants unlabeled texts, the recipe's data has none. Write data.unlabeled: FILE.",
    )


def test_faults_of_settings(tmp_path: Path) -> None:
    tags = tmp_path / "tags.tsv"
    tags.write_bytes(b"film\tN\nbook N\n")
    told = {
        Noise(tags=str(tags)): f"tags: got '{tags}', wanted a file with word<TAB>tag lines. "
        f"{tags}, row 2: got 'book N', wanted a word, a tab and its tag.",
        Noise(tags="norwegian"): "tags: got 'norwegian', wanted english, learned, or a file with word<TAB>tag lines.",
        Noise(copies=0): "copies: got 0, wanted more than 0.",
        Neighbours(share=0): "share: got 0, wanted a share above 0, up to 1.",
        LanguageModel(share=2): "share: got 2, wanted a share above 0, up to 1.",
        LanguageModel(k=0): "k: got 0, wanted more than 0.",
        Neighbours(vectors="no"): "vectors: got 'no', wanted a file in the text format of word2vec or GloVe.",
        Neighbours(sides="frist"): "sides: got 'frist', wanted one of any, first, second, both. Did you mean 'first'?",
    }
    assert [list(method.faults()) for method in told] == [[fault] for fault in told.values()]
    tags.write_bytes("film\tN\ncafé\tN\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"tags\.tsv, row 2: byte 10 \(0xe9\) is not UTF-8"):
        read_tags(tags)


def test_without_a_mask_token_nothing_is_masked(tmp_path: Path, tiny_data: dict[str, str]) -> None:
    folder = model_folder(tmp_path / "model")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "mask_token"}))
    with pytest.raises(RecipeError, match=r"has no mask token\. Write mask: 0, or from: a model that has one\."):
        planned(folder, tiny_data, NOISE)
    assert planned(folder, tiny_data, step("grown", "data.noise", mask=0)).stages


def test_words_without_neighbours_are_an_error(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("xyz 1 0\nzyx 0 1\n")
    made = planned(tiny_bert, tiny_data, step("grown", "data.neighbours", vectors=str(file)))
    with pytest.raises(NoEffect, match=r"^data\.neighbours: no word of the corpus has a vector and neighbours\."):
        run(made, tmp_path / "s")
    assert not tree(tmp_path / "s"), "nothing is left"


def test_a_file_is_what_it_says(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    done = run(planned(tiny_bert, tiny_data, NOISE), tmp_path)[0]
    lines = (done.artefact.path / FILE).read_text().splitlines()
    assert all(list(json.loads(line)) == ["text"] for line in lines)
    assert done.artefact.form == "texts" and done.artefact.record["on"] == "train"
    assert done.artefact.record["found"] == {"rows": 64, "grown": len(lines)}
