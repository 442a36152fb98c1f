"""What the dataset report shows: every case is read and measured, a few are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, NnunetError, UsageError
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure, CaseTask, map_cases, map_in_threads
from nnunet_pt.dataset.cases import discover_training_cases, listed, resolve_dataset_name, training_cases
from nnunet_pt.dataset.description import FILE_NAME, DatasetDescription
from nnunet_pt.dataset.images.registry import choose_by_examples, reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.preprocessing.case import WORKER_RAM
from nnunet_pt.report.dataset_cases import (
    BYTES_PER_VOXEL,
    CaseFacts,
    CaseToDraw,
    CaseToMeasure,
    draw_case,
    measure_case,
)
from nnunet_pt.report.dataset_outliers import cases_to_draw, dataset_outliers
from nnunet_pt.report.outliers import Outlier
from nnunet_pt.report.slices import Rgb, class_members

DEFAULT_PROCESSES: Final = 8
DEFAULT_PICTURES: Final = 12
A = TypeVar("A")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReportOptions:
    """How to make a dataset report.

    Attributes:
        pictures: How many cases to draw: outliers, and others evenly spread over the dataset; None for all.
        channel: Which channel to draw, from 0.
        num_processes: Worker processes; None for the default, at most 8; 0 works in this process.
        max_ram_gb: Memory of all workers together; 80 % of what is free by default.
        progress: Show the progress.
    """

    pictures: int | None = DEFAULT_PICTURES
    channel: int = 0
    num_processes: int | None = None
    max_ram_gb: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetContent:
    """Everything the page shows.

    Attributes:
        name: Folder name of the dataset.
        description: dataset.json.
        labels: Its labels.
        reader_name: How images are read.
        cases: What was measured, in the order of the dataset.
        problems: Pairs of a case and what is wrong with its files.
        notes: Findings about the dataset as a whole.
        outliers: Cases that stand out, strongest first.
        fingerprint: If the dataset has one that can be read.
        pictures: Case -> middle slices.
        shown_channel: Number of the channel of the pictures.
    """

    name: str
    description: DatasetDescription
    labels: Labels
    reader_name: str
    cases: tuple[CaseFacts, ...]
    problems: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    outliers: tuple[Outlier, ...]
    fingerprint: Fingerprint | None
    pictures: dict[str, Rgb]
    shown_channel: int

    @property
    def is_2d(self) -> bool:
        """Whether all cases have a single slice."""
        return all(case.is_2d for case in self.cases)

    @property
    def class_members(self) -> dict[str, tuple[int, ...]]:
        """Class or region -> its label values."""
        return dict(zip(self.labels.class_names, class_members(self.labels), strict=True))

    @property
    def volume_unit(self) -> str:
        """Unit of :meth:`volumes`."""
        if self.is_2d:
            return "pixels"
        largest = max((v for values in self.volumes_mm3().values() for v in values), default=0)
        return "mL" if largest >= 10_000 else "mm³"

    def volumes_mm3(self) -> dict[str, list[float]]:
        """Class -> its volume in every case (in mm³, of 2D images in pixels)."""
        return {
            name: [c.class_voxels(members) * (1 if self.is_2d else c.voxel_size) for c in self.cases]
            for name, members in self.class_members.items()
        }

    def volumes(self) -> dict[str, list[float]]:
        """Class -> its volume in every case, in :attr:`volume_unit`."""
        factor = 1e-3 if self.volume_unit == "mL" else 1.0
        return {name: [v * factor for v in values] for name, values in self.volumes_mm3().items()}


def gather(dataset: int | str, workspace: Workspace, options: DatasetReportOptions) -> DatasetContent:
    """Read and measure all training cases, then draw some. Cases that fail do not stop the others.

    Args:
        dataset: Number or name.
        workspace: Where the datasets are.
        options: How.

    Raises:
        DatasetError: If the dataset does not exist, has no complete case, or none that can be read.
        UsageError: If there is no such channel.
    """
    name = resolve_dataset_name(dataset, workspace)
    folder = workspace.raw / name
    description = DatasetDescription.load(folder / FILE_NAME)
    labels = Labels.from_description(description)
    if not 0 <= options.channel < description.num_channels:
        raise UsageError(
            f"There is no channel {options.channel}.", expected=f"a number from 0 to {description.num_channels - 1}"
        )
    found = discover_training_cases(folder, description)
    problems = [(case, text) for case, text in found.missing.items()]
    notes = [*description.notes.values()]
    if found.foreign:
        notes.append(f"Files without a channel number: {listed([p.name for p in found.foreign])}")
    if found.without_images:
        notes.append(f"Labels without an image: {listed([p.name for p in found.without_images])}")
    if not found.cases:
        training_cases(folder, description)  # says why there are none
    reader = choose_by_examples(description, [case.images[0] for case in found.cases])
    jobs = [
        CaseToMeasure(case=case, reader_name=reader.name, labels=labels, channel_names=description.channel_names)
        for case in found.cases
    ]
    measured = _measure(jobs, options, problems)
    if not measured:
        raise DatasetError(
            f"None of the {len(jobs)} cases of {folder} can be read.",
            found="; ".join(f"{case}: {text}" for case, text in problems[:3]),
            remedy="see the messages above; nnUNetv2_plan_and_preprocess with --verify_dataset_integrity lists all",
        )
    content = DatasetContent(
        name=name,
        description=description,
        labels=labels,
        reader_name=reader.name,
        cases=tuple(measured),
        problems=tuple(problems),
        notes=tuple(notes),
        outliers=(),
        fingerprint=_fingerprint(workspace, name),
        pictures={},
        shown_channel=options.channel,
    )
    return _completed(content, jobs, options)


def _completed(content: DatasetContent, jobs: Sequence[CaseToMeasure], options: DatasetReportOptions) -> DatasetContent:
    """With outliers and pictures."""
    outliers = dataset_outliers(
        content.cases, content.volumes(), content.volume_unit, content.description.channel_names, flat=content.is_2d
    )
    chosen = cases_to_draw([case.case for case in content.cases], outliers, options.pictures)
    drawn = map_cases(
        draw_case,
        _tasks([job for job in jobs if job.case.identifier in chosen], _to_draw(options.channel)),
        num_workers=_processes(options),
        max_ram_gb=options.max_ram_gb,
        description="Drawing slices",
        on_failure="continue",
        progress=options.progress,
    )
    failed = tuple((f.case, f"cannot be drawn: {_sentence(f)}") for f in drawn.failures)
    return replace(content, outliers=tuple(outliers), pictures=drawn.results, problems=(*content.problems, *failed))


def _measure(
    jobs: Sequence[CaseToMeasure], options: DatasetReportOptions, problems: list[tuple[str, str]]
) -> list[CaseFacts]:
    """The cases that can be read; what is wrong with any of them is noted."""
    run = map_cases(
        measure_case,
        _tasks(jobs, lambda job: job),
        num_workers=_processes(options),
        max_ram_gb=options.max_ram_gb,
        description="Measuring cases",
        on_failure="continue",
        progress=options.progress,
    )
    problems += [(failure.case, _sentence(failure)) for failure in run.failures]
    problems += [(case, text) for case, facts in run.results.items() for text in facts.findings]
    return list(run.results.values())


def _tasks(jobs: Sequence[CaseToMeasure], argument: Callable[[CaseToMeasure], A]) -> list[CaseTask[A]]:
    estimates = map_in_threads(_estimate_ram, jobs)
    return [
        CaseTask(case=job.case.identifier, argument=argument(job), ram_bytes=ram)
        for job, ram in zip(jobs, estimates, strict=True)
    ]


def _to_draw(channel: int) -> Callable[[CaseToMeasure], CaseToDraw]:
    return lambda job: CaseToDraw(measure=job, channel=channel)


def _estimate_ram(job: CaseToMeasure) -> int:
    """Bytes a worker needs for a case; 0 for one that reading will complain about."""
    try:
        header = reader_writer_by_name(job.reader_name).read_header(job.case.images[0])
    except NnunetError:
        return 0
    return WORKER_RAM + header.num_voxels * BYTES_PER_VOXEL


def _processes(options: DatasetReportOptions) -> int:
    return default_num_processes(DEFAULT_PROCESSES) if options.num_processes is None else options.num_processes


def _sentence(failure: CaseFailure) -> str:
    """A failure in one line."""
    error = failure.error
    if error is None:
        return failure.reason
    return f"{error.problem.rstrip('.')}: {error.found}" if error.found is not None else error.problem


def _fingerprint(workspace: Workspace, name: str) -> Fingerprint | None:
    root = workspace.settings.preprocessed
    path = None if root is None else root / name / FINGERPRINT_FILE
    if path is None or not path.is_file():
        return None
    try:
        return Fingerprint.load(path)
    except NnunetError as error:
        _log.warning("The report is made without the fingerprint. %s", error)
        return None
