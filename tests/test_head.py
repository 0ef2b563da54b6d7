"""tune.head: a head on what a frozen body gives is what its formula says, loads, exports and runs the body once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import data_files, model_folder
from test_frozen import EXACT, Said, calls, dropping, seen, trained
from test_loop import TASK
from tiny import FAMILIES, batch, tiny
from transformers import AutoModelForSequenceClassification

import smidgen
from smidgen.anatomy import anatomy
from smidgen.edits.head import POOLS, Head
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.frozen import fingerprints
from smidgen.method import Context, find
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.runner import run
from smidgen.surgery import apply
from smidgen.tape import listen
from smidgen.tasks.tag import Tag
from smidgen.uneven import is_uneven

__all__ = ["calls"]  # a fixture
EACH = pytest.mark.parametrize("pool", POOLS)
TUNE = find("tune.full")()


def made(family: str, pool: str, blocks: int = 4) -> Any:
    model = tiny(family, blocks=blocks)
    torch.manual_seed(0)
    return apply(model, Head(pool)).eval()


# What it computes.


@EACH
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_formula(family: str, pool: str) -> None:
    """Of the states that the taps of the untouched model give, whatever the padding."""
    inputs, model = batch(120, (9, 4, 12)), made(family, pool)
    plain, layers = tiny(family, blocks=4), ["embeddings", *(f"block.{i}.hidden" for i in range(4))]
    with torch.no_grad(), listen(plain, layers) as heard:
        taps = heard.read(plain(**inputs), inputs["attention_mask"])
    states = [taps[name] for name in layers]
    if pool == "mix":
        model.mix.weights.data, model.mix.scale.data = torch.tensor([0.3, -1.0, 0.0, 2.0, 0.7]), torch.tensor(1.7)
        exp = model.mix.weights.detach().exp()
        tokens = 1.7 * torch.stack([e / exp.sum() * h for e, h in zip(exp, states, strict=True)]).sum(0)
    else:
        tokens = torch.cat(states[1:], -1) if pool == "last_four" else states[-1]
    vectors = [row[0] if pool == "first" else row[:n].mean(0) for row, n in zip(tokens, (9, 4, 12), strict=True)]
    wanted = torch.stack(vectors) @ model.classifier.weight.T + model.classifier.bias
    with torch.no_grad():
        for given in (inputs, batch(120, (9, 4, 12), pad_to=19)):
            torch.testing.assert_close(model(**given).logits, wanted, rtol=0, atol=1e-5)


@EACH
def test_a_folder_loads_through_the_auto_classes(pool: str, tmp_path: Path) -> None:
    for family in ("bert", "distilbert", "electra", "modernbert"):
        model, inputs = made(family, pool), batch(120, (9, 4, 12))
        model.save_pretrained(tmp_path / family)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / family)
        assert is_uneven(again.config) and again.config.edits == [{"edit": "Head", "pool": pool}]
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in again.modules())


# How it trains.


@EACH
def test_only_the_head_trains_and_the_body_runs_once(pool: str, calls: Any, tmp_path: Path) -> None:
    model, watch = dropping("bert", blocks=4), Said()
    before = {name: value.clone() for name, value in model.base_model.state_dict().items()}
    counts = calls(model)
    methods = (find("tune.head")(pool=pool), TUNE)
    _, kept = trained(model, tmp_path / "a", tmp_path / "s", methods=methods, watch=watch)
    assert counts == [2] * 4 and watch.told == [], "a batch of train and a batch of dev"
    assert len(list((tmp_path / "s").glob("states-*"))) == {"mix": 5, "last_four": 4}.get(pool, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.base_model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    if pool == "mix":
        assert model.mix.weights.std() > 0 and model.mix.scale != 1
    assert len(set(seen(kept)[::2])) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_with_and_without_the_states_on_disk(family: str, tmp_path: Path) -> None:
    histories = []
    for store in (None, tmp_path / "s"):
        torch.manual_seed(5)
        methods = (find("tune.head")(pool="mix"), TUNE)
        histories.append(trained(dropping(family), tmp_path / str(store is None), store, methods=methods)[1])
    assert seen(histories[0]) == pytest.approx(seen(histories[1]), abs=1e-5)


def test_another_head_reads_the_states_that_are_there(calls: Any, tmp_path: Path) -> None:
    trained(tiny("bert", blocks=4), tmp_path / "a", tmp_path / "s", methods=(find("tune.head")(pool="mix"), TUNE))
    for methods in (
        (find("tune.head")(pool="last_four"), TUNE),
        (find("tune.freeze")(blocks="all"), TUNE),
    ):
        model = tiny("bert", blocks=4)
        counts = calls(model)
        trained(model, tmp_path / str(len(methods)) / str(methods[0]), tmp_path / "s", methods=methods)
        assert counts == [0] * 4
    prints = [
        fingerprints(model, (0, 4)) for model in (made("bert", "mix"), made("bert", "mean"), tiny("bert", blocks=4))
    ]
    assert prints[0] == prints[1] == prints[2]


@EACH
def test_a_recipe_leaves_what_predicts(pool: str, tmp_path: Path) -> None:
    """The runner replays the edit and reloads the folder; a graph of it answers without torch."""
    files = data_files(tmp_path / "data")
    folder = model_folder(tmp_path / "model", blocks=2 if pool == "mix" else 4)  # its graph takes long to make
    training = replace(EXACT, learning_rate=2e-2, epochs=6, cache="auto")
    stages = [Stage("head", (Use("tune.head", {"pool": pool}), Use("tune.full")), train=training)]
    if pool == "mix":
        stages.append(Stage("graph", (Use("export.onnx"),)))
    planned = plan(Recipe(str(folder), Files(files["train"], files["dev"], max_length=16), tuple(stages)))
    done = run(planned, tmp_path / "stages")
    record = done[0].artefact.record
    assert record["edits"] == [{"edit": "Head", "pool": pool}]
    assert record["history"]["best"] > 0.6
    if pool == "mix":
        said = smidgen.load(done[1].artefact.path).predict(["a good film", "bad"])
        assert {answer["label"] for answer in said} <= {"bad", "good"}


# What it refuses.


def test_where_it_does_not_fit() -> None:
    def context(task: Any = TASK) -> Context:
        return Context(Path(), Path(), task, (), 0, tiny("bert"))

    with pytest.raises(NoEffect, match=r"last_four finds 2 blocks in this model\. Write pool: mix, or mean\."):
        find("tune.head")(pool="last_four").begin(context())
    with pytest.raises(InputError, match=r"got the task tag, wanted classify or several\. Write tune\.freeze:"):
        find("tune.head")().begin(context(Tag(("O", "B-x"))))
    with pytest.raises(InputError, match=r"Head got pool='max', wanted one of first, mean, mix, last_four\."):
        Head("max")
    with pytest.raises(ModelError, match=r"has been put there by a Head already\. Start from its base\."):
        apply(made("bert", "mean"), Head("first"))
    with pytest.raises(ModelError, match=r"for models that classify texts, got BertForTokenClassification"):
        apply(tiny("bert", head="TokenClassification"), Head("mix"))


def test_blocks_that_go_after_a_mix_are_told() -> None:
    model = apply(made("bert", "mix"), KeepBlocks((0, 2)))
    with pytest.raises(ModelError, match=r"mixes 5 layers, the model has 3 now, .* Cut blocks in a stage before"):
        model(**batch(120, (4, 5)))
    four = apply(made("bert", "mean"), KeepBlocks((0, 2)))
    assert four(**batch(120, (4, 5))).logits.shape == (2, 3)
    assert len(anatomy(four).blocks) == 2
