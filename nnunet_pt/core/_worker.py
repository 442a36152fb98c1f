"""The other end of :class:`nnunet_pt.core.local_executor.LocalExecutor`: what runs inside a worker process.

A fresh interpreter calls :func:`main`, which answers requests until its channel is closed. Messages both ways are
pickles preceded by their length.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from nnunet_pt.core import console
from nnunet_pt.core.errors import NnunetError

LENGTH = struct.Struct("!Q")
RESULT, ERROR = b"R", b"E"
WATCH_INTERVAL_S = 0.5
CLEAN_UP_S = 3.0
_is_importing = False  # what the function of a request needs


class _Terminated(BaseException):
    """SIGTERM arrived: unwind, so that unfinished files are removed."""


def main(channel_fd: int, report_fd: int, parent: int, messages: tuple[bool, int | None] | None = None) -> None:
    """Answer requests until the parent closes the channel or disappears.

    Args:
        channel_fd: Socket to the parent.
        report_fd: File for notes about where this process is, read by the parent if it is killed.
        parent: Process id of the parent.
        messages: How messages are shown, see :class:`nnunet_pt.core.console.Manner`; None if nobody has said so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    signal.signal(signal.SIGTERM, _on_terminate)
    if messages is not None:
        console.setup_helper(console.Manner(*messages))
    for fd in (channel_fd, report_fd):
        os.set_inheritable(fd, False)
    with contextlib.suppress(OSError):  # if memory runs out, the kernel shall take a worker and not the parent
        Path("/proc/self/oom_score_adj").write_text("500")
    faulthandler.enable(report_fd, all_threads=False)
    watcher = _Watcher(report_fd, parent)
    status = 0
    try:
        watcher.start()
        try:
            with socket.socket(fileno=channel_fd) as channel:
                _serve(channel, watcher)
        except OSError:  # the parent is gone
            status = 1
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes together with the closing of the channel
    except _Terminated:
        _die_of_sigterm()
    _leave(status)


def _serve(channel: socket.socket, watcher: _Watcher) -> None:
    while True:
        header = _receive(channel, LENGTH.size)
        if header is None:
            return
        request = _receive(channel, LENGTH.unpack(header)[0])
        if request is None:
            return
        with watcher:
            kind, answer = answer_to(request)
        channel.sendall(LENGTH.pack(len(answer) + 1) + kind)
        channel.sendall(answer)


def _receive(channel: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return buffer


def answer_to(request: bytearray) -> tuple[bytes, bytes]:
    """Run one request; the answer is its kind and a pickled result, or a description of the exception."""
    try:
        function, argument = pickle.loads(request)
        function = _resolved(function)
        request.clear()
        return RESULT, pickle.dumps(function(pickle.loads(argument)), protocol=pickle.HIGHEST_PROTOCOL)
    except _Terminated:
        raise
    except BaseException as error:  # a SystemExit of the task must not end the worker without a word
        return ERROR, _describe(error)


def _resolved(function: bytes) -> Any:
    """Unpickle the function of a request, which imports its module and so perhaps large packages."""
    global _is_importing
    _is_importing = True
    try:
        return pickle.loads(function)
    finally:
        _is_importing = False


def _describe(error: BaseException) -> bytes:
    """Pickle an exception as (exception or None, "Type: message", traceback).

    Only exceptions whose class the parent has anyway travel as objects; others could fail to unpickle or import
    a heavy package there.
    """
    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        trace = trace.tb_next  # without this module's own frame
    text = "".join(traceback.format_exception(type(error), error, trace))
    summary = "".join(traceback.format_exception_only(type(error), error)).strip()
    exception: bytes | None = None
    if isinstance(error, MemoryError):  # numpy raises a class of its own
        exception = pickle.dumps(MemoryError(str(error)))
    elif isinstance(error, NnunetError) or (isinstance(error, Exception) and type(error).__module__ == "builtins"):
        with contextlib.suppress(Exception):
            exception = pickle.dumps(error)
    return pickle.dumps((exception, summary, text))


class _Watcher:
    """Notes twice a second where the main thread is, and ends the process when its parent is gone.

    A process that is killed cannot say where it was; the last note can.
    """

    def __init__(self, report_fd: int, parent: int) -> None:
        self._report_fd = report_fd
        self._parent = parent
        self._main_thread = threading.get_ident()
        self._lock = threading.Lock()
        self._busy = False
        self._tick = threading.Event()

    def start(self) -> None:
        """Start watching."""
        threading.Thread(target=self._watch, name="nnunet_pt-watcher", daemon=True).start()

    def __enter__(self) -> None:
        with self._lock:
            self._busy = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._busy = False
            self._clear()

    def _watch(self) -> None:
        while True:
            self._tick.wait(WATCH_INTERVAL_S)
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
                self._tick.wait(CLEAN_UP_S)
                os._exit(1)
            with self._lock:
                if self._busy:
                    self._note()

    def _note(self) -> None:
        frame = sys._current_frames().get(self._main_thread)
        if frame is None:
            return
        note = f"{_resident_memory()}\n{''.join(_stack(frame))}".encode("utf-8", "replace")
        self._clear()
        with contextlib.suppress(OSError):  # no space left: then without notes
            os.write(self._report_fd, note)

    def _clear(self) -> None:
        os.ftruncate(self._report_fd, 0)
        os.lseek(self._report_fd, 0, os.SEEK_SET)


def _stack(frame: FrameType) -> list[str]:
    own = [f for f in traceback.extract_stack(frame) if f.filename not in (__file__, "<string>")]
    return traceback.format_list(own)


def _resident_memory() -> str:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return "memory: unknown"
    return f"memory: {pages * os.sysconf('SC_PAGE_SIZE') / 2**30:.2f} GB"


def _on_terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the cleaning up
    if _is_importing:  # nothing to clean up, and packages written in C++ abort with pages of text at an exception
        _die_of_sigterm()
    raise _Terminated


def _die_of_sigterm() -> NoReturn:
    _flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # let the parent see the real reason
    os.kill(os.getpid(), signal.SIGTERM)
    _leave(1)


def _leave(status: int) -> NoReturn:
    _flush()
    os._exit(status)  # at once: tearing down large packages takes a while and can crash


def _flush() -> None:
    stream: Any
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
