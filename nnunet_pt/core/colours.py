"""A little colour for terminals; files, pipes and logs never get any."""

from __future__ import annotations

import re
from typing import Literal, TextIO

from nnunet_pt.core.settings import ColourWishes

Style = Literal["error", "warning", "ok", "heading"]

CODES: dict[Style, str] = {"error": "1;31", "warning": "33", "ok": "32", "heading": "1"}
_LEAD = re.compile(r"(\s*)([^:\n]+:?)")
_HEADING = re.compile(r"^[^\s:][^\n]*:$|^usage:", re.MULTILINE)


def are_wanted(stream: TextIO | None) -> bool:
    """Whether what is written to a stream may be coloured: on terminals, unless the environment says otherwise."""
    try:
        terminal = stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
    return ColourWishes.from_environment().allow(terminal=terminal)


def styled(text: str, style: Style) -> str:
    """The whole text in a style."""
    return f"\033[{CODES[style]}m{text}\033[0m"


def styled_lead(text: str, style: Style) -> str:
    """A message whose beginning, up to the first colon or the end of its line, is in a style."""
    return _LEAD.sub(lambda found: found[1] + styled(found[2], style), text, count=1)


def styled_headings(text: str) -> str:
    """A help text whose headings, the lines that begin at the margin and end with a colon, stand out."""
    return _HEADING.sub(lambda found: styled(found[0], "heading"), text)
