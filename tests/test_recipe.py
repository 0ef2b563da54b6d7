"""A recipe is data: text and back, and every fault of a text told at once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import RecipeError
from smidgen.method import find, names
from smidgen.recipe import (
    Files,
    Recipe,
    Stage,
    Training,
    Use,
    build,
    dump,
    load,
    packaged,
    to_data,
)

HEAD = "model: m\ndata: {train: t.csv}\n"


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load(text)
    return caught.value.faults


# Text and back.

WORDS = st.text(min_size=1, max_size=12)
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
PLAIN = st.one_of(NUMBERS, WORDS, st.none())
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3))
USES = st.builds(Use, WORDS, st.dictionaries(WORDS, VALUES, max_size=3))
FLOATS = st.floats(allow_nan=False)
TRAINING = st.builds(
    Training,
    epochs=FLOATS,
    learning_rate=FLOATS,
    batch_size=st.integers(),
    warmup=FLOATS,
    schedule=WORDS,
    precision=st.sampled_from(["auto", "float32"]),
)
MAYBE = st.none() | WORDS
FILES = st.builds(
    Files, WORDS, MAYBE, MAYBE, MAYBE, MAYBE, label_column=MAYBE, multi_label=st.none() | st.booleans(), metric=MAYBE
)
STAGES = st.builds(
    Stage,
    WORDS,
    st.lists(USES, min_size=1, max_size=2).map(tuple),
    MAYBE,
    MAYBE,
    st.sampled_from(["train", "unlabeled"]),
    TRAINING,
    st.none() | st.integers(),
)
RECIPES = st.builds(
    Recipe, model=WORDS, data=FILES, stages=st.lists(STAGES, max_size=2).map(tuple), seed=st.integers(), name=WORDS
)


@settings(max_examples=60, deadline=None)
@given(RECIPES)
def test_text_and_back(recipe: Recipe) -> None:
    assert load(dump(recipe)) == recipe


def test_dump_is_short_and_readable() -> None:
    recipe = Recipe(
        "m",
        Files("t.csv"),
        (
            Stage("first", (Use("tune.full"),)),
            Stage("second", (Use("prune.layers", {"keep": [0, 2]}),), source="first", seed=7),
        ),
    )
    assert dump(recipe) == (
        "schema: 1\n"
        "model: m\n"
        "data:\n"
        "  train: t.csv\n"
        "stages:\n"
        "- name: first\n"
        "  methods:\n"
        "  - tune.full\n"
        "- name: second\n"
        "  methods:\n"
        "  - prune.layers:\n"
        "      keep:\n"
        "      - 0\n"
        "      - 2\n"
        "  from: first\n"
        "  seed: 7\n"
    )


def test_the_ways_to_write_methods() -> None:
    several = ["{tune.full: {}, prune.layers: {keep: 3}}", "[tune.full, {prune.layers: {keep: 3}}]"]
    for written in [*several, "\n    tune.full:\n    prune.layers:\n      keep: 3\n"]:
        (stage,) = load(f"{HEAD}stages:\n- methods: {written}").stages
        assert stage.methods == (Use("tune.full"), Use("prune.layers", {"keep": 3}))
        assert stage.name == "tune.full+prune.layers"  # where none is given


def test_numbers_as_yaml_reads_them() -> None:
    """YAML 1.1 takes 5e-5 for text and 3 for a whole number; both are numbers here."""
    (stage,) = load(f"{HEAD}stages: [{{methods: [tune.full], train: {{learning_rate: 5e-5, epochs: 3}}}}]").stages
    assert stage.train == Training(learning_rate=5e-5, epochs=3.0)
    assert isinstance(stage.train.epochs, float)


def test_settings_of_methods_stay_as_written() -> None:
    """A recipe can be read where torch and the methods' own packages are not."""
    (stage,) = load(f"{HEAD}stages: [{{methods: {{no.such: {{what: [1, two]}}}}}}]").stages
    assert stage.methods == (Use("no.such", {"what": [1, "two"]}),)


@pytest.mark.parametrize("name", sorted(packaged()))
def test_packaged_recipes(name: str) -> None:
    recipe = load(packaged()[name].read_text(encoding="utf-8"), name)
    assert load(dump(recipe)) == recipe
    assert {use.method for stage in recipe.stages for use in stage.methods} <= set(names())


# Faults.


def test_every_fault_at_once() -> None:
    text = """
schema: 2
modle: m
data: {train: t.csv, dve: d.csv, multi_label: maybe}
seed: one
stages:
- methods: {tune.full: {}}
  tain: {epochs: 1}
- {}
- methods: {prune.layers: 3}
- methods: {tune.full: {}}
  train: {epochs: many, batch_size: 1.5, clip: true}
  sede: 1
"""
    assert faults_of(text) == (
        "schema: got 2, this smidgen reads schema 1.",
        "modle: no such key. Did you mean 'model'? Known here: model, data, stages, task, seed, name.",
        "data.dve: no such key. Did you mean 'dev'? Known here: train, dev, test, unlabeled, text_column, "
        "text_pair_column, label_column, task_column, multi_label, metric, max_length.",
        "data.multi_label: wanted true or false, got 'maybe'.",
        "seed: wanted a whole number, got 'one'.",
        "stages[0].tain: no such key. Did you mean 'train'? Known here: name, methods, from, teacher, data, train, "
        "seed.",
        "stages[1].name: missing; write 'name: ...'.",
        "stages[1].methods: missing; write 'methods: ...'.",
        "stages[2].methods.prune.layers: wanted a mapping of settings.",
        "stages[3].train.epochs: wanted a number, got 'many'.",
        "stages[3].train.batch_size: wanted a whole number, got 1.5.",
        "stages[3].train.clip: wanted a number, got True.",
        "stages[3].sede: no such key. Did you mean 'seed'? Known here: name, methods, from, teacher, data, train, "
        "seed.",
        "model: missing; write 'model: ...'.",
    )


def test_the_error_lists_its_faults() -> None:
    with pytest.raises(RecipeError) as caught:
        load("data: 3\nstages: 4", where="small.yaml")
    assert str(caught.value) == (
        "small.yaml: 3 faults\n"
        "  - data: wanted a mapping of keys to values, got 3.\n"
        "  - stages: wanted [a mapping of keys to values, ...], got 4.\n"
        "  - model: missing; write 'model: ...'."
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is empty. A recipe has a model, data and stages; see 'smidgen run --help'."),
        ("[1, 2]", "a recipe is a mapping of keys to values, got list; see 'smidgen run --help'."),
        ("just words", "a recipe is a mapping of keys to values, got str; see 'smidgen run --help'."),
        ("model: m\nseed: 'x", "line 2: this is not YAML: found unexpected end of stream."),
        ("model: m\n\tseed: 1", "line 2: this is not YAML: found character '\\t' that cannot start any token."),
        ("a: 1\nb: 2\nmodel: [1", "line 3: this is not YAML: expected ',' or ']', but got '<stream end>'."),
        (HEAD + "model: n", "line 3: this is not YAML: the key 'model' comes twice."),
        (
            HEAD + "stages:\n- methods:\n    tune.full: {weight: 1}\n    tune.full: {weight: 2}",
            "line 6: this is not YAML: the key 'tune.full' comes twice.",
        ),
        (
            "model: !!python/object/apply:os.system [x]",
            "line 1: this is not YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'.",
        ),
        ("model: m\ndata: !choose [1]", "line 2: this is not YAML: could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_recipe(text: str, fault: str) -> None:
    (found,) = faults_of(text)
    assert found.startswith(fault)


@pytest.mark.parametrize("written", ["[]", "{}", "3", "[[tune.full]]", "[{tune.full: {}, prune.layers: {}}]", "[3]"])
def test_methods_that_are_none(written: str) -> None:
    (fault,) = faults_of(f"{HEAD}stages: [{{methods: {written}}}]")
    assert fault.startswith("stages[0].methods: wanted methods by name, such as {tune.full: {}}, got ")


def test_a_tag_of_its_own_is_no_yaml_of_a_recipe() -> None:
    (fault,) = faults_of(f"{HEAD}stages: [{{methods: {{prune.layers: {{keep: !choice [1, 2]}}}}}}]")
    assert fault == "line 3: this is not YAML: could not determine a constructor for the tag '!choice'."


# Settings of methods, as the planner reads them.


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("prune.layers", {"keep": 3}, 3),
        ("prune.layers", {"keep": [0, 2]}, (0, 2)),
        ("distil.hidden", {"mapping": "skip"}, "skip"),
        ("distil.hidden", {"mapping": [[0, 1], [1, 3]]}, ((0, 1), (1, 3))),
        ("distil.logits", {"temperature": "1e1"}, 10.0),
    ],
)
def test_settings_with_several_types(name: str, written: dict[str, Any], value: Any) -> None:
    faults: list[str] = []
    found = build(find(name), written, "", faults)
    assert found is not None and not faults
    assert getattr(found, next(iter(written))) == value


@pytest.mark.parametrize(
    ("name", "written", "fault"),
    [
        (
            "prune.layers",
            {"keep": "all"},
            "x.keep: wanted a number or [a whole number, ...], got 'all'.",
        ),
        (
            "prune.layers",
            {"keep": True},
            "x.keep: wanted a number or [a whole number, ...], got True.",
        ),
        ("prune.layers", {"keep": [0, 1.5]}, "x.keep[1]: wanted a whole number, got 1.5."),
        ("distil.hidden", {"mapping": 3}, "x.mapping: wanted text or [[a whole number, a whole number], ...], got 3."),
        (
            "distil.hidden",
            {"mapping": [[0, 1], [1, 2, 3]]},
            "x.mapping[1]: wanted [a whole number, a whole number], got [1, 2, 3].",
        ),
        ("distil.logits", {"hard": "half"}, "x.hard: wanted a number, got 'half'."),
        ("distil.logits", {"hard": None}, "x.hard: wanted a number, got None."),
        ("distil.hidden", {"embeddings": 1}, "x.embeddings: wanted true or false, got 1."),
        (
            "distil.logits",
            {"temprature": 2},
            "x.temprature: no such key. Did you mean 'temperature'? Known here: loss_kind, temperature, hard, weight.",
        ),
    ],
)
def test_settings_of_another_type(name: str, written: dict[str, Any], fault: str) -> None:
    faults: list[str] = []
    build(find(name), written, "x.", faults)
    assert faults == [fault]


def test_to_data_leaves_out_what_is_at_its_default() -> None:
    assert to_data(Training()) == {}
    assert to_data(Training(epochs=1)) == {"epochs": 1}
    assert to_data(Use("tune.full")) == "tune.full"


def test_faults_arrive_whole_from_another_process() -> None:
    told = pickle.loads(pickle.dumps(RecipeError(["a: got 1.", "b: got 2."], "recipe.yaml")))
    assert told.faults == ("a: got 1.", "b: got 2.") and str(told).startswith("recipe.yaml: 2 faults")


def test_what_is_merged_is_read_as_yaml_has_it() -> None:
    text = f"{HEAD}stages:\n- methods: [tune.full]\n  train: &t {{epochs: 3, batch_size: 8}}\n- methods: [tune.full]\n"
    first, second = load(text + "  name: b\n  train: {<<: *t, epochs: 2}\n").stages
    assert (first.train.epochs, second.train.epochs, second.train.batch_size) == (3, 2, 8)
