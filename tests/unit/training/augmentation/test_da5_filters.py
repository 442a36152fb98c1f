"""Median filter and sharpening, held against scipy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnunet_pt.training.augmentation.base import Sample
from nnunet_pt.training.augmentation.filters import (
    MedianFilter,
    Sharpening,
    _medians_by_halving,
    _medians_by_selection,
    median_filter,
    sharpen,
)

SHAPES = [(9, 11, 14), (23, 17), (3, 12, 10), (2, 5)]


def smooth_noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (ndimage.gaussian_filter(noise, 1) * 5 + 0.3 * noise).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_medians_lie_in_the_last_interval_above_scipys(shape: tuple[int, ...], size: int) -> None:
    image = smooth_noise(shape)
    expected = ndimage.median_filter(image, size)
    width = (ndimage.maximum_filter(image, size) - ndimage.minimum_filter(image, size)) / 4096
    for got in (_medians_by_halving(image, size), median_filter(torch.from_numpy(image), size).numpy()):
        assert np.all(got >= expected - 1e-6)
        assert np.all(got <= expected + width + 1e-6)
        assert (np.abs(got - expected) < 1e-6).mean() > 0.9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_medians_by_selection_are_scipys(shape: tuple[int, ...], size: int) -> None:
    image = smooth_noise(shape)
    assert np.array_equal(
        _medians_by_selection(torch.from_numpy(image), size).numpy(), ndimage.median_filter(image, size)
    )


def test_frequent_values_stay_exactly_what_they_are() -> None:
    image = smooth_noise((20, 21, 22))
    image[image < 0.2] = 0
    expected = ndimage.median_filter(image, 5)
    got = _medians_by_halving(image, 5)
    assert (expected == 0).mean() > 0.2
    assert np.array_equal(got == 0, expected == 0)
    constant = np.full((6, 7, 8), -3.7, np.float32)
    assert np.array_equal(_medians_by_halving(constant, 5), constant)


def test_medians_of_large_images_are_put_together_from_pieces() -> None:
    image = smooth_noise((40, 60, 60))
    got = _medians_by_halving(image, 3)
    assert np.abs(got - ndimage.median_filter(image, 3)).max() < 0.01


@pytest.mark.parametrize("shape", [(7, 8, 9), (12, 5), (1, 4, 4)])
def test_sharpening_subtracts_the_laplacian(shape: tuple[int, ...]) -> None:
    image = smooth_noise(shape)
    expected = image - 0.7 * ndimage.laplace(image, mode="nearest")
    assert np.allclose(sharpen(torch.from_numpy(image), 0.7).numpy(), expected, atol=1e-5)


def test_only_chosen_channels_change() -> None:
    image = torch.from_numpy(np.stack([smooth_noise((8, 9, 10), seed) for seed in range(3)]))
    for transform in (MedianFilter(), Sharpening()):
        random = np.random.default_rng(4)
        for _ in range(10):
            parameters = transform.sample(random, tuple(image.shape))
            chosen = {p.channel for p in parameters or ()}
            after = transform.apply(Sample(image.clone(), torch.zeros(1)), parameters or ()).image
            changed = {c for c in range(3) if not torch.equal(after[c], image[c])}
            assert changed == chosen


def test_sizes_and_strengths_have_the_documented_ranges() -> None:
    random = np.random.default_rng(1)
    drawn = [p for _ in range(4000) for p in MedianFilter().sample(random, (2, 8, 8)) or ()]
    assert abs(len(drawn) / 8000 - 0.5) < 0.03
    counts = Counter(int(p.amount) for p in drawn)
    assert sorted(counts) == [2, 3, 4, 5, 6, 7]
    assert all(abs(n / len(drawn) - 1 / 6) < 0.03 for n in counts.values())
    strengths = [p.amount for _ in range(2000) for p in Sharpening().sample(random, (2, 8, 8)) or ()]
    assert 0.1 <= min(strengths) < 0.12
    assert 0.98 < max(strengths) <= 1.0
    assert abs(np.mean(strengths) - 0.55) < 0.03
