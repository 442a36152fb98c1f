"""CPU and memory limits, read from made-up /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_pt.core import resources
from nnunet_pt.core.errors import SettingsError
from nnunet_pt.core.resources import (
    available_cpus,
    available_ram_bytes,
    cgroup_free_ram,
    cpu_quota,
    default_num_processes,
    machine_free_ram,
)

V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
V1_MOUNT = "3{n} 23 0:2{n} {root} /sys/fs/cgroup/{folder} rw,nosuid - cgroup cgroup rw,{controllers}\n"


@pytest.fixture(autouse=True)
def no_limits_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "nnUNet_def_n_proc"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources, "_affinity", lambda: 16)
    monkeypatch.setattr(resources, "cpu_quota", lambda: None)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("250000 100000", 3), ("10000 100000", 1), ("", None)],
)
def test_quota_of_version_2(tmp_path: Path, content: str, expected: int | None) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/cpu.max": content,
        },
    )
    assert cpu_quota(tmp_path) == expected


def test_quota_of_a_parent_group_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job/step/task\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/job/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/job/step/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/job/step/task/cpu.max": "max 100000\n",
            "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
        },
    )
    assert cpu_quota(tmp_path) == 4


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("150000", 2)])
def test_quota_of_version_1(tmp_path: Path, quota: str, expected: int | None) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n",
            # as in a container: the group's own folder is mounted, its path on the host is not visible
            "proc/self/mountinfo": V1_MOUNT.format(
                n=1, root="/docker/abc", folder="cpu,cpuacct", controllers="cpu,cpuacct"
            ),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": quota + "\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(tmp_path) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cgroup_free_ram(tmp_path) == []


def test_least_cpu_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus() == 16
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    assert available_cpus() == 12
    monkeypatch.setattr(resources, "cpu_quota", lambda: 5)
    assert available_cpus() == 5
    monkeypatch.setattr(resources, "_affinity", lambda: 1)
    assert available_cpus() == 1


def test_default_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_num_processes(8) == 8
    assert default_num_processes(32) == 16
    assert default_num_processes(0) == 1
    monkeypatch.setenv("nnUNet_def_n_proc", "24")
    assert default_num_processes(8) == 24
    monkeypatch.setenv("nnUNet_def_n_proc", "many")
    with pytest.raises(SettingsError, match="nnUNet_def_n_proc"):
        default_num_processes(8)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_affinity_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(own)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, own)


def test_machine_memory_counts_what_the_kernel_calls_available(tmp_path: Path) -> None:
    write(
        tmp_path, {"proc/meminfo": "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:   600 kB\nHugePages_Total: 0\n"}
    )
    assert machine_free_ram(tmp_path) == 600 * 1024


def test_machine_memory_without_proc(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine_free_ram(tmp_path) <= total


def test_memory_of_version_2_counts_cache_as_free_and_looks_at_parents(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job/step\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/job/memory.max": "10000\n",
            "sys/fs/cgroup/job/memory.high": "9000\n",
            "sys/fs/cgroup/job/memory.current": "8000\n",
            "sys/fs/cgroup/job/memory.stat": "anon 3000\nfile 5000\ninactive_file 3000\nactive_file 1500\n",
            "sys/fs/cgroup/job/step/memory.max": "max\n",
            "sys/fs/cgroup/job/step/memory.current": "100\n",
        },
    )
    assert cgroup_free_ram(tmp_path) == [9000 - (8000 - 4500)]


def test_memory_of_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/slurm"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/slurm\n0::/\n",
            "proc/self/mountinfo": V1_MOUNT.format(n=1, root="/", folder="memory", controllers="memory")
            + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "77\n",
            f"{group}/memory.limit_in_bytes": "5000\n",
            f"{group}/memory.usage_in_bytes": "4000\n",
            f"{group}/memory.stat": "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 200\n",
        },
    )
    assert cgroup_free_ram(tmp_path) == [1700]


def test_group_above_its_limit_has_nothing_free(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/memory.max": "100\n",
            "sys/fs/cgroup/memory.current": "120\n",
        },
    )
    assert cgroup_free_ram(tmp_path) == [0]


def test_least_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "machine_free_ram", lambda: 50)
    monkeypatch.setattr(resources, "cgroup_free_ram", lambda: [70, 30])
    assert available_ram_bytes() == 30
    monkeypatch.setattr(resources, "cgroup_free_ram", list)
    assert available_ram_bytes() == 50


def test_this_machine_has_some_of_both() -> None:
    assert available_ram_bytes() > 1 << 20
    assert available_cpus() >= 1
