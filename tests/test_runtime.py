"""The runtime against transformers: the same ids, the same answers, and nothing read outside the folder."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError, ModelError
from smidgen.runtime import Model, deployed_bytes, deployed_files, load
from smidgen.runtime.batches import batches
from smidgen.runtime.inputs import as_questions, as_words
from smidgen.runtime.tokenizer import TextEncoder, length_limit, splits_at_spaces

LIMIT = 24
LABELS = ("negative", "neutral", "positive")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "un")]
STRANGE = [
    "",
    " ",
    "\n\t",
    "Ünïcödé ΣΑΣ",
    "日本語 テスト",
    "a\u0301 e\u0300",
    "\u200b",
    "😀 bado",
    "x" * 150,
    "[MASK] bado",
    "\x00a",
]


def words(draw: random.Random, count: int) -> str:
    made = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(count)]
    return " ".join(w + draw.choice(["", "", ",", "!", " "]) for w in made)


def some_texts(count: int, seed: int, longest: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [words(draw, draw.randint(0, longest)) for _ in range(count)]


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    pieces = [
        *SPECIAL,
        *"abcdefghiklmnoprstu,!",
        *SYLLABLES,
        *(f"##{s}" for s in SYLLABLES),
        *(f"##{c}" for c in "aeioun"),
    ]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=LIMIT).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with its tokenizer and its graph."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny")
    make_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        initializer_range=0.5,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(path)
    (path / "onnx").mkdir()
    export(
        model,
        dict(tokenizer(["bado", "bado kira lemu"], padding=True, return_tensors="pt")),
        path / "onnx/model.onnx",
    )
    return path


def export(model, batch, file: Path) -> None:
    import onnx_ir
    from torch.export import Dim
    from transformers.exporters import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    axes = {0: Dim("batch", min=1, max=4096), 1: Dim("length", min=2, max=64)}
    logging.disable(logging.WARNING)
    try:
        done = OnnxExporter().export(
            model, batch, config=OnnxConfig(dynamic=True, dynamic_shapes={k: axes for k in batch})
        )
    finally:
        logging.disable(logging.NOTSET)
    onnx_ir.save(done.program, file)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder, threads=1)


@pytest.fixture(scope="module")
def stock(folder: Path):
    """transformers' own pipeline over the same folder."""
    from transformers import pipeline

    found = pipeline("text-classification", model=str(folder), device="cpu")
    return lambda inputs, **settings: found(inputs, truncation=True, **settings)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def assert_same(got, wanted) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert_same(a, b)
    else:
        assert got.keys() == wanted.keys() and got["label"] == wanted["label"]
        assert got["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_predict_equals_the_pipeline_on_texts_and_pairs(model, stock):
    texts = [*some_texts(150, 1), *STRANGE, words(random.Random(2), 3000)]
    assert_same(model.predict(texts), stock(texts))
    pairs = [{"text": a, "text_pair": b} for a, b in zip(some_texts(60, 3), some_texts(60, 4, 8), strict=True)]
    assert_same(model.predict(pairs), stock(pairs))
    assert len({row["label"] for row in model.predict(texts)}) > 1


@pytest.mark.parametrize(
    "inputs", ["bado kira", ["bado kira"], ["bado", "kira lemu"], {"text": "bado", "text_pair": "ki"}]
)
@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}])
def test_predict_has_the_shape_of_the_pipeline(model, stock, inputs, settings):
    assert_same(model.predict(inputs, **settings), stock(inputs, **settings))


def test_pairs_may_be_given_apart(model):
    first, second = ["bado", "kira, lemu"], ["lemu!", "funa"]
    together = [{"text": a, "text_pair": b} for a, b in zip(first, second, strict=True)]
    assert model.predict(first, second) == model.predict(together)


def test_encode_equals_the_tokenizer_of_transformers(model, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [*some_texts(100, 7), *STRANGE, *(words(random.Random(i), 200 + i) for i in range(40))]
    assert model.encode(texts) == tokenizer(texts, truncation=True)["input_ids"]
    others = texts[::-1]
    assert model.encode(texts, others) == tokenizer(texts, others, truncation=True)["input_ids"]


def test_long_text_is_cut_before_it_is_tokenised_and_the_ids_stay(model):
    encoder = model.encoder
    assert encoder.window == 8 * LIMIT
    shapes = [
        "bado kira ",
        "x" * 70 + " ",
        "x" * 500 + " bado ",
        "bado\n",
        "bado  \u200b ",
        "ba \x01 \x02 ",
        "ΑΣ ",
        "日",
    ]
    for shape in [*shapes, *(words(random.Random(i), 7) + " " for i in range(50))]:
        text = shape * (2000 // len(shape))
        whole = encoder.tokenizer.encode(text).ids
        assert encoder([text])[0].ids == whole
    assert len(encoder._cut("bado kira " * 1000)) < 8 * LIMIT + 10


def byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(some_texts(50, 0), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def metaspace():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(some_texts(50, 0), trainer)
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_cut_keeps_the_ids_of_other_tokenizers(make, tmp_path):
    tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    encoder = TextEncoder(tmp_path)
    assert (encoder.max_length, encoder.pad_id, encoder.window) == (64, 1, 512)
    tokenizer.enable_truncation(64)
    for seed in range(60):
        draw = random.Random(seed)
        text = "".join(
            draw.choice([words(draw, 3), " ", "  ", "\n", "\u00a0", "\u2003", " \u0301", "'s"]) for _ in range(400)
        )
        assert encoder._cut(text) != text
        assert encoder([text])[0].ids == tokenizer.encode(text).ids


def test_no_cut_where_it_could_change_the_ids(broken):
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    assert splits_at_spaces(tokenizer)
    assert not splits_at_spaces({**tokenizer, "pre_tokenizer": None})
    assert not splits_at_spaces({**tokenizer, "pre_tokenizer": {"type": "Metaspace", "split": False}})
    assert not splits_at_spaces({**tokenizer, "added_tokens": [{"content": "new york"}]})
    parts = [{"type": "WhitespaceSplit"}, {"type": "Metaspace"}]
    assert splits_at_spaces({"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}})
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    (broken / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    encoder = TextEncoder(broken)
    assert encoder.window is None
    long = "bado " * 500 + "kira"
    assert encoder([long])[0].ids[-3:-1] == encoder(["kira"])[0].ids[1:-1]


@pytest.mark.parametrize(
    ("config", "settings", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, {"model_max_length": 10**30}, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, {"model_max_length": 128}, 128),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, {"model_max_length": 600}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, {}, 513),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, {}, 8192),
        ({"model_type": "bilstm"}, {"model_max_length": 64}, 64),
        ({}, {}, 512),
    ],
)
def test_length_limit(config, settings, limit):
    assert length_limit(config, settings) == limit


def test_batches_hold_each_row_once_and_keep_the_budget():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    found = list(batches(lengths, 128))
    assert sorted(np.concatenate(found)) == list(range(500))
    for batch in found:
        assert len(batch) * lengths[batch].max() <= 128
    assert [len(batch) for batch in batches([300, 300, 5], 128)] == [1, 1, 1]
    assert list(batches([], 128)) == []


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(10, 60),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(1, 12),
)
def test_padding_and_calls_cost_the_least_together(lengths, tokens, most, call):
    """Against all ways to cut rows in the order of their lengths."""
    ordered = sorted(lengths)
    n, least = len(ordered), math.inf
    for cut in range(2 ** (n - 1)):
        ends = [i + 1 for i in range(n - 1) if cut >> i & 1] + [n]
        parts = [ordered[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if all(len(p) == 1 or (len(p) * p[-1] <= tokens and len(p) <= (most or n)) for p in parts):
            least = min(least, sum(len(p) * p[-1] + call for p in parts))
    found = list(batches(lengths, tokens, most, call))
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    chosen = [[lengths[row] for row in batch] for batch in found]
    assert sum(len(p) * max(p) + call for p in chosen) == least
    assert all(len(p) == 1 or (len(p) * max(p) <= tokens and len(p) <= (most or n)) for p in chosen)


def test_logits_do_not_depend_on_the_batch(model):
    texts = some_texts(70, 8)
    alone = np.concatenate([model.outputs(text) for text in texts])
    assert alone.shape == (70, 3) and alone.dtype == np.float32
    for budget in (1, 200, 10**6):
        np.testing.assert_allclose(model.outputs(texts, batch_tokens=budget), alone, atol=1e-5)
    assert model.outputs([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(["a", 3]), "text 1: got int, wanted a string or {'text': ..., 'text_pair': ...}."),
        (lambda m: m.predict([None]), "text 0: got NoneType"),
        (lambda m: m.predict(7), "got int, wanted a text, a list of texts"),
        (lambda m: m.predict([{"txt": "a"}]), "text 0: got the keys ['txt'], wanted 'text' and perhaps 'text_pair'."),
        (lambda m: m.predict({"text": "a", "text_pair": 1}), "pair 0: got int, wanted two strings."),
        (lambda m: m.predict(["a"], ["b", "c"]), "pairs: wanted a list with one second text for each text"),
        (lambda m: m.predict(["a", "b\ud800"]), "text 1: holds U+D800, half of a character."),
        (lambda m: m.predict(" " * 2000 + "a \udc00"), "text 0: holds U+DC00, half of a character."),
        (lambda m: m.predict(["ok"] * 9000 + ["\udc00"]), "text 9000: holds U+DC00, half of a character."),
        (lambda m: m.predict("a", top_k=0), "top_k: got 0, wanted 1 or more"),
        (lambda m: m.predict("a", top_k="3"), "top_k: got '3', wanted a number or None"),
    ],
)
def test_bad_input_is_told(model, call, message):
    with pytest.raises(InputError) as raised:
        call(model)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_words(["a", "b\ud800"]), "text 1: holds U+D800, half of a character."),
        (lambda: as_words(None), "got NoneType, wanted a text, a list of texts, or lists of words."),
        (lambda: as_questions("why", "a \ud800 b"), "text 0: holds U+D800, half of a character."),
        (lambda: as_questions(5, ["b"]), "got int and list; wanted questions and contexts as two lists"),
        (lambda: as_questions(None, None), "an answer is looked for in a context; wanted questions and contexts"),
    ],
)
def test_words_and_questions_that_are_none_are_told(call, message):
    with pytest.raises(InputError) as raised:
        call()
    assert message in str(raised.value)


def test_threads_must_be_positive(folder):
    with pytest.raises(InputError, match="threads: got 0, wanted 1 or more"):
        load(folder, threads=0)


def test_deployed_is_counted_to_the_byte(folder):
    names = [file.relative_to(folder).as_posix() for file in deployed_files(folder)]
    assert names == ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"]
    assert deployed_bytes(folder) == sum((folder / name).stat().st_size for name in names)


def test_incomplete_folder_names_what_is_missing(broken):
    (broken / "onnx/model.onnx").unlink()
    (broken / "config.json").unlink()
    with pytest.raises(
        ModelError, match=r"no config\.json and no onnx/model\.onnx\. A folder made by 'smidgen compress'"
    ):
        load(broken)
    (broken / "delta.json").touch()
    with pytest.raises(ModelError, match=r"It is a delta: 'smidgen merge BASE DELTA --out DIR --onnx'"):
        load(broken)
    (broken / "delta.json").unlink()
    (broken / "stages").mkdir()
    with pytest.raises(ModelError, match=r"It holds what a run made: give the folder under stages/"):
        load(broken)
    (broken / "winner").mkdir()
    with pytest.raises(ModelError, match=r"There is one under winner/: give .*copy/winner"):
        load(broken)
    with pytest.raises(ModelError, match="no such folder"):
        load(broken / "nowhere")


def test_link_out_of_the_folder_is_refused(broken, folder):
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(ModelError, match="a link to a file outside the folder"):
        load(broken)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", "other.data"])
def test_weights_kept_elsewhere_are_refused(broken, location):
    import onnx

    file = broken / "onnx/model.onnx"
    graph = onnx.load(file)
    onnx.save(graph, file, save_as_external_data=True, location="model.onnx.data")
    assert len(deployed_files(broken)) == 5 and load(broken).predict("bado")
    outside = onnx.load(file, load_external_data=False)
    for tensor in outside.graph.initializer[:1]:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    file.write_bytes(outside.SerializeToString())
    with pytest.raises(ModelError, match=f"keeps weights in '{location}', wanted none or 'model.onnx.data'"):
        load(broken)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", None])
def test_corrupt_graph_is_one_line(broken, content):
    file = broken / "onnx/model.onnx"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(ModelError) as raised:
        load(broken)
    assert "cannot open it" in str(raised.value) and "\n" not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json: not JSON"),
        ("config.json", "[]", "holds list, wanted a JSON object"),
        (
            "config.json",
            '{"architectures": ["BertForMaskedLM"]}',
            "is a BertForMaskedLM, wanted one of ...ForSequenceClassification",
        ),
        ("config.json", '{"num_labels": 5}', r"gives logits of shape .* config\.json has 5 labels"),
        ("tokenizer.json", "{}", r"tokenizer\.json: .*Copy the folder again"),
    ],
)
def test_files_that_do_not_fit_are_told(broken, file, content, message):
    (broken / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        load(broken)


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import smidgen.runtime; took = time.perf_counter() - start;"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'tokenizers'} & set(sys.modules); assert not heavy, heavy;"
        "assert took < 2, took"
    )
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})


def test_empty_second_text_is_read_as_transformers_reads_it(model, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.encode({"text": "bado", "text_pair": ""}) == [tokenizer(text="bado", text_pair="")["input_ids"]]
    assert model.encode(["bado"], [""]) == tokenizer(["bado"], [""])["input_ids"]
