"""Rotation, scaling, cropping and mirroring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.augmentation.affine import AffineGrid, Matrix, sample_labels, sample_linear, sample_nearest
from nnunet_pt.training.augmentation.base import SameShape, Sample, Shape
from nnunet_pt.training.augmentation.geometry import Range, rotation_2d, rotation_3d

Interpolation = Literal["linear", "nearest"]

OUTSIDE = -1
"""Label of what lies outside of the image."""


@dataclass(frozen=True, slots=True)
class SpatialParameters:
    """How the patch is taken from what was read.

    Attributes:
        matrix: Rotation and scaling; ``None`` for cutting out the centre without interpolation.
    """

    matrix: Matrix | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spatial:
    """Rotate, scale and cut out the centre, in one interpolation.

    Attributes:
        patch_size: The spatial shape afterwards.
        rotation: Range of angles in radians, drawn for each axis by itself.
        rotation_probability: Share of samples that are rotated.
        axis_probability: For rotated samples, how often an axis takes part.
        scaling: Range of factors; larger than 1 zooms out.
        scaling_probability: Share of samples that are scaled.
        scale_axes_together: One factor for all axes.
        slice_by_slice: Deform 3d patches in the plane of the last two axes, all slices alike.
        image_interpolation: For the image; zeros outside.
        segmentation_interpolation: For segmentations; -1 outside. ``linear`` takes the label with the largest
            interpolated mask.
    """

    patch_size: tuple[int, ...]
    rotation: Range
    rotation_probability: float = 0.2
    axis_probability: float = 1.0
    scaling: Range = (0.7, 1.4)
    scaling_probability: float = 0.2
    scale_axes_together: bool = True
    slice_by_slice: bool = False
    image_interpolation: Interpolation = "linear"
    segmentation_interpolation: Interpolation = "linear"

    def sample(self, random: np.random.Generator, shape: Shape) -> SpatialParameters:
        """Draw angles and factors; both are drawn for some samples only."""
        dims = 2 if self.slice_by_slice else len(shape) - 1
        rotated = random.random() < self.rotation_probability
        scaled = random.random() < self.scaling_probability
        if not rotated and not scaled:
            return SpatialParameters(None)
        matrix = np.eye(dims)
        if rotated:
            axes = 1 if dims == 2 else 3
            angles = random.uniform(*self.rotation, size=axes) * (random.random(axes) < self.axis_probability)
            if dims == 2:
                matrix = rotation_2d(angles[0])
            else:
                matrix = rotation_3d(2, angles[2]) @ rotation_3d(1, angles[1]) @ rotation_3d(0, angles[0])
        if scaled:
            matrix = matrix * random.uniform(*self.scaling, size=1 if self.scale_axes_together else dims)
        return SpatialParameters(tuple(tuple(float(v) for v in row) for row in matrix))

    def output_shape(self, shape: Shape) -> Shape:
        """The channels and the patch size."""
        return (shape[0], *self.patch_size)

    def apply(self, sample: Sample, parameters: SpatialParameters) -> Sample:
        """Cut out, as views of what was read, or interpolate.

        Raises:
            TrainingError: If what was read is smaller than the patch and has to be cut out of it.
        """
        image, segmentation = sample.image, sample.segmentation
        if self.slice_by_slice:
            image, segmentation = self._crop_slices(image), self._crop_slices(segmentation)
        if parameters.matrix is None:
            image, segmentation = _crop(image, self.patch_size), _crop(segmentation, self.patch_size)
        else:
            image, segmentation = self._deform(image, segmentation, parameters.matrix)
        return Sample(image, segmentation, sample.targets)

    def _crop_slices(self, array: Tensor) -> Tensor:
        return _crop(array, (self.patch_size[0], *array.shape[2:]))

    def _deform(self, image: Tensor, segmentation: Tensor, matrix: Matrix) -> tuple[Tensor, Tensor]:
        dims = len(matrix)
        grid = AffineGrid.centred(matrix, image.shape[-dims:], self.patch_size[-dims:])
        # Slices become channels where the deformation has fewer dimensions than the patch
        flat_image, flat_segmentation = (x.reshape(-1, *x.shape[-dims:]) for x in (image, segmentation))
        if self.image_interpolation == "linear":
            new_image = sample_linear(flat_image, grid)
        else:
            new_image = sample_nearest(flat_image, grid, 0.0)
        if self.segmentation_interpolation == "linear":
            new_segmentation = sample_labels(flat_segmentation, grid, OUTSIDE)
        else:
            new_segmentation = sample_nearest(flat_segmentation, grid, OUTSIDE)
        return (
            new_image.view(image.shape[0], *self.patch_size),
            new_segmentation.view(segmentation.shape[0], *self.patch_size),
        )


def _crop(array: Tensor, size: tuple[int, ...]) -> Tensor:
    """The centre of (channels, *spatial), as a view."""
    spatial = tuple(array.shape[1:])
    if any(n < s for n, s in zip(spatial, size, strict=True)):
        raise TrainingError(
            "A patch cannot be cut out of a smaller one.", found=spatial, expected=f"at least {tuple(size)}"
        )
    starts = [n // 2 - s // 2 for n, s in zip(spatial, size, strict=True)]
    return array[(slice(None), *(slice(a, a + s) for a, s in zip(starts, size, strict=True)))]


@dataclass(frozen=True, slots=True)
class MirrorParameters:
    """The spatial axes to mirror."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mirror(SameShape):
    """Mirror along each of some axes with probability 0.5.

    Attributes:
        axes: Spatial axes that may be mirrored.
    """

    axes: tuple[int, ...]

    def sample(self, random: np.random.Generator, shape: Shape) -> MirrorParameters | None:
        """Choose axes."""
        del shape
        axes = tuple(axis for axis in self.axes if random.random() < 0.5)
        return MirrorParameters(axes) if axes else None

    def apply(self, sample: Sample, parameters: MirrorParameters) -> Sample:
        """Mirror image and segmentation."""
        dims = [axis + 1 for axis in parameters.axes]
        return Sample(torch.flip(sample.image, dims), torch.flip(sample.segmentation, dims), sample.targets)
