"""``--json_log``: whatever happens, standard output is JSON lines that a program can rely on."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import extract_fingerprint, plan_experiment
from nnunet_pt.cli._commands import command_modules
from nnunet_pt.cli._facts import facts_of
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.workers import CaseFailure
from nnunet_pt.evaluation.requests import Evaluation

PROJECT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


def parser() -> argparse.ArgumentParser:
    made = arguments.make_parser("nnUNetv2_test", "Tests.", "nnUNetv2_test -d 4")
    arguments.add_datasets(made)
    arguments.add_output(made)
    return made


def events(text: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in text.splitlines()]
    for entry in entries:
        assert list(entry) == ["time", "level", "event", "message", "data"]
    return entries


@dataclass(frozen=True)
class Written:
    path: Path
    size: float
    failures: tuple[CaseFailure, ...] = ()

    def summary(self) -> str:
        return f"written: {self.path}"


def test_begins_with_the_command_and_ends_with_the_result(capsys: Capture) -> None:
    def command(_args: argparse.Namespace) -> Outcome:
        get_logger().warning("careful")
        print("from somebody else")
        return Outcome.of([Written(Path("/a"), 1.5)]) + Outcome.of([Written(Path("/b"), float("inf"))])

    assert run(parser(), command, ["-d", "4", "--json_log", "--other"], ignore_unknown=True) == 0
    captured = capsys.readouterr()
    start, ignored, warning, result = events(captured.out)
    assert captured.err == "from somebody else\n"
    assert start["event"] == "start"
    assert start["data"]["command"] == "nnUNetv2_test"
    assert start["data"]["arguments"] == ["-d", "4", "--json_log", "--other"]
    assert [w["level"] for w in (ignored, warning)] == ["warning", "warning"]
    assert "--other" in ignored["message"]
    assert result["event"] == "result"
    assert result["data"]["summaries"] == ["written: /a", "written: /b"]
    assert result["data"]["results"] == [
        {"path": "/a", "size": 1.5, "failures": []},
        {"path": "/b", "size": None, "failures": []},
    ]
    get_logger().info("as usual afterwards")
    assert capsys.readouterr().out == "as usual afterwards\n"


def failing(error: BaseException) -> Callable[[argparse.Namespace], Outcome]:
    def command(_args: argparse.Namespace) -> Outcome:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "level", "problem"),
    [
        (UsageError("Wrong.", found=3, expected=4, remedy="take 4"), 2, "error", "Wrong."),
        (KeyboardInterrupt(), 130, "warning", "Stopped. Run the same command again to continue."),
        (KeyError("x"), 70, "error", "This is a bug in nnunet_pt: KeyError: 'x'"),
    ],
)
def test_ends_with_the_error_and_its_parts(
    error: BaseException, status: int, level: str, problem: str, capsys: Capture
) -> None:
    assert run(parser(), failing(error), ["-d", "4", "--json_log"]) == status
    captured = capsys.readouterr()
    last = events(captured.out)[-1]
    assert captured.err == ""
    assert (last["event"], last["level"], last["data"]["problem"]) == ("error", level, problem)
    assert last["data"]["exit_status"] == status
    assert last["data"]["traceback"] is None
    if isinstance(error, UsageError):
        parts = {key: last["data"][key] for key in ("type", "found", "expected", "remedy")}
        assert parts == {"type": "UsageError", "found": "3", "expected": "4", "remedy": "take 4"}
    run(parser(), failing(error), ["-d", "4", "--json_log", "--verbose"])
    assert "Traceback" in events(capsys.readouterr().out)[-1]["data"]["traceback"]


def test_failed_cases_are_in_result_and_error(capsys: Capture) -> None:
    failure = CaseFailure(case="case_3", reason="no space", details="")
    outcome = Outcome.of([Written(Path("/a"), 1.0, (failure,))])
    assert run(parser(), lambda _args: outcome, ["-d", "4", "--json_log"]) == 1
    *_, result, error = events(capsys.readouterr().out)
    assert result["data"]["failures"] == ["case_3"]
    assert result["data"]["results"][0]["failures"][0]["reason"] == "no space"
    assert "case_3" in error["data"]["problem"]


def test_even_an_abbreviated_option_counts(capsys: Capture) -> None:
    assert run(parser(), lambda _args: Outcome(summaries=("done",)), ["-d", "4", "--json"]) == 0
    assert [e["event"] for e in events(capsys.readouterr().out)] == ["start", "result"]


@pytest.mark.parametrize("module", command_modules())
def test_wrong_arguments_of_every_command_are_a_json_error(module: str, capsys: Capture) -> None:
    command = __import__(f"nnunet_pt.cli.{module}", fromlist=["main"])
    with pytest.raises(SystemExit) as stop:
        command.main(["--json_log", "--no_pbar", "-nonsense=[", "a", "b", "c", "d"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    (error,) = events(captured.out)
    assert captured.err == ""
    assert error["data"]["type"] == "UsageError"
    assert "--help" in error["data"]["remedy"]


def test_commands_of_the_pipeline_write_nothing_but_json(measured_workspace: Path, capfd: Capture) -> None:
    assert extract_fingerprint.main(["-d", "902", "--clean", "--json_log"]) == 0
    assert plan_experiment.main(["-d", "902", "--json_log", "--verbose"]) == 0
    captured = capfd.readouterr()
    entries = events(captured.out)
    assert captured.err == ""
    assert [e["event"] for e in entries if e["event"] in ("start", "result")] == ["start", "result"] * 2
    progress = [e["data"] for e in entries if e["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert progress[-1]["ended"]
    fingerprint, plans = (e["data"]["results"][0] for e in entries if e["event"] == "result")
    folder = measured_workspace / "nnUNet_preprocessed" / "Dataset902_PhantomFinetune"
    assert fingerprint["path"] == str(folder / "dataset_fingerprint.json")
    assert plans["path"] == str(folder / "nnUNetPlans.json")
    assert {e["level"] for e in entries} >= {"debug", "info"}


def test_no_progress_bar_means_no_progress_events(measured_workspace: Path, capfd: Capture) -> None:
    assert measured_workspace.is_dir()
    assert extract_fingerprint.main(["-d", "902", "--clean", "--json_log", "--no_pbar"]) == 0
    assert "progress" not in {e["event"] for e in events(capfd.readouterr().out)}


def test_facts_leave_out_what_has_a_file_of_its_own() -> None:
    class Metrics:
        foreground_mean: ClassVar = {"Dice": 0.5}

        def to_json(self) -> dict[str, Any]:
            raise AssertionError

    class Big:
        def to_json(self) -> dict[str, Any]:
            raise AssertionError

    evaluation = Evaluation(result=Metrics(), path=Path("/s.json"), names={})  # type: ignore[arg-type]
    whole = {"part": {"number": 0, "total": 1}, "missing_parts": []}
    assert facts_of(evaluation) == {"result": {"Dice": 0.5}, "path": Path("/s.json"), **whole}
    assert facts_of(Written(Path("/a"), Big())) == {"path": Path("/a"), "failures": []}  # type: ignore[arg-type]
    assert facts_of("no dataclass") == {}


def test_every_event_is_explained() -> None:
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (PROJECT / "nnunet_pt").rglob("*.py"))
    written = set(re.findall(r'(?:\bevent\(|log\.write\()\s*"(\w+)"', sources)) | {"message"}
    page = (PROJECT / "documentation" / "reference" / "messages.md").read_text(encoding="utf-8")
    table = page.partition("| event | when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == written


def test_error_shown_in_the_documentation_is_what_is_printed() -> None:
    page = (PROJECT / "documentation" / "reference" / "messages.md").read_text(encoding="utf-8")
    environment = dict(os.environ, nnUNet_raw="/", nnUNet_def_n_proc="two")
    command = [sys.executable, "-m", "nnunet_pt.cli.plan_experiment", "-d", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr in page
    assert done.stderr.count("\n") == 4
