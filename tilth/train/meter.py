"""What a step cost: tokens/s, model FLOP/s, the share of the machine's measured matrix-multiply rate, memory, ETA."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from tilth.core.clock import Clock
from tilth.core.device import peak_memory, synchronize
from tilth.core.step import StepResult


def matmul_rate(device: torch.device, dtype: torch.dtype, rows: int, width: int, ffn: int) -> float:
    """FLOP/s of `[rows, width] @ [width, ffn]` and its transpose on this device now: the median of a short probe."""
    up = (torch.randn(rows, width, device=device).to(dtype), torch.randn(width, ffn, device=device).to(dtype))
    down = (torch.randn(rows, ffn, device=device).to(dtype), torch.randn(ffn, width, device=device).to(dtype))
    rates = []
    for i in range(8):
        begin = _now(device)
        torch.mm(*up)
        torch.mm(*down)
        seconds = _now(device) - begin
        if i >= 2:
            rates.append(2 * 2 * rows * width * ffn / seconds)
    return statistics.median(rates)


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


class Meter:
    """Turns steps into the rows of metrics.jsonl. Rates are over the last 20 steps of this process."""

    WINDOW = 20

    def __init__(
        self,
        stage: str,
        clock: Clock,
        flops_per_token: float,
        rate: float,
        device: torch.device,
        world: int,
        steps_before: int,
    ) -> None:
        self._stage, self._flops, self._rate = stage, flops_per_token, rate
        self._device, self._world, self._before = device, world, steps_before
        self._recent: list[tuple[float, int]] = []
        self._tokens = clock.tokens

    def row(self, clock: Clock, result: StepResult, seconds: float, data_wait: float) -> dict[str, Any]:
        """The metrics row of one step."""
        tokens, self._tokens = clock.tokens - self._tokens, clock.tokens
        if len(self._recent) == 1 and self._recent[0][0] > 3 * seconds:
            self._recent.clear()  # the first step warms up (kernels, allocator, compiler)
        self._recent = [*self._recent, (seconds, tokens)][-self.WINDOW :]
        speed = sum(t for _, t in self._recent) / sum(s for s, _ in self._recent)
        flops = speed * self._flops
        return {
            "stage": self._stage,
            "step": clock.step,
            "steps": clock.steps,
            "global_step": self._before + clock.step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "tokens": clock.tokens,
            "tokens_per_second": speed,
            "flops_per_second": flops,
            "utilization": flops / (self._rate * self._world),
            "peak_memory_bytes": peak_memory(self._device),
            "data_wait_seconds": data_wait,
            "step_seconds": seconds,
            "eta_seconds": (clock.steps - clock.step) * tokens / speed,
            "time": time.time(),
            **{f"log/{k}": v for k, v in result.logs.items()},
        }
