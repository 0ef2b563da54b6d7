"""What a masked language model would write in each place of many texts, in batches, kept on disk shard by shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smidgen.encoded import Encoded
from smidgen.errors import ModelError
from smidgen.source import Source, open_config, quiet, takes_types
from smidgen.speech import is_content, spans
from smidgen.tokens import length_limit, mask_token, open_tokenizer, pad_id
from smidgen.vectors import whole_words
from smidgen.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SHARD = 256  # texts
TOKENS = 4096  # padded, in one forward pass


@dataclass(frozen=True, eq=False)
class Places:
    """The content words of n texts that are one token each.

    Shapes: `text`, `word` and `token` (m,): the text, the word's number in it, its place among the text's tokens.
    """

    encoded: Encoded
    text: np.ndarray
    word: np.ndarray
    token: np.ndarray


def speaks(source: Source) -> str:
    """Why this is no masked language model, or ""."""
    named = str((source.config.get("architectures") or ["none"])[0])
    if not named.endswith(("ForMaskedLM", "ForPreTraining")):
        return f"its config.json names {named}, which predicts no words"
    return "" if mask_token(source.path) else "its tokenizer has no mask token"


def fill(source: Source, texts: Sequence[str], k: int, work: Path, watch: Watch) -> list[dict[int, tuple[str, ...]]]:
    """For each text: the number of a word -> the k likeliest other content words in its place, likeliest first.

    Every place is asked for alone, with the mask token in it and the rest of the text around it. Only words that are
    one token are asked for and answered. Shards are published in `work` by rename: what a stopped run has answered is
    not asked again.

    Raises:
        ModelError: the model cannot be opened, or has no head that predicts words.
    """
    known = {i: word for i, word in whole_words(source).items() if is_content(word)}
    ids = np.array(sorted(known), np.int64)
    work.mkdir(parents=True, exist_ok=True)
    answer: Callable[[Places], np.ndarray] | None = None
    found: list[dict[int, tuple[str, ...]]] = [{} for _ in texts]
    with watch.bar("asking the language model", len(texts)) as bar:
        for shard, start in enumerate(range(0, len(texts), SHARD)):
            part = texts[start : start + SHARD]
            places = _places(source, part, set(known))
            file = work / f"shard-{shard:05d}.npy"
            if not file.is_file():
                answer = answer or _asker(source, ids, k)
                _publish(file, answer(places))
            for text, word, said in zip(places.text, places.word, np.load(file), strict=True):
                found[start + text][int(word)] = tuple(known[int(i)] for i in said if i >= 0)
            bar.to(start + len(part))
    return found


def _publish(file: Path, array: np.ndarray) -> None:
    draft = file.with_name(f".draft-{file.name}-{os.getpid()}")
    with draft.open("wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())
    draft.rename(file)


def _places(source: Source, texts: Sequence[str], known: set[int]) -> Places:
    tokenizer = open_tokenizer(source.path)
    tokenizer.enable_truncation(length_limit(source.path))
    found = tokenizer.encode_batch(list(texts))
    rows = []
    for text, (raw, encoded) in enumerate(zip(texts, found, strict=True)):
        at: dict[tuple[int, int], int] = {}
        for token, (start, stop) in enumerate(encoded.offsets):
            if encoded.ids[token] in known:
                at[start + (raw[start : start + 1] == " "), stop] = token
        for word, (start, stop) in enumerate(spans(raw)):
            if (start, stop) in at and is_content(raw[start:stop]):
                rows.append((text, word, at[start, stop]))
    text_ids, words, tokens = np.array(rows, np.int64).reshape(-1, 3).T
    starts = np.cumsum([0, *(len(e) for e in found)])
    ids = np.array([i for e in found for i in e.ids], np.int32)
    types = np.array([i for e in found for i in e.type_ids], np.int8)
    return Places(Encoded(ids, types, starts), text_ids, words, tokens)


def _asker(source: Source, candidates: np.ndarray, k: int) -> Callable[[Places], np.ndarray]:
    """A function from places to ids, (m, k) int64, -1 where there are fewer; the model is loaded once."""
    import torch

    model = _load(source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(model, device)
    pad, mask = pad_id(source.path), _mask_id(source)
    uses_types = takes_types(model)
    allowed = torch.from_numpy(candidates).to(device)
    take = min(k + 1, len(candidates))

    @torch.inference_mode()
    def answer(places: Places) -> np.ndarray:
        out = np.full((len(places.text), k), -1, np.int64)
        lengths = places.encoded.lengths[places.text]
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= TOKENS:
                stop += 1
            rows = order[start:stop]
            batch = {n: torch.from_numpy(v) for n, v in places.encoded.batch(places.text[rows], pad).items()}
            tokens = torch.from_numpy(places.token[rows])
            every = torch.arange(len(rows))
            own = batch["input_ids"][every, tokens].numpy()
            batch["input_ids"][every, tokens] = mask
            if not uses_types:
                del batch["token_type_ids"]
            logits = _at(model, {n: v.to(device) for n, v in batch.items()}, tokens.to(device))
            best = candidates[logits[:, allowed].topk(take, dim=1).indices.cpu().numpy()]
            for row, said, itself in zip(rows, best, own, strict=True):
                others = said[said != itself][:k]
                out[row, : len(others)] = others
            start = stop
        return out

    return answer


def _at(model: PreTrainedModel, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """(B, V) logits at one token of each row; the product with the vocabulary is made for these alone."""
    import torch

    def only(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0]
        return (states[torch.arange(len(states), device=states.device), tokens][:, None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(only)
    try:
        return model(**inputs).logits[:, 0].float()
    finally:
        handle.remove()


def _mask_id(source: Source) -> int:
    token = mask_token(source.path)
    assert token is not None
    found = open_tokenizer(source.path).token_to_id(token)
    assert found is not None
    return found


def _load(source: Source) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForMaskedLM

    quiet()
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            str(source.path),
            config=open_config(source),
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ModelError(f"{source.reference}: transformers cannot open it ({said}). Get the folder whole.") from error
    if info["missing_keys"]:
        raise ModelError(
            f"{source.reference}: model.safetensors lacks {min(info['missing_keys'])}, so its words would be random. "
            "Give a masked language model, saved with its head."
        )
    if model.get_output_embeddings() is None:
        raise ModelError(f"{source.reference}: a {source.family!r} model has no output table that is known here.")
    model.eval()
    return model
