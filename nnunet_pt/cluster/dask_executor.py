"""Cases on the workers of a Dask cluster, behind the interface of local processes."""

from __future__ import annotations

import contextlib
import pickle
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from nnunet_pt.cluster.dask_checks import SharedFolders, look_at
from nnunet_pt.cluster.dask_crew import Absence, Crew, DaskWorkerLost, Member, Waiting
from nnunet_pt.cluster.dask_worker import Call, CallResult, end_session, run_call
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, WorkerError
from nnunet_pt.core.executor import Executor, WorkerDied
from nnunet_pt.core.local_executor import decode, pickled_function

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as DaskFuture

A = TypeVar("A")
R = TypeVar("R")

POLL_S = 1.0
ANSWER_S = 30.0
ATTEMPTS = 3
PATIENCE_S = 600.0
QUIET_S = 10.0  # a worker that died is usually started again by its nanny

_log = get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class _Sent:
    """A call on its way; without a worker it waits for one."""

    request: bytes
    ram_bytes: int
    future: Future[Any] = field(default_factory=Future)
    worker: Member | None = None
    remote: DaskFuture[CallResult] | None = None


class DaskExecutor:
    """Runs calls on the workers of a Dask cluster, as many on each as it has threads.

    Each call is sent to one worker that has the memory for it. If that worker is lost, the call ends with
    :class:`DaskWorkerLost`; others go on. Workers that join later are used, too.

    Args:
        client: Connection to the scheduler; it is closed in the end.
        folders: What the workers must see.
        name: What the cluster is called in messages.
        advice: What to do if there are no workers.
        patience_s: How long to wait for workers while there are none.
        news: Tells what those do that are to come, or None if none are; by default that is not known.

    Raises:
        WorkerError: If there are no workers, or one of them cannot be used.
    """

    def __init__(
        self,
        client: Client,
        folders: SharedFolders,
        *,
        name: str,
        advice: str,
        patience_s: float = PATIENCE_S,
        news: Callable[[], str | None] = lambda: "",
    ) -> None:
        self._client = client
        self._folders = folders
        self._absence = Absence(name=name, advice=advice, patience_s=patience_s, news=news)
        self._session = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._crew = Crew()
        self._refused: set[str] = set()
        self._sent: list[_Sent] = []
        self._trouble: NnunetError | None = None
        self._closing = threading.Event()
        self._stack = contextlib.ExitStack()
        try:
            self._stack.callback(self._close_client)
            self._marker = self._stack.enter_context(folders.marked())
            self._wait_for_workers()
        except BaseException:
            self._stack.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="nnunet_pt-dask", daemon=True)
        self._watcher.start()

    @property
    def slots(self) -> int:
        """Threads of all workers together; without any it is 1, so that somebody waits for them.

        Raises:
            WorkerError: If the cluster is lost.
        """
        with self._lock:
            if self._trouble is not None:
                raise self._trouble
            return max(1, self._crew.slots)

    @property
    def threads(self) -> int:
        """Threads for each call where there are fewest."""
        with self._lock:
            return self._crew.threads

    @property
    def ram_bytes(self) -> int | None:
        """Most of the memory of all workers together."""
        with self._lock:
            return self._crew.ram_bytes or None

    def submit(self, function: Callable[[A], R], argument: A, ram_bytes: int = 0) -> Future[R]:
        """Send ``function(argument)`` to a worker.

        Args:
            function: A function of a module that the workers can import.
            argument: Anything that can be pickled; if not, the future ends with the error.
            ram_bytes: Estimate of the memory it needs; it waits for a worker that has it.

        Raises:
            UsageError: If the function cannot be sent to another process.
        """
        code = pickled_function(function)
        sent = _Sent(request=b"", ram_bytes=ram_bytes)
        try:
            payload = pickle.dumps(argument, protocol=pickle.HIGHEST_PROTOCOL)
            sent.request = pickle.dumps((code, payload), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            sent.future.set_exception(error)
            return sent.future
        with self._lock:
            if self._trouble is not None:
                sent.future.set_exception(self._trouble)
                return sent.future
            self._sent.append(sent)
            self._dispatch()
        return sent.future

    def close(self) -> None:
        """End everything that still runs on the workers and leave the cluster."""
        self._closing.set()
        with self._lock:
            left, self._sent = self._sent, []
        for sent in left:
            _end(sent.future, WorkerDied("SIGTERM", None, "the executor was closed"))
        self._stack.close()
        self._watcher.join(ANSWER_S)

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_client(self) -> None:
        with self._lock:
            addresses = list(self._crew.members)
        with contextlib.suppress(Exception):  # scheduler and workers may be gone
            if addresses and self._trouble is None:
                self._ask(self._client.scheduler.ncores)
                self._client.run(end_session, self._session, workers=addresses, on_error="ignore")
        with contextlib.suppress(Exception):
            self._client.close(timeout=ANSWER_S)

    # ---- the workers

    def _wait_for_workers(self) -> None:
        """Wait until there is one that can be used.

        Raises:
            WorkerError: If there are none for too long, or one of the first cannot be used.
        """
        waiting = Waiting(self._absence)
        while True:
            threads = self._ask(self._client.scheduler.ncores)
            wrong = self._add(threads)
            if wrong:
                first, *others = wrong.values()
                if others:
                    _log.error("%d more Dask workers cannot be used: %s", len(others), ", ".join(list(wrong)[1:]))
                raise first
            if self._crew:
                break
            waiting.go_on()
            self._closing.wait(POLL_S)
        _log.info("%s: %s", self._absence.name, self._crew.summary())

    def _add(self, threads: dict[str, int]) -> dict[str, NnunetError]:
        """Use workers that are new; gives those that cannot be used, with the reason."""
        new = [a for a in threads if a not in self._crew.members and a not in self._refused]
        if not new:
            return {}
        usable, wrong = look_at(self._client, new, self._folders, self._marker)
        with self._lock:
            self._refused |= set(wrong)
            for address, said in usable.items():
                self._crew.members[address] = Member(address=address, facts=said, slots=max(1, threads[address]))
        return wrong

    def _watch(self) -> None:
        """Follow the workers as they come and go."""
        waiting = Waiting(self._absence, quiet_s=QUIET_S)
        failed = 0
        while not self._closing.wait(POLL_S):
            try:
                threads = self._ask(self._client.scheduler.ncores)
                for address in [a for a in self._crew.members if a not in threads]:
                    self._lose(address)
                for error in self._add(threads).values():
                    _log.warning("%s\nIt is not used; the others go on.", error)
                failed = 0
                if self._crew:
                    waiting = Waiting(self._absence, quiet_s=QUIET_S)
                else:
                    waiting.go_on()
            except NnunetError as error:
                self._give_up(error)
                return
            except Exception as error:  # a busy scheduler may answer the next time
                failed += 1
                if failed == ATTEMPTS and not self._closing.is_set():
                    self._give_up(_scheduler_lost(self._absence.name, error))
                    return
            with self._lock:
                self._dispatch()

    def _lose(self, address: str) -> None:
        with self._lock:
            worker = self._crew.members.pop(address)
            lost = [s for s in self._sent if s.worker is worker]
            self._sent = [s for s in self._sent if s.worker is not worker]
        for sent in lost:
            if sent.remote is not None:
                sent.remote.cancel()  # or it would wait for this worker for ever
            _end(sent.future, DaskWorkerLost(worker.name))
        if not lost:
            _log.info("The Dask worker %s left; it had nothing to do.", worker.name)

    def _give_up(self, error: NnunetError) -> None:
        with self._lock:
            self._trouble = error
            left, self._sent = self._sent, []
        for sent in left:
            _end(sent.future, error)

    def _ask(self, question: Callable[..., Any]) -> Any:
        return self._client.sync(question, callback_timeout=ANSWER_S)

    # ---- the calls

    def _dispatch(self) -> None:
        """Send what waits to workers that have room; call it with the lock held."""
        reserved: set[str] = set()
        self._sent = [s for s in self._sent if s.worker is not None or not s.future.cancelled()]
        for sent in [s for s in self._sent if s.worker is None]:
            worker = self._crew.choose(sent.ram_bytes, reserved)
            if worker is not None:
                self._start(sent, worker)

    def _start(self, sent: _Sent, worker: Member) -> None:
        if not sent.future.set_running_or_notify_cancel():
            self._sent.remove(sent)
            return
        sent.worker = worker
        worker.running += 1
        worker.ram_used += sent.ram_bytes
        call = Call(
            session=self._session,
            request=sent.request,
            slots=worker.slots,
            threads=self._crew.threads_on(worker),
            level=_log.getEffectiveLevel(),
        )
        sent.remote = self._client.submit(
            run_call,
            call,
            key=f"nnunet_pt-{self._session}-{secrets.token_hex(6)}",
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
        )
        sent.remote.add_done_callback(lambda _: self._finish(sent))

    def _finish(self, sent: _Sent) -> None:
        """Pass on what came of a call; runs in a thread of Dask."""
        with self._lock:
            if sent not in self._sent or sent.worker is None or sent.remote is None:
                return  # the worker was lost, or this executor is closed
        result, error = _result_of(sent.remote, sent.worker.name)
        with self._lock:
            if sent not in self._sent:  # the worker was lost while its result was on the way
                return
            if isinstance(error, CancelledError):  # nobody else cancels: the connection to the scheduler is closed
                self._give_up(_scheduler_lost(self._absence.name, error))
                return
            self._sent.remove(sent)
            sent.worker.running -= 1
            sent.worker.ram_used -= sent.ram_bytes
            self._dispatch()
        sent.remote.release()
        for name, level, text, extra in result.messages:
            get_logger(name).log(level, "%s", text, extra=extra)
        if error is not None:
            _end(sent.future, error)
            return
        try:
            value = decode(memoryview(result.answer))
        except Exception as raised:
            sent.future.set_exception(raised)
        else:
            sent.future.set_result(value)


def _result_of(remote: DaskFuture[CallResult], worker: str) -> tuple[CallResult, BaseException | None]:
    """The result, and why there is none."""
    try:
        result = remote.result(ANSWER_S)
    except CancelledError as error:
        return CallResult(), error
    except Exception as error:  # its worker was lost, while the result was on its way or before
        lost = isinstance(error, OSError) or type(error).__name__ in ("KilledWorker", "NoValidWorkerError")
        return CallResult(), DaskWorkerLost(worker) if lost else error
    if result.death is None:
        return result, None
    signal, status, details = result.death
    return result, WorkerDied(signal, status, f"On the Dask worker {worker}. {details}")


def _end(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # it has ended already
        future.set_exception(error)


def _scheduler_lost(name: str, error: Exception) -> WorkerError:
    return WorkerError(
        f"{name}: the connection was lost.",
        found=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        remedy="see whether its scheduler still runs, then run the same command again to continue",
    )
