"""Files that are copied to a disk of this machine, and looked after there.

A file is copied if it is not there with the size and the modification time of the original, so copying can be
interrupted and goes on, and what was preprocessed again is copied again. Each file appears complete or not at all, and
always with the same content; two jobs may therefore use the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import atomic_path, storage_errors
from nnunet_pt.preprocessing.manifest import FileStamp

NUM_THREADS = 8  # file systems of networks answer many questions at once faster than one after the other
_PIECE = 4 << 20
_BLOCK = 4096
_UNPACKED = 4  # an archive and what the loader unpacks from it, relative to the archive
_INTERVAL_S = 0.5
_TOGETHER = 256  # files that a thread looks at before it takes more


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFile:
    """A file and its copy.

    Attributes:
        source: The original.
        target: The copy.
        size: Bytes of the original.
        mtime_ns: Its modification time.
        derived: Files that the loader makes from the copy; worthless when that is replaced.
    """

    source: Path
    target: Path
    size: int
    mtime_ns: int
    derived: tuple[Path, ...] = ()

    @classmethod
    def of(cls, source: Path, target: Path, derived: Sequence[Path]) -> CopiedFile:
        """Look at the original."""
        with storage_errors(source):
            status = source.stat()
        size, time_ns = status.st_size, status.st_mtime_ns
        return cls(source=source, target=target, size=size, mtime_ns=time_ns, derived=tuple(derived))

    def is_current(self) -> bool:
        """Whether the copy is there."""
        try:
            status = self.target.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)

    def needed_bytes(self) -> int:
        """Space that the copy takes, with what is unpacked from it."""
        size = self.size * (_UNPACKED if self.derived else 1)
        return -(-size // _BLOCK) * _BLOCK

    def copy(self, checksum: str | None, on_piece: Callable[[int], None]) -> None:
        """Copy it.

        Args:
            checksum: What its content should have; None if that is not known.
            on_piece: Called with the number of bytes of each piece; may raise to stop.

        Raises:
            StorageError: If the file changed while it was copied, or is damaged.
        """
        for path in self.derived:
            path.unlink(missing_ok=True)
        digest = hashlib.blake2b(digest_size=16)
        with storage_errors(self.source), self.source.open("rb") as content, atomic_path(self.target) as temporary:
            with temporary.open("wb") as copy:
                while piece := content.read(_PIECE):
                    copy.write(piece)
                    if checksum is not None:
                        digest.update(piece)
                    on_piece(len(piece))
                copied = copy.tell()
            status = os.fstat(content.fileno())
            if (copied, status.st_size, status.st_mtime_ns) != (self.size, self.size, self.mtime_ns):
                raise StorageError(
                    f"{self.source} changed while it was copied.",
                    remedy="wait until preprocessing has ended, then run the same command again",
                )
            if checksum not in (None, digest.hexdigest()):
                raise StorageError(
                    f"{self.source} does not hold what preprocessing has written.",
                    found="another checksum",
                    remedy="run nnUNetv2_preprocess with --verify; it finds damaged cases and rebuilds them",
                )
            os.utime(temporary, ns=(self.mtime_ns, self.mtime_ns))


def look_at(pairs: Sequence[tuple[Path, Path, tuple[Path, ...]]]) -> tuple[list[CopiedFile], int]:
    """The files whose copies are missing or differ, and the number of the others.

    Args:
        pairs: Original, copy, and what is derived from the copy.

    Raises:
        StorageError: If an original is missing.
    """
    copies = {folder: _statuses(folder) for folder in {target.parent for _, target, _ in pairs}}

    def look(some: Sequence[tuple[Path, Path, tuple[Path, ...]]]) -> list[CopiedFile]:
        found = []
        for source, target, derived in some:
            file = CopiedFile.of(source, target, derived)
            if copies[target.parent].get(target.name) != (file.size, file.mtime_ns):
                found.append(file)
        return found

    parts = [pairs[start : start + _TOGETHER] for start in range(0, len(pairs), _TOGETHER)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = [file for part in pool.map(look, parts) for file in part]
    return found, len(pairs) - len(found)


def _statuses(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of each file of a folder."""
    found = {}
    with storage_errors(folder), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another job has just given it its final name
                status = entry.stat()
                found[entry.name] = (status.st_size, status.st_mtime_ns)
    return found


def copy_all(files: Sequence[CopiedFile], stamps: Mapping[Path, FileStamp], on_wait: Callable[[int], None]) -> None:
    """Copy files with several threads.

    Args:
        files: What is missing.
        stamps: What preprocessing has recorded about originals.
        on_wait: Called every half a second with the bytes copied since the last call; whatever it raises ends the
            copying.

    Raises:
        StorageError: If a file cannot be read or written, or is damaged.
    """
    ended = threading.Event()
    lock = threading.Lock()
    copied = 0
    order = list(files)
    random.Random(os.getpid()).shuffle(order)  # two jobs that begin together share the work
    left = deque(order)

    def on_piece(number: int) -> None:
        nonlocal copied
        with lock:
            copied += number
        if ended.is_set():
            raise _Ended

    def copy() -> None:
        try:
            while file := left.popleft():
                if file.is_current():  # another job has copied it meanwhile
                    on_piece(file.size)
                    continue
                stamp = stamps.get(file.source)
                known = stamp is not None and (stamp.size, stamp.mtime_ns) == (file.size, file.mtime_ns)
                file.copy(stamp.checksum if stamp is not None and known else None, on_piece)
        except IndexError:  # nothing is left
            return

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(copy) for _ in range(NUM_THREADS)]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_INTERVAL_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                with lock:
                    number, copied = copied, 0
                on_wait(number)
        finally:
            ended.set()


class _Ended(Exception):
    """Copying was ended."""
