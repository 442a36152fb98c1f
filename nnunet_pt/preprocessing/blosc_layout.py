"""How a preprocessed array is cut into blosc2 chunks and blocks: nnU-Net's rule.

A block is what is decompressed at once, made to fit a core's L2 cache; a chunk is what is read from disk at once, made
to fit the shared L3 cache. Both follow the patch size, so that reading a patch touches little else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_BLOCK_BYTES = 131_072
MAX_CHUNK_BYTES = 6_291_456
_MARGIN = 1.5  # training reads patches larger than the final one, to have something to rotate in


def blocks_and_chunks(
    shape_cxyz: Sequence[int], patch_size: Sequence[int], bytes_per_voxel: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Block and chunk shapes for an array.

    Args:
        shape_cxyz: Shape of the array, (channels, x, y, z).
        patch_size: The configuration's patch size, two or three axes.
        bytes_per_voxel: Size of an element.

    Returns:
        Block shape and chunk shape, each with four axes.
    """
    patch = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)
    image = tuple(shape_cxyz[1:])
    target = tuple(max(1, min(n, math.floor(_MARGIN * p))) for n, p in zip(image, patch, strict=True))
    block = _block(image, patch, target, bytes_per_voxel)
    chunk = _chunk(image, patch, target, block, bytes_per_voxel, two_dimensional=len(patch_size) == 2)
    return (1, *block), (1, *chunk)


def _block(image: Sequence[int], patch: Sequence[int], target: Sequence[int], item: int) -> tuple[int, ...]:
    block = [min(1 << math.ceil(math.log2(p)), n) for n, p in zip(image, patch, strict=True)]
    while math.prod(block) * item > MAX_BLOCK_BYTES:
        axis = max((a for a in range(3) if block[a] > 1), key=lambda a: (block[a] / target[a], a))
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)  # the largest power of two below
    return tuple(block)


def _chunk(
    image: Sequence[int],
    patch: Sequence[int],
    target: Sequence[int],
    block: Sequence[int],
    item: int,
    *,
    two_dimensional: bool,
) -> tuple[int, ...]:
    chunk = list(block)
    while True:
        candidates = []
        for axis in range(3):
            skip = (two_dimensional and axis == 0) or patch[axis] == 1
            if skip or chunk[axis] >= image[axis] or chunk[axis] >= target[axis]:
                continue
            size = min(chunk[axis] + block[axis], image[axis], target[axis])
            num_bytes = math.prod(chunk) // chunk[axis] * size * item
            if num_bytes <= MAX_CHUNK_BYTES:
                candidates.append((chunk[axis] / target[axis], -image[axis], axis, -num_bytes, size))
        if not candidates:
            return tuple(chunk)
        _, _, axis, _, size = min(candidates)
        chunk[axis] = size
