"""A small dataset that tests of several rooms can shape as they need."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import threading
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
hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where the shell ignores it for what runs in the background."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


def tiny_architecture(axes: int) -> dict[str, Any]:
    """A network of two stages that predicts in milliseconds."""
    return {
        "network_class_name": NETWORK["network_class_name"],
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 6],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * 2,
            "strides": [[1] * axes, [2] * axes],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def write_tiny_model(
    dataset: SmallDataset,
    configuration: str = "3d_fullres",
    *,
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "checkpoint_final.pth",
    trainer: str = "nnUNetTrainer",
    mirror_axes: Sequence[int] | None = None,
) -> Path:
    """Write a model with random weights, others for each fold, as a training of the dataset leaves it.

    The channels, labels and configurations are those of the dataset; all its networks become tiny ones.

    Returns:
        The model's folder in ``results`` of the dataset.
    """
    import torch

    from nnunet_pt.dataset.description import DatasetDescription
    from nnunet_pt.dataset.labels import Labels
    from nnunet_pt.networks.build import build_network
    from nnunet_pt.plans.plans import Plans
    from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

    for entry in dataset.plans["configurations"].values():
        if "patch_size" in entry:
            entry["architecture"] = tiny_architecture(len(entry["patch_size"]))
    plans = {**dataset.plans, "plans_name": "nnUNetPlans"}
    planned = Plans.from_json(plans, "plans.json").configuration(configuration)
    labels = Labels.from_description(DatasetDescription.from_json(dataset.description, Path("dataset.json")))
    previous = len(labels.foreground_labels) if planned.previous_stage is not None else 0
    folder = dataset.root / "results" / dataset.name / f"{trainer}__nnUNetPlans__{configuration}"
    for number, fold in enumerate(folds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            network = build_network(
                planned.architecture,
                input_channels=len(dataset.description["channel_names"]) + previous,
                num_outputs=labels.num_segmentation_heads,
                deep_supervision=False,
                patch_size=planned.patch_size,
            )
        init_args = {"plans": plans, "configuration": configuration, "fold": fold, "dataset_json": dataset.description}
        axes = range(len(planned.patch_size)) if mirror_axes is None else mirror_axes
        content = Checkpoint(
            network_weights=network.state_dict(),
            init_args=init_args,
            trainer_name=trainer,
            mirroring_axes=tuple(axes),
        )
        write_checkpoint(folder / f"fold_{fold}" / checkpoint, content)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset.description))
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder() -> Callable[..., Path]:
    """The function ``write_tiny_model`` for modules that cannot import it."""
    return write_tiny_model


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


def write_cross_validation(
    dataset: SmallDataset,
    configuration: str,
    folds: Mapping[int | str, Sequence[str]],
    *,
    wrong: float = 0.0,
    wrong_probabilities: float | None = None,
    probabilities: bool = True,
    trainer: str = "nnUNetTrainer",
    plans: str = "nnUNetPlans",
) -> Path:
    """Write a model folder with the final validation of its folds, but without checkpoints.

    Args:
        dataset: Has the cases; its labels are plain.
        configuration: Of the model.
        folds: The validation cases of each fold.
        wrong: Share of the voxels that are predicted as something else.
        wrong_probabilities: The same for the probabilities, by default the same voxels.
        probabilities: Write probabilities, too.
        trainer: Of the model.
        plans: Of the model.

    Returns:
        The model's folder in ``results`` of the dataset.
    """
    import pickle

    import SimpleITK as sitk

    from nnunet_pt.dataset.images.registry import reader_writer_by_name

    number = len(dataset.description["labels"])
    folder = dataset.root / "results" / dataset.name / f"{trainer}__{plans}__{configuration}"
    for fold, cases in folds.items():
        validation = folder / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        for case in cases:
            random = np.random.default_rng([len(configuration), *case.encode()])
            label = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.label(case))))
            chance, other = random.random((2, *label.shape))
            moved = (label + 1 + (other * (number - 1)).astype(label.dtype)) % number
            write_image(np.where(chance < wrong, moved, label).astype(np.uint8), validation / dataset.label(case).name)
            if probabilities:
                share = wrong if wrong_probabilities is None else wrong_probabilities
                likely = np.where(chance < share, moved, label)
                scores = np.where(np.arange(number)[:, None, None, None] == likely, 0.8, 0.2 / (number - 1))
                np.savez_compressed(validation / f"{case}.npz", probabilities=scores.astype(np.float32))
                _, properties = reader_writer_by_name("SimpleITKIO").read_segmentation(dataset.label(case))
                (validation / f"{case}.pkl").write_bytes(pickle.dumps(properties))
        (validation / "summary.json").write_text("{}")
    (folder / "dataset.json").write_text(json.dumps(dataset.description))
    (folder / "plans.json").write_text(json.dumps({**dataset.plans, "plans_name": plans}))
    return folder


@pytest.fixture(scope="session")
def cross_validation() -> Any:
    """``write_cross_validation`` for modules that cannot import it."""
    return write_cross_validation
