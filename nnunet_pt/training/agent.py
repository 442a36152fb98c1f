"""Several training processes on this machine, under torchrun's elastic agent."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from nnunet_pt.core.errors import TrainingError, TrainingStopped

SHUTDOWN_S = 300  # large checkpoints take their time on slow disks
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_SIGNALLED = {
    "SIGKILL": "the system may have run out of memory, or somebody killed it",
    "SIGSEGV": "a library crashed; check the drivers and the installation of torch",
}


def run_processes(number: int, arguments: Sequence[str]) -> None:
    """Run the training command in several processes, each a session of its own.

    If one of them fails, the agent ends the others. SIGTERM and Ctrl-C are passed on to them, and they save the state;
    a second Ctrl-C ends them at once. SIGUSR1 is passed on, too.

    Args:
        number: Processes.
        arguments: What ``nnUNetv2_train`` is called with in each of them.

    Raises:
        TrainingError: If a process failed; it has printed why.
        TrainingStopped: If a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Otherwise the agent sets one thread for each process, and says so in a long warning
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_S))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes and we say what happened
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id="nnunet_pt",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        with _save_requests_passed_on():
            elastic_launch(config, sys.executable)("-m", "nnunet_pt.cli.train", *arguments)
    except ChildFailedError as error:
        raise _failed(number, *error.get_first_failure()) from error
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        raise TrainingStopped(
            f"{name} ended the {number} processes; their messages are above. Continue with --c.",
            exit_status=128 + error.sigval,
        ) from error
    finally:
        for pid in _children():  # a second signal does not wait for them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _failed(number: int, rank: int, failure: object) -> TrainingError | TrainingStopped:
    status = int(getattr(failure, "exitcode", 1))
    if status in _STOPPED:
        return TrainingStopped(f"Process {rank} of {number} was asked to stop; see above.", exit_status=status)
    if status >= 0:
        return TrainingError(
            f"Process {rank} of {number} ended with status {status}; its message is above.",
            remedy="correct the cause and continue with --c",
        )
    name = signal.Signals(-status).name
    return TrainingError(
        f"Process {rank} of {number} was killed by {name}.",
        found=_SIGNALLED.get(name),
        remedy="remove the cause and continue with --c",
    )


@contextlib.contextmanager
def _save_requests_passed_on() -> Iterator[None]:
    """Within this block SIGUSR1 reaches the processes instead of ending this one."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield
        return
    previous = signal.signal(signal.SIGUSR1, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


def _children() -> list[int]:
    """The processes that the agent started and that lead a session each; none where there is no /proc."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path("/proc/self/task").glob("*/children"):
            pids += map(int, path.read_text().split())
    return [pid for pid in pids if _leads_a_session(pid)]


def _leads_a_session(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.getsid(pid) == pid
    return False
