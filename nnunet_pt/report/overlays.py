"""Pictures of cases with their annotation on top, for looking through a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import DatasetError, ImageError, NnunetError, UsageError
from nnunet_pt.core.files import atomic_path, make_folder
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure, CaseTask, map_cases
from nnunet_pt.dataset.cases import Case, resolve_dataset_name, training_cases
from nnunet_pt.dataset.description import FILE_NAME, DatasetDescription
from nnunet_pt.dataset.images.base import FloatImage
from nnunet_pt.dataset.images.registry import choose_by_examples, reader_writer_by_name
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.store import case_files, load_case, open_array

DEFAULT_PROCESSES = 8
DEFAULT_INTENSITY = 0.6
_BYTES_PER_VOXEL = 16
_MAX_LABEL = 65535

# The colours of nnU-Net's overlays; the smallest value of a slice, usually background, is not coloured.
COLOURS = np.array(
    [
        (0, 0, 0), (67, 99, 216), (245, 130, 49), (60, 180, 75), (230, 25, 75), (145, 30, 180), (255, 225, 25),
        (191, 239, 69), (66, 212, 244), (240, 50, 230), (0, 0, 117), (154, 99, 36), (128, 128, 0), (128, 0, 0),
        (70, 153, 144),
    ],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayRequest:
    """Draw one slice of every training case.

    Attributes:
        dataset: Number or name.
        output: Folder for ``<case>.png``.
        use_raw: Draw raw images instead of preprocessed ones.
        plans_name: Plans of the preprocessed images.
        configuration: Their configuration; 3d_fullres if the plans have it, else 2d, by default.
        channel: Which channel to draw, from 0.
        intensity: How strong the colours are.
        num_processes: Worker processes; None for the default, at most 8.
        progress: Show the progress.
    """

    dataset: int | str
    output: Path
    use_raw: bool = False
    plans_name: str = "nnUNetPlans"
    configuration: str | None = None
    channel: int = 0
    intensity: float = DEFAULT_INTENSITY
    num_processes: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayResult:
    """What was drawn.

    Attributes:
        folder: Where the pictures are.
        cases: The cases drawn.
        failures: Cases that could not be drawn.
    """

    folder: Path
    cases: tuple[str, ...]
    failures: tuple[CaseFailure, ...]

    def summary(self) -> str:
        """How many pictures are where."""
        return f"{len(self.cases)} overlays in {self.folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """One case to draw: raw files and their reader, or a case of a preprocessed folder."""

    name: str
    request: OverlayRequest
    raw: Case | None = None
    reader_name: str = ""
    preprocessed: Path = Path()


def plot_overlays(request: OverlayRequest, workspace: Workspace) -> OverlayResult:
    """Draw the slice of every case that shows most of its classes; a case that fails does not stop the others.

    Raises:
        UsageError: If there is no such channel.
        NnunetError: If dataset, plans or preprocessed cases are missing.
    """
    dataset = resolve_dataset_name(request.dataset, workspace)
    drawings = (
        _raw_cases(request, workspace.raw / dataset)
        if request.use_raw
        else _preprocessed_cases(request, workspace.preprocessed / dataset)
    )
    make_folder(request.output)
    processes = request.num_processes
    done = map_cases(
        _draw,
        [CaseTask(case=d.name, argument=d, ram_bytes=_estimate_ram(d)) for d in drawings],
        num_workers=default_num_processes(DEFAULT_PROCESSES) if processes is None else processes,
        description="Drawing overlays",
        on_failure="continue",
        progress=request.progress,
    )
    return OverlayResult(folder=request.output, cases=tuple(done.results), failures=done.failures)


def _raw_cases(request: OverlayRequest, folder: Path) -> list[_Drawing]:
    description = DatasetDescription.load(folder / FILE_NAME)
    _check_channel(request, description)
    cases = training_cases(folder, description)
    reader = choose_by_examples(description, [case.images[0] for case in cases])
    return [_Drawing(name=c.identifier, request=request, raw=c, reader_name=reader.name) for c in cases]


def _preprocessed_cases(request: OverlayRequest, folder: Path) -> list[_Drawing]:
    _check_channel(request, DatasetDescription.load(folder / FILE_NAME))
    plans = Plans.load(folder / f"{request.plans_name}.json")
    name = request.configuration or ("3d_fullres" if "3d_fullres" in plans.configuration_names else "2d")
    data = folder / plans.configuration(name).data_identifier
    cases = sorted(p.stem for p in data.glob("*.pkl") if not p.name.startswith("."))
    if not cases:
        raise DatasetError(
            f"There are no preprocessed cases in {data}.",
            remedy=f"run nnUNetv2_preprocess with -c {name}, or draw the raw images with --use_raw",
        )
    return [_Drawing(name=case, request=request, preprocessed=data) for case in cases]


def _check_channel(request: OverlayRequest, description: DatasetDescription) -> None:
    if not 0 <= request.channel < description.num_channels:
        raise UsageError(
            f"There is no channel {request.channel}.", expected=f"a number from 0 to {description.num_channels - 1}"
        )


def _estimate_ram(drawing: _Drawing) -> int:
    """Bytes that a case needs; 0 for one that drawing itself will complain about."""
    try:
        if drawing.raw is None:
            shape = open_array(drawing.preprocessed / case_files(drawing.name)[0]).shape
            return int(np.prod(shape, dtype=np.int64)) * _BYTES_PER_VOXEL
        header = reader_writer_by_name(drawing.reader_name).read_header(drawing.raw.images[0])
        return header.num_voxels * _BYTES_PER_VOXEL
    except NnunetError:
        return 0


def _draw(drawing: _Drawing) -> None:
    from skimage.io import imsave

    image, segmentation = _load(drawing)
    if image.shape != segmentation.shape:
        raise ImageError(
            f"Image and segmentation of the case {drawing.name} do not have the same shape.",
            found=f"{image.shape} and {segmentation.shape}",
            remedy="resample one of them onto the grid of the other",
        )
    index = most_informative_slice(segmentation)
    picture = overlay(image[index], segmentation[index], drawing.request.intensity)
    opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
    with atomic_path(drawing.request.output / f"{drawing.name}.png") as temporary:
        imsave(str(temporary), np.concatenate([picture, opaque], axis=2), check_contrast=False)


def _load(drawing: _Drawing) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """One channel and the labels of a case, (x, y, z) each."""
    channel = drawing.request.channel
    if drawing.raw is None:
        stored, stored_labels, _ = load_case(drawing.preprocessed, drawing.name)
        return stored[channel], _labels(stored_labels[0], drawing.name)
    reader, files = reader_writer_by_name(drawing.reader_name), drawing.raw.images
    image, _ = reader.read_images([files[channel]] if len(files) > 1 else files)
    if drawing.raw.label is None:
        raise DatasetError(f"The case {drawing.name} has no segmentation.")
    segmentation, _ = reader.read_segmentation(drawing.raw.label)
    return image[channel if len(files) == 1 else 0], _labels(segmentation[0], drawing.name)


def _labels(segmentation_xyz: NDArray[Any], case: str) -> NDArray[np.int32]:
    """Labels as whole numbers; what lies outside of the body (-1 after preprocessing) is background."""
    labels: NDArray[np.int32] = np.nan_to_num(segmentation_xyz).clip(0).astype(np.int32)
    if labels.max(initial=0) > _MAX_LABEL:
        raise ImageError(f"The segmentation of the case {case} does not hold labels.", found=f"value {labels.max()}")
    return labels


def most_informative_slice(segmentation_xyz: NDArray[np.integer[Any]]) -> int:
    """The slice nnU-Net shows: the one with most of the voxels of all classes together.

    Label by label in ascending order, the voxels of a label in each slice are added to the slices' scores, divided by
    the number of all of them plus the sum of the scores so far; the latter is why small structures count for less.

    Args:
        segmentation_xyz: Labels, none below 0.

    Returns:
        Index along the first axis; 0 if there is nothing but background.
    """
    size = int(segmentation_xyz.max(initial=0)) + 1
    counts = np.stack([np.bincount(s.reshape(-1), minlength=size) for s in segmentation_xyz], axis=1)
    scores = np.zeros(len(segmentation_xyz))
    for in_slices in counts[1:]:
        if number := in_slices.sum():
            scores = scores + in_slices / (number + scores.sum())
    return int(scores.argmax())


def overlay(
    image_yz: NDArray[Any], segmentation_yz: NDArray[Any], intensity: float = DEFAULT_INTENSITY
) -> NDArray[np.uint8]:
    """Colour a slice by its labels.

    Args:
        image_yz: Grey values; they are stretched from their minimum to their maximum.
        segmentation_yz: Labels.
        intensity: Factor for the colours that are added to the grey values. The result is scaled to 0...255.

    Returns:
        (y, z, 3).
    """
    image = image_yz.astype(np.float32)
    image -= image.min()
    image = image / (image.max() or 1) * np.float32(255)
    picture = np.repeat(image[..., None], 3, axis=2)
    for rank, value in enumerate(np.unique(segmentation_yz)):
        picture[segmentation_yz == value] += np.float32(intensity) * _colour(rank)
    return (picture / (picture.max() or 1) * np.float32(255)).astype(np.uint8)


def _colour(rank: int) -> FloatImage:
    """The colours one after the other, again and again; only the first value is without."""
    colour: FloatImage = COLOURS[rank and 1 + (rank - 1) % (len(COLOURS) - 1)]
    return colour
