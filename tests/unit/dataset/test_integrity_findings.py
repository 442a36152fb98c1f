"""The integrity check finds everything in everything, and says so in one report."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nnunet_pt.core.errors import DatasetError
from nnunet_pt.dataset import integrity
from nnunet_pt.dataset.case_check import count_values
from nnunet_pt.dataset.integrity import check_dataset, dataset_state, verify_dataset_integrity
from nnunet_pt.dataset.integrity_report import KINDS, Finding, IntegrityReport

SHAPE = (6, 7, 8)


class Dataset(Protocol):
    """See conftest."""

    folder: Path
    random: np.random.Generator
    description: dict[str, Any]

    def save(self) -> None: ...
    def image(self, case: str, channel: int) -> Path: ...
    def label(self, case: str) -> Path: ...
    def write_image(self, case: str, channel: int, array: NDArray[Any], **geometry: Any) -> None: ...
    def write_label(self, case: str, array: NDArray[Any], **geometry: Any) -> None: ...


def check(dataset: Dataset) -> IntegrityReport:
    return check_dataset(dataset.folder, num_workers=0, progress=False)


def found(dataset: Dataset) -> list[tuple[str, str | None]]:
    return [(f.kind, f.case) for f in check(dataset).findings]


def only_finding(dataset: Dataset, kind: str, case: str | None = None) -> str:
    findings = check(dataset).findings
    assert [(f.kind, f.case) for f in findings] == [(kind, case)], findings
    return findings[0].text


def test_good_dataset_has_no_findings(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    report = verify_dataset_integrity(
        dataset.folder, num_workers=2, progress=False, report_path=tmp_path / "new" / "report.json"
    )
    assert report.findings == () and report.num_cases == 3
    assert "3 cases, nothing to complain about" in caplog.text
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {
        "dataset": "Dataset001_Phantom",
        "passed": True,
        "num_cases": 3,
        "num_errors": 0,
        "num_warnings": 0,
        "findings": [],
        "state": dataset_state(dataset.folder),
    }


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "nan_image"), (np.inf, "infinite_image"), (-np.inf, "infinite_image")]
)
def test_nonfinite_values_in_images(dataset: Dataset, value: float, kind: str) -> None:
    array = dataset.random.normal(size=SHAPE)
    array[2, 3, 4:6] = value
    dataset.write_image("case_01", 1, array)
    assert only_finding(dataset, kind, "case_01") == "case_01_0001.nii.gz: 2 of 336 voxels"


def test_nan_and_infinity_together(dataset: Dataset) -> None:
    array = dataset.random.normal(size=SHAPE)
    array[0, 0, :2] = np.nan, np.inf
    dataset.write_image("case_00", 0, array)
    assert found(dataset) == [("nan_image", "case_00"), ("infinite_image", "case_00")]


def test_constant_image_is_a_warning(dataset: Dataset) -> None:
    for case in ("case_00", "case_02"):  # two constant images are no duplicates
        dataset.write_image(case, 0, np.full(SHAPE, 2.5))
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.findings] == [("constant_image", "case_00"), ("constant_image", "case_02")]
    assert not report.errors
    assert "case_00_0000.nii.gz is 2.5 everywhere" in report.text()


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([0, 1, 2, 7], "unexpected_label", "7 ("),
        ([0, 1, 2, -1], "unexpected_label", "-1 ("),
        ([0, 1, 2, 70000], "unexpected_label", "70000 ("),
        ([0, 1, 2, 1.5], "non_integer_label", "1.5 ("),
        ([0, 1, 2, np.nan], "nan_label", "voxels"),
        ([0, 1, 2, np.inf], "infinite_label", "voxels"),
        ([0], "empty_label", "nothing but 0 (336 voxels)"),
    ],
)
def test_values_of_labels(dataset: Dataset, values: list[float], kind: str, words: str) -> None:
    array = np.resize(np.array(values, np.float64), SHAPE)
    dataset.write_label("case_01", array)
    assert words in only_finding(dataset, kind, "case_01")


def test_ignore_label_alone_is_no_foreground(dataset: Dataset) -> None:
    dataset.description["labels"]["ignore"] = 3
    dataset.save()
    dataset.write_label("case_00", np.resize([0, 3], SHAPE))
    assert only_finding(dataset, "empty_label", "case_00").endswith("nothing but 0 (168 voxels), 3 (168 voxels)")


def test_labels_that_occur_nowhere(dataset: Dataset) -> None:
    dataset.description["labels"] |= {"cyst": 3, "both": [1, 4]}
    dataset.description["regions_class_order"] = [1, 2, 3, 4]
    dataset.save()
    findings = check(dataset).findings
    assert [(f.kind, f.text) for f in findings] == [("unused_label", '"cyst": 3'), ("unused_label", '"both": 4')]


def test_labels_with_a_gap(dataset: Dataset) -> None:
    dataset.description["labels"]["core"] = 3
    dataset.save()
    for index in range(3):
        dataset.write_label(f"case_{index:02d}", np.resize([0, 1, 3], SHAPE))
    assert only_finding(dataset, "label_gap").startswith("found 0, 1, 3")


def test_same_image_in_two_cases(dataset: Dataset) -> None:
    dataset.image("case_02", 1).write_bytes(dataset.image("case_00", 1).read_bytes())
    text = only_finding(dataset, "duplicate_image", "case_02")
    assert text == "case_02_0001.nii.gz has the same voxels as case_00_0001.nii.gz of case case_00"


def test_same_image_in_two_channels(dataset: Dataset) -> None:
    dataset.image("case_02", 1).write_bytes(dataset.image("case_02", 0).read_bytes())
    assert "case_02_0000" in only_finding(dataset, "duplicate_image", "case_02")


def test_grids_that_differ(dataset: Dataset) -> None:
    dataset.write_label("case_00", np.resize([0, 1, 2], (6, 7, 9)))
    dataset.write_label("case_01", np.resize([0, 1, 2], SHAPE), spacing=(1.0, 1.0, 2.0))
    dataset.write_image("case_02", 1, dataset.random.normal(size=(5, 7, 8)))
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.findings] == [
        ("channel_mismatch", "case_02"),
        ("label_mismatch", "case_00"),
        ("label_mismatch", "case_01"),
    ]
    text = report.text()
    assert "shapes of case_02_0001.nii.gz and case_02_0000.nii.gz differ: (5, 7, 8) and (6, 7, 8)" in text
    assert "shapes of case_00.nii.gz and case_00_0000.nii.gz differ: (6, 7, 9) and (6, 7, 8)" in text
    assert "(2.0, 1.0, 1.0) and (1.0, 1.0, 1.0)" in text


def test_position_and_orientation_that_differ_are_warnings(dataset: Dataset) -> None:
    dataset.write_label("case_00", np.resize([0, 1, 2], SHAPE), origin=(0.0, 5.0, 0.0))
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    dataset.write_image("case_01", 1, dataset.random.normal(size=SHAPE), direction=flipped)
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.findings] == [("orientation", "case_00"), ("orientation", "case_01")]
    assert not report.errors
    dataset.description["overwrite_image_reader_writer"] = "NibabelIO"
    dataset.save()
    assert found(dataset) == [("orientation", "case_00"), ("orientation", "case_01")]


def test_damaged_files_do_not_end_the_check(dataset: Dataset) -> None:
    first = dataset.image("case_00", 0)
    first.write_bytes(first.read_bytes()[:500])
    content = bytearray(dataset.label("case_02").read_bytes())
    content[-6] ^= 1  # in the checksum, which image libraries do not read
    dataset.label("case_02").write_bytes(content)
    dataset.image("case_01", 1).write_bytes(b"rubbish")
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.errors] == [("unreadable", f"case_{i:02d}") for i in range(3)]
    for name in (first.name, "case_01_0001.nii.gz", "case_02.nii.gz"):
        assert name in report.text()


def test_number_of_cases_and_of_channels(dataset: Dataset) -> None:
    dataset.description["numTraining"] = 4
    dataset.save()
    assert "numTraining is 4, there are 3 cases" in only_finding(dataset, "num_training")
    del dataset.description["numTraining"]
    dataset.save()
    assert "missing" in only_finding(dataset, "num_training")


def test_all_cases_lack_a_channel(dataset: Dataset) -> None:
    for index in range(3):
        dataset.image(f"case_{index:02d}", 1).unlink()
    assert found(dataset) == [("channel_count", f"case_{i:02d}") for i in range(3)]


def test_missing_and_surplus_files(dataset: Dataset) -> None:
    dataset.image("case_00", 1).unlink()
    dataset.label("case_01").rename(dataset.label("case_09"))
    (dataset.folder / "imagesTr" / "notes.txt").touch()
    (dataset.folder / "imagesTr" / "odd.nii.gz").touch()
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.findings] == [
        ("incomplete_case", "case_00"),
        ("incomplete_case", "case_01"),
        ("unnumbered_file", None),
        ("unused_file", None),
        ("unused_file", None),
    ]
    for words in ("case_00_0001.nii.gz", "labelsTr/case_01.nii.gz", "notes.txt", "odd.nii.gz", "case_09.nii.gz"):
        assert words in report.text()


def test_channel_keys(dataset: Dataset) -> None:
    dataset.description["channel_names"] = {"1": "T2", "0": "CT"}
    dataset.save()
    assert "out of order" in only_finding(dataset, "channel_order")
    dataset.description["channel_names"] = {"T1": 0, "T2": 1}
    dataset.save()
    assert "wrong way round" in only_finding(dataset, "description")


def test_old_description_is_understood_with_a_warning(dataset: Dataset) -> None:
    dataset.description["modality"] = dataset.description.pop("channel_names")
    dataset.description["labels"] = {"0": "background", "1": "tumour", "2": "core"}
    dataset.save()
    assert "nnU-Net v1" in only_finding(dataset, "old_description")


def test_case_table_with_missing_files(dataset: Dataset) -> None:
    table = {
        f"case_{i:02d}": {
            "images": [f"imagesTr/case_{i:02d}_{c:04d}.nii.gz" for c in range(2)],
            "label": f"labelsTr/case_{i:02d}.nii.gz",
        }
        for i in range(3)
    }
    dataset.description["dataset"] = table
    dataset.save()
    assert found(dataset) == []
    table["case_01"]["label"] = "$NOWHERE/x.nii.gz"
    table["case_02"]["images"] = ["imagesTr/case_02_0000.nii.gz", "imagesTr/case_02_0009.nii.gz"]
    dataset.save()
    report = check(dataset)
    assert [(f.kind, f.case) for f in report.findings] == [("folder", "case_01"), ("folder", "case_02")]
    assert "$NOWHERE" in report.text() and "case_02_0009" in report.text()


def test_folders_that_are_missing(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.folder / "imagesTr").rename(dataset.folder / "images")
    assert "imagesTr is missing" in only_finding(dataset, "folder")
    with pytest.raises(DatasetError, match=r"dataset\.json is missing"):
        verify_dataset_integrity(tmp_path / "nowhere", num_workers=1)


def test_unknown_reader(dataset: Dataset) -> None:
    dataset.description["overwrite_image_reader_writer"] = "SimpleItkIO"
    dataset.save()
    assert "did you mean SimpleITKIO" in only_finding(dataset, "reader")


def test_two_dimensional_dataset_with_colours(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "Dataset002_Flat"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for case in "ab":
        Image.fromarray(random.integers(0, 255, (9, 7, 3), np.uint8)).save(folder / "imagesTr" / f"{case}_0000.png")
        Image.fromarray(random.integers(0, 2, (9, 7), np.uint8)).save(folder / "labelsTr" / f"{case}.png")
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "road": 1},
        "numTraining": 2,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    assert check_dataset(folder, num_workers=0, progress=False).findings == ()
    Image.fromarray(random.integers(0, 255, (9, 7, 3), np.uint8)).save(folder / "labelsTr" / "b.png")
    report = check_dataset(folder, num_workers=0, progress=False)
    assert [(f.kind, f.case) for f in report.findings] == [("unreadable", "b")]


def test_errors_refuse_the_dataset_after_writing_the_report(dataset: Dataset, tmp_path: Path) -> None:
    dataset.write_image("case_01", 0, np.resize([0, 1, np.nan], SHAPE))
    dataset.write_label("case_02", np.zeros(SHAPE))
    path = tmp_path / "report.json"
    with pytest.raises(DatasetError) as caught:
        verify_dataset_integrity(dataset.folder, num_workers=0, progress=False, report_path=path)
    text = str(caught.value)
    assert "Dataset001_Phantom: 3 cases, 1 error, 1 warning" in text and str(path) in text
    assert text.index("ERROR: images hold NaN (1 case)") < text.index("WARNING: labels hold no foreground (1 case)")
    report = json.loads(path.read_text())
    assert not report["passed"]
    assert [(f["severity"], f["case"]) for f in report["findings"]] == [("error", "case_01"), ("warning", "case_02")]


def test_long_lists_are_cut_on_the_terminal_only() -> None:
    findings = tuple(Finding(kind="nan_image", text="x", case=f"c{i}") for i in range(30))
    report = IntegrityReport(dataset="D", num_cases=30, findings=findings)
    assert "(30 cases)" in report.text() and "... and 20 more" in report.text() and "c29" not in report.text()
    assert len(report.to_json()["findings"]) == 30


def test_killed_worker_is_a_finding(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(integrity, "check_case", importlib.import_module("killing_check").killed_on_case_01)
    report = check_dataset(dataset.folder, num_workers=2, progress=False)
    assert [(f.kind, f.case) for f in report.findings] == [("crashed", "case_01")]
    assert "SIGKILL" in report.findings[0].text


def test_every_kind_is_described() -> None:
    assert all(severity in ("error", "warning") and heading and advice for severity, heading, advice in KINDS.values())


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.sampled_from([0, 1, 2, 255, 65535, 65536, -1, 0.5])))
def test_counting_values_equals_numpy(values: Any) -> None:
    expected_values, expected_counts = np.unique(values, return_counts=True)
    found_values, found_counts = count_values(values)
    assert np.array_equal(found_values, expected_values) and np.array_equal(found_counts, expected_counts)
