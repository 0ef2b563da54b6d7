"""prune.vocab: the texts keep their pieces and the model its answers, whatever the tokenizer and the family."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, language_folder, model_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run import TRAIN, planned
from test_students import CORPUS, trained
from tiny import FAMILIES, PAD, VOCAB, batch, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from smidgen.edits.factor import Factor
from smidgen.edits.keep_vocab import KeepVocab
from smidgen.errors import InputError, ModelError, NoEffect, RecipeError
from smidgen.lexicon import count, cut, inside_unknown
from smidgen.method import Context, Sight
from smidgen.methods.prune.vocab import Vocab, changed
from smidgen.runner import run
from smidgen.surgery import apply, from_data, replay, to_data
from smidgen.tasks.classify import Classify

EACH = pytest.mark.parametrize("family", FAMILIES)
KEPT = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 118)
HOSTILE = [
    "",
    " ",
    "\u0000\u200b\ufeff",
    "a" * 300,
    "🦊👩‍👩‍👧 x",
    "l\u0301u ﬁne ＡＢＣ",
    "[MASK] <mask> </s> [UNK]",
    "\n\t\r a  b ",
    "مرحبا שלום नमस्ते",
    "the##cat ##ly ▁the Ġa <0x41>",
    "aaaa bbbb abab baba",
]


def byte_unigram() -> Tokenizer:
    """A Unigram that falls back on bytes, as sentencepiece may."""
    source = json.loads(trained("Unigram").to_str())
    source["model"]["vocab"] += [[f"<0x{byte:02X}>", -30.0] for byte in range(256)]
    source["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(source))


def marked_bpe() -> Tokenizer:
    """A BPE of characters whose later pieces of a word, and whose ends, are marked."""
    pieces = ["<unk>", "a", "b", "##a", "##b", "a</w>", "##a</w>", "##b</w>", "ab", "##ab", "aba</w>", "abab"]
    merges = [("a", "##b"), ("##a", "##b"), ("ab", "##a</w>"), ("ab", "##ab")]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        merges,
        unk_token="<unk>",
        continuing_subword_prefix="##",
        end_of_word_suffix="</w>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def greedy() -> Tokenizer:
    """A WordPiece that gives up `abcd`, though without `ab` it would not: `a`, `##bcd`."""
    pieces = ["[UNK]", "a", "ab", "##bcd", "b", "c", "d", "xbcd", "x"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


SOURCES = {
    **{kind: trained(kind) for kind in ("WordPiece", "BPE", "Unigram")},
    "bytes": byte_unigram(),
    "marked": marked_bpe(),
    "greedy": greedy(),
}


def cut_for(source: Tokenizer, corpus: Sequence[str]) -> tuple[Tokenizer, np.ndarray]:
    wanted = {int(i) for i in count(source, corpus).nonzero()[0]} | inside_unknown(source, corpus)
    return cut(source, wanted, None)


# The tokenizer.


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.sampled_from([*CORPUS, *HOSTILE]),
            st.text(max_size=20),
            st.text(alphabet="abcdx the##", max_size=25),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_texts_keep_their_pieces_and_others_can_be_encoded(kind: str, texts: list[str]) -> None:
    source = SOURCES[kind]
    after, old = cut_for(source, texts)
    assert after.get_vocab_size() == len(old) and (np.diff(old) > 0).all()
    for text in texts:
        one, other = source.encode(text), after.encode(text)
        assert one.tokens == other.tokens and one.offsets == other.offsets
        assert old[other.ids].tolist() == one.ids
        assert after.encode(text, "a").type_ids == source.encode(text, "a").type_ids[: len(after.encode(text, "a"))]
    assert [source.id_to_token(int(i)) for i in old] == [after.id_to_token(i) for i in range(len(old))]
    for text in (*HOSTILE, *CORPUS):
        assert max(after.encode(text).ids, default=0) < len(old)


def test_a_greedy_word_that_was_unknown_stays_so() -> None:
    source = greedy()
    texts = ["abcd a bcd xbcd", "xbcd"]
    assert source.encode(texts[0]).tokens[0] == "[UNK]"
    naive, _ = cut(source, {int(i) for i in count(source, texts).nonzero()[0]} | {3}, None)
    assert naive.encode("abcd").tokens == ["a", "##bcd"]
    assert inside_unknown(source, texts) >= {1, 2, 3}
    assert cut_for(source, texts)[0].encode("abcd").tokens == ["[UNK]"]


def test_what_was_not_seen_falls_to_smaller_pieces() -> None:
    for kind, text in (("WordPiece", "happily"), ("BPE", "happily"), ("Unigram", "happily")):
        source = SOURCES[kind]
        after, _ = cut_for(source, ["a cat"])
        before, now = (tokenizer.encode(text, add_special_tokens=False).tokens for tokenizer in (source, after))
        assert len(now) > len(before)
        assert "".join(piece.strip("#Ġ▁") for piece in now) == text
        assert changed(source, after, ["a cat", text]) == (3, 1, 0)


def test_bytes_stay_so_that_nothing_is_unknown() -> None:
    after, _ = cut_for(SOURCES["bytes"], ["a cat"])
    assert all(after.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
    assert "<unk>" not in after.encode("🦊").tokens and "<0xF0>" in after.encode("🦊").tokens
    less, _ = cut(SOURCES["WordPiece"], {5}, {"c"})
    assert less.encode("dog", add_special_tokens=False).tokens == ["[UNK]"]
    assert changed(SOURCES["WordPiece"], less, ["dog"]) == (1, 1, 1)


# The model.


def ids_of(model: Any, kept: Sequence[int], seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch of kept tokens in old and in new ids."""
    new = batch(len(kept), [5, 14, 9], pad_to=16, seed=seed)
    old = new | {"input_ids": torch.tensor(kept)[new["input_ids"]]}
    return old, new


@EACH
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM"])
@torch.no_grad()
def test_the_cut_model_says_the_same(family: str, head: str, tmp_path: Path) -> None:
    model = tiny(family, head=head, labels=2)
    config, whole = copy.deepcopy(model.config), model.base_model.get_input_embeddings().weight.clone()
    old, new = ids_of(model, KEPT)
    wanted = model(**old)[0]
    wanted = wanted[..., list(KEPT)] if head == "MaskedLM" else wanted
    edit = KeepVocab(KEPT)
    apply(model, edit)
    torch.testing.assert_close(model(**new)[0], wanted, rtol=0, atol=1e-6)
    assert torch.equal(model.get_input_embeddings().weight, whole[list(KEPT)])
    assert model.config.vocab_size == len(KEPT) == model.get_input_embeddings().num_embeddings
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    torch.testing.assert_close(again.eval()(**new)[0], wanted, rtol=0, atol=1e-6)
    made = replay(type(model)(config), from_data(json.loads(json.dumps(to_data([edit])))))
    made.load_state_dict(model.state_dict())
    torch.testing.assert_close(made.eval()(**new)[0], wanted, rtol=0, atol=1e-6)
    assert [type(m) for m in made.modules()] == [type(m) for m in again.modules()]


def test_a_tied_decoder_stays_tied() -> None:
    model = apply(tiny("bert", head="MaskedLM"), KeepVocab(KEPT))
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias is model.cls.predictions.bias and decoder.out_features == len(KEPT)


@torch.no_grad()
def test_special_ids_move_along() -> None:
    """ModernBERT has them at the end of its vocabulary, and counts no position from padding."""
    model = tiny(
        "modernbert", pad_token_id=118, cls_token_id=116, sep_token_id=117, bos_token_id=None, eos_token_id=None
    )
    kept = (3, 50, 116, 117, 118)
    ids = torch.tensor([[116, 3, 50, 117, 118, 118]])
    mask = (ids != 118).long()
    wanted = model(ids, mask).logits
    apply(model, KeepVocab(kept))
    config, table = model.config, model.get_input_embeddings()
    assert (config.pad_token_id, config.cls_token_id, config.sep_token_id) == (4, 2, 3)
    assert config.bos_token_id is None and table.padding_idx == 4
    assert torch.equal(model(torch.tensor([[2, 0, 1, 3, 4, 4]]), mask).logits, wanted)


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_padding_stays_where_positions_are_counted_from_it(family: str) -> None:
    model = tiny(family, pad_token_id=PAD, bos_token_id=None, eos_token_id=None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"drops a token before 1, the padding token\. .* keep tokens 0 to 1\."):
        apply(model, KeepVocab((1, 2, 3)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tokens", [(), (2, 1), (1, 1), (-1, 0), (0, True), [0, 1]])
def test_tokens_must_rise(tokens: Any) -> None:
    with pytest.raises(InputError, match=r"KeepVocab got tokens=.* such as \(0, 1, 2, 7\)"):
        KeepVocab(tokens)


def test_tokens_that_are_not_there_or_must_stay() -> None:
    with pytest.raises(InputError, match="got token 120, but this model has 120 tokens: use ids from 0 to 119"):
        apply(tiny("bert"), KeepVocab((0, 1, 2, VOCAB)))
    with pytest.raises(ModelError, match=r"cannot cut a table that is a FactoredEmbedding\. Cut first, factor after"):
        apply(apply(tiny("bert"), Factor(-1, "embeddings", 4)), KeepVocab((0, 1, 2)))
    with pytest.raises(InputError, match=r"drops token 1, which is pad_token_id in config\.json: keep it"):
        apply(tiny("bert"), KeepVocab((0, 2)))


# The method, in a run.


def with_more(folder: Path) -> Path:
    """With pieces that no text of the data uses, and rows of the table that are no piece's."""
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    pieces = told["model"]["vocab"]
    for piece in ("zebra", "##ing", "house", "##ful"):
        pieces[piece] = len(pieces)
    file.write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with settings of a tokenizer that hold ids, as older folders have them."""
    folder = with_more(model_folder(tmp_path_factory.mktemp("teacher"), labels=LABELS))
    stated = folder / "tokenizer_config.json"
    told = json.loads(stated.read_text())
    told |= {"added_tokens_decoder": {"78": {"content": "[MASK]", "special": True}}, "do_lower_case": True}
    stated.write_text(json.dumps(told))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def answers(folder: Path, texts: list[str], auto: Any = AutoModelForSequenceClassification) -> Tensor:
    """By plain transformers."""
    model, tokenizer = auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == model.config.pad_token_id
    with torch.inference_mode():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_a_run_cuts_model_and_tokenizer_and_tells_what_is_lost(
    teacher: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    before = files_of(teacher)
    stages = (
        {"name": "cut", "methods": ["prune.vocab"], "data": "train+unlabeled"},
        {"name": "on", "methods": {"tune.full": {}}, "train": TRAIN | {"epochs": 1}},
    )
    made = planned(teacher, tiny_data, *stages)
    first, second = run(made, tmp_path / "stages")
    folder = first.artefact.path
    assert files_of(teacher) == before
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert config["vocab_size"] == tokenizer.get_vocab_size() < 83
    told = json.loads((folder / "tokenizer_config.json").read_text())
    assert "added_tokens_decoder" not in told and told["do_lower_case"] is True
    loaded = AutoTokenizer.from_pretrained(folder)
    assert len(loaded) == config["vocab_size"] and loaded.mask_token_id == tokenizer.token_to_id("[MASK]")
    seen = [*made.data.train.texts, *made.data.unlabeled.texts]
    torch.testing.assert_close(answers(folder, seen), answers(teacher, seen), rtol=0, atol=1e-6)
    found = first.artefact.record["found"]["prune.vocab"]
    sizes = [
        sum((f / n).stat().st_size for n in ("model.safetensors", "tokenizer.json")) / 1e6 for f in (teacher, folder)
    ]
    assert (found["mb_before"], found["mb"]) == tuple(sizes) and sizes[1] < sizes[0]
    assert (found["tokens_before"], found["tokens"]) == (83, config["vocab_size"])
    words = sum(len(text.split()) for text in made.data.dev.texts)
    assert (found["dev_words"], found["dev_words_changed"], found["dev_words_unknown"]) == (words, 0, 0)
    assert first.remarks[0].startswith(f"prune.vocab: {config['vocab_size']} of 83 tokens are left; ")
    assert first.remarks[0].endswith("words of dev 0.00% are cut otherwise than before, 0.00% have become unknown.")
    assert first.artefact.record["edits"][0]["edit"] == "KeepVocab"
    assert json.loads((second.artefact.path / "config.json").read_text())["vocab_size"] == config["vocab_size"]


def test_a_language_model_is_cut_and_trained_on_in_one_stage(tiny_data: dict[str, str], tmp_path: Path) -> None:
    model = with_more(language_folder(tmp_path / "model", family="roberta"))
    stage = {
        "name": "cut",
        "methods": {"prune.vocab": {}, "distil.mask_language": {}},
        "teacher": "model",
        "train": TRAIN,
    }
    texts = {"train": tiny_data["train"], "dev": tiny_data["dev"]}
    with pytest.raises(RecipeError, match=r"compares tokens, .* student \(prune\.vocab, with its own vocabulary\)"):
        planned(model, texts, stage, task="mask_language")
    alone = {"name": "cut", "methods": {"prune.vocab": {}, "tune.full": {}}, "train": TRAIN | {"epochs": 1}}
    (done,) = run(planned(model, texts, alone, task="mask_language"), tmp_path / "stages")
    folder = done.artefact.path
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert size < 83 and answers(folder, ["a good film"], AutoModelForMaskedLM).shape[-1] == size


def test_ids_change_with_the_texts(teacher: Path, tiny_data: dict[str, str]) -> None:
    def id_of(data: str, **settings: Any) -> str:
        stage = {"name": "cut", "methods": {"prune.vocab": settings}, "data": data}
        return planned(teacher, tiny_data, stage).stages[0].id

    assert len({id_of("train"), id_of("train+unlabeled"), id_of("train", least=2)}) == 3


# Bad input.


def context(folder: Path, texts: Sequence[str]) -> Context:
    ctx = Context(folder, folder, Classify(LABELS), (), 0, AutoModelForSequenceClassification.from_pretrained(folder))
    ctx.sight = Sight(lambda: texts)
    return ctx


def test_bad_input(teacher: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    before = files_of(teacher)
    assert list(Vocab(least=-1).faults()) == ["least: got -1, wanted at least 0."]
    assert list(Vocab(characters="some").faults()) == [
        "characters: got 'some', wanted one of all, seen. Did you mean 'seen'?"
    ]
    for texts in ([], ["", " "]):
        with pytest.raises(InputError, match=r"prune\.vocab: the texts of this stage have no token\. Give it texts: "):
            Vocab().begin(context(teacher, texts))
    with pytest.raises(NoEffect, match=r"prune\.vocab: least 0 keeps all 83 tokens\. Write a larger one, or drop it\."):
        Vocab(least=0).begin(context(teacher, ["a"]))
    assert files_of(teacher) == before
    words = model_folder(tmp_path / "words", labels=LABELS)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.save(str(words / "tokenizer.json"))
    later = ({"name": "teach", "methods": ["tune.full"]}, {"name": "cut", "methods": ["prune.vocab"]})
    with pytest.raises(
        RecipeError, match=r"stage cut, prune\.vocab: the tokenizer of .*words is a WordLevel, which cannot be "
    ):
        planned(words, tiny_data, *later)
