"""What the user sees: messages, progress and tables.

Messages go to standard output, progress to standard error. Nothing is configured on import; programs that use the
package as a library configure :mod:`logging` themselves.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

ROOT_LOGGER = "nnunet_pt"
PLAIN_INTERVAL_S = 30.0
_bars: list[tqdm[Any]] = []  # on the screen at the moment; messages have to be printed above them
_PREFIXES = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}


def get_logger(name: str = ROOT_LOGGER) -> logging.Logger:
    """The logger for messages to the user.

    Args:
        name: A name below ``nnunet_pt``, usually the module's ``__name__``.
    """
    return logging.getLogger(name)


def setup_console(*, verbose: bool = False) -> None:
    """Send the messages of this package to standard output. Called once by each command.

    Args:
        verbose: Show debugging messages, too.
    """
    logger = get_logger()
    for handler in [h for h in logger.handlers if isinstance(h, _ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_ConsoleHandler())
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


class _ConsoleHandler(logging.Handler):
    """Prints to the standard output of the moment, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _PREFIXES.get(record.levelno, "") + self.format(record)
            if _bars:
                _bars[-1].write(text, file=sys.stdout)
            else:
                print(text, file=sys.stdout, flush=True)
        except Exception:
            self.handleError(record)


class Progress:
    """Shows how far a piece of work is, with rate and estimated time to the end.

    On a terminal this is a bar; elsewhere a plain line at most every 30 s and one at the end.

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
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        self._started = self._printed = time.monotonic()
        if self._enabled and _is_terminal():
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
        elif self._enabled and self._leave:
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
        elif self._enabled and not self._ended and time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        elapsed = max(self._printed - self._started, 1e-9)
        rate = self._done / elapsed
        parts = [f"{self._description}: {self._done}/{self._total}", _rate_text(rate, self._unit)]
        if self._ended:
            parts.append(f"took {duration(elapsed)}")
        else:
            parts.append(f"ETA {duration((self._total - self._done) / rate) if rate > 0 else '?'}")
        print(", ".join([*parts, self._note] if self._note else parts), file=sys.stderr, flush=True)


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
