"""The training's side of one worker process that makes batches."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import warnings
import weakref
from multiprocessing.connection import wait as wait_for

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, WorkerError
from nnunet_pt.core.executor import RemoteError, RemoteTraceback
from nnunet_pt.training.batches import Batch, BatchMaker
from nnunet_pt.training.loader_channel import Channel, Closed, Command, Kind, Note, TrainingBlocks
from nnunet_pt.training.loader_process import IGNORED_SIGNALS, BatchMessage, ErrorMessage, run_worker

PATIENCE_S = 60.0
# Forking lets scripts without a guard and notebooks work, and user code need not survive pickling. Only on Linux is it
# safe with the libraries in use.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_LESS_MEMORY = (
    "if memory ran out (SIGKILL usually means that), use fewer workers (export nnUNet_n_proc_DA=4, or 0 for none)"
    " or give the job more memory"
)
_REMEDIES = {
    "SIGKILL": _LESS_MEMORY,
    "SIGBUS": "the file of this case may have changed or its disk may have failed while it was read, or there is no"
    f" shared memory left: check the file system; {_LESS_MEMORY}",
}
_DAMAGED = "the files of this case may be damaged: run nnUNetv2_preprocess with --verify"

_log = get_logger(__name__)
_channels: weakref.WeakSet[Channel] = weakref.WeakSet()  # this process's ends; forked workers must close their copies


class LoaderWorker:
    """A process that makes batches, one after the other.

    Args:
        maker: Makes batches.
        start_method: How the process is started; :data:`START_METHOD` by default.
    """

    def __init__(self, maker: BatchMaker, start_method: str | None = None) -> None:
        context = multiprocessing.get_context(start_method or START_METHOD)
        ours, theirs = socket.socketpair()
        self._purpose = maker.purpose
        self._channel = Channel(ours)
        inherited = [*_channels, self._channel] if context.get_start_method() == "fork" else []
        _channels.add(self._channel)
        self._process = context.Process(  # type: ignore[attr-defined]  # every context has it
            target=run_worker,
            args=(Channel(theirs), maker, os.getpid(), inherited),
            name=f"nnunet_pt-{maker.purpose}-loader",
            daemon=True,
        )
        # Blocked from the first moment on, in which the process still has the training's handlers
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
        try:
            with warnings.catch_warnings():  # Python >= 3.12 warns of forks beside threads; no lock of theirs is used
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._blocks = TrainingBlocks(self._channel)
        self._note: Note | None = None
        self.outstanding = 0

    def ask(self, step: int) -> None:
        """Ask for the batch of a step; batches come in the order in which they were asked for."""
        self._channel.command(Command.MAKE, step)
        self.outstanding += 1

    def receive(self) -> Batch:
        """Wait for the next batch.

        Raises:
            WorkerError: If the worker failed or was killed; names the case.
            NnunetError: If the worker met a problem the user can solve.
        """
        while True:
            self._wait()
            try:
                kind, content, descriptor = self._channel.receive()
            except Closed:
                raise self._death() from None
            if kind == Kind.NOTE and descriptor is not None:
                self._note = Note.open(descriptor)
            elif kind == Kind.BLOCK and descriptor is not None:
                self._blocks.add(content, descriptor)
            elif kind == Kind.ERROR:
                raise self._failure(content)
            else:
                self.outstanding -= 1
                return self._batch(content)

    def kill(self) -> None:
        """End the process; it has nothing to save."""
        self._process.kill()
        self._process.join()
        self._channel.close()

    def _batch(self, message: BatchMessage) -> Batch:
        data, *targets = self._blocks.tensors(message.block, message.layout)
        return Batch(message.step, message.keys, data, targets, message.generators, message.warnings)

    def _wait(self) -> None:
        """Return when there is something to read or the process has ended."""
        started = time.monotonic()
        while not wait_for([self._channel.socket, self._process.sentinel], PATIENCE_S):
            _log.warning(
                "Waiting for data since %.0f s: worker %d works on %s.",
                time.monotonic() - started,
                self._process.pid,
                self._place(),
            )
        if not wait_for([self._channel.socket], 0):
            raise self._death()

    def _place(self) -> str:
        """What the worker is doing."""
        return place(self._note.read() if self._note is not None else None, self._purpose)

    def _failure(self, message: ErrorMessage) -> NnunetError:
        error: Exception = RemoteError(message.summary)
        if message.error is not None:
            with contextlib.suppress(Exception):  # a class with an unusual constructor; its text is enough
                error = pickle.loads(message.error)
        described = explained(error, message.working_on, self._purpose)
        described.__cause__ = RemoteTraceback(message.traceback)
        return described

    def _death(self) -> WorkerError:
        self._process.join(PATIENCE_S / 10)
        code = self._process.exitcode
        if code is None:
            found, remedy = "it closed its connection", None
        elif code < 0:
            name = _signal_name(-code)
            found, remedy = f"the process {self._process.pid} was killed by {name}", _REMEDIES.get(name, _DAMAGED)
        else:
            found, remedy = f"the process {self._process.pid} ended with exit status {code}", None
        return WorkerError(
            f"A data loading worker died while it worked on {self._place()}.", found=found, remedy=remedy
        )


def explained(error: Exception, working_on: tuple[int, str] | None, purpose: str) -> NnunetError:
    """The error to show for an exception that was raised while a batch was made.

    Args:
        error: What was raised.
        working_on: Step and case.
        purpose: "train" or "val".
    """
    if isinstance(error, NnunetError):
        if working_on is None or working_on[1] in error.text():
            return error
        problem = f"Case {working_on[1]}: {error.problem}"
        return type(error)(problem, found=error.found, expected=error.expected, remedy=error.remedy)
    text = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
    remedy = _LESS_MEMORY if isinstance(error, MemoryError) else None
    return WorkerError(f"Data loading failed at {place(working_on, purpose)}.", found=text, remedy=remedy)


def place(working_on: tuple[int, str] | None, purpose: str) -> str:
    """Step and case in words."""
    if working_on is None:
        return f"its first case ({purpose})"
    step, case = working_on
    return f"case {case} (batch {step}, {purpose})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
