"""replace.lowrank: the nearest product, where it is put, and models that have it, reloaded and exported."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, model_folder
from test_loop import TASK
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import nn
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.edits.factor import MATRICES, Factor
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.factors import FactoredEmbedding, FactoredLinear, largest_rank, needed
from smidgen.graph import difference
from smidgen.method import Context
from smidgen.methods.replace.lowrank import Lowrank
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.surgery import apply, from_data, replay, to_data

EACH = pytest.mark.parametrize("family", FAMILIES)


def test_the_product_is_the_nearest_of_its_rank() -> None:
    torch.manual_seed(0)
    linear, values = nn.Linear(20, 30), torch.randn(4, 20)
    u, s, v = np.linalg.svd(linear.weight.detach().numpy(), full_matrices=False)
    made = FactoredLinear(linear, 7)
    wanted = torch.from_numpy((u[:, :7] * s[:7]) @ v[:7])
    torch.testing.assert_close(made.weight, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(made(values), values @ wanted.T + linear.bias, rtol=0, atol=1e-5)
    lost = (made.weight - linear.weight).detach().square().sum()
    assert float(lost) == pytest.approx(float((s[7:] ** 2).sum()), rel=1e-4)
    assert sum(p.numel() for p in made.parameters()) == 7 * 50 + 30


def test_a_table_of_low_rank_is_kept_as_it_is() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(50, 16, padding_idx=1)
    table.weight.data = torch.randn(50, 3) @ torch.randn(3, 16)
    table.weight.data[1] = 0
    made = FactoredEmbedding(table, 3)
    ids = torch.tensor([[4, 1, 49]])
    torch.testing.assert_close(made(ids), table(ids), rtol=0, atol=1e-4)
    assert float(made(ids).detach()[0, 1].abs().max()) < 1e-5 and made.padding_idx == 1


def test_the_rank_that_keeps_a_share_of_the_energy() -> None:
    weight = torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))  # energies 16, 4, 1, 1 of 22
    assert [needed(weight, energy) for energy in (0.7, 0.73, 0.9, 0.95, 0.99)] == [1, 2, 2, 3, 4]
    assert largest_rank(32, 64) * (32 + 64) < 32 * 64 <= (largest_rank(32, 64) + 1) * (32 + 64)


@EACH
def test_replay_reload_and_padding(family: str, tmp_path: Path) -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, tiny(family))
    whole = sum(p.numel() for p in ctx.model.parameters())
    Lowrank(rank=4, what=("attention", "feed_forward", "embeddings")).begin(ctx)
    assert len(ctx.edits) == 1 + 2 * (4 if family == "modernbert" else 6)
    assert sum(p.numel() for p in ctx.model.parameters()) < whole * (0.8 if family == "mobilebert" else 0.5)
    again = replay(tiny(family, seed=5), from_data(json.loads(json.dumps(to_data(ctx.edits)))))
    again.load_state_dict(ctx.model.state_dict())
    ctx.model.save_pretrained(tmp_path)
    implementation = "eager" if family == "mpnet" else "sdpa"
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=implementation)
    found = ctx.model(**batch(VOCAB, [5, 14])).logits
    for other in (again, reloaded):
        torch.testing.assert_close(other(**batch(VOCAB, [5, 14])).logits, found, rtol=0, atol=1e-5)
    torch.testing.assert_close(ctx.model(**batch(VOCAB, [5, 14], pad_to=30)).logits, found, rtol=0, atol=1e-5)


def test_a_share_of_energy_leaves_what_would_not_shrink() -> None:
    model = tiny("bert")
    thin = torch.randn(32, 2) @ torch.randn(2, 32)
    model.bert.encoder.layer[1].attention.self.value.weight.data = thin
    ctx, before = Context(Path(), Path(), TASK, (), 0, model), copy.deepcopy(model)
    Lowrank(rank=0.999).begin(ctx)
    assert ctx.edits == [Factor(1, "value", 2)]
    inputs = batch(VOCAB, [5, 14])
    torch.testing.assert_close(model(**inputs).logits, before(**inputs).logits, rtol=0, atol=1e-3)


def test_what_would_not_shrink_is_refused() -> None:
    with pytest.raises(NoEffect, match=r"rank 16 shrinks none of attention\. Write a lower one"):
        Lowrank(rank=16, what=("attention",)).begin(Context(Path(), Path(), TASK, (), 0, tiny("bert")))
    with pytest.raises(InputError, match="rank 16 for query, 32 x 32, which would not shrink it: use at most 15"):
        apply(tiny("bert"), Factor(0, "query", 16))
    with pytest.raises(InputError, match="got block 2, but this model has 2 blocks"):
        apply(tiny("bert"), Factor(2, "query", 4))
    with pytest.raises(InputError, match=r"got matrix='querry', wanted one of query, .*Did you mean 'query'"):
        Factor(0, "querry", 4)
    with pytest.raises(InputError, match=r"got block=0 for embeddings, wanted .*-1 for embeddings alone"):
        Factor(0, "embeddings", 4)
    with pytest.raises(InputError, match="rank=0, wanted at least 1"):
        Factor(0, "up", 0)
    with pytest.raises(ModelError, match="cannot split a table that tokens are predicted with too"):
        apply(tiny("bert", head="MaskedLM"), Factor(-1, "embeddings", 4))


def test_sublayers_that_were_cut_out_are_passed_over() -> None:
    model = tiny("bert")
    apply(model, KeepHeads(0, ()))
    apply(model, KeepWidth(1, ()))
    ctx = Context(Path(), Path(), TASK, (), 0, model)
    Lowrank(rank=4).begin(ctx)
    asked = {(edit.block, edit.matrix) for edit in ctx.edits}
    assert asked == {(0, "up"), (0, "down"), *((1, name) for name in ("query", "key", "value", "out"))}


def test_factored_twice_or_cut_after() -> None:
    model: Any = apply(tiny("bert"), Factor(0, "query", 4))
    with pytest.raises(ModelError, match="query of block 0 is FactoredLinear"):
        apply(model, Factor(0, "query", 2))
    with pytest.raises(ModelError, match=r"FactoredLinear in place of a Linear\. Cut first"):
        apply(model, KeepHeads(0, (1,)))
    assert anatomy(model).blocks[0].heads == 4 and set(MATRICES) == {"query", "key", "value", "out", "up", "down"}


def test_the_whole_chain(tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    short = Training(epochs=0.5, learning_rate=1e-3, precision="float32")
    lowrank = Use("replace.lowrank", {"rank": 6, "what": ["attention", "feed_forward", "embeddings"]})
    stages = (Stage("thin", (lowrank, Use("tune.full")), train=short), Stage("onnx", (Use("export.onnx"),)))
    model = model_folder(tmp_path / "m", labels=LABELS)
    done = run(plan(Recipe(str(model), Files(files["train"], files["dev"]), stages)), tmp_path / "stages")
    thin = AutoModelForSequenceClassification.from_pretrained(done[0].artefact.path).eval()
    found = {name: value.numpy() for name, value in batch(VOCAB, [5, 9]).items()}
    found["token_type_ids"] = np.zeros_like(found["input_ids"])
    assert difference(thin, done[1].artefact.path / "onnx" / "model.onnx", found) < 1e-4
