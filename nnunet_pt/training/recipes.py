"""nnU-Net's trainer variants: one row each, saying what differs from ``nnUNetTrainer``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnunet_pt.networks.trainer_networks import network_of_trainer
from nnunet_pt.training.recipe import DEFAULT, TrainingRecipe

_EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
_EPOCHS_WITHOUT_MIRRORING = (250, 2000, 4000, 8000)

_NO_MIRRORING = {"mirroring": "none"}
_ONLY_01 = {"mirroring": "first"}
_DA5 = {"augmentation": "da5"}
# These pipelines let the cascade's augmentation concern every label, unlike the default one.
_SEGMENTATION_NEAREST = {"segmentation_interpolation": "nearest", "cascade_label_probability": 1.0}

_ADAMW = {"optimizer": "adamw", "amsgrad": True}
_ADAM = {"optimizer": "adam"}
_ADAN = {"optimizer": "adan"}
_PROBABILISTIC = {"probabilistic_oversampling": True}

_PRIMUS = {
    "optimizer": "adamw",
    "betas": (0.9, 0.98),
    "initial_lr": 3e-4,
    "weight_decay": 5e-2,
    "warmup_epochs": 50,
    "gradient_clip": 1.0,
    "deep_supervision": False,
}

# Fine-tuning of weights that the plans name. The names are those of nnU-Net and its fine-tuning fork, of which
# "adam__nomirroring" uses SGD; "Dynamic" asks for what the others do here anyway.
_PRETRAINED = {
    "pretrained": True,
    "initial_lr": 1e-3,
    "lr_from_scratch": 1e-2,
    "warmup_epochs": 50,
    "deep_supervision": False,
    "batch_size": 2,
}
_PRETRAINED_ADAM = {
    **_PRETRAINED,
    "optimizer": "adamw",
    "betas": (0.9, 0.98),
    "initial_lr": 1e-4,
    "lr_from_scratch": 3e-4,
    "weight_decay": 5e-2,
    "gradient_clip": 1.0,
}
_30_EPOCHS = {"num_epochs": 30, "warmup_epochs": 3}
_150_EPOCHS = {"num_epochs": 150, "warmup_epochs": 15}
_300_EPOCHS = {"num_epochs": 300, "warmup_epochs": 15}
_SMALLER_LR = {"initial_lr": 3e-5, "lr_from_scratch": 1e-4, "weight_decay": 5e-2}
_DYNAMIC_ADAM = {**_PRETRAINED_ADAM, **_150_EPOCHS, "weight_decay": 3e-5, "gradient_clip": 12.0}
_SAWTOOTH = {"head_epochs": 50, "lr_from_scratch": None, "batch_size": None}
_SAWTOOTH_150 = {**_SAWTOOTH, "num_epochs": 150, "head_epochs": 15}
_FINE_TUNING: Mapping[str, Mapping[str, Any]] = {
    "PretrainedTrainer": _PRETRAINED,
    "PretrainedTrainer_150ep": {**_PRETRAINED, **_150_EPOCHS},
    "PretrainedTrainer_300ep": {**_PRETRAINED, **_300_EPOCHS},
    "PretrainedTrainer_smallerlr": {**_PRETRAINED, **_SMALLER_LR},
    "PretrainedTrainer_nomirroring": {**_PRETRAINED, **_NO_MIRRORING},
    "PretrainedTrainer_150ep_nomirroring": {**_PRETRAINED, **_150_EPOCHS, **_NO_MIRRORING},
    "PretrainedTrainer_adam__nomirroring": {**_PRETRAINED, **_NO_MIRRORING},
    "PretrainedTrainer_adam_150ep": {**_PRETRAINED_ADAM, **_150_EPOCHS},
    "PretrainedTrainer_adam_150ep_nomirroring": {**_PRETRAINED_ADAM, **_150_EPOCHS, **_NO_MIRRORING},
    "PretrainedTrainer_Primus": _PRETRAINED_ADAM,
    "PretrainedTrainer_Primus_150ep": {**_PRETRAINED_ADAM, **_150_EPOCHS},
    "PretrainedTrainer_Primusx": _PRETRAINED_ADAM,
    "PretrainedTrainer_Primusx_30ep": {**_PRETRAINED_ADAM, **_30_EPOCHS},
    "PretrainedTrainer_Primusx_150ep": {**_PRETRAINED_ADAM, **_150_EPOCHS},
    "PretrainedTrainer_Primusx_300ep": {**_PRETRAINED_ADAM, **_300_EPOCHS},
    "PretrainedTrainer_Primusx_smallerlr": {**_PRETRAINED_ADAM, **_SMALLER_LR},
    "PretrainedTrainer_Primusx_150ep_lr3e4": {**_PRETRAINED_ADAM, "num_epochs": 150, "initial_lr": 3e-4},
    "PretrainedTrainer_Primusx_nomirroring": {**_PRETRAINED_ADAM, **_NO_MIRRORING},
    "PretrainedTrainer_Primusx_150ep_nomirroring": {**_PRETRAINED_ADAM, **_150_EPOCHS, **_NO_MIRRORING},
    "PretrainedTrainer_Primusx_150ep_small_debug": {**_PRETRAINED_ADAM, **_150_EPOCHS},
    "DynamicPretrainedTrainer": _PRETRAINED,
    "DynamicPretrainedTrainer_nomirroring": {**_PRETRAINED, **_NO_MIRRORING},
    "DynamicPretrainedTrainer_adam_150ep": _DYNAMIC_ADAM,
    "DynamicPretrainedTrainer_adam_150ep_nomirroring": {**_DYNAMIC_ADAM, **_NO_MIRRORING},
    "PretrainedTrainer_sawtooth": {**_PRETRAINED, **_SAWTOOTH},
    "PretrainedTrainer_sawtooth_150ep": {**_PRETRAINED, **_SAWTOOTH_150, "warmup_epochs": 15},
    "PretrainedTrainer_Primus_sawtooth": {**_PRETRAINED_ADAM, **_SAWTOOTH, "head_lr_factor": 0.01},
    "PretrainedTrainer_Primus_sawtooth_150ep": {**_PRETRAINED_ADAM, **_SAWTOOTH_150, "head_lr_factor": 0.1},
}

_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "nnUNetTrainer": {},
    **{f"nnUNetTrainer_{n}epoch{'s' if n > 1 else ''}": {"num_epochs": n} for n in _EPOCHS},
    **{f"nnUNetTrainer_{n}epochs_NoMirroring": {"num_epochs": n, **_NO_MIRRORING} for n in _EPOCHS_WITHOUT_MIRRORING},
    # augmentation
    "nnUNetTrainerNoMirroring": _NO_MIRRORING,
    "nnUNetTrainer_onlyMirror01": _ONLY_01,
    "nnUNetTrainer_onlyMirror01_1500ep": {**_ONLY_01, "num_epochs": 1500},
    "nnUNetTrainer_onlyMirror01_DASegOrd0": {**_ONLY_01, **_SEGMENTATION_NEAREST},
    "nnUNetTrainer_onlyMirror01_DA5": {**_ONLY_01, **_DA5},
    "nnUNetTrainerDA5": _DA5,
    "nnUNetTrainerDA5ord0": {**_DA5, "image_interpolation": "nearest", "segmentation_interpolation": "nearest"},
    "nnUNetTrainerDA5Segord0": {**_DA5, "segmentation_interpolation": "nearest"},
    "nnUNetTrainerDA5_10epochs": {**_DA5, "num_epochs": 10},
    "nnUNetTrainer_DASegOrd0": _SEGMENTATION_NEAREST,
    "nnUNetTrainer_DASegOrd0_NoMirroring": {**_SEGMENTATION_NEAREST, **_NO_MIRRORING},
    "nnUNetTrainerNoDA": {"augmentation": "none", **_NO_MIRRORING},
    "nnUNetTrainer_noDummy2DDA": {"dummy_2d": False},
    # loss
    "nnUNetTrainerCELoss": {"loss": "ce"},
    "nnUNetTrainerCELoss_5epochs": {"loss": "ce", "num_epochs": 5},
    "nnUNetTrainerDiceLoss": {"loss": "dice"},
    "nnUNetTrainerDiceCELoss_noSmooth": {"loss": "dice_ce_no_smooth"},
    "nnUNetTrainerTopk10Loss": {"loss": "topk10"},
    "nnUNetTrainerTopk10LossLS01": {"loss": "topk10_smoothed"},
    "nnUNetTrainerDiceTopK10Loss": {"loss": "dice_topk10"},
    # learning rate
    "nnUNetTrainerCosAnneal": {"schedule": "cosine"},
    "nnUNetTrainer_warmup": {"warmup_epochs": 50},
    # optimiser
    "nnUNetTrainerAdam": _ADAMW,
    "nnUNetTrainerAdam1en3": {**_ADAMW, "initial_lr": 1e-3},
    "nnUNetTrainerAdam3en4": {**_ADAMW, "initial_lr": 3e-4},
    "nnUNetTrainerVanillaAdam": _ADAM,
    "nnUNetTrainerVanillaAdam1en3": {**_ADAM, "initial_lr": 1e-3},
    "nnUNetTrainerVanillaAdam3en4": {**_ADAM, "initial_lr": 3e-4},
    "nnUNetTrainerAdan": _ADAN,
    "nnUNetTrainerAdan1en3": {**_ADAN, "initial_lr": 1e-3},
    "nnUNetTrainerAdan3en4": {**_ADAN, "initial_lr": 3e-4},
    "nnUNetTrainerAdan1en1": {**_ADAN, "initial_lr": 1e-1},
    "nnUNetTrainerAdanCosAnneal": {**_ADAN, "schedule": "cosine"},
    # network; what else trainers change in it is in nnunet_pt.networks.trainer_networks
    "nnUNetTrainerBN": {},
    "nnUNetTrainerNoDeepSupervision": {"deep_supervision": False},
    # sampling
    "nnUNetTrainer_probabilisticOversampling": {**_PROBABILISTIC, "oversample_as_fixed": True},
    "nnUNetTrainer_probabilisticOversampling_033": _PROBABILISTIC,
    "nnUNetTrainer_probabilisticOversampling_010": {**_PROBABILISTIC, "oversample_foreground": 0.1},
    # benchmarks
    "nnUNetTrainerBenchmark_5epochs": {"num_epochs": 5, "benchmark": True},
    "nnUNetTrainerBenchmark_5epochs_noDataLoading": {"num_epochs": 5, "benchmark": True, "synthetic_batch": True},
    # Primus, and the default trainer to compare it with
    **{f"nnUNet_Primus{version}{size}_Trainer": _PRIMUS for version in ("_", "V2", "V3") for size in "SBML"},
    "nnUNet_Primus_M_Trainer_BS8": {**_PRIMUS, "batch_size": 8},
    "nnUNet_Primus_M_Trainer_BS8_2e4": {**_PRIMUS, "batch_size": 8, "initial_lr": 2e-4},
    "nnUNet_Trainer_BS8": {"batch_size": 8},
    **{f"_Primus_{kind}_BS1": {**_PRIMUS, "batch_size": 1} for kind in ("S_96", "B_96", "M_96", "L_48")},
    **_FINE_TUNING,
}


class BuiltInRecipes(Mapping[str, TrainingRecipe]):
    """Every built-in recipe by its name, made when it is asked for."""

    def __getitem__(self, name: str) -> TrainingRecipe:
        """The recipe of that name.

        Raises:
            KeyError: If there is none.
        """
        variant, changes = _VARIANTS[name], network_of_trainer(name)
        return replace(
            DEFAULT,
            name=name,
            network=changes.network,
            batch_norm=changes.batch_norm,
            patch_size=changes.patch_size,
            **variant,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(_VARIANTS)

    def __len__(self) -> int:
        return len(_VARIANTS)


RECIPES = BuiltInRecipes()
