"""The DA5 pipeline as a whole."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training.augmentation.base import OneOf, Pipeline, Sample, Sometimes
from nnunet_pt.training.augmentation.cascade import RandomMorphology
from nnunet_pt.training.augmentation.da5 import da5_training_pipeline
from nnunet_pt.training.augmentation.default import AugmentationSettings

LABELS = Labels(labels={"background": 0, "a": 1, "b": 2})
SETTINGS = AugmentationSettings(
    patch_size=(16, 16, 20),
    labels=LABELS,
    rotation=(-0.5, 0.5),
    mirror_axes=(0, 1, 2),
    use_mask_for_norm=(True, False),
    deep_supervision_scales=((1.0, 1.0, 1.0), (0.5, 0.5, 0.5)),
)
DUMMY_2D = replace(
    SETTINGS, patch_size=(6, 20, 20), rotation=(-math.pi, math.pi), dummy_2d=True, deep_supervision_scales=None
)
TWO_D = replace(
    SETTINGS,
    patch_size=(24, 24),
    rotation=(-math.pi, math.pi),
    mirror_axes=(0, 1),
    deep_supervision_scales=((1.0, 1.0), (0.5, 0.5)),
)
NEAREST = replace(SETTINGS, image_interpolation="nearest", segmentation_interpolation="nearest", mirror_axes=())
CASCADED = replace(SETTINGS, cascaded=True)
CASES = {"3d": SETTINGS, "dummy 2d": DUMMY_2D, "2d": TWO_D, "nearest": NEAREST, "cascade": CASCADED}


def patch(settings: AugmentationSettings, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    read = tuple(n if settings.dummy_2d and axis == 0 else 2 * n for axis, n in enumerate(settings.patch_size))
    image = torch.randn((2, *read), generator=generator) * 2 + 1
    channels = 2 if settings.cascaded else 1
    segmentation = torch.randint(-1, 3, (channels, *read), generator=generator).short()
    return Sample(image, segmentation)


def name(transform: object) -> str:
    if isinstance(transform, Sometimes):
        return f"{transform.probability} {name(transform.transform)}"
    if isinstance(transform, OneOf):
        return " | ".join(name(t) for t in transform.transforms)
    return type(transform).__name__


def test_order_and_probabilities() -> None:
    assert [name(t) for t in da5_training_pipeline(CASCADED).transforms] == [
        "Spatial",
        "0.5 QuarterTurns",
        "0.5 ExchangeAxes",
        "0.2 MedianFilter | 0.2 GaussianBlur",
        "0.1 GaussianNoise",
        "0.1 AdditiveBrightness",
        "0.2 Contrast | 0.2 Contrast",
        "0.15 LowResolution",
        "0.1 Gamma",
        "0.1 Gamma",
        "Mirror",
        "0.4 BlankRectangles",
        "0.3 BrightnessGradient",
        "0.3 LocalGamma",
        "0.2 Sharpening",
        "MaskImage",
        "OutsideToBackground",
        "PreviousStageToImage",
        "0.4 RandomMorphology",
        "0.2 DropComponent",
        "DeepSupervisionTargets",
    ]


def test_patches_without_equal_sides_keep_their_axes() -> None:
    names = [name(t) for t in da5_training_pipeline(replace(SETTINGS, patch_size=(16, 18, 20))).transforms]
    assert not any("QuarterTurns" in n or "ExchangeAxes" in n for n in names)


def test_how_often_each_transform_is_applied() -> None:
    pipeline = da5_training_pipeline(SETTINGS)
    random = np.random.default_rng(0)
    applied = np.zeros(len(pipeline.transforms))
    draws = 4000
    for _ in range(draws):
        applied += [p is not None for p in pipeline.sample(random, (1, 32, 32, 40))]
    rates = dict(zip([name(t).split()[-1] for t in pipeline.transforms], applied / draws, strict=True))
    half = 0.5  # of the draws change the only channel there is
    expected = {
        "QuarterTurns": 0.5,
        "ExchangeAxes": 0.5,
        "GaussianNoise": 0.1,
        "AdditiveBrightness": 0.1 * half,
        "LowResolution": 0.15 * half,
        "Gamma": 0.1,
        "Mirror": 7 / 8,
        "BlankRectangles": 0.4 * half,
        "BrightnessGradient": 0.3 * half,
        "LocalGamma": 0.3 * half,
        "Sharpening": 0.2 * half,
        "MaskImage": 1.0,
    }
    assert {k: rates[k] for k in expected} == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_every_draw_has_the_right_shapes_and_labels(settings: AugmentationSettings) -> None:
    pipeline = da5_training_pipeline(settings)
    random = np.random.default_rng(1)
    scales = settings.deep_supervision_scales or ((1.0,) * len(settings.patch_size),)
    for k in range(6):
        sample = patch(settings, k)
        expected_shape = pipeline.output_shape(tuple(sample.image.shape))
        after = pipeline(sample, random)
        assert tuple(after.image.shape) == expected_shape
        assert expected_shape == (4 if settings.cascaded else 2, *settings.patch_size)
        assert after.image.dtype == torch.float32
        assert torch.isfinite(after.image).all()
        assert after.targets is not None
        assert [tuple(t.shape[1:]) for t in after.targets] == [
            tuple(round(n * f) for n, f in zip(settings.patch_size, s, strict=True)) for s in scales
        ]
        assert set(after.targets[0].unique().tolist()) <= {0, 1, 2}
        if settings.cascaded:
            assert set(after.image[2:].unique().tolist()) <= {0.0, 1.0}
            assert after.image[2:].sum(0).max() <= 1


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_parameters_replay_the_sample_exactly(settings: AugmentationSettings) -> None:
    pipeline = da5_training_pipeline(settings)
    for k in range(4):
        parameters = pipeline.sample(np.random.default_rng(k), tuple(patch(settings).image.shape))
        copied = pickle.loads(pickle.dumps(parameters))
        assert copied == parameters
        first, second = (pipeline.apply(patch(settings), p) for p in (parameters, copied))
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.segmentation, second.segmentation)


def test_masked_channels_are_zero_outside() -> None:
    pipeline = da5_training_pipeline(SETTINGS)
    outside_seen = False
    for k in range(6):
        parameters = pipeline.sample(np.random.default_rng(k), (2, 32, 32, 40))
        names = [name(t) for t in pipeline.transforms]
        before = Pipeline(pipeline.transforms[: names.index("MaskImage")])
        outside = before.apply(patch(SETTINGS), parameters[: len(before.transforms)]).segmentation[0] < 0
        after = pipeline.apply(patch(SETTINGS), parameters).image
        assert (after[0][outside] == 0).all()
        assert (after[1][outside] != 0).any()
        outside_seen |= bool(outside.any())
    assert outside_seen


def test_regions_with_ignore_label() -> None:
    labels = Labels(labels={"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))
    after = da5_training_pipeline(replace(SETTINGS, labels=labels))(patch(SETTINGS), np.random.default_rng(0))
    assert after.targets is not None
    assert [t.shape[0] for t in after.targets] == [3, 3]
    assert after.targets[0].dtype == torch.uint8


def test_label_probability_in_cascades() -> None:
    def morphology(settings: AugmentationSettings) -> RandomMorphology:
        (found,) = (
            t.transform
            for t in da5_training_pipeline(settings).transforms
            if isinstance(t, Sometimes) and isinstance(t.transform, RandomMorphology)
        )
        return found

    assert morphology(CASCADED).label_probability == 1.0
    assert morphology(replace(CASCADED, cascade_label_probability=0.25)).label_probability == 0.25
