"""The scripts behind the demo: artificial datasets, and the table at its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.core.files import read_json, write_json

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make_phantom(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("make_phantom")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


def test_more_cases_are_added_to_those_that_are_there(make_phantom: ModuleType, tmp_path: Path) -> None:
    phantom = replace(make_phantom.PHANTOMS[1], num_training=1, num_test=1)
    more = replace(phantom, num_training=2)
    for raw, phantoms in ((tmp_path / "twice", (phantom, more, phantom)), (tmp_path / "once", (more,))):
        made = [make_phantom.make_dataset(p, raw, seed=7) for p in phantoms]
        assert made == [True, True, False][: len(made)]
    twice, once = (tmp_path / raw / phantom.name for raw in ("twice", "once"))
    assert content(twice) == content(once) and len(content(once)) == 6
    assert read_json(twice / "dataset.json") == read_json(once / "dataset.json")
    assert read_json(once / "dataset.json")["numTraining"] == 2


def test_another_seed_makes_other_cases(make_phantom: ModuleType, tmp_path: Path) -> None:
    phantom = replace(make_phantom.PHANTOMS[1], num_training=1, num_test=0)
    for seed in (1, 2):
        make_phantom.make_dataset(phantom, tmp_path / str(seed), seed=seed)
    assert content(tmp_path / "1").keys() == content(tmp_path / "2").keys()
    assert content(tmp_path / "1") != content(tmp_path / "2")


@pytest.mark.parametrize("index", [0, 1])
def test_every_case_has_every_label_within_the_body(make_phantom: ModuleType, index: int) -> None:
    phantom = make_phantom.PHANTOMS[index]
    for seed in range(4):
        image, segmentation = make_phantom.make_case(phantom, np.random.default_rng(seed), is_t2=seed % 2 == 1)
        assert image.GetSize() == segmentation.GetSize() and image.GetSpacing() == segmentation.GetSpacing()
        spacing = np.array(image.GetSpacing()[::-1]) / phantom.spacing_mm
        assert np.all((spacing > 0.89) & (spacing < 1.11))
        grey, labels = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(segmentation)
        assert set(np.unique(labels)) == set(phantom.labels.values())
        assert grey[labels > 0].mean() > 4 * grey[:, :2, :2].mean()  # around the body there is nothing but noise


def test_lesions_are_part_of_the_liver_for_pretraining(make_phantom: ModuleType) -> None:
    pretraining, finetuning = make_phantom.PHANTOMS
    assert pretraining.marked["lesion"] == pretraining.labels["liver"]
    assert finetuning.marked["lesion"] == finetuning.labels["lesion"]


def evaluated(folder: Path, dice: dict[str, float | None]) -> None:
    """What an evaluation leaves in a folder of predictions or a validation."""
    values = {label: {"Dice": value} for label, value in dice.items()}
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", {"mean": values, "foreground_mean": {"Dice": 0.5}})


def show_dice(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROJECT / "scripts" / "show_dice.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_dice_of_predictions_side_by_side(tmp_path: Path) -> None:
    for name, dice in (("one", {"1": 0.25, "(1, 2)": None}), ("two", {"1": 0.75, "(1, 2)": 0.5})):
        evaluated(tmp_path / name, dice)
        write_json(tmp_path / name / "dataset.json", {"labels": {"background": 0, "liver": 1, "whole": [1, 2]}})
    done = show_dice(tmp_path / "one", tmp_path / "two", "-names", "from scratch", "fine-tuned")
    assert done.stdout.splitlines() == [
        "       from scratch  fine-tuned",
        "-------------------------------",
        "liver         0.250       0.750",
        "whole             -       0.500",
        "-------------------------------",
        "mean          0.500       0.500",
    ]


def test_dice_of_a_fold_and_its_trainer(tmp_path: Path) -> None:
    fold = tmp_path / "Mine__nnUNetPlans__2d" / "fold_0"
    evaluated(fold / "validation", {"1": 0.125})
    write_json(fold.parent / "dataset.json", {"labels": {"background": 0, "liver": 1}})
    first, _, liver, *_ = show_dice(fold).stdout.splitlines()
    assert first.split() == ["Mine"] and liver.split() == ["liver", "0.125"]
    assert "1 folders, but 2 names" in show_dice(fold, "-names", "a", "b").stderr
