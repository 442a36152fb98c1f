"""What the user sees: messages, errors, progress and tables.

Messages go to standard output, errors that end a command and progress to standard error; with a :class:`JsonLog`
everything becomes one JSON object in each line of standard output. Nothing is configured on import; programs that use
the package as a library configure :mod:`logging` themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from nnunet_pt.core import colours
from nnunet_pt.core.errors import NnunetError, StorageError
from nnunet_pt.core.json_log import JsonLog, error_data

if TYPE_CHECKING:
    from tqdm import tqdm

    from nnunet_pt.core.colours import Style

ROOT_LOGGER = "nnunet_pt"
PLAIN_INTERVAL_S = 30.0
JSON_INTERVAL_S = 1.0
_bars: list[tqdm[Any]] = []  # on the screen at the moment; messages have to be printed above them
_json_log: JsonLog | None = None
_LEVELS: dict[int, tuple[str, Style]] = {
    logging.WARNING: ("Warning: ", "warning"),
    logging.ERROR: ("Error: ", "error"),
    logging.CRITICAL: ("Error: ", "error"),
}


def get_logger(name: str = ROOT_LOGGER) -> logging.Logger:
    """The logger for messages to the user.

    Args:
        name: A name below ``nnunet_pt``, usually the module's ``__name__``.
    """
    return logging.getLogger(name)


def event(kind: str, data: Mapping[str, Any] | None = None, *, style: Style | None = None) -> dict[str, Any]:
    """What a program shall know of a message, for ``extra`` of the logger's functions.

    Args:
        kind: What kind of event it is in the JSON log.
        data: Figures and names.
        style: How the beginning of the message, up to its first colon, looks on a terminal.
    """
    return {"event": kind, "style": style, "data": data}


def setup_console(*, verbose: bool = False, json_log: JsonLog | None = None) -> None:
    """Send the messages of this package to standard output. Called once by each command.

    Args:
        verbose: Show debugging messages, too.
        json_log: Write everything there instead, for programs.
    """
    global _json_log
    _json_log = json_log
    logger = get_logger()
    for handler in [h for h in logger.handlers if isinstance(h, _ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_ConsoleHandler())
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


@dataclass(frozen=True, slots=True)
class Manner:
    """How messages are shown, for processes that are started to help.

    Attributes:
        verbose: Debugging messages are shown, too.
        json_fd: File descriptor of the JSON log; None without one.
    """

    verbose: bool
    json_fd: int | None


def manner() -> Manner | None:
    """How messages are shown; None if no command has set that up."""
    if not any(isinstance(h, _ConsoleHandler) for h in get_logger().handlers):
        return None
    return Manner(get_logger().level == logging.DEBUG, None if _json_log is None else _json_log.fd)


def setup_helper(like: Manner) -> None:
    """Show the messages of a worker process as the main process does, for the whole life of the worker."""
    setup_console(verbose=like.verbose, json_log=None if like.json_fd is None else JsonLog.of_worker(like.json_fd))
    warnings.showwarning = _show_warning


def options_of_helpers() -> list[str]:
    """Options with which a command that helps this one shows its messages in the same manner."""
    shown = manner()
    return ["--verbose"] * (shown is not None and shown.verbose) + ["--json_log"] * (_json_log is not None)


def standard_output_of_helpers() -> contextlib.AbstractContextManager[None]:
    """Within this block commands that are started write to the same place as this one."""
    return contextlib.nullcontext() if _json_log is None else _json_log.lent()


def show(text: str, data: Mapping[str, Any] | None = None) -> None:
    """Print what the command was asked for, such as a report or a script; nothing is added to it.

    Args:
        text: What to print.
        data: The same for programs.

    Raises:
        StorageError: If the file that standard output goes to cannot be written.
    """
    if _json_log is not None:
        _json_log.write("output", text, data=data)
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:  # nobody wants to read more
        raise
    except OSError as error:
        raise output_error(error) from error


def output_error(error: OSError) -> StorageError:
    """What is said if the file that standard output goes to cannot be written."""
    return StorageError(
        "The output cannot be written.",
        found=error.strerror or str(error),
        remedy="free some space, or let standard output go to another place",
    )


def announce(text: str) -> None:
    """Say something from within a signal handler, where print and loggers could be interrupted by themselves."""
    if _json_log is not None:
        _json_log.write("message", text)
        return
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def show_error(error: NnunetError, *, exit_status: int, stopped: bool = False, trace: str | None = None) -> None:
    """Say why a command ends, on standard error.

    Args:
        error: Why.
        exit_status: The command's exit status.
        stopped: It is not an error, but what somebody wanted.
        trace: The traceback, to be shown first.
    """
    if _json_log is not None:
        data = {**error_data(error), "exit_status": exit_status, "traceback": trace}
        _json_log.write("error", error.text(), level="warning" if stopped else "error", data=data)
        return
    if trace:
        print(trace, end="", file=sys.stderr)
    level = logging.INFO if stopped else logging.ERROR
    print(_text(level, error.text(), sys.stderr, "warning" if stopped else None), file=sys.stderr)


@contextlib.contextmanager
def python_warnings_shown() -> Iterator[None]:
    """Within this block warnings of Python, such as those of other packages, look like ours."""
    before = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = before


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    get_logger().warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _text(level: int, message: str, stream: TextIO, style: Style | None = None) -> str:
    """A message as people see it on a stream."""
    prefix, usual = _LEVELS.get(level, ("", None))
    style = usual or style
    text = prefix + message
    return colours.styled_lead(text, style) if style is not None and colours.are_wanted(stream) else text


class _ConsoleHandler(logging.Handler):
    """Prints to the standard output of the moment, above a progress bar if there is one; or writes JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if _json_log is not None:
                kind, data = getattr(record, "event", "message"), getattr(record, "data", None) or _error_data(record)
                _json_log.write(kind, self.format(record), level=record.levelname.lower(), data=data)
                return
            text = _text(record.levelno, self.format(record), sys.stdout, getattr(record, "style", None))
            if _bars:
                _bars[-1].write(text, file=sys.stdout)
            else:
                print(text, file=sys.stdout, flush=True)
        except Exception:
            self.handleError(record)


def _error_data(record: logging.LogRecord) -> Mapping[str, Any]:
    """The parts of the error that a message is about."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    raised = record.exc_info[1] if record.exc_info else None
    error = next((a for a in (raised, *arguments) if isinstance(a, NnunetError)), None)
    return {} if error is None else error_data(error)


class Progress:
    """Shows how far a piece of work is, with rate and estimated time to the end.

    On a terminal this is a bar; elsewhere a plain line at most every 30 s and one at the end; in the JSON log an event
    at most every second and one at the end.

    Args:
        total: Number of items.
        description: What is being done.
        unit: What the items are.
        disable: Show nothing.
        leave: Keep the bar on the screen at the end, or print the last plain line.
    """

    def __init__(
        self, total: int, description: str, unit: str = "case", *, disable: bool = False, leave: bool = True
    ) -> None:
        self._total = total
        self._description = description
        self._unit = unit
        self._enabled = not disable and total > 0
        self._leave = leave
        self._bar: tqdm[Any] | None = None
        self._done = 0
        self._note = ""
        self._ended = False
        self._interval_s = PLAIN_INTERVAL_S if _json_log is None else JSON_INTERVAL_S
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        self._started = self._printed = time.monotonic()
        if self._enabled and _json_log is None and _is_terminal():
            from tqdm import tqdm  # here, because it costs 40 ms

            self._bar = tqdm(
                total=self._total,
                desc=self._description,
                unit=self._unit,
                file=sys.stderr,
                dynamic_ncols=True,
                leave=self._leave,
            )
            _bars.append(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._bar is not None:
            _bars.remove(self._bar)
            self._bar.close()
            self._bar = None
        elif self._enabled and (self._leave or _json_log is not None):
            self._print()

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more items as done."""
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
        else:
            self.refresh()

    def note(self, text: str) -> None:
        """Show a text behind the bar until the next note."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def refresh(self) -> None:
        """Bring the display up to date although nothing was finished; call it about once a second."""
        if self._bar is not None:
            self._bar.refresh()
        elif self._enabled and not self._ended and time.monotonic() - self._printed >= self._interval_s:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        elapsed = max(self._printed - self._started, 1e-9)
        rate = self._done / elapsed
        left = (self._total - self._done) / rate if rate > 0 else None
        parts = [f"{self._description}: {self._done}/{self._total}", _rate_text(rate, self._unit)]
        if self._ended:
            parts.append(f"took {duration(elapsed)}")
        else:
            parts.append(f"ETA {'?' if left is None else duration(left)}")
        text = ", ".join([*parts, self._note] if self._note else parts)
        if _json_log is None:
            print(text, file=sys.stderr, flush=True)
            return
        data = {"description": self._description, "done": self._done, "total": self._total, "unit": self._unit}
        times = {"seconds": round(elapsed, 3), "seconds_left": None if self._ended or left is None else round(left, 3)}
        _json_log.write("progress", text, data={**data, **times, "ended": self._ended, "note": self._note or None})


def duration(seconds: float) -> str:
    """A time span as ``m:ss`` or ``h:mm:ss``.

    Args:
        seconds: The span.
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _rate_text(rate: float, unit: str) -> str:
    if rate >= 1 or rate == 0:
        return f"{rate:.2f} {unit}/s"
    return f"{1 / rate:.2f} s/{unit}"


def _is_terminal() -> bool:
    """Whether a bar can be drawn: on a terminal with a size, which those of some containers and launchers lack."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # not a real file
        return True


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Rows as aligned columns with a ruled header.

    Args:
        rows: The cells; rows may be shorter than the header.
        header: The column titles.
    """
    cells = [[str(c) for c in row] + [""] * (len(header) - len(row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)
