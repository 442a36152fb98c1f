"""Preprocessed cases on disk, as nnU-Net writes and reads them.

A case is three files: ``<case>.b2nd`` (image, float32, (channels, x, y, z)), ``<case>_seg.b2nd`` (segmentation, int16,
(1, x, y, z), -1 outside the nonzero mask) and ``<case>.pkl`` (properties). Folders that nnU-Net filled with
``<case>.npz`` are read too.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import storage_errors, write_bytes
from nnunet_pt.preprocessing.blosc_layout import blocks_and_chunks

GT_FOLDER = "gt_segmentations"
COMPRESSION_LEVEL = 5
_SEGMENTATION = "_seg"


def case_files(case: str) -> tuple[str, str, str]:
    """Names of the files of a preprocessed case: image, segmentation, properties."""
    return f"{case}.b2nd", f"{case}{_SEGMENTATION}.b2nd", f"{case}.pkl"


def write_array(path: Path, array: NDArray[Any], patch_size: Sequence[int]) -> None:
    """Write an array as nnU-Net does: LZ4HC level 5, chunks and blocks after the patch size.

    Args:
        path: Target, ending in ``.b2nd``; complete or absent.
        array: (channels, x, y, z).
        patch_size: The configuration's patch size.
    """
    import blosc2

    array = np.ascontiguousarray(array)
    blocks, chunks = blocks_and_chunks(array.shape, patch_size, array.itemsize)
    # One thread: several store the blocks of a chunk in the order in which they finish, another one in every run
    parameters = {"codec": blosc2.Codec.LZ4HC, "clevel": COMPRESSION_LEVEL, "nthreads": 1}
    parameters["filters"] = [_best_filter(array, blocks, chunks, parameters)]
    # Compressed in memory: writing to a mapped file, as nnU-Net does, ends with a bus error when the disk is full
    compressed = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=parameters, contiguous=True)
    write_bytes(path, compressed.to_cframe())


def _best_filter(
    array: NDArray[Any], blocks: Sequence[int], chunks: Sequence[int], parameters: Mapping[str, Any]
) -> Any:
    """Byte shuffling if it makes the central chunk smaller."""
    import blosc2

    starts = [(n - min(n, c)) // 2 for n, c in zip(array.shape, chunks, strict=True)]
    slab = np.ascontiguousarray(array[tuple(slice(s, s + c) for s, c in zip(starts, chunks, strict=True))])
    inner = tuple(min(b, n) for b, n in zip(blocks, slab.shape, strict=True))
    sizes = [
        blosc2.asarray(slab, chunks=slab.shape, blocks=inner, cparams={**parameters, "filters": [f]}).schunk.cbytes
        for f in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE)
    ]
    return blosc2.Filter.SHUFFLE if sizes[1] < sizes[0] else blosc2.Filter.NOFILTER


def save_case(
    folder: Path,
    case: str,
    image_cxyz: NDArray[Any],
    segmentation_1xyz: NDArray[Any],
    properties: Mapping[str, Any],
    patch_size: Sequence[int],
) -> None:
    """Write the three files of a case, the properties last.

    Args:
        folder: Data folder of the configuration.
        case: Case identifier.
        image_cxyz: Stored as float32.
        segmentation_1xyz: Stored as int16.
        properties: What export and training need to know; builtin types and numpy arrays only.
        patch_size: The configuration's patch size.
    """
    image, segmentation, pickled = case_files(case)
    write_array(folder / image, image_cxyz.astype(np.float32, copy=False), patch_size)
    write_array(folder / segmentation, segmentation_1xyz.astype(np.int16, copy=False), patch_size)
    write_bytes(folder / pickled, pickle.dumps(dict(properties), protocol=4))


def load_case(folder: Path, case: str) -> tuple[NDArray[np.float32], NDArray[np.int16], dict[str, Any]]:
    """Read a preprocessed case completely, from blosc2 or npz files.

    Returns:
        Image (channels, x, y, z), segmentation (1, x, y, z), properties.

    Raises:
        StorageError: If a file is missing or damaged.
    """
    image, segmentation, pickled = (folder / name for name in case_files(case))
    archive = folder / f"{case}.npz"
    if not image.is_file() and archive.is_file():
        try:
            with archive.open("rb") as file, np.load(file) as arrays:
                image_cxyz, segmentation_1xyz = arrays["data"], arrays["seg"]
        except Exception as error:  # damaged archives raise anything from BadZipFile to zlib.error
            raise damaged(archive, error) from error
        return image_cxyz, segmentation_1xyz, load_properties(pickled)
    return _read_array(image), _read_array(segmentation), load_properties(pickled)


def open_array(path: Path, **options: Any) -> Any:
    """Open a blosc2 array for reading parts of it, memory-mapped.

    Args:
        path: A ``.b2nd`` file.
        options: Further arguments of ``blosc2.open``.

    Returns:
        The array; slices of it are numpy arrays.

    Raises:
        StorageError: If the file is missing or its header is damaged.
    """
    import blosc2

    if not path.is_file():
        raise _missing(path)
    try:
        stored = blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", **options)
        if math.prod(stored.shape) * stored.dtype.itemsize > stored.schunk.nbytes:
            raise ValueError(f"shape {stored.shape} does not fit its {stored.schunk.nbytes} bytes of content")
    except Exception as error:  # a damaged header makes blosc2 raise anything
        raise damaged(path, error) from error
    return stored


def _read_array(path: Path) -> NDArray[Any]:
    stored = open_array(path)
    try:
        return np.asarray(stored[...])
    except Exception as error:  # damaged blocks make blosc2 raise anything
        raise damaged(path, error) from error


def load_properties(path: Path) -> dict[str, Any]:
    """Read the properties of a case; nothing but plain values and numpy arrays is accepted.

    Raises:
        StorageError: If the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise _missing(path)
    with storage_errors(path):
        content = path.read_bytes()
    try:
        return dict(PlainUnpickler(io.BytesIO(content)).load())
    except Exception as error:  # a damaged pickle can ask for anything
        raise damaged(path, error) from error


class PlainUnpickler(pickle.Unpickler):
    """Reads builtin types and numpy arrays; a pickle that wants to call anything else is refused."""

    _ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
            ("collections", "OrderedDict"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Look up one of the allowed constructors."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not plain data")
        return super().find_class(module, name)


def _missing(path: Path) -> StorageError:
    return StorageError(f"{path} is missing.", remedy="run nnUNetv2_preprocess again; it redoes what is missing")


def damaged(path: Path, error: Exception) -> StorageError:
    """The error for a file of a preprocessed case that cannot be read."""
    return StorageError(
        f"{path} is damaged.",
        found=str(error) or type(error).__name__,
        remedy="run nnUNetv2_preprocess with --verify; it finds damaged cases and rebuilds them",
    )
