"""Workers of Dask as jobs of SLURM, for as long as a command runs."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_pt.cluster import slurm
from nnunet_pt.cluster.dask_checks import SharedFolders, client_of, quiet
from nnunet_pt.cluster.dask_executor import DaskExecutor
from nnunet_pt.cluster.settings import ClusterSettings, Resources, memory_bytes
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UsageError, WorkerError
from nnunet_pt.core.executor import Executor
from nnunet_pt.core.wording import counted

PATIENCE_S = 24 * 3600.0
LOGS = "dask_slurm_logs"
_DEFAULT_CPUS, _DEFAULT_MEMORY = 8, "48G"

_log = get_logger(__name__)


@contextlib.contextmanager
def slurm_executor(num_jobs: int, settings: ClusterSettings, folders: SharedFolders) -> Iterator[Executor]:
    """Submit jobs that work on cases; they are cancelled in the end.

    Args:
        num_jobs: How many jobs.
        settings: What each asks for: that of the kind ``cases``.
        folders: What the jobs must see.

    Raises:
        UsageError: If there is no SLURM on this machine.
        UnknownNameError: If there is no such partition.
        WorkerError: If SLURM refuses the jobs, or they cannot be used.
    """
    if not slurm.has_slurm():
        raise UsageError(
            "Jobs cannot be submitted from this machine: it has no sbatch.",
            remedy="log in to the cluster and run the command there; or start workers yourself and use --dask ADDRESS",
        )
    wanted = settings.resources["cases"]
    slurm.check_partitions(tuple((wanted.partition or "").split(",")) if wanted.partition else ())
    logs = Path.cwd() / LOGS
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_cluster(num_jobs, settings, wanted))
        _log.info("Submitted %s to SLURM; see %s for their logs", counted(num_jobs, "job"), logs)
        executor = DaskExecutor(
            client_of(cluster),
            folders,
            name=f"Dask on {counted(num_jobs, 'job')} of SLURM",
            advice=f"see in {logs} why the jobs ended; after that, the same command continues",
            patience_s=PATIENCE_S,
            news=partial(_queue, cluster),
        )
        yield stack.enter_context(executor)


@contextlib.contextmanager
def _cluster(num_jobs: int, settings: ClusterSettings, wanted: Resources) -> Iterator[Any]:
    from distributed import Status

    with _ctrl_c_as_before():
        from dask_jobqueue import SLURMCluster

    quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own, about ports and the like
        cluster = SLURMCluster(
            cores=wanted.cpus or _DEFAULT_CPUS,
            processes=1,
            memory=memory_bytes(wanted.mem or _DEFAULT_MEMORY),
            job_mem=wanted.mem or _DEFAULT_MEMORY,
            queue=wanted.partition,
            account=wanted.account,
            walltime=wanted.time,
            python=shlex.quote(sys.executable),
            job_name="nnunet_dask",
            job_script_prologue=_prologue(settings),
            job_extra_directives=list(wanted.options),
            log_directory=LOGS,  # relative, since it is not quoted in the script
            scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        )
    try:
        try:
            while len(cluster.worker_spec) < num_jobs:
                cluster.worker_spec.update(cluster.new_worker_spec())
            cluster.sync(cluster._correct_state)  # "scale" would not tell whether SLURM has taken them
        except RuntimeError as error:
            for job in cluster.workers.values():
                if job.job_id is None:  # or closing would complain about it
                    job.status = Status.failed
            raise WorkerError(
                "SLURM does not accept the jobs.",
                found=str(error).partition("stderr:")[2].strip() or str(error).strip(),
                remedy="correct partition, account, cpus, mem, time and options in the file given as -cluster",
            ) from error
        yield cluster
    finally:
        cluster.close(timeout=60)


@contextlib.contextmanager
def _ctrl_c_as_before() -> Iterator[None]:
    """Importing dask_jobqueue lets Ctrl-C end the process without a word, as if all was done; not in this block."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _queue(cluster: Any) -> str | None:
    """What the jobs do; None if SLURM has none of them any more, so that they have ended without becoming workers."""
    jobs = {job.job_id for job in cluster.workers.values()}
    queue = slurm.queued_tasks()
    if queue is None:
        return "SLURM does not say what its jobs do"
    states = Counter(f"{task.state} ({task.reason})" for task in queue if task.job in jobs)
    return ", ".join(f"{number} {state}" for state, number in states.items()) or None


def _prologue(settings: ClusterSettings) -> list[str]:
    lines = [f"module load {' '.join(map(shlex.quote, settings.modules))}"] if settings.modules else []
    if settings.venv is not None:
        lines.append(f"source {shlex.quote(str(settings.venv / 'bin' / 'activate'))}")
    return [*lines, *settings.setup]
