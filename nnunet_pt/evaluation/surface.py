"""How far the surfaces of two segmentations are apart, in mm.

The surface of a structure is made of its voxels that share a face with a voxel outside of it (an edge in 2D), or lie
at the border of the image; distances are between centres of voxels. With the distances d from every surface voxel of
one segmentation to the nearest one of the other, in both directions:

* HD95 is the larger of the two directed 95th percentiles of d (linear interpolation). Some tools take the percentile
  of both directions pooled instead, which gives smaller numbers.
* NSD, the normalised surface Dice, is the share of all surface voxels of both with d <= tolerance.

These are the definitions of Metrics Reloaded (Maier-Hein, Reinke et al., Nature Methods 2024) and of MONAI; NSD is
from Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy" (JMIR 2021), whose
own code weights surface elements by their area, while here every surface voxel counts the same.

Structures that are missing: in both segmentations, both metrics are NaN. In one of them, NSD is 0; there is no
distance, so HD95 is NaN and drops out of means, and NSD and Dice are what tells of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.evaluation.counting import label_codes, members

HD95 = "HD95_mm"
_PERCENTILE = 95
_ROUNDING = 1e-5  # relative; spacings like 0.9999998 mm must not decide whether a voxel is within the tolerance

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


def nsd_name(tolerance_mm: float) -> str:
    """Name of the normalised surface Dice at a tolerance: ``NSD_1mm``."""
    return f"NSD_{tolerance_mm:g}mm"


def surface_metrics(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    labels_or_regions: Sequence[LabelValue],
    spacing_mm: Sequence[float],
    *,
    tolerances_mm: Sequence[float] = (1.0,),
    ignore_label: int | None = None,
) -> dict[LabelValue, dict[str, float]]:
    """Compare the surfaces of two segmentations of the same shape.

    Args:
        reference: The annotation; an axis with a single voxel does not count as one, so that slices are 2D.
        prediction: The segmentation to judge.
        labels_or_regions: Labels, or tuples of labels that are taken as one.
        spacing_mm: Size of a voxel along each axis.
        tolerances_mm: Distances up to which surfaces agree, for NSD.
        ignore_label: Voxels with this value in the reference are not annotated. They belong to no structure, and a
            face towards them makes no surface: nobody knows whether one is there.

    Returns:
        Label or region -> ``HD95_mm``, and ``NSD_<tolerance>mm`` for each tolerance.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"segmentations of the shapes {reference.shape} and {prediction.shape} cannot be compared")
    if len(spacing_mm) != reference.ndim:
        raise ValueError(f"{len(spacing_mm)} spacings for {reference.ndim} axes")
    axes = [axis for axis, size in enumerate(reference.shape) if size != 1] or [0]
    shape = [reference.shape[axis] for axis in axes]
    spacing = np.array([spacing_mm[axis] for axis in axes], np.float64)
    values = sorted({v for label in labels_or_regions for v in members(label)})
    pair = [label_codes(array.reshape(shape), values) for array in (reference, prediction)]
    annotated = None if ignore_label is None else reference.reshape(shape) != ignore_label
    boxes = [ndimage.find_objects(codes, max_label=len(values)) for codes in pair]
    result: dict[LabelValue, dict[str, float]] = {}
    for label in labels_or_regions:
        positions = [values.index(v) for v in members(label)]
        box = _around([found for each in boxes for i in positions if (found := each[i]) is not None], shape)
        wanted = np.isin(np.arange(-1, len(values)), positions)  # for each code
        known = None if annotated is None else annotated[box]
        first, second = (_surface(wanted[codes[box]], known) for codes in pair)
        result[label] = _compare(first, second, spacing, tolerances_mm)
    return result


def _around(boxes: Sequence[Box], shape: Sequence[int]) -> Box:
    """The box around all of them with a margin of one voxel, as far as the image goes; empty without any."""
    if not boxes:
        return (slice(0, 0),) * len(shape)
    return tuple(
        slice(max(min(b.start for b in along) - 1, 0), min(max(b.stop for b in along) + 1, size))
        for along, size in zip(zip(*boxes, strict=True), shape, strict=True)
    )


def _surface(mask: Mask, annotated: Mask | None) -> Mask:
    """Voxels of a mask with a face towards an annotated voxel outside of it, or towards the outside of the array."""
    if annotated is None:
        outside = ~mask
    else:
        mask = mask & annotated
        outside = ~mask & annotated
    surface = np.zeros_like(mask)
    for axis in range(mask.ndim):
        inner, other, found = (np.moveaxis(a, axis, 0) for a in (mask, outside, surface))
        found[1:] |= inner[1:] & other[:-1]
        found[:-1] |= inner[:-1] & other[1:]
        found[:1] |= inner[:1]
        found[-1:] |= inner[-1:]
    return surface


def _compare(
    first: Mask, second: Mask, spacing: NDArray[np.float64], tolerances_mm: Sequence[float]
) -> dict[str, float]:
    names = [nsd_name(tolerance) for tolerance in tolerances_mm]
    present = first.any(), second.any()
    if not all(present):
        return {HD95: math.nan, **dict.fromkeys(names, 0.0 if any(present) else math.nan)}
    distances = (_distances(first, second, spacing), _distances(second, first, spacing))
    both = np.concatenate(distances)
    shares = [float(np.mean(both <= tolerance * (1 + _ROUNDING))) for tolerance in tolerances_mm]
    return {HD95: max(float(np.percentile(d, _PERCENTILE)) for d in distances), **dict(zip(names, shares, strict=True))}


def _distances(start: Mask, target: Mask, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in mm from every voxel of ``start`` to the nearest one of ``target``, in no particular order."""
    apart = np.argwhere(start & ~target)
    result = np.zeros(np.count_nonzero(start))
    if len(apart):
        tree = cKDTree(np.argwhere(target) * spacing, balanced_tree=False, compact_nodes=False)
        result[: len(apart)] = tree.query(apart * spacing)[0]
    return result
