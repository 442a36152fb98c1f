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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from nnunet_pt.cli._facts import facts_of
from nnunet_pt.core.console import (
    duration,
    event,
    get_logger,
    output_error,
    python_warnings_shown,
    setup_console,
    show_error,
)
from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.json_log import JsonLog
from nnunet_pt.core.settings import process_number
from nnunet_pt.core.wording import counted

if TYPE_CHECKING:
    from nnunet_pt.core.colours import Style
    from nnunet_pt.core.workers import CaseFailure

EXIT_SOME_FAILED = 3
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
RUN_AGAIN = "Run the same command again to continue."


class Result(Protocol):
    """What a command's function gives back; if it works on cases, it also has ``failures``."""

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
        results: Names and figures for programs, one mapping for each dataset.
    """

    summaries: tuple[str, ...]
    failures: tuple[str, ...] = ()
    failure_status: int = 1
    failure_remedy: str = "correct these cases and run the same command again; finished cases are not done again"
    results: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, results: Iterable[Result]) -> Outcome:
        """Collect the results of several datasets."""
        done = tuple(results)
        failed: list[CaseFailure] = [failure for result in done for failure in getattr(result, "failures", ())]
        return cls(
            summaries=tuple(result.summary() for result in done),
            failures=tuple(failure.case for failure in failed),
            results=tuple(facts_of(result) for result in done),
        )

    def __add__(self, other: Outcome) -> Outcome:
        """What two steps did."""
        return replace(
            self,
            summaries=self.summaries + other.summaries,
            failures=self.failures + other.failures,
            results=self.results + other.results,
        )


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
    words = sys.argv[1:] if argv is None else list(argv)
    with contextlib.ExitStack() as stack:
        stack.callback(setup_console)
        log = stack.enter_context(JsonLog(process_number())) if "--json_log" in words else None
        setup_console(json_log=log)  # for messages about wrong arguments
        args, unknown = parser.parse_known_args(words) if ignore_unknown else (parser.parse_args(words), [])
        if args.json_log and log is None:  # the option was abbreviated
            log = stack.enter_context(JsonLog(process_number()))
        setup_console(verbose=args.verbose, json_log=log)
        stack.enter_context(python_warnings_shown())
        logging.raiseExceptions = False  # if nobody reads our messages any more, the work is still finished
        if log is not None:
            log.write("start", f"{parser.prog} {' '.join(words)}".strip(), data=_start_data(parser, words))
        if unknown:
            get_logger().warning("%s", _ignored(parser, unknown))
        return _run_parsed(command, args, to_continue)


def _run_parsed(command: Callable[[Namespace], Outcome], args: Namespace, to_continue: str) -> int:
    try:
        with _sigterm_raises():
            _execute(command, args)
        lost = _flush_output()
        if lost is not None and not isinstance(lost, BrokenPipeError):
            raise output_error(lost)
    except BrokenPipeError:  # what the command itself printed could not be read to its end
        _flush_output()
        return EXIT_BROKEN_PIPE
    except NnunetError as error:
        return _report(error, error.exit_status, args.verbose)
    except KeyboardInterrupt:
        return _report(NnunetError(f"Stopped. {to_continue}"), EXIT_INTERRUPTED, args.verbose, stopped=True)
    except _Terminated:
        return _report(NnunetError(f"Terminated. {to_continue}"), EXIT_TERMINATED, args.verbose, stopped=True)
    except Exception as error:
        remedy = None if args.verbose else "run it again with --verbose and report what it prints"
        bug = NnunetError(f"This is a bug in nnunet_pt: {type(error).__name__}: {error}", remedy=remedy)
        return _report(bug, EXIT_BUG, args.verbose)
    return 0


def _execute(command: Callable[[Namespace], Outcome], args: Namespace) -> None:
    start = time.monotonic()
    outcome = command(args)
    verb = "Ended after" if outcome.failures else "Done in"
    separator = " " if len(outcome.summaries) == 1 and "\n" not in outcome.summaries[0] else "\n"
    seconds = time.monotonic() - start
    text = f"{verb} {_took(seconds)}" + f":{separator}" * bool(outcome.summaries) + "\n".join(outcome.summaries)
    if outcome.summaries or args.json_log:  # there are none if a process only helped, or showed what was asked for
        data = {"seconds": round(seconds, 3), "summaries": outcome.summaries, "results": outcome.results}
        data["failures"] = tuple(dict.fromkeys(outcome.failures))
        style: Style = "warning" if outcome.failures else "ok"
        get_logger().info("%s", text, extra=event("result", data, style=style))
    if outcome.failures:
        error = NnunetError(
            f"{counted(len(set(outcome.failures)), 'case')} failed: {', '.join(dict.fromkeys(outcome.failures))}. "
            "The others are finished.",
            remedy=outcome.failure_remedy,
        )
        error.exit_status = outcome.failure_status
        raise error


def _start_data(parser: ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        return {"command": parser.prog, "arguments": list(words), "version": version("nnunet-pt")}
    return {"command": parser.prog, "arguments": list(words), "version": None}


def _flush_output() -> OSError | None:
    """Hand over what was printed; what cannot be handed over is let go."""
    if sys.stdout is None:  # closed before this process began
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more on exit; it would complain, and change the exit status
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _report(error: NnunetError, status: int, verbose: bool, *, stopped: bool = False) -> int:
    _flush_output()
    trace = None
    if verbose:
        import traceback

        trace = traceback.format_exc()
    show_error(error, exit_status=status, stopped=stopped, trace=trace)
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
