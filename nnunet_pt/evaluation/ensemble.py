"""Several models' probabilities into one segmentation."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import copy_file, make_folder, remove_leftovers, storage_errors
from nnunet_pt.core.workers import CaseTask, MapResult, map_cases
from nnunet_pt.dataset.cases import listed
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.probabilities import PROBABILITIES_KEY, write_probabilities
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.store import PlainUnpickler

PLANS_FILE = "plans.json"
_PREDICT_AGAIN = "predict the case again with  --save_probabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleCase:
    """What one case's segmentation is made of.

    Attributes:
        name: Case identifier.
        probabilities: Its ``.npz`` files, one of each model.
        properties: Its ``.pkl`` file, of any model.
        output: Path of the result without an ending.
    """

    name: str
    probabilities: tuple[Path, ...]
    properties: Path
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSettings:
    """What the cases of an ensemble share.

    Attributes:
        labels: The labels of the dataset.
        writer_name: Name of the writer for segmentations.
        file_ending: Ending of the segmentations, with the dot.
        save_probabilities: Write the mean probabilities, too.
    """

    labels: Labels
    writer_name: str
    file_ending: str
    save_probabilities: bool = False

    @classmethod
    def of(cls, folder: Path, *, save_probabilities: bool = False) -> EnsembleSettings:
        """From ``plans.json`` and ``dataset.json`` of a folder.

        Raises:
            PredictionError: If one of them is missing.
            NnunetError: If one of them cannot be used.
        """
        missing = [name for name in (PLANS_FILE, DATASET_FILE) if not (folder / name).is_file()]
        if missing:
            raise PredictionError(
                f"{folder} has no {' and no '.join(missing)}.",
                expected="both files, which say what the labels are and how segmentations are written",
                remedy="nnUNetv2_predict writes them; else copy them from the model's folder",
            )
        description = DatasetDescription.load(folder / DATASET_FILE)
        return cls(
            labels=Labels.from_description(description),
            writer_name=Plans.load(folder / PLANS_FILE).image_reader_writer,
            file_ending=description.file_ending,
            save_probabilities=save_probabilities,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    case: EnsembleCase
    settings: EnsembleSettings


def ensemble_folders(
    folders: Sequence[Path],
    output: Path,
    *,
    save_probabilities: bool = False,
    num_processes: int = 0,
    on_failure: Literal["stop", "continue"] = "stop",
    progress: bool = True,
) -> MapResult[None]:
    """Average the probabilities in several folders and write the segmentations and ``dataset.json``.

    Args:
        folders: Predictions with probabilities of the same cases; ``plans.json`` and ``dataset.json`` are taken from
            the first one.
        output: Where to; files of the same names are replaced.
        save_probabilities: Write the mean probabilities, too.
        num_processes: Worker processes; 0 works in this process.
        on_failure: "continue" finishes the other cases when one fails.
        progress: Show the progress.

    Raises:
        PredictionError: If the folders do not hold the same cases, or a file is damaged or does not fit the others.
        NnunetError: If a file cannot be read or written.
    """
    names = _same_cases(folders)
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise PredictionError(
            f"The output folder {output} is one of the input folders, whose segmentations would be replaced.",
            remedy="choose another output folder",
        )
    settings = EnsembleSettings.of(folders[0], save_probabilities=save_probabilities)
    make_folder(output)
    remove_leftovers(output)
    copy_file(folders[0] / DATASET_FILE, output / DATASET_FILE)
    cases = [
        EnsembleCase(
            name=name,
            probabilities=tuple(folder / f"{name}.npz" for folder in folders),
            properties=folders[0] / f"{name}.pkl",
            output=output / name,
        )
        for name in names
    ]
    return ensemble_cases(cases, settings, num_processes=num_processes, on_failure=on_failure, progress=progress)


def ensemble_cases(
    cases: Sequence[EnsembleCase],
    settings: EnsembleSettings,
    *,
    num_processes: int = 0,
    on_failure: Literal["stop", "continue"] = "stop",
    progress: bool = True,
) -> MapResult[None]:
    """Average probabilities and write segmentations; never more than the sum and one more model are in memory.

    Raises:
        PredictionError: With "stop", if a file is damaged or does not fit the others.
        NnunetError: With "stop", if a file cannot be read or written.
    """
    tasks = [
        CaseTask(case=c.name, argument=_Task(case=c, settings=settings), ram_bytes=_estimate_ram(c)) for c in cases
    ]
    return map_cases(
        _ensemble, tasks, num_workers=num_processes, description="Ensembling", on_failure=on_failure, progress=progress
    )


def _same_cases(folders: Sequence[Path]) -> list[str]:
    cases = {folder: _cases_with_probabilities(folder) for folder in folders}
    every = set[str]().union(*cases.values())
    findings = [
        f"{folder} has not: {listed([f'{name}.npz' for name in sorted(every - own)])}"
        for folder, own in cases.items()
        if every - own
    ]
    if findings or not every:
        raise PredictionError(
            "The folders do not hold probabilities of the same cases."
            if every
            else f"There are no probabilities in {', '.join(map(str, folders))}.",
            found="; ".join(findings) or "no .npz files",
            expected="<case>.npz for the same cases in every folder",
            remedy="predict the missing cases with  --save_probabilities",
        )
    return sorted(every)


def _cases_with_probabilities(folder: Path) -> set[str]:
    with storage_errors(folder):
        return {p.stem for p in folder.iterdir() if p.suffix == ".npz" and not p.name.startswith(".")}


def _ensemble(task: _Task) -> None:
    case, settings = task.case, task.settings
    properties = _read_properties(case.properties)
    total = _read_probabilities(case.probabilities[0], settings.labels)
    for path in case.probabilities[1:]:
        other = _read_probabilities(path, settings.labels)
        if other.shape != total.shape:
            raise PredictionError(
                f"The probabilities of case {case.name} do not have the same shape.",
                found=f"{other.shape} in {path}",
                expected=f"{total.shape}, as {case.probabilities[0]}",
                remedy="predict the same images with all models",
            )
        total += other
        del other
    total /= len(case.probabilities)
    if settings.save_probabilities:
        write_probabilities(Path(f"{case.output}.npz"), total)
        copy_file(case.properties, Path(f"{case.output}.pkl"))
    segmentation = settings.labels.probabilities_to_segmentation(total)
    writer = reader_writer_by_name(settings.writer_name)
    writer.write_segmentation(segmentation, Path(f"{case.output}{settings.file_ending}"), properties)


def _read_probabilities(path: Path, labels: Labels) -> NDArray[np.float32]:
    with storage_errors(path), path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                result = np.asarray(archive[PROBABILITIES_KEY], np.float32)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # damaged archives raise anything from BadZipFile to zlib.error
            raise PredictionError(
                f"{path} does not hold probabilities, or is damaged.",
                found=str(error) or type(error).__name__,
                expected=f'an archive with the array "{PROBABILITIES_KEY}"',
                remedy=_PREDICT_AGAIN,
            ) from error
    if result.ndim != 4 or len(result) != labels.num_segmentation_heads:
        raise PredictionError(
            f"The probabilities in {path} do not belong to this dataset.",
            found=f"an array of the shape {result.shape}",
            expected=f"{labels.num_segmentation_heads} labels or regions, and three axes",
            remedy=f"compare with {DATASET_FILE} of the first folder",
        )
    return result if result.flags.writeable else result.copy()


def _read_properties(path: Path) -> dict[str, Any]:
    with storage_errors(path), path.open("rb") as file:
        try:
            return dict(PlainUnpickler(file).load())
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can ask for anything
            raise PredictionError(
                f"{path} is damaged, or holds more than the properties of an image; nothing of it was executed.",
                found=str(error) or type(error).__name__,
                remedy=_PREDICT_AGAIN,
            ) from error


def _estimate_ram(case: EnsembleCase) -> int:
    """Bytes a case needs: two models' probabilities and what becoming a segmentation takes."""
    try:
        with zipfile.ZipFile(case.probabilities[0]) as archive:
            return 3 * sum(record.file_size for record in archive.infolist())
    except (OSError, zipfile.BadZipFile):  # reading it will say so
        return 0
