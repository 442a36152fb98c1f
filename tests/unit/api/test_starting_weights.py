"""Trainings that begin with weights from elsewhere, and what may count as their result later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_training import model, nothing_left_to_do

from nnunet_pt import TrainingStopped
from nnunet_pt.transfer.source import sha256_of

Call = Callable[..., Any]


@pytest.fixture
def pretrained(call: Call, planned: Any) -> Path:
    """A model to start from, elsewhere."""
    assert call(fold="all", epochs=1)["status"] == "success"
    elsewhere: Path = planned.root / "elsewhere" / model(planned).name
    shutil.move(model(planned), elsewhere)
    return elsewhere


def began_with(fold: Path) -> str:
    source: str = json.loads((fold / "transfer_report.json").read_text())["source"]["sha256"]
    return source


def test_the_folder_of_a_model_is_enough(
    call: Call, planned: Any, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = model(planned) / "fold_0"
    first = call(pretrained_weights=pretrained, freeze="encoder.stages.0", lr_factors=["encoder=0.1"])
    assert first["status"] == "success"
    checkpoint = pretrained / "fold_all" / "checkpoint_final.pth"
    assert began_with(fold) == sha256_of(checkpoint)
    recipe = json.loads((fold / "recipe.json").read_text())
    assert (recipe["freeze"], recipe["lr_factors"]) == (["encoder.stages.0"], ["encoder=0.1"])
    nothing_left_to_do(monkeypatch)
    same = {"pretrained_weights": str(checkpoint), "freeze": ["encoder.stages.0"], "lr_factors": "encoder=0.1"}
    assert call(**same) == first
    assert call(continue_training=True) == first


def test_what_was_trained_in_another_way_is_no_result(call: Call, planned: Any, pretrained: Path) -> None:
    assert call()["status"] == "success"
    fine_tuned = call(pretrained_weights=pretrained)["error"]
    assert "no transfer_report.json" in fine_tuned and "should have begun with" in fine_tuned
    assert "num_epochs is 2, and should be 5" in call(epochs=5)["error"]
    assert "seed is 3, and should be 4" in call(seed=4)["error"]
    shutil.rmtree(model(planned))
    assert call(pretrained_weights=pretrained)["status"] == "success"
    assert "should have begun with random ones" in call()["error"]
    other = model(planned) / "fold_0" / "checkpoint_best.pth"
    error = call(pretrained_weights=other)["error"]
    assert f"it began with the weights {pretrained / 'fold_all'}" in error and str(other) in error


def test_a_stopped_fine_tuning_goes_on_with_the_same_call(
    call: Call, planned: Any, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {
        "trainer": f"{planned.root / 'trainers.py'}:Stopped",
        "pretrained_weights": pretrained,
        "continue_training": True,
    }
    monkeypatch.setenv("STOP", "SIGTERM")
    with pytest.raises(TrainingStopped):
        call(**wanted)
    fold = model(planned, trainer="Stopped") / "fold_0"
    other = fold / "checkpoint_latest.pth"
    assert "should have begun with" in call(**{**wanted, "pretrained_weights": other})["error"]
    assert call(**wanted)["status"] == "success"
    assert began_with(fold) == sha256_of(pretrained / "fold_all" / "checkpoint_final.pth")


def test_a_training_anew_forgets_the_weights_of_the_one_before(call: Call, planned: Any, pretrained: Path) -> None:
    fold = model(planned) / "fold_0"
    assert call(pretrained_weights=pretrained, epochs=1)["status"] == "success"
    (fold / "checkpoint_final.pth").unlink()  # as if it had not come to its end
    assert call()["status"] == "success"
    assert not list(fold.glob("transfer_report.*"))
    (kept,) = fold.glob("replaced_*")
    assert began_with(kept) == sha256_of(pretrained / "fold_all" / "checkpoint_final.pth")
