"""Averaging the probabilities of several models."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.core.errors import PredictionError, StorageError
from nnunet_pt.evaluation import ensemble
from nnunet_pt.evaluation.ensemble import ensemble_folders

SHAPE = (4, 5, 6)
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@dataclass
class Predictions:
    """Folders with probabilities as nnUNetv2_predict writes them."""

    root: Path
    plans: Mapping[str, Any]
    description: dict[str, Any]
    channels: int

    def add(self, folder: str, cases: Sequence[str], shape: Sequence[int] = SHAPE) -> Path:
        target = self.root / folder
        target.mkdir(exist_ok=True)
        (target / "plans.json").write_text(json.dumps(self.plans))
        (target / "dataset.json").write_text(json.dumps(self.description))
        for case in cases:
            random = np.random.default_rng([*folder.encode(), *case.encode()])
            probabilities = random.random((self.channels, *shape)).astype(np.float32)
            np.savez_compressed(target / f"{case}.npz", probabilities=probabilities)
            image = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
            image.SetSpacing((1.5, 2.0, 3.0))
            sitk.WriteImage(image, str(self.root / "geometry.nii.gz"))
            from nnunet_pt.dataset.images.simpleitk_images import SimpleITKIO

            _, properties = SimpleITKIO().read_segmentation(self.root / "geometry.nii.gz")
            (target / f"{case}.pkl").write_bytes(pickle.dumps(properties))
        return target

    @property
    def output(self) -> Path:
        return self.root / "ensemble"

    def segmentation(self, case: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.output / f"{case}.nii.gz")))


@pytest.fixture
def predictions(small: Any) -> Any:
    """A function that makes a place for predictions of a dataset with these labels."""

    def make(labels: Mapping[str, Any] | None = None) -> Predictions:
        description = dict(small.description)
        if labels is not None:
            description["labels"] = dict(labels)
        order = [value[-1] if isinstance(value, list) else value for value in description["labels"].values()][1:]
        regions = any(isinstance(value, list) for value in description["labels"].values())
        if regions:
            description["regions_class_order"] = order
        root = small.root / "predictions"
        root.mkdir()
        return Predictions(root, small.plans, description, len(description["labels"]) - regions)

    return make


def probabilities_of(folder: Path, case: str) -> np.ndarray:
    with np.load(folder / f"{case}.npz") as archive:
        return np.asarray(archive["probabilities"])


def mean_of(folders: Sequence[Path], case: str) -> np.ndarray:
    arrays = [probabilities_of(folder, case) for folder in folders]
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total / np.float32(len(arrays))


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_the_most_probable_label_of_the_mean_is_taken(predictions: Any, number: int) -> None:
    made = predictions()
    folders = [made.add(f"m{i}", ["a", "b"]) for i in range(number)]
    result = ensemble_folders(folders, made.output, progress=False)
    assert list(result.results) == ["a", "b"]
    for case in "ab":
        np.testing.assert_array_equal(made.segmentation(case), mean_of(folders, case).argmax(0))
        assert sitk.ReadImage(str(made.output / f"{case}.nii.gz")).GetSpacing() == (1.5, 2.0, 3.0)
    assert {p.name for p in made.output.iterdir()} == {"dataset.json", "a.nii.gz", "b.nii.gz"}
    assert json.loads((made.output / "dataset.json").read_text()) == made.description


def test_regions_overwrite_each_other_in_their_order(predictions: Any) -> None:
    made = predictions(REGIONS)
    folders = [made.add(f"m{i}", ["a"]) for i in range(2)]
    ensemble_folders(folders, made.output, progress=False)
    whole, core = mean_of(folders, "a") > 0.5
    np.testing.assert_array_equal(made.segmentation("a"), np.where(core, 2, np.where(whole, 2, 0)))


def test_many_labels(predictions: Any) -> None:
    made = predictions({"background": 0, **{f"l{i}": i for i in range(1, 300)}})
    folders = [made.add(f"m{i}", ["a"]) for i in range(2)]
    ensemble_folders(folders, made.output, progress=False)
    expected = mean_of(folders, "a").argmax(0)
    assert expected.max() > 255
    np.testing.assert_array_equal(made.segmentation("a"), expected)


def test_mean_probabilities_are_written_if_wanted_and_can_be_ensembled_again(predictions: Any) -> None:
    made = predictions()
    folders = [made.add(f"m{i}", ["a"]) for i in range(3)]
    ensemble_folders(folders, made.output, save_probabilities=True, progress=False)
    np.testing.assert_array_equal(probabilities_of(made.output, "a"), mean_of(folders, "a"))
    assert (made.output / "a.pkl").read_bytes() == (folders[0] / "a.pkl").read_bytes()
    shutil.copy(folders[0] / "plans.json", made.output)
    ensemble_folders([made.output, folders[1]], made.root / "again", progress=False)
    assert (made.root / "again" / "a.nii.gz").is_file()


def test_memory_does_not_grow_with_the_number_of_models(predictions: Any) -> None:
    made = predictions()
    shape = (32, 64, 64)
    folders = [made.add(f"m{i}", ["a"], shape) for i in range(6)]
    size = 3 * 4 * np.prod(shape)
    tracemalloc.start()
    try:
        ensemble_folders(folders, made.output, progress=False)
        assert tracemalloc.get_traced_memory()[1] < 3.2 * size  # two models, or one and the making of a segmentation
    finally:
        tracemalloc.stop()


def test_worker_processes_make_no_difference(predictions: Any) -> None:
    made = predictions()
    folders = [made.add(f"m{i}", ["a", "b", "c"]) for i in range(2)]
    ensemble_folders(folders, made.output, num_processes=2, progress=False)
    for case in "abc":
        np.testing.assert_array_equal(made.segmentation(case), mean_of(folders, case).argmax(0))


def test_differing_cases_are_listed(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a", "b"]), made.add("two", ["b", "c"]), made.add("three", ["a", "b", "c"])]
    with pytest.raises(PredictionError, match=r"one has not: c\.npz; .*two has not: a\.npz") as caught:
        ensemble_folders(folders, made.output, progress=False)
    assert "three" not in str(caught.value)
    assert not made.output.exists()


def test_folders_without_probabilities_and_missing_folders(predictions: Any) -> None:
    made = predictions()
    with pytest.raises(PredictionError, match=r"no probabilities(.|\n)*--save_probabilities"):
        ensemble_folders([made.add("one", []), made.add("two", [])], made.output, progress=False)
    with pytest.raises(StorageError, match="nowhere"):
        ensemble_folders([made.add("one", ["a"]), made.root / "nowhere"], made.output, progress=False)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_descriptions_are_needed(predictions: Any, name: str) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"])]
    (folders[0] / name).unlink()
    with pytest.raises(PredictionError, match=rf"one has no {name}"):
        ensemble_folders(folders, made.output, progress=False)


def test_an_input_is_not_the_output(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"])]
    with pytest.raises(PredictionError, match="one of the input folders"):
        ensemble_folders(folders, folders[1] / ".", progress=False)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def garbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def objects(path: Path) -> None:
    np.savez(path, probabilities=np.array([{"a": 1}], object))


def other_key(path: Path) -> None:
    np.savez(path, softmax=np.zeros((3, *SHAPE), np.float32))


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, *SHAPE), np.float32))


@pytest.mark.parametrize("damage", [truncated, garbled, objects, other_key, single_array])
def test_damaged_probabilities_are_named(predictions: Any, damage: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"])]
    damage(folders[1] / "a.npz")
    with pytest.raises(PredictionError, match=r"two/a\.npz does not hold probabilities, or is damaged"):
        ensemble_folders(folders, made.output, progress=False)


def test_probabilities_of_another_shape_or_dataset_are_refused(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"], (4, 5, 7))]
    with pytest.raises(PredictionError, match=r"case a do not have the same shape(.|\n)*5, 7\) in .*two/a"):
        ensemble_folders(folders, made.output, progress=False)
    made.channels = 4
    made.add("two", ["a"])
    with pytest.raises(PredictionError, match=r"two/a\.npz do not belong(.|\n)*\(4, 4, 5, 6\)(.|\n)*3 labels"):
        ensemble_folders(folders, made.output, progress=False)


class Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def test_a_malicious_properties_file_does_nothing(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"])]
    trap = made.root / "trap"
    (folders[0] / "a.pkl").write_bytes(pickle.dumps({"spacing": Touch(trap)}))
    with pytest.raises(PredictionError, match=r"one/a\.pkl is damaged, or holds more(.|\n)*posix.system"):
        ensemble_folders(folders, made.output, progress=False)
    assert not trap.exists()


def test_missing_properties_are_named(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a"]), made.add("two", ["a"])]
    (folders[0] / "a.pkl").unlink()
    with pytest.raises(StorageError, match=r"one/a\.pkl"):
        ensemble_folders(folders, made.output, progress=False)


def test_a_damaged_case_costs_only_itself(predictions: Any) -> None:
    made = predictions()
    folders = [made.add("one", ["a", "b", "c"]), made.add("two", ["a", "b", "c"])]
    truncated(folders[0] / "b.npz")
    result = ensemble_folders(folders, made.output, on_failure="continue", progress=False)
    assert [failure.case for failure in result.failures] == ["b"]
    assert {p.name for p in made.output.iterdir()} == {"dataset.json", "a.nii.gz", "c.nii.gz"}


def test_workers_need_no_torch() -> None:
    import subprocess
    import sys

    program = f"import {ensemble.__name__}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
