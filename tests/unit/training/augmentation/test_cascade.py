"""The previous stage's segmentation as input: morphology, dropped components, channels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import kstest
from skimage.morphology import ball as skimage_ball
from skimage.morphology import disk as skimage_disk

from nnunet_pt.training.augmentation.base import ALWAYS, Sample
from nnunet_pt.training.augmentation.cascade import (
    Drop,
    DropComponent,
    Morph,
    PreviousStageToImage,
    RandomMorphology,
    cascade_transforms,
)
from nnunet_pt.training.augmentation.morphology import ball, bounding_box, dilate, erode, morph

NO_SEGMENTATION = torch.zeros(1)


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return smooth > np.quantile(smooth, 0.8)


def covering(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    """The definition: voxel p is set if the mask has a voxel at p + k - middle for a voxel k of the element."""
    result = np.zeros_like(mask)
    middle = (element.shape[0] - 1) // 2
    for k in np.argwhere(element) - middle:
        for p in np.argwhere(mask) - k:
            if all(0 <= a < n for a, n in zip(p, mask.shape, strict=True)):
                result[tuple(p)] = True
    return result


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.0, 5.0, 8.0])
def test_elements_of_whole_radii_are_balls_and_disks(radius: float) -> None:
    assert np.array_equal(ball(radius, 3), skimage_ball(radius))
    assert np.array_equal(ball(radius, 2), skimage_disk(radius))


@pytest.mark.parametrize(
    ("radius", "dims", "edge", "voxels"),
    [
        (1.2, 2, 4, 4),
        (1.8, 2, 5, 9),
        (2.2, 2, 6, 15),
        (2.7, 2, 7, 22),
        (5.25, 2, 12, 83),
        (1.2, 3, 3, 7),
        (1.95, 3, 4, 8),
        (2.7, 3, 6, 56),
        (3.4, 3, 7, 123),
        (7.9, 3, 16, 1736),
    ],
)
def test_elements_of_broken_radii_have_nnunets_sizes(radius: float, dims: int, edge: int, voxels: int) -> None:
    element = ball(radius, dims)
    assert element.shape == (edge,) * dims
    assert element.sum() == voxels


@pytest.mark.parametrize("shape", [(24, 37), (11, 12, 19), (40, 7)])
@pytest.mark.parametrize("radius", [1.0, 1.3, 2.0, 2.6, 4.5])
def test_dilation_and_erosion_follow_their_definition(shape: tuple[int, ...], radius: float) -> None:
    mask, element = blobs(shape), ball(radius, len(shape))
    assert np.array_equal(dilate(mask, element), covering(mask, element))
    assert np.array_equal(erode(mask, element), ~covering(~mask, element))


def test_operations_of_whole_radii_are_scipys() -> None:
    mask, element = blobs((18, 19, 26)), ball(3.0, 3)
    dilated = ndimage.binary_dilation(mask, element)
    eroded = ndimage.binary_erosion(mask, element, border_value=1)
    assert np.array_equal(morph(mask, "dilate", 3.0), dilated)
    assert np.array_equal(morph(mask, "erode", 3.0), eroded)
    assert np.array_equal(morph(mask, "close", 3.0), ndimage.binary_erosion(dilated, element, border_value=1))
    assert np.array_equal(morph(mask, "open", 3.0), ndimage.binary_dilation(eroded, element))


def test_elements_with_an_even_edge_reach_further_down() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert np.argwhere(morph(mask, "dilate", 1.2)).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_empty_and_full_masks_stay_what_they_are() -> None:
    for operation in ("dilate", "erode", "close", "open"):
        empty, full = np.zeros((6, 7, 8), bool), np.ones((6, 7, 8), bool)
        assert not morph(empty, operation, 2.5).any()
        assert morph(full, operation, 2.5).all()
    assert bounding_box(np.zeros((3, 3), bool)) is None


def test_the_previous_stage_becomes_image_channels() -> None:
    image = torch.randn(2, 4, 5)
    segmentation = torch.tensor([[0, 1, 2, 3, 0]]).expand(4, 5).short()
    transform = PreviousStageToImage((1, 3))
    after = transform.apply(Sample(image.clone(), torch.stack([segmentation * 0, segmentation])), ALWAYS)
    assert transform.output_shape((2, 4, 5)) == tuple(after.image.shape) == (4, 4, 5)
    assert torch.equal(after.image[:2], image)
    assert torch.equal(after.image[2], (segmentation == 1).float())
    assert torch.equal(after.image[3], (segmentation == 3).float())
    assert tuple(after.segmentation.shape) == (1, 4, 5)
    assert not after.segmentation.any()


def test_voxels_that_a_label_gains_are_taken_from_the_others() -> None:
    image = torch.zeros(3, 9, 9)
    image[1, 4, 4] = image[2, 4, 5] = 1
    transform = RandomMorphology(labels=2)
    first = transform.apply(Sample(image.clone(), NO_SEGMENTATION), (Morph(1, "dilate", 1.0),)).image
    assert first[1].sum() == 5
    assert first[2].sum() == 0
    both = (Morph(2, "dilate", 1.0), Morph(1, "dilate", 1.0))
    second = transform.apply(Sample(image.clone(), NO_SEGMENTATION), both).image
    assert second[1].sum() == 0
    assert second[2].sum() == 5
    assert not second[0].any()


def test_morphology_draws_what_is_documented() -> None:
    random = np.random.default_rng(2)
    transform = RandomMorphology(labels=2)
    draws = [transform.sample(random, (5, 8, 8)) or () for _ in range(4000)]
    changes = [c for d in draws for c in d]
    assert abs(len(changes) / 8000 - 0.5) < 0.03
    operations = Counter(c.operation for c in changes)
    assert sorted(operations) == ["close", "dilate", "erode", "open"]
    assert all(abs(n / len(changes) - 0.25) < 0.03 for n in operations.values())
    assert kstest([c.radius for c in changes], "uniform", (1, 7)).statistic < 0.04
    orders = Counter(tuple(c.channel for c in d) for d in draws)
    assert set(orders) == {(), (3,), (4,), (3, 4), (4, 3)}
    assert abs(orders[3, 4] - orders[4, 3]) < 160


def test_only_small_components_are_dropped() -> None:
    image = torch.zeros(1, 20, 20)
    image[0, 1:4, 1:4] = image[0, 4, 4] = 1  # 10 voxels, the last one across a corner
    image[0, 10, 10] = 1
    image[0, 13:19, 5:19] = 1  # 84 voxels, 21 %

    def left(share: float, choice: float) -> int:
        transform = DropComponent(labels=1, largest_share=share)
        return int(transform.apply(Sample(image.clone(), NO_SEGMENTATION), (Drop(0, choice),)).image.sum())

    assert {left(0.15, choice) for choice in (0.0, 0.49)} == {85}
    assert {left(0.15, choice) for choice in (0.5, 0.99)} == {94}
    assert {left(0.3, choice) for choice in (0.0, 0.5, 0.99)} == {85, 94, 11}
    assert left(10 / 400, 0.0) == 94
    assert left(0.0, 0.5) == 95
    empty = Sample(torch.zeros(1, 4, 4), NO_SEGMENTATION)
    assert not DropComponent(labels=1).apply(empty, (Drop(0, 0.3),)).image.any()


def test_the_label_probability_reaches_both_augmentations() -> None:
    one_hot, *augmentations = cascade_transforms([1, 2], label_probability=1.0)
    assert isinstance(one_hot, PreviousStageToImage)
    random = np.random.default_rng(0)
    applied = np.array([[t.sample(random, (4, 8, 8)) is not None for t in augmentations] for _ in range(3000)])
    assert applied.mean(0).tolist() == pytest.approx([0.4, 0.2], abs=0.03)
    assert len(cascade_transforms([1, 2], augment=False)) == 1
