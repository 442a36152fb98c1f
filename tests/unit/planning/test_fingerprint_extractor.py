"""The fingerprint of small datasets equals a brute-force computation; interrupted work is used again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from nnunet_pt.core.errors import DatasetError, NnunetError, UnknownNameError, WorkerError

FIELDS = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")
CASES = ("a1", "b2", "c3")


def written(dataset: Any) -> dict[str, Any]:
    return json.loads((dataset.preprocessed / "dataset_fingerprint.json").read_text())


def brute_force(dataset: Any, images: dict[str, tuple[list[np.ndarray], np.ndarray]]) -> dict[str, Any]:
    """nnU-Net's algorithm, step by step: fill the nonzero mask, crop, draw, put everything into one array."""
    num_draws = dataset.num_samples // len(images)
    shapes, sizes, samples = [], [], []
    for _, (channels, label) in sorted(images.items()):
        image = np.stack(channels).astype(np.float32)
        mask = ndimage.binary_fill_holes((image != 0).any(axis=0))
        corners = np.argwhere(mask) if mask.any() else np.argwhere(np.ones_like(mask))
        box = tuple(slice(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True))
        image, label = image[(slice(None), *box)], label[box]
        shapes.append(list(label.shape))
        sizes.append(label.size / mask.size)
        random = np.random.RandomState(1234)
        values = [channel[label > 0] for channel in image]
        samples.append([random.choice(v, num_draws, replace=True) if len(v) else v for v in values])
    statistics = {}
    for channel, parts in enumerate(zip(*samples, strict=True)):
        values = np.concatenate(parts).astype(np.float64)
        percentiles = dict(
            zip(("percentile_00_5", "median", "percentile_99_5"), np.percentile(values, [0.5, 50, 99.5]), strict=True)
        )
        statistics[str(channel)] = {
            "max": values.max(),
            "mean": values.mean(),
            "min": values.min(),
            "std": values.std(),
            **percentiles,
        }
    return {
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": np.median(sizes),
        "foreground_intensity_properties_per_channel": statistics,
    }


def make_images(channels: int) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Cases of different extent, content and amount of foreground, which reaches beyond the nonzero region."""
    result = {}
    for index, case in enumerate(CASES):
        random = np.random.default_rng(index)
        shape = (5 + index, 9, 8 + 2 * index)
        images = [random.normal(-50 * c, 60, shape).round(1 + c).astype(np.float32) for c in range(channels)]
        for image in images:
            image[:, :2] = image[..., -1] = 0
            image[2, 4, 4] = 0
        label = (random.uniform(size=shape) < (0.05, 0.4, 0.9)[index]).astype(np.uint8)
        label[1] *= 2
        result[case] = (images, label)
    return result


@pytest.mark.parametrize("num_samples", [30, 240, 3000], ids=["fewer draws than voxels", "both", "more draws"])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_brute_force(small: Any, channels: int, num_samples: int) -> None:
    small.begin(channels=[f"c{i}" for i in range(channels)])
    small.num_samples = num_samples
    images = make_images(channels)
    for case, (arrays, label) in images.items():
        small.add(case, arrays, label, spacing=(0.5, 0.75, 2.0 + CASES.index(case)))
    small.fingerprint()
    fingerprint, wanted = written(small), brute_force(small, images)
    assert list(fingerprint) == [
        "foreground_intensity_properties_per_channel",
        "median_relative_size_after_cropping",
        "shapes_after_crop",
        "spacings",
    ]
    assert fingerprint["shapes_after_crop"] == wanted["shapes_after_crop"]
    assert fingerprint["spacings"] == [[2.0, 0.75, 0.5], [3.0, 0.75, 0.5], [4.0, 0.75, 0.5]]
    assert fingerprint["median_relative_size_after_cropping"] == wanted["median_relative_size_after_cropping"]
    got = fingerprint["foreground_intensity_properties_per_channel"]
    assert list(got) == [str(c) for c in range(channels)]
    for channel, statistics in wanted["foreground_intensity_properties_per_channel"].items():
        assert list(got[channel]) == list(FIELDS)
        for name in FIELDS:
            assert got[channel][name] == pytest.approx(statistics[name], rel=1e-6, abs=1e-5), (channel, name)


def test_ignore_label_counts_as_foreground(small: Any) -> None:
    small.begin(labels={"background": 0, "a": 1, "ignore": 2})
    image = np.ones((4, 5, 6), np.float32)
    image[0], image[1] = 100, 7
    label = np.zeros((4, 5, 6), np.uint8)
    label[0], label[1] = 2, 1
    small.add("a1", [image], label)
    properties = small.fingerprint().fingerprint.foreground_intensity_properties_per_channel["0"]
    assert (properties.min, properties.max) == (7, 100)


def test_case_without_foreground_adds_its_shape_only(small: Any) -> None:
    images = make_images(1)
    images["b2"] = (images["b2"][0], np.zeros_like(images["b2"][1]))
    for case, (arrays, label) in images.items():
        small.add(case, arrays, label)
    small.fingerprint()
    fingerprint, wanted = written(small), brute_force(small, images)
    assert fingerprint["shapes_after_crop"] == wanted["shapes_after_crop"]
    mean = wanted["foreground_intensity_properties_per_channel"]["0"]["mean"]
    assert fingerprint["foreground_intensity_properties_per_channel"]["0"]["mean"] == pytest.approx(mean, rel=1e-6)


def test_dataset_without_any_foreground(small: Any) -> None:
    for case in CASES:
        small.add(case, label=np.zeros((7, 10, 12), np.uint8))
    with pytest.raises(DatasetError, match="Dataset007_Small") as caught:
        small.fingerprint()
    assert "foreground" in caught.value.text()
    assert not (small.preprocessed / "dataset_fingerprint.json").exists() and small.leftovers() == []


def test_image_of_zeros_is_not_cropped(small: Any) -> None:
    small.add("a1", [np.zeros((4, 5, 6), np.float32)], np.ones((4, 5, 6), np.uint8))
    small.fingerprint()
    assert written(small)["shapes_after_crop"] == [[4, 5, 6]]
    assert written(small)["foreground_intensity_properties_per_channel"]["0"]["std"] == 0


def test_negated_images_have_zeros_of_both_signs(small: Any) -> None:
    small.begin(ending=".nrrd")
    for case in CASES:
        values = np.random.default_rng(0).integers(-1, 2, (4, 5, 6)).astype(np.float32)
        small.add(case, [values * (-1 if case == "b2" else 1)], np.ones((4, 5, 6), np.uint8))
    properties = small.fingerprint().fingerprint.foreground_intensity_properties_per_channel["0"]
    assert properties.median == 0


# ---------------------------------------------------------------------------- using again what is there


def test_existing_fingerprint_is_used(three: Any) -> None:
    assert not three.fingerprint().reused
    path = three.preprocessed / "dataset_fingerprint.json"
    time = path.stat().st_mtime_ns
    three.image("a1").write_bytes(b"no image any more")
    result = three.fingerprint()
    assert result.reused and path.stat().st_mtime_ns == time
    assert "was there already" in result.summary()


def test_run_that_was_killed_before_tidying_up(three: Any) -> None:
    three.fingerprint()
    wanted = three.contents()
    leftover = three.preprocessed / "dataset_fingerprint.parts"
    leftover.mkdir()
    (leftover / "a1.npz").write_bytes(b"")
    assert three.fingerprint().reused
    assert three.contents() == wanted and not leftover.exists()


def test_clean_measures_again(three: Any) -> None:
    first = three.fingerprint().fingerprint
    three.add("d4")
    assert three.fingerprint().fingerprint == first
    assert len(three.fingerprint(clean=True).fingerprint.spacings) == 4
    assert len(written(three)["spacings"]) == 4


@pytest.fixture
def interrupted(three: Any) -> Any:
    """Only c3 could not be measured; the parts of the others are there."""
    shutil.copy(three.image("c3"), three.root / "good.nii.gz")
    time = three.image("c3").stat().st_mtime_ns
    three.image("c3").write_bytes(b"no image")
    result = three.fingerprint(on_failure="continue")
    assert [f.case for f in result.failures] == ["c3"] and result.fingerprint is None
    assert "not written" in result.summary() and not result.path.exists()
    shutil.copy(three.root / "good.nii.gz", three.image("c3"))
    os.utime(three.image("c3"), ns=(time, time))
    return three


def parts(dataset: Any) -> dict[str, int]:
    return {p.stem: p.stat().st_mtime_ns for p in (dataset.preprocessed / "dataset_fingerprint.parts").iterdir()}


def measured(dataset: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Which cases a run reads; afterwards only the fingerprint remains, and it is that of an undisturbed run."""
    from nnunet_pt.planning import fingerprint_extractor

    cases: list[str] = []
    original = fingerprint_extractor.read_case

    def noted(case: Any, *arguments: Any) -> Any:
        cases.append(case.identifier)
        return original(case, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint_extractor, "read_case", noted)
        dataset.fingerprint(**options)
    assert sorted(p.name for p in dataset.preprocessed.iterdir()) == [
        "dataset.json",
        "dataset_fingerprint.json",
        "nnUNetPlans.json",
    ]
    kept = (dataset.preprocessed / "dataset_fingerprint.json").read_bytes()
    dataset.fingerprint(clean=True)
    assert (dataset.preprocessed / "dataset_fingerprint.json").read_bytes() == kept
    return sorted(cases)


def test_finished_parts_are_used(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(parts(interrupted)) == ["a1", "b2"]
    assert measured(interrupted, monkeypatch) == ["c3"]


def test_clean_does_not_use_them(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(interrupted, monkeypatch, clean=True) == list(CASES)


def test_part_of_a_changed_file_is_not_used(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(interrupted.label("a1"), (1_000_000_000, 1_000_000_000))
    assert measured(interrupted, monkeypatch) == ["a1", "c3"]


def test_parts_for_another_number_of_draws_are_not_used(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted.add("d4")
    assert measured(interrupted, monkeypatch) == ["a1", "b2", "c3", "d4"]


@pytest.mark.parametrize("what", ["labels", "reader"])
def test_parts_for_another_description_are_not_used(
    interrupted: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "labels":
        interrupted.description["labels"]["c"] = 3
    else:
        interrupted.description["overwrite_image_reader_writer"] = "NibabelIO"
    interrupted.describe()
    assert measured(interrupted, monkeypatch) == list(CASES)


@pytest.mark.parametrize("kept", [0, 100, 400, -1, None])
def test_damaged_part_is_measured_again(interrupted: Any, monkeypatch: pytest.MonkeyPatch, kept: int | None) -> None:
    path = interrupted.preprocessed / "dataset_fingerprint.parts" / "b2.npz"
    content = bytearray(path.read_bytes())
    if kept is None:  # a flipped bit in the values, which the archive's checksum finds
        position = content.index(b"values_0") + 200
        content[position] ^= 1
    path.write_bytes(content[:kept])
    assert measured(interrupted, monkeypatch) == ["b2", "c3"]


def test_part_of_a_removed_case_does_no_harm(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (interrupted.image("b2"), interrupted.label("b2")):
        path.unlink()
    assert measured(interrupted, monkeypatch) == ["a1", "c3"]


def test_stopping_at_the_first_failure_keeps_the_parts(three: Any) -> None:
    three.image("c3").write_bytes(b"no image")
    with pytest.raises(NnunetError, match="c3"):
        three.fingerprint()
    assert sorted(parts(three)) == ["a1", "b2"]


def test_leftovers_are_removed(interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (interrupted.preprocessed, interrupted.preprocessed / "dataset_fingerprint.parts"):
        leftover = folder / ".partial-somewhere-1-aa-x.npz"
        leftover.write_bytes(b"")
        os.utime(leftover, (1_000_000_000, 1_000_000_000))
    assert measured(interrupted, monkeypatch) == ["c3"]


def test_number_of_processes_does_not_matter(three: Any) -> None:
    three.fingerprint()
    alone = (three.preprocessed / "dataset_fingerprint.json").read_bytes()
    three.fingerprint(clean=True, num_processes=2)
    assert (three.preprocessed / "dataset_fingerprint.json").read_bytes() == alone


# ---------------------------------------------------------------------------- requests


def test_unknown_extractor(three: Any) -> None:
    with pytest.raises(UnknownNameError, match="DatasetFingerprintExtractor"):
        three.fingerprint(extractor="DatasetFingerprint")


def test_integrity_is_checked_first_if_asked(three: Any) -> None:
    three.add("b2", label=np.full((7, 10, 12), 9, np.uint8))
    with pytest.raises(DatasetError, match="b2"):
        three.fingerprint(verify_integrity=True)
    assert (three.preprocessed / "integrity_report.json").is_file()
    assert not (three.preprocessed / "dataset_fingerprint.json").exists()


def test_cases_that_cannot_be_told_apart_later_are_refused(three: Any) -> None:
    three.add("a1_seg")
    with pytest.raises(DatasetError, match="a1, a1_seg"):
        three.fingerprint()


def test_errors_of_several_cases_are_told_together(three: Any) -> None:
    for case in ("a1", "c3"):
        three.label(case).write_bytes(b"no image")
    result = three.fingerprint(on_failure="continue")
    assert sorted(f.case for f in result.failures) == ["a1", "c3"]
    assert not isinstance(result.failures[0].error, WorkerError)


def test_dataset_without_cases(small: Any) -> None:
    with pytest.raises(DatasetError, match="no cases"):
        small.fingerprint()
    assert not Path(small.preprocessed / "dataset_fingerprint.parts").exists()


def test_says_when_the_dataset_has_grown(three: Any, caplog: pytest.LogCaptureFixture) -> None:
    three.fingerprint()
    assert three.fingerprint().reused and not caplog.records
    three.add("d4")
    assert three.fingerprint().reused
    assert "measured on 3 cases, but the dataset has 4 now" in caplog.text
