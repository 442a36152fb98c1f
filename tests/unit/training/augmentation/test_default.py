from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from torch import Tensor

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training.augmentation import base
from nnunet_pt.training.augmentation.base import Sample, Sometimes
from nnunet_pt.training.augmentation.default import (
    AugmentationSettings,
    default_training_pipeline,
    validation_pipeline,
)

LABELS = Labels(labels={"background": 0, "one": 1, "two": 2})
REGIONS = Labels(labels={"background": 0, "all": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))
ISOTROPIC = AugmentationSettings(
    patch_size=(16, 18, 14), labels=LABELS, rotation=(-math.pi / 6, math.pi / 6), mirror_axes=(0, 1, 2)
)
SLICES = replace(
    ISOTROPIC, patch_size=(6, 20, 20), rotation=(-math.pi, math.pi), dummy_2d=True, use_mask_for_norm=(True, False)
)
FLAT = replace(ISOTROPIC, patch_size=(20, 24), rotation=(-math.pi, math.pi), mirror_axes=(0, 1))
READ = {(16, 18, 14): (24, 26, 22), (6, 20, 20): (6, 26, 26), (20, 24): (28, 30)}
KINDS = {"isotropic": ISOTROPIC, "slices": SLICES, "flat": FLAT}


def rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def patch(settings: AugmentationSettings, segmentations: int = 1) -> Sample:
    random, shape = np.random.default_rng(0), READ[settings.patch_size]
    image = np.stack([gaussian_filter(random.standard_normal(shape), 1.0) for _ in range(2)]) * 5
    smooth = gaussian_filter(random.standard_normal((segmentations, *shape)), (0, *[2] * len(shape)))
    labels = np.digitize(smooth, np.quantile(smooth, [0.2, 0.6, 0.8])) - 1
    return Sample(torch.from_numpy(image).float(), torch.from_numpy(labels).short())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU; without one, the CPU doing as a GPU does: everything at once instead of in pieces."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setattr(base, "PIECE", base.ALL)
    return torch.device("cpu")


def on(device: torch.device, sample: Sample) -> Sample:
    return Sample(sample.image.to(device), sample.segmentation.to(device))


def test_order_and_probabilities_are_nnunets() -> None:
    pipeline = default_training_pipeline(replace(SLICES, labels=REGIONS))
    found = [
        (type(t.transform).__name__, t.probability) if isinstance(t, Sometimes) else (type(t).__name__, 1)
        for t in pipeline.transforms
    ]
    assert found == [
        ("Spatial", 1),
        ("GaussianNoise", 0.1),
        ("GaussianBlur", 0.2),
        ("Brightness", 0.15),
        ("Contrast", 0.15),
        ("LowResolution", 0.25),
        ("Gamma", 0.1),
        ("Gamma", 0.3),
        ("Mirror", 1),
        ("MaskImage", 1),
        ("OutsideToBackground", 1),
        ("RegionTargets", 1),
        ("DeepSupervisionTargets", 1),
    ]
    transforms: list[Any] = list(pipeline.transforms)
    assert transforms[0].slice_by_slice
    assert transforms[5].transform.keep_first_axis
    assert [t.transform.inverted for t in transforms[6:8]] == [True, False]
    assert transforms[9].channels == (0,)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_seed_replays_a_sample_bit_for_bit(settings: AugmentationSettings) -> None:
    settings_ds = replace(
        settings, deep_supervision_scales=((1.0,) * len(settings.patch_size), (0.5,) * len(settings.patch_size))
    )
    pipeline = default_training_pipeline(settings_ds)
    for seed in range(12):
        first, second = (pipeline(patch(settings), rng(seed)) for _ in range(2))
        assert first.image.shape == (2, *settings.patch_size) == pipeline.output_shape((2, *READ[settings.patch_size]))
        assert first.image.dtype == torch.float32
        assert torch.equal(first.image, second.image)
        assert first.targets is not None
        assert second.targets is not None
        for a, b in zip(first.targets, second.targets, strict=True):
            assert a.dtype == torch.int16
            assert a.min() >= 0
            assert torch.equal(a, b)
    assert not torch.equal(first.image, pipeline(patch(settings), rng(99)).image)


def features(sample: Sample) -> list[float]:
    values: list[float] = []
    for channel in sample.image.cpu():
        steps = [channel.diff(dim=axis).abs().mean() for axis in range(channel.ndim)]
        quantiles = channel.quantile(torch.tensor([0.01, 0.5, 0.99]))
        values += [float(v) for v in (channel.mean(), channel.std(), *quantiles, *steps, (channel == 0).float().mean())]
    for label in (1, 2):
        mask = (sample.segmentation[0] == label).float().cpu()
        values.append(float(mask.mean()))
        values += [float(mask.cumsum(axis).mean() / mask.mean().clamp(min=1e-6)) for axis in range(mask.ndim)]
    return [round(v, 4) for v in values]  # samples that differ by rounding errors only are the same


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_gpu_augments_with_the_same_distributions(
    settings: AugmentationSettings, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, pipeline, given = 300, default_training_pipeline(settings), patch(settings)
    there = [
        features(pipeline(on(gpu, Sample(given.image.clone(), given.segmentation.clone())), rng(1, k)))
        for k in range(draws)
    ]
    monkeypatch.undo()
    here = [
        features(pipeline(Sample(given.image.clone(), given.segmentation.clone()), rng(2, k))) for k in range(draws)
    ]
    distances = [
        ks_2samp(a, b, method="asymp").statistic for a, b in zip(np.transpose(here), np.transpose(there), strict=True)
    ]
    # Two samples of 300 from one distribution differ by more than 0.16 in one of a thousand features
    assert max(distances) < 0.16


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_the_same_parameters_give_the_same_on_a_gpu_but_for_the_noise(
    settings: AugmentationSettings, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, draws = default_training_pipeline(settings), 30
    shape = (2, *READ[settings.patch_size])
    drawn = [pipeline.sample(rng(3, k), shape) for k in range(draws)]
    drawn = [(p[0], None, *p[2:]) for p in drawn]  # noise is made where it is added
    there = [pipeline.apply(on(gpu, patch(settings)), p) for p in drawn]
    monkeypatch.undo()
    for parameters, other in zip(drawn, there, strict=True):
        here = pipeline.apply(patch(settings), parameters)
        assert other.image.device.type == gpu.type
        assert torch.allclose(here.image, other.image.cpu(), atol=2e-3)
        assert (here.segmentation != other.segmentation.cpu()).float().mean() < 1e-3


def test_regions_and_the_ignore_label_become_channels_of_all_targets() -> None:
    settings = replace(ISOTROPIC, labels=REGIONS, deep_supervision_scales=((1.0, 1.0, 1.0), (0.5, 0.5, 0.5)))
    targets = default_training_pipeline(settings)(patch(ISOTROPIC), rng(0)).targets
    assert targets is not None
    assert [tuple(t.shape) for t in targets] == [(3, 16, 18, 14), (3, 8, 9, 7)]
    assert all(t.dtype == torch.uint8 and set(t.unique().tolist()) <= {0, 1} for t in targets)


@pytest.mark.parametrize("make", [default_training_pipeline, validation_pipeline])
def test_a_cascade_adds_the_previous_stage_to_the_image(make: Any) -> None:
    given = patch(ISOTROPIC, segmentations=2)
    result = make(replace(ISOTROPIC, cascaded=True))(given, rng(0))
    assert result.image.shape[0] == 4
    assert set(result.image[2:].unique().tolist()) <= {0.0, 1.0}
    assert result.targets is not None
    assert result.targets[0].shape[0] == 1


@pytest.mark.parametrize(("given", "expected"), [(None, 0.5), (1.0, 1.0)])
def test_how_often_labels_of_the_previous_stage_take_part(given: float | None, expected: float) -> None:
    settings = replace(ISOTROPIC, cascaded=True, cascade_label_probability=given)
    transforms: list[Any] = [
        t.transform for t in default_training_pipeline(settings).transforms if isinstance(t, Sometimes)
    ]
    assert {t.label_probability for t in transforms if hasattr(t, "label_probability")} == {expected}


def test_validation_patches_keep_their_image() -> None:
    given = patch(ISOTROPIC)
    image, segmentation = given.image.clone(), given.segmentation.clone()
    pipeline = validation_pipeline(replace(ISOTROPIC, deep_supervision_scales=((1.0, 1.0, 1.0), (0.5, 0.5, 0.5))))
    result = pipeline(given, rng(0))
    assert torch.equal(result.image, image)
    assert result.targets is not None
    assert torch.equal(result.targets[0], segmentation.clamp(min=0))
    assert result.targets[1].shape == (1, 12, 13, 11)


def test_nothing_is_mirrored_or_masked_unless_asked_for() -> None:
    names = [type(t).__name__ for t in default_training_pipeline(replace(ISOTROPIC, mirror_axes=())).transforms]
    assert "Mirror" not in names
    assert "MaskImage" not in names


def test_masked_channels_are_zero_outside() -> None:
    settings = replace(SLICES, labels=Labels(labels={"background": 0}))
    pipeline = default_training_pipeline(settings)
    seen = 0
    for seed in range(10):
        given = patch(SLICES)
        parameters = pipeline.sample(rng(seed), (2, *READ[SLICES.patch_size]))
        masked: list[Tensor] = []
        stop = next(i for i, t in enumerate(pipeline.transforms) if type(t).__name__ == "MaskImage")
        for index, (transform, chosen) in enumerate(zip(pipeline.transforms, parameters, strict=True)):
            given = given if chosen is None else transform.apply(given, chosen)
            if index == stop:
                masked.append(given.segmentation[0] < 0)
        assert (given.image[0][masked[0]] == 0).all()
        seen += int(masked[0].sum())
    assert seen > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": (4,)},
        {"patch_size": (4, 0, 4)},
        {"patch_size": (20, 24), "dummy_2d": True, "mirror_axes": ()},
        {"mirror_axes": (0, 3)},
        {"deep_supervision_scales": ((1.0, 1.0),)},
    ],
)
def test_contradicting_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="contradict"):
        replace(ISOTROPIC, **wrong)
