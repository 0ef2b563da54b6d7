"""Ways to tune a frozen encoder: those of the table, on parts of four tasks, and the claims about them on SST-2.

The rows of a task and the epochs are such that a seed of the table ends in 25 minutes of one thread, and the claims, for
three seeds, in 40.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import alone
import numpy as np
from common import ahead
from ledger import Bench, Claim, Way

from smidgen.recipe import Stage, Training
from smidgen.tuning import HABITS, way_of
from smidgen.tuning import Way as Tuning

# The table.

ROWS = {"sst2": 700, "mrpc": 400, "tweets": 500, "wnut17": 800}  # labelled
CHEAP = ("sst2", "tweets")  # the tasks of short texts, on which all ways are tried


def way(method: str, epochs: float, **settings: Any) -> Tuning:
    """With the rate of `smidgen tune`, and steps of 16 rows, since rows are few."""
    return way_of(method, settings, epochs=epochs, batch_size=16)


FULL = "full"
TABLE = {
    FULL: way("full", 3),
    "freeze, 4 of 6 blocks": way("freeze", 3, blocks=4),
    "freeze, all blocks": Tuning("tune.freeze", {"blocks": "all"}, replace(HABITS["head"], batch_size=16)),
    "bitfit": way("bitfit", 4),
    "adapter": way("adapter", 4),
    "lora": way("lora", 4),
    "prefix": way("prefix", 4),
    "ladder": way("ladder", 4),
}
REST = {
    "adapter, houlsby": way("adapter", 4, kind="houlsby"),
    "lora, ia3": Tuning("tune.lora", {"kind": "ia3"}, Training(4, 1e-2, 16)),
    "head": way("head", 10),
    "prompt": way("prompt", 3),
    "side": way("side", 4),
    "mask": way("mask", 3),
    "sparse": way("sparse", 3),
}
FUSION = "fusion of the tasks' adapters"


def fusion(model: str, seed: int) -> Tuning:
    """Of the adapters that the same seed has left."""
    jobs = [alone.job(name, rows, seed, model) for name, rows in ROWS.items()]
    return way("fusion", 3, adapters=tuple(str(alone.folder_of(job, TABLE["adapter"])) for job in jobs))


# Epochs enough for every way: few trained numbers learn slowly. The weights that are left are the ones that were best on dev.

EPOCHS = 16


def longer(given: Tuning) -> Tuning:
    return replace(given, training=replace(given.training, epochs=max(given.training.epochs, EPOCHS)))


# A base-size model, with what its frozen blocks give kept on disk wherever a way allows it.

BASE_ROWS = {"sst2": 600, "mrpc": 300, "tweets": 400, "wnut17": 500}
BASE_EPOCHS = 3.0


def shorter(given: Tuning) -> Tuning:
    return replace(given, training=replace(given.training, epochs=min(given.training.epochs, BASE_EPOCHS)))


BASE = {
    FULL: Tuning("tune.full", {}, Training(2, 3e-5, 16)),
    "freeze, 9 of 12 blocks": Tuning("tune.freeze", {"blocks": 9}, Training(BASE_EPOCHS, 5e-5, 16)),
    "freeze, all blocks": TABLE["freeze, all blocks"],
    **{name: shorter(TABLE[name]) for name in ("bitfit", "adapter", "lora", "prefix", "ladder")},
}
BASE_REST = {  # on those of short texts
    "head": REST["head"],
    **{name: shorter(REST[name]) for name in REST if name not in ("head", "sparse")},
    "sparse": Tuning("tune.sparse", {}, Training(BASE_EPOCHS, 5e-5, 16)),
}

# What the cache brings: blocks that are frozen, rows and epochs.

CACHED = {"MiniLM-6": (4, 5), "MPNet": (9,)}
CACHE_ROWS = {"MiniLM-6": 1000, "MPNet": 400}
CACHE_EPOCHS = {"MiniLM-6": 4.0, "MPNet": 3.0}


def frozen(blocks: int, epochs: float, cache: str) -> Tuning:
    return Tuning("tune.freeze", {"blocks": blocks}, Training(epochs, 1e-4, 16, cache=cache))


def whole(epochs: float) -> Tuning:
    return Tuning("tune.full", {}, Training(epochs, 1e-4, 16))


# The claims.

MANY, USUAL, FEW = 2000, 1200, 200  # labelled sentences
SOME = 500
DEV = 300
POINT = 0.01  # of accuracy: what is "as good"
TENTH = 0.09  # of the accuracy of full tuning, which is about 0.9
MUCH = 0.05


def tried(method: str, labelled: int, epochs: float, **settings: Any) -> Way:
    found = way(method, epochs, **settings)
    return Way((Stage(method, found.methods, train=found.training),), labelled)


def adapted(labelled: int) -> Way:
    return tried("adapter", labelled, 8 if labelled == FEW else 4)


def full(labelled: int, epochs: float = 3) -> Way:
    return tried("full", labelled, epochs)


def fused(labelled: int, bench: Bench, seed: int) -> Way:
    """Of the adapter of the same sentences and of those of other tasks."""
    others = [alone.job(name, ROWS[name], 0, bench.model) for name in ("mrpc", "tweets")]
    for other in others:
        alone.tuned(other, TABLE["adapter"])
    own = bench.folder(adapted(labelled), seed) / "delta"
    adapters = (str(own), *(str(alone.folder_of(other, TABLE["adapter"])) for other in others))
    return tried("fusion", labelled, 6 if labelled == FEW else 2, adapters=adapters)


CLAIMS = (
    Claim(
        "with three quarters of the blocks frozen, 90 % is kept", "Lee et al. (arXiv:1911.03090)",
        "five blocks of six and the embeddings frozen; kept = at most 9 points behind full tuning",
        tried("freeze", USUAL, 3, blocks=5), full(USUAL), TENTH,
    ),
    Claim(
        "a head alone is much worse", "AdapterFusion (arXiv:2005.00247), table 1",
        "all blocks frozen; much = full tuning is more than 5 points ahead",
        full(USUAL), tried("freeze", USUAL, 10, blocks="all"), -MUCH,
    ),
    Claim(
        "BitFit rivals full tuning on few labels", "BitFit (arXiv:2106.10199)",
        f"{FEW} labels; rivals = within a point",
        tried("bitfit", FEW, 8), full(FEW, 6), POINT,
    ),
    Claim(
        "BitFit falls behind on many labels", "BitFit (arXiv:2106.10199)",
        f"{MANY:,} labels; by which full tuning is ahead",
        full(MANY, 2), tried("bitfit", MANY, 3),
    ),
    Claim(
        "adapters come within half a point", "Houlsby et al. (arXiv:1902.00751)",
        f"{USUAL:,} labels, pfeiffer of width 48: 1 % of the weights",
        adapted(USUAL), full(USUAL), POINT / 2,
    ),
    Claim(
        "fusion helps a small task", "AdapterFusion (arXiv:2005.00247), table 1",
        f"{FEW} labels, its own adapter and those of MRPC and tweets; or its own alone",
        functools.partial(fused, FEW), adapted(FEW),
    ),
    Claim(
        "fusion does not help a large one", "AdapterFusion (arXiv:2005.00247), table 1",
        f"{USUAL:,} labels; by which its own adapter alone is ahead, and at most a point behind",
        adapted(USUAL), functools.partial(fused, USUAL), POINT,
    ),
    Claim(
        "masks rival fine-tuning", "Zhao et al. (arXiv:2004.12406)",
        f"{USUAL:,} labels; rivals = within a point",
        tried("mask", USUAL, 3), full(USUAL), POINT,
    ),
    Claim(
        "prefixes win on few labels", "Li and Liang (arXiv:2101.00190)",
        f"{FEW} labels, 16 keys and values a block, or full tuning",
        tried("prefix", FEW, 8), full(FEW, 6),
    ),
)  # fmt: skip


def overfitting(bench: Bench) -> dict[str, Any]:
    """By how much less the gap between its own sentences and test is than that of full tuning, after as long."""
    ways, gaps = [full(SOME, 6), tried("bitfit", SOME, 6)], []
    for part in ("train", "test"):
        right = [np.stack([_right(bench, one, seed, part) for seed in bench.seeds]) for one in ways]
        gaps.append(ahead(*right))
    found = gaps[0]["value"] - gaps[1]["value"]
    low, high = (np.hypot(*(gap["value"] - gap[end] for gap in gaps)) for end in ("low", "high"))
    difference = {"value": found, "low": found - low, "high": found + high, "n": gaps[1]["n"]}
    return {
        "claim": "a cheap method over-fits less",
        "source": "Houlsby et al. (arXiv:1902.00751); Li and Liang (arXiv:2101.00190)",
        "setting": f"{SOME} labels, six epochs, the weights that were best on dev: train less test of full tuning, less that of BitFit",
        "difference": difference,
        "verdict": _verdict(difference["low"], difference["high"]),
    }


def speed(bench: Bench) -> dict[str, Any]:
    """Sentences a second of the training of BitFit, over those of full tuning."""
    ratios = [_rate(bench, tried("bitfit", MANY, 3), seed) / _rate(bench, full(MANY, 2), seed) for seed in bench.seeds]
    speedup = {"value": float(np.mean(ratios)), "low": min(ratios), "high": max(ratios)}
    return {
        "claim": "few trained parameters do not mean fast training",
        "source": "AdapterDrop (arXiv:2010.11918); issues 385 and 424 of adapters",
        "setting": f"BitFit, 0.1 % of the weights, epochs of {MANY:,} sentences and dev; fast = twice as fast; least to most of the seeds",
        "speedup": speedup,
        "verdict": _verdict(2 - speedup["high"], 2 - speedup["low"]),
    }


def _right(bench: Bench, way: Way, seed: int, part: str) -> np.ndarray:
    """(n,) bool, of the sentences that it learnt from or of test."""
    splits, _ = bench.data(way.labelled, seed)
    right: np.ndarray = splits.task.correct(bench.outputs(way, seed, part), getattr(splits, part).labels)
    return right


def _rate(bench: Bench, way: Way, seed: int) -> float:
    history = json.loads((bench.folder(way, seed) / "smidgen.json").read_text(encoding="utf-8"))["history"]
    return float(history["examples"] / history["seconds"])


def _verdict(low: float, high: float) -> str:
    return "holds" if low > 0 else "does not hold" if high < 0 else "not resolved"
