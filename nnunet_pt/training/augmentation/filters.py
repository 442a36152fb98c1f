"""Neighbourhood filters: median and sharpening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.ndimage import median_filter as scipy_median_filter
from torch import Tensor

from nnunet_pt.training.augmentation.base import SameShape, Sample, Shape, draw_channels

HALVINGS = 12
"""Of the interval that holds the median: to 1/4096 of the window's range."""
PIECE = 1 << 16
"""Voxels handled at once, so that temporary arrays stay in the cache."""
FEWEST_TO_HALVE = 10
"""Values in a window from which on this pays; scipy sorts fewer as fast."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Filtered:
    """What happens to one channel: the edge of the median's window in voxels, or the strength of the sharpening."""

    channel: int
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianFilter(SameShape):
    """Replace each voxel of some channels with the median of a cube around it.

    Attributes:
        sizes: Smallest edge in voxels, and the one before which the largest ends.
        channel_probability: Share of channels.
    """

    sizes: tuple[int, int] = (2, 8)
    channel_probability: float = 0.5

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Filtered, ...] | None:
        """Draw a size for each chosen channel."""
        channels = draw_channels(random, shape[0], self.channel_probability)
        return tuple(Filtered(channel, int(random.integers(*self.sizes))) for channel in channels) or None

    def apply(self, sample: Sample, parameters: tuple[Filtered, ...]) -> Sample:
        """Filter the channels."""
        for chosen in parameters:
            sample.image[chosen.channel] = median_filter(sample.image[chosen.channel], int(chosen.amount))
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpening(SameShape):
    """Subtract a multiple of the Laplacian from some channels.

    Attributes:
        strengths: Range of the factor.
        channel_probability: Share of channels.
    """

    strengths: tuple[float, float] = (0.1, 1.0)
    channel_probability: float = 0.5

    def sample(self, random: np.random.Generator, shape: Shape) -> tuple[Filtered, ...] | None:
        """Draw a strength for each chosen channel."""
        channels = draw_channels(random, shape[0], self.channel_probability)
        return tuple(Filtered(channel, float(random.uniform(*self.strengths))) for channel in channels) or None

    def apply(self, sample: Sample, parameters: tuple[Filtered, ...]) -> Sample:
        """Sharpen the channels."""
        for chosen in parameters:
            sample.image[chosen.channel] = sharpen(sample.image[chosen.channel], chosen.amount)
        return sample


def sharpen(image_xyz: Tensor, strength: float) -> Tensor:
    """Subtract ``strength`` times the discrete Laplacian (4 or 6 neighbours, edge voxels repeated outside)."""
    sharp = image_xyz.clone()
    for axis, length in enumerate(image_xyz.shape):
        # A neighbour beyond the edge equals the edge voxel, so each pair of neighbours counts once for either side.
        step = image_xyz.diff(dim=axis).mul_(strength)
        sharp.narrow(axis, 0, length - 1).sub_(step)
        sharp.narrow(axis, 1, length - 1).add_(step)
    return sharp


def median_filter(image_xyz: Tensor, size: int) -> Tensor:
    """The median of a cube around each voxel, as ``scipy.ndimage.median_filter`` defines it, on any device.

    Args:
        image_xyz: Any number of spatial axes, float32.
        size: Edge of the cube in voxels. With an even size there is one more voxel on the low side, and the larger of
            the two middle values is taken. Beyond its edges the image is mirrored, the edge voxel being repeated.

    Returns:
        Same shape. On the CPU up to 1/4096 of the window's range above the median, see :func:`_medians_by_halving`.
    """
    if image_xyz.device.type != "cpu":
        return _medians_by_selection(image_xyz, size)
    few = size**image_xyz.ndim < FEWEST_TO_HALVE
    image = image_xyz.contiguous().numpy()
    return torch.from_numpy(scipy_median_filter(image, size) if few else _medians_by_halving(image, size))


def _medians_by_selection(image_xyz: Tensor, size: int) -> Tensor:
    """Medians as a GPU finds them best."""
    for axis, length in enumerate(image_xyz.shape):
        positions = torch.arange(-(size // 2), length + size - 1 - size // 2, device=image_xyz.device)
        positions = positions.remainder(2 * length)
        image_xyz = image_xyz.index_select(axis, torch.minimum(positions, 2 * length - 1 - positions))
    for axis in range(image_xyz.ndim):
        image_xyz = image_xyz.unfold(axis, size, 1)
    axes = image_xyz.ndim // 2
    rank = size**axes // 2 + 1
    # Slice by slice: the windows of a whole patch would take hundreds of times its memory.
    return torch.stack([windows.flatten(axes - 1).kthvalue(rank).values for windows in image_xyz])


def _medians_by_halving(image_xyz: FloatArray, size: int) -> FloatArray:
    """Medians without sorting, several times faster than scipy's for large windows.

    The interval that holds the median is halved for all voxels at once, by counting how many values of the window are
    not above its middle. Then the largest value of the window that is not above the interval's upper end is taken:
    the median itself, unless the last interval holds larger values, too.
    """
    before, after = size // 2, size - 1 - size // 2
    padded = np.pad(image_xyz, [(before, after)] * image_xyz.ndim, mode="symmetric")
    # Voxel p of the image is the centre of the window whose first voxel is p in the padded image. There all windows
    # are the same shift of flat positions, so their values are read as slices, in pieces that stay in the cache.
    offsets = [int(np.ravel_multi_index(steps, padded.shape)) for steps in np.ndindex(*[size] * padded.ndim)]
    inside = tuple(slice(0, length) for length in image_xyz.shape)
    low, high, medians = (np.zeros(padded.shape, np.float32) for _ in range(3))
    low[inside], high[inside] = minimum_filter(image_xyz, size), maximum_filter(image_xyz, size)
    values, flat_low, flat_high, flat_medians = (array.reshape(-1) for array in (padded, low, high, medians))
    end = values.size - offsets[-1]
    for start in range(0, end, PIECE):
        piece = slice(start, min(start + PIECE, end))
        windows = values[start : piece.stop + offsets[-1]]
        flat_medians[piece] = _piece_of_medians(windows, offsets, flat_low[piece], flat_high[piece])
    return medians[inside]


def _piece_of_medians(values: FloatArray, offsets: list[int], low: FloatArray, high: FloatArray) -> FloatArray:
    length = low.size
    below = np.empty(length, np.bool_)
    few = np.empty(length, np.uint8)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        count = np.zeros(length, np.uint16)
        for first in range(0, len(offsets), 255):  # as many as a byte can count
            few[:] = 0
            for offset in offsets[first : first + 255]:
                np.less_equal(values[offset : offset + length], middle, out=below)
                np.add(few, below.view(np.uint8), out=few)
            count += few
        enough = count > len(offsets) // 2
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    # The smallest distance below the upper end. Read as whole numbers, floats from zero on keep their order and
    # negative ones (values above the end) are larger than all others.
    distance = np.empty(length, np.float32)
    smallest = np.full(length, np.iinfo(np.uint32).max, np.uint32)
    for offset in offsets:
        np.subtract(high, values[offset : offset + length], out=distance)
        np.minimum(smallest, distance.view(np.uint32), out=smallest)
    return high - smallest.view(np.float32)
