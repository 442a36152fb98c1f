"""Patches of preprocessed cases, read without loading the cases.

Three kinds of files are read: blosc2 (``.b2nd``, memory-mapped, only the blocks that a patch touches are
decompressed), arrays that were unpacked (``.npy``, memory-mapped), and ``.npz`` archives, which are unpacked beside
themselves when they are first needed, under the names nnU-Net gives them.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import atomic_path, storage_errors
from nnunet_pt.preprocessing.store import case_files, damaged, open_array
from nnunet_pt.training.locations import CACHE_BYTES, ClassLocations, LocationCache

OUTSIDE_IMAGE, OUTSIDE_SEGMENTATION = 0, -1
MOST_OPEN_CASES = 128  # each takes two or three file descriptors and up to a megabyte of memory
_SHOWN = 10

Region = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An open array, sliced like numpy's."""

    path: Path
    array: Any

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array.shape[-3:])

    @property
    def channels(self) -> int:
        return int(self.array.shape[0]) if len(self.array.shape) == 4 else 1

    def cut(self, box: Sequence[slice]) -> NDArray[Any]:
        """The voxels of a box, (channels, x, y, z)."""
        index = tuple(box) if len(self.array.shape) == 3 else (slice(None), *box)
        try:
            voxels = np.asarray(self.array[index])
        except Exception as error:  # damaged blocks make blosc2 raise anything
            raise damaged(self.path, error) from error
        return voxels if voxels.ndim == 4 else voxels[None]


@dataclass(frozen=True, slots=True)
class _OpenCase:
    image: _Stored
    segmentations: tuple[_Stored, ...]  # the case's own, and in a cascade that of the previous stage


class PatchSource:
    """The preprocessed cases of one configuration.

    Open files and the locations of classes are kept, within bounds, for the cases used last. Each process should use
    a source of its own; a copy made by forking or pickling is one.

    Args:
        folder: Data folder of the configuration.
        cases: Case identifiers; samples are drawn from them by position.
        previous_stage_folder: In a cascade the folder with the previous stage's segmentations of these cases.
        cache_bytes: Memory for the locations of classes.

    Raises:
        StorageError: If files are missing; names all the cases.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        *,
        previous_stage_folder: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.folder = folder
        self.cases = tuple(cases)
        self.previous_stage_folder = previous_stage_folder
        self._cache_bytes = cache_bytes
        self._open: OrderedDict[str, _OpenCase] = OrderedDict()
        self._most_open = max(1, min(MOST_OPEN_CASES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._locations = LocationCache(cache_bytes)
        self._check_files()

    def __getstate__(self) -> dict[str, Any]:  # open files stay where they are
        state = self.__dict__.copy()
        return state | {"_open": OrderedDict(), "_locations": LocationCache(self._cache_bytes)}

    def shape(self, case: str) -> tuple[int, ...]:
        """Spatial shape of a case, three axes."""
        return self._case(case).image.spatial

    def channels(self, case: str) -> int:
        """Channels of the image of a case."""
        return self._case(case).image.channels

    def class_locations(self, case: str) -> ClassLocations:
        """Where the classes of a case are.

        Raises:
            StorageError: If its properties are missing or damaged.
        """
        return self._locations.get(case, self.folder / case_files(case)[2], lambda: self.shape(case))

    def read(
        self, case: str, corner: Sequence[int], patch: Sequence[int], region: Region | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read a patch.

        Outside of the case the image is 0 and the segmentations are -1; a box that misses the case is 0 throughout,
        as in nnU-Net.

        Args:
            case: Case identifier.
            corner: First voxel, three axes; may be negative.
            patch: Size; with two axes the patch is a slice along the first axis.
            region: The part of the patch that is needed. The rest of the result is 0.

        Returns:
            Image (channels, *patch) float32; segmentations (1, or 2 in a cascade, *patch) int16.

        Raises:
            StorageError: If a file is missing or damaged.
        """
        opened = self._case(case)
        flat = len(patch) == 2
        size = (1, *patch) if flat else tuple(patch)
        wanted = tuple(slice(0, n) for n in size) if region is None else region
        if flat and region is not None:
            wanted = (slice(0, 1), *region)
        image = _read(opened.image, corner, size, wanted, OUTSIDE_IMAGE, np.float32)
        layers = [_read(s, corner, size, wanted, OUTSIDE_SEGMENTATION, np.int16) for s in opened.segmentations]
        segmentation = layers[0] if len(layers) == 1 else np.concatenate(layers)
        if flat:
            image, segmentation = image[:, 0], segmentation[:, 0]
        return torch.from_numpy(image), torch.from_numpy(segmentation)

    def _case(self, case: str) -> _OpenCase:
        if case in self._open:
            self._open.move_to_end(case)
            return self._open[case]
        opened = self._opened(case)
        self._open[case] = opened
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)
        return opened

    def _opened(self, case: str) -> _OpenCase:
        image, segmentation = _open_pair(self.folder, case)
        segmentations = [segmentation]
        if self.previous_stage_folder is not None:
            segmentations.append(_open_previous(self.previous_stage_folder, case))
        for other in segmentations:
            if other.spatial != image.spatial:
                raise StorageError(
                    f"{other.path} does not fit the image of case {case}.",
                    found=f"{other.spatial} voxels",
                    expected=f"{image.spatial} voxels, as {image.path} has",
                    remedy="make both again with the same plans: preprocess the case, or train the previous stage",
                )
        return _OpenCase(image, tuple(segmentations))

    def _check_files(self) -> None:
        names = names_in(self.folder)
        missing = [case for case in self.cases if not _is_complete(case, names)]
        if missing or not self.cases:
            raise StorageError(
                f"{self.folder} does not hold all cases to train with.",
                found=f"incomplete or missing: {_some(missing)}" if missing else "no cases were asked for",
                expected="image, segmentation and properties (.b2nd, _seg.b2nd and .pkl) of each case",
                remedy="run nnUNetv2_preprocess for this configuration; it redoes what is missing",
            )
        if self.previous_stage_folder is not None:
            names = names_in(self.previous_stage_folder)
            missing = [case for case in self.cases if not names & {f"{case}.b2nd", f"{case}.npz"}]
            if missing:
                raise StorageError(
                    f"{self.previous_stage_folder} lacks predictions of the previous stage.",
                    found=f"missing: {_some(missing)}",
                    expected="one .b2nd file for each case",
                    remedy="train the previous stage with the same trainer and plans first: all folds, each to its end",
                )


def _read(
    stored: _Stored, corner: Sequence[int], size: Sequence[int], wanted: Region, outside: int, dtype: type[np.generic]
) -> NDArray[Any]:
    shape = stored.spatial
    if any(c >= n or c + s <= 0 for c, s, n in zip(corner, size, shape, strict=True)):
        return np.zeros((stored.channels, *size), dtype)
    starts = [c + w.start for c, w in zip(corner, wanted, strict=True)]
    stops = [c + w.stop for c, w in zip(corner, wanted, strict=True)]
    low = [min(max(a, 0), n) for a, n in zip(starts, shape, strict=True)]
    high = [max(min(b, n), a) for b, n, a in zip(stops, shape, low, strict=True)]
    voxels = stored.cut([slice(a, b) for a, b in zip(low, high, strict=True)])
    if voxels.shape[1:] == tuple(size):
        return np.require(voxels, dtype, ["C", "W", "O"])
    everything = all((w.start, w.stop) == (0, n) for w, n in zip(wanted, size, strict=True))
    result = (np.empty if everything else np.zeros)((len(voxels), *size), dtype)
    part = result[(slice(None), *wanted)]
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, starts, strict=True))
    _fill_around(part, inside, outside)
    part[(slice(None), *inside)] = voxels
    return result


def _fill_around(part: NDArray[Any], inside: Region, value: int) -> None:
    """Write ``value`` everywhere but ``inside``; axis 0 of the array is not in the region."""
    index: list[slice] = [slice(None)]
    for kept in inside:
        part[(*index, slice(0, kept.start))] = value
        part[(*index, slice(kept.stop, None))] = value
        index.append(kept)


def _open_pair(folder: Path, case: str) -> tuple[_Stored, _Stored]:
    image, segmentation, _ = (folder / name for name in case_files(case))
    if image.is_file():
        return _open_blosc(image), _open_blosc(segmentation)
    unpacked, unpacked_segmentation = folder / f"{case}.npy", folder / f"{case}_seg.npy"
    archive = folder / f"{case}.npz"
    if archive.is_file():
        for path, key in ((unpacked, "data"), (unpacked_segmentation, "seg")):
            if not path.is_file() or path.stat().st_mtime < archive.stat().st_mtime:
                _unpack(archive, key, path)
    return _open_npy(unpacked), _open_npy(unpacked_segmentation)


def _open_previous(folder: Path, case: str) -> _Stored:
    path = folder / f"{case}.b2nd"
    if path.is_file() or not (folder / f"{case}.npz").is_file():
        return _open_blosc(path)
    archive = folder / f"{case}.npz"
    return _Stored(archive, _load_npz(archive, "seg"))


def _open_blosc(path: Path) -> _Stored:
    return _Stored(path, open_array(path, dparams={"nthreads": 1}))


def _open_npy(path: Path) -> _Stored:
    with storage_errors(path):
        try:
            return _Stored(path, np.load(path, mmap_mode="r"))
        except (ValueError, EOFError) as error:  # not numpy's format, or cut off
            raise damaged(path, error) from error


def _unpack(archive: Path, key: str, path: Path) -> None:
    array = _load_npz(archive, key)
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def _load_npz(archive: Path, key: str) -> NDArray[Any]:
    try:
        with archive.open("rb") as file, np.load(file) as arrays:
            array: NDArray[Any] = arrays[key]
            return array
    except Exception as error:  # damaged archives raise anything from BadZipFile to zlib.error
        raise damaged(archive, error) from error


def names_in(folder: Path) -> set[str]:
    """Names of the files of a folder; none if it does not exist."""
    if not folder.is_dir():
        return set()
    with storage_errors(folder):
        return {path.name for path in folder.iterdir()}


def _is_complete(case: str, names: set[str]) -> bool:
    image, segmentation, properties = case_files(case)
    kinds = ({image, segmentation}, {f"{case}.npz"}, {f"{case}.npy", f"{case}_seg.npy"})
    return properties in names and any(kind <= names for kind in kinds)


def _some(cases: Sequence[str]) -> str:
    rest = len(cases) - _SHOWN
    return ", ".join(cases[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
