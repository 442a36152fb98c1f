"""The fingerprint: spacings, shapes and foreground intensities of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, NnunetError
from nnunet_pt.core.files import atomic_path, digest_of, make_folder, remove_leftovers
from nnunet_pt.core.parts import WHOLE, Part, PartNotes, names_in
from nnunet_pt.core.registry import Registry
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.wording import counted
from nnunet_pt.core.workers import CaseFailure, CaseTask, Executor, map_cases, map_in_threads
from nnunet_pt.dataset.cases import Case, resolve_dataset_name, training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import choose_reader_writer
from nnunet_pt.dataset.integrity import REPORT_NAME, verify_dataset_integrity
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.planning.intensity_statistics import ValueCounts, draw_foreground, summarize
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.fingerprint import Fingerprint, IntensityProperties
from nnunet_pt.preprocessing.case import (
    WORKER_RAM,
    channel_error,
    check_hidden_nonfinite,
    read_case,
    readable_header,
)
from nnunet_pt.preprocessing.crop import as_slices, bounding_box, nonzero_mask
from nnunet_pt.preprocessing.preconditions import check_dataset

DEFAULT_PROCESSES = 8
NUM_SAMPLES = 10**8

_PARTS_FOLDER = "dataset_fingerprint.parts"
_PARTS_VERSION = 1
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintRequest:
    """What to measure and how.

    Attributes:
        dataset: Number or folder name.
        num_processes: Worker processes; None for the default, at most 8.
        verify_integrity: Check the whole dataset first.
        clean: Measure again even if there is a fingerprint.
        max_ram_gb: Memory budget of all workers together.
        progress: Show progress.
        on_failure: "stop" at the first failing case, or measure the others too before giving up.
        extractor: Name of the fingerprint extractor.
        num_parts: Number of processes that share the cases, see :mod:`nnunet_pt.core.parts`.
        part_id: Number of this process.
        executor: Where the cases are worked on instead of in ``num_processes`` processes of this machine.

    Raises:
        UsageError: If there is no such part, or it is to start over alone.
    """

    dataset: int | str
    num_processes: int | None = None
    verify_integrity: bool = False
    clean: bool = False
    max_ram_gb: float | None = None
    progress: bool = True
    on_failure: Literal["stop", "continue"] = "stop"
    extractor: str = "DatasetFingerprintExtractor"
    num_parts: int = 1
    part_id: int = 0
    executor: Executor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        self.part.require_no_clean(self.clean)

    @property
    def part(self) -> Part:
        """The cases of this process."""
        return Part(number=self.part_id, total=self.num_parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintResult:
    """What came of it.

    Attributes:
        path: The fingerprint file.
        fingerprint: The fingerprint; None if cases failed, or other parts are missing.
        reused: Whether the file was there already.
        failures: Cases that could not be measured.
        part: Which of the cases.
        missing_parts: Parts that have to be done before all are put together.
    """

    path: Path
    fingerprint: Fingerprint | None
    reused: bool = False
    failures: tuple[CaseFailure, ...] = ()
    part: Part = WHOLE
    missing_parts: tuple[int, ...] = ()

    def summary(self) -> str:
        """A few lines for the terminal."""
        if self.missing_parts:
            return f"Fingerprint, {self.part.waiting_for(self.missing_parts)}: {self.path}"
        if self.fingerprint is None:
            return f"{self.path} was not written, because {counted(len(self.failures), 'case')} failed."
        cases = counted(len(self.fingerprint.spacings), "case")
        verb = "was there already (--clean measures again)" if self.reused else "written"
        return f"Fingerprint of {cases} {verb}: {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureJob:
    """What a worker needs to measure one case."""

    case: Case
    reader_name: str
    labels: Labels
    num_channels: int
    num_draws: int
    part: Path
    stamp: str

    @property
    def name(self) -> str:
        """Identifier of the case."""
        return self.case.identifier


def extract_fingerprint(request: FingerprintRequest, workspace: Workspace) -> FingerprintResult:
    """Measure a dataset and write ``dataset_fingerprint.json``.

    Each measured case is kept in a folder beside the fingerprint until all are done, so that an interrupted run
    continues where it was.

    Raises:
        NnunetError: For missing or contradictory files; with ``on_failure="stop"`` for failing cases too.
    """
    return EXTRACTORS[request.extractor](request, workspace)


def _extract(request: FingerprintRequest, workspace: Workspace) -> FingerprintResult:
    name = resolve_dataset_name(request.dataset, workspace)
    raw, target = workspace.raw / name, workspace.preprocessed / name
    num_processes = request.num_processes
    if num_processes is None:
        num_processes = default_num_processes(DEFAULT_PROCESSES)
    part = request.part
    if request.verify_integrity:
        make_folder(target)
        verify_dataset_integrity(
            raw,
            num_workers=num_processes,
            max_ram_gb=request.max_ram_gb,
            progress=request.progress,
            executor=request.executor,
            report_path=target / REPORT_NAME,
            part=part,
            clean=request.clean,
        )
    path, parts = target / FINGERPRINT_FILE, target / _PARTS_FOLDER
    notes = PartNotes(parts, part, {})
    if request.clean:
        notes.remove()
    elif path.is_file():
        notes.remove()  # a run that ended between writing and tidying up leaves them
        fingerprint = Fingerprint.load(path)
        _warn_if_outdated(fingerprint, raw, path)
        return FingerprintResult(path=path, fingerprint=fingerprint, reused=True, part=part)
    description = DatasetDescription.load(raw / DATASET_FILE)
    cases = training_cases(raw, description)
    labels = Labels.from_description(description)
    check_dataset(cases, labels)
    make_folder(parts)
    remove_leftovers(target)
    remove_leftovers(parts)
    jobs = _jobs(cases, description, labels, parts)
    if not part.is_whole:
        first = jobs[0]
        settings = _settings(first.reader_name, first.num_draws, first.num_channels, first.labels)
        notes = PartNotes(parts, part, {"dataset.json": settings, "cases": sorted(j.name for j in jobs)})
        notes.begin()
    mine = set(part.own(j.name for j in jobs))
    try:
        failures = _measure([j for j in jobs if j.name in mine], request, num_processes, f"Fingerprint of {name}")
        if failures and (part.is_whole or not path.is_file()):
            return FingerprintResult(path=path, fingerprint=None, failures=failures, part=part)
        if not part.is_whole:
            notes.finish()
            missing = _missing(part, jobs)
            if missing and path.is_file():
                return _overtaken(notes, path, part)
            if missing:
                return FingerprintResult(path=path, fingerprint=None, part=part, missing_parts=missing)
        fingerprint = _merge([j.part for j in jobs], description.num_channels, name)
    except (NnunetError, FileNotFoundError):
        if part.is_whole or not path.is_file():
            raise
        return _overtaken(notes, path, part)
    fingerprint.save(path)
    notes.remove()
    return FingerprintResult(path=path, fingerprint=fingerprint, part=part)


def _overtaken(notes: PartNotes, path: Path, part: Part) -> FingerprintResult:
    """Other processes did the same part, too, put all parts together, and removed them before this one was done."""
    notes.remove()
    return FingerprintResult(path=path, fingerprint=Fingerprint.load(path), reused=True, part=part)


def _measure(
    jobs: Sequence[MeasureJob], request: FingerprintRequest, num_processes: int, description: str
) -> tuple[CaseFailure, ...]:
    """Measure the cases that are not measured yet."""
    todo = [j for j, done in zip(jobs, map_in_threads(_is_done, jobs), strict=True) if not done]
    estimates = map_in_threads(_estimate_ram, todo)
    try:
        outcome = map_cases(
            measure_case,
            [CaseTask(case=j.name, argument=j, ram_bytes=ram) for j, ram in zip(todo, estimates, strict=True)],
            num_workers=num_processes,
            max_ram_gb=request.max_ram_gb,
            description=description,
            on_failure=request.on_failure,
            progress=request.progress,
            executor=request.executor,
        )
    finally:
        for folder in {job.part.parent for job in jobs}:
            remove_leftovers(folder)  # of workers that were killed
    return outcome.failures


def _missing(part: Part, jobs: Sequence[MeasureJob]) -> tuple[int, ...]:
    """Parts with cases that are not measured; the names of files are looked at first, since that is quick."""
    there = names_in(jobs[0].part.parent)
    names = [job.name for job in jobs]
    missing = part.missing(names, lambda name: f"{name}.npz" in there)
    if missing:
        return missing
    done = {job.name for job, is_done in zip(jobs, map_in_threads(_is_done, jobs), strict=True) if is_done}
    return part.missing(names, done.__contains__)


def _warn_if_outdated(fingerprint: Fingerprint, raw: Path, path: Path) -> None:
    """Say so if cases were added or removed since the fingerprint was measured."""
    if not (raw / DATASET_FILE).is_file():
        return
    num_cases = len(training_cases(raw, DatasetDescription.load(raw / DATASET_FILE)))
    if num_cases != len(fingerprint.spacings):
        _log.warning(
            "%s was measured on %d cases, but the dataset has %d now. Measure again with --clean if plans shall "
            "follow the dataset as it is.",
            path,
            len(fingerprint.spacings),
            num_cases,
        )


EXTRACTORS: Registry[Callable[[FingerprintRequest, Workspace], FingerprintResult]] = Registry(
    "fingerprint extractor", {"DatasetFingerprintExtractor": _extract}
)


def _jobs(cases: Sequence[Case], description: DatasetDescription, labels: Labels, parts: Path) -> list[MeasureJob]:
    reader = choose_reader_writer(description, cases[0].images[0])
    num_draws = NUM_SAMPLES // len(cases)
    settings = _settings(reader.name, num_draws, description.num_channels, labels)
    return [
        MeasureJob(
            case=case,
            reader_name=reader.name,
            labels=labels,
            num_channels=description.num_channels,
            num_draws=num_draws,
            part=parts / f"{case.identifier}.npz",
            stamp=_stamp(case, settings),
        )
        for case in cases
    ]


def _settings(reader_name: str, num_draws: int, num_channels: int, labels: Labels) -> list[Any]:
    """Whatever a measurement depends on besides the files of the case."""
    return [_PARTS_VERSION, reader_name, num_draws, num_channels, labels.all_labels, labels.ignore_label]


def _stamp(case: Case, settings: Sequence[Any]) -> str:
    """Changes with everything that a measurement depends on."""
    return digest_of([*settings, case.state()])


def _is_done(job: MeasureJob) -> bool:
    """Whether there is a part that can be read completely and was measured under the same conditions."""
    try:
        with job.part.open("rb") as file, np.load(file) as part:
            return str(part["stamp"]) == job.stamp and all(part[name] is not None for name in part.files)
    except FileNotFoundError:
        return False
    except Exception:  # a damaged archive raises anything from BadZipFile to zlib.error; it will be replaced
        return False


def _estimate_ram(job: MeasureJob) -> int:
    header = readable_header(job.case, job.reader_name)
    if header is None:
        return WORKER_RAM
    voxels = header.num_voxels // header.num_channels
    return WORKER_RAM + voxels * (4 * job.num_channels + 12) + min(voxels, job.num_draws) * 40


def measure_case(job: MeasureJob) -> None:
    """Measure one case and write its part.

    Raises:
        ImageError: If a file cannot be read, or the files of the case do not fit together.
    """
    image, label, properties = read_case(job.case, job.reader_name, job.labels)
    if len(image) != job.num_channels:
        raise channel_error(job.case, len(image), job.num_channels)
    check_hidden_nonfinite(image, job.case)  # here only: every dataset passes here once
    bounds = bounding_box(nonzero_mask(image))
    inside = as_slices(bounds)
    foreground = np.zeros(image.shape[1:], dtype=bool) if label is None else label[0] > 0
    drawn = draw_foreground((channel[inside][foreground[inside]] for channel in image), job.num_draws)
    arrays: dict[str, Any] = {
        "stamp": np.array(job.stamp),
        "spacing": np.array(properties["spacing"], dtype=np.float64),
        "shape": np.array(image.shape[1:], dtype=np.int64),
        "shape_after_crop": np.array([high - low for low, high in bounds], dtype=np.int64),
    }
    for channel, sample in enumerate(drawn):
        arrays[f"values_{channel}"], arrays[f"counts_{channel}"] = sample.values, sample.counts
    with atomic_path(job.part) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _merge(parts: Sequence[Path], num_channels: int, dataset: str) -> Fingerprint:
    spacings, shapes, sizes = [], [], []
    for path in parts:
        with np.load(path) as part:
            spacings.append(tuple(part["spacing"].tolist()))
            shapes.append(tuple(part["shape_after_crop"].tolist()))
            sizes.append(float(np.prod(part["shape_after_crop"]) / np.prod(part["shape"])))
    intensities: dict[str, IntensityProperties] = {}
    for channel in range(num_channels):

        def load(index: int, channel: int = channel) -> ValueCounts:
            with np.load(parts[index]) as part:
                return ValueCounts(values=part[f"values_{channel}"], counts=part[f"counts_{channel}"])

        statistics = summarize(load, len(parts))
        if statistics is None:
            raise DatasetError(
                f"No case of {dataset} has any foreground.", remedy="check the label files; all of them are empty"
            )
        intensities[str(channel)] = statistics
    return Fingerprint(
        spacings=tuple(spacings),
        shapes_after_crop=tuple(shapes),
        median_relative_size_after_cropping=float(np.median(sizes)),
        foreground_intensity_properties_per_channel=intensities,
    )
