"""The small interface between the parallel map and whatever runs its cases.

:class:`Executor` is all that :func:`nnunet_pt.core.workers.map_cases` needs, so that an engine for clusters can take
the place of local processes without touching the stages.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, TypeVar

from nnunet_pt.core.resources import available_cpus

A = TypeVar("A")
R = TypeVar("R")


class Executor(Protocol):
    """Runs calls somewhere else.

    The futures it returns end with the result of the call, with the exception it raised (with a
    :class:`RemoteTraceback` as cause if it was raised in another process), or with :class:`WorkerDied`.

    Attributes:
        slots: How many calls run at the same time.
        threads: How many threads each of them may use.
        ram_bytes: Memory for all of them together; None if it is what this machine has free.
    """

    @property
    def slots(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def ram_bytes(self) -> int | None: ...

    def submit(self, function: Callable[[A], R], argument: A, ram_bytes: int = 0) -> Future[R]:
        """Start ``function(argument)``; both must survive pickling. Returns at once.

        Args:
            function: The function.
            argument: Its argument.
            ram_bytes: Estimate of the memory it needs at its peak.
        """
        ...

    def close(self) -> None:
        """Stop everything that is still running and give back all resources."""
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WorkerDied(Exception):
    """A worker ended in the middle of a call.

    Args:
        killed_by: Name of the signal ("SIGKILL"), or ``None`` if the process ended by itself.
        exit_status: Its exit status if it ended by itself.
        details: What is known about where it was.
    """

    def __init__(self, killed_by: str | None, exit_status: int | None, details: str = "") -> None:
        super().__init__(killed_by, exit_status, details)
        self.killed_by = killed_by
        self.exit_status = exit_status
        self.details = details

    def __str__(self) -> str:
        if self.killed_by is not None:
            return f"the worker process was killed by {self.killed_by}"
        return f"the worker process ended with exit status {self.exit_status} without a result"


class RemoteError(Exception):
    """Stands for an exception of another process; the text is "TypeName: message"."""


class RemoteTraceback(Exception):
    """Carries the traceback of another process as text, as the cause of the exception that came from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class InProcessExecutor:
    """Runs each call at once in this process: for debugging, and for work too small for processes."""

    def __init__(self) -> None:
        self.slots = 1
        self.threads = available_cpus()
        self.ram_bytes: int | None = None

    def submit(self, function: Callable[[A], R], argument: A, ram_bytes: int = 0) -> Future[R]:  # noqa: ARG002
        """Run ``function(argument)`` now."""
        future: Future[R] = Future()
        try:
            future.set_result(function(argument))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is left to stop."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
