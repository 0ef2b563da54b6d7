"""prune.layers: which blocks a search keeps, and training in which blocks are left out."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, language_folder, model_folder
from test_loop import TASK, make_model, make_rows
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import nn

from smidgen.anatomy import anatomy
from smidgen.detours import Detours
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.loop import make_accelerator, predict
from smidgen.method import Context, Sight
from smidgen.methods.prune import layers
from smidgen.methods.prune.layers import Layers, only, searched
from smidgen.planner import plan
from smidgen.reading import dev_rows
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.sampling import mean_loss
from smidgen.source import load_model, resolve
from smidgen.surgery import apply

# The search.


def table(blocks: int, seed: int) -> dict[tuple[int, ...], float]:
    """A loss for every set of blocks."""
    draw = np.random.default_rng(seed)
    sets = [kept for k in range(1, blocks + 1) for kept in itertools.combinations(range(blocks), k)]
    return dict(zip(sets, draw.random(len(sets)).tolist(), strict=True))


def test_few_sets_are_all_tried() -> None:
    loss = table(6, 0)
    best = min((value, kept) for kept, value in loss.items() if len(kept) == 3)[1]
    assert searched(6, 3, loss.__getitem__) == best
    held = min((value, kept) for kept, value in loss.items() if len(kept) == 3 and {0, 5} <= set(kept))[1]
    assert searched(6, 3, loss.__getitem__, (0, 5)) == held != best


def test_of_many_sets_one_block_after_another_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "FEW", 2)
    loss = table(5, 1)
    first = min((value, kept) for kept, value in loss.items() if len(kept) == 4)[1]
    second = min((value, kept) for kept, value in loss.items() if len(kept) == 3 and set(kept) < set(first))[1]
    assert searched(5, 3, loss.__getitem__) == second
    assert 0 in searched(5, 3, lambda kept: float(0 in kept), (0,))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_some_blocks_run_inside_the_with(family: str) -> None:
    model, inputs = tiny(family, blocks=4), batch(VOCAB, [5, 9])
    whole, before = list(anatomy(model).block_list), model(**inputs).logits
    cut = copy.deepcopy(model)
    del anatomy(cut).block_list[1:3]
    with pytest.raises(KeyError), only(anatomy(model).block_list, (0, 3)):
        assert torch.equal(model(**inputs).logits, cut(**inputs).logits)
        raise KeyError
    assert list(anatomy(model).block_list) == whole and torch.equal(model(**inputs).logits, before)


def test_mean_loss_is_the_mean_over_rows_with_a_label() -> None:
    model, rows = make_model(), make_rows(40)
    rows.labels[::4] = -100
    logits = torch.from_numpy(predict(model, rows, make_accelerator("float32")))
    labels = torch.from_numpy(rows.labels)
    assert mean_loss(model, TASK, rows) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    few = [1, 13, 26, 39]  # of 30 with a label the first, the tenth, the twentieth and the last
    wanted = nn.functional.cross_entropy(logits[few], labels[few])
    assert mean_loss(model, TASK, rows, 4) == pytest.approx(float(wanted), rel=1e-5)


def recipe(tmp_path: Path, model: Path, *stages: Stage, task: str = "classify") -> Recipe:
    files = data_files(tmp_path / "data")
    return Recipe(str(model), Files(files["train"], files["dev"]), stages, task=task)


SEARCH = Stage("cut", (Use("prune.layers", {"keep": 2, "rule": "search"}),))


@pytest.mark.parametrize("task", ["classify", "mask_language"])
def test_a_stage_keeps_the_blocks_with_the_least_loss_on_dev(task: str, tmp_path: Path) -> None:
    make = language_folder if task == "mask_language" else partial(model_folder, labels=LABELS)
    folder = make(tmp_path / "m", blocks=4)
    planned = plan(recipe(tmp_path, folder, SEARCH, task=task))
    (done,) = run(planned, tmp_path / "stages")
    (edit,) = done.artefact.record["edits"]
    source, losses = resolve(str(folder)), {}
    for kept in itertools.combinations(range(4), 2):
        model = apply(load_model(source, planned.data.task, 0), KeepBlocks(kept))
        losses[kept] = mean_loss(model, planned.data.task, dev_rows(planned, source))
    assert tuple(edit["blocks"]) == min(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == 6
    found = done.artefact.record["found"]["prune.layers"]
    assert {tuple(each["kept"]): pytest.approx(each["loss"], rel=1e-4) for each in found["tried"]} == losses
    first = f"prune.layers: Of 6 sets of blocks that were tried these have the least loss on dev: {edit['blocks']} "
    assert any(remark.startswith(first) for remark in done.remarks)


def test_what_a_search_reads_counts_in_the_id(tmp_path: Path) -> None:
    def ids(use: Use, dev: str) -> str:
        files = data_files(tmp_path / "data")
        one = Recipe(str(model), Files(files["train"], files[dev]), (Stage("cut", (use,)),))
        return plan(one).stages[0].id

    model = model_folder(tmp_path / "m", labels=LABELS)
    evenly, search = Use("prune.layers", {"keep": 1}), Use("prune.layers", {"keep": 1, "rule": "search"})
    assert ids(evenly, "dev") == ids(evenly, "test")
    assert ids(search, "dev") != ids(search, "test")


def test_a_search_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    bare = recipe(tmp_path, model_folder(tmp_path / "m", blocks=4), SEARCH)
    with pytest.raises(InputError, match=r"no trained head for classify\. Fine-tune it in a stage before this one"):
        run(plan(bare), tmp_path / "stages")


def test_a_search_on_a_few_rows_is_refused(tmp_path: Path) -> None:
    asked = recipe(tmp_path, model_folder(tmp_path / "m", labels=LABELS, blocks=4), SEARCH)
    lines = Path(asked.data.dev or "").read_text(encoding="utf-8").splitlines(keepends=True)
    Path(asked.data.dev or "").write_text("".join(lines[:16]), encoding="utf-8")
    with pytest.raises(InputError, match=r"dev has 15 rows, wanted at least 16\. Give more rows, or take another rule"):
        run(plan(asked), tmp_path / "stages")


# Blocks left out while the model trains.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_model_without_the_blocks_that_are_left_out(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny(family, blocks=3), batch(VOCAB, [5, 9], pad_to=12)
    before, cut = model(**inputs).logits, copy.deepcopy(model)
    del anatomy(cut).block_list[1:2]
    ctx = Context(Path(), Path(), TASK, (), 0, model)
    state = Layers(keep=1.0, drop=0.5).begin(ctx)
    monkeypatch.setattr(Detours, "staying", lambda self: (True, False, True))
    for block in anatomy(model).blocks:
        block.module.training = True
    torch.testing.assert_close(model(**inputs).logits, cut(**inputs).logits)
    assert torch.equal(model.eval()(**inputs).logits, before)
    assert state is not None and not list(state.parameters())


@pytest.mark.parametrize(("keep", "left"), [(1.0, 2), (0.5, 1), (1, 1)])
def test_the_cut_comes_at_the_end_and_only_where_it_is_asked(keep: float, left: int) -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, make_model())
    method = Layers(keep=keep, drop=0.2)
    state = method.begin(ctx)
    assert state is not None and not ctx.edits
    method.step(state, 0.5)
    method.end(state, ctx)
    assert len(anatomy(ctx.model).blocks) == left and len(ctx.edits) == 2 - left


def test_drop_without_training_is_refused() -> None:
    method, ctx = Layers(keep=1.0, drop=0.2), Context(Path(), Path(), TASK, (), 0, make_model())
    with pytest.raises(NoEffect, match=r"drop acts while a stage trains\. Add what has a loss, as tune\.full"):
        method.end(method.begin(ctx), ctx)


def test_one_training_then_two_depths(tmp_path: Path) -> None:
    short = Training(epochs=1, learning_rate=1e-3, precision="float32")
    stages = (
        Stage("dropping", (Use("prune.layers", {"keep": 1.0, "drop": 0.3}), Use("tune.full")), train=short),
        Stage("three", (Use("prune.layers", {"keep": 3}),), source="dropping"),
        Stage("one", (Use("prune.layers", {"keep": 1}),), source="dropping"),
    )
    done = run(plan(recipe(tmp_path, model_folder(tmp_path / "m", blocks=4), *stages)), tmp_path / "stages")
    assert [len(each.artefact.record["edits"]) for each in done] == [0, 1, 1]


def test_a_block_that_is_not_there_is_named() -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, tiny("bert"))
    with pytest.raises(InputError, match=r"keep \[0, 7\] names block 7, but this model has 2: use 0 to 1\."):
        layers.Layers(keep=(0, 7)).begin(ctx)


def test_what_the_cut_would_refuse_is_refused_before_training() -> None:
    def begin(family: str, **settings: Any) -> None:
        ctx = Context(Path(), Path(), TASK, (), 0, tiny(family, blocks=3), sight=Sight(dev=lambda: range(9)))
        Layers(drop=0.2, **settings).begin(ctx)

    with pytest.raises(ModelError, match=r"KeepBlocks\(2,\) drops block 0"):
        begin("modernbert", keep=1, rule="uniform")
    with pytest.raises(InputError, match="judges sets of blocks by their loss on dev, and dev has 9 rows, wanted at"):
        begin("bert", keep=2, rule="search")
    begin("bert", keep=2)


@pytest.mark.parametrize("keep", [3, 0.95, (0, 1, 2)])
def test_no_cut_after_drop_has_to_be_asked_for(keep: Any) -> None:
    ctx = Context(Path(), Path(), TASK, (), 0, tiny("bert", blocks=3))
    told = r"of 3 blocks cuts nothing\. Keep fewer, or write keep: 1\.0 to train with drop alone\."
    with pytest.raises(NoEffect, match=told):
        Layers(keep=keep, drop=0.2).begin(ctx)
