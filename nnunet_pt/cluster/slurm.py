"""Ask SLURM: which partitions there are, what is in the queue, how a job has ended."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import NnunetError, UnknownNameError

_PATIENCE_S = 60


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


def submit(script: Path) -> str:
    """Run a script that submits jobs; gives what it has printed.

    Raises:
        NnunetError: If there is no SLURM here, or it refuses.
    """
    if not has_slurm():
        raise NnunetError(
            "Jobs cannot be submitted from this machine: it has no sbatch. The scripts are written all the same.",
            found=script.parent,
            remedy=f"log in to the cluster, and there: bash {script}",
        )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise NnunetError(
            "The jobs could not be submitted, or not all of them.",
            found=said.removeprefix("Error: "),
            remedy=f"correct the scripts in {script.parent}, then: bash {script}",
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
