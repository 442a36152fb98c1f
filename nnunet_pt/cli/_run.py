"""How every command runs: parse, execute, say what was written, turn any failure into a message and an exit status.

Exit statuses: 0 done, 1 a problem with the data or the machine, 2 wrong arguments, 3 some images could not be
predicted (the others are), 70 a bug of ours, 130 stopped by Ctrl-C, 141 the reader of our output went away,
143 terminated (SIGTERM, for example by SLURM).
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from nnunet_pt.core.console import duration, get_logger, setup_console
from nnunet_pt.core.errors import NnunetError

if TYPE_CHECKING:
    from nnunet_pt.core.workers import CaseFailure

EXIT_SOME_FAILED = 3
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
RUN_AGAIN = "Run the same command again to continue."


class CaseResult(Protocol):
    """What a stage that works on cases gives back."""

    @property
    def failures(self) -> Sequence[CaseFailure]:
        """Cases that could not be done."""

    def summary(self) -> str:
        """What was written and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command did.

    Attributes:
        summaries: What was written and where, one text for each dataset.
        failures: Cases that failed while the others were finished; the summaries say why.
        failure_status: Exit status if there are any.
        failure_remedy: What to do then.
    """

    summaries: tuple[str, ...]
    failures: tuple[str, ...] = ()
    failure_status: int = 1
    failure_remedy: str = "correct these cases and run the same command again; finished cases are not done again"

    @classmethod
    def of(cls, results: Iterable[CaseResult]) -> Outcome:
        """Collect the results of several datasets."""
        done = tuple(results)
        failures = tuple(failure.case for result in done for failure in result.failures)
        return cls(summaries=tuple(result.summary() for result in done), failures=failures)

    def __add__(self, other: Outcome) -> Outcome:
        """What two steps did."""
        return replace(self, summaries=self.summaries + other.summaries, failures=self.failures + other.failures)


class _Terminated(BaseException):
    """SIGTERM arrived."""


def run(
    parser: ArgumentParser,
    command: Callable[[Namespace], Outcome],
    argv: Sequence[str] | None = None,
    *,
    ignore_unknown: bool = False,
    to_continue: str = RUN_AGAIN,
) -> int:
    """Run one command from its arguments to its exit status.

    Args:
        parser: The command's parser; it has ``--verbose``.
        command: Does the work.
        argv: Arguments; those of this process by default.
        ignore_unknown: Name unknown arguments and go on, as nnU-Net does for some commands.
        to_continue: What to do after an interruption.

    Returns:
        The exit status.
    """
    if ignore_unknown:
        args, unknown = parser.parse_known_args(argv)
    else:
        args, unknown = parser.parse_args(argv), []
    try:
        setup_console(verbose=args.verbose)
        logging.raiseExceptions = False  # if nobody reads our messages any more, the work is still finished
        if unknown:
            get_logger().warning(_ignored(parser, unknown))
        with _sigterm_raises():
            _execute(command, args)
        _flush_output()
    except BrokenPipeError:  # what the command itself printed could not be read to its end
        _flush_output()
        return EXIT_BROKEN_PIPE
    except NnunetError as error:
        return _report(f"Error: {error}", error.exit_status, args.verbose)
    except KeyboardInterrupt:
        return _report(f"Stopped. {to_continue}", EXIT_INTERRUPTED, args.verbose)
    except _Terminated:
        return _report(f"Terminated. {to_continue}", EXIT_TERMINATED, args.verbose)
    except Exception as error:
        hint = "" if args.verbose else "\n  Run it again with --verbose and report what it prints."
        return _report(f"This is a bug in nnunet_pt: {type(error).__name__}: {error}{hint}", EXIT_BUG, args.verbose)
    return 0


def _execute(command: Callable[[Namespace], Outcome], args: Namespace) -> None:
    start = time.monotonic()
    outcome = command(args)
    verb = "Ended after" if outcome.failures else "Done in"
    separator = " " if len(outcome.summaries) == 1 and "\n" not in outcome.summaries[0] else "\n"
    took = _took(time.monotonic() - start)
    if outcome.summaries:  # a process that only helped has none
        get_logger().info(f"{verb} {took}:{separator}" + "\n".join(outcome.summaries))
    if outcome.failures:
        error = NnunetError(
            f"{len(set(outcome.failures))} case(s) failed: {', '.join(dict.fromkeys(outcome.failures))}. "
            "The others are finished.",
            remedy=outcome.failure_remedy,
        )
        error.exit_status = outcome.failure_status
        raise error


def _flush_output() -> None:
    """Hand over what was printed; if nobody reads it any more, let it go."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on exit; without a pipe it would complain about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(message: str, status: int, verbose: bool) -> int:
    _flush_output()
    if verbose:
        import traceback

        traceback.print_exc()
    print(message, file=sys.stderr)
    return status


def _ignored(parser: ArgumentParser, unknown: Sequence[str]) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    similar = [
        match for word in unknown if word.startswith("-") for match in difflib.get_close_matches(word, known, 1, 0.8)
    ]
    hint = f" (did you mean {' '.join(similar)}?)" if similar else ""
    return f"Ignored, because this command does not know it: {' '.join(unknown)}{hint}"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that workers are stopped and temporary files are removed."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
