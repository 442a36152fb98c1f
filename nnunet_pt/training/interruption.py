"""When to save, and what signals ask for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Literal

from nnunet_pt.core.console import announce

Request = Literal["save", "stop"]
DEFAULT_MINUTES = 10.0


class SavePolicy:
    """When state is saved: every so many epochs as nnU-Net does, and in between whenever enough time has passed.

    Args:
        minutes: Time between two saves; 0 turns saving by time off.
        every_epochs: Epochs between two saves; 0 turns saving by epochs off.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        minutes: float = DEFAULT_MINUTES,
        every_epochs: int = 50,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = minutes * 60
        self._every_epochs = every_epochs
        self._clock = clock
        self._last = clock()

    def due_after_step(self) -> bool:
        """Whether enough time has passed since the last save."""
        return self._interval_s > 0 and self._clock() - self._last >= self._interval_s

    def due_after_epoch(self, epoch: int, num_epochs: int) -> bool:
        """Whether to save at the end of an epoch; never after the last one, which has a checkpoint of its own.

        Args:
            epoch: The epoch that ended, counted from 0.
            num_epochs: All epochs of the training.
        """
        by_epochs = self._every_epochs > 0 and (epoch + 1) % self._every_epochs == 0
        return epoch + 1 < num_epochs and (by_epochs or self.due_after_step())

    def done(self) -> None:
        """Call after each attempt to save, so that a full disk is tried again after the interval and not at once."""
        self._last = self._clock()


class StopSignals:
    """Notes signals instead of dying from them, so that a training can save its state at the next good moment.

    SIGUSR1 asks to save and go on; SIGTERM and Ctrl-C (SIGINT) ask to save and stop. A second Ctrl-C stops at once
    with ``KeyboardInterrupt``. Within the context only; worker processes that inherit the handlers by being forked die
    from the signals as usual. Outside of the main thread, where Python allows no handlers, nothing is changed.

    Args:
        announce: Say that the request to stop was received.
        with_parent: Stop as for SIGTERM, too, if the process ends that started this one.
        requeue: SIGUSR1 asks to save and stop, after which the job is queued again.
    """

    def __init__(self, *, announce: bool = False, with_parent: bool = False, requeue: bool = False) -> None:
        self._announce = announce
        self._requeue = requeue
        self._agreed: bool | None = None
        self._parent = os.getppid() if with_parent else None
        self._requested: Request | None = None
        self._received: int | None = None
        self._interrupted = False
        self._previous: dict[int, signal._HANDLER] = {}
        self._owner = 0

    @property
    def requested(self) -> Request | None:
        """What is asked for now: "save", "stop" or nothing."""
        if self._parent is not None and os.getppid() != self._parent:
            self._note(signal.SIGTERM, None)
            self._parent = None
        return self._requested

    @property
    def exit_status(self) -> int:
        """What a process returns that stops because of a signal: 143 for SIGTERM, 130 for SIGINT, 138 for SIGUSR1."""
        return 0 if self._received is None else 128 + self._received

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that asks to stop, for the log."""
        return None if self._received is None else signal.Signals(self._received).name

    @property
    def requeue(self) -> bool:
        """Whether the job is to be queued again: what all processes have agreed on, or what this one was asked for."""
        return self._requeue and self._received == signal.SIGUSR1 if self._agreed is None else self._agreed

    @requeue.setter
    def requeue(self, agreed: bool) -> None:
        self._agreed = agreed

    @property
    def to_continue(self) -> str:
        """What continues a training that was stopped."""
        return "it goes on when SLURM starts the job again" if self.requeue else "continue with --c"

    def saved(self) -> None:
        """Call when state was saved: a request to save is fulfilled, a request to stop stays."""
        if self._requested == "save":
            self._requested = None

    def __enter__(self) -> StopSignals:
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            names = ("SIGTERM", "SIGINT", "SIGUSR1")  # not every system has the last one
            for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
                self._previous[number] = signal.getsignal(number) or signal.SIG_DFL
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._owner:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number not in (signal.SIGTERM, signal.SIGINT) and not self._requeue:
            self._requested = self._requested or "save"
            return
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self._announce and self._requested != "stop":
            again = " (Ctrl-C again: at once)" if number == signal.SIGINT else ""
            announce(f"{signal.Signals(number).name}: saving, then stopping.{again}")
        self._requested = "stop"
        self._received = self._received or number
