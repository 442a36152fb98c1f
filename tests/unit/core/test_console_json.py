"""The JSON log: every line an object, nothing else on standard output, whoever prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core import console
from nnunet_pt.core.console import Progress, event, get_logger, python_warnings_shown, setup_console, show, show_error
from nnunet_pt.core.errors import DatasetError, NnunetError
from nnunet_pt.core.json_log import JsonLog

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Sets up the JSON log; what it gives returns the objects written so far."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    logger = get_logger()
    before = (list(logger.handlers), logger.level)
    with JsonLog() as log:
        setup_console(json_log=log)
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    setup_console()
    logger.handlers[:], level = before
    logger.setLevel(level)


def test_messages_have_time_level_event_and_data(lines: Lines) -> None:
    get_logger("nnunet_pt.x").warning("%d cases\nare odd", 3)
    get_logger().info("Epoch", extra=event("epoch", {"loss": float("nan"), "dice": np.float32(0.5), "at": Path("/x")}))
    first, second = lines()
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "warning", "event": "message", "message": "3 cases\nare odd", "data": {}}
    assert second["data"] == {"loss": None, "dice": 0.5, "at": "/x"}
    assert second["event"] == "epoch"


def test_errors_have_their_parts(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    error = DatasetError("No image.", found="nothing", expected=Path("a.nii.gz"), remedy="add it")
    get_logger().error("Case %s failed.\n%s", "a", error)
    get_logger().error("Case b failed.", exc_info=error)
    show_error(error, exit_status=1, trace="Traceback...")
    show_error(NnunetError("Stopped."), exit_status=130, stopped=True)
    logged, raised, last, stopped = lines()
    parts = {"type": "DatasetError", "problem": "No image.", "found": "nothing", "expected": "a.nii.gz"}
    parts["remedy"] = "add it"
    assert logged["data"] == raised["data"] == parts
    assert last["data"] == {**parts, "exit_status": 1, "traceback": "Traceback..."}
    assert (last["level"], last["event"], last["message"]) == ("error", "error", error.text())
    assert (stopped["level"], stopped["data"]["exit_status"]) == ("warning", 130)
    assert capsys.readouterr().err == ""


def test_progress_is_an_event_each_second_and_one_at_the_end(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress(8, "Working", leave=False) as bar:
        for _ in range(4):
            now[0] += 0.5
            bar.advance()
        bar.note("1 failed")
    with Progress(8, "Quiet", disable=True) as bar:
        bar.advance()
    found = [line["data"] for line in lines()]
    assert [(d["done"], d["seconds"], d["seconds_left"], d["ended"], d["note"]) for d in found] == [
        (2, 1.0, 3.0, False, None),
        (4, 2.0, 2.0, False, None),
        (4, 2.0, None, True, "1 failed"),
    ]
    assert {(d["description"], d["total"], d["unit"]) for d in found} == {("Working", 8, "case")}
    assert capsys.readouterr().err == ""


def test_output_and_warnings_of_others_are_events(lines: Lines) -> None:
    show("a table", {"cases": 3})
    with warnings.catch_warnings(), python_warnings_shown():
        warnings.simplefilter("always")
        warnings.warn("is old", DeprecationWarning, stacklevel=1)
    output, warning = lines()
    assert (output["event"], output["message"], output["data"]) == ("output", "a table", {"cases": 3})
    assert warning["level"] == "warning"
    assert warning["message"].startswith("DeprecationWarning: is old (")


def test_nothing_else_reaches_standard_output_and_helpers_join_in(tmp_path: Path) -> None:
    program = """
        import os, subprocess, sys
        from nnunet_pt.core import console
        from nnunet_pt.core.json_log import JsonLog

        if "--json_log" in sys.argv:  # a helping command
            with JsonLog(process=1) as log:
                console.setup_console(json_log=log)
                console.get_logger().info("helping")
            sys.exit()
        with JsonLog() as log:
            console.setup_console(json_log=log)
            print("printed")
            os.write(1, b"written by a library\\n")
            subprocess.run(["echo", "of a program"])
            console.get_logger().info("x" * 100_000)
            with console.standard_output_of_helpers():
                subprocess.run([sys.executable, __file__, *console.options_of_helpers()], check=True)
            print("printed again")
        print("at the end", flush=True)
        os.write(1, b"of all\\n")
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program), encoding="utf-8")
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=True)
    *entries, last, of_all = done.stdout.splitlines()
    assert [(json.loads(e)["message"][:7], json.loads(e).get("process")) for e in entries] == [
        ("xxxxxxx", None),
        ("helping", 1),
    ]
    assert (last, of_all) == ("at the end", "of all")
    assert sorted(done.stderr.splitlines()) == ["of a program", "printed", "printed again", "written by a library"]


def test_workers_write_to_the_same_log(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "import warnings\nfrom nnunet_pt.core.console import get_logger\n"
        "def work(n):\n    print('noise')\n    get_logger('nnunet_pt.task').warning('odd %d', n)\n"
        "    warnings.warn('old')\n    return n\n",
        encoding="utf-8",
    )
    program = """
        import contextlib, sys
        sys.path.insert(0, {folder!r})
        from tasks import work
        from nnunet_pt.core import console
        from nnunet_pt.core.json_log import JsonLog
        from nnunet_pt.core.workers import CaseTask, map_cases

        with JsonLog() if sys.argv[1] == "json" else contextlib.nullcontext() as log:
            console.setup_console(json_log=log)
            map_cases(work, [CaseTask(case="a", argument=7, ram_bytes=1)], description="Work", num_workers=1)
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program).format(folder=str(tmp_path)), encoding="utf-8")
    done = subprocess.run([sys.executable, file, "json"], capture_output=True, text=True, check=True)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["level"] for e in entries if e["event"] == "message"] == ["warning", "warning"]
    assert {e["message"].partition(" (")[0] for e in entries if e["event"] == "message"} == {
        "odd 7",
        "UserWarning: old",
    }
    assert [line for line in done.stderr.splitlines() if "noise" not in line] == []
    plain = subprocess.run([sys.executable, file, "plain"], capture_output=True, text=True, check=True)
    assert plain.stdout == ""
    assert "Warning: odd 7" in plain.stderr
    assert "Warning: UserWarning: old" in plain.stderr


def test_work_goes_on_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    with JsonLog() as log:
        log.write("message", "lost")
