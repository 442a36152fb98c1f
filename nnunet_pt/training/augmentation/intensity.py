"""Noise, blur, brightness, contrast, resolution and gamma: transforms of the image alone, in place where possible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_pt.training.augmentation.base import (
    SameShape,
    Sample,
    Shape,
    draw_around_one,
    draw_channels,
    draw_seed,
    seeded_generator,
    slices_at_once,
)
from nnunet_pt.training.augmentation.geometry import Range


@dataclass(frozen=True, slots=True)
class NoiseParameters:
    """Standard deviation and seed of the noise."""

    std: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise(SameShape):
    """Add independent Gaussian noise, equally strong in all channels.

    Attributes:
        std: Range of the standard deviation.
    """

    std: Range = (0.0, 0.1)

    def sample(self, random: np.random.Generator, shape: Shape) -> NoiseParameters:
        """Draw the strength, and a seed in place of the noise."""
        del shape
        return NoiseParameters(float(random.uniform(*self.std)), draw_seed(random))

    def apply(self, sample: Sample, parameters: NoiseParameters) -> Sample:
        """Add the noise."""
        image = sample.image
        generator = seeded_generator(parameters.seed, image.device)
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        image.add_(noise, alpha=parameters.std)
        return sample


@dataclass(frozen=True, slots=True)
class BlurParameters:
    """Per blurred channel its index and its standard deviation along each axis, in voxels."""

    sigmas: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianBlur(SameShape):
    """Blur some channels, each with its own strength.

    Attributes:
        sigma: Range of the standard deviation, in voxels.
        channel_probability: How often each channel takes part.
        axes_together: One standard deviation for all axes of a channel.
    """

    sigma: Range = (0.5, 1.0)
    channel_probability: float = 0.5
    axes_together: bool = False

    def sample(self, random: np.random.Generator, shape: Shape) -> BlurParameters | None:
        """Draw channels and strengths."""
        dims = len(shape) - 1
        draws = 1 if self.axes_together else dims
        sigmas = []
        for channel in draw_channels(random, shape[0], self.channel_probability):
            drawn = tuple(float(s) for s in random.uniform(*self.sigma, size=draws))
            sigmas.append((channel, drawn * (dims // draws)))
        return BlurParameters(tuple(sigmas)) if sigmas else None

    def apply(self, sample: Sample, parameters: BlurParameters) -> Sample:
        """Blur axis by axis."""
        for channel, sigmas in parameters.sigmas:
            for axis, sigma in enumerate(sigmas):
                convolve_axis(sample.image[channel], gaussian_kernel(sigma), axis)
        return sample


def gaussian_kernel(sigma: float) -> tuple[float, ...]:
    """A normalised kernel whose length is the odd number nearest to six standard deviations and a half."""
    radius = round((6 * sigma + 0.5 - 1) / 2)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    return tuple(w / sum(weights) for w in weights)


def convolve_axis(array: Tensor, kernel: tuple[float, ...], axis: int) -> None:
    """Convolve an array with a symmetric kernel along one axis, in place, reflecting at the borders.

    Args:
        array: (*spatial) float32.
        kernel: An odd number of weights, symmetric.
        axis: The axis.
    """
    radius, n = len(kernel) // 2, array.shape[axis]
    if radius == 0:
        return
    reflected = torch.from_numpy(np.pad(np.arange(n), radius, mode="reflect")).to(array.device)
    for piece in pieces(array, axis):
        padded = piece.index_select(axis, reflected)
        torch.mul(padded.narrow(axis, radius, n), kernel[radius], out=piece)
        for k in range(1, radius + 1):
            pair = padded.narrow(axis, radius - k, n) + padded.narrow(axis, radius + k, n)
            piece.add_(pair, alpha=kernel[radius + k])


def pieces(array: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Views that together are the array, none of them cut along the axis; small ones on a CPU, else one."""
    if array.ndim == 1:
        return (array,)
    cut = 0 if axis != 0 else 1
    return torch.split(array, slices_at_once(array.numel() // array.shape[cut], array.device), cut)


@dataclass(frozen=True, slots=True)
class FactorParameters:
    """One factor (or exponent) for each channel."""

    factors: tuple[float, ...]


def _draw_factors(random: np.random.Generator, channels: int, limits: Range) -> FactorParameters:
    return FactorParameters(tuple(draw_around_one(random, *limits) for _ in range(channels)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness(SameShape):
    """Multiply each channel by its own factor.

    Attributes:
        factor: Range of the factor; values below and above one are equally likely.
    """

    factor: Range = (0.75, 1.25)

    def sample(self, random: np.random.Generator, shape: Shape) -> FactorParameters:
        """Draw the factors."""
        return _draw_factors(random, shape[0], self.factor)

    def apply(self, sample: Sample, parameters: FactorParameters) -> Sample:
        """Multiply."""
        for channel, factor in zip(sample.image, parameters.factors, strict=True):
            channel.mul_(factor)
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(SameShape):
    """Stretch or shrink each channel's values around their mean.

    Attributes:
        factor: Range of the factor; values below and above one are equally likely.
        channel_probability: How often each channel takes part.
        preserve_range: Clamp the result to the values there were before.
    """

    factor: Range = (0.75, 1.25)
    channel_probability: float = 1.0
    preserve_range: bool = True

    def sample(self, random: np.random.Generator, shape: Shape) -> FactorParameters:
        """Draw the factors; 1 for channels that do not take part."""
        taking_part = draw_channels(random, shape[0], self.channel_probability)
        drawn = _draw_factors(random, shape[0], self.factor).factors
        return FactorParameters(tuple(f if c in taking_part else 1.0 for c, f in enumerate(drawn)))

    def apply(self, sample: Sample, parameters: FactorParameters) -> Sample:
        """Stretch or shrink."""
        for channel, factor in zip(sample.image, parameters.factors, strict=True):
            if factor == 1.0:
                continue
            mean = channel.mean()
            lowest, highest = channel.amin(), channel.amax()
            channel.mul_(factor).add_(mean * (1 - factor))
            if self.preserve_range:
                # Much faster than clamping to two tensors
                torch.maximum(channel, lowest, out=channel)
                torch.minimum(channel, highest, out=channel)
        return sample


@dataclass(frozen=True, slots=True)
class ResolutionParameters:
    """Per channel that takes part its index and the factor by which it shrinks."""

    scales: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowResolution(SameShape):
    """Shrink some channels to the nearest voxels and enlarge them again, linearly.

    Attributes:
        scale: Range of the factor.
        channel_probability: How often each channel takes part.
        keep_first_axis: The first axis keeps its resolution.
    """

    scale: Range = (0.5, 1.0)
    channel_probability: float = 0.5
    keep_first_axis: bool = False

    def sample(self, random: np.random.Generator, shape: Shape) -> ResolutionParameters | None:
        """Draw channels and factors."""
        channels = draw_channels(random, shape[0], self.channel_probability)
        scales = tuple((channel, float(random.uniform(*self.scale))) for channel in channels)
        return ResolutionParameters(scales) if scales else None

    def apply(self, sample: Sample, parameters: ResolutionParameters) -> Sample:
        """Shrink and enlarge."""
        for index, scale in parameters.scales:
            channel = sample.image[index]
            size = [max(1, round(n * scale)) for n in channel.shape]
            if self.keep_first_axis:
                size[0] = channel.shape[0]
            small = F.interpolate(channel[None, None], size, mode="nearest-exact")
            mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[channel.ndim]
            channel.copy_(F.interpolate(small, tuple(channel.shape), mode=mode, align_corners=False)[0, 0])
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma(SameShape):
    """Raise each channel, moved to the range from 0 to 1, to a power; mean and standard deviation stay as they were.

    Attributes:
        gamma: Range of the exponent; values below and above one are equally likely.
        inverted: Do it to the negated image.
    """

    gamma: Range = (0.7, 1.5)
    inverted: bool = False

    def sample(self, random: np.random.Generator, shape: Shape) -> FactorParameters:
        """Draw the exponents."""
        return _draw_factors(random, shape[0], self.gamma)

    def apply(self, sample: Sample, parameters: FactorParameters) -> Sample:
        """Raise to the powers."""
        for channel, gamma in zip(sample.image, parameters.factors, strict=True):
            if self.inverted:
                channel.neg_()
            _gamma(channel, gamma)
            if self.inverted:
                channel.neg_()
        return sample


def _gamma(channel: Tensor, gamma: float) -> None:
    """Apply a power in place, retaining mean and standard deviation.

    The order of the operations is nnU-Net's, and so are the rounding errors of the mean.
    """
    mean, deviation = channel.mean(), channel.std()
    lowest = channel.amin()
    extent = channel.amax() - lowest
    channel.sub_(lowest).div_(extent.clamp(min=1e-7)).pow_(gamma).mul_(extent).add_(lowest)
    channel.sub_(channel.mean())
    channel.mul_(deviation / channel.std().clamp(min=1e-7)).add_(mean)
