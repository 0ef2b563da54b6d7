"""16 bits where they are faster: products in them, softmax, normalisation and losses in float32.

Parameters, gradients and the optimiser stay in float32. bfloat16 has the range of float32. float16 ends at 65,504, so
that the loss is scaled up before its gradients are worked out, and a step whose gradients overflow is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from smidgen.runtime.machine import BF16, FP16, instructions, lacking

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # as Accelerate names them
NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
WIDE = frozenset({F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, torch.Tensor.softmax})
WIDE |= {torch.Tensor.log_softmax, F.layer_norm, F.rms_norm, F.group_norm}


def resolved(precision: str) -> str:
    """`auto` becomes bfloat16 where the processor multiplies in it and torch makes use of that, else float32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & instructions() else "float32"


def refused(precision: str) -> str:
    """Why this machine would only emulate a precision, in words; "" where it does not."""
    if precision == "bfloat16" and torch.cuda.is_available():
        return "" if torch.cuda.is_bf16_supported(including_emulation=False) else "this GPU has no bfloat16"
    if precision not in ("bfloat16", "float16") or torch.cuda.is_available():
        return ""
    return lacking(BF16 if precision == "bfloat16" else FP16)


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """While inside, products are in `dtype`, softmax and normalisation in float32; float32 changes nothing."""
    if dtype == torch.float32:
        yield
        return
    with torch.autocast(device.type, dtype), _Wide():
        yield


class _Wide(TorchFunctionMode):
    """On a CPU torch's own autocast leaves softmax and normalisation in the precision that they are given."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WIDE and args and args[0].dtype.itemsize == 2:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
