"""Slices of validation cases: the image, and on top of it the annotation and the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import ImageError, NnunetError, StorageError
from nnunet_pt.dataset.cases import discover_training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.registry import choose_reader_writer, reader_writer_by_name
from nnunet_pt.inference.orientation import orientation_of
from nnunet_pt.preprocessing.store import GT_FOLDER
from nnunet_pt.report.slices import CT_WINDOW
from nnunet_pt.report.training_record import TrainingRecord
from nnunet_pt.report.training_slices import (
    CaseSlice,
    contrast,
    is_turned,
    preprocessed_slice,
    slice_axis,
    take_slice,
    telling_slice,
    upright,
)
from nnunet_pt.report.training_validation import ValidatedCase

LABELS_FOLDER: Final = "labelsTr"
CT_SCHEME: Final = "CTNormalization"


class _Channel(NamedTuple):
    number: int
    image: NDArray[np.float32]
    window: tuple[float, float] | None


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
        axis = slice_axis(spacing, labels.shape, orientation)
        index = telling_slice(truth, labels, axis)
        here, there = take_slice(truth, index, axis), take_slice(labels, index, axis)
        channel = self._image(case.case, axis, index, here)
        image = channel.image
        if image.shape != here.shape:
            raise ImageError(
                f"Image and annotation of {case.case} do not have the same shape.",
                found=f"{image.shape} and {here.shape} in a slice",
            )
        sides = [a for a in range(labels.ndim) if a != axis]
        letters = None if orientation is None else "".join(orientation[a] for a in sides)
        rows, columns = (spacing[a] for a in (sides if not is_turned(letters) else sides[::-1]))
        return CaseSlice(
            image=upright(image, letters), annotation=upright(here, letters), prediction=upright(there, letters),
            spacing_mm=(rows, columns), index=index, number=labels.shape[axis],
            channel=channel.number, window=channel.window,
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

    def _image(self, case: str, axis: int, index: int, annotation: NDArray[np.int32]) -> _Channel:
        """The channel that shows the annotated structures best."""
        configuration, plans = self.record.configuration, self.record.plans
        is_raw = case in self.raw_images
        if is_raw:
            channels = self._raw_slice(case, axis, index)
        elif self.data is not None and plans is not None and configuration is not None:
            masked = configuration.use_mask_for_norm
            channels = preprocessed_slice(self.data, case, axis, index, plans.transpose_forward, masked)
        else:
            raise StorageError(
                f"The image of {case} was not found.",
                expected="the preprocessed cases of the configuration, or the raw dataset",
                remedy="set nnUNet_preprocessed or nnUNet_raw",
            )
        best = int(np.argmax([contrast(channel, annotation > 0) for channel in channels]))
        return _Channel(best, channels[best], self._window(best, is_raw=is_raw))

    def _window(self, channel: int, *, is_raw: bool) -> tuple[float, float] | None:
        """Soft tissue for CT, in the units of the image; None for other images."""
        configuration, plans = self.record.configuration, self.record.plans
        if configuration is None or plans is None or channel >= len(configuration.normalization_schemes):
            return None
        known = plans.foreground_intensity_properties_per_channel.get(str(channel))
        if configuration.normalization_schemes[channel] != CT_SCHEME or known is None:
            return None
        low, high = CT_WINDOW
        scale = max(known.std, 1e-8)
        return (low, high) if is_raw else ((low - known.mean) / scale, (high - known.mean) / scale)

    def _raw_slice(self, case: str, axis: int, index: int) -> NDArray[np.float32]:
        files = self.raw_images[case]
        image, _ = self._reader(files[0]).read_images(files)
        return take_slice(image, index, axis + 1)


def _raw_images(dataset: Path) -> dict[str, tuple[Path, ...]]:
    try:
        cases = discover_training_cases(dataset, DatasetDescription.load(dataset / DATASET_FILE)).cases
    except NnunetError:  # the preprocessed images may be there
        return {}
    return {case.identifier: case.images for case in cases}


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
