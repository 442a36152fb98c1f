"""How batches travel from a worker process to the training: messages over a socket, tensors in shared memory.

A worker writes each batch into a block of shared memory that is used again once the training has let go of the
batch's tensors, so that no memory is requested from the system after the first few batches. The blocks are anonymous
(not under /dev/shm, whose size is limited in containers), and vanish with the processes.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import pickle
import socket
import struct
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.training.batches import Layout

_ALIGNMENT = 64
_HEADER = struct.Struct("!BQ")
_COMMAND = struct.Struct("!BQ")


class Kind(IntEnum):
    """Messages of a worker."""

    NOTE = 0  # the block of memory with the worker's note; its descriptor comes along
    BLOCK = 1  # a new block of memory for batches; its descriptor comes along
    BATCH = 2
    ERROR = 3


class Command(IntEnum):
    """Messages to a worker."""

    MAKE = 0  # the batch of this step
    FREE = 1  # the block of this number is not used any more


class Closed(Exception):
    """The other end is gone."""


class Channel:
    """One end of the socket between the training and a worker; both ends use it for their own direction.

    Args:
        end: The socket, blocking.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, kind: Kind, content: Any, descriptor: int | None = None) -> None:
        """Send a message, with a file descriptor if there is one.

        Raises:
            Closed: If the other end is gone.
        """
        payload = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
        message = memoryview(_HEADER.pack(kind, len(payload)) + payload)
        try:
            if descriptor is not None:
                message = message[socket.send_fds(self.socket, [message], [descriptor]) :]
            self.socket.sendall(message)
        except OSError as error:
            raise Closed from error

    def receive(self) -> tuple[Kind, Any, int | None]:
        """The next message; waits for it.

        Raises:
            Closed: If the other end is gone.
        """
        try:
            # Without a message boundary in between, a descriptor arrives with the first byte it was sent with
            header, descriptors, _, _ = socket.recv_fds(self.socket, _HEADER.size, 1)
            header += self._exactly(_HEADER.size - len(header)) if header else b""
            if not header:
                raise Closed
            kind, size = _HEADER.unpack(header)
            return Kind(kind), pickle.loads(self._exactly(size)), descriptors[0] if descriptors else None
        except OSError as error:
            raise Closed from error

    def command(self, command: Command, number: int) -> None:
        """Send a command; a worker that is gone is not told."""
        with contextlib.suppress(OSError):
            self.socket.sendall(_COMMAND.pack(command, number))

    def next_command(self) -> tuple[Command, int]:
        """The next command; waits for it.

        Raises:
            Closed: If the other end is gone.
        """
        try:
            command, number = _COMMAND.unpack(self._exactly(_COMMAND.size))
        except OSError as error:
            raise Closed from error
        return Command(command), number

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self.socket.recv(size)
            if not part:
                raise Closed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Note:
    """What a worker is doing, in memory that outlives it: what is known if it is killed.

    Args:
        memory: Shared memory of :attr:`size` bytes.
    """

    size = 1024
    _head = struct.Struct("!QH")

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @classmethod
    def create(cls, channel: Channel) -> Note:
        """Make a note in the worker and show it to the training."""
        with _anonymous_file() as descriptor:
            os.ftruncate(descriptor, cls.size)
            channel.send(Kind.NOTE, None, descriptor)
            return cls(mmap.mmap(descriptor, cls.size))

    @classmethod
    def open(cls, descriptor: int) -> Note:
        """Open the note of a worker; the descriptor is used up."""
        try:
            return cls(mmap.mmap(descriptor, cls.size))
        finally:
            os.close(descriptor)

    def write(self, step: int, case: str) -> None:
        """Note that work on a case begins."""
        text = case.encode()[: self.size - self._head.size]
        self._memory[: self._head.size + len(text)] = self._head.pack(step, len(text)) + text

    def read(self) -> tuple[int, str] | None:
        """(step, case), or ``None`` before the first one."""
        step, length = self._head.unpack(self._memory[: self._head.size])
        text = self._memory[self._head.size : self._head.size + length].decode(errors="replace")
        return (step, text) if text else None


class WorkerBlocks:
    """The worker's side of the shared memory.

    Args:
        channel: Where new blocks are announced.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._blocks: list[mmap.mmap] = []
        self._free: list[int] = []
        self.current = -1

    def free(self, number: int) -> None:
        """A block can be used again."""
        self._free.append(number)

    def allocate(self, layout: Layout) -> list[Tensor]:
        """The tensors of a batch in a free block, or in a new one."""
        size = block_size(layout)
        fitting = [n for n in self._free if len(self._blocks[n]) >= size]
        if fitting:
            self._free.remove(fitting[0])
            self.current = fitting[0]
        else:
            self.current = self._new(size)
        return tensors_in(self._blocks[self.current], layout)

    def _new(self, size: int) -> int:
        with _anonymous_file() as descriptor:
            os.ftruncate(descriptor, size)
            self._blocks.append(mmap.mmap(descriptor, size))
            number = len(self._blocks) - 1
            self._channel.send(Kind.BLOCK, number, descriptor)
        return number


class TrainingBlocks:
    """The training's side of one worker's shared memory.

    Args:
        channel: Where the worker is told which blocks are free again.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._blocks: dict[int, mmap.mmap] = {}

    def add(self, number: int, descriptor: int) -> None:
        """Map a new block."""
        try:
            self._blocks[number] = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def tensors(self, number: int, layout: Layout) -> list[Tensor]:
        """The tensors of a batch; when the last of them is gone, the worker gets the block back."""
        return tensors_in(self._blocks[number], layout, _giver_back(self._channel, number, os.getpid()))


def _giver_back(channel: Channel, number: int, owner: int) -> Callable[[], None]:
    def give_back() -> None:
        if os.getpid() == owner:  # not in a process that was forked while the batch was in use
            channel.command(Command.FREE, number)

    return give_back


def block_size(layout: Layout) -> int:
    """Bytes that the tensors of a batch take in a block."""
    return max(_ALIGNMENT, sum(_aligned(shape, dtype) for shape, dtype in layout))


def tensors_in(block: mmap.mmap, layout: Layout, when_gone: Callable[[], None] | None = None) -> list[Tensor]:
    """Tensors that lie in a block of memory.

    Args:
        block: The memory.
        layout: Shapes and types.
        when_gone: Called once none of the tensors exists any more.
    """
    memory = np.frombuffer(block, np.uint8)
    if when_gone is not None:
        weakref.finalize(memory, when_gone).atexit = False
    whole = torch.from_numpy(memory)
    tensors, start = [], 0
    for shape, dtype in layout:
        size = math.prod(shape) * dtype.itemsize
        tensors.append(whole[start : start + size].view(dtype).view(shape))
        start += _aligned(shape, dtype)
    return tensors


def _aligned(shape: Sequence[int], dtype: torch.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


@contextlib.contextmanager
def _anonymous_file() -> Iterator[int]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("nnunet_pt-batch")
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:  # not on macOS
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
