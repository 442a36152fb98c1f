"""How many CPUs and how much memory this process may use, as opposed to what the machine has.

Containers and cluster jobs see the host's CPU count and memory in most interfaces, so the limits are read where the
kernel keeps them: the affinity mask and the control group (cgroup version 1 and 2), including its parents.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nnunet_pt.core.settings import Settings

_NO_LIMIT = 1 << 60  # cgroup v1 writes a number near 2**63 when there is no limit
_ROOT = Path("/")


def available_cpus() -> int:
    """CPUs this process may use: the least of affinity mask, cgroup quota (rounded up) and ``SLURM_CPUS_PER_TASK``.

    Raises:
        SettingsError: If an environment variable has an impossible value.
    """
    limits = [_affinity()]
    limits += [quota for quota in (cpu_quota(), Settings.from_environment().cpus_per_task) if quota is not None]
    return max(1, min(limits))


def default_num_processes(maximum: int) -> int:
    """Worker processes to use if the user does not say: ``nnUNet_def_n_proc``, else the available CPUs up to a maximum.

    Args:
        maximum: More than this many are not useful for the work at hand.

    Raises:
        SettingsError: If an environment variable has an impossible value.
    """
    asked = Settings.from_environment().num_processes
    return asked if asked is not None else max(1, min(maximum, available_cpus()))


def available_ram_bytes() -> int:
    """Memory in bytes that this process and its children can still take without swapping or being killed.

    The least of the machine's ``MemAvailable`` and, for every cgroup this process is in, the limit minus the usage.
    Page cache counts as free, since the kernel gives it back.
    """
    limits = [machine_free_ram()]
    limits += cgroup_free_ram()
    return max(0, min(limits))


def is_in_memory(folder: Path, root: Path = _ROOT) -> bool:
    """Whether files of a folder are kept in memory (tmpfs), where they count as memory of the job.

    Args:
        folder: The folder.
        root: The file system's root (another folder in tests).
    """
    path, found = folder.resolve(), (-1, "")
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        fields, kind_fields = mount.split(), kind.split()
        if len(fields) >= 5 and kind_fields and path.is_relative_to(fields[4]):
            found = max(found, (len(fields[4]), kind_fields[0]), key=lambda entry: entry[0])  # of the innermost mount
    return found[1] in ("tmpfs", "ramfs")


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> int | None:
    """The cgroup's CPU quota in whole CPUs, rounded up; ``None`` without a quota.

    Args:
        root: The file system's root (another folder in tests).
    """
    quotas = []
    for folder, version in _cgroup_folders("cpu", root):
        if version == 2:
            quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        else:
            quota = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # no quota: "max" or -1
            quotas.append(max(1, -(-int(quota) // int(period))))
    return min(quotas, default=None)


def machine_free_ram(root: Path = _ROOT) -> int:
    """Free memory of the machine in bytes, page cache included.

    Args:
        root: The file system's root (another folder in tests).
    """
    table = _table(root / "proc/meminfo")
    if "MemAvailable" in table:
        return table["MemAvailable"] * 1024
    page = os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ValueError, OSError):
        return page * os.sysconf("SC_AVPHYS_PAGES")
    return page * os.sysconf("SC_PHYS_PAGES") // 2  # macOS only knows the total; assume that half of it is free


def cgroup_free_ram(root: Path = _ROOT) -> list[int]:
    """Limit minus usage in bytes, for each cgroup with a memory limit that this process is in.

    Args:
        root: The file system's root (another folder in tests).
    """
    free = []
    for folder, version in _cgroup_folders("memory", root):
        names, usage_name, prefix = (
            (("memory.max", "memory.high"), "memory.current", "")
            if version == 2
            else (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")
        )
        limits = [int(w) for name in names for w in _words(folder / name)[:1] if w.isdigit() and int(w) < _NO_LIMIT]
        usage = _words(folder / usage_name)
        if limits and usage and usage[0].isdigit():
            stat = _table(folder / "memory.stat")
            cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
            free.append(max(0, min(limits) - max(0, int(usage[0]) - cache)))
    return free


def _cgroup_folders(controller: str, root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's cgroup and its parents that govern a controller, with the cgroup version."""
    own = {}  # controller -> path of the own group; the unified hierarchy of version 2 has an empty name
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        fields, kind_fields = mount.split(), kind.split()
        if len(fields) < 5 or len(kind_fields) < 3:
            continue
        if kind_fields[0] == "cgroup2" and "" in own:
            version, path = 2, own[""]
        elif kind_fields[0] == "cgroup" and controller in kind_fields[2].split(",") and controller in own:
            version, path = 1, own[controller]
        else:
            continue
        top = root / fields[4].lstrip("/")
        for folder in _down_to(top, fields[3], path):
            yield folder, version


def _down_to(top: Path, mounted_root: str, path: str) -> Iterator[Path]:
    """``top`` and the folders below it down to the group ``path``, as far as they are visible in this mount."""
    yield top
    parts, hidden = Path(path).parts[1:], Path(mounted_root).parts[1:]
    if parts[: len(hidden)] != hidden or ".." in parts:
        return  # a group outside of what is mounted here (container): only its top is visible
    folder = top
    for part in parts[len(hidden) :]:
        folder /= part
        if not folder.is_dir():
            return
        yield folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux, or not visible in this container: there is no such limit
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _table(path: Path) -> dict[str, int]:
    """Lines "name value" or "name: value unit" as a dictionary."""
    pairs = (line.replace(":", " ").split() for line in _lines(path))
    return {p[0]: int(p[1]) for p in pairs if len(p) >= 2 and p[1].isdigit()}
