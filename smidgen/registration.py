"""`AutoConfig` and `AutoModelFor...` of transformers know our students and uneven models after `import smidgen`.

Neither torch nor transformers is loaded for it: where transformers is not there yet, the moment is awaited in which
it loads its tables of configs, of models and of tokenizers, and ours are entered into them then. Configs come by
themselves: transformers loads that table while its base class of models is not there yet.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def enter_configs(auto: ModuleType) -> None:
    """`auto` is transformers.models.auto.configuration_auto."""
    for config in importlib.import_module("smidgen.students._configs").CONFIGS:
        auto.CONFIG_MAPPING.register(config.model_type, config, exist_ok=True)
    importlib.import_module("smidgen.uneven").enter_configs(auto)


def enter_models(auto: ModuleType) -> None:
    """`auto` is transformers.models.auto.modeling_auto; each student's file has `model_classes` by Auto class."""
    package = importlib.import_module("smidgen.students")
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_"):
            student = importlib.import_module(f"{package.__name__}.{found.name}")
            for name, model in student.model_classes.items():
                getattr(auto, name).register(model.config_class, model, exist_ok=True)
    importlib.import_module("smidgen.uneven").enter_models(auto)


def enter_tokenizers(auto: ModuleType) -> None:
    """`auto` is transformers.models.auto.tokenization_auto."""
    importlib.import_module("smidgen.uneven").enter_tokenizers(auto)


AWAITED: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": enter_configs,
    "transformers.models.auto.modeling_auto": enter_models,
    "transformers.models.auto.tokenization_auto": enter_tokenizers,
}


class Awaiting(MetaPathFinder):
    """Lets Python find the awaited modules as ever, and enters the students behind their own code."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in AWAITED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run: Callable[[ModuleType], None] = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                AWAITED[fullname](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Enter the students now where transformers' tables are loaded, else as soon as they are."""
    for name, enter in AWAITED.items():
        if name in sys.modules:
            enter(sys.modules[name])
    if not any(isinstance(finder, Awaiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, Awaiting())
