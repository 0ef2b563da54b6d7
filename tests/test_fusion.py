"""tune.fusion: its formula, what it is of one adapter, what it leaves alone, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import adapter_folder, data_files, model_folder
from test_grafts import moved, said
from tiny import VOCAB, batch, tiny
from transformers import AutoModel, BertConfig

from smidgen.batch import Batch
from smidgen.delta import fit, read
from smidgen.errors import ArtefactError, NoEffect, RecipeError
from smidgen.grafting import part
from smidgen.grafts import build
from smidgen.method import Context, find
from smidgen.methods.tune.fusion import attention, fill
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import Done, run
from smidgen.source import resolve
from smidgen.tape import Tape
from smidgen.tasks import Classify

FAMILY = pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fusion")
    model_folder(root / "base")
    adapter_folder(root / "narrow", root / "base", 3, scale=2.0)
    adapter_folder(root / "wide", root / "base", 5, seed=1)
    adapter_folder(root / "high", root / "base", 4, seed=2, first=1)
    data_files(root)
    return root


def made(root: Path, *names: str, **settings: Any) -> Any:
    """The method, of the adapters of these names."""
    return find("tune.fusion")(adapters=tuple(str(root / name) for name in names), **settings)


def joined(root: Path, *names: str, **settings: Any) -> Done:
    files = Files(str(root / "train.csv"), str(root / "dev.csv"))
    given = {"adapters": tuple(str(root / name) for name in names), **settings}
    stage = Stage("t", (Use("tune.full"), Use("tune.fusion", given)), train=Training(epochs=1, learning_rate=1e-2))
    return run(plan(Recipe(str(root / "base"), files, (stage,))), root / "stages")[-1]


# The formula.


@pytest.mark.parametrize("settings", [{}, {"rank": 4}, {"values": False}], ids=str)
@torch.no_grad()
def test_fusion_is_its_formula(settings: dict[str, Any]) -> None:
    """Token by token, from what each adapter leaves, as the paper writes it."""
    graft: Any = moved(build(tiny("bert"), "fusion", {"count": 3, "width": 5, **settings}))
    torch.manual_seed(1)
    output = torch.randn(2, 4, 32)
    identity = torch.eye(32)
    value = identity + graft.shifts["1"] if "1" in graft.shifts else identity
    wanted = torch.empty_like(output)
    for place in [(row, token) for row in range(2) for token in range(4)]:
        h = output[place]
        left = torch.stack(
            [
                h
                + (h @ graft.into["1"][n] + graft.into_bias["1"][n]).relu() @ graft.back["1"][n]
                + graft.back_bias["1"][n]
                for n in range(3)
            ]
        )
        shares = ((h @ graft.queries["1"]) @ (left @ graft.keys["1"]).T).softmax(0)
        wanted[place] = shares @ (left @ value)
    torch.testing.assert_close(graft.join("1", None, (), output), wanted, atol=1e-4, rtol=1e-4)


def test_where_it_starts() -> None:
    torch.manual_seed(0)
    graft: Any = build(tiny("bert"), "fusion", {})
    value = torch.eye(32) + graft.shifts["0"].detach()
    assert value.diagonal().tolist() == [1.0] * 32
    beside = value[~torch.eye(32, dtype=torch.bool)]
    torch.testing.assert_close(beside, torch.full_like(beside, 1e-6))
    for table in (graft.queries, graft.keys):
        assert 0.01 < table["0"].std() < 0.03


@FAMILY
def test_of_one_adapter_it_is_that_adapter(family: str) -> None:
    model, inputs = tiny(family), batch(VOCAB, [5, 9, 3])
    adapter = moved(build(model, "adapter", {"width": 3, "scale": 2.0, "first": 1}))
    adapter.attach(model)
    wanted = said(model, inputs)
    adapter.detach()
    fusion: Any = build(model, "fusion", {"count": 1, "width": 3})
    fill(fusion, [part(adapter)])
    for shift in fusion.shifts.values():
        shift.data.zero_()
    fusion.attach(model)
    torch.testing.assert_close(said(model, inputs), wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_adapters_of_other_widths(root: Path) -> None:
    """Each, where it has all the attention, is as alone."""
    model, inputs = tiny("bert"), batch(VOCAB, [5, 9, 3])
    parts = [read(root / name).parts[0] for name in ("narrow", "wide", "high")]
    fusion: Any = build(model, "fusion", {"count": 3, "width": 5, "values": False})
    fill(fusion, parts)
    for n, one in enumerate(parts):
        alone = build(model, "adapter", one.settings)
        alone.load_state_dict(dict(one.tensors))
        alone.attach(model)
        wanted = said(model, inputs)
        alone.detach()
        only: Any = build(model, "fusion", {"count": 3, "width": 5, "values": False})
        only.load_state_dict(fusion.state_dict())
        only.keep({name: torch.tensor([n]) for name in only.queries})
        only.attach(model)
        torch.testing.assert_close(said(model, inputs), wanted, atol=1e-5, rtol=0)
        only.detach()


def test_v_is_pulled_to_the_identity(root: Path) -> None:
    """0.01 ||I - V||^2, summed over blocks; two halves of a step are one step."""
    graft: Any = moved(build(tiny("bert"), "fusion", {}))
    wanted = 0.01 * sum(float(shift.detach().square().sum()) for shift in graft.shifts.values())

    def pull(rows: int) -> float:
        mask = torch.ones(rows, 4)
        tape = Tape(
            {}, {}, torch.zeros(rows), mask, examples=8.0, tokens=32.0, labelled=8.0, units=None, unit_count=8.0
        )
        return made(root, "narrow").loss(graft, tape)["pull"].item()

    assert pull(8) == pytest.approx(wanted, rel=1e-5)
    assert pull(3) + pull(5) == pytest.approx(wanted, rel=1e-5)
    assert made(root, "narrow", values=False).loss(graft, None) == {}


def test_its_size_on_bert_base() -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(BertConfig())
    full, low = (build(model, "fusion", {"rank": rank, "values": not rank}) for rank in (0, 16))
    assert full.own == 12 * 3 * 768**2  # type: ignore[operator]
    assert full.own / model.num_parameters() == pytest.approx(0.194, abs=1e-3)  # type: ignore[operator]
    assert low.own == 12 * 2 * 768 * 16  # type: ignore[operator]


# What is trained and kept.


def test_the_delta_stands_alone(root: Path, tmp_path: Path) -> None:
    """The adapters in it are those that were given, to the bit, and their folders are not needed any more."""
    for name in ("base", "narrow", "wide"):
        shutil.copytree(root / name, tmp_path / name)
    for name in ("train", "dev"):
        shutil.copy(root / f"{name}.csv", tmp_path)
    done = joined(tmp_path, "narrow", "wide")
    delta = read(done.artefact.path)
    for n, (name, scale) in enumerate((("narrow", 2.0), ("wide", 1.0))):
        given, tensors = read(tmp_path / name).parts[0].tensors, delta.parts[0].tensors
        width = given["into.0/down"].shape[1]
        assert torch.equal(tensors["into.0"][n, :, :width], given["into.0/down"])
        assert torch.equal(tensors["back.1"][n, :width], scale * given["back.1/down"])
        assert not tensors["into.0"][n, :, width:].any()
    assert not torch.equal(delta.parts[0].tensors["shifts.0"].diagonal(), torch.zeros(32))
    terms = done.artefact.record["history"]["entries"][-1]["terms"]
    assert set(terms) == {"tune.full.task", "tune.fusion.pull"} and terms["tune.fusion.pull"] > 0
    found = done.artefact.record["found"]["tune.fusion"]
    assert found["numbers"] == 2 * 3 * 32 * 32
    assert [sum(shares) for shares in found["attention"].values()] == pytest.approx([1.0, 1.0], abs=1e-4)
    (remark,) = [r for r in done.artefact.record["lineage"][-1]["remarks"] if "own numbers" in r]
    assert remark.startswith("tune.fusion: its own numbers are 6,144, ") and "attention on narrow 0." in remark
    for name in ("narrow", "wide"):
        shutil.rmtree(tmp_path / name)
    fit(delta, resolve(str(tmp_path / "base")))


def test_only_the_adapters_with_most_attention_stay(root: Path) -> None:
    done = joined(root, "narrow", "wide", "high", keep=1)
    delta = read(done.artefact.path)
    attended = done.artefact.record["found"]["tune.fusion"]["attention"]
    assert delta.parts[0].settings["count"] == 1 and set(attended) == {"0", "1"}
    for block, shares in attended.items():
        name, scale = (("narrow", 2.0), ("wide", 1.0), ("high", 1.0))[shares.index(max(shares))]
        wanted = read(root / name).parts[0].tensors.get(f"back_bias.{block}/down", torch.zeros(32))
        assert torch.equal(delta.parts[0].tensors[f"back_bias.{block}"][0], scale * wanted)


@torch.no_grad()
def test_attention_is_a_mean_over_real_tokens() -> None:
    """So padding, and how rows are cut into batches, change nothing; it is measured for the record alone."""
    model = tiny("bert")
    graft: Any = moved(build(model, "fusion", {"count": 3, "width": 5}))
    graft.attach(model)

    def rows(pad_to: int, *cuts: slice) -> list[Batch]:
        inputs = batch(VOCAB, [5, 9, 3], pad_to=pad_to)
        cut = [{name: value[where] for name, value in inputs.items()} for where in cuts]
        return [Batch(Classify(("a", "b", "c")), each, torch.zeros(len(each["input_ids"]))) for each in cut]

    whole = attention(model, graft, rows(9, slice(None)))
    other = attention(model, graft, rows(14, slice(0, 2), slice(2, 3)))
    assert set(whole) == {"0", "1"} and graft.shares is None
    for name, shares in whole.items():
        assert shares.shape == (3,) and shares.sum().item() == pytest.approx(1)
        torch.testing.assert_close(shares, other[name])


# What is refused.


def test_deltas_that_cannot_be_joined(root: Path) -> None:
    (fault,) = made(root, "base").faults()
    assert fault.startswith(f"adapters: got '{root / 'base'}', wanted deltas of tune.adapter with kind: pfeiffer. ")
    assert "there is no delta.json" in fault
    adapter_folder(root / "two", root / "base", kind="houlsby")
    (fault,) = made(root, "narrow", "two").faults()
    assert "two: a delta of houlsby. Tune one with tune.adapter, kind: pfeiffer." in fault
    adapter_folder(root / "smooth", root / "base", activation="gelu")
    assert list(made(root, "narrow", "smooth").faults()) == [
        "adapters: got the activations gelu, relu, wanted one. Tune them with the same."
    ]
    assert list(made(root, "narrow", "wide", keep=2).faults()) == [
        "keep: got 2, wanted fewer than the 2 adapters, or 0 for all of them."
    ]


def test_adapters_of_another_base(root: Path) -> None:
    model_folder(root / "other", seed=7)
    adapter_folder(root / "foreign", root / "other")
    with pytest.raises(RecipeError, match=r"tune\.fusion: .*/foreign: made on a base whose weights hash to"):
        joined(root, "narrow", "foreign")


def test_no_adapters_are_nothing_to_join() -> None:
    with pytest.raises(NoEffect, match=r"tune\.fusion: adapters names none, so there is nothing to join\."):
        find("tune.fusion")().begin(Context(Path(), Path(), None, (), 0))  # type: ignore[arg-type]


def test_the_adapters_are_part_of_the_id(root: Path) -> None:
    method = made(root, "narrow", "wide")
    before = method.reads()
    assert before == {"adapters": " ".join(read(root / name).record["file"][1] for name in ("narrow", "wide"))}
    spoilt = root / "narrow" / "delta.safetensors"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[:-1])
    with pytest.raises(ArtefactError, match=r"delta\.safetensors is missing, cut short or changed"):
        method.reads()
    spoilt.write_bytes(whole)
