"""Trainings that let SLURM queue their job again; scontrol is a script that notes what it was asked."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_training import TinyTraining, text_log

from nnunet_pt.core.errors import SettingsError, TrainingError, TrainingStopped, UsageError
from nnunet_pt.core.settings import SlurmJob
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.requeue import MOST_RESTARTS, queue_again, queued_again
from nnunet_pt.training.saving import REQUEUE, STOP
from nnunet_pt.training.state import FINAL, LATEST
from nnunet_pt.training.trainer import Trainer

JOB = SlurmJob(name="11_3")


class Interrupted(Trainer):
    """Gets SIGUSR1 in its second step, as SLURM sends it."""

    def train_step(self, data: Any, targets: Any) -> Any:
        if self.state.step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().train_step(data, targets)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What scontrol was asked."""
    script, notes = tmp_path / "bin" / "scontrol", tmp_path / "notes"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {notes}\necho "$REFUSAL" >&2\n[ -z "$REFUSAL" ]\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: notes.read_text().splitlines() if notes.exists() else []


def test_the_job_is_read_from_the_environment() -> None:
    assert SlurmJob.from_environment({}) is None
    assert SlurmJob.from_environment({"SLURM_JOB_ID": "7"}) == SlurmJob(name="7")
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"}
    assert SlurmJob.from_environment(array) == SlurmJob(name="7_2", restarts=1)
    with pytest.raises(SettingsError, match="SLURM_RESTART_COUNT"):
        SlurmJob.from_environment({**array, "SLURM_RESTART_COUNT": "x"})


def test_a_training_is_queued_again_and_goes_on(tiny: TinyTraining, asked: Callable[[], list[str]]) -> None:
    with pytest.raises(TrainingStopped) as caught:
        tiny.run(trainer_class=Interrupted, requeue=True, settings={"slurm_job": JOB})
    assert caught.value.exit_status == 128 + signal.SIGUSR1
    assert "SIGUSR1 stopped the training in epoch 0, iteration 2" in str(caught.value)
    assert "its state is saved; it goes on when slurm starts the job again" in str(caught.value).lower()
    assert asked() == ["requeue 11_3"]
    assert (tiny.folder() / LATEST).is_file()
    again = SlurmJob(name="11_3", restarts=1)
    result = tiny.run(trainer_class=Interrupted, requeue=True, settings={"slurm_job": again})
    assert result.epochs == 1 and (tiny.folder() / FINAL).is_file()
    assert "Continuing from checkpoint_latest.pth: epoch 0, iteration 2." in text_log(tiny.folder())
    assert asked() == ["requeue 11_3"]


def test_a_job_that_was_started_again_begins_if_there_is_nothing_to_continue(tiny: TinyTraining) -> None:
    result = tiny.run(requeue=True, settings={"slurm_job": SlurmJob(name="7", restarts=2)})
    assert result.epochs == 1


def test_weights_from_elsewhere_are_taken_only_once(tiny: TinyTraining) -> None:
    weights = tiny.run(fold=1).output_folder / FINAL
    options: Any = {"requeue": True, "pretrained_weights": weights}
    tiny.run(settings={"slurm_job": SlurmJob(name="7")}, **options)
    assert "Continuing from" not in text_log(tiny.folder())
    tiny.run(settings={"slurm_job": SlurmJob(name="7", restarts=1)}, **options)
    assert text_log(tiny.folder()).count("Continuing from") == 1


def test_without_slurm(tiny: TinyTraining) -> None:
    with pytest.raises(TrainingError, match="--requeue is for jobs of SLURM") as caught:
        tiny.run(requeue=True)
    assert "sbatch" in str(caught.value)
    with pytest.raises(UsageError, match="--disable_checkpointing and --requeue"):
        tiny.request(requeue=True, disable_checkpointing=True)


def test_slurm_refuses(asked: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSAL", "Requested operation is presently disabled")
    with pytest.raises(TrainingError, match="SLURM does not queue job 11_3 again") as caught:
        queue_again(JOB)
    assert "presently disabled" in str(caught.value) and "#SBATCH --requeue" in str(caught.value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TrainingError, match="SLURM does not queue job 11_3 again") as caught:
        queue_again(JOB)
    assert "scontrol" in str(caught.value)
    assert asked() == ["requeue 11_3"]


def test_a_job_does_not_go_round_for_ever(asked: Callable[[], list[str]]) -> None:
    with pytest.raises(TrainingError, match="started it again 100 times") as caught:
        queue_again(SlurmJob(name="7", restarts=MOST_RESTARTS))
    assert "--time" in str(caught.value) and asked() == []


@pytest.mark.parametrize(("number", "wanted"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_only_sigusr1_queues_again(asked: Callable[[], list[str]], number: int, wanted: bool) -> None:
    with (
        pytest.raises(TrainingStopped),
        StopSignals(requeue=True) as signals,
        queued_again(JOB, signals),
    ):
        os.kill(os.getpid(), number)
        assert (signals.requested, signals.requeue) == ("stop", wanted)
        os.kill(os.getpid(), signal.SIGTERM if wanted else signal.SIGUSR1)
        raise TrainingStopped("stopped")
    assert bool(asked()) is wanted


def test_what_all_agree_on_counts() -> None:
    assert float(REQUEUE + 3.0 * STOP + 7) >= REQUEUE > 10_000 * STOP
    with StopSignals(requeue=True) as signals:
        signals.requeue = True  # another process has got the signal
        assert signals.to_continue == "it goes on when SLURM starts the job again"
        signals.requeue = False  # the state could not be saved
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not signals.requeue and signals.to_continue == "continue with --c"
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (signals.requested, signals.requeue) == ("save", False)
