"""How this process gets its memory from the operating system."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that were freed, instead of giving them back at once.

    Fresh memory costs a page fault for every 4 KiB. A training on the CPU frees and takes the same large tensors again
    in every step; without this, the faults take longer than most of the computations. The peak stays what it is, only
    the memory is not given back before the process ends.

    Returns:
        Whether this was possible (glibc only).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
