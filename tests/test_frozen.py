"""Frozen blocks run once: with what they gave on disk a stage trains as it does without, in every family."""

from __future__ import annotations

import os
import re
import signal
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import start
from folders import data_files, model_folder
from test_loop import TASK, Interrupted, StopAfter, make_rows, same_bits
from tiny import FAMILIES, PAD, tiny
from torch import Tensor

from smidgen import frozen as module
from smidgen.anatomy import anatomy
from smidgen.artefact import Store
from smidgen.costs import costs
from smidgen.edits.attach import Attach
from smidgen.edits.head import Head
from smidgen.errors import ArtefactError, InputError, RecipeError
from smidgen.frozen import Kept, fingerprints, frozen_below, handing, keep, levels_of, rest, row_keys
from smidgen.loop import History, Rows, make_accelerator, predict, train
from smidgen.method import Context, Method, find
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.shards import open_shards
from smidgen.surgery import apply
from smidgen.watch import Silent

ROWS, DEV = make_rows(40), make_rows(12, 3)
EXACT = Training(
    epochs=2, learning_rate=1e-3, batch_size=8, precision="float32", evaluations=2, cache="float32", schedule="constant"
)
BELOW = find("tune.freeze")(blocks=1)


class Said(Silent):
    """What was told on the way."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.bars: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Any]:
        self.bars.append(name)
        with super().bar(name, total) as bar:
            yield bar


def dropping(family: str, blocks: int = 3) -> Any:
    """A model with dropout wherever its config has a word for one."""
    config = tiny(family).config
    names = [name for name in config.to_dict() if "dropout" in name and name != "classifier_dropout"]
    return tiny(family, blocks=blocks, **dict.fromkeys(names, 0.2))


def trained(
    model: Any,
    work: Path,
    store: Path | None,
    training: Training = EXACT,
    methods: tuple[Method[Any], ...] = (BELOW, find("tune.full")()),
    rows: Rows = ROWS,
    watch: Any = None,
    **how: Any,
) -> tuple[dict[str, Tensor], History]:
    ctx = Context(work, work, TASK, (), 0, model, 4, 48, 4)
    running = [(method, method.begin(ctx)) for method in methods]
    history = train(running, ctx, rows, DEV, training, work / "work", watch, store=store, **how)
    for method, state in reversed(running):
        method.end(state, ctx)
    return dict(model.state_dict()), history


def seen(history: History) -> list[float]:
    return [entry[key] for entry in history.entries for key in ("loss", "dev")]


def of_rows(model: Any, levels: tuple[int, ...], root: Path, kind: str = "float32", rows: Rows = ROWS) -> Kept:
    found = keep(model, rows.encoded, levels, root, kind, PAD, "no", nullcontext)
    assert found is not None
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`calls(model)`: a list of how often each block has run, from now on, told by its last matrix."""
    real, counts, places = torch.nn.Linear.forward, [], {}

    def forward(linear: Any, values: Tensor) -> Tensor:
        if id(linear) in places:
            counts[places[id(linear)]] += 1
        return real(linear, values)

    def begin(model: Any) -> list[int]:
        counts[:] = [0] * len(anatomy(model).blocks)
        places.update({id(block.down): i for i, block in enumerate(anatomy(model).blocks)})
        return counts

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    return begin


# The same training, with and without.


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_a_run_without(family: str, tmp_path: Path) -> None:
    """Dropout above, none below; ragged rows, padded as the batches come."""
    watch, freeze = Said(), find("tune.freeze")(blocks=2)
    methods = (freeze, find("tune.full")())
    torch.manual_seed(1)
    _, without = trained(dropping(family), tmp_path / "a", None, methods=methods)
    torch.manual_seed(2)
    _, kept = trained(dropping(family), tmp_path / "b", tmp_path / "store", methods=methods, watch=watch)
    assert watch.bars == ["running frozen blocks once"] * 2 + ["training"] and watch.told == []
    assert seen(kept) == pytest.approx(seen(without), abs=1e-5)
    assert len(seen(kept)) == 8 and seen(kept)[0] != seen(kept)[2]


@pytest.mark.parametrize(
    ("name", "settings", "levels"),
    [
        ("tune.adapter", {"drop": 2, "width": 4}, 1),
        ("tune.side", {"width": 8, "blocks": 1}, 2),
        ("tune.ladder", {"reduction": 4}, 4),
        ("tune.head", {"pool": "mix"}, 4),
    ],
)
def test_methods_that_leave_blocks_as_they_are_read_their_states(
    name: str, settings: dict[str, Any], levels: int, tmp_path: Path
) -> None:
    methods, histories = (find(name)(**settings), find("tune.full")()), []
    for place, store in (("a", None), ("b", tmp_path / "store")):
        model = dropping("bert")
        model.save_pretrained(tmp_path / place)
        torch.manual_seed(7)
        histories.append(trained(model, tmp_path / place, store, methods=methods)[1])
    assert seen(histories[1]) == pytest.approx(seen(histories[0]), abs=1e-5)
    assert len(list((tmp_path / "store").glob("states-*"))) == levels


@pytest.mark.parametrize(
    "edit",
    [
        Attach("side", (("blocks", 1), ("width", 8))),
        Attach("ladder", (("every", 2), ("reduction", 4))),
        Head("mix"),
        Head("last_four"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("name", "settings"), [("tune.freeze", {"blocks": 3}), ("tune.side", {"width": 8})])
def test_what_an_earlier_stage_has_put_there_reads_the_same(
    edit: Any, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """A network beside the model, and a head on several of its states."""
    methods, histories = (find(name)(**settings), find("tune.full")()), []
    for place, store in (("a", None), ("b", tmp_path / "store")):
        model = dropping("bert", blocks=4)
        torch.manual_seed(7)
        apply(model, edit)
        for parameter in model.base_model.get_submodule("graft_0").parameters() if "graft" in vars(edit) else ():
            parameter.data.add_(0.2 * torch.randn_like(parameter))  # a ladder starts at nothing
        model.save_pretrained(tmp_path / place)
        histories.append(trained(model, tmp_path / place, store, methods=methods)[1])
    assert seen(histories[1]) == pytest.approx(seen(histories[0]), abs=1e-5)
    assert any((tmp_path / "store").glob("states-*"))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_in_sixteen_bits_they_are_near(kind: str, tmp_path: Path) -> None:
    auto = replace(EXACT, cache="auto", precision="float32" if kind == "float16" else "bfloat16")
    _, without = trained(dropping("bert"), tmp_path / "a", None, auto)
    _, kept = trained(dropping("bert"), tmp_path / "b", tmp_path / "store", auto)
    assert [f'"kind": "{kind}"' in file.read_text() for file in tmp_path.glob("store/*/about.json")] == [True]
    losses = [[entry["loss"] for entry in history.entries] for history in (kept, without)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


def test_what_hears_the_frozen_blocks_hears_the_same(tmp_path: Path) -> None:
    """A loss on the embeddings and on every block's states."""
    from test_loop import taught

    hidden = find("distil.hidden")(embeddings=True, mapping=((0, 1), (1, 1), (2, 3)))
    methods = (find("tune.freeze")(blocks=2), hidden, find("tune.full")())
    _, without = trained(dropping("modernbert"), tmp_path / "a", None, methods=methods, rows=taught(ROWS))
    _, kept = trained(dropping("modernbert"), tmp_path / "b", tmp_path / "s", methods=methods, rows=taught(ROWS))
    assert seen(kept) == pytest.approx(seen(without), abs=1e-5)
    for one, other in zip(kept.entries, without.entries, strict=True):
        assert one["terms"] == pytest.approx(other["terms"], abs=1e-5)
    assert len(list((tmp_path / "s").glob("states-*"))) > 1


def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    auto = replace(EXACT, cache="auto")
    whole, told = trained(dropping("bert"), tmp_path / "a", tmp_path / "store", auto, checkpoint_seconds=0)
    with pytest.raises(Interrupted):
        trained(dropping("bert"), tmp_path / "b", tmp_path / "s", auto, watch=StopAfter(6), checkpoint_seconds=0)
    resumed, retold = trained(dropping("bert"), tmp_path / "b", tmp_path / "s", auto, checkpoint_seconds=0)
    assert same_bits(whole, resumed) and same_bits(vars(told), vars(retold))


# The blocks run once.


class Before(Said):
    """What had been counted when each bar began."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts, self.then = counts, []

    def bar(self, name: str, total: float) -> Any:
        self.then.append(list(self.counts))
        return super().bar(name, total)


def test_after_the_first_pass_frozen_blocks_are_not_called(calls: Any, tmp_path: Path) -> None:
    model = tiny("bert", blocks=4)
    watch = Before(calls(model))
    trained(model, tmp_path, tmp_path / "s", methods=(find("tune.freeze")(blocks=2), find("tune.full")()), watch=watch)
    assert watch.then == [[0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 0, 0]], "a batch of train, a batch of dev, nothing above"
    assert watch.counts[:2] == [2, 2] and watch.counts[2] == watch.counts[3] > 10


def test_other_seeds_heads_and_rows_read_what_is_there(calls: Any, tmp_path: Path) -> None:
    store, methods = tmp_path / "s", (find("tune.freeze")(blocks=2), find("tune.full")())
    trained(tiny("bert", blocks=4), tmp_path / "a", store, methods=methods)
    times = {file: file.stat().st_mtime_ns for file in store.rglob("*.npy")}
    other = tiny("bert", blocks=4, labels=3)
    other.classifier.weight.data.normal_()
    other.config.id2label = {0: "x", 1: "y", 2: "z"}
    counts = calls(other)
    trained(other, tmp_path / "b", store, methods=methods)
    assert counts[:2] == [0, 0]
    model = tiny("bert", blocks=4)
    model.eval().requires_grad_(False)
    counts = calls(model)
    of_rows(model, (2,), store, rows=make_rows(60))  # other texts: these alone are computed
    assert counts == [1, 1, 0, 0]
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_the_fingerprint_knows_all_that_a_state_depends_on() -> None:
    def prints(model: Any, **config: Any) -> list[str]:
        model.config.update(config)
        return list(fingerprints(model, (0, 1, 2)).values())

    own = prints(tiny("bert", blocks=3))
    assert len(set(own)) == 3
    assert prints(tiny("bert", blocks=3), id2label={0: "other"}, architectures=["Other"]) == own
    assert not set(prints(tiny("bert", blocks=3), layer_norm_eps=1e-3)) & set(own)
    assert not set(prints(tiny("bert", blocks=3, seed=1))) & set(own)
    model = tiny("bert", blocks=3)
    anatomy(model).blocks[1].down.bias.data[0] += 1
    changed = prints(model)
    assert changed[:2] == own[:2] and changed[2] != own[2]


def test_a_row_is_known_by_its_tokens_and_types() -> None:
    encoded = ROWS.encoded
    keys = row_keys(encoded)
    assert len(set(keys.tolist())) == len(ROWS)
    types = encoded.types.copy()
    types[encoded.starts[5]] = 1
    assert np.flatnonzero(row_keys(replace(encoded, types=types)) != keys).tolist() == [5]


# On disk.


def test_states_are_ragged_and_right_whatever_the_padding(tmp_path: Path) -> None:
    for family in FAMILIES:
        model = tiny(family, blocks=3)
        kept = of_rows(model, (0, 2, 3), tmp_path / family)
        assert all(isinstance(shard["states"], np.memmap) for found in kept.found for shard in found.shards)
        assert kept.found[1].shards[0]["states"].shape == (ROWS.encoded.lengths.sum(), 32)
        dev = replace(ROWS, kept=kept)
        accelerator = make_accelerator("float32")
        exact = predict(model, ROWS, accelerator, None)
        np.testing.assert_allclose(predict(model, dev, accelerator, None), exact, atol=1e-5)
        for rows in (np.array([3]), np.array([3, 9, 17])):
            batch = {k: torch.from_numpy(v) for k, v in ROWS.encoded.batch(rows, PAD).items()}
            del batch["token_type_ids"]
            longer = {k: torch.nn.functional.pad(v, (0, 7), value=PAD * (k == "input_ids")) for k, v in batch.items()}
            with torch.no_grad():
                for inputs in (batch, longer):
                    with handing(model, kept, rows, inputs["input_ids"].shape[1]):
                        said = model(**inputs).logits
                    np.testing.assert_allclose(said.numpy(), exact[rows], atol=1e-5)


def until_killed(root: Path) -> None:
    """In the middle of the third shard the process is killed."""
    real = np.save

    def save(file: Any, array: np.ndarray) -> None:
        if len(list(root.glob("states-*/shard-*"))) == 2:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, array)

    module.SHARD, np.save = 100 * 32 * 4, save  # type: ignore[misc,assignment]
    of_rows(tiny("bert"), (1,), root)


def test_a_killed_process_loses_one_shard_at_most(tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(until_killed, tmp_path)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (folder,) = tmp_path.glob("states-*")
    safe = sorted(folder.glob("shard-*"))
    assert len(safe) == 2 and list(folder.glob(".draft-*"))
    monkeypatch.setattr(module, "SHARD", 100 * 32 * 4)
    model = tiny("bert")
    counts = calls(model)
    Store(tmp_path).sweep()
    kept = of_rows(model, (1,), tmp_path)
    assert counts[0] == len(kept.found[0].shards) - 2 > 1 and not list(folder.glob(".draft-*"))
    whole = of_rows(model, (1,), tmp_path / "other")
    every = np.arange(len(ROWS))
    torch.testing.assert_close(kept.states(every, 20)[1], whole.states(every, 20)[1], rtol=0, atol=1e-6)


def test_a_folder_of_other_states_is_an_error(tmp_path: Path) -> None:
    of_rows(tiny("bert"), (1,), tmp_path)
    (about,) = tmp_path.glob("states-*/about.json")
    about.write_text(about.read_text().replace('"level": 1', '"level": 2'))
    with pytest.raises(ArtefactError, match=r"holds states for \w{16}, wanted \w{16}\. Delete it\."):
        of_rows(tiny("bert"), (1,), tmp_path)


def test_a_full_disk_is_told_before_anything_is_computed(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1000))
    model = tiny("bert")
    counts = calls(model)
    with pytest.raises(InputError, match=r"the states of the frozen blocks take 0\.00 GB, .* write cache: off in"):
        of_rows(model, (1,), tmp_path)
    assert counts == [0, 0]


def test_what_sixteen_bits_cannot_hold_is_not_kept(tmp_path: Path) -> None:
    model, watch = tiny("modernbert", blocks=3), Said()
    anatomy(model).blocks[0].down.weight.data *= 1e6
    trained(model, tmp_path, tmp_path / "s", replace(EXACT, cache="auto"), watch=watch)
    assert watch.told == [
        "The frozen blocks run in every step: float16 cannot hold what they give (cache: float32 can)."
    ]
    assert of_rows(model, (1,), tmp_path / "t")


# What is frozen below, and what is kept of it.


def test_how_deep_it_is_frozen() -> None:
    model = tiny("mpnet", blocks=3)
    parts = anatomy(model)
    assert frozen_below(model) == -1
    parts.embeddings.requires_grad_(False)
    assert frozen_below(model) == -1, "the relative bias trains"
    parts.body.encoder.relative_attention_bias.requires_grad_(False)
    assert frozen_below(model) == 0
    for count, block in enumerate(parts.blocks, 1):
        block.module.requires_grad_(False)
        assert frozen_below(model) == count
    handle = parts.blocks[1].down.register_forward_hook(lambda *_: None)
    assert frozen_below(model) == 1
    handle.remove()
    parts.blocks[2].module.forward = parts.blocks[2].module.forward
    assert frozen_below(model) == 2
    parts.blocks[0].up.bias.requires_grad = True
    assert frozen_below(model) == 0


def test_only_what_is_frozen_from_below_rests() -> None:
    model = tiny("electra", blocks=3)
    parts = anatomy(model)
    for part in (parts.embeddings, parts.project, parts.blocks[0].module, parts.blocks[2].module):
        part.requires_grad_(False)
    model.train()
    rest(model)
    assert not parts.embeddings.training and not parts.project.training
    assert [block.module.training for block in parts.blocks] == [False, True, True]


@pytest.mark.parametrize(
    ("names", "taps", "masked", "levels", "why"),
    [
        (("tune.full",), (), False, (), "they thaw on the way"),
        (("freeze", "tune.full"), (), False, (2,), ""),
        (("freeze", "tune.full"), ("logits", "block.2.hidden", "block.2.probs", "pooled"), False, (2,), ""),
        (("freeze", "tune.full"), ("block.0.first", "embeddings"), False, (0, 1, 2), ""),
        (("freeze", "tune.full"), ("block.-3.hidden",), False, (1, 2), ""),
        (
            ("freeze", "tune.full"),
            ("block.1.value",),
            False,
            (),
            "block.1.value is asked for, which is inside one of them",
        ),
        (("freeze", "tune.full"), (), True, (), "masking makes the texts anew in each step"),
        (("freeze", "distil.mask_language"), (), False, (), "distil.mask_language makes the texts anew in each step"),
        (("freeze", "prune.magnitude"), (), False, (), "prune.magnitude writes into weights that are frozen"),
    ],
)
def test_which_levels_are_kept_and_why_none(
    names: tuple[str, ...], taps: tuple[str, ...], masked: bool, levels: tuple[int, ...], why: str
) -> None:
    model = tiny("bert", blocks=3)
    freeze = find("tune.freeze")(blocks=2)
    freeze.begin(Context(Path(), Path(), TASK, (), 0, model))
    methods = [freeze if name == "freeze" else find(name)() for name in names]
    assert levels_of(model, methods, taps, masked) == (levels, why)


def test_nothing_is_kept_beside_a_method_that_thaws() -> None:
    """Whatever another method keeps frozen: what thaws later would be run past, and never train."""
    for beside in ("tune.head", "tune.side", "tune.full"):
        thawing = find("tune.freeze")(blocks="all", thaw="top_down")
        model = tiny("bert", blocks=3)
        thawing.begin(Context(Path(), Path(), TASK, (), 0, model))
        for methods in ([thawing, find(beside)()], [find(beside)(), thawing]):
            assert levels_of(model, methods, (), False) == ((), "they thaw on the way")


def test_where_nothing_is_frozen_nothing_is_said() -> None:
    assert levels_of(tiny("bert"), [find("tune.full")()], (), False) == ((), "")


def test_what_thaws_is_not_kept_and_one_is_told(tmp_path: Path) -> None:
    thawing = (find("tune.freeze")(blocks="all", thaw="top_down"), find("tune.full")())
    watch = Said()
    trained(tiny("bert"), tmp_path, tmp_path / "s", methods=thawing, watch=watch)
    assert watch.told == ["The frozen blocks run in every step: they thaw on the way."]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("training", [replace(EXACT, cache="off"), replace(EXACT, epochs=1)])
def test_off_or_a_single_epoch(training: Training, tmp_path: Path) -> None:
    watch = Said()
    trained(tiny("bert"), tmp_path, tmp_path / "s", training, watch=watch)
    assert watch.told == [] and not (tmp_path / "s").exists()


def test_a_recipe_keeps_them_beside_its_stages(tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    folder = model_folder(tmp_path / "model", blocks=3)
    uses = (Use("tune.freeze", {"blocks": 2}), Use("tune.full"))
    stages = tuple(Stage(f"s{seed}", uses, source="model", seed=seed, train=EXACT) for seed in (0, 1))
    planned = plan(Recipe(str(folder), Files(files["train"], files["dev"]), stages))
    foretold = costs(planned, tmp_path / "stages")
    run(planned, tmp_path / "stages")
    (states,) = (tmp_path / "stages").glob("states-*")
    shards = open_shards(states)
    assert len(shards) == 2  # of train and of dev, once for both seeds
    assert [stage["keeps_mb"] for stage in foretold] == [sum(s["states"].nbytes for s in shards) / 1e6] * 2
    assert re.match(r"what its frozen blocks give takes about 0\.\d+ MB on disk", foretold[0]["remarks"][0])


@pytest.mark.parametrize(
    ("freeze", "training"),
    [
        ({"blocks": 2, "thaw": "top_down"}, {}),
        ({"blocks": 2, "embeddings": False}, {}),
        ({"embeddings": True}, {}),
        ({"blocks": 2}, {"cache": "off"}),
        ({"blocks": 2}, {"epochs": 1.0}),
    ],
    ids=str,
)
def test_a_plan_without_kept_states(
    freeze: dict[str, Any], training: dict[str, Any], tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    stage = Stage("s", (Use("tune.freeze", freeze), Use("tune.full")), train=replace(EXACT, **training))
    planned = plan(Recipe(str(tiny_bert), Files(tiny_data["train"], tiny_data["dev"]), (stage,)))
    assert costs(planned, tmp_path)[0]["keeps_mb"] is None


def test_how_they_are_kept_is_part_of_the_id(tiny_bert: Path, tiny_data: dict[str, str]) -> None:
    def id_of(cache: str) -> str:
        stage = Stage("s", (Use("tune.full"),), train=replace(EXACT, cache=cache))
        return plan(Recipe(str(tiny_bert), Files(tiny_data["train"], tiny_data["dev"]), (stage,))).stages[0].id

    assert len({id_of(cache) for cache in ("auto", "float32", "off")}) == 3
    with pytest.raises(RecipeError, match=r"cache: got 'on', wanted one of auto, float32, off\."):
        id_of("on")
