"""Join adapters of other tasks: train an attention over what they leave, for one more task.

Idea       In each block, with h the feed-forward's output and z_n = h + U_n f(D_n h + d_n) + u_n what adapter n leaves
           of it: s = softmax_n((h Q) (z_n K)'), o = sum_n s_n z_n V. The model and the adapters stay as they are; Q
           and K start at random, V at the identity with 1e-6 beside the diagonal, and 0.01 ||I - V||^2 a block pulls
           it there (AdapterFusion: Pfeiffer et al. 2021, arXiv:2005.00247). `rank`: Q and K of (hidden, rank); values
           false: V stays the identity. `keep`: of the adapters that a block had, the so many to which the training
           rows paid most attention stay (fusion pruning: Rücklé et al. 2021, arXiv:2010.11918).
Takes      A float model; deltas of tune.adapter, of kind pfeiffer and one activation, made on this model, the task's
           own among them; another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with all of it inside, reloaded after `import smidgen`; a delta that holds the adapters too, so
           that it needs none of theirs; in its record what share of the attention each adapter got.
Beside     tune.full, distil.*.
Fails      Helps where labels are few: 5 to 6 points on MRPC, RTE and CB, none on MNLI, QQP and IMDb (the paper's table
           1). Three matrices of hidden x hidden a block are about a fifth of BERT-base, for each task anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from smidgen import grafting
from smidgen.anatomy import anatomy
from smidgen.batch import Batch, agreed
from smidgen.delta import Delta, check_base, read
from smidgen.errors import ArtefactError, InputError, ModelError, NoEffect
from smidgen.method import Context, Method, Needs, Part, between
from smidgen.source import Source, resolve
from smidgen.tape import Tape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PULL = 0.01  # of V to the identity
LOOKED = 512  # rows at most from which it is told how much attention each adapter gets


@final
@dataclass(frozen=True)
class Fusion(Method[Any]):
    adapters: tuple[str, ...] = ()  # folders of deltas of tune.adapter, or of the stages that left them
    rank: int = 0  # of Q K'; 0 = the hidden size
    values: bool = True  # learn V; false: it is the identity
    keep: int = 0  # adapters of a block that stay in the end; 0 = all

    needs: ClassVar[Needs] = Needs(training=True, examples=True)
    remark: ClassVar[str] = (
        "full query, key and value of every block are about a fifth of BERT-base, for each task anew; rank: 16 with "
        "values: false is 0.3 %."
    )

    def faults(self) -> Iterator[str]:
        found: list[Delta] = []
        for path in self.adapters:
            try:
                found.append(opened(path))
            except (ArtefactError, InputError) as error:
                yield f"adapters: got {path!r}, wanted deltas of tune.adapter with kind: pfeiffer. {error}"
        kinds = sorted({str(delta.parts[0].settings["activation"]) for delta in found})
        if len(kinds) > 1:
            yield f"adapters: got the activations {', '.join(kinds)}, wanted one. Tune them with the same."
        yield from between("rank", self.rank, 0, 4096)
        if self.keep and not 0 < self.keep < len(self.adapters):
            yield f"keep: got {self.keep}, wanted fewer than the {len(self.adapters)} adapters, or 0 for all of them."

    def misfits(self, source: Source) -> Iterator[str]:
        for path in self.adapters:
            try:
                check_base(opened(path), source)
            except ModelError as error:
                yield str(error)

    def reads(self) -> Mapping[str, str]:
        return {"adapters": " ".join(opened(path).record["file"][1] for path in self.adapters)}

    def begin(self, ctx: Context) -> Any:
        if not self.adapters:
            raise NoEffect("tune.fusion: adapters names none, so there is nothing to join. Name folders of deltas.")
        base = resolve(str(ctx.source))
        deltas = [opened(path) for path in self.adapters]
        for delta in deltas:
            check_base(delta, base)
        parts = [delta.parts[0] for delta in deltas]
        settings = {
            "count": len(parts),
            "width": max(part.settings["width"] for part in parts),
            "activation": parts[0].settings["activation"],
            "first": min(part.settings["first"] for part in parts),
            "rank": self.rank,
            "values": self.values,
        }
        graft: Any = grafting.begin(ctx, "fusion", settings)
        fill(graft, parts)
        return graft

    def loss(self, state: Any, tape: Tape) -> dict[str, Tensor]:
        return {"pull": PULL * tape.mean(state.pull().expand(len(tape.mask)))} if self.values else {}

    def end(self, state: Any, ctx: Context) -> None:
        assert ctx.model is not None
        shares = attention(ctx.model, state, ctx.sight.sample(LOOKED))
        share = state.own / sum(p.numel() for p in anatomy(ctx.model).body.parameters())
        names = [Path(path).name if Path(path).name != "delta" else Path(path).parent.name for path in self.adapters]
        mean = torch.stack(list(shares.values())).mean(0).tolist()
        said = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, mean, strict=True))
        if self.keep:
            state.keep({name: values.topk(self.keep).indices.sort().values for name, values in shares.items()})
        ctx.found["tune.fusion"] = {
            "numbers": state.own,
            "share": share,
            "attention": {name: values.tolist() for name, values in shares.items()},
            "told": f"its own numbers are {state.own:,}, {share:.1%} of the body; attention on {said}.",
        }
        grafting.end(state, ctx)

    def adds(self, state: Any, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state)


def opened(path: str) -> Delta:
    """The delta of one pfeiffer adapter. Raises ArtefactError for anything else."""
    delta = read(Path(path).expanduser())
    said = [str(part.settings.get("kind", part.kind)) for part in delta.parts]
    if said != ["pfeiffer"]:
        raise ArtefactError(f"{delta.path}: a delta of {', '.join(said)}. Tune one with tune.adapter, kind: pfeiffer.")
    return delta


@torch.no_grad()
def fill(graft: Any, parts: Iterable[Part]) -> None:
    """Write the tensors of adapters into a fusion, whose own are zeros and as wide as the widest."""
    for n, part in enumerate(parts):
        for path, values in part.tensors.items():
            table, _, place = path.partition(".")
            factor = part.settings["scale"] if table.startswith("back") else 1.0
            whole = getattr(graft, table)[place.partition("/")[0]][n]
            whole[tuple(slice(size) for size in values.shape)] = factor * values


@torch.no_grad()
def attention(model: PreTrainedModel, graft: Any, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """By block, (adapters,) the share of the attention that each gets, the mean over real tokens."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    for batch in batches:
        heard: dict[str, Tensor] = {}
        graft.to(batch.labels.device).shares = heard
        mask = batch.inputs["attention_mask"].bool()
        model(**batch.inputs)
        for name, shares in heard.items():
            sums[name] = sums.get(name, 0) + shares.float().masked_fill(~mask[:, None], 0).sum((0, 2)).cpu()
        tokens += int(mask.sum())
    graft.cpu().shares = None
    return {name: agreed(total / tokens) for name, total in sums.items()}
