"""Where reports find what they are about, and where they go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nnunet_pt.core.errors import TrainingError, UsageError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.report.page import write_page

DATASET_REPORT: Final = "dataset_report.html"
TRAINING_REPORT: Final = "training_report.html"
COMPARISON_REPORT: Final = "comparison_report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """A report that was written.

    Attributes:
        path: The file.
        about: What it is about.
        num_bytes: Its size.
    """

    path: Path
    about: str
    num_bytes: int

    def summary(self) -> str:
        """Where it is."""
        size = f"{self.num_bytes / 1e6:.1f} MB" if self.num_bytes >= 1e6 else f"{max(1, self.num_bytes // 1000)} kB"
        return f"Report on {self.about} ({size}): {self.path}"


def write_report(path: Path, html: str, about: str) -> ReportResult:
    """Write a report.

    Raises:
        StorageError: If that is not possible.
    """
    path = path.absolute()
    write_page(path, html)
    return ReportResult(path=path, about=about, num_bytes=path.stat().st_size)


def dataset_report_path(name: str, workspace: Workspace) -> Path:
    """The default place: beside the plans, or in the current folder if nnUNet_preprocessed is not set."""
    root = workspace.settings.preprocessed
    return Path(f"{name}_{DATASET_REPORT}") if root is None else root / name / DATASET_REPORT


def plans_path(reference: str, plans_name: str, workspace: Workspace) -> Path:
    """The plans file that is meant.

    Args:
        reference: Number or name of a dataset, a plans file, or a folder with plans.json.
        plans_name: Name of the plans of a dataset.
        workspace: Where the datasets are.

    Raises:
        DatasetError: If there is no such dataset.
        UsageError: If it is nothing of these.
    """
    path = Path(reference).expanduser()
    if reference.endswith(".json") or path.is_file():
        return path
    if not reference.isdecimal() and (path / "plans.json").is_file():
        return path / "plans.json"
    if os.sep in reference and path.is_dir():
        raise UsageError(f"There is no plans.json in {path}.", expected="the folder of a model, or a plans file")
    return workspace.preprocessed / resolve_dataset_name(reference, workspace) / f"{plans_name}.json"


def fold_path(words: Sequence[str], trainer: str, plans_name: str, workspace: Workspace) -> Path:
    """The folder of a fold.

    Args:
        words: Dataset, configuration and fold, or the folder alone.
        trainer: Of the training.
        plans_name: Of the training.
        workspace: Where the models are.

    Raises:
        UsageError: If there are neither one nor three words.
        DatasetError: If there is no such dataset.
        TrainingError: If there is no such training.
    """
    if len(words) == 1:
        return _existing(Path(words[0]).expanduser(), ())
    if len(words) != 3:
        raise UsageError(
            "What training is meant?",
            found=" ".join(words),
            expected="dataset, configuration and fold, for example  4 3d_fullres 0  or the folder of a fold",
        )
    dataset, configuration, fold = words
    models = workspace.results / resolve_dataset_name(dataset, workspace)
    name = trainer.rpartition(":")[2]  # of a trainer in a file of the user's
    known = sorted(str(p.relative_to(models)) for p in models.glob("*__*__*/fold_*") if p.is_dir())
    return _existing(models / f"{name}__{plans_name}__{configuration}" / f"fold_{fold}", known)


def _existing(folder: Path, known: Sequence[str]) -> Path:
    if not folder.is_dir():
        raise TrainingError(
            f"There is no training in {folder}.",
            found=f"these: {', '.join(known)}" if known else None,
            remedy="choose one of them with CONFIGURATION, FOLD, -tr and -p" if known else "check the path",
        )
    return folder
