"""How far patches are rotated, and how large a patch must be read so that this brings nothing in from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]

SCALING_MARGIN: Range = (0.85, 1.25)
"""What the default pipeline's read patches allow for; smaller than the scaling range, as in nnU-Net."""
DA5_SCALING_MARGIN: Range = (0.7, 1.43)

_FULL_TURN: Range = (-math.pi, math.pi)
_WIDE: Range = (-math.radians(30), math.radians(30))
_NARROW: Range = (-math.radians(15), math.radians(15))
_ELONGATED_2D = 1.5
_ANISOTROPIC = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGeometry:
    """What follows from a patch size for rotation and mirroring.

    Attributes:
        rotation: Smallest and largest angle in radians, for every axis.
        dummy_2d: Whether 3d patches are deformed slice by slice, in the plane of the last two axes.
        mirror_axes: Spatial axes along which patches are mirrored, also at inference.
    """

    rotation: Range
    dummy_2d: bool
    mirror_axes: tuple[int, ...]


def patch_geometry(patch_size: Sequence[int], *, allow_dummy_2d: bool = True) -> PatchGeometry:
    """nnU-Net's rules for a patch size.

    2d: all angles, unless one side is more than 1.5 times the other. 3d: up to 30 degrees about each axis; if the
    longest side is more than 3 times the first one, all angles in the plane of the others instead.

    Args:
        patch_size: (x, y) or (x, y, z) of the patches the network sees.
        allow_dummy_2d: False to always deform in 3d.
    """
    axes = tuple(range(len(patch_size)))
    if len(patch_size) == 2:
        elongated = max(patch_size) / min(patch_size) > _ELONGATED_2D
        return PatchGeometry(rotation=_NARROW if elongated else _FULL_TURN, dummy_2d=False, mirror_axes=axes)
    dummy_2d = allow_dummy_2d and max(patch_size) / patch_size[0] > _ANISOTROPIC
    return PatchGeometry(rotation=_FULL_TURN if dummy_2d else _WIDE, dummy_2d=dummy_2d, mirror_axes=axes)


def initial_patch_size(
    patch_size: Sequence[int],
    rotation: Range | Sequence[Range],
    scale: Range = SCALING_MARGIN,
    *,
    dummy_2d: bool = False,
) -> tuple[int, ...]:
    """The size to read so that a rotated and scaled patch stays within what was read.

    Each axis is considered by itself, at its largest angle (90 degrees at most): the far corner of the patch is
    rotated about it, and the largest extent along every axis counts (nnU-Net's rule).

    Args:
        patch_size: (x, y) or (x, y, z) of the patches the network sees.
        rotation: Range of angles in radians, one for all axes or one for each.
        scale: Range of factors; only the smaller one matters.
        dummy_2d: 3d patches that are deformed slice by slice keep their first side.

    Returns:
        The size to read, one integer per axis.
    """
    if dummy_2d:
        return (int(patch_size[0]), *initial_patch_size(patch_size[1:], rotation, scale))
    ranges = _range_per_axis(rotation, 1 if len(patch_size) == 2 else 3)
    angles = [min(math.pi / 2, max(abs(low), abs(high))) for low, high in ranges]
    corner = np.array(patch_size, dtype=float)
    largest = corner.copy()
    for axis, angle in enumerate(angles):
        rotation_matrix = rotation_2d(angle) if len(corner) == 2 else rotation_3d(axis, angle)
        largest = np.maximum(largest, np.abs(rotation_matrix.T @ corner))
    return tuple(int(v) for v in largest / min(scale))


def _range_per_axis(rotation: Range | Sequence[Range], axes: int) -> list[Range]:
    first, second = rotation[0], rotation[1] if len(rotation) > 1 else 0.0
    if isinstance(first, float | int) and isinstance(second, float | int):
        return [(float(first), float(second))] * axes
    return [(float(low), float(high)) for low, high in rotation[:axes]]  # type: ignore[misc]


def rotation_2d(angle: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The matrix of a rotation in the plane (angle in radians)."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def rotation_3d(axis: int, angle: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The matrix of a rotation about one of three axes (angle in radians), right-handed."""
    c, s = math.cos(angle), math.sin(angle)
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = c
    matrix[a, b], matrix[b, a] = -s, s
    return matrix
