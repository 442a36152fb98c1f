"""MSD and nnU-Net v1 datasets become raw datasets, completely or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import DatasetError, ImageError, UsageError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.dataset.cases import training_cases
from nnunet_pt.dataset.convert import convert_msd_dataset, convert_old_nnunet_dataset
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import reader_writer_by_name

WriteImage = Callable[..., None]
SPACING = (0.5, 1.0, 2.0)
OLD_DESCRIPTION = {
    "name": "Prostate",
    "licence": "CC BY-SA 4.0",
    "tensorImageSize": "4D",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    "numTraining": 2,
    "numTest": 1,
    "training": [{"image": "./imagesTr/p_0.nii.gz", "label": "./labelsTr/p_0.nii.gz"}],
    "test": ["./imagesTs/p_2.nii.gz"],
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folders = {name: tmp_path / name for name in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir()
    return Workspace(Settings(**folders))


@pytest.fixture
def task(tmp_path: Path, write_image: WriteImage) -> Path:
    """A task of the Decathlon with two channels in 4D files, and one 3D file."""
    folder = tmp_path / "Task05_Prostate"
    random = np.random.default_rng(0)
    for name, cases in (("imagesTr", (0, 1)), ("imagesTs", (2,)), ("labelsTr", (0, 1))):
        (folder / name).mkdir(parents=True)
        for case in cases:
            shape = (4, 5, 6) if name == "labelsTr" or case == 2 else (2, 4, 5, 6)
            array = random.integers(0, 3, shape).astype(np.int16)
            spacing = SPACING if array.ndim == 3 else (*SPACING, 1.0)
            write_image(folder / name / f"p_{case}.nii.gz", array, spacing=spacing)
        (folder / name / "._p_0.nii.gz").write_bytes(b"left by macOS")
    (folder / "dataset.json").write_text(json.dumps(OLD_DESCRIPTION))
    return folder


def convert(task: Path, workspace: Workspace, **more: Any) -> Path:
    return convert_msd_dataset(task, workspace, num_processes=0, progress=False, **more)


def test_decathlon_task(task: Path, workspace: Workspace) -> None:
    folder = convert_msd_dataset(task, workspace, num_processes=2, progress=False)
    assert folder == workspace.raw / "Dataset005_Prostate"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == [
        "dataset.json",
        *(f"imagesTr/p_{case}_000{channel}.nii.gz" for case in (0, 1) for channel in (0, 1)),
        "imagesTs/p_2_0000.nii.gz",
        *(f"labelsTr/p_{case}.nii.gz" for case in (0, 1)),
    ]
    reader = reader_writer_by_name("SimpleITKIO")
    for case in training_cases(folder, DatasetDescription.load(folder / "dataset.json")):
        before, _ = reader.read_images([task / "imagesTr" / f"{case.identifier}.nii.gz"])
        after, properties = reader.read_images(case.images)
        assert np.array_equal(before, after)
        assert properties["spacing"] == [2.0, 1.0, 0.5]
        assert reader.read_header(case.images[0]).voxel_bytes == 2
    copied, original = folder / "imagesTs" / "p_2_0000.nii.gz", task / "imagesTs" / "p_2.nii.gz"
    assert copied.read_bytes() == original.read_bytes()


def test_description_is_the_one_nnunet_writes(task: Path, workspace: Workspace) -> None:
    expected = {
        "name": "Prostate",
        "licence": "CC BY-SA 4.0",
        "tensorImageSize": "4D",
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 2,
        "numTest": 1,
        "file_ending": ".nii.gz",
        "channel_names": {"0": "T2", "1": "ADC"},
    }
    folder = convert(task, workspace)
    assert (folder / "dataset.json").read_text() == json.dumps(expected, indent=4)


def test_another_number(task: Path, workspace: Workspace) -> None:
    assert convert(task, workspace, dataset_id=105).name == "Dataset105_Prostate"
    for number in (0, 1000):
        with pytest.raises(UsageError, match=str(number)):
            convert(task, workspace, dataset_id=number)


@pytest.mark.parametrize("root", ["raw", "preprocessed", "results"])
def test_number_that_is_taken_is_refused_with_its_place(task: Path, workspace: Workspace, root: str) -> None:
    taken = workspace.raw.parent / root / "Dataset005_Other"
    taken.mkdir()
    with pytest.raises(DatasetError, match="number 5 is taken") as caught:
        convert(task, workspace)
    assert str(taken) in str(caught.value) and "-overwrite_id" in str(caught.value)


def test_wrong_folders(tmp_path: Path, task: Path, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="TaskXX_Name"):
        convert(tmp_path / "Prostate", workspace)
    with pytest.raises(DatasetError, match="does not exist"):
        convert(tmp_path / "Task06_Lung", workspace)
    (task / "dataset.json").unlink()
    (task / "labelsTr").rename(task / "labels")
    with pytest.raises(DatasetError, match=r"no labelsTr, dataset\.json"):
        convert(task, workspace)
    assert list(workspace.raw.iterdir()) == []


def test_damaged_file_leaves_nothing(task: Path, workspace: Workspace) -> None:
    damaged = task / "imagesTr" / "p_1.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ImageError, match=r"p_1\.nii\.gz"):
        convert(task, workspace)
    assert list(workspace.raw.iterdir()) == []


def test_killed_conversion_leaves_nothing_under_the_final_name_and_can_be_repeated(
    task: Path, workspace: Workspace
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.dataset import convert
convert._write_description = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folder = Path({str(workspace.raw)!r})
convert.convert_msd_dataset(Path({str(task)!r}), Workspace(Settings(raw=folder)), num_processes=0, progress=False)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = workspace.raw.iterdir()
    assert left.name.startswith(".partial-") and (left / "imagesTr" / "p_0_0000.nii.gz").is_file()
    folder = convert(task, workspace)
    assert list(workspace.raw.iterdir()) == [folder]


def test_old_nnunet_dataset(task: Path, workspace: Workspace, write_image: WriteImage) -> None:
    images = task / "imagesTr"
    for file in images.iterdir():
        file.unlink()
    for case in range(2):
        for channel in range(2):
            write_image(images / f"p_{case}_000{channel}.nii.gz", np.zeros((4, 5, 6), np.float32), spacing=SPACING)
    (task / "labelsTs").mkdir()
    folder = convert_old_nnunet_dataset(task, "Dataset027_Old", workspace, num_processes=0, progress=False)
    assert folder == workspace.raw / "Dataset027_Old"
    description = DatasetDescription.load(folder / "dataset.json")
    assert len(training_cases(folder, description)) == 2
    assert (folder / "labelsTs").is_dir() and (folder / "imagesTs" / "p_2.nii.gz").is_file()
    assert json.loads((folder / "dataset.json").read_text()) == {
        "name": "Prostate",
        "licence": "CC BY-SA 4.0",
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 2,
        "channel_names": {"0": "T2", "1": "ADC"},
        "file_ending": ".nii.gz",
    }
    with pytest.raises(DatasetError, match="number 27 is taken"):
        convert_old_nnunet_dataset(task, "Dataset027_Again", workspace, num_processes=0, progress=False)


@pytest.mark.parametrize("name", ["Task027_Old", "Dataset27_Old", "Dataset027", "Dataset027_a/b"])
def test_names_that_are_not_for_datasets(task: Path, workspace: Workspace, name: str) -> None:
    with pytest.raises(UsageError, match="DatasetXXX_Name"):
        convert_old_nnunet_dataset(task, name, workspace)
