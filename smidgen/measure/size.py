"""How large: weights, counted from the headers of their files."""

from __future__ import annotations

import math
from pathlib import Path

from smidgen.errors import ModelError
from smidgen.measure.number import Number


def parameters(source: Path | str) -> Number:
    """The weights in a safetensors file, or in all those of a folder, counted from their headers.

    Tied weights are stored, and counted, once. An ONNX graph also holds constants that were never trained, so it is
    not counted.

    Raises:
        ModelError: no safetensors file, or one that is cut short.
    """
    from smidgen.source import tensor_shapes

    path = Path(source)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() and file.suffix == ".safetensors" for file in files):
        raise ModelError(
            f"{path}: no safetensors file to count weights in. Give a folder saved with save_pretrained()."
        )
    count = sum(math.prod(shape) for file in files for shape in tensor_shapes(file).values())
    return Number("parameters", count, "", len(files))
