"""A parallel map over cases: the backbone of every stage.

It names the case, the signal and the traceback when a worker raises or is killed, runs the case of a killed worker
once more alone, keeps the cases that run together within a memory budget, and never waits for a process that is gone.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from nnunet_pt.core.console import Progress, get_logger
from nnunet_pt.core.errors import NnunetError, UsageError, WorkerError
from nnunet_pt.core.executor import Executor, InProcessExecutor, RemoteError, RemoteTraceback, WorkerDied
from nnunet_pt.core.local_executor import LocalExecutor
from nnunet_pt.core.resources import available_ram_bytes
from nnunet_pt.core.wording import counted

__all__ = [
    "CaseFailure",
    "CaseTask",
    "Executor",
    "InProcessExecutor",
    "LocalExecutor",
    "MapResult",
    "WorkerDied",
    "map_cases",
]

A = TypeVar("A")
R = TypeVar("R")

BYTES_PER_GB = 2**30
DEFAULT_SHARE_OF_FREE_RAM = 0.8
TICK_S = 1.0
_NUM_THREADS = 8

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)  # no slots: CaseTask[X](...) needs a frozen class without them before Python 3.12
class CaseTask(Generic[A]):
    """One case to work on.

    Attributes:
        case: The case identifier, unique within one map.
        argument: What the function gets; must survive pickling.
        ram_bytes: Estimate of the memory the case needs at its peak.
    """

    case: str
    argument: A
    ram_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFailure:
    """Why a case has no result.

    Attributes:
        case: The case identifier.
        reason: One line.
        details: The traceback; for a killed worker the place where it was last seen, if known.
        killed_by: Name of the signal that killed the worker ("SIGKILL").
        error: The error if it is one of those meant for users.
    """

    case: str
    reason: str
    details: str
    killed_by: str | None = None
    error: NnunetError | None = None


@dataclass(frozen=True, kw_only=True)
class MapResult(Generic[R]):
    """What a map gave.

    Attributes:
        results: Case to result, in the order of the tasks; failed cases are missing.
        failures: The failed cases, in the order in which they failed.
    """

    results: dict[str, R]
    failures: tuple[CaseFailure, ...] = ()


def map_cases(
    function: Callable[[A], R],
    tasks: Sequence[CaseTask[A]],
    *,
    num_workers: int,
    max_ram_gb: float | None = None,
    description: str,
    on_failure: Literal["stop", "continue"] = "stop",
    progress: bool = True,
    executor: Executor | None = None,
    on_result: Callable[[str, R], None] | None = None,
) -> MapResult[R]:
    """Apply a function to every case in worker processes.

    Args:
        function: A function at the top level of an importable module; gets the argument of a task.
        tasks: The cases.
        num_workers: Worker processes; 0 runs the cases one after another in this process (for debugging).
        max_ram_gb: Memory budget (1 GB = 2**30 bytes) for the estimates of the cases that run at the same time;
            80 % of what is free by default, or what the executor has. A case above the budget runs alone.
        description: What is being done, for the progress display and for messages.
        on_failure: "stop" admits no further case after a failure, lets the running ones finish and raises;
            "continue" collects the failures.
        progress: Show the progress.
        executor: Where to run instead of in ``num_workers`` new processes; it is not closed.
        on_result: Called in this process with case and result as soon as a case is done.

    Returns:
        Results and failures. With "stop" there are no failures.

    Raises:
        NnunetError: With "stop", if cases failed: the error of the case if all failures are of one kind that is
            meant for users, otherwise a :class:`WorkerError`. The text names the cases.
        UsageError: If the number of processes, the budget or the function cannot be used.
        ValueError: If two tasks have the same case identifier.
    """
    twice = [case for case, count in Counter(t.case for t in tasks).items() if count > 1]
    if twice:
        raise ValueError(f"several tasks for the same case: {', '.join(twice)}")
    if num_workers < 0:
        raise UsageError("The number of worker processes is negative.", found=num_workers)
    limit = _limit_bytes(max_ram_gb)
    if not tasks:
        return MapResult(results={})
    pool = executor if executor is not None else _make_executor(min(num_workers, len(tasks)))
    free = int(DEFAULT_SHARE_OF_FREE_RAM * available_ram_bytes())

    def budget() -> int:  # asked again and again: machines come and go
        return limit or pool.ram_bytes or free

    run = _Run(function, tasks, pool, budget, description, on_failure == "stop", on_result)
    try:
        with Progress(len(tasks), description, disable=not progress) as bar:
            run.loop(bar)
    finally:
        if executor is None:
            pool.close()
        else:
            run.cancel()
    if run.failures and on_failure == "stop":
        raise _combined_error(run.failures, len(tasks)) from _cause(run.failures)
    return MapResult(
        results={t.case: run.results[t.case] for t in tasks if t.case in run.results}, failures=tuple(run.failures)
    )


def map_in_threads(function: Callable[[A], R], items: Sequence[A]) -> list[R]:
    """Apply a function to many items in a few threads of this process, for work that mostly waits for the disk.

    Returns:
        The results in the order of the items.
    """
    with ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix="nnunet_pt-disk") as pool:
        return list(pool.map(function, items))


def _make_executor(num_workers: int) -> Executor:
    return LocalExecutor(num_workers) if num_workers > 0 else InProcessExecutor()


def _limit_bytes(max_ram_gb: float | None) -> int | None:
    if max_ram_gb is None:
        return None
    if not max_ram_gb > 0:
        raise UsageError("The memory budget must be above 0 GB.", found=f"{max_ram_gb} GB")
    return int(max_ram_gb * BYTES_PER_GB)


class _Run(Generic[A, R]):
    """The state of one map: which cases wait, run, are done, have failed, and are to be tried again alone."""

    def __init__(
        self,
        function: Callable[[A], R],
        tasks: Sequence[CaseTask[A]],
        executor: Executor,
        budget: Callable[[], int],
        description: str,
        stop: bool,
        on_result: Callable[[str, R], None] | None,
    ) -> None:
        self.results: dict[str, R] = {}
        self.failures: list[CaseFailure] = []
        self._function = function
        self._executor = executor
        self._budget = budget
        self._description = description
        self._stop = stop
        self._on_result = on_result
        self._waiting = list(tasks)
        self._overtaken = 0  # how often the first waiting case was passed by smaller ones
        self._suspects: list[tuple[CaseTask[A], BaseException]] = []  # their worker died; each is tried again alone
        self._retried: set[str] = set()
        self._running: dict[Future[R], CaseTask[A]] = {}

    def loop(self, bar: Progress) -> None:
        """Run everything; returns when nothing runs any more."""
        while True:
            self._admit()
            if not self._running:
                return
            done, _ = wait(self._running, timeout=TICK_S, return_when=FIRST_COMPLETED)
            for future in [f for f in self._running if f in done]:  # in the order in which they began
                self._finish(self._running.pop(future), future, bar)
            bar.refresh()

    def cancel(self) -> None:
        """Withdraw what has not begun."""
        for future in self._running:
            future.cancel()

    def _admit(self) -> None:
        if self._stop and self.failures:  # nothing more is admitted
            while self._suspects:
                self._fail(*self._suspects.pop(0))
        elif self._suspects:
            if not self._running:
                self._start(self._suspects.pop(0)[0])
        else:
            while len(self._running) < self._executor.slots and (task := self._next_that_fits()) is not None:
                self._start(task)

    def _next_that_fits(self) -> CaseTask[A] | None:
        """The next case within the budget; smaller ones may pass a large one, but not for ever."""
        budget = self._budget()
        free = budget - sum(t.ram_bytes for t in self._running.values())
        for index, task in enumerate(self._waiting):
            alone = not self._running
            if task.ram_bytes <= free or alone:
                if task.ram_bytes > budget:
                    _log.warning(
                        "%s: case %s needs about %.1f GB of memory, more than the budget of %.1f GB; it runs alone.",
                        self._description,
                        task.case,
                        task.ram_bytes / BYTES_PER_GB,
                        budget / BYTES_PER_GB,
                    )
                self._overtaken = self._overtaken + 1 if index else 0
                return self._waiting.pop(index)
            if self._overtaken >= 2 * self._executor.slots:
                return None
        return None

    def _start(self, task: CaseTask[A]) -> None:
        self._running[self._executor.submit(self._function, task.argument, task.ram_bytes)] = task

    def _finish(self, task: CaseTask[A], future: Future[R], bar: Progress) -> None:
        try:
            result = future.result()
        except (WorkerDied, MemoryError) as error:
            if task.case in self._retried:
                self._fail(task, error, " when it ran alone, too")
            else:
                self._retry(task, error)
        except Exception as error:
            self._fail(task, error)
        else:
            self.results[task.case] = result
            if self._on_result is not None:
                self._on_result(task.case, result)
            bar.advance()
        if self.failures:
            bar.note(f"{len(self.failures)} failed")

    def _retry(self, task: CaseTask[A], error: BaseException) -> None:
        self._retried.add(task.case)
        self._suspects.append((task, error))
        failure = _failure(task.case, error)
        _log.warning(
            "%s: case %s: %s. It will be run again, alone.%s\n%s",
            self._description,
            task.case,
            failure.reason,
            _memory_hint(failure),
            failure.details,
        )

    def _fail(self, task: CaseTask[A], error: BaseException, circumstance: str = "") -> None:
        failure = _failure(task.case, error)
        failure = replace(failure, reason=failure.reason + circumstance)
        self.failures.append(failure)
        rest = f" Waiting for {counted(len(self._running), 'running case')}." if self._stop and self._running else ""
        if failure.error is None:
            _log.error(
                "%s: case %s failed: %s.%s\n%s", self._description, task.case, failure.reason, rest, failure.details
            )
        elif rest or not self._stop:  # otherwise it is raised at once
            _log.error("%s: case %s failed.%s\n%s", self._description, task.case, rest, failure.error)


def _failure(case: str, error: BaseException) -> CaseFailure:
    if isinstance(error, WorkerDied):
        return CaseFailure(case=case, reason=str(error), details=error.details, killed_by=error.killed_by)
    cause = error.__cause__
    details = cause.text if isinstance(cause, RemoteTraceback) else "".join(traceback.format_exception(error))
    if isinstance(error, NnunetError):
        return CaseFailure(case=case, reason=error.problem, details=details, error=error)
    text = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
    return CaseFailure(case=case, reason=(text.splitlines() or [""])[0], details=details)


def _memory_hint(failure: CaseFailure) -> str:
    if failure.killed_by != "SIGKILL":
        return ""
    return " (SIGKILL usually means that memory ran out: use fewer processes or a smaller --max_ram_gb.)"


def _combined_error(failures: Sequence[CaseFailure], num_tasks: int) -> NnunetError:
    """One error that names all failed cases; its class is that of the failures if they agree."""
    kinds = {type(f.error) if f.error is not None else WorkerError for f in failures}
    kind = kinds.pop() if len(kinds) == 1 else WorkerError
    if len(failures) == 1:
        return _single_error(failures[0], kind)
    lines = [f"{len(failures)} of {num_tasks} cases failed."]
    for failure in failures:
        text = failure.error.text() if failure.error is not None else failure.reason
        lines.append(f"case {failure.case}: {text}".replace("\n", "\n  "))
    return kind("\n  ".join(lines))


def _single_error(failure: CaseFailure, kind: type[NnunetError]) -> NnunetError:
    error = failure.error
    if error is None:
        remedy = "if memory ran out, give the job more of it" if failure.killed_by == "SIGKILL" else None
        return kind(f"Case {failure.case}: {failure.reason}", remedy=remedy)
    if failure.case in error.text():
        return error
    return kind(
        f"Case {failure.case}: {error.problem}", found=error.found, expected=error.expected, remedy=error.remedy
    )


def _cause(failures: Sequence[CaseFailure]) -> RemoteTraceback:
    return RemoteTraceback("\n".join(f"case {f.case}:\n{f.details}" for f in failures))
