"""Normalisation: nnU-Net's formulas and names."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_pt.core.errors import ImageError, PlansError, UnknownNameError
from nnunet_pt.plans.fingerprint import IntensityProperties
from nnunet_pt.preprocessing.normalize import NORMALIZATION, normalize, scheme_for_channel, uses_mask

CT = IntensityProperties(
    max=900.0, mean=40.0, median=38.0, min=-900.0, percentile_00_5=-120.0, percentile_99_5=210.0, std=25.0
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(50, 200, (2, 6, 7, 8)).astype(np.float32)


def run(image: np.ndarray, *schemes: str, masked: bool = False, segmentation: np.ndarray | None = None) -> np.ndarray:
    result = image.copy()
    segmentation = np.zeros((1, *image.shape[1:]), np.int16) if segmentation is None else segmentation
    properties = {str(c): CT for c in range(len(image))}
    normalize(result, segmentation, schemes=schemes, use_mask=(masked,) * len(schemes), properties=properties)
    assert result.dtype == np.float32
    return result


def test_zscore_over_everything(image: np.ndarray) -> None:
    wanted = (image[:1].astype(np.float64) - image[:1].mean()) / image[:1].std()
    np.testing.assert_allclose(run(image[:1], "ZScoreNormalization"), wanted, atol=1e-5)


def test_zscore_inside_the_mask_leaves_the_outside_alone(image: np.ndarray) -> None:
    segmentation = np.random.default_rng(1).integers(-1, 2, (1, 6, 7, 8)).astype(np.int16)
    inside = segmentation[0] >= 0
    result = run(image, "ZScoreNormalization", "ZScoreNormalization", masked=True, segmentation=segmentation)
    for channel, values in zip(result, image, strict=True):
        np.testing.assert_array_equal(channel[~inside], values[~inside])
        chosen = values[inside].astype(np.float64)
        np.testing.assert_allclose(channel[inside], (chosen - chosen.mean()) / chosen.std(), atol=1e-5)


def test_zscore_with_nothing_inside_the_mask_changes_nothing(image: np.ndarray) -> None:
    outside = np.full((1, *image.shape[1:]), -1, np.int8)
    np.testing.assert_array_equal(run(image[:1], "ZScoreNormalization", masked=True, segmentation=outside), image[:1])


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
@pytest.mark.parametrize("masked", [False, True])
def test_constant_images_become_zero(scheme: str, masked: bool) -> None:
    result = run(np.full((1, 3, 4, 5), 7, np.float32), scheme, masked=masked)
    np.testing.assert_array_equal(result, np.zeros((1, 3, 4, 5)))


def test_ct_clips_and_uses_the_statistics_of_its_channel(image: np.ndarray) -> None:
    wanted = (np.clip(image.astype(np.float64), -120, 210) - 40) / 25
    result = run(image, "CTNormalization", "NoNormalization", masked=True)
    np.testing.assert_allclose(result[0], wanted[0], atol=1e-5)
    np.testing.assert_array_equal(result[1], image[1])
    second = image.copy()
    normalize(
        second,
        np.zeros((1, 6, 7, 8), np.int16),
        schemes=("NoNormalization", "CTNormalization"),
        use_mask=(False, False),
        properties={"1": CT},
    )
    np.testing.assert_allclose(second[1], wanted[1], atol=1e-5)


def test_ct_without_statistics_says_what_to_do(image: np.ndarray) -> None:
    with pytest.raises(PlansError, match="foreground intensity properties"):
        normalize(
            image,
            np.zeros((1, 6, 7, 8), np.int16),
            schemes=("NoNormalization", "CTNormalization"),
            use_mask=(False, False),
            properties={"0": CT},
        )


def test_rescaling(image: np.ndarray) -> None:
    result = run(image[:1], "RescaleTo01Normalization")
    assert result.min() == 0 and result.max() == 1
    np.testing.assert_allclose(result, (image[:1] - image[0].min()) / np.ptp(image[0]), atol=1e-6)


def test_colours() -> None:
    colours = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
    np.testing.assert_allclose(run(colours, "RGBTo01Normalization"), colours / 255, atol=1e-7)
    for wrong in (colours - 1, colours + 1):
        with pytest.raises(ImageError, match="8-bit"):
            run(wrong, "RGBTo01Normalization")


@pytest.mark.parametrize(
    ("schemes", "masks"), [(("CTNormalization",), (True, True)), (("CTNormalization",) * 2, (True,))]
)
def test_plans_for_another_number_of_channels(image: np.ndarray, schemes: tuple, masks: tuple) -> None:
    with pytest.raises(PlansError, match="numbers of channels"):
        normalize(image, np.zeros((1, 6, 7, 8), np.int16), schemes=schemes, use_mask=masks, properties={})


def test_unknown_scheme(image: np.ndarray) -> None:
    with pytest.raises(UnknownNameError, match="ZScoreNormalization"):
        run(image[:1], "ZScoreNormalisation")


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [
        ("CT", "CTNormalization"),
        ("ct", "CTNormalization"),
        ("cT", "CTNormalization"),
        ("noNorm", "NoNormalization"),
        ("ZSCORE", "ZScoreNormalization"),
        ("rescale_to_0_1", "RescaleTo01Normalization"),
        ("RGB_to_0_1", "RGBTo01Normalization"),
        ("T1", "ZScoreNormalization"),
        ("CT_arterial", "ZScoreNormalization"),
        ("", "ZScoreNormalization"),
    ],
)
def test_channel_names_choose_the_scheme(channel: str, scheme: str) -> None:
    assert scheme_for_channel(channel) == scheme
    assert scheme in NORMALIZATION


def test_only_zscore_may_look_at_the_mask_alone() -> None:
    assert [name for name in NORMALIZATION if uses_mask(name)] == ["ZScoreNormalization"]
