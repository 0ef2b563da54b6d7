"""What all kinds of grafts share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, NoEffect


class Graft(nn.Module, abc.ABC):
    """Small tensors beside a model. They are its parameters, in no dict of lists: `state_dict` is what a delta keeps.
    A buffer is one that does not train: such as which of a prefix's rows are there.

    A kind defines
        defaults    its settings with their defaults; plain values
        sizes       those of them in which the tasks of one batch may differ: tensors are padded to the largest
        stacks      can tasks share a batch? If so, a tensor of zeros must change nothing, and whatever is read in a
                    forward is read by `pick`
        grow        make the tensors for a model, so that nothing changes yet; NoEffect where there is nothing to tune
        attach      put the hooks in, by `hook`
        tell        change the config where it has a word for what the graft takes away, once it is a part of the model
        stands_on   what of the model its tensors are made for, and which cannot be cut or replaced under them: heads,
                    widths, blocks, matrices (of attention), attention
        mergeable, merge    fold the numbers into the model's weights, after which the graft is not needed

    Hooks are bound methods or partials of them, never closures, so that a copy of the model gets hooks of its own.
    """

    defaults: ClassVar[dict[str, Any]] = {}
    sizes: ClassVar[tuple[str, ...]] = ()
    stacks: ClassVar[bool] = True
    stands_on: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.folds = False  # it will be a part of the weights, so it acts before what will not
        self.tasks: Tensor | None = None  # (B,) int64, which task each row of the batch is of; None: there is one task
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @classmethod
    def key(cls, settings: Mapping[str, Any]) -> Hashable:
        """What has to agree between tasks of one batch."""
        return tuple(sorted((k, repr(v)) for k, v in settings.items() if k not in cls.sizes))

    @classmethod
    def widest(cls, settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Settings whose tensors hold those of all of these."""
        return {**settings[0], **{size: max(each[size] for each in settings) for size in cls.sizes}}

    @abc.abstractmethod
    def grow(self, model: PreTrainedModel) -> None: ...

    @abc.abstractmethod
    def attach(self, model: PreTrainedModel) -> None: ...

    def tell(self, config: Any) -> None:
        """Say in a model's config what it takes away, once it is a part of the model."""

    def levels(self, blocks: int) -> tuple[int, ...]:
        """The states that it hears of a model of so many blocks, rising; see `smidgen.hearing`."""
        return ()

    def mergeable(self, model: PreTrainedModel) -> bool:
        return False

    def merge(self, model: PreTrainedModel) -> None:
        assert not self.mergeable(model), "a kind that can be merged says how"

    def pick(self, values: Tensor) -> Tensor:
        """A tensor for each row of the batch, (B, ...), or one for all of them, (1, ...)."""
        return values.unsqueeze(0) if self.tasks is None else values[self.tasks]

    def hook(self, module: nn.Module, after: Callable[..., Any] | None = None, before: Any = None) -> None:
        """Run `after(module, args, output)` behind a module's forward, or `before(module, args, kwargs)` in front.

        Raises InputError where tune.lora acts on that module in the same stage: folded in, the two would not add up.
        """
        if hasattr(module, "base_layer"):
            kind = type(self).__module__.rpartition(".")[2]
            raise InputError(
                f"{kind}: tune.lora acts on the same projection. Give the two other sites, or a stage each."
            )
        if after is not None:
            self._handles.append(module.register_forward_hook(after, prepend=self.folds))
        if before is not None:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))

    def detach(self) -> None:
        """Take every hook out."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def table(self, shapes: Mapping[str, tuple[int, ...]], like: Tensor, std: float = 0.0) -> nn.ParameterDict:
        """Parameters of these shapes, zeros or drawn from a normal cut at two deviations; on `like`'s device."""
        made = nn.ParameterDict()
        for name, shape in shapes.items():
            values = torch.zeros(shape, device=like.device, dtype=like.dtype)
            if std and not like.is_meta:
                nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std)
            made[name] = nn.Parameter(values)
        return made


def first_weight(model: PreTrainedModel) -> Tensor:
    """What new tensors are made like."""
    return anatomy(model).blocks[0].out.weight


def own_bias(module: nn.Module) -> Tensor | None:
    """A projection's bias, be it where it was or in what a graft adds behind it."""
    bias = getattr(module, "bias", None)
    return getattr(module, "absorbed", None) if bias is None else bias


def within(model: PreTrainedModel, first: int, kind: str) -> range:
    """The blocks from `first` on. Raises NoEffect where none is left."""
    count = len(anatomy(model).blocks)
    if first >= count:
        raise NoEffect(f"{kind}: leaves out the first {first} of {count} blocks, so nothing is left. Leave out fewer.")
    return range(first, count)
