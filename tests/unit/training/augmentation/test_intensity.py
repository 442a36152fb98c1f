from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d
from torch import Tensor

from nnunet_pt.training.augmentation import base
from nnunet_pt.training.augmentation.base import Sample
from nnunet_pt.training.augmentation.intensity import (
    Brightness,
    Contrast,
    FactorParameters,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
    NoiseParameters,
    ResolutionParameters,
    convolve_axis,
    gaussian_kernel,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def applied(transform: Any, tensor: Tensor, parameters: Any) -> Tensor:
    segmentation = torch.zeros((1, *tensor.shape[1:]), dtype=torch.int16)
    return transform.apply(Sample(tensor.clone(), segmentation), parameters).image


def test_noise_has_the_drawn_strength_in_all_channels() -> None:
    before = image(2, 30, 40, 30)
    difference = applied(GaussianNoise(), before, NoiseParameters(0.08, 5)) - before
    assert abs(difference.mean()) < 0.002
    assert torch.allclose(difference.std((1, 2, 3)), torch.tensor(0.08), rtol=0.02)
    assert abs(torch.corrcoef(difference.flatten(1))[0, 1]) < 0.02
    assert torch.equal(applied(GaussianNoise(), before, NoiseParameters(0.08, 5)) - before, difference)
    stds = [GaussianNoise().sample(random, (1, 4, 4)).std for random in [rng()] for _ in range(1000)]
    assert abs(np.mean(stds) - 0.05) < 0.005


@pytest.mark.parametrize(
    ("sigma", "length"), [(0.3, 3), (0.5, 3), (0.58, 3), (0.6, 5), (0.9, 5), (0.92, 7), (1.0, 7), (1.5, 9)]
)
def test_kernels_have_nnunets_lengths(sigma: float, length: int) -> None:
    kernel = gaussian_kernel(sigma)
    assert len(kernel) == length
    assert math.isclose(sum(kernel), 1)
    assert kernel == kernel[::-1]
    assert math.isclose(kernel[length // 2 + 1] / kernel[length // 2], math.exp(-0.5 / sigma**2))


@pytest.mark.parametrize("shape", [(9, 11, 10), (12, 7), (3, 2)])
@pytest.mark.parametrize("piece", [1, 50, base.ALL])
def test_blurring_reflects_at_the_borders(shape: tuple[int, ...], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PIECE", piece)
    for axis in range(len(shape)):
        before = image(*shape)
        after = before.clone()
        kernel = gaussian_kernel(0.8)
        convolve_axis(after, kernel, axis)
        expected = correlate1d(before.numpy(), kernel, axis=axis, mode="mirror")
        assert np.allclose(after.numpy(), expected, atol=1e-5)


def test_blur_draws_channels_and_a_strength_for_every_axis() -> None:
    random = rng()
    drawn = [GaussianBlur().sample(random, (2, 8, 8, 8)) for _ in range(2000)]
    assert abs(np.mean([d is None for d in drawn]) - 0.25) < 0.03
    sigmas = np.array([s for d in drawn if d is not None for _, s in d.sigmas])
    assert sigmas.shape[1] == 3
    assert (np.ptp(sigmas, axis=1) > 0).all()
    assert 0.5 <= sigmas.min() < sigmas.max() <= 1.0
    assert abs(sigmas.mean() - 0.75) < 0.01
    together = GaussianBlur(axes_together=True, channel_probability=1.0).sample(random, (1, 8, 8, 8))
    assert together is not None
    assert len(set(together.sigmas[0][1])) == 1


def test_blur_leaves_the_other_channels_alone() -> None:
    transform, before = GaussianBlur(), image(2, 10, 10)
    parameters = next(p for p in (transform.sample(r, (2, 10, 10)) for r in [rng()] * 50) if p and len(p.sigmas) == 1)
    channel = parameters.sigmas[0][0]
    after = applied(transform, before, parameters)
    assert after[channel].std() < before[channel].std()
    assert torch.equal(after[1 - channel], before[1 - channel])


def test_brightness_multiplies_each_channel_by_its_own_factor() -> None:
    before = image(2, 5, 5)
    after = applied(Brightness(), before, FactorParameters((0.8, 1.2)))
    assert torch.equal(after, before * torch.tensor([0.8, 1.2])[:, None, None])
    assert len(set(Brightness().sample(rng(), (3, 5, 5)).factors)) == 3


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_keeps_the_mean_and_within_the_range(factor: float) -> None:
    before = image(1, 9, 9, 9)
    after = applied(Contrast(), before, FactorParameters((factor,)))
    expected = (before - before.mean()) * factor + before.mean()
    assert torch.allclose(after, expected.clamp(before.min(), before.max()), atol=1e-5)
    free = applied(Contrast(preserve_range=False), before, FactorParameters((factor,)))
    assert torch.allclose(free, expected, atol=1e-5)


def test_contrast_can_leave_channels_out() -> None:
    random, transform = rng(), Contrast(channel_probability=0.5)
    factors = np.array([transform.sample(random, (2, 5, 5)).factors for _ in range(1000)])
    assert abs((factors == 1).mean() - 0.5) < 0.03
    before = image(2, 5, 5)
    after = applied(transform, before, FactorParameters((1.0, 1.2)))
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize(
    ("shape", "scale", "keep"), [((9, 12, 10), 0.6, False), ((9, 12), 0.5, False), ((5, 12, 12), 0.5, True)]
)
def test_low_resolution_takes_nearest_voxels_and_enlarges_linearly(
    shape: tuple[int, ...], scale: float, keep: bool
) -> None:
    before = image(2, *shape)
    after = applied(LowResolution(keep_first_axis=keep), before, ResolutionParameters(((1, scale),)))
    assert torch.equal(after[0], before[0])
    size = [round(n * scale) for n in shape]
    if keep:
        size[0] = shape[0]
    index = torch.meshgrid(
        *[((torch.arange(new) + 0.5) * old / new).long() for old, new in zip(shape, size, strict=True)], indexing="ij"
    )
    small = before[1][index]
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    assert torch.allclose(after[1], F.interpolate(small[None, None], shape, mode=mode)[0, 0], atol=1e-6)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_bends_values_and_retains_mean_and_deviation(inverted: bool, gamma: float) -> None:
    before = image(1, 20, 20, 20)
    after = applied(Gamma(inverted=inverted), before, FactorParameters((gamma,)))
    assert torch.isclose(after.mean(), before.mean(), atol=1e-5)
    assert torch.isclose(after.std(), before.std(), rtol=1e-5)
    order = before.flatten().argsort()
    assert (after.flatten()[order].diff() > -1e-5).all()
    skewness = ((after - after.mean()) ** 3).mean() / after.std() ** 3
    assert (skewness > 0.05) == ((gamma > 1) != inverted)
    sign = -1 if inverted else 1
    values = before * sign
    unit = (values - values.min()) / (values.max() - values.min())
    expected = unit**gamma
    expected = ((expected - expected.mean()) / expected.std() * before.std() + values.mean()) * sign
    assert torch.allclose(after, expected, atol=1e-4)


def test_a_constant_channel_survives_everything() -> None:
    before = torch.full((1, 8, 8, 8), 2.5)
    for transform in (Gamma(), Gamma(inverted=True), Contrast()):
        after = applied(transform, before, FactorParameters((1.3,)))
        assert torch.allclose(after, before)


@pytest.mark.parametrize(
    "transform", [Gamma(), Contrast(), Brightness(), GaussianBlur(), GaussianNoise(), LowResolution()]
)
def test_views_of_larger_patches_are_changed_as_copies_are(transform: Any) -> None:
    patch = image(2, 14, 15, 16)
    random = rng(1)
    parameters = None
    while parameters is None:
        parameters = transform.sample(random, (2, 8, 9, 10))
    segmentation = torch.zeros(1, 8, 9, 10, dtype=torch.int16)
    view = patch.clone()[:, 3:11, 2:11, 4:14]
    surroundings = view.clone()
    from_view = transform.apply(Sample(view, segmentation), parameters).image
    from_copy = transform.apply(Sample(surroundings, segmentation), parameters).image
    assert torch.allclose(from_view, from_copy, atol=1e-5)
