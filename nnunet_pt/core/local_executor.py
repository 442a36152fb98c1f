"""Worker processes on this machine.

Each worker is a fresh interpreter with its own socket to the parent. Unlike with ``multiprocessing`` the user's main
module is not run again in the workers (scripts need no guard, notebooks work), and a worker that is killed is noticed
at once. A thread of the parent waits for each worker.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from nnunet_pt.core._worker import CLEAN_UP_S, LENGTH, RESULT
from nnunet_pt.core.console import manner
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.executor import Executor, RemoteError, RemoteTraceback, WorkerDied
from nnunet_pt.core.resources import available_cpus

A = TypeVar("A")
R = TypeVar("R")

POLL_S = 0.25  # a child of a dead worker can keep its socket open, so its end does not always show there
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_BOOTSTRAP = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from nnunet_pt.core._worker import main; main({channel}, {report}, {parent}, {messages})"
)


class LocalExecutor:
    """Runs calls in worker processes of this machine, started when needed and again after a death.

    Args:
        num_workers: How many processes, at least 1.
        threads_per_worker: Threads that numerical libraries may use in each; the available CPUs are shared equally
            by default.

    Raises:
        UsageError: If a number is below 1.
    """

    def __init__(self, num_workers: int, threads_per_worker: int | None = None) -> None:
        if num_workers < 1 or (threads_per_worker is not None and threads_per_worker < 1):
            raise UsageError(
                "The number of worker processes and of their threads must be at least 1.",
                found=f"{num_workers} processes, {threads_per_worker} threads",
            )
        self.slots = num_workers
        self.threads = threads_per_worker or max(1, available_cpus() // num_workers)
        self.ram_bytes: int | None = None
        self._waiters = ThreadPoolExecutor(num_workers, thread_name_prefix="nnunet_pt-worker")
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._closed = False

    def submit(self, function: Callable[[A], R], argument: A, ram_bytes: int = 0) -> Future[R]:  # noqa: ARG002
        """Start ``function(argument)`` in a worker.

        Args:
            function: A function of an importable module.
            argument: Anything that can be pickled; if not, the future ends with the error.
            ram_bytes: Not looked at here; whoever admits the calls knows this machine's memory.

        Raises:
            UsageError: If the function cannot be sent to another process.
        """
        return self._waiters.submit(self._call, pickled_function(function), argument)

    def close(self) -> None:
        """End all workers. Calls that still run are terminated; after 3 s for cleaning up they are killed."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        self._waiters.shutdown(wait=False, cancel_futures=True)
        try:
            for worker in workers:
                worker.ask_to_end()
            deadline = time.monotonic() + CLEAN_UP_S
            for worker in workers:
                worker.wait_until(deadline)
        finally:
            for worker in workers:
                worker.kill()
        self._waiters.shutdown(wait=True)  # the threads let go of the channels
        for worker in workers:
            worker.release()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: bytes, argument: Any) -> Any:
        payload = pickle.dumps(argument, protocol=pickle.HIGHEST_PROTOCOL)
        request = pickle.dumps((function, payload), protocol=pickle.HIGHEST_PROTOCOL)
        worker = self._take_worker()
        try:
            answer = worker.ask(request)
        except BaseException:
            self._discard(worker)
            raise
        with self._lock:
            self._idle.append(worker)
        return decode(answer)

    def _take_worker(self) -> _Worker:
        with self._lock:
            while not self._closed and self._idle:
                worker = self._idle.pop()
                if worker.is_alive():
                    return worker
                self._workers.discard(worker)  # it died while it had nothing to do; no case is to blame
                worker.release()
            if self._closed:
                raise WorkerDied("SIGTERM", None, "the executor was closed")
            worker = _Worker(self.threads)
            self._workers.add(worker)
            return worker

    def _discard(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()
        worker.release()


class _Worker:
    """One worker process and the parent's end of its channel."""

    def __init__(self, num_threads: int) -> None:
        self._report = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
        self._channel, theirs = socket.socketpair()
        shown = manner()
        shared = () if shown is None or shown.json_fd is None else (shown.json_fd,)
        with theirs:
            code = _BOOTSTRAP.format(
                path=[p or os.getcwd() for p in sys.path if isinstance(p, str)],  # noqa: PTH109
                channel=theirs.fileno(),
                report=self._report.fileno(),
                parent=os.getpid(),
                messages=None if shown is None else (shown.verbose, shown.json_fd),
            )
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a task prints is not lost, and does not mix with the output of the command
                    env=_environment(num_threads),
                    pass_fds=(theirs.fileno(), self._report.fileno(), *shared),
                )
            except BaseException:
                self._channel.close()
                self._report.close()
                raise
        self._channel.settimeout(POLL_S)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes) -> memoryview:
        """Send a request and wait for the answer.

        Raises:
            WorkerDied: If the process ended instead.
        """
        try:
            self._send(LENGTH.pack(len(request)))
            self._send(request)
            size = LENGTH.unpack(self._receive(LENGTH.size))[0]
            return self._receive(size)
        except OSError:  # the other end is gone
            raise self._death() from None

    def ask_to_end(self) -> None:
        """Let an idle process end by itself and interrupt a busy one."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._process.terminate()

    def wait_until(self, deadline: float) -> None:
        """Wait for the end of the process until a time on the monotonic clock."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """Close the channel of an ended process."""
        self._channel.close()
        self._report.close()

    def _send(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            try:
                view = view[self._channel.send(view) :]
            except TimeoutError:
                if not self.is_alive():
                    raise ConnectionResetError from None

    def _receive(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        rest = buffer
        while rest:
            alive = self.is_alive()  # asked first: what the process sent before its end is still read
            try:
                count = self._channel.recv_into(rest)
            except TimeoutError:
                if not alive:
                    raise ConnectionResetError from None
                continue
            if count == 0:
                raise ConnectionResetError
            rest = rest[count:]
        return buffer

    def _death(self) -> WorkerDied:
        """Why the process ended."""
        self.wait_until(time.monotonic() + CLEAN_UP_S)
        if self.is_alive():  # a task closed the socket; without it the process is of no use
            self._process.kill()
            self._process.wait()
            return WorkerDied(None, None, "The worker closed its connection.")
        status = self._process.returncode
        details = self._last_note()
        return WorkerDied(_signal_name(-status), None, details) if status < 0 else WorkerDied(None, status, details)

    def _last_note(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._report.seek(0)
            note = self._report.read().decode("utf-8", "replace").strip()
            if note:
                return f"Last seen here:\n{note}"
        return "It was in its first half second, or busy in compiled code; where is not known."


def _environment(num_threads: int) -> dict[str, str]:
    """The environment of a worker: this process's, with no more threads for numerical libraries than given."""
    env = dict(os.environ)
    for name in THREAD_VARIABLES:
        asked = env.get(name, "")
        env[name] = str(min(num_threads, int(asked)) if asked.isdigit() and int(asked) > 0 else num_threads)
    # It would overrule the number of threads that a writer chooses, and with it the bytes that it writes
    env.pop("BLOSC_NTHREADS", None)
    return env


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def pickled_function(function: Callable[[Any], Any]) -> bytes:
    """A function as another process can read it.

    Raises:
        UsageError: If it cannot be sent there.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", repr(inner))
    if getattr(inner, "__module__", None) == "__main__":
        raise UsageError(
            f"The function {name} cannot be sent to a worker process.",
            found="it is defined in the main script or notebook",
            expected="a function at the top level of a module that can be imported",
            remedy="move it into a file of its own and import it from there, or use 0 processes",
        )
    try:
        return pickle.dumps(function, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise UsageError(
            f"The function {name} cannot be sent to a worker process.",
            found=f"{type(error).__name__}: {error}",
            expected="a function at the top level of a module that can be imported",
        ) from error


def decode(answer: memoryview) -> Any:
    """The result in an answer of :func:`nnunet_pt.core._worker.answer_to`, or the exception, which is raised."""
    if answer[:1] == RESULT:
        return pickle.loads(answer[1:])
    exception, summary, text = pickle.loads(answer[1:])
    error: Exception = RemoteError(summary)
    if exception is not None:
        with contextlib.suppress(Exception):  # a class with an unusual constructor; its text is enough
            error = pickle.loads(exception)
    raise error from RemoteTraceback(text)
