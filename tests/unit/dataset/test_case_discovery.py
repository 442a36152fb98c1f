"""Which files make a case, and which folder is which dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, SettingsError, UsageError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.dataset.cases import (
    cases_in_folder,
    dataset_id,
    discover_training_cases,
    resolve_dataset_name,
    training_cases,
)
from nnunet_pt.dataset.description import DatasetDescription


def make(folder: Path, images: list[str], labels: list[str]) -> Path:
    for name, files in (("imagesTr", images), ("labelsTr", labels)):
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file).touch()
    return folder


def describe(num_channels: int = 2, ending: str = ".nii.gz", **more: Any) -> DatasetDescription:
    data = {
        "channel_names": {str(i): "MRI" for i in range(num_channels)},
        "labels": {"background": 0, "x": 1},
        "file_ending": ending,
        **more,
    }
    return DatasetDescription.from_json(data, Path("dataset.json"))


def files(case: str, channels: int = 2, ending: str = ".nii.gz") -> list[str]:
    return [f"{case}_{c:04d}{ending}" for c in range(channels)]


def test_cases_in_order_with_channels_in_order(tmp_path: Path) -> None:
    folder = make(tmp_path, files("b") + files("a_1"), ["a_1.nii.gz", "b.nii.gz"])
    cases = training_cases(folder, describe())
    assert [c.identifier for c in cases] == ["a_1", "b"]
    assert [p.name for p in cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert cases[1].label == folder / "labelsTr" / "b.nii.gz"


def test_hidden_files_and_other_endings_are_no_cases(tmp_path: Path) -> None:
    folder = make(tmp_path, [*files("a"), "._a_0000.nii.gz", ".DS_Store", "notes.txt"], ["a.nii.gz", "._a.nii.gz"])
    assert [c.identifier for c in training_cases(folder, describe())] == ["a"]


def test_case_whose_name_looks_like_a_channel(tmp_path: Path) -> None:
    folder = make(tmp_path, files("x_0001") + files("x"), ["x.nii.gz", "x_0001.nii.gz"])
    assert [c.identifier for c in training_cases(folder, describe())] == ["x", "x_0001"]


def test_every_incomplete_case_is_named_with_its_missing_files(tmp_path: Path) -> None:
    images = [*files("a"), "b_0000.nii.gz", "c_0001.nii.gz", *files("d"), *files("e", 3)]
    folder = make(tmp_path, images, ["a.nii.gz", "b.nii.gz", "c.nii.gz", "e.nii.gz"])
    with pytest.raises(DatasetError) as caught:
        training_cases(folder, describe())
    text = str(caught.value)
    assert "case b: no image b_0001.nii.gz" in text
    assert "case c: no image c_0000.nii.gz" in text
    assert "case d: no label labelsTr/d.nii.gz" in text
    assert "case e: more images than the 2 channels: e_0002.nii.gz" in text
    assert "case a" not in text


def test_image_without_channel_number_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path, [*files("a"), "b.nii.gz"], ["a.nii.gz", "b.nii.gz"])
    with pytest.raises(DatasetError, match=r"b\.nii\.gz: no channel number"):
        training_cases(folder, describe())


def test_one_file_may_hold_all_channels_if_it_does_for_all_cases(tmp_path: Path) -> None:
    folder = make(tmp_path, files("a", 1, ".png") + files("b", 1, ".png"), ["a.png", "b.png"])
    assert len(training_cases(folder, describe(3, ".png"))) == 2


def test_labels_without_images_are_found(tmp_path: Path) -> None:
    folder = make(tmp_path, files("a"), ["a.nii.gz", "z.nii.gz"])
    found = discover_training_cases(folder, describe())
    assert [p.name for p in found.without_images] == ["z.nii.gz"]
    assert len(found.cases) == 1


def test_no_cases_names_the_endings_there_are(tmp_path: Path) -> None:
    folder = make(tmp_path, ["a_0000.nrrd"], [])
    with pytest.raises(DatasetError, match=r"(?s)no cases.*\.nrrd.*file_ending"):
        training_cases(folder, describe())


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="imagesTr is missing"):
        training_cases(tmp_path, describe())


def test_case_table_expands_variables_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_OF_TEST", "/somewhere")
    table = {
        "b": {"images": ["$DATA_OF_TEST/b.nrrd"], "label": "../b.nrrd"},
        "a": {"images": ["/x.nrrd"], "label": "y"},
    }
    cases = training_cases(tmp_path / "raw", describe(1, dataset=table))
    assert [c.identifier for c in cases] == ["b", "a"]  # as in the table
    assert cases[0].images == (Path("/somewhere/b.nrrd"),)
    assert cases[0].label == tmp_path / "b.nrrd"


def test_case_table_without_label(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='case a: no "label"'):
        training_cases(tmp_path, describe(1, dataset={"a": {"images": ["x.nrrd"]}}))


def test_folder_of_images_without_known_channel_count(tmp_path: Path) -> None:
    for name in files("a") + files("b"):
        (tmp_path / name).touch()
    cases = cases_in_folder(tmp_path, ".nii.gz", None)
    assert [(c.identifier, len(c.images), c.label) for c in cases] == [("a", 2, None), ("b", 2, None)]
    (tmp_path / "b_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case b: no image b_0001\.nii\.gz"):
        cases_in_folder(tmp_path, ".nii.gz", 2)


def workspace(tmp_path: Path, *names: str) -> Workspace:
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    folders = {key: tmp_path / key for key in ("raw", "preprocessed", "results")}
    return Workspace(Settings(**folders))


@pytest.mark.parametrize("dataset", [4, "4", "004", "Dataset004_Heart"])
def test_dataset_by_number_or_name(tmp_path: Path, dataset: int | str) -> None:
    space = workspace(tmp_path, "raw/Dataset004_Heart", "preprocessed/Dataset004_Heart", "raw/Dataset0041_Odd")
    assert resolve_dataset_name(dataset, space) == "Dataset004_Heart"


def test_dataset_only_among_the_results(tmp_path: Path) -> None:
    assert resolve_dataset_name(7, workspace(tmp_path, "results/Dataset007_X")) == "Dataset007_X"


def test_unknown_dataset_names_those_there_are(tmp_path: Path) -> None:
    space = workspace(tmp_path, "raw/Dataset004_Heart")
    for dataset in (5, "Dataset005_Brain"):
        with pytest.raises(DatasetError, match=r"(?s)5.*Dataset004_Heart"):
            resolve_dataset_name(dataset, space)


def test_number_used_twice_names_the_places(tmp_path: Path) -> None:
    space = workspace(tmp_path, "raw/Dataset004_Heart", "preprocessed/Dataset004_Hippocampus")
    with pytest.raises(DatasetError, match=r"(?s)raw/Dataset004_Heart.*preprocessed/Dataset004_Hippocampus"):
        resolve_dataset_name(4, space)


def test_neither_number_nor_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'heart'"):
        resolve_dataset_name("heart", workspace(tmp_path, "raw"))


def test_workspace_without_folders(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nnUNet_raw"):
        resolve_dataset_name(4, Workspace(Settings()))
    with pytest.raises(DatasetError, match="does not exist"):
        resolve_dataset_name(4, workspace(tmp_path))


@pytest.mark.parametrize("dataset", [77, "Dataset077_X"])
def test_a_missing_raw_folder_is_named_where_others_are_there(tmp_path: Path, dataset: int | str) -> None:
    settings = Settings(raw=tmp_path / "typing error", preprocessed=tmp_path)
    with pytest.raises(DatasetError) as caught:
        resolve_dataset_name(dataset, Workspace(settings))
    assert f"{tmp_path / 'typing error'} does not exist" in str(caught.value.remedy)


def test_number_of_a_name() -> None:
    assert dataset_id("Dataset016_BraTS") == 16
    for name in ("Task016_BraTS", "Dataset16_X", "Dataset"):
        with pytest.raises(DatasetError, match=name):
            dataset_id(name)
