"""nnU-Net's planners as a table: each is the same algorithm with other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunet_pt.core.registry import Registry
from nnunet_pt.plans.plans import ResamplingSpec

BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}
REFERENCE_BATCH_SIZE = {2: 12, 3: 2}
MIN_BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingChoice:
    """How images, segmentations and predicted probabilities are resampled."""

    data: ResamplingSpec
    seg: ResamplingSpec
    probabilities: ResamplingSpec


def _default_resampling() -> ResamplingChoice:
    def spec(is_seg: bool, order: int) -> ResamplingSpec:
        kwargs = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        return ResamplingSpec(name="resample_data_or_seg_to_shape", kwargs=kwargs)

    return ResamplingChoice(data=spec(False, 3), seg=spec(True, 1), probabilities=spec(False, 1))


def _torch_resampling(force_separate_z: bool | None, **more: Any) -> ResamplingChoice:
    def spec(is_seg: bool) -> ResamplingSpec:
        kwargs = {"is_seg": is_seg, "force_separate_z": force_separate_z, "memefficient_seg_resampling": False, **more}
        return ResamplingSpec(name="resample_torch_fornnunet", kwargs=kwargs)

    return ResamplingChoice(data=spec(False), seg=spec(True), probabilities=spec(False))


def _no_resampling() -> ResamplingChoice:
    spec = ResamplingSpec(name="no_resampling_hack", kwargs={})
    return ResamplingChoice(data=spec, seg=spec, probabilities=spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerPreset:
    """The numbers of one planner.

    Attributes:
        name: nnU-Net's class name, which ``-pl`` takes.
        plans_name: Default plans identifier.
        network: Network class.
        encoder: Convolutions or residual blocks of the encoder stages (cut to the stages needed).
        decoder: Convolutions of the decoder stages.
        gpu_memory_gb: GPU memory that the reference values stand for, and the default target.
        reference_size: Feature-map size that fits into that memory at the reference batch size, by dimensions.
        max_dataset_covered: Largest share of the dataset's voxels that one batch may hold.
        size_of_two_patches: While the patch is shrunk, its size is that of two patches spread over the reference
            batch, instead of one patch.
        resampling: Resampling functions.
        data_identifiers: Fixed names of data folders, by configuration; others are ``<plans name>_<configuration>``.
        fixed_target: The planner is made for its own GPU memory; another target is worth a warning.
    """

    name: str
    plans_name: str
    network: str
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    gpu_memory_gb: float
    reference_size: Mapping[int, int]
    max_dataset_covered: float
    size_of_two_patches: bool = False
    resampling: ResamplingChoice
    data_identifiers: Mapping[str, str]
    fixed_target: bool = False

    def data_identifier(self, plans_name: str, configuration: str) -> str:
        """Name of the folder with the preprocessed cases of a configuration."""
        return self.data_identifiers.get(configuration, f"{plans_name}_{configuration}")


EXPERIMENT_PLANNER = PlannerPreset(
    name="ExperimentPlanner",
    plans_name="nnUNetPlans",
    network="PlainConvUNet",
    encoder=(2,) * 14,
    decoder=(2,) * 13,
    gpu_memory_gb=8,
    reference_size={2: 85_000_000, 3: 560_000_000},
    max_dataset_covered=0.05,
    size_of_two_patches=True,
    resampling=_default_resampling(),
    data_identifiers={},
)

# The residual planners write into the default planner's folders (2d and 3d_fullres are preprocessed alike), even if
# the plans are renamed; nnU-Net does so, and folders made by either must be found by the other.
RESIDUAL_PLANNER = PlannerPreset(
    name="ResEncUNetPlanner",
    plans_name="nnUNetResEncUNetPlans",
    network="ResidualEncoderUNet",
    encoder=(1, 3, 4) + (6,) * 11,
    decoder=(1,) * 13,
    gpu_memory_gb=8,
    reference_size={2: 135_000_000, 3: 680_000_000},
    max_dataset_covered=0.05,
    resampling=_default_resampling(),
    data_identifiers={"2d": "nnUNetPlans_2d", "3d_fullres": "nnUNetPlans_3d_fullres"},
)
RESIDUAL_M = replace(
    RESIDUAL_PLANNER,
    name="nnUNetPlannerResEncM",
    plans_name="nnUNetResEncUNetMPlans",
    max_dataset_covered=1,
    fixed_target=True,
)
RESIDUAL_L = replace(
    RESIDUAL_M,
    name="nnUNetPlannerResEncL",
    plans_name="nnUNetResEncUNetLPlans",
    gpu_memory_gb=24,
    reference_size={2: 380_000_000, 3: 2_100_000_000},
)
RESIDUAL_XL = replace(
    RESIDUAL_M,
    name="nnUNetPlannerResEncXL",
    plans_name="nnUNetResEncUNetXLPlans",
    gpu_memory_gb=40,
    reference_size={2: 560_000_000, 3: 3_600_000_000},
)


def _variant(base: PlannerPreset, suffix: str, resampling: ResamplingChoice) -> PlannerPreset:
    """A planner with other resampling, which therefore needs its own data folders."""
    return replace(
        base,
        name={"ExperimentPlanner": "nnUNetPlanner"}.get(base.name, base.name) + suffix,
        plans_name=base.plans_name + suffix,
        resampling=resampling,
        data_identifiers={},
    )


_SEPARATE_Z_NEVER = _torch_resampling(force_separate_z=False)
_SEPARATE_Z_IF_ANISOTROPIC = _torch_resampling(force_separate_z=None, separate_z_anisotropy_threshold=3)

PLANNERS: Registry[PlannerPreset] = Registry(
    "planner",
    {
        preset.name: preset
        for preset in (
            EXPERIMENT_PLANNER,
            RESIDUAL_PLANNER,
            RESIDUAL_M,
            RESIDUAL_L,
            RESIDUAL_XL,
            _variant(EXPERIMENT_PLANNER, "_torchres", _SEPARATE_Z_NEVER),
            _variant(RESIDUAL_L, "_torchres", _SEPARATE_Z_NEVER),
            _variant(RESIDUAL_L, "_torchres_sepz", _SEPARATE_Z_IF_ANISOTROPIC),
            _variant(RESIDUAL_L, "_noResampling", _no_resampling()),
        )
    },
)


def planners_of_plans() -> dict[str, str]:
    """Name of plans -> name of the planner that makes plans of that name by itself."""
    return {PLANNERS[name].plans_name: name for name in PLANNERS}
