"""Slices of validation cases: the image, and on top of it the annotation and the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, NnunetError, StorageError
from nnunet_pt.dataset.cases import discover_training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.registry import choose_reader_writer, reader_writer_by_name
from nnunet_pt.inference.orientation import orientation_of
from nnunet_pt.preprocessing.store import GT_FOLDER, case_files, load_case, load_properties, open_array
from nnunet_pt.report.training_record import TrainingRecord
from nnunet_pt.report.training_validation import ValidatedCase

THICK_SLICES: Final = 1.5  # slices are cut across an axis whose spacing is larger than the first one's by this factor
UPRIGHT: Final = ("SI", "AP", "RL")  # from top to bottom or from left to right: from the first to the second letter
LABELS_FOLDER: Final = "labelsTr"
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSlice:
    """One slice of a case; arrays are (rows, columns).

    Attributes:
        image: Grey values.
        annotation: Labels.
        prediction: Labels.
        spacing_mm: Of rows and columns.
        index: Number of the slice.
        number: How many slices there are.
        channel: Channel of the image.
    """

    image: NDArray[np.float32]
    annotation: NDArray[np.int32]
    prediction: NDArray[np.int32]
    spacing_mm: tuple[float, float]
    index: int
    number: int
    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseImages:
    """Where the images and annotations of the validation cases are.

    Attributes:
        record: The training.
        preprocessed: Folder of the preprocessed dataset; None if it was not found.
        data: Folder with the preprocessed cases of the configuration; None if it was not found.
        raw: Folder of the raw dataset; None if it is not to be used.
        raw_images: The raw files of each case.
    """

    record: TrainingRecord
    preprocessed: Path | None
    data: Path | None
    raw: Path | None
    raw_images: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    @classmethod
    def find(cls, record: TrainingRecord, preprocessed: Path | None, raw: Path | None) -> CaseImages:
        """Look where the user says, then where the training itself has found its data.

        Args:
            record: The training.
            preprocessed: nnUNet_preprocessed, or the folder of the dataset in it.
            raw: nnUNet_raw, or the folder of the dataset in it.
        """
        recorded = record.debug.get("preprocessed_dataset_folder")
        references = [] if record.validation is None else [c.reference.parent for c in record.validation.cases[:1]]
        datasets = [p for given in (preprocessed,) if given is not None for p in (given / record.dataset, given)]
        datasets += [folder.parent for folder in references if folder.name == GT_FOLDER]
        datasets += [Path(recorded).parent] if recorded else []
        dataset = next((p for p in datasets if (p / GT_FOLDER).is_dir() or (p / DATASET_FILE).is_file()), None)
        configuration = record.configuration
        folders = [dataset / configuration.data_identifier] if dataset and configuration else []
        folders += [Path(recorded)] if recorded else []
        raws = [] if raw is None else [raw / record.dataset, raw]
        raw_dataset = next((p for p in raws if (p / DATASET_FILE).is_file()), None)
        return cls(
            record=record,
            preprocessed=dataset,
            data=next((p for p in folders if p.is_dir()), None),
            raw=raw_dataset,
            raw_images={} if raw_dataset is None else _raw_images(raw_dataset),
        )

    def slice_of(self, case: ValidatedCase) -> CaseSlice:
        """The slice of a case in which annotation and prediction differ most.

        Raises:
            NnunetError: If files are missing, damaged or do not fit each other.
        """
        files = [self._prediction(case), self._annotation(case)]
        reader = self._reader(files[0])
        (prediction, properties), (annotation, _) = (reader.read_segmentation(path) for path in files)
        labels, truth = (_labels(image[0], path) for image, path in zip((prediction, annotation), files, strict=True))
        if labels.shape != truth.shape:
            raise ImageError(
                f"Annotation and prediction of {case.case} do not have the same shape.",
                found=f"{truth.shape} and {labels.shape}",
            )
        spacing = tuple(float(s) for s in properties["spacing"])
        orientation = orientation_of(properties)
        axis = _slice_axis(spacing, labels.shape, orientation)
        index = _telling_slice(truth, labels, axis)
        here, there = _slice(truth, index, axis), _slice(labels, index, axis)
        channel, image = self._image(case.case, axis, index, here)
        if image.shape != here.shape:
            raise ImageError(
                f"Image and annotation of {case.case} do not have the same shape.",
                found=f"{image.shape} and {here.shape} in a slice",
            )
        sides = [a for a in range(labels.ndim) if a != axis]
        letters = None if orientation is None else "".join(orientation[a] for a in sides)
        rows, columns = (spacing[a] for a in (sides if not _is_turned(letters) else sides[::-1]))
        return CaseSlice(
            image=_upright(image, letters), annotation=_upright(here, letters), prediction=_upright(there, letters),
            spacing_mm=(rows, columns), index=index, number=labels.shape[axis], channel=channel,
        )  # fmt: skip

    def _reader(self, example: Path) -> ImageReaderWriter:
        if self.record.plans is not None:
            return reader_writer_by_name(self.record.plans.image_reader_writer)
        ending = "".join(example.suffixes[-2:]) if example.suffix == ".gz" else example.suffix
        return choose_reader_writer(ending, example)

    def _prediction(self, case: ValidatedCase) -> Path:
        return _existing(
            [self.record.folder / "validation" / case.prediction.name, case.prediction], "prediction", case
        )

    def _annotation(self, case: ValidatedCase) -> Path:
        places = [case.reference]
        places += [] if self.preprocessed is None else [self.preprocessed / GT_FOLDER / case.reference.name]
        places += [] if self.raw is None else [self.raw / LABELS_FOLDER / case.reference.name]
        return _existing(places, "annotation", case)

    def _image(
        self, case: str, axis: int, index: int, annotation: NDArray[np.int32]
    ) -> tuple[int, NDArray[np.float32]]:
        """The channel that shows the annotated structures best, and its slice."""
        if case in self.raw_images:
            channels = self._raw_slice(case, axis, index)
        elif self.data is not None and self.record.plans is not None:
            channels = _preprocessed_slice(self.data, case, axis, index, self.record.plans.transpose_forward)
        else:
            raise StorageError(
                f"The image of {case} was not found.",
                expected="the preprocessed cases of the configuration, or the raw dataset",
                remedy="set nnUNet_preprocessed or nnUNet_raw",
            )
        contrasts = [_contrast(channel, annotation > 0) for channel in channels]
        best = int(np.argmax(contrasts))
        return best, channels[best]

    def _raw_slice(self, case: str, axis: int, index: int) -> NDArray[np.float32]:
        files = self.raw_images[case]
        image, _ = self._reader(files[0]).read_images(files)
        return _slice(image, index, axis + 1)


def _raw_images(dataset: Path) -> dict[str, tuple[Path, ...]]:
    try:
        cases = discover_training_cases(dataset, DatasetDescription.load(dataset / DATASET_FILE)).cases
    except NnunetError:  # the preprocessed images may be there
        return {}
    return {case.identifier: case.images for case in cases}


def _slice(array: NDArray[_T], index: int, axis: int) -> NDArray[_T]:
    return np.asarray(array[(slice(None),) * axis + (index,)])


def _existing(places: Iterable[Path], what: str, case: ValidatedCase) -> Path:
    candidates = list(dict.fromkeys(places))
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise StorageError(
            f"The {what} of {case.case} was not found.", expected=" or ".join(str(p) for p in candidates)
        )
    return found


def _labels(image_xyz: NDArray[np.float32], path: Path) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = np.nan_to_num(image_xyz).clip(0).astype(np.int32)
    if labels.max(initial=0) > np.iinfo(np.uint16).max:
        raise ImageError(f"{path} does not hold labels.", found=f"value {labels.max()}")
    return labels


def _slice_axis(spacing: Sequence[float], shape: Sequence[int], orientation: str | None) -> int:
    """The axis across which slices are cut: from foot to head, unless slices are thick along another."""
    usual = 0 if orientation is None else next(a for a, letter in enumerate(orientation) if letter in UPRIGHT[0])
    axis = int(np.argmax(spacing))
    is_thick = spacing[axis] > THICK_SLICES * spacing[usual] and min(shape[axis], shape[usual]) > 1
    return axis if is_thick else usual


def _is_turned(letters: str | None) -> bool:
    """Whether rows and columns of a slice have to be exchanged so that it is seen upright."""
    places = [i for letter in letters or "" for i, pair in enumerate(UPRIGHT) if letter in pair]
    return places != sorted(places)


def _upright(slice_2d: NDArray[_T], letters: str | None) -> NDArray[_T]:
    """A slice as radiologists look at it; without an orientation as it is stored.

    Args:
        slice_2d: (rows, columns).
        letters: The directions in which rows and columns go on.
    """
    if letters is None:
        return slice_2d
    seconds = {pair[1] for pair in UPRIGHT}
    flipped = slice_2d[tuple(slice(None, None, 1 if letter in seconds else -1) for letter in letters)]
    return flipped.T if _is_turned(letters) else flipped


def _telling_slice(annotation: NDArray[np.int32], prediction: NDArray[np.int32], axis: int) -> int:
    """The slice with most wrong voxels; if there are none, with most of the structures."""
    others = tuple(a for a in range(annotation.ndim) if a != axis)
    wrong = np.asarray((annotation != prediction).sum(others))
    return int((wrong if wrong.any() else np.asarray((annotation > 0).sum(others))).argmax())


def _contrast(image: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """How much the structures differ from what is around them, in standard deviations."""
    spread = float(image.std())
    if not inside.any() or inside.all() or spread == 0:
        return 0.0
    return abs(float(image[inside].mean()) - float(image[~inside].mean())) / spread


def _preprocessed_slice(
    folder: Path, case: str, axis: int, index: int, transpose_forward: Sequence[int]
) -> NDArray[np.float32]:
    """A slice (channels, rows, columns) of the original grid, from a case that was transposed, cropped and resampled.

    Only this slice is read. What was cropped away is shown as the smallest value.
    """
    from skimage.transform import resize

    properties = load_properties(folder / case_files(case)[2])
    try:
        shape = [int(n) for n in properties["shape_before_cropping"]]
        box = [(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"The properties of {case} in {folder} do not say how it was cropped.") from error
    along = list(transpose_forward).index(axis)
    rest = [a for a in range(len(shape)) if a != along]
    low, high = box[along]
    stored = open_array(folder / case_files(case)[0]) if (folder / case_files(case)[0]).is_file() else None
    array = load_case(folder, case)[0] if stored is None else stored
    canvas = np.zeros((array.shape[0], *(shape[a] for a in rest)), np.float32)
    if low <= index < high:
        number = array.shape[along + 1]
        nearest = min(int((index - low + 0.5) / (high - low) * number), number - 1)
        where: list[Any] = [slice(None)] * array.ndim
        where[along + 1] = slice(nearest, nearest + 1)
        plane = np.asarray(array[tuple(where)]).take(0, along + 1)
        inner = (slice(None), *(slice(*box[a]) for a in rest))
        size = [box[a][1] - box[a][0] for a in rest]
        for channel, target in zip(plane, canvas, strict=True):
            target[:] = channel.min()
            target[inner[1:]] = resize(channel, size, order=1, preserve_range=True, anti_aliasing=False)
    original_order = [transpose_forward[a] for a in rest]
    return canvas if original_order == sorted(original_order) else canvas.transpose(0, 2, 1)


def slices_of(images: CaseImages, cases: Sequence[ValidatedCase]) -> tuple[dict[str, CaseSlice], dict[str, str]]:
    """The slices of cases, and the reasons why there is none of others."""
    found: dict[str, CaseSlice] = {}
    problems: dict[str, str] = {}
    for case in cases:
        try:
            found[case.case] = images.slice_of(case)
        except NnunetError as error:
            problems[case.case] = " ".join(error.text().split())
    return found, problems
