"""SPDF: pretrain on a sparse matrix with a fixed random mask, then lift the mask and train on dense.

Thangarasa et al., arXiv:2303.10464. A share `sparsity` of each matrix, chosen once at random, is zero throughout: W ⊙ M
is what multiplies, so masked places get no gradient, and after each step they are set to zero again, whatever the
optimizer did there (Muon and others mix coordinates). With `densify: 0.8` the mask is lifted after 80 % of the stage;
the function is the same at that moment, the freed weights start at zero and the optimizer's state begins anew.

Instead of `densify`, a dense run may begin from the result (`init:`): that is the paper's dense fine-tuning. The mask
saves arithmetic only on hardware that skips zeros; here the product is dense, and counted so.

It fails at high sparsity in small models, where capacity is what is missing, and a trained dense matrix is refused:
masking it at random would destroy it.

Deviations: exactly the share is kept in each matrix, not in expectation; only the masked matrices' optimizer state
begins anew at `densify`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.errors import PlanError
from tilth.core.step import Part, Step, StepResult

from .common import Layer, WeightsConfig, finished, forget, linear, parameter

CARD = {
    "title": "SPDF (sparse pre-training, dense fine-tuning)",
    "paper": "Thangarasa et al., SPDF: Sparse Pre-training and Dense Fine-tuning for Large Language Models, "
    "arXiv:2303.10464",
    "claim": "1.3 B parameters pretrained at 75 % sparsity (2.5x fewer FLOPs) and fine-tuned dense: no significant "
    "loss on downstream tasks.",
    "check": "Masked places stay exactly zero, a full mask is the dense layer bit for bit, and lifting the mask leaves "
    "the outputs (tests/arch/weights/test_spdf.py).",
    "excludes": ["optim.weight_average"],
    "paper_number": "2.5x fewer pretraining FLOPs at 75 % (1.3 B)",
    "trial": {
        "technique": [
            "model.weights.use=spdf",
            "model.weights.sparsity=0.5",
            "model.weights.densify=0.5",
            "optim.lr=0.002",
        ],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.002, 0.004]},
        "expect": "no_worse",
        "margin": "2%",
    },
}


class Config(WeightsConfig):
    sparsity: float = Field(0.75, ge=0, lt=1)
    """Share of each matrix that is zero."""
    densify: float | None = Field(None, gt=0, lt=1)
    """Part of the stage after which the mask is lifted; null: never."""
    rescale: bool = False
    """Begin with weights larger by 1/sqrt(1 − sparsity), so that outputs are as large as a dense layer's."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Masked(self, inputs, outputs, place, bias)


class Masked(Part, Layer):
    """W ⊙ M."""

    mask: Tensor

    def __init__(self, config: Config, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.config = config
        self.weight = parameter(outputs, inputs)
        self.register_buffer("mask", torch.ones(outputs, inputs, dtype=torch.bool))
        self.num_multiplied = inputs * outputs

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        return self.add_bias(linear(x, self.weight * self.mask))

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """The matrix [m, n] under a mask drawn anew."""
        zeros = round(self.config.sparsity * weight.numel())
        places = self.random("spdf").permutation(weight.numel())[:zeros]
        self.mask.fill_(True).view(-1)[torch.from_numpy(places).to(self.mask.device)] = False
        gain = (1 - self.config.sparsity) ** -0.5 if self.config.rescale else 1.0
        self.weight.copy_(gain * weight * self.mask)

    @torch.no_grad()
    def after(self, step: Step, result: StepResult) -> None:
        """Put zeros back where the optimizer moved them, and lift the mask when its time has come."""
        self.weight.masked_fill_(~self.mask, 0.0)
        lift = self.config.densify
        if lift is not None and finished(step.clock) >= lift * step.clock.steps and not self.mask.all():
            self.mask.fill_(True)
            forget(step.view.optimizer, [self.weight])

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        return self.weight * self.mask

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Take a matrix [m, n] that is zero wherever the mask is. Raises PlanError for another."""
        if (weight[~self.mask] != 0).any():
            raise PlanError(
                f"a mask would delete {self.config.sparsity:.0%} of these trained weights at random.",
                where=self.place,
                fix="Begin from random weights (without `init:`), or from a sparse run with the same seed.",
            )
        self.weight.copy_(weight)
