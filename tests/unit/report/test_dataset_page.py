from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import DatasetError, UsageError
from nnunet_pt.report.dataset_cases import CaseToMeasure, measure_case
from nnunet_pt.report.dataset_content import DatasetContent, DatasetReportOptions, gather
from nnunet_pt.report.dataset_page import dataset_report
from nnunet_pt.report.dataset_sections import sections

QUIET = DatasetReportOptions(num_processes=0, progress=False)


def content_of(dataset: Any, **options: Any) -> DatasetContent:
    return gather(dataset.name, dataset.workspace, DatasetReportOptions(num_processes=0, progress=False, **options))


def html_of(content: DatasetContent) -> dict[str, str]:
    return {section.title: section.body for section in sections(content)}


def cube(value: int, size: int = 2, shape: tuple[int, ...] = (7, 10, 12)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2 : 2 + size, 2 : 2 + size, 2 : 2 + size] = value
    return label


def test_what_is_measured_is_what_is_in_the_files(small: Any) -> None:
    image = np.arange(7 * 10 * 12, dtype=np.float32).reshape(7, 10, 12)
    label = cube(1)
    label[5, 5, 5] = 2
    small.add("a", [image], label, spacing=(0.5, 1.5, 3.0))
    content = content_of(small)
    (case,) = content.cases
    assert (case.shape, case.spacing, case.orientation) == ((7, 10, 12), (3.0, 1.5, 0.5), "SPL")
    assert case.extent == (21.0, 15.0, 6.0)
    assert case.voxels == {0: 840 - 9, 1: 8, 2: 1}
    values = np.percentile(image[label > 0], [0.5, 25, 50, 75, 99.5])
    assert case.channels[0].foreground == pytest.approx(tuple(values))
    assert (case.channels[0].minimum, case.channels[0].maximum) == (0, 839)
    assert content.volumes() == {"a": [8 * 2.25], "b": [2.25]}
    assert content.volume_unit == "mm³"
    assert content.problems == ()


def test_large_volumes_are_in_millilitres(small: Any) -> None:
    small.add("a", label=cube(1, 5), spacing=(10, 10, 10))
    content = content_of(small)
    assert (content.volume_unit, content.volumes()["a"]) == ("mL", [125.0])


def test_regions_and_the_ignore_label(small: Any) -> None:
    small.begin(labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})
    small.description["regions_class_order"] = [1, 2]
    small.describe()
    label = cube(1, 3)
    label[2, 2, 2], label[0] = 2, 3
    small.add("a", label=label)
    content = content_of(small)
    assert content.volumes() == {"whole": [27.0], "core": [1.0]}
    html = html_of(content)
    assert "Label 3 marks what is not annotated: 14.3 %" in html["Regions"]
    assert "not annotated (ignore)" in html["Pictures"]
    assert ">2 + ignore<" in html["Overview"]


def test_everything_that_is_wrong_is_said_and_the_rest_is_shown(small: Any) -> None:
    for case in ("fine", "empty", "unknown", "nan", "constant", "shape"):
        small.add(case, label=cube(1) + 0)
    small.add("unlabelled")
    small.label("unlabelled").unlink()
    small.add("damaged")
    small.image("damaged").write_bytes(b"no image")
    small.add("empty", label=cube(0))
    small.add("unknown", label=cube(7))
    image = np.ones((7, 10, 12), np.float32)
    small.add("constant", [image], cube(1))
    image = np.arange(840, dtype=np.float32).reshape(7, 10, 12)
    image[0, 0, :3] = np.nan
    small.add("nan", [image], cube(1))
    small.add("shape", [np.zeros((6, 10, 12), np.float32) + np.arange(12)], cube(1))
    (small.raw / "imagesTr" / "stray.nii.gz").write_bytes(b"")
    content = content_of(small)
    problems: dict[str, list[str]] = {}
    for case, text in content.problems:
        problems.setdefault(case, []).append(text)
    assert set(problems) == {"empty", "unknown", "nan", "constant", "shape", "unlabelled", "damaged"}
    assert "no label" in problems["unlabelled"][0]
    assert "cannot be read" in problems["damaged"][0]
    assert "nothing is annotated" in problems["empty"][0]
    assert "7 (8 voxels)" in problems["unknown"][0]
    assert problems["nan"] == ["3 voxels of nan_0000.nii.gz are NaN or infinite"]
    assert problems["constant"] == ["MR is 1 everywhere"]
    assert "(6, 10, 12)" in problems["shape"][0]
    assert [case.case for case in content.cases] == ["constant", "empty", "fine", "nan", "shape", "unknown"]
    assert set(content.pictures) == {"constant", "empty", "fine", "nan", "unknown"}
    html = html_of(content)
    assert "stray.nii.gz" in html["Overview"]
    for case in problems:
        assert case in html["Findings"]


def test_labels_that_are_missing_in_cases_are_listed(small: Any) -> None:
    small.add("both", label=cube(1) + np.roll(cube(2), 4, axis=2))
    small.add("one", label=cube(1))
    section = next(s for s in sections(content_of(small)) if s.title == "Labels")
    assert section.lead == "1 of 2 labels do not occur in every case."
    marked = re.findall(r'<tr class="marked">(.*?)</tr>', section.body)
    assert len(marked) == 1
    assert "one" in marked[0]


def test_outliers_are_drawn_and_marked(small: Any) -> None:
    for index in range(9):
        small.add(f"c{index}", label=cube(1))
    small.add("big", label=cube(1, 5))
    content = content_of(small, pictures=2)
    assert ("big", "volume of a") in {(o.case, o.quantity) for o in content.outliers}
    assert "big" in content.pictures
    assert len(content.pictures) == 2
    html = html_of(content)
    assert "15.6 times larger than what most cases have" in html["Findings"]
    assert "big (outlier)" in html["Pictures"]


def test_2d_images_are_counted_in_pixels(small: Any) -> None:
    small.begin(channels=("R", "G", "B"), ending=".png")
    random = np.random.default_rng(0)
    for index in range(3):
        colours = random.integers(0, 255, (20, 30 + index, 3)).astype(np.uint8)
        label = np.zeros((20, 30 + index), np.uint8)
        label[3:6, 4:9] = 1
        _write_png(small.image(f"c{index}"), colours)
        _write_png(small.label(f"c{index}"), label)
    content = content_of(small)
    assert (content.is_2d, content.volume_unit) == (True, "pixels")
    assert content.volumes()["a"] == [15.0, 15.0, 15.0]
    assert [len(case.channels) for case in content.cases] == [3, 3, 3]
    html = html_of(content)
    assert "Shapes" in html
    assert "spacing" not in html["All cases"]
    picture = content.pictures["c0"]
    assert picture.shape == (80, 120, 3)
    assert np.ptp(picture[-20:].astype(int), axis=-1).max() > 50  # in its own colours


def _write_png(path: Any, array: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(array).save(path)


def test_a_channel_can_be_chosen(small: Any) -> None:
    small.begin(channels=("T1", "T2"))
    dark, bright = np.zeros((7, 10, 12), np.float32), np.zeros((7, 10, 12), np.float32)
    bright[:, 5:] = 100
    small.add("a", [dark, bright], cube(0))
    assert content_of(small).pictures["a"].max() == 0
    assert content_of(small, channel=1).pictures["a"].max() == 255
    with pytest.raises(UsageError, match="no channel 2"):
        content_of(small, channel=2)


def test_the_fingerprint_is_shown_if_there_is_one(three: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert "nnUNetv2_extract_fingerprint" in html_of(content_of(three))["Intensities"]
    three.fingerprint()
    assert "Foreground of the whole dataset" in html_of(content_of(three))["Intensities"]
    (three.preprocessed / "dataset_fingerprint.json").write_text("{}")
    assert "nnUNetv2_extract_fingerprint" in html_of(content_of(three))["Intensities"]
    assert "without the fingerprint" in caplog.text


def test_images_that_lie_differently_are_a_finding(small: Any) -> None:
    import SimpleITK as sitk

    small.add("a")
    small.add("b")
    image = sitk.ReadImage(str(small.image("b")))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(small.image("b")))
    assert "SPL (1), SAR (1)" in html_of(content_of(small))["Overview"]


def test_nothing_to_report_on_is_an_error(small: Any) -> None:
    with pytest.raises(DatasetError, match="no cases"):
        dataset_report(small.name, small.workspace, QUIET)
    small.add("a")
    small.image("a").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="None of the 1 cases") as caught:
        dataset_report(small.name, small.workspace, QUIET)
    assert "a: The image" in str(caught.value.found)


def test_the_page_is_the_same_with_worker_processes(three: Any) -> None:
    parallel = DatasetReportOptions(num_processes=2, progress=False)
    html = dataset_report(three.name, three.workspace, parallel)
    assert html == dataset_report(three.name, three.workspace, QUIET)
    assert "a1" in html


def test_channels_are_read_one_at_a_time(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_pt.dataset.images.simpleitk_images import SimpleITKIO

    small.begin(channels=("T1", "T2", "FLAIR"))
    small.add("a")
    read = SimpleITKIO.read_images
    numbers: list[int] = []

    def spy(self: Any, paths: Any) -> Any:
        numbers.append(len(paths))
        return read(self, paths)

    monkeypatch.setattr(SimpleITKIO, "read_images", spy)
    content = content_of(small, pictures=0)
    assert numbers == [1, 1, 1]
    assert len(content.cases[0].channels) == 3


def test_a_case_without_label_cannot_be_measured(small: Any) -> None:
    from nnunet_pt.core.errors import ImageError
    from nnunet_pt.dataset.cases import Case
    from nnunet_pt.dataset.labels import Labels

    case = Case(identifier="a", images=(small.image("a"),), label=None)
    labels = Labels(labels={"background": 0, "a": 1})
    with pytest.raises(ImageError, match="no labels"):
        measure_case(CaseToMeasure(case=case, reader_name="SimpleITKIO", labels=labels, channel_names=("MR",)))


def test_names_with_dollars_are_not_taken_for_formulas(small: Any) -> None:
    small.begin(labels={"background": 0, "a$x_1$": 1})
    small.add("case", label=cube(1))
    assert "a$x_1$" in dataset_report(small.name, small.workspace, QUIET)


def test_an_explicit_number_of_cases_is_compared(small: Any) -> None:
    small.add("a")
    small.description["numTraining"] = 5
    (small.raw / "dataset.json").write_text(json.dumps(small.description))
    assert "speaks of 5 training cases, 1 could be used" in html_of(content_of(small))["Overview"]
