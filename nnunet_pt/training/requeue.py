"""Trainings that let SLURM queue their job again, and go on when it has started again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import TrainingError, TrainingStopped
from nnunet_pt.core.settings import SlurmJob
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.state import BEST, FINAL, LATEST

MOST_RESTARTS = 100
_PATIENCE_S = 60
_SAVED = "its state is saved: submit the job again, and it continues with --c"
_log = get_logger(__name__)


def job_of(job: SlurmJob | None) -> SlurmJob:
    """The job of a training with ``--requeue``.

    Raises:
        TrainingError: If there is none.
    """
    if job is not None:
        return job
    raise TrainingError(
        "--requeue is for jobs of SLURM.",
        found="no SLURM_JOB_ID in the environment",
        remedy="leave it out, or submit a script with this command: sbatch SCRIPT",
    )


def as_continued(request: TrainRequest, folder: Path) -> TrainRequest:
    """What is asked for in a job that was started again: to continue from a checkpoint if there is one.

    Args:
        request: What was asked for.
        folder: Folder of the fold.
    """
    if request.validation_only or not any((folder / name).is_file() for name in (FINAL, LATEST, BEST)):
        return request
    return replace(
        request, continue_training=True, pretrained_weights=None, keep_optimizer=False, reset_optimizer=False
    )


@contextlib.contextmanager
def queued_again(job: SlurmJob | None, signals: StopSignals) -> Iterator[None]:
    """If a signal stops what is done within this block, and asks for it, the job is queued again.

    Args:
        job: The job; None if this is not the process that does it.
        signals: What signals ask for.

    Raises:
        TrainingError: If SLURM refuses.
    """
    try:
        yield
    except TrainingStopped:
        if job is not None and signals.requeue:
            queue_again(job)
        raise


def queue_again(job: SlurmJob) -> None:
    """Let SLURM queue this job again, which ends it soon.

    Raises:
        TrainingError: If SLURM refuses.
    """
    if job.restarts >= MOST_RESTARTS:
        raise TrainingError(
            f"Job {job.name} is not queued again: SLURM has started it again {job.restarts} times already.",
            remedy=f"ask for more time (--time); {_SAVED}",
        )
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job.name], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        refused = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused is None:
        _log.info("Job %s is queued again.", job.name)
        return
    raise TrainingError(
        f"SLURM does not queue job {job.name} again.",
        found=refused,
        remedy=f"its script needs the line  #SBATCH --requeue ; {_SAVED}",
    )
