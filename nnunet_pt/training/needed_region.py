"""Which part of a patch an augmentation looks at, so that no more has to be read.

Patches are read larger than the network's, since rotation and scaling need the surroundings. Most samples get neither,
and of the others most need less than the largest possible patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnunet_pt.training.augmentation.affine import AffineGrid
from nnunet_pt.training.augmentation.base import Pipeline
from nnunet_pt.training.augmentation.spatial import Spatial, SpatialParameters
from nnunet_pt.training.patches import Region

_MARGIN = 2  # voxels; interpolation needs one


def needed_region(pipeline: Pipeline, parameters: Sequence[Any], load_patch: Sequence[int]) -> Region | None:
    """The part of a patch that a pipeline with these parameters looks at.

    Args:
        pipeline: The augmentation.
        parameters: What its ``sample`` gave.
        load_patch: Spatial shape of what the pipeline is given.

    Returns:
        One slice for each axis; ``None`` if it is not known, since the pipeline does not begin by cutting out a part.
    """
    first = pipeline.transforms[0] if pipeline.transforms else None
    if type(first) is not Spatial or not isinstance(parameters[0], SpatialParameters):
        return None
    matrix, patch = parameters[0].matrix, first.patch_size
    cut = [(n // 2 - p // 2, n // 2 - p // 2 + p) for n, p in zip(load_patch, patch, strict=True)]
    if matrix is not None:
        dims = len(matrix)  # fewer than the patch has if slices are deformed one by one
        grid = AffineGrid.centred(matrix, load_patch[-dims:], patch[-dims:])
        cut[-dims:] = [(math.floor(low) - _MARGIN, math.ceil(high) + _MARGIN + 1) for low, high in grid.bounds()]
    return tuple(
        slice(min(max(start, 0), n), min(max(stop, 0), n)) for (start, stop), n in zip(cut, load_patch, strict=True)
    )
