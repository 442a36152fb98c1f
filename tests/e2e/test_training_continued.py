"""Trainings that were killed and continued end as one that nobody disturbed, bit by bit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess

import pytest
from training_runs import EVERY_STEP, Fold, assert_same_training, descendants, differences

from nnunet_pt.training.state import BEST, FINAL, LATEST


@pytest.mark.slow
def test_saving_and_workers_change_nothing(undisturbed: Fold, fold: Fold) -> None:
    fold.finish(fold.train(*EVERY_STEP, nnUNet_n_proc_DA="0"))
    one, other = undisturbed.state(), fold.state()
    for state in (one, other):
        del state["own"]["random_states"]["python"]  # modules that this process imports draw from it
    assert differences(one, other) == []
    assert sorted(p.name for p in fold.folder.glob("*.pth")) == [BEST, FINAL]
    assert fold.figures() == undisturbed.figures()
    assert fold.leftovers() == []


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(("train:2", "save:4"), id="in a step and while its state is written"),
        pytest.param(
            ("val:2", "begin:3", "save:7"),
            id="in the validation of an epoch and between epochs",
            marks=pytest.mark.slow,
        ),
        pytest.param(("train:1", "final:1"), id="at once and in the final validation", marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again(
    undisturbed: Fold, fold: Fold, moments: tuple[str, ...], nothing_left_running: list[int]
) -> None:
    for number, moment in enumerate(moments):
        process = fold.train(*EVERY_STEP, *(["--c"] if number else []), AT=moment, DO="SIGKILL")
        fold.wait_for(process, "begin")
        nothing_left_running += descendants(process.pid)
        fold.finish(process, -signal.SIGKILL)
    output = fold.finish(fold.train("--c"))
    finished = moments[-1].startswith("final")  # only the final validation was left to do
    assert f"Continuing from {FINAL if finished else LATEST}" in output
    assert_same_training(undisturbed, fold)
    assert fold.leftovers() == []
    assert not (fold.folder / LATEST).exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments(undisturbed: Fold, fold: Fold, seed: int) -> None:
    moments = random.Random(seed)
    for number in range(8):
        process = fold.train(*EVERY_STEP, *(["--c"] if number else []))
        fold.wait_for(process, "begin", moments.randint(1, 4))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if moments.random() < 0.5 else process.kill()
        process.communicate()
    fold.finish(fold.train("--c"))
    assert_same_training(undisturbed, fold)
    assert fold.leftovers() == []
