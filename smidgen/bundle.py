"""Many tasks over one base in one folder that runs without torch: every row of a batch names its task.

The body of the base stands in the graph once. What the tasks have put beside it is stacked over tasks, and so are
their heads; each row gathers its own numbers, so rows of different tasks, and of different methods, share a batch.
A task of a kind that does not stack has a graph of its own from the lowest block on that it changes; its rows go
through the body with the others, and their states into that graph. Where it changes all, that is the whole model.

    config.json, tokenizer.json, tokenizer_config.json      the base's
    onnx/model.onnx    input_ids, attention_mask (token_type_ids), (B, L); tasks, (B,) int64; outputs as in OUTPUTS,
                       and states_K, (B, L, hidden), behind K blocks, for those who go on from there
    onnx/own-NAME.onnx inputs_embeds, (B, L, hidden), or input_ids; attention_mask; output logits
    smidgen.json       the record: base, and of each task its labels, length, method and the hash of its delta;
                       sealed, since the answers depend on it

A bundle is made from base and deltas and never changed: with one task more or less it is made again.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.artefact import Artefact, identity, open_artefact, publish
from smidgen.delta import Delta, built, check_base, fit, read
from smidgen.errors import InputError, SmidgenError
from smidgen.grafting import plain
from smidgen.grafts import kind, stacked
from smidgen.grafts.prompt import Prompt, places
from smidgen.graph import trace
from smidgen.heads import Heads
from smidgen.integer import KINDS, dynamic
from smidgen.runtime.folder import GRAPH
from smidgen.runtime.machine import cuts_off
from smidgen.saturation import note
from smidgen.saving import save
from smidgen.source import Source, load_model, resolve, takes_types
from smidgen.tape import logits_of
from smidgen.tasks import Task
from smidgen.tokens import length_limit, pad_id, write_tokenizer
from smidgen.upper import Upper, lowest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FORM = "bundle"
OUTPUTS = {  # of the graph, by the class of the head
    "AutoModelForSequenceClassification": "logits",
    "AutoModelForTokenClassification": "token_logits",
    "AutoModelForQuestionAnswering": "span_logits",
}
TOLERANCE = 1e-5  # of `difference`, for float32: a graph of MiniLM-6 with all kinds that stack has 8e-7, noise alone


class Together(nn.Module):
    """A base with what its tasks put beside it, and their heads."""

    def __init__(self, base: Source, deltas: Sequence[Delta], cuts: Collection[int] = (), task: Task | None = None):
        """Deltas that were checked against the base, and whose parts can share a batch.

        A number of one more than they are is no task: such a row meets the bare base, as those do that go on elsewhere.

        Args:
            cuts: behind so many blocks states are given out.
            task: any, to load the base with, where there are no deltas.
        """
        super().__init__()
        self.heads: Any = nn.ModuleDict()
        body: Any = None if task is None else load_model(base, task, 0).base_model
        for output, rows in by_output(deltas).items():
            model = load_model(base, deltas[rows[0]].task, 0)
            body = model.base_model
            self.heads[output] = Heads(model, base, [deltas[row] for row in rows])
            places = torch.zeros(len(deltas) + 1, dtype=torch.long)
            places[rows] = torch.arange(len(rows))
            self.register_buffer(f"{output}_place", places)  # of a task among those of its kind
        if getattr(body, "pooler", None) is not None:
            body.pooler = None  # pooling is the heads' affair
        self.body: Any = body
        self.cuts = sorted(set(cuts))
        found = lanes(body, deltas)
        self.grafts = nn.ModuleList(stacked(body, name, [*entries, None]) for name, entries, _ in found)
        if found and found[0][2]:
            self.grafts[0].absorb(body)  # type: ignore[operator]
        for graft in self.grafts:
            graft.attach(body)  # type: ignore[operator]
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, tasks: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Ids and mask (B, L), the number of each row's task (B,), to logits by OUTPUTS: (B, C) or (B, L, C)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found: dict[str, Tensor] = {}
        for graft in self.grafts:
            graft.tasks = tasks
        with self._taking(found, input_ids.shape[1]):
            states = self.body(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        for graft in self.grafts:
            graft.tasks = None  # type: ignore[assignment]
        for output, head in self.heads.items():
            found[output] = head(states, attention_mask, getattr(self, f"{output}_place")[tasks])
        return found

    @contextmanager
    def _taking(self, found: dict[str, Tensor], length: int) -> Iterator[None]:
        """Put the states behind each cut into `found`: of the texts' own tokens, which come first in rows that have no
        prompt."""
        prompted = any(isinstance(graft, Prompt) for graft in self.grafts)

        def take(cut: int, module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            found[f"states_{cut}"] = states[:, :length] if prompted else states

        blocks = anatomy(self.body).blocks
        hooks = [blocks[n - 1].module.register_forward_hook(functools.partial(take, n)) for n in self.cuts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def by_output(deltas: Sequence[Delta]) -> dict[str, list[int]]:
    """Which tasks, by their numbers, each output of the graph is for."""
    found: dict[str, list[int]] = {}
    for row, delta in enumerate(deltas):
        found.setdefault(OUTPUTS[delta.task.hf_class], []).append(row)
    return found


Entry = tuple[Mapping[str, Any], Mapping[str, Tensor]] | None


def lanes(body: PreTrainedModel, deltas: Sequence[Delta]) -> list[tuple[str, list[Entry], bool]]:
    """The parts of all deltas as stacks, (kind, what each task has of it, is it the biases'), in an order that is each
    delta's own.

    Two parts are in one stack where kind and key agree. In a delta those that are folded into the weights act first.
    Shifts of all biases, where a delta begins with them, are a stack of their own and the first: nothing acts between
    them and the biases, whichever other tasks there are.
    """
    found: list[tuple[tuple[str, Hashable, bool], list[Entry]]] = []
    for row, delta in enumerate(deltas):
        at = 0
        for part in sorted(delta.parts, key=lambda part: not built(body, part, delta.path).mergeable(body)):
            cls = kind(part.kind)
            settings = {**cls.defaults, **part.settings}
            biases = at == 0 and part.kind == "bias" and plain(settings) == plain(cls.defaults)
            key = part.kind, cls.key(settings), biases
            place = next((i for i in range(at, len(found)) if found[i][0] == key), None)
            if place is None:
                place = at if biases or at or not found else int(found[0][0][2])
                found.insert(place, (key, [None] * len(deltas)))
            found[place][1][row] = part.settings, part.tensors
            at = place + 1
    return [(name, entries, biases) for (name, _, biases), entries in found]


def bundle(base: str, deltas: Sequence[str], out: Path, int8: bool = False) -> Artefact:
    """Make the folder, whole or not at all.

    Args:
        deltas: folders, or NAME=FOLDER; else a task is called as its folder is.

    Raises:
        InputError: names that cannot be used, a delta of another base, or of a task that cannot be in a bundle.
        SmidgenError: the graph does not answer as each task alone does.
    """
    source, found = resolve(base), named(deltas)
    for name, delta in found.items():
        check(name, delta, source)
    limit = length_limit(source.path)
    shared = {name: delta for name, delta in found.items() if stacks(delta)}
    own = {name: apart(delta, source) for name, delta in found.items() if name not in shared}
    cuts = [cut for _, cut in own.values() if cut] or [1] * (not shared)  # a graph gives something
    any_task = next(iter(found.values())).task
    module = Together(source, list(shared.values()), cuts, None if shared else any_task)
    module.body.set_attn_implementation("eager")
    record: dict[str, Any] = {
        "id": identity([FORM, source.id, int8, [[name, delta.record] for name, delta in found.items()]]),
        "form": FORM,
        "int8": int8,
        "base": {"model": source.reference, "id": source.id},
        "tasks": {name: about(delta) for name, delta in found.items()},
    }
    for name, told in record["tasks"].items():
        told["number"] = list(shared).index(name) if name in shared else len(shared)
        if name in own:
            told |= {"graph": f"own-{name}.onnx", "cut": own[name][1]}
    if out.exists() and not is_bundle(out):
        raise InputError(f"--out {out}: is there and not a bundle. Give a name that is free.")
    limit = room(module, limit, found)
    with publish(out, record, seal=True) as draft:
        shutil.copyfile(source.path / "config.json", draft / "config.json")
        write_tokenizer(source.path, draft, limit)
        file = draft / GRAPH
        file.parent.mkdir()
        rows = sample(source, module, len(found), limit)
        members = list(record["tasks"].values())
        whose, rows["tasks"] = rows["tasks"], np.array([members[i]["number"] for i in rows["tasks"]])
        trace(module, rows, file, limit)
        for name, (upper, cut) in own.items():
            trace(upper, _feed(module, rows, cut), file.parent / f"own-{name}.onnx", limit)
        record["largest_difference"] = worst = difference(file.parent, rows, whose, source, found, record["tasks"])
        if not worst <= TOLERANCE:
            raise SmidgenError(
                f"bundle: graph and tasks alone differ by {worst:.2g} in a logit, or of its row's largest logit where "
                f"that is above 1; at most {TOLERANCE:.2g} is allowed. "
                "Nothing was written. Please report this with the names of the methods."
            )
        if int8:
            for graph in sorted(file.parent.glob("*.onnx")):
                made = dynamic(onnx.load(str(graph)), KINDS, per_channel=True, reduce_range=cuts_off())
                note(made)
                save(made, graph)
            last = difference(file.parent, rows, whose, source, found, record["tasks"])
            record["largest_difference_int8"] = last  # roundings, which differ with what shares a batch: told, no fault
    return open_artefact(out)


def is_bundle(folder: Path) -> bool:
    """Is it a folder that `bundle` may replace?"""
    try:
        return open_artefact(folder).form == FORM
    except SmidgenError:
        return False


def room(module: Together, limit: int, deltas: Mapping[str, Delta]) -> int:
    """The tokens that a text of any task may have, where prompts take places of the base's.

    Raises:
        InputError: a task reads longer texts than that.
    """
    prompts = {n: p.settings["length"] for n, d in deltas.items() for p in d.parts if p.kind == "prompt"}
    if not prompts:
        return limit
    widest = max(prompts, key=lambda name: prompts[name])
    left = min(limit, places(module.body) - prompts[widest])
    for name, delta in deltas.items():
        if delta.max_length > left:
            raise InputError(
                f"{name}: reads texts of {delta.max_length} tokens; beside the {prompts[widest]} vectors of {widest} "
                f"the base has places for {left}. Tune it with max_length: {left}, or leave one of the two out."
            )
    return left


def named(deltas: Sequence[str]) -> dict[str, Delta]:
    """The deltas by the names of their tasks.

    Raises:
        InputError: a name that is taken, or cannot be one.
    """
    found: dict[str, Delta] = {}
    for given in deltas:
        name, sign, path = given.partition("=")
        if not sign or Path(given).is_dir():
            name, path = "", given
        folder = Path(path).resolve()
        name = name or (folder.parent if folder.name == "delta" else folder).name
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"{given}: {name!r} cannot name a task, wanted letters, digits, '-', '_' and '.'.")
        if name in found:
            raise InputError(f"{given}: {found[name].path} is called {name} too. Type {name}-2={path}, or the like.")
        found[name] = read(Path(path))
    if not found:
        raise InputError("no delta was given, wanted one or more. Make one with 'smidgen tune'.")
    return found


def check(name: str, delta: Delta, base: Source) -> None:
    """Refuse a delta of another base, and one of a task that the graph has no output for.

    Raises:
        InputError: see there.
    """
    check_base(delta, base)
    if delta.task.hf_class not in OUTPUTS:
        raise InputError(f"{name}: its task is {delta.task.name}, which a bundle cannot hold. Leave it out.")


def stacks(delta: Delta) -> bool:
    """Can rows of the task share a batch with those of others?"""
    return not delta.edits and all(kind(part.kind).stacks for part in delta.parts)


def apart(delta: Delta, base: Source) -> tuple[Upper, int]:
    """The task's own part of the model, and how many of the base's blocks come before it."""
    model = fit(delta, base)
    first = lowest(model, load_model(base, delta.task, 0))
    model.set_attn_implementation("eager")
    return Upper(model, first), first


def about(delta: Delta) -> dict[str, Any]:
    """What the runtime and a reader have to know of a task."""
    return {
        "task": delta.task.to_data(),
        "output": OUTPUTS[delta.task.hf_class],
        "max_length": delta.max_length,
        "kinds": [part.kind for part in delta.parts],
        "methods": delta.record.get("methods"),
        "delta": identity(delta.record),
    }


def sample(base: Source, module: Together, tasks: int, limit: int) -> dict[str, np.ndarray]:
    """A batch of three rows a task, mixed, of random tokens and lengths: what the graph is traced and checked on."""
    draw, pad = np.random.default_rng(0), pad_id(base.path)
    lengths = draw.integers(3, min(limit, 24) + 1, 3 * tasks)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    words = np.setdiff1d(np.arange(base.config["vocab_size"]), [pad])
    ids = np.where(mask > 0, draw.choice(words, mask.shape), pad)
    rows = {"input_ids": ids, "attention_mask": mask, "tasks": draw.permutation(np.arange(3 * tasks) % tasks)}
    if takes_types(module.body):
        rows["token_type_ids"] = draw.integers(0, module.body.config.type_vocab_size, mask.shape) * mask
    return rows


@torch.inference_mode()
def _feed(module: Together, rows: Mapping[str, np.ndarray], cut: int) -> dict[str, np.ndarray]:
    """What a graph of a task's own reads of these rows."""
    inputs = {name: value for name, value in rows.items() if name != "tasks"}
    if not cut:
        return inputs
    states = module(**{name: torch.from_numpy(value) for name, value in rows.items()})[f"states_{cut}"]
    return {"inputs_embeds": np.ascontiguousarray(states.numpy()), "attention_mask": rows["attention_mask"]}


@torch.inference_mode()
def difference(
    folder: Path,
    rows: Mapping[str, np.ndarray],
    whose: np.ndarray,
    base: Source,
    deltas: Mapping[str, Delta],
    told: Mapping[str, Any],
) -> float:
    """The largest difference of a logit between mixed rows in the graphs and each task alone in torch.

    Of a row that has a logit above 1 it is the share of its largest: float32's own noise grows with it.

    Args:
        whose: the number of each row's task among the deltas; `rows["tasks"]` is what the graph calls it.
    """
    from smidgen.runtime.bundle import run
    from smidgen.runtime.engines import Way, session

    graphs = {"model.onnx", *(told[name]["graph"] for name in deltas if told[name].get("graph"))}
    sessions = {graph: session(folder / graph, Way()) for graph in graphs}
    said = run(sessions, rows, [told[list(deltas)[i]] for i in whose])
    worst = 0.0
    for number, delta in enumerate(deltas.values()):
        at = np.flatnonzero(whose == number)
        inputs = {name: torch.from_numpy(value[at]) for name, value in rows.items() if name != "tasks"}
        alone = logits_of(fit(delta, base)(**inputs)).numpy()
        for row, values in zip(at, alone, strict=True):
            real = slice(None) if values.ndim == 1 else rows["attention_mask"][row] > 0
            apart = np.abs(said[row][..., : values.shape[-1]][real] - values[real]).max()
            size = max(1.0, float(np.abs(values[real]).max()))
            worst = float(np.maximum(worst, apart / size))  # of nan and a number it is nan, which max() may drop
    return worst
