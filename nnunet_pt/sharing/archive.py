"""ZIP archives: looked at before anything of them is written, and unpacked without trusting what they say."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from nnunet_pt.core.console import Progress
from nnunet_pt.core.errors import ArchiveError
from nnunet_pt.core.files import make_folder, storage_errors
from nnunet_pt.dataset.cases import shortened
from nnunet_pt.sharing.layout import same_file_key, unsafe_reason

PIECE = 1 << 20
MEGABYTE = 1_000_000
GIGABYTE = 1_000_000_000
_ENCRYPTED = 0x1
_FILE_HEADER_BYTES = 30
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_OTHER_CONTENT = {
    b"<!": "a web page: the download did not deliver the file",
    b"<h": "a web page: the download did not deliver the file",
    b"\x1f\x8b": "a gzip archive",
    b"7z": "a 7-Zip archive",
    b"Ra": "a RAR archive",
    b"\x80": "a pickle, perhaps a checkpoint",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large the content of an archive may be.

    Attributes:
        total_bytes: All files together, unpacked.
        ratio: Unpacked to packed size, of a file and of all together; ``None``: any.
        ratio_from_bytes: Unpacked size from which the ratio matters; small text files shrink a lot.
        members: Number of files and folders.
    """

    total_bytes: int = 50 * GIGABYTE
    ratio: float | None = 100.0
    ratio_from_bytes: int = 64 * MEGABYTE
    members: int = 100_000


@contextlib.contextmanager
def open_archive(path: Path, file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading.

    Args:
        path: Where it is, for messages.
        file: The open file.

    Raises:
        ArchiveError: If it is no ZIP archive, or truncated.
    """
    file.seek(0)
    beginning = file.read(4)
    if not beginning.startswith(b"PK"):
        kinds = [kind for start, kind in _OTHER_CONTENT.items() if beginning.startswith(start)]
        raise ArchiveError(
            f"{path} is not a ZIP archive.",
            found=kinds[0] if kinds else f"a file that begins with {beginning!r}" if beginning else "an empty file",
            expected="an archive as nnUNetv2_export_model_to_zip makes it",
            remedy="download or copy the file again, or choose another one",
        )
    with damage_reported(path):
        archive = zipfile.ZipFile(file)
    with archive:
        yield archive


@contextlib.contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Within this block what zipfile complains about becomes an :class:`ArchiveError`."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
    ) as error:
        truncated = "not a zip file" in str(error)
        raise ArchiveError(
            f"The archive {path} is {'truncated' if truncated else 'damaged'}.",
            found=f"{path.stat().st_size:,} bytes; "
            + ("the table of contents at the end is missing" if truncated else str(error) or type(error).__name__),
            expected="a complete ZIP archive",
            remedy="download or copy it again",
        ) from error


def checked_members(archive: zipfile.ZipFile, path: Path, limits: Limits) -> tuple[zipfile.ZipInfo, ...]:
    """The files of an archive, without folders; looks only at the table of contents.

    Raises:
        ArchiveError: With all findings: names that lead elsewhere, links, names used twice, content that is too large,
            that overlaps, is encrypted, or packed in a way that cannot be read.
    """
    members = archive.infolist()
    if len(members) > limits.members:
        raise _refused(path, [f"{len(members):,} files"], expected=f"at most {limits.members:,}")
    findings = [f"{info.filename!r}: {reason}" for info in members if (reason := _reason(info))]
    findings += _used_twice(members) + _overlapping(members)
    if findings:
        raise _refused(
            path,
            findings,
            expected="plain files below DatasetXXX_Name",
            remedy="do not use this archive; ask its maker",
        )
    files = tuple(info for info in members if not info.is_dir())
    if too_large := _too_large(files, limits):
        raise _refused(
            path,
            too_large,
            expected=f"at most {limits.total_bytes / GIGABYTE:g} GB unpacked"
            + ("" if limits.ratio is None else f", and {limits.ratio:g} times the packed size"),
            remedy="if you trust its source: --max_gb N allows content of N GB, however well it is packed",
        )
    return files


def _refused(path: Path, findings: Sequence[str], *, expected: str, remedy: str | None = None) -> ArchiveError:
    return ArchiveError(
        f"The archive {path} was refused. Nothing of it was written.",
        found=shortened(findings),
        expected=expected,
        remedy=remedy,
    )


def _reason(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or another special file"
    if "\0" in info.orig_filename:
        return "characters that have no place in file names"
    if reason := unsafe_reason(info.orig_filename):  # before zipfile makes it fit this system
        return reason
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in _READABLE:
        return f"packed by method {info.compress_type}, which cannot be read here"
    if info.is_dir() and info.file_size:
        return "a folder with content of its own"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "two sizes that cannot both be right"
    return None


def _used_twice(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Names that mean the same file, and files that are the folder of another one."""
    findings = []
    seen: dict[str, str] = {}
    for info in members:
        key = same_file_key(info.filename.removesuffix("/"))
        if key in seen and not (info.is_dir() and seen[key].endswith("/")):
            findings.append(f"{info.filename!r}: the same file as {seen[key]!r}")
        seen.setdefault(key, info.filename)
    for info in members:
        parts = same_file_key(info.filename.removesuffix("/")).split("/")
        above = ("/".join(parts[:n]) for n in range(1, len(parts)))
        findings += [f"{info.filename!r}: {seen[a]!r} is a file" for a in above if not seen.get(a, "/").endswith("/")]
    return findings


def _overlapping(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Files that share packed content: a way to make a small archive unpack to a huge one."""
    ordered = sorted(members, key=lambda info: info.header_offset)
    return [
        f"{second.filename!r}: shares its content with {first.filename!r}"
        for first, second in pairwise(ordered)
        if first.header_offset + _FILE_HEADER_BYTES + first.compress_size > second.header_offset
    ]


def _too_large(files: Sequence[zipfile.ZipInfo], limits: Limits) -> list[str]:
    total = sum(info.file_size for info in files)
    packed = sum(info.compress_size for info in files)
    if total > limits.total_bytes:
        return [f"{total / GIGABYTE:,.1f} GB unpacked"]
    if limits.ratio is None:
        return []
    sizes = [(repr(info.filename), info.file_size, info.compress_size) for info in files]
    return [
        f"{name}: {size / MEGABYTE:,.0f} MB in {small / MEGABYTE:,.3f} MB"
        for name, size, small in [("all together", total, packed), *sizes]
        if size > limits.ratio_from_bytes and size > limits.ratio * small
    ]


def extract(
    archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo, target: Path, count: Callable[[int], None]
) -> None:
    """Unpack one file; its checksum and size are compared with what the archive says.

    Args:
        archive: The open archive.
        path: Where it is, for messages.
        info: The file's entry.
        target: The new file.
        count: Told how many bytes were written.

    Raises:
        ArchiveError: If the content is damaged.
        StorageError: If it cannot be written, for example because the disk is full.
    """
    make_folder(target.parent)
    written = 0
    with damage_reported(path), storage_errors(target):
        with archive.open(info) as source, target.open("xb") as file:
            while piece := source.read(PIECE):
                written += len(piece)
                file.write(piece)
                count(len(piece))
            file.flush()
            os.fsync(file.fileno())
        if written != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename} has {written:,} bytes instead of {info.file_size:,}")


def sha256(file: BinaryIO | io.BufferedReader, count: Callable[[int], None] = lambda _: None) -> str:
    """Hexadecimal SHA-256 digest of an open file, from its beginning.

    Args:
        file: The file.
        count: Told how many bytes were read.
    """
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
        count(len(piece))
    return digest.hexdigest()


@contextlib.contextmanager
def byte_progress(total_bytes: int, description: str, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Show progress in megabytes; yields a function that counts bytes."""
    total = -(-total_bytes // MEGABYTE)
    done = shown = 0
    with Progress(total, description, "MB", disable=not enabled) as progress:

        def count(number: int) -> None:
            nonlocal done, shown
            done += number
            if (steps := -(-done // MEGABYTE) - shown) > 0:
                progress.advance(steps)
                shown += steps

        yield count


def size_text(number: int) -> str:
    """A number of bytes for people."""
    return f"{number / GIGABYTE:.2f} GB" if number >= GIGABYTE else f"{number / MEGABYTE:.1f} MB"
