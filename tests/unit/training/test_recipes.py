"""nnU-Net's trainer variants are all there, and say what they shall."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_pt.networks.build import NETWORKS
from nnunet_pt.training.losses import LOSSES
from nnunet_pt.training.recipe import DEFAULT, LOSS_NAMES
from nnunet_pt.training.recipes import RECIPES

# fmt: off
NAMES = (
    "nnUNetTrainer", "nnUNetTrainerAdam", "nnUNetTrainerAdam1en3", "nnUNetTrainerAdam3en4", "nnUNetTrainerAdan",
    "nnUNetTrainerAdan1en1", "nnUNetTrainerAdan1en3", "nnUNetTrainerAdan3en4", "nnUNetTrainerAdanCosAnneal",
    "nnUNetTrainerBN", "nnUNetTrainerBenchmark_5epochs", "nnUNetTrainerBenchmark_5epochs_noDataLoading",
    "nnUNetTrainerCELoss", "nnUNetTrainerCELoss_5epochs", "nnUNetTrainerCosAnneal", "nnUNetTrainerDA5",
    "nnUNetTrainerDA5Segord0", "nnUNetTrainerDA5_10epochs", "nnUNetTrainerDA5ord0",
    "nnUNetTrainerDiceCELoss_noSmooth", "nnUNetTrainerDiceLoss", "nnUNetTrainerDiceTopK10Loss",
    "nnUNetTrainerNoDA", "nnUNetTrainerNoDeepSupervision", "nnUNetTrainerNoMirroring", "nnUNetTrainerTopk10Loss",
    "nnUNetTrainerTopk10LossLS01", "nnUNetTrainerVanillaAdam", "nnUNetTrainerVanillaAdam1en3",
    "nnUNetTrainerVanillaAdam3en4", "nnUNetTrainer_100epochs", "nnUNetTrainer_10epochs", "nnUNetTrainer_1epoch",
    "nnUNetTrainer_2000epochs", "nnUNetTrainer_2000epochs_NoMirroring", "nnUNetTrainer_20epochs",
    "nnUNetTrainer_250epochs", "nnUNetTrainer_250epochs_NoMirroring", "nnUNetTrainer_4000epochs",
    "nnUNetTrainer_4000epochs_NoMirroring", "nnUNetTrainer_500epochs", "nnUNetTrainer_50epochs",
    "nnUNetTrainer_5epochs", "nnUNetTrainer_750epochs", "nnUNetTrainer_8000epochs",
    "nnUNetTrainer_8000epochs_NoMirroring", "nnUNetTrainer_DASegOrd0", "nnUNetTrainer_DASegOrd0_NoMirroring",
    "nnUNetTrainer_noDummy2DDA", "nnUNetTrainer_onlyMirror01", "nnUNetTrainer_onlyMirror01_1500ep",
    "nnUNetTrainer_onlyMirror01_DA5", "nnUNetTrainer_onlyMirror01_DASegOrd0",
    "nnUNetTrainer_probabilisticOversampling", "nnUNetTrainer_probabilisticOversampling_010",
    "nnUNetTrainer_probabilisticOversampling_033", "nnUNetTrainer_warmup", "nnUNet_Primus_S_Trainer",
    "nnUNet_Primus_B_Trainer", "nnUNet_Primus_M_Trainer", "nnUNet_Primus_L_Trainer", "nnUNet_PrimusV2S_Trainer",
    "nnUNet_PrimusV2B_Trainer", "nnUNet_PrimusV2M_Trainer", "nnUNet_PrimusV2L_Trainer", "nnUNet_PrimusV3S_Trainer",
    "nnUNet_PrimusV3B_Trainer", "nnUNet_PrimusV3M_Trainer", "nnUNet_PrimusV3L_Trainer",
    "nnUNet_Primus_M_Trainer_BS8", "nnUNet_Primus_M_Trainer_BS8_2e4", "nnUNet_Trainer_BS8", "_Primus_S_96_BS1",
    "_Primus_B_96_BS1", "_Primus_M_96_BS1", "_Primus_L_48_BS1",
    # fine-tuning
    "PretrainedTrainer", "PretrainedTrainer_150ep", "PretrainedTrainer_300ep", "PretrainedTrainer_smallerlr",
    "PretrainedTrainer_nomirroring", "PretrainedTrainer_150ep_nomirroring", "PretrainedTrainer_adam__nomirroring",
    "PretrainedTrainer_adam_150ep", "PretrainedTrainer_adam_150ep_nomirroring", "PretrainedTrainer_Primus",
    "PretrainedTrainer_Primus_150ep", "PretrainedTrainer_Primusx", "PretrainedTrainer_Primusx_30ep",
    "PretrainedTrainer_Primusx_150ep", "PretrainedTrainer_Primusx_300ep", "PretrainedTrainer_Primusx_smallerlr",
    "PretrainedTrainer_Primusx_150ep_lr3e4", "PretrainedTrainer_Primusx_nomirroring",
    "PretrainedTrainer_Primusx_150ep_nomirroring", "PretrainedTrainer_Primusx_150ep_small_debug",
    "DynamicPretrainedTrainer", "DynamicPretrainedTrainer_nomirroring", "DynamicPretrainedTrainer_adam_150ep",
    "DynamicPretrainedTrainer_adam_150ep_nomirroring", "PretrainedTrainer_sawtooth",
    "PretrainedTrainer_sawtooth_150ep", "PretrainedTrainer_Primus_sawtooth", "PretrainedTrainer_Primus_sawtooth_150ep",
)
# fmt: on


def test_every_trainer_of_nnunet_is_there() -> None:
    assert sorted(RECIPES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_can_be_used(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert recipe.loss in LOSSES
    assert recipe.network is None or recipe.network in NETWORKS


def test_every_loss_has_a_name_in_the_recipes() -> None:
    assert set(LOSS_NAMES) == set(LOSSES)
    assert {RECIPES[name].loss for name in RECIPES} == set(LOSS_NAMES)


def test_no_two_recipes_are_the_same() -> None:
    seen: dict[object, str] = {}
    for name in RECIPES:
        if "Pretrained" in name:  # the names are not ours
            continue
        key = replace(RECIPES[name], name="x")
        assert key not in seen, f"{name} is {seen[key]}"
        seen[key] = name


def test_the_plain_name_is_the_default() -> None:
    assert RECIPES["nnUNetTrainer"] == DEFAULT


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        ("nnUNetTrainer_1epoch", {"num_epochs": 1}),
        ("nnUNetTrainer_2000epochs_NoMirroring", {"num_epochs": 2000, "mirroring": "none"}),
        ("nnUNetTrainerNoDA", {"augmentation": "none", "mirroring": "none"}),
        ("nnUNetTrainer_onlyMirror01_DA5", {"mirroring": "first", "augmentation": "da5"}),
        (
            "nnUNetTrainer_DASegOrd0",
            {"segmentation_interpolation": "nearest", "cascade_label_probability": 1.0},
        ),
        (
            "nnUNetTrainerDA5ord0",
            {"augmentation": "da5", "image_interpolation": "nearest", "segmentation_interpolation": "nearest"},
        ),
        ("nnUNetTrainerAdam1en3", {"optimizer": "adamw", "amsgrad": True, "initial_lr": 1e-3}),
        ("nnUNetTrainerAdanCosAnneal", {"optimizer": "adan", "schedule": "cosine"}),
        (
            "_Primus_L_48_BS1",
            {
                "optimizer": "adamw",
                "betas": (0.9, 0.98),
                "initial_lr": 3e-4,
                "weight_decay": 5e-2,
                "warmup_epochs": 50,
                "gradient_clip": 1.0,
                "deep_supervision": False,
                "network": "PrimusL",
                "batch_size": 1,
                "patch_size": (48, 48, 48),
            },
        ),
        ("nnUNet_Trainer_BS8", {"batch_size": 8}),
    ],
)
def test_what_differs_from_the_default(name: str, differences: dict[str, object]) -> None:
    assert RECIPES[name] == replace(DEFAULT, name=name, **differences)  # type: ignore[arg-type]


def test_names_that_are_not_there() -> None:
    assert "nnUNetTrainer_3epochs" not in RECIPES
    with pytest.raises(KeyError):
        RECIPES["nnUNetTrainer_3epochs"]
