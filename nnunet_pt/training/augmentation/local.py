"""Changes that differ from place to place: brightness gradients, local gamma, blank rectangles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.training.augmentation.base import SameShape, Sample, Shape, draw_channels

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bump:
    """A Gaussian over the patch, for one channel.

    Attributes:
        channel: Image channel.
        centers: Voxel coordinate of the maximum along every axis; may lie outside the patch.
        scales: Standard deviation along every axis, in voxels.
        strength: What the transform does with it: the largest added brightness, or the gamma at the maximum.
    """

    channel: int
    centers: tuple[float, ...]
    scales: tuple[float, ...]
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BumpShape:
    """How the Gaussians are drawn.

    Attributes:
        location: Range of the centre as a share of the axis.
        smallest_scale: Smallest standard deviation as a share (1/n) of the axis, rounded down to whole voxels; the
            largest is the axis. Drawn uniformly in the logarithm.
        channel_probability: Share of channels that get one.
    """

    location: Range = (-0.5, 1.5)
    smallest_scale: int = 6
    channel_probability: float = 0.5

    def draw(self, random: np.random.Generator, channel: int, lengths: Shape, strength: float) -> Bump:
        """Draw centre and extent.

        Args:
            random: The source of randomness.
            channel: Image channel.
            lengths: Voxels along every spatial axis.
            strength: Passed on.
        """
        shares = random.uniform(*self.location, len(lengths))
        # Axes shorter than six voxels would have no smallest scale at all (nnU-Net stops with an error there).
        smallest = [max(length // self.smallest_scale, 1) for length in lengths]
        scales = np.exp(random.uniform(np.log(smallest), np.log(lengths)))
        centers = tuple(float(share) * length for share, length in zip(shares, lengths, strict=True))
        return Bump(channel, centers, tuple(map(float, scales)), strength)


def bump_image(bump: Bump, lengths: Shape, device: torch.device) -> Tensor:
    """The Gaussian of :class:`Bump`, shifted and stretched to the range 0 to 1.

    The value of a voxel is the integral of the density over its extent. Being a product of one factor for each axis,
    its smallest and largest value are found without looking at all voxels.

    Returns:
        ``lengths``, float32.
    """
    factors = [
        _integrated_gaussian(length, center, scale)
        for length, center, scale in zip(lengths, bump.centers, bump.scales, strict=True)
    ]
    factors = [factor / factor.max() for factor in factors]
    low = math.prod(float(factor.min()) for factor in factors)
    stretch = 1 / (1 - low)
    first, *others = (torch.from_numpy(factor).float().to(device) for factor in factors)
    image = first * stretch
    for factor in others:
        image = image[..., None] * factor
    return image.sub_(low * stretch)


def _integrated_gaussian(length: int, center: float, scale: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    from scipy.special import ndtr

    edges = (np.arange(length + 1) - 0.5 - center) / scale
    # The lower tail keeps its digits where the upper one would be a difference of two numbers close to 1.
    below = ndtr(np.where(edges.mean() > 0, -edges, edges))
    integrals: np.ndarray[tuple[int], np.dtype[np.float64]] = np.abs(np.diff(below))
    return integrals


def _draw_bumps(
    shape: BumpShape, random: np.random.Generator, image_shape: Shape, ranges: tuple[Range, ...]
) -> tuple[Bump, ...] | None:
    bumps = []
    for channel in draw_channels(random, image_shape[0], shape.channel_probability):
        low, high = ranges[int(random.integers(len(ranges)))]
        bumps.append(shape.draw(random, channel, image_shape[1:], float(random.uniform(low, high))))
    return tuple(bumps) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrightnessGradient(SameShape):
    """Add a broad Gaussian to some channels.

    Attributes:
        strengths: Ranges of its height, each equally likely.
        shape: How it is drawn.
    """

    strengths: tuple[Range, ...] = ((-5.0, -1.0), (1.0, 5.0))
    shape: BumpShape = BumpShape()

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Bump, ...] | None:
        """Draw one Gaussian for each chosen channel."""
        return _draw_bumps(self.shape, random, shape, self.strengths)

    def apply(self, sample: Sample, parameters: tuple[Bump, ...]) -> Sample:
        """Add the Gaussians."""
        for bump in parameters:
            channel = sample.image[bump.channel]
            channel.add_(bump_image(bump, tuple(channel.shape), channel.device), alpha=bump.strength)
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGamma(SameShape):
    """Change the gamma of some channels where a Gaussian is high, and not where it is low.

    Attributes:
        gammas: Ranges of the exponent at the maximum, each equally likely.
        shape: How the Gaussian is drawn.
    """

    gammas: tuple[Range, ...] = ((0.01, 0.8), (1.5, 4.0))
    shape: BumpShape = BumpShape()

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Bump, ...] | None:
        """Draw one Gaussian for each chosen channel."""
        return _draw_bumps(self.shape, random, shape, self.gammas)

    def apply(self, sample: Sample, parameters: tuple[Bump, ...]) -> Sample:
        """Blend each channel with its gamma-corrected self."""
        for bump in parameters:
            channel = sample.image[bump.channel]
            low, high = (float(v) for v in torch.aminmax(channel))
            spread = max(high - low, 1e-8)
            unit = (channel - low).div_(spread)
            difference = unit.pow(bump.strength).sub_(unit)
            weight = bump_image(bump, tuple(channel.shape), channel.device)
            channel.addcmul_(weight, difference, value=spread)
        return sample


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A box in one channel: its first voxel and its extent."""

    channel: int
    start: tuple[int, ...]
    size: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankRectangles(SameShape):
    """Replace boxes of some channels with their mean.

    Attributes:
        size_ranges: For each axis the smallest extent, and the one before which the largest ends.
        counts: Smallest number of boxes for a channel, and the one before which the largest ends.
        channel_probability: Share of channels that get any.
    """

    size_ranges: tuple[tuple[int, int], ...]
    counts: tuple[int, int] = (1, 5)
    channel_probability: float = 0.5

    @classmethod
    def for_patch(cls, patch_size: Shape) -> BlankRectangles:
        """Boxes between a tenth and a third of the patch along every axis."""
        return cls(size_ranges=tuple(_box_range(int(length)) for length in patch_size))

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Rectangle, ...] | None:
        """Draw the boxes of each chosen channel; they lie within the patch."""
        rectangles = []
        for channel in draw_channels(random, shape[0], self.channel_probability):
            for _ in range(int(random.integers(*self.counts))):
                size = tuple(int(random.integers(low, high)) for low, high in self.size_ranges)
                start = tuple(int(random.integers(n - s + 1)) for n, s in zip(shape[1:], size, strict=True))
                rectangles.append(Rectangle(channel, start, size))
        return tuple(rectangles) or None

    def apply(self, sample: Sample, parameters: tuple[Rectangle, ...]) -> Sample:
        """Fill the boxes one after the other; where they overlap, the later mean includes the earlier."""
        for box in parameters:
            region = tuple(slice(start, start + size) for start, size in zip(box.start, box.size, strict=True))
            part = sample.image[box.channel][region]
            part.copy_(part.mean())
        return sample


def _box_range(length: int) -> tuple[int, int]:
    low = max(1, length // 10)
    return low, max(length // 3, low + 1)


@dataclass(frozen=True, slots=True)
class Offset:
    """An added constant for one channel."""

    channel: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveBrightness(SameShape):
    """Add a normally distributed constant to some channels.

    Attributes:
        std: Standard deviation of the constant; its mean is 0.
        channel_probability: Share of channels.
    """

    std: float = 0.5
    channel_probability: float = 0.5

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Offset, ...] | None:
        """Draw one constant for each chosen channel."""
        channels = draw_channels(random, shape[0], self.channel_probability)
        return tuple(Offset(channel, float(random.normal(0, self.std))) for channel in channels) or None

    def apply(self, sample: Sample, parameters: tuple[Offset, ...]) -> Sample:
        """Add the constants."""
        for offset in parameters:
            sample.image[offset.channel].add_(offset.value)
        return sample
