"""What every augmentation is made of: samples, transforms, and pipelines of transforms.

Choosing the random parameters of a transform is separated from applying them. Parameters are small frozen dataclasses
that know nothing of the image's content, so they can be drawn in one place and applied in another (a worker on the
CPU, a batch on the GPU), and the same parameters give the same result again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

PIECE = 100_000
"""Voxels that are best handled at once on a CPU, so that temporary arrays stay in its cache."""

ALL = 2**31
"""More slices than there are."""

Shape = tuple[int, ...]
P = TypeVar("P")


@dataclass(slots=True)
class Sample:
    """One training patch on its way through a pipeline.

    Attributes:
        image: (channels, *spatial) float32.
        segmentation: (segmentations, *spatial) int16; channel 1, if there is one, is the previous stage's.
            A transform may exchange it for region channels (uint8).
        targets: What the loss compares with, highest resolution first, each (channels, *spatial); ``None`` until the
            transform that makes them has run.
    """

    image: Tensor
    segmentation: Tensor
    targets: list[Tensor] | None = None


class Transform(Protocol[P]):
    """One step of a pipeline.

    Transforms hold settings only and never change while they are used.
    """

    def sample(self, random: np.random.Generator, shape: Shape) -> P | None:
        """Draw parameters.

        Args:
            random: The only source of randomness. Noise stores a seed drawn from it; choices that need the image's
                content store a uniform number that is mapped to the content by :meth:`apply`.
            shape: (channels, *spatial) of the image as it will arrive.

        Returns:
            The parameters: picklable, frozen, independent of the image's content. ``None``: not applied.
        """
        ...

    def apply(self, sample: Sample, parameters: P) -> Sample:
        """Apply the transform on the device of the sample's tensors.

        The sample is handed over: its tensors may be overwritten and it may be the one that is returned.
        """
        ...

    def output_shape(self, shape: Shape) -> Shape:
        """(channels, *spatial) of the image after this transform, applied or not."""
        ...


class SameShape:
    """Mixin of transforms that keep the image's shape."""

    __slots__ = ()

    def output_shape(self, shape: Shape) -> Shape:
        """The shape as it came."""
        return shape


@dataclass(frozen=True, slots=True)
class Always:
    """Parameters of a transform that has nothing to choose."""


ALWAYS = Always()


class Fixed(SameShape):
    """Mixin of transforms without parameters: they are applied to every sample."""

    __slots__ = ()

    def sample(self, random: np.random.Generator, shape: Shape) -> Always:
        """Nothing to draw."""
        del random, shape
        return ALWAYS


@dataclass(frozen=True, slots=True)
class Sometimes(Generic[P]):
    """Apply a transform to a share of the samples.

    The transform must keep the shape: another one has to know what to do with the samples it is not applied to.

    Attributes:
        probability: The share of samples.
        transform: What is applied to them.
    """

    probability: float
    transform: Transform[P]

    def sample(self, random: np.random.Generator, shape: Shape) -> P | None:
        """The transform's parameters, or ``None`` for the other samples."""
        return self.transform.sample(random, shape) if random.random() < self.probability else None

    def apply(self, sample: Sample, parameters: P) -> Sample:
        """Apply the transform."""
        return self.transform.apply(sample, parameters)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape after the transform."""
        return self.transform.output_shape(shape)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of several transforms, and its parameters."""

    index: int
    parameters: Any


@dataclass(frozen=True, slots=True)
class OneOf:
    """Apply one of several transforms (each equally likely) that keep the shape.

    Attributes:
        transforms: The candidates; one that draws ``None`` leaves the sample as it is.
    """

    transforms: tuple[Transform[Any], ...]

    def sample(self, random: np.random.Generator, shape: Shape) -> Choice | None:
        """Choose a transform and draw its parameters."""
        index = int(random.integers(len(self.transforms)))
        parameters = self.transforms[index].sample(random, shape)
        return None if parameters is None else Choice(index, parameters)

    def apply(self, sample: Sample, parameters: Choice) -> Sample:
        """Apply the chosen transform."""
        return self.transforms[parameters.index].apply(sample, parameters.parameters)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape after the transforms, which is the same for all."""
        return self.transforms[0].output_shape(shape)


class Pipeline:
    """Transforms, one after the other.

    Args:
        transforms: In the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[Transform[Any]]) -> None:
        self.transforms = tuple(transforms)

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Any, ...]:
        """Draw the parameters of all transforms.

        Args:
            random: The only source of randomness.
            shape: (channels, *spatial) of the image as it will be given to :meth:`apply`.

        Returns:
            One entry for each transform, ``None`` where it is not applied.
        """
        parameters = []
        for transform in self.transforms:
            parameters.append(transform.sample(random, shape))
            shape = transform.output_shape(shape)
        return tuple(parameters)

    def apply(self, sample: Sample, parameters: Sequence[Any]) -> Sample:
        """Apply all transforms with the parameters that :meth:`sample` gave.

        Args:
            sample: Handed over: its tensors may be overwritten.
            parameters: One entry for each transform.

        Returns:
            The augmented sample. Its tensors may be views of what was given, so that patches that are only cut out
            are copied once, into their batch.
        """
        with torch.no_grad():
            for transform, chosen in zip(self.transforms, parameters, strict=True):
                if chosen is not None:
                    sample = transform.apply(sample, chosen)
        return sample

    def output_shape(self, shape: Shape) -> Shape:
        """(channels, *spatial) of the image after the whole pipeline."""
        for transform in self.transforms:
            shape = transform.output_shape(shape)
        return shape

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Draw parameters and apply them; the sample is handed over."""
        return self.apply(sample, self.sample(random, tuple(sample.image.shape)))


def slices_at_once(voxels: int, device: torch.device) -> int:
    """How many slices of so many voxels to handle at once: few on a CPU, all there may be on a GPU.

    It changes the speed and not the result.
    """
    return max(1, PIECE // voxels) if device.type == "cpu" else ALL


def draw_channels(random: np.random.Generator, channels: int, probability: float) -> tuple[int, ...]:
    """The channels a transform is applied to, each with the same probability."""
    return tuple(int(c) for c in np.flatnonzero(random.random(channels) < probability))


def draw_around_one(random: np.random.Generator, low: float, high: float) -> float:
    """A factor below one as often as above, though a range like (0.7, 1.5) is not symmetric.

    nnU-Net draws from (low, 1) in half of the cases, if low is below 1, else from (max(low, 1), high).
    """
    if low < 1 and random.random() < 0.5:
        return float(random.uniform(low, 1))
    return float(random.uniform(max(low, 1), high))


def draw_seed(random: np.random.Generator) -> int:
    """A seed for :func:`seeded_generator`, kept as a parameter in place of the noise itself."""
    return int(random.integers(2**63))


def seeded_generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator for noise on a device.

    The same seed gives the same numbers on the same kind of device, others on another kind.
    """
    return torch.Generator(device).manual_seed(seed)
