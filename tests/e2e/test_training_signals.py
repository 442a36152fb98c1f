"""Signals while training: the state is saved, the exit status says what happened, nobody is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from training_runs import Fold, assert_same_training, descendants, is_alive, wait_until

from nnunet_pt.training.state import BEST, FINAL, LATEST, newest_valid_checkpoint

ONLY_WHEN_ASKED = ("-save_every_minutes", "0")


@pytest.fixture(scope="module")
def terminated(new_fold: Callable[[], Fold]) -> tuple[Fold, str, list[int]]:
    """A training that was asked to save, went on, and was terminated in the validation of its second epoch."""
    fold = new_fold()
    process = fold.train(*ONLY_WHEN_ASKED, AT="train:2 begin:4 val:3", DO="SIGUSR1 wait SIGTERM")
    fold.wait_for(process, "begin", 4)
    workers = descendants(process.pid)
    assert workers
    wait_until(lambda: (fold.folder / LATEST).exists())
    found = newest_valid_checkpoint(fold.folder)
    assert found is not None and (found.state.epoch, found.state.iteration) == (0, 2)
    fold.go()
    return fold, fold.finish(process, 128 + signal.SIGTERM), workers


def test_sigusr1_saves_and_sigterm_saves_and_stops(terminated: tuple[Fold, str, list[int]]) -> None:
    fold, output, workers = terminated
    assert "SIGTERM stopped the training in epoch 1, iteration 4. Its state is saved; continue with --c." in output
    found = newest_valid_checkpoint(fold.folder)
    assert found is not None and found.path.name == LATEST and (found.state.epoch, found.state.iteration) == (1, 4)
    wait_until(lambda: not any(map(is_alive, workers)), seconds=30)
    assert not any(map(is_alive, workers))
    assert fold.leftovers() == []


def test_terminated_training_is_continued_without_a_difference(
    undisturbed: Fold, terminated: tuple[Fold, str, list[int]]
) -> None:
    """Its newest checkpoint is damaged meanwhile: the next one is taken, and the damaged one is named."""
    fold = terminated[0]
    latest = fold.folder / LATEST
    latest.write_bytes(latest.read_bytes()[:-1000])
    output = fold.finish(fold.train("--c"))
    assert str(latest) in output and "Skipped a checkpoint" in output
    assert f"Continuing from {BEST}: epoch 1, iteration 0." in output
    assert_same_training(undisturbed, fold)


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_stops_at_once(fold: Fold, nothing_left_running: list[int]) -> None:
    process = fold.train(*ONLY_WHEN_ASKED, AT="begin:2", DO="wait")
    fold.wait_for(process, "begin", 2)
    nothing_left_running += descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    fold.go()
    output = fold.finish(process, 128 + signal.SIGINT)
    assert "SIGINT: saving, then stopping. (Ctrl-C again: at once)" in output
    assert "SIGINT stopped the training in epoch 0, iteration 2. Its state is saved; continue with --c." in output

    before = (fold.folder / LATEST).read_bytes()
    process = fold.train("--c", AT="begin:2", DO="wait")
    fold.wait_for(process, "begin", 2)
    nothing_left_running += descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    while "SIGINT" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # it waits, nobody tells it to go on
    output = fold.finish(process, 128 + signal.SIGINT)
    assert "Stopped at once. Continue from the last saved state with --c." in output
    assert (fold.folder / LATEST).read_bytes() == before
    assert fold.leftovers() == []


@pytest.mark.slow
def test_stopped_in_the_final_validation(undisturbed: Fold, fold: Fold) -> None:
    process = fold.train(AT="final:1", DO="SIGTERM")
    output = fold.finish(process, 128 + signal.SIGTERM)
    assert "SIGTERM stopped the final validation." in output and "--val" in output
    assert (fold.folder / FINAL).exists() and not (fold.folder / "validation" / "summary.json").exists()
    fold.finish(fold.train("--val"))
    assert_same_training(undisturbed, fold)
