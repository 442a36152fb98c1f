"""From a recipe and plans to the augmentation and the size of the patches that are read for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.augmentation.da5 import da5_training_pipeline
from nnunet_pt.training.augmentation.default import (
    AugmentationSettings,
    default_training_pipeline,
    validation_pipeline,
)
from nnunet_pt.training.augmentation.geometry import (
    DA5_SCALING_MARGIN,
    SCALING_MARGIN,
    initial_patch_size,
    patch_geometry,
)
from nnunet_pt.training.task import TrainingTask

_PIPELINES = {"default": default_training_pipeline, "da5": da5_training_pipeline, "none": validation_pipeline}


def training_pipelines(task: TrainingTask, output_strides: Sequence[Sequence[int]] | None) -> tuple[Pipeline, Pipeline]:
    """The augmentation for training, and what is done to validation patches.

    Args:
        task: What is to be trained.
        output_strides: Voxels of the patch for a voxel of each output of the network; None for a single output.
    """
    settings = augmentation_settings(task, output_strides)
    return _PIPELINES[task.recipe.augmentation](settings), validation_pipeline(settings)


def augmentation_settings(task: TrainingTask, output_strides: Sequence[Sequence[int]] | None) -> AugmentationSettings:
    """What the pipelines depend on, from the recipe and the plans."""
    recipe, patch_size = task.recipe, task.configuration.patch_size
    geometry = patch_geometry(patch_size, allow_dummy_2d=recipe.dummy_2d)
    masks = task.configuration.use_mask_for_norm
    return AugmentationSettings(
        patch_size=patch_size,
        labels=task.labels,
        rotation=geometry.rotation,
        dummy_2d=geometry.dummy_2d,
        mirror_axes=task.mirror_axes or (),
        use_mask_for_norm=masks if any(masks) else (),
        deep_supervision_scales=None
        if output_strides is None
        else tuple(tuple(1 / s for s in strides) for strides in output_strides),
        cascaded=task.is_cascaded,
        cascade_label_probability=recipe.cascade_label_probability,
        image_interpolation=recipe.image_interpolation,
        segmentation_interpolation=recipe.segmentation_interpolation,
    )


def load_patch_size(task: TrainingTask) -> tuple[int, ...]:
    """The size to read for training, so that a rotated and scaled patch stays within what was read."""
    recipe, patch_size = task.recipe, task.configuration.patch_size
    if recipe.augmentation == "none":
        return patch_size
    geometry = patch_geometry(patch_size, allow_dummy_2d=recipe.dummy_2d)
    margin = DA5_SCALING_MARGIN if recipe.augmentation == "da5" else SCALING_MARGIN
    return initial_patch_size(patch_size, geometry.rotation, margin, dummy_2d=geometry.dummy_2d)


def augmented(
    pipeline: Pipeline, data: Tensor, segmentations: Tensor, generators: Sequence[np.random.Generator]
) -> tuple[Tensor, list[Tensor]]:
    """Augment patches as they were read, on their device.

    Args:
        pipeline: The augmentation.
        data: (B,C,*load_patch).
        segmentations: (B,S,*load_patch).
        generators: Each sample's random generator.

    Returns:
        Data (B,C,*patch) and targets, as worker processes deliver them.
    """
    samples = [
        pipeline(Sample(image, segmentation), random)
        for image, segmentation, random in zip(data, segmentations, generators, strict=True)
    ]
    targets = [sample.targets or [sample.segmentation] for sample in samples]
    return torch.stack([sample.image for sample in samples]), [
        torch.stack(level) for level in zip(*targets, strict=True)
    ]
