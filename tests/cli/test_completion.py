"""Completion, asked of the real shells: what they offer after the Tab key, and how soon."""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_pt.cli import completion
from nnunet_pt.cli._completion import NOTHING, commands
from nnunet_pt.planning.presets import PLANNERS
from nnunet_pt.training.recipes import RECIPES

MAX_ANSWER_S = 0.3
DATASETS = ("Dataset004_Hippocampus", "Dataset015_BraTS")
PLANS = '{\n    "configurations": {\n        "2d": {\n        },\n        "2d_small": {\n        }\n    }\n}'
Complete = Callable[[str], list[str]]


def needs(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two datasets, one of which has plans, and some files; its folders are in the environment."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre processed"))
    for name in DATASETS:
        (tmp_path / "raw" / name).mkdir(parents=True)
    planned = tmp_path / "pre processed" / DATASETS[0]
    planned.mkdir(parents=True)
    for name in ("dataset", "dataset_fingerprint", "splits_final", "integrity_report", "nnUNetPlans", "otherPlans"):
        (planned / f"{name}.json").write_text(PLANS, encoding="utf-8")
    (tmp_path / "files" / "inner folder").mkdir(parents=True)
    (tmp_path / "files" / "weights.pth").touch()
    (tmp_path / "files" / "mine.py").touch()
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(completion.script(shell), encoding="utf-8")
    return folder


@pytest.fixture
def bash(scripts: Path, workspace: Path) -> Complete:
    """What bash's completion function offers for the last word of a line."""
    program = f"""
        source {scripts / "bash"}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1") && function=${{function#*-F }} && "${{function%% *}}" "$1" "${{@: -1}}" ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    shell = needs("bash")

    def complete(line: str) -> list[str]:
        command = [shell, "--norc", "-u", "-c", program, "bash", *line.split(" ")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert workspace.is_dir()
    return complete


def test_bash_offers_options_and_their_values(bash: Complete) -> None:
    assert bash("nnUNetv2_train 4 2d 0 --val") == ["--val", "--val_best"]
    assert bash("nnUNetv2_train 4 2d 0 -device ") == ["cuda", "cpu", "mps"]
    assert bash("nnUNetv2_train 4 2d 0 -device c") == ["cuda", "cpu"]
    assert bash("nnUNetv2_train 4 2d 0 -epochs ") == [""]
    assert set(bash("nnUNetv2_train 4 2d 0 -tr nnUNetTrainer_1")) == {
        r for r in RECIPES if r.startswith("nnUNetTrainer_1")
    }
    assert bash("nnUNetv2_train 4 2d 0 -tr m") == ["mine.py"]
    assert set(bash("nnUNetv2_plan_experiment -d 4 -pl ")) == set(PLANNERS)
    assert "--json_log" in bash("nnUNetv2_train 4 2d 0 ")
    assert bash("nnUNetv2_train 4 2d 0 -freeze encoder ") == [""]


def test_bash_offers_datasets_configurations_folds_and_plans(bash: Complete) -> None:
    assert bash("nnUNetv2_train ") == ["4", DATASETS[0], "15", DATASETS[1]]
    assert bash("nnUNetv2_train Dataset0") == list(DATASETS)
    assert bash("nnUNetv2_plan_and_preprocess -d 4 1") == ["15"]
    assert bash("nnUNetv2_train 15 ") == ["2d", "3d_cascade_fullres", "3d_fullres", "3d_lowres"]
    assert bash("nnUNetv2_train 4 2") == ["2d", "2d_small"]
    assert bash("nnUNetv2_preprocess -d Dataset004_Hippocampus -c 2d 2d_") == ["2d_small"]
    assert bash("nnUNetv2_train 4 2d ") == ["0", "1", "2", "3", "4", "all"]
    assert bash("nnUNetv2_train 4 2d 0 -p ") == ["nnUNetPlans", "otherPlans"]
    assert bash("nnUNetv2_train 15 2d 0 -p ") == [""]


def test_bash_neither_executes_nor_splits_names(bash: Complete, workspace: Path) -> None:
    name = "Dataset016_my data $(touch executed) `touch executed` it's"
    (workspace / "raw" / name).mkdir()
    offered = bash("nnUNetv2_train Dataset016")
    assert len(offered) == 1 and shlex.split(offered[0]) == [name]
    assert not list(workspace.rglob("executed"))


def test_bash_offers_files_where_files_are_meant(bash: Complete) -> None:
    assert sorted(bash("nnUNetv2_train 4 2d 0 -pretrained_weights ")) == ["inner folder", "mine.py", "weights.pth"]
    assert bash("nnUNetv2_predict -i w") == ["weights.pth"]
    assert bash("nnUNetv2_predict -i weights.pth -o ") == ["inner folder"]


def test_bash_knows_commands_within_a_command(bash: Complete) -> None:
    assert bash("nnUNetv2_report ") == ["dataset", "plans", "training", "compare"]
    assert bash("nnUNetv2_report dataset D") == list(DATASETS)
    assert "--all_pictures" in bash("nnUNetv2_report dataset 4 -")
    assert "--all_pictures" not in bash("nnUNetv2_report plans 4 -")
    assert bash("nnUNetv2_report nothing ") == [""]


def test_bash_offers_nothing_without_folders(bash: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "")
    monkeypatch.setenv("nnUNet_preprocessed", "")
    assert bash("nnUNetv2_train ") == [""]
    assert bash("nnUNetv2_train 4 2d 0 -p ") == [""]


class Terminal:
    """An interactive shell on a pseudo-terminal of 200 columns."""

    def __init__(self, *command: str, setup: str) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="dumb", PS1="> ", INPUTRC="/dev/null")
            os.execv(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 100, 200, 0, 0))
        os.write(self._fd, f"{setup}; echo rea''dy\n".encode())
        self._read_until(r"ready\n[\s\S]*> $", 60)

    def after_tab(self, line: str, awaited: str) -> tuple[str, float]:
        """What is on the screen once a text has appeared after the Tab key, and how long that took in seconds."""
        os.write(self._fd, line.encode())
        self._read_until(re.escape(line), 20)
        start = time.monotonic()
        os.write(self._fd, b"\t")
        text = self._read_until(re.escape(awaited), 20)
        took = time.monotonic() - start
        os.write(self._fd, b"\x15")
        while select.select([self._fd], [], [], 0.2)[0]:
            text += os.read(self._fd, 65536).decode(errors="replace")
        return text, took

    def _read_until(self, pattern: str, seconds: float) -> str:
        text, end = "", time.monotonic() + seconds
        while re.search(pattern, text) is None:
            assert select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0], (
                f"{pattern!r} not in {text!r}"
            )
            text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\a]", "", os.read(self._fd, 65536).decode(errors="replace"))
        return text

    def close(self) -> None:
        os.close(self._fd)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@pytest.fixture
def typed(scripts: Path, workspace: Path) -> Iterator[Callable[[str], Terminal]]:
    """Starts an interactive shell that has loaded the script."""
    terminals = []
    setups = {
        "bash": (["--norc", "--noprofile", "-i"], f"bind 'set bell-style none'; source {scripts / 'bash'}"),
        "zsh": (
            ["-f", "-i"],
            f"PS1='> '; setopt nobeep; LISTMAX=10000; autoload -Uz compinit; compinit -u -D; source {scripts / 'zsh'}",
        ),
    }

    def start(shell: str) -> Terminal:
        options, setup = setups[shell]
        terminals.append(Terminal(needs(shell), *options, setup=f"cd {workspace / 'files'}; {setup}"))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_completes_at_once(shell: str, typed: Callable[[str], Terminal]) -> None:
    terminal = typed(shell)
    times = []
    for line, awaited in (
        ("nnUNetv2_train 4 2d 0 -devi", "ce "),
        ("nnUNetv2_train Dataset004", "_Hippocampus"),
        ("nnUNetv2_train 4 2d_", "small "),
        ("nnUNetv2_plan_and_preprocess -d 4 15 --verify", "_dataset_integrity"),
        ("nnUNetv2_preprocess -d 4 -p oth", "erPlans"),
        ("nnUNetv2_predict -o inn", "er\\ folder/"),
        ("nnUNetv2_find_best_configuration 4 -c 2d 3d_f", "ullres"),
        ("nnUNetv2_report comp", "are "),
        ("nnUNetv2_report dataset 4 --all", "_pictures"),
    ):
        times.append(terminal.after_tab(line, awaited)[1])
    assert min(times) < MAX_ANSWER_S


def test_zsh_says_what_things_mean(typed: Callable[[str], Terminal]) -> None:
    terminal = typed("zsh")
    text, _ = terminal.after_tab("nnUNetv2_train ", DATASETS[1])
    assert re.search(r"^4 +-- Dataset004_Hippocampus", text, re.MULTILINE)
    text, _ = terminal.after_tab("nnUNetv2_train 4 2d 0 --val", "--val_best")
    assert re.search(r"--val +-- only do the final validation", text)
    text, _ = terminal.after_tab("nnUNetv2_train 4 2d 0 -device ", "mps")
    assert re.search(r"cpu +cuda +mps", text)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_script_is_printed_as_it_is(shell: str, scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([shell]) == 0
    text = capsys.readouterr().out
    assert text.rstrip("\n") == (scripts / shell).read_text(encoding="utf-8").rstrip("\n")
    subprocess.run([needs(shell), "-n", "-c", text], check=True)


# Arguments for which no shell can know values; anything new belongs here or to a kind of values
WITHOUT_VALUES = {
    "-n",
    "-names",
    "-overwrite_plans_name",
    "-freeze",
    "-lr_factor",
    "-transfer_layers",
    "NAME",
    "URL",
    "--dask",
    "-account",
    "-gpus",
    "-mem",
    "-modules",
    "-partition",
    "-pretrain_args",
    "-time",
    "-train_args",
}


def test_every_text_has_a_kind_or_is_known_to_have_none() -> None:
    from nnunet_pt.cli._commands import all_parsers

    parsers = list(all_parsers())
    for parser in parsers:  # those of subcommands are added meanwhile
        branches = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parsers += [branch for action in branches for branch in action.choices.values()]
    numbers = {
        name
        for parser in parsers
        for action in parser._actions
        if action.type is not None
        for name in (*action.option_strings, str(action.metavar))
    }
    parts = [part for command in commands() for part in (command, *command.within)]
    found = {o.names[0] for c in parts for o in c.options if o.value is not None and o.value.kind == NOTHING}
    found |= {value.label for command in parts for value in command.positionals if value.kind == NOTHING}
    assert found - numbers == WITHOUT_VALUES - numbers
