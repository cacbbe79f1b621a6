"""FP8 products: E4M3 and E5M2 numbers with scales per matrix, per row, or per block.

tensorwise     one scale per matrix, largest magnitude to the format's largest number; gradients in E5M2, all else in
               E4M3. One outlier flushes small rows to zero.
rowwise        one scale per row along the contracted axis, rounded down to a power of two; E4M3 throughout, gradients
               included. Backward sees another rounding of the weights than forward did.
rowwise_gw_hp  rowwise, but the weight's scale is that of the matrix in the input gradient, and the weight gradient is
               in high precision: each matrix is quantised along one axis only.
blockwise      1 x 128 along the contracted axis for activations and gradients, 128 x 128 for weights; E4M3 throughout
               (DeepSeek-V3). Blocks at the border are shorter.

Scales are those of the numbers at hand (dynamic). On a GPU with FP8 units and bfloat16 activations the first three run
on them (`torch._scaled_mm`); blockwise, and all on other machines, multiply the same numbers in float32.

It fails with tensorwise scales and outliers, and where a padded or expert's row is nearly zero beside large ones.
Deviations: no delayed scaling (TransformerEngine's history of maxima), no FP8 gathering of sharded weights.
"""

from __future__ import annotations

from typing import Literal

from tilth.core.protocols import Model

from .coarse import Coarse
from .formats import E4M3, E5M2, Format, Scaled
from .products import Gemm, Gemms, install

CARD = {
    "title": "FP8 training (tensorwise, rowwise, blockwise scales)",
    "paper": "Micikevicius et al., FP8 Formats for Deep Learning, arXiv:2209.05433; DeepSeek-V3, arXiv:2412.19437",
    "claim": "trains to the loss of bfloat16; blockwise within 0.25 % of it",
    "baseline": "bf16",
    "check": "Products against torch's float8 casts and scales by hand; rows scaled by powers of two change nothing "
    "else; transposed weight blocks (tests/precision/test_fp8.py).",
    "paper_number": "loss within 0.25 % of bfloat16",
    "trial": {
        "technique": ["precision.use=fp8", "precision.scaling=rowwise"],
        "baseline": [],
        "expect": "no_worse",
        "margin": "1%",
    },
}
KNOBS = {"power_of_two": False}
BLOCK = 128


class Config(Coarse):
    scaling: Literal["tensorwise", "rowwise", "rowwise_gw_hp", "blockwise"] = "rowwise"
    """Which numbers share a scale."""
    power_of_two: bool | None = None
    """Round scales down to powers of two; null: for rows yes, for matrices and blocks no."""

    def attach(self, model: Model) -> None:
        """Quantised products in all projections of all blocks."""
        gemms = self.gemms()
        install(model, lambda *_: gemms, multiple=16, what="fp8")

    def gemms(self) -> Gemms:
        """The three products of a layer."""
        by_row = self.scaling.startswith("rowwise")
        power = by_row if self.power_of_two is None else self.power_of_two

        def scaled(rows: int | None, cols: int | None, to: Format = E4M3) -> Scaled:
            return Scaled(to, (rows, cols), "power" if power else "linear")

        if self.scaling == "tensorwise":
            x = w = scaled(None, None)
            dy = scaled(None, None, E5M2)
            return Gemms(Gemm(x, w, fast=True), Gemm(dy, w), Gemm(dy, x))
        if self.scaling == "blockwise":
            x, w = scaled(1, BLOCK), scaled(BLOCK, BLOCK)
            return Gemms(Gemm(x, w), Gemm(x, w), Gemm(x, x))
        row = scaled(1, None)
        if self.scaling == "rowwise":
            return Gemms(Gemm(row, row, fast=True), Gemm(row, row), Gemm(row, row))
        return Gemms(Gemm(row, row, fast=True), Gemm(row, scaled(None, None)), Gemm())
