"""Masked language modelling: what is masked, rows and scores, the triple loss, and the way from text to a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from folders import data_files, language_folder, model_folder, sentences, write_tokenizer
from test_loop import Interrupted, StopAfter, newest, same_bits, worst
from tiny import FAMILIES, PAD, VOCAB, batch, tiny

import smidgen
from smidgen.api import read_recipe
from smidgen.data import load_data
from smidgen.encoded import Encoded, objects
from smidgen.errors import DataError, InputError, ModelError, RecipeError
from smidgen.loop import History, Rows, make_accelerator, predict, train
from smidgen.masking import Masker, masker
from smidgen.method import Context, find
from smidgen.methods.distil.mask_language import Last, Triple
from smidgen.planner import plan
from smidgen.recipe import Files, Training, Use
from smidgen.recipe import load as load_recipe
from smidgen.runner import Done, run
from smidgen.source import load_model, resolve
from smidgen.tape import Tape, listen
from smidgen.tasks import MaskLanguage, head_of
from smidgen.tasks.classify import NO_LABEL
from smidgen.teacher import Online
from smidgen.tokens import encode, open_tokenizer

TASK = MaskLanguage()
WORDS = ("the", "film", "was", "very", "good", "and", "a", "book", "is", "quite", "dull", "so")
MASK = 5  # in the tests that have no tokenizer
TRAINING = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}


# What is masked.


def drawn(count: int = 200, step: int = 3, seed: int = 1, width: int = 40) -> tuple[np.ndarray, ...]:
    """ids, units, and what a masker makes of them."""
    ids = np.random.default_rng(0).integers(20, 100, (count, width))
    units = np.ones(ids.shape, bool)
    units[:, [0, -1]] = False
    return ids, units, *Masker(MASK, np.arange(100, 120), seed).draw(ids, units, np.arange(count), step)


def test_of_fifteen_per_cent_eight_are_hidden_one_is_swapped_and_one_stays() -> None:
    ids, units, masked, labels, picked = drawn()
    assert (picked.sum(1) == round(0.15 * 38)).all() and not (picked & ~units).any()
    assert (labels[picked] == ids[picked]).all() and (labels[~picked] == NO_LABEL).all()
    assert (masked[~picked] == ids[~picked]).all()
    shares = [
        np.mean(found) for found in (masked[picked] == MASK, masked[picked] >= 100, masked[picked] == labels[picked])
    ]
    assert sum(shares) == pytest.approx(1) and shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_masks_follow_from_seed_step_and_row_alone() -> None:
    ids, units, *first = drawn()
    assert all(np.array_equal(a, b) for a, b in zip(first, drawn()[2:], strict=True))
    assert not np.array_equal(first[0], drawn(step=4)[2]) and not np.array_equal(first[0], drawn(seed=2)[2])
    wide = [np.pad(x, ((0, 0), (0, 88))) for x in (ids, units)]
    some = np.array([7, 3])
    padded = Masker(MASK, np.arange(100, 120), 1).draw(wide[0][some], wide[1][some], some, 3)
    assert all(np.array_equal(a[:, :40], b[some]) for a, b in zip(padded, first, strict=True))
    assert (padded[1][:, 40:] == NO_LABEL).all() and not padded[0][:, 40:].any()


def test_every_row_has_a_masked_token() -> None:
    assert Masker(MASK, np.arange(9)).counts(np.array([0, 1, 3, 10, 20, 500])).tolist() == [0, 1, 1, 2, 3, 75]


def test_the_mask_token_is_the_tokenizers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    found = masker(tmp_path, 0)
    assert found.mask_id == tokenizer.token_to_id("[MASK]")
    special = [tokenizer.token_to_id(f"[{name}]") for name in ("CLS", "SEP", "PAD", "UNK", "MASK")]
    assert sorted([*found.ordinary, *special]) == sorted(tokenizer.get_vocab().values())
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"mask_token": {"content": "film"}}), encoding="utf-8")
    assert masker(tmp_path, 0).mask_id == tokenizer.token_to_id("film")
    file.write_text(json.dumps({"mask_token": "<none>"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"no mask token, wanted <none> in its vocabulary\. Give a model that was"):
        masker(tmp_path, 0)


# Texts to rows.


def test_long_texts_are_cut_into_consecutive_rows(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    texts = ["the film was", "§ §", " ".join(["a", "great", "meal", "is", "fun"] * 6), "so § good"]
    encoded = encode(TASK, tmp_path, texts, None, 12)
    tokenizer = open_tokenizer(tmp_path)
    assert encoded.example is not None and encoded.example.tolist() == [0, 2, 2, 2, 3]  # nothing to mask in the second
    assert encoded.lengths.max() == 12 and encoded.units is not None
    for i in (0, 2, 3):
        rows = np.flatnonzero(encoded.example == i)
        ids = np.concatenate([encoded.ids[encoded.starts[r] + 1 : encoded.starts[r + 1] - 1] for r in rows])
        assert ids.tolist() == tokenizer.encode(texts[i], add_special_tokens=False).ids
    special = [tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]")]
    assert (encoded.units == ~np.isin(encoded.ids, special)).all()
    assert (TASK.targets(encoded, texts, None)[encoded.units] == encoded.ids[encoded.units]).all()
    with pytest.raises(
        InputError, match=r"none of 2 texts has a token that could be masked, got '§ §' and so on; wanted"
    ):
        encode(TASK, tmp_path, ["§", "§"], None, 12)


def test_dev_is_masked_once_whatever_the_seed(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    encoded = encode(TASK, tmp_path, [text for text, _ in sentences(20, 0)], None, 16)
    (one, labels), (other, _) = (masker(tmp_path, seed).once(encoded) for seed in (0, 7))
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.units, labels != NO_LABEL)
    assert (labels[one.units] == encoded.ids[one.units]).all() and not np.array_equal(one.ids, encoded.ids)


def test_scores_are_over_all_masked_tokens_of_the_chosen_texts() -> None:
    draw = np.random.default_rng(0)
    outputs = objects(np.stack([draw.integers(0, 2, n), draw.random(n)], 1) for n in (3, 0, 5))
    gold, index = TASK.no_labels(3), np.array([[0, 1, 2], [2, 2, 0]])
    for metric, of in (("accuracy", 0), ("likelihood", 1)):
        found = MaskLanguage(metric).resampled(outputs, gold, index)
        for rate, chosen in zip(found, index, strict=True):
            mean = np.mean([row[of] for i in chosen for row in outputs[i]])
            assert rate == pytest.approx(mean if metric == "accuracy" else np.exp(-mean))
    assert TASK.decide(outputs)[2] == tuple(bool(row[0]) for row in outputs[2])


# Files.


def test_a_corpus_is_read_without_labels_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"text {i}\n\n" for i in range(40)), encoding="utf-8")
    data = load_data(str(tmp_path / "a.txt"), task="mask_language")
    assert (len(data.train), len(data.dev), data.warnings) == (36, 4, ())
    assert not set(data.train.texts) & set(data.dev.texts) and isinstance(data.task, MaskLanguage)


BAD = [
    ("a.txt", b"", "a.txt is empty. Give a file with data in it"),
    ("a.txt", b"good\nbad \xff\n", "a.txt, row 2: byte 9 (0xff) is not UTF-8, perhaps latin1"),
    ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', "a.jsonl, row 2: the column 'text' has no value"),
    ("a.csv", b"body\na\n", "a.csv: no text column. Its columns: body"),
    ("a.txt", b"one\n", "1 different texts are too few to take a dev set from. Type --dev FILE."),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_corpus_that_cannot_be_used(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path / name), task="mask_language")
    assert message in str(caught.value)


# Logits where they are wanted.


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_some_tokens_are_those_of_all(family: str) -> None:
    model = tiny(family, head="MaskedLM")
    inputs = batch(VOCAB, (7, 4))
    at = torch.zeros(2, 7, dtype=torch.bool)
    at[0, [1, 6]], at[1, 3] = True, True
    with torch.inference_mode():
        with listen(model, ("logits", "block.-1.hidden"), at) as recording:
            found = recording.read(model(**inputs), inputs["attention_mask"])
        whole = model(**inputs).logits
    assert found["logits"].shape == (3, VOCAB) and found["block.-1.hidden"].shape[:2] == (2, 7)
    torch.testing.assert_close(found["logits"], whole[at], rtol=1e-5, atol=1e-5)


# The triple loss.


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max())
    return grown / grown.sum()


@pytest.mark.parametrize("tokens", ["masked", "all"])
@pytest.mark.parametrize("width", [6, 128])
def test_the_triple_loss_is_distilberts(tokens: str, width: int) -> None:
    """Written out in loops, over two texts of 6 and 4 tokens of which 2 and 1 are masked; padding changes nothing."""
    draw = np.random.default_rng(0)
    z, v = (draw.normal(0, 2, (2, 6, 9)) for _ in range(2))
    h, g = (draw.normal(size=(2, 6, 5)) for _ in range(2))
    labels = np.full((2, 6), NO_LABEL)
    labels[0, [1, 4]], labels[1, 2] = (3, 8), 0
    real = np.arange(6) < np.array([6, 4])[:, None]
    soft = hard = cosine = 0.0
    for b, t in zip(*np.nonzero(real), strict=True):
        if tokens == "all" or labels[b, t] != NO_LABEL:
            p, q = softmax(v[b, t] / 3), softmax(z[b, t] / 3)
            soft += 9 * sum(p[c] * np.log(p[c] / q[c]) for c in range(9)) / (10 if tokens == "all" else 3)
        if labels[b, t] != NO_LABEL:
            hard -= np.log(softmax(z[b, t])[labels[b, t]]) / 3
        cosine += (1 - h[b, t] @ g[b, t] / np.sqrt((h[b, t] @ h[b, t]) * (g[b, t] @ g[b, t]))) / 10
    at = real if tokens == "all" else labels != NO_LABEL
    pad = ((0, 0), (0, width - 6))
    mine, theirs = (
        {"logits": x[at], "last": np.pad(y, (*pad, (0, 0)), constant_values=7)} for x, y in ((z, h), (v, g))
    )
    tape = Tape(
        *({k: torch.from_numpy(x) for k, x in side.items()} for side in (mine, theirs)),
        labels=torch.from_numpy(labels[at]),
        mask=torch.from_numpy(np.pad(real, pad)).long(),
        examples=2,
        tokens=10,
        labelled=3,
        units=torch.ones(int(at.sum()), dtype=torch.bool),
        unit_count=float(at.sum()),
    )
    terms = Triple(temperature=3.0, tokens=tokens).loss(Last(TASK, "last", "last"), tape)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {"soft": 5 * soft, "hard": 2 * hard, "cosine": cosine}, rel=1e-5
    )
    assert list(Triple(hard=0, cosine=0).loss(Last(TASK), tape)) == ["soft"]


def test_settings_of_the_triple_loss() -> None:
    assert list(Triple(soft=0, hard=0, cosine=0).faults()) == [
        "soft: got 0, wanted more than 0, as hard and cosine are 0 too."
    ]
    ctx = Context(Path(), Path(), TASK, (), 0, tiny("bert", head="MaskedLM"), 4, 48, 4)
    with pytest.raises(InputError, match=r"distil.mask_language: the student is 32 wide, the teacher 48; wanted equal"):
        Triple().begin(ctx)
    assert Triple(cosine=0).begin(ctx) == Last(TASK) and not ctx.every_token


# In the loop.


def make_rows(count: int, seed: int = 0) -> Rows:
    """Random texts between two special tokens, masked anew in each step, with a teacher that reads what is left."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(5, 25, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.integers(10, VOCAB, starts[-1]).astype(np.int32)
    units = np.ones(len(ids), bool)
    units[starts[:-1]] = units[starts[1:] - 1] = False
    encoded = Encoded(ids, np.zeros(len(ids), np.int8), starts, units=units, example=np.arange(count))
    labels = np.where(units, ids, NO_LABEL).astype(np.int64)
    return Rows(encoded, labels, PAD, masker=Masker(MASK, np.arange(10, VOCAB), seed))


def judged(rows: Rows) -> Rows:
    """The same rows as a dev set."""
    from smidgen.splits import Split

    assert rows.masker is not None
    encoded, labels = rows.masker.once(rows.encoded)
    split = Split("dev", ("",) * len(rows), None, TASK.no_labels(len(rows)), "")
    return replace(rows, encoded=encoded, labels=labels, masker=None, split=split)


def teacher(blocks: int = 4, **how: Any) -> Any:
    return tiny(
        "bert", blocks=blocks, head="MaskedLM", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **how
    )


def trained(
    rows: Rows, work: Path, methods: dict[str, dict[str, Any]], training: Training, dropout: float = 0.0, **how: Any
) -> tuple[dict[str, torch.Tensor], History]:
    model = tiny("bert", head="MaskedLM", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    ctx = Context(work, work, TASK, (), 0, how.pop("model", model), 4, 32, 4)
    running = [(method, method.begin(ctx)) for method in (find(name)(**given) for name, given in methods.items())]
    wise = teacher().to(next(ctx.model.parameters()).dtype).requires_grad_(False) if ctx.model is not None else None
    rows = replace(rows, teacher=Online(how.pop("teacher", wise), tuple(sorted(ctx.teacher_taps))))
    history = train(running, ctx, rows, judged(make_rows(12, 3)), training, work, **how)
    assert ctx.model is not None
    return dict(ctx.model.state_dict()), history


SETTINGS = Training(learning_rate=1e-3, batch_size=8, warmup=0.2, precision="float32", epochs=1)
TRIPLES: list[dict[str, dict[str, Any]]] = [
    {"distil.mask_language": {}},
    {"distil.mask_language": {"tokens": "all"}},
    {"tune.full": {}, "distil.logits": {"hard": 0.5}, "distil.hidden": {"loss_kind": "cosine", "mapping": [[-1, -1]]}},
]
EACH = pytest.mark.parametrize("methods", TRIPLES, ids=["masked", "all", "composed"])


@EACH
@pytest.mark.parametrize("micro_tokens", [1, 64])
def test_micro_batches_equal_one_batch(methods: dict[str, Any], micro_tokens: int, tmp_path: Path) -> None:
    def go(work: str, training: Training) -> tuple[dict[str, torch.Tensor], History]:
        model = teacher(2).double()
        return trained(make_rows(30), tmp_path / work, methods, training, model=model)

    (whole, one), (pieces, other) = go("a", SETTINGS), go("b", replace(SETTINGS, micro_tokens=micro_tokens))
    assert worst(whole, pieces) < 1e-7
    assert one.entries[-1]["terms"] == pytest.approx(other.entries[-1]["terms"], rel=1e-6)


@EACH
def test_padding_changes_no_gradient(methods: dict[str, Any], tmp_path: Path) -> None:
    class Wide(Encoded):
        def batch(self, rows: Any, pad_id: int) -> dict[str, np.ndarray]:
            return {k: self.wider(v, pad_id if k == "input_ids" else 0) for k, v in super().batch(rows, pad_id).items()}

        def padded(self, values: np.ndarray, rows: Sequence[int] | np.ndarray, fill: float) -> np.ndarray:
            return self.wider(super().padded(values, rows, fill), fill)

        @staticmethod
        def wider(values: np.ndarray, fill: float) -> np.ndarray:
            return np.pad(values, ((0, 0), (0, 60 - values.shape[1])), constant_values=fill)

    rows = make_rows(24)
    narrow, one = trained(rows, tmp_path / "a", methods, SETTINGS, model=teacher(2).double())
    wide = replace(rows, encoded=Wide(**vars(rows.encoded)))
    padded, other = trained(wide, tmp_path / "b", methods, SETTINGS, model=teacher(2).double())
    assert worst(narrow, padded) < 1e-7
    assert one.entries[-1]["terms"] == pytest.approx(other.entries[-1]["terms"], rel=1e-6)


@pytest.mark.parametrize("tokens", ["masked", "all"])
def test_resumed_equals_uninterrupted_in_every_bit(tokens: str, tmp_path: Path) -> None:
    methods = {"distil.mask_language": {"tokens": tokens}}
    training = replace(SETTINGS, epochs=2.5, evaluations=2, micro_tokens=100)

    def go(work: str, seed: int, watch: Any = None) -> tuple[dict[str, torch.Tensor], History]:
        torch.manual_seed(seed)
        return trained(make_rows(30), tmp_path / work, methods, training, 0.3, watch=watch, checkpoint_seconds=0)

    whole, told = go("a", 0)
    for stop in (3, 8):
        with pytest.raises(Interrupted):
            go("b", stop, StopAfter(stop))
    resumed, retold = go("b", 99)
    assert same_bits(whole, resumed) and same_bits(vars(told), vars(retold))
    assert same_bits(newest(tmp_path / "a"), newest(tmp_path / "b"))


@pytest.mark.parametrize("tokens", ["masked", "all"])
def test_a_student_that_is_its_teacher_has_only_the_masked_tokens_to_learn(tokens: str, tmp_path: Path) -> None:
    """Both read the same masks: otherwise their answers would differ."""
    still = replace(SETTINGS, learning_rate=1e-12)
    methods = {"distil.mask_language": {"tokens": tokens}}
    both = {"model": teacher(4), "teacher": teacher(4).requires_grad_(False)}
    _, history = trained(make_rows(16), tmp_path / "a", methods, still, **both)
    terms = history.entries[-1]["terms"]
    assert terms["distil.mask_language.soft"] == pytest.approx(0, abs=1e-5)
    assert terms["distil.mask_language.cosine"] == pytest.approx(0, abs=1e-5)
    assert terms["distil.mask_language.hard"] > 2
    other = both | {"teacher": teacher(4, seed=1).requires_grad_(False)}
    _, history = trained(make_rows(16), tmp_path / "b", methods, still, **other)
    assert history.entries[-1]["terms"]["distil.mask_language.soft"] > 0.1


def test_dev_is_scored_at_its_masked_tokens() -> None:
    rows, model = judged(make_rows(40)), teacher(2)
    values = predict(model, rows, make_accelerator("float32"), TASK.brief)
    assert values.shape == (len(rows.encoded.ids), 2) and not values[~rows.encoded.units].any()
    hits = losses = 0.0
    for i in range(40):
        inputs = {k: torch.from_numpy(v) for k, v in rows.encoded.batch([i], PAD).items()}
        with torch.inference_mode():
            logits = model(**inputs).logits[0].double().numpy()
        for at, label in enumerate(rows.targets(np.array([i]))[0]):
            if label != NO_LABEL:
                hits += logits[at].argmax() == label
                losses -= np.log(softmax(logits[at])[label])
    count = int(rows.encoded.units.sum())
    assert rows.score(TASK, values) == pytest.approx(hits / count)
    assert rows.score(MaskLanguage("likelihood"), values) == pytest.approx(np.exp(-losses / count), rel=1e-4)


# The whole way.


WORDS = ("the", "film", "was", "very", "good", "and", "a", "book", "is", "quite", "dull", "so")


def corpus(path: Path, count: int) -> str:
    """Texts of one word over and over, of any of 12: what is masked can be seen from what is not."""
    lines = [" ".join([WORDS[i % 12]] * (4 + i // 12)) for i in range(count)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def recipe_of(model: Path, train: str, *stages: dict[str, Any], **more: Any) -> Any:
    told = {"model": str(model), "task": "mask_language", "data": {"train": train}, "stages": list(stages)} | more
    return load_recipe(yaml.safe_dump(told))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """A teacher pretrained on raw text, and a student of one block that learns from it."""
    root = tmp_path_factory.mktemp("language")
    train = corpus(root / "train.txt", 144)
    student = {"prune.layers": {"keep": 1, "rule": "ends"}, "distil.mask_language": {}}
    recipe = recipe_of(
        language_folder(root / "model"),
        train,
        {"name": "teacher", "methods": ["tune.full"], "train": TRAINING},
        {"name": "student", "teacher": "teacher", "methods": student, "train": TRAINING},
    )
    return run(plan(recipe), root / "stages")


def test_a_language_is_learnt_and_taught(chain: list[Done]) -> None:
    teacher, student = (one.artefact.record["history"] for one in chain)
    assert teacher["best"] > 0.9 and student["best"] > 0.9
    for history in (teacher, student):
        losses = [entry["loss"] for entry in history["entries"]]
        assert losses[-1] < 0.5 * losses[0]
    last = student["entries"][-1]["terms"]
    assert list(last) == [f"distil.mask_language.{name}" for name in ("soft", "hard", "cosine")]


def test_what_is_left_is_a_plain_tied_masked_language_model(chain: list[Done]) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = chain[1].artefact.path
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.num_hidden_layers == 1 and resolve(str(folder)).head == "mask_language"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([" ".join([word, word, "[MASK]", *[word] * 4]) for word in WORDS], return_tensors="pt")
    with torch.inference_mode():
        said = model(**inputs).logits[inputs["input_ids"] == tokenizer.mask_token_id].argmax(-1)
    assert sum(tokenizer.decode(i) == word for i, word in zip(said, WORDS, strict=True)) >= 9


def test_a_task_starts_from_it(chain: list[Done], tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    folder = chain[1].artefact.path
    recipe = recipe_of(
        folder,
        files["train"],
        {"methods": ["tune.full"], "train": TRAINING},
        {"methods": ["export.onnx"]},
        task="classify",
    )
    checked = plan(recipe)
    start = load_model(resolve(str(folder)), checked.data.task, 0)
    pretrained = load_model(resolve(str(folder)), TASK, 0)
    assert torch.equal(start.get_input_embeddings().weight, pretrained.get_input_embeddings().weight)
    done = run(checked, tmp_path / "stages")
    assert done[0].artefact.record["history"]["best"] > 0.8
    assert smidgen.load(done[1].artefact.path).predict(["a good film"])[0]["label"] in ("bad", "good")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pretrained_cut_and_tied(family: str, tmp_path: Path) -> None:
    """The runner itself checks that the folder gives the outputs of the model in hand."""
    model, short = language_folder(tmp_path / "model", family, blocks=3), TRAINING | {"epochs": 1}
    recipe = recipe_of(
        model,
        corpus(tmp_path / "train.txt", 40),
        {"methods": {"prune.layers": {"keep": 2}, "distil.mask_language": {}}, "teacher": "model", "train": short},
        {"methods": ["tune.full"], "train": short},
    )
    done = run(plan(recipe), tmp_path / "stages")
    again = load_model(resolve(str(done[1].artefact.path)), TASK, 0)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    before = load_model(resolve(str(done[0].artefact.path)), TASK, 0)
    assert not torch.equal(again.get_input_embeddings().weight, before.get_input_embeddings().weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_encoder_can_be_pretrained(family: str, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", family)
    recipe = recipe_of(
        model, corpus(tmp_path / "t.txt", 40), {"methods": ["tune.full"], "train": TRAINING | {"epochs": 1}}
    )
    (done,) = run(plan(recipe), tmp_path / "stages")
    assert head_of(json.loads((done.artefact.path / "config.json").read_text(encoding="utf-8"))) == "mask_language"


# Recipes.


@pytest.mark.parametrize("name", ["distilbert", "tinybert-general"])
def test_a_packaged_recipe_runs(name: str, tmp_path: Path) -> None:
    model = language_folder(tmp_path / "model", blocks=4)
    recipe = read_recipe(name, str(model), Files(corpus(tmp_path / "train.txt", 40)))
    (stage,) = recipe.stages
    less = {"student.narrow": {"blocks": 2, "width": 16, "heads": 4, "feed_forward": 32}}
    methods = tuple(Use(one.method, {**one.settings, **less.get(one.method, {})}) for one in stage.methods)
    short = replace(stage, methods=methods, train=replace(stage.train, epochs=1, precision="float32"))
    (done,) = run(plan(replace(recipe, stages=(short,))), tmp_path / "stages")
    left = load_model(resolve(str(done.artefact.path)), TASK, 0)
    assert left.config.num_hidden_layers == 2
    assert left.get_output_embeddings().weight is left.get_input_embeddings().weight


# What cannot be done.


def faults(model: Path, train: str, *stages: dict[str, Any], **more: Any) -> str:
    with pytest.raises((RecipeError, ModelError)) as caught:
        plan(recipe_of(model, train, *stages, **more))
    return str(caught.value)


def test_recipes_that_cannot_be(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    model, train = language_folder(tmp_path / "model"), tiny_data["train"]
    triple = {"name": "s", "teacher": "model", "methods": ["distil.mask_language"]}
    told = faults(model, train, {"name": "t", "methods": ["tune.full"]}, triple | {"teacher": "t"}, task="classify")
    assert "stage s: distil.mask_language is for the task mask_language, got classify. Write task: " in told
    told = faults(model, train, {"name": "s", "methods": ["tune.full"]}, {"name": "onnx", "methods": ["export.onnx"]})
    assert "stage onnx: export.onnx makes a graph that predicts, and a masked-language model predicts nothing" in told
    assert "is a bare encoder and has no answers" in faults(tiny_bert, train, triple)
    other = language_folder(tmp_path / "other")
    write_tokenizer(other, drop=("film",))
    for method in ("distil.mask_language", "distil.logits"):
        told = faults(model, train, triple | {"teacher": str(other), "methods": [method]})
        assert f"{method} compares tokens, but teacher" in told and "Take a student that starts from" in told
    wide = language_folder(tmp_path / "wide", vocab_size=VOCAB + 8)
    told = faults(model, train, triple | {"teacher": str(wide)})
    assert f"the teacher gives {VOCAB + 8} logits a token, the student {VOCAB}: one vocabulary is padded. Take" in told


def test_it_is_no_task_to_compress_or_predict(tiny_data: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--task mask_language: is pretraining, and leaves nothing to deploy\. Type"):
        smidgen.compress("m", tiny_data["train"], task="mask_language")
    with pytest.raises(
        ModelError, match=r"no onnx/model\.onnx\. It is a masked-language model, which predicts nothing"
    ):
        smidgen.load(language_folder(tmp_path / "model"))
