"""Cropping to the nonzero region."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bounds = tuple[tuple[int, int], ...]

OUTSIDE = -1


def nonzero_mask(image_cxyz: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels at which any channel differs from zero; shape (x, y, z), holes not filled."""
    mask: NDArray[np.bool_] = np.not_equal(image_cxyz[0], 0)
    for channel in image_cxyz[1:]:
        np.logical_or(mask, channel, out=mask)
    return mask


def bounding_box(mask_xyz: NDArray[np.bool_]) -> Bounds:
    """The tightest box of half-open intervals around the mask; the whole extent if the mask is empty."""
    bounds = []
    for axis in range(mask_xyz.ndim):
        others = tuple(a for a in range(mask_xyz.ndim) if a != axis)
        occupied = np.flatnonzero(mask_xyz.any(axis=others))
        if not len(occupied):
            return tuple((0, size) for size in mask_xyz.shape)
        bounds.append((int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(bounds)


def fill_holes(mask_xyz: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its holes filled: background that face-connected paths cannot reach from the border.

    Equal to ``scipy.ndimage.binary_fill_holes`` with the default structuring element, but linear in the number of
    voxels: the background is labelled once, instead of being grown from the border step by step.
    """
    if mask_xyz.all():
        return mask_xyz
    if any(size <= 2 for size in mask_xyz.shape):  # every voxel lies on the border
        return mask_xyz
    from scipy import ndimage

    components, count = ndimage.label(~mask_xyz)
    open_component = np.zeros(count + 1, dtype=bool)
    for axis in range(components.ndim):
        for face in (0, -1):
            open_component[np.unique(np.take(components, face, axis=axis))] = True
    open_component[0] = False  # label 0 is the mask itself
    return np.logical_not(open_component[components])


def as_slices(bounds: Bounds) -> tuple[slice, ...]:
    """Bounds as an index into the spatial axes."""
    return tuple(slice(low, high) for low, high in bounds)


def crop_to_nonzero(
    image_cxyz: NDArray[np.float32], segmentation_1xyz: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[Any], Bounds]:
    """Cut away the border in which all channels are zero.

    Args:
        image_cxyz: Image.
        segmentation_1xyz: Segmentation of the same extent; without one, an int8 array of zeros takes its place.

    Returns:
        The cropped image (a view), the cropped segmentation (a copy) with -1 wherever it was background and outside
        the hole-filled nonzero mask, and the box.
    """
    mask = nonzero_mask(image_cxyz)
    bounds = bounding_box(mask)
    where = as_slices(bounds)
    # Background outside the box is connected to the border, so filling the cropped mask gives the same result.
    inside = fill_holes(mask[where])
    if segmentation_1xyz is None:
        cropped = np.where(inside, np.int8(0), np.int8(OUTSIDE))[None]
    else:
        cropped = segmentation_1xyz[(slice(None), *where)].copy()
        cropped[0][~inside & (cropped[0] == 0)] = OUTSIDE
    return image_cxyz[(slice(None), *where)], cropped, bounds
