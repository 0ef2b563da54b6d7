"""The ten promises that every method keeps, on an encoder of two blocks.

The methods are found by their files and their settings by their fields: a new file under `smidgen/methods` is held to
all of it without a line here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import re
import shutil
import time
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, adapter_folder, data_files, language_folder, model_folder
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.data import Data, load_data
from smidgen.errors import NoEffect, RecipeError, SmidgenError
from smidgen.loop import History, Rows, train
from smidgen.masking import masker
from smidgen.method import Context, Method, Sight, find, name_of, names, owns_stage, page, settings_of, trains
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use, build, dump, load
from smidgen.runner import Done, home_of, run
from smidgen.sampling import batches
from smidgen.source import Source, load_model, resolve, takes_types
from smidgen.surgery import from_data, replay, to_data
from smidgen.tape import parse
from smidgen.tasks import MaskLanguage
from smidgen.teacher import Teacher, label, online, too_big
from smidgen.tokens import encode, pad_id

EACH = pytest.mark.parametrize("name", names())
LENGTH, SEED = 16, 3
SETTINGS = Training(epochs=1, learning_rate=1e-2, warmup=0, weight_decay=0, precision="float32")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


# Settings, found from the fields and from what `faults` says.


def samples(hint: Any) -> list[Any]:
    """Some values of a type, sensible and not."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [value for arg in args for value in samples(arg)]
    if typing.get_origin(hint) is tuple:
        if args[-1] is not Ellipsis:
            return [tuple(samples(arg)[0] for arg in args)]
        return [(), *((value,) for value in samples(args[0])), tuple(samples(args[0])[:2])]
    plain = {int: [0, 1, 2, -1, 10**6], float: [0.5, 0.0, 1.0, 2.0, -1.0, math.nan], bool: [False, True]}
    return plain.get(hint, [None] if hint is type(None) else ["nonsense"])


def variants(name: str) -> Iterator[tuple[str, Any, Method[Any]]]:
    """The default with one field at another value, of `samples` or of the options that its faults name."""
    cls = find(name)
    default = cls()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        values = samples(hints[field.name])
        if "nonsense" in values:
            told = " ".join(dataclasses.replace(default, **{field.name: "nonsense"}).faults())
            values += re.sub(r"\.( .*)?$", "", told.partition("one of ")[2]).split(", ") if "one of " in told else []
        for value in values:
            yield field.name, value, dataclasses.replace(default, **{field.name: value})


def allowed(name: str, world: World | None = None) -> list[Method[Any]]:
    """The default settings and every variant without a fault; in a world, one that joins adapters joins the world's."""
    given = {"adapters": world.adapters} if world and hasattr(find(name)(), "adapters") else {}
    found = [dataclasses.replace(m, **given) for m in (find(name)(), *(method for _, _, method in variants(name)))]
    return [found[0], *(method for method in found[1:] if not list(method.faults()))]


# A stage in miniature.


@dataclasses.dataclass(frozen=True)
class World:
    root: Path
    data: Data
    files: dict[str, str]
    student: Source
    teacher: Source  # of four blocks
    masked: Source  # a masked language model

    @cached_property
    def adapters(self) -> tuple[str, ...]:
        """Deltas of two adapters on the student."""
        folders = [(self.root / f"adapter-{width}", width) for width in (4, 6)]
        return tuple(str(adapter_folder(folder, self.student.path, width)) for folder, width in folders)

    def context(self, seed: int = SEED) -> Context:
        """What the runner gives a method; the generator stands where the runner leaves it."""
        texts = tuple((text, None) for text in self.data.dev.texts)
        ctx = Context(self.student.path, self.root / "target", self.data.task, texts, seed)
        ctx.teacher_blocks, ctx.teacher_width, ctx.teacher_heads = 4, 32, 4
        ctx.sight = Sight(
            training_texts=lambda: self.data.train.texts,
            sample=lambda count: batches(self.rows(ctx), self.data.task, ctx.model, torch.device("cpu")),
            dev_loss=lambda: float(torch.cat([p.flatten() for p in ctx.model.parameters()]).std()),
        )
        ctx.model = load_model(self.student, self.data.task, seed)
        torch.manual_seed(seed)
        return ctx

    def home(self, ctx: Context) -> Path:
        """The folder of the tokenizer that the stage's model has in the end."""
        return home_of(ctx, self.student, self.root / f"home-{id(ctx)}").path

    def rows(self, ctx: Context) -> Rows:
        split = self.data.train
        assert split.labels is not None
        home = self.home(ctx)
        encoded = encode(self.data.task, home, split.texts, None, LENGTH)
        rows = Rows(encoded, self.data.task.targets(encoded, split.texts, split.labels), pad_id(home), split=split)
        if isinstance(self.data.task, MaskLanguage):
            rows = dataclasses.replace(rows, masker=masker(home, ctx.seed))
        if not ctx.teacher_taps:
            return rows
        said: Teacher
        if too_big(ctx.teacher_taps) or rows.masker is not None:
            said = online(self.teacher, self.data.task, ctx.teacher_taps, torch.device("cpu"))
        else:
            said = label(self.teacher, self.data.task, split, ctx.teacher_taps, LENGTH, self.root)
        return dataclasses.replace(rows, teacher=said)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """`worlds(name)`: for the task that a method is for, or for classification."""

    @cache
    def make(task: str) -> World:
        root = tmp_path_factory.mktemp(task)
        files = data_files(root)
        if task == "mask_language":
            student, teacher = language_folder(root / "student"), language_folder(root / "teacher", blocks=4, seed=1)
        else:
            student = model_folder(root / "student", labels=LABELS)
            teacher = model_folder(root / "teacher", labels=LABELS, blocks=4, seed=1)
        data = load_data(files["train"], files["dev"], task=task)
        masked = language_folder(root / "masked")
        return World(root, data, files, *(resolve(str(folder)) for folder in (student, teacher, masked)))

    return lambda name: make(find(name).needs.task or "classify")


@pytest.fixture
def world(name: str, worlds: Callable[[str], World]) -> World:
    return worlds(name)


@dataclasses.dataclass
class Ran:
    """A stage after begin, three steps and end."""

    ctx: Context
    skeleton: nn.Module  # what its edits start from: the model before `begin`, or one made as the adopted one was
    history: History
    seconds: float
    open: dict[str, bool]  # by parameter: was it to train?
    moved: dict[str, bool]  # by parameter: did training change it?
    extra_moved: list[bool]  # of the parameters that train beside the model


def go(world: World, method: Method[Any], steps: int = 3, seed: int = SEED) -> Ran:
    """One stage, as `smidgen.runner` runs it; what has no loss, or needs another's, has tune.full beside it."""
    torch.manual_seed(time.monotonic_ns() % 2**31)  # nothing may depend on what came before
    alone = trains(method) and not method.needs.training
    methods = [method] if alone else [method, find("tune.full")()]
    ctx = world.context(seed)
    skeleton = copy.deepcopy(ctx.model)
    started = time.perf_counter()
    running = [(each, each.begin(ctx)) for each in methods]
    seconds = time.perf_counter() - started
    needs = [each.needs for each in methods]
    assert ctx.teacher_taps <= {"logits"} or any(need.inside for need in needs), "declare Needs(inside=True)"
    rows = world.rows(ctx)
    extra = [p for _, state in running if isinstance(state, nn.Module) for p in state.parameters()]
    before = {name: value.detach().clone() for name, value in ctx.model.named_parameters()}
    extra_before = [value.detach().clone() for value in extra]
    if ctx.skeleton is not None:
        skeleton = type(ctx.model)(copy.deepcopy(ctx.skeleton))
    opened = {name: value.requires_grad for name, value in ctx.model.named_parameters()}
    order = [np.arange(8 * i, 8 * i + 8) for i in range(steps)]
    started = time.perf_counter()
    history = train(
        running, ctx, rows, dataclasses.replace(rows, teacher=None), SETTINGS, world.root / "x", order=order
    )
    moved = {name: not torch.equal(value, before[name]) for name, value in ctx.model.named_parameters()}
    for each, state in reversed(running):
        each.end(state, ctx)
    seconds += time.perf_counter() - started
    extra_moved = [not torch.equal(a, b) for a, b in zip(extra, extra_before, strict=True)]
    return Ran(ctx, skeleton, history, seconds, opened, moved, extra_moved)


def example(world: World, name: str) -> Method[Any]:
    """The first settings, the default foremost, that have an effect on two blocks."""
    for method in allowed(name, world):
        with contextlib.suppress(NoEffect):
            method.begin(world.context())
            return method
    raise AssertionError(f"{name}: no settings of its own have an effect on a model of two blocks")


@pytest.fixture(scope="module")
def ran(worlds: Callable[[str], World]) -> Any:
    """`ran(name)`: the example of a method, run once for all tests."""
    kept: dict[str, Ran] = {}

    def once(name: str) -> Ran:
        if owns_stage(find(name)()):
            pytest.skip(f"{name} owns its stage: it has no training step and leaves files, not a model")
        if name not in kept:
            kept[name] = go(worlds(name), example(worlds(name), name))
        return kept[name]

    return once


@pytest.fixture(scope="module")
def owned(worlds: Callable[[str], World]) -> Any:
    """`owned(name)`: a method that owns its stage, run by the runner behind what it needs; the last one is its own."""
    kept: dict[str, list[Done]] = {}

    def once(name: str) -> list[Done]:
        if not owns_stage(find(name)()):
            pytest.skip(f"{name} is a part of a training stage: it leaves a model, not files")
        if name not in kept:
            kept[name] = run(plan(own_recipe(worlds(name), name)), worlds(name).root / "stages")
        return kept[name]

    return once


def own_recipe(world: World, name: str) -> Recipe:
    chain = [name]
    while (form := find(chain[0]).accepts) != "float":
        makers = [other for other in names() if find(other).leaves == form and find(other).accepts == "float"]
        assert makers, f"no method leaves {form}, which {chain[0]} takes"
        chain.insert(0, makers[0])
    settings = {"model": str(world.masked.path)} if "model" in settings_of(find(name)()) else {}
    stages = tuple(Stage(each, (Use(each, settings if each == name else {}),)) for each in chain)
    files = Files(world.files["train"], world.files["dev"], max_length=LENGTH)
    return Recipe(str(world.student.path), files, stages)


@torch.no_grad()
def logits(world: World, ctx: Context, model: nn.Module) -> Tensor:
    home = world.home(ctx)
    encoded = encode(world.data.task, home, world.data.dev.texts, None, LENGTH).batch(list(range(8)), pad_id(home))
    wanted = {key: torch.from_numpy(v) for key, v in encoded.items() if key != "token_type_ids" or takes_types(model)}
    return model.eval()(**wanted).logits


# 1. Settings survive recipe text and back.


@EACH
def test_settings_survive_recipe_text(name: str) -> None:
    for method in allowed(name):
        recipe = Recipe("m", Files("t"), (Stage("s", (Use(name, settings_of(method)),)),))
        (use,) = load(dump(recipe)).stages[0].methods
        faults: list[str] = []
        assert build(find(use.method), use.settings, "", faults) == method
        assert faults == []


@EACH
def test_settings_are_frozen_and_final(name: str) -> None:
    cls = find(name)
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert getattr(cls, "__final__", False), "decorate it with typing.final"
    assert cls.__mro__[1] is Method, "a method inherits from Method alone"
    assert name_of(cls) == name
    assert hash(cls()) == hash(cls())


# 2. Messages say what was got, what was wanted, what to do.


@EACH
def test_fault_messages(name: str) -> None:
    told = [(field, fault) for field, _, method in variants(name) for fault in method.faults()]
    for field, fault in told:
        assert re.match(rf"{field}: got .+, wanted .+\.", fault), fault
    judged = {field for field, _ in told}
    for field in dataclasses.fields(find(name)):  # type: ignore[arg-type]
        if field.type != "bool":
            assert field.name in judged, f"{field.name} takes anything, {samples(str)} and -1 too"


@EACH
def test_default_settings_have_no_fault(name: str) -> None:
    assert list(find(name)().faults()) == []


@EACH
def test_unknown_settings_are_refused(name: str) -> None:
    faults: list[str] = []
    assert build(find(name), {"no_such_setting": 1}, "", faults) is not None
    assert faults and faults[0].startswith("no_such_setting: no such key.")
    assert f"Known here: {', '.join(settings_of(find(name)()))}." in faults[0]


# 3. begin, three steps, end in under a second.


@EACH
def test_three_steps_in_under_a_second(name: str, ran: Any, world: World) -> None:
    found = ran(name)
    quickest = min(found.seconds, *(go(world, example(world, name)).seconds for _ in range(2)))
    assert quickest < 1, f"{quickest:.2f} s"


@EACH
def test_every_allowed_setting_works_or_says_why(name: str, world: World) -> None:
    """What `faults` lets through trains a step with a finite loss, or ends in one of our own errors."""
    if owns_stage(find(name)()):
        pytest.skip(f"{name} owns its stage: each of its settings would take a run of its own")
    for method in allowed(name, world):
        with contextlib.suppress(SmidgenError):
            assert math.isfinite(go(world, method, steps=1).history.entries[-1]["loss"]), method


# 4. Edits replayed on the skeleton give the same outputs.


@EACH
def test_edits_replay(name: str, ran: Any, world: World) -> None:
    found = ran(name)
    edits = from_data(json.loads(json.dumps(to_data(found.ctx.edits))))
    again = replay(copy.deepcopy(found.skeleton), edits)
    again.load_state_dict(found.ctx.model.state_dict())
    made, edited = logits(world, found.ctx, again), logits(world, found.ctx, found.ctx.model)
    torch.testing.assert_close(made, edited, rtol=0, atol=1e-6)


@EACH
def test_a_new_model_is_announced(name: str, ran: Any, world: World) -> None:
    """What adopts a model says so, since its seed and its texts are then part of the artefact's id; its folder is a
    Hugging Face folder.
    """
    ctx = ran(name).ctx
    assert find(name).new_model == (ctx.skeleton is not None)
    assert find(name)().new_tokenizer == (ctx.tokenizer is not None)
    if find(name).new_model:
        folder = world.root / f"saved-{name}"
        ctx.model.save_pretrained(folder)
        again = AutoModelForSequenceClassification.from_pretrained(folder)
        assert type(again) is type(ctx.model) and again.config.id2label == dict(enumerate(LABELS))
        assert torch.equal(logits(world, ctx, again), logits(world, ctx, ctx.model))


@EACH
def test_artefact_is_whole(name: str, owned: Any, world: World) -> None:
    """What owns its stage leaves the form it claims, beside the model it came from, untouched."""
    done = owned(name)[-1]
    assert done.artefact.form == find(name).leaves
    if find(name).leaves == "texts":
        assert [p.name for p in done.artefact.path.iterdir() if p.name != "smidgen.json"] == ["texts.jsonl"]
        assert done.artefact.record["found"]["grown"] <= find(name)().most(len(world.data.train))  # type: ignore[attr-defined]
        return
    assert (done.artefact.path / "onnx" / "model.onnx").is_file()
    before = (world.student.path / "model.safetensors").read_bytes()
    assert (done.artefact.path / "model.safetensors").read_bytes() == before


# 5. No hook, mask or wrapper is left.


@EACH
def test_nothing_is_left_on_the_model(name: str, ran: Any) -> None:
    found = ran(name)
    model = found.ctx.model
    clean = replay(copy.deepcopy(found.skeleton), found.ctx.edits)
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in clean.named_modules()]
    assert list(model.state_dict()) == list(clean.state_dict())
    assert [n for n, _ in model.named_buffers()] == [n for n, _ in clean.named_buffers()]
    for (where, module), twin in zip(model.named_modules(), clean.modules(), strict=True):
        assert not is_parametrized(module), where
        for kind in HOOKS:  # those of a graft that was made a part of the model stay
            assert len(getattr(module, kind)) == len(getattr(twin, kind)), where
        assert "forward" not in vars(module), f"{where}.forward is replaced"
    assert all(p.requires_grad for p in model.parameters()), "some weights are still frozen"
    assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters())


# 6. Same seed, same numbers.


@EACH
def test_same_seed_same_weights(name: str, ran: Any, world: World) -> None:
    one, other = ran(name), go(world, example(world, name))
    for key, value in one.ctx.model.state_dict().items():
        assert torch.equal(value, other.ctx.model.state_dict()[key]), key
    assert one.history.entries == other.history.entries


@EACH
def test_same_seed_same_files(name: str, owned: Any, world: World) -> None:
    done = owned(name)[-1]
    files = done.artefact.record["files"]
    shutil.rmtree(done.artefact.path)
    again = run(plan(own_recipe(world, name)), world.root / "stages")
    assert [each.reused for each in again] == [True] * (len(again) - 1) + [False]
    assert again[-1].artefact.record["files"] == files


# 7. A target that matches nothing raises NoEffect.


@EACH
def test_no_effect_is_an_error(name: str, world: World, tmp_path: Path) -> None:
    if find(name).accepts == "onnx":
        ctx = world.context()
        ctx.source, ctx.target = weightless(tmp_path / "source"), tmp_path / "target"
        with pytest.raises(NoEffect, match=rf"^{name}: .+\."):
            find(name)().run(ctx)  # type: ignore[attr-defined]
        return
    if owns_stage(find(name)()) or not go_begin(world, example(world, name)).edits:
        pytest.skip(f"{name} takes the model as a whole: it has no target that could match nothing")
    refused = 0
    for method in allowed(name):
        try:
            ctx = go_begin(world, method)
        except NoEffect as error:
            assert re.match(rf"{name}: .+\. .+\.", str(error)), "say what to do as well"
            refused += 1
        except SmidgenError:
            continue
        else:
            assert ctx.edits, f"{method} changed nothing and did not say so"
    assert refused, f"none of {len(allowed(name))} settings raises NoEffect"


def go_begin(world: World, method: Method[Any]) -> Context:
    ctx = world.context()
    method.begin(ctx)
    return ctx


def weightless(folder: Path) -> Path:
    """A folder whose graph has inputs and logits and no weights."""
    import onnx
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "l"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "l"])
    graph = helper.make_graph([helper.make_node("Cast", ["input_ids"], ["logits"], to=1)], "none", [ids], [out])
    (folder / "onnx").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(folder / "onnx" / "model.onnx"))
    return folder


# 8. The loss is finite and the gradient reaches what should train.


@EACH
def test_gradient_reaches_what_trains(name: str, ran: Any) -> None:
    """The embeddings, every block up to the last one asked for, and all that trains beside the model; what is frozen
    stays as it was."""
    found = ran(name)
    if not trains(find(name)()):
        pytest.skip(f"{name} has no loss")
    terms = found.history.entries[-1]["terms"]
    assert all(map(math.isfinite, terms.values())) and any(key.startswith(f"{name}.") for key in terms)
    assert all(key.startswith(f"{name}.") for key in terms) or find(name).needs.training
    assert not any(moved for key, moved in found.moved.items() if not found.open[key])
    assert all(found.extra_moved)
    parts = anatomy(found.ctx.model)
    asked = [tap.block for tap in map(parse, found.ctx.student_taps) if tap.block is not None]
    reached = max(asked) + 1 if find(name).needs.inside else len(parts.blocks)
    for part in (parts.embeddings, *(block.module for block in parts.blocks[:reached])):
        own = {id(parameter) for parameter in part.parameters()}
        inside = [key for key, value in found.ctx.model.named_parameters() if id(value) in own]
        if any(found.open.get(key) for key in inside):
            assert any(found.moved[key] for key in inside if key in found.moved), inside[0]
    if find(name).needs.labels:
        assert any(moved for key, moved in found.moved.items() if key.startswith(("classifier", "cls")))


# 9. What claims to shrink shrinks.


@EACH
def test_shrinks(name: str, ran: Any, world: World) -> None:
    if name.partition(".")[0] not in ("prune", "quant"):
        pytest.skip(f"{name} does not claim to shrink")
    if owns_stage(find(name)()):
        pytest.skip(f"{name} owns its stage: see test_shrinks_on_disk")
    if "no file smaller" in find(name).remark:
        pytest.skip(f"{name} says that it makes no file smaller")
    model = ran(name).ctx.model
    count = sum(p.numel() for p in model.parameters())
    assert count < world.student.parameters
    model.save_pretrained(world.root / name)
    files = [folder / "model.safetensors" for folder in (world.root / name, world.student.path)]
    assert files[0].stat().st_size < files[1].stat().st_size


@EACH
def test_shrinks_on_disk(name: str, owned: Any) -> None:
    done = owned(name)
    if name.partition(".")[0] not in ("prune", "quant"):
        pytest.skip(f"{name} does not claim to shrink")
    before, after = (each.artefact.path / "onnx" / "model.onnx" for each in done[-2:])
    assert after.stat().st_size < before.stat().st_size


# 10. The docstring reads like a paper.


@EACH
def test_docstring_has_its_headings(name: str) -> None:
    found = page(name)
    assert found.summary.endswith(".") and len(found.summary) < 110
    assert list(found.sections) == ["Idea", "Takes", "Leaves", "Beside", "Fails"]
    assert all(text.endswith(".") for text in found.sections.values())
    idea = found.sections["Idea"]
    assert re.search(r"[=~<>|]", idea), "Idea has no formula"
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:|https://", idea), "Idea names no source"
    settings = settings_of(find(name)())
    assert [setting for setting, _, _, _ in found.settings] == list(settings)


def test_unknown_method() -> None:
    with pytest.raises(RecipeError, match=r"prune\.layer: no such method\. Did you mean 'prune\.layers'\?"):
        find("prune.layer")
