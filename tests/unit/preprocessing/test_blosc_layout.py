"""Chunks and blocks are nnU-Net's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.preprocessing.blosc_layout import MAX_BLOCK_BYTES, MAX_CHUNK_BYTES, blocks_and_chunks

# Image shape, patch, bytes of a voxel, block, chunk: as nnU-Net lays them out
LAYOUTS = [
    ((1, 155, 240, 240), (128, 128, 128), 4, (1, 32, 32, 32), (1, 96, 128, 128)),
    ((1, 155, 240, 240), (128, 128, 128), 2, (1, 32, 64, 32), (1, 128, 192, 128)),
    ((1, 20, 320, 320), (20, 320, 256), 4, (1, 8, 64, 64), (1, 16, 320, 256)),
    ((1, 20, 320, 320), (320, 256), 4, (1, 1, 256, 128), (1, 1, 320, 320)),
    ((1, 33, 161, 146), (32, 160, 128), 1, (1, 16, 128, 64), (1, 33, 161, 146)),
    ((1, 35, 51, 35), (40, 56, 40), 4, (1, 32, 32, 32), (1, 35, 51, 35)),
    ((1, 35, 51, 35), (40, 56, 40), 2, (1, 35, 51, 35), (1, 35, 51, 35)),
    ((1, 35, 51, 35), (56, 40), 4, (1, 1, 51, 35), (1, 1, 51, 35)),
]


@pytest.mark.parametrize(("shape", "patch", "item", "block", "chunk"), LAYOUTS)
def test_recorded_layouts(
    shape: tuple[int, ...], patch: tuple[int, ...], item: int, block: tuple[int, ...], chunk: tuple[int, ...]
) -> None:
    assert blocks_and_chunks(shape, patch, item) == (block, chunk)


def test_several_channels_are_laid_out_like_one() -> None:
    for shape, patch, item, *layout in LAYOUTS:
        assert list(blocks_and_chunks((4, *shape[1:]), patch, item)) == layout


extents = st.one_of(st.integers(1, 12), st.integers(1, 800))


@given(
    image=st.tuples(extents, extents, extents),
    patch=st.one_of(st.tuples(extents, extents), st.tuples(extents, extents, extents)),
    item=st.sampled_from([1, 2, 4, 8]),
)
def test_layout_is_usable_and_within_the_caches(image: tuple[int, ...], patch: tuple[int, ...], item: int) -> None:
    block, chunk = blocks_and_chunks((1, *image), patch, item)
    assert len(block) == len(chunk) == 4 and block[0] == chunk[0] == 1
    assert math.prod(block) * item <= MAX_BLOCK_BYTES
    assert math.prod(chunk) * item <= MAX_CHUNK_BYTES
    patch3 = (1, *patch) if len(patch) == 2 else patch
    for b, c, n, p in zip(block[1:], chunk[1:], image, patch3, strict=True):
        assert 1 <= b <= c <= n
        assert b == n or b & (b - 1) == 0  # a power of two unless it spans the image
        assert c <= max(b, math.floor(1.5 * p))
        assert b < 2 * p
    if len(patch) == 2:
        assert block[1] == chunk[1] == 1
