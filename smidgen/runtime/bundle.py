"""A folder of many tasks over one base: every text names its task, and all of them run in the same batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from smidgen.artefact import open_artefact
from smidgen.encoded import Encoded, join
from smidgen.errors import InputError, ModelError, did_you_mean
from smidgen.runtime import portable
from smidgen.runtime.batches import batches
from smidgen.runtime.engines import DEFAULT, Session, Way, session
from smidgen.runtime.folder import closed, graph_file, own_graphs
from smidgen.runtime.inputs import as_questions, as_rows, as_words
from smidgen.runtime.model import unrun
from smidgen.runtime.serving import BATCH_TOKENS, counted
from smidgen.runtime.tokenizer import TextEncoder
from smidgen.tasks import Classify, Several, Tag, Task, from_data
from smidgen.tasks.several import mixed

# Tokens that a call is as dear as: more than of a model of one task, since many small nodes read the tasks' numbers.
# With ten tasks over MiniLM-6 anything from 20 to 45 gives the same time within 2 %, 10 gives 4 % more.
CALL = 35
ROWS = 16  # of a batch at most: each brings numbers of its task along, 2.4 MB for adapters of width 48 in MiniLM-6
TopK = int | Literal["unset"] | None
Answering = Callable[[list[np.ndarray]], list[Any]]  # from the logits of each row to an answer a text


@dataclass(frozen=True)
class Member:
    """One task of a bundle."""

    task: Task
    encoder: TextEncoder
    told: Mapping[str, Any]  # by the record: number, output, and perhaps a graph of its own

    def read(
        self, texts: Sequence[Any], pairs: Sequence[str] | None, numbers: Sequence[int], top_k: TopK
    ) -> tuple[Encoded, Answering]:
        """The rows of its texts, and what makes answers of the logits of these rows.

        numbers: of the texts among those of all tasks, for errors.
        """
        task, encoder = self.task, self.encoder
        if isinstance(task, Classify | Several):
            rows = as_rows(texts, pairs, numbers)
            encoded = join(encoder(mixed(rows) if isinstance(task, Several) else rows, numbers))
            return encoded, lambda values: task.answers(np.stack(values), top_k)
        if top_k != "unset":
            raise InputError(f"top_k: goes with classification, one of the tasks does {task.name}. Leave it out.")
        if isinstance(task, Tag):
            if pairs is not None:
                raise InputError("pairs: a tagger reads single texts. Give None as the pair of each.")
            words, given = as_words(texts, numbers)
            encoded = task.encode(encoder.tokenizer, words, None, encoder.max_length, given)
            return encoded, lambda values: task.answers(encoded, np.concatenate(values), words)
        questions, contexts = as_questions(texts, pairs, numbers)
        encoded = task.encode(encoder.tokenizer, questions, contexts, encoder.max_length)

        def answers(values: list[np.ndarray]) -> list[Any]:
            found: list[Any] = task.answers(task.gather(encoded, np.concatenate(values), questions, contexts))  # type: ignore[union-attr]
            return found

        return encoded, answers


class Bundle:
    """Many tasks, ready to run; safe to call from several threads. See `load`.

    Raises:
        ArtefactError: a file or the record is missing or changed, by its hash.
        ModelError: the folder is not ours to read, or its graph does not open.
    """

    def __init__(
        self,
        folder: Path | str,
        threads: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.way = Way(engine or DEFAULT, precision or "float32", counted(threads))
        graph = graph_file(self.folder)
        record = open_artefact(self.folder, deep=True, seal=True).record
        self.members: dict[str, Member] = {}
        encoders: dict[tuple[str, int], TextEncoder] = {}  # one a kind of task: each sets how it cuts
        for name, told in record["tasks"].items():
            try:
                task, length = from_data(told["task"]), int(told["max_length"])
                int(told["number"]), str(told["output"])
            except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise ModelError(
                    f"{self.folder}: the record of {name} cannot be read ({error!r}). Make the bundle again."
                ) from None
            if (task.name, length) not in encoders:
                encoders[task.name, length] = TextEncoder(self.folder, length)
            self.members[name] = Member(task, encoders[task.name, length], told)
        files = [graph, *(closed(self.folder / file) for file in own_graphs(record["tasks"]))]
        self.sessions = {file.name: session(file, self.way) for file in files}
        for file in files:
            portable.warn(file)
        self._encoding = Lock()

    @property
    def threads(self) -> int:
        return self.way.threads

    @property
    def tasks(self) -> dict[str, Task]:
        """By name, in the order of the bundle."""
        return {name: member.task for name, member in self.members.items()}

    def predict(
        self,
        texts: Any,
        pairs: Sequence[str | None] | None = None,
        task: str | Sequence[str] | None = None,
        top_k: TopK = "unset",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Any:
        """An answer a text, each of what its own task answers in a list (see `Model.predict`); one text, one answer.

        Args:
            task: one name for all texts, or a list with one a text.
            pairs: second texts, or contexts; None at the texts of tasks that have none.

        Raises:
            InputError: no task or an unknown one, and what `Model.predict` refuses of a task.
        """
        if isinstance(texts, str | Mapping):
            return self.predict([texts], None if pairs is None else [pairs], task, top_k, batch_tokens)[0]  # type: ignore[list-item]
        names = self.named(task, len(texts))
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"pairs: got {len(pairs)} for {len(texts)} texts, wanted one for each, or None there.")
        if not len(texts):
            return []
        found: list[Any] = [None] * len(texts)
        read: list[tuple[Member, list[int], Encoded, Answering]] = []
        with self._encoding:
            for name in dict.fromkeys(names):
                at = [i for i, one in enumerate(names) if one == name]
                seconds = [pairs[i] for i in at] if pairs is not None else [None]
                given: Any = None if all(second is None for second in seconds) else seconds
                member = self.members[name]
                read.append((member, at, *member.read([texts[i] for i in at], given, at, top_k)))
        said = self._logits([(member, encoded) for member, _, encoded, _ in read], batch_tokens)
        for (_, at, _, answers), values in zip(read, said, strict=True):
            for i, answer in zip(at, answers(values), strict=True):
                found[i] = answer
        return found

    def named(self, task: str | Sequence[str] | None, count: int) -> list[str]:
        """The task of each text.

        Raises:
            InputError: none, an unknown one, or another number of them; the message lists what there is.
        """
        there = f"This bundle has {', '.join(self.members)}."
        if task is None:
            raise InputError(f"task: got none, wanted one name for all texts or a list with one a text. {there}")
        names = [task] * count if isinstance(task, str) else list(task)
        if len(names) != count:
            raise InputError(f"task: got {len(names)} names for {count} texts, wanted one for each. {there}")
        for name in names:
            if not isinstance(name, str) or name not in self.members:
                raise InputError(f"task: there is no {name!r}.{did_you_mean(str(name), self.members)} {there}")
        return names

    def _logits(self, read: Sequence[tuple[Member, Encoded]], batch_tokens: int) -> list[list[np.ndarray]]:
        """Of each member the logits of each of its rows, (C,) or (tokens, C)."""
        rows = _together([encoded for _, encoded in read])
        owner = np.repeat(np.arange(len(read)), [len(encoded) for _, encoded in read])
        found: list[list[Any]] = [[None] * len(encoded) for _, encoded in read]
        first = np.cumsum([0, *(len(encoded) for _, encoded in read)])
        lengths = rows.lengths
        for batch in batches(lengths, batch_tokens, ROWS, CALL):
            members = [read[owner[row]][0] for row in batch]
            feed = rows.batch(batch, members[0].encoder.pad_id)
            feed["tasks"] = np.array([member.told["number"] for member in members])
            said = self._run(feed, [member.told for member in members])
            for row, member, whole in zip(batch, members, said, strict=True):
                values = whole[..., : len(member.task.labels)]
                own = owner[row]
                found[own][row - first[own]] = values[: lengths[row]] if member.task.per_token else values
        return found

    def _run(self, feed: dict[str, np.ndarray], told: list[Mapping[str, Any]]) -> list[np.ndarray]:
        try:
            return run(self.sessions, feed, told)
        except Exception as error:
            raise unrun(self.folder, self.way, error) from None


def run(
    sessions: Mapping[str, Session], feed: Mapping[str, np.ndarray], told: Sequence[Mapping[str, Any]]
) -> list[np.ndarray]:
    """The logits of each row of a batch, (labels,) or (L, labels), where `told` is what the record says of its task.

    All rows but those of tasks with a whole model of their own go through the shared graph together; then those that
    have a part of their own go through that, a task at a time.
    """
    through = [i for i, one in enumerate(told) if one.get("cut") != 0]
    wanted = sorted({f"states_{one['cut']}" if "cut" in one else one["output"] for one in (told[i] for i in through)})
    shared = _ask(sessions["model.onnx"], {k: v[through] for k, v in feed.items()}, wanted) if through else {}
    found: list[Any] = [None] * len(told)
    for place, i in enumerate(through):
        if "cut" not in told[i]:
            found[i] = shared[told[i]["output"]][place]
    for graph in dict.fromkeys(one["graph"] for one in told if "graph" in one):
        at = [i for i, one in enumerate(told) if one.get("graph") == graph]
        own = {name: value[at] for name, value in feed.items()}
        if cut := told[at[0]]["cut"]:
            own["inputs_embeds"] = shared[f"states_{cut}"][[through.index(i) for i in at]]
        for i, values in zip(at, _ask(sessions[graph], own, ["logits"])["logits"], strict=True):
            found[i] = values
    return found


def _ask(opened: Session, feed: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    return dict(zip(outputs, opened.run(outputs, {name: feed[name] for name in opened.inputs}), strict=True))


def _together(parts: Sequence[Encoded]) -> Encoded:
    """Rows of several, end to end; what a task knows beside the tokens is left out."""
    lengths = np.concatenate([[0], *(part.lengths for part in parts)])
    ids, types = (np.concatenate([getattr(part, key) for part in parts]) for key in ("ids", "types"))
    return Encoded(ids, types, np.cumsum(lengths))
