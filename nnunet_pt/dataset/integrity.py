"""The integrity check: every finding about every case of a raw dataset, in one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, ImageError, NnunetError, StorageError
from nnunet_pt.core.files import (
    digest_of,
    make_folder,
    read_json,
    remove_leftovers,
    storage_errors,
    temporary_folder,
    write_json,
)
from nnunet_pt.core.parts import WHOLE, Part, names_in, remove_at_once, retried
from nnunet_pt.core.workers import CaseTask, Executor, map_cases, map_in_threads
from nnunet_pt.dataset.case_check import CaseCheck, CaseResult, check_case, kept_result
from nnunet_pt.dataset.cases import Case, discover_training_cases
from nnunet_pt.dataset.description import FILE_NAME, DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.registry import choose_reader_writer, reader_writer_by_name
from nnunet_pt.dataset.integrity_findings import (
    all_findings,
    description_findings,
    file_findings,
    missing_files,
    own_findings,
)
from nnunet_pt.dataset.integrity_report import KINDS, Finding, IntegrityReport
from nnunet_pt.dataset.labels import Labels

REPORT_NAME = "integrity_report.json"
MAX_EXAMPLES = 20  # images that may be damaged before no reader is found
WORK_BYTES_PER_VOXEL = 16  # besides the file's own: float32, a second copy, and integers for counting labels

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checking:
    """How cases are checked, and where the report goes."""

    num_workers: int
    max_ram_gb: float | None = None
    progress: bool = True
    executor: Executor | None = None
    report_path: Path | None = None
    part: Part = WHOLE

    @property
    def folder(self) -> Path | None:
        """Where results are kept until all cases have been checked."""
        return None if self.report_path is None else self.report_path.with_suffix(".parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """The report about the cases of this process, and about all cases unless other parts are missing."""

    own: IntegrityReport
    whole: IntegrityReport | None
    missing: tuple[int, ...] = ()


def verify_dataset_integrity(
    raw_dataset_folder: Path,
    *,
    num_workers: int,
    max_ram_gb: float | None = None,
    progress: bool = True,
    report_path: Path | None = None,
    executor: Executor | None = None,
    part: Part = WHOLE,
    clean: bool = False,
) -> IntegrityReport:
    """Check a raw dataset, print the report, and refuse the dataset if there are errors.

    With a ``report_path`` results are kept beside it until the dataset has passed: a check that was interrupted goes
    on, and after errors only cases are read again that had errors or have changed since.

    Args:
        raw_dataset_folder: ``nnUNet_raw/DatasetXXX_Name``.
        num_workers: Worker processes.
        max_ram_gb: Memory budget of the workers; by default most of what is free.
        progress: Show the progress.
        report_path: Where to write the report as JSON; nowhere by default.
        executor: Where the cases are checked instead of in ``num_workers`` processes of this machine.
        part: The cases to check. The part that ends last writes the report about all; needs ``report_path``.
        clean: Forget what was kept.

    Returns:
        The report about the cases of this part, which holds no errors.

    Raises:
        DatasetError: If there are errors; its text is the report.
    """
    checking = _Checking(
        num_workers=num_workers,
        max_ram_gb=max_ram_gb,
        progress=progress,
        executor=executor,
        report_path=report_path,
        part=part,
    )
    if clean and checking.folder is not None:
        remove_at_once(checking.folder)
    outcome = _check_and_report(raw_dataset_folder, checking)
    where = None if report_path is None or outcome.whole is None else f"the complete report is {report_path}"
    if outcome.own.errors:
        raise DatasetError(outcome.own.text(), remedy=where)
    _say(outcome, where)
    return outcome.own


def check_dataset(raw_dataset_folder: Path, *, num_workers: int, progress: bool = True) -> IntegrityReport:
    """Like :func:`verify_dataset_integrity`, but only gives the report."""
    return _check(raw_dataset_folder, _Checking(num_workers=num_workers, progress=progress)).own


def dataset_state(raw_dataset_folder: Path) -> str:
    """Something that changes with dataset.json and the files of the training cases; empty if they cannot be listed."""
    try:
        path = raw_dataset_folder / FILE_NAME
        cases = discover_training_cases(raw_dataset_folder, DatasetDescription.load(path)).cases
        with storage_errors(raw_dataset_folder):
            states = map_in_threads(lambda case: (case.identifier, case.state()), cases)
        return digest_of([read_json(path), states])
    except NnunetError:
        return ""


def has_passed(report_path: Path, state: str) -> bool:
    """Whether there is a report without errors about a dataset in this :func:`dataset_state`."""
    if not state:
        return False
    try:
        report = read_json(report_path)
    except StorageError:
        return False
    return isinstance(report, dict) and bool(report.get("passed")) and report.get("state") == state


def _check_and_report(raw_dataset_folder: Path, checking: _Checking) -> _Outcome:
    """Check, write the report if all parts have been checked, and keep results no longer than they are needed."""
    report_path, folder = checking.report_path, checking.folder
    if report_path is None or folder is None:
        return _check(raw_dataset_folder, checking)
    state = dataset_state(raw_dataset_folder)
    name = raw_dataset_folder.name
    before = _Outcome(own=IntegrityReport(dataset=name, num_cases=0, findings=(), part=checking.part), whole=None)
    if not checking.part.is_whole and has_passed(report_path, state):
        return before
    outcome = _check(raw_dataset_folder, checking)
    if outcome.whole is not None:
        write_json(report_path, {**outcome.whole.to_json(), "state": state})
    if not has_passed(report_path, state):
        return outcome
    remove_at_once(folder)
    return before if outcome.whole is None else outcome  # other processes did this part, too, and were faster


def _say(outcome: _Outcome, where: str | None) -> None:
    own, whole = outcome.own, outcome.whole
    if whole is not None and whole.errors:
        _log.warning("%s\n  Other parts found errors: %s", own.text(), where)
    elif whole is not None:
        _log.info(whole.text() + (f"\n  {where}" if where and whole.findings else ""))
    elif outcome.missing:
        _log.info("%s\n  %s.", own.text(), own.part.waiting_for(outcome.missing))
    else:
        _log.info("Integrity of %s: all parts have been checked, and no file has changed since.", own.dataset)


def _check(raw_dataset_folder: Path, checking: _Checking) -> _Outcome:
    name = raw_dataset_folder.name
    try:
        description = DatasetDescription.load(raw_dataset_folder / FILE_NAME)
    except NnunetError as error:
        return _alone(name, 0, [Finding(kind="description", text=error.text())])
    findings = list(description_findings(description))
    try:
        discovery = discover_training_cases(raw_dataset_folder, description)
    except NnunetError as error:
        return _alone(name, 0, [*findings, Finding(kind="folder", text=error.text())])
    findings += file_findings(raw_dataset_folder, description, discovery)
    num_cases = len(discovery.cases) + len(discovery.missing)
    try:
        checks = _case_checks(description, discovery.cases, checking.folder)
    except NnunetError as error:
        return _alone(name, num_cases, [*findings, Finding(kind="reader", text=error.text())])
    part = checking.part
    mine = set(part.own(check.case.identifier for check in checks))
    results, crashed = _results([check for check in checks if check.case.identifier in mine], checking)
    if part.is_whole:
        whole = _report(name, num_cases, [*findings, *crashed, *all_findings(results, description, len(checks))])
        return _Outcome(own=whole, whole=whole)
    own = _report(name, len(mine), [*findings, *crashed, *own_findings(results)], part)
    everything, missing = _of_all_parts(checks, checking)
    if missing:
        return _Outcome(own=own, whole=None, missing=missing)
    return _Outcome(
        own=own, whole=_report(name, num_cases, [*findings, *all_findings(everything, description, len(checks))])
    )


def _alone(dataset: str, num_cases: int, findings: Iterable[Finding]) -> _Outcome:
    """What is wrong before any case is looked at."""
    report = _report(dataset, num_cases, findings)
    return _Outcome(own=report, whole=report)


def _report(dataset: str, num_cases: int, findings: Iterable[Finding], part: Part = WHOLE) -> IntegrityReport:
    order = list(KINDS)
    ordered = sorted(findings, key=lambda f: (order.index(f.kind), f.case or ""))
    return IntegrityReport(dataset=dataset, num_cases=num_cases, findings=tuple(ordered), part=part)


def _case_checks(description: DatasetDescription, cases: Sequence[Case], folder: Path | None) -> list[CaseCheck]:
    """What has to be checked.

    Raises:
        NnunetError: If no reader suits the images.
    """
    if description.cases is not None:
        cases = [case for case in cases if not missing_files(case)]
    if not cases:
        return []
    labels = Labels.from_description(description)
    reader = _reader(description, cases)
    return [
        CaseCheck(
            case=case,
            reader_name=reader.name,
            num_channels=description.num_channels,
            labels=labels.file_values,
            ignore_label=labels.ignore_label,
            folder=folder,
        )
        for case in cases
    ]


def _results(checks: Sequence[CaseCheck], checking: _Checking) -> tuple[dict[str, CaseResult], list[Finding]]:
    """Results of cases by name, and what broke off. Cases that had errors are checked again, whatever was kept."""
    if checking.folder is not None:
        remove_leftovers(make_folder(checking.folder))
    kept = {
        check.case.identifier: result
        for check, result in zip(checks, map_in_threads(kept_result, checks), strict=True)
        if result is not None and not any(KINDS[kind][0] == "error" for kind, _ in result.findings)
    }
    todo = [check for check in checks if check.case.identifier not in kept]
    outcome = map_cases(
        check_case,
        [
            CaseTask(case=check.case.identifier, argument=check, ram_bytes=ram)
            for check, ram in zip(todo, map_in_threads(_ram_bytes, todo), strict=True)
        ],
        num_workers=checking.num_workers,
        max_ram_gb=checking.max_ram_gb,
        description="Checking the dataset",
        on_failure="continue",
        progress=checking.progress,
        executor=checking.executor,
    )
    crashed = [Finding(kind="crashed", text=failure.reason, case=failure.case) for failure in outcome.failures]
    return {**kept, **outcome.results}, crashed


def _of_all_parts(checks: Sequence[CaseCheck], checking: _Checking) -> tuple[dict[str, CaseResult], tuple[int, ...]]:
    """The results of all cases, and which parts are missing; the names of files are looked at first, which is quick."""
    part, names = checking.part, [check.case.identifier for check in checks]
    there = _kept_names(checking.folder)
    missing = part.missing(names, there.__contains__)
    if missing:
        return {}, missing
    kept = zip(names, map_in_threads(kept_result, checks), strict=True)
    results = {name: result for name, result in kept if result is not None}
    return results, part.missing(names, results.__contains__)


def _kept_names(folder: Path | None) -> set[str]:
    """Cases of which a result is kept, whatever it is worth."""
    if folder is None:
        return set()

    def look() -> None:  # the file system of a network shows what others did to whoever changes the folder
        with temporary_folder(folder):
            pass

    retried(look, folder)
    return {Path(name).stem for name in names_in(folder)}


def _reader(description: DatasetDescription, cases: Sequence[Case]) -> ImageReaderWriter:
    """The reader that the first intact image asks for: a damaged one must not end the check."""
    first_error: ImageError | None = None
    for case in cases[:MAX_EXAMPLES]:
        try:
            return choose_reader_writer(description, case.images[0])
        except ImageError as error:
            first_error = first_error or error
    raise first_error or AssertionError("there is at least one case")


def _ram_bytes(check: CaseCheck) -> int:
    try:
        header = reader_writer_by_name(check.reader_name).read_header(check.case.images[0])
    except ImageError:
        return 0  # the check will tell
    return header.num_voxels * (header.voxel_bytes + WORK_BYTES_PER_VOXEL)
