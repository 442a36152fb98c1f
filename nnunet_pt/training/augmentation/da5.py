"""The stronger augmentation of nnU-Net's DA5 trainers."""

from __future__ import annotations

from typing import Any

from nnunet_pt.training.augmentation.base import OneOf, Pipeline, Sometimes, Transform
from nnunet_pt.training.augmentation.default import AugmentationSettings, final_training_transforms
from nnunet_pt.training.augmentation.filters import MedianFilter, Sharpening
from nnunet_pt.training.augmentation.intensity import Contrast, Gamma, GaussianBlur, GaussianNoise, LowResolution
from nnunet_pt.training.augmentation.local import AdditiveBrightness, BlankRectangles, BrightnessGradient, LocalGamma
from nnunet_pt.training.augmentation.shape import ExchangeAxes, QuarterTurns, equal_axes
from nnunet_pt.training.augmentation.spatial import Mirror, Spatial

HALF = 0.5
"""Share of channels that most of the transforms change."""


def da5_training_pipeline(settings: AugmentationSettings) -> Pipeline:
    """nnU-Net's DA5 augmentation, ending with the targets.

    Args:
        settings: As for the default pipeline; in a cascade all labels of the previous stage take part in its
            augmentation, unless a probability is given.
    """
    return Pipeline(
        [
            *_spatial_transforms(settings),
            *_intensity_transforms(settings),
            *_local_transforms(settings),
            *final_training_transforms(settings, mirror=False, default_cascade_probability=1.0),
        ]
    )


def _spatial_transforms(settings: AugmentationSettings) -> list[Transform[Any]]:
    spatial = Spatial(
        patch_size=settings.patch_size,
        rotation=settings.rotation,
        rotation_probability=0.4,
        axis_probability=0.5,
        scaling=(0.7, 1.43),
        scale_axes_together=False,
        slice_by_slice=settings.dummy_2d,
        image_interpolation=settings.image_interpolation,
        segmentation_interpolation=settings.segmentation_interpolation,
    )
    transforms: list[Transform[Any]] = [spatial]
    if axes := equal_axes(settings.patch_size):
        transforms += [Sometimes(0.5, QuarterTurns(axes)), Sometimes(0.5, ExchangeAxes(axes))]
    return transforms


def _intensity_transforms(settings: AugmentationSettings) -> list[Transform[Any]]:
    blur = GaussianBlur(sigma=(0.3, 1.5), channel_probability=HALF, axes_together=True)
    contrasts = [Contrast(factor=(0.5, 2.0), channel_probability=HALF, preserve_range=keep) for keep in (True, False)]
    low_resolution = LowResolution(scale=(0.25, 1.0), keep_first_axis=settings.dummy_2d)
    return [
        OneOf((Sometimes(0.2, MedianFilter(sizes=(2, 8), channel_probability=HALF)), Sometimes(0.2, blur))),
        Sometimes(0.1, GaussianNoise()),
        Sometimes(0.1, AdditiveBrightness(std=0.5, channel_probability=HALF)),
        OneOf(tuple(Sometimes(0.2, contrast) for contrast in contrasts)),
        Sometimes(0.15, low_resolution),
        # Twice the inverted one: nnU-Net's second gamma is inverted, too.
        Sometimes(0.1, Gamma(gamma=(0.7, 1.5), inverted=True)),
        Sometimes(0.1, Gamma(gamma=(0.7, 1.5), inverted=True)),
    ]


def _local_transforms(settings: AugmentationSettings) -> list[Transform[Any]]:
    transforms: list[Transform[Any]] = [Mirror(settings.mirror_axes)] if settings.mirror_axes else []
    return [
        *transforms,
        Sometimes(0.4, BlankRectangles.for_patch(settings.patch_size)),
        Sometimes(0.3, BrightnessGradient()),
        Sometimes(0.3, LocalGamma()),
        Sometimes(0.2, Sharpening(strengths=(0.1, 1.0), channel_probability=HALF)),
    ]
