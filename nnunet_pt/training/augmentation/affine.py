"""Sampling images and segmentations at the points of an affine grid.

Output voxel i takes its value from position ``matrix @ i + offset`` of the source, in voxels. The work is done in
pieces that fit into a CPU's cache (all at once on a GPU), by plain indexing: several times faster on a CPU than
``torch.nn.functional.grid_sample``, which handles one voxel after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.training.augmentation.base import Shape, slices_at_once

UNDECIDED = -32767
"""Marks cells whose corners differ; no label of an int16 segmentation."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class AffineGrid:
    """Positions in a source for every voxel of an output.

    Attributes:
        matrix: Voxels of the source per voxel of the output, row by row.
        offset: Position of the output's first voxel.
        shape: Spatial shape of the output.
    """

    matrix: Matrix
    offset: tuple[float, ...]
    shape: Shape

    @classmethod
    def centred(cls, matrix: Matrix, source: Sequence[int], output: Sequence[int]) -> AffineGrid:
        """The grid whose centre is the centre of the source."""
        middle = (np.array(source) - 1) / 2 - np.array(matrix) @ ((np.array(output) - 1) / 2)
        return cls(matrix, tuple(float(v) for v in middle), tuple(output))

    @property
    def is_scaling(self) -> bool:
        """Whether each axis of the output runs along the same axis of the source."""
        return all(value == 0 for i, row in enumerate(self.matrix) for k, value in enumerate(row) if i != k)

    def line(self, axis: int, device: torch.device) -> Tensor:
        """Positions along one axis of the source, for a grid that only scales."""
        steps = torch.arange(self.shape[axis], dtype=torch.float32, device=device)
        return steps.mul_(self.matrix[axis][axis]).add_(self.offset[axis])

    def bounds(self) -> list[tuple[float, float]]:
        """Smallest and largest position along each axis."""
        result = []
        for row, start in zip(self.matrix, self.offset, strict=True):
            ends = [factor * (n - 1) for factor, n in zip(row, self.shape, strict=True)]
            result.append((start + sum(min(0.0, e) for e in ends), start + sum(max(0.0, e) for e in ends)))
        return result

    def pieces(self, device: torch.device) -> Iterator[tuple[slice, list[Tensor]]]:
        """Rows of the output and the positions of their voxels, one tensor for each axis of the source."""
        rows = slices_at_once(math.prod(self.shape[1:]), device)
        steps = [torch.arange(n, dtype=torch.float32, device=device) for n in self.shape]
        for first in range(0, self.shape[0], rows):
            piece = slice(first, min(first + rows, self.shape[0]))
            yield piece, [self._positions(axis, piece, steps) for axis in range(len(self.shape))]

    def _positions(self, axis: int, piece: slice, steps: list[Tensor]) -> Tensor:
        row = self.matrix[axis]
        position = steps[-1] * row[-1]
        for k in range(len(row) - 2, 0, -1):
            position = (steps[k] * row[k]).view(-1, *[1] * position.ndim) + position
        return (steps[0][piece] * row[0] + self.offset[axis]).view(-1, *[1] * position.ndim) + position


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of a source that a grid touches, with padding where the grid leaves the source.

    Attributes:
        voxels: (channels, *box), contiguous.
        origin: Position of the box's first voxel in the source.
        limits: Along each axis the range of positions to which all others are moved; ``None`` if there are none.
    """

    voxels: Tensor
    origin: tuple[int, ...]
    limits: tuple[tuple[float, float] | None, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        return self.voxels.stride()[1:]

    def flatten(self) -> Tensor:
        return self.voxels.view(self.voxels.shape[0], -1)

    def local(self, positions: list[Tensor]) -> list[Tensor]:
        """Positions in the box; overwrites its argument."""
        for position, start, limits in zip(positions, self.origin, self.limits, strict=True):
            if limits is not None:
                position.clamp_(*limits)
            if start:
                position.sub_(start)
        return positions

    def index(self, whole_positions: list[Tensor]) -> Tensor:
        """Flat indices (int32) of positions without a fraction."""
        result = whole_positions[0].int().mul_(self.strides[0])
        for position, stride in zip(whole_positions[1:], self.strides[1:], strict=True):
            result.add_(position.int(), alpha=stride)
        return result.view(-1)

    def corners(self) -> list[int]:
        """Flat distances from a voxel to the corners of the cell that begins there, the last axis changing first."""
        return [sum(a * b for a, b in zip(c, self.strides, strict=True)) for c in _corners(len(self.strides))]


def _corners(dims: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=dims))


def _box(source: Tensor, grid: AffineGrid, fill: float, *, whole: bool) -> _Box:
    """The box a grid needs.

    Args:
        source: (channels, *spatial).
        grid: The positions.
        fill: Value of the padding: one voxel before and two behind are enough for positions moved to the limits.
        whole: Take the source as it is, without a copy, if the grid stays inside.
    """
    size = source.shape[1:]
    bounds = grid.bounds()
    # Positions are computed in float32: a margin keeps their rounding errors within the box
    inside = all(low >= 0.01 and high <= n - 1.01 for (low, high), n in zip(bounds, size, strict=True))
    if whole and inside:
        return _Box(source.contiguous(), (0,) * len(size), (None,) * len(size))
    lower, upper = [], []
    for (low, high), n in zip(bounds, size, strict=True):
        lower.append(min(max(-1, math.floor(low - 0.01)), n))
        upper.append(min(max(-1, math.floor(high + 0.01)), n) + 2)
    shape = [u - low for low, u in zip(lower, upper, strict=True)]
    voxels = source.new_full((source.shape[0], *shape), fill)
    inner = [(max(0, low), min(n, u)) for low, u, n in zip(lower, upper, size, strict=True)]
    if all(a < b for a, b in inner):
        target = tuple(slice(a - low, b - low) for (a, b), low in zip(inner, lower, strict=True))
        voxels[(slice(None), *target)] = source[(slice(None), *(slice(a, b) for a, b in inner))]
    limits = tuple(
        None if low >= 0 and high <= n - 1 else (-1.0, float(n)) for (low, high), n in zip(bounds, size, strict=True)
    )
    return _Box(voxels, tuple(lower), limits)


def sample_linear(image_cxyz: Tensor, grid: AffineGrid) -> Tensor:
    """Linear interpolation with zeros outside.

    Args:
        image_cxyz: (channels, *spatial) float32.
        grid: Where to sample.

    Returns:
        (channels, *grid.shape) float32.
    """
    box = _box(image_cxyz, grid, 0.0, whole=True)
    if grid.is_scaling:
        return _linear_along_axes(box, grid)
    flat = box.flatten()
    result = image_cxyz.new_empty(image_cxyz.shape[0], *grid.shape)
    length = flat.shape[1] - max(box.corners())
    corners = [[channel.narrow(0, start, length) for start in box.corners()] for channel in flat]
    for piece, positions in grid.pieces(image_cxyz.device):
        box.local(positions)
        floors = [p.floor() for p in positions]
        fractions = [p.sub_(f).view(-1) for p, f in zip(positions, floors, strict=True)]
        index = box.index(floors)
        for channel, target in zip(corners, result, strict=True):
            values = [corner.index_select(0, index) for corner in channel]
            for fraction in reversed(fractions):
                values = [torch.lerp(a, b, fraction) for a, b in zip(values[::2], values[1::2], strict=True)]
            target[piece].copy_(values[0].view(target[piece].shape))
    return result


def _linear_along_axes(box: _Box, grid: AffineGrid) -> Tensor:
    """Linear interpolation where each axis can be interpolated by itself: half the time."""
    device = box.voxels.device
    lines = box.local([grid.line(axis, device) for axis in range(len(grid.shape))])
    floors = [line.floor() for line in lines]
    fractions = [line - floor for line, floor in zip(lines, floors, strict=True)]
    lower = [floor.long() for floor in floors]
    result = box.voxels.new_empty(box.voxels.shape[0], *grid.shape)
    rows = slices_at_once(box.voxels[0, 0].numel(), device)
    for channel, target in zip(box.voxels, result, strict=True):
        for first in range(0, grid.shape[0], rows):
            values, piece = channel, slice(first, first + rows)
            for axis, (index, fraction) in enumerate(zip(lower, fractions, strict=True)):
                if axis == 0:
                    index, fraction = index[piece], fraction[piece]
                before, after = values.index_select(axis, index), values.index_select(axis, index + 1)
                values = torch.lerp(before, after, fraction.view(-1, *[1] * (values.ndim - 1 - axis)))
            target[piece].copy_(values)
    return result


def sample_nearest(array_cxyz: Tensor, grid: AffineGrid, fill: float) -> Tensor:
    """The value of the nearest voxel, ``fill`` outside.

    Args:
        array_cxyz: (channels, *spatial) of any type.
        grid: Where to sample.
        fill: The value outside.

    Returns:
        (channels, *grid.shape) of the same type.
    """
    box = _box(array_cxyz, grid, fill, whole=True)
    result = array_cxyz.new_empty(array_cxyz.shape[0], *grid.shape)
    for piece, positions in grid.pieces(array_cxyz.device):
        index = box.index([p.round_() for p in box.local(positions)])
        for channel, target in zip(box.flatten(), result, strict=True):
            target[piece].copy_(channel.index_select(0, index).view(target[piece].shape))
    return result


def sample_labels(segmentation_cxyz: Tensor, grid: AffineGrid, fill: int) -> Tensor:
    """The label with the largest weight when each label's mask is interpolated linearly.

    Almost everywhere the corners of the cell around a position agree. Such cells are found once, in the source; only
    the positions in the other cells need a vote, in which the corners count with their interpolation weights. As in
    nnU-Net, what is outside takes part with the label ``fill``, weights are compared in half precision, and ties go to
    the nearest voxel's label, else to the smallest one.

    Args:
        segmentation_cxyz: (channels, *spatial) of integers.
        grid: Where to sample.
        fill: The label outside.

    Returns:
        (channels, *grid.shape) of the same type.
    """
    box = _box(segmentation_cxyz, grid, fill, whole=False)
    flat, cells = box.flatten(), _uniform_cells(box.voxels).flatten(1)
    corners = torch.tensor(box.corners(), device=flat.device, dtype=torch.int32)[:, None]
    result = segmentation_cxyz.new_empty(segmentation_cxyz.shape[0], *grid.shape)
    for piece, positions in grid.pieces(segmentation_cxyz.device):
        positions = box.local(positions)
        index = box.index([p.floor() for p in positions])
        for channel, channel_cells, target in zip(flat, cells, result, strict=True):
            labels = channel_cells.index_select(0, index)
            mixed = (labels == UNDECIDED).nonzero().view(-1)
            if len(mixed):
                around = channel.index_select(0, (index.index_select(0, mixed) + corners).view(-1))
                votes = around.view(len(corners), -1)
                labels[mixed] = _vote(votes, [p.view(-1).index_select(0, mixed) for p in positions])
            target[piece].copy_(labels.view(target[piece].shape))
    return result


def _uniform_cells(voxels: Tensor) -> Tensor:
    """For every voxel, the label of the cell that begins there if all its corners agree, else ``UNDECIDED``.

    The last voxel along each axis begins no cell; what stands there means nothing.
    """
    cells = torch.empty_like(voxels)
    rows = slices_at_once(voxels[:, 0].numel(), voxels.device)
    for first in range(0, voxels.shape[1] - 1, rows):
        lowest = highest = voxels[:, first : first + rows + 1]
        for axis in range(1, voxels.ndim):
            n = lowest.shape[axis] - 1
            lowest = torch.minimum(lowest.narrow(axis, 0, n), lowest.narrow(axis, 1, n))
            highest = torch.maximum(highest.narrow(axis, 0, n), highest.narrow(axis, 1, n))
        target = cells[(slice(None), slice(first, first + lowest.shape[1]), *(slice(n) for n in lowest.shape[2:]))]
        # Arithmetic in place of torch.where, which is ten times slower on a CPU
        equal = torch.eq(lowest, highest, out=torch.empty_like(lowest))
        target.copy_(lowest.mul(equal)).add_(equal.sub_(1), alpha=-UNDECIDED)
    return cells


def _vote(labels: Tensor, positions: list[Tensor]) -> Tensor:
    """Decide between the labels (corners, n) of cells by their weights at n positions."""
    fractions = [p - p.floor() for p in positions]
    nearer = [p.round().sub_(p.floor()).long() for p in positions]
    weights = torch.ones((1, 1), device=labels.device)
    nearest = torch.zeros_like(nearer[0])
    for fraction, upper in zip(fractions, nearer, strict=True):
        pair = torch.stack([1 - fraction, fraction])
        weights = (weights[:, None] * pair).view(-1, pair.shape[1])
        nearest = 2 * nearest + upper
    # Half precision of a thousandfold weight is what nnU-Net compares; it makes ties of almost equal weights;
    # and comparing into numbers saves the conversion of truth values, which would take most of the time
    numbers = labels.float()
    own = [torch.eq(numbers, label, out=torch.empty_like(numbers)).mul_(weights).sum(0) for label in numbers]
    scores = torch.stack(own).mul_(1000).half().float()
    best = scores.amax(0)
    smallest = labels.masked_fill(scores < best, torch.iinfo(labels.dtype).max).amin(0)
    nearest = nearest[None]
    return torch.where(scores.gather(0, nearest)[0] == best, labels.gather(0, nearest)[0], smallest)
