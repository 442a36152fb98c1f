"""From segmentations to what the loss compares with: masking, relabelling, regions, deep supervision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.training.augmentation.base import Always, Fixed, Sample
from nnunet_pt.training.augmentation.spatial import OUTSIDE


@dataclass(frozen=True, slots=True)
class MaskImage(Fixed):
    """Set channels to zero outside of the nonzero mask, which the segmentation holds as negative labels.

    Attributes:
        channels: The channels whose normalisation used the mask.
    """

    channels: tuple[int, ...]

    def apply(self, sample: Sample, parameters: Always) -> Sample:
        """Mask."""
        del parameters
        outside = sample.segmentation[0] < 0
        for channel in self.channels:
            sample.image[channel].masked_fill_(outside, 0.0)
        return sample


@dataclass(frozen=True, slots=True)
class OutsideToBackground(Fixed):
    """Turn the label of what lies outside of the nonzero mask or the image into background."""

    def apply(self, sample: Sample, parameters: Always) -> Sample:
        """Relabel in all segmentation channels."""
        del parameters
        # -1 is the only negative label there is, and this is forty times faster than looking for it
        sample.segmentation.clamp_(min=OUTSIDE + 1)
        return sample


@dataclass(frozen=True, slots=True)
class RegionTargets(Fixed):
    """Turn labels into one channel per region (uint8), and one more for the ignore label if there is one.

    Attributes:
        regions: The labels of each region.
        ignore_label: The label of voxels without annotation.
    """

    regions: tuple[LabelValue, ...]
    ignore_label: int | None = None

    def apply(self, sample: Sample, parameters: Always) -> Sample:
        """Make the channels from the first segmentation channel."""
        del parameters
        labels = sample.segmentation[0]
        regions = self.regions if self.ignore_label is None else (*self.regions, self.ignore_label)
        masks = [self._mask(labels, (r,) if isinstance(r, int) else r) for r in regions]
        sample.segmentation = torch.stack(masks).to(torch.uint8)
        return sample

    @staticmethod
    def _mask(labels: Tensor, members: tuple[int, ...]) -> Tensor:
        # Comparing into integers of the same size is several times faster on a CPU than into truth values
        mask = torch.eq(labels, members[0], out=torch.empty_like(labels))
        for label in members[1:]:
            mask.bitwise_or_(torch.eq(labels, label, out=torch.empty_like(labels)))
        return mask


@dataclass(frozen=True, slots=True)
class DeepSupervisionTargets(Fixed):
    """Make the targets of all resolutions from the segmentation.

    Attributes:
        scales: For each target, the factor along each axis; ``None`` for one target at full resolution.
    """

    scales: tuple[tuple[float, ...], ...] | None = None

    def apply(self, sample: Sample, parameters: Always) -> Sample:
        """Make the targets; one of full size is the segmentation itself."""
        del parameters
        full = sample.segmentation
        scales = self.scales if self.scales is not None else ((1.0,) * (full.ndim - 1),)
        sample.targets = [
            resize_nearest(full, [round(n * s) for n, s in zip(full.shape[1:], f, strict=True)]) for f in scales
        ]
        return sample


def resize_nearest(array_cxyz: Tensor, size: list[int]) -> Tensor:
    """Resize to the voxels nearest to the new voxels' centres (``nearest-exact`` of torch).

    Args:
        array_cxyz: (channels, *spatial) of any type.
        size: The new spatial shape.

    Returns:
        (channels, *size); the array itself if that is its shape.
    """
    for axis, (old, new) in enumerate(zip(array_cxyz.shape[1:], size, strict=True), start=1):
        if old % new == 0:
            step = old // new
            array_cxyz = array_cxyz.narrow(axis, 0, old)[(slice(None),) * axis + (slice(step // 2, None, step),)]
        else:
            index = ((torch.arange(new, device=array_cxyz.device) + 0.5) * (old / new)).long().clamp_(max=old - 1)
            array_cxyz = array_cxyz.index_select(axis, index)
    return array_cxyz
