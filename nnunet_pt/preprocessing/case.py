"""One case, from its raw files to arrays a network can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, NnunetError
from nnunet_pt.core.files import digest_of
from nnunet_pt.dataset.cases import Case
from nnunet_pt.dataset.images.base import ImageHeader
from nnunet_pt.dataset.images.hidden_damage import nonfinite_in_nifti
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.fingerprint import IntensityProperties
from nnunet_pt.plans.plans import Configuration, Plans
from nnunet_pt.preprocessing.class_locations import sample_class_locations
from nnunet_pt.preprocessing.crop import crop_to_nonzero
from nnunet_pt.preprocessing.manifest import CaseRecord, FileStamp, stamp_inputs
from nnunet_pt.preprocessing.normalize import normalize
from nnunet_pt.preprocessing.resample import RESAMPLERS, compute_new_shape
from nnunet_pt.preprocessing.store import case_files, save_case

# Change it when the same settings would give another result than before
RESULT_VERSION = 1

WORKER_RAM = 250 << 20  # bytes that interpreter and libraries of a worker take

# Header spacings of an image and its label may differ in the last digits some tools write
SPACING_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSettings:
    """Everything besides the raw files that determines a preprocessed case.

    Attributes:
        reader_name: Name of the reader/writer.
        transpose_forward: Axis permutation.
        configuration: The configuration of the plans.
        intensities: Foreground intensities of each channel, from the plans.
        labels: The labels of the dataset.
        channel_names: Channels of the dataset, for messages.
    """

    reader_name: str
    transpose_forward: tuple[int, ...]
    configuration: Configuration
    intensities: Mapping[str, IntensityProperties]
    labels: Labels
    channel_names: tuple[str, ...]

    @classmethod
    def of(cls, plans: Plans, configuration_name: str, labels: Labels, channel_names: tuple[str, ...]) -> CaseSettings:
        """The settings for one configuration of the plans."""
        return cls(
            reader_name=plans.image_reader_writer,
            transpose_forward=plans.transpose_forward,
            configuration=plans.configuration(configuration_name),
            intensities=plans.foreground_intensity_properties_per_channel,
            labels=labels,
            channel_names=channel_names,
        )

    def digest(self) -> str:
        """A digest that changes when the preprocessed files would."""
        c = self.configuration
        return digest_of(
            {
                "version": RESULT_VERSION,
                "reader": self.reader_name,
                "transpose": self.transpose_forward,
                "preprocessor": c.preprocessor_name,
                "spacing": [None if s is None else float(s) for s in c.spacing],  # 1 and 1.0 are the same
                "patch_size": c.patch_size,
                "normalization": [c.normalization_schemes, c.use_mask_for_norm],
                "resampling": [[r.name, dict(r.kwargs)] for r in (c.resampling_data, c.resampling_seg)],
                "intensities": {k: v.to_json() for k, v in self.intensities.items()},
                "labels": [str(k) for k in self.labels.class_location_keys],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseJob:
    """What a worker needs to preprocess one case."""

    case: Case
    settings: CaseSettings
    folder: Path
    threads: int


def preprocess_case(job: CaseJob) -> CaseRecord:
    """Read, preprocess and write one case.

    Returns:
        The record for the manifest.

    Raises:
        ImageError: If a file cannot be read, or the files of the case do not fit together.
        StorageError: If the result cannot be written.
    """
    case, settings = job.case, job.settings
    stamps = stamp_inputs(case.files)
    image, segmentation, properties = read_case(case, settings.reader_name, settings.labels)
    if len(image) != len(settings.channel_names):
        raise channel_error(case, len(image), len(settings.channel_names))
    image, segmentation, properties = preprocess_arrays(image, segmentation, properties, settings, threads=job.threads)
    save_case(job.folder, case.identifier, image, segmentation, properties, settings.configuration.patch_size)
    return CaseRecord(
        case=case.identifier,
        settings=settings.digest(),
        inputs=stamps,
        outputs={name: FileStamp.of(job.folder / name) for name in case_files(case.identifier)},
    )


def channel_error(case: Case, found: int, expected: int) -> ImageError:
    """The complaint about a case with too few or too many channels."""
    return ImageError(
        f"Case {case.identifier} has another number of channels than the dataset.",
        found=f"{found} in {', '.join(p.name for p in case.images)}",
        expected=f"{expected}, as many as channel_names in dataset.json",
        remedy="correct channel_names in dataset.json, or the files of the case",
    )


def readable_header(case: Case, reader_name: str) -> ImageHeader | None:
    """The header of a case's first image, for estimates; None if it is damaged, as reading the case will report."""
    try:
        return reader_writer_by_name(reader_name).read_header(case.images[0])
    except NnunetError:
        return None


def read_case(
    case: Case, reader_name: str, labels: Labels
) -> tuple[NDArray[np.float32], NDArray[Any] | None, dict[str, Any]]:
    """Read image and label of a case and check that they fit together.

    Args:
        case: The files.
        reader_name: Name of the reader/writer.
        labels: Labels that may occur.

    Returns:
        Image (channels, x, y, z), label (1, x, y, z) as int16 or None if the case has none, properties of the image.

    Raises:
        ImageError: For files that cannot be read, values that are not finite, shapes or spacings that differ between
            image and label, label values that ``dataset.json`` does not know.
    """
    reader = reader_writer_by_name(reader_name)
    image, properties = reader.read_images(case.images)
    check_finite(image, case)
    if case.label is None:
        return image, None, properties
    label, label_properties = reader.read_segmentation(case.label)
    if label.shape[1:] != image.shape[1:]:
        raise ImageError(
            f"The label of case {case.identifier} has another shape than its image.",
            found=f"{label.shape[1:]} in {case.label}",
            expected=f"{image.shape[1:]} as in {case.images[0]}",
            remedy="resample the label to the image, or leave the case out",
        )
    if not np.allclose(label_properties["spacing"], properties["spacing"], rtol=SPACING_TOLERANCE, atol=0):
        raise ImageError(
            f"The label of case {case.identifier} has another spacing than its image.",
            found=f"{label_properties['spacing']} mm in {case.label}",
            expected=f"{properties['spacing']} mm as in {case.images[0]}",
            remedy="correct the header that is wrong",
        )
    return image, _integer_labels(label, case, labels), properties


def check_finite(image: NDArray[np.float32], case: Case) -> None:
    """Refuse an image with NaN or infinite values.

    Raises:
        ImageError: Naming the file and how many there are.
    """
    for channel, values in enumerate(image):
        if not _all_finite(values):
            path = case.images[min(channel, len(case.images) - 1)]
            raise _not_finite(path, case, int(np.isnan(values).sum()), int(np.isinf(values).sum()))


def _all_finite(values: NDArray[np.float32]) -> bool:
    with np.errstate(invalid="ignore"):  # of opposite infinities
        return bool(np.isfinite(values.sum(dtype=np.float64)))  # float64 holds the sum of any number of float32


def check_hidden_nonfinite(image_cxyz: NDArray[np.float32], case: Case) -> None:
    """Find NaN and infinite values that the reader has turned into 0, as ITK does with NIfTI files.

    Reads only files whose voxels may be affected.

    Raises:
        ImageError: If there are any.
    """
    for channel, path in enumerate(case.images):
        values = image_cxyz[channel] if len(case.images) == len(image_cxyz) else image_cxyz
        if values.all():
            continue
        _refuse_nonfinite(path, case)
    if case.label is not None:
        _refuse_nonfinite(case.label, case)


def _refuse_nonfinite(path: Path, case: Case) -> None:
    num_nan, num_inf = nonfinite_in_nifti(path)
    if num_nan or num_inf:
        raise _not_finite(path, case, num_nan, num_inf)


def _not_finite(path: Path, case: Case, num_nan: int, num_inf: int) -> ImageError:
    return ImageError(
        f"The file {path} of case {case.identifier} holds values that are not numbers.",
        found=f"{num_nan} NaN and {num_inf} infinite values",
        expected="finite values only",
        remedy="replace them (for example by 0 or the minimum) or leave the case out",
    )


def _integer_labels(label: NDArray[np.float32], case: Case, labels: Labels) -> NDArray[Any]:
    """Labels as int16, the type in which they are stored, after a check of their values."""
    allowed = set(labels.file_values)
    low, high = (float(label.min()), float(label.max())) if _all_finite(label) else (-np.inf, np.inf)
    integers = label.astype(np.int16) if max(-low, high) <= np.iinfo(np.int16).max else None
    if integers is None or not np.array_equal(integers, label):
        unexpected: list[Any] = sorted(set(np.unique(label).tolist()) - allowed)
    elif low < 0 or high > max(allowed):
        unexpected = sorted(set(np.unique(integers).tolist()) - allowed)
    else:
        unexpected = sorted(set(np.flatnonzero(np.bincount(integers.ravel())).tolist()) - allowed)
    if unexpected or integers is None:
        shown = ", ".join(f"{v:g}" for v in unexpected[:10]) + (" ..." if len(unexpected) > 10 else "")
        raise ImageError(
            f"The label {case.label} of case {case.identifier} holds values that dataset.json does not list.",
            found=shown,
            expected=f"only {', '.join(map(str, sorted(allowed)))}",
            remedy="correct the file, or add the labels to dataset.json",
        )
    return integers


def preprocess_arrays(
    image_cxyz: NDArray[np.float32],
    segmentation_1xyz: NDArray[Any] | None,
    properties: Mapping[str, Any],
    settings: CaseSettings,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[Any], dict[str, Any]]:
    """Transpose, crop, normalise and resample a case.

    Args:
        image_cxyz: Image as the reader gives it; may be overwritten.
        segmentation_1xyz: Label of an integer type, or None.
        properties: Properties from the reader, with ``spacing`` in mm.
        settings: What to do.
        threads: Number of threads.

    Returns:
        Image (channels, x, y, z); segmentation (1, x, y, z) with -1 outside the nonzero mask, int8 or int16;
        properties with what export needs to undo this and, if there is a label, where to find each class.
    """
    configuration = settings.configuration
    forward = settings.transpose_forward
    axes = (0, *(a + 1 for a in forward))
    image_cxyz = image_cxyz.transpose(axes)
    spacing = [float(properties["spacing"][a]) for a in forward]
    has_label = segmentation_1xyz is not None
    if segmentation_1xyz is not None:
        segmentation_1xyz = segmentation_1xyz.transpose(axes)
    result = dict(properties)
    result["shape_before_cropping"] = tuple(int(n) for n in image_cxyz.shape[1:])
    image_cxyz, segmentation, bounds = crop_to_nonzero(image_cxyz, segmentation_1xyz)
    result["bbox_used_for_cropping"] = [list(b) for b in bounds]
    result["shape_after_cropping_and_before_resampling"] = tuple(int(n) for n in image_cxyz.shape[1:])

    image_cxyz = np.ascontiguousarray(image_cxyz, dtype=np.float32)
    normalize(
        image_cxyz,
        segmentation,
        schemes=configuration.normalization_schemes,
        use_mask=configuration.use_mask_for_norm,
        properties=settings.intensities,
    )
    target = configuration.spacing_for(spacing)
    new_shape = compute_new_shape(image_cxyz.shape[1:], spacing, target)
    for_data, for_seg = configuration.resampling_data, configuration.resampling_seg
    image_cxyz = RESAMPLERS[for_data.name](image_cxyz, new_shape, spacing, target, threads=threads, **for_data.kwargs)
    segmentation = RESAMPLERS[for_seg.name](segmentation, new_shape, spacing, target, threads=threads, **for_seg.kwargs)
    if has_label:
        result["class_locations"] = sample_class_locations(segmentation, settings.labels.class_location_keys)
    return image_cxyz, segmentation.astype(np.int16 if segmentation.max() > 127 else np.int8), result
