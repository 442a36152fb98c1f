"""The integrity check: every finding about every case of a raw dataset, in one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, ImageError, NnunetError
from nnunet_pt.core.files import write_json
from nnunet_pt.core.wording import counted
from nnunet_pt.core.workers import CaseTask, Executor, MapResult, map_cases, map_in_threads
from nnunet_pt.dataset.case_check import CaseCheck, CaseResult, check_case
from nnunet_pt.dataset.cases import (
    Case,
    Discovery,
    discover_training_cases,
    shortened,
    unrelated_files,
)
from nnunet_pt.dataset.description import FILE_NAME, DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.registry import choose_reader_writer
from nnunet_pt.dataset.labels import Labels

REPORT_NAME = "integrity_report.json"
MAX_EXAMPLES = 20  # images that may be damaged before no reader is found
WORK_BYTES_PER_VOXEL = 16  # besides the file's own: float32, a second copy, and integers for counting labels

Severity = Literal["error", "warning"]

# Kind of finding -> severity, heading, what to do. What nnU-Net refuses is an error; so is what would spoil training.
KINDS: dict[str, tuple[Severity, str, str]] = {
    "description": ("error", "dataset.json cannot be used", "correct dataset.json"),
    "channel_order": ("error", "the channels of dataset.json are out of order", "write the keys in ascending order"),
    "num_training": ("error", "numTraining is wrong", "correct numTraining in dataset.json, or add the missing cases"),
    "label_gap": ("error", "label values are not consecutive", "renumber the labels without gaps, starting from 0"),
    "folder": ("error", "files or folders are missing", "add them, or correct the paths in dataset.json"),
    "reader": ("error", "no reader suits the images", "correct file_ending or overwrite_image_reader_writer"),
    "incomplete_case": ("error", "cases lack files", "add the files, or move the cases away"),
    "unnumbered_file": ("error", "files without a channel number", "rename them to <case>_0000, or move them away"),
    "unreadable": ("error", "files cannot be read", "replace them with intact copies, or remove the cases"),
    "crashed": ("error", "checking broke off", "see the messages above; use fewer processes if memory ran out"),
    "channel_count": ("error", "wrong number of channels", "correct channel_names, or add or remove channels"),
    "channel_mismatch": ("error", "channels do not fit together", "resample them onto one grid"),
    "label_mismatch": ("error", "image and label do not fit together", "resample the label onto the image's grid"),
    "nan_image": ("error", "images hold NaN", "replace these values, for example by 0"),
    "infinite_image": ("error", "images hold infinite values", "replace these values"),
    "nan_label": ("error", "labels hold NaN", "correct the labels"),
    "infinite_label": ("error", "labels hold infinite values", "correct the labels"),
    "non_integer_label": ("error", "labels hold values that are not whole", "resample labels by nearest neighbour"),
    "unexpected_label": (
        "error",
        "labels hold values that dataset.json does not name",
        "correct labels in one of both",
    ),
    "old_description": ("warning", "dataset.json is of an old kind", "it is understood here; nnU-Net v2 refuses it"),
    "background_name": ("warning", "dataset.json has no label called background", "look whether this is meant"),
    "orientation": ("warning", "position or orientation differs", "check that they show the same place"),
    "constant_image": ("warning", "images are constant", "look whether these cases are useful"),
    "empty_label": ("warning", "labels hold no foreground", "look whether these cases are meant to be empty"),
    "duplicate_image": ("warning", "images occur more than once", "remove copies: they leak between training sets"),
    "unused_label": ("warning", "labels occur in no case", "look whether annotations are missing"),
    "unused_file": ("warning", "files that belong to no case", "they are ignored; move them away"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes:
        kind: A key of :data:`KINDS`.
        text: Details.
        case: The case, if it concerns one.
    """

    kind: str
    text: str
    case: str | None = None

    @property
    def severity(self) -> Severity:
        """Error or warning."""
        return KINDS[self.kind][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrityReport:
    """The outcome of a check.

    Attributes:
        dataset: Name of the dataset.
        num_cases: Cases that were found, complete or not.
        findings: Everything, in the order of :data:`KINDS`.
    """

    dataset: str
    num_cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What keeps the dataset from being used."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is worth a look."""
        return tuple(f for f in self.findings if f.severity == "warning")

    def text(self) -> str:
        """The report for the terminal, grouped by kind; long lists are cut."""
        head = f"Integrity of {self.dataset}: {counted(self.num_cases, 'case')}"
        if not self.findings:
            return f"{head}, nothing to complain about."
        totals = f"{counted(len(self.errors), 'error')}, {counted(len(self.warnings), 'warning')}"
        lines = [f"{head}, {totals}."]
        for kind, (severity, heading, advice) in KINDS.items():
            group = [f for f in self.findings if f.kind == kind]
            if group:
                cases = len({f.case for f in group if f.case is not None})
                count = f" ({counted(cases, 'case')})" if cases else ""
                lines.append(f"{severity.upper()}: {heading}{count}; {advice}")
                lines.append(shortened(f"  - {f'{f.case}: ' if f.case else ''}{f.text}" for f in group))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report for a file, nothing cut."""
        return {
            "dataset": self.dataset,
            "passed": not self.errors,
            "num_cases": self.num_cases,
            "num_errors": len(self.errors),
            "num_warnings": len(self.warnings),
            "findings": [
                {"severity": f.severity, "kind": f.kind, "meaning": KINDS[f.kind][1], "case": f.case, "text": f.text}
                for f in self.findings
            ],
        }


def verify_dataset_integrity(
    raw_dataset_folder: Path,
    *,
    num_workers: int,
    max_ram_gb: float | None = None,
    progress: bool = True,
    report_path: Path | None = None,
    executor: Executor | None = None,
) -> IntegrityReport:
    """Check a raw dataset, print the report, and refuse the dataset if there are errors.

    Args:
        raw_dataset_folder: ``nnUNet_raw/DatasetXXX_Name``.
        num_workers: Worker processes.
        max_ram_gb: Memory budget of the workers; by default most of what is free.
        progress: Show the progress.
        report_path: Where to write the report as JSON; nowhere by default.
        executor: Where the cases are checked instead of in ``num_workers`` processes of this machine.

    Returns:
        The report, which holds no errors.

    Raises:
        DatasetError: If there are errors; its text is the report.
    """
    report = check_dataset(
        raw_dataset_folder, num_workers=num_workers, max_ram_gb=max_ram_gb, progress=progress, executor=executor
    )
    if report_path is not None:
        write_json(report_path, report.to_json())
    where = None if report_path is None else f"the complete report is {report_path}"
    if report.errors:
        raise DatasetError(report.text(), remedy=where)
    get_logger(__name__).info(report.text() + (f"\n  {where}" if where and report.findings else ""))
    return report


def check_dataset(
    raw_dataset_folder: Path,
    *,
    num_workers: int,
    max_ram_gb: float | None = None,
    progress: bool = True,
    executor: Executor | None = None,
) -> IntegrityReport:
    """Like :func:`verify_dataset_integrity`, but only gives the report."""
    name = raw_dataset_folder.name
    try:
        description = DatasetDescription.load(raw_dataset_folder / FILE_NAME)
    except NnunetError as error:
        return IntegrityReport(dataset=name, num_cases=0, findings=(Finding(kind="description", text=error.text()),))
    findings = list(_description_findings(description))
    try:
        discovery = discover_training_cases(raw_dataset_folder, description)
    except NnunetError as error:
        findings.append(Finding(kind="folder", text=error.text()))
        discovery = Discovery(cases=(), missing={}, foreign=())
    else:
        findings += _file_findings(raw_dataset_folder, description, discovery)
        findings += _case_findings(description, discovery.cases, num_workers, max_ram_gb, progress, executor)
    order = list(KINDS)
    findings.sort(key=lambda f: (order.index(f.kind), f.case or ""))
    num_cases = len(discovery.cases) + len(discovery.missing)
    return IntegrityReport(dataset=name, num_cases=num_cases, findings=tuple(findings))


def _description_findings(description: DatasetDescription) -> Iterable[Finding]:
    if description.upgraded_from:
        yield Finding(kind="old_description", text=f"written for {description.upgraded_from}")
    for kind, text in description.notes.items():
        yield Finding(kind=kind, text=text)
    values = Labels.from_description(description).file_values
    gaps = sorted(set(range(max(values) + 1)) - set(values))
    if gaps or min(values) < 0:
        found = ", ".join(map(str, values))
        yield Finding(kind="label_gap", text=f"found {found}; expected 0, 1, 2... without gaps")


def _file_findings(folder: Path, description: DatasetDescription, discovery: Discovery) -> Iterable[Finding]:
    num_cases = len(discovery.cases) + len(discovery.missing)
    there = f"there {'is' if num_cases == 1 else 'are'} {counted(num_cases, 'case')}"
    if description.num_training is None:
        yield Finding(kind="num_training", text=f"numTraining is missing, {there}")
    elif description.num_training != num_cases:
        yield Finding(kind="num_training", text=f"numTraining is {description.num_training}, {there}")
    if not num_cases:
        yield Finding(kind="folder", text=f"there are no cases with the ending {description.file_ending} in {folder}")
    for identifier, text in discovery.missing.items():
        yield Finding(kind="incomplete_case", text=text, case=identifier)
    for path in discovery.foreign:
        yield Finding(kind="unnumbered_file", text=str(path.relative_to(folder)))
    if description.cases is None:
        unused = (*discovery.without_images, *unrelated_files(folder, description.file_ending))
        yield from (Finding(kind="unused_file", text=str(path.relative_to(folder))) for path in unused)
        return
    for case in discovery.cases:
        for path in _missing_files(case):
            yield Finding(kind="folder", text=f"{path} does not exist", case=case.identifier)


def _missing_files(case: Case) -> list[Path]:
    return [path for path in (*case.images, case.label) if path is not None and not path.exists()]


def _case_findings(
    description: DatasetDescription,
    cases: Sequence[Case],
    num_workers: int,
    max_ram_gb: float | None,
    progress: bool,
    executor: Executor | None,
) -> Iterable[Finding]:
    if description.cases is not None:
        cases = [case for case in cases if not _missing_files(case)]
    if not cases:
        return
    try:
        reader = _reader(description, cases)
    except NnunetError as error:
        yield Finding(kind="reader", text=error.text())
        return
    labels = Labels.from_description(description)
    tasks = [
        CaseTask(
            case=case.identifier,
            argument=CaseCheck(
                case=case,
                reader_name=reader.name,
                num_channels=description.num_channels,
                labels=labels.file_values,
                ignore_label=labels.ignore_label,
            ),
            ram_bytes=ram,
        )
        for case, ram in zip(cases, map_in_threads(lambda c: _ram_bytes(reader, c), cases), strict=True)
    ]
    outcome = map_cases(
        check_case,
        tasks,
        num_workers=num_workers,
        max_ram_gb=max_ram_gb,
        description="Checking the dataset",
        on_failure="continue",
        progress=progress,
        executor=executor,
    )
    for failure in outcome.failures:
        yield Finding(kind="crashed", text=failure.reason, case=failure.case)
    for identifier, result in outcome.results.items():
        yield from (Finding(kind=kind, text=text, case=identifier) for kind, text in result.findings)
    yield from _duplicates(outcome)
    yield from _unused_labels(description, outcome, num_cases=len(tasks))


def _reader(description: DatasetDescription, cases: Sequence[Case]) -> ImageReaderWriter:
    """The reader that the first intact image asks for: a damaged one must not end the check."""
    first_error: ImageError | None = None
    for case in cases[:MAX_EXAMPLES]:
        try:
            return choose_reader_writer(description, case.images[0])
        except ImageError as error:
            first_error = first_error or error
    raise first_error or AssertionError("there is at least one case")


def _ram_bytes(reader: ImageReaderWriter, case: Case) -> int:
    try:
        header = reader.read_header(case.images[0])
    except ImageError:
        return 0  # the check will tell
    return header.num_voxels * (header.voxel_bytes + WORK_BYTES_PER_VOXEL)


def _duplicates(outcome: MapResult[CaseResult]) -> Iterable[Finding]:
    seen: dict[str, tuple[str, str]] = {}
    for identifier, result in outcome.results.items():
        for name, digest in result.digests.items():
            if digest in seen:
                other_case, other_name = seen[digest]
                text = f"{name} has the same voxels as {other_name} of case {other_case}"
                yield Finding(kind="duplicate_image", text=text, case=identifier)
            else:
                seen[digest] = (identifier, name)


def _unused_labels(
    description: DatasetDescription, outcome: MapResult[CaseResult], num_cases: int
) -> Iterable[Finding]:
    if len(outcome.results) < num_cases or any(not r.labels for r in outcome.results.values()):
        return  # a label may be in a file that could not be read
    used = {label for result in outcome.results.values() for label in result.labels}
    for name, value in description.labels.items():
        absent = sorted({value} - used) if isinstance(value, int) else sorted(set(value) - used)
        if absent:
            yield Finding(kind="unused_label", text=f'"{name}": {", ".join(map(str, absent))}')
