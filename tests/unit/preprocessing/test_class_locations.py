"""Class locations: the same draws as nnU-Net's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_pt.preprocessing import class_locations
from nnunet_pt.preprocessing.class_locations import sample_class_locations


def as_lists(locations: dict) -> dict:
    return {key: np.asarray(value).tolist() for key, value in locations.items()}


@pytest.fixture
def example() -> np.ndarray:
    segmentation = np.zeros((1, 4, 4, 4), np.int16)
    segmentation[0, 1] = 1
    segmentation[0, 2, :2] = 2
    return segmentation


def test_recorded_draws(example: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_locations, "FEW_VOXELS", 3)
    assert as_lists(sample_class_locations(example, [1, 2, 3])) == {
        1: [[0, 1, 3, 1], [0, 1, 2, 3], [0, 1, 0, 0]],
        2: [[0, 2, 1, 1], [0, 2, 0, 1], [0, 2, 0, 3]],
        3: [],
    }
    assert as_lists(sample_class_locations(example, [(2, 1), 1])) == {
        (2, 1): [[0, 2, 1, 3], [0, 1, 2, 0], [0, 2, 0, 2]],
        1: [[0, 1, 2, 2], [0, 1, 1, 0], [0, 1, 3, 0]],
    }


def brute_force(segmentation: np.ndarray, keys: list, few: int) -> dict:
    random = np.random.RandomState(1234)
    result: dict = {}
    for key in keys:
        members = key if isinstance(key, tuple) else (key,)
        found = np.concatenate([np.argwhere(segmentation == label) for label in members])
        if not len(found):
            result[key] = []
            continue
        number = max(min(few, len(found)), math.ceil(0.01 * len(found)))
        result[key] = found[random.choice(len(found), number, replace=False)]
    return result


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 999),
    dtype=st.sampled_from([np.int8, np.int16, np.int32]),
    keys=st.lists(
        st.sampled_from([1, 2, 3, 7, (1, 2), (3, 1), (2,), (-1, 0, 1, 2, 3), (7, 2), 100]), min_size=1, unique=True
    ),
    few=st.sampled_from([1, 5, 10_000]),
)
def test_equals_brute_force(seed: int, dtype: type, keys: list, few: int) -> None:
    segmentation = np.random.default_rng(seed).integers(-1, 4, (1, 3, 12, 13)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_locations, "FEW_VOXELS", few)
        got = sample_class_locations(segmentation, keys)
    wanted = brute_force(segmentation, keys, few)
    assert list(got) == keys
    for key in keys:
        np.testing.assert_array_equal(np.asarray(got[key]).reshape(-1, 4), np.asarray(wanted[key]).reshape(-1, 4))


def test_types_and_absent_classes(example: np.ndarray) -> None:
    locations = sample_class_locations(example, [3, 1])
    assert locations[3] == [] and isinstance(locations[3], list)
    assert locations[1].dtype == np.int64 and locations[1].shape == (16, 4)
    assert sample_class_locations(np.zeros((1, 2, 2, 2), np.int8), [1, (1, 2)]) == {1: [], (1, 2): []}


def test_large_classes_give_one_percent() -> None:
    segmentation = np.ones((1, 40, 180, 180), np.int8)
    segmentation[0, 0, 0, 0] = 0
    assert len(sample_class_locations(segmentation, [1])[1]) == math.ceil(0.01 * (40 * 180 * 180 - 1))
    assert len(sample_class_locations(segmentation[:, :1], [1])[1]) == 10_000
