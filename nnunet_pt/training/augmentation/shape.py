"""Quarter turns and exchanges of axes: lossless changes of orientation among axes of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnunet_pt.training.augmentation.base import SameShape, Sample, Shape


def equal_axes(patch_size: Sequence[int]) -> tuple[int, ...]:
    """The axes that may be exchanged without changing the patch's shape.

    Args:
        patch_size: Voxels along every spatial axis.

    Returns:
        The axes that share the most frequent length; empty if all lengths differ.
    """
    lengths = [int(length) for length in patch_size]
    most_frequent = max(lengths, key=lengths.count)
    axes = tuple(axis for axis, length in enumerate(lengths) if length == most_frequent)
    return axes if len(axes) > 1 else ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A rotation by ``quarters`` times 90 degrees from the first axis towards the second."""

    quarters: int
    axes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class QuarterTurns(SameShape):
    """Rotate by 0 to 3 quarter turns in the plane of two random axes.

    Attributes:
        axes: Spatial axes of equal length, at least two.
    """

    axes: tuple[int, ...]

    def sample(self, random: np.random.Generator, shape: Shape) -> Turn:
        """Draw the plane and the number of turns."""
        del shape
        first, second = (int(a) for a in random.choice(self.axes, 2, replace=False))
        return Turn(int(random.integers(4)), (min(first, second), max(first, second)))

    def apply(self, sample: Sample, parameters: Turn) -> Sample:
        """Rotate image and segmentation."""
        axes = [axis + 1 for axis in parameters.axes]
        sample.image = sample.image.rot90(parameters.quarters, axes)
        sample.segmentation = sample.segmentation.rot90(parameters.quarters, axes)
        return sample


@dataclass(frozen=True, slots=True)
class Order:
    """New order of the spatial axes: axis i of the result is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExchangeAxes(SameShape):
    """Bring some of the spatial axes into a random order, the old one included.

    Attributes:
        axes: Spatial axes of equal length.
    """

    axes: tuple[int, ...]

    def sample(self, random: np.random.Generator, shape: Shape) -> Order:
        """Draw the order."""
        order = list(range(len(shape) - 1))
        for axis, source in zip(self.axes, random.permutation(self.axes), strict=True):
            order[axis] = int(source)
        return Order(tuple(order))

    def apply(self, sample: Sample, parameters: Order) -> Sample:
        """Exchange the axes of image and segmentation."""
        sample.image = _reordered(sample.image, parameters.axes)
        sample.segmentation = _reordered(sample.segmentation, parameters.axes)
        return sample


def _reordered(tensor_cxyz: Tensor, axes: tuple[int, ...]) -> Tensor:
    # A copy in the usual memory order: everything after this step would be slower on a strided view.
    return tensor_cxyz.permute(0, *(axis + 1 for axis in axes)).contiguous()
