"""A folder that predicts: tokenizer, ONNX graph and labels, run as its `serve.json` says or by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from smidgen.encoded import Encoded
from smidgen.errors import InputError, ModelError
from smidgen.runtime import portable
from smidgen.runtime.batches import CALL, shares
from smidgen.runtime.engines import Session, Way, find, session
from smidgen.runtime.folder import first_line, graph_file, levels_of, read_config, tasks_of
from smidgen.runtime.inputs import Row, Text, as_questions, as_rows, as_words
from smidgen.runtime.products import multiplications
from smidgen.runtime.serving import WORTH, Serving, counted, serving
from smidgen.runtime.tokenizer import Ids, TextEncoder
from smidgen.tasks import TASKS, Answer, Classify, MaskLanguage, Several, Tag, Task, head_of, task_class
from smidgen.tasks.several import mixed

CHUNK = 8192  # rows that are tokenised at once
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load(
    folder: Path | str, threads: int | None = None, engine: str | None = None, precision: str | None = None
) -> Any:
    """Open a folder to predict with: a `Model`, a `Cascade` of several, or the `Bundle` of many tasks over one base.

    Args:
        threads: of everything together; None = what the folder says for such a machine, else by the graph's size.
        engine: `onnxruntime`, or `openvino` where it is installed; None = what the folder says, else ONNX Runtime.
        precision: of what the graph has in float, `float32` or (OpenVINO) `bfloat16`; None likewise.

    Raises:
        ModelError: the folder is not whole, not ours to read, or its graph does not open.
        InputError: `threads` is less than 1, an unknown engine, or a precision that this processor does not have.
        MissingExtra: the engine is not installed.
    """
    from smidgen.runtime.bundle import Bundle
    from smidgen.runtime.cascade import Cascade

    path = Path(folder)
    if levels_of(path) is not None:
        return Cascade.open(path, threads, engine, precision)
    kind = Model if tasks_of(path) is None else Bundle
    return kind(folder, threads, engine, precision)


class Model:
    """A model that is ready to run, of any task; safe to call from several threads. See `load`.

    told: how it is run, in place of what the arguments and the folder say.
    """

    def __init__(
        self,
        folder: Path | str,
        threads: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
        told: Serving | None = None,
    ) -> None:
        self.folder = Path(folder)
        counted(threads)
        self.graph = graph_file(self.folder)
        config = _runnable(self.folder)
        self.task = _task(self.folder, config)
        self.encoder = TextEncoder(self.folder)
        self.serving = told or serving(self.folder, self.graph, threads, engine, precision)
        one, many = self.serving.latency, self.serving.throughput
        self._shared = replace(one, calls=many.calls) == many
        self.session = session(self.graph, many if self._shared else one)
        portable.warn(self.graph)
        self._inputs, self._outputs = _signature(self.session, self.graph, self.task)
        self._types = INPUTS[2] in self._inputs
        self._ones = np.ones((1, self.encoder.max_length), np.int64)
        self._encoding = Lock()

    @property
    def threads(self) -> int:
        """Of a call with one text."""
        return self.serving.latency.threads

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    @property
    def max_length(self) -> int:
        """The most tokens of one input; what is longer is cut, or read in windows where an answer is looked for."""
        return self.encoder.max_length

    def predict(
        self,
        texts: Any,
        pairs: Sequence[str] | None = None,
        top_k: int | Literal["unset"] | None = "unset",
        batch_tokens: int | None = None,
    ) -> Any:
        """What `pipeline(...)` of transformers returns for the task.

        Classification: `{"label", "score"}`. A list gives a list; one str a list of one; a mapping
        `{"text", "text_pair"}` a dict. With `top_k` each answer is a list of so many, the likeliest first; None = all.
        Several tasks: a dict of what a classifier of each task would say, by the task's name; one text gives one, a
        list a list. A text of `pairs` may be empty, and its row is then a single text.
        Tagging, of texts or of lists of words: a list of `{"entity_group", "score", "word", "start", "end"}` a text, as
        with `aggregation_strategy="first"`. Answering, of questions and contexts as two lists, or of
        `{"question", "context"}`: `{"score", "start", "end", "answer"}`, with the answer "" where there is none.

        Args:
            batch_tokens: padded tokens in one call of the graph; None = what is the fastest here, see `load`.

        Raises:
            InputError: an entry that is not text, with its index and type; `top_k` below 1; `top_k` or `pairs` that
                are not for this task.
        """
        if isinstance(self.task, Classify | Several):
            return classes(self.task, texts, top_k, lambda: self.outputs(texts, pairs, batch_tokens))
        if top_k != "unset":
            raise InputError(f"top_k: goes with classification, this model does {self.task.name}. Leave it out.")
        if isinstance(self.task, Tag):
            if pairs is not None:
                raise InputError("pairs: a tagger reads single texts. Leave them out.")
            single = isinstance(texts, str)
            rows, given = as_words([texts] if single else texts)
            encoded, values = self._tokens(rows, None, batch_tokens, given)
            found = self.task.answers(encoded, values, rows)
            return found[0] if single else found
        assert isinstance(self.task, Answer)
        single = isinstance(texts, str | Mapping)
        if not single and not len(texts):
            return []
        questions, contexts = as_questions(texts, pairs)
        answers = self.task.answers(self._gathered(questions, contexts, batch_tokens))
        return answers[0] if single else answers

    def outputs(
        self, texts: Sequence[Any], pairs: Sequence[str] | None = None, batch_tokens: int | None = None
    ) -> np.ndarray:
        """What the task decides on, in the order of the texts: logits (n, C) of classes; (n,) object, logits
        (words, C) of the words between single spaces; or (n,) object, the best answer to each question.

        An int8 graph that measures its activations on the fly does so over a whole batch, so that its logits depend a
        little on what shares the batch.
        """
        if isinstance(self.task, Classify | Several):
            return self.logits(self.rows(texts, pairs), batch_tokens)
        return self._gathered([texts] if isinstance(texts, str) else texts, pairs, batch_tokens)

    def encode(self, texts: Text | Sequence[Text], pairs: Sequence[str] | None = None) -> list[list[int]]:
        """The token ids of each text, not padded: the tokenizer alone."""
        return [ids for ids, _ in self.encoder.ids(self.rows(texts, pairs))]

    def rows(self, texts: Text | Sequence[Text], pairs: Sequence[str] | None = None) -> list[Row]:
        """Texts to classify as rows for the tokenizer; InputError for what is none."""
        rows = as_rows(texts, pairs)
        return mixed(rows) if isinstance(self.task, Several) else rows

    def _gathered(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_tokens: int | None) -> np.ndarray:
        encoded, values = self._tokens(texts, pairs, batch_tokens)
        return self.task.gather(encoded, values, texts, pairs)

    def _tokens(
        self, texts: Sequence[str], pairs: Sequence[str] | None, batch_tokens: int | None, given: bool = True
    ) -> tuple[Encoded, np.ndarray]:
        """Rows of tokens, and what the graph says of each token, (tokens, C)."""
        with self._encoding:  # the task sets how its tokenizer cuts
            if isinstance(self.task, Tag):
                encoded = self.task.encode(self.encoder.tokenizer, texts, pairs, self.max_length, given)
            else:
                encoded = self.task.encode(self.encoder.tokenizer, texts, pairs, self.max_length)
        values = np.zeros((len(encoded.ids), len(self.labels)), np.float32)

        def feed(rows: np.ndarray) -> dict[str, np.ndarray]:
            batch = encoded.batch(rows, self.encoder.pad_id)
            return {name: batch[name] for name in self._inputs}

        for rows, batch, said in self._all(encoded.lengths, batch_tokens, feed):
            values[encoded.flat(rows)] = said[batch["attention_mask"] > 0]
        return encoded, values

    def logits(self, rows: Sequence[Row], batch_tokens: int | None = None) -> np.ndarray:
        """(n, C) of rows to classify, in their order."""
        if len(rows) == 1:
            return self._one(rows)
        found = np.zeros((len(rows), len(self.labels)), np.float32)
        for start in range(0, len(rows), CHUNK):
            encoded = self.encoder.ids(rows[start : start + CHUNK], start)
            lengths = np.array([len(ids) for ids, _ in encoded])
            for batch, _, said in self._all(lengths, batch_tokens, partial(self._picked, encoded)):
                found[batch + start] = said
        return found

    def _one(self, rows: Sequence[Row]) -> np.ndarray:
        ((listed, types),) = self.encoder.ids(rows)
        ids = np.array([listed], np.int64)
        feed = {"input_ids": ids, "attention_mask": self._ones[:, : len(listed)]}
        if self._types:
            feed["token_type_ids"] = np.array([types or [0] * len(listed)], np.int64)
        return self._run(self.session, feed)

    def _picked(self, encoded: Sequence[Ids], rows: np.ndarray) -> dict[str, np.ndarray]:
        return self._pad([encoded[i] for i in rows])

    def _pad(self, rows: Sequence[Ids]) -> dict[str, np.ndarray]:
        """The graph's inputs as (B, L) int64, padded to the longest of the batch."""
        shape = (len(rows), max(len(ids) for ids, _ in rows))
        feed = {name: np.zeros(shape, np.int64) for name in self._inputs}
        feed["input_ids"][:] = self.encoder.pad_id
        for i, (ids, types) in enumerate(rows):
            feed["input_ids"][i, : len(ids)] = ids
            feed["attention_mask"][i, : len(ids)] = 1
            if self._types and types is not None:
                feed["token_type_ids"][i, : len(ids)] = types
        return feed

    def _all(
        self, lengths: np.ndarray, batch_tokens: int | None, feed: Callable[[np.ndarray], dict[str, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
        """Rows, feed and output of every batch; as many batches at once as the folder is run with."""
        calls, one = self.serving.throughput.calls, len(lengths) == 1

        def call(rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
            given = feed(rows)
            return rows, given, self._run(self.session if one else self._batched, given)

        cut = shares(lengths, batch_tokens or self.serving.batch_tokens, calls, self._dear)
        return map(call, cut) if calls == 1 or one else self._pool.map(call, cut)

    @cached_property
    def _dear(self) -> int:
        """How many tokens a call of the graph is as dear as."""
        return CALL if multiplications(self.graph) >= WORTH else 0

    @cached_property
    def _batched(self) -> Session:
        """What runs several texts."""
        return self.session if self._shared else session(self.graph, self.serving.throughput)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.serving.throughput.calls)

    def _run(self, opened: Session, feed: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return opened.run(self._outputs, feed)[0]
        except Exception as error:
            way = self.serving.latency if opened is self.session else self.serving.throughput
            raise unrun(self.folder, way, error) from None


def classes(
    task: Classify | Several, texts: Any, top_k: int | Literal["unset"] | None, logits: Callable[[], np.ndarray]
) -> Any:
    """What `predict` gives for classes, from the logits of the texts, which are asked for once `top_k` is in order."""
    if top_k is not None and top_k != "unset" and not isinstance(top_k, int):
        raise InputError(f"top_k: got {top_k!r}, wanted a number or None for all labels.")
    if top_k is not None and top_k != "unset" and top_k < 1:
        raise InputError(f"top_k: got {top_k}, wanted 1 or more, or None for all labels.")
    found = task.answers(logits(), top_k)
    as_pipeline = isinstance(texts, str) and top_k == "unset" and isinstance(task, Classify)
    return found[0] if isinstance(texts, str | Mapping) and not as_pipeline else found


def unrun(folder: Path, way: Way, error: Exception) -> ModelError:
    """What is said where a graph opened and does not run."""
    return ModelError(f"{folder}: {find(way.engine).TITLE} could not run the graph ({first_line(error)}).")


def _runnable(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    named = config.get("architectures") or []
    if named and head_of(config) in ("", MaskLanguage.name):
        kinds = (kind for kind in TASKS.values() if kind is not MaskLanguage)
        known = ", ".join(dict.fromkeys(kind.hf_class.replace("AutoModel", "...") for kind in kinds))
        raise ModelError(f"{folder}: is a {named[0]}, wanted one of {known}.")
    return config


def _task(folder: Path, config: Mapping[str, Any]) -> Task:
    try:
        return task_class(head_of(config) or "classify").from_config(config)
    except InputError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from None


def _signature(opened: Session, graph: Path, task: Task) -> tuple[list[str], list[str]]:
    """Names of the graph's inputs, and of the one output that is asked for.

    Raises:
        ModelError: inputs that we cannot give, or another number of classes than the config has labels.
    """
    inputs = list(opened.inputs)
    if not set(INPUTS[:2]) <= set(inputs) <= set(INPUTS):
        raise ModelError(
            f"{graph}: has the inputs {', '.join(inputs)}, wanted input_ids, attention_mask (token_type_ids)."
        )
    outputs = opened.outputs
    name = "logits" if "logits" in outputs else next(iter(outputs))
    shape, classes = outputs[name], len(task.labels)
    if len(shape) != 2 + task.per_token or (isinstance(shape[-1], int) and shape[-1] != classes):
        raise ModelError(
            f"{graph}: gives {name} of shape {shape}, config.json has {classes} labels. They do not belong together."
        )
    return inputs, [name]
