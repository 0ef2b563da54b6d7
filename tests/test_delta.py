"""Deltas: what a tuned task is beside its base; another base, another tokenizer or a changed file is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LABELS, adapter_folder, data_files, model_folder
from safetensors.torch import load_file, save_file
from tiny import batch

from smidgen.artefact import file_hash
from smidgen.bundle import bundle
from smidgen.delta import body_hash, fit, read, write_record
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.exchange.adapterhub import to_adapterhub
from smidgen.merging import merged
from smidgen.method import Context, find
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import Done, run
from smidgen.source import load_model, resolve
from smidgen.tasks import Classify

WAYS: dict[str, dict[str, Any]] = {
    "tune.bitfit": {},
    "tune.adapter": {"width": 4, "kind": "houlsby"},
    "tune.freeze": {"blocks": 1},
    "tune.fusion": {"adapters": ("a", "b"), "rank": 4},
    "tune.ladder": {"reduction": 4},
    "tune.lora": {"kind": "dora", "rank": 2, "sites": ("query", "down")},
    "tune.mask": {"learning_rate": 0.1},
    "tune.prefix": {"length": 3, "hidden": 8},
    "tune.prompt": {"length": 3},
    "tune.side": {"width": 8, "blocks": 1},
    "tune.sparse": {"budget": 0.05},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("delta")
    model_folder(root / "base")
    for name, width in (("a", 3), ("b", 5)):
        adapter_folder(root / name, root / "base", width)
    data_files(root)
    return root


def tuned(root: Path, method: str, settings: dict[str, Any], base: str = "base", beside: tuple[Use, ...] = ()) -> Done:
    if "adapters" in settings:
        settings = settings | {"adapters": tuple(str(root / name) for name in settings["adapters"])}
    files = {path.stem: str(path) for path in root.glob("*.csv")}
    stage = Stage("t", (Use("tune.full"), Use(method, settings), *beside), train=Training(epochs=2, learning_rate=1e-2))
    recipe = Recipe(str(root / base), Files(files["train"], files["dev"]), (stage,))
    return run(plan(recipe), root / "stages")[-1]


@pytest.mark.parametrize("method", WAYS)
def test_a_delta_on_its_base_is_the_tuned_model(method: str, root: Path) -> None:
    done = tuned(root, method, WAYS[method])
    delta, base = read(done.artefact.path / "delta"), resolve(str(root / "base"))
    whole = load_model(resolve(str(done.artefact.path)), delta.task, 0)
    model, inputs = fit(delta, base), batch(30, [4, 7, 2])
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, whole(**inputs).logits, atol=1e-5, rtol=0)
    assert set(delta.head) == {"classifier.weight", "classifier.bias"}, "what is beside the model is no head"
    counted = delta.record["parameters"]
    assert counted["head"] == sum(v.numel() for v in delta.head.values())
    assert 0 < counted["delta"] < counted["base"] == base.parameters


def test_a_head_of_another_kind_is_a_delta(root: Path) -> None:
    done = tuned(root, "tune.head", {"pool": "mix"})
    delta = read(done.artefact.path)
    whole = load_model(resolve(str(done.artefact.path)), delta.task, 0)
    model, inputs = fit(delta, resolve(str(root / "base"))), batch(30, [4, 7, 2])
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, whole(**inputs).logits, atol=1e-5, rtol=0)
    assert delta.parts == () and set(delta.head) == {"classifier.weight", "classifier.bias", "mix.weights", "mix.scale"}


@pytest.mark.parametrize("method", ["tune.bitfit", "tune.freeze"])
def test_no_delta_where_another_method_changes_what_is_frozen(method: str, root: Path) -> None:
    done = tuned(root, method, WAYS[method], beside=(Use("prune.magnitude", {"share": 0.3}),))
    assert (done.artefact.path / "model.safetensors").is_file() and not (done.artefact.path / "delta").exists()


def test_the_body_has_one_hash_with_any_head(root: Path) -> None:
    base, headed = resolve(str(root / "base")), resolve(str(model_folder(root / "headed", labels=("bad", "good"))))
    shifted = resolve(str(tuned(root, "tune.bitfit", {"sites": ("query",)}).artefact.path))
    assert body_hash(base) == body_hash(headed) != body_hash(shifted)


def test_another_base_is_refused(root: Path) -> None:
    delta = read(tuned(root, "tune.bitfit", {}).artefact.path)
    other = model_folder(root / "other", seed=5)
    with pytest.raises(ModelError, match=r"made on a base whose weights hash to [0-9a-f]{16} \(.*/base\)"):
        fit(delta, resolve(str(other)))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("num_attention_heads", 2, r"num_attention_heads is 2, was 4"),
        ("hidden_act", "relu", r"hidden_act is 'relu', was 'gelu'"),
        ("layer_norm_eps", 1e-3, r"layer_norm_eps is 0\.001, was 1e-12"),
    ],
)
def test_another_config_of_the_same_weights_is_refused(
    key: str, value: Any, told: str, root: Path, tmp_path: Path
) -> None:
    """By all that use a delta: the weights have the hash, and compute something else."""
    folder = adapter_folder(tmp_path / "made", root / "base")
    twin = resolve(str(configured(root, tmp_path / "twin", {key: value})))
    assert body_hash(twin) == read(folder).record["base"]["hash"]
    uses = [
        lambda: fit(read(folder), twin),
        lambda: merged(twin.reference, folder, tmp_path / "out"),
        lambda: bundle(twin.reference, [str(folder)], tmp_path / "out"),
        lambda: to_adapterhub(read(folder), twin, tmp_path / "out"),
    ]
    for use in uses:
        with pytest.raises(ModelError, match=rf"same weights and another config; in that of .*twin {told}\. Give the"):
            use()
    (misfit,) = find("tune.fusion")(adapters=(str(folder),)).misfits(twin)
    assert "another config" in misfit and not (tmp_path / "out").exists()


def test_what_a_config_says_beside_the_body_may_differ(root: Path, tmp_path: Path) -> None:
    """Labels, what training alone reads, what is given out besides, and what this transformers does not know."""
    folder = adapter_folder(tmp_path / "made", root / "base")
    other = {"hidden_dropout_prob": 0.3, "use_cache": False, "id2label": {"0": "x", "1": "y"}, "news": 1}
    fit(read(folder), resolve(str(configured(root, tmp_path / "twin", other))))


def test_a_delta_that_has_no_word_of_the_config_is_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(root / "base")
    folder = sealed(tmp_path, "old", lambda record, file: record["base"].pop("config"))
    fit(read(folder), resolve(str(configured(root, tmp_path / "twin", {"hidden_act": "relu"}))))


def configured(root: Path, twin: Path, changed: dict[str, Any]) -> Path:
    """The base with other settings in its config.json."""
    shutil.copytree(root / "base", twin)
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(config | changed))
    return twin


def test_another_tokenizer_is_refused(root: Path) -> None:
    delta = read(tuned(root, "tune.bitfit", {}).artefact.path)
    twin = root / "twin"
    shutil.copytree(root / "base", twin, dirs_exist_ok=True)
    tokenizer = json.loads((twin / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (twin / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"made with another tokenizer than that of .*/twin"):
        fit(delta, resolve(str(twin)))


def spoilt(root: Path, name: str) -> Path:
    folder = root / name
    shutil.copytree(tuned(root, "tune.bitfit", {}).artefact.path / "delta", folder, dirs_exist_ok=True)
    return folder


def test_changed_and_cut_files_are_refused(root: Path) -> None:
    folder = spoilt(root, "cut")
    whole = (folder / "delta.safetensors").read_bytes()
    for bytes_ in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        (folder / "delta.safetensors").write_bytes(bytes_)
        with pytest.raises(ArtefactError, match=r"delta\.safetensors is missing, cut short or changed"):
            read(folder)


def test_a_changed_word_of_the_record_is_refused(root: Path) -> None:
    folder = spoilt(root, "relabelled")
    record = json.loads((folder / "delta.json").read_text())
    record["task"]["labels"] = record["task"]["labels"][::-1]
    (folder / "delta.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"delta\.json is changed\. Copy the delta again"):
        read(folder)


def test_pickles_are_refused(root: Path) -> None:
    folder = spoilt(root, "pickled")
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"adapter_model\.bin is a pickle, which can run code"):
        read(folder)


def test_other_folders_and_schemas_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"not a delta, there is no delta\.json\. Make one with 'smidgen tune'"):
        read(root / "base")
    folder = spoilt(root, "later")
    record = json.loads((folder / "delta.json").read_text())
    (folder / "delta.json").write_text(json.dumps(record | {"schema": 9}))
    with pytest.raises(ArtefactError, match=r"schema 9, this smidgen reads 1"):
        read(folder)
    (folder / "delta.json").write_text("[]")
    with pytest.raises(ArtefactError, match=r"delta\.json cannot be read"):
        read(folder)


def sealed(root: Path, name: str, change: Any) -> Path:
    """A delta of an adapter that says something else, or holds something else, and is whole by its hashes."""
    folder = adapter_folder(root / name, root / "base")
    record = json.loads((folder / "delta.json").read_text())
    change(record, folder / "delta.safetensors")
    file = folder / "delta.safetensors"
    write_record(folder, record | {"file": [file.stat().st_size, file_hash(file)]})
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r, f: r.pop("base"), r"delta\.json cannot be read \(KeyError\('base'\)\)"),
        (lambda r, f: r.pop("tokenizer"), r"delta\.json cannot be read \(KeyError\('tokenizer'\)\)"),
        (lambda r, f: r["base"].update(config=3), r"3 is no dict"),
        (lambda r, f: r.update(max_length="x"), r"'x' is no int"),
        (lambda r, f: r.update(edits=3), r"'int' object is not iterable"),
        (lambda r, f: r.update(methods=3), r"3 is no dict"),
        (lambda r, f: f.write_bytes(b"x" * 50), r"delta\.safetensors cannot be read"),
        (
            lambda r, f: save_file({n: v * float("nan") for n, v in load_file(f).items()}, f),
            r"0/back\.0/down has numbers that are not finite\. Make the delta again",
        ),
    ],
)
def test_what_is_whole_and_no_delta_is_refused(change: Any, told: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(root / "base")
    with pytest.raises(ArtefactError, match=told):
        read(sealed(tmp_path, "odd", change))


@pytest.mark.parametrize("setting", [{"width": "x"}, {"activation": "nope"}, {"kind": "Houlsby"}])
def test_settings_that_the_base_cannot_have_are_refused(setting: dict[str, Any], root: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(root / "base")
    folder = sealed(tmp_path, "odd", lambda record, file: record["parts"][0]["settings"].update(setting))
    base = resolve(str(root / "base"))
    for use in (lambda: fit(read(folder), base), lambda: bundle(str(root / "base"), [str(folder)], tmp_path / "out")):
        with pytest.raises(ModelError, match=r"odd: its adapter does not fit the base \("):
            use()


# Several methods in a stage.


@pytest.mark.parametrize("kind", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("first", ["tune.adapter", "tune.bitfit"])
def test_the_model_that_is_left_is_the_one_that_trained_in_any_order(kind: str, first: str, tmp_path: Path) -> None:
    """Shifts of biases are folded in, and the adapter behind them reads their sum; so it has to while it trains."""
    home = model_folder(tmp_path / "base")
    task, inputs = Classify(LABELS), batch(100, [5, 9, 3])
    ctx = Context(home, home, task, (), 0, load_model(resolve(str(home)), task, 0))
    settings: dict[str, Any] = {"tune.adapter": {"kind": kind, "width": 4}, "tune.bitfit": {}}
    methods = [find(name)(**settings[name]) for name in (first, *(n for n in settings if n != first))]
    states = [method.begin(ctx) for method in methods]
    assert ctx.model is not None
    with torch.no_grad():
        for state in states:
            for parameter in state.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        trained = ctx.model.eval()(**inputs).logits
        for method, state in reversed(list(zip(methods, states, strict=True))):
            method.end(state, ctx)
        torch.testing.assert_close(ctx.model(**inputs).logits, trained, atol=1e-5, rtol=0)


def test_adapters_that_drop_out_at_random_are_all_there_when_they_are_judged(tmp_path: Path) -> None:
    home = model_folder(tmp_path / "base", blocks=6)
    said: dict[int, list[Any]] = {}
    for seed in (0, 1):
        ctx = Context(home, home, Classify(LABELS), (), seed, load_model(resolve(str(home)), Classify(LABELS), 0))
        method = find("tune.adapter")(drop="random", width=4)
        state = method.begin(ctx)
        with torch.no_grad():
            for parameter in state.parameters():
                parameter.fill_(0.1)
        assert ctx.model is not None
        inputs, skips = batch(100, [5, 9]), []
        for t in (0.1, 0.5, 0.9, 1.0):
            method.step(state, t)
            skips.append(int(state[0].skip))
            said.setdefault(seed, []).append(ctx.model.eval()(**inputs).logits)
        assert len(set(skips)) > 1
        assert all(torch.equal(one, said[seed][0]) for one in said[seed])
        said[seed] = skips
    assert said[0] != said[1], "another seed, other draws"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("tune.lora", {"rank": 2}), ("tune.bitfit", {"sites": ("key",)})),
        (("tune.lora", {"rank": 2}), ("tune.adapter", {"width": 2})),
        (("tune.lora", {"rank": 2}), ("tune.prefix", {"length": 2})),
        (("tune.prefix", {"length": 2}), ("tune.adapter", {"width": 2})),
        (("tune.prompt", {"length": 2}), ("tune.adapter", {"width": 2})),
    ],
)
def test_two_methods_leave_one_delta_in_either_order(first: Any, second: Any, root: Path) -> None:
    """What trains is what they put beside the base, and the delta is the model that was left."""
    for (method, settings), other in ((first, Use(*second)), (second, Use(*first))):
        done = tuned(root, method, settings, beside=(other,))
        delta = read(done.artefact.path / "delta")
        assert len(delta.parts) == 2 and all(bool(v.any()) for part in delta.parts for v in part.tensors.values())
        counted = delta.record["parameters"]["delta"]
        assert counted < 0.2 * delta.record["parameters"]["base"], "no matrix of the base trains"


def test_a_shift_beside_a_head_trains(root: Path) -> None:
    done = tuned(root, "tune.lora", {"rank": 2}, beside=(Use("tune.head", {"pool": "mean"}),))
    (part,) = read(done.artefact.path / "delta").parts
    assert all(bool(value.any()) for name, value in part.tensors.items() if name.startswith("back."))
