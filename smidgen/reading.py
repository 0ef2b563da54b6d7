"""What a stage reads: its training rows with their teacher, its dev rows, and what its methods may look at."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from smidgen.artefact import Store
from smidgen.corpus import read_grown
from smidgen.masking import masker
from smidgen.method import Context, Sight
from smidgen.planner import Plan, Planned
from smidgen.prices import Macs, Meter
from smidgen.source import Source, resolve
from smidgen.tasks import MaskLanguage, Tag
from smidgen.tokens import encode, pad_id
from smidgen.watch import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from smidgen.batch import Batch
    from smidgen.data import Split
    from smidgen.loop import Rows
    from smidgen.teacher import Labels, Teacher


def training_split(plan: Plan, planned: Planned, store: Store) -> Split:
    """The rows a stage trains on or grows; those without a label last."""
    from smidgen.data import Split

    splits = {"train": plan.data.train, "unlabeled": plan.data.unlabeled}
    parts = []
    for part in sorted(planned.parts, key="train".__ne__):
        split, step = splits.get(part), plan.by_id(part)
        parts.append(split or read_grown(store.path(part), step.stage.name if step else part))
    if len(parts) == 1:
        return parts[0]
    return Split(
        name=planned.stage.data,
        texts=tuple(text for part in parts for text in part.texts),
        pairs=_all_pairs(parts),
        labels=np.concatenate([p.labels if p.labels is not None else plan.data.task.no_labels(len(p)) for p in parts]),
        source=" + ".join(part.source for part in parts),
    )


def training_rows(
    plan: Plan,
    planned: Planned,
    store: Store,
    source: Source,
    split: Split,
    taps: set[str],
    accelerator: Accelerator,
    watch: Watch,
) -> Rows:
    """Rows of a split that the stage reads, with the teacher where it is asked something."""
    from smidgen.teacher import Mean, online, too_big

    rows, task = _plain_rows(plan, split, source), plan.data.task
    if isinstance(task, MaskLanguage):
        rows = dataclasses.replace(rows, masker=masker(source.path, planned.seed))
    if not planned.teachers or not taps:
        return rows
    sources = [source_of(plan, store, reference) for reference in planned.teachers]
    fresh = rows.masker is not None or any(method.needs.online for method in planned.methods)
    if fresh or too_big(taps):
        found: list[Teacher] = [online(s, task, taps, accelerator.device) for s in sources]
    else:
        found = []
        for teacher in sources:
            labels = label_rows(plan, teacher, store, split, taps, accelerator, watch)
            rows, said = _by_word(plan, rows, split, source, teacher, labels)
            found.append(said)
    return dataclasses.replace(rows, teacher=found[0] if len(found) == 1 else Mean(tuple(found)))


def dev_rows(plan: Plan, source: Source) -> Rows:
    """What a stage is judged by; where tokens are to be found, they are masked once and for all."""
    rows = _plain_rows(plan, plan.data.dev, source)
    if not isinstance(plan.data.task, MaskLanguage):
        return rows
    encoded, labels = masker(source.path, 0).once(rows.encoded)
    return dataclasses.replace(rows, encoded=encoded, labels=labels)


def label_rows(
    plan: Plan, teacher: Source, store: Store, split: Split, taps: set[str], accelerator: Accelerator, watch: Watch
) -> Labels:
    """The teacher's labels for a split: the main process makes what is missing, the others read."""
    from smidgen.halves import DTYPES
    from smidgen.teacher import label

    found: Labels | None = None
    with accelerator.main_process_first(), watch.bar("labelling", len(split)) as bar:
        found = label(
            teacher,
            plan.data.task,
            split,
            taps,
            plan.max_length,
            store.root,
            _to(bar.to, len(split)),
            precision=DTYPES[accelerator.mixed_precision],
            executor=store.executor,
            far=store.far,
        )
    return found


def source_of(plan: Plan, store: Store, reference: str) -> Source:
    """The folder behind a planned stage's id or a model's reference."""
    return plan.models[reference] if reference in plan.models else resolve(str(store.path(reference)))


def texts_of(split: Split) -> Iterable[str]:
    return itertools.chain(split.texts, split.pairs or ())


def sight(plan: Plan, planned: Planned, store: Store, ctx: Context, home: Callable[[], Source], watch: Watch) -> Sight:
    """What the methods of a stage may look at. `home` says where the tokenizer of its model is by then."""
    return Sight(
        training_texts=lambda: texts_of(training_split(plan, planned, store)),
        dev_texts=lambda: texts_of(plan.data.dev),
        sample=lambda count: _sample(plan, planned, store, home(), ctx, count, watch),
        inputs=lambda count: _inputs(plan, planned, store, home(), count),
        dev=lambda: plan.data.dev,
        dev_loss=_dev_loss(plan, ctx, home),
        meter=functools.cache(lambda unit: _meter(plan, store, home(), unit)),
    )


def _sample(
    plan: Plan, planned: Planned, store: Store, source: Source, ctx: Context, count: int, watch: Watch
) -> Iterable[Batch]:
    """Of the labelled rows where the stage reads some, else of all rows, with the teacher's decisions as labels."""
    from smidgen.loop import make_accelerator
    from smidgen.sampling import batches, draw

    assert ctx.model is not None
    labelled = isinstance(ctx.task, MaskLanguage) or "train" in planned.parts
    pool = plan.data.train if "train" in planned.parts else training_split(plan, planned, store)
    accelerator = make_accelerator(planned.stage.train.precision)
    split, taps = draw(pool, count, planned.seed), set() if labelled else {"logits"}
    rows = training_rows(plan, planned, store, source, split, taps, accelerator, watch)
    return batches(rows, ctx.task, ctx.model, accelerator.device)


def _inputs(
    plan: Plan, planned: Planned, store: Store, source: Source, count: int
) -> Iterable[Mapping[str, np.ndarray]]:
    """Batches of rows drawn by the seed, the short ones first."""
    from smidgen.runtime.batches import batches
    from smidgen.runtime.serving import BATCH_TOKENS
    from smidgen.sampling import draw

    split, pad = draw(training_split(plan, planned, store), count, planned.seed), pad_id(source.path)
    encoded = encode(plan.data.task, source.path, split.texts, split.pairs, plan.max_length)
    return (encoded.batch(rows, pad) for rows in batches(encoded.lengths, BATCH_TOKENS))


def _dev_loss(plan: Plan, ctx: Context, home: Callable[[], Source]) -> Callable[[], float]:
    """The rows are made when it is first asked."""
    from smidgen.sampling import mean_loss

    rows = functools.cache(lambda: dev_rows(plan, home()))

    def loss() -> float:
        assert ctx.model is not None
        return mean_loss(ctx.model, ctx.task, rows())

    return loss


def _meter(plan: Plan, store: Store, source: Source, unit: str) -> Meter:
    """Of texts as long as those of dev."""
    from smidgen.clock import Clock
    from smidgen.measure.entries import timed_texts, two_lists

    rows, task = timed_texts(plan.data.dev), plan.data.task
    if unit == "macs":
        return Macs(float(encode(task, source.path, *two_lists(rows), plan.max_length).lengths.mean()))
    return Clock(task, source.path, rows, plan.max_length, store.root, unit)


def _plain_rows(plan: Plan, split: Split, source: Source) -> Rows:
    from smidgen.loop import Rows

    task = plan.data.task
    encoded = encode(task, source.path, split.texts, split.pairs, plan.max_length)
    return Rows(encoded, task.targets(encoded, split.texts, split.labels), pad_id(source.path), split=split)


def _by_word(
    plan: Plan, rows: Rows, split: Split, source: Source, teacher: Source, labels: Labels
) -> tuple[Rows, Teacher]:
    """A tagger's labels for a student with another tokenizer; words that the teacher cut off are not learnt."""
    from smidgen.teacher import Words

    task = plan.data.task
    if not isinstance(task, Tag) or source.tokenizer_id == teacher.tokenizer_id:
        return rows, labels
    theirs = encode(task, teacher.path, split.texts, split.pairs, plan.max_length)
    at = task.aligned(rows.encoded, theirs, split.texts)
    rows = dataclasses.replace(rows, encoded=dataclasses.replace(rows.encoded, units=at >= 0))
    return rows, Words(labels, rows.encoded, at)


def _all_pairs(parts: Sequence[Split]) -> tuple[str, ...] | None:
    """The second texts of all parts; "" for the rows of one without any, where a task mixes both."""
    if all(part.pairs is None for part in parts):
        return None
    return tuple(itertools.chain.from_iterable(part.pairs or ("",) * len(part) for part in parts))


def _to(update: Callable[[float], None], total: int) -> Callable[[int, int], None]:
    """Labelling counts only what is missing; the bar counts every row."""
    return lambda done, missing: update(total - missing + done)
