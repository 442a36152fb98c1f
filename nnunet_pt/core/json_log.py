"""Messages for programs: one JSON object in each line of standard output, and nothing else there."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.files import plain_json

STDOUT_FD, STDERR_FD = 1, 2


class JsonLog:
    """Writes events to the standard output of this process; what anybody else prints goes to standard error.

    Use it as a context manager. Each line is written at once, so that lines of several processes do not mix.

    Args:
        process: Number of this process if it is one of several.
    """

    def __init__(self, process: int | None = None) -> None:
        self._process = process
        self._stream: TextIO = sys.stdout
        self._before: TextIO | None = None
        self.fd: int | None = None

    @classmethod
    def of_worker(cls, fd: int) -> JsonLog:
        """The log of a process that was started to help; it has the main process's standard output under a number."""
        log = cls()
        log.fd = fd
        return log

    def __enter__(self) -> JsonLog:
        self._before = self._stream = sys.stdout
        sys.stdout = sys.stderr
        with contextlib.suppress(OSError, ValueError):  # a stream without a file, as in tests and notebooks
            self._stream.flush()
            if self._stream.fileno() == STDOUT_FD:
                self.fd = os.dup(STDOUT_FD)
                os.dup2(STDERR_FD, STDOUT_FD)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            sys.stdout = self._before
        if self.fd is not None:
            os.dup2(self.fd, STDOUT_FD)
            os.close(self.fd)
            self.fd = None

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within this block processes that are started have the true standard output; they write such lines, too."""
        if self.fd is None:
            yield
            return
        os.dup2(self.fd, STDOUT_FD)
        try:
            yield
        finally:
            os.dup2(STDERR_FD, STDOUT_FD)

    def write(self, event: str, message: str, *, level: str = "info", data: Mapping[str, Any] | None = None) -> None:
        """Write one event. If nobody reads any more, it is lost; the work goes on.

        Args:
            event: What kind of event.
            message: What a person would read.
            level: "debug", "info", "warning" or "error".
            data: Figures and names; what JSON does not know becomes text, what is not finite null.
        """
        now = datetime.datetime.now(datetime.timezone.utc)
        entry: dict[str, Any] = {"time": now.isoformat(timespec="milliseconds"), "level": level, "event": event}
        if self._process is not None:
            entry["process"] = self._process
        entry |= {"message": message, "data": finite(plain_json(dict(data or {})))}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=str) + "\n"
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            if self.fd is None:
                self._stream.write(line)
                self._stream.flush()
            else:
                _write_all(self.fd, line.encode("utf-8", "replace"))


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def finite(value: Any) -> Any:
    """A JSON value with null instead of the numbers that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list) else value


def error_data(error: NnunetError) -> dict[str, Any]:
    """The parts of an error: its kind, what is wrong, what was found and expected, and what to do."""
    return {
        "type": type(error).__name__,
        "problem": error.problem,
        "found": None if error.found is None else str(error.found),
        "expected": None if error.expected is None else str(error.expected),
        "remedy": error.remedy,
    }
