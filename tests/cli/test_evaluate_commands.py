"""The commands that compare folders of segmentations, as users run them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.cli import evaluate_folder, evaluate_simple


@pytest.fixture
def files(small: Any, tmp_path: Path) -> list[str]:
    """Arguments of nnUNetv2_evaluate_folder for three cases."""
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for name in ("a", "b", "c"):
        small.add(name)
        shutil.copy(small.label(name), predictions)
    small.add("c", seed=1)
    plans = small.preprocessed / "nnUNetPlans.json"
    return [
        *(str(small.raw / "labelsTr"), str(predictions), "-djfile", str(small.raw / "dataset.json")),
        *("-pfile", str(plans), "-np", "1", "--no_pbar"),
    ]


def test_summary_lies_beside_the_predictions(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_folder.main(files) == 0
    shown = capsys.readouterr().out
    summary = json.loads((Path(files[1]) / "summary.json").read_text())
    assert f"{summary['foreground_mean']['Dice']:.3f}" in shown
    assert "Metrics of 3 cases" in shown
    assert str(Path(files[1]) / "summary.json") in shown
    first = summary["metric_per_case"][0]
    assert first["reference_file"] == f"{files[0]}/a.nii.gz"
    assert first["prediction_file"] == f"{files[1]}/a.nii.gz"
    assert not any(name.startswith(("HD", "NSD")) for name in first["metrics"]["1"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--surface"], {"HD95_mm", "NSD_1mm"}),
        (["-nsd_tolerance_mm", "2", "0.5"], {"HD95_mm", "NSD_2mm", "NSD_0.5mm"}),
        (["--surface", "-nsd_tolerance_mm", "3"], {"HD95_mm", "NSD_3mm"}),
    ],
)
def test_surfaces_on_request(files: list[str], tmp_path: Path, options: list[str], names: set[str]) -> None:
    target = tmp_path / "made" / "s.json"
    assert evaluate_folder.main([*files, "-o", str(target), *options]) == 0
    found = json.loads(target.read_text())["foreground_mean"]
    assert {name for name in found if name.startswith(("HD", "NSD"))} == names
    assert not (Path(files[1]) / "summary.json").exists()


def test_both_commands_agree(files: list[str], tmp_path: Path) -> None:
    outputs = [tmp_path / "folder.json", tmp_path / "simple.json"]
    assert evaluate_folder.main([*files, "-o", str(outputs[0])]) == 0
    simple = [*files[:2], "-l", "1", "2", "-np", "1", "--no_pbar", "-o", str(outputs[1])]
    assert evaluate_simple.main(simple) == 0
    assert outputs[0].read_text() == outputs[1].read_text()


def test_ignored_voxels_do_not_count(files: list[str], tmp_path: Path, image_writer: Any) -> None:
    labels = np.array([[[0, 1, 1, 3]]], np.uint8)
    image_writer(labels, Path(files[0]) / "a.nii.gz")
    image_writer(np.ones_like(labels), Path(files[1]) / "a.nii.gz")
    for name in "bc":
        (Path(files[1]) / f"{name}.nii.gz").unlink()
    target = tmp_path / "s.json"
    simple = [*files[:2], "-l", "1", "-il", "3", "--chill", "-np", "1", "--no_pbar", "-o", str(target)]
    assert evaluate_simple.main(simple) == 0
    found = json.loads(target.read_text())["mean"]["1"]
    assert (found["TP"], found["FP"], found["FN"], found["TN"]) == (2, 1, 0, 0)


def test_missing_predictions_are_listed(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ac":
        (Path(files[1]) / f"{name}.nii.gz").unlink()
    assert evaluate_folder.main(files) == 1
    error = capsys.readouterr().err
    assert "no prediction for a.nii.gz, c.nii.gz" in error
    assert "--chill" in error
    assert evaluate_folder.main([*files, "--chill"]) == 0


def test_every_bad_file_is_named(files: list[str], image_writer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(files[0]) / "b.nii.gz").write_bytes(b"no image")
    image_writer(np.zeros((3, 4, 5), np.uint8), Path(files[1]) / "c.nii.gz")
    assert evaluate_folder.main(files) == 1
    error = capsys.readouterr().err
    assert f"{files[0]}/b.nii.gz" in error
    assert f"{files[1]}/c.nii.gz" in error
    assert not (Path(files[1]) / "summary.json").exists()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (["-o", "summary.txt"], 2),
        (["-djfile", "missing.json"], 1),
        (["-pfile", "missing.json"], 1),
        (["-nsd_tolerance_mm", "0"], 2),
        (["--unknown"], 2),
    ],
)
def test_arguments_that_cannot_be_meant(files: list[str], change: list[str], status: int) -> None:
    try:
        assert evaluate_folder.main([*files, *change]) == status
    except SystemExit as stop:
        assert stop.code == status
    assert not (Path(files[1]) / "summary.json").exists()


@pytest.mark.parametrize("labels", [["-l", "-1"], ["-l", "a"], ["-l", "1.5"], ["-l", "70000"], []])
def test_labels_are_whole_numbers(files: list[str], labels: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate_simple.main([*files[:2], *labels])
    assert stop.value.code == 2
