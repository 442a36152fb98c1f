"""A raw dataset to folders of preprocessed cases, resumable at any moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UnknownNameError, UsageError
from nnunet_pt.core.files import TEMPORARY_PREFIX, copy_file, make_folder, remove_leftovers, storage_errors
from nnunet_pt.core.parts import WHOLE, Part, PartNotes
from nnunet_pt.core.registry import Registry
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure, CaseTask, Executor, map_cases, map_in_threads
from nnunet_pt.dataset.cases import Case, resolve_dataset_name, training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import (
    WORKER_RAM,
    CaseJob,
    CaseSettings,
    preprocess_case,
    readable_header,
)
from nnunet_pt.preprocessing.manifest import CaseRecord, Manifest
from nnunet_pt.preprocessing.preconditions import check_dataset, check_plans
from nnunet_pt.preprocessing.shared_data import differences, plans_sharing
from nnunet_pt.preprocessing.store import GT_FOLDER, case_files

DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
DEFAULT_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
OTHER_PROCESSES = 4

PREPROCESSORS: Registry[Callable[[CaseJob], CaseRecord]] = Registry(
    "preprocessor", {"DefaultPreprocessor": preprocess_case}
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessRequest:
    """What to preprocess and how.

    Attributes:
        dataset: Number or folder name.
        plans_name: Plans identifier.
        configurations: Names; those that the plans do not have are skipped.
        num_processes: Worker processes: one number, one for each configuration, or None for nnU-Net's defaults, but
            no more than there are CPUs.
        clean: Delete what is there and start over.
        verify: Read every preprocessed file and rebuild damaged cases.
        max_ram_gb: Memory budget of all workers together.
        progress: Show progress.
        on_failure: "stop" at the first failing case, or "continue" with the others.
        any_layout: Keep cases that other plans sharing the folder made for another patch size, too: the same data in
            other chunks, which takes a little longer to read.
        num_parts: Number of processes that share the cases, see :mod:`nnunet_pt.core.parts`.
        part_id: Number of this process.
        executor: Where the cases are worked on instead of in ``num_processes`` processes of this machine.

    Raises:
        UsageError: If there is no such part, or it is to start over alone.
    """

    dataset: int | str
    plans_name: str = "nnUNetPlans"
    configurations: tuple[str, ...] = DEFAULT_CONFIGURATIONS
    num_processes: int | tuple[int, ...] | None = None
    clean: bool = False
    verify: bool = False
    max_ram_gb: float | None = None
    progress: bool = True
    on_failure: Literal["stop", "continue"] = "stop"
    any_layout: bool = False
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

    def processes_for(self, index: int) -> int:
        """Worker processes for the configuration at this position."""
        if isinstance(self.num_processes, int):
            return self.num_processes
        if self.num_processes is not None:
            if len(self.num_processes) not in (1, len(self.configurations)):
                raise UsageError(
                    "The numbers of processes do not fit the configurations.",
                    found=f"{len(self.num_processes)} numbers for {len(self.configurations)} configurations",
                    expected="one number, or one for each configuration",
                )
            return self.num_processes[index if len(self.num_processes) > 1 else 0]
        return min(DEFAULT_PROCESSES.get(self.configurations[index], OTHER_PROCESSES), available_cpus())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationResult:
    """What happened to one configuration.

    Attributes:
        name: Name of the configuration.
        folder: Its data folder.
        made: Cases preprocessed now.
        kept: Cases that were already there and current.
        damaged: Cases found damaged, and rebuilt.
        failures: Cases that could not be preprocessed.
        missing_parts: Parts that have to be done before all are put together.
    """

    name: str
    folder: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]
    damaged: tuple[str, ...]
    failures: tuple[CaseFailure, ...]
    missing_parts: tuple[int, ...] = ()

    def summary(self) -> str:
        """One line."""
        parts = [f"{len(self.made)} preprocessed", f"{len(self.kept)} already there"]
        if self.damaged:
            parts.append(f"{len(self.damaged)} were damaged ({', '.join(self.damaged[:5])})")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        return f"{self.name}: {', '.join(parts)} -> {self.folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessResult:
    """What happened, by configuration.

    Attributes:
        dataset: Folder name of the dataset.
        configurations: One entry for each configuration worked on.
        skipped: Requested configurations that the plans do not have.
        part: Which of the cases.
    """

    dataset: str
    configurations: tuple[ConfigurationResult, ...]
    skipped: tuple[str, ...]
    part: Part = WHOLE

    @property
    def failures(self) -> tuple[CaseFailure, ...]:
        """All failed cases."""
        return tuple(f for c in self.configurations for f in c.failures)

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.dataset}{'' if self.part.is_whole else f', {self.part}'}"]
        for done in self.configurations:
            lines.append(f"  {done.summary()}")
            if done.missing_parts:
                lines.append(f"  {done.name}: {self.part.waiting_for(done.missing_parts)}.")
        if self.skipped:
            lines.append(f"  not in the plans, skipped: {', '.join(self.skipped)}")
        return "\n".join(lines)


def preprocess_dataset(request: PreprocessRequest, workspace: Workspace) -> PreprocessResult:
    """Preprocess the training cases of a dataset as its plans say.

    Cases that are there already, made from the same raw files with the same settings, are kept; everything else is
    made. The result equals that of an uninterrupted run from scratch.

    Raises:
        NnunetError: For missing or contradictory files; with ``on_failure="stop"`` for failing cases too.
    """
    name = resolve_dataset_name(request.dataset, workspace)
    target = workspace.preprocessed / name
    plans = Plans.load(target / f"{request.plans_name}.json")
    description = DatasetDescription.load(target / DATASET_FILE)
    labels = Labels.from_description(description)
    cases = training_cases(workspace.raw / name, description)
    check_dataset(cases, labels)
    known = [c for c in request.configurations if c in plans.configuration_names]
    skipped = tuple(c for c in request.configurations if c not in known)
    if not known:
        raise UnknownNameError.of(
            f"configuration in {request.plans_name} of {name}", ", ".join(skipped), plans.configuration_names
        )
    for missing in skipped:
        _log.info("%s has no configuration %s; skipped.", request.plans_name, missing)
    jobs = [(n, CaseSettings.of(plans, n, labels, description.channel_names)) for n in known]
    check_plans(jobs)
    for _, settings in jobs:
        PREPROCESSORS[settings.configuration.preprocessor_name]
    remove_leftovers(target)
    results = [
        _preprocess_configuration(
            request, n, settings, cases, target, request.processes_for(request.configurations.index(n))
        )
        for n, settings in jobs
    ]
    mine = set(request.part.own(c.identifier for c in cases))
    if any(r.missing_parts for r in results):
        cases = tuple(c for c in cases if c.identifier in mine)
    copy_ground_truth(cases, description.file_ending, target / GT_FOLDER)
    return PreprocessResult(dataset=name, configurations=tuple(results), skipped=skipped, part=request.part)


def _preprocess_configuration(
    request: PreprocessRequest,
    name: str,
    settings: CaseSettings,
    cases: Sequence[Case],
    target: Path,
    num_processes: int,
) -> ConfigurationResult:
    folder = target / settings.configuration.data_identifier
    make_folder(folder)
    remove_leftovers(folder)
    digests = {settings.digest()} | (_digests_of_others(settings, target) if request.any_layout else set())
    manifest = Manifest(folder, shared=not request.part.is_whole)
    notes = PartNotes(
        manifest.parts, request.part, {"plans": settings.digest(), "cases": sorted(c.identifier for c in cases)}
    )
    if request.part.is_whole:
        own = tuple(cases)
        if request.clean:
            manifest.clear()
        current, damaged = _sort_out(manifest, digests, cases, folder, read=request.verify)
        manifest.keep(current)
        notes.remove()  # the manifest holds what parts did
        _remove_outdated(folder, current)
    else:
        mine = set(request.part.own(c.identifier for c in cases))
        own = tuple(c for c in cases if c.identifier in mine)
        notes.begin()
        current, damaged = _sort_out(manifest, digests, own, folder, read=request.verify)
        _remove_stale(manifest, folder, mine - current)
    todo = [c for c in own if c.identifier not in current]
    if request.executor is None:
        threads = max(1, available_cpus() // max(1, min(num_processes, len(todo))))
    else:
        threads = request.executor.threads
    tasks = [
        CaseTask(
            case=case.identifier,
            argument=CaseJob(case=case, settings=settings, folder=folder, threads=threads),
            ram_bytes=ram,
        )
        for case, ram in zip(todo, map_in_threads(lambda c: estimate_ram(c, settings), todo), strict=True)
    ]
    try:
        outcome = map_cases(
            PREPROCESSORS[settings.configuration.preprocessor_name],
            tasks,
            num_workers=num_processes,
            max_ram_gb=request.max_ram_gb,
            description=f"Preprocessing {target.name} {name}",
            on_failure=request.on_failure,
            progress=request.progress,
            executor=request.executor,
            on_result=lambda _, record: manifest.add(record),
        )
    finally:
        remove_leftovers(folder)  # of workers that were killed
    missing: tuple[int, ...] = ()
    if request.part.is_whole:
        manifest.keep(manifest.records)
    elif not outcome.failures:
        notes.finish()
        missing = _put_together(notes, digests, cases, folder)
    return ConfigurationResult(
        name=name,
        folder=folder,
        made=tuple(outcome.results),
        kept=tuple(sorted(current)),
        damaged=damaged,
        failures=outcome.failures,
        missing_parts=missing,
    )


def _put_together(notes: PartNotes, digests: set[str], cases: Sequence[Case], folder: Path) -> tuple[int, ...]:
    """Make one data folder with one manifest of the parts if all are there; else tell which are missing."""
    manifest = Manifest(folder)
    names = [case.identifier for case in cases]
    # Records are looked at first: asking for the files of every case is slow, and for nothing while parts are missing
    missing = notes.part.missing(names, lambda n: any(r.settings in digests for r in manifest.candidates(n)))
    if missing:
        return missing
    current, _ = _sort_out(manifest, digests, cases, folder, read=False)
    missing = notes.part.missing(names, current.__contains__)
    if not missing:
        manifest.keep(current)
        _remove_outdated(folder, current)
        notes.remove()
    return missing


def _digests_of_others(settings: CaseSettings, target: Path) -> set[str]:
    """Digests under which other plans that share the folder make the same data, laid out for their patch size."""
    sharing = plans_sharing(settings.configuration.data_identifier, target, settings.labels, settings.channel_names)
    return {others.digest() for _, others in sharing if not differences(settings, others)}


def _sort_out(
    manifest: Manifest, digests: set[str], cases: Sequence[Case], folder: Path, *, read: bool
) -> tuple[set[str], tuple[str, ...]]:
    """Which cases need no work, and which of the recorded ones turned out damaged."""

    def looked_at(case: Case) -> tuple[list[CaseRecord], CaseRecord | None]:
        files = case.files
        records = [r for r in manifest.candidates(case.identifier) if r.is_current(digests, files)]
        return records, next((r for r in records if r.is_intact(folder, read=read)), None)

    current, damaged = set(), []
    for case, (records, intact) in zip(cases, map_in_threads(looked_at, cases), strict=True):
        if intact is not None:
            manifest.records[case.identifier] = intact
            current.add(case.identifier)
        elif records:
            damaged.append(case.identifier)
    return current, tuple(damaged)


def _remove_stale(manifest: Manifest, folder: Path, outdated: Iterable[str]) -> None:
    """Delete recorded files of outdated cases of a part, but none that another process made anew meanwhile."""
    for case in outdated:
        for record in manifest.candidates(case):
            for name, stamp in record.outputs.items():
                with contextlib.suppress(FileNotFoundError):
                    status = (folder / name).stat()
                    if (status.st_size, status.st_mtime_ns) == (stamp.size, stamp.mtime_ns):
                        (folder / name).unlink()


def _remove_outdated(folder: Path, current: set[str]) -> None:
    """Delete files of cases that will be made anew or do not exist any more, so that nothing stale is ever used."""
    wanted = {name for case in current for name in case_files(case)}
    with storage_errors(folder):
        for path in folder.iterdir():
            # What is being written belongs to a process that is about to end, or to another run
            if path.name not in wanted and not path.name.startswith(TEMPORARY_PREFIX) and path.is_file():
                path.unlink(missing_ok=True)


def estimate_ram(case: Case, settings: CaseSettings) -> int:
    """Peak memory for preprocessing a case in bytes, from the header of its first image."""
    header = readable_header(case, settings.reader_name)
    if header is None:
        return WORKER_RAM
    channels = max(len(case.images), header.num_channels)
    voxels = resampled = header.num_voxels // header.num_channels
    spacing = [header.spacing[a] for a in settings.transpose_forward]
    for old, new in zip(spacing, settings.configuration.spacing_for(spacing), strict=True):
        resampled = round(resampled * old / new)
    largest = max(voxels, resampled)
    return WORKER_RAM + voxels * (8 * channels + 8) + resampled * (8 * channels + 8) + largest * 16


def copy_ground_truth(cases: Sequence[Case], file_ending: str, folder: Path) -> None:
    """Copy label files that are missing or have changed, for evaluation without the raw data."""
    make_folder(folder)
    remove_leftovers(folder)
    for case in cases:
        if case.label is None:
            continue
        target = folder / f"{case.identifier}{file_ending}"
        with storage_errors(case.label):
            if not target.is_file() or _size_and_time(target) != _size_and_time(case.label):
                copy_file(case.label, target)


def _size_and_time(path: Path) -> tuple[int, float]:
    """The time to 2 s, since copies on some file systems have no better one."""
    status = path.stat()
    return status.st_size, status.st_mtime // 2
