"""tune.lora: PEFT's layers while it trains; afterwards the same function in the weights, and as a part of a delta."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LABELS, data_files, model_folder
from tiny import FAMILIES, batch, tiny
from torch import Tensor

from smidgen.delta import put
from smidgen.errors import InputError
from smidgen.method import Context, find
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.source import load_model, resolve
from smidgen.tape import listen
from smidgen.tasks import Classify
from smidgen.watch import Silent

FAMILY = pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mobilebert"])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "alpha": 12.0},
    "rslora": {"rank": 4, "sites": ("key", "out", "up")},
    "pissa": {"rank": 3, "sites": ("value", "down")},
    "dora": {"rank": 3, "sites": ("query", "down")},
    "vera": {"rank": 16, "sites": ("query", "up", "down")},
    "loha": {"rank": 3, "alpha": 12.0, "sites": ("value", "up")},
    "ia3": {},
}
KIND = pytest.mark.parametrize("kind", KINDS)


@torch.no_grad()
def said(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.eval()(**inputs).logits


def stage(path: Path, family: str) -> Context:
    """A stage that starts from a bare tiny model."""
    source, task = resolve(str(model_folder(path, family))), Classify(LABELS)
    ctx = Context(source.path, path, task, (), 0)
    ctx.model = load_model(source, task, 0)
    torch.manual_seed(1)
    return ctx


def train(model: Any, inputs: dict[str, Tensor], steps: int = 3) -> None:
    """A few steps of plain descent on what is open."""
    opened = [p for p in model.parameters() if p.requires_grad]
    descent = torch.optim.SGD(opened, lr=0.1)
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([0, 1, 0])).backward()
        torch.nn.utils.clip_grad_norm_(opened, 1.0)
        descent.step()
        descent.zero_grad()


@FAMILY
@KIND
def test_one_function_three_ways(family: str, kind: str, tmp_path: Path) -> None:
    """PEFT's forward before it is merged, the merged model, and the base with the part of the delta."""
    ctx, inputs = stage(tmp_path / "base", family), batch(120, [5, 9, 3])
    start = said(ctx.model, inputs)
    names = [(name, type(module)) for name, module in ctx.model.named_modules()]
    method = find("tune.lora")(kind=kind, **KINDS[kind])
    state = method.begin(ctx)
    torch.testing.assert_close(said(ctx.model, inputs), start, atol=1e-5, rtol=0)
    train(ctx.model, inputs)
    wanted = said(ctx.model, inputs)
    assert (wanted - start).abs().max() > 1e-3
    method.end(state, ctx)
    torch.testing.assert_close(said(ctx.model, inputs), wanted, atol=1e-5, rtol=0)
    assert [(name, type(module)) for name, module in ctx.model.named_modules()] == names
    assert not hasattr(ctx.model, "peft_config") and all(p.requires_grad for p in ctx.model.parameters())
    (part,) = method.adds(state, ctx)
    again = load_model(resolve(str(ctx.source)), ctx.task, 0)
    head = {n: p for n, p in ctx.model.named_parameters() if not n.startswith(f"{again.base_model_prefix}.")}
    again.load_state_dict(head, strict=False)
    put(again, part, tmp_path)
    torch.testing.assert_close(said(again, inputs), wanted, atol=1e-5, rtol=0)


@KIND
def test_what_trains(kind: str, tmp_path: Path) -> None:
    """The head and PEFT's own numbers, at the sites that were named and nowhere else."""
    ctx = stage(tmp_path / "base", "bert")
    state = find("tune.lora")(kind=kind, **KINDS[kind]).begin(ctx)
    opened = {name for name, p in ctx.model.named_parameters() if p.requires_grad}
    own = {"lora_A", "lora_B", "lora_magnitude_vector", "vera_lambda_b", "vera_lambda_d", "ia3_l"}
    own |= {f"hada_w{i}_{side}" for i in (1, 2) for side in "ab"}
    outside = {name for name in opened if not own & set(name.split("."))}
    assert outside == {"classifier.weight", "classifier.bias"}
    asked = KINDS[kind].get("sites") or (("key", "value", "down") if kind == "ia3" else ("query", "value"))
    assert set(state.layers) == {f"{block}/{site}" for block in (0, 1) for site in asked}


def test_taps_hear_the_shifted_projections(tmp_path: Path) -> None:
    ctx, inputs = stage(tmp_path / "base", "bert"), batch(120, [5, 9, 3])
    method = find("tune.lora")(rank=3)
    state = method.begin(ctx)
    train(ctx.model, inputs)
    heard = []
    for _ in range(2):
        with listen(ctx.model.eval(), ("block.1.query", "block.0.probs")) as recording:
            heard.append(recording.read(ctx.model(**inputs), inputs["attention_mask"]))
        if len(heard) == 1:
            method.end(state, ctx)
    for name, values in heard[0].items():
        torch.testing.assert_close(values, heard[1][name], atol=1e-5, rtol=0)


def test_all_of_one_linear_is_one_site(tmp_path: Path) -> None:
    ctx = stage(tmp_path / "base", "modernbert")
    state = find("tune.lora")(sites=("value", "key")).begin(ctx)
    assert list(state.layers) == ["0/query", "1/query"]


@pytest.mark.parametrize("first", ["tune.lora", "tune.bitfit"])
def test_two_methods_on_one_projection_are_refused(first: str, tmp_path: Path) -> None:
    ctx = stage(tmp_path / "base", "bert")
    settings = {"tune.bitfit": {"sites": ("value",)}, "tune.lora": {"kind": "ia3"}}
    order = [first, *(name for name in settings if name != first)]
    find(order[0])(**settings[order[0]]).begin(ctx)
    with pytest.raises(InputError, match=r"acts on .*Give the two other sites, or a stage each\."):
        find(order[1])(**settings[order[1]]).begin(ctx)


def test_more_rank_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rank is 40, but the smallest matrix has 32\. Write it or less\."):
        find("tune.lora")(kind="pissa", rank=40).begin(stage(tmp_path / "base", "bert"))


def test_the_square_of_a_lohas_rank_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rank is 6, whose square is .* smallest matrix has 32\. Write 5 or less\."):
        find("tune.lora")(kind="loha", rank=6).begin(stage(tmp_path / "base", "bert"))


@pytest.mark.parametrize("kind", ["ia3", "loha"])
def test_settings_that_would_do_nothing(kind: str) -> None:
    (fault,) = find("tune.lora")(kind=kind, dropout=0.1).faults()
    assert fault.startswith(f"dropout: got 0.1, wanted 0: {kind} has no shift")


def test_a_model_is_left_alone_where_a_site_is_wrong() -> None:
    from smidgen.grafts.lora import linears

    with pytest.raises(InputError, match=r"sites: got 'querry', wanted one of .*Did you mean 'query'"):
        linears(tiny("bert"), ("querry",))


class StopAfter(Silent):
    """Ends a training once it has made so many steps."""

    def __init__(self, step: float) -> None:
        self.step = step

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Any]:  # type: ignore[override]
        yield self

    def to(self, done: float, note: str = "") -> None:
        if done >= self.step:
            raise InterruptedError


@pytest.mark.parametrize("kind", ["pissa", "vera"])
def test_stopped_and_resumed_it_leaves_the_same_files(kind: str, tmp_path: Path) -> None:
    """The best weights of dev and those of a checkpoint are of PEFT's layers; pissa's have changed the matrix too."""
    files = data_files(tmp_path / "data")
    training = Training(epochs=2, learning_rate=1e-2, batch_size=8, evaluations=2)
    stage = Stage("t", (Use("tune.full"), Use("tune.lora", {"kind": kind, "rank": 3})), train=training)
    recipe = Recipe(str(model_folder(tmp_path / "base")), Files(files["train"], files["dev"]), (stage,))
    whole = run(plan(recipe), tmp_path / "a")[-1].artefact.record["files"]
    with pytest.raises(InterruptedError):
        run(plan(recipe), tmp_path / "b", StopAfter(6), checkpoint_seconds=0)
    assert [found.name for found in (tmp_path / "b").rglob("step-*")] == ["step-00000005"]
    assert run(plan(recipe), tmp_path / "b")[-1].artefact.record["files"] == whole
