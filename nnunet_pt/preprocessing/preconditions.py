"""What can be found wrong with a dataset and its plans before any case is read."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.core.errors import DatasetError, PlansError
from nnunet_pt.dataset.cases import Case
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.preprocessing.case import CaseSettings
from nnunet_pt.preprocessing.normalize import NORMALIZATION
from nnunet_pt.preprocessing.resample import RESAMPLERS
from nnunet_pt.preprocessing.shared_data import differences
from nnunet_pt.preprocessing.store import GT_FOLDER, case_files

LARGEST_LABEL = 2**15 - 1  # segmentations are stored as int16


def check_dataset(cases: Sequence[Case], labels: Labels) -> None:
    """Find what cannot be stored before any work is done.

    Raises:
        DatasetError: For case identifiers that are no file names or share one, and for labels that are too large.
    """
    wrong = [c.identifier for c in cases if not _is_file_name(c.identifier)]
    uses = Counter(name for case in cases for name in case_files(case.identifier))
    wrong += [c.identifier for c in cases if any(uses[name] > 1 for name in case_files(c.identifier))]
    if wrong:
        raise DatasetError(
            "The identifiers of cases cannot be used as file names.",
            found=", ".join(wrong),
            expected="names without a slash; and not both NAME and NAME_seg, since NAME_seg.b2nd is a segmentation",
            remedy="rename these cases",
        )
    largest = max(labels.file_values)
    if largest > LARGEST_LABEL:
        raise DatasetError(
            "A label is too large to be stored.",
            found=largest,
            expected=f"at most {LARGEST_LABEL}",
            remedy="number the labels 0, 1, 2, ... in dataset.json and in the label files",
        )


def _is_file_name(text: str) -> bool:
    return text not in ("", "..") and Path(text).name == text


def check_plans(jobs: Sequence[tuple[str, CaseSettings]]) -> None:
    """Find what is wrong with the plans before any work is done.

    Args:
        jobs: Names of configurations and what they ask for.

    Raises:
        UnknownNameError: For names that do not exist, with similar ones.
        PlansError: For unusable data folders or arguments, and for different data meant for the same folder.
    """
    first: dict[str, tuple[str, CaseSettings]] = {}
    for name, settings in jobs:
        _check_names(name, settings)
        folder = settings.configuration.data_identifier
        if not _is_file_name(folder) or folder == GT_FOLDER:
            raise PlansError(f"The data_identifier of configuration {name} is no usable folder name.", found=folder)
        other, others = first.setdefault(folder, (name, settings))
        if different := differences(others, settings):
            raise PlansError(
                f"The configurations {other} and {name} ask for different data in the same folder.",
                found=f"data_identifier {folder} in both; different: {', '.join(different)}",
                remedy=f"give {name} a data_identifier of its own in the plans file",
            )


def _check_names(name: str, settings: CaseSettings) -> None:
    configuration = settings.configuration
    reader_writer_by_name(settings.reader_name)
    for scheme in configuration.normalization_schemes:
        NORMALIZATION[scheme]
    for spec in (configuration.resampling_data, configuration.resampling_seg):
        try:
            inspect.signature(RESAMPLERS[spec.name]).bind(None, None, None, None, threads=1, **spec.kwargs)
        except TypeError as error:
            raise PlansError(
                f"The arguments of {spec.name} in configuration {name} are not understood.", found=error
            ) from error
