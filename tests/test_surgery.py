"""Edits change the model, its config and nothing else; replayed, they give the same model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import InputError, ModelError
from smidgen.surgery import apply, choose, from_data, replay, to_data

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("attention", ["sdpa", "eager"])
EACH = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(**batch(VOCAB, [5, 14, 9], pad_to=16)).logits


def skeleton(config: object) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_config(copy.deepcopy(config)).eval()


@EACH
@BOTH
def test_cut_model_is_the_model_of_its_config(family: str, attention: str) -> None:
    model = tiny(family, blocks=4, attn_implementation=attention)
    modules = list(anatomy(model).block_list)
    before = logits(model)
    assert apply(model, KeepBlocks((0, 2, 3))) is model
    assert model.config.num_hidden_layers == 3
    assert list(anatomy(model).block_list) == [modules[0], modules[2], modules[3]]
    assert not torch.allclose(before, logits(model), atol=1e-3)
    built = skeleton(model.config)
    built.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(built), logits(model), rtol=0, atol=1e-6)


@EACH
@BOTH
def test_reload_through_plain_hugging_face(family: str, attention: str, tmp_path: Path) -> None:
    model = apply(tiny(family, blocks=4, attn_implementation=attention), KeepBlocks((0, 3)))
    model.save_pretrained(tmp_path)
    implementation = model.config._attn_implementation
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=implementation)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-6)


@EACH
@BOTH
def test_edits_compose_and_replay(family: str, attention: str) -> None:
    original = tiny(family, blocks=6, attn_implementation=attention)
    config = copy.deepcopy(original.config)
    modules = list(anatomy(original).block_list)
    edits = (KeepBlocks((0, 2, 3, 5)), KeepBlocks((0, 1, 3)))
    model = replay(original, edits)
    assert list(anatomy(model).block_list) == [modules[0], modules[2], modules[5]]
    again = replay(skeleton(config), from_data(json.loads(json.dumps(to_data(edits)))))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-6)
    assert again.config.to_dict() == model.config.to_dict()
    assert config.num_hidden_layers == 6


@EACH
def test_numbers_kept_in_modules_match_a_built_model(family: str) -> None:
    model = apply(tiny(family, blocks=4), KeepBlocks((0, 3)))
    names = ("layer_idx", "n_layers", "attention_type")
    mine, built = (
        [[getattr(module, name, None) for name in names] for module in m.modules()]
        for m in (model, skeleton(model.config))
    )
    assert mine == built


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_first_block_may_go_where_blocks_are_alike(family: str) -> None:
    model = apply(tiny(family, blocks=3), KeepBlocks((2,)))
    built = skeleton(model.config)
    built.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(built), logits(model), rtol=0, atol=1e-6)


def test_modernbert_keeps_block_0() -> None:
    model = tiny("modernbert", blocks=4)
    before = logits(model)
    with pytest.raises(ModelError, match=r"drops block 0.*lose its norm.*rule 'ends', 'skip' or 'first'.*\(0, 3\)"):
        apply(model, KeepBlocks((1, 3)))
    assert torch.equal(before, logits(model)) and model.config.num_hidden_layers == 4


@pytest.mark.parametrize("blocks", [(), (2, 1), (1, 1), (-1, 0), (0, True), (0.0,), [0, 1]])
def test_blocks_must_rise(blocks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"wanted a tuple of one or more indices .* such as \(0, 2, 4\)"):
        KeepBlocks(blocks)


def test_block_out_of_range() -> None:
    with pytest.raises(InputError, match="got block 2, but this model has 2 blocks: use indices from 0 to 1"):
        apply(tiny("bert"), KeepBlocks((0, 2)))


def test_data() -> None:
    edits = (KeepBlocks((0, 2)),)
    assert to_data(edits) == [{"edit": "KeepBlocks", "blocks": [0, 2]}]
    assert from_data(to_data(edits)) == edits
    with pytest.raises(InputError, match=r"edit is 'KeepBlock'. Did you mean 'KeepBlocks'"):
        from_data([{"edit": "KeepBlock", "blocks": [0]}])
    with pytest.raises(InputError, match=r"KeepBlocks got the fields \['layers'\], wanted \['blocks'\]"):
        from_data([{"edit": "KeepBlocks", "layers": [0]}])


@pytest.mark.parametrize(
    ("blocks", "keep", "rule", "wanted"),
    [
        (12, 4, "uniform", (2, 5, 8, 11)),
        (12, 6, "skip", (0, 2, 4, 6, 8, 10)),
        (12, 6, "ends", (0, 2, 4, 7, 9, 11)),
        (12, 3, "first", (0, 1, 2)),
        (12, 3, "last", (9, 10, 11)),
        (12, 1, "uniform", (11,)),
        (12, 1, "skip", (0,)),
        (12, 1, "ends", (0,)),
        (12, 1, "first", (0,)),
        (12, 1, "last", (11,)),
    ],
)
def test_choose(blocks: int, keep: int, rule: str, wanted: tuple[int, ...]) -> None:
    assert choose(blocks, keep, rule) == wanted


RULES = ["ends", "first", "last", "skip", "uniform"]


@given(blocks=st.integers(1, 48), share=st.floats(0, 1), rule=st.sampled_from(RULES))
def test_choose_for_any_size(blocks: int, share: float, rule: str) -> None:
    keep = 1 + round(share * (blocks - 1))
    kept = choose(blocks, keep, rule)
    assert len(kept) == keep and sorted(set(kept)) == list(kept)
    assert kept[0] >= 0 and kept[-1] < blocks
    assert kept[0] == 0 or rule in ("uniform", "last")
    assert kept[-1] == blocks - 1 or rule in ("skip", "first") or keep == 1
    assert choose(blocks, blocks, rule) == tuple(range(blocks))


def test_choose_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"rule is 'uniforme'. Did you mean 'uniform'.*Use one of ends, first"):
        choose(12, 4, "uniforme")
    with pytest.raises(InputError, match="keep is 13, but this model has 12 blocks: use 1 to 12"):
        choose(12, 13, "skip")
