"""Where each class can be found in a preprocessed case, for oversampling foreground in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = int | tuple[int, ...]

SEED = 1234
FEW_VOXELS = 10_000
LARGE_SHARE = 0.01


def sample_class_locations(segmentation_1xyz: NDArray[Any], keys: Sequence[Key]) -> dict[Key, Any]:
    """Draw voxels of every class or region, the same as nnU-Net draws.

    Args:
        segmentation_1xyz: Segmentation of an integer type.
        keys: Labels, or tuples of labels for regions.

    Returns:
        For each key an int64 array (n, 4) of indices into ``segmentation_1xyz``, at least 10,000 of them or 1 % of the
        class, whichever is more, or all there are; an empty list for a class that is absent.
    """
    wanted = {label for key in keys for label in _members(key)}
    positions = _positions(segmentation_1xyz.reshape(-1), wanted)
    random = np.random.RandomState(SEED)
    locations: dict[Key, Any] = {}
    for key in keys:
        pools = [positions[label] for label in _members(key) if label in positions]
        total = sum(len(p) for p in pools)
        if total == 0:
            locations[key] = []
            continue
        number = max(min(FEW_VOXELS, total), math.ceil(LARGE_SHARE * total))
        chosen = random.choice(total, number, replace=False)
        pool = pools[0] if len(pools) == 1 else np.concatenate(pools)
        locations[key] = np.stack(np.unravel_index(pool[chosen], segmentation_1xyz.shape), axis=1).astype(np.int64)
    return locations


def _members(key: Key) -> tuple[int, ...]:
    return key if isinstance(key, tuple) else (key,)


def _positions(flat: NDArray[Any], wanted: set[int]) -> dict[int, NDArray[np.intp]]:
    """Flat indices of each wanted label in C order; labels that do not occur are left out."""
    result = {}
    for label in sorted(v for v in wanted if v <= 0):  # background and outside: large, and rarely wanted
        found = np.flatnonzero(flat == label)
        if len(found):
            result[label] = found
    foreground = np.flatnonzero(flat > 0)
    if not len(foreground):
        return result
    values = flat[foreground]
    order = np.argsort(values, kind="stable")
    labels, starts = np.unique(values[order], return_index=True)
    for label, group in zip(labels, np.split(foreground[order], starts[1:]), strict=True):
        if int(label) in wanted:
            result[int(label)] = group
    return result
