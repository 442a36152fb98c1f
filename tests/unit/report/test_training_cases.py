from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from fold_folders import CASES, DATASET, SHAPE, make_fold, make_raw, segmentation, write_image

from nnunet_pt.core.errors import ImageError, StorageError
from nnunet_pt.core.files import write_json
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.preprocessing.store import save_case
from nnunet_pt.report.training_cases import CaseImages, slices_of
from nnunet_pt.report.training_overlays import RESOLUTION_DPI, draw_slice, outlines_of
from nnunet_pt.report.training_record import TrainingRecord, read_training
from nnunet_pt.report.training_slices import CaseSlice, preprocessed_slice, slice_axis, upright


@pytest.fixture
def record(tmp_path: Path) -> TrainingRecord:
    return read_training(make_fold(tmp_path, cases=CASES[:2]))


def test_slice_with_most_wrong_voxels(record: TrainingRecord) -> None:
    assert record.validation is not None
    shown = CaseImages.find(record, None, None).slice_of(record.validation.cases[0])
    assert shown.index in (2, 3) and shown.number == SHAPE[0]  # where flesh and stone are both wrong
    assert shown.spacing_mm == (1.0, 1.0)
    truth = segmentation(CASES[0])[shown.index]
    np.testing.assert_array_equal(shown.annotation, truth)
    np.testing.assert_array_equal(shown.prediction, np.roll(truth, 2, axis=1))
    assert shown.channel == 1  # the other one shows nothing
    assert shown.image[truth == 2].mean() > shown.image[truth == 0].mean() + 1


@pytest.mark.parametrize("forward", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_preprocessed_images_come_back_to_their_grid(tmp_path: Path, forward: tuple[int, ...], axis: int) -> None:
    raw = np.random.default_rng(0).normal(size=(2, 9, 7, 8)).astype(np.float32) + 5
    box = [[2, 8], [1, 6], [0, 7]]
    transposed = raw.transpose(0, *(a + 1 for a in forward))
    cropped = transposed[(slice(None), *(slice(*box[i]) for i in range(3)))] if forward else raw
    box = [[low, min(high, n)] for (low, high), n in zip(box, transposed.shape[1:], strict=True)]
    properties = {"shape_before_cropping": transposed.shape[1:], "bbox_used_for_cropping": box}
    save_case(tmp_path, "case", cropped, np.zeros((1, *cropped.shape[1:])), properties, (4, 4, 4))
    kept = np.zeros(transposed.shape[1:], bool)
    kept[tuple(slice(*b) for b in box)] = True
    kept = kept.transpose(np.argsort(forward))
    for index in range(raw.shape[axis + 1]):
        found = preprocessed_slice(tmp_path, "case", axis, index, forward)
        expected, there = raw.take(index, axis + 1), kept.take(index, axis)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found[:, there], expected[:, there], rtol=1e-5)
        assert not there.any() or (found[:, ~there] <= expected[:, there].min(1, keepdims=True) + 1e-5).all()


def test_resampled_images_have_the_size_of_the_annotation(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 10, dtype=np.float32)[:, None], (1, 3, 10, 4))
    properties = {"shape_before_cropping": (6, 25, 8), "bbox_used_for_cropping": [[0, 6], [0, 25], [0, 8]]}
    save_case(tmp_path, "case", ramp, np.zeros((1, 3, 10, 4)), properties, (2, 4, 4))
    found = preprocessed_slice(tmp_path, "case", 0, 5, (0, 1, 2))
    assert found.shape == (1, 25, 8)
    np.testing.assert_allclose(found[0, :, 3], np.linspace(0, 1, 25), atol=0.06)


def test_raw_images_if_they_are_given(record: TrainingRecord, tmp_path: Path) -> None:
    raw = make_raw(tmp_path, CASES[:2])
    assert record.validation is not None
    for given in (raw, raw.parent):
        shown = CaseImages.find(record, None, given).slice_of(record.validation.cases[1])
        assert shown.channel == 0 and shown.image.max() == 2000


def test_moved_data_are_found_where_the_user_says(record: TrainingRecord, tmp_path: Path) -> None:
    (tmp_path / "preprocessed").rename(tmp_path / "elsewhere")
    assert record.validation is not None
    cases = record.validation.cases
    found, problems = slices_of(CaseImages.find(record, None, None), cases)
    assert not found and "was not found" in problems["b"]
    for given in (tmp_path / "elsewhere", tmp_path / "elsewhere" / DATASET):
        found, problems = slices_of(CaseImages.find(record, given, None), cases)
        assert set(found) == {"a.1", "b"} and not problems


def test_files_that_do_not_fit_are_named(record: TrainingRecord, tmp_path: Path) -> None:
    assert record.validation is not None
    case = record.validation.cases[0]
    write_image(record.folder / "validation" / "a.1.nii.gz", np.zeros((6, 20, 17), np.uint8))
    with pytest.raises(ImageError, match=r"a\.1 do not have the same shape"):
        CaseImages.find(record, None, None).slice_of(case)
    (record.folder / "validation" / "a.1.nii.gz").unlink()
    with pytest.raises(StorageError, match=r"The prediction of a\.1 was not found"):
        CaseImages.find(record, None, None).slice_of(replace(case, prediction=tmp_path / "a.1.nii.gz"))


def test_slices_are_cut_across_thick_ones() -> None:
    assert slice_axis((1.0, 1.0, 1.0), (5, 5, 5), None) == 0
    assert slice_axis((1.0, 1.2, 1.0), (5, 5, 5), "SPL") == 0
    assert slice_axis((1.0, 1.2, 1.0), (5, 5, 5), "LPS") == 2
    assert slice_axis((0.5, 0.5, 4.0), (5, 5, 5), "SPL") == 2
    assert slice_axis((999.0, 1.0, 1.0), (1, 5, 5), None) == 0
    assert slice_axis((1.0, 2.0, 2.0), (1, 5, 5), None) == 0


@pytest.mark.parametrize(
    ("letters", "rows_down", "columns_right"),
    [("PL", "P", "L"), ("AL", "P", "L"), ("LP", "P", "L"), ("RA", "P", "L"), ("SP", "I", "P"), ("LS", "I", "L")],
)
def test_slices_are_seenupright(letters: str, rows_down: str, columns_right: str) -> None:
    opposite = dict(zip("SIAPRL", "ISPALR", strict=True))
    names = [[f"{letters[0] if r else opposite[letters[0]]}{letters[1] if c else opposite[letters[1]]}" for c in (0, 1)]
             for r in (0, 1)]  # fmt: skip
    seen = upright(np.array(names), letters)
    assert set(str(seen[1, 1])) == {rows_down, columns_right}  # the corner that lies farthest down and right
    assert rows_down in str(seen[1, 0]) and columns_right in str(seen[0, 1])


def test_outlines_are_where_the_labels_are() -> None:
    annotation = np.zeros((40, 40), np.int32)
    annotation[10:30, 10:30] = 1
    shown = CaseSlice(
        image=np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32), annotation=annotation,
        prediction=np.zeros_like(annotation), spacing_mm=(1.0, 1.0), index=0, number=1, channel=0,
    )  # fmt: skip
    outlines = outlines_of(Labels(labels={"background": 0, "x": 1, "y": 2}), [0, 1])
    assert [o.name for o in outlines] == ["x"]
    picture = draw_slice(shown, outlines).astype(int)
    assert abs(picture.shape[1] - 3 * 2.8 * RESOLUTION_DPI) <= 1  # versions of matplotlib round differently
    third = picture.shape[1] // 3
    coloured = [(np.ptp(picture[:, i * third : (i + 1) * third], axis=2) > 100).sum() for i in range(3)]
    assert coloured[0] == 0 and coloured[1] > 500 and coloured[2] == 0


def test_regions_are_outlined_as_wholes() -> None:
    labels = Labels(labels={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
    assert [(o.name, o.values) for o in outlines_of(labels, [1])] == [("whole", (1, 2))]
    assert [(o.name, o.values) for o in outlines_of(labels, [2])] == [("whole", (1, 2)), ("core", (2,))]
    assert [o.name for o in outlines_of(None, [0, 3])] == ["3"]


def test_damaged_images_are_named(record: TrainingRecord, tmp_path: Path) -> None:
    image = tmp_path / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres" / "b.b2nd"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert record.validation is not None
    found, problems = slices_of(CaseImages.find(record, None, None), record.validation.cases)
    assert set(found) == {"a.1"} and "b.b2nd" in problems["b"]


def test_ct_is_shown_with_the_contrast_of_soft_tissue(record: TrainingRecord) -> None:
    plans = json.loads((record.folder.parent / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization", "CTNormalization"]
    known = dict.fromkeys(("max", "median", "min", "percentile_00_5", "percentile_99_5"), 0.0)
    plans["foreground_intensity_properties_per_channel"] = {"1": {**known, "mean": 40.0, "std": 100.0}}
    write_json(record.folder.parent / "plans.json", plans)
    ct = read_training(record.folder)
    assert ct.validation is not None
    assert CaseImages.find(ct, None, None).slice_of(ct.validation.cases[0]).window == (-2.0, 2.0)


def test_zeros_outside_of_the_mask_are_dark(tmp_path: Path) -> None:
    image = np.full((2, 2, 4, 4), -1.0, np.float32)
    image[:, :, 0] = 0
    properties = {"shape_before_cropping": (2, 4, 4), "bbox_used_for_cropping": [[0, 2], [0, 4], [0, 4]]}
    save_case(tmp_path, "case", image, np.zeros((1, 2, 4, 4)), properties, (2, 4, 4))
    found = preprocessed_slice(tmp_path, "case", 0, 0, (0, 1, 2), masked=(True, False))
    assert (found[0, 0] == -1).all() and (found[1, 0] == 0).all()
