"""Find truncated files that image libraries read without complaint.

ITK fills the missing end of a truncated NIfTI or GIPL file with zeros or with whatever is in memory.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from nnunet_pt.dataset.images.base import damaged

PIECE = 1 << 20
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
            expected = nifti_bytes(file.read(540), path)
            _require(path, path.stat().st_size, expected)
            return
        try:
            with gzip.GzipFile(fileobj=file) as content:
                expected = nifti_bytes(content.read(540), path)
        except (EOFError, OSError, zlib.error) as error:
            raise damaged(path, f"not a complete gzip file ({error})") from error
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


def nifti_bytes(header: bytes, path: Path) -> int:
    """Length of an uncompressed NIfTI-1 or NIfTI-2 file according to its first 540 bytes.

    Raises:
        ImageError: If these are not a NIfTI header.
    """
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header)[0] == 348:
            dim, bits = struct.unpack_from(f"{order}8h", header, 40), struct.unpack_from(f"{order}h", header, 72)[0]
            offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
            break
        if len(header) >= 540 and struct.unpack_from(f"{order}i", header)[0] == 540:
            dim, bits = struct.unpack_from(f"{order}8q", header, 16), struct.unpack_from(f"{order}h", header, 14)[0]
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
            break
    else:
        raise damaged(path, "it does not begin with a NIfTI header")
    voxels = 1
    for length in dim[1 : 1 + max(0, min(dim[0], 7))]:
        voxels *= length
    return int(offset + voxels * bits // 8)


def _decompressed_bytes(path: Path) -> int:
    total = 0
    try:
        with gzip.open(path, "rb") as content:
            while piece := content.read(PIECE):
                total += len(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise damaged(path, f"only {total} bytes can be decompressed ({error})") from error
    return total


def _require(path: Path, found: int, expected: int) -> None:
    if found < expected:
        raise damaged(path, f"{found} bytes of content, its header promises {expected}")
