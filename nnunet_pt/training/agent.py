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
from typing import Any

from nnunet_pt.core.console import standard_output_of_helpers
from nnunet_pt.core.errors import TrainingError, TrainingStopped

_PASSED_ON = ("SIGTERM", "SIGINT", "SIGUSR1")
_LEFT_TO_AGENT = "SIGHUP,SIGQUIT"
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)
_MOST_INTERRUPTIONS = 2  # by Ctrl-C; the first one saves, the second one ends, whatever comes then kills
_SIGNALLED = {
    "SIGKILL": "the system may have run out of memory, or somebody killed it",
    "SIGSEGV": "a library crashed; check the drivers and the installation of torch",
}


def run_processes(number: int, command: Sequence[str]) -> None:
    """Run the training command in several processes, each a session of its own.

    If one of them fails, the agent ends the others. Signals are passed on to them, so that they save the state; how
    long that may take is not for the agent to say, which would kill them after a while.

    Args:
        number: Processes.
        command: Module and arguments of each of them.

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
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes and we say what happened
    # An agent of an older torch handles all signals itself, and passes some of them on
    own: dict[str, Any] = {"signals_to_handle": _LEFT_TO_AGENT}
    own = {name: value for name, value in own.items() if name in LaunchConfig.__dataclass_fields__}
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
        **own,
    )
    try:
        with _signals_passed_on(), standard_output_of_helpers():
            elastic_launch(config, sys.executable)("-m", *command)
    except ChildFailedError as error:
        raise _failed(number, *error.get_first_failure()) from error
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        raise TrainingStopped(
            f"{name} ended the {number} processes; their messages are above. Continue with --c.",
            exit_status=128 + error.sigval,
        ) from error


def _failed(number: int, rank: int, failure: object) -> TrainingError | TrainingStopped:
    status = int(getattr(failure, "exitcode", 1))
    stopped = status if status in _STOPPED else 128 - status if 128 - status in _STOPPED else None
    if stopped is not None:
        return TrainingStopped(f"The {number} processes were asked to stop; see above.", exit_status=stopped)
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
def _signals_passed_on() -> Iterator[None]:
    """Within this block signals reach the processes; before there are any, this one behaves as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _PASSED_ON if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    interruptions = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interruptions
        interruptions += number == signal.SIGINT
        processes = _children()
        before = previous[number]
        if not processes and callable(before):
            before(number, frame)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                if interruptions > _MOST_INTERRUPTIONS:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, number)

    for number in numbers:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _children() -> list[int]:
    """The processes that the agent started, each of which leads a session; none where there is no /proc."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path("/proc/self/task").glob("*/children"):
            pids += map(int, path.read_text().split())
    return [pid for pid in pids if _leads_a_session(pid)]


def _leads_a_session(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.getsid(pid) == pid
    return False
