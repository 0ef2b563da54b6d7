"""What of a graph can be in int8 without harm: the whole is compared with its float graph on dev, and what hurts most
goes back to float until the loss is within a limit.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from smidgen.calibration import Feed, opened
from smidgen.integer import FLOAT, INTEGER, count
from smidgen.measure.entries import two_lists
from smidgen.measure.quality import agreement, difference
from smidgen.runtime.folder import GRAPH, deployed_files
from smidgen.runtime.model import load
from smidgen.saturation import PORTABLE, note, warning, without_vnni
from smidgen.saving import copy_graph, save
from smidgen.tasks import Task
from smidgen.tokens import encode, length_limit, pad_id

if TYPE_CHECKING:
    from smidgen.method import Context
    from smidgen.splits import Split

Quantise = Callable[[Collection[str]], onnx.ModelProto]  # all but the nodes of these names
PROBED = 32  # rows that nodes are put in an order by
JUDGED = 200  # rows of dev at most that a processor without VNNI is judged on: one of them is 0.5 %
NAMED = 4  # nodes that are told by name


@dataclass(frozen=True)
class Loss:
    """Points of the task's metric that int8 costs, with a paired 95 % interval, and the share of same decisions."""

    points: float
    low: float
    high: float
    same: float

    def exceeds(self, limit: float) -> bool:
        """Is it more than the limit, and more than none at all as far as so many rows can tell?"""
        return self.points > limit and self.low > 0


NONE = Loss(0.0, 0.0, 0.0, 1.0)


def guarded(ctx: Context, quantise: Quantise, parts: Mapping[str, str], max_loss: float | None) -> dict[str, Any]:
    """Write `ctx.target`'s graph in int8, all of its `parts` where `max_loss` is None, else as many as lose at most so
    many points on dev; gives what was found.

    A loss whose interval has 0 in it is none that dev can tell. The parts are put in the order of the harm that each
    does alone, and of the worst so few go back as suffice.
    """
    if max_loss is None:
        note(made := quantise(()))
        save(made, ctx.target / GRAPH)
        return {"told": warning(made), **counts(made)}
    dev = ctx.sight.dev()
    assert dev is not None, "the runner gives dev"
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        for file in deployed_files(ctx.source):
            if file.parent == ctx.source:
                shutil.copyfile(file, folder / file.name)
        first, last, back = _searched(ctx, dev, quantise, list(parts), max_loss, folder)
        if len(back) == len(parts):
            copy_graph(ctx.source / GRAPH, folder / GRAPH)
        few = dev.take(range(0, len(dev), math.ceil(len(dev) / JUDGED)))
        same = without_vnni(ctx.task, folder, few.texts, few.pairs)
        made = onnx.load(str(folder / GRAPH))
    note(made, same)
    save(made, ctx.target / GRAPH)
    words = told(first, last, [parts[name] for name in back], len(parts), max_loss, ctx.task.metric, len(dev))
    if same is not None and same < PORTABLE:
        words += (
            f" Where the processor has no VNNI, {1 - same:.1%} of {len(few)} decisions would be others: for "
            "such machines write reduce_range: true."
        )
    return {
        "told": words,
        "loss_before": first.points,
        "loss": last.points,
        "loss_interval": [last.low, last.high],
        "same_decisions": last.same,
        "same_without_vnni": same,
        "rows": len(dev),
        "float": {name: parts[name] for name in back},
        **counts(made),
    }


def _searched(
    ctx: Context, dev: Split, quantise: Quantise, names: list[str], max_loss: float, folder: Path
) -> tuple[Loss, Loss, list[str]]:
    """What int8 costs before and after, and what goes back for it; the graph is left in `folder`, a copy of the
    source."""
    said = load(ctx.source).outputs(dev.texts, dev.pairs)

    def tried(kept: Sequence[str]) -> Loss:
        save(quantise(kept), folder / GRAPH)
        return lost(ctx.task, said, load(folder).outputs(dev.texts, dev.pairs), dev)

    first = tried(())
    if not first.exceeds(max_loss):
        return first, first, []
    order = worst_first(ctx, quantise, names)
    for few in growing(len(order)):
        if not (last := tried(order[:few])).exceeds(max_loss):
            return first, last, order[:few]
    return first, NONE, order


def growing(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... below `most`."""
    doubled = [2**power * start for power in range(most.bit_length()) for start in (2, 3)]
    return [few for few in (1, *doubled) if few < most]


def counts(graph: onnx.ModelProto) -> dict[str, int]:
    """Of products; those inside attention are not counted."""
    return {"products_int8": count(graph, *INTEGER), "products_float": count(graph, *FLOAT)}


def lost(task: Task, floats: np.ndarray, ints: np.ndarray, dev: Split) -> Loss:
    """What int8 costs, on the same rows."""
    gold = dev.labels
    assert gold is not None
    points = 100 * (task.score(floats, gold) - task.score(ints, gold))
    return Loss(points, *difference(task, floats, ints, gold), agreement(task, floats, ints).value)


def worst_first(ctx: Context, quantise: Quantise, names: Sequence[str]) -> list[str]:
    """By the squared error of the logits where one node alone is in int8, on a handful of rows."""
    feeds = checked(ctx, PROBED)
    exact = logits(quantise(names), feeds)
    harm = {}
    for name in names:
        error = logits(quantise([other for other in names if other != name]), feeds) - exact
        harm[name] = float(np.nan_to_num((error.astype(np.float64) ** 2).sum(), nan=np.inf))
    return sorted(names, key=lambda name: -harm[name])


def checked(ctx: Context, most: int) -> list[Feed]:
    """Some rows of dev, as a graph takes them."""
    encoded = encode(ctx.task, ctx.source, *two_lists(ctx.texts[:most]), length_limit(ctx.source))
    order = np.argsort(encoded.lengths, kind="stable")
    pad = pad_id(ctx.source)
    return [encoded.batch(rows, pad) for rows in np.array_split(order, -(-len(order) // 16))]


def logits(graph: onnx.ModelProto, feeds: Iterable[Feed]) -> np.ndarray:
    """Of all rows, or of all their tokens, (N, C)."""
    session = opened(graph)
    names = [value.name for value in session.get_inputs()]
    found = []
    for feed in feeds:
        values = session.run(None, {name: feed[name] for name in names})[0]
        found.append(values[feed["attention_mask"] > 0] if values.ndim == 3 else values)
    return np.concatenate(found)


def told(first: Loss, last: Loss, back: Sequence[str], of: int, max_loss: float, metric: str, rows: int) -> str:
    """The whole in a sentence or two."""
    unsure = last.points > max_loss
    doubt = ", and so few rows cannot tell it from none: give a larger dev to be sure" if unsure else ""
    if not back:
        allowed = f"up to {max_loss:g} are allowed"
        return f"int8 costs {_points(last)} of {metric} on {rows} rows of dev; {allowed}{doubt}."
    before = f"int8 would cost {_points(first)} of {metric} on {rows} rows of dev, and {max_loss:g} are allowed"
    if len(back) == of:
        return f"{before}; no part of the graph could stay in int8, so that it is in float32 as it was."
    names = ", ".join(back[:NAMED]) + (" ..." if len(back) > NAMED else "")
    return f"{before}; {len(back)} of {of} parts went back to float32 ({names}), and it costs {_points(last)}{doubt}."


def _points(loss: Loss) -> str:
    return f"{loss.points:.1f} points ({loss.low:.1f} to {loss.high:.1f})"
