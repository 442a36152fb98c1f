"""Puts a staged folder into its place, also where an older one is, so that there is always a complete one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import ArchiveError
from nnunet_pt.core.files import make_folder, storage_errors

_log = get_logger(__name__)
_ASIDE_PREFIX = ".replaced-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def move_into_place(source: Path, target: Path, *, force: bool) -> None:
    """Give a staged file or folder its final name.

    With ``force`` an old one is replaced: the two change places at once where the file system can do that, and the old
    one is then at ``source``. Elsewhere the old one is renamed, kept until the new one is in place, and brought back by
    :func:`restore_replaced` if the process is killed in between.

    Args:
        source: The staged file or folder.
        target: Where it belongs, on the same disk.
        force: Replace what is there.

    Raises:
        ArchiveError: If something is there, and ``force`` is not set.
        StorageError: If it cannot be renamed.
    """
    make_folder(target.parent)
    with storage_errors(target):
        if not os.path.lexists(target):
            _rename_to_new(source, target)
        elif not force:
            raise _exists(target)
        elif not _exchange(source, target):
            aside = target.with_name(f"{_ASIDE_PREFIX}{target.name}")
            target.rename(aside)
            source.rename(target)
            _remove(aside)


def restore_replaced(results: Path) -> None:
    """Finish what a process that was killed while it replaced a model left half done.

    Args:
        results: nnUNet_results.
    """
    for pattern in (f"Dataset*/{_ASIDE_PREFIX}*", f"Dataset*/ensembles/{_ASIDE_PREFIX}*"):
        for aside in results.glob(pattern):
            target = aside.with_name(aside.name.removeprefix(_ASIDE_PREFIX))
            if os.path.lexists(target):
                _remove(aside)
            else:
                aside.rename(target)
                _log.warning("%s was restored: an install was killed while it replaced it.", target)


def _rename_to_new(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
            raise _exists(target) from error
        raise


def _exists(target: Path) -> ArchiveError:
    return ArchiveError(f"{target} exists and was not replaced.", remedy="--force replaces it")


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places in one step; False if system or file system cannot do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28 and later
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
