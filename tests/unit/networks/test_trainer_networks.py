"""What trainers change in the network of the plans."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nnunet_pt.networks.build import NETWORKS
from nnunet_pt.networks.trainer_networks import NETWORK_OF_TRAINER, TrainerNetwork, network_of_trainer
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.training.recipes import RECIPES

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
RECORDED = GOLDEN / "nnssl" / "g_trainers" / "pretraining_trainers.json"
PLANNED = Architecture(
    network_class_name="package.PlainConvUNet",
    arch_kwargs={"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"},
    requires_import=("conv_op", "norm_op"),
)


@pytest.mark.parametrize(
    ("trainer", "network", "patch"),
    [
        ("nnUNet_Primus_S_Trainer", "PrimusS", None),
        ("nnUNet_Primus_B_Trainer", "PrimusB", None),
        ("nnUNet_PrimusV2L_Trainer", "PrimusV2L", None),
        ("nnUNet_PrimusV3M_Trainer", "PrimusV3M", None),
        ("nnUNet_Primus_M_Trainer_BS8", "PrimusM", None),
        ("nnUNet_Primus_M_Trainer_BS8_2e4", "PrimusM", None),
        ("_Primus_B_96_BS1", "PrimusB", (96, 96, 96)),
        ("_Primus_L_48_BS1", "PrimusL", (48, 48, 48)),
    ],
)
def test_networks_of_trainers(trainer: str, network: str, patch: tuple[int, ...] | None) -> None:
    changes = network_of_trainer(trainer)
    assert changes == TrainerNetwork(network=network, patch_size=patch)
    assert changes.architecture(PLANNED).network_class_name == network
    assert network in NETWORKS


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerNoDeepSupervision", "nnUNet_Trainer_BS8", "MyOwn"])
def test_other_trainers_have_the_network_of_the_plans(trainer: str) -> None:
    assert network_of_trainer(trainer).architecture(PLANNED) is PLANNED


def test_batch_norm() -> None:
    made = network_of_trainer("nnUNetTrainerBN").architecture(PLANNED)
    assert made.arch_kwargs["norm_op"] == "torch.nn.modules.batchnorm.BatchNorm3d"
    assert made.network_class_name == PLANNED.network_class_name


def test_recipes_agree() -> None:
    """Every trainer that changes the network is a recipe with these values, except for those of the fork."""
    for name, changes in NETWORK_OF_TRAINER.items():
        if not name.startswith("PretrainedTrainer"):
            recipe = RECIPES[name]
            assert changes == TrainerNetwork(
                network=recipe.network, batch_norm=recipe.batch_norm, patch_size=recipe.patch_size
            )
    changing = {n for n, r in RECIPES.items() if r.network or r.batch_norm or r.patch_size}
    assert changing <= set(NETWORK_OF_TRAINER)


@pytest.mark.skipif(not RECORDED.is_file(), reason=f"there is no {RECORDED} (CONFORMANCE_GOLDEN)")
def test_patch_sizes_of_fine_tuning_trainers() -> None:
    """Only where the recorded patch size is not that of the recorded plans does a trainer change it."""
    recorded = json.loads(RECORDED.read_text())
    patches = {
        name: (tuple(facts["patch_size"]), network_of_trainer(name).patch_size)
        for trainers in recorded.values()
        for name, facts in trainers.items()
    }
    usual = patches["PretrainedTrainer"][0]
    assert {name: own for name, (patch, own) in patches.items() if own or patch != usual} == {
        name: patch for name, (patch, _) in patches.items() if patch != usual
    }
