"""Optimizer states kept in 8 bits between steps: what the compressing arithmetics share.

Before each step of the optimizer inside, its moments are decoded to float32; after it they are encoded again, and the
checkpoint holds the codes. So memory is saved while activations are at their peak and on disk; within the update itself
the moments stand in float32. What is kept under which name: `exp_avg` becomes `exp_avg_codes` and further tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilth.core.errors import PlanError
from tilth.optim.wrapping import Wrapper

MOMENTS = {
    "exp_avg": True,
    "exp_avg_sq": False,
    "max_exp_avg_sq": False,
    "second": False,
    "mean_sq": False,
    "exp_inf": False,
    "momentum": True,
    "momentum_buffer": True,
    "hessian": True,
}
"""State that is a running mean of gradients or of their squares -> whether it has a sign. Nothing else is touched:
averaged weights or bases lose what 8 bits lose of them."""


class Codec:
    """How a moment is stored."""

    def takes(self, p: Tensor, moment: Tensor) -> bool:
        """Whether to compress this moment of this parameter."""
        raise NotImplementedError

    def encode(self, x: Tensor, signed: bool) -> dict[str, Tensor]:
        """Tensors by name, `codes` among them, shaped like x."""
        raise NotImplementedError

    def decode(self, parts: dict[str, Tensor], signed: bool) -> Tensor:
        """float32, of the shape of `codes`."""
        raise NotImplementedError


class Compressed(Wrapper):
    """An optimizer whose moments are codes between its steps."""

    codec: Codec

    def __init__(self, base: torch.optim.Optimizer, codec: Codec, what: str) -> None:
        super().__init__(base, [])
        self.codec, self.what = codec, what

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Decode, the step of the base, encode. Raises PlanError if the base keeps nothing that can be compressed."""
        self._decode()
        out = self.base.step(closure)
        self._encode()
        return out

    @torch.no_grad()
    def _decode(self) -> None:
        for state in self.state.values():
            for name, signed in MOMENTS.items():
                if f"{name}_codes" in state:
                    keys = [k for k in state if k.startswith(f"{name}_") and k[len(name) + 1 :] in PARTS]
                    parts = {k[len(name) + 1 :]: state.pop(k) for k in keys}
                    state[name] = self.codec.decode(parts, signed)

    @torch.no_grad()
    def _encode(self) -> None:
        known = False
        for p, state in self.state.items():
            for name, signed in MOMENTS.items():
                moment = state.get(name)
                if not isinstance(moment, Tensor) or not moment.is_floating_point() or moment.ndim == 0:
                    continue
                known = True
                if self.codec.takes(p, moment):
                    del state[name]
                    for part, tensor in self.codec.encode(moment.float(), signed).items():
                        state[f"{name}_{part}"] = tensor
        if not known and self.state:
            raise PlanError(
                f"{self.what} compresses moments of gradients, and {type(self.base).__name__} keeps none it knows.",
                where="precision",
                fix=f"Take an optimizer with moments, such as adamw; {', '.join(MOMENTS)} are known.",
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the base does, but codes keep their type: torch would make the parameter's of them."""
        self.base.load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for number, saved in state_dict["state"].items():
            state = self.state[params[number]]
            for key, value in saved.items():
                if isinstance(value, Tensor) and any(key == f"{m}_{part}" for m in MOMENTS for part in PARTS):
                    state[key] = value.detach().clone().to(params[number].device)


PARTS = ("codes", "blockmax", "power", "centre", "decoding")
"""Names a codec may give what it stores."""
