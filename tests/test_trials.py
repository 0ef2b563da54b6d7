"""Scores in an Optuna study: found again by the stage that made them, in a file or in a database."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from smidgen.errors import InputError
from smidgen.halving import Trained
from smidgen.trials import FILE, Trials


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/trials.db"])
def test_scores_are_found_again(storage: str | None, tmp_path: Path) -> None:
    url = storage and storage.format(tmp_path)
    first = Trials("one", tmp_path, url)
    assert first.known("abc") is None
    first.tell("CNN", 1 / 9, "abc", Trained(0.7, 3.0))
    first.tell("CNN", 1 / 3, "def", Trained(0.8, 9.0))
    first.tell("3 blocks", 1 / 9, "ghi", Trained(0.6, 5.0))
    assert first.known("abc") == Trained(0.7, 3.0)
    killed = Trials("one", tmp_path, url)  # the first has not closed
    assert killed.known("def") == Trained(0.8, 9.0, reused=True)
    assert killed.known("ghi") == Trained(0.6, 5.0, reused=True)
    assert killed.known("") is None and Trials("other", tmp_path, url).known("abc") is None
    assert (tmp_path / FILE).is_file() == (url is None)


def test_the_study_reads_like_any_other(tmp_path: Path) -> None:
    """With Optuna's own tools: candidates by name, rungs as steps, the finalists complete."""
    url = f"sqlite:///{tmp_path}/trials.db"
    found = Trials("one", tmp_path, url)
    for name, score in (("CNN", 0.7), ("3 blocks", 0.8)):
        found.tell(name, 1 / 9, name, Trained(score, 1.0))
    found.tell("3 blocks", 1.0, "whole", Trained(0.9, 9.0))
    found.close({"3 blocks": 0.9})
    study = optuna.load_study(study_name="one", storage=url)
    told = {trial.user_attrs["candidate"]: trial for trial in study.trials}
    assert told["CNN"].state.name == "PRUNED" and told["3 blocks"].state.name == "COMPLETE"
    assert told["3 blocks"].intermediate_values == {111: 0.8, 1000: 0.9}
    assert study.best_trial.user_attrs["candidate"] == "3 blocks" and study.best_value == 0.9


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/trials.db", "what://bob:hunter2@host/db"])
def test_a_storage_that_cannot_be_opened(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Trials("one", tmp_path, url)
    said = str(caught.value)
    assert said.startswith(f"--storage {url.replace('hunter2', '...')}: cannot be opened (") and "\n" not in said
    assert "hunter2" not in said
    assert said.endswith("Write a URL as sqlite:///trials.db or postgresql://USER@HOST/NAME, or leave it out.")
