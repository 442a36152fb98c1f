from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.planning.topology import unet_topology

ONE, ALL, PLANE = (1, 1, 1), (2, 2, 2), (1, 2, 2)


@pytest.mark.parametrize(
    ("spacing", "patch", "padded", "strides", "flat_kernels"),
    [
        ((1, 1, 1), (128, 128, 128), (128, 128, 128), [ALL] * 5, 0),
        ((4, 1, 1), (35, 161, 146), (40, 192, 160), [PLANE] * 2 + [ALL] * 3, 2),
        ((5, 0.6, 0.6), (24, 320, 256), (24, 320, 256), [PLANE] * 3 + [ALL] * 2 + [PLANE], 3),
        ((10, 1.5, 1.5), (10, 240, 200), (10, 256, 224), [PLANE] * 2 + [ALL] + [PLANE] * 2, 2),
        ((1, 1, 1), (36, 50, 35), (40, 56, 40), [ALL] * 3, 0),
    ],
)
def test_known_topologies(
    spacing: tuple[float, ...],
    patch: tuple[int, ...],
    padded: tuple[int, ...],
    strides: list[tuple[int, ...]],
    flat_kernels: int,
) -> None:
    topology = unet_topology(spacing, patch)
    assert topology.patch_size == padded
    assert topology.strides == (ONE, *strides)
    if flat_kernels:
        assert set(topology.kernels[:flat_kernels]) == {(1, 3, 3)}
    assert set(topology.kernels[flat_kernels:]) == {(3, 3, 3)}


def test_two_dimensions() -> None:
    topology = unet_topology((1.0, 1.0), (138.5, 146))
    assert topology.patch_size == (160, 160)
    assert topology.divisible_by == (32, 32)


def test_an_image_too_small_to_pool_has_one_stage() -> None:
    topology = unet_topology((1, 1, 1), (7, 5, 7.5))
    assert topology.strides == (ONE,)
    assert topology.kernels == ((3, 3, 3),)
    assert topology.patch_size == (7, 5, 8)


@given(
    axes=st.lists(
        st.tuples(
            st.floats(0.1, 10),
            st.one_of(st.integers(1, 600), st.integers(1, 1200).map(lambda n: n / 2)),
        ),
        min_size=2,
        max_size=3,
    )
)
def test_every_patch_can_be_pooled_without_remainder(axes: list[tuple[float, float]]) -> None:
    spacing, patch = zip(*axes, strict=True)
    topology = unet_topology(spacing, patch)
    assert len(topology.kernels) == len(topology.strides)
    for axis, (wanted, padded, divisor) in enumerate(
        zip(patch, topology.patch_size, topology.divisible_by, strict=True)
    ):
        assert padded % divisor == 0
        assert wanted <= padded < wanted + divisor
        assert divisor == prod(stride[axis] for stride in topology.strides)
        assert divisor == 1 or padded // divisor >= 4
        kernels = [kernel[axis] for kernel in topology.kernels]
        assert kernels == sorted(kernels)  # once 3, always 3
        assert kernels[-1] == 3
