"""Many small models at once: decoders of one shape trained as one batched model.

A proxy of a million parameters cannot keep a machine busy: most of its step goes to launching kernels. A swarm stacks
the weights of S such models along a new first axis and runs one batched product where S loops would run S small ones;
norms, rotary attention and the embedding fold the models into the batch axis, and the optimizer steps each stacked
tensor once. Every model has its own weights, its own data and its own gradient norm; the first is what training it
alone would give, within rounding (tests/train/test_swarm.py).

It fails for optimizers that look across a whole matrix (Muon, SOAP, GaLore, Adam-mini …): on a stack they would mix the
models. It takes the plain Llama arrangement of the decoder only.

Shape letters: S models, B sequences, T time, N = B*T tokens, D width, H heads, G key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tilth.arch import ops, rotary
from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.technique import dump, use_name

PLAIN = ("weights", "attention", "feedforward", "embedding", "window", "logit_softcap")
"""Fields of the decoder that must stand at their defaults."""
ELEMENTWISE = ("adamw", "lion")
"""Optimizers that treat each number of a tensor by itself."""


class Swarm(nn.Module):
    """S decoders of one configuration with their weights stacked, [S, ...] each; names are a single decoder's.

    Raises PlanError for a configuration that is not the plain arrangement.
    """

    def __init__(self, config: Any, vocab_size: int, max_sequence: int, seeds: Sequence[int]) -> None:
        super().__init__()
        _must_be_plain(config)
        self.config, self.vocab_size, self.max_sequence, self.size = config, vocab_size, max_sequence, len(seeds)
        self.compute_dtype = torch.float32
        model = config.build(vocab_size, max_sequence)
        names = [n for n, _ in model.named_parameters()]
        self._roles = model.roles()
        self.stacked = nn.ParameterDict(
            {_key(n): torch.empty(len(seeds), *model.get_parameter(n).shape) for n in names}
        )
        for i, seed in enumerate(seeds):
            model.init_weights(seed)
            for n in names:
                self.stacked[_key(n)].data[i] = model.get_parameter(n).data
        cos, sin = rotary.tables(config.rope_theta, config.head_width_, max_sequence, config.rope_scaling)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def named(self) -> list[NamedParam]:
        """The stacked parameters with their roles, for an optimizer."""
        return [NamedParam(n, self.stacked[_key(n)], role) for n, role in self._roles.items()]

    def member(self, index: int) -> Any:
        """Model `index` as a decoder of its own, with a copy of its weights."""
        model = self.config.build(self.vocab_size, self.max_sequence)
        model.load_state_dict({n: self.stacked[_key(n)].detach()[index].clone() for n in self._roles})
        return model.to_compute(self.compute_dtype)

    def losses(self, tokens: Tensor, targets: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Summed next-token losses float32 [S], with gradient, and their counts int64 [S]; inputs int [S, B, T]."""
        S, B, T = tokens.shape
        c, dtype = self.config, self.compute_dtype
        where = positions.reshape(S * B, T)
        first = torch.arange(S, device=tokens.device)[:, None, None] * self.vocab_size  # row of each model's table
        table = self.stacked[_key("embedding.weight")].flatten(0, 1)
        x = ops.embedding((tokens + first).reshape(S, B * T), table, dtype)  # [S, N, D]
        if self._scale != 1:
            x = x * self._scale
        for i in range(c.layers):
            at = f"blocks.{i}."
            y = self._norm(f"{at}attention_norm", x)
            qkv = self._linear(y, *(f"{at}attention.{p}" for p in "qkv"))
            mixed = ops.qkv_attention(
                qkv.reshape(S * B, T, -1),
                c.heads,
                c.num_kv_heads,
                self.cos,
                self.sin,
                where,
                softcap=c.attention_softcap,
                scale=c.attention_scale,
            )
            x = x + self._linear(mixed.reshape(S, B * T, -1), f"{at}attention.out")
            y = self._norm(f"{at}ffn_norm", x)
            inner = ops.swiglu(self._linear(y, f"{at}ffn.gate"), self._linear(y, f"{at}ffn.up"))
            x = x + self._linear(inner, f"{at}ffn.down")
        hidden = self._norm("norm", x)
        head = self.stacked[_key("embedding.weight" if c.tied else "output.weight")]
        goals = targets.reshape(S, B * T)
        sums = [ops.linear_cross_entropy(hidden[s], head[s], goals[s])[0] for s in range(S)]
        return torch.stack(sums), (goals != IGNORE).sum(1)

    @property
    def _scale(self) -> float:
        scale = self.config.embedding_scale
        return float(self.config.width**0.5 if scale == "sqrt_width" else scale)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """RMSNorm with each model's own gain, [S, N, D]."""
        gain: Tensor = self.stacked[_key(f"{name}.weight")]
        return ops.rms_norm(x, None, self.config.norm_eps) * gain[:, None].to(x.dtype)

    def _linear(self, x: Tensor, *names: str) -> Tensor:
        """x [S, N, I] times the layers' [S, O, I] -> [S, N, sum of O]."""
        weights = [self.stacked[_key(f"{n}.weight")].to(x.dtype) for n in names]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
        return torch.bmm(x, weight.transpose(1, 2))


def train_swarm(
    swarm: Swarm,
    fetch: Callable[[int, int], Batch],
    optim: Any,
    schedule: Any,
    steps: int,
    *,
    clip: float | None = 1.0,
    watch: Callable[[int, list[float]], None] = lambda step, losses: None,
) -> list[list[float]]:
    """Train every model for `steps` steps; the losses (mean over targets) of each step and model, [steps][S].

    fetch(model, step) gives the batch of one model, all of one shape; `clip` limits each model's own gradient norm;
    `watch` hears of each step. Raises PlanError for an optimizer that would mix the models.
    """
    if use_name(optim) not in ELEMENTWISE:
        raise PlanError(
            f"{use_name(optim)} looks at whole tensors, and a stack holds {swarm.size} models.",
            where="optim",
            fix=f"Take {' or '.join(ELEMENTWISE)}, or train the models one by one.",
        )
    optimizer = optim.build(swarm.named())
    params = [p.param for p in swarm.named()]
    said = []
    for step in range(steps):
        batches = [fetch(i, step) for i in range(swarm.size)]
        stacked = (torch.stack([getattr(b, f) for b in batches]) for f in ("tokens", "targets", "positions"))
        sums, counts = swarm.losses(*stacked)
        means = sums / counts
        means.sum().backward()
        if clip is not None:
            _clip(params, clip)
        multiplier = schedule(Clock(step, steps, step * batches[0].tokens.numel(), 0))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        said.append(means.detach().tolist())
        watch(step, said[-1])
    return said


def _clip(params: Iterable[nn.Parameter], limit: float) -> None:
    """Shrink each model's gradient to a norm of at most `limit`."""
    grads = [p.grad for p in params if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)  # [S]
    shrink = (limit / (norms + 1e-6)).clamp(max=1.0)
    if bool((shrink < 1).any()):
        for g in grads:
            g.mul_(shrink.view(-1, *(1,) * (g.ndim - 1)))


def _must_be_plain(config: Any) -> None:
    usual, given = dump(type(config)(layers=1, width=2, heads=1)), dump(config)
    arranged: dict[str, Any] = {
        "ffn": "swiglu",
        "norm": "rms",
        "norm_gain": "w",
        "norm_placement": "pre",
        "position": "rope",
    }
    arranged |= {"qk_norm": "none", "attention_bias": "none", "ffn_bias": False}
    for field, value in {**arranged, **{f: usual[f] for f in PLAIN}}.items():
        if given[field] != value:
            raise PlanError(
                f"a swarm takes the plain decoder, and {field} is {given[field]}.",
                where=f"model.{field}",
                fix=f"Set it to {value}, or train the models one by one.",
            )


def _key(name: str) -> str:
    """A parameter's name as a ParameterDict may hold it."""
    return name.replace(".", "/")
