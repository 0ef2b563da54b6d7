"""What KeepHeads and KeepWidth cut is gone, and the rest says what it said with a mask."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_surgery import logits
from tiny import VOCAB, batch, tiny
from torch import Tensor
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.edits.attach import Attach
from smidgen.edits.factor import Factor
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError
from smidgen.surgery import apply, fold, rounded
from smidgen.tape import listen

torch.set_num_threads(1)
CUT = ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"]
EACH = pytest.mark.parametrize("family", CUT)
WAYS = [(family, way) for family in CUT for way in ("sdpa", "eager") if (family, way) != ("mpnet", "sdpa")]


def gated(model: PreTrainedModel, block: int, heads: Sequence[float] = (), units: Sequence[float] = ()) -> Tensor:
    """Logits with factors on the inputs of `out` and `down`, by hooks."""
    here = anatomy(model).blocks[block]
    hooks = []
    for linear, factors in ((here.out, heads), (here.down, units)):
        if factors:
            each = torch.tensor(factors).repeat_interleave(linear.in_features // len(factors))
            hooks.append(linear.register_forward_pre_hook(lambda module, args, each=each: (args[0] * each,)))
    said = logits(model)
    for hook in hooks:
        hook.remove()
    return said


def ones(kept: Sequence[int], count: int) -> list[float]:
    return [float(i in kept) for i in range(count)]


def kept(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, count - 1)).map(lambda chosen: tuple(sorted(chosen)))


@pytest.mark.parametrize(("family", "way"), WAYS)
@settings(max_examples=6, deadline=None)
@given(heads=kept(4), units=kept(64), block=st.integers(0, 1))
def test_cut_is_masked(family: str, way: str, heads: tuple[int, ...], units: tuple[int, ...], block: int) -> None:
    model = tiny(family, attn_implementation=way)
    if not heads and not units:
        units = (5,)
    wanted = gated(model, block, ones(heads, 4), ones(units, 64))
    apply(model, KeepHeads(block, heads))
    apply(model, KeepWidth(block, units))
    here = anatomy(model).blocks[block]
    assert (here.heads, here.width) == (len(heads), len(units))
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)


@EACH
def test_what_is_cut_is_gone(family: str) -> None:
    model = tiny(family)
    block = anatomy(model).blocks[0]
    held = model.num_parameters()
    biased = block.query.bias is not None
    apply(model, KeepHeads(0, (1, 3)))
    assert held - model.num_parameters() == 2 * 8 * (4 * 32 + 3 * biased)
    held = model.num_parameters()
    apply(model, KeepWidth(0, tuple(range(0, 64, 2))))
    assert held - model.num_parameters() == 32 * (2 + block.gated) * 32 + 32 * biased


@EACH
@pytest.mark.parametrize("edit", [KeepHeads(1, ()), KeepWidth(1, ())])
def test_an_empty_sublayer_costs_nothing(family: str, edit: Any) -> None:
    model = apply(tiny(family), edit)
    block = anatomy(model).blocks[1]
    before, after = (block.query, block.out) if isinstance(edit, KeepHeads) else (block.up, block.down)
    assert not list(before.parameters())
    assert [name for name, _ in after.named_parameters()] == ([] if family == "modernbert" else ["bias"])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as whole:
        logits(tiny(family))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as hollow:
        logits(model)
    products = [sum(e.count for e in p.key_averages() if e.key == "aten::linear") for p in (whole, hollow)]
    fused = family == "modernbert"
    assert products[0] - products[1] == (2 if isinstance(edit, KeepWidth) or fused else 4)
    assert all(p.grad is not None for p in _trained(model).parameters() if p.requires_grad)


def _trained(model: PreTrainedModel) -> PreTrainedModel:
    model(input_ids=torch.tensor([[0, 5, 6, 2]]), labels=torch.tensor([1])).loss.backward()
    for parameter in anatomy(model).embeddings.parameters():
        parameter.requires_grad_(False)  # some tables are not looked up
    return model


@EACH
def test_cuts_compose(family: str) -> None:
    """Each edit speaks of what the one before it left."""
    model, whole = tiny(family, blocks=3), tiny(family, blocks=3)
    for edit in (KeepHeads(2, (0, 2, 3)), KeepBlocks((0, 2)), KeepHeads(1, (1, 2)), KeepHeads(1, (1,))):
        apply(model, edit)
    apply(whole, KeepBlocks((0, 2)))
    torch.testing.assert_close(logits(model), gated(whole, 1, ones((3,), 4)), rtol=0, atol=1e-5)


@EACH
def test_factors_fold_into_the_weights(family: str) -> None:
    model = tiny(family)
    heads, units = [0.5, 0.0, -1.25, 2.0], torch.linspace(-1, 1, 64).tolist()
    units[7] = 0.0
    wanted = gated(model, 1, heads, units)
    fold(model, 1, heads, units)
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)
    apply(model, KeepHeads(1, (0, 2, 3)))
    apply(model, KeepWidth(1, tuple(i for i in range(64) if i != 7)))
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="fold got 2 factors, but block 1 has 3 heads: give one for each"):
        fold(model, 1, [1.0, 2.0])


@EACH
def test_taps_of_what_is_left(family: str) -> None:
    """Scores are those of the kept heads, with the family's position terms."""
    model = tiny(family)
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 7, 2]])}
    with listen(model, ["block.0.scores"]) as recording:
        wanted = recording.read(model(**inputs))["block.0.scores"][:, [1, 3]]
    apply(model, KeepHeads(0, (1, 3)))
    with listen(model, ["block.0.scores"]) as recording:
        found = recording.read(model(**inputs))["block.0.scores"]
    torch.testing.assert_close(found, wanted)
    apply(model, KeepHeads(0, ()))
    with (
        pytest.raises(ModelError, match=r"'block.0.scores' asks for the attention of block 0, which has no heads left"),
        listen(model, ["block.0.scores"]),
    ):
        pass


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (KeepHeads(2, (0,)), "KeepHeads got block 2, but this model has 2 blocks: use indices from 0 to 1"),
        (KeepHeads(1, (0, 4)), "KeepHeads got head 4, but block 1 has 4 heads: use indices from 0 to 3"),
        (KeepWidth(0, (64,)), "KeepWidth got unit 64, but block 0 has 64 units: use indices from 0 to 63"),
    ],
)
def test_out_of_range(edit: Any, said: str) -> None:
    model = tiny("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=said):
        apply(model, edit)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("edits", [(KeepHeads(0, ()), KeepWidth(0, ())), (KeepWidth(0, ()), KeepHeads(0, ()))])
def test_a_block_is_not_left_with_nothing(edits: tuple[Any, Any]) -> None:
    first, second = edits
    model = apply(tiny("bert"), first)
    with pytest.raises(InputError, match=r"leaves block 0 with nothing: drop the block with KeepBlocks\."):
        apply(model, second)


def test_what_is_gone_cannot_be_kept() -> None:
    model = apply(tiny("bert"), KeepHeads(0, ()))
    with pytest.raises(InputError, match="KeepHeads got head 0, but block 0 has 0 heads: it has none to keep"):
        apply(model, KeepHeads(0, (0,)))
    assert apply(model, KeepHeads(0, ())) is model


def test_a_swapped_projection_is_not_cut() -> None:
    model = tiny("bert")
    swapped: Any = torch.nn.Sequential()
    swapped.in_features = 64
    model.base_model.encoder.layer[0].output.dense = swapped
    with pytest.raises(ModelError, match="KeepWidth: block 0 has Sequential in place of a Linear"):
        apply(model, KeepWidth(0, (1,)))


def test_fields_are_judged_without_a_model() -> None:
    with pytest.raises(InputError, match=r"KeepHeads got heads=\(1, 0\), wanted a tuple .* or \(\) for none"):
        KeepHeads(0, (1, 0))
    with pytest.raises(InputError, match=r"KeepWidth got block=-1, wanted a block's number, counted from 0"):
        KeepWidth(-1, (0,))


def test_a_family_that_cannot_be_cut() -> None:
    with pytest.raises(
        ModelError, match=r"KeepHeads cannot cut inside a block of mobilebert, where several .* KeepBlocks"
    ):
        apply(tiny("mobilebert"), KeepHeads(0, (0,)))


@pytest.mark.parametrize(
    ("keep", "multiple", "whole", "wanted"),
    [
        *((100, 32, 1536, 96), (112, 32, 1536, 128), (3, 32, 1536, 32), (0, 32, 1536, 0), (1530, 32, 1536, 1536)),
        *((95, 64, 100, 64), (97, 64, 100, 100), (100, 64, 100, 100), (70.4, 1, 100, 70)),
    ],
)
def test_rounded(keep: float, multiple: int, whole: int, wanted: int) -> None:
    assert rounded(keep, multiple, whole) == wanted


@pytest.mark.parametrize(
    ("graft", "edit", "part"),
    [
        ("prefix", KeepHeads(0, (0, 1)), "heads"),
        ("prefix", Swap((0,), "multi_query"), "attention"),
        ("prefix", Factor(0, "key", 4), "matrices"),
        ("ladder", KeepBlocks((0,)), "blocks"),
        ("lora", KeepHeads(0, (0, 1)), "heads"),
        ("scale", KeepWidth(0, (0, 1)), "widths"),
    ],
)
def test_what_a_graft_stands_on_is_not_taken_from_under_it(graft: str, edit: Any, part: str) -> None:
    """Before anything changes; a prefix above swapped attention would act no more, and nothing would say so."""
    model = apply(tiny("bert"), Attach(graft, ()))
    before = copy.deepcopy(model.state_dict())
    said = f"{type(edit).__name__}: a {graft} was put beside the {part} of this model. Cut first, attach after."
    with pytest.raises(ModelError, match=re.escape(said)):
        apply(model, edit)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    apply(apply(tiny("bert"), Attach("adapter", ())), KeepHeads(0, (0, 1)))(**batch(VOCAB, [5, 7]))
