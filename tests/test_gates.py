"""Gates multiply what they say, give each example's own gradient, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError
from smidgen.gates import KINDS, Gates

torch.set_num_threads(1)
EACH = pytest.mark.parametrize("family", FAMILIES)
BOTH = pytest.mark.parametrize("attention", ["sdpa", "eager"])
LENGTHS = [5, 12, 9]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def losses(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """(B,) float64 sums that every logit has a part in."""
    return model(**inputs).logits.double().square().sum(-1)


@torch.no_grad()
def without(model: nn.Module, inputs: dict[str, Tensor], linear: nn.Linear, columns: slice) -> Tensor:
    """The logits where some columns of a Linear's weight are 0."""
    kept = linear.weight.data.clone()
    linear.weight.data[:, columns] = 0
    logits = model(**inputs).logits
    linear.weight.data.copy_(kept)
    return logits


@BOTH
@EACH
@torch.no_grad()
def test_a_gate_of_zero_takes_the_part_away(family: str, attention: str) -> None:
    model, inputs = tiny(family, attn_implementation=attention), batch(VOCAB, LENGTHS)
    plain, block = model(**inputs).logits, anatomy(model).blocks[1]
    size, everything = block.head_size, slice(None)
    parts = {
        "heads": (torch.tensor([1.0, 1.0, 0.0, 1.0]), block.out, slice(2 * size, 3 * size)),
        "units": ((torch.arange(block.width) > 7).float(), block.down, slice(8)),
        "attention": (torch.tensor(0.0), block.out, everything),
        "feed_forward": (torch.tensor(0.0), block.down, everything),
    }
    for kind, (gate, linear, columns) in parts.items():
        with Gates(model) as gates:
            torch.testing.assert_close(model(**inputs).logits, plain, rtol=0, atol=0)
            getattr(gates, kind)[1] = gate
            gated = model(**inputs).logits
        torch.testing.assert_close(gated, without(model, inputs, linear, columns), rtol=1e-5, atol=1e-5)
        assert (gated - plain).abs().max() > 1e-3
        getattr(gates, kind)[1] = None
    torch.testing.assert_close(model(**inputs).logits, plain, rtol=0, atol=0)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mobilebert"])
@torch.no_grad()
def test_a_gate_of_zero_is_what_the_edits_make_real(family: str) -> None:
    """And a block that has nothing left to gate is left alone."""
    model, inputs = tiny(family), batch(VOCAB, LENGTHS)
    with Gates(model) as gates:
        gates.heads[0], gates.units[0] = torch.tensor([0.0, 1, 1, 0]), (torch.arange(64) > 9).float()
        gates.attention[1] = torch.tensor(0.0)
        gated = model(**inputs).logits
    for edit in (KeepHeads(0, (1, 2)), KeepWidth(0, tuple(range(10, 64))), KeepHeads(1, ())):
        edit.apply_to(model)
    with Gates(model) as gates, torch.enable_grad():
        filled = [*gates.fill("heads", len(LENGTHS)), *gates.fill("attention")]
        slopes = torch.autograd.grad(losses(model, inputs).sum(), filled, materialize_grads=True)
    assert [tuple(slope.shape) for slope in slopes] == [(3, 2), (3, 0), (), ()]
    assert slopes[2] != 0 and slopes[3] == 0
    torch.testing.assert_close(model(**inputs).logits, gated, rtol=1e-5, atol=1e-5)


@EACH
def test_one_backward_pass_gives_each_example_its_own_gradient(family: str) -> None:
    """Against finite differences of one example at a time."""
    model, inputs, step = tiny(family).double(), batch(VOCAB, LENGTHS), 1e-5
    with Gates(model) as gates:
        for kind in KINDS:
            filled = gates.fill(kind, len(LENGTHS))
            found = torch.autograd.grad(losses(model, inputs).sum(), filled)[1]
            getattr(gates, kind)[:] = [None, None]
            assert found.shape == filled[1].shape
            for row in range(len(LENGTHS)):
                alone = {name: value[row : row + 1, : LENGTHS[row]] for name, value in inputs.items()}
                gate = torch.ones_like(filled[1][row]).detach().double()
                column = (2,) if gate.dim() else ()
                ends = []
                for sign in (1, -1):
                    moved = gate.clone()
                    moved[column] += sign * step
                    getattr(gates, kind)[1] = moved
                    with torch.no_grad():
                        ends.append(losses(model, alone).sum())
                getattr(gates, kind)[1] = None
                slope = (ends[0] - ends[1]) / (2 * step)
                torch.testing.assert_close(found[row][column].double(), slope, rtol=1e-3, atol=1e-4)


@EACH
def test_padding_changes_no_gradient(family: str) -> None:
    model, found = tiny(family), []
    for width in (12, 30):
        inputs = batch(VOCAB, LENGTHS, pad_to=width)
        with Gates(model) as gates:
            wanted = [*gates.fill("heads", len(LENGTHS)), *gates.fill("units", len(LENGTHS))]
            found.append(torch.autograd.grad(losses(model, inputs).sum(), wanted))
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long, rtol=1e-3, atol=1e-4)


def test_one_gate_for_all_examples_has_the_sum_of_their_gradients() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    with Gates(model) as gates:
        rows = gates.fill("heads", len(LENGTHS))
        each = torch.autograd.grad(losses(model, inputs).sum(), rows)
        one = gates.fill("heads")
        whole = torch.autograd.grad(losses(model, inputs).sum(), one)
    for some, total in zip(each, whole, strict=True):
        assert total.shape == (4,)
        torch.testing.assert_close(some.sum(0), total, rtol=1e-4, atol=1e-4)


def test_gates_train_and_are_replaced_in_each_step() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    logits = torch.zeros(4, requires_grad=True)
    with Gates(model) as gates:
        for _ in range(2):
            gates.heads[0] = logits.sigmoid()
            losses(model, inputs).sum().backward()
    assert logits.grad is not None and (logits.grad != 0).all()


def test_gates_follow_the_precision_of_the_model() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    with Gates(model) as gates, torch.autocast("cpu", torch.bfloat16):
        filled = gates.fill("units")
        (found, _) = torch.autograd.grad(losses(model, inputs).sum(), filled)
    assert found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize("how", ["with", "error", "attach"])
def test_no_hook_is_left(how: str) -> None:
    model = tiny("bert")
    before = hooks(model)
    if how == "attach":
        gates = Gates(model).attach()
        assert hooks(model) == before + 4
        gates.remove()
    elif how == "with":
        with Gates(model):
            assert hooks(model) == before + 4
    else:
        with pytest.raises(ZeroDivisionError), Gates(model):
            _ = 1 / 0
    assert hooks(model) == before


def test_a_gate_of_another_shape_is_refused() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    with Gates(model) as gates:
        gates.heads[1] = torch.ones(5)
        with pytest.raises(InputError, match=r"gates\.heads\[1\] has the shape \(5,\), wanted \(4,\), or \(3, 4\) for"):
            model(**inputs)
        gates.heads[1], gates.attention[0] = None, torch.ones(2)
        with pytest.raises(InputError, match=r"gates\.attention\[0\] has the shape \(2,\), wanted \(\), or \(3,\) for"):
            model(**inputs)


def test_a_family_without_anatomy_is_refused() -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=VOCAB, pad_token_id=1)
    with pytest.raises(ModelError, match="model_type is 'gpt2', which smidgen cannot take apart"):
        Gates(GPT2ForSequenceClassification(config))
