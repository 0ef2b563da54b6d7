"""Tune low-rank shifts of the projections, or factors on them, with the layers of PEFT.

Idea       W' = W + s B A, with A (rank, inputs) random, B (outputs, rank) 0 and s = alpha / rank (LoRA: Hu et al. 2021,
           arXiv:2106.09685). `rslora`: s = alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). `pissa`: A and B
           start as the largest singular triples of W, and what is left of W stays frozen (Meng et al. 2024,
           arXiv:2404.02948). `dora`: the rows of W + s B A take lengths of their own, which are learnt (Liu et al.
           2024, arXiv:2402.09353). `vera`: A and B are random and the same for all, and vectors b and d are learnt,
           W' = W + diag(b) B diag(d) A (Kopiczko et al. 2024, arXiv:2310.11454). `loha`: two products of rank r,
           multiplied element by element, which makes a shift of rank r^2 (Hyeon-Woo et al. 2022, arXiv:2108.06098).
           `ia3`: no shift but factors, on what a projection gives and on what `down` gets (Liu et al. 2022,
           arXiv:2205.05638).
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
           `sites` none: query and value, and for ia3 key, value and down. Where one Linear makes query, key and value,
           as in ModernBERT, it is one site.
Leaves     The same model with other weights, PEFT's layers folded in, and a delta: shifts or factors, and the head. A
           delta of pissa has twice the rank, since what it starts from is taken off again; of vera and loha, the
           products, of loha as a shift of rank r^2.
Beside     tune.full, distil.*, and other methods of tune that act elsewhere in the blocks.
Fails      Wants a learning rate of 1e-4 to 1e-3, vera and ia3 1e-2. Two methods that act on one projection do not give
           what each gives alone, so that is refused. AdaLoRA is not here: it allots ranks by gradients that are gone
           when a step is over. Nor is LoKr: as a shift of low rank a Kronecker product takes a hundred times its bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from smidgen import grafting
from smidgen.errors import InputError
from smidgen.method import Context, Method, Needs, Part, above, between, name_of, one_of

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("lora", "rslora", "pissa", "dora", "vera", "loha", "ia3")
DROPLESS = ("loha", "ia3")  # PEFT has no dropout on what these read
SITES = ("query", "key", "value", "out", "up", "down")


@dataclass
class Tuned:
    """PEFT's tuner and its layers, by block and site; what they started from; in the end, what they came to."""

    tuner: Any
    layers: Mapping[str, Any]
    start: Mapping[str, tuple[Tensor, Tensor]]
    part: Part | None = field(default=None)


@final
@dataclass(frozen=True)
class Lora(Method[Tuned]):
    kind: str = "lora"  # lora | rslora | pissa | dora | vera | loha | ia3
    rank: int = 8  # of the shifts; vera wants some 256
    alpha: float = 16.0  # a shift is scaled by alpha / rank, in rslora by alpha / sqrt(rank)
    dropout: float = 0.0  # on what a shift reads
    sites: tuple[str, ...] = ()  # query, key, value, out, up, down; none = what is usual for the kind

    needs: ClassVar[Needs] = Needs(training=True)
    wraps: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, KINDS)
        yield from between("rank", self.rank, 1, 4096)
        yield from above("alpha", self.alpha, 0)
        if not 0 <= self.dropout < 1:
            yield f"dropout: got {self.dropout}, wanted a share from 0 to below 1."
        elif self.dropout and self.kind in DROPLESS:
            yield f"dropout: got {self.dropout}, wanted 0: {self.kind} has no shift that could drop what it reads."
        for site in self.sites:
            yield from one_of("sites", site, SITES)

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        if self.kind in ("ia3", "dora") and any(name_of(other) == "tune.prefix" for other in others):
            yield (
                f"{self.kind} scales a prefix's keys and values while it trains, and not when it is merged. Give a "
                "stage each."
            )

    def begin(self, ctx: Context) -> Tuned:
        from smidgen.grafts.lora import linears

        assert ctx.model is not None
        usual = ("key", "value", "down") if self.kind == "ia3" else ("query", "value")
        targets = linears(ctx.model, self.sites or usual)
        if (busy := next((name for name, linear in targets.items() if _hooked(linear)), None)) is not None:
            raise InputError(
                f"tune.lora: another method of the stage acts on {busy} already. Give the two other sites, or a stage "
                "each."
            )
        if self.kind == "pissa" and (small := min(min(t.weight.shape) for t in targets.values())) < self.rank:
            raise InputError(f"tune.lora: rank is {self.rank}, but the smallest matrix has {small}. Write it or less.")
        if self.kind == "loha" and (small := min(min(t.weight.shape) for t in targets.values())) < self.rank**2:
            raise InputError(
                f"tune.lora: rank is {self.rank}, whose square is the rank of a loha, but the smallest matrix has "
                f"{small}. Write {math.isqrt(small)} or less."
            )
        grafting.freeze(ctx)
        tuner = inject(ctx.model, targets, self.kind, self.rank, self.alpha, self.dropout)
        layers = dict(zip(targets, linears(ctx.model, self.sites or usual).values(), strict=True))
        start = {name: product(layer) for name, layer in layers.items()} if self.kind == "pissa" else {}
        return Tuned(tuner, layers, start)

    def end(self, state: Tuned, ctx: Context) -> None:
        assert ctx.model is not None
        state.part = part(state.layers, state.start)
        state.tuner.merge_and_unload()
        ctx.model.requires_grad_(True)

    def adds(self, state: Tuned, ctx: Context) -> Iterable[Part]:
        assert state.part is not None, "adds comes after end"
        yield state.part


def inject(model: Any, targets: Mapping[str, nn.Linear], kind: str, rank: int, alpha: float, dropout: float) -> Any:
    """PEFT's layers in the place of these modules; what else trains goes on to train. Gives PEFT's tuner."""
    from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    paths = {id(module): path for path, module in model.named_modules()}
    names = {site: paths[id(module)] for site, module in targets.items()}
    config: Any
    if kind == "ia3":
        inputs = [name for site, name in names.items() if site.endswith("/down")]
        config = IA3Config(target_modules=[*names.values()], feedforward_modules=inputs)
    elif kind == "vera":
        config = VeraConfig(r=rank, target_modules=[*names.values()], vera_dropout=dropout)
    elif kind == "loha":
        config = LoHaConfig(r=rank, alpha=alpha, target_modules=[*names.values()])  # type: ignore[arg-type]
    else:
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # it takes any number
            lora_dropout=dropout,
            target_modules=[*names.values()],
            init_lora_weights="pissa" if kind == "pissa" else True,
            use_rslora=kind == "rslora",
            use_dora=kind == "dora",
        )
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on random numbers that a later version might draw otherwise; ours are merged
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, "default")
    for parameter in training:  # PEFT froze them
        parameter.requires_grad = True
    return tuner


def part(layers: Mapping[str, Any], start: Mapping[str, tuple[Tensor, Tensor]]) -> Part:
    """What PEFT's layers do, as tensors of the graft `lora` or, for factors, of `scale`; see there."""
    import torch

    first = next(iter(layers.values()))
    if hasattr(first, "ia3_l"):
        sides = {
            "given": [n for n in layers if not n.endswith("/down")],
            "got": [n for n in layers if n.endswith("/down")],
        }
        found = {
            f"{side}.{n}": _kept(layers[n].ia3_l["default"].flatten() - 1) for side, ns in sides.items() for n in ns
        }
        return Part("scale", {"outputs": _sites(sides["given"]), "inputs": _sites(sides["got"])}, found)
    found = {}
    for name, layer in layers.items():
        into, back = product(layer)
        if name in start:
            into, back = torch.cat([into, start[name][0]], dim=1), torch.cat([back, -start[name][1]])
        if magnitude := getattr(layer, "lora_magnitude_vector", None):
            shifted = layer.get_base_layer().weight + (into @ back).T
            factor = magnitude["default"].weight / shifted.norm(dim=1)
            back = back * factor
            found[f"factor.{name}"] = _kept(factor - 1)
        found |= {f"into.{name}": _kept(into), f"back.{name}": _kept(back)}
    factors = any(name.startswith("factor.") for name in found)
    return Part("lora", {"rank": into.shape[1], "sites": _sites(layers), "factors": factors}, found)


def product(layer: Any) -> tuple[Tensor, Tensor]:
    """The shift of one of PEFT's layers as (inputs, rank) and (rank, outputs), the scale in the second."""
    if hasattr(layer, "vera_lambda_d"):
        into = layer.vera_A["default"][:, : layer.in_features] * layer.vera_lambda_d["default"].unsqueeze(1)
        back = layer.vera_B["default"][: layer.out_features] * layer.vera_lambda_b["default"].unsqueeze(1)
    elif hasattr(layer, "hada_w1_a"):  # (A B) * (C D) is one product, of each column of A with each of C
        a, b, c, d = (getattr(layer, f"hada_w{i}_{side}")["default"] for i in (1, 2) for side in "ab")
        into = (b.unsqueeze(1) * d.unsqueeze(0)).flatten(0, 1)
        back = (a.unsqueeze(2) * c.unsqueeze(1)).flatten(1) * layer.scaling["default"]
    else:
        into = layer.lora_A["default"].weight
        back = layer.lora_B["default"].weight * layer.scaling["default"]
    return into.detach().T.clone(), back.detach().T.clone()


def _sites(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition("/")[2] for name in names))


def _kept(values: Tensor) -> Tensor:
    return values.detach().cpu().clone().contiguous()


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
