"""A folder of a model that no plain config describes is read back as it was, cut again, and goes the whole way."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from folders import write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cut import EACH, WAYS
from test_surgery import logits, skeleton
from tiny import tiny
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import smidgen  # the Auto classes know uneven models after it
from smidgen.anatomy import anatomy
from smidgen.artefact import file_hash
from smidgen.edits import Edit
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError
from smidgen.source import check_whole, load_model, resolve
from smidgen.surgery import apply, from_data, replay, to_data
from smidgen.tasks import Classify
from smidgen.teacher import online
from smidgen.uneven import plain

torch.set_num_threads(1)


def span(count: int) -> tuple[int, ...]:
    return tuple(range(count))


ODD: tuple[Edit, ...] = (
    KeepHeads(0, (1, 3)),
    KeepWidth(0, tuple(range(3, 43))),
    KeepBlocks((0, 2)),
    KeepHeads(1, ()),
    KeepWidth(0, span(24)),
)


def cut(family: str, edits: tuple[Edit, ...] = ODD, **more: Any) -> PreTrainedModel:
    return replay(tiny(family, **({"blocks": 3} | more)), edits)


def same(one: PreTrainedModel, other: PreTrainedModel) -> None:
    torch.testing.assert_close(logits(one), logits(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "way"), WAYS)
def test_read_back(family: str, way: str, tmp_path: Path) -> None:
    model = cut(family, attn_implementation=way)
    model.save_pretrained(tmp_path / "one")
    said = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (
        said["model_type"] == f"smidgen-{family}"
        and said["num_hidden_layers" if "n_layers" not in said else "n_layers"] == 2
    )
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", attn_implementation=way)
    assert type(again) is type(model) and isinstance(again, type(tiny(family)))
    same(again, model)
    assert [(b.heads, b.width) for b in anatomy(again).blocks] == [(2, 24), (0, 64)]
    again.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    for edit in (KeepHeads(0, (1,)), KeepBlocks((0,))):
        apply(model, edit), apply(again, edit)
    again.save_pretrained(tmp_path / "three")
    same(AutoModelForSequenceClassification.from_pretrained(tmp_path / "three", attn_implementation=way), model)


@EACH
@pytest.mark.parametrize("head", ["", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"])
def test_every_head(family: str, head: str, tmp_path: Path) -> None:
    auto = getattr(transformers, f"AutoModel{head}")
    model = auto.from_config(tiny(family, blocks=3, labels=2).config).eval()
    replay(model, ODD).save_pretrained(tmp_path)
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 2]])}
    for one, other in zip(model(**inputs).values(), again.eval()(**inputs).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    if not head:
        assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3


def test_a_body_becomes_a_classifier(tmp_path: Path) -> None:
    model = cut("bert")
    model.base_model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert again.classifier.out_features == 5 and again.config.num_labels == 5
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(value, again.base_model.state_dict()[name]), name


@EACH
def test_plain_again_where_a_plain_config_can_say_it(family: str, tmp_path: Path) -> None:
    """One width for all blocks is plain; so is what is left when the uneven blocks are dropped."""
    model = tiny(family, blocks=3)
    kind, config = type(model), type(model.config)
    for block in range(3):
        assert type(model) is kind or block
        apply(model, KeepWidth(block, tuple(range(block, 40 + block))))
        assert (type(model) is kind) == (block == 2)
    assert type(model.config) is config and not hasattr(model.config, "edits")
    same(_plain_copy(model), model)
    apply(model, KeepHeads(2, (0, 1)))
    apply(model, KeepWidth(2, (3,)))
    assert type(model) is not kind
    apply(model, KeepBlocks((0, 1)))
    assert type(model) is kind
    same(_plain_copy(model), model)


def _plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    data = json.loads(model.config.to_json_string())
    assert not data["model_type"].startswith("smidgen")
    built = AutoModelForSequenceClassification.from_config(type(model.config).from_dict(data)).eval()
    built.load_state_dict(model.state_dict())
    return built


def test_heads_everywhere_alike_are_not_plain() -> None:
    model = cut("bert", (KeepHeads(0, (0, 1)), KeepHeads(1, (0, 1))), blocks=2)
    assert model.config.model_type == "smidgen-bert"


def test_keeping_all_changes_nothing() -> None:
    model = tiny("bert")
    before = model.config.to_dict()
    apply(apply(model, KeepHeads(0, span(4))), KeepWidth(1, span(64)))
    assert model.config.to_dict() == before and type(model) is type(tiny("bert"))


@EACH
def test_replay_on_the_skeleton(family: str) -> None:
    original = tiny(family, blocks=3)
    config = copy.deepcopy(original.config)
    model = replay(original, ODD)
    again = replay(skeleton(config), from_data(json.loads(json.dumps(to_data(ODD)))))
    again.load_state_dict(model.state_dict())
    same(again, model)
    assert again.config.to_dict() == model.config.to_dict() and type(again) is type(model)


def test_the_config_stays_small() -> None:
    model = tiny("bert", blocks=2, intermediate_size=3072)
    before = len(model.config.to_json_string())
    for block in range(2):
        apply(model, KeepWidth(block, tuple(range(block, 3072, 2 + block))))
        apply(model, KeepHeads(block, (1, 3)))
    assert len(model.config.to_json_string()) - before < 1000


def kept(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, count - 1)).map(lambda chosen: tuple(sorted(chosen)))


@settings(max_examples=10, deadline=None)
@given(units=st.lists(kept(64), min_size=3, max_size=3), heads=st.lists(kept(4), min_size=3, max_size=3))
@pytest.mark.parametrize("family", ["mpnet", "modernbert"])
def test_any_cut_is_built_from_its_config(
    family: str, units: list[tuple[int, ...]], heads: list[tuple[int, ...]]
) -> None:
    model = tiny(family, blocks=3)
    for block in range(3):
        apply(model, KeepHeads(block, heads[block]))
        apply(model, KeepWidth(block, units[block] or (5,)))
    built = skeleton(model.config)
    assert type(built) is type(model)
    built.load_state_dict(model.state_dict())
    same(built, model)


@given(indices=kept(200))
def test_runs_of_indices_survive_data(indices: tuple[int, ...]) -> None:
    edits = (KeepWidth(0, indices),)
    assert from_data(json.loads(json.dumps(to_data(edits)))) == edits


def test_a_run_is_not_unrolled_at_any_price() -> None:
    with pytest.raises(InputError, match=r"got a run of more than 1,000,000 indices"):
        from_data([{"edit": "KeepWidth", "block": 0, "units": [[0, 10**15]]}])


def test_runs_are_short() -> None:
    (data,) = to_data([KeepWidth(1, (*range(40), 42, 44, 45))])
    assert data == {"edit": "KeepWidth", "block": 1, "units": [[0, 39], 42, 44, 45]}


def test_the_tokenizer_is_the_familys(tmp_path: Path) -> None:
    """Also where the folder does not name its class, as the oldest ones do not."""
    cut("bert").save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(["a film", "a"], padding=True)["attention_mask"][1] == [1, 1, 1, 0]


# Checkpoints of transformers 4, whose `pruned_heads` names the heads that their weights lack.


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_pruned_heads_are_read(family: str, tmp_path: Path) -> None:
    model = cut(family, (KeepHeads(0, (1, 3)), KeepHeads(2, (0, 1, 2))))
    old = tmp_path / "old"
    model.save_pretrained(old)
    said = plain(model.config).to_dict() | {"architectures": [type(tiny(family)).__name__]}
    (old / "config.json").write_text(json.dumps(said | {"pruned_heads": {"0": [0, 2], "2": [3]}}))
    write_tokenizer(old)
    source = resolve(str(old))
    assert source.family == family and not source.even_heads
    task = Classify(tuple(f"LABEL_{i}" for i in range(3)))
    check_whole(source, task)
    again = load_model(source, task, 0)
    same(again, model)
    same(online(source, task, ["logits"], torch.device("cpu")).model, model)
    again.save_pretrained(tmp_path / "new")
    assert "pruned_heads" not in json.loads((tmp_path / "new" / "config.json").read_text())
    same(AutoModelForSequenceClassification.from_pretrained(tmp_path / "new"), model)


def test_a_folder_is_opened_and_hashed_once_while_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut("bert").save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    task, hashed = Classify(tuple(f"LABEL_{i}" for i in range(3))), []
    monkeypatch.setattr("smidgen.source.file_hash", lambda file: hashed.append(file.name) or file_hash(file))
    check_whole(resolve(str(tmp_path)), task)
    first = resolve(str(tmp_path)).id
    with monkeypatch.context() as patch:
        patch.setattr("smidgen.source._open", None)
        check_whole(resolve(str(tmp_path)), task)
    assert resolve(str(tmp_path)).id == first and len(hashed) == len(set(hashed)) == 4
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        check_whole(resolve(str(tmp_path)), task)
    assert resolve(str(tmp_path)).id != first and hashed[4:] == ["tokenizer.json"]


# What a folder may not say.


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"edits": [{"edit": "KeepLegs", "block": 0}]}, "edit is 'KeepLegs'.*Known edits: "),
        ({"edits": [{"edit": "KeepHeads", "block": 9, "heads": [0]}]}, "KeepHeads got block 9, but this model has 3"),
        ({"edits": []}, r"is 16 x 32 in model.safetensors, 32 x 32 by config.json"),
        ({"edits": "all"}, "has 'edits' or 'skeleton' of another form"),
        ({"skeleton": {"num_hidden_layers": 10**7}}, "num_hidden_layers = 10000000, wanted a whole number up to 1,000"),
    ],
)
def test_a_folder_that_lies(entry: dict[str, Any], said: str, tmp_path: Path) -> None:
    cut("bert").save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | entry))
    with pytest.raises(ModelError, match=said):
        check_whole(resolve(str(tmp_path)), Classify(tuple(f"LABEL_{i}" for i in range(3))))


@pytest.mark.parametrize(
    ("first", "auto"),
    [("smidgen", "AutoConfig"), ("smidgen", "AutoModelForSequenceClassification"), ("transformers", "AutoTokenizer")],
)
def test_in_a_fresh_process(first: str, auto: str, tmp_path: Path) -> None:
    """Whichever is imported first, and whichever Auto class is asked first."""
    cut("bert").save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    second = {"smidgen": "transformers", "transformers": "smidgen"}[first]
    code = f"""
import {first}
import {second}
from transformers import {auto}
{auto}.from_pretrained({str(tmp_path)!r})
config = transformers.AutoConfig.from_pretrained({str(tmp_path)!r})
model = transformers.AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r})
assert type(config) is type(model.config) and type(config).__name__ == "UnevenBertConfig"
assert transformers.AutoTokenizer.from_pretrained({str(tmp_path)!r}).pad_token == "[PAD]"
"""
    environment = os.environ | {"PYTHONPATH": str(Path(smidgen.__file__).parent.parent)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("first", ["BertModel", "MPNetForSequenceClassification", "AutoModel", "BertTokenizerFast"])
def test_any_name_of_transformers_may_be_imported_first(first: str) -> None:
    """A family's own module loads the tables that we enter uneven models into, half way through itself."""
    code = (
        f"import smidgen; from transformers import {first}, AutoConfig, AutoModel\n"
        "print(AutoModel._model_mapping[type(AutoConfig.for_model('smidgen-bert'))].__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "UnevenBertModel", said.stderr[-500:]
