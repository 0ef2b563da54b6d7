"""The manners of the house that a machine can judge; nothing of smidgen is imported to judge its imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import smidgen
from smidgen import method

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "smidgen"

# Who may import whom: a module imports from its own layer (but never in a circle) or from one further up this table.
LAYERS = (
    "errors watch encoded registration hollow",
    "artefact shards far cluster budget splits tables runtime.inputs runtime.words runtime.pairs runtime.wire "
    "runtime.levels "
    "runtime.folder runtime.batches runtime.machine runtime.portable runtime.products tasks tasks.* anatomy._parts "
    "students._configs students._parts",
    "cells checks recipe speech corpus runtime.tokenizer anatomy.* anatomy students.* students lexicon",
    "report comparison words schema pages axes curves findings card picture tunecard advice facts fitting roads",
    "data attention.* attention factors hearing pooling grafts.* grafts edits.* edits stream surgery uneven source "
    "runtime.engines runtime.engines.* runtime.serving runtime.model runtime.bundle runtime.cascade runtime",
    "distances detours concrete halves prices method sparsity tape batch gates gating grafting fusions.* fusions "
    "saving structure graph keeping refit tokens masking mapping vectors repeats",
    "teacher fill frozen shapes making measure.* measure caveats portrait calibration fake integer precision "
    "saturation deferral pairing",
    "methods.* methods clock loop sampling planner delta heads upper exchange.* exchange",
    "tracking deadline halving foretelling reading runner hands costs benching predicting verification merging bundle "
    "cascading",
    "trials choosing tuning",
    "candidates",
    "feasibility running racing",
    "search",
    "outcome sweep probing advising",
    "api console options",
    "demo cli cli_tune cli_cascade cli_advise",
    "__main__",
)
LIGHT = (
    "recipe planner data checks corpus lexicon speech vectors masking tables cells splits budget source artefact "
    "surgery uneven anatomy attention grafts edits.* edits method mapping errors watch api registration cli cli_tune "
    "cli_advise cli_cascade facts fitting roads options console predicting runtime runtime.* tasks.* report comparison "
    "words schema pages axes curves findings card picture tunecard advice measure.environment measure.health "
    "measure.number measure.size"
)
HEAVY = {"torch", "transformers", "accelerate", "datasets", "peft", "sklearn", "onnx", "pyarrow", "yaml", "jinja2"}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`runtime.model` for smidgen/runtime/model.py; `` for the face."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in FILES}
EACH = pytest.mark.parametrize("module", sorted(MODULES))


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported: classes and branches too, but no function and no `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            yield from statements([n for n in getattr(node, part, []) if isinstance(n, ast.stmt | ast.ExceptHandler)])


def imported(node: ast.AST) -> list[str]:
    """The dotted names that an import statement may load: `from a import b` gives a.b, and a where b is no module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return []
    inside = node.module.removeprefix("smidgen").lstrip(".")
    found = []
    for alias in node.names:
        name = f"{inside}.{alias.name}".lstrip(".")
        is_module = node.module.split(".")[0] == "smidgen" and name in MODULES
        found.append(f"smidgen.{name}" if is_module else node.module)
    return found


@cache
def own(module: str) -> frozenset[str]:
    """The modules of smidgen that a module imports when it is imported."""
    names = {name for node in statements(tree(module).body) for name in imported(node)}
    return frozenset(n.removeprefix("smidgen").lstrip(".") for n in names if n.split(".")[0] == "smidgen")


@cache
def late(module: str) -> frozenset[str]:
    """The modules of smidgen that a module imports at any time, inside functions too, or only for its annotations."""
    names = {name for node in ast.walk(tree(module)) for name in imported(node)}
    return frozenset(n.removeprefix("smidgen").lstrip(".") for n in names if n.split(".")[0] == "smidgen")


@cache
def packages(module: str) -> frozenset[str]:
    """The packages outside smidgen that a module loads when it is imported."""
    names = {name.split(".")[0] for node in statements(tree(module).body) for name in imported(node)}
    return frozenset(names - {"smidgen"})


def loaded(module: str) -> set[str]:
    """A module and all of smidgen that comes with it: what it imports, and the packages that these are in."""
    seen, left = set(), {module}
    while left:
        name = left.pop()
        seen.add(name)
        parents = {name.rpartition(".")[0]} - {""}
        left |= (own(name) | parents) - seen
    return seen


def matches(module: str, words: str) -> bool:
    return any(module == word or (word.endswith(".*") and module.startswith(word[:-1])) for word in words.split())


def layer(module: str) -> int:
    """The first layer that names the module, else the first that names its folder."""
    named = [i for i, words in enumerate(LAYERS) if module in words.split()]
    return (named or [i for i, words in enumerate(LAYERS) if matches(module, words)] or [-1])[0]


# Imports.


@EACH
def test_every_module_has_a_layer(module: str) -> None:
    assert module == "" or layer(module) >= 0, f"write {module} into LAYERS, as high up as its imports allow"


def test_layers_name_what_there_is() -> None:
    named = [word for words in (*LAYERS, LIGHT) for word in words.split() if not word.endswith("*")]
    assert [word for word in named if word not in MODULES] == []


@EACH
def test_no_import_upward(module: str) -> None:
    """Imports inside functions and for annotations count too."""
    wrong = [name for name in late(module) if layer(name) > layer(module)]
    assert module == "" or not wrong, f"{module} imports {wrong}, which stand above it"


def test_no_import_cycle() -> None:
    left = {module: set(own(module)) - {module} for module in MODULES}
    while ready := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in ready:
            del left[module]
    assert not left, f"in a circle, or behind one: {sorted(left)}"


def test_the_check_for_cycles_sees_imports() -> None:
    assert {"surgery", "errors"} <= own("mapping")
    assert "edits" in own("surgery") and "anatomy" in own("edits.keep_blocks") and "anatomy._parts" in own("anatomy")
    assert "surgery" not in own("method"), "under TYPE_CHECKING and inside functions does not count"


@EACH
def test_children_never_import_the_face(module: str) -> None:
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.Import) or all(a.name != "smidgen" for a in node.names), ast.unparse(node)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{ast.unparse(node)}: write the whole name"
            if node.module == "smidgen":
                names = [alias.name for alias in node.names]
                assert all(name in MODULES for name in names), f"{ast.unparse(node)}: import from its own module"


@pytest.mark.parametrize("module", [module for module in sorted(MODULES) if module == "" or matches(module, LIGHT)])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """Not torch, nor anything else that a machine which only serves may lack."""
    heavy = {f"{name} imports {package}" for name in loaded(module) for package in packages(name) & HEAVY}
    assert not heavy


@pytest.mark.parametrize("module", ["smidgen", "smidgen.cli", "smidgen.runtime", "smidgen.planner", "smidgen.report"])
def test_import_brings_no_torch(module: str) -> None:
    """The same, asked of Python itself; `import smidgen` takes under a second, of which none is ours."""
    heavy = sorted(HEAVY - {"yaml"})
    code = f"""
import sys, time
started = time.perf_counter()
import {module}
print(time.perf_counter() - started, *[name for name in {heavy} if name in sys.modules])
"""
    seconds, *found = _python(code).split()
    assert not found
    if module == "smidgen":
        quickest = min(float(seconds), float(_python(code).split()[0]))
        assert quickest < 1


def _python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# A method is a file.

TINY = '''"""Do nothing, as an example.

Idea       x = x (arXiv:0000.00000).
Takes      Anything.
"""

from dataclasses import dataclass
from typing import final

from smidgen.method import Method


@final
@dataclass(frozen=True)
class Nothing(Method[None]):
    often: int = 1  # how often
'''


def test_a_method_takes_one_file(tmp_path: Path) -> None:
    """A new file is found, loaded, documented, planned from a recipe and listed; no other file is written."""
    code = """
from smidgen import method, recipe
assert "prune.nothing" in method.names()
cls = method.find("prune.nothing")
text = "{model: m, data: {train: t}, stages: [{methods: {prune.nothing: {often: 2}}}]}"
(use,) = recipe.load(text).stages[0].methods
assert recipe.build(cls, use.settings, "", []) == cls(often=2)
assert method.name_of(cls) == "prune.nothing"
assert method.page("prune.nothing").settings == (("often", "int", "1", "how often"),)
assert method.page("prune.nothing").sections["Takes"] == "Anything."
print("prune.nothing" in method.names())
"""
    folder = tmp_path / "smidgen"
    for path in FILES:
        copy = folder / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (folder / "methods" / "prune" / "nothing.py").write_text(TINY, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60
    )
    assert done.stdout == "True\n", done.stderr


def test_no_file_names_a_method_but_its_own() -> None:
    """No registry: the classes of methods are imported by no module."""
    for module in MODULES:
        assert not [name for name in own(module) if name.startswith("methods.") and name != module], module


def test_methods_are_named_by_their_paths() -> None:
    files = (name for name in MODULES if name.startswith("methods.") and name.count(".") == 2)
    assert method.names() == tuple(sorted(name.removeprefix("methods.") for name in files))


# The face.


def test_face_is_sorted_and_complete() -> None:
    assert list(smidgen.__all__) == sorted(set(smidgen.__all__))
    for name in smidgen.__all__:
        assert getattr(smidgen, name).__name__ == name
    assert set(smidgen.__all__) <= set(dir(smidgen))
    with pytest.raises(AttributeError, match="module 'smidgen' has no attribute 'nothing'"):
        _ = smidgen.nothing
    assert 5 <= len(smidgen.__all__) <= 16, "the face is about a dozen names"


def test_no_name_of_the_face_is_a_module() -> None:
    """Importing a submodule would put the module in the name's place."""
    assert not set(smidgen.__all__) & {module for module in MODULES if module}


def test_public_names_are_documented() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README.md")]
    if not pages:
        pytest.skip("neither docs/ nor README.md is there")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lacking = [name for name in smidgen.__all__ if not re.search(rf"\bsmidgen\.{name}\b|`{name}[`(]", text)]
    assert not lacking, f"write about {lacking} in docs/ or README.md"


# What no file may hold.


@EACH
def test_no_print_and_nothing_unfinished(module: str) -> None:
    path = MODULES[module]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: print"
        if isinstance(node, ast.Raise):
            assert "NotImplementedError" not in ast.unparse(node), f"{path}:{node.lineno}"
    found = re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text(encoding="utf-8"))
    assert not found, f"{path}: {found and found[0]}"


@EACH
def test_every_file_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{MODULES[module]} has no docstring"


@EACH
def test_errors_are_our_own(module: str) -> None:
    """What is raised on purpose is of the exception tree, or of Python's own protocols."""
    tree_of_errors = {node.name for node in tree("errors").body if isinstance(node, ast.ClassDef)}
    protocols = {"AttributeError", "KeyboardInterrupt", "SystemExit", "StopIteration", "AssertionError"}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            kind = node.exc.func.id
            if kind[0].isupper():
                assert kind in tree_of_errors | protocols, f"{MODULES[module]}:{node.lineno}: {kind}"


@pytest.mark.parametrize(
    "line", ["plan student --model m --train t", "run student --model m --train t", "compress m --train t"]
)
def test_without_the_training_extra_one_sentence_says_what_to_install(line: str) -> None:
    """As in a base install: torch cannot be found."""
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['smidgen', *{line.split()!r}]\n"
        "from smidgen.cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "Type: pip install 'smidgen[train]'" in ran.stderr and "Traceback" not in ran.stderr
