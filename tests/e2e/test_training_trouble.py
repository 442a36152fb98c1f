"""What goes wrong while training is named, and does not cost more than it must."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from training_runs import EVERY_STEP, Fold, assert_same_training

from nnunet_pt.training.state import newest_valid_checkpoint


def test_damaged_case_is_named(fold: Fold) -> None:
    for file in fold.data.glob("case_*.b2nd"):
        if "seg" not in file.name:
            file.write_bytes(file.read_bytes()[:600])
    output = fold.finish(fold.train(), 1)
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "case_" in errors[0] and str(fold.data) in output


def test_killed_worker_names_case_and_signal(fold: Fold) -> None:
    output = fold.finish(fold.train(AT="train:2", DO="killworker"), 1)
    assert "A data loading worker died while it worked on case case_" in output
    assert "was killed by SIGKILL" in output and "memory" in output


@pytest.mark.slow
@pytest.mark.parametrize("tiny_disk", ["2m"], indirect=True)
def test_full_disk_does_not_end_the_training(undisturbed: Fold, fold: Fold, tiny_disk: Path) -> None:
    results = fold.results.parent
    results.rmdir()
    results.symlink_to(tiny_disk)
    output = fold.finish(fold.train(*EVERY_STEP, AT="begin:3 begin:7", DO="fill SIGKILL"), -signal.SIGKILL)
    assert "The state could not be saved, training goes on." in output and "no space left on the device" in output
    found = newest_valid_checkpoint(fold.folder)
    assert found is not None and (found.state.epoch, found.state.iteration) == (0, 2)
    (results / "filler").unlink()
    output = fold.finish(fold.train(*EVERY_STEP, "--c", AT="begin:2 begin:8", DO="fill free"))
    assert "The state could not be saved, training goes on." in output
    assert_same_training(undisturbed, fold)
    assert fold.leftovers() == []
