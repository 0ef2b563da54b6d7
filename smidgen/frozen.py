"""Frozen blocks run once: what they give is kept on disk, and handed out while what is above them trains.

Level 0 is what the embeddings give, level i what block i - 1 gives; all are (tokens, hidden_size) of a row. A folder
`states-<fingerprint>` a level holds them in shards (`smidgen.shards`), ragged, found by the row's token ids. The
fingerprint has all that a state depends on but these: the weights below, the config, the precision, the kernel of
attention. So a later epoch, another seed, dev, and any stage with the same blocks below read what is there.

While states are handed out, the embeddings and the blocks below have a `forward` that gives them and computes nothing:
masks, positions and relative biases are made by the body as ever. What is frozen from the embeddings up runs in
evaluation mode whether it is kept or not; dropout in it would make other states of the same text in each step.
(Caching them: AutoFreeze, Liu et al. 2021, arXiv:2102.01386; Embedding Recycling, Saad-Falcon et al. 2022,
arXiv:2207.04993.)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel

from smidgen.anatomy import Anatomy, anatomy, supported
from smidgen.artefact import identity
from smidgen.edits.attach import attached
from smidgen.encoded import Encoded
from smidgen.errors import InputError
from smidgen.hearing import Handed, below, hearing, instead, passing, starting
from smidgen.method import Method, name_of
from smidgen.pooling import beneath
from smidgen.shards import Found, Shard, claim, lacking, locate, open_shards, publish
from smidgen.source import settings_below, takes_types
from smidgen.tape import parse

SHARD = 64 * 2**20  # bytes of a level's states in one shard
BATCH = 64  # rows that are computed at once
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Kept:
    """The states of some rows, by level, rising; the last level is where the model's own work begins."""

    levels: tuple[int, ...]
    found: tuple[Found, ...]
    kind: str

    def states(self, rows: np.ndarray, length: int) -> Handed:
        """(B, length, H) each, zeros at the padding, as they are on disk."""
        by_level = zip(self.levels, self.found, strict=True)
        return {level: _read(found.padded("states", rows, length), self.kind) for level, found in by_level}


def frozen_below(model: PreTrainedModel) -> int:
    """The highest level that is the same for the same text as long as nothing thaws; -1 where the embeddings train.

    A block that something acts on, by a hook, another forward or a parametrization, counts as one that trains.
    """
    if not supported(model.config.model_type):
        return -1
    parts = anatomy(model)
    if any(p.requires_grad for _, p in _weights_below(parts)) or not all(map(_still, below(parts))):
        return -1
    return next((i for i, block in enumerate(parts.blocks) if not _still(block.module)), len(parts.blocks))


def rest(model: PreTrainedModel) -> None:
    """Put what is frozen from the embeddings up into evaluation mode."""
    if (depth := frozen_below(model)) >= 0:
        parts = anatomy(model)
        for module in (*below(parts), *(block.module for block in parts.blocks[:depth])):
            module.eval()


def levels_of(
    model: PreTrainedModel, methods: Sequence[Method[Any]], taps: Iterable[str], masked: bool
) -> tuple[tuple[int, ...], str]:
    """The levels to keep for a stage, none where it does not pay, and why not where something frozen could be kept.

    Args:
        taps: what the stage hears of the model.
        masked: are its inputs made anew in each step?
    """
    depth = frozen_below(model)
    if depth < 1:
        return (), ""
    count = len(anatomy(model).blocks)
    depth = min(depth, max((level for method in methods for level in method.frozen(count)), default=0))
    if why := hindrance(methods, masked):
        return (), why
    if depth < 1 or any(method.thaws() for method in methods):
        return (), "they thaw on the way"
    read = {*_heard(model, count), *(level for method in methods for level in method.frozen(count))}
    levels = {depth} | {level for level in read if level <= depth}
    for name in taps:
        tap = parse(name)
        at = 0 if tap.part == "embeddings" else None if tap.block is None else tap.block % count + 1
        if at is not None and at <= depth:
            if tap.part not in ("embeddings", "hidden", "first"):
                return (), f"{name} is asked for, which is inside one of them"
            levels.add(at)
    return tuple(sorted(levels)), ""


def hindrance(methods: Sequence[Method[Any]], masked: bool) -> str:
    """Why the same text does not give the same states in each step of a stage, or ""."""
    fresh = next((name_of(method) for method in methods if method.needs.online), "masking" if masked else "")
    if fresh:
        return f"{fresh} makes the texts anew in each step"
    rewriting = next((name_of(method) for method in methods if method.rewrites), "")
    return f"{rewriting} writes into weights that are frozen" if rewriting else ""


def keep(
    model: PreTrainedModel,
    encoded: Encoded,
    levels: tuple[int, ...],
    root: Path,
    kind: str,
    pad: int,
    precision: str,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[int], None] = lambda rows: None,
) -> Kept | None:
    """The states of all rows, from disk where they are there, else from the model, which is left in evaluation mode.

    None: they are too large for this kind of number.

    Args:
        kind: how they are kept: float16 | bfloat16 | float32.
        precision: a name for what a forward pass of the loop runs in, which is `autocast`.
        progress: called with how many rows have been computed.

    Raises:
        InputError: the disk has not enough room for them.
    """
    model.eval()
    about = [precision, str(model.dtype), str(model.config._attn_implementation), kind]
    prints = {level: identity([print_, *about]) for level, print_ in fingerprints(model, levels).items()}
    folders = [root / f"states-{prints[level]}" for level in levels]
    for level, folder in zip(levels, folders, strict=True):
        claim(folder, {"fingerprint": prints[level], "level": level, "kind": kind}, "states")
    keys = row_keys(encoded)
    lacked = [lacking(open_shards(folder), keys) for folder in folders]
    width = anatomy(model).hidden_size * KINDS[kind].itemsize
    need_room(root, width * sum(int(encoded.lengths[rows].sum()) for rows in lacked))
    missing, done = np.unique(np.concatenate(lacked)), 0
    for part in _portions(missing, encoded.lengths, SHARD // width):
        computed = _compute(model, encoded, part, levels, pad, kind, autocast)
        if computed is None:
            return None
        for folder, rows, states in zip(folders, lacked, computed, strict=True):
            picked = np.flatnonzero(np.isin(part, rows))
            if len(picked):
                arrays = np.concatenate([states[i] for i in picked])
                starts = np.concatenate([[0], np.cumsum(encoded.lengths[part[picked]])])
                publish(folder, keys[part[picked]], {"states": arrays, "starts": starts})
        done += len(part)
        progress(done)
    opened: list[tuple[Shard, ...]] = [open_shards(folder) for folder in folders]
    return Kept(levels, tuple(Found(shards, *locate(shards, keys)) for shards in opened), kind)


def need_room(root: Path, wanted: int) -> None:
    """Refuse to fill a disk."""
    free = shutil.disk_usage(root).free
    if wanted > free:
        raise InputError(
            f"{root}: the states of the frozen blocks take {wanted / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB "
            "left. Make room, or write cache: off in the stage's train, which runs the blocks in every step."
        )


@contextmanager
def handing(model: PreTrainedModel, kept: Kept | None, rows: np.ndarray, length: int) -> Iterator[None]:
    """While inside, a forward pass of these rows starts from their states; without any, it is as ever."""
    if kept is None:
        yield
        return
    parameter = next(model.parameters())
    states = {k: v.to(parameter.device, parameter.dtype) for k, v in kept.states(rows, length).items()}
    with starting(anatomy(model), states):
        yield


def fingerprints(model: PreTrainedModel, levels: Collection[int]) -> dict[int, str]:
    """By level, a hash of the weights, the modules and the config that its states follow from."""
    parts = anatomy(model)
    said = [parts.family, settings_below(model.config)]
    told = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    _tell(told, _weights_below(parts), below(parts))
    found = {0: told.hexdigest()}
    for i, block in enumerate(parts.blocks[: max(levels)]):
        _tell(told, block.module.named_parameters(), [block.module])
        found[i + 1] = told.hexdigest()
    return {level: found[level] for level in levels}


def row_keys(encoded: Encoded) -> np.ndarray:
    """(rows,) uint64: a hash of each row's token ids and types."""

    def key(start: int, stop: int) -> int:
        told = encoded.ids[start:stop].astype(np.int32).tobytes() + encoded.types[start:stop].astype(np.int8).tobytes()
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")

    return np.array([key(*ends) for ends in zip(encoded.starts[:-1], encoded.starts[1:], strict=True)], np.uint64)


def _still(module: nn.Module) -> bool:
    """Does nothing train here, and nothing act?"""
    acted = any(
        m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) or is_parametrized(m) for m in module.modules()
    )
    return not acted and not any(p.requires_grad for p in module.parameters())


def _heard(model: Any, blocks: int) -> set[int]:
    """The levels that parts of the model read: the networks beside it, and a head on several states."""
    beside: list[Any] = attached(model.base_model)
    read = {level for graft in beside for level in graft.levels(blocks)}
    return read.union(beneath(getattr(model, "pool", ""), blocks))


def _weights_below(parts: Anatomy) -> list[tuple[str, nn.Parameter]]:
    """All of the body's that are neither in a block nor above them, a relative bias too."""
    inside = {id(p) for module in (parts.block_list, *parts.states.above) for p in module.parameters()}
    return [(name, p) for name, p in parts.body.named_parameters() if id(p) not in inside]


def _tell(told: Any, parameters: Iterable[tuple[str, Tensor]], modules: Iterable[nn.Module]) -> None:
    told.update(json.dumps([type(m).__name__ for module in modules for m in module.modules()]).encode())
    for name, value in parameters:
        told.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        told.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())


def _portions(rows: np.ndarray, lengths: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """The rows in order, cut where a part would have more tokens than `most`, but for single rows."""
    start, tokens = 0, 0
    for i, row in enumerate(rows):
        if i > start and tokens + lengths[row] > most:
            yield rows[start:i]
            start, tokens = i, 0
        tokens += lengths[row]
    if start < len(rows):
        yield rows[start:]


@torch.inference_mode()
def _compute(
    model: PreTrainedModel,
    encoded: Encoded,
    rows: np.ndarray,
    levels: tuple[int, ...],
    pad: int,
    kind: str,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[list[np.ndarray]] | None:
    """By level, the states (tokens, H) of each row; what is above the last level does not run.

    None: the kind of number cannot hold them.
    """
    parts, uses_types = anatomy(model), takes_types(model)
    found: list[dict[int, np.ndarray]] = [{} for _ in levels]
    idle = {block.module: passing(block.in_tuple) for block in parts.blocks[levels[-1] :]}
    by_length = rows[np.argsort(encoded.lengths[rows], kind="stable")]
    for start in range(0, len(by_length), BATCH):
        picked = by_length[start : start + BATCH]
        batch = {k: torch.from_numpy(v).to(model.device) for k, v in encoded.batch(picked, pad).items()}
        if not uses_types:
            del batch["token_type_ids"]
        with autocast(), instead(idle), hearing(parts, levels) as heard:
            model(**batch)
        for level, kept in zip(levels, found, strict=True):
            values = heard[level].to(KINDS[kind])
            if not torch.isfinite(values[batch["attention_mask"].bool()]).all():
                return None
            written = _written(values)
            kept |= {int(row): written[b, : encoded.lengths[row]] for b, row in enumerate(picked)}
    return [[kept[int(row)] for row in rows] for kept in found]


def _written(values: Tensor) -> np.ndarray:
    """As it goes on disk; numpy has no bfloat16, so that its bits go as integers."""
    values = values.cpu()
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()


def _read(array: np.ndarray, kind: str) -> Tensor:
    values = torch.from_numpy(array)
    return values.view(torch.bfloat16) if kind == "bfloat16" else values
