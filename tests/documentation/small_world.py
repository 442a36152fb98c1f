"""The data that readers of the documentation have, a hundred times smaller: datasets of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A dataset to make."""

    name: str
    labels: Sequence[str]
    channels: Sequence[str] = ("MRI",)
    shape_zyx: tuple[int, int, int] = (16, 24, 24)
    spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    case: str = "case"
    test_case: str = "test"
    cases: int = 5


DATASETS = (
    Tiny(name="Dataset004_Hippocampus", labels=("Anterior", "Posterior"), case="hippocampus"),
    Tiny(name="Dataset006_Lung", labels=("cancer",), channels=("CT",), shape_zyx=(30, 30, 30), case="lung", cases=2),
    Tiny(name="Dataset015_Brain", labels=("grey", "white")),
    Tiny(name="Dataset016_Spine", labels=("disc", "vertebra")),
    Tiny(name="Dataset020_Lesions", labels=("lesion",), cases=2),
    Tiny(
        name="Dataset901_PhantomPretrain",
        labels=("liver", "spleen", "kidney", "spine"),
        shape_zyx=(10, 20, 20),
        spacing_zyx=(2.0, 1.6, 1.6),
        case="phantomtr",
        test_case="phantomts",
        cases=24,
    ),
    Tiny(
        name="Dataset902_PhantomFinetune",
        labels=("liver", "spleen", "lesion"),
        shape_zyx=(10, 24, 26),
        spacing_zyx=(3.0, 1.3, 1.3),
        case="phantomtr",
        test_case="phantomts",
    ),
)


def make_dataset(tiny: Tiny, raw: Path) -> None:
    """Grey boxes in a dark surrounding; every label is in every case."""
    folder = raw / tiny.name
    for subset, count in (("Tr", tiny.cases), ("Ts", 2)):
        for number in range(count):
            random = np.random.default_rng([number, len(subset), *tiny.name.encode()])
            labels = np.zeros(tiny.shape_zyx, np.uint8)
            edges = np.linspace(2, tiny.shape_zyx[2] - 2, len(tiny.labels) + 1).astype(int)
            for label in range(1, len(tiny.labels) + 1):
                labels[3:-3, 4:-4, edges[label - 1] : edges[label]] = label
            case = f"{tiny.case if subset == 'Tr' else tiny.test_case}_{number:03d}"
            for channel in range(len(tiny.channels)):
                grey = 100 * labels + random.normal(300, 20, labels.shape)
                _write(grey.astype(np.float32), folder / f"images{subset}" / f"{case}_{channel:04d}.nii.gz", tiny)
            _write(labels, folder / f"labels{subset}" / f"{case}.nii.gz", tiny)
    description = {
        "channel_names": {str(i): name for i, name in enumerate(tiny.channels)},
        "labels": {"background": 0, **{name: i for i, name in enumerate(tiny.labels, 1)}},
        "numTraining": tiny.cases,
        "numTest": 99,  # scripts/make_phantom.py makes no more
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def _write(array: np.ndarray, path: Path, tiny: Tiny) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tiny.spacing_zyx[::-1])
    sitk.WriteImage(image, str(path))


def make_decathlon_task(folder: Path, raw: Path) -> None:
    """Two cases as the Medical Segmentation Decathlon packs them, with its hidden files."""
    source = raw / "Dataset004_Hippocampus"
    cases = [f"hippocampus_{i:03d}" for i in range(2)]
    for sub in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / sub).mkdir(parents=True)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr" / f"{case}.nii.gz")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr")
        (folder / "imagesTr" / f"._{case}.nii.gz").write_bytes(b"hidden")
    shutil.copy(source / "imagesTs" / "test_000_0000.nii.gz", folder / "imagesTs" / "hippocampus_002.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(_old_description(cases)), encoding="utf-8")


def make_version_1_task(folder: Path, raw: Path) -> None:
    """Two cases of a dataset of nnU-Net v1."""
    source = raw / "Dataset004_Hippocampus"
    cases = [f"hippocampus_{i:03d}" for i in range(2)]
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr")
    (folder / "dataset.json").write_text(json.dumps(_old_description(cases)), encoding="utf-8")


def _old_description(cases: list[str]) -> dict[str, object]:
    return {
        "name": "Old",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "test": [],
    }
