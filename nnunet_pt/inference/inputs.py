"""What a model is given: images from files or arrays, checked before anything is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, PredictionError
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import Case
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.preprocessing.case import SPACING_TOLERANCE, channel_error, check_finite, check_hidden_nonfinite

_NO_THICKNESS = 999.0  # readers give 2D images a slice that is so many pixels thick


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """A case to predict.

    Attributes:
        name: For messages.
        images: One path for each channel, or one file that holds all channels.
        previous_segmentation: For the second stage of a cascade, what the first stage predicted.
        output: Path of the segmentation without its ending; None to get it as an array.
    """

    name: str
    images: tuple[Path, ...]
    previous_segmentation: Path | None = None
    output: Path | None = None


def read_input(
    case: InputCase, reader: ImageReaderWriter, labels: Labels, num_channels: int
) -> tuple[NDArray[np.float32], dict[str, Any], NDArray[Any] | None]:
    """Read the files of a case and check them.

    Args:
        case: The files.
        reader: Reads them.
        labels: Labels that a previous segmentation may hold.
        num_channels: Channels that the model takes.

    Returns:
        Image (channels, x, y, z), its properties, and the previous segmentation (1, x, y, z) as int16, or None.

    Raises:
        ImageError: For files that cannot be read or do not fit together, and for values that are not finite.
    """
    files = Case(identifier=case.name, images=case.images, label=None)
    image, properties = reader.read_images(case.images)
    if len(image) != num_channels:
        raise channel_error(files, len(image), num_channels)
    check_finite(image, files)
    check_hidden_nonfinite(image, files)
    if case.previous_segmentation is None:
        return image, properties, None
    previous, own = reader.read_segmentation(case.previous_segmentation)
    if previous.shape[1:] == image.shape[1:] and not np.allclose(
        own["spacing"], properties["spacing"], rtol=SPACING_TOLERANCE, atol=0
    ):
        raise _misfit(case, f"a spacing of {own['spacing']} mm", f"{properties['spacing']} mm")
    return image, properties, checked_previous(previous, image, labels, case)


def checked_previous(
    segmentation_1xyz: NDArray[Any], image_cxyz: NDArray[Any], labels: Labels, case: InputCase | None = None
) -> NDArray[np.int16]:
    """A previous stage's segmentation as int16, after a check of its shape and its values.

    Raises:
        ImageError: If it does not fit the image, or holds values that are no labels.
    """
    if segmentation_1xyz.shape != (1, *image_cxyz.shape[1:]):
        raise _misfit(case, f"the shape {segmentation_1xyz.shape[1:]}", f"{image_cxyz.shape[1:]}")
    unknown = sorted(set(np.unique(segmentation_1xyz).tolist()) - set(labels.all_labels))
    if unknown:
        place = case.previous_segmentation if case is not None else "that was given"
        raise ImageError(
            f"The previous stage's segmentation {place} holds values that are no labels of this model.",
            found=", ".join(f"{v:g}" for v in unknown[:10]) + (" ..." if len(unknown) > 10 else ""),
            expected=f"only {', '.join(map(str, labels.all_labels))}",
            remedy="predict the previous stage with a model of the same dataset",
        )
    return segmentation_1xyz.astype(np.int16)


def _misfit(case: InputCase | None, found: str, expected: str) -> ImageError:
    place = f" {case.previous_segmentation} of case {case.name}" if case is not None else ""
    image = f", as in {case.images[0]}" if case is not None else ""
    return ImageError(
        f"The previous stage's segmentation{place} does not fit the image.",
        found=found,
        expected=f"{expected}{image}",
        remedy="predict the previous stage for these images",
    )


def checked_array(
    image_cxyz: NDArray[Any], properties: Mapping[str, Any], num_channels: int
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """A copy of an image as float32, after a check of its form and of its properties.

    Raises:
        PredictionError: If it cannot be an image for this model.
    """
    image = np.asarray(image_cxyz)
    spacing = np.asarray(properties.get("spacing", ()), dtype=float)
    findings = []
    if image.ndim != 4:
        findings.append(f"an array of shape {image.shape} instead of (channels, x, y, z); 2D images have (c, 1, y, x)")
    elif len(image) != num_channels:
        findings.append(f"{counted(len(image), 'channel')} instead of the {num_channels} of the model")
    elif 0 in image.shape:
        findings.append(f"an array of shape {image.shape}, which is empty")
    elif not np.isfinite(image).all():
        findings.append("values that are NaN or infinite")
    if spacing.shape != (3,) or not (spacing > 0).all():
        findings.append(
            f"the spacing {properties.get('spacing')!r} instead of three positive numbers, mm, in the order of the axes"
        )
    if findings:
        raise PredictionError("The image cannot be predicted.", found="; ".join(findings))
    return image.astype(np.float32), dict(properties)  # a copy, since preprocessing works in place


def refuse_flat_image(
    shape_xyz: Sequence[int], spacing: Sequence[float], patch_size: Sequence[int], case: str | None
) -> None:
    """Refuse a 2D image for a model of volumes: it has no thickness, so it cannot be resampled to the model's spacing.

    A volume of one slice has a thickness and can be predicted.

    Raises:
        PredictionError: If it is one.
    """
    flat = shape_xyz[0] == 1 and spacing[0] >= _NO_THICKNESS * max(spacing[1:]) * (1 - 1e-6)
    if flat and len(patch_size) == 3:
        raise PredictionError(
            f"The image{f' of case {case}' if case else ''} is 2D, but the model predicts volumes.",
            found=f"the shape {tuple(shape_xyz)} and no slice thickness",
            expected="a 3D image",
            remedy="predict it with a 2d configuration, or give its file three dimensions and a slice thickness",
        )
