"""Keeping the largest connected components."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_pt.evaluation.components import keep_largest, keep_largest_of_each

LABELS = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)


def by_flooding(segmentation: np.ndarray, labels: list[int]) -> np.ndarray:
    """Voxel by voxel, from the definition."""
    open_voxels = {tuple(v) for v in np.argwhere(np.isin(segmentation, labels)).tolist()}
    components = []
    while open_voxels:
        component, edge = set(), {open_voxels.pop()}
        while edge:
            voxel = edge.pop()
            component.add(voxel)
            near = {
                tuple(a + b for a, b in zip(voxel, step, strict=True))
                for step in product((-1, 0, 1), repeat=len(voxel))
            }
            edge |= near & open_voxels
            open_voxels -= near
        components.append(component)
    result = segmentation.copy()
    largest = max(map(len, components), default=0)
    for component in components:
        if len(component) < largest:
            result[tuple(np.array(list(component)).T)] = 0
    return result


@given(segmentation=hnp.arrays(np.int32, SHAPES, elements=st.integers(0, 4)), labels=LABELS)
@settings(deadline=None, max_examples=80)
def test_the_largest_components_are_those_that_flooding_finds(segmentation: np.ndarray, labels: list[int]) -> None:
    before = segmentation.copy()
    np.testing.assert_array_equal(keep_largest(segmentation, labels), by_flooding(segmentation, labels))
    np.testing.assert_array_equal(segmentation, before)


@given(segmentation=hnp.arrays(np.int32, SHAPES, elements=st.integers(0, 4)), labels=LABELS)
@settings(deadline=None, max_examples=60)
def test_all_labels_at_once_are_as_one_after_the_other(segmentation: np.ndarray, labels: list[int]) -> None:
    expected = segmentation
    for label in labels:
        expected = keep_largest(expected, [label])
    before = segmentation.copy()
    np.testing.assert_array_equal(keep_largest_of_each(segmentation, labels), expected)
    np.testing.assert_array_equal(segmentation, before)


def test_equally_large_components_are_kept_together() -> None:
    row = np.array([[5, 5, 0, 5, 5, 0, 5]])
    np.testing.assert_array_equal(keep_largest(row, [5]), [[5, 5, 0, 5, 5, 0, 0]])
    np.testing.assert_array_equal(keep_largest_of_each(row, [5]), [[5, 5, 0, 5, 5, 0, 0]])


def test_voxels_that_share_a_corner_are_connected() -> None:
    diagonal = np.zeros((3, 3, 4), np.int32)
    diagonal[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = 1
    diagonal[0, 0, 3] = 1
    assert keep_largest(diagonal, [1]).sum() == 3


def test_labels_count_as_one_and_others_stay() -> None:
    row = np.array([[1, 2, 0, 2, 0, 7, 0, 7]])
    np.testing.assert_array_equal(keep_largest(row, [1, 2]), [[1, 2, 0, 0, 0, 7, 0, 7]])


def test_large_labels() -> None:
    row = np.array([[300, 300, 0, 300, 65535, 0, 65535, 65535]])
    np.testing.assert_array_equal(keep_largest_of_each(row, [300, 65535]), [[300, 300, 0, 0, 0, 0, 65535, 65535]])


@pytest.mark.parametrize("labels", [[1], [3], [1, 3]])
def test_nothing_is_copied_if_nothing_changes(labels: list[int]) -> None:
    segmentation = np.array([[1, 1, 0], [0, 0, 2]])
    assert keep_largest(segmentation, labels) is segmentation
    assert keep_largest_of_each(segmentation, labels) is segmentation
