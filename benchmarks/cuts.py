"""Ways to make a model smaller by cutting it: those of the table, from 1.2 to 6 times the speed, and the claims about them.

The ways of the table start from a fine-tuned model, `model` in its recipe, and have all training sentences. The claims are
tested as in `ledger.py`, on as few sentences, from the bare encoder.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from common import GRAPHS, MODEL
from ledger import LABELS, Bench, Claim, Way, logits, taught, teacher

from smidgen.measure import entries
from smidgen.recipe import Stage, Training, Use
from smidgen.runtime import load

# The table.


def blocks(count: int, rule: str = "auto") -> Use:
    return Use("prune.layers", {"keep": count, "rule": rule})


def fisher(speedup: float, price: str = "int8", rows: int = 1024, source: str | None = None) -> Stage:
    settings = {"speedup": speedup, "price": price, "rows": rows}
    return Stage("cut", (Use("prune.fisher", settings),), source=source, data="train")


def heads(share: float, by: str = "importance", rows: int = 512, steps: int = 4) -> Use:
    return Use("prune.heads", {"share": share, "by": by, "rows": rows, "steps": steps})


def learnt(
    *uses: Use, epochs: float = 2.0, name: str = "student", pace: float = 2e-4, source: str | None = None
) -> Stage:
    """The teacher's logits, after or while `uses` cut."""
    return Stage(
        name, (*uses, logits), source=source, teacher="model", train=Training(epochs=epochs, learning_rate=pace)
    )


def gates(speedup: float, pace: float = 1e-4, epochs: float = 2.0) -> Stage:
    """CoFi's losses and gates (arXiv:2204.00408)."""
    cut = Use("prune.gates", {"parts": ("heads", "units", "sublayers"), "speedup": speedup, "price": "int8"})
    answers = Use("distil.logits", {"loss_kind": "kl", "temperature": 2.0, "weight": 0.1})
    inside = Use("distil.hidden", {"mapping": "dynamic", "projection": "always", "weight": 0.9})
    train = Training(epochs=epochs, learning_rate=pace)
    return Stage("cut", (cut, answers, inside), teacher="model", train=train)


def theseus(groups: int | float, rate: float = 0.3, rising: float = 1.0) -> Stage:
    """The paper's: the labels' loss, successors from the first blocks (arXiv:2002.02925)."""
    replace = Use("replace.theseus", {"groups": groups, "rate": rate, "rising": rising})
    return Stage("replaced", (replace, Use("tune.full")), train=Training(epochs=2, learning_rate=1e-4))


# By method and what was asked of it, near the marks: as many as three seeds have time for.
TABLE: dict[tuple[str, str], tuple[Stage, ...]] = {
    ("heads", "40 % fewer"): (Stage("cut", (heads(0.4),), data="train"),),
    **{("fisher", f"{speed}x"): (fisher(speed),) for speed in (1.7, 2.2)},
    ("fisher, distilled", "2.2x"): (fisher(2.2), learnt()),
    **{("gates, distilled", f"{speed}x"): (gates(speed), learnt()) for speed in (2.2, 3.2)},
    ("theseus, distilled", "3 blocks"): (theseus(3), learnt(epochs=1.0)),
    ("lowrank, distilled", "rank 128"): (learnt(Use("replace.lowrank", {"rank": 128}), epochs=1.0),),
    ("vocabulary", "train's"): (Stage("cut", (Use("prune.vocab"),), data="train"),),
    ("layers, distilled", "4 blocks"): (learnt(blocks(4), epochs=1.0),),
    **{("layers, distilled", f"{count} blocks"): (learnt(blocks(count)),) for count in (3, 2)},
    ("layers, distilled", "1 block"): (learnt(blocks(1)),),
    ("layers, then fisher, distilled", "3 blocks, 2x"): (learnt(blocks(3), name="shallow"), fisher(2.0), learnt()),
}

# A base-size model, at a base-size model's pace; beside them a small pretrained model that learns from it.

base = functools.partial(learnt, epochs=1.0, pace=5e-5)

BASE: dict[tuple[str, str], tuple[Stage, ...]] = {
    ("fisher", "2.0x"): (fisher(2.0, rows=512),),
    ("fisher, distilled", "2.0x"): (fisher(2.0, rows=512), base()),
    ("gates, distilled", "3.2x"): (gates(3.2, pace=5e-5, epochs=1.0), base()),
    ("layers, distilled", "6 blocks"): (base(blocks(6)),),
    ("a smaller model, distilled", "MiniLM, 6 blocks"): (learnt(source=MODEL),),
}
ONCE = frozenset({("gates, distilled", "3.2x")})  # 20 minutes, so that they are made with the first seed alone

# The claims.

MEND = Training(epochs=3, learning_rate=1e-4, batch_size=16)
POINT = 0.01  # of accuracy: what is "free", or "as good"


def way(*stages: Stage) -> Way:
    return Way((teacher, *stages))


def cut(*uses: Use, name: str = "cut", source: str = "teacher", train: Training = MEND) -> Stage:
    return Stage(name, uses, source=source, data="train", train=train)


def tuned(*uses: Use, epochs: float = 3.0, source: str = "teacher") -> Stage:
    train = Training(epochs=epochs, learning_rate=1e-4)
    return cut(*uses, Use("tune.full"), name="tuned", source=source, train=train)


def gated(parts: Sequence[str], keep: float, price: str) -> Way:
    return way(cut(Use("prune.gates", {"parts": tuple(parts), "keep": keep, "price": price}), Use("tune.full")))


def replaced(rate: float, rising: float) -> Way:
    return way(theseus(3, rate, rising), tuned(source="replaced", epochs=2))


THIRD = fisher(3.0, "macs", 512, "teacher")
HALF = way(cut(heads(0.5), Use("tune.full")))
RANDOM = way(cut(heads(0.5, "random"), Use("tune.full")))
DROPPED = Stage("teacher", (Use("prune.layers", {"keep": 1.0, "drop": 0.2}), Use("tune.full")), train=LABELS)
EVEN = way(tuned(blocks(3, "uniform")))

CLAIMS = (
    Claim(
        "20 % of heads go for free", "Michel et al. (arXiv:1905.10650)",
        "no training after; free = within a point of the uncut model",
        way(cut(heads(0.2))), way(), POINT,
    ),
    Claim(
        "40 % of heads go for free", "Michel et al. (arXiv:1905.10650)",
        "no training after; free = within a point of the uncut model",
        way(cut(heads(0.4))), way(), POINT,
    ),
    Claim(
        "importance beats chance", "Michel et al. (arXiv:1905.10650)",
        "40 % of heads, no training after",
        way(cut(heads(0.4))), way(cut(heads(0.4, "random"))),
    ),
    Claim(
        "random pruning is a strong baseline", "Budhraja et al. (EMNLP 2020)",
        "half of the heads, then three epochs of labels: at random, within a point of by importance",
        RANDOM, HALF, POINT,
    ),
    Claim(
        "gates beat importance at equal share: heads", "McCarley et al. (arXiv:1910.06360)",
        "half of the heads, three epochs of labels in both",
        gated(["heads"], 5 / 6, "weights"), HALF,
    ),
    Claim(
        "gates beat importance at equal share: heads and units", "McCarley et al. (arXiv:1910.06360)",
        "half of the operations by gates or by prune.fisher, three epochs of labels in both",
        gated(["heads", "units"], 0.5, "macs"), way(fisher(2.0, "macs", 512, "teacher"), tuned(source="cut")),
    ),
    Claim(
        "distillation recovers what pruning lost", "CoFi (arXiv:2204.00408); McCarley et al.",
        "a third of the operations left by prune.fisher: three epochs of the teacher's logits, or nothing after",
        way(THIRD, taught(logits, source="cut")), way(THIRD),
    ),
    Claim(
        "distillation recovers more than labels do", "CoFi (arXiv:2204.00408); McCarley et al.",
        "a third of the operations left by prune.fisher: logits on labelled and bare sentences, or labels alone",
        way(THIRD, taught(logits, source="cut")), way(THIRD, tuned(source="cut")),
    ),
    Claim(
        "a rising replacing rate beats a constant one", "Theseus (arXiv:2002.02925)",
        "3 blocks of 6, two epochs, then two of fine-tuning: from 0.3 to 1, or 0.5",
        replaced(0.3, 1.0), replaced(0.5, 0.0),
    ),
    Claim(
        "Theseus beats fine-tuning of the same shape", "Theseus (arXiv:2002.02925), table 2",
        "the first 3 blocks of 6: two epochs of replacing and two of fine-tuning, or four of fine-tuning",
        replaced(0.3, 1.0), way(tuned(blocks(3, "first"), epochs=4)),
    ),
    Claim(
        "trained with LayerDrop, a model loses less when it is cut", "LayerDrop (arXiv:1909.11556)",
        "fine-tuned with or without drop 0.2, every second block cut, no training after",
        Way((DROPPED, cut(blocks(3)))), way(cut(blocks(3))),
    ),
    Claim(
        "keeping blocks evenly beats keeping the bottom", "DistilBERT (arXiv:1910.01108); LayerDrop (arXiv:1909.11556)",
        "3 blocks of 6, three epochs of labels",
        EVEN, way(tuned(blocks(3, "first"))),
    ),
    Claim(
        "keeping blocks evenly beats keeping the top", "DistilBERT (arXiv:1910.01108); LayerDrop (arXiv:1909.11556)",
        "3 blocks of 6, three epochs of labels",
        EVEN, way(tuned(blocks(3, "last"))),
    ),
)  # fmt: skip

LITTLE = 1.2  # times as fast: more than Michel et al. measured at any batch


def speed_of_heads(bench: Bench) -> dict[str, Any]:
    """Half of the heads, in milliseconds of the int8 graph, beside the uncut one; with the first seed."""
    seed = bench.seeds[0]
    ways = {"half": HALF, "whole": way()}
    models = {name: load(bench.folder(Way((*one.stages, *GRAPHS)), seed)) for name, one in ways.items()}
    test = bench.data(HALF.labelled, seed)[0].test
    assert test is not None
    times, many = entries.time_all(models, entries.timed_texts(test), calls=1000)
    speedup = entries.speedup_data(times["half"], times["whole"])
    verdict = "holds" if speedup["high"] < LITTLE else "does not hold" if speedup["low"] > LITTLE else "not resolved"
    return {
        "claim": "heads alone bring little speed",
        "source": "Michel et al. (arXiv:1905.10650), table 4",
        "setting": f"half of the heads cut, int8 graph, batch 1; little = less than {LITTLE} times",
        "speedup": speedup,
        "at_32": many["half"]["texts_per_s"] / many["whole"]["texts_per_s"],
        "verdict": verdict,
    }
