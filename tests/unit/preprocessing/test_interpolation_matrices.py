"""Interpolation by matrices equals scipy and scikit-image, which nnU-Net uses."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from nnunet_pt.preprocessing.interpolation import (
    grid_coordinates,
    interpolation_matrix,
    matrix_blocks,
    nearest_index,
    resize_axis,
    resize_volume,
)

SIZES = st.integers(1, 70)


def zoom(line: np.ndarray, new_size: int, order: int) -> np.ndarray:
    result = ndimage.zoom(line, new_size / len(line), order=order, mode="nearest", grid_mode=True)
    assert result.shape == (new_size,)
    return result


@settings(deadline=None, max_examples=150)
@given(size=SIZES, new_size=SIZES, order=st.integers(0, 5), seed=st.integers(0, 1000))
def test_matrix_equals_scipy_zoom(size: int, new_size: int, order: int, seed: int) -> None:
    line = np.random.default_rng(seed).uniform(-1, 1, size)
    matrix = interpolation_matrix(size, new_size, order)
    assert matrix.shape == (new_size, size)
    wanted = zoom(line, new_size, order)
    np.testing.assert_allclose(matrix @ line, wanted, rtol=0, atol=1e-14 if order < 2 else 1e-7)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(
    ("size", "new_size"), [(1, 1), (1, 7), (7, 1), (2, 3), (3, 2), (64, 64), (300, 411), (411, 97)]
)
def test_matrix_at_special_sizes(size: int, new_size: int, order: int) -> None:
    line = np.random.default_rng(0).normal(size=size)
    np.testing.assert_allclose(
        interpolation_matrix(size, new_size, order) @ line, zoom(line, new_size, order), rtol=0, atol=1e-6
    )


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 400), new_size=st.integers(1, 400))
def test_nearest_voxels_are_exactly_those_of_scipy(size: int, new_size: int) -> None:
    np.testing.assert_array_equal(nearest_index(size, new_size), zoom(np.arange(size), new_size, 0))


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 400), new_size=st.integers(1, 400), seed=st.integers(0, 99))
def test_linear_weights_are_those_of_scipy_to_the_last_bit(size: int, new_size: int, seed: int) -> None:
    indicator = (np.random.default_rng(seed).integers(0, 2, size)).astype(np.float64)
    rows = interpolation_matrix(size, new_size, 1)  # at most two weights in each, so that no order of summing matters
    np.testing.assert_array_equal([row[row != 0] @ indicator[row != 0] for row in rows], zoom(indicator, new_size, 1))


def test_halves_go_up_and_grids_span_the_same_extent() -> None:
    np.testing.assert_array_equal(grid_coordinates(4, 2), [0.5, 2.5])
    np.testing.assert_array_equal(nearest_index(4, 2), [1, 3])
    np.testing.assert_array_equal(nearest_index(2, 4), [0, 0, 1, 1])
    np.testing.assert_array_equal(nearest_index(6, 2), [1, 4])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    new_shape=st.tuples(*[st.integers(1, 15)] * 3),
    order=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_volume_equals_scikit_image(
    shape: tuple[int, ...], new_shape: tuple[int, ...], order: int, dtype: type[np.floating]
) -> None:
    volume = np.random.default_rng(1).normal(size=shape).astype(dtype)
    wanted = resize(volume.astype(np.float64), new_shape, order, mode="edge", anti_aliasing=False, clip=False)
    got = resize_volume(volume, new_shape, order)
    assert got.dtype == dtype and got.shape == new_shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 if dtype == np.float32 else 1e-6)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_plane_equals_scikit_image(order: int) -> None:
    plane = np.random.default_rng(2).normal(size=(31, 18))
    wanted = resize(plane, (20, 43), order, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(resize_volume(plane, (20, 43), order), wanted, rtol=0, atol=1e-6)


def test_types() -> None:
    for given_type, working in ((np.float16, np.float64), (np.float32, np.float32), (np.float64, np.float64)):
        volume = np.ones((3, 4, 5), dtype=given_type)
        assert resize_volume(volume, (4, 4, 4), 1).dtype == working
    volume = np.ones((3, 4, 5), dtype=np.float32)
    assert resize_volume(volume, (3, 4, 5), 3) is volume


def test_input_need_not_be_contiguous_and_is_not_changed() -> None:
    volume = np.random.default_rng(3).normal(size=(9, 8, 7)).astype(np.float32)
    before = volume.copy()
    np.testing.assert_array_equal(
        resize_volume(volume.transpose(2, 0, 1), (5, 6, 7), 3),
        resize_volume(np.ascontiguousarray(volume.transpose(2, 0, 1)), (5, 6, 7), 3),
    )
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_number_of_threads_changes_no_bit(axis: int) -> None:
    array = np.random.default_rng(4).normal(size=(130, 121, 95)).astype(np.float32)
    alone = resize_axis(array, axis, 77, 3)
    for threads in (2, 5):
        np.testing.assert_array_equal(resize_axis(array, axis, 77, 3, threads=threads), alone)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_matrices_of_large_images_stay_small(order: int) -> None:
    tracemalloc.start()
    try:
        kept = sum(block.weights.nbytes for block in matrix_blocks(20_000, 14_000, order, np.float32, 48))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < 14_000 * 150 * 4
    assert peak < 20 << 20  # as a whole the matrix would take 2.2 GB
