"""A small dataset that tests of several rooms can shape as they need."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import pytest

from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest, FingerprintResult, extract_fingerprint
from nnunet_pt.preprocessing.pipeline import PreprocessRequest, PreprocessResult, preprocess_dataset

# Continuous integration tries the same examples every time; new ones are for developers
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {"n_stages": 2, "features_per_stage": [8, 16]},
    "_kw_requires_import": [],
}
RESAMPLING = {"order_z": 0, "force_separate_z": None}
INTENSITIES = {
    "max": 400.0,
    "mean": 60.0,
    "median": 50.0,
    "min": -100.0,
    "percentile_00_5": -80.0,
    "percentile_99_5": 350.0,
    "std": 75.0,
}


def configuration(identifier: str, patch: Sequence[int], spacing: Sequence[float], channels: int) -> dict[str, Any]:
    """An entry of the plans file."""
    entry = {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [10.0] * len(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "architecture": NETWORK,
        "batch_dice": False,
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        entry[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        entry[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "order": order, **RESAMPLING}
    return entry


@dataclass
class SmallDataset:
    """Raw images, dataset.json and plans under one folder.

    Attributes:
        root: Holds the three folders of nnU-Net.
        name: Folder name of the dataset.
        description: Content of dataset.json; after a change call ``describe``.
        plans: Content of the plans file; after a change call ``plan``.
        num_samples: Voxels drawn for the fingerprint in all; nnU-Net draws 10^8.
    """

    root: Path
    name: str = "Dataset007_Small"
    description: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, Any] = field(default_factory=dict)
    num_samples: int = 3000

    @property
    def workspace(self) -> Workspace:
        folders = {n: self.root / n for n in ("raw", "preprocessed", "results")}
        return Workspace(Settings(**folders))

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.name

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.name

    @property
    def data(self) -> Path:
        return self.preprocessed / "nnUNetPlans_3d_fullres"

    def image(self, case: str, channel: int = 0) -> Path:
        return self.raw / "imagesTr" / f"{case}_{channel:04d}{self.description['file_ending']}"

    def label(self, case: str) -> Path:
        return self.raw / "labelsTr" / f"{case}{self.description['file_ending']}"

    def begin(
        self, *, channels: Sequence[str] = ("MR",), labels: Mapping[str, Any] | None = None, ending: str = ".nii.gz"
    ) -> None:
        """Create folders, dataset.json and plans with a 3D and a 2D configuration."""
        self.description = {
            "channel_names": {str(i): c for i, c in enumerate(channels)},
            "labels": dict(labels or {"background": 0, "a": 1, "b": 2}),
            "numTraining": 0,
            "file_ending": ending,
        }
        self.plans = {
            "dataset_name": self.name,
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "original_median_shape_after_transp": [10, 12, 14],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {
                "2d": configuration("nnUNetPlans_2d", (8, 8), (1.2, 0.9), len(channels)),
                "3d_fullres": configuration("nnUNetPlans_3d_fullres", (8, 8, 8), (1.3, 1.2, 0.9), len(channels)),
            },
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(i): INTENSITIES for i in range(len(channels))},
        }
        for folder in (self.raw / "imagesTr", self.raw / "labelsTr", self.preprocessed, self.root / "results"):
            folder.mkdir(parents=True, exist_ok=True)
        self.describe()
        self.plan()

    def describe(self) -> None:
        for folder in (self.raw, self.preprocessed):
            (folder / "dataset.json").write_text(json.dumps(self.description))

    def plan(self, name: str = "nnUNetPlans") -> None:
        (self.preprocessed / f"{name}.json").write_text(json.dumps({**self.plans, "plans_name": name}))

    def add(
        self,
        case: str,
        images: Sequence[np.ndarray] | None = None,
        label: np.ndarray | None = None,
        *,
        shape: Sequence[int] = (7, 10, 12),
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        seed: int = 0,
    ) -> None:
        """Write a case; what is not given is random, with a border of zeros. Spacing as for SimpleITK (x, y, z)."""
        random = np.random.default_rng([seed, *case.encode()])
        channels = len(self.description["channel_names"])
        if images is None:
            inside = np.zeros(shape, bool)
            inside[tuple(slice(min(1, n - 1), max(1, n - 1)) for n in shape)] = True
            images = [np.where(inside, random.normal(50, 80, shape), 0).astype(np.float32) for _ in range(channels)]
        if label is None:
            values = [v for v in self.description["labels"].values() if isinstance(v, int)]
            label = random.choice(values, images[0].shape).astype(np.uint8)
            label[:1] = 0
        for channel, image in enumerate(images):
            write_image(image, self.image(case, channel), spacing)
        write_image(label, self.label(case), spacing)

    def preprocess(self, *configurations: str, processes: int = 0, **options: Any) -> PreprocessResult:
        """Preprocess, by default in this process and 3d_fullres only."""
        request = PreprocessRequest(
            dataset=self.name,
            configurations=configurations or ("3d_fullres",),
            num_processes=processes,
            **{"progress": False, **options},
        )
        return preprocess_dataset(request, self.workspace)

    def fingerprint(self, **options: Any) -> FingerprintResult:
        """Measure, by default in this process."""
        from nnunet_pt.planning import fingerprint_extractor

        request = FingerprintRequest(dataset=self.name, **{"progress": False, "num_processes": 0, **options})
        with mock.patch.object(fingerprint_extractor, "NUM_SAMPLES", self.num_samples):
            return extract_fingerprint(request, self.workspace)

    def contents(self, folder: Path | None = None) -> dict[str, bytes]:
        """Every file below a folder (by default all preprocessed data), without manifests, which hold times."""
        folder = folder or self.preprocessed
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and not p.name.endswith(".manifest.jsonl")
        }

    def times(self) -> dict[str, int]:
        """When each preprocessed file was written."""
        return {p.name: p.stat().st_mtime_ns for p in self.data.iterdir()}

    def leftovers(self) -> list[Path]:
        return [p for p in self.root.rglob("*") if p.name.startswith(".partial-")]


def write_image(array: np.ndarray, path: Path, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    """Write an array (slices, rows, columns) or (rows, columns) with SimpleITK, or as PNG."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    if path.suffix != ".png":
        image.SetSpacing([float(s) for s in spacing[: array.ndim]])
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="session")
def image_writer() -> Any:
    """``write_image`` for modules that cannot import it."""
    return write_image


@pytest.fixture(scope="session")
def small_dataset() -> Callable[[Path], SmallDataset]:
    """A function that makes a dataset without cases under a folder."""

    def make(root: Path) -> SmallDataset:
        dataset = SmallDataset(root)
        dataset.begin()
        return dataset

    return make


@pytest.fixture
def small(tmp_path: Path) -> SmallDataset:
    """A dataset with folders, dataset.json and plans, but without cases."""
    dataset = SmallDataset(tmp_path)
    dataset.begin()
    return dataset


@pytest.fixture(scope="session")
def _three_cases(tmp_path_factory: pytest.TempPathFactory) -> SmallDataset:
    dataset = SmallDataset(tmp_path_factory.mktemp("three"))
    dataset.begin()
    for case in ("a1", "b2", "c3"):
        dataset.add(case)
    return dataset


@pytest.fixture
def three(_three_cases: SmallDataset, tmp_path: Path) -> SmallDataset:
    """A dataset with the cases a1, b2 and c3."""
    shutil.copytree(_three_cases.root, tmp_path, dirs_exist_ok=True)
    return SmallDataset(
        tmp_path,
        description=copy.deepcopy(_three_cases.description),
        plans=copy.deepcopy(_three_cases.plans),
    )


@pytest.fixture
def tiny_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 kB, or of the size that a test is parametrized with; only root can make one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or mount is None:
        pytest.skip("only root can mount a small file system")
    size = f"size={getattr(request, 'param', '64k')}"
    done = subprocess.run([mount, "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
