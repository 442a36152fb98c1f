"""Cropping equals nnU-Net's, which fills holes with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from nnunet_pt.preprocessing.crop import as_slices, bounding_box, crop_to_nonzero, fill_holes, nonzero_mask

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


@settings(deadline=None, max_examples=300)
@given(mask=masks)
def test_holes_are_filled_as_scipy_fills_them(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@settings(deadline=None, max_examples=100)
@given(size=st.integers(3, 9), seed=st.integers(0, 10_000), share=st.sampled_from([0.5, 0.7, 0.85]))
def test_dense_masks_with_many_holes(size: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).uniform(size=(size, size + 1, size + 2)) < share
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_hole_reached_only_diagonally_is_a_hole() -> None:
    mask = np.ones((5, 5, 5), dtype=bool)
    mask[2, 2, 2] = False
    mask[1, 1, 2] = mask[0, 0, 2] = False  # touch by edges only
    filled = fill_holes(mask)
    assert filled[2, 2, 2] and filled[1, 1, 2] and not filled[0, 0, 2]


def test_slices_have_no_holes() -> None:
    ring = np.ones((1, 5, 5), dtype=bool)
    ring[0, 2, 2] = False
    np.testing.assert_array_equal(fill_holes(ring), ring)
    np.testing.assert_array_equal(fill_holes(np.repeat(ring, 2, axis=0)), np.repeat(ring, 2, axis=0))


@given(mask=masks)
def test_bounding_box_is_tight(mask: np.ndarray) -> None:
    bounds = bounding_box(mask)
    if not mask.any():
        assert bounds == tuple((0, n) for n in mask.shape)
        return
    inside = mask[as_slices(bounds)]
    assert inside.sum() == mask.sum()
    for axis in range(3):
        assert np.take(inside, 0, axis).any() and np.take(inside, -1, axis).any()
    assert all(type(v) is int for bound in bounds for v in bound)


def reference(image: np.ndarray, segmentation: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, tuple]:
    """The steps as nnU-Net takes them: fill the whole mask, then crop."""
    mask = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        mask |= channel != 0
    mask = ndimage.binary_fill_holes(mask)
    if mask.any():
        corners = np.argwhere(mask)
        bounds = tuple((int(a), int(b) + 1) for a, b in zip(corners.min(0), corners.max(0), strict=True))
    else:
        bounds = tuple((0, n) for n in mask.shape)
    where = as_slices(bounds)
    mask = mask[where]
    if segmentation is None:
        cropped = np.where(mask, 0, -1)[None]
    else:
        cropped = segmentation[(slice(None), *where)].copy()
        cropped[0][(cropped[0] == 0) & ~mask] = -1
    return image[(slice(None), *where)], cropped, bounds


@settings(deadline=None, max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 3), *[st.integers(1, 7)] * 3),
    zeros=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    seed=st.integers(0, 999),
    labelled=st.booleans(),
)
def test_crop_equals_filling_the_whole_mask_first(
    shape: tuple[int, ...], zeros: float, seed: int, labelled: bool
) -> None:
    random = np.random.default_rng(seed)
    image = random.normal(size=shape).astype(np.float32)
    image[:, random.uniform(size=shape[1:]) < zeros] = 0
    image[0, random.uniform(size=shape[1:]) < 0.5] = 0
    segmentation = random.integers(0, 4, (1, *shape[1:])).astype(np.int16) if labelled else None
    kept = (image.copy(), None if segmentation is None else segmentation.copy())
    got, wanted = crop_to_nonzero(image, segmentation), reference(image, segmentation)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])
    assert got[2] == wanted[2]
    np.testing.assert_array_equal(image, kept[0])
    if segmentation is not None:
        np.testing.assert_array_equal(segmentation, kept[1])


def test_labels_outside_the_image_keep_their_value() -> None:
    image = np.zeros((1, 4, 4, 4), dtype=np.float32)
    image[0, 1:3, 1:3, 1:3] = 1
    image[0, 1, 1, 1] = 0
    segmentation = np.zeros((1, 4, 4, 4), dtype=np.int16)
    segmentation[0, 0] = 3  # is cut away
    _, cropped, bounds = crop_to_nonzero(image, segmentation)
    assert bounds == ((1, 3), (1, 3), (1, 3))
    assert cropped.dtype == np.int16
    assert cropped[0, 0, 0, 0] == -1 and (cropped == 0).sum() == 7
    segmentation[0, 1, 1, 1] = 2
    assert crop_to_nonzero(image, segmentation)[1][0, 0, 0, 0] == 2


@pytest.mark.parametrize("value", [-5.0, 1e-30, 3.0])
def test_every_value_but_zero_counts(value: float) -> None:
    image = np.zeros((2, 3, 3, 3), dtype=np.float32)
    image[1, 1, 2, 0] = value
    np.testing.assert_array_equal(np.argwhere(nonzero_mask(image)), [[1, 2, 0]])


def test_without_label_the_mask_takes_its_place() -> None:
    image = np.zeros((1, 3, 3, 4), dtype=np.float32)
    cropped, segmentation, bounds = crop_to_nonzero(image, None)
    assert cropped.shape == image.shape and bounds == ((0, 3), (0, 3), (0, 4))
    assert segmentation.dtype == np.int8 and (segmentation == -1).all()
    image[0, 0, 0] = 1
    assert (crop_to_nonzero(image, None)[1] == 0).all()
