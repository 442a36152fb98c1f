"""What runs inside the workers of Dask: each case in a process of its own, as on one machine.

A worker of Dask only passes cases on to a :class:`~nnunet_pt.core.local_executor.LocalExecutor`. So a case that is
killed for lack of memory does not take the worker along, the worker can always be asked something, and libraries use as
many threads as they are given.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_pt.core._worker import answer_to
from nnunet_pt.core.console import get_logger, python_warnings_shown
from nnunet_pt.core.executor import WorkerDied
from nnunet_pt.core.local_executor import LocalExecutor
from nnunet_pt.core.resources import available_cpus, available_ram_bytes

IDLE_S = 120.0  # processes without work end after this time: whoever asked may be gone without a word
_OF_EVENTS = ("event", "style", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker says about itself.

    Attributes:
        host: Its machine.
        cpus: CPUs that it may use.
        machine: The same for all workers that share these CPUs.
        memory_bytes: Memory that it may use.
        missing: Files and folders that it does not see.
        marked: Whether it sees the marker, with the content that it should have.
    """

    host: str
    cpus: int
    machine: str
    memory_bytes: int
    missing: tuple[str, ...]
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One case to work on.

    Attributes:
        session: Whose it is.
        request: Function and argument, see :func:`nnunet_pt.core._worker.answer_to`.
        slots: Calls at the same time in this worker.
        threads: Threads of each of them.
        level: Level from which on messages are wanted.
    """

    session: str
    request: bytes
    slots: int
    threads: int
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What came of it.

    Attributes:
        answer: The answer, see :func:`nnunet_pt.core.local_executor.decode`; empty if the process died.
        messages: Messages to the user: logger, level, text, and what else makes up an event.
        death: How the process died: signal, exit status, details.
    """

    answer: bytes = b""
    messages: tuple[tuple[str, int, str, dict[str, Any]], ...] = ()
    death: tuple[str | None, int | None, str] | None = None


def facts(needed: Sequence[str], marker: tuple[str, str] | None, dask_worker: Any = None) -> WorkerFacts:
    """Look around; runs in a worker of Dask.

    Args:
        needed: Files and folders that should be there.
        marker: A file and its content.
        dask_worker: The worker, filled in by Dask.
    """
    limit = dask_worker.memory_manager.memory_limit
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return WorkerFacts(
        host=socket.gethostname(),
        cpus=available_cpus(),
        machine=f"{socket.gethostname()} {affinity}",
        memory_bytes=limit or available_ram_bytes(),
        missing=tuple(path for path in needed if not Path(path).exists()),
        marked=marker is None or _content(Path(marker[0])) == marker[1],
    )


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def run_call(call: Call) -> CallResult:
    """Work on a case in a process of its own; runs in a thread of a worker of Dask."""
    processes = _processes_of(call)
    try:
        return processes.run(call)
    except WorkerDied as death:
        return CallResult(death=(death.killed_by, death.exit_status, death.details))


def end_session(session: str) -> None:
    """End the processes of a session, and what they do; runs in a worker of Dask."""
    with _lock:
        processes = _sessions.pop(session, None)
    if processes is not None:
        threading.Thread(target=processes.executor.close, daemon=True).start()


def answer_with_messages(call: Call) -> CallResult:
    """Work on a case and collect what is said meanwhile; runs in the process made for it."""
    messages = _Messages()
    logger = get_logger()
    logger.setLevel(call.level)
    logger.addHandler(messages)
    try:
        with python_warnings_shown():
            kind, answer = answer_to(bytearray(call.request))
    finally:
        logger.removeHandler(messages)
    return CallResult(answer=kind + answer, messages=tuple(messages.found))


class _Messages(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        extra = {name: value for name in _OF_EVENTS if (value := getattr(record, name, None)) is not None}
        self.found.append((record.name, record.levelno, self.format(record), extra))


@dataclass(kw_only=True)
class _Processes:
    """The processes of one session in this worker; they end when they had nothing to do for a while."""

    session: str
    executor: LocalExecutor
    running: int = 0
    timer: threading.Timer | None = field(default=None)

    def run(self, call: Call) -> CallResult:
        try:
            return self.executor.submit(answer_with_messages, call).result()
        finally:
            with _lock:
                self.running -= 1
                if self.running == 0:
                    self.timer = threading.Timer(IDLE_S, self._end_if_idle)
                    self.timer.daemon = True
                    self.timer.start()

    def _end_if_idle(self) -> None:
        with _lock:
            if self.running or _sessions.get(self.session) is not self:
                return
            del _sessions[self.session]
        self.executor.close()


_lock = threading.Lock()
_sessions: dict[str, _Processes] = {}


def _processes_of(call: Call) -> _Processes:
    with _lock:
        if call.session not in _sessions:
            executor = LocalExecutor(call.slots, threads_per_worker=call.threads)
            _sessions[call.session] = _Processes(session=call.session, executor=executor)
        processes = _sessions[call.session]
        processes.running += 1
        if processes.timer is not None:
            processes.timer.cancel()
        return processes
