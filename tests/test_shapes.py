"""The space of a search: which candidates there are, what they are called, and the recipes that make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from folders import model_folder

from smidgen.budget import Budget
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe
from smidgen.shapes import (
    FAMILIES,
    FINISHES,
    QUICK,
    SCARCE,
    STAGES,
    Body,
    Job,
    Shape,
    bodies,
    distilled,
    plain,
    shapes,
    taught,
    untrained,
)
from smidgen.source import Source, resolve


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return resolve(str(model_folder(tmp_path_factory.mktemp("six") / "model", blocks=6)))


@pytest.fixture(scope="module")
def job(six: Source, tiny_data: dict[str, str]) -> Job:
    return Job(six.reference, Files(**tiny_data, max_length=24), Budget())


def named(found: list[Body]) -> list[str]:
    return [body.name for body in found]


def test_what_there_is_to_choose_from(six: Source) -> None:
    found = bodies(six, [])
    assert named(found) == [
        *("6 blocks", "4 blocks", "3 blocks", "2 blocks", "1 block"),
        *("3 blocks by answers alone", "2 blocks by answers alone", "1 block by answers alone"),
        *("3 blocks by Theseus", "2 blocks by Theseus"),
        *("pruned to 1/1.5 of the work", "pruned to 1/2.5 of the work"),
        *("3 blocks of half the width", "BiLSTM", "CNN", "static vectors"),
    ]
    assert [body.name for body in found if not body.steps] == ["6 blocks"]  # the teacher itself
    assert {body.family for body in found} == set(FAMILIES)


def test_depths_that_are_named_are_all_there_is_but_for_students_and_families(six: Source) -> None:
    assert named(bodies(six, [], (1, 3))) == ["3 blocks", "1 block"]
    found = bodies(six, [six], (1,))
    of_it = [f"{six.reference}, {what}" for what in ("6 blocks", "pruned to 1/2 of the work", "3 blocks")]
    assert named(found) == ["1 block", *of_it]
    assert [len(body.made) for body in found[1:]] == [0, 1, 1]  # the student whole, and cut in two ways
    assert named(bodies(six, [], (2, 3), ("depth", "theseus", "cnn"))) == [
        *("3 blocks", "2 blocks", "3 blocks by Theseus", "2 blocks by Theseus", "CNN"),
    ]


def test_finishes(six: Source) -> None:
    found = bodies(six, [], (1,), ("depth", "cnn"))
    assert [shape.name for shape in shapes(found)] == [
        *("1 block, int8", "1 block, float32", "CNN, int8", "CNN, float32"),
    ]
    scarce = [shape.name for shape in shapes(found, scarce=True)]
    assert f"1 block, {SCARCE}" in scarce and f"CNN, {SCARCE}" not in scarce  # it has its own vocabulary
    assert [shape.finish for shape in shapes(found[:1], tuple(FINISHES))] == list(FINISHES)


def every(six: Source) -> list[Shape]:
    return shapes(bodies(six, []), tuple(FINISHES))


def test_every_recipe_is_one(six: Source, job: Job) -> None:
    """Nothing that the default space holds is refused by the plan of a classification."""
    data: Any = None
    for shape in every(six):
        lessons = [plain(job, six, shape), taught(job, six, shape.body, 1 / 3, seed=5)] if shape.body.steps else []
        for recipe in (untrained(job, shape), distilled(job, six, shape), *lessons):
            data = plan(recipe, data).data
            assert {stage.name for stage in recipe.stages} <= set(STAGES)


def ids(recipe: Recipe) -> list[str]:
    return [planned.id for planned in plan(recipe).stages]


def test_what_is_shared_is_made_once(six: Source, job: Job) -> None:
    depth, theseus, pruned = (body for body in bodies(six, [], (3,), ("depth", "theseus", "pruned"))[:3])
    assert ids(untrained(job, Shape(depth))) == ids(untrained(job, Shape(theseus)))  # of equal cost
    whole, int8 = ids(distilled(job, six, Shape(depth, "float32"))), ids(distilled(job, six, Shape(depth)))
    assert int8[:-1] == whole  # two precisions of one training
    short, long = (ids(taught(job, six, pruned, share)) for share in (1 / 9, 1 / 3))
    assert short[:-1] == long[:-1] and short[-1] != long[-1]  # one teacher, one cut, two lengths
    seeded = ids(taught(job, six, depth, seed=1))
    assert seeded[0] == whole[0] and seeded[1] != whole[1]  # another seed has the same teacher
    assert ids(taught(job, six, depth, seed=job.seed)) == whole[:-1]


def test_shares_are_of_the_epochs(six: Source, job: Job) -> None:
    theseus = bodies(six, [], (3,), ("theseus",))[0]
    epochs = [stage.train.epochs for stage in taught(job, six, theseus, 1 / 3).stages]
    assert epochs == [3, pytest.approx(1, abs=1e-3), pytest.approx(1, abs=1e-3)]
    cnn = taught(job, six, bodies(six, [], (), ("cnn",))[0], 1 / 9).stages[-1].train
    assert (cnn.epochs, cnn.learning_rate, cnn.batch_size) == (pytest.approx(0.667), 2e-3, 64)


def test_a_pretrained_student_starts_from_itself(six: Source, job: Job, tmp_path: Path) -> None:
    other = resolve(str(model_folder(tmp_path / "other", "electra", blocks=2)))
    whole, pruned, half = (body for body in bodies(six, [other], (6,)) if body.model)
    for body in (whole, pruned, half):
        for recipe in (untrained(job, Shape(body)), distilled(job, six, Shape(body)), plain(job, six, Shape(body))):
            start = next(planned for planned in plan(recipe).stages if planned.stage.name != "teacher")
            assert start.source == other.reference
            cuts = [use for use in start.stage.methods if use.method == "prune.layers"]
            assert [use.settings["keep"] for use in cuts] == ([1] if body is half else [])


def test_a_pretrained_student_is_taught_before_it_is_cut_and_after_it(six: Source, job: Job, tmp_path: Path) -> None:
    other = resolve(str(model_folder(tmp_path / "other", "electra", blocks=2)))
    pruned = next(body for body in bodies(six, [other], (6,)) if "pruned" in body.name)
    recipe = taught(job, six, pruned)
    assert [stage.name for stage in recipe.stages] == ["teacher", "student", "cut", "again"]
    assert [stage.teacher for stage in recipe.stages] == [None, "teacher", None, "teacher"]
    assert [stage.train.epochs for stage in recipe.stages[1::2]] == [4, 2]
    alone = plan(plain(job, six, Shape(pruned))).stages
    assert [planned.stage.name for planned in alone] == ["student", "cut", "plain", "onnx", "int8"]
    assert alone[0].source == other.reference and not any(planned.teachers for planned in alone)


def test_what_was_cut_by_the_loss_is_cut_from_what_was_trained(six: Source, job: Job) -> None:
    pruned = bodies(six, [], (), ("pruned",))[0]
    assert [stage.name for stage in plain(job, six, Shape(pruned)).stages] == [
        "teacher",
        "cut",
        "plain",
        "onnx",
        "int8",
    ]
    cheap = untrained(job, Shape(pruned)).stages[0].methods[0].settings
    assert cheap == {"speedup": 1.5, **QUICK["prune.fisher"]}
