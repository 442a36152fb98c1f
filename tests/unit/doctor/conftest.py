"""A machine that tests can shape as they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.settings import Settings
from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.gpu import Gpu, TorchBuild
from nnunet_pt.doctor.system import Space, System

GB = 1 << 30
CPUINFO = "processor\t: 0\nmodel name\t: Some CPU  @ 3 GHz\nflags\t\t: fpu {flags}\n"


class FakeMachine:
    """Files below a folder that stands for the root of the file system, and the rest of a :class:`System`.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {64 << 20} kB\nMemAvailable: {48 << 20} kB\n")
        self.write("proc/loadavg", "0.50 0.40 0.30 1/234 5678\n")
        self.flags("avx2 avx512f avx512_bf16")
        (root / "dev/shm").mkdir(parents=True)

    def write(self, path: str, text: str) -> Path:
        """Write a file below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def flags(self, names: str) -> None:
        """Let the CPU have these instruction sets."""
        self.write("proc/cpuinfo", CPUINFO.format(flags=names))

    def cgroup2(self, **files: str) -> None:
        """Put this process into a group of version 2 with these files, dots in their names written as __."""
        self.write("proc/self/cgroup", "0::/job\n")
        self.write("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
        for name, content in files.items():
            self.write(f"sys/fs/cgroup/job/{name.replace('__', '.')}", content)

    def cgroup1(self, controller: str, **files: str) -> None:
        """Put this process into a group of version 1."""
        self.write("proc/self/cgroup", f"4:{controller}:/job\n")
        self.write(
            "proc/self/mountinfo", f"30 20 0:26 / /sys/fs/cgroup/{controller} rw - cgroup cgroup rw,{controller}\n"
        )
        for name, content in files.items():
            self.write(f"sys/fs/cgroup/{controller}/job/{name.replace('__', '.')}", content)

    def card(self, address: str = "0000:01:00.0", vendor: str = "0x10de", kind: str = "0x030200") -> None:
        """Put a device on the bus."""
        self.write(f"sys/bus/pci/devices/{address}/vendor", f"{vendor}\n")
        self.write(f"sys/bus/pci/devices/{address}/class", f"{kind}\n")

    def driver(self, version: str) -> None:
        """Load NVIDIA's driver."""
        line = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Mar  5 22:00:00 UTC 2024\n"
        self.write("proc/driver/nvidia/version", line + "GCC version:  gcc version 13.2.0\n")

    def system(self, env: Mapping[str, str] | None = None, **changes: Any) -> System:
        """The machine, with the settings of an environment."""
        standard: dict[str, Any] = {
            "settings": Settings.from_environment(env or {}),
            "root": self.root,
            "platform": "linux",
            "cpu_count": 16,
            "affinity": 16,
            "open_files": (4096, 65536),
            "space": lambda _: Space(free=500 * GB, free_files=10**7),
            "write_failure": lambda _: None,
            "which": lambda name: f"/usr/bin/{name}",
            "include": self.write("usr/include/python3/Python.h", "").parent,
        }
        return System(**{**standard, **changes})


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """A healthy machine with 16 CPUs, 64 GB, and no GPU."""
    return FakeMachine(tmp_path / "root")


@pytest.fixture(scope="session")
def torch_build() -> Callable[..., TorchBuild]:
    """A function that makes a build of torch for the CPU, or with changes."""

    def make(**changes: Any) -> TorchBuild:
        return TorchBuild(**{"version": "2.8.0", **changes})

    return make


@pytest.fixture(scope="session")
def gpu() -> Callable[..., Gpu]:
    """A function that makes a GPU of 24 GB, or with changes."""

    def make(**changes: Any) -> Gpu:
        return Gpu(**{"name": "Some GPU", "total": 24 * GB, "free": 23 * GB, "capability": (8, 6), **changes})

    return make


@pytest.fixture(scope="session")
def by_key() -> Callable[..., dict[str, Finding]]:
    """A function that gives findings by their names without the group."""

    def sort(findings: Any) -> dict[str, Finding]:
        return {f.key.partition(".")[2]: f for f in findings}

    return sort
