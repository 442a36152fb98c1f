"""What the dataset report wants to know of each case, measured in worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.case_check import count_values
from nnunet_pt.dataset.cases import Case
from nnunet_pt.dataset.images.hidden_damage import nonfinite_in_nifti
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.orientation import orientation_of
from nnunet_pt.report.slices import Rgb, class_map, class_members, intensity_window, spread_sample, three_planes

PERCENTILES: Final = (0.5, 25.0, 50.0, 75.0, 99.5)
BYTES_PER_VOXEL: Final = 24  # the image and a copy as float32, its labels, masks, and what image libraries need
ZERO_BACKGROUND: Final = 0.2  # share of voxels that are exactly 0 from which on they are shown black
_RGB: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseToMeasure:
    """What a worker needs.

    Attributes:
        case: The files.
        reader_name: How to read them.
        labels: Meaning of the label values.
        channel_names: Of the dataset.
    """

    case: Case
    reader_name: str
    labels: Labels
    channel_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFacts:
    """Intensities of one channel of a case.

    Attributes:
        minimum: Of the whole image; nan if nothing is finite.
        maximum: Of the whole image.
        foreground: :data:`PERCENTILES` of annotated foreground; nan without foreground.
        nonfinite: Voxels that are NaN or infinite.
    """

    minimum: float
    maximum: float
    foreground: tuple[float, ...]
    nonfinite: int

    @property
    def median(self) -> float:
        """Median of the foreground."""
        return self.foreground[2]

    @property
    def spread(self) -> float:
        """Interquartile range of the foreground."""
        return self.foreground[3] - self.foreground[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What was measured of a case.

    Attributes:
        case: Its identifier.
        shape: Voxels along the array axes.
        spacing: Along the array axes, mm.
        orientation: How the image lies, three letters; None if the files do not say.
        channels: One for each channel.
        voxels: Label value -> number of voxels.
        findings: What is wrong with the files, in words.
    """

    case: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str | None
    channels: tuple[ChannelFacts, ...]
    voxels: Mapping[float, int]
    findings: tuple[str, ...] = ()

    @property
    def is_2d(self) -> bool:
        """Whether there is only one slice."""
        return self.shape[0] == 1

    @property
    def extent(self) -> tuple[float, ...]:
        """Size along the array axes, mm."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def voxel_size(self) -> float:
        """Volume of a voxel, mm³; of a single slice the area of a pixel, mm²."""
        return float(np.prod(self.spacing[1:] if self.is_2d else self.spacing))

    def class_voxels(self, members: Sequence[int]) -> int:
        """Voxels of a label or region."""
        return sum(self.voxels.get(value, 0) for value in members)


def measure_case(job: CaseToMeasure) -> CaseFacts:
    """Measure a case, holding one channel at a time.

    Raises:
        ImageError: If a file cannot be read.
    """
    case, reader = job.case, reader_writer_by_name(job.reader_name)
    segmentation, label_properties = _segmentation(job)
    foreground = _foreground(segmentation, job.labels)
    findings = _label_findings(segmentation, job.labels)
    channels: list[ChannelFacts] = []
    shape, properties = segmentation.shape, label_properties
    for number, path in enumerate(case.images):
        image, found = reader.read_images([path])
        if number == 0:
            shape, properties = image.shape[1:], found
        if number == 0 and image.shape[1:] != foreground.shape:
            findings.append(f"the image has the shape {image.shape[1:]}, its labels {foreground.shape}")
        mask = foreground if image.shape[1:] == foreground.shape else None
        measured = [_channel_facts(channel, mask) for channel in image]
        del image
        # Some readers turn NaN into 0, so that only the file itself shows it
        if count := sum(nonfinite_in_nifti(path)) or sum(facts.nonfinite for facts in measured):
            findings.append(f"{count:,} voxels of {path.name} are NaN or infinite")
        channels += measured
    names = job.channel_names
    if len(channels) != len(names):
        findings.append(f"{counted(len(channels), 'channel')} instead of {len(names)}")
    for name, facts in zip(names, channels, strict=False):
        if facts.minimum == facts.maximum:
            findings.append(f"{name} is {facts.minimum:g} everywhere")
    values, counts = count_values(segmentation)
    return CaseFacts(
        case=case.identifier,
        shape=tuple(map(int, shape)),
        spacing=tuple(map(float, properties["spacing"])),
        orientation=orientation_of(properties),
        channels=tuple(channels),
        voxels={float(v): int(n) for v, n in zip(values, counts, strict=True)},
        findings=tuple(findings),
    )


def _segmentation(job: CaseToMeasure) -> tuple[NDArray[np.float32], dict[str, Any]]:
    if job.case.label is None:
        raise ImageError(f"The case {job.case.identifier} has no labels.", remedy="add them, or move the case away")
    segmentation, properties = reader_writer_by_name(job.reader_name).read_segmentation(job.case.label)
    return segmentation[0], properties


def _foreground(segmentation_xyz: NDArray[np.float32], labels: Labels) -> NDArray[np.bool_]:
    members = class_map(segmentation_xyz, labels)
    return (members > 0) & (members <= len(class_members(labels)))


def _label_findings(segmentation_xyz: NDArray[np.float32], labels: Labels) -> list[str]:
    values, counts = count_values(segmentation_xyz)
    unknown = [f"{v:g} ({n:,} voxels)" for v, n in zip(values, counts, strict=True) if v not in labels.file_values]
    findings = [f"labels that dataset.json does not name: {', '.join(unknown[:5])}"] if unknown else []
    if not any(v in labels.foreground_labels for v in values):
        findings.append("nothing is annotated: there is no foreground")
    return findings


def _channel_facts(channel_xyz: NDArray[np.float32], foreground_xyz: NDArray[np.bool_] | None) -> ChannelFacts:
    low, high, nonfinite = float(channel_xyz.min()), float(channel_xyz.max()), 0
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = channel_xyz[np.isfinite(channel_xyz)]
        nonfinite = int(channel_xyz.size - finite.size)
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    values = channel_xyz[foreground_xyz] if foreground_xyz is not None else channel_xyz[:0]
    values = spread_sample(values)
    values = values[np.isfinite(values)] if nonfinite else values
    percentiles = np.percentile(values, PERCENTILES) if values.size else np.full(len(PERCENTILES), np.nan)
    return ChannelFacts(minimum=low, maximum=high, foreground=tuple(map(float, percentiles)), nonfinite=nonfinite)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseToDraw:
    """What a worker needs to draw a case.

    Attributes:
        measure: The case.
        channel: Which channel to show.
    """

    measure: CaseToMeasure
    channel: int


def draw_case(job: CaseToDraw) -> Rgb:
    """The middle slices of a case with its labels in colour.

    2D images of three channels in one file are shown in their own colours.

    Returns:
        (height, width, 3).

    Raises:
        ImageError: If a file cannot be read, or image and labels do not have the same shape.
    """
    case, labels = job.measure.case, job.measure.labels
    reader = reader_writer_by_name(job.measure.reader_name)
    several_files = len(case.images) > 1
    image, properties = reader.read_images([case.images[job.channel]] if several_files else case.images)
    segmentation, _ = _segmentation(job.measure)
    if image.shape[1:] != segmentation.shape:
        raise ImageError(
            f"Image and labels of the case {case.identifier} do not have the same shape.",
            found=f"{image.shape[1:]} and {segmentation.shape}",
            remedy="resample one of them onto the grid of the other",
        )
    if len(image) == _RGB and image.shape[1] == 1:
        shown, window = image, (0.0, float(max(image.max(), 1)))
    else:
        index = 0 if several_files else min(job.channel, len(image) - 1)
        shown = image[index : index + 1]
        window = intensity_window(shown[0], job.measure.channel_names[job.channel])
        if window[0] < 0 and np.mean(spread_sample(shown) == 0) > ZERO_BACKGROUND:
            shown = np.where(shown == 0, np.float32(window[0]), shown)
    return three_planes(
        shown,
        class_map(segmentation, labels),
        list(map(float, properties["spacing"])),
        window,
        num_classes=len(class_members(labels)),
        orientation=orientation_of(properties) if image.shape[1] > 1 else None,
    )
