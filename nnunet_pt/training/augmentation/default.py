"""nnU-Net's default pipelines for training and for the validation during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training.augmentation.base import Pipeline, Sometimes, Transform
from nnunet_pt.training.augmentation.cascade import cascade_transforms
from nnunet_pt.training.augmentation.geometry import Range
from nnunet_pt.training.augmentation.intensity import (
    Brightness,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
)
from nnunet_pt.training.augmentation.spatial import Interpolation, Mirror, Spatial
from nnunet_pt.training.augmentation.targets import (
    DeepSupervisionTargets,
    MaskImage,
    OutsideToBackground,
    RegionTargets,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSettings:
    """Everything the pipelines depend on.

    Attributes:
        patch_size: Spatial shape of the patches the network sees.
        labels: The dataset's labels.
        rotation: Range of angles in radians.
        dummy_2d: Deform 3d patches slice by slice.
        mirror_axes: Spatial axes that may be mirrored; empty for none.
        use_mask_for_norm: Per channel, whether its normalisation used the nonzero mask; empty for none.
        deep_supervision_scales: Factors of the targets, highest resolution first; ``None``: one target.
        cascaded: The segmentation has the previous stage's as channel 1.
        cascade_label_probability: How often each label takes part in the augmentation of the previous stage's
            segmentation; ``None`` for the pipeline's default.
        image_interpolation: How images are rotated and scaled.
        segmentation_interpolation: How segmentations are.
    """

    patch_size: tuple[int, ...]
    labels: Labels
    rotation: Range
    dummy_2d: bool = False
    mirror_axes: tuple[int, ...] = ()
    use_mask_for_norm: tuple[bool, ...] = ()
    deep_supervision_scales: tuple[tuple[float, ...], ...] | None = None
    cascaded: bool = False
    cascade_label_probability: float | None = None
    image_interpolation: Interpolation = "linear"
    segmentation_interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        dims = len(self.patch_size)
        findings = []
        if dims not in (2, 3) or min(self.patch_size) < 1:
            findings.append(f"patch_size is {self.patch_size}, expected 2 or 3 sizes from 1")
        if self.dummy_2d and dims != 3:
            findings.append("dummy_2d is for 3d patches only")
        if not set(self.mirror_axes) <= set(range(dims)):
            findings.append(f"mirror_axes {self.mirror_axes} has axes that a patch of {dims} axes does not have")
        if any(len(scale) != dims for scale in self.deep_supervision_scales or ()):
            findings.append(f"deep_supervision_scales need {dims} factors each")
        if findings:
            raise TrainingError("The settings of the augmentation contradict themselves.", found="; ".join(findings))


def default_training_pipeline(settings: AugmentationSettings) -> Pipeline:
    """nnU-Net's default augmentation, ending with the targets."""
    spatial = Spatial(
        patch_size=settings.patch_size,
        rotation=settings.rotation,
        slice_by_slice=settings.dummy_2d,
        image_interpolation=settings.image_interpolation,
        segmentation_interpolation=settings.segmentation_interpolation,
    )
    transforms: list[Transform[Any]] = [
        spatial,
        Sometimes(0.1, GaussianNoise()),
        Sometimes(0.2, GaussianBlur()),
        Sometimes(0.15, Brightness()),
        Sometimes(0.15, Contrast()),
        Sometimes(0.25, LowResolution(keep_first_axis=settings.dummy_2d)),
        Sometimes(0.1, Gamma(inverted=True)),
        Sometimes(0.3, Gamma()),
    ]
    return Pipeline([*transforms, *final_training_transforms(settings)])


def final_training_transforms(
    settings: AugmentationSettings, *, mirror: bool = True, default_cascade_probability: float = 0.5
) -> list[Transform[Any]]:
    """What all training pipelines end with: mirroring, masking, relabelling, cascade and targets.

    Args:
        settings: The settings of the pipeline.
        mirror: False if the pipeline mirrors earlier.
        default_cascade_probability: How often a label of the previous stage takes part if the settings do not say it.
    """
    transforms: list[Transform[Any]] = []
    if mirror and settings.mirror_axes:
        transforms.append(Mirror(settings.mirror_axes))
    if masked := tuple(c for c, use in enumerate(settings.use_mask_for_norm) if use):
        transforms.append(MaskImage(masked))
    transforms.append(OutsideToBackground())
    if settings.cascaded:
        probability = settings.cascade_label_probability
        chosen = default_cascade_probability if probability is None else probability
        transforms += cascade_transforms(settings.labels.foreground_labels, label_probability=chosen)
    return [*transforms, *_target_transforms(settings)]


def validation_pipeline(settings: AugmentationSettings) -> Pipeline:
    """What is done to validation patches, which are read in their final size: nothing random."""
    transforms: list[Transform[Any]] = [OutsideToBackground()]
    if settings.cascaded:
        transforms += cascade_transforms(settings.labels.foreground_labels, augment=False)
    return Pipeline([*transforms, *_target_transforms(settings)])


def _target_transforms(settings: AugmentationSettings) -> list[Transform[Any]]:
    transforms: list[Transform[Any]] = []
    if settings.labels.has_regions:
        transforms.append(RegionTargets(settings.labels.regions, settings.labels.ignore_label))
    return [*transforms, DeepSupervisionTargets(settings.deep_supervision_scales)]
