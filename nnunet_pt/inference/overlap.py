"""Cases one after another: while one is predicted, the next ones are read and the last ones are written.

Reading and writing happen in threads, which spend their time in compiled code and need no copy of anything. Memory is
bounded: no more cases are read ahead than there are readers, and no more wait to be written than is asked for.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from nnunet_pt.core.console import Progress

T = TypeVar("T")
L = TypeVar("L")
P = TypeVar("P")
R = TypeVar("R")

THREAD_PREFIX = "nnunet_pt-"
_TICK_S = 1.0
_NOTE_INTERVAL_S = 0.5


def overlapped(
    items: Iterable[T],
    *,
    load: Callable[[T], L],
    predict: Callable[[T, L], P],
    export: Callable[[T, P], R],
    num_readers: int = 1,
    num_exporters: int = 1,
    max_waiting: int = 1,
    on_wait: Callable[[], None] | None = None,
) -> Generator[tuple[T, R | Exception], None, None]:
    """Load, predict and export items, each step of another item at the same time.

    An item that fails costs only itself. What is no ``Exception``, such as ``KeyboardInterrupt``, stops everything at
    once: what is being written is finished, nothing more is begun. The same happens if the caller stops early.

    Args:
        items: What to work on; taken one by one in the caller's thread, a little ahead of what is predicted.
        load: Called in a thread.
        predict: Called in the caller's thread with what ``load`` gave.
        export: Called in a thread with what ``predict`` gave.
        num_readers: Items that are being loaded, or are loaded and wait, beside the one that is predicted.
        num_exporters: Items that are exported at the same time. If both are 0, everything happens in the caller's
            thread, one item after another.
        max_waiting: Predicted items that may wait for being exported, or for an earlier one to be finished, beyond
            those in work.
        on_wait: Called about once a second while there is nothing to predict.

    Yields:
        Each item with the result of ``export``, or with what one of its steps raised, in the order of the items. If
        the items themselves raise, those before are finished first.
    """
    if num_readers == num_exporters == 0:
        yield from _one_after_another(items, load, predict, export)
        return
    num_readers, num_exporters = max(1, num_readers), max(1, num_exporters)
    work = _Supply(items)
    room = num_exporters + max_waiting
    with _threads(num_readers, "read") as readers, _threads(num_exporters, "export") as exporters:
        loading: deque[tuple[T, Future[L]]] = deque()
        finishing: deque[tuple[T, Future[R]]] = deque()
        while True:
            while len(loading) < num_readers and (taken := work.take()):
                loading.append((taken[0], readers.submit(load, taken[0])))
            if not loading:
                break
            item, loaded = loading.popleft()
            if following := work.take():
                loading.append((following[0], readers.submit(load, following[0])))
            while len(finishing) >= room or (finishing and finishing[0][1].done()):
                done, exported = finishing.popleft()
                outcome = _outcome(exported, on_wait)
                yield done, outcome
            try:
                predicted = predict(item, _awaited(loaded, on_wait))
            except Exception as error:
                failed: Future[R] = Future()
                failed.set_exception(error)
                finishing.append((item, failed))
            else:
                finishing.append((item, exporters.submit(export, item, predicted)))
                del predicted  # it belongs to the exporter alone, which drops it when it is done
            del loaded
        while finishing:
            done, exported = finishing.popleft()
            outcome = _outcome(exported, on_wait)
            yield done, outcome
    if work.error is not None:
        raise work.error


def _one_after_another(
    items: Iterable[T], load: Callable[[T], L], predict: Callable[[T, L], P], export: Callable[[T, P], R]
) -> Generator[tuple[T, R | Exception], None, None]:
    for item in items:
        outcome: R | Exception
        try:
            outcome = export(item, predict(item, load(item)))
        except Exception as error:
            _forget_locals(error)
            outcome = error
        yield item, outcome


class _Supply(Generic[T]):
    """Items one by one; an error of theirs ends them and is kept."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items: Iterator[T] | None = iter(items)
        self.error: Exception | None = None

    def take(self) -> tuple[()] | tuple[T]:
        """The next item in a tuple, which is empty at the end."""
        if self._items is not None:
            try:
                return (next(self._items),)
            except StopIteration:
                pass
            except Exception as error:
                self.error = error
            self._items = None
        return ()


def _outcome(future: Future[R], on_wait: Callable[[], None] | None) -> R | Exception:
    try:
        return _awaited(future, on_wait)
    except Exception as error:
        _forget_locals(error)
        return error


def _awaited(future: Future[R], on_wait: Callable[[], None] | None) -> R:
    while not wait((future,), timeout=_TICK_S).done:
        if on_wait is not None:
            on_wait()
    return future.result()


def _forget_locals(error: BaseException) -> None:
    """Drop the variables that a traceback keeps alive, such as the image of the case."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def tile_reporter(
    bar: Progress, case: str, *, on_step: Callable[[], None] | None = None, interval_s: float = _NOTE_INTERVAL_S
) -> Callable[[int, int], None]:
    """A function that shows how much of a case is predicted.

    Args:
        bar: Where to show it.
        case: Name of the case.
        on_step: Called each time; it may raise.
        interval_s: The display changes no more often than this.
    """
    shown = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        if on_step is not None:
            on_step()
        if time.monotonic() - shown >= interval_s:
            shown = time.monotonic()
            bar.note(f"{case}: {done / total:.0%}")
            bar.refresh()

    return report


@contextlib.contextmanager
def _threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that, if the block ends early, finish what they are doing but begin nothing more."""
    pool = ThreadPoolExecutor(number, thread_name_prefix=f"{THREAD_PREFIX}{name}")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
