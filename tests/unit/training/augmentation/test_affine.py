from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_pt.training.augmentation import base
from nnunet_pt.training.augmentation.affine import AffineGrid, sample_labels, sample_linear, sample_nearest
from nnunet_pt.training.augmentation.geometry import rotation_2d, rotation_3d

CASES = [
    # source, output, angles, factors; inside of the source, partly outside, mostly outside
    ((30, 28, 33), (11, 12, 10), (0.3, -0.2, 0.4), (1.0, 1.0, 1.0)),
    ((20, 17, 21), (16, 18, 12), (1.0, 0.5, -0.7), (1.1, 1.1, 1.1)),
    ((9, 8, 7), (16, 18, 12), (0.2, 0.0, 0.0), (2.5, 0.7, 2.0)),
    ((24, 22, 20), (12, 10, 9), (0.0, 0.0, 0.0), (0.8317, 0.8317, 0.8317)),
    ((41, 38), (20, 24), (0.6,), (1.2, 1.2)),
    ((12, 50), (20, 24), (2.8,), (1.3, 0.9)),
]


def grid_of(case: tuple) -> AffineGrid:
    source, output, angles, factors = case
    if len(source) == 2:
        matrix = rotation_2d(angles[0])
    else:
        matrix = rotation_3d(2, angles[2]) @ rotation_3d(1, angles[1]) @ rotation_3d(0, angles[0])
    return AffineGrid.centred(tuple(map(tuple, (matrix * factors).tolist())), source, output)


def torch_reference(image: Tensor, grid: AffineGrid, mode: str) -> Tensor:
    """The same by torch's grid_sample, in float64."""
    axes = [torch.arange(n, dtype=torch.float64) for n in grid.shape]
    output = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    positions = output @ torch.tensor(grid.matrix, dtype=torch.float64).T + torch.tensor(grid.offset)
    size = torch.tensor(image.shape[1:], dtype=torch.float64)
    normalised = ((2 * positions + 1) / size - 1).flip(-1)
    return F.grid_sample(image.double()[None], normalised[None], mode=mode, align_corners=False)[0].float()


def random_image(shape: tuple[int, ...], channels: int = 2) -> Tensor:
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(0))


def blobs(shape: tuple[int, ...], channels: int = 1) -> Tensor:
    """Labels -1 to 2 in coherent pieces."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    smooth = random.standard_normal((channels, 4, *shape))
    smooth = np.stack([[gaussian_filter(label, 1.5) for label in channel] for channel in smooth])
    return torch.from_numpy(smooth.argmax(1).astype(np.int16) - 1)


@pytest.mark.parametrize("case", CASES)
def test_linear_sampling_equals_torch(case: tuple) -> None:
    image, grid = random_image(case[0]), grid_of(case)
    assert torch.allclose(sample_linear(image, grid), torch_reference(image, grid, "bilinear"), atol=2e-4)


@pytest.mark.parametrize("case", CASES)
def test_nearest_sampling_equals_torch(case: tuple) -> None:
    image, grid = random_image(case[0]), grid_of(case)
    ours, reference = sample_nearest(image, grid, 0.0), torch_reference(image, grid, "nearest")
    assert (ours != reference).float().mean() < 0.002  # a position may be rounded the other way
    assert (sample_nearest(blobs(case[0]), grid, -1) >= -1).all()


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_with_the_largest_interpolated_mask(case: tuple) -> None:
    segmentation, grid = blobs(case[0], channels=2), grid_of(case)
    result = sample_labels(segmentation, grid, -1)
    assert result.dtype == torch.int16
    for channel, labels in zip(segmentation, result, strict=True):
        weights = sample_linear(torch.stack([(channel == k).float() for k in (-1, 0, 1, 2)]), grid)
        weights[0] += 1 - weights.sum(0)  # what is outside has the label -1
        first, second = weights.topk(2, dim=0).values
        clear = first - second > 0.002
        assert clear.float().mean() > 0.95
        assert torch.equal(labels[clear], (weights.argmax(0) - 1).short()[clear])


def test_ties_go_to_the_nearest_voxel_even_if_its_label_is_larger() -> None:
    segmentation = torch.tensor([[[2, 2], [1, 1], [1, 1], [2, 2]]], dtype=torch.int16)
    grid = AffineGrid(((1.0, 0.0), (0.0, 1.0)), (0.5, 0.25), (3, 1))
    # halves are rounded to even numbers: 0.5 to voxel 0, 2.5 to voxel 2
    assert sample_labels(segmentation, grid, -1)[0, :, 0].tolist() == [2, 1, 1]


def test_other_ties_go_to_the_smallest_label() -> None:
    # In the middle of the cell all corners count the same: 5 and 3 have three each, the nearest voxel's 9 has one
    segmentation = torch.tensor([9, 5, 3, 5, 3, 5, 3, 7], dtype=torch.int16).view(1, 2, 2, 2)
    grid = AffineGrid(((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)), (0.5, 0.5, 0.5), (1, 1, 1))
    assert sample_labels(segmentation, grid, -1).item() == 3


def test_far_outside_there_is_only_padding() -> None:
    grid = AffineGrid(((1.0, 0.0), (0.0, 1.0)), (100.0, -50.0), (4, 4))
    assert (sample_linear(torch.ones(1, 8, 8), grid) == 0).all()
    assert (sample_labels(torch.ones(1, 8, 8, dtype=torch.int16), grid, -1) == -1).all()
    assert (sample_nearest(torch.ones(1, 8, 8, dtype=torch.int16), grid, -1) == -1).all()


def test_the_identity_changes_nothing() -> None:
    grid = AffineGrid.centred(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (6, 7, 8), (6, 7, 8))
    image, segmentation = random_image((6, 7, 8)), blobs((6, 7, 8))
    assert torch.equal(sample_linear(image, grid), image)
    assert torch.equal(sample_labels(segmentation, grid, -1), segmentation)


@pytest.mark.parametrize("case", CASES)
def test_the_size_of_the_pieces_changes_no_bit(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    image, segmentation, grid = random_image(case[0]), blobs(case[0], 2), grid_of(case)
    results = []
    for piece in (1, 300, base.ALL):
        monkeypatch.setattr(base, "PIECE", piece)
        results.append((sample_linear(image, grid), sample_labels(segmentation, grid, -1)))
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


def test_sources_need_not_be_contiguous() -> None:
    grid = grid_of(CASES[0])
    image, segmentation = random_image((33, 30, 28)), blobs((33, 30, 28))
    views = [x.permute(0, 2, 3, 1) for x in (image, segmentation)]
    assert torch.equal(sample_linear(views[0], grid), sample_linear(views[0].contiguous(), grid))
    assert torch.equal(sample_labels(views[1], grid, -1), sample_labels(views[1].contiguous(), grid, -1))
