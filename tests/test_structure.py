"""A module of the same structure as one that was traced is not traced again, and nothing else passes for the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS
from tiny import FAMILIES, VOCAB, tiny
from torch import nn
from traces import Traces
from transformers import AutoConfig, AutoModelForSequenceClassification

import smidgen  # its students, for the Auto classes
from smidgen import graph
from smidgen.source import taken
from smidgen.structure import structure

assert smidgen


def rows(model: Any, draw: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(draw).integers(3, VOCAB, (3, 9))
    mask = (np.arange(9) < np.array([[9], [4], [7]])).astype(np.int64)
    return taken(model, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})


def student(kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(f"smidgen-{kind}", vocab_size=VOCAB, embedding_size=16, num_labels=len(LABELS))
    return AutoModelForSequenceClassification.from_config(config).eval()


def refused(*args: object, **more: object) -> None:
    raise AssertionError("traced again")


@pytest.mark.parametrize("kind", [*FAMILIES, "student cnn", "student bilstm"])
def test_other_weights_need_no_trace(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(seed: int) -> Any:
        if kind.startswith("student "):
            return student(kind.removeprefix("student "), seed)
        return tiny(kind, seed=seed, attn_implementation="eager")

    first, second = made(1), made(2)
    fused = graph.export(first, rows(first), tmp_path / "first.onnx", 32)
    with monkeypatch.context() as patch:
        patch.setattr(graph, "_traced", refused)
        assert graph.export(second, rows(second), tmp_path / "second.onnx", 32) == fused
    for model, name in ((first, "first"), (second, "second")):
        assert graph.difference(model, tmp_path / f"{name}.onnx", rows(model, 1)) < 1e-5
    assert (tmp_path / "first.onnx").read_bytes() != (tmp_path / "second.onnx").read_bytes()


def test_it_is_the_graph_that_a_trace_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (tiny("bert", seed=seed, attn_implementation="eager") for seed in (1, 2))
    for name, models in {"again": (first, second), "alone": (second,)}.items():
        monkeypatch.setattr(graph, "_traces", {})
        for model in models:
            graph.export(model, rows(model), tmp_path / f"{name}.onnx", 32)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_another_process_reads_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"values": np.ones((3, 5, 4), np.float32)}
    for name in ("first", "second"):  # each with a memory of its own, as of two processes, and one folder
        monkeypatch.setattr(graph, "_traces", Traces(tmp_path / "traces"))
        torch.manual_seed(0)
        graph.trace(Named(nn.Linear(4, 19)), inputs, tmp_path / f"{name}.onnx", 8)
        monkeypatch.setattr(graph, "_traced", refused)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_traces_are_forgotten_and_hold_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_traces", {})
    monkeypatch.setattr(graph, "TRACES", 1)
    for width in (16, 17):
        graph.trace(Named(nn.Linear(4, width)), {"values": np.ones((3, 5, 4), np.float32)}, tmp_path / "a.onnx", 8)
    ((_, held),) = graph._traces.items()
    assert all(held.graph.initializers[f"inner.{name}"].const_value is None for name in ("weight", "bias"))
    assert held.graph.initializers["inner.bias"].shape.numpy() == (17,)


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(values)}


def hooked(model: Any) -> None:
    seen: list[object] = []
    model.register_forward_hook(lambda *args: seen.append(args))


def own_forward(model: Any) -> None:
    real = model.forward
    model.forward = lambda **inputs: real(**inputs)


def own_tensor(model: Any) -> None:
    model.held = [torch.ones(1)]


@pytest.mark.parametrize("spoil", [hooked, own_forward, own_tensor])
def test_what_cannot_be_compared_is_never_the_same(spoil: Callable[[Any], None]) -> None:
    model = tiny("bert")
    assert structure(model) is not None
    spoil(model)
    assert structure(model) is None


def setting(model: Any) -> None:
    model.config.hidden_dropout_prob = 0.25


def norm(model: Any) -> None:
    model.bert.encoder.layer[0].output.LayerNorm.eps = 1e-3


def training(model: Any) -> None:
    model.bert.pooler.train()


def attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def buffer(model: Any) -> None:
    model.bert.embeddings.position_ids += 1


def shape(model: Any) -> None:
    model.classifier = nn.Linear(32, 4)


def tied(model: Any) -> None:
    first, second = model.bert.encoder.layer
    second.output.dense.weight = first.output.dense.weight


def kind(model: Any) -> None:
    class Other(nn.Linear):
        pass

    model.classifier.__class__ = Other


def number(model: Any) -> None:
    """0 is not False, though they are equal."""
    own = model.bert.encoder.layer[0].attention.self
    assert own.is_causal is False
    own.is_causal = 0


@pytest.mark.parametrize("change", [setting, norm, training, attention, buffer, shape, tied, kind, number])
def test_what_a_trace_depends_on_is_part_of_it(change: Callable[[Any], None]) -> None:
    """Weights and the place that a model came from are not."""
    plain, other, changed = (tiny("bert", seed=seed) for seed in (1, 2, 1))
    other.config._name_or_path = other.name_or_path = "elsewhere"
    assert structure(plain) == structure(other) and hash(structure(plain)) == hash(structure(other))
    change(changed)
    assert structure(changed) not in (None, structure(plain))
