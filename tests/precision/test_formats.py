"""Formats against torch's float8 casts and the whole grid by brute force; scales and transforms by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tilth.precision.formats import (
    E2M1,
    E4M3,
    E5M2,
    FORMATS,
    NVFP4,
    Format,
    Scaled,
    draws,
    hadamard,
    linear_scale,
    regions,
    rotated,
    shared_exponent,
)


def saturated(q: Scaled, x: Tensor) -> Tensor:
    """How many entries lie beyond the format's largest number once scaled."""
    parts = regions(x, q.region)
    return (parts * q.encoding(parts)[0]).abs().gt(q.to.max * (1 + 1e-6)).sum()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_grid(x: Tensor, form: Format) -> Tensor:
    """The nearest number of the grid; of two as near the one whose last bit is 0, which stand at even places."""
    grid = form.numbers().double()
    size = x.double().abs().clamp(max=form.max)
    up = torch.searchsorted(grid, size).clamp(1, len(grid) - 1)
    low, high = size - grid[up - 1], grid[up] - size
    place = torch.where(low < high, up - 1, torch.where(high < low, up, up - up % 2))
    return (grid[place] * x.sign()).float()


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_every_code_is_a_number_of_the_format_and_stays_itself(form: Format) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(form.dtype).float()
    finite = codes[codes.isfinite()]
    assert torch.equal(finite.abs().unique(), form.numbers())
    assert torch.equal(form.nearest(finite), finite)
    assert torch.equal(form.stochastic(finite, torch.full_like(finite, 0.9)), finite)


def test_the_numbers_of_e2m1_and_its_ties() -> None:
    assert E2M1.numbers().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    given, wanted = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7, -2.5], [0, 1, 1, 2, 2, 4, 4, 6, -2]
    assert E2M1.nearest(torch.tensor(given)).tolist() == wanted


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_nearest_is_nearest_with_ties_to_even(form: Format) -> None:
    grid = form.numbers()
    middles = (grid[1:].double() + grid[:-1].double()) / 2
    beside = torch.cat([middles, middles * (1 + 1e-6), middles * (1 - 1e-6), grid]).float()
    x = torch.cat([beside, -beside, normal(4000) * form.max / 3, normal(4000) * 2.0 ** (form.lowest - 1)])
    assert torch.equal(form.nearest(x), by_grid(x, form))
    if form.dtype is not None:
        assert torch.equal(form.nearest(x), x.clamp(-form.max, form.max).to(form.dtype).float())
    ordered = form.nearest(x.sort().values)
    assert bool((ordered.diff() >= 0).all())
    assert form.nearest(torch.tensor(float("nan"))).isnan()


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_stochastic_rounding_gives_a_neighbour_and_is_right_on_average(form: Format) -> None:
    x = normal(200).clamp(-3, 3) * form.max / 4
    grid = torch.cat([-form.numbers().flip(0), form.numbers()])
    made = torch.stack([form.stochastic(x, draws(0, i)(x)) for i in range(1000)])
    assert torch.isin(made, grid).all()
    spacing = form.spacing(x.clone())
    assert bool(((made - x).abs() < spacing).all())
    off = (made.double().mean(0) - x) / spacing
    assert float(off.abs().max()) < 5 * 0.5 / 1000**0.5
    assert float(off.mean().abs()) < 5 * 0.5 / (200 * 1000) ** 0.5


def test_draws_are_keyed_and_uniform() -> None:
    like = torch.empty(100, 1003)
    one, same, other = draws(3, 1, 2)(like), draws(3, 1, 2)(like), draws(3, 1, 3)(like)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0 < float(one.min()) < 1e-3
    assert 0.999 < float(one.max()) < 1
    assert abs(float(one.mean()) - 0.5) < 5 / (12 * one.numel()) ** 0.5


def test_linear_scales() -> None:
    assert float(linear_scale(torch.tensor(3.7), 448)) == pytest.approx(121.08, abs=0.005)
    assert float(linear_scale(torch.tensor(3.7), 448, True)) == 64
    x = torch.tensor([[1.0, float("inf")], [1.0, 2.0]])
    for scale in ("linear", "power", "floor", "ceil", "even"):
        made = Scaled(E4M3, (1, None), scale)(x)
        assert made[0].isnan().all(), scale
        assert torch.equal(made[1], x[1]), scale
        assert torch.equal(Scaled(E4M3, (1, None), scale)(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert NVFP4()(x).isnan().any()


@pytest.mark.parametrize("region", [(None, None), (1, None), (1, 16), (16, 16)])
def test_error_is_within_half_a_place(region: tuple[int | None, int | None]) -> None:
    x = normal(37, 50) * 10.0 ** (4 * torch.rand(37, 1, generator=torch.Generator().manual_seed(1)) - 2)
    q = Scaled(E4M3, region)
    made = q(x)
    for r in range(0, 37, region[0] or 37):
        for c in range(0, 50, region[1] or 50):
            part = slice(r, r + (region[0] or 37)), slice(c, c + (region[1] or 50))
            step = x[part].abs().max() / 448
            assert bool(((made[part] - x[part]).abs() <= 2**-4 * x[part].abs() + 2**-10 * step * 1.001).all())
    torch.testing.assert_close(q(made), made, rtol=2e-7, atol=0)
    assert torch.equal(Scaled(E4M3, region, "power")(made * 4), Scaled(E4M3, region, "power")(made) * 4)


@pytest.mark.parametrize(("amax", "floor", "ceil"), [(448, 1, 1), (449, 1, 2), (256, 1, 1), (224, 0.5, 0.5)])
def test_microscaling_by_hand(amax: float, floor: float, ceil: float) -> None:
    assert float(shared_exponent(torch.tensor(float(amax)), E4M3, "floor")) == floor
    assert float(shared_exponent(torch.tensor(float(amax)), E4M3, "ceil")) == ceil
    x = torch.zeros(1, 32)
    x[0, 0] = amax
    assert float(Scaled(E4M3, (1, 32), "floor")(x)[0, 0]) == min(amax, 448)
    assert float(Scaled(E4M3, (1, 32), "ceil")(x)[0, 0]) == 448 if amax in (448, 449) else amax


def test_even_rounds_the_largest_magnitude_first() -> None:
    # E2M1 keeps one bit: 7 is 1.75 x 4 and rounds to 8, so its block's exponent is one higher than floor's
    for amax, floor, even in ((6.9, 1, 1), (7.0, 1, 2), (5.0, 1, 1), (8.0, 2, 2)):
        assert float(shared_exponent(torch.tensor(amax), E2M1, "floor")) == floor
        assert float(shared_exponent(torch.tensor(amax), E2M1, "even")) == even


def test_microscaling_against_powers_of_two_by_search() -> None:
    x = normal(300, 32) * 2.0 ** torch.randint(-40, 40, (300, 1), generator=torch.Generator().manual_seed(2))
    amax = x.abs().amax(1)
    powers = 2.0 ** torch.arange(-127, 128, dtype=torch.float64)
    ceil = shared_exponent(amax, E4M3, "ceil").double()
    assert torch.equal(ceil, powers[torch.searchsorted(powers, amax.double() / 448)])
    made = Scaled(E4M3, (1, 32), "ceil")(x)
    assert torch.equal(made, by_grid((x.double() / ceil[:, None]).float(), E4M3) * ceil[:, None].float())
    assert saturated(Scaled(E4M3, (1, 32), "ceil"), x) == 0
    over = float(saturated(Scaled(E4M3, (1, 32), "floor"), normal(2000, 32))) / 64000
    assert 0.004 < over < 0.012  # 0.8 % of Gaussian entries


def relative(made: Tensor, x: Tensor) -> float:
    return float((made - x).norm() / x.norm())


def test_errors_on_gaussian_matrices() -> None:
    x = normal(512, 256)
    for form, region, scale, wanted in (
        (E4M3, (1, 32), "ceil", 0.026),
        (E5M2, (1, 32), "ceil", 0.052),
        (E2M1, (1, 32), "ceil", 0.117),
        (E2M1, (1, 32), "floor", 0.115),
    ):
        assert relative(Scaled(form, region, scale)(x), x) == pytest.approx(wanted, abs=0.002)
    assert relative(NVFP4()(x), x) == pytest.approx(0.095, abs=0.002)
    assert relative(NVFP4(region=(16, 16))(x), x) == pytest.approx(0.113, abs=0.002)


def nvfp4_by_hand(x: Tensor) -> Tensor:
    """One block after the other, in float64 but for what the format rounds."""
    g = 448 * 6 / float(x.abs().max())
    out = torch.zeros_like(x)
    for r in range(x.shape[0]):
        for c in range(0, x.shape[1], 16):
            part = x[r, c : c + 16]
            wanted = min(float(part.abs().max()) / 6 * g, 448.0)
            block = float(torch.tensor(wanted).to(torch.float8_e4m3fn).float())
            if block:
                unit = (part.double() * g / block).float()
                out[r, c : c + 16] = (by_grid(unit, E2M1).double() * block / g).float()
    return out


def test_nvfp4_by_hand() -> None:
    x = normal(20, 64) * 10.0 ** (3 * torch.rand(20, 1, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(NVFP4()(x), nvfp4_by_hand(x), rtol=1e-6, atol=0)
    assert torch.equal(NVFP4()(torch.zeros(2, 16)), torch.zeros(2, 16))
    exact = torch.tensor([[0, 0.5, 1, 1.5, 2, 3, 4, 6] * 2]) * 3
    torch.testing.assert_close(NVFP4()(exact), exact, rtol=2e-7, atol=0)


def test_nvfp4_saturates_unless_block_scales_are_rounded_up() -> None:
    x = normal(512, 256)
    assert 0.028 < float(saturated(NVFP4(), x)) / x.numel() < 0.037
    assert int(saturated(NVFP4(up=True), x)) == 0


def test_square_blocks_are_quantised_alike_both_ways() -> None:
    w = normal(64, 80)
    for q in (NVFP4(region=(16, 16)), Scaled(E4M3, (128, 128)), Scaled(E4M3, (None, None))):
        assert q.two_sided
        assert torch.equal(q(w.t()), q(w).t())
    assert not torch.equal(NVFP4()(w.t()), NVFP4()(w).t())
    assert not NVFP4().two_sided


def test_the_hadamard_transform_cancels_and_spreads_outliers() -> None:
    r = hadamard()
    assert torch.equal(r @ r.T, torch.eye(16))
    a, b = normal(5, 40), normal(7, 40, seed=1)  # filled up to 48
    torch.testing.assert_close(rotated(a) @ rotated(b).T, a @ b.T, rtol=0, atol=2e-5)
    x = normal(400, 64)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.02] *= 40
    crest = [(y.view(-1, 16).abs().amax(1) / y.view(-1, 16).square().mean(1).sqrt()).mean() for y in (x, rotated(x))]
    assert crest[1] < 0.85 * crest[0]
    flushed = [float((NVFP4(hadamard=h)(x) == 0).float().mean()) for h in (False, True)]
    assert flushed[1] < 0.5 * flushed[0]
