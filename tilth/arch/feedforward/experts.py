"""What mixtures of experts share: routing, dropless experts, and how auxiliary losses reach the router.

For a token x: z = W_r x (float32), s = softmax(z) or sigmoid(z); the k experts with the largest s (plus a bias, in
`moe_bias`) are chosen, ties going to the expert with the lower number; y = Σ w_i E_i(x) + shared(x), w = s of the
chosen ones, divided by their sum if `normalize`, times `route_scale`. No expert has a capacity; no token is dropped.

Experts are networks of two-dimensional matrices, so that every optimizer, parameterisation and precision that knows
matrices works on them. Auxiliary losses enter by an autograd identity: the output passes through unchanged, and in the
backward pass the loss's gradient is added to the router's. Losses are sums over tokens, as the objective's are over
targets, so that the learner's one division serves both; where only a share of the tokens are targets, they weigh
that much more. Counts grow in the backward pass: evaluation counts nothing, and recomputation nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from tilth.arch.parts import FeedForward, multiplied, parameter, plain
from tilth.core.config import Config as Base
from tilth.core.errors import PlanError, RecipeError
from tilth.core.step import Part, Step, StepResult


class Routing(Base):
    """The knobs every mixture has."""

    experts: int = Field(8, ge=2)
    """Routed experts E of each layer."""
    active: int = Field(2, ge=1)
    """Experts k that a token meets, besides the shared one."""
    expert_width: int | None = Field(None, ge=1)
    """Hidden size of an expert; null: ffn_width / (active + shared), rounded up to 8: the dense arithmetic."""
    shared: int = Field(0, ge=0)
    """Size of the network that every token meets, in experts."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores of the router's logits, over all experts."""
    normalize: bool = True
    """Weights of the chosen experts add up to one."""
    route_scale: float = Field(1.0, gt=0)
    """Multiplier of the weights."""
    dense_layers: int = Field(0, ge=0)
    """The first layers stay dense."""
    z_loss: float = Field(0.0, ge=0)
    """λ of λ·(log Σ exp z)², a mean over tokens, for each layer."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.active > self.experts:
            raise RecipeError(
                f"a token cannot meet {self.active} of {self.experts} experts.",
                where="active",
                fix=f"At most {self.experts}.",
            )
        if self.active == 1 and self.normalize:
            raise RecipeError(
                "one weight divided by itself is 1 whatever the router says, so the router would learn nothing.",
                where="normalize",
                fix="Set normalize to false, or active to 2.",
            )
        return self

    def width(self, config: Any) -> int:
        """Hidden size of an expert in a decoder of this configuration."""
        share = config.ffn_width_ / (self.active + self.shared)
        return 8 * math.ceil(share / 8) if self.expert_width is None else self.expert_width

    def layer(self, config: Any, layer: int, kind: type[Mixture]) -> nn.Module:
        """The network of one layer: a mixture of this kind, or the dense one."""
        if self.dense_layers >= config.layers:
            raise PlanError(
                f"{self.dense_layers} dense layers leave none of {config.layers} for experts.",
                where="model.feedforward.dense_layers",
                fix=f"At most {config.layers - 1}.",
            )
        if layer < self.dense_layers:
            return FeedForward(config, f"blocks.{layer}.ffn")
        return kind(self, config, layer)


class Router(nn.Module):
    """weight float32 [E, D]; no precision narrows it."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.weight = parameter(experts, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> logits float32 [N, E]"""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.linear(wide, self.weight.to(wide.dtype))


class Mixture(Part, nn.Module):
    """A router and its experts. Kinds of balancing override `choose_by` and `pressure`."""

    counts: Tensor
    """float32 [E]: assignments since the step began."""
    load: Tensor
    """float32 [E]: assignments of the last finished step."""

    def __init__(self, spec: Any, config: Any, layer: int) -> None:
        super().__init__()
        self.spec, E, width = spec, spec.experts, spec.width(config)
        here = f"blocks.{layer}.ffn"
        self.router = Router(E, config.width)
        self.experts = nn.ModuleList(FeedForward(config, f"{here}.experts.{i}", width) for i in range(E))
        self.shared = FeedForward(config, f"{here}.shared", width * spec.shared) if spec.shared else None
        for name in ("counts", "load"):
            self.register_buffer(name, torch.zeros(E, device="cpu"), persistent=False)

    def choose_by(self, scores: Tensor) -> Tensor:
        """What the choice goes by, [N, E]."""
        return scores

    def pressure(self, counts: Tensor) -> Tensor | None:
        """Gradient [E] of a balancing loss, summed over tokens, by the sum of each expert's share of the scores."""
        return None

    @torch.compiler.disable  # the sizes of the groups are known on the way only
    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        flat, k = x.reshape(-1, x.shape[-1]), self.spec.active
        logits = self.router(flat)
        scores = logits.softmax(-1) if self.spec.score == "softmax" else logits.sigmoid()
        chosen = self.choose_by(scores.detach()).sort(dim=-1, descending=True, stable=True).indices[:, :k]
        weights = scores.gather(1, chosen)
        if self.spec.normalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
        counts = torch.bincount(chosen.flatten(), minlength=self.spec.experts)
        y = self._mixed(flat, chosen, weights * self.spec.route_scale, counts)
        if self.shared is not None:
            y = y + self.shared(flat)
        if torch.is_grad_enabled() and y.requires_grad:
            y = self._pressed(y, logits, scores, counts.float())
        return y.view_as(x)

    def _mixed(self, flat: Tensor, chosen: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """Tokens sorted by expert, through the experts, back in order, and added up with their weights."""
        order = chosen.flatten().sort(stable=True).indices  # [N*k]
        tokens = flat[order // chosen.shape[1]]
        if flat.is_cuda and flat.dtype == torch.bfloat16 and self._may_group():
            made = self._grouped(tokens, counts)
        else:
            # an expert without tokens runs too: its gradient is then zero on every rank, not missing on some
            parts = tokens.split(counts.tolist())
            made = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        each = made[back].view(*chosen.shape, -1)
        return (each * weights.to(each.dtype)[..., None]).sum(1)

    def _may_group(self) -> bool:
        """Whether three products over all experts can stand for three of each."""
        experts: Any = self.experts
        return all(plain(e.gate, e.up, e.down) and e.up.bias is None for e in experts)

    def _grouped(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """All experts in one product per matrix; tokens [N*k, D] are sorted by expert."""
        ends = counts.cumsum(0).to(torch.int32)

        def product(x: Tensor, name: str) -> Tensor:
            stack = torch.stack([getattr(e, name).weight.to(x.dtype) for e in self.experts])
            return F.grouped_mm(x, stack.mT, offs=ends)

        first: Any = self.experts[0]
        gate = None if first.gate is None else product(tokens, "gate")
        return product(first.activate(gate, product(tokens, "up")), "down")

    def _pressed(self, y: Tensor, logits: Tensor, scores: Tensor, counts: Tensor) -> Tensor:
        """y itself, with the auxiliary losses' gradients and this micro-batch's counts to come in the backward pass."""
        if self.spec.z_loss:
            total = logits.logsumexp(-1).square().sum()
            y = _Pass.apply(y, total, torch.full_like(total, self.spec.z_loss), None)
        shares = scores if self.spec.score == "softmax" else scores / scores.sum(-1, keepdim=True)
        totals = shares.sum(0)
        gradient = self.pressure(counts)
        gradient = torch.zeros_like(totals) if gradient is None else gradient.to(totals.dtype)
        return _Pass.apply(y, totals, gradient, lambda: self.counts.add_(counts))

    def before(self, step: Step) -> Step:
        """A new step: nothing counted."""
        self.counts.zero_()
        return step

    def after(self, step: Step, result: StepResult) -> None:
        """After an applied step: remember its load."""
        self.load.copy_(self.counts)

    def statistics(self) -> dict[str, float]:
        """Largest over mean load of the last step: 1 is even, E/k the worst."""
        return {"load_max_over_mean": float(self.load.max() / self.load.mean().clamp(min=1e-9))}

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        met = multiplied(self.experts[0]) * self.spec.active + self.router.weight.numel()
        return met + (0 if self.shared is None else multiplied(self.shared))

    @property
    def activation_elements(self) -> int:
        """Elements kept per token for the backward pass."""
        experts: Any = self.experts
        inner = sum(e.activation_elements for e in experts) // len(experts)
        shared = 0 if self.shared is None else self.shared.activation_elements
        return self.spec.active * (inner + 2 * self.router.weight.shape[1]) + 3 * self.spec.experts + shared


class _Pass(torch.autograd.Function):
    """y unchanged; backward hands `gradient` to `towards` and calls `after`. Neither is a saved tensor: recomputing the
    forward pass changes nothing of them."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, towards: Tensor, gradient: Tensor, after: Callable[[], Any] | None) -> Tensor:
        ctx.gradient, ctx.after = gradient, after
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if ctx.after is not None:
            ctx.after()
        return grad, ctx.gradient, None, None


def over_ranks(counts: Tensor) -> Tensor:
    """Counts summed over all processes that train together."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts
