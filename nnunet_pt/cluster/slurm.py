"""Ask SLURM: which partitions there are, what is in the queue, how a job has ended."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import NnunetError, UnknownNameError

_PATIENCE_S = 60
_GPUS = re.compile(r"\bgpu(?::[a-zA-Z][\w.-]*)?(?::(\d+))?")  # gpu:2, gpu:a100:4(S:0-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTask:
    """A job, or a task of an array job, that is in the queue.

    Attributes:
        job: Number of the job; of an array job that of the array.
        task: Number of the task; None for a single job.
        state: What SLURM calls it: PENDING, RUNNING, COMPLETING, SUSPENDED and others.
        reason: Why it waits.
        name: Name of the job.
        folder: Where it works.
    """

    job: str
    task: int | None
    state: str
    reason: str
    name: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestNode:
    """The most that one job can get on a node.

    Attributes:
        partition: Where.
        cpus: CPUs.
        mem_mb: Memory in MB; None if SLURM does not know.
        gpus: GPUs.
    """

    partition: str
    cpus: int
    mem_mb: int | None
    gpus: int


def has_slurm() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def check_partitions(names: Sequence[str]) -> None:
    """Complain about partitions that do not exist, if SLURM can be asked.

    Raises:
        UnknownNameError: With the names that there are.
    """
    known = _ask(["sinfo", "--noheader", "--all", "--format=%R"])
    if not known:
        return
    for name in names:
        if name not in known.split():
            raise UnknownNameError.of("partition", name, set(known.split()))


def largest_node(partition: str | None) -> LargestNode | None:
    """The most that nodes have, each of them counted separately for CPUs, memory and GPUs.

    Args:
        partition: A partition, or several with commas; None for the cluster's default.

    Returns:
        None if SLURM cannot be asked, there is no such partition, or no default.
    """
    chosen = [] if partition is None else [f"--partition={partition}"]
    text = _ask(["sinfo", "--noheader", "--all", "--format=%P|%c|%m|%G", *chosen])
    rows = [line.strip().split("|", 3) for line in (text or "").splitlines()]
    rows = [row for row in rows if len(row) == 4 and (partition is not None or row[0].endswith("*"))]
    if not rows:
        return None
    memory = max(_first_number(row[2]) for row in rows)
    return LargestNode(
        partition=rows[0][0].rstrip("*") if partition is None else partition,
        cpus=max(_first_number(row[1]) for row in rows),
        mem_mb=memory if memory > 1 else None,  # 1 is what SLURM says if nobody has told it
        gpus=max(sum(int(number or 1) for number in _GPUS.findall(row[3])) for row in rows),
    )


def _first_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match.group()) if match else 0


def submit(script: Path) -> str:
    """Run a script that submits jobs; gives what it has printed.

    Raises:
        NnunetError: If there is no SLURM here, or it refuses.
    """
    if not has_slurm():
        raise NnunetError(
            "Jobs cannot be submitted from this machine: it has no sbatch. The scripts are written all the same.",
            found=script.parent,
            remedy=f"log in to the cluster, and there: bash {shlex.quote(str(script))}",
        )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise NnunetError(
            "The jobs could not be submitted, or not all of them.",
            found=said.removeprefix("Error: "),
            remedy=f"correct the scripts in {script.parent}, then: bash {shlex.quote(str(script))}",
        )
    return done.stdout


def queued_tasks() -> tuple[QueuedTask, ...] | None:
    """The user's jobs that wait or run; None if SLURM cannot be asked."""
    text = _ask(["squeue", "--noheader", "--me", "--array", "--format=%F|%K|%T|%r|%j|%Z"])
    if text is None:
        return None
    found = []
    for line in text.splitlines():
        words = line.strip().split("|", 5)
        if len(words) == 6:
            job, task, state, reason, name, folder = words
            number = int(task) if task.isdigit() else None
            found.append(QueuedTask(job=job, task=number, state=state, reason=reason, name=name, folder=Path(folder)))
    return tuple(found)


def end_of(job: str, task: int | None = None) -> str | None:
    """How a job has ended, as SLURM calls it: COMPLETED, FAILED, CANCELLED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY...

    Args:
        job: Number of the job, or of the array job.
        task: Number of the task.

    Returns:
        The state; None if neither the accounting nor the controller remembers it.
    """
    name = job if task is None else f"{job}_{task}"
    text = _ask(["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={name}"])
    if text and text.strip():
        return text.split()[0]
    text = _ask(["scontrol", "--oneliner", "show", "job", name])
    states = re.findall(r"\bJobState=(\w+)", text or "")
    return states[-1] if states else None


def _ask(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
