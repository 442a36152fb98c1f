"""Which small components are removed, decided as nnU-Net does it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.core.errors import ImageError, PredictionError, StorageError, UsageError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.simpleitk_images import SimpleITKIO
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation import postprocessing
from nnunet_pt.evaluation.components import keep_largest
from nnunet_pt.evaluation.metrics import compute_metrics
from nnunet_pt.evaluation.postprocessing import Postprocessing, apply_postprocessing, determine_postprocessing
from nnunet_pt.evaluation.postprocessing_files import KeepLargest, read_postprocessing
from nnunet_pt.plans.plans import Plans

PLAIN = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3}
APART = {"background": 0, "both": [1, 2], "second": 2, "other": [4, 5], "ignore": 6}


@dataclass
class Folders:
    """Segmentations and annotations in files."""

    root: Path
    plans: Plans
    description: DatasetDescription

    @property
    def folder(self) -> Path:
        return self.root / "segmentations"

    @property
    def references(self) -> Path:
        return self.root / "references"

    @property
    def labels(self) -> Labels:
        return Labels.from_description(self.description)

    def add(self, case: str, reference: np.ndarray, segmentation: np.ndarray) -> None:
        for folder, array in ((self.references, reference), (self.folder, segmentation)):
            folder.mkdir(exist_ok=True)
            kind = np.uint16 if array.max() >= 255 else np.uint8
            image = sitk.GetImageFromArray(array.astype(kind))
            image.SetSpacing((1.0, 2.0, 3.0))
            sitk.WriteImage(image, str(folder / f"{case}.nii.gz"))

    def determine(self, **options: Any) -> Postprocessing:
        return determine_postprocessing(
            self.folder, self.references, self.plans, self.description, **{"progress": False, **options}
        )

    def apply(self, output: Path, *steps: KeepLargest, **options: Any) -> Any:
        return apply_postprocessing(
            self.folder, output, steps, self.plans, self.description, **{"progress": False, **options}
        )

    def names(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def folders(small: Any) -> Any:
    """A function that makes folders of a dataset with these labels."""

    def make(labels: Mapping[str, Any] = PLAIN) -> Folders:
        description = {**small.description, "labels": dict(labels)}
        if any(isinstance(value, list) for value in labels.values()):
            description["regions_class_order"] = [1, 2, 3]
        root = small.root / "work"
        root.mkdir()
        return Folders(
            root, Plans.from_json(small.plans, "plans"), DatasetDescription.from_json(description, Path("dataset.json"))
        )

    return make


def boxes(random: np.random.Generator, values: Sequence[int]) -> np.ndarray:
    result = np.zeros((8, 9, 10), int)
    for value in values:
        z, y, x = (random.integers(0, n - 4) for n in result.shape)
        result[z : z + 4, y : y + 4, x : x + 4] = value
    return result


def speckled(random: np.random.Generator, reference: np.ndarray, values: Sequence[int], share: float) -> np.ndarray:
    result = reference.copy()
    wrong = random.random(result.shape) < share
    result[wrong] = random.choice([0, *values], int(wrong.sum()))
    return result


def filled(made: Folders, seed: int, *, share: float = 0.01, cases: int = 3) -> Folders:
    """With cases that have boxes of every label, and speckles in the segmentations."""
    random = np.random.default_rng(seed)
    values = made.labels.foreground_labels
    ignored = made.labels.ignore_label
    for case in range(cases):
        reference = boxes(random, values if ignored is None else [*values, ignored])
        known = np.where(reference == (ignored or -1), 0, reference)
        made.add(f"case{case}", reference, speckled(random, known, values, share))
    return made


def one_after_the_other(made: Folders) -> tuple[list[Any], float]:
    """nnU-Net's way: everything is tried in a pass of its own over all cases."""
    labels = made.labels
    targets = labels.regions if labels.has_regions else labels.foreground_labels
    pairs = [(read(made.references / p.name), read(p)) for p in sorted(made.folder.glob("*.nii.gz"))]

    def dice(images: Sequence[np.ndarray]) -> dict[Any, float]:
        found = [compute_metrics(r, s, targets, labels.ignore_label) for (r, _), s in zip(pairs, images, strict=True)]
        values = {t: [f[t]["Dice"] for f in found if not math.isnan(f[t]["Dice"])] for t in targets}
        return {t: float(np.mean(v)) if v else math.nan for t, v in values.items()}

    images = [segmentation for _, segmentation in pairs]
    done: list[Any] = []
    before = dice(images)
    tried = [keep_largest(image, labels.foreground_labels) for image in images]
    after = dice(tried)
    mean = {key: float(np.mean(list(values.values()))) for key, values in (("before", before), ("after", after))}
    if mean["after"] > mean["before"] and not any(after[t] < before[t] for t in targets):
        done, images, before = [list(labels.foreground_labels)], tried, after
    for target in targets if len(targets) > 1 else ():
        tried = [keep_largest(image, (target,) if isinstance(target, int) else target) for image in images]
        after = dice(tried)
        if after[target] > before[target]:
            done, images, before = [*done, target], tried, after
    return done, float(np.mean(list(before.values())))


@pytest.mark.parametrize("labels", [PLAIN, REGIONS, APART], ids=["labels", "regions", "ignore"])
@pytest.mark.parametrize(("seed", "share"), [(0, 0.002), (1, 0.01), (2, 0.03), (3, 0.1)])
def test_decisions_are_those_of_one_pass_for_each(folders: Any, labels: Any, seed: int, share: float) -> None:
    made = filled(folders(labels), seed, share=share)
    expected, dice = one_after_the_other(made)
    found = made.determine()
    assert [step.labels_or_regions for step in found.steps] == expected
    assert found.after.dice == pytest.approx(dice, abs=1e-12)
    assert [t.target.labels_or_regions for t in found.trials if t.accepted] == expected
    assert read_postprocessing(found.file) == found.steps
    for path in sorted(made.folder.glob("*.nii.gz")):
        image = read(path)
        for step in found.steps:
            image = keep_largest(image, step.labels)
        np.testing.assert_array_equal(read(made.folder / "postprocessed" / path.name), image)


def test_what_does_not_help_is_not_done(folders: Any) -> None:
    made = folders()
    random = np.random.default_rng(0)
    for case in "ab":
        reference = boxes(random, (1,))
        reference[0, 0, 0] = 2  # two components of label 2, both right
        reference[-1, -1, -3:] = 2
        reference[-1, 0, :3] = 3
        made.add(case, reference, speckled(random, reference, (1,), 0.01))
    assert [t.accepted for t in made.determine().trials] == [False, True, False, False]


def test_one_label_is_tried_once(folders: Any) -> None:
    found = filled(folders({"background": 0, "a": 1}), 0).determine()
    assert [t.target.labels_or_regions for t in found.trials] == [[1]]


def test_a_label_that_is_nowhere_keeps_the_foreground_from_being_cleaned(folders: Any) -> None:
    made = folders()
    random = np.random.default_rng(0)
    for case in "ab":
        reference = boxes(random, (1, 2))
        made.add(case, reference, speckled(random, reference, (1, 2), 0.01))
    found = made.determine()
    assert not found.trials[0].accepted and math.isnan(found.before.dice)
    assert [step.labels_or_regions for step in found.steps] == one_after_the_other(made)[0] != []
    assert "NaN" in (made.folder / "postprocessing.json").read_text()


def test_large_labels(folders: Any) -> None:
    made = filled(folders({"background": 0, "a": 1, "b": 300, "c": 70}), 2)
    found = made.determine()
    assert [step.labels_or_regions for step in found.steps] == one_after_the_other(made)[0] != []


def test_files_of_a_postprocessing_that_helps(folders: Any) -> None:
    made = filled(folders(), 1)
    found = made.determine()
    cases = {f"case{i}.nii.gz" for i in range(3)}
    own = {"summary.json", "postprocessing.json", "postprocessing.pkl", "postprocessed/summary.json"}
    assert made.names() == cases | own | {f"postprocessed/{name}" for name in cases}
    summary = json.loads((made.folder / "postprocessed" / "summary.json").read_text())
    written = json.loads((made.folder / "postprocessing.json").read_text())
    assert written["postprocessed"]["mean"] == summary["mean"]
    assert summary["metric_per_case"][0]["prediction_file"] == str(made.folder / "postprocessed" / "case0.nii.gz")
    assert json.loads((made.folder / "summary.json").read_text())["mean"] == written["input_folder"]["mean"]
    image = sitk.ReadImage(str(made.folder / "postprocessed" / "case0.nii.gz"))
    assert image.GetSpacing() == (1.0, 2.0, 3.0)
    assert "Mean Dice" in found.summary() and "kept" in found.summary()


def test_without_improvement_the_files_are_copies(folders: Any) -> None:
    made = filled(folders(), 1, share=0.0)
    for name in ("dataset.json", "plans.json"):
        (made.folder / name).write_text("{}")
    found = made.determine()
    assert found.steps == () and read_postprocessing(found.file) == ()
    output = made.folder / "postprocessed"
    assert {p.name for p in output.iterdir()} == {
        *(f"case{i}.nii.gz" for i in range(3)), "dataset.json", "plans.json", "summary.json",
    }  # fmt: skip
    assert (output / "case1.nii.gz").read_bytes() == (made.folder / "case1.nii.gz").read_bytes()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["metric_per_case"][2]["prediction_file"] == str(output / "case2.nii.gz")


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_postprocessed_files_are_not_kept_if_not_wanted(folders: Any, share: float) -> None:
    made = filled(folders(), 1, share=share)
    kept = made.determine()
    found = made.determine(keep_files=False)
    assert found.steps == kept.steps
    assert (found.before.dice, found.after.dice) == (kept.before.dice, kept.after.dice)
    assert not [name for name in made.names() if name.startswith("postprocessed/")]


def test_worker_processes_make_no_difference(folders: Any) -> None:
    made = filled(folders(), 1)
    alone = made.determine()
    together = made.determine(num_processes=2)
    assert together.trials == alone.trials


def test_an_interrupted_run_leaves_nothing_that_looks_complete(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(folders(), 1)
    first = made.determine()
    write = SimpleITKIO.write_segmentation
    written = []

    def interrupted(self: SimpleITKIO, segmentation: np.ndarray, path: Path, properties: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(self, segmentation, path, properties)

    with monkeypatch.context() as patch:
        patch.setattr(SimpleITKIO, "write_segmentation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.determine()
    assert made.names() == {*(f"case{i}.nii.gz" for i in range(3)), "summary.json", "postprocessed/case0.nii.gz"}
    assert made.determine().trials == first.trials
    assert len(made.names()) == 10


def test_a_failure_while_deciding_leaves_an_earlier_result_alone(folders: Any) -> None:
    made = filled(folders(), 1)
    made.determine()
    names = made.names()
    (made.references / "case2.nii.gz").write_bytes(b"damaged")
    with pytest.raises(ImageError, match=r"references/case2\.nii\.gz"):
        made.determine()
    assert made.names() == names


def test_missing_references_are_listed(folders: Any) -> None:
    made = filled(folders(), 0)
    for case in (0, 2):
        (made.references / f"case{case}.nii.gz").unlink()
    with pytest.raises(PredictionError, match=r"2 of 3 segmentations(.|\n)*case0\.nii\.gz, case2\.nii\.gz"):
        made.determine()


def test_references_without_a_segmentation_do_not_matter(folders: Any) -> None:
    made = filled(folders(), 1)
    expected = made.determine()
    (made.references / "more.nii.gz").write_bytes(b"never read")
    assert made.determine().trials == expected.trials


def test_empty_and_missing_folders_are_named(folders: Any) -> None:
    made = filled(folders(), 0)
    for path in made.folder.iterdir():
        path.rename(path.with_suffix(".mha"))
    with pytest.raises(PredictionError, match=r"no segmentations in (.|\n)*end with \.nii\.gz"):
        made.determine()
    with pytest.raises(StorageError, match="missing"):
        determine_postprocessing(made.root / "missing", made.references, made.plans, made.description, progress=False)


def test_another_shape_is_refused(folders: Any) -> None:
    made = filled(folders(), 0)
    made.add("case1", np.ones((3, 4, 5), int), np.ones((3, 4, 6), int))
    with pytest.raises(
        PredictionError, match=r"case1\.nii\.gz does not have the shape(.|\n)*\(3, 4, 6\)(.|\n)*\(3, 4, 5\)"
    ):
        made.determine()


def test_steps_are_applied_to_all_segmentations(folders: Any) -> None:
    made = filled(folders(), 0, share=0.05)
    steps = (KeepLargest(labels_or_regions=[1, 2]), KeepLargest(labels_or_regions=3))
    output = made.root / "out"
    result = made.apply(output, *steps)
    assert list(result.results) == ["case0", "case1", "case2"]
    for path in made.folder.iterdir():
        expected = keep_largest(keep_largest(read(path), (1, 2)), (3,))
        np.testing.assert_array_equal(read(output / path.name), expected)
        assert (read(path) != expected).any()
    assert {p.name for p in output.iterdir()} == {p.name for p in made.folder.iterdir()}


def test_no_steps_copy_the_files(folders: Any) -> None:
    made = filled(folders(), 0)
    made.apply(made.root / "out")
    for path in made.folder.iterdir():
        assert (made.root / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_file_costs_only_itself(folders: Any) -> None:
    made = filled(folders(), 0)
    (made.folder / "case1.nii.gz").write_bytes(b"damaged")
    result = made.apply(made.root / "out", KeepLargest(labels_or_regions=1), on_failure="continue")
    assert [failure.case for failure in result.failures] == ["case1"]
    assert sorted(p.name for p in (made.root / "out").iterdir()) == ["case0.nii.gz", "case2.nii.gz"]


def test_originals_are_not_replaced(folders: Any) -> None:
    made = filled(folders(), 0)
    with pytest.raises(UsageError, match="would be replaced"):
        made.apply(made.folder / ".", KeepLargest(labels_or_regions=1))


def test_a_postprocessing_of_another_dataset_is_noticed(folders: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = filled(folders(), 0)
    with caplog.at_level(logging.WARNING, logger=postprocessing.__name__):
        made.apply(made.root / "out", KeepLargest(labels_or_regions=[1, 9]))
    assert "does not have (9)" in caplog.text
