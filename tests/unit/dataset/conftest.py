from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SHAPE = (6, 7, 8)  # as numpy has it: slices, rows, columns


class RawDataset:
    """A small raw dataset with two channels, which a test then damages."""

    def __init__(self, folder: Path, num_cases: int = 3) -> None:
        self.folder = folder
        self.random = np.random.default_rng(0)
        self.description: dict[str, Any] = {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "tumour": 1, "core": 2},
            "numTraining": num_cases,
            "file_ending": ".nii.gz",
        }
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        for index in range(num_cases):
            case = f"case_{index:02d}"
            self.write_image(case, 0, self.random.normal(size=SHAPE))
            self.write_image(case, 1, self.random.normal(size=SHAPE))
            label = self.random.integers(0, 3, SHAPE)
            self.write_label(case, label)
        self.save()

    def save(self) -> None:
        (self.folder / "dataset.json").write_text(json.dumps(self.description))

    def image(self, case: str, channel: int) -> Path:
        return self.folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"

    def label(self, case: str) -> Path:
        return self.folder / "labelsTr" / f"{case}.nii.gz"

    def write_image(self, case: str, channel: int, array: NDArray[Any], **geometry: Any) -> None:
        write_itk(self.image(case, channel), array.astype(np.float32), **geometry)

    def write_label(self, case: str, array: NDArray[Any], **geometry: Any) -> None:
        array = array if array.dtype.kind == "f" else array.astype(np.int16)
        write_itk(self.label(case), array.astype(np.float32) if array.dtype.kind == "f" else array, **geometry)


def write_itk(
    path: Path,
    array: NDArray[Any],
    *,
    spacing: tuple[float, ...] | None = None,
    origin: tuple[float, ...] | None = None,
    direction: tuple[float, ...] | None = None,
) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array, isVector=False)
    if spacing:
        image.SetSpacing(spacing)
    if origin:
        image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path), True)


@pytest.fixture
def write_image() -> Callable[..., None]:
    return write_itk


@pytest.fixture
def dataset(tmp_path: Path) -> RawDataset:
    return RawDataset(tmp_path / "raw" / "Dataset001_Phantom")
