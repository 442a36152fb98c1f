"""Evaluations as the commands ask for them: formats, odd files, errors, tables."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import ImageError, NnunetError, PredictionError, UsageError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation.metrics import EvaluationSettings
from nnunet_pt.evaluation.requests import EvaluateRequest, dataset_settings, evaluate, label_settings
from nnunet_pt.evaluation.summary import NNUNET_METRICS, CaseMetrics, Summary
from nnunet_pt.evaluation.table import class_names, summary_table

LABELS = Labels(labels={"background": 0, "head": 1, "tail": 2, "ignore": 3})


@pytest.fixture
def folders(tmp_path: Path, image_writer: Any) -> tuple[Path, Path]:
    """References and predictions of the cases a, b and c."""
    random = np.random.default_rng(0)
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            image_writer(random.integers(0, 3, (4, 5, 6)).astype(np.uint8), tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "reference", tmp_path / "prediction"


def request_of(folders: tuple[Path, Path], **options: Any) -> EvaluateRequest:
    settings = EvaluationSettings.of(LABELS, reader_name="SimpleITKIO", file_ending=".nii.gz")
    return EvaluateRequest(
        references=folders[0],
        predictions=folders[1],
        settings=replace(settings, **options),
        names=class_names(LABELS),
        num_processes=0,
        progress=False,
    )


def test_surfaces_are_added_and_nothing_else_changes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plain = json.loads(evaluate(request_of(folders)).path.read_text())
    assert set(plain["foreground_mean"]) == NNUNET_METRICS
    asked = replace(request_of(folders, nsd_tolerances_mm=(1.0, 2.5)), output=tmp_path / "new" / "full.json")
    done = evaluate(asked)
    full = json.loads(done.path.read_text())
    extra = {"HD95_mm", "NSD_1mm", "NSD_2.5mm"}
    places = [full["foreground_mean"], *full["mean"].values()]
    places += [metrics for case in full["metric_per_case"] for metrics in case["metrics"].values()]
    for metrics in places:
        assert {metrics.pop(name) >= 0 for name in extra} == {True}
    assert full == plain
    assert {"HD95 [mm]", "NSD 1 mm", "NSD 2.5 mm"} <= set(map(str.strip, done.text().splitlines()[0].split("  ")))


def test_a_class_that_is_missing_somewhere_does_not_spoil_the_mean_of_distances() -> None:
    def one(name: str, hd: float, hd_other: float, dice: float) -> CaseMetrics:
        empty = dict.fromkeys(NNUNET_METRICS, 0)
        metrics = {1: {**empty, "Dice": 0.5, "HD95_mm": hd}, 2: {**empty, "Dice": dice, "HD95_mm": hd_other}}
        return CaseMetrics(reference_file=Path(name), prediction_file=Path(name), metrics=metrics)

    summary = Summary.of([one("a", 2.0, math.nan, math.nan), one("b", 4.0, math.nan, math.nan)])
    assert summary.mean[1]["HD95_mm"] == 3
    assert summary.foreground_mean["HD95_mm"] == 3
    assert math.isnan(summary.dice)  # as in nnU-Net


def test_every_unusable_file_is_named_and_nothing_is_written(folders: tuple[Path, Path], image_writer: Any) -> None:
    (folders[0] / "a.nii.gz").write_bytes(b"no image")
    (folders[1] / "a.nii.gz").write_bytes(b"no image")
    image_writer(np.zeros((4, 5, 7), np.uint8), folders[1] / "c.nii.gz")
    with pytest.raises(PredictionError) as caught:
        evaluate(request_of(folders))
    text = str(caught.value)
    assert "2 of 3 cases" in text
    for path in (folders[0] / "a.nii.gz", folders[1] / "a.nii.gz", folders[1] / "c.nii.gz"):
        assert str(path) in text
    assert "(4, 5, 7)" in text
    assert not (folders[1] / "summary.json").exists()


def test_two_unreadable_files_are_an_image_error(folders: tuple[Path, Path]) -> None:
    for name in "ab":
        (folders[1] / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"(?s)a\.nii\.gz.*b\.nii\.gz"):
        evaluate(request_of(folders))


def test_odd_values_and_places_are_warned_of_and_counted_as_nnunet_does(
    folders: tuple[Path, Path], image_writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    odd = np.zeros((4, 5, 6), np.uint8)
    odd[0, 0, :3] = 7
    odd[0, 1, :2] = 250
    image_writer(odd, folders[1] / "a.nii.gz")
    image_writer(odd, folders[0] / "b.nii.gz")
    image_writer(np.ones((4, 5, 6), np.uint8), folders[1] / "c.nii.gz", (1.0, 1.0, 2.0))
    with caplog.at_level(logging.WARNING):
        done = evaluate(request_of(folders))
    assert f"{folders[1] / 'a.nii.gz'}: values that are no labels: 7, 250 in 5 voxels" in caplog.text
    assert f"{folders[0] / 'b.nii.gz'}: values that are no labels: 7, 250 in 5 voxels" in caplog.text
    assert f"{folders[1] / 'c.nii.gz'}: the spacing is (2.0, 1.0, 1.0), but (1.0, 1.0, 1.0)" in caplog.text
    assert len(caplog.records) == 1
    assert len(done.result.cases) == 3
    caplog.clear()
    settings = label_settings((1, 2), None, *folders)  # which values there are is not known
    evaluate(replace(request_of(folders), settings=settings, predictions=folders[0]))
    assert not caplog.records


def test_rounded_headers_are_no_difference(
    folders: tuple[Path, Path], image_writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image_writer(np.ones((4, 5, 6), np.uint8), folders[1] / "a.nii.gz", (1.000002, 1.0, 0.999999))
    evaluate(request_of(folders))
    assert not caplog.records


def test_the_output_is_a_json_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"results\.txt"):
        replace(request_of(folders), output=tmp_path / "results.txt")


def write_all(folders: tuple[Path, Path], ending: str, image_writer: Any) -> None:
    for folder in folders:
        for path in sorted(folder.glob("*.nii.gz")):
            path.unlink()
        for name in "xy":
            image_writer(np.ones((5, 6) if ending == ".png" else (4, 5, 6), np.uint8), folder / f"{name}{ending}")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".nii", ".mhd", ".png"])
def test_the_format_is_found_out(folders: tuple[Path, Path], ending: str, image_writer: Any) -> None:
    write_all(folders, ending, image_writer)
    (folders[0] / "README.txt").write_text("annotations")
    (folders[0] / "._x.nii.gz").write_bytes(b"")
    settings = label_settings((1, 2, 1), 4, *folders)
    assert settings.file_ending == ending
    assert settings.labels_or_regions == (1, 2)
    assert not settings.all_labels_known
    done = evaluate(replace(request_of(folders), settings=settings))
    assert [c.prediction_file.name for c in done.result.cases] == [f"x{ending}", f"y{ending}"]
    assert done.result.mean[1]["Dice"] == 1


def test_files_of_another_format_are_left_out_with_a_warning(
    folders: tuple[Path, Path], image_writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image_writer(np.ones((4, 5, 6), np.uint8), folders[0] / "0.nrrd")
    assert label_settings((1,), None, *folders).file_ending == ".nii.gz"  # only these have predictions
    assert not caplog.records
    shutil.copy(folders[0] / "0.nrrd", folders[1])
    assert label_settings((1,), None, *folders).file_ending == ".nrrd"
    assert "not .nii.gz" in caplog.text


def test_damaged_files_do_not_hide_the_format(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.nii.gz").write_bytes(b"no image")
    settings = label_settings((1,), None, *folders)
    with pytest.raises(ImageError, match=r"reference/a\.nii\.gz"):
        evaluate(replace(request_of(folders), settings=settings))


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(PredictionError, match="no files"):
        label_settings((1,), None, tmp_path / "a", tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(PredictionError, match=r"\.txt"):
        label_settings((1,), None, tmp_path / "a", tmp_path / "a")
    with pytest.raises(NnunetError, match="no such file or folder"):
        label_settings((1,), None, tmp_path / "missing", tmp_path / "a")


def test_the_reader_of_the_plans_is_used_if_it_knows_the_files(small: Any) -> None:
    files = small.raw / "dataset.json", small.preprocessed / "nnUNetPlans.json", small.raw / "labelsTr"
    settings, names = dataset_settings(*files)
    assert (settings.reader_name, settings.file_ending, names) == ("SimpleITKIO", ".nii.gz", {1: "a", 2: "b"})
    for reader in ("NibabelIOWithReorient", "UsersOwnReader", "Tiff3DIO"):
        small.plans["image_reader_writer"] = reader
        small.plan()
        expected = reader if reader.startswith("Nibabel") else "SimpleITKIO"
        assert dataset_settings(*files)[0].reader_name == expected


def test_table_shows_names_regions_and_the_worst_case() -> None:
    labels = Labels(labels={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))

    def one(name: str, dice: float) -> CaseMetrics:
        metrics: Any = {**dict.fromkeys(NNUNET_METRICS, 1), "Dice": dice, "IoU": 0.25}
        return CaseMetrics(reference_file=Path(name), prediction_file=Path(name), metrics={(1, 2): metrics, 2: metrics})

    text = summary_table(Summary.of([one("good.nii.gz", 0.9), one("bad.nii.gz", 0.4)]), class_names(labels))
    lines = [line.split() for line in text.splitlines()]
    assert lines[2] == ["whole", "1+2", "2", "0.650", "±", "0.250", "0.400", "bad", "0.250"]
    assert lines[3][:2] == ["core", "2"]
    assert lines[4] == ["mean", "0.650", "0.250"]
    assert max(map(len, text.splitlines())) < 100


def test_table_says_what_the_means_leave_out(folders: tuple[Path, Path], image_writer: Any) -> None:
    for folder, value in zip(folders, (1, 0), strict=True):
        for name in "abc":
            image_writer(np.full((4, 5, 6), value, np.uint8), folder / f"{name}.nii.gz")
    text = evaluate(request_of(folders, nsd_tolerances_mm=(1.0,))).text()
    assert "Neither annotated nor predicted in any case: 2." in text
    assert "In 3 comparisons a class is only in one of the two segmentations" in text
