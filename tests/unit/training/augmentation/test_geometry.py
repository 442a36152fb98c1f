from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_pt.training.augmentation.geometry import (
    DA5_SCALING_MARGIN,
    initial_patch_size,
    patch_geometry,
    rotation_2d,
    rotation_3d,
)

DEGREES_30 = (-math.pi / 6, math.pi / 6)
FULL = (-math.pi, math.pi)


@pytest.mark.parametrize(
    ("patch", "rotation", "expected"),
    [
        ((128, 128, 128), DEGREES_30, (205, 205, 205)),
        ((40, 56, 40), DEGREES_30, (73, 80, 64)),
        ((96, 160, 160), DEGREES_30, (191, 257, 219)),
        ((512, 512), FULL, (602, 602)),
        ((56, 40), FULL, (65, 65)),
    ],
)
def test_read_sizes_of_nnunet(patch: tuple[int, ...], rotation: tuple[float, float], expected: tuple[int, ...]) -> None:
    assert initial_patch_size(patch, rotation) == expected
    assert initial_patch_size(patch, [rotation] * (1 if len(patch) == 2 else 3)) == expected


def test_slice_by_slice_patches_keep_their_first_side() -> None:
    assert initial_patch_size((28, 256, 256), FULL, dummy_2d=True) == (28, 301, 301)


def test_a_larger_scaling_range_needs_more() -> None:
    assert initial_patch_size((128, 128), (0.0, 0.0), DA5_SCALING_MARGIN) == (182, 182)


def test_one_axis_can_be_kept_from_rotating() -> None:
    still = (0.0, 0.0)
    only_x = initial_patch_size((85, 85, 85), [DEGREES_30, still, still])
    assert only_x[0] == 100
    assert only_x[1] > 100


@pytest.mark.parametrize(
    ("patch", "degrees", "dummy_2d"),
    [
        ((256, 256), 180, False),
        ((150, 100), 180, False),
        ((151, 100), 15, False),
        ((128, 128, 128), 30, False),
        ((40, 120, 120), 30, False),
        ((40, 121, 120), 180, True),
        ((160, 40, 40), 30, False),
    ],
)
def test_rotation_and_dummy_2d_follow_from_the_patch(patch: tuple[int, ...], degrees: int, dummy_2d: bool) -> None:
    geometry = patch_geometry(patch)
    assert np.allclose(np.degrees(geometry.rotation), (-degrees, degrees))
    assert geometry.dummy_2d is dummy_2d
    assert geometry.mirror_axes == tuple(range(len(patch)))


def test_dummy_2d_can_be_forbidden() -> None:
    geometry = patch_geometry((16, 256, 256), allow_dummy_2d=False)
    assert not geometry.dummy_2d
    assert np.allclose(np.degrees(geometry.rotation), (-30, 30))


def test_rotations_are_right_handed() -> None:
    quarter = math.pi / 2
    assert np.allclose(rotation_2d(quarter) @ [1, 0], [0, 1])
    for axis, (start, end) in enumerate([([0, 1, 0], [0, 0, 1]), ([0, 0, 1], [1, 0, 0]), ([1, 0, 0], [0, 1, 0])]):
        assert np.allclose(rotation_3d(axis, quarter) @ start, end)
