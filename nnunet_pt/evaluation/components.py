"""Keeping the largest connected components of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Segmentation = NDArray[np.integer[Any]]


def keep_largest(segmentation: Segmentation, labels: Sequence[int]) -> Segmentation:
    """Keep the largest connected component of the union of labels; what else has these labels becomes 0.

    Voxels that share a face, an edge or a corner are connected. Components of equal size are kept together.

    Args:
        segmentation: Whole numbers, any number of axes.
        labels: They count as one.

    Returns:
        A copy, or the segmentation itself if nothing changes.
    """
    mask = np.isin(segmentation, labels)
    box = _boxes(mask.view(np.int8), 1)[0]
    surplus = None if box is None else _smaller_components(mask[box])
    if surplus is None:
        return segmentation
    result = segmentation.copy()
    result[box][surplus] = 0
    return result


def keep_largest_of_each(segmentation: Segmentation, labels: Sequence[int]) -> Segmentation:
    """Keep the largest component of every single label: :func:`keep_largest` for one after the other, but faster.

    Args:
        segmentation: Whole numbers from 0 on, any number of axes.
        labels: Labels above 0.

    Returns:
        A copy, or the segmentation itself if nothing changes.
    """
    result = segmentation
    boxes = _boxes(segmentation, max(labels, default=0))
    for label in labels:
        box = boxes[label - 1]
        surplus = None if box is None else _smaller_components(segmentation[box] == label)
        if surplus is not None:
            if result is segmentation:
                result = segmentation.copy()
            result[box][surplus] = 0
    return result


def _boxes(segmentation: Segmentation, largest: int) -> Sequence[tuple[slice, ...] | None]:
    """Bounding boxes of the labels from 1 on; None for those that are not there."""
    return ndimage.find_objects(segmentation, largest)


def _smaller_components(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The voxels of all components that are smaller than the largest; None if there are none."""
    components, number = ndimage.label(mask, np.ones((3,) * mask.ndim, bool))
    if number < 2:
        return None
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    smaller = sizes < sizes.max()
    smaller[0] = False
    return np.asarray(smaller[components]) if smaller.any() else None
