"""Colours: on terminals only, and as the environment wants it."""

from __future__ import annotations

import io
import sys

import pytest

from nnunet_pt.core import colours
from nnunet_pt.core.console import get_logger, setup_console, show_error
from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.settings import ColourWishes

RED, YELLOW, GREEN, BOLD, END = "\033[1;31m", "\033[33m", "\033[32m", "\033[1m", "\033[0m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("environment", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_environment_decides_about_colours(
    environment: dict[str, str], on_terminal: bool, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = ColourWishes.from_environment(environment)
    assert (wishes.allow(terminal=True), wishes.allow(terminal=False)) == (on_terminal, elsewhere)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (colours.are_wanted(Terminal()), colours.are_wanted(io.StringIO())) == (on_terminal, elsewhere)


def test_closed_or_missing_streams_get_no_colours() -> None:
    closed = io.StringIO()
    closed.close()
    assert not colours.are_wanted(closed)
    assert not colours.are_wanted(None)


def test_only_the_beginning_of_a_message_is_coloured() -> None:
    assert colours.styled_lead("Error: a: b", "error") == f"{RED}Error:{END} a: b"
    assert colours.styled_lead("\nStep 1:  x", "heading") == f"\n{BOLD}Step 1:{END}  x"
    assert colours.styled_lead("All\nis well", "ok") == f"{GREEN}All{END}\nis well"


def test_headings_of_a_help_text_stand_out() -> None:
    text = "usage: x [options]\n\nWhat it does: all.\n\nhow it runs:\n  -a  for example:\n"
    assert colours.styled_headings(text) == text.replace("usage:", f"{BOLD}usage:{END}").replace(
        "how it runs:", f"{BOLD}how it runs:{END}"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_and_errors_are_coloured_on_a_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    logger = get_logger()
    before = (list(logger.handlers), logger.level)
    try:
        setup_console()
        logger.info("note: plain")
        logger.warning("careful")
        logger.error("wrong")
        show_error(NnunetError("Broken.", remedy="mend it"), exit_status=1)
        show_error(NnunetError("Stopped. Go on"), exit_status=130, stopped=True)
    finally:
        logger.handlers[:], level = before
        logger.setLevel(level)
    plain_out = "note: plain\nWarning: careful\nError: wrong\n"
    plain_err = "Error: Broken.\n  to do:    mend it\nStopped. Go on\n"
    if terminal:
        plain_out = plain_out.replace("Warning:", f"{YELLOW}Warning:{END}").replace("Error:", f"{RED}Error:{END}")
        plain_err = plain_err.replace("Error:", f"{RED}Error:{END}")
        plain_err = plain_err.replace("Stopped. Go on", f"{YELLOW}Stopped. Go on{END}")
    assert (out.getvalue(), err.getvalue()) == (plain_out, plain_err)
