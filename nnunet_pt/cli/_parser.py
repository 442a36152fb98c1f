"""The parser of every command: how its help looks, and how it complains about wrong arguments."""

from __future__ import annotations

import shutil
import sys
import textwrap
from argparse import Action, ArgumentParser, RawDescriptionHelpFormatter, _ArgumentGroup
from typing import Any, NoReturn, cast

from nnunet_pt.core import colours
from nnunet_pt.core.console import show_error
from nnunet_pt.core.errors import UsageError

REQUIRED = "required"
SUBJECT = "what to work on"
METHOD = "how it is done"
WRITTEN = "what is written"
RUNNING = "how it runs"
OUTPUT = "messages and help"

# Groups of a command's own come in between
_FIRST = (REQUIRED, SUBJECT, METHOD)
_LAST = (WRITTEN, RUNNING, OUTPUT)
_MAX_WIDTH = 110


class _Formatter(RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_width())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class CommandParser(ArgumentParser):
    """A parser whose help has a short usage line and groups in an order that all commands share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.color = False  # argparse would colour words of its own choice from Python 3.14 on

    def format_help(self) -> str:
        """The help text, without colours."""
        self._action_groups.sort(key=_rank)
        before, self.usage = self.usage, self._short_usage()
        try:
            return super().format_help()
        finally:
            self.usage = before

    def format_usage(self) -> str:
        """What has to be given; everything else is an option."""
        return f"usage: {self._short_usage()}\n"

    def _short_usage(self) -> str:
        needed = [a for a in self._actions if not a.option_strings or a.required]
        words = " ".join([self.prog, *map(_usage_of, needed), "[options]"])
        return textwrap.fill(words, _width() - len("usage: "), subsequent_indent=" " * 11, break_on_hyphens=False)

    def print_help(self, file: Any = None) -> None:
        """Print the help; on a terminal its headings stand out."""
        stream = sys.stdout if file is None else file
        text = self.format_help()
        self._print_message(colours.styled_headings(text) if colours.are_wanted(stream) else text, stream)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in two lines instead of repeating the whole usage."""
        error = UsageError(message, remedy=f"{self.prog} --help lists all arguments")
        show_error(error, exit_status=error.exit_status)
        sys.exit(error.exit_status)


def make_parser(program: str, description: str, examples: str) -> CommandParser:
    """A parser with the help format that all commands share.

    Args:
        program: Name of the command.
        description: What it does.
        examples: Command lines, one in each line.
    """
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    parser = CommandParser(
        prog=program,
        description=textwrap.fill(description, _width(), break_on_hyphens=False),
        epilog=f"examples:\n{lines}",
        formatter_class=_Formatter,
        add_help=False,
    )
    group(parser, OUTPUT).add_argument("-h", "--help", action="help", help="show this text and end")
    return parser


def add_commands(parser: ArgumentParser, title: str, dest: str) -> Any:
    """Subcommands, one of which has to be given; ``add_parser`` of the result takes what :func:`make_parser` takes.

    Args:
        parser: The parser of the command.
        title: What they are.
        dest: Under which name the chosen one is found.
    """
    return parser.add_subparsers(
        title=title,
        dest=dest,
        metavar=title.removesuffix("s").upper(),
        required=True,
        prog=parser.prog,
        parser_class=cast("type[ArgumentParser]", _subcommand_parser),
    )


def _subcommand_parser(*, prog: str, description: str, examples: str, **_options: Any) -> CommandParser:
    return make_parser(prog, description, examples)


def group(parser: ArgumentParser, title: str, about: str | None = None) -> _ArgumentGroup:
    """The group of arguments with a title; it is made when it is asked for the first time.

    Args:
        parser: The parser.
        title: One of the titles that all commands share, or one of the command's own.
        about: A sentence on a group of the command's own.
    """
    for existing in parser._action_groups:
        if existing.title == title:
            return existing
    return parser.add_argument_group(title, about)


def _usage_of(action: Action) -> str:
    value = str(action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest))
    value = {"+": f"{value} [{value} ...]", "*": f"[{value} ...]", "?": f"[{value}]"}.get(str(action.nargs), value)
    return " ".join([*action.option_strings[:1], value])


def _rank(of: _ArgumentGroup) -> int:
    if of.title in _FIRST:
        return _FIRST.index(of.title)
    return len(_FIRST) + (1 + _LAST.index(of.title) if of.title in _LAST else 0)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _MAX_WIDTH) - 2
