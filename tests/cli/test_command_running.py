"""Messages and exit statuses: what went wrong, where and what to do; a traceback only when asked for."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.errors import DatasetError, NnunetError, UsageError


def parser() -> argparse.ArgumentParser:
    made = arguments.make_parser("nnUNetv2_test", "Tests.", "nnUNetv2_test -d 4")
    arguments.add_datasets(made)
    arguments.add_output(made)
    return made


def failing(error: BaseException) -> Callable[[argparse.Namespace], Outcome]:
    def command(_args: argparse.Namespace) -> Outcome:
        raise error

    return command


def fine(_args: argparse.Namespace) -> Outcome:
    return Outcome(summaries=("Dataset004_Test: 3 cases -> /data",))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NnunetError("It is broken."), 1),
        (UsageError("It is broken."), 2),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("It is broken."), 70),
    ],
)
def test_exit_status_tells_what_kind_of_failure_it_was(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parser(), failing(error), ["-d", "4"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "It is broken." in captured.err or isinstance(error, KeyboardInterrupt)

    assert run(parser(), failing(error), ["-d", "4", "--verbose"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_error_says_what_was_found_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = DatasetError("Case a has no image.", found="nothing", expected="a_0000.nii.gz", remedy="add it")
    assert run(parser(), failing(error), ["-d", "4"]) == 1
    assert capsys.readouterr().err == textwrap.dedent("""\
        Error: Case a has no image.
          found:    nothing
          expected: a_0000.nii.gz
          to do:    add it
    """)


def test_bug_asks_for_a_report_with_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run(parser(), failing(KeyError("x")), ["-d", "4"])
    message = capsys.readouterr().err
    assert "This is a bug in nnunet_pt: KeyError: 'x'" in message
    assert "--verbose" in message


def test_interruption_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run(parser(), failing(KeyboardInterrupt()), ["-d", "4"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_success_ends_with_what_was_written_and_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parser(), fine, ["-d", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Done in 0.0 s: Dataset004_Test: 3 cases -> /data\n"
    assert captured.err == ""


def test_several_datasets_are_summed_up_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parser(), lambda a: fine(a) + fine(a), ["-d", "4", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@dataclass(frozen=True)
class FakeFailure:
    case: str
    reason: str
    details: str = ""
    killed_by: str | None = None


@dataclass(frozen=True)
class FakeResult:
    failures: tuple[FakeFailure, ...]

    def summary(self) -> str:
        return "2 cases -> /data"


def test_failed_cases_are_listed_after_the_others_are_finished(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome.of([FakeResult((FakeFailure("case_3", "no space left"),))])  # type: ignore[list-item]
    assert run(parser(), lambda _args: outcome + outcome, ["-d", "4"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("Ended after")
    assert "2 cases -> /data" in captured.out
    assert captured.err.startswith("Error: 1 case failed: case_3. The others are finished.")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["-d"],
        ["-d", "four"],
        ["-d", "-1"],
        ["-d", "4", "--unknown"],
    ],
)
def test_wrong_arguments_are_answered_in_two_lines(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(parser(), fine, argv)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 2
    assert message[0].startswith("Error: ")
    assert "nnUNetv2_test --help" in message[1]


def test_unknown_arguments_are_named_where_they_are_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parser(), fine, ["-d", "4", "--no-pbar", "--other", "7"], ignore_unknown=True) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "--no-pbar --other 7" in first
    assert "did you mean --no_pbar?" in first


@pytest.mark.parametrize("text", ["4", "004", "Dataset004_Hippocampus"])
def test_datasets_are_named_by_id_or_name(text: str) -> None:
    assert parser().parse_args(["-d", text]).d == [4 if text.isdecimal() else text]


def test_target_spacing_needs_three_numbers() -> None:
    assert arguments.target_spacing(None) is None
    assert arguments.target_spacing([3.0, 1.0, 1.0]) == (3.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="three spacings"):
        arguments.target_spacing([1.0, 1.0])


def test_process_numbers_are_one_or_one_for_each_configuration() -> None:
    assert arguments.processes(None, ["2d", "3d_fullres"]) is None
    assert arguments.processes([3], ["2d", "3d_fullres"]) == 3
    assert arguments.processes([3, 2], ["2d", "3d_fullres"]) == (3, 2)
    with pytest.raises(UsageError, match="2d 3d_fullres"):
        arguments.processes([3, 2, 1], ["2d", "3d_fullres"])


@pytest.mark.parametrize("text", ["0", "-2", "1.5", "two", ""])
def test_process_numbers_are_whole_and_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.positive_integer(text)


@pytest.mark.parametrize("text", ["0", "-2", "nan", "inf", "two", ""])
def test_sizes_are_finite_and_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.positive_float(text)


def start(body: str, **kwargs: int) -> subprocess.Popen[str]:
    """Run a command whose work is ``body`` in a process of its own."""
    program = (
        "import sys, time\n"
        "from nnunet_pt.cli._arguments import make_parser, add_output\n"
        "from nnunet_pt.cli._run import Outcome, run\n"
        "from nnunet_pt.core.console import get_logger\n"
        "def command(args):\n"
        f"{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "    return Outcome(summaries=('finished',))\n"
        "parser = make_parser('test', 'Tests.', 'test')\n"
        "add_output(parser)\n"
        "sys.exit(run(parser, command, []))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


def test_work_is_finished_quietly_if_nobody_reads_the_messages_any_more() -> None:
    body = """
        get_logger().info("first")
        sys.stdin.read()
        get_logger().info("second")
        print("third", file=sys.stderr)
    """
    with start(body, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == "third\n"
    assert process.returncode == 0


def test_output_that_breaks_off_is_no_traceback() -> None:
    with start("sys.stdin.read(); print('x' * 100_000, flush=True)", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_unwind_what_was_going_on(number: signal.Signals, status: int) -> None:
    process = start("""
        try:
            print("working", flush=True)
            time.sleep(30)
        finally:
            print("cleaned up", flush=True)
        """)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    with process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "cleaned up\n")
    assert len(err.splitlines()) == 1


FULL_DISK = Path("/dev/full")
SHOWING = """
import sys
from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.console import show

parser = arguments.make_parser("nnUNetv2_test", "Tests.", "nnUNetv2_test")
arguments.add_output(parser)

def command(_args):
    show("what was asked for")
    return Outcome(summaries=("Done",))

sys.exit(run(parser, command, []))
"""


@pytest.mark.skipif(not FULL_DISK.exists(), reason=f"there is no {FULL_DISK}")
@pytest.mark.parametrize(("call", "unbuffered"), [("show", ""), ("show", "1"), ("print", "")])
def test_output_that_cannot_be_written_is_no_bug_of_ours(call: str, unbuffered: str) -> None:
    script = SHOWING.replace("    show(", f"    {call}(")
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with FULL_DISK.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: The output cannot be written.\n  found:    No space left on device")
    assert "Traceback" not in ended.stderr and "bug" not in ended.stderr


def test_commands_work_with_closed_streams() -> None:
    closing = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, SHOWING]
    assert subprocess.run(closing, check=False).returncode == 0
