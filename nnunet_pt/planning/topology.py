"""How often, and along which axes, a U-Net can halve the resolution of a patch.

Rules of nnU-Net (Isensee et al., Nature Methods 18, 2021, supplementary note 4): axes are pooled together once their
spacings are within a factor of two, down to a smallest edge; a kernel extends along an axis only while the voxels
are not much thicker there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

MIN_BOTTLENECK_EDGE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Pooling and kernels of a U-Net.

    Attributes:
        strides: Stride of each stage along each axis; all ones for the first.
        kernels: Kernel size of each stage along each axis (1 or 3).
        patch_size: The patch, padded so that every pooling divides without remainder.
        divisible_by: What each edge of the patch must be a multiple of.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]
    divisible_by: tuple[int, ...]


def unet_topology(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Derive a U-Net's pooling and kernels.

    Args:
        spacing: mm per voxel along each axis.
        patch_size: Voxels along each axis (may be fractional: a median).
    """
    axes = range(len(spacing))
    spacings, sizes = list(spacing), list(patch_size)
    kernel, pools = [1 for _ in axes], [0 for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        large = [a for a in axes if sizes[a] >= 2 * MIN_BOTTLENECK_EDGE]
        if not large:
            break
        finest = min(spacings[a] for a in large)
        pooled = [a for a in large if spacings[a] / finest < 2]
        if len(pooled) == 1 and sizes[pooled[0]] < 3 * MIN_BOTTLENECK_EDGE:
            break
        finest = min(spacings)
        kernel = [3 if spacings[a] / finest < 2 else kernel[a] for a in axes]
        for a in pooled:
            pools[a] += 1
            spacings[a] *= 2
            sizes[a] = ceil(sizes[a] / 2)
        strides.append(tuple(2 if a in pooled else 1 for a in axes))
        kernels.append(tuple(kernel))
    kernels.append(tuple(3 for _ in axes))
    divisible_by = tuple(2**p for p in pools)
    return Topology(
        strides=tuple(strides),
        kernels=tuple(kernels),
        patch_size=tuple(ceil(n / d) * d for n, d in zip(patch_size, divisible_by, strict=True)),
        divisible_by=divisible_by,
    )
