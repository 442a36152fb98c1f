"""Runs measurements in worker processes, one after the other, within a time for all of them."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nnunet_pt.core.console import Progress
from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.executor import WorkerDied
from nnunet_pt.core.local_executor import LocalExecutor

A = TypeVar("A")
R = TypeVar("R")

TICK_S = 0.5
START_S = 4.0  # for starting a worker and importing what it needs
RESERVED = 0.8  # of their fair share that later measurements keep, however slow this one is


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[R]):
    """What became of a measurement.

    Attributes:
        value: The result; None if there is none.
        reason: Why there is none.
        out_of_memory: Whether memory was the reason.
        out_of_time: Whether time was the reason.
        seconds: How long it took, with starting its process.
        ended: When it ended, or was ended, on the system's monotonic clock.
    """

    value: R | None = None
    reason: str = ""
    out_of_memory: bool = False
    out_of_time: bool = False
    seconds: float = 0.0
    ended: float = 0.0


class Measurements:
    """Measurements that share a time limit, each with a share of what is left when it begins.

    Args:
        limit_s: Time for all.
        weights: How much of it each measurement should have, in the order in which they will be run.
        threads: Threads that each may use.
        bar: Shows the progress.
    """

    def __init__(self, limit_s: float, weights: list[float], threads: int, bar: Progress) -> None:
        self._deadline = time.monotonic() + limit_s
        self._weights = weights
        self._threads = threads
        self._bar = bar

    def run(self, what: str, function: Callable[[A], R], argument: Callable[[float], A]) -> Outcome[R]:
        """Run the next measurement.

        Args:
            what: What is measured, for the display.
            function: A function at the top level of a module; runs in a new process.
            argument: Makes its argument from the seconds that it should take.
        """
        weight, others = self._weights.pop(0), sum(self._weights)
        left = self._deadline - time.monotonic()
        share = left * weight / (weight + others)
        most = left * (1 - RESERVED * others / (weight + others))
        self._bar.note(what)
        self._bar.refresh()
        try:
            if most < 1:
                return Outcome(reason="no time was left for it", out_of_time=True)
            return self._measured(function, argument(max(0.5, share - START_S)), most)
        finally:
            self._bar.advance()

    def skip(self) -> None:
        """Leave the next measurement out."""
        self._weights.pop(0)
        self._bar.advance()

    def _measured(self, function: Callable[[A], R], argument: A, most_s: float) -> Outcome[R]:
        executor = LocalExecutor(1, self._threads)
        started = time.monotonic()
        try:
            future = executor.submit(function, argument)
            while not future.done() and time.monotonic() - started < most_s:
                concurrent.futures.wait([future], timeout=TICK_S)
                self._bar.refresh()
            if not future.done():
                reason = f"did not end within {most_s:.0f} s"
                return Outcome(reason=reason, out_of_time=True, ended=time.monotonic())
            return Outcome(value=future.result(), seconds=time.monotonic() - started, ended=time.monotonic())
        except WorkerDied as error:
            killed = error.killed_by == "SIGKILL"
            return Outcome(reason=str(error), out_of_memory=killed)
        except MemoryError as error:
            return Outcome(reason=str(error) or "memory does not suffice", out_of_memory=True)
        except NnunetError as error:
            return Outcome(reason=_joined(error))
        except Exception as error:  # whatever goes wrong in a measurement is a result, too
            return Outcome(reason=f"{type(error).__name__}: {error}".splitlines()[0])
        finally:
            executor.close()


def _joined(error: NnunetError) -> str:
    parts: list[Any] = [error.problem, error.found, error.remedy]
    return "; ".join(str(p).strip() for p in parts if p)
