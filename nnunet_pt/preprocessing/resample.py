"""Resampling functions with the names that plans files use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import PlansError
from nnunet_pt.core.registry import Registry
from nnunet_pt.preprocessing.interpolation import interpolation_matrix, nearest_index, resize_axis, resize_volume
from nnunet_pt.preprocessing.label_resampling import nearest_labels, scores_to_labels, vote_labels

ANISOTROPY_THRESHOLD = 3.0


# Called as f(array_cxyz, new_shape, current_spacing, new_spacing, threads=n, **keyword arguments of the plans)
Resampler = Callable[..., NDArray[Any]]


def compute_new_shape(shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Extents of the same volume at another spacing, at least one voxel; halves are rounded to even."""
    sizes = zip(shape, spacing, new_spacing, strict=True)
    return tuple(max(1, int(np.round(old / new * size))) for size, old, new in sizes)


def separate_axis(
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    force_separate_z: bool | None,
    threshold: float = ANISOTROPY_THRESHOLD,
) -> int | None:
    """The axis that is resampled on its own because slices are thick, if any.

    Args:
        current_spacing: Voxel size now, in mm.
        new_spacing: Voxel size wanted, in mm.
        force_separate_z: Decide by this instead of by the anisotropy.
        threshold: Largest voxel edge over smallest above which a volume counts as anisotropic.

    Returns:
        Axis number, or None if all axes are treated alike; None too if the coarsest spacing occurs on several axes.
    """
    if force_separate_z is not None:
        coarse = current_spacing if force_separate_z else None
    elif max(current_spacing) / min(current_spacing) > threshold:
        coarse = current_spacing
    elif max(new_spacing) / min(new_spacing) > threshold:
        coarse = new_spacing
    else:
        coarse = None
    if coarse is None:
        return None
    coarsest = [axis for axis, value in enumerate(coarse) if value == max(coarse)]
    return coarsest[0] if len(coarsest) == 1 else None


def resample_data_or_seg_to_shape(
    array_cxyz: NDArray[Any],
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = ANISOTROPY_THRESHOLD,
    threads: int = 1,
) -> NDArray[Any]:
    """nnU-Net's default resampling.

    Args:
        array_cxyz: Image, class scores or label map, (channels, x, y, z).
        new_shape: New spatial extents.
        current_spacing: Voxel size now, in mm, in axis order.
        new_spacing: Voxel size afterwards.
        is_seg: Whether it is a label map.
        order: Spline order in general, or within slices if one axis is treated separately.
        order_z: Spline order along a separately treated axis.
        force_separate_z: See :func:`separate_axis`.
        separate_z_anisotropy_threshold: See :func:`separate_axis`.
        threads: Number of threads; it does not change the result.

    Returns:
        Array of the input's type; the input itself if its shape is the new one.
    """
    new_shape = tuple(int(n) for n in new_shape)
    if array_cxyz.shape[1:] == new_shape:
        return array_cxyz
    axis = separate_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    if is_seg:
        integers = _as_integers(array_cxyz)
        resized = [_resize_labels(labels, new_shape, axis, order, order_z, threads) for labels in integers]
        return np.stack(resized).astype(array_cxyz.dtype, copy=False)
    result = np.empty((len(array_cxyz), *new_shape), dtype=array_cxyz.dtype)
    for channel, volume in enumerate(array_cxyz):
        result[channel] = _resize_image(volume, new_shape, axis, order, order_z, threads)
    return result


def _resize_image(
    volume: NDArray[Any], new_shape: tuple[int, ...], axis: int | None, order: int, order_z: int, threads: int
) -> NDArray[Any]:
    if not np.issubdtype(volume.dtype, np.floating):
        volume = volume.astype(np.float64)
    others = tuple(a for a in range(volume.ndim) if a != axis)
    in_plane = tuple(volume.shape[a] if a == axis else new_shape[a] for a in range(volume.ndim))
    resized = resize_volume(volume, in_plane, order, threads=threads)
    if order > 1 and resized is not volume:  # splines overshoot; nnU-Net clips to the range of what it resized at once
        low, high = volume.min(axis=others, keepdims=True), volume.max(axis=others, keepdims=True)
        np.clip(resized, low.astype(resized.dtype), high.astype(resized.dtype), out=resized)
    if axis is None or new_shape[axis] == volume.shape[axis]:
        return resized
    if order_z == 0:
        return resized.take(nearest_index(volume.shape[axis], new_shape[axis]), axis=axis)
    return resize_axis(resized, axis, new_shape[axis], order_z, threads=threads)


def _resize_labels(
    labels: NDArray[Any], new_shape: tuple[int, ...], axis: int | None, order: int, order_z: int, threads: int
) -> NDArray[Any]:
    in_plane = tuple(labels.shape[a] if a == axis else new_shape[a] for a in range(labels.ndim))
    if order == 0:
        resized = nearest_labels(labels, in_plane)
    elif order == 1:
        resized = vote_labels(labels, in_plane, threads=threads)
    else:
        raise PlansError(
            "Label maps are resampled with order 0 (nearest) or 1 (linear).", found=f"order {order} in the plans"
        )
    if axis is None or new_shape[axis] == labels.shape[axis]:
        return resized
    if order_z == 0:
        return nearest_labels(resized, new_shape)
    return _majority_along(resized, axis, new_shape[axis], order_z)


def _majority_along(labels: NDArray[Any], axis: int, new_size: int, order: int) -> NDArray[Any]:
    """Along one axis, the label whose interpolated indicator rounds to one; labels in ascending order, default 0."""
    matrix = interpolation_matrix(labels.shape[axis], new_size, order)
    result = np.zeros((*labels.shape[:axis], new_size, *labels.shape[axis + 1 :]), dtype=labels.dtype)
    for label in np.unique(labels):
        share = np.moveaxis(np.tensordot(matrix, (labels == label).astype(np.float64), axes=(1, axis)), 0, axis)
        result[np.round(share) > 0.5] = label
    return result


def _as_integers(labels: NDArray[Any]) -> NDArray[Any]:
    """Label maps of floating-point type as integers."""
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    integers = labels.astype(np.int64)
    if not np.array_equal(integers, labels):
        raise ValueError("a label map holds values that are not whole numbers")
    return integers


def resample_scores_to_labels(
    scores_cxyz: NDArray[Any],
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    order: int = 1,
    order_z: int = 0,
    force_separate_z: bool | None = None,
    separate_z_anisotropy_threshold: float = ANISOTROPY_THRESHOLD,
    threads: int = 1,
) -> NDArray[Any]:
    """Resample class scores as :func:`resample_data_or_seg_to_shape` does and take the best class, in bounded memory.

    Args:
        scores_cxyz: Probabilities or logits, (classes, x, y, z).
        new_shape: New spatial extents.
        current_spacing: Voxel size now, in mm, in axis order.
        new_spacing: Voxel size afterwards.
        order: 0 or 1.
        order_z: 0 or 1.
        force_separate_z: See :func:`separate_axis`.
        separate_z_anisotropy_threshold: See :func:`separate_axis`.
        threads: Number of threads.

    Returns:
        Class indices of shape ``new_shape``; uint8 for up to 256 classes, else uint16. Of equal scores the first wins.

    Raises:
        PlansError: For orders other than 0 and 1.
    """
    if order not in (0, 1) or order_z not in (0, 1):
        raise PlansError(
            "Class scores can be reduced to labels block by block for interpolation of order 0 and 1 only.",
            found=f"order {order}, order_z {order_z}",
        )
    axis = separate_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    orders = [order_z if a == axis else order for a in range(3)]
    dtype = np.uint8 if len(scores_cxyz) <= 256 else np.uint16
    return scores_to_labels(scores_cxyz, tuple(int(n) for n in new_shape), orders, threads=threads, dtype=dtype)


def no_resampling_hack(
    array_cxyz: NDArray[Any],
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    threads: int = 1,
    **kwargs: Any,
) -> NDArray[Any]:
    """Leave everything as it is, for plans that train at each image's own spacing."""
    del new_shape, current_spacing, new_spacing, threads, kwargs
    return array_cxyz


RESAMPLERS: Registry[Resampler] = Registry(
    "resampling function",
    {
        "resample_data_or_seg_to_shape": resample_data_or_seg_to_shape,
        "resample_torch_fornnunet": "nnunet_pt.preprocessing.resample_torch:resample_torch_fornnunet",
        "no_resampling_hack": no_resampling_hack,
    },
)
