"""CPUs, memory and other limits of machines, containers and jobs."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.doctor import machine as checks
from nnunet_pt.doctor.system import Space, System

GB = 1 << 30


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a worker is tested once, below."""
    monkeypatch.setattr(checks, "_workers", lambda _: checks._finding("worker_start", "starting", "ok", ""))


def found_on(system: System, by_key: Any, num_gpus: int = 0) -> Any:
    return by_key(checks.check_machine(system, num_gpus=num_gpus))


def test_a_healthy_machine(machine: Any, by_key: Any) -> None:
    found = found_on(machine.system(), by_key, num_gpus=1)
    assert {f.status for f in found.values()} == {"ok"}
    assert found["cpus"].found == "16 of 16 (Some CPU @ 3 GHz)"
    assert found["memory"].found == "48.0 GB free of 64.0 GB"
    assert "bfloat16" in found["instructions"].found
    assert "job" not in found


def test_cgroup_version_2_limits_cpus_and_memory(machine: Any, by_key: Any) -> None:
    machine.cgroup2(cpu__max="150000 100000", memory__max=str(5 * GB), memory__current=str(1 * GB), memory__stat="")
    system = machine.system()
    assert system.cpus == 2
    assert system.memory == 4 * GB
    found = found_on(system, by_key, num_gpus=1)
    assert found["cpus"].status == "note"
    assert "quota" in found["cpus"].found
    assert "-augment_on gpu" in found["cpus"].remedy
    assert found["memory"].status == "note"
    assert "limited by this container" in found["memory"].found
    assert found["memory"].values["limits"] == {"machine": 48 * GB, "cgroup": 4 * GB}


def test_cgroup_version_1_limits_cpus(machine: Any) -> None:
    machine.cgroup1("cpu", cpu__cfs_quota_us="400000", cpu__cfs_period_us="100000")
    assert machine.system().cpu_limits() == {"machine": 16, "affinity": 16, "cgroup": 4}


def test_cgroup_version_1_limits_memory(machine: Any, by_key: Any) -> None:
    files = {"limit_in_bytes": str(3 * GB), "usage_in_bytes": str(2 * GB), "stat": f"total_inactive_file {GB // 2}\n"}
    machine.cgroup1("memory", **{f"memory__{name}": content for name, content in files.items()})
    system = machine.system()
    assert system.memory == int(1.5 * GB)
    assert found_on(system, by_key)["memory"].status == "problem"


def test_a_job_of_slurm_limits_both(machine: Any, by_key: Any) -> None:
    env = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_NODE": "16384"}
    system = machine.system(env)
    assert system.cpus == 4
    assert system.memory == 16 * GB
    found = found_on(system, by_key)
    assert found["cpus"].found.endswith("limited by SLURM_CPUS_PER_TASK")
    assert found["job"].found == "77: CPUs for each task 4, memory 16.0 GB"
    assert found["job"].status == "ok"


def test_memory_that_slurm_grants_for_each_cpu(machine: Any) -> None:
    env = {"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "3"}
    assert machine.system(env).free_memory()["SLURM"] == 6 * GB
    assert "SLURM" not in machine.system({"SLURM_MEM_PER_NODE": "0"}).free_memory()  # all of it


def test_a_job_that_asked_for_no_cpus_is_told_so(machine: Any, by_key: Any) -> None:
    found = found_on(machine.system({"SLURM_JOB_ID": "77"}, affinity=1), by_key)
    assert found["job"].status == "note"
    assert found["cpus"].status == "note"
    assert "--cpus-per-task" in found["job"].remedy


@pytest.mark.parametrize(
    ("flags", "num_gpus", "status", "text"),
    [
        ("avx2 avx512f amx_bf16 avx512_bf16", 0, "ok", "AMX, AVX512-BF16, AVX512, AVX2: networks compute in bfloat16"),
        ("avx2", 0, "note", "AVX2: networks compute in float32"),
        ("avx2", 1, "ok", "AVX2: networks compute in float32"),
        ("sse2", 0, "note", "none of AVX2, AVX512, AMX: networks compute in float32"),
    ],
)
def test_instructions(machine: Any, by_key: Any, flags: str, num_gpus: int, status: str, text: str) -> None:
    machine.flags(flags)
    finding = found_on(machine.system(), by_key, num_gpus)["instructions"]
    assert (finding.status, finding.found) == (status, text)
    assert finding.values["bfloat16"] is ("bfloat16" in text)


def test_nothing_is_said_about_instructions_that_are_not_known(machine: Any, by_key: Any) -> None:
    (machine.root / "proc/cpuinfo").unlink()
    found = found_on(machine.system(), by_key)
    assert found["instructions"].status == "ok"
    assert found["cpus"].found == "16 of 16"


@pytest.mark.parametrize(("load", "status"), [("3.0", "ok"), ("40.0", "note")])
def test_other_work(machine: Any, by_key: Any, load: str, status: str) -> None:
    machine.write("proc/loadavg", f"{load} 2.0 1.0 1/1 1\n")
    assert found_on(machine.system(), by_key)["load"].status == status


@pytest.mark.parametrize(
    ("num_gpus", "free", "status"), [(1, 64 << 20, "ok"), (2, 64 << 20, "note"), (2, 8 * GB, "ok")]
)
def test_shared_memory_matters_for_several_gpus(
    machine: Any, by_key: Any, num_gpus: int, free: int, status: str
) -> None:
    system = machine.system(space=lambda _: Space(free))
    assert found_on(system, by_key, num_gpus)["shared_memory"].status == status


def test_a_machine_without_shared_memory(machine: Any, by_key: Any) -> None:
    (machine.root / "dev/shm").rmdir()
    assert found_on(machine.system(), by_key)["shared_memory"].status == "ok"
    finding = found_on(machine.system(), by_key, num_gpus=2)["shared_memory"]
    assert finding.status == "note"
    assert finding.values == {"free_bytes": None}


@pytest.mark.parametrize(
    ("limits", "status", "advice"),
    [
        ((100, 4096), "problem", "ulimit -n 4096 "),
        ((512, 10**6), "note", "ulimit -n 65536 "),
        ((1024, 4096), "ok", ""),
        ((-1, -1), "ok", ""),
    ],
)
def test_open_files(machine: Any, by_key: Any, limits: tuple[int, int], status: str, advice: str) -> None:
    finding = found_on(machine.system(open_files=limits), by_key)["open_files"]
    assert finding.status == status
    assert finding.remedy.startswith(advice)


@pytest.mark.parametrize(
    ("env", "num_gpus", "status", "numbers"),
    [
        ({}, 0, "ok", (8, 12)),
        ({"nnUNet_def_n_proc": "3", "nnUNet_n_proc_DA": "5"}, 0, "ok", (3, 5)),
        ({"nnUNet_n_proc_DA": "64"}, 0, "note", (8, 64)),
        ({"nnUNet_n_proc_DA": "0"}, 1, "note", (8, 0)),
        ({"nnUNet_n_proc_DA": "0"}, 0, "ok", (8, 0)),
    ],
)
def test_numbers_of_workers(
    machine: Any, by_key: Any, env: dict[str, str], num_gpus: int, status: str, numbers: tuple[int, int]
) -> None:
    finding = found_on(machine.system(env), by_key, num_gpus)["workers"]
    assert finding.status == status
    assert (finding.values["data"], finding.values["batches"]) == numbers
