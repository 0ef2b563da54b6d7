"""smidgen: Transformer encoders made small and fast to a budget, with every claim measured.

The face of the package. Names are loaded when they are asked for, so `import smidgen` needs neither torch nor time.
After it the Auto classes of transformers know smidgen's own students.
"""

from __future__ import annotations

import importlib
from typing import Any

from smidgen.registration import register

_HOMES = {
    "Method": "smidgen.method",
    "Recipe": "smidgen.recipe",
    "SmidgenError": "smidgen.errors",
    "cascade": "smidgen.api",
    "compress": "smidgen.api",
    "load": "smidgen.runtime",
    "merge": "smidgen.api",
    "plan": "smidgen.api",
    "run": "smidgen.api",
    "tune": "smidgen.api",
    "verify": "smidgen.api",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"
register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
