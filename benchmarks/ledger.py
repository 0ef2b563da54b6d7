"""Each claim of the papers that can be tested at this scale, as two ways of making the same student.

All on SST-2 with MiniLM-6 (6 blocks x 384), whose teacher is fine-tuned on the labelled part; the rest of the training
sentences are bare. A way is the stages that end in a student; the ones that ways share are made once.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import WORK, ahead, data, made_on, part, remembered

from smidgen.artefact import identity
from smidgen.data import Data, load_data
from smidgen.distances import soft_targets
from smidgen.measure.peers import TorchModel
from smidgen.recipe import Stage, Training, Use

LABELLED, BARE = 1200, 1300  # sentences of each seed
FEW = 500  # labels a class, where few are claimed about
BODY = Training(epochs=3, learning_rate=2e-4)
LABELS = Training(epochs=4, learning_rate=1e-4)
BOTH = "train+unlabeled"

teacher = Stage("teacher", (Use("tune.full"),), train=LABELS)
cut3, cut1 = Use("prune.layers", {"keep": 3}), Use("prune.layers", {"keep": 1})
logits = Use("distil.logits", {"loss_kind": "mse"})


def taught(
    *uses: Use, name: str = "student", by: str = "teacher", on: str = BOTH, source: str = "teacher", **train: Any
) -> Stage:
    settings = Training(**{"epochs": BODY.epochs, "learning_rate": BODY.learning_rate, **train})
    return Stage(name, uses, source=source, teacher=by, data=on, train=settings)


def hidden(mapping: Any) -> Use:
    return Use("distil.hidden", {"mapping": mapping})


def relations(*kinds: str) -> Use:
    return Use("distil.relations", {"relations": kinds, "heads": 0 if "attention" in kinds else 12})


@dataclass(frozen=True)
class Way:
    stages: tuple[Stage, ...]
    labelled: int = LABELLED


Made = Callable[["Bench", int], Way]  # a way that is another for each seed


@dataclass(frozen=True)
class Claim:
    claim: str
    source: str
    setting: str
    better: Way | Made
    worse: Way | Made
    margin: float = 0.0  # by which the better way may be behind, where "as good" is claimed


def mapped(rule: str) -> Way:
    return Way((teacher, taught(cut3, logits, hidden(rule))))


narrow = Use("student.narrow", {"width": 192, "blocks": 3, "heads": 12})


def related(*kinds: str) -> Way:
    """A narrow student from scratch: relations first, then answers."""
    first = taught(narrow, relations(*kinds), name="inside", epochs=4.0, learning_rate=5e-4)
    return Way((teacher, first, taught(logits, source="inside")))


small = Use("student.bilstm", {"embedding": 128})
HARD = Way((Stage("student", (cut3, Use("tune.full")), train=LABELS),), 2 * FEW)
TAUGHT = Way((teacher,), 2 * FEW)

CLAIMS = (
    Claim(
        "uniform mapping beats the last blocks", "TinyBERT (arXiv:1909.10351), table 4",
        "3 blocks, logits and hidden states", mapped("uniform"), mapped("last"),
    ),
    Claim(
        "uniform mapping beats the first blocks", "TinyBERT (arXiv:1909.10351), table 4",
        "3 blocks, logits and hidden states", mapped("uniform"), mapped("first"),
    ),
    Claim(
        "skip beats last", "BERT-PKD (arXiv:1908.09355), table 4",
        "3 blocks, logits and [CLS] states",
        Way((teacher, taught(cut3, logits, Use("distil.patient", {"mapping": "skip"})))),
        Way((teacher, taught(cut3, logits, Use("distil.patient", {"mapping": "last"})))),
    ),
    Claim(
        "a start from the teacher beats a random one", "DistilBERT (arXiv:1910.01108), table 4",
        "3 blocks of the same width, logits",
        Way((teacher, taught(cut3, logits))),
        Way((teacher, taught(Use("student.narrow", {"width": 384, "blocks": 3, "heads": 12, "feed_forward": 1536}), logits))),
    ),
    Claim(
        "soft labels with bare text beat hard labels at 500 a class", "XtremeDistil (arXiv:2004.05686), table 6",
        "3 blocks; both teachers and students see 1,000 labels",
        Way((teacher, taught(cut3, logits)), 2 * FEW),
        HARD,
    ),
    Claim(
        "stages with gradual unfreezing beat one joint loss", "XtremeDistil (arXiv:2004.05686), table 3",
        "3 blocks, 192 wide: hidden states, then logits with thawing, then labels",
        Way((
            teacher,
            taught(narrow, hidden([[2, 5]]), name="inside", epochs=3.0, learning_rate=5e-4),
            taught(logits, Use("tune.freeze", {"blocks": "all", "embeddings": True, "head": False, "thaw": "top_down"}), name="answers", source="inside"),
            taught(Use("tune.full"), Use("tune.freeze", {"blocks": "all", "embeddings": True, "head": False, "thaw": "top_down"}), source="answers", on="train", epochs=2.0, learning_rate=5e-5),
        )),
        Way((teacher, taught(narrow, hidden([[2, 5]]), logits, Use("tune.full"), epochs=6.5, learning_rate=5e-4))),
    ),
    Claim(
        "an assistant helps the smallest student", "MiniLM (arXiv:2002.10957), table 3",
        "1 block, by way of 3 blocks or at once",
        Way((teacher, taught(cut3, logits, name="assistant"), taught(cut1, logits, by="assistant", source="assistant"))),
        Way((teacher, taught(cut1, logits, epochs=6.0))),
    ),
    Claim(
        "value relations help MiniLM", "MiniLM (arXiv:2002.10957), table 5",
        "3 blocks, 192 wide, random start: attention and values, or attention alone",
        related("attention", "value"), related("attention"),
    ),
    Claim(
        "the last block alone does as well as layer to layer", "MiniLM (arXiv:2002.10957), table 7",
        "3 blocks of the teacher: relations of the last block, or hidden states of all; then logits",
        Way((teacher, taught(cut3, relations("query", "key", "value"), name="inside"), taught(logits, source="inside"))),
        Way((teacher, taught(cut3, hidden("uniform"), name="inside"), taught(logits, source="inside"))),
    ),
    Claim(
        "losses inside help TinyBERT", "TinyBERT (arXiv:1909.10351), table 3",
        "3 blocks, 192 wide, random start: hidden states and scores before the logits, or logits alone for as long",
        Way((
            teacher,
            taught(narrow, hidden("uniform"), Use("distil.attention", {"kind": "scores"}), name="inside", epochs=4.0, learning_rate=5e-4),
            taught(logits, source="inside"),
        )),
        Way((teacher, taught(narrow, logits, epochs=7.0, learning_rate=5e-4))),
    ),
    Claim(
        "augmentation helps", "Tang et al. (arXiv:1903.12136), table 2; TinyBERT, table 2",
        "BiLSTM on labelled sentences, with and without four noisy copies of each",
        Way((
            teacher,
            Stage("grown", (Use("data.noise", {"copies": 4}),), data="train"),
            taught(small, logits, on="train+grown", epochs=6.0, learning_rate=2e-3),
        )),
        Way((teacher, taught(small, logits, on="train", epochs=30.0, learning_rate=2e-3))),
    ),
)  # fmt: skip


SAID = WORK / "ledger" / "said"


class Bench:
    """Makes the ways, each once, and tells on which test sentences their students are right."""

    def __init__(self, make: Callable[..., Any], model: str, seeds: Sequence[int], dev: int | None = None) -> None:
        """`dev`: how many of its rows are asked after each epoch; None = all."""
        self.make, self.model, self.seeds, self.dev = make, model, tuple(seeds), dev
        self.devices: set[str] = set()  # on which what was asked for was made
        self.splits: dict[tuple[int, int], tuple[Data, dict[str, str]]] = {}

    def judged(self, claim: Claim) -> dict[str, Any]:
        """A claim as measured."""
        better, worse = (self.correct(way) for way in (claim.better, claim.worse))
        difference = ahead(better, worse)
        low, high = (difference[end] + claim.margin for end in ("low", "high"))
        row = {
            "claim": claim.claim,
            "source": claim.source,
            "setting": claim.setting,
            "accuracy": {"better": better.mean(1).tolist(), "worse": worse.mean(1).tolist()},
            "difference": difference,
            "margin": claim.margin,
            "verdict": "holds" if low > 0 else "does not hold" if high < 0 else "not resolved",
        }
        print(row, flush=True)
        return row

    def correct(self, given: Way | Made) -> np.ndarray:
        """(seeds, n) bool."""
        rows = []
        for seed in self.seeds:
            way = given if isinstance(given, Way) else given(self, seed)
            splits, _ = self.data(way.labelled, seed)
            assert splits.test is not None and splits.test.labels is not None
            rows.append(splits.task.correct(self.outputs(way, seed), splits.test.labels))
        return np.stack(rows)

    def outputs(self, way: Way, seed: int, part: str = "test") -> np.ndarray:
        """Logits of the way's last model on the sentences of test, or those that it learnt from, (n, classes). They are kept, so that
        seeds may be made apart, on several machines."""
        splits, _ = self.data(way.labelled, seed)
        name = identity([repr(way), seed, self.model, self.dev, part])
        texts = getattr(splits, part).texts
        found = remembered(SAID, name, lambda: TorchModel(self.folder(way, seed), splits.task).outputs(texts))
        self.devices.add(made_on(SAID, name))
        return found

    def folder(self, way: Way, seed: int) -> Path:
        """Of the way's last stage, which is run unless it is there."""
        splits, files = self.data(way.labelled, seed)
        folder: Path = self.make(splits, way.stages[-1].name, way.stages, files, self.model, seed)[-1].artefact.path
        return folder

    def data(self, labelled: int, seed: int) -> tuple[Data, dict[str, str]]:
        """As many labelled sentences as asked for, half of each class, and BARE others without labels."""
        if (labelled, seed) not in self.splits:
            files = dict(data("sst2"))
            with Path(files["train"]).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            order = np.random.default_rng(seed).permutation(len(rows))
            by_class = [[i for i in order if rows[i]["label"] == name] for name in sorted({r["label"] for r in rows})]
            chosen = [i for one in by_class for i in one[: labelled // 2]]
            rest = [i for i in order if i not in set(chosen)][:BARE]
            folder = WORK / "ledger" / f"{labelled}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, picked, columns in (("train", chosen, ("text", "label")), ("unlabeled", rest, ("text",))):
                with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(columns)
                    writer.writerows([rows[i][column] for column in columns] for i in picked)
                files[name] = str(folder / f"{name}.csv")
            if self.dev is not None:
                files["dev"] = part(Path(files["dev"]), folder / f"dev-{self.dev}", self.dev, 0)
            self.splits[labelled, seed] = load_data(**files), files
        return self.splits[labelled, seed]


TEMPERATURES = (1.0, 2.0, 4.0, 8.0)


def gradient_sizes(bench: Bench) -> dict[str, Any]:
    """Mean norm of the gradient of the soft targets' loss by the student's logits, on test sentences, by temperature."""
    found: dict[str, list[list[float]]] = {"with": [], "without": []}
    for seed in bench.seeds:
        student, teacher_logits = (torch.tensor(bench.outputs(way, seed)) for way in (HARD, TAUGHT))
        for way, sizes in found.items():
            sizes.append([])
            for t in TEMPERATURES:
                z = student.clone().requires_grad_()
                loss = soft_targets(z, teacher_logits, t) / (1 if way == "with" else t**2)
                sizes[-1].append(float(torch.autograd.grad(loss.sum(), z)[0].norm(dim=-1).mean()))
    return {
        "claim": "T^2 keeps the gradient's size",
        "source": "Hinton et al. (arXiv:1503.02531), section 2",
        "setting": "MiniLM-6's logits taught to 3 blocks that learnt from 1,000 labels; norms by the student's logits",
        "temperatures": TEMPERATURES,
        "with": np.mean(found["with"], 0).tolist(),
        "without": np.mean(found["without"], 0).tolist(),
    }
