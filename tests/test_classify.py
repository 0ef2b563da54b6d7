from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smidgen.errors import InputError, ModelError
from smidgen.tasks.classify import METRICS, NO_LABEL, Classify

ONE = Classify(("neg", "neutral", "pos"))
MANY = Classify(("a", "b", "c"), multi_label=True)


def sklearn_score(task: Classify, logits: np.ndarray, gold: np.ndarray, metric: str) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if metric == "accuracy":
            return float(metrics.accuracy_score(gold, task.decide(logits)))
        average = "micro" if task.multi_label else "macro"
        return float(metrics.f1_score(gold, task.decide(logits), average=average, zero_division=0))


def sample(task: Classify, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, len(task.labels))).astype(np.float32)
    if task.multi_label:
        return logits, (logits + rng.normal(size=logits.shape) > 0.3).astype(np.float32)
    return logits, (logits + rng.normal(size=logits.shape)).argmax(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(2, 5), st.booleans(), st.integers(0, 10_000))
def test_scores_are_those_of_scikit_learn(n: int, classes: int, multi: bool, seed: int) -> None:
    for metric in METRICS:
        task = Classify(tuple(map(str, range(classes))), multi, metric)
        logits, gold = sample(task, n, seed)
        score = task.score(logits, gold)
        assert score == pytest.approx(sklearn_score(task, logits, gold, metric)), metric


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one label", "several"])
@pytest.mark.parametrize("metric", METRICS)
def test_resampled_is_the_score_of_the_chosen_rows(task: Classify, metric: str) -> None:
    logits, gold = sample(task, 40)
    index = np.random.default_rng(1).integers(0, 40, size=(25, 15))
    wanted = [sklearn_score(task, logits[rows], gold[rows], metric) for rows in index]
    got = replace(task, metric=metric).resampled(logits, gold, index)
    assert got.shape == (25,)
    np.testing.assert_allclose(got, wanted)


def test_a_bootstrap_is_quick() -> None:
    task = Classify(tuple(map(str, range(20))), metric="f1")
    logits, gold = sample(task, 5000)
    index = np.random.default_rng(0).integers(0, 5000, size=(1000, 5000))
    start = time.perf_counter()
    task.resampled(logits, gold, index)
    assert time.perf_counter() - start < 2


def test_metric_is_the_usual_one_of_the_task() -> None:
    assert (ONE.metric, MANY.metric, Classify(("a",), True, "accuracy").metric) == ("accuracy", "f1", "accuracy")
    logits, gold = sample(MANY, 20)
    assert MANY.score(logits, gold) == pytest.approx(sklearn_score(MANY, logits, gold, "f1"))
    assert ONE.score(*sample(ONE, 20)) == ONE.correct(*sample(ONE, 20)).mean()


def test_decisions() -> None:
    logits = np.array([[0.0, -1.0, 2.0], [3.0, -0.1, -0.2]])
    assert ONE.decide(logits).tolist() == [2, 0] and ONE.decide(logits).dtype == np.int64
    assert MANY.decide(logits).tolist() == [[0, 0, 1], [1, 0, 0]] and MANY.decide(logits).dtype == np.int8
    assert MANY.correct(logits, np.array([[0, 0, 1], [1, 1, 0]])).tolist() == [True, False]


@settings(deadline=None)
@given(arrays(np.float32, (2, 3), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_probabilities_are_finite_and_as_torch_has_them(logits: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    wide = torch.from_numpy(logits).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, many = ONE.probabilities(logits), MANY.probabilities(logits)
    assert one.dtype == many.dtype == np.float32
    np.testing.assert_allclose(one, wide.softmax(-1).numpy(), atol=1e-6)
    np.testing.assert_allclose(many, wide.sigmoid().numpy(), atol=1e-6)


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one label", "several"])
def test_config_and_back(task: Classify) -> None:
    config = task.config()
    assert config["id2label"] == dict(enumerate(task.labels)) and config["num_labels"] == 3
    assert Classify.from_config(config) == task
    as_json = config | {"id2label": {str(i): label for i, label in reversed(config["id2label"].items())}}
    assert Classify.from_config(as_json) == task


def test_a_config_without_names_has_those_of_transformers() -> None:
    assert Classify.from_config({}).labels == ("LABEL_0", "LABEL_1")
    assert Classify.from_config({"num_labels": 3}).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label of the config has ids \[0, 2\], wanted 0 to 1"),
        ({"id2label": {"0": "score"}}, r"1 output\(s\).*wanted a classifier\. Give a model"),
        ({"problem_type": "regression", "id2label": {"0": "a", "1": "b"}}, "problem_type 'regression'"),
    ],
)
def test_a_config_of_no_classifier_is_an_error(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Classify.from_config(config)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Classify(("a",)), r"needs at least 2 labels, got \['a'\]"),
        (lambda: Classify(("a", "a")), r"must be different and not empty, got \['a', 'a'\]"),
        (lambda: Classify(("a", "")), "not empty"),
        (lambda: Classify(("a", "b"), metric="acuracy"), r"unknown metric 'acuracy'.*Did you mean 'accuracy'\?"),
        (
            lambda: ONE.score(np.zeros((2, 4)), np.zeros(2, dtype=np.int64)),
            r"logits \(2, 4\) for 2 gold.*and 3 columns",
        ),
        (lambda: ONE.score(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)), "at least one"),
    ],
)
def test_what_cannot_be_a_task_or_a_score_is_an_error(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one label", "several"])
def test_answers_are_those_of_a_transformers_pipeline(task: Classify) -> None:
    pytest.importorskip("transformers")
    import torch
    from transformers.pipelines.text_classification import TextClassificationPipeline

    class Fixed:
        config = type("Config", (), task.config() | {"num_labels": 3})

    pipeline = object.__new__(TextClassificationPipeline)
    pipeline.model = Fixed()
    logits = sample(task, 5)[0]
    for top in ({}, {"top_k": None}, {"top_k": 1}, {"top_k": 2}):
        options = pipeline._sanitize_parameters(**top)[2]
        wanted = [pipeline.postprocess({"logits": torch.from_numpy(row[None])}, **options) for row in logits]
        got = task.answers(logits, **top)
        flat = [row if isinstance(row, list) else [row] for row in got]
        assert [isinstance(row, dict) for row in got] == [isinstance(row, dict) for row in wanted]
        for ours, theirs in zip(flat, ([r] if isinstance(r, dict) else r for r in wanted), strict=True):
            assert [each["label"] for each in ours] == [each["label"] for each in theirs]
            assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-6)


def test_loss_is_one_number_an_example() -> None:
    torch = pytest.importorskip("torch")
    logits, ids = sample(ONE, 6)
    several = sample(MANY, 6)[1]
    one = ONE.loss(torch.from_numpy(logits), torch.from_numpy(ids))
    chance = ONE.probabilities(logits).astype(np.float64)
    np.testing.assert_allclose(one, -np.log(chance[np.arange(6), ids]), rtol=1e-4)
    many = MANY.loss(torch.from_numpy(logits).bfloat16().float(), torch.from_numpy(several))
    chance = MANY.probabilities(torch.from_numpy(logits).bfloat16().float().numpy()).astype(np.float64)
    np.testing.assert_allclose(
        many, -(several * np.log(chance) + (1 - several) * np.log(1 - chance)).mean(-1), rtol=1e-4
    )
    assert one.shape == many.shape == (6,) and one.dtype == many.dtype == torch.float32
    assert ONE.loss(torch.from_numpy(logits).bfloat16(), torch.from_numpy(ids)).dtype == torch.float32


def test_a_row_without_a_label_has_no_loss_and_no_gradient() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = ONE.loss(logits, torch.tensor([NO_LABEL, 1]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0, np.log(3)])
    assert not logits.grad[0].any() and logits.grad[1].any()
    assert MANY.loss(torch.zeros(1, 3), torch.full((1, 3), float("nan"))).isfinite().all()
