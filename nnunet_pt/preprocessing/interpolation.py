"""Interpolation between regular grids, as small matrices applied axis by axis.

nnU-Net resizes with ``skimage.transform.resize(mode="edge", anti_aliasing=False)``, that is
``scipy.ndimage.zoom(mode="nearest", grid_mode=True)``. On a regular grid that operation is linear and separable: spline
prefilter, border handling and interpolation of one axis together are one matrix of shape (new, old), and a volume is
resized by one matrix product per axis. The matrices are banded (a cubic spline's response decays by 0.27 per voxel), so
the products are made block by block with only the columns that matter. How the work is cut into pieces depends on the
shapes alone, and each piece is computed by one thread, so that the number of threads does not change a single bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]

# scipy extends a "nearest" border by 12 voxels before it prefilters; 0.27 ** 12 is 1e-7
_PREFILTER_PADDING = 12
_NEGLIGIBLE_WEIGHT = 1e-9
_REACH = 64  # old voxels further away have no influence: the pole of the quintic spline, 0.43 ** 64, is 1e-23
_ROWS_PER_BLOCK = 48
_PIECE_VALUES = 1 << 19


def grid_coordinates(size: int, new_size: int) -> NDArray[np.float64]:
    """Where the centres of ``new_size`` voxels lie on a grid of ``size`` voxels that spans the same extent.

    Coordinates are in old voxels, 0 being the centre of the first voxel. The arithmetic is that of
    ``scipy.ndimage.zoom(grid_mode=True)``, since ties are decided by the last bit.
    """
    return (np.arange(new_size, dtype=np.float64) + 0.5) * (size / new_size) - 0.5


def nearest_index(size: int, new_size: int) -> NDArray[np.intp]:
    """For each new voxel the old voxel nearest to its centre; halves go up."""
    coordinates = np.clip(grid_coordinates(size, new_size), 0, size - 1)
    return np.floor(coordinates + 0.5).astype(np.intp)


def linear_neighbours(size: int, new_size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """For each new voxel the lower and the upper old neighbour and the weight of the upper one.

    Beyond the outermost voxel centres both are the outermost voxel. The weights remain what they would be if the grid
    went on, as in scipy: they add up to one in any case, but products of them are rounded differently.
    """
    coordinates = grid_coordinates(size, new_size)
    lower = np.floor(coordinates)
    below = lower.astype(np.intp)
    return np.maximum(below, 0), np.minimum(below + 1, size - 1), coordinates - lower


def _b_spline(x: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Centred cardinal B-spline of the given order (Unser, IEEE Signal Processing Magazine 1999, equation 4)."""
    total = np.zeros_like(x)
    for k in range(order + 2):
        sign = -1 if k % 2 else 1
        total += sign * math.comb(order + 1, k) * np.maximum(x + (order + 1) / 2 - k, 0) ** order
    return total / math.factorial(order)


class MatrixBlock(NamedTuple):
    """New voxels, the old voxels they depend on, and the weights between them, (new, old)."""

    rows: slice
    columns: slice
    weights: FloatArray


def interpolation_matrix(size: int, new_size: int, order: int) -> NDArray[np.float64]:
    """The matrix that resizes a line of ``size`` values to ``new_size`` by splines of the given order.

    Args:
        size: Old number of voxels.
        new_size: New number of voxels.
        order: Spline order: 0 nearest, 1 linear, 3 cubic (2, 4 and 5 work too).

    Returns:
        Array of shape (new_size, size).
    """
    matrix = np.zeros((new_size, size))
    for rows, columns, weights in matrix_blocks(size, new_size, order, np.float64, _ROWS_PER_BLOCK):
        matrix[rows, columns] = weights
    return matrix


def matrix_blocks(size: int, new_size: int, order: int, dtype: Any, length: int) -> Iterator[MatrixBlock]:
    """The interpolation matrix in blocks of about ``length`` rows, each with only the columns that carry weight."""
    count = max(1, round(new_size / length))
    edges = [round(i * new_size / count) for i in range(count + 1)]
    for low, high in itertools.pairwise(edges):
        yield _matrix_block(size, new_size, order, dtype, slice(low, high))


def _matrix_block(size: int, new_size: int, order: int, dtype: Any, rows: slice) -> MatrixBlock:
    coordinates = grid_coordinates(size, new_size)[rows]
    start = max(0, math.floor(coordinates[0]) - _REACH)
    stop = min(size, math.ceil(coordinates[-1]) + _REACH + 1)
    matrix = np.zeros((len(coordinates), stop - start))
    index = np.arange(len(coordinates))
    if order == 0:
        matrix[index, nearest_index(size, new_size)[rows] - start] = 1
    elif order == 1:
        lower, upper, fraction = (values[rows] for values in linear_neighbours(size, new_size))
        matrix[index, lower - start] = 1 - fraction
        matrix[index, upper - start] += fraction
    else:
        _add_spline_weights(matrix, coordinates - start, order)
    used = np.flatnonzero(np.abs(matrix).max(axis=0) > (_NEGLIGIBLE_WEIGHT if order > 1 else 0))
    first, last = int(used[0]), int(used[-1]) + 1
    weights = np.ascontiguousarray(matrix[:, first:last], dtype=dtype)
    return MatrixBlock(rows, slice(start + first, start + last), weights)


def _add_spline_weights(matrix: NDArray[np.float64], coordinates: NDArray[np.float64], order: int) -> None:
    """The response of the prefiltered spline at each coordinate to a unit impulse at each old voxel."""
    from scipy import ndimage

    # Coordinates are not clamped: the spline runs on into the border
    unit = np.pad(np.eye(matrix.shape[1]), ((_PREFILTER_PADDING, _PREFILTER_PADDING), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(unit, order, axis=0, mode="mirror")  # type: ignore[call-overload]
    first = np.floor(coordinates if order % 2 else coordinates + 0.5).astype(np.intp) - order // 2
    for k in range(order + 1):
        weight = _b_spline(coordinates - (first + k), order)
        matrix += weight[:, None] * coefficients[first + k + _PREFILTER_PADDING]


@lru_cache(maxsize=64)
def _blocks(size: int, new_size: int, order: int, dtype: str) -> tuple[MatrixBlock, ...]:
    return tuple(matrix_blocks(size, new_size, order, dtype, _ROWS_PER_BLOCK))


def resize_axis(array: FloatArray, axis: int, new_size: int, order: int, *, threads: int = 1) -> FloatArray:
    """Resize one axis of a float array.

    Args:
        array: C-contiguous array of float32 or float64.
        axis: Axis to resize.
        new_size: New extent of that axis.
        order: Spline order.
        threads: Number of threads.

    Returns:
        New array of the same type.
    """
    size = array.shape[axis]
    result = np.empty((*array.shape[:axis], new_size, *array.shape[axis + 1 :]), dtype=array.dtype)
    before, after = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
    source, target = array.reshape(before, size, after), result.reshape(before, new_size, after)

    def multiply(piece: tuple[MatrixBlock, slice, slice]) -> None:
        (rows, columns, weights), outer, inner = piece
        if after == 1:
            np.matmul(source[outer, columns, 0], weights.T, out=target[outer, rows, 0])
        else:
            np.matmul(weights, source[outer, columns, inner], out=target[outer, rows, inner])

    inner_length = min(after, max(1, _PIECE_VALUES // _ROWS_PER_BLOCK))
    outer_length = max(1, _PIECE_VALUES // (_ROWS_PER_BLOCK * inner_length))
    in_threads(
        multiply,
        itertools.product(
            _blocks(size, new_size, order, array.dtype.str), _pieces(before, outer_length), _pieces(after, inner_length)
        ),
        threads,
    )
    return result


def _pieces(total: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


def in_threads(function: Callable[[Any], None], pieces: Iterator[Any], threads: int) -> None:
    """Work on independent pieces in threads, each of which uses BLAS without further threads."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(function, pieces):
            pass


def working_type(dtype: Any) -> type[np.floating[Any]]:
    """The type to compute in: float32 for float32.

    Results for float16 are computed in float64: rounded twice, they would now and then differ in the last of few bits.
    """
    return np.float32 if dtype == np.float32 else np.float64


def resize_volume(volume: FloatArray, new_shape: tuple[int, ...], order: int, *, threads: int = 1) -> FloatArray:
    """Resize an array of any number of axes, axes that shrink most first (the cheapest order).

    Args:
        volume: Floating-point array.
        new_shape: One extent for each axis.
        order: Spline order.
        threads: Number of threads.

    Returns:
        Array of :func:`working_type`. It may be the input if nothing changes.
    """
    result = np.ascontiguousarray(volume, dtype=working_type(volume.dtype))
    axes = [a for a in range(volume.ndim) if volume.shape[a] != new_shape[a]]
    for axis in sorted(axes, key=lambda a: new_shape[a] / volume.shape[a]):
        result = resize_axis(result, axis, new_shape[axis], order, threads=threads)
    return result
