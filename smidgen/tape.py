"""Named taps on a model, and the Tape that a method's loss reads.

    embeddings                 (B, L, H)                   what the first block gets
    block.3.hidden             (B, L, H)                   what block 3 gives; the last one is `last_hidden_state`,
                                                           after the final norm where a family has one
    block.3.first              (B, H)                      the first token's row of `hidden`, [CLS] in BERT
    block.3.query|key|value    (B, heads, L, head_size)    the projections, before any rotary turn
    block.3.scores             (B, heads, L, L) float32    before the softmax: scaled, with the family's position
                                                           terms, keys that cannot be seen at finfo.min
    block.3.probs              (B, heads, L, L) float32    softmax of the scores, before dropout
    pooled                     (B, H)                      what the last Linear of a sentence classifier reads, before
                                                           dropout, or what the pooler of a bare body gives
    logits                     (B, C), (B, L, C)           or (B, L, 2), start and end, for spans, or (N, V), over the
                                                           vocabulary, at N masked tokens

Blocks count from 0; `block.-1.hidden` is the last block's. A model without heads, as a BiLSTM, which is one block, has
`embeddings`, `hidden`, `first` and `logits`.

Why hooks: `output_attentions` gives probabilities only, in the model's precision, and makes Hugging Face leave SDPA
for the slow attention. Here the forward runs as it would without us, and only what is asked is computed, from the
projections, at the price of one more product of query and key. Nothing is detached: gradients flow if they are on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smidgen.anatomy import Anatomy, Block, States, anatomy, states
from smidgen.errors import InputError, ModelError, SmidgenError, did_you_mean
from smidgen.tasks.classify import NO_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = ("hidden", "first", "query", "key", "value", "scores", "probs")
WHOLE = ("embeddings", "pooled", "logits")
SQUARE = ("scores", "probs")  # these grow with the square of the length
OF_STATES = ("embeddings", "hidden", "first")  # need no more than `smidgen.anatomy.states`
_NEEDS: dict[str, tuple[str, ...]] = {"first": ("hidden",), **dict.fromkeys(SQUARE, ("query", "key", "input"))}
_Place = tuple[int, str]  # block, and what of it; what belongs to no block is kept under block -1


NOWHERE = -1e4  # the logit of a start or an end at padding; 16 bits hold it


@dataclass(frozen=True)
class Tape:
    """What one forward of student and teacher left, for the loss terms of a stage.

    student, teacher   taps by name, exactly those that were asked
    labels             (B,), (B, C), (B, L), (N,) or None
    mask               (B, L), nonzero at real tokens
    examples, tokens   how many examples and real tokens the WHOLE optimiser step has, over all its micro-batches and
                       processes (the loop sums gradients over both)
    labelled           how many labels those examples have; NO_LABEL, or a row of NaN, marks what has none
    units, unit_count  (B, L) bool, the tokens at which the task decides, and how many the step has; (N,), all true,
                       where logits are of those tokens only; None and the number of examples where it decides one
                       thing an example

    Micro-batches differ in size: lengths differ, the last one is short. A mean over each of them, averaged, would
    weigh a token by the company it happens to be in. `mean` therefore divides by the step's own counts, so that the
    terms of all micro-batches add up to the mean over the step, however the step is cut.
    """

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    labels: Tensor | None
    mask: Tensor
    examples: float
    tokens: float
    labelled: float = math.nan
    units: Tensor | None = None
    unit_count: float = math.nan

    @property
    def known_labels(self) -> Tensor:
        """The labels of a stage that has some."""
        assert self.labels is not None
        return self.labels

    def labelled_mean(self, values: Tensor) -> Tensor:
        """This micro-batch's share of the step's mean over what has a label; 0 where nothing has one.

        values   (B,), one per example, (B, L), one per token, or (N,), as the task's labels are
        """
        labels = self.known_labels
        known = ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
        known = known if known.shape == values.shape else known[:, 0]
        return torch.where(known, values, 0).sum() / max(self.labelled, 1.0)

    def decided_mean(self, values: Tensor) -> Tensor:
        """This micro-batch's share of the step's mean over the task's decisions: examples, or words.

        values   (B,), one per example, or (B, L) or (N,), of which those at `units` count
        """
        if self.units is None:
            return self.mean(values)
        return torch.where(self.units, values, 0).sum() / max(self.unit_count, 1.0)

    def mean(self, values: Tensor) -> Tensor:
        """This micro-batch's share of the step's mean. A scalar.

        values   (B,), one per example: their sum over `examples`;
                 (B, L), one per token: the sum at real tokens over `tokens`. Padded places may hold anything, NaN
                 too. (Their gradient is 0, but 0 times an infinite slope further back is NaN: mask before a log.)
        """
        values = values.float() if values.dtype.itemsize < 4 else values
        if values.shape == self.mask.shape[:1]:
            return values.sum() / self.examples
        if values.shape == self.mask.shape:
            return torch.where(self.mask.bool(), values, 0).sum() / self.tokens
        batch, length = self.mask.shape
        raise InputError(
            f"Tape.mean got values of shape {tuple(values.shape)}, wanted ({batch},), one per example, or "
            f"({batch}, {length}), one per token: take the mean over the other axes first."
        )


@dataclass(frozen=True)
class Tap:
    """A tap's name, read. `block` is None for what belongs to no block."""

    part: str
    block: int | None = None


def parse(name: str) -> Tap:
    """Read a tap's name. Raises InputError for a name that is of none of the forms."""
    if name in WHOLE:
        return Tap(name)
    found = re.fullmatch(rf"block\.(-?\d+)\.({'|'.join(PARTS)})", name)
    if found:
        return Tap(found[2], int(found[1]))
    index = re.search(r"-?\d+", name)
    known = [*WHOLE, *(f"block.{index[0] if index else 0}.{part}" for part in PARTS)]
    raise InputError(
        f"tap is {name!r}.{did_you_mean(name, known)} Known: {', '.join(WHOLE)}, block.<i>.{'|'.join(PARTS)}, where "
        f"i counts from 0 and -1 is the last block."
    )


@dataclass(frozen=True)
class Recording:
    """What `listen` heard in the latest forward. Read it inside the `with` or after it."""

    taps: Mapping[str, Tap]
    states: States | None  # None where only logits are asked
    parts: Anatomy | None  # None where nothing is asked that needs it
    at: Tensor | None = None
    kept: dict[_Place, Any] = field(default_factory=dict)

    def read(self, outputs: Any, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """The tensors of exactly the asked taps, by the names they were asked by.

        outputs          what the model returned, used for `logits`; those of spans are NOWHERE at padding, so that a
                         start and an end are each a choice among real tokens
        attention_mask   (B, L), nonzero at real tokens, as the model got it; None where nothing is padded
        """
        blocks = {tap.block for tap in self.taps.values() if tap.block is not None and tap.part in SQUARE}
        scores = {index: self._scores(index, attention_mask) for index in blocks}
        length = None if attention_mask is None else attention_mask.shape[1]
        found = {name: self._one(tap, outputs, scores, length) for name, tap in self.taps.items()}
        if "logits" in found and attention_mask is not None and spans(outputs) is not None:
            found["logits"] = found["logits"].masked_fill(attention_mask[..., None] == 0, NOWHERE)
        return found

    def _one(self, tap: Tap, outputs: Any, scores: Mapping[int, Tensor], length: int | None) -> Tensor:
        match tap:
            case Tap("logits"):
                logits = logits_of(outputs)
                return logits if self.at is None or logits.dim() == 2 else logits[self.at]
            case Tap("pooled"):
                return self._parts.activate(self._heard(-1, "pooled"))
            case Tap("scores", int(index)):
                return scores[index]
            case Tap("probs", int(index)):
                return scores[index].softmax(dim=-1)
            case Tap("hidden", int(index)):
                return own(self._heard(index, "hidden"), length)
            case Tap("first", int(index)):
                return self._heard(index, "hidden")[:, 0]
            case Tap(part, int(index)):
                return own(split(self._heard(index, part), self._parts.blocks[index], part), length)
        args, kwargs = self._heard(0, "input")  # embeddings
        return own(args[0] if args else kwargs["hidden_states"], length)

    def _scores(self, index: int, attention_mask: Tensor | None) -> Tensor:
        block = self._parts.blocks[index]
        query, key = (split(self._heard(index, part), block, part) for part in ("query", "key"))
        args, kwargs = self._heard(index, "input")
        if attention_mask is not None and query.shape[2] != attention_mask.shape[1]:
            raise ModelError(
                "scores of all pairs of tokens are asked of a model that reads a prompt with each text. Compare what "
                "blocks give: block.<i>.hidden."
            )
        with torch.autocast(query.device.type, enabled=False):
            return hide(block.score(query.float(), key.float(), args, kwargs), attention_mask, block.window)

    def _heard(self, block: int, what: str) -> Any:
        if (block, what) not in self.kept:
            raise SmidgenError(
                "nothing was heard: run model(**inputs) inside `with listen(model, taps) as recording:`."
            )
        return self.kept[block, what]

    @property
    def _states(self) -> States:
        assert self.states is not None
        return self.states

    @property
    def _parts(self) -> Anatomy:
        assert self.parts is not None
        return self.parts


@contextmanager
def listen(model: PreTrainedModel, taps: Collection[str], at: Tensor | None = None) -> Iterator[Recording]:
    """Hear these taps while the model runs inside the `with`; several forwards leave the last one's.

    Give the model itself, not what Accelerate or DDP wrapped it in; run whichever of the two you like. The hooks are
    gone when the `with` ends, however it ends. Asking for `logits` alone needs no known family.

    at   (B, L) bool, for a model that gives logits (B, L, V) over its vocabulary: they are of these tokens alone,
         (N, V), and the product with the vocabulary is spared at the others.

    Raises InputError for a name that is unknown or a block that is not there, ModelError for a family that is unknown
    or has no heads, or a `pooled` that the model does not have.
    """
    read = {name: parse(name) for name in taps}
    asked = {tap.part for tap in read.values()} - {"logits"}
    found = states(model) if asked else None
    parts = anatomy(model) if asked - set(OF_STATES) else None
    recording = Recording({name: _resolve(name, tap, found, parts) for name, tap in read.items()}, found, parts, at)
    handles = []
    try:
        for place in {place for tap in recording.taps.values() for place in _places(tap)}:
            handles.append(_hook(recording, place))
        if at is not None and (decoder := model.get_output_embeddings()) is not None:
            handles.append(decoder.register_forward_pre_hook(lambda module, args: (args[0][at], *args[1:])))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def split(projected: Tensor, block: Block, part: str) -> Tensor:
    """A projection's output (B, L, heads * head_size), three of them where fused, to (B, heads, L, head_size)."""
    if block.fused:
        projected = projected.chunk(3, dim=-1)[("query", "key", "value").index(part)]
    return projected.unflatten(-1, (-1, block.head_size)).transpose(1, 2)


def own(values: Tensor, length: int | None) -> Tensor:
    """Of values (..., rows, D) those of the text's `length` tokens: a prompt stands behind the first."""
    more = 0 if length is None else values.shape[-2] - length
    return values if more == 0 else torch.cat((values[..., :1, :], values[..., 1 + more :, :]), -2)


def hide(scores: Tensor, attention_mask: Tensor | None, window: int | None) -> Tensor:
    """Scores (B, heads, L, L) with finfo.min at padded keys (mask (B, L) is 0) and at keys out of the window.

    finfo.min and not -inf: a padded query far from every real key then has even probabilities instead of NaN.
    """
    length = scores.shape[-1]
    seen = torch.ones(1, 1, 1, length, dtype=torch.bool, device=scores.device)
    if attention_mask is not None:
        seen = attention_mask.bool()[:, None, None, :]
    if window is not None:
        place = torch.arange(length, device=scores.device)
        seen = seen & ((place[:, None] - place[None, :]).abs() <= window)
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min)


def _resolve(name: str, tap: Tap, found: States | None, parts: Anatomy | None) -> Tap:
    """Count the block from 0, and refuse what this model does not have."""
    if tap.part == "pooled" and parts is not None and parts.pooler is None:
        raise ModelError(
            f"tap is 'pooled', but this {parts.family} model makes no pooled vector: give a sentence classifier, or "
            f"ask for 'block.-1.hidden' and take the first token's vector or the mean over the real tokens."
        )
    if tap.block is None or found is None:
        return tap
    count = len(found.layers)
    if not -count <= tap.block < count:
        raise InputError(
            f"tap {name!r} asks for block {tap.block}, but this model has {count} blocks: use 0 to {count - 1}, or "
            f"{-count} to -1 from the end."
        )
    if tap.part not in ("hidden", "first") and parts is not None and not parts.blocks[tap.block].heads:
        raise ModelError(
            f"tap {name!r} asks for the attention of block {tap.block}, which has no heads left: ask for its 'hidden', "
            f"or for another block."
        )
    return Tap(tap.part, tap.block % count)


def _places(tap: Tap) -> list[_Place]:
    """What has to be kept for this tap."""
    if tap.block is not None:
        return [(tap.block, what) for what in _NEEDS.get(tap.part, (tap.part,))]
    return {"embeddings": [(0, "input")], "pooled": [(-1, "pooled")]}.get(tap.part, [])


def _hook(recording: Recording, place: _Place) -> torch.utils.hooks.RemovableHandle:
    def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        recording.kept[place] = (args, kwargs)

    def keep_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recording.kept[place] = output[0] if isinstance(output, tuple) else output

    index, what = place
    if what == "input":
        return recording._states.layers[index].register_forward_pre_hook(keep_input, with_kwargs=True)
    return _module(recording, index, what).register_forward_hook(keep_output)


def _module(recording: Recording, index: int, what: str) -> nn.Module:
    """The module whose output is wanted."""
    if what == "hidden":
        return recording._states.giver(index)
    if what == "pooled":
        assert recording._parts.pooler is not None
        return recording._parts.pooler
    module: nn.Module = getattr(recording._parts.blocks[index], what)
    return module


def spans(outputs: Any) -> Tensor | None:
    """(B, L, 2) of a model that points at starts and ends; None of others."""
    if getattr(outputs, "start_logits", None) is None:
        return None
    return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)


def logits_of(outputs: Any) -> Tensor:
    """What a Hugging Face model said: (B, C), (B, L, C), or (B, L, 2), start and end, for spans."""
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    if (both := spans(outputs)) is not None:
        return both
    raise ModelError(
        f"tap is 'logits', but the model returned {type(outputs).__name__} without logits: give a model with a task "
        f"head, such as one of AutoModelForSequenceClassification."
    )
