"""What candidates scored on dev, in an Optuna study: a journal file beside the stages, or a database by its URL.

A trial is a candidate in one run; its intermediate values are the scores of its rungs, by thousandths of its training,
each with the id of the stage that scored so. An id says all that a score depends on. A run therefore takes from the
study what it, an earlier run with another budget, or one on another machine with the same database, has found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smidgen.errors import InputError
from smidgen.halving import Trained
from smidgen.words import without_password

FILE = "trials.journal"


class Trials:
    """The study of one set of data.

    Raises:
        InputError: the storage cannot be opened.
    """

    def __init__(self, name: str, root: Path, storage: str | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self.study = optuna.create_study(
                storage=storage or _journal(root),
                study_name=name,
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(0),  # nothing is drawn: candidates are named
                load_if_exists=True,
            )
        except Exception as error:
            said = str(error).strip().partition("\n")[0][:200]
            raise InputError(
                without_password(f"--storage {storage}: cannot be opened ({said}). ")
                + "Write a URL as sqlite:///trials.db or postgresql://USER@HOST/NAME, or leave it out."
            ) from error
        self.scores: dict[str, Trained] = {}
        for trial in self.study.trials:
            for step, score in trial.intermediate_values.items():
                id, seconds, fixed = trial.user_attrs.get(_key(step), ("", 0.0, 0.0))
                self.scores[id] = Trained(score, seconds, True, fixed)
        self.open: dict[str, Any] = {}

    def known(self, id: str) -> Trained | None:
        """What a stage scored, if that was told."""
        return self.scores.get(id)

    def tell(self, candidate: str, share: float, id: str, found: Trained) -> None:
        """Keep what a candidate's stage scored."""
        if candidate not in self.open:
            self.open[candidate] = self.study.ask()
            self.open[candidate].set_user_attr("candidate", candidate)
        trial, step = self.open[candidate], round(1000 * share)
        trial.set_user_attr(_key(step), [id, found.seconds, found.fixed])
        trial.report(found.score, step)
        self.scores[id] = found

    def close(self, finalists: dict[str, float]) -> None:
        """The search is over: finalists with their scores are complete, all others pruned."""
        from optuna.trial import TrialState

        for candidate, trial in self.open.items():
            if candidate in finalists:
                self.study.tell(trial, finalists[candidate])
            else:
                self.study.tell(trial, state=TrialState.PRUNED)
        self.open.clear()


def _key(step: int) -> str:
    return f"stage {step}"


def _journal(root: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    root.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(root / FILE)))
