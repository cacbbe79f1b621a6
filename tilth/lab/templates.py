"""What `tilth new` writes: small methods that work at once, one per area, with their tests. NAME stands for the name.

Each is a real method, so that the file runs, passes its contracts and can be changed one line at a time.
"""

from __future__ import annotations

OPTIM = '''"""NAME: gradient descent with momentum and decoupled weight decay.

One step: B <- momentum * B + g; p <- (1 - lr * weight_decay) p - lr * B. Matrices, embeddings and the head decay,
vectors do not. 4 bytes of state per weight.

It fails where gradients of different parameters differ in scale: one rate cannot suit them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import by_role

CARD = {
    "title": "NAME",
    "paper": "Polyak, Some methods of speeding up the convergence of iteration methods, 1964",
    "claim": "Half of AdamW's optimizer state; a higher loss is expected of it on language models.",
    "baseline": "adamw",
    "check": "Equals two steps computed by hand (tests/optim/test_NAME.py).",
    "sharded": "elementwise: yes",
    "trial": {
        "technique": ["optim={use: NAME}"],
        "baseline": [],
        "tune": {"optim.lr": [0.1, 0.3, 1.0]},
        "expect": "no_worse",
        "margin": "5%",
    },
}


class Config(Base):
    lr: float = Field(0.3, gt=0)
    """Peak learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the running sum of gradients that each step keeps."""
    weight_decay: float = Field(0.01, ge=0)
    """Each step takes the share lr * weight_decay off every matrix, embedding and head weight."""

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """One running sum per weight."""
        return sum(n.param.numel() * n.param.element_size() for n in params)

    def build(self, params: Sequence[NamedParam]) -> torch.optim.Optimizer:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        role = by_role(params)
        decayed = role["matrix"] + role["embed"] + role["head"]
        groups: list[dict[str, Any]] = [
            {"params": owned, "weight_decay": decay, "momentum": self.momentum, "lr": self.lr, "initial_lr": self.lr}
            for owned, decay in ((decayed, self.weight_decay), (role["vector"], 0.0))
            if owned
        ]
        return Momentum(groups, {})


class Momentum(torch.optim.Optimizer):
    """Steps every parameter that has a gradient; built by `Config.build`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; the gradients are left as they are."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["sum"] = torch.zeros_like(p)
                total = state["sum"].mul_(group["momentum"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(total, alpha=-group["lr"])
'''

OPTIM_TEST = '''"""NAME against two steps computed by hand."""

from __future__ import annotations

import torch
from torch import nn

from tilth.core.protocols import NamedParam
from tilth.core.technique import resolve


def test_equals_two_steps_by_hand() -> None:
    spec = resolve("optim", {"use": "NAME", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.2})
    matrix, vector = nn.Parameter(torch.full((2, 2), 2.0)), nn.Parameter(torch.full((3,), 2.0))
    optimizer = spec.build([NamedParam("matrix", matrix, "matrix"), NamedParam("vector", vector, "vector")])
    for _ in range(2):
        for p in (matrix, vector):
            p.grad = torch.ones_like(p)
        optimizer.step()
    # sums of gradients: 1, then 0.5 * 1 + 1 = 1.5; the matrix is also multiplied by 1 - 0.1 * 0.2 each time
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), (2 * 0.98 - 0.1) * 0.98 - 0.15))
    torch.testing.assert_close(vector.detach(), torch.full((3,), 2 - 0.1 - 0.15))
'''

SCHEDULE = '''"""NAME: linear warmup, then a power of what is left down to a share of the peak.

Step t of T after w steps of warmup: final + (1 - final) * (1 - x) ** power with x = (t - w) / (T - w). A power of 1 is
the linear schedule, a higher one falls early and lingers near the end.

It fails, like every schedule with a fixed end, when the length of the run is not known.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, progress, ramp, warmup_steps

CARD = {
    "title": "NAME",
    "claim": "None of its own: a linear fall bent by one knob; it should do no worse than cosine.",
    "baseline": "cosine",
    "check": "Values computed by hand (tests/schedule/test_NAME.py).",
    "trial": {"technique": ["schedule={use: NAME}"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    power: float = Field(1.5, ge=1)
    """How strongly the fall is bent."""
    final: float = Field(0.1, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the warmup is too long."""
        warmup = warmup_steps(self.warmup, clock)
        if clock.step < warmup:
            return ramp(clock, warmup)
        return self.final + (1 - self.final) * (1 - progress(clock, warmup)) ** self.power
'''

SCHEDULE_TEST = '''"""NAME against values computed by hand."""

from __future__ import annotations

import pytest

from tilth.core.clock import Clock
from tilth.core.technique import resolve


def test_values_by_hand() -> None:
    spec = resolve("schedule", {"use": "NAME", "warmup": 4, "power": 2.0, "final": 0.2})
    values = [spec(Clock(t, 12)) for t in (0, 3, 4, 8, 12)]
    assert values == pytest.approx([0.2, 0.8, 1.0, 0.2 + 0.8 * 0.25, 0.2])
'''

OBJECTIVE = '''"""NAME: next-token cross-entropy against smoothed targets.

The target is 1 - smoothing on the token that came and smoothing / V on every token of the vocabulary V:
loss = (1 - smoothing) * -log p(token) + smoothing * mean over V of -log p.

It fails where calibrated probabilities are wanted: the smoothed optimum is never certain, so bits per byte rise. It
holds the logits [N, V] in memory, which large vocabularies do not allow.
"""

from __future__ import annotations

import torch
from pydantic import Field

from tilth.core.batch import IGNORE
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step

CARD = {
    "title": "NAME",
    "paper": "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567, section 7",
    "claim": "Regularises classifiers (0.2 % top-1 error on ImageNet); for language models none is claimed here.",
    "baseline": "next_token",
    "check": "Equals torch.nn.functional.cross_entropy with label_smoothing (tests/objective/test_NAME.py).",
    "trial": {"technique": ["objective={use: NAME}"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}


class Config(ObjectiveConfig):
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target that is spread over the vocabulary."""

    def __call__(self, step: Step) -> Loss:
        """Sum over the targets of a micro-batch, and their number."""
        model, batch = step.model, step.batch
        chosen = batch.targets != IGNORE
        logits = model.logits(model.hidden(batch.tokens, batch.positions, prefix=batch.prefix)[chosen])
        log_p = torch.log_softmax(logits, dim=-1)  # [N, V]
        token = log_p.gather(-1, batch.targets[chosen][:, None])[:, 0]
        total = -((1 - self.smoothing) * token + self.smoothing * log_p.mean(-1)).sum()
        return Loss(total, chosen.sum(), {})
'''

OBJECTIVE_TEST = '''"""NAME against torch's own label smoothing."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.core.technique import resolve


def test_equals_torchs_label_smoothing() -> None:
    model = resolve("model", {"use": "decoder", "layers": 1, "width": 16, "heads": 2}).build(32, 8)
    model.init_weights(0)
    tokens = torch.randint(32, (3, 8), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[:, -1] = IGNORE
    batch = Batch(tokens, targets, torch.arange(8, dtype=torch.int32).repeat(3, 1))
    loss = resolve("objective", {"use": "NAME", "smoothing": 0.2})(Step(model, batch, Clock(0, 1)))
    logits = model(tokens, batch.positions).flatten(0, 1)
    theirs = F.cross_entropy(logits, targets.flatten(), label_smoothing=0.2, reduction="sum", ignore_index=IGNORE)
    torch.testing.assert_close(loss.total, theirs)
    assert int(loss.count) == 21
'''

WEIGHTS = '''"""NAME: every linear layer as a product of thin matrices, W = U V with V [r, inputs] and U [outputs, r].

Both factors are trained from the start; r (inputs + outputs) weights stand for inputs * outputs.

It fails where the layer needs full rank: the loss of a model trained this way stays above the dense one's.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.config import Config as Base
from tilth.core.errors import PlanError

from .. import ops
from ..backbone import cut_normal
from ..parts import parameter

CARD = {
    "title": "NAME",
    "paper": "Kamalakara et al., Exploring Low Rank Training of Deep Neural Networks, arXiv:2209.13569",
    "claim": "Fewer weights and products; the loss is expected to be somewhat higher.",
    "baseline": "dense",
    "check": "The product of the factors is the dense layer (tests/arch/weights/test_NAME.py).",
    "trial": {"technique": ["model.weights={use: NAME}"], "baseline": [], "expect": "no_worse", "margin": "5%"},
}
SMALL = {"rank": 4}


class Config(Base):
    rank: int = Field(32, ge=1)
    """Width r between the two factors."""

    def linear(self, inputs: int, outputs: int, place: str, bias: bool = False) -> nn.Module | None:
        """The layer at `place`. Raises PlanError if the rank is larger than the matrix allows."""
        if self.rank > min(inputs, outputs):
            raise PlanError(
                f"a rank of {self.rank} is more than the {outputs} x {inputs} matrix has.",
                where=f"model.weights.rank at {place}",
                fix=f"Take at most {min(inputs, outputs)}.",
            )
        return Product(inputs, outputs, self.rank, bias)


class Product(nn.Module):
    """up [outputs, r] times down [r, inputs], and a bias [outputs] or None."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.rank = inputs, outputs, rank
        self.down, self.up = parameter(rank, inputs), parameter(outputs, rank)
        self.bias = parameter(outputs) if bias else None

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.down.numel() + self.up.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        return ops.linear(ops.linear(x, self.down, None), self.up, self.bias)

    def dense(self) -> Tensor:
        """The matrix [outputs, inputs] it multiplies with."""
        return self.up @ self.down

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The nearest product of this rank."""
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        root = s[: self.rank].sqrt()
        self.up.copy_(u[:, : self.rank] * root)
        self.down.copy_(root[:, None] * v[: self.rank])

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """First values, so that the product's entries have the standard deviation a dense layer's would have."""
        each = ((self.inputs**-0.5 if std is None else std) / self.rank**0.5) ** 0.5
        for part, tensor in (("down", self.down), ("up", self.up)):
            values: Any = cut_normal(seed, f"{name}.{part}", tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(values) * each)
        if self.bias is not None:
            self.bias.zero_()
'''

WEIGHTS_TEST = '''"""NAME against the dense layer it stands for."""

from __future__ import annotations

import pytest
import torch

from tilth.core.errors import PlanError
from tilth.core.technique import resolve


def test_multiplies_with_its_dense_matrix_and_comes_back_from_it() -> None:
    layer = resolve("weights", {"use": "NAME", "rank": 3}).linear(8, 6, "blocks.0.ffn.up")
    layer.reset(0, "blocks.0.ffn.up", 0.02)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    dense = layer.dense().detach()
    assert torch.linalg.matrix_rank(dense) == 3
    torch.testing.assert_close(layer(x), x @ dense.T)
    other = resolve("weights", {"use": "NAME", "rank": 3}).linear(8, 6, "blocks.0.ffn.up")
    other.load_dense(dense)
    torch.testing.assert_close(other.dense(), dense, atol=1e-6, rtol=1e-4)


def test_a_rank_larger_than_the_matrix_is_refused() -> None:
    with pytest.raises(PlanError, match="at most 6"):
        resolve("weights", {"use": "NAME", "rank": 7}).linear(8, 6, "blocks.0.ffn.up")
'''

FEEDFORWARD = '''"""NAME: a feed-forward network gated by a leaky rectifier, down(leaky(gate(x)) * up(x)).

Like SwiGLU with max(z, leak * z) in place of z * sigmoid(z): cheaper, and most gates are nearly closed.

It fails with a leak of 0 and high rates: gates that are closed for every token get no gradient any more.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tilth.core.config import Config as Base

from ..parts import projection

CARD = {
    "title": "NAME",
    "paper": "Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202 (ReGLU is its case of no leak)",
    "claim": "ReGLU's log-perplexity 1.953 on C4 beside SwiGLU's 1.944 (table 1): no worse within 1 %.",
    "baseline": "swiglu",
    "check": "Equals the formula on plain matrices (tests/arch/feedforward/test_NAME.py).",
    "paper_number": "1.953 against 1.944",
    "trial": {"technique": ["model.feedforward={use: NAME}"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}


class Config(Base):
    leak: float = Field(0.01, ge=0, lt=1)
    """Slope of the gate below zero."""

    def build(self, config: Any, layer: int) -> nn.Module:
        """The network of one layer."""
        return LeakyGate(config, layer, self.leak)


class LeakyGate(nn.Module):
    """Three projections of the decoder's widths D and F."""

    def __init__(self, config: Any, layer: int, leak: float) -> None:
        super().__init__()
        D, F_, bias, here = config.width, config.ffn_width_, config.ffn_bias, f"blocks.{layer}.ffn"
        self.leak = leak
        self.gate = projection(config, D, F_, f"{here}.gate", bias)
        self.up = projection(config, D, F_, f"{here}.up", bias)
        self.down = projection(config, F_, D, f"{here}.down", bias)
        self.activation_elements = 3 * F_

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        return self.down(F.leaky_relu(self.gate(x), self.leak) * self.up(x))
'''

FEEDFORWARD_TEST = '''"""NAME against its formula on plain matrices."""

from __future__ import annotations

import torch

from tilth.core.technique import resolve


def test_equals_the_formula() -> None:
    spec = {"use": "decoder", "layers": 1, "width": 16, "heads": 2, "feedforward": {"use": "NAME", "leak": 0.2}}
    model = resolve("model", spec).build(32, 8)
    model.init_weights(0)
    ffn = model.blocks[0].ffn
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    gate = x @ ffn.gate.weight.T
    expected = (torch.where(gate > 0, gate, 0.2 * gate) * (x @ ffn.up.weight.T)) @ ffn.down.weight.T
    torch.testing.assert_close(ffn(x), expected)
'''

ATTENTION = '''"""NAME: the decoder's attention with sharper scores: softmax(sharpness * q.k / sqrt(E)).

It fails when sharpened far: gradients reach only the one key with the largest score.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tilth.core.config import Config as Base

from ..parts import Attention

CARD = {
    "title": "NAME",
    "claim": "None of its own: the scale of the scores can be learned by q and k, so it should do no worse.",
    "baseline": "the decoder's own attention",
    "check": "Equals the decoder with the same attention_scale (tests/arch/attention/test_NAME.py).",
    "trial": {"technique": ["model.attention={use: NAME}"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}


class Config(Base):
    sharpness: float = Field(1.3, gt=0)
    """What the usual scale of the scores is multiplied with."""

    def build(self, config: Any, layer: int) -> Sharp:
        """The attention of one layer."""
        return Sharp(config, layer, self.sharpness)


class Sharp(Attention):
    """Queries, keys, values, cache and counts are the decoder's; see `Attention.forward` to change more."""

    def __init__(self, config: Any, layer: int, sharpness: float) -> None:
        super().__init__(config, layer)
        self.scale *= sharpness
'''

ATTENTION_TEST = '''"""NAME against the decoder's own attention with the same scale."""

from __future__ import annotations

import torch

from tilth.core.technique import resolve


def test_equals_the_decoder_with_the_same_scale() -> None:
    shape = {"use": "decoder", "layers": 2, "width": 16, "heads": 2}
    ours = resolve("model", {**shape, "attention": {"use": "NAME", "sharpness": 2.0}}).build(32, 8)
    theirs = resolve("model", {**shape, "attention_scale": 2.0 * 8**-0.5}).build(32, 8)
    for model in (ours, theirs):
        model.init_weights(0)
    tokens = torch.randint(32, (3, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens))
'''

PRECISION = '''"""NAME: products of numbers rounded to a few bits of significand, emulated in float32.

Both factors of every linear layer's product are rounded to the nearest number of `bits` bits of significand (float32
has 24, bfloat16 8), the exponent is kept; sums stay in float32. Gradients pass the rounding unchanged.

It fails with very few bits: updates point where the rounded weights, not the kept ones, would fall.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tilth.arch import ops
from tilth.arch.parts import Linear
from tilth.core.protocols import Model

from .arithmetic import Plain

CARD = {
    "title": "NAME",
    "claim": "A few bits of significand in the factors of products are enough: no worse than float32 within 1 %.",
    "baseline": "fp32",
    "check": "With 8 bits equal to a cast to bfloat16 (tests/precision/test_NAME.py).",
    "trial": {
        "technique": ["precision={use: NAME}"],
        "baseline": ["precision={use: fp32}"],
        "expect": "no_worse",
        "margin": "1%",
    },
}


class Config(Plain):
    bits: int = Field(5, ge=1, le=23)
    """Bits of significand, the leading one included."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """float32"""
        return torch.float32

    def attach(self, model: Model) -> None:
        """Every linear layer multiplies rounded numbers."""

        def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return ops.linear(kept(x, self.bits), kept(weight, self.bits), bias)

        for module in model.modules():
            if isinstance(module, Linear):
                module.multiply = multiply


def rounded(x: Tensor, bits: int) -> Tensor:
    """Nearest numbers of `bits` bits of significand, ties to even."""
    significand, exponent = torch.frexp(x)
    return torch.ldexp((significand * 2.0**bits).round() * 2.0**-bits, exponent)


def kept(x: Tensor, bits: int) -> Tensor:
    """`rounded`, with the gradient of the identity."""
    return x + (rounded(x, bits) - x).detach()
'''

PRECISION_TEST = '''"""NAME against casts to bfloat16, which keep 8 bits of significand."""

from __future__ import annotations

import importlib

import torch

from tilth.core.technique import resolve

rounded = importlib.import_module(type(resolve("precision", "NAME")).__module__).rounded


def test_eight_bits_are_bfloat16() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(rounded(x, 8), x.bfloat16().float(), rtol=0, atol=0)


def test_every_linear_layer_multiplies_rounded_numbers() -> None:
    model = resolve("model", {"use": "decoder", "layers": 1, "width": 16, "heads": 2}).build(32, 8)
    model.init_weights(0)
    resolve("precision", {"use": "NAME", "bits": 2}).attach(model)
    layer, x = model.blocks[0].attention.q, torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), rounded(x, 2) @ rounded(layer.weight, 2).T)
'''

TEMPLATES: dict[str, tuple[str, str]] = {
    "optim": (OPTIM, OPTIM_TEST),
    "schedule": (SCHEDULE, SCHEDULE_TEST),
    "objective": (OBJECTIVE, OBJECTIVE_TEST),
    "weights": (WEIGHTS, WEIGHTS_TEST),
    "feedforward": (FEEDFORWARD, FEEDFORWARD_TEST),
    "attention": (ATTENTION, ATTENTION_TEST),
    "precision": (PRECISION, PRECISION_TEST),
}
"""Area -> the technique's file and its test."""
