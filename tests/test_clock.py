"""Tables of what sublayers cost: of operations, and of milliseconds with a clock that is told what to say."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, model_folder
from tiny import FAMILIES, VOCAB, batch, tiny
from torch.utils.flop_counter import FlopCounterMode

import smidgen.clock
from smidgen.anatomy import anatomy
from smidgen.clock import Clock, points, shaped, skeleton, spread, table
from smidgen.edits.head import Head
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.planner import plan
from smidgen.prices import Costs, Macs, shape_of
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.runtime.engines.onnxruntime import open_session
from smidgen.surgery import apply, replay
from smidgen.tasks import Classify, Tag

torch.set_num_threads(1)
EACH = pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mobilebert"])


def uneven(family: str) -> Any:
    model = tiny(family)
    for edit in (KeepHeads(0, (1, 2)), KeepWidth(1, tuple(range(40)))):
        apply(model, edit)
    return model


@EACH
@torch.no_grad()
def test_operations_are_those_that_the_blocks_make(family: str) -> None:
    """What a cut takes away, against torch's own count of a forward (two operations each)."""
    model, cut, length = tiny(family, attn_implementation="eager"), uneven(family), 12
    cut.set_attn_implementation("eager")
    counted = []
    for each in (model, cut):
        with FlopCounterMode(display=False) as flops:
            each(**batch(VOCAB, [length]))
        counted.append(flops.get_total_flops() / 2)
    meter = Macs(length)
    costs = meter.costs(model)
    assert costs.predict(shape_of(model)) - costs.predict(shape_of(cut)) == counted[0] - counted[1]
    assert costs == meter.costs(cut)
    assert meter.measure({"a": model, "b": cut}) == {
        "a": costs.predict(shape_of(model)),
        "b": costs.predict(shape_of(cut)),
    }


@EACH
@torch.no_grad()
def test_operations_of_blocks_at_another_hidden_size(family: str) -> None:
    model, length, counted = tiny(family, attn_implementation="eager"), 12, []
    inside = {name for name, module in model.named_modules() if module in set(anatomy(model).block_list)}
    for edits in ((), (KeepHidden(tuple(range(20))), KeepHeads(0, (1, 2)))):
        with FlopCounterMode(display=False) as flops:
            replay(model, edits)(**batch(VOCAB, [length]))
        found = flops.get_flop_counts().items()
        counted.append(sum(sum(n.values()) for name, n in found if name.partition(".")[2] in inside) / 2)
    whole, narrow = Macs(length).costs(tiny(family)), Macs(length).costs(tiny(family), 20)
    assert counted == [whole.predict([(4, 64)] * 2), narrow.predict([(2, 64), (4, 64)])]
    assert narrow == Macs(length).costs(model)


def test_a_table_is_what_the_times_were_made_of() -> None:
    heads, widths = ((0, 0.0), (1, 0.1), (6, 0.2), (12, 0.4)), ((0, 0.0), (384, 0.11), (768, 0.2), (1536, 0.4))
    true, wanted = Costs("ms", 0.25, heads, widths), points(12, 1536)
    assert len(wanted) == 7
    for blocks in (1, 6):
        found = table({p: true.predict(spread(p, [(12, 1536)] * blocks)) for p in wanted}, blocks)
        assert found.fixed == pytest.approx(true.fixed)
        np.testing.assert_allclose(found.heads, true.heads, atol=1e-12)
        np.testing.assert_allclose(found.widths, true.widths, atol=1e-12)


def test_noise_does_not_make_more_cost_less() -> None:
    times = {p: 1.0 + 0.1 * p[0] + 0.001 * p[1] for p in points(12, 1536)}
    times[6, 1536], times[12, 384] = 9.0, 0.5
    found = table(times, 6)
    for row in (found.heads, found.widths):
        costs = [cost for _, cost in row]
        assert costs == sorted(costs) and costs[0] == 0
    times = {p: 3.0 if 0 not in p else 0.5 for p in points(12, 1536)}
    assert table(times, 6).fixed == 0 and table(times, 6).predict([(12, 1536)] * 6) == pytest.approx(3.0)


@EACH
def test_small_models_have_the_shape_of_their_point(family: str) -> None:
    model = uneven(family)
    whole = skeleton(model)
    assert shape_of(whole) == [(4, 64)] * 2 and type(whole) is type(tiny(family))
    for point in points(4, 64):
        made = shaped(whole, spread(point, shape_of(whole)))
        assert shape_of(made) == ([point] * 2 if point[0] else [(0, 64), (4, 64)]), (
            "a model without any attention is another"
        )
        made(**batch(VOCAB, [5, 7]))
    narrow = skeleton(apply(model, KeepHidden(tuple(range(20)))))
    assert (anatomy(narrow).hidden_size, shape_of(narrow)) == (20, [(4, 64)] * 2)
    assert anatomy(skeleton(model, 10)).hidden_size == 10


def test_a_skeleton_has_the_head_and_the_depth_that_the_model_has() -> None:
    pooled = apply(apply(tiny("bert", blocks=3), Head("mean")), KeepHeads(0, (0, 1)))
    made = shaped(skeleton(pooled), [(1, 32)] * 3)
    assert shape_of(made) == [(1, 32)] * 3 and made.pool == "mean"
    made(**batch(VOCAB, [5, 7]))
    cut = apply(apply(tiny("bert", blocks=4), KeepHeads(0, (0, 1))), KeepBlocks((0, 2)))
    assert shape_of(skeleton(cut)) == [(4, 64)] * 2


class Told(Clock):
    """A clock that says what a table says, and which models it was shown."""

    seen: list[list[tuple[int, int]]] = []

    def _time(self, models: Mapping[str, Any]) -> dict[str, float]:
        costs = Costs("ms", 1.0, ((0, 0.5), (4, 2.5)), ((0, 0.5), (64, 4.5)))
        Told.seen += [shape_of(model) for model in models.values()]
        return {name: costs.predict(shape_of(model)) for name, model in models.items()}


def clock(cls: type[Clock], tmp_path: Path, precision: str = "float32", **more: Any) -> Clock:
    home = model_folder(tmp_path / "home", labels=("bad", "good"))
    texts = [("the film was good", None), ("bad", None), ("so very very dull and sad", None)]
    return cls(Classify(("bad", "good")), home, texts, 32, tmp_path / "kept", precision, **more)


def test_a_table_is_measured_once(tmp_path: Path) -> None:
    Told.seen.clear()
    model = tiny("bert")
    torch.manual_seed(1)
    found = clock(Told, tmp_path).costs(model)
    first = torch.rand(1)
    assert found.predict([(4, 64), (2, 32)]) == pytest.approx(1 + 2.5 + 4.5 + 1.5 + 2.5)
    count = len(Told.seen)
    torch.manual_seed(1)
    assert clock(Told, tmp_path).costs(uneven("bert")) == found, "the same geometry before it was cut"
    assert torch.rand(1) == first, "what is drawn afterwards does not hang on it"
    assert len(Told.seen) == count
    clock(Told, tmp_path, "int8").costs(model)
    clock(Told, tmp_path, threads=7).costs(model)
    clock(Told, tmp_path).costs(tiny("bert", blocks=3))
    clock(Told, tmp_path).costs(model, 16)
    assert len(list((tmp_path / "kept").glob("costs-*.json"))) == 5
    count = len(Told.seen)
    clock(Told, tmp_path).costs(apply(tiny("bert"), KeepHidden(tuple(range(16)))))
    assert len(Told.seen) == count, "nor at another hidden size"


def test_a_table_of_another_hidden_size_is_set_right_by_the_whole(tmp_path: Path) -> None:
    """On a machine that is slower by half when the second one is measured."""

    class Slower(Told):
        def _time(self, models: Mapping[str, Any]) -> dict[str, float]:
            return {name: 1.5 * ms for name, ms in super()._time(models).items()}

    model = tiny("bert")
    whole = clock(Told, tmp_path).costs(model)
    assert clock(Slower, tmp_path).costs(model, 16).predict([(4, 64)] * 2) == pytest.approx(
        whole.predict([(4, 64)] * 2)
    )


def test_models_are_timed_as_they_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smidgen.clock, "TEXTS", 2)
    model = uneven("bert")
    before = copy.deepcopy(model.state_dict())
    found = clock(Clock, tmp_path, "int8").measure({"cut": model})
    assert set(found) == {"cut"} and 0 < found["cut"] < 1000
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_text_to_classify_is_read_as_the_runtime_does(tmp_path: Path) -> None:
    """By its own tokenizer, which gives what the library's gives; other tasks have the library's."""
    watch = clock(Clock, tmp_path)
    for row in [("the film was good", None), ("bad", "so very dull"), ("good " * 60, None)]:
        quick, plain = watch._reader()(row), watch._batch(row)
        assert quick.keys() == plain.keys()
        assert all(np.array_equal(quick[name], plain[name]) for name in plain)
    assert watch._encoder.words is not None and "_encoder" in vars(watch)
    tagger = dataclasses.replace(watch, task=Tag(("O", "B-PER", "I-PER")))
    assert tagger._reader() == tagger._batch and "_encoder" not in vars(tagger)


@pytest.mark.parametrize(("worth", "threads"), [(1000, 4), (10**9, 1)])
def test_a_graph_is_timed_on_the_threads_that_would_serve_it(
    worth: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a small graph are fewer than the machine has."""
    monkeypatch.setattr(smidgen.clock, "TEXTS", 1)
    monkeypatch.setattr("smidgen.runtime.serving.usable_cores", lambda: 4)
    monkeypatch.setattr("smidgen.runtime.serving.WORTH", worth)
    asked: list[int] = []

    def opened(graph: Path, threads: int) -> object:
        asked.append(threads)
        return open_session(graph, 1)

    monkeypatch.setattr(smidgen.clock, "open_session", opened)
    clock(Clock, tmp_path).measure({"whole": tiny("bert")})
    clock(Clock, tmp_path, threads=3).measure({"whole": tiny("bert")})
    assert asked == [threads, 3]


def test_a_shape_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with other weights share a graph; other blocks that are cut, or another attention, have their own."""
    monkeypatch.setattr(smidgen.clock, "TEXTS", 1)
    exported, watch = [], clock(Clock, tmp_path)

    def graph(self: Clock, model: Any, folder: Path) -> Path:
        file = folder / "float32" / "onnx" / "model.onnx"
        file.parent.mkdir(parents=True)
        file.touch()
        exported.append(shape_of(model))
        return file

    monkeypatch.setattr(Clock, "_graph", graph)
    monkeypatch.setattr(Clock, "_served", lambda self, graph: lambda row: None)
    again, other = tiny("bert", seed=5), tiny("bert")
    apply(other, KeepHeads(1, (1, 2)))
    apply(other, KeepWidth(0, tuple(range(40))))
    watch.measure({"whole": tiny("bert"), "cut": uneven("bert"), "again": again})
    assert len(exported) == 2
    watch.measure({"whole": again, "other": other})
    assert len(exported) == 3
    watch.measure({"local": apply(tiny("bert"), Swap((0, 1), "local", (2,)))})
    assert len(exported) == 4


@pytest.mark.parametrize("method", ["prune.fisher", "prune.gates"])
def test_only_what_is_cut_to_milliseconds_is_of_a_machine(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, model = data_files(tmp_path), str(model_folder(tmp_path / "model", labels=LABELS))

    def id_of(price: str) -> str:
        stage = Stage("cut", (Use(method, {"speedup": 2.0, "price": price}), Use("tune.full")))
        return plan(Recipe(model, Files(files["train"], files["dev"]), (stage,))).stages[0].id

    here = {price: id_of(price) for price in ("macs", "float32", "int8")}
    monkeypatch.setattr(smidgen.clock, "cpu", lambda: "another")
    assert {price for price, id in here.items() if id != id_of(price)} == {"float32", "int8"}
