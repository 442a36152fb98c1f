"""How large the cases of a dataset are, before and after resampling; read from headers and the fingerprint only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from nnunet_pt.core.errors import DatasetError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.core.workers import map_in_threads
from nnunet_pt.dataset.cases import Case, training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import choose_reader_writer
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import readable_header
from nnunet_pt.preprocessing.resample import compute_new_shape

MOST_HEADERS = 400  # of a larger dataset evenly spread cases are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSize:
    """The size of a case.

    Attributes:
        case: Its files; None without raw data.
        full_shape: Voxels along each axis, as the reader gives it.
        shape: The same after cropping to the nonzero region, as far as that is known.
        spacing: In mm, for the same axes.
    """

    case: Case | None
    full_shape: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    def resampled(self, plans: Plans, configuration: Configuration) -> tuple[int, ...]:
        """Shape after preprocessing, in the order of axes of the plans."""
        shape = [self.shape[a] for a in plans.transpose_forward]
        spacing = [self.spacing[a] for a in plans.transpose_forward]
        return compute_new_shape(shape, spacing, configuration.spacing_for(spacing))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSizes:
    """The cases of a dataset, or a sample of them.

    Attributes:
        description: The dataset.
        num_cases: How many there are.
        sizes: Those that were looked at.
        reader_name: The reader of the raw images; None without raw data.
    """

    description: DatasetDescription
    num_cases: int
    sizes: tuple[CaseSize, ...]
    reader_name: str | None

    @property
    def has_raw(self) -> bool:
        """Whether the raw images are there."""
        return self.reader_name is not None

    def median(self, measure: Callable[[CaseSize], float]) -> CaseSize:
        """The case in the middle by some measure."""
        ordered = sorted(self.sizes, key=measure)
        return ordered[len(ordered) // 2]

    def total(self, measure: Callable[[CaseSize], float]) -> float:
        """The sum of a measure over all cases of the dataset."""
        return sum(map(measure, self.sizes)) * self.num_cases / len(self.sizes)

    def largest(self, measure: Callable[[CaseSize], float], number: int) -> list[float]:
        """The largest values of a measure."""
        return sorted(map(measure, self.sizes), reverse=True)[:number]


def full_voxels(size: CaseSize) -> float:
    """Voxels of the raw image."""
    return float(prod(size.full_shape))


def dataset_sizes(name: str, workspace: Workspace) -> DatasetSizes:
    """Find out how large the cases are.

    Args:
        name: Folder name of the dataset.
        workspace: Where the folders are.

    Raises:
        NnunetError: If there are neither raw data nor a fingerprint, or files are damaged.
    """
    settings = workspace.settings
    raw = None if settings.raw is None else settings.raw / name
    fingerprint = None
    if settings.preprocessed is not None and (settings.preprocessed / name / FINGERPRINT_FILE).is_file():
        fingerprint = Fingerprint.load(settings.preprocessed / name / FINGERPRINT_FILE)
    if raw is not None and (raw / DATASET_FILE).is_file():
        return _of_raw(DatasetDescription.load(raw / DATASET_FILE), raw_cases(workspace, name), fingerprint)
    if fingerprint is None:
        raise DatasetError(
            f"Nothing is known about {name}: there are no raw images and no fingerprint.",
            found=f"nnUNet_raw={settings.raw}, nnUNet_preprocessed={settings.preprocessed}",
            remedy=f"put the images into  nnUNet_raw/{name}, or correct the variables",
        )
    sizes = tuple(
        CaseSize(case=None, full_shape=shape, shape=shape, spacing=spacing)
        for shape, spacing in zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True)
    )
    description = DatasetDescription.load(workspace.preprocessed / name / DATASET_FILE)
    return DatasetSizes(description=description, num_cases=len(sizes), sizes=sizes, reader_name=None)


def raw_cases(workspace: Workspace, name: str) -> tuple[Case, ...]:
    """The training cases of a dataset."""
    folder = workspace.raw / name
    return training_cases(folder, DatasetDescription.load(folder / DATASET_FILE))


def _of_raw(description: DatasetDescription, cases: Sequence[Case], fingerprint: Fingerprint | None) -> DatasetSizes:
    reader = choose_reader_writer(description, cases[0].images[0])
    chosen = range(0, len(cases), -(-len(cases) // MOST_HEADERS))
    headers = map_in_threads(lambda i: readable_header(cases[i], reader.name), chosen)
    cropped = None
    if fingerprint is not None and len(fingerprint.shapes_after_crop) == len(cases):
        cropped = fingerprint.shapes_after_crop
    sizes = [
        CaseSize(
            case=cases[i],
            full_shape=header.shape,
            shape=header.shape if cropped is None else cropped[i],
            spacing=header.spacing,
        )
        for i, header in zip(chosen, headers, strict=True)
        if header is not None
    ]
    if not sizes:
        raise DatasetError(
            "No image of the dataset can be read.",
            found=f"{counted(len(cases), 'case')}, for example {cases[0].images[0]}",
            remedy="nnUNetv2_extract_fingerprint -d ID --verify_dataset_integrity  says what is wrong with each",
        )
    return DatasetSizes(description=description, num_cases=len(cases), sizes=tuple(sizes), reader_name=reader.name)
