"""Colours of real commands: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ESCAPE = "\033["
HELP = [sys.executable, "-m", "nnunet_pt.cli.completion", "--help"]
FAILING = [sys.executable, "-m", "nnunet_pt.cli.plan_experiment", "-d", "4"]


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return {**plain, "TERM": "xterm", "nnUNet_raw": "/", "nnUNet_def_n_proc": "two", **more}


def on_terminal(command: list[str], **more: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment(**more)) as process:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65536):
                text += piece
        except OSError:  # the other end was closed
            pass
        process.wait()
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


def in_pipe(command: list[str], **more: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**more), check=False)
    return done.stdout + done.stderr


def test_terminals_get_colours_unless_they_are_not_wanted() -> None:
    assert on_terminal(FAILING).startswith(f"{ESCAPE}1;31mError:{ESCAPE}0m The environment variable")
    assert on_terminal(HELP).startswith(f"{ESCAPE}1musage:{ESCAPE}0m nnUNetv2_completion {{bash,zsh}} [options]\n")
    assert ESCAPE not in on_terminal(FAILING, NO_COLOR="1")
    assert ESCAPE not in on_terminal(HELP, TERM="dumb")


@pytest.mark.parametrize("command", [HELP, FAILING])
def test_pipes_get_none_unless_they_are_asked_for(command: list[str]) -> None:
    assert ESCAPE not in in_pipe(command)
    assert ESCAPE in in_pipe(command, FORCE_COLOR="1")


def test_files_and_json_never_get_any(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    with file.open("w", encoding="utf-8") as log:
        subprocess.run(FAILING, stdout=log, stderr=log, env=environment(), check=False)
    assert file.read_text(encoding="utf-8").startswith("Error: ")
    assert ESCAPE not in in_pipe([*FAILING, "--json_log"], FORCE_COLOR="1")
