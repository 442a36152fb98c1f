from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, StorageError, TrainingError, UsageError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.report.places import dataset_report_path, fold_path, plans_path, write_report


def test_where_a_dataset_report_goes(small: Any) -> None:
    assert dataset_report_path(small.name, small.workspace) == small.preprocessed / "dataset_report.html"
    only_raw = Workspace(Settings(raw=small.root))
    assert dataset_report_path(small.name, only_raw) == Path(f"{small.name}_dataset_report.html")


def test_plans_by_dataset_file_or_folder(small: Any, tmp_path: Path) -> None:
    expected = small.preprocessed / "otherPlans.json"
    number = str(int(small.name[7:10]))
    for reference in (number, small.name):
        assert plans_path(reference, "otherPlans", small.workspace) == expected
    assert plans_path("some/plans.json", "x", small.workspace) == Path("some/plans.json")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plans.json").write_text("{}")
    assert plans_path(str(tmp_path / "model"), "x", small.workspace) == tmp_path / "model" / "plans.json"
    with pytest.raises(DatasetError, match="777"):
        plans_path("777", "x", small.workspace)
    with pytest.raises(UsageError, match="nonsense"):
        plans_path("nonsense", "x", small.workspace)
    with pytest.raises(UsageError, match="There is no plans"):
        plans_path(str(tmp_path), "x", small.workspace)


def test_folds_by_folder_or_by_name(small: Any) -> None:
    models = small.root / "results" / small.name
    fold = models / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    own = models / "Mine__nnUNetPlans__2d" / "fold_all"
    own.mkdir(parents=True)
    assert fold_path([str(fold)], "x", "y", small.workspace) == fold
    words = [small.name, "3d_fullres", "0"]
    assert fold_path(words, "nnUNetTrainer", "nnUNetPlans", small.workspace) == fold
    assert fold_path([small.name, "2d", "all"], "trainers.py:Mine", "nnUNetPlans", small.workspace) == own
    with pytest.raises(TrainingError, match="nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0"):
        fold_path([small.name, "3d_fullres", "1"], "nnUNetTrainer", "nnUNetPlans", small.workspace)
    with pytest.raises(TrainingError, match="check the path"):
        fold_path(["nowhere"], "x", "y", small.workspace)
    with pytest.raises(UsageError, match="4 3d_fullres"):
        fold_path(["4", "3d_fullres"], "x", "y", small.workspace)


def test_a_report_says_where_it_is(tmp_path: Path) -> None:
    result = write_report(tmp_path / "new" / "page.html", "x" * 200_000, "Dataset001")
    assert result.path.read_text() == "x" * 200_000
    assert result.summary() == f"Report on Dataset001 (200 kB): {tmp_path}/new/page.html"


def test_a_folder_where_a_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        write_report(tmp_path, "<html>", "something")
    assert caught.value.found == "there is a folder of this name" and str(tmp_path) in str(caught.value)
