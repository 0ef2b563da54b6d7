"""Head importance against one example at a time and finite differences; what is cut, what stays, what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, language_folder, model_folder
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import nn

from smidgen.anatomy import anatomy
from smidgen.batch import Batch
from smidgen.edits.attach import Attach
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError, NoEffect, RecipeError
from smidgen.gates import Gates
from smidgen.method import Context, Sight
from smidgen.methods.prune.heads import Heads, PerHead, cut, importance, losses, normalised
from smidgen.planner import Plan, plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import Done, run
from smidgen.students.bilstm import BilstmForSequenceClassification
from smidgen.surgery import apply
from smidgen.tasks import Classify

torch.set_num_threads(1)
EACH = pytest.mark.parametrize("family", FAMILIES)
CUTTABLE = [family for family in FAMILIES if family != "mobilebert"]
TASK = Classify(("a", "b", "c"))
LENGTHS = [5, 12, 9, 7]
ALL = [np.ones(4, bool), np.ones(4, bool)]
SHORT = Training(epochs=0.5, learning_rate=1e-3, batch_size=8, precision="float32")


def rows(pad_to: int | None = None, size: int = 4) -> Iterator[Batch]:
    """Four labelled rows, `size` of them a batch."""
    inputs, labels = batch(VOCAB, LENGTHS, pad_to), torch.tensor([0, 2, 1, 1])
    for start in range(0, 4, size):
        here = slice(start, start + size)
        longest = pad_to or max(LENGTHS[here])
        yield Batch(TASK, {name: value[here, :longest] for name, value in inputs.items()}, labels[here])


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows say enough here."""
    monkeypatch.setattr("smidgen.methods.prune.heads.LEAST", 4)


def by_hand(model: nn.Module, kept: PerHead, step: float = 1e-2) -> PerHead:
    """The same from the formula: an example at a time, without padding, the slope of its loss as a difference."""
    found = [np.zeros(len(each)) for each in kept]
    for one in rows(size=1):
        for b, each in enumerate(kept):
            for h in np.flatnonzero(each):
                ends = []
                for sign in (1, -1):
                    with Gates(model) as gates, torch.no_grad():
                        gates.heads = [torch.tensor(flags, dtype=torch.double) for flags in kept]
                        gates.heads[b][h] += sign * step
                        ends.append(float(one.losses(model)[0]))
                found[b][h] += abs(ends[0] - ends[1]) / (2 * step) / len(LENGTHS)
    return found


@EACH
def test_importance_is_that_of_the_formula(family: str) -> None:
    model = tiny(family).double()
    kept = [np.array([True, True, False, True]), np.ones(4, bool)]
    found = importance(model, rows(), kept)
    assert found[0][2] == 0
    for mine, wanted in zip(found, by_hand(model, kept), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=2e-2, atol=2e-4)
    with Gates(model) as gates:  # the absolute value of the sum over a batch is another, smaller number
        whole = next(rows())
        shut = gates.fill("heads")
        summed = torch.autograd.grad(whole.losses(model).sum(), shut)[1].abs() / len(whole)
    assert (summed.numpy() < 0.9 * importance(model, rows(), ALL)[1]).any()


@EACH
def test_neither_batch_size_nor_padding_nor_order_changes_importance(family: str) -> None:
    model = tiny(family)
    whole = importance(model, rows(), ALL)
    for other in (rows(size=1), rows(size=3), rows(pad_to=30), reversed(list(rows(size=2)))):
        for one, same in zip(whole, importance(model, other, ALL), strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-3, atol=1e-5)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = tiny("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    importance(model, rows(), ALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_norm_is_over_the_heads_of_a_block() -> None:
    found = normalised([np.array([3.0, 4.0]), np.array([0.0, 0.0])])
    assert found[0].tolist() == [0.6, 0.8] and found[1].tolist() == [0.0, 0.0]


# What is cut.


def test_the_lowest_go_in_steps_and_each_step_measures_anew() -> None:
    seen: list[list[list[bool]]] = []

    def scores(kept: PerHead) -> PerHead:
        seen.append([each.tolist() for each in kept])
        first = [np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0])]
        return first if len(seen) == 1 else [np.array([0.0, 9.0, 8.0]), np.array([9.0, 7.0, 9.0])]

    kept = cut([3, 3], 3, 2, [1, 1], scores)
    assert seen == [[[True] * 3, [True] * 3], [[False, False, True], [True] * 3]]
    assert [each.tolist() for each in kept] == [[False, False, True], [True, False, True]]
    at_once = cut([3, 3], 3, 1, [1, 1], lambda kept: [np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0])])
    assert [each.tolist() for each in at_once] == [[False, False, True], [False, True, True]]


def test_heads_stay_in_each_block() -> None:
    low = [np.array([1.0, 2.0, 3.0]), np.array([7.0, 8.0, 9.0])]
    kept = cut([3, 3], 3, 1, [1, 1], lambda kept: low)
    assert [each.tolist() for each in kept] == [[False, False, True], [False, True, True]]
    assert [each.sum() for each in cut([3, 3], 3, 1, [2, 2], lambda kept: low[::-1])] == [2, 2]
    assert [each.sum() for each in cut([3, 3], 3, 1, [0, 0], lambda kept: low)] == [0, 3]
    assert [each.sum() for each in cut([1, 4], 3, 2, [2, 2], lambda kept: [np.zeros(1), np.ones(4)])] == [1, 2]


def context(model: Any, seed: int = 0) -> Context:
    ctx = Context(Path(), Path(), TASK, (), seed)
    ctx.model, ctx.sight = model, Sight(sample=lambda count: rows())
    return ctx


@pytest.mark.parametrize("family", CUTTABLE)
def test_what_goes_is_what_matters_least(family: str) -> None:
    """The heads of block 1 whose output is made nothing are those that go, and the outputs stay as they were."""
    model, inputs = tiny(family), batch(VOCAB, LENGTHS)
    block = anatomy(model).blocks[1]
    for head in (0, 2):
        block.out.weight.data[:, head * block.head_size : (head + 1) * block.head_size] = 0
    with torch.no_grad():
        before = model(**inputs).logits
    ctx = context(model)
    Heads(share=0.25, steps=2).begin(ctx)
    (edit,) = ctx.edits
    assert (edit.block, edit.heads) == (1, (1, 3))
    assert [each.heads for each in anatomy(model).blocks] == [4, 2]
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-5, atol=1e-5)
    found = ctx.found["prune.heads"]
    assert (found["before"], found["after"]) == ([4, 4], [4, 2])
    assert [i > 0 for i in found["importance"][1]] == [False, True, False, True]
    loss = found["losses"]
    chance = loss["at_random"]
    assert loss["kept"] == pytest.approx(loss["all"], rel=1e-4) and len(set(chance)) > 1
    assert found["told"] == (
        f"6 of 8 heads are left. Mean loss on the rows measured on: {loss['all']:.3f} with all, "
        f"{loss['kept']:.3f} with these, {np.mean(chance):.3f} with as many drawn at random ({min(chance):.3f} to "
        f"{max(chance):.3f} in 5 draws)."
    )


def test_a_block_without_units_keeps_a_head() -> None:
    """As prune.fisher and prune.gates may leave one, whatever `least` allows the others."""
    model = apply(tiny("bert"), KeepWidth(0, ()))
    ctx = context(model)
    Heads(share=0.8, least=0, by="random").begin(ctx)
    heads = [each.heads for each in anatomy(model).blocks]
    assert sum(heads) == 2 and heads[0] >= 1
    swapped = apply(tiny("bert"), Swap((1,), "multi_query"))
    with pytest.raises(ModelError, match="block 1 has one key for all heads in place of a Linear"):
        Heads(share=0.5).begin(context(swapped))


def test_the_loss_of_a_cut_is_told_before_it_is_made() -> None:
    model, kept = tiny("bert"), [np.array([True, False, True, True]), np.array([False, True, True, False])]
    told = losses(model, rows(), {"cut": kept})["cut"]
    for block, each in enumerate(kept):
        KeepHeads(block, tuple(np.flatnonzero(each).tolist())).apply_to(model)
    with torch.no_grad():
        assert told == pytest.approx(float(torch.cat([each.losses(model) for each in rows()]).mean()), rel=1e-5)


def test_random_needs_no_rows_and_follows_the_seed() -> None:
    def edits(seed: int) -> list[Any]:
        ctx = context(tiny("bert", blocks=4), seed)
        ctx.sight = Sight(sample=lambda count: pytest.fail("it asked for rows"))
        Heads(share=0.5, by="random").begin(ctx)
        after = [block.heads for block in anatomy(ctx.model).blocks]
        told = "8 of 16 heads are left."
        assert ctx.found == {"prune.heads": {"before": [4] * 4, "after": after, "told": told}}
        return ctx.edits

    assert edits(1) == edits(1) != edits(2)


def test_a_second_cut_starts_from_the_first() -> None:
    model = tiny("bert")
    Heads(share=0.25).begin(context(model))
    before = sum(block.heads for block in anatomy(model).blocks)
    ctx = context(model)
    Heads(share=0.5).begin(ctx)
    assert (before, sum(block.heads for block in anatomy(model).blocks)) == (6, 3)
    assert sum(ctx.found["prune.heads"]["before"]) == 6


# What is refused.


def test_too_much_is_refused() -> None:
    with pytest.raises(InputError, match=r"0\.9 of 8 heads is 7, but with least 1 in each of 2 blocks only 6 can"):
        Heads(share=0.9).begin(context(tiny("bert")))
    many = tiny("bert", num_attention_heads=16)
    with pytest.raises(InputError, match=r"only 30 can go\. Write a share up to 0\.93, or a lower least\."):
        Heads(share=0.96).begin(context(many))
    Heads(share=0.93, steps=1).begin(context(many))
    told = r"least 0 in each of 2 blocks, and one in all, only 7 can go\. Write a share up"
    with pytest.raises(InputError, match=told):
        Heads(share=1.0, least=0).begin(context(tiny("bert")))


def test_heads_that_a_graft_stands_on_are_refused_before_they_are_measured() -> None:
    ctx = context(apply(tiny("bert"), Attach("prefix", (("length", 2),))))
    ctx.sight = Sight(sample=lambda count: pytest.fail("it asked for rows"))
    with pytest.raises(ModelError, match=r"a prefix was put beside the heads of this model\. Cut first, attach after"):
        Heads().begin(ctx)


def test_nothing_is_refused() -> None:
    with pytest.raises(NoEffect, match=r"prune\.heads: share 0\.05 of 8 heads is none\. Cut a larger share"):
        Heads(share=0.05).begin(context(tiny("bert")))


def test_no_rows_are_refused() -> None:
    ctx = context(tiny("bert"))
    ctx.sight = Sight(sample=lambda count: ())
    with pytest.raises(InputError, match=r"got 0 rows to measure importance on, wanted at least 4\. Give more, or"):
        Heads().begin(ctx)
    assert not ctx.edits
    Heads(by="random").begin(ctx)
    assert ctx.edits
    (fault,) = Heads(rows=3).faults()
    assert fault.startswith("rows: got 3, wanted at least 4")


def test_a_loss_that_no_head_moves_is_refused() -> None:
    model = tiny("bert")
    for block in anatomy(model).blocks:
        block.out.weight.data.zero_()
    with pytest.raises(InputError, match=r"on the rows that were drawn \(rows: 2048\) the loss moves with no head"):
        Heads().begin(context(model))


def test_a_family_that_cannot_be_cut_is_refused_before_it_is_measured() -> None:
    ctx = context(tiny("mobilebert"))
    ctx.sight = Sight(sample=lambda count: pytest.fail("it asked for rows"))
    with pytest.raises(ModelError, match="KeepHeads cannot cut inside a block of mobilebert"):
        Heads().begin(ctx)


def test_a_block_without_heads_is_no_obstacle() -> None:
    model = tiny("bert")
    KeepHeads(0, ()).apply_to(model)
    ctx = context(model)
    Heads(share=0.5).begin(ctx)
    assert ctx.found["prune.heads"]["after"] == [0, 2]
    assert [len(each) for each in ctx.found["prune.heads"]["importance"]] == [0, 4]


def test_a_family_without_anatomy_is_refused() -> None:
    config = BilstmForSequenceClassification.config_class(vocab_size=20, num_labels=3)
    with pytest.raises(ModelError, match="model_type is 'smidgen-bilstm', which smidgen cannot take apart"):
        Heads().begin(context(BilstmForSequenceClassification(config)))


# In a recipe.


def planned(root: Path, *stages: Stage, **more: Any) -> Plan:
    files = data_files(root / "data")
    model = more.pop("model", None) or str(model_folder(root / "model", labels=LABELS))
    data = Files(files["train"], files["dev"], unlabeled=files["unlabeled"])
    return plan(Recipe(model, data, stages, **more))


def heads(name: str = "fewer", **more: Any) -> Stage:
    settings = {"share": 0.5, "steps": 2, **more.pop("settings", {})}
    return Stage(name, (Use("prune.heads", settings), *more.pop("beside", ())), train=SHORT, **more)


def test_alone_and_before_training(tmp_path: Path) -> None:
    alone, both = heads(), heads("tuned", source="model", beside=(Use("tune.full", {}),))
    one, other = run(planned(tmp_path, alone, both), tmp_path / "stages")
    for done in (one, other):
        found = done.artefact.record["found"]["prune.heads"]
        assert found["before"] == [4, 4] and sum(found["after"]) == 4
        assert done.artefact.record["on"] == "train"
    assert one.artefact.record["edits"] == other.artefact.record["edits"], "the same rows, the same model"
    assert one.artefact.record["edits"][0]["edit"] == "KeepHeads"
    assert "history" not in one.artefact.record and other.artefact.record["history"]["entries"]


def test_a_teacher_stands_for_labels(tmp_path: Path) -> None:
    stage = heads(data="unlabeled", teacher="model", settings={"by": "importance"})
    (done,) = run(planned(tmp_path, stage), tmp_path / "stages")
    assert sum(done.artefact.record["found"]["prune.heads"]["after"]) == 4
    assert len(list((tmp_path / "stages").glob("labels-*"))) == 1


def test_a_language_model_is_measured_on_its_masked_words(tmp_path: Path) -> None:
    model = str(language_folder(tmp_path / "language"))
    (done,) = run(planned(tmp_path, heads(), model=model, task="mask_language"), tmp_path / "stages")
    assert sum(done.artefact.record["found"]["prune.heads"]["after"]) == 4


def test_no_labels_and_no_teacher_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        planned(tmp_path, heads(data="unlabeled"))
    assert re.search(
        r"stage fewer: prune\.heads needs labels or a teacher, the stage reads unlabeled texts\. Write data: train, or",
        str(error.value),
    )


def test_the_id_has_what_was_measured_on(tmp_path: Path) -> None:
    ids = [
        planned(tmp_path, heads(**more), **rest).stages[0].id
        for more, rest in [
            ({}, {}),
            ({}, {"seed": 5}),
            ({"data": "train+unlabeled"}, {}),
            ({"settings": {"rows": 9}}, {}),
        ]
    ]
    assert len(set(ids)) == 4
    assert ids[0] == planned(tmp_path, heads("other")).stages[0].id


def test_the_same_heads_again(tmp_path: Path) -> None:
    first, second = (run(planned(tmp_path, heads()), tmp_path / name) for name in ("one", "two"))
    assert found(first) == found(second)


def found(done: list[Done]) -> Any:
    return done[-1].artefact.record["found"], done[-1].artefact.record["files"]
