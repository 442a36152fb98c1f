"""Training processes that are lost: killed, without a sign of life, ended by an error; real processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from test_distributed_units import free_port
from training_member import doomed_member

NUMBER = 3
SILENCE_S = 1.0


class Group:
    """Three processes, one of which comes to an end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[BaseProcess] = []
        self.seconds = 0.0

    def run(self, rank: int, fate: str, silence_s: float = SILENCE_S) -> list[str]:
        """Let a process meet its fate; gives what the others said, in the order of their ranks."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training_member"])
        port = free_port()
        for number in range(NUMBER):
            arguments = (number, NUMBER, port, fate if number == rank else "wait", self.folder, silence_s)
            self.processes.append(context.Process(target=doomed_member, args=arguments))
            self.processes[-1].start()
        others = [n for n in range(NUMBER) if n != rank]
        end = time.monotonic() + 40
        while not (self.folder / "met").exists() and time.monotonic() < end:
            time.sleep(0.01)
        began = time.monotonic()
        for number in others:
            self.processes[number].join(max(0.0, end - time.monotonic()))
        self.seconds = time.monotonic() - began
        assert None not in self.statuses(others)
        return [self.said(n) for n in others]

    def said(self, rank: int) -> str:
        """What a process said, without what torch has to say about closed connections."""
        text = (self.folder / f"{rank}.txt").read_text()
        return re.sub(r"^(\[rank\d\]:)?\[W\d.*?^\n", "", text, flags=re.MULTILINE | re.DOTALL)

    def statuses(self, ranks: Sequence[int]) -> list[int | None]:
        return [self.processes[n].exitcode for n in ranks]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_is_named_once(group: Group, rank: int) -> None:
    first, second = group.run(rank, "SIGKILL")
    assert f"Process {rank} of 3 (on machine{rank}) is lost, so this training ends." in first
    assert "continue with --c" in first and "scontrol requeue" in first
    assert second.splitlines() == [f"Process {rank} of 3 (on machine{rank}) left the training, so process 2 ends, too."]
    assert group.statuses([n for n in range(3) if n != rank]) == [1, 1]
    assert group.seconds < 15


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_process_that_stands_still_is_noticed(group: Group, rank: int) -> None:
    """Its connections stay open, so the others wait for it in code that cannot be interrupted."""
    first, second = group.run(rank, "SIGSTOP")
    assert f"Error: Process {rank} of 3 (on machine{rank}) is lost" in first
    assert "no sign of life" in first
    assert f"Process {rank} of 3 (on machine{rank}) left the training" in second
    assert "to do:" not in second
    assert SILENCE_S / 2 < group.seconds < 15
    os.kill(group.processes[rank].pid or 0, signal.SIGCONT)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_error_of_a_process_is_passed_on(group: Group, rank: int) -> None:
    first, second = group.run(rank, "raise")
    assert f"Process {rank} of 3 (on machine{rank}) failed, so this training ends." in first
    assert "found:    ValueError: a case that nobody can read\n" in first
    assert second.splitlines() == [f"Process {rank} of 3 (on machine{rank}) left the training, so process 2 ends, too."]


def test_the_others_stop_as_one_that_was_asked_to(group: Group) -> None:
    said = group.run(1, "stop")
    assert [text.splitlines() for text in said] == [["Process 1 of 3 (on machine1) stopped: SIGTERM stopped it."]] * 2
    assert group.statuses([0, 1, 2]) == [143, 143, 143]


@pytest.mark.slow
def test_long_work_of_one_process_is_no_silence(group: Group) -> None:
    """Neither is a process that is done before the others."""
    said = group.run(0, "work", silence_s=2.0)
    assert said == ["done\n"] * 2 and group.said(0) == "done\n"
    assert group.seconds > 2.0
