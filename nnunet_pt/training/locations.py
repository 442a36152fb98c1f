"""Where the classes of a preprocessed case are, kept small in memory.

nnU-Net reads the case's whole pickle for every sample. It holds four 8-byte numbers for each of up to 10,000 voxels
per class; here one 4-byte number per voxel stays in memory, for the cases that were used last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import StorageError
from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.preprocessing.store import load_properties

CACHE_BYTES = 128 * 2**20


class ClassLocations:
    """Voxels of each class or region of one case.

    Args:
        class_locations: As in the properties of the case: key to an array (n, 1 + spatial axes) of indices with a
            leading channel index, or an empty list.
        shape: Spatial shape of the case.

    Raises:
        ValueError: If these are not voxels of the case.
    """

    __slots__ = ("_flat", "keys", "nbytes", "shape")

    def __init__(self, class_locations: Mapping[LabelValue, Any], shape: tuple[int, ...]) -> None:
        dtype = np.uint32 if math.prod(shape) <= 2**32 else np.uint64
        self.shape = shape
        self._flat: dict[LabelValue, NDArray[Any]] = {}
        for key, voxels in class_locations.items():
            if len(voxels):
                indices = np.asarray(voxels)
                if indices.ndim != 2 or indices.shape[1] != len(shape) + 1:
                    raise ValueError(f"class {key}: array of shape {indices.shape} for {len(shape)} spatial axes")
                columns = tuple(indices[:, axis + 1] for axis in range(len(shape)))
                self._flat[_plain(key)] = np.ravel_multi_index(columns, shape).astype(dtype)
        self.keys: tuple[LabelValue, ...] = tuple(self._flat)
        self.nbytes = sum(v.nbytes for v in self._flat.values())

    def count(self, key: LabelValue) -> int:
        """Number of known voxels of a class; 0 if the case does not have it."""
        return len(self._flat[key]) if key in self._flat else 0

    def voxel(self, key: LabelValue, number: int) -> tuple[int, ...]:
        """One of the voxels as a spatial index."""
        return tuple(int(i) for i in np.unravel_index(int(self._flat[key][number]), self.shape))


class LocationCache:
    """The locations of the cases that were used last.

    Args:
        limit_bytes: Memory that they may take together.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._cases: OrderedDict[str, ClassLocations] = OrderedDict()

    def get(self, case: str, properties_file: Path, shape: Callable[[], tuple[int, ...]]) -> ClassLocations:
        """The locations of a case, read from its properties if necessary.

        Args:
            case: Case identifier.
            properties_file: Its pickle.
            shape: Gives the spatial shape of the case.

        Raises:
            StorageError: If the file is missing or damaged.
        """
        if case in self._cases:
            self._cases.move_to_end(case)
            return self._cases[case]
        locations = read_locations(properties_file, shape())
        self._cases[case] = locations
        self._bytes += locations.nbytes
        while self._bytes > self._limit and len(self._cases) > 1:
            self._bytes -= self._cases.popitem(last=False)[1].nbytes
        return locations


def read_locations(properties_file: Path, shape: tuple[int, ...]) -> ClassLocations:
    """Read the locations of a case.

    Raises:
        StorageError: If the file is missing or damaged, or was made without locations.
    """
    properties = load_properties(properties_file)
    try:
        return ClassLocations(properties["class_locations"], shape)
    except Exception as error:  # anything can be wrong with what somebody else wrote
        reason = "it has no class_locations" if isinstance(error, KeyError) else str(error)
        raise StorageError(
            f"{properties_file} does not say where the classes of this case are.",
            found=reason,
            remedy="run nnUNetv2_preprocess again with --verify; it rebuilds damaged cases",
        ) from error


def _plain(key: Any) -> LabelValue:
    """The key with Python's own numbers, whatever the writer used."""
    return tuple(int(k) for k in key) if isinstance(key, (tuple, list)) else int(key)
