"""Grafts: nothing at the start, the same by hooks, in the weights, in a folder, and in a batch of many tasks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, batch, tiny
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from smidgen.errors import InputError, NoEffect
from smidgen.grafting import settle
from smidgen.grafts import build, kind, kinds, stacked

# A kind may need some settings to have an effect on every family, and others to be tried besides.
CASES: dict[str, list[dict[str, Any]]] = {
    "adapter": [{"kind": k, "width": 5} for k in ("houlsby", "pfeiffer", "parallel")],
    "bias": [{"add": True}, {"sites": ("query", "up"), "add": True}],
    "fusion": [{"count": 3, "width": 5}, {"width": 5, "rank": 4, "values": False, "first": 1}],
    "ladder": [{}, {"reduction": 4, "heads": 2, "every": 2}],
    "lora": [{"rank": 3}, {"rank": 3, "sites": ("value", "out", "up", "down"), "factors": True}],
    "mask": [{}, {"first": 1}],
    "norms": [{}, {"first": 1}],
    "prefix": [{"length": 3}],
    "prompt": [{"length": 3}],
    "scale": [{}, {"outputs": ("query", "up"), "inputs": ("out",)}],
    "side": [{"width": 8}, {"width": 12, "heads": 3, "blocks": 1, "alpha": 0.75}],
    "sparse": [{"count": 900}, {"first": 1, "count": 900}],
}
EACH = pytest.mark.parametrize(
    ("name", "settings"), [(name, settings) for name in kinds() for settings in CASES.get(name, [{}])], ids=str
)
FAMILY = pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mobilebert"])
STACKS = [name for name in kinds() if kind(name).stacks]


def moved(graft: Any, seed: int = 0) -> Any:
    """The graft with other numbers than at the start, so that it does something; bits are drawn anew."""
    torch.manual_seed(seed)
    for name, values in graft.state_dict().items():
        if name == "real":  # which of a task's places are its own
            values.fill_(1.0)
        elif values.dtype == torch.uint8:
            values.random_(256)
        elif values.is_floating_point():
            values.add_(0.2 * torch.randn_like(values))
    return graft


@torch.no_grad()
def said(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.eval()(**inputs).logits


@FAMILY
@EACH
def test_nothing_changes_at_the_start(family: str, name: str, settings: dict[str, Any]) -> None:
    model, inputs = tiny(family), batch(120, [5, 9, 3])
    before = said(model, inputs)
    graft = build(model, name, settings)
    graft.attach(model)
    assert sum(values.numel() for values in graft.state_dict().values()) > 0
    if name in ("prefix", "prompt"):  # what every token sees more of cannot be nothing, unless it is hidden
        graft.real.zero_()
    if name != "side":  # it starts halfway: see test_side.py
        near = {"adapter": 1e-6 if settings.get("kind") == "parallel" else 5e-2, "fusion": 1e-4}.get(name, 1e-5)
        torch.testing.assert_close(said(model, inputs), before, atol=near, rtol=0)
    moved(graft)
    assert (said(model, inputs) - before).abs().max() > 1e-2
    graft.detach()
    torch.testing.assert_close(said(model, inputs), before)


@FAMILY
@EACH
def test_settled_saved_and_read_back(family: str, name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = tiny(family), batch(120, [5, 9, 3])
    graft = moved(build(model, name, settings))
    graft.attach(model)
    wanted = said(model, inputs)
    graft.detach()
    settle(model, graft)
    torch.testing.assert_close(said(model, inputs), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(said(copy.deepcopy(model), inputs), wanted, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(said(again, inputs), wanted, atol=1e-5, rtol=0)


@FAMILY
@EACH
def test_padding_changes_nothing(family: str, name: str, settings: dict[str, Any]) -> None:
    model = tiny(family)
    moved(build(model, name, settings)).attach(model)
    short, long = (said(model, batch(120, [5, 9, 3], pad_to=width)) for width in (9, 20))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=0)


@FAMILY
@EACH
def test_rows_of_many_tasks_in_one_batch(family: str, name: str, settings: dict[str, Any]) -> None:
    """Each as alone: two tasks of other sizes, and one that has no such graft."""
    if name not in STACKS:
        pytest.skip(f"{name} says that tasks cannot share a batch with it")
    model, inputs = tiny(family), batch(120, [5, 9, 3, 7])
    other = dict(settings)
    for size in kind(name).sizes:
        if size != "first":
            other[size] = (settings | kind(name).defaults | settings)[size] + 2
    grafts = [moved(build(model, name, settings), 1), moved(build(model, name, other), 2)]
    alone = [said(model, inputs)]
    for graft in grafts:
        graft.attach(model)
        alone.append(said(model, inputs))
        graft.detach()
    entries = [None, *((graft.settings, graft.state_dict()) for graft in grafts)]
    many = stacked(model, name, entries)
    many.attach(model)
    for tasks in ([0, 1, 2, 1], [2, 2, 0, 0], [1, 1, 1, 1]):
        many.tasks = torch.tensor(tasks)
        wanted = torch.stack([alone[t][row] for row, t in enumerate(tasks)])
        torch.testing.assert_close(said(model, inputs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n in ("adapter", "fusion") for s in CASES[n]], ids=str)
def test_sublayers_narrower_than_the_model(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Those of MobileBERT are as wide as the inside of its blocks."""
    model, inputs = tiny("mobilebert", intra_bottleneck_size=16), batch(120, [5, 9, 3])
    before = said(model, inputs)
    graft = moved(build(model, name, settings))
    graft.attach(model)
    wanted = said(model, inputs)
    assert (wanted - before).abs().max() > 1e-2
    graft.detach()
    settle(model, graft)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(said(again, inputs), wanted, atol=1e-5, rtol=0)


def test_adapters_of_two_plans_share_a_batch() -> None:
    model, inputs = tiny("bert"), batch(120, [5, 9])
    grafts = [moved(build(model, "adapter", {"kind": k, "width": w}), w) for k, w in (("pfeiffer", 4), ("houlsby", 6))]
    alone = []
    for graft in grafts:
        graft.attach(model)
        alone.append(said(model, inputs))
        graft.detach()
    many = stacked(model, "adapter", [(graft.settings, graft.state_dict()) for graft in grafts])
    many.attach(model)
    many.tasks = torch.tensor([0, 1])
    torch.testing.assert_close(said(model, inputs), torch.stack([alone[0][0], alone[1][1]]), atol=1e-5, rtol=0)


@FAMILY
@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("lora", [{"sites": ("query",), "rank": 2}, {"sites": ("down", "value"), "rank": 4, "factors": True}]),
        ("scale", [{"outputs": ("value",), "inputs": ()}, {"outputs": ("key", "out"), "inputs": ("up",)}]),
    ],
)
def test_tasks_of_other_sites_share_a_batch(name: str, tasks: list[dict[str, Any]], family: str) -> None:
    model, inputs = tiny(family), batch(120, [5, 9])
    grafts = [moved(build(model, name, settings), i) for i, settings in enumerate(tasks)]
    alone = []
    for graft in grafts:
        graft.attach(model)
        alone.append(said(model, inputs))
        graft.detach()
    many = stacked(model, name, [(graft.settings, graft.state_dict()) for graft in grafts])
    many.attach(model)
    many.tasks = torch.tensor([1, 0])
    torch.testing.assert_close(said(model, inputs), torch.stack([alone[1][0], alone[0][1]]), atol=1e-5, rtol=0)


def test_other_activations_do_not_share_one() -> None:
    model = tiny("bert")
    made = [build(model, "adapter", {"activation": name}) for name in ("relu", "gelu")]
    entries = [(graft.settings, graft.state_dict()) for graft in made]
    with pytest.raises(InputError, match=r"settings that differ in more than width, first\."):
        stacked(model, "adapter", entries)


def test_a_model_without_biases() -> None:
    with pytest.raises(NoEffect, match=r"this modernbert has none in query, .*Write add: true to put zero biases in"):
        build(tiny("modernbert"), "bias", {})


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("mobilebert", {"sites": ("query", "norms")}, r"this mobilebert has none in norms, .* Name other sites, or"),
        (
            "mobilebert",
            {"sites": ("norms",), "add": True},
            r"this mobilebert has none in norms, .* Name other sites, or",
        ),
        ("modernbert", {"sites": ("query", "up")}, r"this modernbert has none in up, so .* there\. Write add: true to"),
    ],
)
def test_a_site_without_biases(family: str, settings: dict[str, Any], why: str) -> None:
    """All sites are those that there are; where some are named, each has to be there."""
    model = tiny(family, **({"attention_bias": True} if family == "modernbert" else {}))
    with pytest.raises(NoEffect, match=why):
        build(model, "bias", settings)
    graft: Any = build(model, "bias", {})
    assert graft.shift and not any(f"/{settings['sites'][-1]}" in name for name in graft.shift)


def test_one_linear_that_is_three_sites_has_the_bias_of_each() -> None:
    graft: Any = build(tiny("modernbert", attention_bias=True), "bias", {"sites": ("query", "key")})
    assert list(graft.shift) == ["0/query", "1/query"]


def test_unknown_kinds_and_settings() -> None:
    with pytest.raises(InputError, match=r"graft is 'adaptor'\. Did you mean 'adapter'\?"):
        kind("adaptor")
    with pytest.raises(InputError, match=r"graft adapter got the settings with, wanted kind, width"):
        build(tiny("bert"), "adapter", {"with": 3})
    with pytest.raises(NoEffect, match=r"leaves out the first 2 of 2 blocks"):
        build(tiny("bert"), "adapter", {"first": 2})
