"""A results folder with trained models, small enough to be packed many times."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
FUNCTION = b"cnnunetv2.postprocessing.remove_connected_components\nremove_all_but_largest_component_from_segmentation\n"


def postprocessing_pickle() -> bytes:
    """As nnU-Net writes it, without nnU-Net: a list of its function, and a list of its arguments."""
    arguments = pickle.dumps([{"labels_or_regions": 1}], protocol=2)
    return arguments[:2] + b"]" + FUNCTION + b"a" + arguments[2:-1] + b"\x86."


@dataclass
class Results:
    """nnUNet_results with Dataset007_Small.

    Attributes:
        root: Holds the results folder.
        description: dataset.json of the models.
        plans: plans.json of the models.
    """

    root: Path
    description: Mapping[str, Any]
    plans: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.root / "Dataset007_Small"

    @property
    def workspace(self) -> Workspace:
        return Workspace(Settings(results=self.root))

    def add(
        self, model: str = MODEL, folds: Sequence[int | str] = (0, 1), checkpoint: str = "checkpoint_final"
    ) -> Path:
        """Write a model with everything that nnU-Net and this package leave behind."""
        path = self.folder / model
        for fold in folds:
            write_checkpoint(make_folders(path / f"fold_{fold}" / f"{checkpoint}.pth"), a_checkpoint(fold))
            for name in ("debug.json", "recipe.json", "progress.jsonl", "validation/summary.json"):
                make_folders(path / f"fold_{fold}" / name).write_text("{}")
            for name in ("progress.png", "training_log_2026_1_2_03_04_05.txt", "checkpoint_latest.pth"):
                (path / f"fold_{fold}" / name).write_text("x")
            for name in ("a.nii.gz", "a.npz", "a.pkl"):
                (path / f"fold_{fold}" / "validation" / name).write_text("x")
        for name, content in (("plans.json", self.plans), ("dataset.json", self.description)):
            make_folders(path / name).write_text(json.dumps(content))
        for name in ("dataset_fingerprint.json", "orientation.json"):
            (path / name).write_text("{}")
        add_results(path / f"crossval_results_folds_{'_'.join(map(str, folds))}")
        return path

    def ensemble(self, *models: str, folds: str = "0_1") -> Path:
        path = self.folder / "ensembles" / "___".join(["ensemble", *models, folds])
        add_results(path)
        return path

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in sorted(self.root.rglob("*")) if p.is_file()}


def make_folders(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add_results(folder: Path) -> None:
    for name in ("summary.json", "postprocessing.json", "plans.json", "dataset.json", "postprocessed/summary.json"):
        make_folders(folder / name).write_text("{}")
    for name in ("a.nii.gz", "a.npz", "a.pkl", "postprocessed/a.nii.gz"):
        (folder / name).write_text("x")
    (folder / "postprocessing.pkl").write_bytes(postprocessing_pickle())


def a_checkpoint(fold: int | str) -> Checkpoint:
    generator = torch.Generator().manual_seed(len(str(fold)) + (fold if isinstance(fold, int) else 50))
    weights = {"conv.weight": torch.randn(50, 50, generator=generator)}
    momentum = {0: {"momentum_buffer": weights["conv.weight"] + 1}}
    return Checkpoint(
        network_weights=weights,
        optimizer_state={"state": momentum, "param_groups": [{"lr": 0.01, "params": [0]}]},
        grad_scaler_state={"scale": 1.0},
        logging={"mean_fg_dice": [0.5]},
        best_ema=0.5,
        current_epoch=1,
        init_args={"plans": {}, "configuration": "3d_fullres", "fold": fold, "dataset_json": {}, "device": "cpu"},
        trainer_name="nnUNetTrainer",
        mirroring_axes=(0, 1, 2),
        extra={"nnunet_pt": {"state": torch.zeros(50, 50)}},
    )


@pytest.fixture
def results(tmp_path: Path, small: Any) -> Results:
    """A results folder with nothing in it."""
    return Results(tmp_path / "trained", small.description, small.plans)


@pytest.fixture
def model(results: Results) -> Results:
    """A results folder with one model of two folds."""
    results.add()
    (results.folder / "inference_information.json").write_text("{}")
    (results.folder / "inference_instructions.txt").write_text("text")
    return results


@pytest.fixture
def elsewhere(tmp_path: Path, results: Results) -> Results:
    """Another results folder, which does not exist yet."""
    return Results(tmp_path / "elsewhere", results.description, results.plans)


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    """Writes an archive: names, or entries with all they say, to content."""

    def make(content: Mapping[str | zipfile.ZipInfo, bytes] | Sequence[tuple[Any, bytes]], name: str = "x.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, data in content.items() if isinstance(content, Mapping) else content:
                archive.writestr(entry, data)
        return path

    return make


@pytest.fixture
def good(model: Results) -> dict[str, bytes]:
    """The files of an archive that can be installed."""
    wanted = ("plans.json", "dataset.json", "checkpoint_final.pth", "postprocessing.pkl")
    return {name: data for name, data in model.files().items() if name.endswith(wanted)}
