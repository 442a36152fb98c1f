"""What a call gives back, and where its figures are read from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from nnunet_pt.core.files import read_json, storage_errors
from nnunet_pt.evaluation.summary import FILE_NAME as SUMMARY_FILE
from nnunet_pt.training.history import History
from nnunet_pt.training.state import FINAL
from nnunet_pt.training.task import VALIDATION_FOLDER
from nnunet_pt.training.text_log import FIGURES_NAME
from nnunet_pt.transfer.checkpoint import read_checkpoint


class TrainingMetrics(TypedDict):
    """How good a training is; None where there is no such figure.

    Attributes:
        dice: Mean Dice of the foreground in the final validation of whole cases.
        iou: Mean intersection over union of the foreground there.
        validation_loss: Loss on the validation patches of the epoch whose weights are validated: the last one, or the
            one with the best moving average of the Dice. Of a cross-validation the mean of the folds.
    """

    dice: float | None
    iou: float | None
    validation_loss: float | None


class TrainingSuccess(TypedDict):
    """A finished training.

    Attributes:
        status: "success".
        model_path: Folder of the model, which prediction takes; each fold is a folder in it.
        dataset_id: Number of the dataset with three digits.
        configuration: Name of the configuration.
        fold: "0", "1"..., "all" or "cv".
        metrics: How good it is.
    """

    status: Literal["success"]
    model_path: str
    dataset_id: str
    configuration: str
    fold: str
    metrics: TrainingMetrics


class TrainingFailure(TypedDict):
    """What went wrong.

    Attributes:
        status: "error".
        error: What is wrong, where, and what to do; what a command prints behind "Error:".
    """

    status: Literal["error"]
    error: str


TrainingOutcome = TrainingSuccess | TrainingFailure


def metrics_of_fold(folder: Path, *, best: bool = False) -> TrainingMetrics:
    """The figures that a finished training has left in the folder of its fold.

    Args:
        folder: Folder of the fold.
        best: Whether the best weights were validated instead of the last ones.

    Raises:
        NnunetError: If a file is damaged.
    """
    summary = folder / VALIDATION_FOLDER / SUMMARY_FILE
    means: Mapping[str, Any] = read_json(summary).get("foreground_mean", {}) if summary.is_file() else {}
    return TrainingMetrics(
        dice=finite(means.get("Dice")),
        iou=finite(means.get("IoU")),
        validation_loss=_validation_loss(folder, best=best),
    )


def finite(value: float | None) -> float | None:
    """A plain number; None if it is none, as the mean over cases without foreground."""
    return None if value is None or not math.isfinite(value) else float(value)


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are numbers; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _validation_loss(folder: Path, *, best: bool) -> float | None:
    losses = _losses_and_averages(folder)
    if not losses:
        return None
    rated = [(average, loss) for loss, average in losses if average is not None]
    loss = max(rated, key=lambda pair: pair[0])[1] if best and rated else losses[-1][0]
    return finite(loss)


def _losses_and_averages(folder: Path) -> list[tuple[float | None, float | None]]:
    """Validation loss and moving average of the Dice of each epoch; trainings of nnU-Net have them in a checkpoint."""
    figures, final = folder / FIGURES_NAME, folder / FINAL
    if figures.is_file():
        with storage_errors(figures):
            lines = figures.read_text(encoding="utf-8").splitlines()
        epochs = [epoch for line in lines if (epoch := _epoch_of(line))]
        return [(epoch.get("val_loss"), epoch.get("ema_fg_dice")) for epoch in epochs]
    if final.is_file():
        history = History.from_logging(read_checkpoint(final).logging)
        return [(epoch.val_loss, finite(epoch.ema_fg_dice)) for epoch in history]
    return []


def _epoch_of(line: str) -> dict[str, Any]:
    try:
        epoch = json.loads(line)
    except ValueError:  # cut off when a process was killed
        return {}
    return epoch if isinstance(epoch, dict) else {}
