"""Leave parts of the model alone, or thaw them one by one from the top down.

Idea       Train the top alone, then the top and the block below it, and so on: of n groups, counted from the head as
           i = 0 .. n - 1, group i trains when the share t >= i / n of the stage is done (gradual unfreezing: ULMFiT,
           Howard and Ruder 2018, arXiv:1801.06146; XtremeDistil, Mukherjee and Awadallah 2020, arXiv:2004.05686). What
           is not named trains from the start and is group 0. With `thaw: none` what is named never moves. What is
           frozen from the embeddings up runs without dropout, and where it never thaws it runs once: what the blocks
           give for each text is kept on disk (`cache` of the stage's train), and an epoch costs what is above them.
Takes      A float model, and another method with a loss in the same stage; after prune.layers if that is in it too.
Leaves     The same model; what stayed frozen is the same to the bit. With `thaw: none` of a family with an anatomy, a
           delta too: the weights of the body that trained, whole, and the head. The top quarter of a BERT-base is
           87 MB, where an adapter is 4.
Beside     tune.full, every distil.*, and other methods of tune: what is named here trains in none of them. MobileBERT's
           progressive transfer: one stage a block, freezing those below.
Fails      A linear schedule leaves little of the learning rate to what thaws last: take `schedule: constant`. A BiLSTM
           is one block. A model of whose tokens no states are known is grouped by its children in order: the first is
           the embeddings, the last the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import nn

from smidgen.anatomy import has_states, states, supported
from smidgen.errors import InputError, NoEffect
from smidgen.grafting import head_names, part
from smidgen.grafts import build
from smidgen.method import Context, Method, Needs, Part, name_of, one_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Group = list[nn.Parameter]


@dataclass(frozen=True)
class Frozen:
    """Groups of frozen parameters with the share of the stage after which each thaws; 2 = never.

    trained: the others that train, where nothing thaws; by name.
    """

    groups: list[tuple[float, Group]]
    trained: dict[str, nn.Parameter] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Freeze(Method[Frozen]):
    blocks: int | str = 0  # the first so many blocks, or all
    embeddings: bool = True  # and what else is below the blocks
    head: bool = False  # and what else is above the blocks: pooler, last norm
    thaw: str = "none"  # none | top_down: head, blocks from the last to the first, embeddings, in equal shares

    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        if self.blocks != "all" and (isinstance(self.blocks, str) or self.blocks < 0):
            yield f"blocks: got {self.blocks!r}, wanted a number from 0, or all."
        yield from one_of("thaw", self.thaw, ("none", "top_down"))

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        if self.head and any(name_of(other) == "tune.head" for other in others):
            yield "head: true freezes what tune.head puts a new head in the place of. Write head: false."

    def thaws(self) -> bool:
        return self.thaw != "none"

    def frozen(self, blocks: int) -> tuple[int, ...]:
        count = blocks if isinstance(self.blocks, str) else min(self.blocks, blocks)
        return (count,) if self.embeddings and self.thaw == "none" else ()

    def begin(self, ctx: Context) -> Frozen:
        assert ctx.model is not None
        named = self._named(*parts(ctx.model))
        for parameter in (parameter for group in named for parameter in group):
            parameter.requires_grad = False
            ctx.frozen.add(parameter)
        trained = {name: p for name, p in ctx.model.named_parameters() if p.requires_grad}
        if self.thaw == "none":
            return Frozen([(2.0, group) for group in named], trained)
        some_train = bool(trained)
        state = Frozen([((i + some_train) / (len(named) + some_train), group) for i, group in enumerate(named)])
        self.step(state, 0.0)
        return state

    def step(self, state: Frozen, t: float) -> None:
        for name in [name for name, p in state.trained.items() if not p.requires_grad]:  # frozen by another method
            del state.trained[name]
        for start, group in state.groups:
            for parameter in group if t >= start - 1e-9 else ():
                parameter.requires_grad = True

    def end(self, state: Frozen, ctx: Context) -> None:
        self.step(state, 2.0)

    def adds(self, state: Frozen, ctx: Context) -> Iterable[Part]:
        model = ctx.model
        assert model is not None
        if not supported(model.config.model_type) or ctx.skeleton is not None or ctx.edits:
            return
        head, prefix = head_names(model, ctx.source), f"{model.base_model_prefix}."
        if names := tuple(name.removeprefix(prefix) for name in state.trained if name not in head):
            yield part(build(model, "weights", {"names": names}))

    def _named(self, embeddings: Group, blocks: list[Group], head: Group) -> list[Group]:
        """The groups that the settings name, from the top down."""
        count = len(blocks) if isinstance(self.blocks, str) else self.blocks
        if count > len(blocks):
            raise InputError(f"tune.freeze: blocks is {count}, but this model has {len(blocks)}. Write blocks: all.")
        wanted = [(self.head, "head", head), *((True, "blocks", group) for group in reversed(blocks[:count]))]
        wanted.append((self.embeddings, "embeddings", embeddings))
        named = [(name, group) for asked, name, group in wanted if asked]
        if not named or not all(group for _, group in named):
            empty = next((name for name, group in named if not group), None)
            what = f"this model has no weights in its {empty}" if empty else "the settings name nothing"
            raise NoEffect(f"tune.freeze: {what}. Name what to freeze: blocks, embeddings or head.")
        return [group for _, group in named]


def parts(model: PreTrainedModel) -> tuple[Group, list[Group], Group]:
    """All parameters of a model, each once: below the blocks, a group a block, above the blocks."""
    if not has_states(model.config.model_type):
        return _in_order(model)
    found = states(model)
    blocks = [list(layer.parameters()) for layer in found.layers]
    inside = {id(p) for group in blocks for p in group}
    top = {id(p) for module in found.above for p in module.parameters()}
    body = {id(p) for p in found.body.parameters()} - top
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [p for p in rest if id(p) in body], blocks, [p for p in rest if id(p) not in body]


def _in_order(model: PreTrainedModel) -> tuple[Group, list[Group], Group]:
    """The same for a model of no known family: by its children, and its body's children in place of the body."""
    children = [
        part for child in model.children() for part in (child.children() if child is model.base_model else [child])
    ]
    groups = [group for child in children if (group := list(child.parameters()))]
    held = {id(p) for group in groups for p in group}
    loose = [p for p in model.parameters() if id(p) not in held]
    return groups[0], groups[1:-1], [*(groups[-1] if len(groups) > 1 else []), *loose]
