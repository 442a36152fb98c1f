"""Where checks look at the machine; tests put another machine in its place."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.core.resources import cgroup_free_ram, cpu_quota, machine_free_ram
from nnunet_pt.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Space:
    """Room on a file system.

    Attributes:
        free: Bytes that this user may still write.
        free_files: Files that can still be made; None if the file system does not limit them.
    """

    free: int
    free_files: int | None = None


def space_of(path: Path) -> Space:
    """Room where a folder is.

    Raises:
        OSError: If that cannot be found out.
    """
    status = os.statvfs(path)
    return Space(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)


def write_failure(folder: Path) -> OSError | None:
    """Why no file can be written into a folder; None if it can (one is written and removed)."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".nnunet_pt-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return error
    return None


def _open_files() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _affinity() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The machine as checks see it.

    Attributes:
        settings: Parsed environment.
        root: The file system's root: /proc, /sys and /dev are looked for there.
        platform: ``sys.platform``.
        cpu_count: CPUs of the machine.
        affinity: CPUs that this process may run on; None if the system does not say.
        open_files: Limits of open files: the present one and the largest one may ask for.
        space: Room on the file system of a folder.
        write_failure: Why a folder cannot be written.
        which: The path of a program, or None.
        include: Folder of Python's C headers.
    """

    settings: Settings
    root: Path = Path("/")
    platform: str = sys.platform
    cpu_count: int = field(default_factory=lambda: os.cpu_count() or 1)
    affinity: int | None = field(default_factory=_affinity)
    open_files: tuple[int, int] = field(default_factory=_open_files)
    space: Callable[[Path], Space] = space_of
    write_failure: Callable[[Path], OSError | None] = write_failure
    which: Callable[[str], str | None] = shutil.which
    include: Path = field(default_factory=lambda: Path(sysconfig.get_path("include")))

    def text(self, path: str) -> str:
        """The content of a file below the root; empty if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def cpu_limits(self) -> dict[str, int]:
        """How many CPUs there are, and what limits them further: reason -> number."""
        limits = {
            "machine": self.cpu_count,
            "affinity": self.affinity,
            "cgroup": cpu_quota(self.root),
            "SLURM_CPUS_PER_TASK": self.settings.cpus_per_task,
        }
        return {reason: number for reason, number in limits.items() if number is not None}

    @property
    def cpus(self) -> int:
        """CPUs that may be used."""
        return max(1, min(self.cpu_limits().values()))

    def free_memory(self) -> dict[str, int]:
        """Free memory in bytes: of the machine, and what is left within each limit: reason -> bytes."""
        limits = {"machine": machine_free_ram(self.root)}
        groups = cgroup_free_ram(self.root)
        if groups:
            limits["cgroup"] = min(groups)
        if self.settings.job_memory_mb is not None:
            limits["SLURM"] = self.settings.job_memory_mb << 20
        return limits

    @property
    def memory(self) -> int:
        """Memory in bytes that can still be taken."""
        return min(self.free_memory().values())
