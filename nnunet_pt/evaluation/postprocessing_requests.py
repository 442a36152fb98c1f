"""What the two commands ask for that find out about postprocessing and do it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.evaluation.postprocessing import Postprocessing, apply_postprocessing, determine_postprocessing
from nnunet_pt.evaluation.postprocessing_files import Steps, read_postprocessing
from nnunet_pt.plans.plans import Plans

DEFAULT_PROCESSES = 8
PLANS_FILE = "plans.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPostprocessingRequest:
    """Find out whether segmentations get better without their smaller components.

    Attributes:
        segmentations: Folder of predictions for cases that were not trained on.
        references: Folder of annotations with the same names.
        plans_json: Says how the files are read; that of the folder by default.
        dataset_json: Says what the labels are; that of the folder by default.
        keep_files: Keep the postprocessed segmentations.
        num_processes: Worker processes; None for the default, at most 8.
        progress: Show the progress.
    """

    segmentations: Path
    references: Path
    plans_json: Path | None = None
    dataset_json: Path | None = None
    keep_files: bool = True
    num_processes: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


def find_postprocessing(request: FindPostprocessingRequest) -> Postprocessing:
    """Find out about a folder, see :func:`~nnunet_pt.evaluation.postprocessing.determine_postprocessing`.

    Raises:
        NnunetError: As that function does.
    """
    folder = request.segmentations
    return determine_postprocessing(
        folder,
        request.references,
        Plans.load(request.plans_json or folder / PLANS_FILE),
        DatasetDescription.load(request.dataset_json or folder / DATASET_FILE),
        num_processes=_processes(request.num_processes),
        keep_files=request.keep_files,
        progress=request.progress,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessRequest:
    """Postprocess the segmentations of a folder.

    Attributes:
        segmentations: Their folder.
        output: Another folder.
        postprocessing: ``postprocessing.pkl`` or ``postprocessing.json``.
        plans_json: Says how the files are read; by default that of the folder, else the one beside
            ``postprocessing``.
        dataset_json: Says what the labels are; like ``plans_json``.
        num_processes: Worker processes; None for the default, at most 8.
        on_failure: "stop" at the first failing case, or "continue" with the others.
        progress: Show the progress.
    """

    segmentations: Path
    output: Path
    postprocessing: Path
    plans_json: Path | None = None
    dataset_json: Path | None = None
    num_processes: int | None = None
    on_failure: Literal["stop", "continue"] = "stop"
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Postprocessed:
    """What was done.

    Attributes:
        steps: In this order.
        cases: The cases that are finished.
        output: Where they are.
        failures: Cases that could not be done.
    """

    steps: Steps
    cases: tuple[str, ...]
    output: Path
    failures: tuple[CaseFailure, ...]

    def summary(self) -> str:
        """What was done and where the segmentations are."""
        done = "; ".join(f"only the largest component of {step}" for step in self.steps)
        return f"{len(self.cases)} segmentations ({done or 'nothing to be done, copied'}). Written: {self.output}"


def postprocess_folder(request: PostprocessRequest) -> Postprocessed:
    """Postprocess a folder, see :func:`~nnunet_pt.evaluation.postprocessing.apply_postprocessing`.

    Raises:
        NnunetError: As that function does, and if the postprocessing cannot be read.
    """
    steps = read_postprocessing(request.postprocessing)
    outcome = apply_postprocessing(
        request.segmentations,
        request.output,
        steps,
        Plans.load(request.plans_json or _beside(request, PLANS_FILE)),
        DatasetDescription.load(request.dataset_json or _beside(request, DATASET_FILE)),
        num_processes=_processes(request.num_processes),
        on_failure=request.on_failure,
        progress=request.progress,
    )
    return Postprocessed(
        steps=steps, cases=tuple(outcome.results), output=request.output, failures=tuple(outcome.failures)
    )


def _beside(request: PostprocessRequest, name: str) -> Path:
    """A file in the folder of the segmentations, else in that of the postprocessing, which is a model's."""
    own, other = request.segmentations / name, request.postprocessing.parent / name
    return other if other.is_file() and not own.is_file() else own


def _processes(number: int | None) -> int:
    return default_num_processes(DEFAULT_PROCESSES) if number is None else number
