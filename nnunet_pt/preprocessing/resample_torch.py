"""nnU-Net's torch resampling, used by the ``*_torchres`` planners.

Linear interpolation instead of cubic splines: faster in nnU-Net, a little smoother.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_pt.preprocessing.resample import ANISOTROPY_THRESHOLD, separate_axis

if TYPE_CHECKING:
    from torch import Tensor

_ONE = 1000.0  # value of a label's indicator; keeps three digits in float16
_CLEAR = 700.0


def resample_torch_fornnunet(
    array_cxyz: NDArray[Any],
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    is_seg: bool = False,
    num_threads: int = 4,
    memefficient_seg_resampling: bool = False,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = ANISOTROPY_THRESHOLD,
    threads: int | None = None,
) -> NDArray[Any]:
    """Resize with ``torch.nn.functional.interpolate``.

    Args:
        array_cxyz: Image, class scores or label map, (channels, x, y, z).
        new_shape: New spatial extents.
        current_spacing: Voxel size now, in mm, in axis order.
        new_spacing: Voxel size afterwards.
        is_seg: Whether it is a label map.
        num_threads: Number of threads if ``threads`` is not given.
        memefficient_seg_resampling: For label maps, one label at a time instead of all at once.
        force_separate_z: See :func:`nnunet_pt.preprocessing.resample.separate_axis`.
        separate_z_anisotropy_threshold: Likewise.
        threads: Number of threads; takes precedence over ``num_threads``.

    Returns:
        float32; for label maps int8, or int16 if a label needs it; the input itself if its shape is the new one.
    """
    new_shape = tuple(int(n) for n in new_shape)
    if array_cxyz.shape[1:] == new_shape:
        return array_cxyz
    axis = separate_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    with _threads(threads or num_threads), torch.no_grad():
        if is_seg:
            resized = _resize_labels(array_cxyz, new_shape, axis, memory_efficient=memefficient_seg_resampling)
        else:
            source = torch.from_numpy(np.ascontiguousarray(array_cxyz, dtype=np.float32))
            resized = _interpolate(source, new_shape, axis).numpy()
    return resized


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _interpolate(volume: Tensor, new_shape: tuple[int, ...], axis: int | None) -> Tensor:
    """Resize (channels, x, y, z); with a separate axis linearly within slices, then nearest along it."""
    resize = torch.nn.functional.interpolate
    if axis is None:
        return resize(volume[None], new_shape, mode="trilinear", align_corners=False)[0]
    in_plane = tuple(n for a, n in enumerate(new_shape) if a != axis)
    slices = torch.movedim(volume, axis + 1, 1)
    # Channel by channel: torch rounds differently if there are more, and one class must not depend on the others
    resized = torch.cat([resize(channel[None], in_plane, mode="bilinear", align_corners=False) for channel in slices])
    restored = torch.movedim(resized, 1, axis + 1)
    return resize(restored[None], new_shape, mode="nearest-exact")[0]


def _resize_labels(
    labels: NDArray[Any], new_shape: tuple[int, ...], axis: int | None, *, memory_efficient: bool
) -> NDArray[Any]:
    values = np.unique(labels)
    dtype = np.int8 if values.max() < 127 else np.int16
    result = np.zeros((len(labels), *new_shape), dtype=dtype)
    for channel, label_map in enumerate(labels):
        source = torch.from_numpy(np.ascontiguousarray(label_map))
        if memory_efficient:
            for value in values:
                share = _interpolate((source == float(value)).float()[None], new_shape, axis)[0]
                result[channel][(share > 0.5).numpy()] = value
            continue
        scores = torch.empty((len(values), *new_shape), dtype=torch.float16)
        clear = torch.zeros(new_shape, dtype=torch.bool)
        chosen = torch.zeros(new_shape, dtype=torch.int64)
        for index, value in enumerate(values):
            indicator = (source == float(value)).float()[None] * _ONE
            scores[index] = _interpolate(indicator, new_shape, axis)[0]
            wins = scores[index] > _CLEAR
            chosen[wins] = index
            clear |= wins
        chosen[~clear] = scores[:, ~clear].argmax(0)
        result[channel] = values.astype(dtype)[chosen.numpy()]
    return result
