"""Find damage that image libraries hide.

ITK fills the missing end of a truncated NIfTI or GIPL file with zeros or with whatever is in memory, and reads NaN and
infinite values of NIfTI files as 0. Checksums of compressed files are compared by nobody.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.dataset.images.base import damaged

if TYPE_CHECKING:
    from io import BufferedReader

PIECE = 1 << 20
HEADER_BYTES = 540
FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI's codes
NIFTI_ENDINGS = (".nii", ".nii.gz")
GZIP_MAGIC = b"\x1f\x8b"
GIPL_HEADER_BYTES = 256


def check_nifti_complete(path: Path) -> None:
    """Compare the length of a .nii or .nii.gz with what its header promises.

    A gzip file ends with the length of its content, so an intact one costs no decompression. Only if that does not
    fit (truncated, but also files written in several pieces) is the whole file decompressed.

    Raises:
        ImageError: If the file is too short or its checksum is wrong.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not zipped:
            expected = _Header.parse(file.read(HEADER_BYTES), path).file_bytes
            _require(path, path.stat().st_size, expected)
            return
        with _gzip_errors(path), gzip.GzipFile(fileobj=file) as content:
            expected = _Header.parse(content.read(HEADER_BYTES), path).file_bytes
        file.seek(-4, 2)
        if struct.unpack("<I", file.read(4))[0] == expected % (1 << 32):
            return
    _require(path, _decompressed_bytes(path), expected)


def check_gipl_complete(path: Path, data_bytes: int) -> None:
    """Compare the length of an uncompressed GIPL file with that of its voxels.

    Raises:
        ImageError: If the file is too short.
    """
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            _require(path, path.stat().st_size, GIPL_HEADER_BYTES + data_bytes)


def nonfinite_in_nifti(path: Path) -> tuple[int, int]:
    """How many values of a NIfTI file are NaN, and how many infinite; only floating-point types are read for it.

    Raises:
        ImageError: If the file is truncated or damaged.
    """
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        return 0, 0
    with _gzip_errors(path), _content(path) as content:
        return _count_nonfinite(content, _Header.parse(content.read(HEADER_BYTES), path))


def scan_file(path: Path) -> tuple[int, int]:
    """Read a file completely, which compares the checksum if it is compressed with gzip.

    Returns:
        How many values of a NIfTI file of floating-point type are NaN, and how many infinite; zeros for other files.

    Raises:
        ImageError: If the file is truncated or damaged anywhere.
    """
    is_nifti = path.name.lower().endswith(NIFTI_ENDINGS)
    counts = (0, 0)
    with _gzip_errors(path), _content(path) as content:
        if not is_nifti and not isinstance(content, gzip.GzipFile):
            return counts
        if is_nifti:
            counts = _count_nonfinite(content, _Header.parse(content.read(HEADER_BYTES), path))
        while content.read(PIECE):
            pass
    return counts


def _content(path: Path) -> gzip.GzipFile | BufferedReader:
    """The file's content, decompressed if it is compressed with gzip."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _count_nonfinite(content: gzip.GzipFile | BufferedReader, header: _Header) -> tuple[int, int]:
    import numpy as np

    nan = infinite = 0
    if header.type_code in FLOAT_TYPES:
        kind = np.dtype(header.order + FLOAT_TYPES[header.type_code])
        content.seek(header.offset)
        rest = header.data_bytes
        while rest > 0 and (piece := content.read(min(PIECE, rest))):
            rest -= len(piece)
            values = np.frombuffer(piece, kind, count=len(piece) // kind.itemsize)
            if not np.isfinite(values).all():
                nan += int(np.isnan(values).sum())
                infinite += int(np.isinf(values).sum())
    return nan, infinite


@contextlib.contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise damaged(path, f"it cannot be decompressed to its end ({error})") from error


@dataclass(frozen=True, slots=True)
class _Header:
    """What matters of a NIfTI-1 or NIfTI-2 header."""

    order: str  # of bytes
    offset: int
    type_code: int
    data_bytes: int

    @classmethod
    def parse(cls, header: bytes, path: Path) -> _Header:
        for order in "<>":
            size = struct.unpack_from(f"{order}i", header)[0] if len(header) >= 4 else 0
            if size == 348 <= len(header):
                dim = struct.unpack_from(f"{order}8h", header, 40)
                type_code, bits = struct.unpack_from(f"{order}2h", header, 70)
                offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
            elif size == 540 <= len(header):
                dim = struct.unpack_from(f"{order}8q", header, 16)
                type_code, bits = struct.unpack_from(f"{order}2h", header, 12)
                offset = struct.unpack_from(f"{order}q", header, 168)[0]
            else:
                continue
            voxels = math.prod(dim[1 : 1 + max(0, min(dim[0], 7))])
            return cls(order, offset, type_code, voxels * bits // 8)
        raise damaged(path, "it does not begin with a NIfTI header")

    @property
    def file_bytes(self) -> int:
        return self.offset + self.data_bytes


def _decompressed_bytes(path: Path) -> int:
    total = 0
    with _gzip_errors(path), gzip.open(path, "rb") as content:
        while piece := content.read(PIECE):
            total += len(piece)
    return total


def _require(path: Path, found: int, expected: int) -> None:
    if found < expected:
        raise damaged(path, f"{found} bytes of content, its header promises {expected}")
