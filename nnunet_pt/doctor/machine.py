"""Checks of what this process may use: CPUs, memory, shared memory, open files, worker processes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from nnunet_pt.core.local_executor import LocalExecutor
from nnunet_pt.core.wording import counted
from nnunet_pt.doctor.findings import Finding, Status, gigabytes
from nnunet_pt.doctor.system import System

LITTLE_MEMORY, SOME_MEMORY = 2 << 30, 6 << 30
LITTLE_SHARED_MEMORY = 1 << 30
FEW_OPEN_FILES, SOME_OPEN_FILES = 256, 1024
CPUS_FOR_A_GPU = 6
BUSY = 1.5  # processes that want a CPU, for each CPU
WORKER_PATIENCE_S = 30.0

_LIMITS = {
    "affinity": "by the CPU affinity of this process",
    "cgroup": "by the quota of this container or job",
    "SLURM_CPUS_PER_TASK": "by SLURM_CPUS_PER_TASK",
}


def check_machine(system: System, *, num_gpus: int) -> list[Finding]:
    """Everything but the GPUs themselves.

    Args:
        system: The machine.
        num_gpus: GPUs that torch can use.
    """
    return [
        _cpus(system, num_gpus),
        _load(system),
        _instructions(system, num_gpus),
        _memory(system),
        *_job(system),
        _shared_memory(system, num_gpus),
        _open_files(system),
        _processes(system, num_gpus),
        _workers(system),
    ]


def _finding(
    key: str, title: str, status: Status, found: str, why: str = "", remedy: str = "", **values: Any
) -> Finding:
    return Finding.of(f"machine.{key}", title, status, found, why, remedy, **values)


def _cpus(system: System, num_gpus: int) -> Finding:
    limits, number = system.cpu_limits(), system.cpus
    limit = min(limits, key=lambda reason: limits[reason])
    name = cpu_name(system)
    found = f"{number} of {limits['machine']}" + (f" ({name})" if name else "")
    if number < limits["machine"]:
        found += f", limited {_LIMITS[limit]}"
    wanted = CPUS_FOR_A_GPU * num_gpus if num_gpus else 2
    few = number < wanted
    why = (
        f"{counted(num_gpus, 'GPU')} would wait for data with fewer than about {counted(wanted, 'CPU')} to prepare it"
        if num_gpus
        else "worker processes and the network share one CPU"
    )
    remedy = "ask for more (SLURM: --cpus-per-task=12, docker: --cpus=12)"
    if num_gpus:
        remedy += ", or let the GPU augment:  nnUNetv2_train ... -augment_on gpu"
    return _finding("cpus", "CPUs", "note" if few else "ok", found, why, remedy, usable=number, limits=limits)


def cpu_name(system: System) -> str:
    """The model of the CPU, if the system says it."""
    match = re.search(r"^model name\s*:\s*(.+)$", system.text("proc/cpuinfo"), re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def cpu_flags(system: System) -> frozenset[str]:
    """Names of the CPU's instruction sets as Linux gives them; empty on other systems."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", system.text("proc/cpuinfo"), re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _load(system: System) -> Finding:
    """Other work on the same CPUs; containers see that of the whole machine."""
    words = system.text("proc/loadavg").split()
    load = float(words[0]) if words else None
    busy = load is not None and load > BUSY * max(1, system.cpu_count)
    return _finding(
        "load",
        "other work",
        "note" if busy else "ok",
        "unknown" if load is None else f"{load:.1f} processes wanted a CPU in the last minute",
        "what runs here now takes longer, training above all, and so do the measurements of -d",
        "look with  top  who that is; wait, or ask for CPUs of your own",
        load=load,
    )


def _instructions(system: System, num_gpus: int) -> Finding:
    flags = cpu_flags(system)
    known = {
        "amx_bf16": "AMX",
        "avx512_bf16": "AVX512-BF16",
        "bf16": "ARM BF16",
        "avx512f": "AVX512",
        "avx2": "AVX2",
        "asimd": "NEON",
    }
    there = [name for flag, name in known.items() if flag in flags]
    fast = bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    if not flags:
        found = "unknown (this system does not say)"
    elif fast:
        found = f"{', '.join(there)}: networks compute in bfloat16"
    else:
        found = f"{', '.join(there) or 'none of AVX2, AVX512, AMX'}: networks compute in float32"
    slow = bool(flags) and not fast and not num_gpus
    why = "without instructions for bfloat16 training on this CPU takes several times as long"
    remedy = "use a machine with a GPU, or with AMX or AVX512-BF16; on a cluster choose the node type"
    return _finding(
        "instructions", "instructions", "note" if slow else "ok", found, why, remedy, bfloat16=fast, sets=there
    )


def _memory(system: System) -> Finding:
    limits, free = system.free_memory(), system.memory
    limit = min(limits, key=lambda reason: limits[reason])
    match = re.search(r"^MemTotal:\s*(\d+) kB", system.text("proc/meminfo"), re.MULTILINE)
    total = int(match[1]) << 10 if match else None
    found = f"{gigabytes(free)} free" + (f" of {gigabytes(total)}" if total else "")
    if limit != "machine":
        found += {"cgroup": ", limited by this container or job", "SLURM": ", limited by what the job asked for"}[limit]
    status: Status = "problem" if free < LITTLE_MEMORY else "note" if free < SOME_MEMORY else "ok"
    why = "training takes 1 to 10 GB beside the GPU's, and preprocessing of large images some GB for each worker"
    remedy = "close other programs, or ask for more (SLURM: --mem=32G, docker: --memory=32g)"
    return _finding("memory", "memory", status, found, why, remedy, free_bytes=free, total_bytes=total, limits=limits)


def _job(system: System) -> list[Finding]:
    settings = system.settings
    if settings.job_id is None:
        return []
    memory = "not limited" if settings.job_memory_mb is None else gigabytes(settings.job_memory_mb << 20)
    cpus = settings.cpus_per_task
    found = f"{settings.job_id}: CPUs for each task {'not asked for' if cpus is None else cpus}, memory {memory}"
    return [
        _finding(
            "job",
            "job",
            "note" if cpus is None and system.cpus == 1 else "ok",
            found,
            "a job gets one CPU if it does not ask for more",
            "#SBATCH --cpus-per-task=12",
            id=settings.job_id,
            cpus_per_task=cpus,
            memory_mb=settings.job_memory_mb,
        )
    ]


def _shared_memory(system: System, num_gpus: int) -> Finding:
    folder = system.root / "dev/shm"
    try:
        free = system.space(folder).free if folder.is_dir() else None
    except OSError:
        free = None
    few = num_gpus > 1 and (free is None or free < LITTLE_SHARED_MEMORY)
    size = "no /dev/shm" if free is None else f"{gigabytes(free)} free in /dev/shm"
    found = size if few else f"{size}; batches do not need it"
    why = "several GPUs exchange their gradients there (NCCL)"
    remedy = "docker run --shm-size=8g   (or --ipc=host)"
    return _finding("shared_memory", "shared memory", "note" if few else "ok", found, why, remedy, free_bytes=free)


def _open_files(system: System) -> Finding:
    now, most = system.open_files
    unlimited = now < 0  # RLIM_INFINITY
    status: Status = "ok"
    if not unlimited and now < SOME_OPEN_FILES:
        status = "problem" if now < FEW_OPEN_FILES else "note"
    possible = "unlimited" if most < 0 else str(most)
    return _finding(
        "open_files",
        "open files",
        status,
        "unlimited" if unlimited else f"{now} at a time",
        "each worker keeps up to 128 cases open, with two or three files each",
        f"ulimit -n {min(most, 65536) if most > 0 else 65536}   (before starting; at most {possible})",
        soft=None if unlimited else now,
        hard=None if most < 0 else most,
    )


def _processes(system: System, num_gpus: int) -> Finding:
    """How many workers will be started, and whether the CPUs suffice for them."""
    from nnunet_pt.training.loader import MOST_WORKERS
    from nnunet_pt.training.loader_worker import START_METHOD

    settings = system.settings
    data = settings.num_processes or min(8, system.cpus)
    asked = settings.num_augmentation_processes
    batches = asked if asked is not None else min(MOST_WORKERS, system.cpus)
    many = max(data, batches) > 2 * system.cpus
    none = batches == 0 and num_gpus > 0
    found = f"{data} for data, {batches} for batches; started by {START_METHOD}"
    if none:
        why = "the GPU waits while batches are made"
        remedy = "unset nnUNet_n_proc_DA, or set it to about 12 for each GPU"
    else:
        why = "more workers than CPUs take memory and time from each other"
        remedy = f"unset nnUNet_def_n_proc and nnUNet_n_proc_DA, or set them to {system.cpus}"
    return _finding(
        "workers",
        "worker processes",
        "note" if many or none else "ok",
        found,
        why,
        remedy,
        data=data,
        batches=batches,
        start_method=START_METHOD,
    )


def _workers(system: System) -> Finding:
    """Really start one."""
    started = time.monotonic()
    executor = LocalExecutor(1, threads_per_worker=1)
    try:
        executor.submit(abs, -1).result(timeout=WORKER_PATIENCE_S)
        failure = ""
    except Exception as error:  # anything: too many processes, no memory, a missing library, no answer
        failure = (str(error) or type(error).__name__).splitlines()[0]
    finally:
        executor.close()
    seconds = time.monotonic() - started
    return _finding(
        "worker_start",
        "starting a worker",
        "problem" if failure else "ok",
        f"fails: {failure}" if failure else f"{seconds:.1f} s",
        "preprocessing and training start worker processes",
        "look at  ulimit -u  (processes) and at the memory; -np 0 works without workers, but slowly",
        seconds=round(seconds, 2),
        python=str(Path("/proc/self/exe").resolve()) if system.platform == "linux" else None,
    )
