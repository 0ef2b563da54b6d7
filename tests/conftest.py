"""No network, one thread, and the folders and files that many tests start from. Treat them as read-only."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from folders import LABELS, data_files, model_folder
from traces import Traces

from smidgen import graph

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def traces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Processes of one run trace each structure once among them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        graph._traces = Traces(tmp_path_factory.getbasetemp().parent / "traces")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare BERT encoder of two blocks."""
    return model_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier of two blocks for the labels of `tiny_data`; its weights are random."""
    return model_folder(tmp_path_factory.mktemp("models") / "classifier", labels=LABELS, seed=1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of csv files by split: train, dev, test, unlabeled; two classes that a tiny model can learn."""
    return data_files(tmp_path_factory.mktemp("data"))
