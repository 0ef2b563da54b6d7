"""Factors by least squares against the same system written out a row a token."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor, nn

from smidgen.anatomy import Block, anatomy
from smidgen.batch import Batch
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.gates import Gates
from smidgen.refit import DAMPING, FREE, LARGEST, Reads, equations, refit, reweigh, solve
from smidgen.surgery import apply
from smidgen.tasks import Classify

torch.set_num_threads(1)
EACH = pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mobilebert"])
LENGTHS = [12, 9, 5, 11, 8, 10, 12, 7]
HEADS = [np.array([True, False, True, True]), np.array([False, True, True, False])]
UNITS = [np.arange(64) % 3 > 0, np.arange(64) % 4 == 1]


def rows(size: int = 4, pad_to: int | None = None) -> Iterator[Batch]:
    inputs = batch(VOCAB, LENGTHS, pad_to)
    for start in range(0, len(LENGTHS), size):
        here = slice(start, start + size)
        kept = {name: value[here, : pad_to or max(LENGTHS[here])] for name, value in inputs.items()}
        yield Batch(Classify(("a", "b", "c")), kept, torch.zeros(len(LENGTHS[here]), dtype=torch.long))


ROWS = list(rows())


def sums(model: nn.Module, gates: Gates, factors: tuple[list[np.ndarray], list[np.ndarray]] | None) -> list[Tensor]:
    """What the stream holds after each sublayer, before a norm: (tokens, hidden), attention and feed-forward in turn.

    Read from the norms of families that have one after each sublayer.
    """
    parts, seen = anatomy(model), []  # type: ignore[arg-type]
    both = [[None] * len(parts.blocks)] * 2 if factors is None else [list(map(torch.from_numpy, f)) for f in factors]
    gates.heads[:], gates.units[:] = both  # type: ignore[assignment]
    handles = [norm.register_forward_pre_hook(lambda m, args: seen.append(args[0])) for norm in norms(parts.blocks)]
    found = []
    for each in rows():
        seen.clear()
        model(**each.inputs)
        real = each.inputs["attention_mask"].bool()
        found.append([one[real] for one in seen])
    for handle in handles:
        handle.remove()
    return [torch.cat(one) for one in zip(*found, strict=True)]


def norms(blocks: tuple[Block, ...]) -> list[nn.Module]:
    return [m for block in blocks for name, m in block.module.named_modules() if isinstance(m, nn.LayerNorm)]


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_each_sublayer_is_fitted_to_what_the_uncut_one_adds_up_to(family: str) -> None:
    """The last one, against numpy's least squares on the sums before its norm, an equation a token and hidden unit."""
    model = tiny(family).double()
    fitted = refit(model, ROWS, HEADS, UNITS)[:2]
    assert [f.astype(bool).tolist() for f in fitted[0]] == [f.tolist() for f in HEADS]
    with Gates(model) as gates:
        whole = sums(model, gates, None)[3]
        kept = np.flatnonzero(UNITS[1])

        def last(values: np.ndarray) -> Tensor:
            other = fitted[1][1].copy()
            other[kept] = values
            return sums(model, gates, (fitted[0], [fitted[1][0], other]))[3]

        base = last(np.zeros(len(kept)))
        columns = [(last(np.eye(len(kept))[i]) - base).ravel().numpy() for i in range(len(kept))]
        rest = (whole - base).ravel().numpy()
    matrix = np.stack(columns, 1)
    damp = np.sqrt(DAMPING * (matrix**2).sum(0).mean())
    damped = np.concatenate([matrix, damp * np.eye(len(kept))]), np.concatenate([rest, damp * np.ones(len(kept))])
    wanted, *_ = np.linalg.lstsq(*damped, rcond=None)
    np.testing.assert_allclose(fitted[1][1][kept], wanted, rtol=1e-6, atol=1e-8)
    off = [np.square(matrix @ factors - rest).sum() for factors in (wanted, np.ones(len(kept)))]
    assert off[0] < 0.95 * off[1]


@EACH
@torch.no_grad()
def test_the_equations_say_how_far_the_sublayer_is_off(family: str) -> None:
    """The difference of the quadratic form between two choices of factors is that of the outputs, for each kind."""
    model = tiny(family).double()
    factors = [each.astype(float) for each in HEADS], [each.astype(float) for each in UNITS]
    for kind, kept in (("heads", np.flatnonzero(HEADS[0])), ("units", np.flatnonzero(UNITS[0]))):
        with Gates(model) as gates:
            block = gates.blocks[0]
            products, against = equations(Reads(model, ROWS), Reads(model, ROWS), block, kind, kept, gates, factors)
            cuts = []
            for scale in (1.0, 0.4):
                own = getattr(gates, kind)
                gates.heads[:], gates.units[:] = ([torch.from_numpy(e) for e in both] for both in factors)
                own[0] = own[0] * scale
                cuts.append(stream(model, block, kind))
                gates.heads[:], gates.units[:] = [None, None], [None, None]
            whole = stream(model, block, kind)
        off = [(cut - whole).square().sum() for cut in cuts]
        form = [s * s * products.sum() - 2 * s * against.sum() for s in (1.0, 0.4)]
        torch.testing.assert_close(form[0] - form[1], off[0] - off[1], rtol=1e-6, atol=1e-6)


def stream(model: nn.Module, block: Block, kind: str) -> Tensor:
    """The stream after one sublayer of a block, before a norm: (tokens, hidden)."""
    seen: dict[str, Tensor] = {}

    found = []
    for each in rows():
        last = block.out if kind == "heads" else block.down
        handles = [
            last.register_forward_hook(lambda m, args, out: seen.__setitem__("said", out)),
            block.out.register_forward_hook(lambda m, args, out: seen.__setitem__("attended", out)),
            block.up.register_forward_pre_hook(lambda m, args: seen.__setitem__("up", args[0])),
            block.module.register_forward_pre_hook(lambda m, args: seen.__setitem__("input", args[0])),
        ]
        model(**each.inputs)
        for handle in handles:
            handle.remove()
        beside = seen["input"]
        if kind == "units":
            beside = beside + seen["attended"] if block.feed_norm is not None else seen["up"]
        found.append((beside + seen["said"])[each.inputs["attention_mask"].bool()])
    return torch.cat(found)


@EACH
def test_neither_batches_nor_padding_change_the_factors(family: str) -> None:
    model = tiny(family).double()
    whole = refit(model, ROWS, HEADS, UNITS)
    for other in (rows(1), rows(3), rows(4, pad_to=30)):
        heads, units, _ = refit(model, list(other), HEADS, UNITS)
        for one, same in zip([*whole[0], *whole[1]], [*heads, *units], strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-6, atol=1e-8)
    assert whole[2] == 4


def test_an_uncut_model_keeps_factors_of_one() -> None:
    model = tiny("bert").double()
    heads, units, fitted = refit(model, ROWS, [np.ones(4, bool)] * 2, [np.ones(64, bool)] * 2)
    for each in (*heads, *units):
        np.testing.assert_allclose(each, 1, atol=1e-8)
    assert fitted == 4


def test_sublayers_without_parts_are_passed_over() -> None:
    model = tiny("bert").double()
    heads, units, fitted = refit(model, ROWS, [np.zeros(4, bool), HEADS[1]], [UNITS[0], np.zeros(64, bool)])
    assert fitted == 2 and not heads[0].any() and not units[1].any()


def test_a_factor_that_is_too_large_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny("bert").double(), []

    def wild(products: Tensor, against: Tensor) -> np.ndarray:
        calls.append(solve(products, against))
        return calls[-1] + (LARGEST if len(calls) == 2 else 0)

    monkeypatch.setattr("smidgen.refit.solve", wild)
    heads, units, fitted = refit(model, ROWS, HEADS, UNITS)
    assert (fitted, len(calls)) == (1, 2)
    assert heads[0][HEADS[0]].tolist() == calls[0].tolist()
    assert units[0].tolist() == UNITS[0].tolist() and heads[1].tolist() == HEADS[1].tolist()


def test_fitting_leaves_no_hook() -> None:
    model = tiny("bert").double()
    refit(model, ROWS, HEADS, UNITS)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_each_forward_starts_where_the_last_one_did() -> None:
    """The lower feed-forward runs for its own look and for the first look above it, and no more for the last."""
    model = tiny("bert").double()
    blocks, ran = anatomy(model).blocks, [0, 0]
    for i, block in enumerate(blocks):
        block.up.register_forward_pre_hook(lambda *_, i=i: ran.__setitem__(i, ran[i] + 1))
    reads = Reads(model, ROWS)
    for block in blocks:
        for kind in ("heads", "units"):
            for i in range(len(ROWS)):
                reads.of(i, block, kind)
    assert ran == [2 * len(ROWS), len(ROWS)]


# All weights in the place of factors.


def cut(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    for block, (heads, units) in enumerate(zip(HEADS, UNITS, strict=True)):
        apply(other, KeepHeads(block, tuple(np.flatnonzero(heads).tolist())))  # type: ignore[arg-type]
        apply(other, KeepWidth(block, tuple(np.flatnonzero(units).tolist())))  # type: ignore[arg-type]
    return other


@EACH
@torch.no_grad()
def test_weights_are_those_of_least_squares(family: str) -> None:
    """Of the last sublayer, which reads what the others have become: numpy's, an equation a token."""
    model = tiny(family).double()
    fewer = cut(model)
    linear = anatomy(fewer).blocks[1].down  # type: ignore[arg-type]
    bias = linear.bias is not None
    before = torch.cat([linear.weight.T, linear.bias[None]] if bias else [linear.weight.T]).numpy().copy()
    assert reweigh(fewer, model, ROWS) == 4  # type: ignore[arg-type]
    found = torch.cat([linear.weight.T, linear.bias[None]] if bias else [linear.weight.T]).numpy()

    def seen() -> tuple[np.ndarray, np.ndarray]:
        """What the Linear reads, and the stream after it."""
        reads: list[Tensor] = []
        masks = [each.inputs["attention_mask"].bool() for each in rows()]
        handle = linear.register_forward_pre_hook(lambda m, args: reads.append(args[0]))
        after = stream(fewer, anatomy(fewer).blocks[1], "units")  # type: ignore[arg-type]
        handle.remove()
        read = torch.cat([one[mask] for one, mask in zip(reads, masks, strict=True)]).numpy()
        return (np.column_stack([read, np.ones(len(read))]) if bias else read), after.numpy()

    read, after = seen()
    beside = after - read @ found
    whole = stream(model, anatomy(model).blocks[1], "units").numpy()  # type: ignore[arg-type]
    damp = np.sqrt(FREE * np.square(read).sum(0).mean())
    rest = whole - beside - read @ before
    wanted, *_ = np.linalg.lstsq(
        np.concatenate([read, damp * np.eye(read.shape[1])]), np.concatenate([rest, np.zeros_like(before)]), rcond=None
    )
    np.testing.assert_allclose(found, before + wanted, rtol=1e-6, atol=1e-8)
    assert np.square(whole - after).sum() < 0.9 * np.square(rest).sum()


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_weights_come_nearer_than_factors(family: str) -> None:
    model = tiny(family).double()
    fewer = cut(model)
    reweigh(fewer, model, ROWS)  # type: ignore[arg-type]
    heads, units, _ = refit(model, ROWS, HEADS, UNITS)  # type: ignore[arg-type]
    whole = stream(model, anatomy(model).blocks[1], "units")  # type: ignore[arg-type]
    free = (stream(fewer, anatomy(fewer).blocks[1], "units") - whole).square().sum()  # type: ignore[arg-type]
    with Gates(model) as gates:  # type: ignore[arg-type]
        gates.heads[:], gates.units[:] = ([torch.from_numpy(e) for e in both] for both in (heads, units))
        scaled = (stream(model, gates.blocks[1], "units") - whole).square().sum()
    assert free < 0.9 * scaled


@torch.no_grad()
def test_neither_batches_nor_padding_change_the_weights_and_the_uncut_model_stays() -> None:
    model = tiny("bert").double()
    before = copy.deepcopy(model.state_dict())
    found = []
    for some in (rows(), rows(1), rows(4, pad_to=30)):
        fewer = cut(model)
        reweigh(fewer, model, list(some))  # type: ignore[arg-type]
        found.append(fewer.state_dict())
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_weights_of_what_was_not_cut_stay_and_empty_sublayers_are_passed_over() -> None:
    model = tiny("bert").double()
    same = copy.deepcopy(model)
    assert reweigh(same, model, ROWS) == 4  # type: ignore[arg-type]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=1e-6, atol=1e-8)
    apply(same, KeepHeads(0, ()))  # type: ignore[arg-type]
    assert reweigh(same, model, ROWS) == 3  # type: ignore[arg-type]
