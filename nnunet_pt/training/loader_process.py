"""What runs in a worker process that makes batches."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import numpy as np
import torch

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.process_memory import keep_freed_memory
from nnunet_pt.training.batches import BatchMaker, Layout
from nnunet_pt.training.loader_channel import Channel, Closed, Command, Kind, Note, WorkerBlocks

PARENT_CHECK_S = 1.0
# The training decides when to stop: it may want to save its state first, with the help of no worker but undisturbed
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """A finished batch; its tensors are in a block of shared memory."""

    step: int
    keys: tuple[str, ...]
    block: int
    layout: Layout
    generators: tuple[np.random.Generator, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """What a worker could not do.

    Attributes:
        error: The exception if it can travel.
        summary: "Type: text".
        traceback: The traceback as text.
        working_on: Step and case.
    """

    error: bytes | None
    summary: str
    traceback: str
    working_on: tuple[int, str] | None


def run_worker(channel: Channel, maker: BatchMaker, parent: int, to_close: list[Channel]) -> None:
    """Make the batches that are asked for, until the channel is closed or the parent is gone.

    Args:
        channel: To the training.
        maker: Makes batches.
        parent: Process id of the training.
        to_close: Ends of other channels that were inherited; while they are open here, others wait in vain.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for other in to_close:
        other.close()
    torch.set_num_threads(1)
    keep_freed_memory()
    with contextlib.suppress(OSError):  # if memory runs out, the kernel shall take a worker and not the training
        Path("/proc/self/oom_score_adj").write_text("500")
    status = 0
    try:
        _Worker(channel, maker, parent).run()
    except Closed:
        pass
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)  # without tearing down what was inherited from the training


class _Worker:
    def __init__(self, channel: Channel, maker: BatchMaker, parent: int) -> None:
        self._channel = channel
        self._maker = maker
        self._parent = parent
        self._note = Note.create(channel)
        self._blocks = WorkerBlocks(channel)
        self._steps: deque[int] = deque()

    def run(self) -> None:
        while True:
            self._take_commands(wait=not self._steps)
            if self._steps:
                self._make(self._steps.popleft())

    def _take_commands(self, wait: bool) -> None:
        while wait_for([self._channel.socket], PARENT_CHECK_S if wait else 0):
            command, number = self._channel.next_command()
            if command == Command.MAKE:
                self._steps.append(number)
            else:
                self._blocks.free(number)
            wait = False
        if os.getppid() != self._parent:
            raise Closed

    def _make(self, step: int) -> None:
        layouts: list[Layout] = []

        def allocate(layout: Layout) -> list[torch.Tensor]:
            self._take_commands(wait=False)
            layouts.append(layout)
            return self._blocks.allocate(layout)

        try:
            batch = self._maker.make(step, allocate, lambda case: self._note.write(step, case))
        except Closed:
            raise
        except BaseException as error:  # whatever user code raises must be told, not end the worker without a word
            self._channel.send(Kind.ERROR, _described(error, self._note.read()))
            return
        self._channel.send(
            Kind.BATCH,
            BatchMessage(step, batch.keys, self._blocks.current, layouts[0], batch.generators, batch.warnings),
        )


def _described(error: BaseException, working_on: tuple[int, str] | None) -> ErrorMessage:
    text = "".join(traceback.format_exception(error))
    summary = "".join(traceback.format_exception_only(type(error), error)).strip()
    content: bytes | None = None
    if isinstance(error, MemoryError):  # numpy raises a class of its own
        content = pickle.dumps(MemoryError(str(error)))
    elif isinstance(error, NnunetError):
        with contextlib.suppress(Exception):
            content = pickle.dumps(error)
    return ErrorMessage(content, summary, text, working_on)
