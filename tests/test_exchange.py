"""Folders of PEFT and AdapterHub: the same outputs on either side, and what is another function is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LABELS, data_files, model_folder
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import batch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from smidgen.delta import fit, read
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.exchange import from_peft, to_peft
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.source import Source, resolve

INPUTS = batch(120, [5, 9, 3])


@torch.no_grad()
def said(model: Any) -> Tensor:
    return model.eval()(**INPUTS).logits


def base_of(root: Path, family: str, labels: tuple[str, ...] | None = None) -> Source:
    return resolve(str(model_folder(root / family, family, labels)))


def plain(base: Source) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=2)


SEEN = {"bert": ["query", "output.dense"], "distilbert": ["q_lin", "lin2"], "modernbert": ["Wqkv", "mlp.Wo"]}
HEADS = {"bert": ["classifier"], "distilbert": ["pre_classifier", "classifier"], "modernbert": ["head", "classifier"]}
WAYS: dict[str, Any] = {
    "lora": lambda targets, heads: LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        modules_to_save=heads,
        rank_pattern={targets[0]: 2},
        alpha_pattern={targets[0]: 5},
        task_type="SEQ_CLS",
    ),
    "rslora": lambda targets, heads: LoraConfig(
        r=4,
        use_rslora=True,
        target_modules=targets,
        modules_to_save=heads,
        task_type="SEQ_CLS",
        layers_to_transform=[1],
    ),
    "dora": lambda targets, heads: LoraConfig(
        r=4, use_dora=True, target_modules=targets, modules_to_save=heads, task_type="SEQ_CLS"
    ),
    "ia3": lambda targets, heads: IA3Config(
        target_modules=targets, feedforward_modules=targets[1:], modules_to_save=heads, task_type="SEQ_CLS"
    ),
}


def theirs(base: Source, family: str, way: str, out: Path) -> Any:
    """A model as PEFT trains and saves it, with numbers of its own."""
    torch.manual_seed(3)
    model = get_peft_model(plain(base), WAYS[way](SEEN[family], HEADS[family]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("family", SEEN)
@pytest.mark.parametrize("way", WAYS)
def test_peft_to_delta_to_peft(way: str, family: str, tmp_path: Path) -> None:
    base = base_of(tmp_path, family)
    wanted = said(theirs(base, family, way, tmp_path / "theirs"))
    delta = read(from_peft(tmp_path / "theirs", base, tmp_path / "delta", LABELS))
    assert delta.task.labels == LABELS
    torch.testing.assert_close(said(fit(delta, base)), wanted, atol=1e-5, rtol=0)
    to_peft(delta, base, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain(base), tmp_path / "ours")
    torch.testing.assert_close(said(again), wanted, atol=1e-5, rtol=0)
