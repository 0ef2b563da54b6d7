"""The Edits: structural changes of a model, recorded as data and replayed to load. A file each.

An Edit speaks in the coordinates of the model at that moment: after KeepBlocks((0, 2, 4)) the next Edit sees blocks
0, 1 and 2. Adding an Edit is adding a file beside this one, with one frozen dataclass in it:

    fields            plain values (numbers, words, tuples of these); its name and fields are what is recorded, so they
                      stay as they are once models have been saved. What can be judged without a model is judged in
                      `__post_init__`.
    plain             ClassVar[bool]: does a plain Hugging Face config say what the model is afterwards? Where it does
                      not, `smidgen.surgery.apply` records the Edit in the config, and the model is reloaded by it.
    above             ClassVar[bool], where it is true: is all that it changes above the blocks?
    apply_to(model)   change the modules in place, and the config where it has a word for the change. All is checked
                      before anything is changed: InputError for a wrong value, ModelError for a model that it does not
                      suit. The shapes follow from the fields and the model's shapes alone, never from its weights: to
                      load a model its edits are replayed on the device `meta`, and its weights are read afterwards.

Nothing here imports torch before an Edit is applied, so that plans and searches can speak of Edits.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Edit", "kinds"]


class Edit(Protocol):
    """See the module's text."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    plain: ClassVar[bool]

    def apply_to(self, model: PreTrainedModel) -> None: ...


@functools.cache
def kinds() -> Mapping[str, type[Edit]]:
    """All kinds of Edits by name, such as `KeepBlocks`."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "apply_to")
    }
