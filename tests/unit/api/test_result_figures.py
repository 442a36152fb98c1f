"""Where the figures of a result come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nnunet_pt.api.results import finite, mean_of, metrics_of_fold
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

INIT = {"plans": {}, "configuration": "2d", "fold": 0, "dataset_json": {}}
EPOCHS = [(0.5, 0.1), (0.25, 0.75), (0.125, 0.5)]


def epoch(number: int, loss: float, average: float) -> EpochFigures:
    return EpochFigures(
        epoch=number,
        lr=0.01,
        train_loss=1.0,
        val_loss=loss,
        dice_per_class=(average,),
        mean_fg_dice=average,
        ema_fg_dice=average,
        seconds=1.0,
    )


def history() -> History:
    return History(epoch(i, *values) for i, values in enumerate(EPOCHS))


def write_summary(folder: Path, dice: float) -> None:
    (folder / "validation").mkdir(parents=True)
    means = {"foreground_mean": {"Dice": dice, "IoU": dice / 2}}
    (folder / "validation" / "summary.json").write_text(json.dumps(means))


def test_the_loss_is_that_of_the_epoch_that_was_validated(tmp_path: Path) -> None:
    write_summary(tmp_path, 0.5)
    lines = [json.dumps(figures.to_json()) for figures in history()]
    (tmp_path / "progress.jsonl").write_text("\n".join([*lines, '{"epoch": 3, "val']))
    assert metrics_of_fold(tmp_path) == {"dice": 0.5, "iou": 0.25, "validation_loss": 0.125}
    assert metrics_of_fold(tmp_path, best=True)["validation_loss"] == 0.25


def test_trainings_of_nnunet_have_their_figures_in_the_checkpoint(tmp_path: Path) -> None:
    write_summary(tmp_path, 0.5)
    weights = {"w": torch.zeros(1)}
    logging = history().to_logging()
    content = Checkpoint(network_weights=weights, init_args=INIT, trainer_name="nnUNetTrainer", logging=logging)
    write_checkpoint(tmp_path / "checkpoint_final.pth", content)
    assert metrics_of_fold(tmp_path)["validation_loss"] == 0.125
    assert metrics_of_fold(tmp_path, best=True)["validation_loss"] == 0.25


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert metrics_of_fold(tmp_path) == {"dice": None, "iou": None, "validation_loss": None}
    write_summary(tmp_path, float("nan"))
    assert metrics_of_fold(tmp_path)["dice"] is None


@pytest.mark.parametrize(("values", "expected"), [((), None), ((None,), None), ((1.0, None, 2.0), 1.5)])
def test_means_leave_out_what_is_not_there(values: tuple[float | None, ...], expected: float | None) -> None:
    assert mean_of(values) == expected


def test_only_numbers_are_finite() -> None:
    assert [finite(value) for value in (None, float("nan"), float("inf"), 1)] == [None, None, None, 1.0]
