"""Files that are complete or absent: atomic writes, JSON as nnU-Net writes it, checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import StorageError

TEMPORARY_PREFIX = ".partial-"
LEFTOVER_AGE_S = 600.0


def storage_error(error: OSError, path: Path) -> StorageError:
    """Turn an operating-system error into one that says what to do."""
    reasons = {
        errno.ENOSPC: ("no space left on the device", "free some space or choose another folder, then run it again"),
        errno.EDQUOT: ("the disk quota is used up", "free some space or ask for more quota, then run it again"),
        errno.EACCES: ("permission denied", "check the permissions of the folder and of the file"),
        errno.EPERM: ("operation not permitted", "check the permissions of the folder and of the file"),
        errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
        errno.ENOENT: ("no such file or folder", "check the path"),
        errno.EEXIST: ("there is something else of this name", "remove it, or choose another name"),
        errno.EISDIR: ("there is a folder of this name", "name a file"),
        errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    }
    found, remedy = reasons.get(error.errno or 0, (error.strerror or str(error), "check the file system"))
    culprit = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes, os.PathLike)) else path
    if culprit.name.startswith(TEMPORARY_PREFIX):
        culprit = path
    return StorageError(f"Cannot access {culprit}", found=found, remedy=remedy)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Within this block an ``OSError`` becomes a :class:`StorageError` naming its file, or ``path`` if it has none."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def make_folder(path: Path) -> Path:
    """Create a folder with its parents if it is missing.

    Raises:
        StorageError: If that is not possible.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def atomic_path(path: Path, *, keep_ending: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it gets the final name when the block ends without an error.

    The content is flushed to disk before the rename, so the final name never shows a truncated file, and a failed
    block leaves nothing behind.

    Args:
        path: The final path. Its folder is created if necessary.
        keep_ending: Give the temporary file the same name ending (some writers choose the format by it).

    Raises:
        StorageError: If the file cannot be written.
    """
    make_folder(path.parent)
    ending = f"-{path.name[-100:]}" if keep_ending else ""  # the whole name could become too long
    temporary = path.parent / f"{_own_prefix()}{os.getpid()}-{secrets.token_hex(4)}{ending}"
    try:  # a signal may end this process at any moment from here on
        with storage_errors(path):  # created with the permissions that any new file gets
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``; it is gone with all that is in it when the block ends.

    If the process is killed, :func:`remove_leftovers` removes it.

    Raises:
        StorageError: If the folder cannot be made.
    """
    make_folder(parent)
    folder = parent / f"{_own_prefix()}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with storage_errors(parent):
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file at once."""
    write_bytes(path, content.encode("utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Copy content and modification time; ``target`` is complete or absent."""
    with storage_errors(source), source.open("rb") as content:
        times = os.fstat(content.fileno())
        with atomic_path(target) as temporary:
            with temporary.open("wb") as copy:
                shutil.copyfileobj(content, copy, 4 << 20)
            os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))


def plain_json(value: Any) -> Any:
    """numpy scalars and arrays, tuples, sets and paths as the plain types that JSON knows."""
    if isinstance(value, dict):
        return {_json_key(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [plain_json(v) for v in sorted(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return plain_json(value.tolist())
    return value


def _json_key(key: Any) -> str | int | float | bool | None:
    if isinstance(key, tuple):
        return str(tuple(plain_json(k) for k in key))
    if hasattr(key, "item"):
        key = key.item()
    return key  # type: ignore[no-any-return]


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """JSON as nnU-Net formats it: indented by four spaces, NaN written as ``NaN``."""
    return json.dumps(plain_json(value), indent=4, sort_keys=sort_keys)


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write a JSON file at once, see :func:`json_text`."""
    write_text(path, json_text(value, sort_keys=sort_keys))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: If it is missing, cannot be read or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not a UTF-8 text file", found=str(error)) from error
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StorageError(
            f"{path} is not valid JSON",
            found=f"{error.msg} in line {error.lineno}, column {error.colno}",
            remedy="correct the file in a text editor, or make it again",
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets
        raise StorageError(f"{path} is JSON that cannot be read", found=str(error), remedy="make it again") from error


def checksum(path: Path) -> str:
    """Hexadecimal BLAKE2b-128 digest of a file's content, read in pieces of 4 MiB."""
    digest = hashlib.blake2b(digest_size=16)
    with storage_errors(path), path.open("rb") as file:
        while piece := file.read(4 << 20):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Hexadecimal BLAKE2b-128 digest of a JSON-like value, independent of key order."""
    text = json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left in ``folder``, but none that is in use now.

    They are left over if their process does not exist any more; for processes of other machines, if nothing was
    touched for ten minutes.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.startswith(TEMPORARY_PREFIX))
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if not _is_leftover(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _own_prefix() -> str:
    """Beginning of the names of temporary files of processes of this machine; the process id follows."""
    return f"{TEMPORARY_PREFIX}{zlib.crc32(os.uname().nodename.encode()):08x}-"


def _is_leftover(path: Path) -> bool:
    owner = path.name.removeprefix(_own_prefix()).partition("-")[0]
    if path.name.startswith(_own_prefix()) and owner.isdigit():
        return not _is_running(int(owner))
    touched = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    return _time_of(path.parent) - touched > LEFTOVER_AGE_S


def _time_of(folder: Path) -> float:
    """What time it is for the file system, whose clock may be another than that of this machine."""
    probe = folder / f"{_own_prefix()}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        return probe.stat().st_mtime
    except OSError:  # what cannot be written cannot be tidied up either
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of somebody else
        return True
    try:  # in a container without an init process, killed processes stay as zombies for ever
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")
