"""Binary dilation, erosion, closing and opening with balls and disks of any radius, and connected components."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Operation = Literal["dilate", "erode", "close", "open"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]


def ball(radius: float, dims: int) -> Mask:
    """The structuring elements of nnU-Net, those of scikit-image also for radii that are no whole numbers.

    The voxels whose distance from the middle is not above ``radius`` on a grid from ``-radius`` to ``radius``. With
    three axes the grid has floor(2 * radius + 1) points spread evenly; with two its points are one apart, the last
    one lies up to one beyond the radius.

    Args:
        radius: In voxels, at least 1.
        dims: 2 or 3.

    Returns:
        Square or cube of voxels.
    """
    if dims == 2:
        squares = np.arange(-radius, radius + 1) ** 2
        return squares[:, None] + squares <= radius**2
    squares = np.linspace(-radius, radius, int(2 * radius + 1)) ** 2
    return squares[:, None, None] + squares[:, None] + squares <= radius**2


def morph(mask_xyz: Mask, operation: Operation, radius: float) -> Mask:
    """Apply one operation with a ball or disk; beyond the edges of the mask nothing changes it.

    Args:
        mask_xyz: Two or three axes.
        operation: What to do.
        radius: Of the structuring element, in voxels.

    Returns:
        A new mask of the same shape.
    """
    element = ball(radius, mask_xyz.ndim)
    if operation == "dilate":
        return dilate(mask_xyz, element)
    if operation == "erode":
        return erode(mask_xyz, element)
    if operation == "close":
        return erode(dilate(mask_xyz, element), element)
    return dilate(erode(mask_xyz, element), element)


def dilate(mask_xyz: Mask, element: Mask) -> Mask:
    """Every voxel with a voxel of the mask under the element, put on it by its middle (the lower one of two)."""
    result = np.zeros_like(mask_xyz)
    box = bounding_box(mask_xyz, margin=element.shape[0] // 2 + 1)
    if box is not None:
        result[box] = _any_below(mask_xyz[box], element)
    return result


def erode(mask_xyz: Mask, element: Mask) -> Mask:
    """Every voxel with nothing but the mask under the element; what lies beyond the edges counts as mask."""
    result = np.zeros_like(mask_xyz)
    # Nothing outside of the mask stays, and the margin holds all the background that matters to the voxels inside.
    box = bounding_box(mask_xyz, margin=element.shape[0] // 2 + 1)
    if box is not None:
        result[box] = ~_any_below(~mask_xyz[box], element)
    return result


def bounding_box(mask_xyz: Mask, margin: int = 0) -> Box | None:
    """The smallest box around a mask, wider by a margin where the image allows it; ``None`` for an empty mask."""
    box = []
    for axis, length in enumerate(mask_xyz.shape):
        used = np.flatnonzero(mask_xyz.any(axis=tuple(a for a in range(mask_xyz.ndim) if a != axis)))
        if not used.size:
            return None
        box.append(slice(max(int(used[0]) - margin, 0), min(int(used[-1]) + 1 + margin, length)))
    return tuple(box)


def _any_below(mask: Mask, element: Mask) -> Mask:
    """Dilation of a whole array.

    The element is taken apart into rows along the last axis. There are few different rows, so the mask is dilated by
    each of them once, and packed eight voxels to a byte; then the packed masks are united for all rows of the element.
    """
    shape = mask.shape
    before = (element.shape[0] - 1) // 2
    after = element.shape[0] - 1 - before
    padded = np.pad(mask, [(before, after)] * mask.ndim)
    rows = element.reshape(-1, element.shape[-1])
    packed: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
    line = np.zeros((*padded.shape[:-1], shape[-1]), np.bool_)
    done: set[int] = set()
    # From short to long: a row holds all shorter ones.
    for row in sorted(rows[rows.any(1)], key=np.count_nonzero):
        filled = np.flatnonzero(row)
        span = (int(filled[0]), int(filled[-1]))
        if span not in packed:
            for shift in {*range(span[0], span[1] + 1)} - done:
                line |= padded[..., shift : shift + shape[-1]]
                done.add(shift)
            packed[span] = np.packbits(line, axis=-1)
    width = -(-shape[-1] // 8)
    steps = [int(np.prod(padded.shape[axis + 1 : -1], dtype=int)) * width for axis in range(mask.ndim - 1)]
    length = int(np.prod(padded.shape[:-1], dtype=int)) * width
    result = np.zeros(length, np.uint8)
    for position in np.argwhere(element.any(-1)):
        filled = np.flatnonzero(element[tuple(position)])
        start = int(np.dot(position, steps))
        source = packed[int(filled[0]), int(filled[-1])].reshape(-1)
        np.bitwise_or(result[: length - start], source[start:], out=result[: length - start])
    united = result.reshape(*padded.shape[:-1], width)[tuple(slice(n) for n in shape[:-1])]
    return np.unpackbits(united, axis=-1, count=shape[-1]).view(np.bool_)


def component_to_drop(mask_xyz: Mask, choice: float, smaller_than: float) -> tuple[Box, Mask] | None:
    """One of the small connected components of a mask (neighbours across corners are connected).

    Args:
        mask_xyz: Any number of axes.
        choice: From 0 up to 1; says which of the candidates.
        smaller_than: Only components with fewer voxels than this are candidates.

    Returns:
        A box and the component's voxels in it, or ``None`` if there is no candidate.
    """
    from scipy.ndimage import label

    box = bounding_box(mask_xyz)
    if box is None:
        return None
    components, _ = label(mask_xyz[box], np.ones((3,) * mask_xyz.ndim))
    sizes = np.bincount(components.reshape(-1))
    candidates = [k for k in range(1, len(sizes)) if sizes[k] < smaller_than]
    if not candidates:
        return None
    return box, components == candidates[int(choice * len(candidates))]
