"""Folders of other libraries to deltas and back: PEFT's LoRA and (IA)^3, AdapterHub's bottlenecks.

What is read is either the same function here or refused, with the reason. Nothing heavy is imported before one runs.
"""

from __future__ import annotations

from smidgen.exchange.adapterhub import from_adapterhub, to_adapterhub
from smidgen.exchange.peft import from_peft, to_peft

__all__ = ["from_adapterhub", "from_peft", "to_adapterhub", "to_peft"]
