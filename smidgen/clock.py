"""Milliseconds by the shape of the blocks, measured on the graphs that would serve: text in, logits out, batch 1.

Idea: models of the geometry, each with another number of heads or another width in all its blocks, are exported as the
real one will be and timed side by side on the data's texts. All have the real depth: fewer blocks would stay in caches
that the real ones do not fit, where a block takes less. Some attention is left in all: a graph without any, of which
only the first token is read, would compute nothing else, and say nothing of what an attention costs. What is between
the points is on straight lines: products grow in steps that a few points cannot see, so the model that is cut in the
end is measured too.

A table is kept in a file named by all that it depends on: geometry, lengths, precision, threads, processor, versions.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from smidgen.anatomy import anatomy
from smidgen.artefact import identity, write_atomic
from smidgen.batch import said
from smidgen.edits.head import Head
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import NoEffect
from smidgen.measure.entries import Row, two_lists
from smidgen.measure.environment import versions
from smidgen.measure.speed import latency
from smidgen.method import Context, above, find
from smidgen.prices import Costs, Meter, Shape, shape_of, widest
from smidgen.runtime.engines.onnxruntime import open_session
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.inputs import as_rows
from smidgen.runtime.machine import cpu, features, usable_cores
from smidgen.runtime.serving import by_rule
from smidgen.runtime.tokenizer import TextEncoder
from smidgen.surgery import apply, from_data
from smidgen.tasks import Classify, Several, Task
from smidgen.tasks.several import mixed
from smidgen.tokens import encode, open_tokenizer
from smidgen.uneven import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 5  # of what is measured
TEXTS, CALLS = 16, 40  # timed: texts, from the shortest to the longest, and calls of each
TOKENS = 1024  # of the vocabulary; what is looked up costs the same in a table of any size

OWN = "of its own hidden size"
PRECISIONS = ("float32", "int8")
Point = tuple[int, int]  # the heads and the width of every block
Times = Mapping[Point, float]


@dataclass(frozen=True)
class Clock:
    """A meter (`smidgen.prices.Meter`) in milliseconds.

    Of each text the quickest call, since what disturbs a machine only ever adds; of texts of the data's lengths the
    mean. It is a little less than the median of all calls, which reports have, and steadier.
    """

    task: Task
    home: Path  # of the tokenizer
    rows: Sequence[Row]  # to time on
    max_length: int
    kept: Path  # where tables are kept
    precision: str  # float32 | int8
    threads: int = 0  # 0 = of each graph, as many as the runtime takes
    unit: str = "ms"

    def costs(self, model: PreTrainedModel, hidden: int = 0) -> Costs:
        """The table of a model, or of the same at another hidden size; that one is of the same moment as its own: the
        whole model is timed beside it, and by what that takes now the times are set right."""
        return Costs.from_data(json.loads(said(lambda: self._table(model, hidden))))

    def _table(self, model: PreTrainedModel, hidden: int) -> str:
        """The text of its file, which is made unless it is there."""
        with torch.random.fork_rng(devices=[]):  # whether a table was there already changes nothing that is drawn
            whole = skeleton(model, hidden)
            own = skeleton(model) if hidden else whole
        for one in (whole, own):
            fewer_tokens(one)
        file = self.kept / f"costs-{identity(self._key(whole))}.json"
        if not file.is_file():
            wanted = points(*widest(whole))
            models = {str(point): shaped(whole, spread(point, shape_of(whole))) for point in wanted}
            pace = 1.0
            if hidden:
                costs = Costs.from_data(json.loads(self._table(model, 0)))
                pace, models[OWN] = costs.predict(shape_of(own)), own
            times = self._time(models)
            pace /= times.get(OWN, 1.0)
            found = table({point: pace * times[str(point)] for point in wanted}, len(shape_of(whole)))
            write_atomic(file, json.dumps(found.to_data()))
        return file.read_text(encoding="utf-8")

    def measure(self, models: Mapping[str, PreTrainedModel]) -> dict[str, float]:
        def timed() -> str:
            return json.dumps(self._time({name: copy.deepcopy(model) for name, model in models.items()}))

        found: dict[str, float] = json.loads(said(timed))
        return found

    def _key(self, whole: PreTrainedModel) -> list[Any]:
        """All that a table depends on."""
        parts = anatomy(whole)
        geometry = [parts.family, parts.hidden_size, parts.blocks[0].head_size, shape_of(whole)]
        lengths = self._encoded(self.rows).lengths.tolist()
        return [VERSION, geometry, self.task.name, lengths, self.precision, machine(self.threads or usable_cores())]

    def _encoded(self, rows: Sequence[Row]) -> Any:
        return encode(self.task, self.home, *two_lists(rows), self.max_length)

    def _time(self, models: dict[str, PreTrainedModel]) -> dict[str, float]:
        """Of each model's graph, all in one run. The models are spent."""
        calls: dict[str, Callable[[Row], object]] = {}
        for name in list(models):
            calls[name] = self._served(self._graph_of(models.pop(name)))
        runs = [latency(calls, [row], CALLS) for row in self._spread()]
        return {name: float(np.mean([run[name].samples.min() for run in runs])) for name in calls}

    def _spread(self) -> list[Row]:
        """Some rows at even steps of their length."""
        lengths = [len(text) + len(pair or "") for text, pair in self.rows]
        order = np.argsort(lengths, kind="stable")
        steps = (np.arange(TEXTS) + 0.5) / TEXTS * len(order)
        return [self.rows[order[int(step)]] for step in steps]

    @functools.cached_property
    def _graphs(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    def _graph_of(self, model: PreTrainedModel) -> Path:
        """A model's graph, or that of another of its shape which was exported before: weights say nothing of time."""
        fewer_tokens(model)
        shapes = [[name, list(value.shape)] for name, value in model.state_dict().items()]
        folder = Path(self._graphs.name) / identity([repr(model), shapes])
        file = folder / ("float32" if self.precision == "float32" else "int8") / GRAPH
        return file if file.is_file() else self._graph(model, folder)

    def _graph(self, model: PreTrainedModel, folder: Path) -> Path:
        """A model's graph in the precision that will serve, of few tokens."""
        from smidgen.graph import export, single_output

        file = folder / "float32" / GRAPH
        file.parent.mkdir(parents=True, exist_ok=True)
        model.eval().cpu().set_attn_implementation("eager")
        longest = self._encoded(self.rows[:2]).batch([0], 0)
        batch = {name: np.zeros((2, values.shape[1]), np.int64) for name, values in longest.items()}
        batch["attention_mask"] += 1
        export(single_output(model), batch, file, self.max_length)
        if self.precision == "float32":
            return file
        quantise: Any = find("quant.dynamic")()
        quantise.run(Context(folder / "float32", folder / "int8", self.task, (), 0))
        return folder / "int8" / GRAPH

    def _served(self, graph: Path) -> Callable[[Row], object]:
        """What the runtime does with one text, up to the logits."""
        session = open_session(graph, self.threads or by_rule(graph).latency.threads)
        names, read = [value.name for value in session.get_inputs()], self._reader()

        def call(row: Row) -> object:
            batch = read(row)
            batch["input_ids"] %= TOKENS
            return session.run(["logits"], {name: batch[name] for name in names})

        return call

    def _reader(self) -> Callable[[Row], dict[str, np.ndarray]]:
        """From a text to what a graph takes.

        The runtime has a tokenizer of its own for texts to classify, which takes a few hundredths of a millisecond
        where the library's takes a tenth: as much as some blocks of a small model.
        """
        return self._quick if isinstance(self.task, Classify | Several) else self._batch

    def _quick(self, row: Row) -> dict[str, np.ndarray]:
        text, pair = row
        ((ids, types),) = self._encoder.ids(mixed(as_rows([text], None if pair is None else [pair])))
        columns = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": types or [0] * len(ids)}
        return {name: np.array([values], np.int64) for name, values in columns.items()}

    def _batch(self, row: Row) -> dict[str, np.ndarray]:
        encoded = self.task.encode(self._tokenizer, *two_lists([row]), self.max_length)
        return encoded.batch(np.arange(len(encoded)), 0)

    @functools.cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.home, self.max_length)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return open_tokenizer(self.home)


def machine(threads: int) -> list[Any]:
    """What of the machine a table depends on."""
    return [cpu(), features(), threads, versions()["onnxruntime"]]


def of_machine(price: str) -> dict[str, str]:
    """What `Method.reads` says of a stage that is cut to this price: of milliseconds, whose they are."""
    return {"machine": identity([VERSION, *machine(usable_cores())])} if price in PRECISIONS else {}


def faults(milliseconds: float | None, price: str) -> Iterator[str]:
    """What is wrong with a target in milliseconds; None = there is none."""
    if milliseconds is not None:
        yield from above("milliseconds", milliseconds, 0)
        if price not in PRECISIONS:
            yield f"milliseconds: got a target at price {price}, wanted price {' or '.join(PRECISIONS)}."


def speedup(who: str, meter: Meter, model: PreTrainedModel, milliseconds: float) -> float:
    """How many times less than it does a model is to take. Raises NoEffect where it takes no more already."""
    now = meter.measure({"now": nn.Module.to(copy.deepcopy(model), "cpu")})["now"]
    if now <= milliseconds:
        raise NoEffect(
            f"{who}: milliseconds {milliseconds} cuts nothing: a text takes {now:.3f} ms as it is. Ask for less, or "
            "drop it."
        )
    return now / milliseconds


def reachable(most: float, asked: float, milliseconds: float | None) -> str:
    """What to write instead of a target beyond the most that can be reached, as times faster, in its own words."""
    if milliseconds is None:
        return f"a speedup up to {int(most * 100) / 100}"
    return f"milliseconds from {math.ceil(milliseconds * asked / most * 1000) / 1000} on"


def points(heads: int, width: int) -> list[Point]:
    """What is timed: none, one, half or all of the heads; none, a quarter, half or all of the width."""
    by_heads = [(count, width) for count in sorted({0, 1, heads // 2, heads})]
    by_width = [(heads, count) for count in sorted({0, width // 4, width // 2})]
    return [*by_heads, *by_width]


def spread(point: Point, whole: Shape) -> list[Point]:
    """The blocks of the model that is timed at a point, of one of this shape; the last of several keeps its heads where
    the point has none."""
    kept = [(min(point[0], heads), min(point[1], width)) for heads, width in whole]
    return kept if point[0] or len(whole) == 1 else [*kept[:-1], (whole[-1][0], kept[-1][1])]


def table(times: Times, blocks: int) -> Costs:
    """What the sublayers cost, from the milliseconds of `points` for models of so many blocks.

    A sublayer costs what it takes above an empty one. Empty ones still have a norm and a sum: that is in the fixed
    part, which is of models of this depth. Where noise has a row fall it is made level, and where it has the sublayers
    take more than the whole, they are made to take less.
    """
    heads, width = whole = max(times)
    attention = (times[whole] - times[0, width]) / max(blocks - 1, 1)  # see `spread`
    saved = {count: (times[whole] - ms) / blocks for (count, wide), ms in times.items() if count and wide == width}
    by_heads = {0: 0.0} | {count: attention - less for count, less in saved.items()}
    by_width = {wide: (ms - times[heads, 0]) / blocks for (count, wide), ms in times.items() if count == heads}
    rows = [
        (sorted(row), np.maximum.accumulate([max(row[n], 0.0) for n in sorted(row)])) for row in (by_heads, by_width)
    ]
    inside = blocks * sum(float(costs[-1]) for _, costs in rows)
    scale = min(1.0, times[whole] / inside) if inside else 1.0
    found = [tuple(zip(counts, (costs * scale).tolist(), strict=True)) for counts, costs in rows]
    return Costs("ms", max(times[whole] - inside, 0.0), *found)


def skeleton(model: PreTrainedModel, hidden: int = 0) -> PreTrainedModel:
    """A random model of this one's depth and head, of the shape that its blocks had before they were cut unevenly, of
    its hidden size or of another one."""
    cls = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("smidgen"))
    whole, hidden = cls(plain(model.config)), hidden or anatomy(model).hidden_size
    for edit in from_data(getattr(model.config, "edits", ())):
        if isinstance(edit, Head):
            apply(whole, edit)
    blocks = len(anatomy(model).blocks)
    if blocks < len(anatomy(whole).blocks):  # blocks went after heads or units
        apply(whole, KeepBlocks(tuple(range(blocks))))
    return whole if hidden == anatomy(whole).hidden_size else apply(whole, KeepHidden(tuple(range(hidden))))


def shaped(whole: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """A copy whose blocks have so many heads and inner units, the first ones."""
    model = copy.deepcopy(whole)
    for index, ((heads, width), (some, few)) in enumerate(zip(shape_of(whole), shape, strict=True)):
        if some < heads:
            apply(model, KeepHeads(index, tuple(range(some))))
        if few < width:
            apply(model, KeepWidth(index, tuple(range(few))))
    return model


def fewer_tokens(model: PreTrainedModel) -> None:
    """Cut the table of token vectors, in place: graphs are written and read the faster."""
    found: Any = model.get_input_embeddings()
    found = getattr(found, "first", found)  # the narrow table of a factored one
    found.weight = torch.nn.Parameter(found.weight.detach()[:TOKENS].clone())
    found.num_embeddings, found.padding_idx = len(found.weight), None
