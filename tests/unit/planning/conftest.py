from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.planning.presets import PLANNERS

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each recorded plans file whose planner and fingerprint are known."""
    if "golden_case" not in metafunc.fixturenames:
        return
    planners = {PLANNERS[name].plans_name: name for name in PLANNERS}
    cases = [
        (folder.parent, planners[plans])
        for folder in sorted([*GOLDEN.glob("plans/*/dataset.json"), *GOLDEN.glob("datasets/*/dataset.json")])
        for plans in planners
        if (folder.parent / f"{plans}.json").is_file()
    ]
    metafunc.parametrize("golden_case", cases, ids=lambda case: f"{case[0].name}-{case[1]}")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Empty folders."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
    return Workspace(
        Settings(raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed", results=tmp_path / "results")
    )


@pytest.fixture(scope="session")
def image_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small compressed NIfTI file."""
    import SimpleITK as sitk

    path = tmp_path_factory.mktemp("image") / "image.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7), np.float32)), str(path))
    return path.read_bytes()


MakeDataset = Callable[..., str]


@pytest.fixture
def make_dataset(workspace: Workspace, image_bytes: bytes) -> MakeDataset:
    """A function that makes a raw dataset of one case and, if asked, its fingerprint; returns its name."""

    def make(
        number: int = 1,
        *,
        channels: Sequence[str] = ("T1",),
        labels: int = 3,
        num_training: int = 10,
        spacings: Sequence[Sequence[float]] | None = ((1.0, 1.0, 1.0),),
        shapes: Sequence[Sequence[int]] = ((60, 70, 80),),
        relative_size: float = 1.0,
        percentiles: tuple[float, float] = (-100.0, 300.0),
        **more: Any,
    ) -> str:
        name = f"Dataset{number:03d}_Test"
        raw, preprocessed = workspace.raw / name, workspace.preprocessed / name
        (raw / "imagesTr").mkdir(parents=True)
        (raw / "labelsTr").mkdir()
        for channel in range(len(channels)):
            (raw / "imagesTr" / f"case_{channel:04d}.nii.gz").write_bytes(image_bytes)
        (raw / "labelsTr" / "case.nii.gz").write_bytes(image_bytes)
        description = {
            "channel_names": {str(i): c for i, c in enumerate(channels)},
            "labels": {"background": 0} | {f"l{i}": i for i in range(1, labels)},
            "numTraining": num_training,
            "file_ending": ".nii.gz",
        }
        (raw / "dataset.json").write_text(json.dumps(description | more, indent=1))
        if spacings is not None:
            intensities = {
                "max": 1000.0,
                "mean": 100.0,
                "median": 90.0,
                "min": -200.0,
                "percentile_00_5": percentiles[0],
                "percentile_99_5": percentiles[1],
                "std": 120.0,
            }
            fingerprint = {
                "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(len(channels))},
                "median_relative_size_after_cropping": relative_size,
                "shapes_after_crop": [list(s) for s in shapes],
                "spacings": [list(s) for s in spacings],
            }
            preprocessed.mkdir()
            (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return name

    return make
