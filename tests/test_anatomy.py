"""Each family's parts are where its file says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2Model,
)

from smidgen.anatomy import anatomy, families, supported
from smidgen.errors import ModelError

torch.set_num_threads(1)
ALL = [*FAMILIES, "xlm-roberta", "camembert"]


@pytest.mark.parametrize("family", ALL)
def test_blocks(family: str) -> None:
    model = tiny(family)
    parts = anatomy(model)
    assert parts.hidden_size == 32
    assert len(parts.blocks) == len(parts.block_list) == 2
    for index, block in enumerate(parts.blocks):
        assert block.index == index and block.module is parts.block_list[index]
        assert (block.heads, block.head_size, block.width) == (4, 8, 64)
        assert all(isinstance(part, nn.Linear) for part in (block.query, block.key, block.value, block.out))
        assert (block.query is block.key is block.value) == block.fused
        assert block.query.weight.shape == ((96 if block.fused else 32), 32)
        assert block.out.weight.shape == (32, 32)
        assert block.up.weight.shape == ((128 if block.gated else 64), 32)
        assert block.down.weight.shape == (32, 64)
    if family == "mobilebert":
        return  # it has bottlenecks and more feed-forwards besides
    weights = {id(w) for b in parts.blocks for w in b.module.parameters() if w.ndim == 2}
    named = {id(p.weight) for b in parts.blocks for p in (b.query, b.key, b.value, b.out, b.up, b.down)}
    assert named == weights


@pytest.mark.parametrize("family", ALL)
def test_head_and_pooler_make_the_logits(family: str) -> None:
    model = tiny(family)
    parts = anatomy(model)
    seen = {}
    assert parts.pooler is not None and isinstance(parts.head, nn.Linear) and parts.head.out_features == 3
    parts.pooler.register_forward_hook(lambda module, args, output: seen.update(pooled=parts.activate(output)))
    logits = model(**batch(VOCAB, [5, 9])).logits
    torch.testing.assert_close(parts.head(seen["pooled"]), logits)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize(
    ("auto", "width"),
    [
        (AutoModel, None),
        (AutoModelForTokenClassification, 3),
        (AutoModelForQuestionAnswering, 2),
        (AutoModelForMaskedLM, VOCAB),
    ],
)
def test_bare_bodies_and_other_tasks(family: str, auto: type, width: int | None) -> None:
    config = tiny(family).config
    config.num_labels = width if width == 2 else 3
    model = auto.from_config(config)
    parts = anatomy(model)
    assert len(parts.blocks) == 2 and parts.blocks[1].heads == 4
    assert parts.embeddings is parts.body.embeddings
    assert parts.head is None if width is None else parts.head.out_features == width
    assert (parts.body is model) == (width is None)
    if width is not None:
        assert parts.pooler is None


def test_local_windows_of_modernbert() -> None:
    assert [b.window for b in anatomy(tiny("modernbert", blocks=4)).blocks] == [None, 4, 4, None]


def test_unknown_family() -> None:
    model = GPT2Model(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match=r"model_type is 'gpt2'.*Supported: bert, camembert, .*Give a model of one"):
        anatomy(model)


def test_names() -> None:
    assert set(ALL) == set(families())
    assert supported("xlm-roberta") and not supported("t5")


def test_asking_for_families_imports_no_torch() -> None:
    code = "import sys, smidgen.anatomy as a; a.families(); assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
