"""One model, three ways to ask it: the runtime, the graph by hand, and the Hugging Face folder read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from folders import sentences
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from smidgen.planner import plan
from smidgen.recipe import load as load_recipe
from smidgen.runner import run
from smidgen.runtime import load


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of one block of two, with its float32 graph."""
    methods = [{"prune.layers": {"keep": 1}}, "tune.full"]
    training = {"epochs": 4, "learning_rate": 5e-3, "batch_size": 8}
    stages = [{"name": "student", "methods": methods, "train": training}, {"methods": ["export.onnx"]}]
    text = yaml.safe_dump({"model": str(tiny_bert), "data": tiny_data, "stages": stages})
    return run(plan(load_recipe(text)), tmp_path_factory.mktemp("stages"))[-1].artefact.path


def test_labels_agree_on_a_thousand_texts(folder: Path) -> None:
    texts = [text for text, _ in sentences(1000, seed=7)]
    names = json.loads((folder / "config.json").read_text())["id2label"]
    said = [answer["label"] for answer in load(folder).predict(texts)]
    assert len(set(said)) == 2

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    graph, reloaded = [], []
    for start in range(0, 1000, 100):
        part = texts[start : start + 100]
        batch = tokenizer(part, padding=True, truncation=True, return_token_type_ids=True, return_tensors="np")
        feed = {value.name: batch[value.name].astype(np.int64) for value in session.get_inputs()}
        graph.append(session.run(["logits"], feed)[0])
        with torch.inference_mode():
            reloaded.append(model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.numpy())
    by_hand, by_torch = np.concatenate(graph), np.concatenate(reloaded)
    assert np.abs(by_hand - by_torch).max() <= 1e-4
    assert [names[str(i)] for i in by_hand.argmax(1)] == said
    assert [names[str(i)] for i in by_torch.argmax(1)] == said


def test_predict_gives_what_the_pipeline_gives(folder: Path) -> None:
    texts = [text for text, _ in sentences(50, seed=8)]
    theirs = pipeline("text-classification", model=str(folder), device="cpu")(texts)
    ours = load(folder).predict(texts)
    assert [a["label"] for a in ours] == [a["label"] for a in theirs]
    assert np.allclose([a["score"] for a in ours], [a["score"] for a in theirs], atol=1e-5)
