"""What KeepHidden cuts is gone from all along the residual stream, and the rest says what it said under gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cut import EACH, WAYS
from test_surgery import logits
from test_uneven import kept, same
from tiny import VOCAB, batch, tiny
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.edits import Edit
from smidgen.edits.attach import Attach
from smidgen.edits.factor import Factor
from smidgen.edits.head import Head
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_vocab import KeepVocab
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError
from smidgen.gates import Gates
from smidgen.graph import difference, export
from smidgen.surgery import apply, fold_hidden, replay

torch.set_num_threads(1)
HEADS = ["", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"]
HALF = tuple(range(1, 32, 2))
OTHERS: tuple[Edit, ...] = (
    KeepHeads(0, (1, 3)),
    KeepWidth(0, tuple(range(40))),
    KeepHeads(1, ()),
    KeepWidth(1, (5, 9)),
)


def at(kept: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([float(i in kept) for i in range(32)])


def under(model: PreTrainedModel, gate: torch.Tensor, inputs: dict[str, Any]) -> Any:
    """What it says with these gates on its hidden size."""
    with Gates(model, hidden=True) as gates, torch.no_grad():
        gates.hidden = gate
        return model(**inputs)


@pytest.mark.parametrize(("family", "way"), WAYS)
@settings(max_examples=6, deadline=None)
@given(dimensions=kept(32))
def test_cut_is_masked(family: str, way: str, dimensions: tuple[int, ...]) -> None:
    model, dimensions = tiny(family, attn_implementation=way), dimensions or (7,)
    wanted = under(model, at(dimensions), batch(VOCAB, [5, 14, 9], pad_to=16)).logits
    apply(model, KeepHidden(dimensions))
    assert anatomy(model).hidden_size == len(dimensions)
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(dimensions=kept(32), order=st.permutations(range(3)), heads=kept(4))
@pytest.mark.parametrize("family", ["mpnet", "modernbert"])
def test_cuts_commute(family: str, dimensions: tuple[int, ...], order: list[int], heads: tuple[int, ...]) -> None:
    edits: list[Edit] = [KeepHidden(dimensions or (3,)), KeepHeads(1, heads), KeepWidth(1, (2, 50))]
    same(replay(tiny(family), [edits[i] for i in order]), replay(tiny(family), edits))


@EACH
@pytest.mark.parametrize("head", HEADS)
def test_every_head(family: str, head: str, tmp_path: Path) -> None:
    """Real-valued gates too, with an embedding as wide as the states and, of ELECTRA, with one that is not."""
    auto = getattr(transformers, f"AutoModel{head}")
    inputs: dict[str, Any] = batch(VOCAB, [5, 12, 9])
    if head == "ForMultipleChoice":
        inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
    gate = torch.where(at(HALF) > 0, torch.linspace(0.2, 1, 32), 0)
    for more in ({}, {"embedding_size": 32})[: 1 + (family == "electra")]:
        model = auto.from_config(tiny(family, labels=2, **more).config).eval()
        plain, wanted = model(**inputs)[0], under(model, gate, inputs)[0]
        assert (plain - wanted).abs().max() > 1e-3
        fold_hidden(model, gate.tolist())
        found = apply(model, KeepHidden(HALF))(**inputs)[0]
        torch.testing.assert_close(found, wanted if head else wanted[..., list(HALF)], rtol=0, atol=1e-5)
        model.save_pretrained(tmp_path)
        again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        torch.testing.assert_close(again.eval()(**inputs)[0], found, rtol=0, atol=1e-6)
        assert (again.config.edits, again.config.skeleton) == (model.config.edits, model.config.skeleton)


def test_what_predicts_tokens_stays_tied_to_their_table() -> None:
    model = apply(tiny("bert", head="MaskedLM"), KeepHidden(HALF))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.cls.predictions.transform.LayerNorm.normalized_shape == (16,)
    apply(model, KeepVocab(tuple(range(40))))
    assert model(**batch(40, [4])).logits.shape == (1, 4, 40)


@EACH
def test_what_is_cut_is_gone_and_the_config_says_so(family: str, tmp_path: Path) -> None:
    model = tiny(family, blocks=3)
    held = model.num_parameters()
    replay(model, (*OTHERS, KeepHidden(HALF), KeepBlocks((0, 1)), KeepHeads(0, (1,))))
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    key = "dim" if family == "distilbert" else "hidden_size"
    assert (said["model_type"], said[key], said["head_dim"]) == (f"smidgen-{family}", 16, 8)
    assert said["skeleton"][key] == 32 and {"edit": "KeepHidden", "dimensions": [[0, 15]]} in said["edits"]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    same(again, model)
    assert [(b.heads, b.width, b.head_size) for b in anatomy(again).blocks] == [(1, 40, 8), (0, 2, 8)]
    assert again.num_parameters() < held / 2
    wide = [n for n, p in again.named_parameters() if 32 in p.shape and not n.endswith("attention_bias.weight")]
    heads = {"roberta": "classifier.", "electra": "classifier.", "mpnet": "classifier.", "modernbert": "head."}
    pooled = (*heads.values(), "pooler.", "classifier.", "pre_classifier.")
    assert all(name.removeprefix("bert.").startswith(pooled) for name in wide)


@EACH
def test_it_trains_and_is_cut_again(family: str) -> None:
    model = replay(tiny(family), (KeepHidden(tuple(range(20))), *OTHERS))
    model.train()(**batch(VOCAB, [9, 12]), labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None for p in anatomy(model).block_list.parameters())
    gate = torch.tensor([1.0] * 10 + [0.0] * 10)
    wanted = under(model.eval(), gate, batch(VOCAB, [5, 14, 9], pad_to=16)).logits
    torch.testing.assert_close(logits(apply(model, KeepHidden(tuple(range(10))))), wanted, rtol=0, atol=1e-5)


def test_its_graph_says_the_same(tmp_path: Path) -> None:
    """Where the embeddings are projected; other families go the whole way in test_uneven_chain.py."""
    model = replay(tiny("electra", attn_implementation="eager"), (KeepHidden(tuple(range(20))), KeepHeads(0, (1, 3))))
    inputs = {name: values.numpy() for name, values in batch(VOCAB, [5, 12]).items()}
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    export(model, inputs, tmp_path / "model.onnx", 32)
    assert difference(model, tmp_path / "model.onnx", inputs) < 1e-5


@pytest.mark.parametrize("pool", ["first", "mean", "mix", "last_four"])
def test_a_head_of_ours_is_cut_too(pool: str) -> None:
    model = apply(tiny("bert", blocks=4), Head(pool))
    wanted = under(model, at(HALF), batch(VOCAB, [5, 14, 9], pad_to=16)).logits
    torch.testing.assert_close(logits(apply(model, KeepHidden(HALF))), wanted, rtol=0, atol=1e-5)


def test_heads_that_share_a_key_are_cut_too() -> None:
    model = apply(tiny("bert"), Swap((0,), "multi_query"))
    wanted = under(model, at(HALF), batch(VOCAB, [5, 14, 9], pad_to=16)).logits
    torch.testing.assert_close(logits(apply(model, KeepHidden(HALF))), wanted, rtol=0, atol=1e-5)


def test_a_gate_has_a_gradient_also_where_others_are_shut() -> None:
    """Against finite differences."""
    model, inputs = tiny("bert").double(), batch(VOCAB, [5, 9])
    gate = torch.where(at(HALF) > 0, torch.linspace(0.2, 1, 32), 0).double().requires_grad_()

    def said(gate: torch.Tensor) -> torch.Tensor:
        with Gates(model, hidden=True) as gates:
            gates.hidden = gate
            return model(**inputs).logits.square().sum()

    (found,) = torch.autograd.grad(said(gate), gate)
    for i in (1, 31):
        step = torch.zeros_like(gate)
        step[i] = 1e-6
        with torch.no_grad():
            slope = (said(gate + step) - said(gate - step)) / 2e-6
        assert float(found[i]) == pytest.approx(float(slope), rel=1e-4)


def test_all_gates_shut_is_nothing_and_all_open_is_the_model() -> None:
    model = tiny("bert")
    inputs = batch(VOCAB, [5, 14, 9], pad_to=16)
    assert torch.equal(under(model, torch.ones(32), inputs).logits, logits(model))
    assert under(model, torch.zeros(32), inputs).logits.isfinite().all()
    assert torch.equal(logits(model), model(**inputs).logits), "no hook is left"
    with pytest.raises(InputError, match=r"gates\.hidden has the shape \(5,\), wanted \(32,\)\."):
        under(model, torch.ones(5), inputs)


@pytest.mark.parametrize("dimensions", [(), (2, 1), (1, 1), (-1, 0), [0, 1]])
def test_dimensions_must_rise(dimensions: Any) -> None:
    with pytest.raises(InputError, match=r"KeepHidden got dimensions=.*, wanted a tuple of one or more .* \(0, 2, 3\)"):
        KeepHidden(dimensions)


@pytest.mark.parametrize(
    ("family", "before", "said"),
    [
        (
            "mobilebert",
            (),
            "the hidden size of mobilebert cannot be cut: its blocks work at a width of their own.",
        ),
        ("bert", (Attach("bias", ()),), "the hidden size cannot be cut under what Attach put beside it. Cut first"),
        (
            "bert",
            (Factor(1, "up", 4),),
            "cannot be cut: a matrix of block 1 is FactoredLinear. Cut first, factor",
        ),
        ("bert", (Factor(-1, "embeddings", 4),), "cut: the table of the embeddings is FactoredEmbedding. Cut first"),
    ],
)
def test_models_that_cannot_be_cut(family: str, before: tuple[Edit, ...], said: str) -> None:
    model = replay(tiny(family), before)
    with pytest.raises(ModelError, match=said):
        apply(model, KeepHidden((0, 1)))


def test_out_of_range_changes_nothing() -> None:
    model = tiny("bert")
    before = logits(model)
    with pytest.raises(InputError, match=r"KeepHidden got dimension 32, but this model's hidden size is 32: use .* 31"):
        apply(model, KeepHidden((0, 32)))
    with pytest.raises(InputError, match="fold_hidden got 2 factors, but the hidden size is 32: give one for each"):
        fold_hidden(model, [1.0, 2.0])
    assert torch.equal(logits(apply(model, KeepHidden(tuple(range(32))))), before)
    assert model.config.model_type == "bert"
