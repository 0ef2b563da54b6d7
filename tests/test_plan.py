"""A plan: ids that change with what a result depends on and with nothing else, and every fault told at once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import LABELS, model_folder, sentences, write_csv, write_tokenizer
from tiny import tiny

from smidgen.data import load_data
from smidgen.errors import DataError, InputError, ModelError, RecipeError
from smidgen.method import find
from smidgen.planner import Plan, plan, resolved_model
from smidgen.recipe import Files, Recipe, Stage, Training, Use, dump, load
from smidgen.source import resolve

TUNE = (Use("tune.full"),)
TEACH, DISTIL, POLISH, GRAPH, INT8 = range(5)  # the stages of `recipe`, in order
ALL = {TEACH, DISTIL, POLISH, GRAPH, INT8}
FROM_DISTIL = {DISTIL, POLISH, GRAPH, INT8}
QUICK = Training(epochs=1, precision="float32")


@pytest.fixture
def recipe(tiny_bert: Path, tiny_data: dict[str, str]) -> Recipe:
    """A teacher is trained, cut and distilled, polished, exported and quantised."""
    cut = (Use("prune.layers", {"keep": 1}), Use("distil.logits", {"hard": 0.5}))
    stages = (
        Stage("teach", TUNE, train=QUICK),
        Stage("distil", cut, source="model", teacher="teach", data="train+unlabeled", train=QUICK),
        Stage("polish", TUNE, train=QUICK),
        Stage("graph", (Use("export.onnx"),)),
        Stage("int8", (Use("quant.dynamic"),)),
    )
    return Recipe(str(tiny_bert), Files(**tiny_data), stages)


def single(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with one stage, called `s`, that trains on the labels unless `fields` say otherwise."""
    stage = Stage(**{"name": "s", "methods": TUNE, **fields})
    return dataclasses.replace(recipe, stages=(stage,))


def stage(recipe: Recipe, index: int, **fields: Any) -> Recipe:
    """The recipe with other fields in one stage."""
    changed = dataclasses.replace(recipe.stages[index], **fields)
    return dataclasses.replace(recipe, stages=(*recipe.stages[:index], changed, *recipe.stages[index + 1 :]))


def files(recipe: Recipe, **fields: Any) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **fields))


def edited(path: str, folder: Path, old: str, new: str) -> str:
    """A copy of a csv file with the first `old` replaced; the copy's path."""
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    copy = folder / Path(path).name
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    return str(copy)


def ids(recipe: Recipe) -> list[str]:
    return [planned.id for planned in plan(recipe).stages]


def faults_of(recipe: Recipe) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        plan(recipe)
    return caught.value.faults


def said(function: Callable[[str], object], reference: str) -> str:
    with pytest.raises(InputError) as caught:
        function(reference)
    return str(caught.value)


# What a plan says.


def test_plan_says_where_stages_start_and_who_teaches(recipe: Recipe, tiny_bert: Path) -> None:
    found = plan(recipe)
    teach, distil, polish, graph, int8 = found.stages
    assert [planned.source for planned in found.stages] == [
        str(tiny_bert),
        str(tiny_bert),
        distil.id,
        polish.id,
        graph.id,
    ]
    assert [planned.teacher for planned in found.stages] == [None, teach.id, None, None, None]
    assert [planned.trains for planned in found.stages] == [True, True, True, False, False]
    assert [planned.leaves for planned in found.stages] == ["float", "float", "float", "onnx", "int8"]
    assert distil.methods == (find("prune.layers")(keep=1), find("distil.logits")(hard=0.5))
    assert found.max_length == 16
    assert found.data.task.labels == LABELS
    assert found.by_id(polish.id) is polish and found.by_id("0" * 16) is None
    assert resolved_model(found.stages, int8.id) == str(tiny_bert)
    assert all(len(planned.id) == 16 and int(planned.id, 16) for planned in found.stages)


def test_labels_come_from_a_fine_tuned_model(recipe: Recipe, tmp_path: Path) -> None:
    """Their order is the order of its outputs, which the data's own order must not change."""
    teacher = model_folder(tmp_path / "teacher", labels=("good", "bad"))
    found = plan(single(recipe, methods=(Use("distil.logits"),), teacher=str(teacher)))
    assert found.data.task.labels == ("good", "bad")


def test_data_that_is_loaded_is_not_read_again(recipe: Recipe) -> None:
    data = plan(recipe).data
    found = plan(files(recipe, train="gone.csv"), data)
    assert found.data is data
    assert [planned.id for planned in found.stages] == ids(recipe)


# Ids: each row says what is changed and whose ids change with it.

Change = Callable[[Recipe, Path], Recipe]

SAME: dict[str, Change] = {
    "the recipe's name": lambda r, tmp: dataclasses.replace(r, name="other"),
    "the name of a stage": lambda r, tmp: stage(stage(r, TEACH, name="T"), DISTIL, teacher="T", name="D"),
    "the test rows": lambda r, tmp: files(r, test=write_csv(tmp / "t.csv", sentences(9, seed=9))),
    "no test": lambda r, tmp: files(r, test=None),
    "the place of a file": lambda r, tmp: files(r, train=shutil.copy(r.data.train, tmp / "moved.csv")),
    "the place of the model": lambda r, tmp: dataclasses.replace(r, model=str(shutil.copytree(r.model, tmp / "moved"))),
    "a default, written": lambda r, tmp: stage(r, TEACH, methods=(Use("tune.full", {"weight": 1.0}),)),
    "a number as YAML reads it": lambda r, tmp: stage(
        r, DISTIL, methods=(Use("prune.layers", {"keep": 1}), Use("distil.logits", {"hard": "5e-1", "weight": 1}))
    ),
    "the seed, written": lambda r, tmp: stage(r, DISTIL, seed=0),
    "the source, written": lambda r, tmp: stage(r, POLISH, source="distil"),
    "the length, written": lambda r, tmp: files(r, max_length=16),
    "a column, written": lambda r, tmp: files(r, text_column="text", label_column="label"),
    "training where nothing trains": lambda r, tmp: stage(r, GRAPH, train=Training(epochs=9)),
    "the seed where nothing is drawn": lambda r, tmp: stage(r, GRAPH, seed=9),
    "a teacher that nobody asks": lambda r, tmp: stage(r, GRAPH, teacher="teach"),
}

OTHER: dict[str, tuple[set[int], Change]] = {
    "a setting": (
        FROM_DISTIL,
        lambda r, tmp: stage(r, DISTIL, methods=(Use("prune.layers", {"keep": 1}), Use("distil.logits"))),
    ),
    "a setting of the teacher": (ALL, lambda r, tmp: stage(r, TEACH, methods=(Use("tune.full", {"weight": 2.0}),))),
    "the order of the methods": (
        FROM_DISTIL,
        lambda r, tmp: stage(r, DISTIL, methods=tuple(reversed(r.stages[DISTIL].methods))),
    ),
    "a setting late": ({INT8}, lambda r, tmp: stage(r, INT8, methods=(Use("quant.dynamic", {"embeddings": False}),))),
    "the seed": (ALL, lambda r, tmp: dataclasses.replace(r, seed=1)),
    "the seed of a stage": ({POLISH, GRAPH, INT8}, lambda r, tmp: stage(r, POLISH, seed=1)),
    "the teacher": (FROM_DISTIL, lambda r, tmp: stage(r, DISTIL, teacher=str(model_folder(tmp / "t", labels=LABELS)))),
    "the source": ({POLISH, GRAPH, INT8}, lambda r, tmp: stage(r, POLISH, source="teach")),
    "training": (
        {POLISH, GRAPH, INT8},
        lambda r, tmp: stage(r, POLISH, train=dataclasses.replace(QUICK, epochs=2)),
    ),
    "which rows": (FROM_DISTIL, lambda r, tmp: stage(r, DISTIL, data="train")),
    "a text of train": (ALL, lambda r, tmp: files(r, train=edited(r.data.train, tmp, "the", "a"))),
    "a label of train": (ALL, lambda r, tmp: files(r, train=edited(r.data.train, tmp, ",bad\n", ",good\n"))),
    "a text of dev": (ALL, lambda r, tmp: files(r, dev=edited(str(r.data.dev), tmp, "the", "a"))),
    "an unlabeled text": (
        FROM_DISTIL,
        lambda r, tmp: files(r, unlabeled=edited(str(r.data.unlabeled), tmp, "the", "a")),
    ),
    "the length": (ALL, lambda r, tmp: files(r, max_length=24)),
    "the metric": (ALL, lambda r, tmp: files(r, metric="f1")),
    "the model": (ALL, lambda r, tmp: dataclasses.replace(r, model=str(model_folder(tmp / "m", seed=5)))),
}


@pytest.mark.parametrize("change", SAME)
def test_ids_stay(change: str, recipe: Recipe, tmp_path: Path) -> None:
    other = SAME[change](recipe, tmp_path)
    assert other != recipe
    assert ids(other) == ids(recipe)


@pytest.mark.parametrize("change", OTHER)
def test_ids_change(change: str, recipe: Recipe, tmp_path: Path) -> None:
    touched, make = OTHER[change]
    pairs = zip(ids(recipe), ids(make(recipe, tmp_path)), strict=True)
    assert {i for i, (before, after) in enumerate(pairs) if before != after} == touched


def test_a_recipe_and_its_text_have_the_same_ids(recipe: Recipe) -> None:
    """YAML reads 1 epoch as 1.0; what is written in Python may be 1."""
    whole = dataclasses.replace(QUICK, epochs=2, weight_decay=0)
    written = stage(stage(recipe, TEACH, train=whole), POLISH, train=whole)
    assert ids(load(dump(written))) == ids(written)
    assert json.dumps([whole.epochs, whole.weight_decay, whole.batch_size]) == "[2.0, 0.0, 32]"


def test_ids_change_with_a_method_that_works_differently(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(recipe)
    monkeypatch.setattr(find("prune.layers"), "version", 2)
    after = ids(recipe)
    assert {i for i in ALL if before[i] != after[i]} == FROM_DISTIL


def processor(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for module in ("runtime.machine", "halves"):
        monkeypatch.setattr(f"smidgen.{module}.instructions", lambda: frozenset(names))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(
    ("names", "auto"),
    [(["avx2"], "float32"), (["avx512_bf16"], "bfloat16"), (["amx_bf16"], "bfloat16"), (["bf16"], "float32")],
)
def test_precision_counts_as_what_it_comes_to(
    names: list[str], auto: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is one of the two; a cached artefact is not used on a machine that would have made another."""
    processor(monkeypatch)
    given = {
        precision: ids(single(recipe, train=Training(precision=precision)))[0]
        for precision in ("float32", "bfloat16", "float16")
    }
    assert len(set(given.values())) == 3
    processor(monkeypatch, *names)
    assert ids(single(recipe, train=Training()))[0] == given[auto]


@pytest.mark.parametrize(
    ("precision", "names", "fault"),
    [
        ("bfloat16", ["avx2"], "this processor has none of amx_bf16, avx512_bf16, bf16: it would be emulated."),
        ("float16", ["f16c", "avx512_bf16"], "this processor has none of amx_fp16, asimdhp, avx512_fp16: it would be"),
        ("bfloat16", ["avx512_bf16"], ""),
        ("float16", ["amx_fp16"], ""),
        ("float16", [], ""),
        ("float32", ["avx2"], ""),
    ],
)
def test_what_would_be_emulated_is_refused(
    precision: str, names: list[str], fault: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, *names)
    asked = single(recipe, train=Training(precision=precision))
    if not fault:
        assert len(plan(asked).stages) == 1
        return
    (found,) = faults_of(asked)
    assert found.startswith(f"stage s.train.precision: got '{precision}', but {fault}") and found.endswith(
        "Write auto."
    )


def test_the_same_stage_twice_is_one_artefact(recipe: Recipe) -> None:
    twins = (Stage("one", TUNE, source="model"), Stage("two", TUNE, source="model"))
    one, two = ids(dataclasses.replace(recipe, stages=twins))
    assert one == two


def test_what_does_not_train_depends_on_no_row(recipe: Recipe, tmp_path: Path) -> None:
    cut = single(recipe, methods=(Use("prune.layers", {"keep": 1}),))
    train = edited(recipe.data.train, tmp_path, ",bad\n", ",good\n")
    assert ids(files(cut, train=train, metric="f1")) == ids(cut)
    assert ids(dataclasses.replace(cut, seed=1)) != ids(cut), "the head that the model lacks is drawn from the seed"


# Faults.


def test_every_fault_at_once(recipe: Recipe) -> None:
    """Over models, data, methods, settings, stages and training."""
    bad = dataclasses.replace(
        recipe,
        task="tagg",
        model="./nowhere",
        data=Files("./gone.csv"),
        stages=(
            Stage("a", (Use("tune.ful"),), data="dev"),
            Stage("b", (Use("distil.logits", {"temperature": -1, "har": 0.5}),), source="c", train=Training(epochs=0)),
            Stage("a", (Use("prune.layers"), Use("export.onnx"))),
        ),
    )
    assert faults_of(bad) == (
        said(resolve, "./nowhere"),
        said(resolve, "c"),
        said(load_data, "./gone.csv"),
        "task: got 'tagg', wanted one of classify, several, tag, answer, mask_language. Did you mean 'tag'?",
        "stage a: tune.ful: no such method. Did you mean 'tune.full'? See 'smidgen methods'.",
        "stage b, distil.logits.har: no such key. Did you mean 'hard'? Known here: loss_kind, temperature, hard, "
        "weight.",
        "stage b, distil.logits.temperature: got -1.0, wanted more than 0.",
        "stage a: the name is taken. Give each stage a name of its own.",
        "stage a.data: got 'dev', wanted train, unlabeled, or some of them with + between.",
        "stage b: distil.logits needs a teacher. Write teacher: STAGE or a model.",
        "stage b.train.epochs: got 0.0, wanted more than 0, and finite.",
        "stage a: export.onnx needs a stage of its own.",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Use("prune.gates"), Use("replace.theseus", {"groups": 1})),
        (Use("prune.movement"), Use("prune.magnitude")),
        (Use("prune.layers", {"keep": 1, "drop": 0.2}), Use("replace.theseus", {"groups": 1})),
    ],
)
def test_a_stage_has_one_method_that_changes_the_shape_while_it_trains(recipe: Recipe, one: Use, other: Use) -> None:
    both = single(recipe, methods=(Use("tune.full"), one, other))
    assert faults_of(both) == (
        f"stage {both.stages[0].name}: {one.method} and {other.method} each cut, skip or replace parts while the stage "
        "trains. Give each a stage of its own.",
    )


def test_a_lone_fault_of_a_model_or_of_the_data_is_raised_as_it_is(recipe: Recipe) -> None:
    with pytest.raises(ModelError) as model:
        plan(dataclasses.replace(recipe, model="./nowhere"))
    assert str(model.value) == said(resolve, "./nowhere")
    with pytest.raises(DataError) as data:
        plan(files(recipe, train="./gone.csv", dev=None, test=None))
    assert str(data.value) == said(load_data, "./gone.csv")


def test_no_stages_or_no_methods(recipe: Recipe) -> None:
    assert faults_of(dataclasses.replace(recipe, stages=())) == (
        "stages: none. Write at least one, such as {methods: {tune.full: {}}}.",
    )
    assert faults_of(single(recipe, methods=())) == (
        "stage s: no methods. Write at least one, such as methods: {tune.full: {}}.",
    )


def test_names_of_stages(recipe: Recipe) -> None:
    stages = (
        Stage("a", TUNE, source="b"),
        Stage("b", TUNE, teacher="b"),
        Stage("model", TUNE),
    )
    assert faults_of(dataclasses.replace(recipe, stages=stages)) == (
        "stage a.from: b does not come before it.",
        "stage b.teacher: b does not come before it.",
        "stage model: the name stands for the recipe's own model. Take another.",
    )


def test_unknown_reference_looks_like_a_stage(recipe: Recipe) -> None:
    with pytest.raises(ModelError) as caught:
        plan(stage(recipe, DISTIL, teacher="tech"))
    assert str(caught.value) == f"{said(resolve, 'tech')} Did you mean 'teach'?"


def test_forms(recipe: Recipe) -> None:
    assert faults_of(single(recipe, methods=(Use("quant.dynamic"),))) == (
        "stage s: quant.dynamic takes onnx, got float. Put a stage with export.onnx before it.",
    )
    stages = (*recipe.stages, Stage("again", TUNE), Stage("twice", (Use("quant.dynamic"),), source="int8"))
    assert faults_of(dataclasses.replace(recipe, stages=stages)) == (
        "stage again: tune.full takes float, got int8.",
        "stage twice: quant.dynamic takes onnx, got int8. Put a stage with export.onnx before it.",
    )
    back = (*recipe.stages, Stage("again", TUNE, source="polish"), Stage("other", TUNE, source="model"))
    assert len(plan(dataclasses.replace(recipe, stages=back)).stages) == 7


def test_labels_and_unlabeled_texts(recipe: Recipe) -> None:
    assert faults_of(single(recipe, data="unlabeled")) == (
        "stage s: tune.full needs labels, the stage trains on unlabeled texts.",
    )
    assert faults_of(files(recipe, unlabeled=None)) == (
        "stage distil.data: wants unlabeled texts, the recipe's data has none. Write data.unlabeled: FILE.",
    )


def test_a_teacher_must_have_answers(recipe: Recipe, tiny_bert: Path, tmp_path: Path) -> None:
    distil = single(recipe, methods=(Use("distil.logits"),), teacher=str(tiny_bert))
    bare = (
        f"{tiny_bert} is a bare encoder and has no answers. Name a stage that trains it, or a model that was trained "
        "to classify."
    )
    assert faults_of(distil) == (f"stage s.teacher: {bare}",)
    assert faults_of(stage(distil, 0, teacher="model")) == (f"stage s.teacher: {bare}",)
    nameless = model_folder(tmp_path / "three", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(ModelError, match=r"three: has 3 outputs, the data has 2 labels: bad, good\. Give .+\."):
        plan(stage(distil, 0, teacher=str(nameless)))


def test_same_tokenizer(recipe: Recipe, tiny_classifier: Path, tmp_path: Path) -> None:
    """What compares tokens needs texts cut alike, also through stages; where a text is cut off does not matter."""
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_classifier, teacher)
    hidden = single(recipe, methods=(Use("distil.hidden"),), teacher=str(teacher))
    assert plan(hidden).stages[0].trains
    tokenizer = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (teacher / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": cut}), encoding="utf-8")
    assert plan(hidden).stages[0].trains
    write_tokenizer(teacher, drop=("film",))
    own = Stage("s", (Use("distil.hidden"),), source="model", teacher="t")
    through = dataclasses.replace(recipe, stages=(Stage("t", TUNE, source=str(teacher)), own))
    for other in (hidden, through):
        assert faults_of(other) == (
            f"stage s: distil.hidden compares tokens, but teacher ({teacher}) and student ({recipe.model}) cut texts "
            "differently. Use distil.logits, which compares answers, or a student that keeps its teacher's tokens, as "
            "student.bilstm does with vocabulary: full.",
        )
    assert plan(stage(hidden, 0, methods=(Use("distil.logits"),))).stages[0].trains


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"epochs": 0}, "epochs: got 0.0, wanted more than 0, and finite."),
        ({"epochs": float("inf")}, "epochs: got inf, wanted more than 0, and finite."),
        ({"learning_rate": float("nan")}, "learning_rate: got nan, wanted more than 0, and finite."),
        ({"batch_size": -8}, "batch_size: got -8, wanted more than 0, and finite."),
        ({"evaluations": 0}, "evaluations: got 0, wanted more than 0, and finite."),
        ({"micro_tokens": 0}, "micro_tokens: got 0, wanted more than 0, and finite."),
        ({"weight_decay": -0.1}, "weight_decay: got -0.1, wanted at least 0, and finite."),
        ({"clip": -1}, "clip: got -1.0, wanted at least 0, and finite."),
        ({"patience": -1}, "patience: got -1, wanted at least 0, and finite."),
        ({"warmup": 1.0}, "warmup: got 1.0, wanted a share from 0 up to 1."),
        ({"precision": "float64"}, "precision: got 'float64', wanted one of auto, float32, bfloat16, float16. Did"),
        ({"schedule": "liner"}, "schedule: got 'liner', wanted one of linear, cosine, constant. Did you mean "),
    ],
)
def test_training_settings(settings: dict[str, Any], fault: str, recipe: Recipe) -> None:
    (found,) = faults_of(single(recipe, train=Training(**settings)))
    assert found.startswith(f"stage s.train.{fault}")


def test_length_within_the_places_of_every_model_that_reads(recipe: Recipe, tmp_path: Path) -> None:
    small = model_folder(tmp_path / "small", labels=LABELS)
    asked = single(recipe, methods=(Use("distil.logits"),), teacher=str(small))
    settings = json.loads((small / "tokenizer_config.json").read_text(encoding="utf-8"))
    (small / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 12}), encoding="utf-8")
    assert plan(files(asked, max_length=16)).max_length == 16  # where the teacher's own training cut is no limit
    short = tiny("bert", labels=2, max_position_embeddings=12)
    short.config.update({"id2label": dict(enumerate(LABELS))})
    short.save_pretrained(small)
    assert plan(asked).max_length <= 12
    assert faults_of(files(asked, max_length=16)) == (f"data.max_length: got 16, {small} takes 4 to 12.",)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (Use("tune.lora", {"kind": "ia3"}), Use("tune.prefix"), "ia3 scales a prefix's keys and values while"),
        (Use("tune.side"), Use("tune.prompt"), "it reads a text's own tokens, and tune.prompt adds others."),
        (Use("tune.ladder"), Use("tune.prompt"), "it reads a text's own tokens, and tune.prompt adds others."),
    ],
)
def test_methods_that_would_undo_each_other(recipe: Recipe, one: Use, other: Use, why: str) -> None:
    for uses in ((one, other), (other, one)):
        (fault,) = faults_of(single(recipe, methods=(Use("tune.full"), *uses)))
        assert fault.startswith(f"stage s, {one.method}: {why}")


def test_hard_labels_of_texts_without_any(recipe: Recipe) -> None:
    asked = single(recipe, methods=(Use("distil.logits", {"hard": 0.9}),), teacher=recipe.model, data="unlabeled")
    assert "stage s: distil.logits needs labels, the stage trains on unlabeled texts." in faults_of(asked)


@pytest.mark.parametrize("length", [3, 49, -1])
def test_length_within_the_models_limit(length: int, recipe: Recipe) -> None:
    assert faults_of(files(recipe, max_length=length)) == (f"data.max_length: got {length}, the model takes 4 to 48.",)


def test_the_error_carries_the_recipes_name(recipe: Recipe) -> None:
    with pytest.raises(
        RecipeError,
        match=r"^mine: 1 fault\n  - task: got 'tagg', wanted one of classify, several, tag, answer, mask_language\.",
    ):
        plan(dataclasses.replace(recipe, task="tagg", name="mine"))


def test_plan_is_frozen(recipe: Recipe) -> None:
    found = plan(recipe)
    assert isinstance(found, Plan)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.max_length = 8  # type: ignore[misc]


# Several teachers.


def taught_by(recipe: Recipe, *teachers: str, methods: tuple[Use, ...] = (Use("distil.logits"),)) -> Recipe:
    again = dataclasses.replace(recipe.stages[TEACH], name="again", source="model", seed=5)
    distil = dataclasses.replace(recipe.stages[DISTIL], teacher=teachers, methods=methods)
    return dataclasses.replace(recipe, stages=(recipe.stages[TEACH], again, distil))


def test_several_teachers(recipe: Recipe) -> None:
    teach, again, distil = plan(taught_by(recipe, "teach", "again")).stages
    assert distil.teachers == (teach.id, again.id)
    assert distil.teacher == [teach.id, again.id]
    assert distil.id != plan(taught_by(recipe, "teach")).stages[-1].id


def test_a_list_of_one_teacher_is_that_teacher(recipe: Recipe) -> None:
    assert ids(stage(recipe, DISTIL, teacher=("teach",))) == ids(recipe)
    assert load(dump(taught_by(recipe, "teach", "again"))) == taught_by(recipe, "teach", "again")


def test_every_teacher_is_checked(recipe: Recipe, tiny_bert: Path) -> None:
    assert faults_of(taught_by(recipe, "teach", str(tiny_bert), "distil")) == (
        f"stage distil.teacher: {tiny_bert} is a bare encoder and has no answers. Name a stage that trains it, or a "
        "model that was trained to classify.",
        "stage distil.teacher: distil does not come before it.",
    )


@pytest.mark.parametrize("name", ["hidden", "patient", "attention", "relations", "feature_maps"])
def test_only_logits_of_several_teachers_can_be_averaged(recipe: Recipe, name: str) -> None:
    uses = (Use("distil.logits"), Use(f"distil.{name}"))
    assert faults_of(taught_by(recipe, "teach", "again", methods=uses)) == (
        f"stage distil: distil.{name} looks inside the teacher, got 2 of them. Only logits can be averaged: name one "
        "teacher, or use distil.logits alone.",
    )
    assert len(plan(taught_by(recipe, "again", methods=uses)).stages) == 3


def test_what_acts_while_a_stage_trains_needs_one_that_does(recipe: Recipe) -> None:
    assert faults_of(single(recipe, methods=(Use("prune.layers", {"keep": 1}), Use("tune.freeze")))) == (
        "stage s: tune.freeze acts while a stage trains. Add what has a loss, as tune.full.",
    )
    assert plan(single(recipe, methods=(Use("tune.freeze"), *TUNE))).stages[0].trains
