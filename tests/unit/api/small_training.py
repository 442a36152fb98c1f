"""What several tests of the one call share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.api import folds


def model(dataset: Any, configuration: str = "3d_fullres", trainer: str = "Short") -> Path:
    """The folder of a model."""
    return Path(dataset.root) / "results" / dataset.name / f"{trainer}__nnUNetPlans__{configuration}"


def figures(fold: Path) -> list[dict[str, Any]]:
    """Every figure of every epoch."""
    return [json.loads(line) for line in (fold / "progress.jsonl").read_text().splitlines()]


def losses(fold: Path) -> list[float]:
    """The validation loss of every epoch."""
    return [epoch["val_loss"] for epoch in figures(fold)]


def summary(folder: Path) -> dict[str, float]:
    """The mean metrics of the foreground."""
    means: dict[str, float] = json.loads((folder / "summary.json").read_text())["foreground_mean"]
    return means


def nothing_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training be an error."""
    monkeypatch.delattr(folds, "train")
