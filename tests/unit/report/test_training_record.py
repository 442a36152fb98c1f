from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from fold_folders import CLASSES, DATASET, make_fold

from nnunet_pt.core.errors import StorageError, UsageError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.report.training_record import read_training
from nnunet_pt.report.training_validation import case_name, read_validation


@pytest.mark.parametrize("ours", [True, False])
def test_folders_of_both_packages(tmp_path: Path, ours: bool) -> None:
    record = read_training(make_fold(tmp_path, ours=ours))
    assert (record.dataset, record.trainer, record.plans_name) == (DATASET, "nnUNetTrainer", "nnUNetPlans")
    assert (record.configuration_name, record.fold, record.finished) == ("3d_fullres", "0", True)
    assert record.planned_epochs == 4 and len(record.history.epochs) == 4
    assert record.class_names == CLASSES
    assert record.settings["initial_lr"] == 0.01 and record.settings["deep_supervision"] is True
    assert (record.recipe is not None) == ours
    assert record.gaps == ()
    assert record.validation is not None and record.validation.cases[0].case == "a.1"


def test_running_training_is_not_finished(tmp_path: Path) -> None:
    record = read_training(make_fold(tmp_path, epochs=2, finished=False))
    assert not record.finished and record.planned_epochs == 4 and record.validation is None
    assert record.gaps == ()


def test_logs_alone_are_enough(tmp_path: Path) -> None:
    folder = make_fold(tmp_path, ours=False, finished=False)
    for name in ("checkpoint_latest.pth", "debug.json", "../plans.json", "../dataset.json"):
        (folder / name).unlink()
    record = read_training(folder)
    assert record.title == "nnUNetTrainer, 3d_fullres, fold 0" and record.dataset == DATASET
    assert record.class_names == ("class_1", "class_2") and len(record.history.epochs) == 4
    assert "no checkpoint" in " ".join(record.gaps)


def test_everything_damaged_is_a_gap(tmp_path: Path) -> None:
    folder = make_fold(tmp_path)
    names = ["recipe.json", "debug.json", "transfer_report.json", "validation/summary.json", "../dataset.json"]
    for name in names:
        (folder / name).write_text('{"broken": ')
    record = read_training(folder)
    gaps = " ".join(record.gaps)
    for name in names:
        assert Path(name).name in gaps
    assert record.recipe is None and record.validation is None and record.transfer is None
    assert record.labels is not None  # from the checkpoint
    assert record.fold == "0"


def test_summary_of_something_else_is_a_gap(tmp_path: Path) -> None:
    folder = make_fold(tmp_path)
    (folder / "validation" / "summary.json").write_text('{"mean": []}')
    record = read_training(folder)
    assert record.validation is None
    assert "is not the summary of an evaluation" in record.gaps[0] and "--val" in record.gaps[0]


def test_not_a_fold_folder(tmp_path: Path) -> None:
    folder = make_fold(tmp_path)
    with pytest.raises(UsageError, match="a model with fold_0") as info:
        read_training(folder.parent)
    assert str(folder) in str(info.value)
    with pytest.raises(UsageError, match=r"There is no folder .*fold_3") as info:
        read_training(folder.parent / "fold_3")
    assert "fold_0 beside it" in str(info.value)
    with pytest.raises(UsageError, match="is not a folder") as info:
        read_training(folder / "checkpoint_final.pth")
    assert f"give {folder}" in str(info.value)
    with pytest.raises(UsageError, match="neither checkpoints nor logs"):
        read_training(tmp_path)


def test_names_of_cases_and_classes(tmp_path: Path) -> None:
    assert case_name(Path("x/a.1.nii.gz"), ".nii.gz") == "a.1"
    assert case_name(Path("x/a.1.nii.gz"), None) == "a.1"
    assert case_name(Path("a.png"), ".nii.gz") == "a"
    metrics = {"Dice": 0.5, "n_ref": 3, "n_pred": 4}
    nothing = {"Dice": math.nan, "n_ref": 0, "n_pred": 0}
    case = {"prediction_file": "p/a.nii.gz", "reference_file": "r/a.nii.gz"}
    keys = ("0", "(1, 2)", "2", "7")
    summary = {
        "foreground_mean": metrics,
        "mean": dict.fromkeys(keys, metrics),
        "metric_per_case": [{**case, "metrics": {key: nothing if key == "2" else metrics for key in keys}}],
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    labels = Labels(labels={"background": 0, "whole": (1, 2), "core": (2,)}, regions_class_order=(1, 2))
    found = read_validation(tmp_path / "summary.json", labels, ".nii.gz")
    assert found.class_names == ("whole", "core", "class 7")  # background does not count
    assert found.cases[0].mean_dice == 0.5
    (tmp_path / "summary.json").write_text("[1")
    with pytest.raises(StorageError, match="not valid JSON"):
        read_validation(tmp_path / "summary.json", labels, ".nii.gz")
