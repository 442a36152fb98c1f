from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nnunet_pt.training.augmentation.base import ALWAYS, Sample
from nnunet_pt.training.augmentation.targets import (
    DeepSupervisionTargets,
    MaskImage,
    OutsideToBackground,
    RegionTargets,
    resize_nearest,
)


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int16).view(1, 1, -1)


def test_masking_zeroes_only_the_given_channels_outside() -> None:
    sample = Sample(torch.ones(3, 1, 4), torch.cat([labels(-1, 0, 1, -1), labels(-1, -1, -1, -1)]))
    image = MaskImage((0, 2)).apply(sample, ALWAYS).image
    assert image[:, 0].tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 0]]


def test_outside_becomes_background_in_all_segmentations() -> None:
    sample = Sample(torch.ones(1, 1, 3), torch.cat([labels(-1, 0, 2), labels(1, -1, -1)]))
    assert OutsideToBackground().apply(sample, ALWAYS).segmentation[:, 0].tolist() == [[0, 0, 2], [1, 0, 0]]


def test_regions_may_overlap_and_the_ignore_label_comes_last() -> None:
    sample = Sample(torch.ones(1, 1, 5), labels(0, 1, 2, 3, 4))
    segmentation = RegionTargets(((1, 2, 3), (2, 3), 3), ignore_label=4).apply(sample, ALWAYS).segmentation
    assert segmentation.dtype == torch.uint8
    assert segmentation[:, 0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("old", [1, 5, 7, 8, 12, 40])
@pytest.mark.parametrize("new", [1, 2, 3, 4, 6, 20, 40])
def test_resizing_takes_the_voxels_torch_takes(old: int, new: int) -> None:
    values = torch.arange(old * 3, dtype=torch.int16).view(1, old, 3)
    expected = F.interpolate(values[None].float(), (new, 2), mode="nearest-exact")[0].short()
    assert torch.equal(resize_nearest(values, [new, 2]), expected)


def test_every_resolution_gets_a_target() -> None:
    segmentation = torch.randint(0, 3, (2, 7, 8, 8), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    scales = ((1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (0.5, 0.25, 0.25))
    targets = DeepSupervisionTargets(scales).apply(Sample(torch.ones(1, 7, 8, 8), segmentation), ALWAYS).targets
    assert targets is not None
    # halves are rounded to even numbers: 7 * 0.5 to 4
    assert [tuple(t.shape) for t in targets] == [(2, 7, 8, 8), (2, 7, 4, 4), (2, 4, 2, 2)]
    assert torch.equal(targets[0], segmentation)
    assert torch.equal(targets[1], segmentation[:, :, 1::2, 1::2])
    assert all(t.dtype == torch.int16 for t in targets)


def test_without_deep_supervision_there_is_one_target() -> None:
    sample = DeepSupervisionTargets().apply(Sample(torch.ones(1, 1, 3), labels(0, 1, 2)), ALWAYS)
    assert sample.targets is not None
    assert len(sample.targets) == 1
    assert torch.equal(sample.targets[0], sample.segmentation)
