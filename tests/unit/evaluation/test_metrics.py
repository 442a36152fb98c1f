"""Comparing segmentations, and the summary of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_pt.core.errors import ImageError, PredictionError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation import counting
from nnunet_pt.evaluation.metrics import EvaluationSettings, compute_metrics, evaluate_folder
from nnunet_pt.evaluation.summary import CaseMetrics, Summary
from nnunet_pt.plans.plans import Plans

SHARED = Path(__file__).parents[4] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "models"
DATA = Path(os.environ.get("CONFORMANCE_DATA", SHARED / "data"))

SETTINGS = EvaluationSettings(
    labels_or_regions=(1, 2), ignore_label=None, reader_name="SimpleITKIO", file_ending=".nii.gz"
)


def by_masks(reference: np.ndarray, prediction: np.ndarray, label: LabelValue, ignore: int | None) -> dict[str, float]:
    """One label at a time, from the definitions."""
    group = [label] if isinstance(label, int) else list(label)
    counts = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    in_reference, in_prediction = np.isin(reference, group) & counts, np.isin(prediction, group) & counts
    tp = int((in_reference & in_prediction).sum())
    fp = int((in_prediction & ~in_reference).sum())
    fn = int((in_reference & ~in_prediction).sum())
    empty = tp + fp + fn == 0
    return {
        "Dice": math.nan if empty else 2 * tp / (2 * tp + fp + fn),
        "IoU": math.nan if empty else tp / (tp + fp + fn),
        "FP": fp,
        "TP": tp,
        "FN": fn,
        "TN": int((~in_reference & ~in_prediction & counts).sum()),
        "n_pred": fp + tp,
        "n_ref": fn + tp,
    }


@given(data=st.data(), kind=st.sampled_from([np.float32, np.uint8, np.int64]), ignore=st.sampled_from([None, 5]))
@settings(deadline=None, max_examples=60)
def test_metrics_follow_their_definitions(data: st.DataObject, kind: type, ignore: int | None) -> None:
    shape = (1, 3, 4, 5)
    values = st.integers(0, 7)
    reference, prediction = (data.draw(hnp.arrays(kind, shape, elements=values)) for _ in range(2))
    labels: Sequence[LabelValue] = (1, 2, (1, 2, 3), (3, 4), 9, 0)
    made = compute_metrics(reference, prediction, labels, ignore)
    for label in labels:
        np.testing.assert_equal(made[label], by_masks(reference, prediction, label, ignore))


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    reference, prediction = random.integers(0, 4, (2, 20, 21, 22)).astype(np.float32)
    reference[:, 10:] = prediction[:, 10:] = 0
    expected = compute_metrics(reference, prediction, (1, (2, 3)), 3)
    monkeypatch.setattr(counting, "_PIECE", 101)
    assert compute_metrics(reference, prediction, (1, (2, 3)), 3) == expected
    order = np.asfortranarray(reference)
    assert compute_metrics(order, prediction, (1, (2, 3)), 3) == expected


@pytest.mark.parametrize("odd", [0.5, -1, 3e9, 70000, math.nan])
def test_values_that_are_no_labels_belong_to_no_class(odd: float) -> None:
    reference = np.array([1, 1, 0, 2], np.float32)
    prediction = np.array([1, odd, odd, 2], np.float32)
    made = compute_metrics(reference, prediction, (1, 2))
    assert (made[1]["TP"], made[1]["FN"], made[1]["FP"]) == (1, 1, 0)
    assert made[2]["Dice"] == 1
    assert made[1]["TN"] == 2


def test_large_labels_need_no_large_tables() -> None:
    values = np.array([0, 65535, 40000, 65535])
    assert compute_metrics(values, values, (65535, 40000))[65535]["TP"] == 2


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compute_metrics(np.zeros((2, 3)), np.zeros((3, 2)), (1,))


def case(name: str, **dice: float) -> CaseMetrics:
    values = {int(label[1:]): {"Dice": d, "TP": 3} for label, d in dice.items()}
    return CaseMetrics(reference_file=Path("r") / name, prediction_file=Path("p") / name, metrics=values)


def test_means_leave_out_what_is_not_defined() -> None:
    made = Summary.of([case("a", _0=0.9, _1=0.5, _2=math.nan), case("b", _0=0.7, _1=0.7, _2=0.2)])
    assert made.mean[1]["Dice"] == pytest.approx(0.6)
    assert made.mean[2]["Dice"] == 0.2
    assert made.dice == pytest.approx(0.4)  # without background


def test_a_label_that_never_occurs_makes_the_foreground_mean_undefined() -> None:
    made = Summary.of([case("a", _1=0.5, _2=math.nan)])
    assert math.isnan(made.mean[2]["Dice"])
    assert math.isnan(made.dice)
    assert made.foreground_mean["TP"] == 3


def test_file_has_sorted_keys_and_text_for_labels(tmp_path: Path) -> None:
    metrics_of = {label: {"TP": 1, "Dice": 0.5, "FN": math.nan} for label in (2, 10, (1, 2, 3))}
    one = CaseMetrics(reference_file=Path("/r/x.nii"), prediction_file=Path("/p/x.nii"), metrics=metrics_of)
    Summary.of([one]).save(tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    content = json.loads(text)
    assert list(content) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(content["mean"]) == ["(1, 2, 3)", "10", "2"]
    assert list(content["mean"]["2"]) == ["Dice", "FN", "TP"]
    assert list(content["metric_per_case"][0]) == ["metrics", "prediction_file", "reference_file"]
    assert content["metric_per_case"][0]["prediction_file"] == "/p/x.nii"
    assert '"FN": NaN' in text
    assert '"TP": 1,' in text or '"TP": 1\n' in text  # counts of a case stay whole numbers
    assert text.startswith('{\n    "foreground_mean"')


@pytest.fixture
def folders(tmp_path: Path, image_writer: Any) -> tuple[Path, Path]:
    """References and predictions of the cases a, b and c with 4 x 5 x 6 voxels."""
    random = np.random.default_rng(0)
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            image_writer(random.integers(0, 3, (4, 5, 6)).astype(np.uint8), tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "reference", tmp_path / "prediction"


def test_folders_with_and_without_workers(folders: tuple[Path, Path]) -> None:
    here = evaluate_folder(*folders, SETTINGS, progress=False)
    there = evaluate_folder(*folders, SETTINGS, num_processes=2, progress=False)
    assert here == there
    assert [c.prediction_file.name for c in here.cases] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert here.cases[0].reference_file == folders[0] / "a.nii.gz"
    assert set(here.mean) == {1, 2}


def test_only_the_cases_that_are_asked_for(folders: tuple[Path, Path]) -> None:
    made = evaluate_folder(*folders, SETTINGS, cases=("c", "a"), progress=False)
    assert [c.prediction_file.name for c in made.cases] == ["a.nii.gz", "c.nii.gz"]


def test_other_files_do_not_matter(folders: tuple[Path, Path]) -> None:
    for name in ("summary.json", "a.npz", "._a.nii.gz", ".partial-1-x.nii.gz"):
        (folders[1] / name).write_bytes(b"")
    assert len(evaluate_folder(*folders, SETTINGS, progress=False).cases) == 3


def test_missing_predictions_are_named_unless_they_are_allowed(folders: tuple[Path, Path]) -> None:
    (folders[1] / "a.nii.gz").unlink()
    (folders[1] / "c.nii.gz").unlink()
    with pytest.raises(PredictionError, match=r"no prediction for a\.nii\.gz, c\.nii\.gz"):
        evaluate_folder(*folders, SETTINGS, progress=False)
    assert len(evaluate_folder(*folders, SETTINGS, chill=True, progress=False).cases) == 1
    with pytest.raises(PredictionError, match=r"no prediction for c\.nii\.gz"):
        evaluate_folder(*folders, SETTINGS, cases=("b", "c"), chill=True, progress=False)


@pytest.mark.parametrize("chill", [True, False])
def test_missing_references_are_named(folders: tuple[Path, Path], chill: bool) -> None:
    (folders[0] / "b.nii.gz").unlink()
    with pytest.raises(PredictionError, match=r"no reference in .*reference for b\.nii\.gz"):
        evaluate_folder(*folders, SETTINGS, chill=chill, progress=False)


def test_an_empty_folder_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PredictionError, match=r"no file that ends with \.nii\.gz"):
        evaluate_folder(folders[0], tmp_path / "empty", SETTINGS, chill=True, progress=False)


def test_other_shapes_and_damaged_files_name_the_file(folders: tuple[Path, Path], image_writer: Any) -> None:
    image_writer(np.zeros((4, 5, 7), np.uint8), folders[1] / "b.nii.gz")
    with pytest.raises(PredictionError, match=r"prediction/b\.nii\.gz") as caught:
        evaluate_folder(*folders, SETTINGS, progress=False)
    assert "(4, 5, 7)" in str(caught.value)
    assert "(4, 5, 6)" in str(caught.value)
    for folder in folders:
        (folder / "b.nii.gz").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"b\.nii\.gz"):
        evaluate_folder(*folders, SETTINGS, progress=False)


def recorded() -> list[Any]:
    found = [p.parent for p in sorted(GOLDEN.glob("*/summary.json"))]
    skip = pytest.mark.skip(reason=f"there are no recorded models in {GOLDEN} (CONFORMANCE_GOLDEN)")
    return [pytest.param(p, id=p.name) for p in found] or [pytest.param(None, marks=skip)]


@pytest.mark.parametrize("gold", recorded())
def test_recorded_evaluation(gold: Path, tmp_path: Path) -> None:
    references = DATA / json.loads((gold / "job.json").read_text())["dataset"] / "labelsTs"
    if not references.is_dir():
        pytest.skip(f"there is no {references} (CONFORMANCE_DATA)")
    description = DatasetDescription.load(gold / "model" / "dataset.json")
    plans = Plans.load(gold / "model" / "plans.json")
    found = EvaluationSettings.of(
        Labels.from_description(description),
        reader_name=plans.image_reader_writer,
        file_ending=description.file_ending,
    )
    evaluate_folder(references, gold / "predictions", found, chill=True, progress=False).save(tmp_path / "s.json")
    made, expected = (json.loads(p.read_text()) for p in (tmp_path / "s.json", gold / "summary.json"))
    for entry in made["metric_per_case"]:
        entry |= {key: Path(entry[key]).name for key in ("prediction_file", "reference_file")}
    assert json.dumps(made) == json.dumps(expected)
