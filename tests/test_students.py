"""The students of smidgen: their folders, graphs, vocabularies and vectors, and how a recipe makes one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from folders import LABELS, model_folder, sentences, vocabulary, write_csv, write_tokenizer
from tiny import FAMILIES, PAD
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from smidgen.anatomy import anatomy, states
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import InputError, ModelError, NoEffect, RecipeError
from smidgen.graph import difference, export
from smidgen.lexicon import SPECIAL, components, count, lexicon, reduced, seen, spellings, word_vectors, words
from smidgen.method import Context, Sight
from smidgen.methods.distil.attention import Attention
from smidgen.methods.distil.feature_maps import FeatureMaps
from smidgen.methods.distil.hidden import Hidden
from smidgen.methods.distil.relations import Relations
from smidgen.methods.prune.layers import Layers
from smidgen.methods.student.bilstm import Bilstm
from smidgen.methods.student.cnn import Cnn
from smidgen.methods.student.cnn_lstm import CnnLstm
from smidgen.methods.student.mobile import Mobile
from smidgen.methods.student.narrow import Narrow
from smidgen.methods.student.static import Static, first_scores
from smidgen.methods.tune.freeze import Freeze
from smidgen.planner import Plan, plan
from smidgen.recipe import load
from smidgen.runner import Done, run
from smidgen.runtime import load as load_runtime
from smidgen.source import load_model, resolve, takes_types, tensor_shapes
from smidgen.students._parts import BiLstm
from smidgen.students.cnn import Convolutions
from smidgen.students.siamese import apart
from smidgen.tape import listen
from smidgen.tasks.classify import Classify

VOCAB = 60
TASK = Classify(LABELS)
TEXTS, TAGS = AutoModelForSequenceClassification, AutoModelForTokenClassification
SHAPES: list[tuple[Any, str, dict[str, Any]]] = [
    (TEXTS, "bilstm", {}),
    (TEXTS, "bilstm", {"pooling": "attention"}),
    (TEXTS, "bilstm", {"pooling": "max", "head_size": 0}),
    (TEXTS, "siamese", {}),
    (TEXTS, "cnn", {"widths": [2, 3, 6], "channels": 8}),
    (TEXTS, "static", {"head_size": 12}),
    (TAGS, "bilstm", {}),
    (TAGS, "cnn-lstm", {"lstm_size": 9, "longest": 5, "alphabet_size": 12}),
    (TEXTS, "cnn-lstm", {"lstm_size": 9, "longest": 5, "alphabet_size": 12, "head_size": 7}),
    (TAGS, "static", {}),
]
EACH = pytest.mark.parametrize(("auto", "kind", "shape"), SHAPES, ids=lambda v: getattr(v, "__name__", str(v))[9:30])


def tiny(auto: Any, kind: str, shape: dict[str, Any]) -> Any:
    size = {"lstm_size": 10, "head_size": 9} if kind in ("bilstm", "siamese") else {}
    config = AutoConfig.for_model(
        f"smidgen-{kind}", vocab_size=VOCAB, embedding_size=16, num_labels=3, **(size | shape)
    )
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    if kind == "cnn-lstm":
        ends = torch.randint(0, 6, (VOCAB, 1))
        model.body.spellings.copy_(torch.randint(1, 12, (VOCAB, 5)) * (torch.arange(5) < ends))
    return model


def inputs(model: Any, lengths: list[int], width: int) -> dict[str, torch.Tensor]:
    """Random ids; the second half of each text has type 1 where the model asks."""
    draw = torch.Generator().manual_seed(1)
    places, ends = torch.arange(width), torch.tensor(lengths)[:, None]
    ids = torch.randint(1, VOCAB, (len(lengths), 128), generator=draw)[:, :width]
    given = {"input_ids": ids * (places < ends), "attention_mask": (places < ends).long()}
    if takes_types(model):
        given["token_type_ids"] = ((places >= ends // 2) & (places < ends)).long()
    return given


# Folders and the Auto classes.


def test_import_alone_registers_them(tmp_path: Path) -> None:
    """In a fresh process: the Auto classes know the folder whether transformers comes before or after."""
    tiny(TEXTS, "cnn", {}).save_pretrained(tmp_path)
    here = repr(str(tmp_path))
    config = f"from transformers import AutoConfig; AutoConfig.from_pretrained({here}); "
    last = f"from transformers import AutoModelForSequenceClassification as A; m = A.from_pretrained({here})\n"
    last += "print(type(m).__name__)"
    for first in (
        "import smidgen; from transformers import PreTrainedModel; " + config,  # loads the configs half way through
        "import transformers.models.auto.modeling_auto; import smidgen; ",
    ):
        done = subprocess.run([sys.executable, "-c", first + last], capture_output=True, text=True, check=False)
        assert done.stdout == "CnnForSequenceClassification\n", done.stderr


@EACH
def test_saved_and_loaded_by_the_auto_classes(auto: Any, kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(auto, kind, shape)
    model.save_pretrained(tmp_path)
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    given = inputs(model, [5, 9], 9)
    assert torch.equal(model(**given).logits, again.eval()(**given).logits)


@EACH
def test_padding_changes_nothing(auto: Any, kind: str, shape: dict[str, Any]) -> None:
    """Nor does the company of longer texts."""
    model, lengths = tiny(auto, kind, shape), [1, 7, 32, 2]
    narrow, wide = (inputs(model, lengths, width) for width in (32, 128))
    one, other = model(**narrow).logits, model(**wide).logits
    if auto is TAGS:
        real = narrow["attention_mask"].bool()
        one, other = one[real], other[:, :32][real]
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    alone = model(**{name: value[1:2, :7] for name, value in narrow.items()}).logits
    torch.testing.assert_close(alone.flatten(), (one[1] if auto is TEXTS else one[1:8]).flatten(), rtol=0, atol=1e-6)


@EACH
def test_the_graph_answers_the_same(auto: Any, kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    import onnx

    model, file = tiny(auto, kind, shape), tmp_path / "model.onnx"
    given = {name: value.numpy() for name, value in inputs(model, [9, 4], 9).items()}
    export(model, given | {"token_type_ids": given.get("token_type_ids", given["input_ids"])}, file, 128)
    for lengths, width in (([2], 2), ([1], 3), ([31], 31), ([8, 3, 8, 1, 5], 8), ([100, 128], 128)):
        batch = {name: value.numpy() for name, value in inputs(model, lengths, width).items()}
        if auto is TAGS:
            batch = {name: value[:, : min(lengths)] for name, value in batch.items()}
        assert difference(model, file, batch) < 1e-5
    nodes = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert nodes.count("LSTM") == (kind in ("bilstm", "siamese", "cnn-lstm"))
    assert nodes.count("Gather") == (2 if (auto, kind) == (TEXTS, "static") else 1), (
        "a look-up, and no other work on it"
    )


@EACH
def test_a_few_steps_reduce_the_loss(auto: Any, kind: str, shape: dict[str, Any]) -> None:
    model = tiny(auto, kind, shape).train()
    given = inputs(model, [5, 9, 7, 3], 9)
    labels = given["input_ids"] % 3 if auto is TAGS else torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(**given).logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None for p in model.parameters()), "a weight that nothing reads"


# Their parts, against loops.


def test_bilstm_is_that_of_torch_on_each_text_alone() -> None:
    torch.manual_seed(0)
    ours, theirs = BiLstm(6, 5), torch.nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    for name, value in ours.ahead.named_parameters():
        getattr(theirs, name).data.copy_(value)
        getattr(theirs, f"{name}_reverse").data.copy_(getattr(ours.back, name))
    values, lengths = torch.randn(3, 7, 6), [7, 4, 1]
    states, ends = ours(values, (torch.arange(7) < torch.tensor(lengths)[:, None]).long())
    for row, length in enumerate(lengths):
        wanted, (last, _) = theirs(values[row : row + 1, :length])
        torch.testing.assert_close(states[row, :length], wanted[0])
        torch.testing.assert_close(ends[row], last[:, 0].flatten())
        assert (states[row, length:] == 0).all()


def test_convolutions_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours, values = Convolutions(6, (2, 3, 5), 4), torch.randn(2, 9, 6)
    found = []
    for width, linear in zip((2, 3, 5), ours.filters, strict=True):
        theirs = torch.nn.Conv1d(6, 4, width, padding="same")
        theirs.weight.data = linear.weight.data.view(4, width, 6).transpose(1, 2)
        theirs.bias.data = linear.bias.data
        found.append(theirs(values.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(ours(values), torch.cat(found, -1).relu())


def test_static_is_a_weighted_mean() -> None:
    model = tiny(TEXTS, "static", {})
    torch.nn.init.normal_(model.scores.weight)
    given = inputs(model, [4, 6], 6)
    for row, length in enumerate((4, 6)):
        ids = given["input_ids"][row, :length]
        weights = model.scores.weight[ids, 0].exp()
        mean = (weights[:, None] * model.word_embeddings.weight[ids]).sum(0) / weights.sum()
        torch.testing.assert_close(model(**given).logits[row], model.classifier(mean))


def test_characters_are_read_as_in_torch() -> None:
    model = tiny(TAGS, "cnn-lstm", {"lstm_size": 9, "longest": 5, "alphabet_size": 12}).body
    theirs = torch.nn.Conv1d(30, 30, 3, padding="same")
    theirs.weight.data = model.convolution.filters[0].weight.data.view(30, 3, 30).transpose(1, 2)
    theirs.bias.data = model.convolution.filters[0].bias.data
    found = model.spelt(model.spellings)
    for token, spelling in enumerate(model.spellings):
        letters = model.characters.weight[spelling[spelling != 0].long()]
        wanted = theirs(letters.T[None]).relu().amax(-1)[0] if len(letters) else torch.zeros(30)
        torch.testing.assert_close(found[token], wanted, rtol=1e-5, atol=1e-6)


def test_pairs_are_read_apart() -> None:
    ids = torch.tensor([[2, 7, 3, 8, 9, 3, 0], [2, 7, 7, 7, 3, 5, 3]])
    mask, types = (ids != 0).long(), torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]])
    found, masks = apart(ids, mask, types)
    texts = [row[real.bool()].tolist() for row, real in zip(found, masks, strict=True)]
    assert texts == [[2, 7, 3], [2, 7, 7, 7, 3], [8, 9, 3], [5, 3]]
    model = tiny(TEXTS, "siamese", {})
    _, one = model.body(torch.tensor([[2, 7, 3]]), torch.ones(1, 3).long())
    _, other = model.body(torch.tensor([[8, 9, 3]]), torch.ones(1, 3).long())
    wanted = model.classifier(torch.cat((one, other, (one - other).abs(), one * other), -1))
    torch.testing.assert_close(model(ids, mask, types).logits[:1], wanted)


@pytest.mark.parametrize("pooling", ["last", "attention", "max"])
def test_a_second_text_that_is_not_there_is_one_token_at_any_length(pooling: str) -> None:
    model = tiny(TEXTS, "siamese", {"pooling": pooling})
    text, none = torch.tensor([[2, 7, 3]]), torch.tensor([[0]])
    (_, one), (_, other) = (model.body(ids, torch.ones_like(ids)) for ids in (text, none))
    wanted = model.classifier(torch.cat((one, other, (one - other).abs(), one * other), -1))
    for length in (3, 9):
        ids = torch.nn.functional.pad(text, (0, length - 3))
        found = model(ids, (ids != 0).long(), torch.zeros_like(ids)).logits
        torch.testing.assert_close(found, wanted)


# The states of their tokens.

WITH_STATES = [shape for shape in SHAPES if shape[1] not in ("siamese", "static")]
STATES = pytest.mark.parametrize(("auto", "kind", "shape"), WITH_STATES, ids=lambda v: getattr(v, "__name__", str(v)))


def heard(model: Any, given: dict[str, torch.Tensor], *taps: str) -> dict[str, torch.Tensor]:
    with torch.no_grad(), listen(model, taps) as recording:
        outputs = model(**given)
    return recording.read(outputs, given["attention_mask"])


@STATES
def test_states_are_what_the_head_reads_whatever_the_padding(auto: Any, kind: str, shape: dict[str, Any]) -> None:
    model, lengths = tiny(auto, kind, shape), [5, 1, 9]
    given = inputs(model, lengths, 9)
    found = heard(model, given, "block.0.hidden", "block.-1.first", "embeddings", "logits")
    where, real = states(model), given["attention_mask"].bool()
    hidden = found["block.0.hidden"]
    assert hidden.shape == (3, 9, where.hidden_size) and found["embeddings"].shape == (3, 9, where.input_size)
    assert torch.equal(found["block.-1.first"], hidden[:, 0])
    if auto is TAGS:
        torch.testing.assert_close(model.classifier(hidden)[real], found["logits"][real])
    elif kind == "cnn" or shape.get("pooling") == "max":
        text = hidden.masked_fill(~real.unsqueeze(-1), -1).amax(1)
        torch.testing.assert_close(model.classifier(text), found["logits"])
    wide = heard(model, inputs(model, lengths, 100), "block.0.hidden")["block.0.hidden"]
    torch.testing.assert_close(wide[:, :9][real], hidden[real], rtol=0, atol=1e-6)


@STATES
def test_they_thaw_from_the_head_to_the_embeddings(auto: Any, kind: str, shape: dict[str, Any]) -> None:
    model = tiny(auto, kind, shape)
    freeze = Freeze(blocks="all", thaw="top_down")
    state = freeze.begin(Context(Path(), Path(), TASK, (), 0, model))
    kinds = {"classifier": 0, "attention": 0, "lstm": 1, "filters": 1}
    for t in (0, 1, 2):
        freeze.step(state, t / 3)
        for name, parameter in model.named_parameters():
            parts = [kinds[part] for part in name.split(".") if part in kinds and "convolution" not in name]
            assert parameter.requires_grad == (t >= (parts[0] if parts else 2)), name


@pytest.mark.parametrize(
    ("kind", "tap", "error", "says"),
    [
        (
            "bilstm",
            "block.0.scores",
            ModelError,
            "model_type is 'smidgen-bilstm', which smidgen cannot take apart: its tokens have states, but there are no "
            "heads and no feed-forwards. Use what asks for states or logits, as distil.hidden and distil.logits do",
        ),
        ("bilstm", "pooled", ModelError, "model_type is 'smidgen-bilstm', which smidgen cannot take apart: its tokens"),
        ("cnn", "block.1.hidden", InputError, "asks for block 1, but this model has 1 blocks: use 0 to 0, or -1 to -1"),
        (
            "siamese",
            "block.0.hidden",
            ModelError,
            "model_type is 'smidgen-siamese': smidgen knows no states of its tok",
        ),
        ("static", "embeddings", ModelError, "smidgen-cnn-lstm, xlm-roberta, or ask for the logits alone."),
    ],
)
def test_what_they_do_not_have_is_refused(kind: str, tap: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)), listen(tiny(TEXTS, kind, {}), [tap]):
        pass


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (Attention(), ModelError, "cannot take apart: its tokens have states, but there are no heads"),
        (Relations(), ModelError, "cannot take apart: its tokens have states, but there are no heads"),
        (Layers(keep=1), ModelError, "cannot take apart: its tokens have states, but there are no heads"),
        (Hidden(mapping=((1, 0),)), InputError, "[[1, 0]] does not fit a student of 1 and a teacher of 4 blocks"),
        (FeatureMaps(), InputError, "the student is 20 wide, the teacher 32; wanted equal widths. Use distil.hidden"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_objectives_say_what_a_bilstm_lacks(method: Any, error: type[Exception], says: str) -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, tiny(TEXTS, "bilstm", {}), 4, 32, 4)
    with pytest.raises(error, match=re.escape(says)):
        method.begin(ctx)


def test_each_state_has_a_projection_of_its_own_width() -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, tiny(TEXTS, "bilstm", {}), 4, 32, 4)
    state = Hidden(mapping="middle", embeddings=True).begin(ctx)
    assert state.names == [("embeddings", "embeddings"), ("block.0.hidden", "block.1.hidden")]
    assert [tuple(p.shape) for p in state.parameters()] == [(32, 16), (32, 20)]


# Vectors.


def test_reduced_is_the_svd_of_the_centred_table() -> None:
    table = np.random.default_rng(0).normal(3, 1, (50, 8)) @ np.diag([9, 7, 5, 4, 3, 2, 1, 0.5])
    left, sizes, right = np.linalg.svd(table - table.mean(0), full_matrices=False)
    found = reduced(table, 3)
    assert found.shape == (50, 3) and found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :3] * sizes[:3]), rtol=1e-4, atol=1e-4)
    for k in range(3):
        sign = np.sign(right[k, np.abs(right[k]).argmax()])
        np.testing.assert_allclose(found[:, k], sign * left[:, k] * sizes[k], rtol=1e-4, atol=1e-4)


def test_reduced_keeps_distances_and_pads_with_zeros() -> None:
    table = np.random.default_rng(1).normal(0, 1, (20, 5))
    whole = reduced(table, 7)
    assert (whole[:, 5:] == 0).all()
    apart_before = np.linalg.norm(table[:, None] - table[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(whole[:, None] - whole[None], axis=-1), apart_before, atol=1e-5)
    assert np.array_equal(whole[:, :2], reduced(table, 2))


def test_first_scores_are_those_of_arora() -> None:
    counts = np.array([0, 10, 90])
    wanted = [np.log(1e-2 / (1e-2 + p)) for p in (0, 0.1, 0.9)]
    np.testing.assert_allclose(first_scores(counts, 1e-2), wanted)
    assert (first_scores(counts, 0) == 0).all()


# Vocabularies.

CORPUS = ["the cats sat on the mat, happily", "a cat; the unhappiest cat!", "naïve Überraschung 数 été"] * 3


def trained(kind: str) -> Tokenizer:
    """A small tokenizer of each kind, with what real ones have around a text."""
    texts = [*CORPUS, "quick brown foxes jump over lazy dogs and unrelated words", "so it was an odd day"] * 5
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(SPECIAL))
        names = ("[CLS]", "[SEP]")
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        names = ("<s>", "</s>")
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>"
        )
        names = ("<s>", "</s>")
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in names]
    if kind == "BPE":
        tokenizer.post_processor = processors.RobertaProcessing(ids[1], ids[0])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="{} $A {}".format(*names), pair="{} $A {} $B:1 {}:1".format(*names, names[1]), special_tokens=ids
        )
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_seen_cuts_its_own_texts_as_before(kind: str) -> None:
    source = trained(kind)
    pad = source.token_to_id("[PAD]" if kind == "WordPiece" else "<pad>")
    cut, old = seen(source, CORPUS, 10_000, pad)
    assert cut.get_vocab_size() == len(old) < source.get_vocab_size()
    for text in CORPUS:
        before, after = source.encode(text, "pair of the cats"), cut.encode(text)
        assert after.tokens == source.encode(text).tokens
        assert old[after.ids].tolist() == source.encode(text).ids
        assert cut.encode(text, text).type_ids == source.encode(text, text).type_ids
        assert before.ids
    assert all(source.id_to_token(int(i)) == cut.id_to_token(new) for new, i in enumerate(old))
    other = cut.encode("happy mathematics").tokens
    assert not {"[UNK]", "<unk>"} & set(other), "what did not occur can still be spelt"
    assert "".join(t.strip("#Ġ▁") for t in other[1:-1]) == "happymathematics"


def test_seen_keeps_the_most_frequent() -> None:
    source = trained("WordPiece")
    cut, _ = seen(source, CORPUS, 3, 0)
    frequent = np.argsort(-count(source, CORPUS), kind="stable")[:3]
    assert {source.id_to_token(int(i)) for i in frequent} <= set(cut.get_vocab())
    assert max(len(token.removeprefix("##")) for token in set(cut.get_vocab()) - set(SPECIAL)) <= 4


def test_words_are_the_most_frequent_and_lower_case() -> None:
    found = words(["The cat, the CAT sat", "the dog"], 3, lower=True)
    assert list(sorted(found.get_vocab(), key=found.token_to_id)) == [*SPECIAL, "the", "cat", ","]
    assert found.encode("THE bird , cat").tokens == ["[CLS]", "the", "[UNK]", ",", "cat", "[SEP]"]
    pair = found.encode("the cat", "the")
    assert (pair.tokens, pair.type_ids) == (["[CLS]", "the", "cat", "[SEP]", "the", "[SEP]"], [0, 0, 0, 0, 1, 1])
    assert found.encode("").tokens == ["[CLS]", "[SEP]"]
    assert "CAT" in words(["The CAT"], 9, lower=False).get_vocab()
    assert count(found, ["the cat the"])[[found.token_to_id(t) for t in ("the", "cat", ",")]].tolist() == [2, 1, 0]


@pytest.mark.parametrize("kind", ["WordPiece", "BPE"])
def test_a_words_vector_is_the_mean_of_its_pieces(kind: str) -> None:
    source = trained(kind)
    table = np.random.default_rng(0).normal(size=(source.get_vocab_size(), 6))
    own = words(["a jumpcat"], 100, lower=True)
    found = word_vectors(own, source, table)
    ids = source.encode("a jumpcat", add_special_tokens=False).ids[1:]  # BPE marks a word by the space before it
    assert len(ids) > 1
    np.testing.assert_allclose(found[own.token_to_id("jumpcat")], np.mean([table[i] for i in ids], 0))
    cls = source.token_to_id("[CLS]" if kind == "WordPiece" else "<s>")
    np.testing.assert_allclose(found[own.token_to_id("[CLS]")], table[cls])


def test_spellings_number_the_characters() -> None:
    found = words(["abc b, C"], 100, lower=False)
    table = spellings(found, 2)
    number = {token: table[found.token_to_id(token)].tolist() for token in ("abc", "b", ",", "C", "[PAD]", "[CLS]")}
    assert number == {"abc": [3, 4], "b": [4, 0], ",": [1, 0], "C": [2, 0], "[PAD]": [0, 0], "[CLS]": [0, 0]}
    pieces = trained("WordPiece")
    whole = spellings(pieces, 20)
    assert (whole[pieces.token_to_id("##t")] == whole[pieces.token_to_id("t")]).all()


def test_a_lexicon_has_a_vector_a_count_and_a_pad() -> None:
    source = trained("BPE")
    table = np.random.default_rng(0).normal(size=(source.get_vocab_size(), 6)).astype(np.float32)
    padded = np.concatenate([table, np.full((3, 6), 9, np.float32)])  # as some models have it, for speed
    for kind in ("teacher", "words", "full"):
        found = lexicon(kind, source, padded, source.token_to_id("<pad>"), lambda: CORPUS, 1000, 4)
        assert found.table.shape == (found.tokenizer.get_vocab_size(), 4) and len(found.counts) == len(found.table)
        assert found.tokenizer.id_to_token(found.pad_id) == ("[PAD]" if kind == "words" else "<pad>")
    assert found.tokenizer.to_str() == source.to_str() and np.array_equal(found.table, reduced(table, 4))


# Through the methods.


def context(folder: Path, pairs: bool = False, task: Classify = TASK) -> Context:
    source, texts = resolve(str(folder)), [text for text, _ in sentences(20, 5)]
    ctx = Context(folder, folder, task, tuple((text, text if pairs else None) for text in texts), 0)
    ctx.model, ctx.sight = load_model(source, task, 0), Sight(lambda: texts)
    return ctx


def test_begin_hands_the_stage_a_model_with_the_sources_vectors(tiny_classifier: Path) -> None:
    ctx = context(tiny_classifier)
    table = ctx.model.get_input_embeddings().weight.detach().numpy()
    ctx.edit(KeepBlocks((0,)))
    Bilstm(embedding=6, width=5, hidden=4).begin(ctx)
    assert ctx.edits == [] and ctx.skeleton is not None and ctx.tokenizer is not None
    assert ctx.model.config.id2label == dict(enumerate(LABELS))
    kept = sorted(ctx.tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = table[[vocabulary()[token] for token, _ in kept]]
    assert np.array_equal(ctx.model.get_input_embeddings().weight.detach().numpy(), reduced(rows, 6))
    assert kept[ctx.model.config.pad_token_id][0] == "[PAD]"
    assert "quite" in dict(kept) and "zz" not in dict(kept)


def test_pairs_make_it_siamese_unless_asked_otherwise(tiny_classifier: Path) -> None:
    kinds = {}
    for pairs in (False, True):
        for siamese in (False, True):
            ctx = context(tiny_classifier, pairs)
            Bilstm(siamese=siamese).begin(ctx)
            kinds[pairs, siamese] = ctx.model.config.model_type
    assert kinds.pop((True, True)) == "smidgen-siamese"
    assert set(kinds.values()) == {"smidgen-bilstm"}


def test_a_tokenizer_that_tells_no_texts_apart_makes_no_siamese(tmp_path: Path) -> None:
    """RoBERTa's and MPNet's give both texts of a pair one type: the second would be read as nothing."""
    folder = model_folder(tmp_path / "m", labels=LABELS)
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for piece in told["post_processor"]["pair"]:
        next(iter(piece.values()))["type_id"] = 0
    (folder / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match=r"both texts of a pair the type 0.*siamese: false, or vocabulary: words"):
        Bilstm().begin(context(folder, True))
    for chosen in (Bilstm(siamese=False), Bilstm(vocabulary="words")):
        chosen.begin(context(folder, True))


@pytest.mark.parametrize("student", [Bilstm, Cnn, CnnLstm, Static])
def test_all_are_told_the_same_of_what_they_share(student: Any) -> None:
    wrong = student(embedding=0, hidden=-1, dropout=2.0, vocabulary="wrods", vocabulary_size=0)
    kinds = "teacher, words" if student is Static else "teacher, words, full"
    assert list(wrong.faults()) == [
        "embedding: got 0, wanted a whole number from 1 to 4096.",
        "hidden: got -1, wanted a whole number from 0 to 4096.",
        "dropout: got 2.0, wanted a share from 0 to 1.",
        f"vocabulary: got 'wrods', wanted one of {kinds}. Did you mean 'words'?",
        "vocabulary_size: got 0, wanted a whole number from 1 to 1000000.",
    ]
    assert bool(list(student(vocabulary="full").faults())) == (student is Static)


def test_static_starts_from_the_frequencies(tiny_classifier: Path) -> None:
    ctx = context(tiny_classifier)
    Static(smooth=0.01, vocabulary="words").begin(ctx)
    counts = count(ctx.tokenizer, ctx.sight.training_texts())
    np.testing.assert_allclose(ctx.model.scores.weight[:, 0].detach(), first_scores(counts, 0.01), rtol=1e-5)


def test_a_task_without_such_a_model_is_refused(tiny_classifier: Path) -> None:
    class Tag(Classify):
        name = "tag"
        hf_class = "AutoModelForTokenClassification"

    ctx = context(tiny_classifier)
    ctx.task = Tag(LABELS)
    with pytest.raises(InputError, match=r"student\.cnn: makes no model for the task tag\. Use another student"):
        Cnn().begin(ctx)
    Bilstm().begin(ctx)
    assert type(ctx.model).__name__ == "BilstmForTokenClassification"


# student.narrow and student.mobile.


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mobilebert"])
def test_narrow_is_of_the_same_family_with_the_sources_embeddings(family: str, tmp_path: Path) -> None:
    ctx = context(model_folder(tmp_path, family, LABELS))
    old = ctx.model.get_input_embeddings().weight.detach().numpy()
    positions = dict(anatomy(ctx.model).embeddings.named_parameters()).get("position_embeddings.weight")
    Narrow(width=16, blocks=1).begin(ctx)
    assert ctx.model.config.model_type == family and ctx.tokenizer is None
    found = anatomy(ctx.model)
    assert (found.hidden_size, len(found.blocks)) == (16, 1)
    assert (found.blocks[0].heads, found.blocks[0].head_size, found.blocks[0].width) == (2, 8, 32)
    table = ctx.model.get_input_embeddings().weight.detach().numpy()
    if family == "electra":  # its tables have a width of their own
        assert np.array_equal(table, old)
    else:
        np.testing.assert_allclose(table, reduced(old, 16), atol=1e-5)
    if positions is not None and family != "electra":
        new = dict(found.embeddings.named_parameters())["position_embeddings.weight"].detach().numpy()
        np.testing.assert_allclose(new, positions.detach().numpy() @ components(old)[:, :16], atol=1e-5)


def test_narrow_refuses_what_is_no_narrower(tiny_classifier: Path) -> None:
    for settings, error, says in (
        ({"width": 64}, InputError, r"got 1 blocks of width 64, the source has 2 of width 32\. Ask for less"),
        ({"width": 30, "heads": 4}, InputError, "a width of 30 cannot be cut into 4 heads. Make it a multiple"),
        (
            {"width": 32, "blocks": 2},
            NoEffect,
            "is the source's own shape, 2 blocks of width 32, 4 heads, feed-",
        ),
    ):
        with pytest.raises(error, match=says):
            Narrow(**settings).begin(context(tiny_classifier))


def test_narrow_learns_hidden_states_in_a_recipe(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    below = student("student.narrow", width=16, blocks=1) | {"data": "train"}
    below["methods"]["distil.hidden"] = {"mapping": "last", "embeddings": True}
    done = run(planned(tiny_bert, tiny_data, TEACHER, below), tmp_path)
    entries = done[1].artefact.record["history"]["entries"]
    assert entries[-1]["terms"]["distil.hidden.block.0.hidden"] < entries[0]["terms"]["distil.hidden.block.0.hidden"]
    source = resolve(str(done[1].artefact.path))
    assert (source.family, source.blocks, source.config["hidden_size"]) == ("bert", 1, 16)
    assert source.tokenizer_id == resolve(str(tiny_bert)).tokenizer_id


def test_mobile_teacher_and_student_compare_without_projections(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    ends = {"width": 24, "embedding": 8, "heads": 2}
    wide = {"name": "teacher", "methods": {"student.mobile": {"kind": "teacher", "inner": 48, **ends}, "tune.full": {}}}
    thin = student("student.mobile", inner=8, **ends) | {"from": "model", "data": "train"}
    thin["methods"] |= {"distil.hidden": {"mapping": "uniform"}}
    graph = {"name": "graph", "methods": {"export.onnx": {}}}
    done = run(planned(tiny_bert, tiny_data, wide | {"train": TRAIN}, thin, graph), tmp_path)
    for stage, inner, stack in ((done[0], 48, 1), (done[1], 8, 4)):
        source = resolve(str(stage.artefact.path))
        config = source.config
        assert (source.family, source.blocks, config["hidden_size"]) == ("mobilebert", 2, 24)
        assert (config["intra_bottleneck_size"], config["num_feedforward_networks"]) == (inner, stack)
    terms = done[1].artefact.record["history"]["entries"][-1]["terms"]
    assert {"distil.hidden.block.0.hidden", "distil.hidden.block.1.hidden"} <= set(terms)
    assert done[2].artefact.record["found"]["largest_difference"] < 1e-4
    thin_model = TEXTS.from_pretrained(done[1].artefact.path).eval()
    for lengths in ([2], [5, 3]):
        given = {name: value.numpy() for name, value in inputs(thin_model, lengths, max(lengths)).items()}
        assert difference(thin_model, done[2].artefact.path / "onnx" / "model.onnx", given) < 1e-4
    assert (thin_model.get_input_embeddings().weight[PAD] == 0).all(), "the last token sees its right neighbour"


def test_mobile_wants_whole_heads(tiny_classifier: Path) -> None:
    with pytest.raises(InputError, match=r"an inner width of 128 cannot be cut into 3 heads\. Make it a multiple"):
        Mobile(heads=3).begin(context(tiny_classifier))


# A whole recipe.

TRAIN = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}


def student(method: str, **settings: Any) -> dict[str, Any]:
    methods = {method: settings, "distil.logits": {"loss_kind": "mse"}}
    train = TRAIN | {"epochs": 10, "learning_rate": 1e-2}
    return {"name": "student", "teacher": "teacher", "data": "train+unlabeled", "methods": methods, "train": train}


def planned(model: Path | str, data: dict[str, str], *stages: dict[str, Any]) -> Plan:
    return plan(load(yaml.safe_dump({"model": str(model), "data": data, "stages": list(stages)}, sort_keys=False)))


@pytest.fixture(scope="module")
def made(tiny_bert: Path, tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """teacher, BiLSTM that learns from it, its graph, its int8 graph."""
    small = student("student.bilstm", embedding=16, width=12, hidden=10, vocabulary="words")
    graph, int8 = ({"name": n, "methods": {m: {}}} for n, m in (("graph", "export.onnx"), ("int8", "quant.dynamic")))
    return run(planned(tiny_bert, tiny_data, TEACHER, small, graph, int8), tmp_path_factory.mktemp("run") / "stages")


def test_the_students_folder_is_whole(made: list[Done]) -> None:
    folder = made[1].artefact.path
    source = resolve(str(folder))
    assert source.family == "smidgen-bilstm" and source.head == "classify" and source.labels == LABELS
    assert source.id == made[1].planned.id and source.tokenizer_id != resolve(str(made[0].artefact.path)).tokenizer_id
    model = TEXTS.from_pretrained(folder)
    assert type(model).__name__ == "BilstmForSequenceClassification"
    ours, theirs = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    assert theirs("The film was GREAT, so great")["input_ids"] == ours.encode("The film was GREAT, so great").ids
    assert sorted(theirs("a film")) == ["attention_mask", "input_ids"]
    assert (theirs.pad_token_id, theirs.unk_token) == (model.config.pad_token_id, "[UNK]")
    assert made[1].artefact.record["edits"] == []


def test_the_student_learned_from_its_teacher(made: list[Done]) -> None:
    entries = made[1].artefact.record["history"]["entries"]
    assert set(entries[-1]["terms"]) == {"distil.logits.soft"}
    assert entries[-1]["loss"] < entries[0]["loss"] / 2
    assert made[1].artefact.record["history"]["best"] > 0.8


def test_it_predicts_without_torch_what_torch_predicts(made: list[Done], tiny_data: dict[str, str]) -> None:
    texts = [text for text, _ in sentences(144, 0)][88:120]
    graph, int8 = (load_runtime(made[i].artefact.path) for i in (2, 3))
    folder = made[1].artefact.path
    theirs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = TEXTS.from_pretrained(folder).eval()(**theirs).logits.numpy()
    np.testing.assert_allclose(graph.outputs(texts), wanted, atol=1e-4)
    assert (int8.outputs(texts).argmax(-1) == wanted.argmax(-1)).mean() > 0.9
    assert made[3].artefact.record["found"]["products_int8"] == 3, "the LSTM and both layers of the head"


def test_a_student_can_be_trained_on_and_can_teach(made: list[Done], tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Its folder is a model like any other: to start from, to learn from."""
    folder = str(made[1].artefact.path)
    again = {"name": "again", "from": folder, "methods": {"tune.full": {}}, "train": TRAIN | {"epochs": 1}}
    below = student("student.static", embedding=8) | {"teacher": folder, "train": TRAIN | {"epochs": 1}}
    done = run(planned(folder, tiny_data, again, below), tmp_path)
    assert resolve(str(done[0].artefact.path)).family == "smidgen-bilstm"
    assert resolve(str(done[1].artefact.path)).family == "smidgen-static"


def test_its_id_is_of_its_texts_and_its_seed(tiny_classifier: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Even where nothing trains: the vocabulary is made from the texts, the weights from the seed."""

    def id_of(files: dict[str, str], **more: Any) -> str:
        return planned(tiny_classifier, files, {"name": "s", "methods": {"student.cnn": {}}, **more}).stages[0].id

    rows = sentences(64, 9)
    other = tiny_data | {"train": write_csv(tmp_path / "train.csv", rows)}
    assert id_of(tiny_data) == id_of(tiny_data)
    assert len({id_of(tiny_data), id_of(other), id_of(tiny_data, seed=1), id_of(tiny_data, data="unlabeled")}) == 4


def test_objectives_on_tokens_are_refused(tiny_classifier: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    own = student("student.bilstm")
    own["methods"]["distil.hidden"] = {}
    says = (
        r"stage student: distil\.hidden compares tokens, but teacher \(.+classifier.*\) and student \(student\.bilstm, "
        r"with its own vocabulary\) cut texts differently\. Use distil\.logits"
    )
    with pytest.raises(RecipeError, match=says):
        planned(tiny_classifier, tiny_data, own | {"teacher": "model"})
    write_tokenizer(model_folder(tmp_path / "other", labels=LABELS), drop=("film",))
    full = own | {
        "teacher": str(tmp_path / "other"),
        "methods": own["methods"] | {"student.bilstm": {"vocabulary": "full"}},
    }
    with pytest.raises(
        RecipeError, match=r"\(.+other\) and student \(.+classifier.*\) cut texts differently\. Use dis"
    ):
        planned(tiny_classifier, tiny_data, full)
    later = {"name": "later", "teacher": "model", "methods": {"distil.hidden": {}}}
    with pytest.raises(RecipeError, match=r"stage later: distil\.hidden compares tokens"):
        planned(tiny_classifier, tiny_data, student("student.cnn") | {"teacher": "model"}, later)


@pytest.mark.parametrize("kind", ["bilstm", "cnn", "cnn_lstm"])
def test_a_student_with_the_teachers_tokens_learns_its_states(
    kind: str, tiny_classifier: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    first = student(f"student.{kind}", embedding=8, vocabulary="full") | {"teacher": "model", "data": "unlabeled"}
    first["methods"]["distil.hidden"] = {"loss_kind": "kl", "mapping": "middle"}
    del first["methods"]["distil.logits"]
    later = {"name": "later", "teacher": "model", "methods": {"distil.hidden": {"mapping": "last"}}}
    short = TRAIN | {"epochs": 2}
    made = planned(tiny_classifier, tiny_data, first | {"train": short}, later | {"train": short})
    done = run(made, tmp_path)[0]
    entries = done.artefact.record["history"]["entries"]
    assert set(entries[-1]["terms"]) == {"distil.hidden.block.0.hidden"} and entries[-1]["loss"] < entries[0]["loss"]
    found, teacher = resolve(str(done.artefact.path)), resolve(str(tiny_classifier))
    assert found.tokenizer_id == teacher.tokenizer_id
    assert not any("maps" in name for name in tensor_shapes(done.artefact.path / "model.safetensors"))
    given = AutoTokenizer.from_pretrained(done.artefact.path)("a good film", return_tensors="pt")
    assert given["input_ids"].tolist() == [
        Tokenizer.from_file(str(teacher.path / "tokenizer.json")).encode("a good film").ids
    ]
    assert TEXTS.from_pretrained(done.artefact.path)(**given).logits.shape == (1, 2)
    other = planned(tiny_classifier, tiny_data, {"name": "s", "methods": {f"student.{kind}": {"vocabulary": "full"}}})
    fewer = {"train": tiny_data["dev"], "dev": tiny_data["train"]}
    again = planned(tiny_classifier, fewer, {"name": "s", "methods": {f"student.{kind}": {"vocabulary": "full"}}})
    assert other.stages[0].id == again.stages[0].id, "nothing of it comes from the texts"


def test_two_students_in_a_stage_are_refused(tiny_classifier: Path, tiny_data: dict[str, str]) -> None:
    both = {"name": "s", "methods": {"student.cnn": {}, "student.static": {}}}
    with pytest.raises(RecipeError, match=r"student\.cnn and student\.static each make a model\. Give each a stage"):
        planned(tiny_classifier, tiny_data, both)


def test_what_needs_blocks_says_so(made: list[Done], tiny_data: dict[str, str], tmp_path: Path) -> None:
    folder = made[1].artefact.path
    cut = {"name": "cut", "methods": {"prune.layers": {"keep": 1}}}
    with pytest.raises(
        ModelError, match=r"model_type is 'smidgen-bilstm', which smidgen cannot take apart: its tokens have"
    ):
        run(planned(folder, tiny_data, cut), tmp_path)


def test_pairs_through_a_whole_run(tmp_path: Path) -> None:
    """A siamese student in the runtime: token types are fed to its graph."""
    model = model_folder(tmp_path / "model", labels=LABELS)
    lines = [f"{text},{text[::-1]},{label}" for text, label in sentences(60, 3)]
    (tmp_path / "train.csv").write_text("\n".join(["text,text_pair,label", *lines]), encoding="utf-8")
    stages = [
        student("student.bilstm", embedding=8, width=6) | {"teacher": "model", "data": "train"},
        {"name": "graph", "methods": {"export.onnx": {}}},
    ]
    done = run(planned(model, {"train": str(tmp_path / "train.csv")}, *stages), tmp_path / "stages")
    folder, predictor = done[0].artefact.path, load_runtime(done[1].artefact.path)
    pair = AutoTokenizer.from_pretrained(folder)("a good film", "mlif", return_tensors="pt")
    with torch.no_grad():
        wanted = TEXTS.from_pretrained(folder).eval()(**pair).logits.numpy()
    np.testing.assert_allclose(predictor.outputs(["a good film"], ["mlif"]), wanted, atol=1e-4)
    assert not np.allclose(predictor.outputs(["a good film"], ["other"]), wanted)
