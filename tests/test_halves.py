"""Mixed precision: products in 16 bits; softmax, normalisation and losses in float32, whatever the family."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import ALL, SETTINGS, make_model, make_rows, taught, trained
from tiny import FAMILIES, VOCAB, batch, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from smidgen.halves import autocast
from smidgen.recipe import Training

CPU = torch.device("cpu")
WIDE = ("softmax", "layer_norm", "loss", "kl_div", "logsumexp")
NARROW = ("addmm", "bmm", "mm")


class Told(TorchDispatchMode):
    """By operator, the kinds of numbers that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [a for a in args if isinstance(a, torch.Tensor)]
        self.kinds[func.overloadpacket.__name__] |= {a.dtype for a in given if a.is_floating_point()}
        return func(*args, **(kwargs or {}))

    def of(self, words: tuple[str, ...]) -> set[torch.dtype]:
        return {kind for name, kinds in self.kinds.items() if any(word in name for word in words) for kind in kinds}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_softmax_and_norms_are_in_float32(family: str, dtype: torch.dtype) -> None:
    model = tiny(family, attn_implementation="eager").train()
    for lengths in ((9, 9), (5, 9)):  # with and without a mask
        with autocast(CPU, dtype), Told() as told:
            model(**batch(VOCAB, lengths))
        assert told.of(WIDE) == {torch.float32}
        assert dtype in told.of(NARROW)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_losses_are_in_float32_and_so_are_weights(precision: str, tmp_path: Path) -> None:
    rows = taught(make_rows(16))
    training = Training(**{**vars(SETTINGS), "precision": precision})
    with Told() as told:
        weights, history = trained(ALL, rows, rows, tmp_path, training, make_model())
    assert told.of(WIDE) == {torch.float32}
    assert told.of(NARROW) >= {getattr(torch, precision)}
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    exact, other = trained(ALL, rows, rows, tmp_path / "exact", SETTINGS, make_model())
    assert history.entries[-1]["loss"] == pytest.approx(other.entries[-1]["loss"], rel=0.02)
    assert any(not torch.equal(weights[name], exact[name]) for name in weights)


def test_float32_is_left_alone() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, (5, 9))
    plain = model(**inputs).logits
    with autocast(CPU, torch.float32):
        assert torch.equal(model(**inputs).logits, plain)
