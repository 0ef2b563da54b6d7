"""Networks beside a frozen model: their formulas, what they leave alone, and their graphs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_grafts import moved, said
from tiny import VOCAB, batch, tiny
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.grafting import settle
from smidgen.grafts import build
from smidgen.grafts._beside import FAR, Narrow
from smidgen.graph import difference, export
from smidgen.method import find

KINDS = {"side": {"width": 8, "heads": 2}, "ladder": {"reduction": 4, "heads": 2}}
EACH = pytest.mark.parametrize("kind", KINDS)
FAMILY = pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "mpnet", "modernbert"])


def last_state(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.base_model(**inputs).last_hidden_state


def heard(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What the first block gets, and what each block gives."""
    found: list[Tensor] = []
    blocks = [block.module for block in anatomy(model).blocks]

    def got(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    handles = [blocks[0].register_forward_pre_hook(got, with_kwargs=True)]
    handles += [
        b.register_forward_hook(lambda m, a, o: found.append(o[0] if isinstance(o, tuple) else o)) for b in blocks
    ]
    last_state(model, inputs)
    for handle in handles:
        handle.remove()
    return found


# The formulas.


@torch.no_grad()
def test_a_narrow_block_is_its_formula() -> None:
    """Query by query and head by head; of the second row's tokens the last two are padding."""
    torch.manual_seed(0)
    width, heads, length = 6, 2, FAR + 4
    block = Narrow(width, heads, torch.zeros(()))
    block.distance.normal_()
    x, seen = torch.randn(2, length, width), torch.ones(2, length, dtype=torch.bool)
    seen[1, -2:] = False
    query, key, value = block.project(block.attend_norm(x)).split(width, -1)
    wanted = x.clone()
    for row in range(2):
        for i in range(length):
            mixed = []
            for head in range(heads):
                part = slice(head * width // heads, (head + 1) * width // heads)
                real = [j for j in range(length) if seen[row, j]]
                scores = torch.stack(
                    [
                        query[row, i, part] @ key[row, j, part] / (width / heads) ** 0.5
                        + block.distance[head, max(-FAR, min(FAR, j - i)) + FAR]
                        for j in real
                    ]
                )
                mixed.append(scores.softmax(0) @ value[row, real, part])
            wanted[row, i] += block.out(torch.cat(mixed))
    wanted = wanted + block.down(nn.functional.gelu(block.up(block.feed_norm(wanted))))
    torch.testing.assert_close(block(x, seen[:, None, None]), wanted, atol=1e-5, rtol=1e-5)


@FAMILY
@torch.no_grad()
def test_side_is_its_formula(family: str) -> None:
    model, inputs = tiny(family), batch(VOCAB, [5, 9, 3])
    states, base = heard(model, inputs), last_state(model, inputs)
    graft: Any = moved(build(model, "side", KINDS["side"] | {"alpha": 0.25}))
    graft.mix.fill_(torch.logit(torch.tensor(0.3)))
    values = graft.into(states[0])
    for layer in graft.layers:
        values = layer(values, inputs["attention_mask"][:, None, None] > 0)
    graft.attach(model)
    real = inputs["attention_mask"] > 0
    wanted = 0.3 * base + 0.7 * graft.back(graft.norm(values))
    torch.testing.assert_close(last_state(model, inputs)[real], wanted[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("asked", "start"), [({}, 0.5), ({"alpha": 0.9}, 0.9)])
def test_side_starts_at_alpha(asked: dict[str, float], start: float) -> None:
    graft: Any = build(tiny("bert"), "side", asked)
    assert graft.mix.sigmoid().item() == pytest.approx(start)
    assert asked or graft.mix.item() == 0


@FAMILY
@pytest.mark.parametrize("every", [1, 2])
@torch.no_grad()
def test_ladder_is_its_formula(family: str, every: int) -> None:
    model, inputs = tiny(family, blocks=3), batch(VOCAB, [5, 9, 3])
    states, base = heard(model, inputs), last_state(model, inputs)
    graft: Any = moved(build(model, "ladder", KINDS["ladder"] | {"every": every}))
    read = {1: [0, 1, 2, 3], 2: [0, 1, 3]}[every]
    taken = [down(states[level]) for down, level in zip(graft.down, read, strict=True)]
    values = taken[0]
    for i, layer in enumerate(graft.layers):
        mu = 1 / (1 + torch.exp(-graft.gates[i] / 0.1))
        values = layer(mu * taken[i + 1] + (1 - mu) * values, inputs["attention_mask"][:, None, None] > 0)
    graft.attach(model)
    real = inputs["attention_mask"] > 0
    wanted = base + graft.up(graft.norm(values))
    torch.testing.assert_close(last_state(model, inputs)[real], wanted[real], atol=1e-5, rtol=0)


def test_the_width_of_a_ladder() -> None:
    graft: Any = build(tiny("bert"), "ladder", {"reduction": 5, "heads": 4})
    assert graft.norm.normalized_shape == (4,), "32 / 5, cut to a multiple of 4"


@torch.no_grad()
def test_the_order_of_tokens_is_seen_by_distance() -> None:
    torch.manual_seed(0)
    block, x, turned = Narrow(8, 2, torch.zeros(())), torch.randn(1, 5, 8), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(block(x[:, turned], None), block(x, None)[:, turned])
    block.distance.normal_()
    assert (block(x[:, turned], None) - block(x, None)[:, turned]).abs().max() > 1e-2


# What they leave alone.


def kept_for_backward(kind: str, settings: dict[str, Any]) -> tuple[bool, bool]:
    """Does a frozen block's output have a graph, and does the backward pass need what is inside of one?"""
    model, inputs = tiny("bert").requires_grad_(False), batch(VOCAB, [5, 9, 3])
    graft = moved(build(model, kind, settings))
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    saved: list[int] = []
    for block in anatomy(model).blocks:
        for module in block.module.modules():
            store = outer if module is block.module else inner
            module.register_forward_hook(lambda m, a, o, store=store: store.append(o[0] if isinstance(o, tuple) else o))
    graft.attach(model)
    pack: Any = lambda value: saved.append(value.untyped_storage().data_ptr()) or value  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model.train()(**inputs).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in graft.parameters())
    places = {value.untyped_storage().data_ptr() for value in inner}
    places -= {value.untyped_storage().data_ptr() for value in outer}
    return any(value.requires_grad for value in outer), bool(places & set(saved))


@EACH
def test_no_gradient_crosses_the_model(kind: str) -> None:
    assert kept_for_backward(kind, KINDS[kind]) == (False, False)


def test_an_adapter_is_crossed() -> None:
    """So that the test above can fail."""
    assert kept_for_backward("adapter", {"kind": "parallel", "width": 4}) == (True, True)


@EACH
def test_blocks_are_as_they_were(kind: str) -> None:
    """No hook on them but while the model runs, not even after a forward that failed."""
    model, inputs = tiny("bert"), batch(VOCAB, [5, 9, 3])
    settle(model, moved(build(model, kind, KINDS[kind])))
    wanted = said(model, inputs)
    blocks = [block.module for block in anatomy(model).blocks]
    assert not any(m._forward_hooks or m._forward_pre_hooks for block in blocks for m in block.modules())
    with pytest.raises(RuntimeError):
        said(model, {**inputs, "attention_mask": inputs["attention_mask"][:, :-1]})
    torch.testing.assert_close(said(model, inputs), wanted)
    torch.testing.assert_close(said(copy.deepcopy(model), inputs), wanted)
    assert not any(m._forward_hooks or m._forward_pre_hooks for block in blocks for m in block.modules())


@EACH
def test_a_later_stage_can_train_all_of_it(kind: str) -> None:
    model, inputs = tiny("bert"), batch(VOCAB, [5, 9, 3])
    settle(model, moved(build(model, kind, KINDS[kind])))
    model(**inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in anatomy(model).blocks[0].up.parameters())


def test_what_is_read_of_the_frozen_model() -> None:
    assert find("tune.side")().frozen(6) == (0, 6)
    assert find("tune.ladder")().frozen(3) == (0, 1, 2, 3)
    assert find("tune.ladder")(every=2).frozen(5) == (0, 1, 3, 5)
    assert find("tune.ladder")(every=64).frozen(6) == (0, 6)


def test_heads_divide_the_width() -> None:
    assert list(find("tune.side")(width=10).faults()) == ["width: got 10, wanted a multiple of heads, which is 4."]


# Their graphs.


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_the_graph_holds_for_any_length(family: str, tmp_path: Path) -> None:
    """Of a model with all of them in it, and a fusion of adapters: an export takes long."""
    model = tiny(family, 1, attn_implementation="eager")
    for kind, settings in {**KINDS, "fusion": {"count": 2, "width": 3}}.items():
        settle(model, moved(build(model, kind, settings)))

    def arrays(*lengths: int) -> dict[str, np.ndarray]:
        found = {name: value.numpy() for name, value in batch(VOCAB, lengths).items()}
        return found | {"token_type_ids": np.zeros_like(found["input_ids"])}

    export(model.eval(), arrays(9, 20), tmp_path / "model.onnx", 64)
    for lengths in ((2,), (5,), (64,), (17, 3, 40)):
        assert difference(model, tmp_path / "model.onnx", arrays(*lengths)) < 1e-4
