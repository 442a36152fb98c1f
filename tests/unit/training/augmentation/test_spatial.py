from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.augmentation.base import Sample
from nnunet_pt.training.augmentation.geometry import rotation_2d
from nnunet_pt.training.augmentation.spatial import Mirror, MirrorParameters, Spatial, SpatialParameters

WIDE = (-math.pi / 6, math.pi / 6)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def ramp(shape: tuple[int, ...], channels: int = 1) -> Sample:
    """Every voxel is its own number."""
    count = channels * math.prod(shape)
    image = torch.arange(count, dtype=torch.float32).view(channels, *shape)
    segmentation = torch.arange(math.prod(shape), dtype=torch.int16).view(1, *shape) % 3
    return Sample(image, segmentation)


def test_shares_and_ranges_of_the_default_draws() -> None:
    spatial, random = Spatial(patch_size=(8, 8, 8), rotation=WIDE), rng()
    drawn = [spatial.sample(random, (1, 20, 20, 20)).matrix for _ in range(6000)]
    assert abs(np.mean([m is None for m in drawn]) - 0.64) < 0.02
    matrices = np.array([m for m in drawn if m is not None])
    scales = np.cbrt(np.linalg.det(matrices))
    scaled = np.abs(scales - 1) > 1e-9
    rotated = np.abs(matrices[:, 0, 1]) > 1e-9
    assert abs(scaled.sum() / len(drawn) - 0.2) < 0.02
    assert abs(rotated.sum() / len(drawn) - 0.2) < 0.02
    assert scales.min() > 0.7
    assert scales.max() < 1.4
    assert abs(scales[scaled].mean() - 1.05) < 0.02
    rotations = matrices / scales[:, None, None]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    about_y = np.arcsin(-rotations[rotated][:, 2, 0])
    assert np.abs(about_y).max() < WIDE[1]
    assert abs(about_y.std() - WIDE[1] / math.sqrt(3)) < 0.02


def test_axes_can_take_part_by_chance_and_be_scaled_separately() -> None:
    spatial = Spatial(
        patch_size=(8, 8, 8),
        rotation=WIDE,
        rotation_probability=1.0,
        axis_probability=0.5,
        scaling_probability=0.5,
        scale_axes_together=False,
    )
    random = rng(1)
    matrices = np.array([spatial.sample(random, (1, 20, 20, 20)).matrix for _ in range(3000)])
    scales = np.linalg.norm(matrices, axis=1)
    same = np.isclose(scales, 1).all(1)
    assert abs(same.mean() - 0.5) < 0.03
    assert (np.ptp(scales[~same], axis=1) > 1e-6).all()
    diagonal = np.isclose(matrices * (1 - np.eye(3)), 0).all((1, 2))
    assert abs(diagonal.mean() - 0.125) < 0.02


def test_cutting_out_gives_views_of_the_centre() -> None:
    sample = ramp((9, 12))
    image = sample.image
    spatial = Spatial(patch_size=(4, 5), rotation=(0, 0))
    result = spatial.apply(sample, SpatialParameters(None))
    assert torch.equal(result.image, image[:, 2:6, 4:9])  # 9 // 2 - 4 // 2 and 12 // 2 - 5 // 2
    assert result.image.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
    assert result.segmentation.shape == (1, 4, 5)


def test_a_patch_larger_than_what_was_read_is_an_error() -> None:
    with pytest.raises(TrainingError, match="at least"):
        Spatial(patch_size=(10, 5), rotation=(0, 0)).apply(ramp((9, 12)), SpatialParameters(None))


def test_a_quarter_turn_is_exact() -> None:
    sample = ramp((9, 9))
    image = sample.image.clone()
    matrix = tuple(map(tuple, rotation_2d(math.pi / 2).round().tolist()))
    spatial = Spatial(patch_size=(9, 9), rotation=(0, 0))
    turned = spatial.apply(sample, SpatialParameters(matrix))
    # Output voxel i takes what is at the rotated position
    assert torch.allclose(turned.image, torch.rot90(image, 1, (2, 1)), atol=1e-3)


def test_all_slices_and_channels_share_one_deformation() -> None:
    plane = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    image = plane.expand(2, 5, 20, 20).clone()
    labels = (plane > 0.5).short().expand(1, 5, 20, 20).clone()
    spatial = Spatial(patch_size=(5, 12, 12), rotation=(-3, 3), rotation_probability=1.0, slice_by_slice=True)
    parameters = spatial.sample(rng(), (2, 5, 20, 20))
    assert np.shape(parameters.matrix) == (2, 2)
    result = spatial.apply(Sample(image, labels), parameters)
    assert result.image.shape == (2, 5, 12, 12)
    assert (result.image == result.image[:1, :1]).all()
    assert (result.segmentation == result.segmentation[:, :1]).all()
    flat = Spatial(patch_size=(12, 12), rotation=(-3, 3)).apply(
        Sample(plane[None].clone(), (plane > 0.5).short()[None]), parameters
    )
    assert torch.equal(flat.image[0], result.image[0, 0])
    assert torch.equal(flat.segmentation[0], result.segmentation[0, 0])


def test_slices_are_cut_to_the_patch_if_more_were_read() -> None:
    spatial = Spatial(patch_size=(4, 6, 6), rotation=(-3, 3), rotation_probability=1.0, slice_by_slice=True)
    for parameters in (SpatialParameters(None), spatial.sample(rng(), (2, 7, 10, 10))):
        result = spatial.apply(ramp((7, 10, 10), channels=2), parameters)
        assert result.image.shape == (2, 4, 6, 6)
        assert result.segmentation.shape == (1, 4, 6, 6)


def test_nearest_interpolation_invents_no_values() -> None:
    parameters = Spatial(patch_size=(9, 9), rotation=(-3, 3), rotation_probability=1.0).sample(rng(), (1, 16, 16))
    nearest = Spatial(
        patch_size=(9, 9), rotation=(0, 0), image_interpolation="nearest", segmentation_interpolation="nearest"
    ).apply(ramp((16, 16)), parameters)
    assert (nearest.image == nearest.image.round()).all()
    # Both take the same voxels: the segmentation of the ramp is its value modulo 3
    assert torch.equal(nearest.segmentation.float(), nearest.image % 3)
    linear = Spatial(patch_size=(9, 9), rotation=(0, 0)).apply(ramp((16, 16)), parameters)
    assert (linear.image != linear.image.round()).any()


def test_what_lies_outside_is_zero_and_labelled() -> None:
    sample = Sample(torch.ones(1, 10, 10), torch.ones(1, 10, 10, dtype=torch.int16))
    result = Spatial(patch_size=(8, 8), rotation=(0, 0)).apply(sample, SpatialParameters(((2.0, 0.0), (0.0, 2.0))))
    assert result.segmentation.unique().tolist() == [-1, 1]
    assert (result.image[result.segmentation == -1] <= 0.5).all()


def test_mirroring_flips_image_and_segmentation_alike() -> None:
    sample = ramp((4, 5, 6))
    image, segmentation = sample.image.clone(), sample.segmentation.clone()
    result = Mirror((0, 1, 2)).apply(sample, MirrorParameters((0, 2)))
    assert torch.equal(result.image, image.flip(1, 3))
    assert torch.equal(result.segmentation, segmentation.flip(1, 3))


def test_each_allowed_axis_is_mirrored_in_half_of_the_samples() -> None:
    random, mirror = rng(), Mirror((0, 2))
    drawn = [mirror.sample(random, (1, 4, 4, 4)) for _ in range(4000)]
    for axes in ((0,), (2,), (0, 2)):
        assert abs(np.mean([d is not None and d.axes == axes for d in drawn]) - 0.25) < 0.03
    assert abs(np.mean([d is None for d in drawn]) - 0.25) < 0.03
