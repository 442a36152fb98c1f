"""Intensity normalisation, one channel at a time, with nnU-Net's scheme names and formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_pt.core.errors import ImageError, PlansError
from nnunet_pt.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nnunet_pt.plans.fingerprint import IntensityProperties

    FloatArray = NDArray[np.float32]
    BoolArray = NDArray[np.bool_]
    Normalizer = Callable[[FloatArray, BoolArray | None, IntensityProperties | None], FloatArray]

SMALLEST_DIVISOR = 1e-8


def zscore(image_xyz: FloatArray, inside_xyz: BoolArray | None, properties: IntensityProperties | None) -> FloatArray:
    """Subtract the mean, divide by the population standard deviation; with a mask only inside it."""
    del properties
    if inside_xyz is not None:
        values = image_xyz[inside_xyz]
        if values.size:
            image_xyz[inside_xyz] = (values - values.mean()) / max(values.std(), SMALLEST_DIVISOR)
        return image_xyz
    mean, std = image_xyz.mean(), image_xyz.std()
    image_xyz -= mean
    image_xyz /= max(std, SMALLEST_DIVISOR)
    return image_xyz


def ct(image_xyz: FloatArray, inside_xyz: BoolArray | None, properties: IntensityProperties | None) -> FloatArray:
    """Clip to the foreground's 0.5 and 99.5 percentiles, then standardise with the foreground's mean and std."""
    del inside_xyz
    if properties is None:
        raise PlansError(
            "CTNormalization needs foreground intensity properties, but the plans hold none for this channel.",
            remedy="extract the fingerprint again (nnUNetv2_extract_fingerprint --clean) and repeat the planning",
        )
    image_xyz.clip(properties.percentile_00_5, properties.percentile_99_5, out=image_xyz)
    image_xyz -= properties.mean
    image_xyz /= max(properties.std, SMALLEST_DIVISOR)
    return image_xyz


def unchanged(
    image_xyz: FloatArray, inside_xyz: BoolArray | None, properties: IntensityProperties | None
) -> FloatArray:
    """No normalisation."""
    del inside_xyz, properties
    return image_xyz


def rescale_to_01(
    image_xyz: FloatArray, inside_xyz: BoolArray | None, properties: IntensityProperties | None
) -> FloatArray:
    """Shift and scale to the range 0 to 1."""
    del inside_xyz, properties
    image_xyz -= image_xyz.min()
    image_xyz /= max(image_xyz.max(), SMALLEST_DIVISOR)
    return image_xyz


def rgb_to_01(
    image_xyz: FloatArray, inside_xyz: BoolArray | None, properties: IntensityProperties | None
) -> FloatArray:
    """Divide by 255."""
    del inside_xyz, properties
    low, high = float(image_xyz.min()), float(image_xyz.max())
    if low < 0 or high > 255:
        raise ImageError(
            "The channel is declared rgb_to_0_1 but its values are not those of an 8-bit colour image.",
            found=f"values from {low:g} to {high:g}",
            expected="values from 0 to 255",
            remedy="name the channel differently in dataset.json (e.g. rescale_to_0_1) and plan again",
        )
    image_xyz /= 255
    return image_xyz


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizationScheme:
    """A named way to normalise one channel.

    Attributes:
        apply: Called as ``(image_xyz, inside_xyz, properties)``; works in place on float32 where it can and returns
            the result.
        uses_mask: Whether the plans may ask it to look only at voxels inside the nonzero mask.
    """

    apply: Normalizer
    uses_mask: bool = False


NORMALIZATION: Registry[NormalizationScheme] = Registry(
    "normalization scheme",
    {
        "ZScoreNormalization": NormalizationScheme(apply=zscore, uses_mask=True),
        "CTNormalization": NormalizationScheme(apply=ct),
        "NoNormalization": NormalizationScheme(apply=unchanged),
        "RescaleTo01Normalization": NormalizationScheme(apply=rescale_to_01),
        "RGBTo01Normalization": NormalizationScheme(apply=rgb_to_01),
    },
)

_SCHEME_OF_CHANNEL = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def scheme_for_channel(channel_name: str) -> str:
    """The scheme that a channel's name in ``dataset.json`` asks for; z-score unless the name is one of the known."""
    return _SCHEME_OF_CHANNEL.get(channel_name.casefold(), "ZScoreNormalization")


def uses_mask(scheme_name: str) -> bool:
    """Whether the scheme can be restricted to the nonzero mask.

    Raises:
        UnknownNameError: For a name that is no scheme.
    """
    return NORMALIZATION[scheme_name].uses_mask


def normalize(
    image_cxyz: FloatArray,
    segmentation_1xyz: NDArray[np.integer],
    *,
    schemes: tuple[str, ...],
    use_mask: tuple[bool, ...],
    properties: Mapping[str, IntensityProperties],
) -> None:
    """Normalise every channel in place.

    Args:
        image_cxyz: Image, float32.
        segmentation_1xyz: Segmentation in which -1 marks voxels outside the nonzero mask.
        schemes: Scheme name of each channel.
        use_mask: For each channel, whether only voxels inside the nonzero mask count.
        properties: Foreground intensities by channel index ("0", "1", ...).

    Raises:
        PlansError: If the plans are made for another number of channels.
    """
    if len(schemes) != len(image_cxyz) or len(use_mask) != len(image_cxyz):
        raise PlansError(
            "The image and the plans have different numbers of channels.",
            found=f"{len(image_cxyz)} in the image",
            expected=f"{len(schemes)} in the plans",
            remedy="plan this dataset anew, or use plans made for the same channels",
        )
    for channel, (name, masked) in enumerate(zip(schemes, use_mask, strict=True)):
        scheme = NORMALIZATION[name]
        inside = segmentation_1xyz[0] >= 0 if masked and scheme.uses_mask else None
        image_cxyz[channel] = scheme.apply(image_cxyz[channel], inside, properties.get(str(channel)))
