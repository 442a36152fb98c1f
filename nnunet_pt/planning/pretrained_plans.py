"""Plans for a network that was pre-trained elsewhere: its architecture and patch size, this dataset's everything else.

The rules are those of nnU-Net's ``preprocess_like_nnssl`` and ``plan_like_dynamic``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from nnunet_pt.core.errors import CheckpointError, NnunetError, PlansError, UsageError
from nnunet_pt.plans.plans import Architecture, Plans, PretrainInfo

AdaptationMode = Literal["default_nnunet", "fixed", "like_pretrained", "no_resample"]
Normalization = Literal["zscore", "default_nnunet"]

ADAPTATION_MODES: Final[tuple[AdaptationMode, ...]] = ("default_nnunet", "fixed", "like_pretrained", "no_resample")
NORMALIZATIONS: Final[tuple[Normalization, ...]] = ("zscore", "default_nnunet")
BASE_PLANS: Final = (
    "nnUNetPlans",
    "nnUNetResEncUNetPlans",
    "nnUNetResEncUNetMPlans",
    "nnUNetResEncUNetLPlans",
    "nnUNetResEncUNetXLPlans",
)
CONFIGURATION: Final = "3d_fullres"
BATCH_SIZE: Final = 2
ZSCORE: Final = "ZScoreNormalization"
PREFIX, SEPARATOR, DYNAMIC_PREFIX = "ptPlans__", "____", "ptPlans_dynamic__"

_SHORT_NAMES = {ZSCORE: "Z", "NoNormalization": "No", "RescaleTo01Normalization": "01", "RGBTo01Normalization": "RGB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """A pre-trained network as its checkpoint describes it.

    Attributes:
        info: Where its weights are and what its tensors are called.
        architecture: The network.
        spacing: Spacing of the pre-training data, mm; None if each image kept its own.
    """

    info: PretrainInfo
    architecture: Architecture
    spacing: tuple[float, ...] | None


def find_base_plans(folder: Path) -> Plans:
    """The dataset's own plans: the first there is of :data:`BASE_PLANS`.

    Args:
        folder: The dataset's folder in nnUNet_preprocessed.

    Raises:
        PlansError: If there are none, or they have no three-dimensional configuration.
    """
    for name in BASE_PLANS:
        if (folder / f"{name}.json").is_file():
            return _with_3d(Plans.load(folder / f"{name}.json"))
    raise _no_base_plans(folder, f"one of {', '.join(BASE_PLANS)}", "nnUNetv2_plan_and_preprocess -d {} --no_pp")


def named_base_plans(folder: Path, name: str) -> Plans:
    """Plans of the dataset by their name.

    Raises:
        PlansError: If there are none of that name, or they have no three-dimensional configuration.
    """
    path = folder / f"{name}.json"
    if path.is_file():
        return _with_3d(Plans.load(path))
    presets = {f"nnUNetResEncUNet{size}Plans": f" -pl nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")}
    raise _no_base_plans(folder, name, f"nnUNetv2_plan_and_preprocess -d {{}}{presets.get(name, '')} --no_pp")


def _no_base_plans(folder: Path, expected: str, command: str) -> PlansError:
    there = [name for name in sorted(p.stem for p in folder.glob("*.json")) if name.endswith("Plans")]
    number = folder.name.removeprefix("Dataset").partition("_")[0]
    return PlansError(
        f"The dataset has no plans to start from in {folder}.",
        found=", ".join(there) or "none",
        expected=expected,
        remedy=f"make them:  {command.format(int(number) if number.isdecimal() else folder.name)}",
    )


def _with_3d(plans: Plans) -> Plans:
    if CONFIGURATION not in plans.configurations:
        raise PlansError(
            f"{plans.source} has no configuration {CONFIGURATION}, but pre-trained networks are three-dimensional.",
            found=", ".join(plans.configuration_names),
            remedy="use a dataset of volumes, or plan it again",
        )
    plans.configuration(CONFIGURATION)  # damaged ones are refused
    return plans


def adapted_spacing(
    mode: AdaptationMode,
    base: Sequence[float | None],
    pretraining: Sequence[float] | None,
    override: Sequence[float] | None,
) -> tuple[float | None, ...]:
    """The spacing that an adaptation mode means, in plans order (after transposition), mm.

    Args:
        mode: The mode.
        base: Spacing of the dataset's own plans.
        pretraining: Spacing of the pre-training; None if each image kept its own. ``like_pretrained`` then takes the
            dataset's own, as nnU-Net does.
        override: The user's spacing for ``fixed``.

    Raises:
        UsageError: If ``fixed`` has not exactly three positive numbers, or there is no such mode.
    """
    if mode not in ADAPTATION_MODES:
        raise UsageError(f"There is no adaptation mode {mode!r}.", expected=" | ".join(ADAPTATION_MODES))
    if mode == "fixed":
        if override is None or len(override) != 3 or not all(0 < value < float("inf") for value in override):
            raise UsageError(
                "The adaptation mode fixed needs a spacing.",
                found="no -os" if override is None else f"-os {' '.join(f'{v:g}' for v in override)}",
                expected="-os with three positive numbers in mm, in the order of the plans' axes",
                remedy="for example  -am fixed -os 1 1 1",
            )
        return tuple(override)
    if mode == "no_resample":
        return (None, None, None)
    if mode == "like_pretrained" and pretraining is not None:
        return tuple(pretraining)
    return tuple(base)


def data_identifier(spacing: Sequence[float | None], schemes: Sequence[str]) -> str:
    """Name of the data folder, shared by all pre-trainings with this spacing and normalisation."""
    numbers = "_".join("None" if value is None else f"{value:.2f}" for value in spacing)
    letters = "_".join(_SHORT_NAMES.get(scheme, scheme.removesuffix("Normalization")) for scheme in schemes)
    return f"Spacing__{numbers}___Norm__{letters}"


def plans_like_nnssl(
    base: Plans,
    pretraining: Pretraining,
    *,
    mode: AdaptationMode,
    override_spacing: Sequence[float] | None = None,
    normalization: Normalization = "zscore",
) -> Plans:
    """Plans that train the pre-trained network on a dataset preprocessed as for its pre-training.

    Architecture and patch size are the pre-training's, the batch size is 2; resampling, masks of the normalisation and
    the order of the axes are those of the base plans.

    Args:
        base: The dataset's own plans.
        pretraining: The pre-trained network.
        mode: Which spacing to use.
        override_spacing: The spacing for ``fixed``.
        normalization: ``zscore`` for every channel, as in the pre-training, or that of the base plans (CT).

    Raises:
        UsageError: If the mode and the spacing do not fit.
        CheckpointError: If the network cannot be built for the recommended patch size.
    """
    configuration = base.configuration(CONFIGURATION)
    spacing = adapted_spacing(mode, configuration.spacing, pretraining.spacing, override_spacing)
    own = configuration.normalization_schemes
    schemes = (ZSCORE,) * len(own) if normalization == "zscore" else own
    info = pretraining.info
    check_network(pretraining, info.pt_recommended_downstream_patchsize, channels=len(schemes))
    identifier = data_identifier(spacing, schemes)
    entries = base.entries(CONFIGURATION) | {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": BATCH_SIZE,
        "patch_size": list(info.pt_recommended_downstream_patchsize),
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "architecture": _architecture_entries(pretraining.architecture),
    }
    name = f"{PREFIX}{info.checkpoint_name}{SEPARATOR}{identifier}"
    return replace(base, plans_name=name, configurations={CONFIGURATION: _alone(entries)}, pretrain_info=info)


def plans_like_dynamic(base: Plans, pretraining: Pretraining) -> Plans:
    """The dataset's own plans, with a note from where weights are to be taken; data and network stay as planned."""
    info = replace(pretraining.info, extra={**pretraining.info.extra, "pt_architecture_kwargs": {}})
    return replace(
        base,
        plans_name=f"{DYNAMIC_PREFIX}{info.checkpoint_name}",
        configurations={CONFIGURATION: _alone(base.entries(CONFIGURATION))},
        pretrain_info=info,
    )


def check_network(pretraining: Pretraining, patch_size: Sequence[int], *, channels: int) -> None:
    """Find out, without any weights, whether the pre-trained network can be built for a patch size.

    Raises:
        UnknownNameError: If there is no such network, with all there are.
        CheckpointError: If its description is wrong, or the patch size is not divisible as it must be.
    """
    import torch

    from nnunet_pt.networks.build import build_network

    source = pretraining.info.checkpoint_path
    if len(patch_size) != 3 or min(patch_size) < 1:
        raise CheckpointError(
            f"{source} does not say for which patch size its network is meant.",
            found=f"recommended patch size {list(patch_size)}",
            expected="three numbers of voxels",
        )
    try:
        with torch.device("meta"):
            build_network(
                pretraining.architecture,
                input_channels=channels,
                num_outputs=2,
                deep_supervision=False,
                patch_size=patch_size,
                initialise=False,
            )
    except PlansError as error:
        raise CheckpointError(
            f"The network that {source} describes cannot be built for its recommended patch size.",
            found=f"{pretraining.architecture.network_class_name or 'no name'}, patch size {list(patch_size)}\n"
            f"            {error.found}",
            remedy="correct the checkpoint's adaptation plan",
        ) from error


def name_conflicts(folder: Path, pattern: str, info: PretrainInfo) -> list[str]:
    """Plans of the same name that were made for another checkpoint, each with what they were made for.

    Args:
        folder: The dataset's folder in nnUNet_preprocessed.
        pattern: File names of the plans that count.
        info: The checkpoint.
    """
    conflicts = []
    for path in sorted(folder.glob(pattern)):
        try:
            other = Plans.load(path).pretrain_info
        except NnunetError:
            continue  # nothing can be said of damaged plans, and they are written anew
        if other is not None and other.checkpoint_name == info.checkpoint_name and not _same_checkpoint(other, info):
            conflicts.append(f"{path.name}: {other.checkpoint_path}")
    return conflicts


def _same_checkpoint(one: PretrainInfo, other: PretrainInfo) -> bool:
    if one.checkpoint_sha256 is not None and other.checkpoint_sha256 is not None:
        return one.checkpoint_sha256 == other.checkpoint_sha256
    paths = [None if i.checkpoint_path is None else Path(i.checkpoint_path).absolute() for i in (one, other)]
    return paths[0] == paths[1]


def _alone(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a configuration without references to others, which these plans do not have."""
    return {k: v for k, v in entries.items() if k not in ("inherits_from", "previous_stage", "next_stage")}


def _architecture_entries(architecture: Architecture) -> dict[str, Any]:
    return {
        "network_class_name": architecture.network_class_name,
        "arch_kwargs": dict(architecture.arch_kwargs) or None,
        "_kw_requires_import": list(architecture.requires_import) if architecture.arch_kwargs else None,
    }
