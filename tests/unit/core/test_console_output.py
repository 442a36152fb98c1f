"""Messages, progress and tables as the user sees them."""

from __future__ import annotations

import fcntl
import io
import os
import re
import select
import struct
import sys
import termios
from collections.abc import Iterator

import pytest

from nnunet_pt.core import console
from nnunet_pt.core.console import Progress, duration, get_logger, setup_console, table


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


@pytest.fixture
def configured() -> Iterator[None]:
    logger = get_logger()
    before = (list(logger.handlers), logger.level)
    yield
    logger.handlers[:], level = before
    logger.setLevel(level)


@pytest.mark.usefixtures("configured")
def test_messages_are_plain_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    setup_console()
    setup_console()  # a second time does not double the messages
    log = get_logger("nnunet_pt.somewhere")
    log.debug("hidden")
    log.info("plain %d", 1)
    log.warning("careful")
    log.error("wrong")
    captured = capsys.readouterr()
    assert captured.out == "plain 1\nWarning: careful\nError: wrong\n"
    assert captured.err == ""


@pytest.mark.usefixtures("configured")
def test_verbose_shows_more(capsys: pytest.CaptureFixture[str]) -> None:
    setup_console(verbose=True)
    get_logger().debug("detail")
    setup_console()
    get_logger().debug("hidden again")
    assert capsys.readouterr().out == "detail\n"


def test_progress_without_terminal_prints_seldom(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "Working", unit="scan") as bar:
        for _ in range(50):
            clock.now += 1
            bar.advance()
        bar.note("2 failed")
        for _ in range(31):
            clock.now += 1
            bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Working: 30/100, 1.00 scan/s, ETA 1:10",
        "Working: 50/100, 1.20 s/scan, ETA 1:00, 2 failed",
        "Working: 50/100, 1.62 s/scan, took 1:21, 2 failed",
    ]


@pytest.mark.usefixtures("clock")
def test_progress_may_leave_nothing_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress(2, "Working", leave=False) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(2, "Working", leave=False) as bar:
        bar.advance()
    assert "Working" in screen.getvalue()
    assert screen.getvalue().rstrip("\r").split("\r")[-1].strip() == ""


def test_progress_without_anything_done_knows_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "Working") as bar:
        clock.now += 31
        bar.refresh()
        assert capsys.readouterr().err == "Working: 0/3, 0.00 case/s, ETA ?\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(4, "Working") as bar:
        for _ in range(4):
            bar.advance()
        bar.note("1 failed")
        bar.refresh()
    last = screen.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("Working: 100%")
    assert "4/4" in last
    assert "case/s" in last or "s/case" in last
    assert "1 failed" in last


@pytest.mark.usefixtures("configured")
def test_messages_are_printed_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_console()
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(4, "Working") as bar:
        bar.advance()
        drawn = len(screen.getvalue())
        get_logger().info("in between")
    assert capsys.readouterr().out == "in between\n"
    assert re.match(r"\s*\r", screen.getvalue()[drawn:])  # the bar was wiped first
    get_logger().info("after")
    assert capsys.readouterr().out == "after\n"


@pytest.mark.parametrize(("columns", "drawn"), [(0, "Working: 1/1, "), (90, "Working: 100%|")])
def test_bar_needs_a_terminal_with_a_width(columns: int, drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as screen, os.fdopen(ours, "rb") as seen:
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress(1, "Working") as bar:
            bar.advance()
        screen.flush()
        text = ""
        while drawn not in text and select.select([seen], [], [], 5.0)[0]:  # a terminal gives what is there so far
            text += os.read(seen.fileno(), 4096).decode()
        assert drawn in text


@pytest.mark.parametrize(("total", "disable"), [(5, True), (0, False)])
def test_disabled_or_empty_progress_is_silent(
    total: int, disable: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal in (False, True):
        monkeypatch.setattr(console, "_is_terminal", lambda answer=terminal: answer)
        with Progress(total, "Working", disable=disable) as bar:
            bar.advance()
            bar.note("x")
            bar.refresh()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_table_columns_are_aligned() -> None:
    assert table([["a", "10"], ["long name"]], ["case", "n"]) == "case       n\n---------  --\na          10\nlong name"


def test_table_without_rows_has_a_header() -> None:
    assert table([], ["case", "n"]) == "case  n\n----  -"
