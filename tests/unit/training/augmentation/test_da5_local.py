"""Brightness gradients, local gamma, blank rectangles, additive brightness."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from nnunet_pt.training.augmentation.base import Sample
from nnunet_pt.training.augmentation.local import (
    AdditiveBrightness,
    BlankRectangles,
    BrightnessGradient,
    Bump,
    LocalGamma,
    Rectangle,
    bump_image,
)

CPU = torch.device("cpu")
NOTHING = torch.zeros(1)


def reference_bump(lengths: tuple[int, ...], centers: tuple[float, ...], scales: tuple[float, ...]) -> np.ndarray:
    product = np.ones(())
    for n, center, scale in zip(lengths, centers, scales, strict=True):
        voxel = np.arange(n)
        factor = norm.cdf(voxel + 0.5, center, scale) - norm.cdf(voxel - 0.5, center, scale)
        product = np.multiply.outer(product, factor)
    return (product - product.min()) / (product.max() - product.min())


@pytest.mark.parametrize(
    ("lengths", "centers", "scales"),
    [
        ((20, 30), (8.0, 12.0), (8.0, 3.0)),
        ((20, 30), (-10.0, 45.0), (3.4, 6.0)),
        ((9, 10, 11), (3.3, -2.0, 14.0), (2.0, 9.0, 4.0)),
    ],
)
def test_bump_is_the_stretched_integral_of_a_gaussian(
    lengths: tuple[int, ...], centers: tuple[float, ...], scales: tuple[float, ...]
) -> None:
    got = bump_image(Bump(0, centers, scales, 1.0), lengths, CPU).numpy()
    assert np.abs(got - reference_bump(lengths, centers, scales)).max() < 1e-5
    assert abs(got.min()) < 1e-6
    assert got.max() == pytest.approx(1, abs=1e-6)


def test_bump_far_outside_and_narrow_is_still_finite() -> None:
    for share in (-0.5, 1.5):
        got = bump_image(Bump(0, (11 * share, 11 * share), (1.0, 1.0), 1.0), (11, 11), CPU)
        assert torch.isfinite(got).all()
        assert got.max() == pytest.approx(1)


def test_brightness_gradient_adds_the_bump_to_its_channel_only() -> None:
    bump = Bump(1, (3.0, 4.0), (5.0, 6.0), -2.5)
    image = torch.randn(3, 12, 13)
    after = BrightnessGradient().apply(Sample(image.clone(), NOTHING), (bump,)).image
    assert torch.equal(after[[0, 2]], image[[0, 2]])
    assert torch.allclose(after[1] - image[1], -2.5 * bump_image(bump, (12, 13), CPU), atol=1e-5)


def test_local_gamma_blends_with_the_corrected_image() -> None:
    bump = Bump(0, (3.0, 4.0), (5.0, 6.0), 2.5)
    image = torch.randn(1, 12, 13) * 3 + 1
    after = LocalGamma().apply(Sample(image.clone(), NOTHING), (bump,)).image[0]
    low, high = image.min(), image.max()
    unit = (image[0] - low) / (high - low)
    weight = bump_image(bump, (12, 13), CPU)
    expected = ((1 - weight) * unit + weight * unit**2.5) * (high - low) + low
    assert torch.allclose(after, expected, atol=1e-4)


def test_local_gamma_leaves_constant_channels_alone() -> None:
    image = torch.full((1, 6, 7), 4.0)
    after = LocalGamma().apply(Sample(image.clone(), NOTHING), (Bump(0, (3.0, 3.0), (2.0, 2.0), 0.3),)).image
    assert torch.equal(after, image)


def test_bumps_have_the_documented_ranges() -> None:
    random = np.random.default_rng(3)
    lengths = (40, 24, 5)
    drawn = [b for _ in range(2500) for b in BrightnessGradient().sample(random, (2, *lengths)) or ()]
    assert abs(len(drawn) / 5000 - 0.5) < 0.03
    shares = np.array([b.centers for b in drawn]) / lengths
    scales = np.log([b.scales for b in drawn])
    for axis, (length, smallest) in enumerate(zip(lengths, (6, 4, 1), strict=True)):
        assert kstest(shares[:, axis], "uniform", (-0.5, 2)).statistic < 0.04
        low, high = np.log(smallest), np.log(length)
        assert kstest(scales[:, axis], "uniform", (low, high - low)).statistic < 0.04
    strengths = np.array([b.strength for b in drawn])
    assert abs((strengths < 0).mean() - 0.5) < 0.05
    assert kstest(np.abs(strengths), "uniform", (1, 4)).statistic < 0.04
    gammas = np.array([b.strength for _ in range(2500) for b in LocalGamma().sample(random, (2, *lengths)) or ()])
    assert abs((gammas < 1).mean() - 0.5) < 0.05
    assert kstest(gammas[gammas < 1], "uniform", (0.01, 0.79)).statistic < 0.06
    assert kstest(gammas[gammas > 1], "uniform", (1.5, 2.5)).statistic < 0.06


def test_rectangles_are_filled_one_after_the_other() -> None:
    image = torch.randn(2, 10, 12)
    boxes = (Rectangle(1, (2, 3), (4, 5)), Rectangle(1, (4, 5), (3, 3)))
    after = BlankRectangles(size_ranges=((1, 3), (1, 3))).apply(Sample(image.clone(), NOTHING), boxes).image
    expected = image.clone()
    expected[1, 2:6, 3:8] = expected[1, 2:6, 3:8].mean()
    expected[1, 4:7, 5:8] = expected[1, 4:7, 5:8].mean()
    assert torch.equal(after, expected)


def test_rectangles_have_the_documented_sizes_counts_and_places() -> None:
    patch = (40, 30, 56)
    transform = BlankRectangles.for_patch(patch)
    random = np.random.default_rng(5)
    draws = [transform.sample(random, (1, *patch)) for _ in range(4000)]
    counts = Counter(len(d) for d in draws if d)
    assert abs(sum(d is None for d in draws) / 4000 - 0.5) < 0.04
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(abs(n / counts.total() - 0.25) < 0.04 for n in counts.values())
    boxes = [box for d in draws for box in d or ()]
    for axis, length in enumerate(patch):
        assert {b.size[axis] for b in boxes} == set(range(length // 10, length // 3))
        starts = [(b.start[axis], length - b.size[axis]) for b in boxes]
        assert all(0 <= start <= last for start, last in starts)
        assert {0} < {start for start, last in starts if start in (0, last)}
        assert abs(np.mean([start / last for start, last in starts]) - 0.5) < 0.03


def test_rectangles_exist_in_the_smallest_patches() -> None:
    transform = BlankRectangles.for_patch((1, 2, 5))
    random = np.random.default_rng(5)
    sizes = {box.size for _ in range(200) for box in transform.sample(random, (1, 1, 2, 5)) or ()}
    assert sizes == {(1, 1, 1)}


def test_additive_brightness() -> None:
    random = np.random.default_rng(6)
    transform = AdditiveBrightness()
    values = [o.value for _ in range(3000) for o in transform.sample(random, (2, 4, 4)) or ()]
    assert abs(len(values) / 6000 - 0.5) < 0.03
    assert kstest(values, "norm", (0, 0.5)).statistic < 0.04
    image = torch.randn(2, 4, 4)
    parameters = transform.sample(np.random.default_rng(2), (2, 4, 4))
    assert parameters
    after = transform.apply(Sample(image.clone(), NOTHING), parameters).image
    for offset in parameters:
        image[offset.channel] += offset.value
    assert torch.equal(after, image)
