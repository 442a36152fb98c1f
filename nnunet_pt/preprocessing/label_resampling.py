"""Resizing of label maps and of class scores to label maps, exactly and without one pass per label.

nnU-Net resizes a label map by interpolating the indicator of each label linearly and taking the label with the largest
value. A new voxel's value can only come from the at most eight old voxels around it, so it is enough to let those eight
vote with their interpolation weights: no work per label, and none at all where the eight agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.preprocessing.interpolation import (
    MatrixBlock,
    in_threads,
    linear_neighbours,
    matrix_blocks,
    nearest_index,
    working_type,
)

Labels = NDArray[Any]

# A label with more than half of the weight has won; the margin is far above rounding and far below any real difference.
_CLEAR_MAJORITY = 0.5 + 1e-9
_SLAB_VOXELS = 1 << 17
_VOTES_AT_ONCE = 1 << 16
_SCORE_BLOCK = (32, 64, 64)
_SCORE_MARGIN = 1e-5


def nearest_labels(labels_xyz: Labels, new_shape: Sequence[int]) -> Labels:
    """Resize a label map by taking the nearest old voxel."""
    for axis, size in enumerate(new_shape):
        if labels_xyz.shape[axis] != size:
            labels_xyz = labels_xyz.take(nearest_index(labels_xyz.shape[axis], size), axis=axis)
    return labels_xyz


class _Axis(NamedTuple):
    """What the voxels of one new axis need to know about the old one."""

    lower: NDArray[np.intp]  # index of the lower neighbour
    step: NDArray[np.intp]  # 1, or 0 where the upper neighbour is the same voxel
    weights: NDArray[np.float64]  # (2, new): of the lower and of the upper neighbour
    nearest: NDArray[np.intp]


def _axis(size: int, new_size: int) -> _Axis:
    lower, upper, fraction = linear_neighbours(size, new_size)
    return _Axis(lower, upper - lower, np.stack([1 - fraction, fraction]), nearest_index(size, new_size))


def vote_labels(labels_xyz: Labels, new_shape: Sequence[int], *, threads: int = 1) -> Labels:
    """Resize a label map: each label's indicator interpolated linearly, the largest wins.

    Equal to nnU-Net with batchgenerators 0.25.5: among labels with exactly the same largest value the label of the
    nearest old voxel wins, else the smallest. Values are summed in the order in which scipy sums them, so that ties are
    ties here too.

    Args:
        labels_xyz: Label map of an integer type, any number of axes.
        new_shape: New extents; axes that keep their extent are left alone.
        threads: Number of threads.

    Returns:
        Label map of the same type.
    """
    active = [a for a in range(labels_xyz.ndim) if labels_xyz.shape[a] != new_shape[a]]
    if not active:
        return labels_xyz
    source = np.ascontiguousarray(labels_xyz)
    axes = [_axis(n, m) for n, m in zip(source.shape, new_shape, strict=True)]
    mixed = _mixed_cells(source, active)
    result = np.empty(tuple(new_shape), dtype=source.dtype)
    planes = max(1, min(_SLAB_VOXELS // max(1, math.prod(new_shape[1:])), -(-new_shape[0] // threads)))

    def resize_slab(start: int) -> None:
        rows = slice(start, min(start + planes, new_shape[0]))
        part = [_Axis(axes[0].lower[rows], axes[0].step[rows], axes[0].weights[:, rows], axes[0].nearest[rows])]
        _vote(source, mixed, part + axes[1:], active, result[rows])

    with ThreadPoolExecutor(max_workers=threads) as pool:
        list(pool.map(resize_slab, range(0, new_shape[0], planes)))
    return result


def _mixed_cells(source: Labels, active: Sequence[int]) -> NDArray[np.bool_]:
    """For each old voxel whether it and its upper neighbours along the active axes differ in label."""
    low, high = source, source
    for axis in active:
        low, high = np.minimum(low, _shifted(low, axis)), np.maximum(high, _shifted(high, axis))
    return np.asarray(low != high)


def _shifted(values: Labels, axis: int) -> Labels:
    """The upper neighbour of each voxel along an axis; the last voxel is its own."""
    last = values.shape[axis] - 1
    return np.asarray(values.take(np.minimum(np.arange(last + 1) + 1, last), axis=axis))


def _gather(values: NDArray[Any], indices: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
    for axis, index in enumerate(indices):
        values = values.take(index, axis=axis)
    return values


def _vote(source: Labels, mixed: NDArray[np.bool_], axes: list[_Axis], active: list[int], out: Labels) -> None:
    """Fill ``out``: copy where the neighbours agree, let them vote elsewhere."""
    lowers = [axis.lower for axis in axes]
    out[...] = _gather(source, lowers)
    contested = np.flatnonzero(_gather(mixed, lowers))
    for start in range(0, len(contested), _VOTES_AT_ONCE):  # a single plane may be large
        part = contested[start : start + _VOTES_AT_ONCE]
        out.ravel()[part] = _elect(source, axes, active, np.unravel_index(part, out.shape))


def _elect(source: Labels, axes: list[_Axis], active: list[int], where: Sequence[NDArray[np.intp]]) -> Labels:
    """The winners at some voxels, given by one array of indices for each axis."""
    number = len(where[0])
    strides = [math.prod(source.shape[a + 1 :]) for a in range(source.ndim)]
    flat = source.ravel()
    base = np.zeros(number, dtype=np.intp)
    nearest = np.zeros(number, dtype=np.intp)
    for axis, index, stride in zip(axes, where, strides, strict=True):
        base += (axis.lower * stride).take(index)
        nearest += (axis.nearest * stride).take(index)
    # Corners in C order, each with its position and the product of its weights, grown axis by axis
    corners: list[tuple[NDArray[np.intp], NDArray[np.float64] | None]] = [(base, None)]
    for a in active:
        step = (axes[a].step * strides[a]).take(where[a])
        lower_weight, upper_weight = (w.take(where[a]) for w in axes[a].weights)
        corners = [
            (position + step if upper else position, factor if weight is None else weight * factor)
            for position, weight in corners
            for upper, factor in ((False, lower_weight), (True, upper_weight))
        ]
    votes = np.empty((len(corners), number))
    labels = np.empty((len(corners), number), dtype=source.dtype)
    favourite = flat.take(nearest)
    score = np.zeros(number)
    for k, (position, weight) in enumerate(corners):
        flat.take(position, out=labels[k])
        votes[k] = weight
        score += votes[k] * (labels[k] == favourite)
    winner = favourite.copy()
    open_ = np.flatnonzero(score <= _CLEAR_MAJORITY)
    if len(open_):
        winner[open_] = _count_votes(labels[:, open_], votes[:, open_], favourite[open_], score[open_])
    return winner


def _count_votes(labels: Labels, votes: NDArray[np.float64], favourite: Labels, favourite_score: Any) -> Labels:
    """The label with the largest sum of votes in each column; ties go to the favourite, else to the smallest label."""
    best_score, winner = favourite_score.copy(), favourite.copy()
    for candidate in labels:
        score = np.zeros(len(winner))
        for label, vote in zip(labels, votes, strict=True):
            score += vote * (label == candidate)
        better = (score > best_score) | ((score == best_score) & (winner != favourite) & (candidate < winner))
        best_score[better], winner[better] = score[better], candidate[better]
    return winner


def scores_to_labels(
    scores_cxyz: NDArray[Any],
    new_shape: Sequence[int],
    orders: Sequence[int],
    *,
    threads: int = 1,
    dtype: Any = np.uint8,
) -> Labels:
    """Resize class scores by interpolation of order 0 or 1 and keep only the best class of each voxel.

    Works through blocks of the new grid and never holds more than a block of resized scores for each thread. In each
    block the classes come in order of their mean; one whose largest old score is below the smallest winning score so
    far cannot win and is left out, so the cost hardly grows with the number of classes.

    Args:
        scores_cxyz: Probabilities or logits, one channel for each class; float16 scores are rounded to float16 after
            the interpolation, as if they had been resized as a whole.
        new_shape: New extents.
        orders: Interpolation order of each axis, 0 or 1.
        threads: Number of threads.
        dtype: Integer type of the result.

    Returns:
        Index of the class with the largest score; the first of equals.
    """
    shape = scores_cxyz.shape[1:]
    working = working_type(scores_cxyz.dtype)
    result = np.empty(tuple(new_shape), dtype=dtype)
    parts = [
        list(matrix_blocks(size, new_size, order, working, length))
        for size, new_size, order, length in zip(shape, new_shape, orders, _SCORE_BLOCK, strict=True)
    ]

    def fill(block: tuple[MatrixBlock, ...]) -> None:
        old = tuple(p.columns for p in block)
        new = tuple(p.rows for p in block)
        result[new] = _best_class(scores_cxyz[(slice(None), *old)], block, working, dtype)

    in_threads(fill, itertools.product(*parts), threads)
    return result


def _best_class(scores_cxyz: NDArray[Any], block: tuple[MatrixBlock, ...], working: Any, dtype: Any) -> Labels:
    """The classes one by one: a block of all of them in the working type would be large if there are many."""
    highest = np.array([scores.max() for scores in scores_cxyz], working)
    highest += np.abs(highest) * _SCORE_MARGIN
    order = np.argsort([-scores.mean(dtype=working) for scores in scores_cxyz], kind="stable")
    best = winner = None
    for c in order:
        if best is not None and highest[c] < best.min():
            continue
        value = _interpolate(np.ascontiguousarray(scores_cxyz[c], working), block)
        if scores_cxyz.dtype == np.float16:
            value = value.astype(np.float16).astype(value.dtype)
        if best is None or winner is None:
            best, winner = value, np.full(value.shape, c, dtype=dtype)
            continue
        better = (value > best) | ((value == best) & (c < winner))
        np.copyto(best, value, where=better)
        winner[better] = c
    assert winner is not None  # there is at least one class
    return winner


def _interpolate(volume: NDArray[Any], block: tuple[MatrixBlock, ...]) -> NDArray[Any]:
    first, second, third = (part.weights for part in block)
    x, y, z = volume.shape
    volume = (first @ volume.reshape(x, y * z)).reshape(-1, y, z)
    volume = np.matmul(second, volume)
    return np.asarray(volume.reshape(-1, z) @ third.T).reshape(volume.shape[0], volume.shape[1], -1)
