"""Trainings that were stopped, or of which something is left to do."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
from small_training import figures, losses, model, nothing_left_to_do

from nnunet_pt import TrainingStopped

Call = Callable[..., Any]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_training_stops_the_program_and_goes_on_later(
    call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    monkeypatch.setenv("STOP", name)
    trainer = f"{planned.root / 'trainers.py'}:Stopped"
    with pytest.raises(TrainingStopped, match="continue_training=True") as stopped:
        call(trainer=trainer)
    assert stopped.value.exit_status == status
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    folder = model(planned, trainer="Stopped") / "fold_0"
    assert (folder / "checkpoint_latest.pth").is_file()
    assert call(trainer=trainer, continue_training=True)["status"] == "success"
    assert len(losses(folder)) == 2
    assert "Continuing from" in "".join(path.read_text() for path in sorted(folder.glob("training_log_*.txt")))
    assert not list(folder.glob("replaced_*"))


def test_without_asking_an_interrupted_training_starts_anew(
    call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP", "SIGTERM")
    trainer = f"{planned.root / 'trainers.py'}:Stopped"
    with pytest.raises(TrainingStopped):
        call(trainer=trainer)
    assert call(trainer=trainer)["status"] == "success"
    (kept,) = (model(planned, trainer="Stopped") / "fold_0").glob("replaced_*")
    assert (kept / "checkpoint_latest.pth").is_file()


@pytest.mark.parametrize("fold", ["0", "cv"])
def test_what_is_finished_needs_no_data_any_more(
    call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch, fold: str
) -> None:
    splits = [{"train": ["a", "b", "c", "d", "e"], "val": ["f"]}]
    (planned.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    result = call(fold=fold, epochs=1)
    assert result["status"] == "success"
    shutil.rmtree(planned.data)
    shutil.rmtree(planned.raw)
    nothing_left_to_do(monkeypatch)
    assert call(fold=fold, epochs=1) == result


def test_continuing_what_has_not_begun_starts_it(call: Call, planned: Any) -> None:
    assert call(continue_training=True, epochs=1)["status"] == "success"
    longer = call(continue_training=True, epochs=3)
    assert longer["status"] == "success"
    assert len(losses(model(planned) / "fold_0")) == 3
    assert call(continue_training=True, epochs=2) == longer  # it has them


def test_only_what_is_missing_of_the_validation_is_done(call: Call, planned: Any) -> None:
    first = call()
    folder = model(planned) / "fold_0"
    validation = folder / "validation"
    trained = (folder / "checkpoint_final.pth").stat().st_mtime_ns
    assert not list(validation.glob("*.npz"))
    with_probabilities = call(npz=True)
    assert with_probabilities == first and len(list(validation.glob("*.npz"))) == 2
    (validation / "summary.json").unlink()
    assert call() == first
    made = (validation / "summary.json").stat().st_mtime_ns
    assert call(validation_only=True) == first
    assert (validation / "summary.json").stat().st_mtime_ns > made
    best = call(val_best=True)
    expected = max(figures(folder), key=lambda epoch: epoch["ema_fg_dice"])["val_loss"]
    assert best["metrics"]["validation_loss"] == expected
    assert (folder / "checkpoint_final.pth").stat().st_mtime_ns == trained
