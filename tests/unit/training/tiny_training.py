"""A dataset whose preprocessing and training take a moment, for the tests of the training loop."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.training import plots, run
from nnunet_pt.training.history import History
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.recipe_lookup import RecipeSource, find_recipe
from nnunet_pt.training.run import TrainResult, train
from nnunet_pt.training.task import TrainingTask, TrainRequest, prepare
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.transfer.checkpoint import Checkpoint, read_checkpoint

CASES = ("a", "b", "c", "d", "e", "f")
SHAPE = (12, 14, 16)
PRETRAINED_PLANS = "ptPlans"
QUICK: Mapping[str, Any] = {"num_epochs": 1, "iterations_per_epoch": 2, "validation_iterations_per_epoch": 1, "seed": 7}


def unet(dimensions: int, strides: Sequence[Sequence[int]], features: Sequence[int] = (4, 6, 8)) -> dict[str, Any]:
    """A small network as plans describe it."""
    stages = len(strides)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features[:stages]),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * stages,
            "strides": [list(s) for s in strides],
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def ball(shape: Sequence[int], centre: Sequence[float], radius: float) -> np.ndarray:
    """True within a ball."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    inside: np.ndarray = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2
    return inside


def make_dataset(dataset: Any, labels: Mapping[str, Any] | None = None, order: Sequence[int] | None = None) -> None:
    """Fill a dataset with cases in which the brightness tells the label: 0, 1 and, within it, 2; and plans for them."""
    dataset.begin(labels=labels)
    if order is not None:
        dataset.description["regions_class_order"] = list(order)
        dataset.describe()
    ignored = dataset.description["labels"].get("ignore")
    for number, case in enumerate(CASES):
        random = np.random.default_rng(number)
        centre = [n / 2 + random.uniform(-2, 2) for n in SHAPE]
        label = ball(SHAPE, centre, 5).astype(np.uint8) + ball(SHAPE, centre, 2.5)
        image = random.normal(100, 5, SHAPE) + 100.0 * label
        if ignored is not None:
            label[:, :, :4] = ignored
        dataset.add(case, [image.astype(np.float32)], label)
    plans = dataset.plans["configurations"]
    for name, entry in plans.items():
        entry["spacing"] = [1.0] * len(entry["spacing"])
        entry["use_mask_for_norm"] = [False]
        axes = len(entry["patch_size"])
        entry["architecture"] = unet(axes, [[1] * axes, [2] * axes, [2] * axes])
        entry["patch_size"] = [8, 12, 12][-axes:]
        entry["batch_dice"] = name == "2d"
    dataset.plan()


def with_cascade(dataset: Any) -> None:
    """Add a low resolution whose predictions 3d_fullres follows."""
    plans = dataset.plans["configurations"]
    low = copy.deepcopy(plans["3d_fullres"])
    low.update(data_identifier="nnUNetPlans_3d_lowres", spacing=[1.5] * 3, next_stage="3d_cascade_fullres")
    plans["3d_lowres"] = low
    plans["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    dataset.plan()


@dataclass
class TinyTraining:
    """Trains with the small dataset of a folder.

    Attributes:
        dataset: The dataset.
        monkeypatch: Replaces the lookup of recipes.
    """

    dataset: Any
    monkeypatch: pytest.MonkeyPatch

    @property
    def workspace(self) -> Workspace:
        workspace: Workspace = self.dataset.workspace
        return Workspace(replace(workspace.settings, num_augmentation_processes=0, num_processes=1))

    def request(self, configuration: str = "3d_fullres", fold: Any = 0, **options: Any) -> TrainRequest:
        standard = {"device": "cpu", "progress": False, "save_every_minutes": 0.0, "precision": "fp32"}
        return TrainRequest(dataset=7, configuration=configuration, fold=fold, **{**standard, **options})

    def run(
        self,
        *where: Any,
        recipe: Mapping[str, Any] | None = None,
        trainer_class: type[Trainer] | None = None,
        settings: Mapping[str, Any] | None = None,
        plot: bool = False,
        **options: Any,
    ) -> TrainResult:
        """Train; ``recipe`` changes the named recipe beside what ``QUICK`` changes. A plot takes time."""
        changes = {**QUICK, **(recipe or {})}

        def find(name: str, settings: Settings | None = None) -> RecipeSource:
            found = find_recipe(name, settings)
            own = trainer_class or found.trainer_class
            return replace(found, recipe=replace(found.recipe, **changes), trainer_class=own)

        workspace = Workspace(replace(self.workspace.settings, **(settings or {})))
        with self.monkeypatch.context() as patch:
            patch.setattr(run, "find_recipe", find)
            if not plot:
                patch.setattr(plots, "draw_progress", lambda *_: None)
            result = train(self.request(*where, **options), workspace)
        assert result is not None
        return result

    def task(self, *where: Any, recipe: Mapping[str, Any] | None = None, **options: Any) -> TrainingTask:
        """What :meth:`run` would train."""
        request = self.request(*where, **options)
        found = find_recipe(request.trainer, self.workspace.settings).recipe
        return prepare(request, replace(found, **{**QUICK, **(recipe or {})}), self.workspace)

    def pretrained(self, channels: int = 1, *, primus: Sequence[int] | None = None, **info: Any) -> Path:
        """Write a checkpoint of a pre-training like nnssl's, and plans "ptPlans" that follow it; give its path.

        Args:
            channels: Of the pre-training.
            primus: A Primus, pre-trained with patches of this size, instead of the plans' U-Net.
            info: Changes in the plans' pretrain_info.
        """
        entry = copy.deepcopy(self.dataset.plans["configurations"]["3d_fullres"])
        name, described = "PlainConvUNet", entry["architecture"]
        keys: dict[str, Any] = {
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stages.0",
            "keys_to_in_proj": ["encoder.stages.0.0.convs.0.conv", "encoder.stages.0.0.convs.0.all_modules.0"],
            "key_to_lpe": None,
        }
        if primus is not None:
            sizes = {"embed_dim": 24, "encoder_eva_depth": 2, "encoder_eva_numheads": 2, "init_values": 0.1}
            name, described = "PrimusX", {"arch_kwargs": sizes, "_kw_requires_import": []}
            keys = {
                "key_to_encoder": "eva",
                "key_to_stem": "down_projection",
                "keys_to_in_proj": ["down_projection.proj"],
                "key_to_lpe": "eva.pos_embed",
            }
            entry.update(architecture={"network_class_name": name, **described}, patch_size=[8, 16, 16])
        used_patch = list(primus or entry["patch_size"])
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = build_network(
                Architecture(network_class_name=name, arch_kwargs=described["arch_kwargs"], requires_import=()),
                input_channels=channels,
                num_outputs=1,
                deep_supervision=False,
                patch_size=used_patch,
            )
        path = Path(self.dataset.root) / "pretraining" / "checkpoint_final.pth"
        path.parent.mkdir(exist_ok=True)
        plan = {
            "architecture_plans": {
                "arch_class_name": name,
                "arch_kwargs": described["arch_kwargs"],
                "arch_kwargs_requiring_import": described["_kw_requires_import"],
            },
            "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": used_patch, "spacing": [1, 1, 1]}}},
            "pretrain_num_input_channels": channels,
            "recommended_downstream_patchsize": entry["patch_size"],
            **keys,
        }
        torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan}, path)
        standard = {
            "checkpoint_path": str(path),
            "checkpoint_name": "Tiny",
            **keys,
            "pt_num_in_channels": channels,
            "pt_used_patchsize": used_patch,
            "pt_recommended_downstream_patchsize": entry["patch_size"],
            "citations": [{"type": "Framework", "name": "Tiny", "apa_citations": ["Somebody (2020). Something."]}],
        }
        plans = {
            **self.dataset.plans,
            "plans_name": PRETRAINED_PLANS,
            "configurations": {"3d_fullres": {**entry, "data_identifier": "nnUNetPlans_3d_fullres"}},
            "pretrain_info": {**standard, **info},
        }
        (self.dataset.preprocessed / f"{PRETRAINED_PLANS}.json").write_text(json.dumps(plans))
        return path

    def folder(
        self,
        configuration: str = "3d_fullres",
        fold: Any = 0,
        trainer: str = "nnUNetTrainer",
        plans: str = "nnUNetPlans",
    ) -> Path:
        name = f"{trainer}__{plans}__{configuration}"
        return Path(self.dataset.root) / "results" / self.dataset.name / name / f"fold_{fold}"


def checkpoint(folder: Path, which: str = "final") -> Checkpoint:
    """A checkpoint of a fold."""
    return read_checkpoint(folder / f"checkpoint_{which}.pth")


def history(folder: Path, which: str = "final") -> History:
    """What a checkpoint says about its epochs."""
    return History.from_logging(checkpoint(folder, which).logging)


def figures(folder: Path) -> list[dict[str, Any]]:
    """The lines of progress.jsonl."""
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def text_log(folder: Path) -> str:
    """All text logs of a fold, in their order."""
    return "".join(p.read_text() for p in sorted(folder.glob("training_log_*.txt")))


def recorded_recipe(folder: Path) -> TrainingRecipe:
    """recipe.json of a fold."""
    return TrainingRecipe.from_json(json.loads((folder / "recipe.json").read_text()))
