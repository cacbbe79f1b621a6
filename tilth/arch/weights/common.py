"""What the parameterisations share: the layer they replace, first values, factors, restarts, and dense weights out.

A layer stands where a dense matrix [outputs, inputs] would; `Layer` says what the decoder asks of it. Whatever rewrites
weights between steps (merge, decomposition, new support) runs in float32 on every rank alike, with random choices from
streams keyed by the run's seed, the layer's place and the clock, and says what becomes of the optimizer's state.

Shape letters: n inputs, m outputs, r rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tilth.core.clock import Clock
from tilth.core.config import Config as Base
from tilth.core.errors import PlanError
from tilth.core.streams import stream

from .. import ops
from ..backbone import cut_normal
from ..parts import parameter

linear = ops.linear
"""x [..., n] and a float32 master [m, n] -> [..., m] in x's dtype."""

MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum", "momentum_buffer"})
"""Names of optimizer state that is a running mean of gradients, so that part of it may be zeroed."""


class WeightsConfig(Base):
    """Base of the parameterisations' configurations: which places are replaced, and refusals that name the place."""

    places: Literal["all", "attention", "ffn"] = "all"
    """Which projections are replaced; the others stay dense."""

    def linear(self, inputs: int, outputs: int, place: str, bias: bool = False) -> nn.Module | None:
        """The layer at `place`, or None to leave it dense. Raises PlanError if the method does not fit its shape."""
        chosen = self.places == "all" or f".{self.places}." in f".{place}"
        return self.make(inputs, outputs, place, bias) if chosen else None

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module | None:
        """The layer at a place that is to be replaced."""
        raise NotImplementedError


class Layer(nn.Module):
    """A linear layer n -> m under another parameterisation; parameters are NaN until `reset` or `load_dense`."""

    seed: Tensor

    def __init__(self, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.place = inputs, outputs, place
        self.bias = parameter(outputs) if bias else None
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    @property
    def foldable(self) -> bool:
        """Whether there is a matrix that multiplies alike (`dense`)."""
        return type(self).dense is not Layer.dense

    def add_bias(self, y: Tensor) -> Tensor:
        """y [..., m] plus the bias, if there is one."""
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dense(self) -> Tensor:
        """The matrix [m, n] the layer multiplies with. Raises PlanError where there is none."""
        raise PlanError(
            "this parameterisation is no matrix, so it has no dense form.",
            where=self.place,
            fix="Export with a parameterisation that folds into a matrix, or keep tilth's own format.",
        )

    def load_dense(self, weight: Tensor) -> None:
        """Start from a dense matrix [m, n]. Raises PlanError where the method cannot."""
        raise PlanError(
            "dense weights cannot be turned into this parameterisation.",
            where=self.place,
            fix="Train it from the beginning (without `init:`), or take lora, relora or sst.",
        )

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """First values, a function of (seed, name) alone; std is that of the dense matrix, None: 1/sqrt(n)."""
        self.seed.fill_(seed)
        if self.bias is not None:
            self.bias.zero_()
        self.start(normal(seed, f"{name}.weight", (self.outputs, self.inputs), std).to(self.seed.device))

    def start(self, weight: Tensor) -> None:
        """Set the parameters from the matrix [m, n] the dense layer would begin with."""
        self.load_dense(weight)

    def random(self, purpose: str, *counters: int) -> np.random.Generator:
        """This layer's own stream for one purpose at one place of the run."""
        return stream(int(self.seed), purpose, word(self.place), *counters)


class Wrapper(Layer):
    """A layer around the one another parameterisation made; its bias is that one's."""

    def __init__(self, inner: Any, inputs: int, outputs: int, place: str) -> None:
        super().__init__(inputs, outputs, place, False)
        del self.bias
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return self.inner.bias if name == "bias" else super().__getattr__(name)

    @property
    def foldable(self) -> bool:
        """See the layer inside."""
        return self.inner.foldable

    def dense(self) -> Tensor:
        """See the layer inside."""
        return self.inner.dense()

    def load_dense(self, weight: Tensor) -> None:
        """See the layer inside."""
        self.inner.load_dense(weight)

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """See the layer inside."""
        self.seed.fill_(seed)
        self.inner.reset(seed, name, std)


# ---- first values ------------------------------------------------------------------------------------------------


def word(text: str) -> int:
    """A 64-bit number for a name."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def normal(seed: int, name: str, shape: tuple[int, ...], std: float | None) -> Tensor:
    """What the decoder would give a matrix of this name: normal, cut at 3 deviations; std None: 1/sqrt(last axis)."""
    return torch.from_numpy(cut_normal(seed, name, shape)) * (shape[-1] ** -0.5 if std is None else std)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Uniform on (-1/sqrt(fan_in), 1/sqrt(fan_in)), which is Kaiming's with a = sqrt(5)."""
    bound = fan_in**-0.5
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))


def svd_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(b [m, r], a [r, n]): b a is the best approximation of rank r, and bᵀb = aaᵀ."""
    u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def rebalance(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (b [m, r], a [r, n]) of the same product with bᵀb = aaᵀ, by thin QR and an r x r SVD in float64."""
    q1, r1 = torch.linalg.qr(b.double())
    q2, r2 = torch.linalg.qr(a.double().mT)
    u, s, vh = torch.linalg.svd(r1 @ r2.mT, full_matrices=False)
    root = s.sqrt()
    return (q1 @ (u * root)).to(b), ((root[:, None] * vh) @ q2.mT).to(a)


# ---- refusals ----------------------------------------------------------------------------------------------------


def rank_for(rank: int | None, inputs: int, outputs: int, place: str, share: int = 4) -> int:
    """The rank, or a `share`-th of the smaller side if none is given. Raises PlanError if the matrix cannot have it."""
    small = min(inputs, outputs)
    if rank is None:
        return max(1, small // share)
    if rank > small:
        raise PlanError(
            f"the rank {rank} is larger than the matrix of {outputs} x {inputs} here can have.",
            where=place,
            fix=f"Set model.weights.rank to at most {small}, or choose other `places`.",
        )
    return rank


def must_divide(blocks: int, place: str, **sizes: int) -> None:
    """Raises PlanError if the blocks do not divide each of the named sizes."""
    for what, size in sizes.items():
        if size % blocks:
            good = [b for b in range(2, size) if size % b == 0]
            raise PlanError(
                f"{blocks} blocks do not divide the {size} {what} here.",
                where=place,
                fix=f"Take one of {', '.join(map(str, good[:8]))}." if good else "Take 1 block.",
            )


# ---- between steps -----------------------------------------------------------------------------------------------


def finished(clock: Clock) -> int:
    """Steps of the stage that are finished when `after` is called; the clock is that of the step just taken."""
    return clock.step + 1


def forget(optimizer: Any, params: Iterable[nn.Parameter]) -> None:
    """Drop all that the optimizer remembers of these parameters, step counts included: it begins anew with each.

    Every optimizer here makes a parameter's state when it first steps it.
    """
    for p in params:
        optimizer.state.pop(p, None)


def moments(optimizer: Any, p: nn.Parameter, where: str) -> list[Tensor]:
    """The running means the optimizer keeps of a parameter, each of its shape, the gradient's own first.

    Raises PlanError if the optimizer keeps state of that shape which is no running mean (weights, say): zeroing part
    of it would be no pruning of momenta.
    """
    out = {}
    for key, value in optimizer.state.get(p, {}).items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        if key not in MOMENTS or value.shape != p.shape:
            raise PlanError(
                f"the optimizer's '{key}' is no running mean of the gradient, so momenta cannot be pruned in part.",
                where=where,
                fix="Take an optimizer with plain momenta (adamw, muon, lion), or reset them whole.",
            )
        out[key] = value
    return [out[key] for key in sorted(out)]  # exp_avg before exp_avg_sq


def largest(tensor: Tensor, ratio: float) -> Tensor:
    """Bool of the tensor's shape: False for the share `ratio` of smallest magnitude (at or below that quantile)."""
    size = tensor.abs().flatten().float()
    at = ratio * (size.numel() - 1)  # linear interpolation between neighbours, as torch.quantile, without its limit
    low = size.kthvalue(math.floor(at) + 1).values
    high = size.kthvalue(math.ceil(at) + 1).values
    return tensor.abs() > low + (high - low) * (at - math.floor(at))


# ---- dense weights in and out --------------------------------------------------------------------------------------


def layers_of(model: nn.Module) -> dict[str, Any]:
    """The outermost reparameterised layers of a model, by module name."""
    found = {n: m for n, m in model.named_modules() if hasattr(m, "load_dense") and hasattr(m, "dense")}
    return {n: m for n, m in found.items() if not any(n.startswith(f"{o}.") for o in found if o != n)}


def foldable(config: Any) -> bool:
    """Whether a decoder of this configuration has only layers with a dense form."""
    with torch.device("meta"):
        model = config.build(1, 1)
    return all(layer.foldable for layer in layers_of(model).values())


def folded(model: Any) -> Any:
    """The same decoder with dense layers, on the CPU. Raises PlanError naming a layer that has no dense form."""
    config = model.config.model_copy(update={"weights": None})
    with torch.device("meta"):
        dense = config.build(model.vocab_size, model.max_sequence)
    dense.load_state_dict(to_dense_state(model), strict=True, assign=True)
    return dense.to_compute(model.compute_dtype)


@torch.no_grad()
def to_dense_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the same model with dense layers (`weights: null`), float32 on the CPU, by that model's names.

    Raises PlanError naming the place of a layer that has no dense form.
    """
    layers = layers_of(model)
    out = {}
    for name, t in model.state_dict().items():
        if not name.startswith("extras.") and not any(name.startswith(f"{place}.") for place in layers):
            out[name] = t
    for place, layer in layers.items():
        out[f"{place}.weight"] = layer.dense()
        if layer.bias is not None:
            out[f"{place}.bias"] = layer.bias
    return {n: t.detach().cpu().contiguous() for n, t in out.items()}


@torch.no_grad()
def load_dense_state(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a model with reparameterised layers, already initialised, the weights of the same model with dense ones.

    Raises PlanError naming a layer that cannot start from dense weights, or a tensor that is missing.
    """
    layers = layers_of(model)
    wanted = {n: t for n, t in model.state_dict().items() if not n.startswith("extras.")}
    wanted = {n: t for n, t in wanted.items() if not any(n.startswith(f"{place}.") for place in layers)}
    copies: dict[str, Callable[[Tensor], object]] = {n: t.copy_ for n, t in wanted.items()}
    for place, layer in layers.items():
        copies[f"{place}.weight"] = layer.load_dense
        if layer.bias is not None:
            copies[f"{place}.bias"] = layer.bias.data.copy_
    odd = sorted(copies.keys() ^ tensors.keys())
    if odd:
        raise PlanError("the dense weights are not of this model.", where=odd[0])
    for name, copy in copies.items():
        copy(tensors[name])
