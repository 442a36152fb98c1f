"""What an integrity check makes of dataset.json, the files of a dataset, and the results of its cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.case_check import CaseResult
from nnunet_pt.dataset.cases import Case, Discovery, unrelated_files
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.integrity_report import Finding
from nnunet_pt.dataset.labels import Labels


def description_findings(description: DatasetDescription) -> Iterable[Finding]:
    """What is odd about dataset.json."""
    if description.upgraded_from:
        yield Finding(kind="old_description", text=f"written for {description.upgraded_from}")
    for kind, text in description.notes.items():
        yield Finding(kind=kind, text=text)
    values = Labels.from_description(description).file_values
    gaps = sorted(set(range(max(values) + 1)) - set(values))
    if gaps or min(values) < 0:
        found = ", ".join(map(str, values))
        yield Finding(kind="label_gap", text=f"found {found}; expected 0, 1, 2... without gaps")


def file_findings(folder: Path, description: DatasetDescription, discovery: Discovery) -> Iterable[Finding]:
    """Files that are missing or belong to nothing, in a raw dataset's folder."""
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
        for path in missing_files(case):
            yield Finding(kind="folder", text=f"{path} does not exist", case=case.identifier)


def missing_files(case: Case) -> list[Path]:
    """Files of a case that do not exist."""
    return [path for path in case.files if not path.exists()]


def own_findings(results: Mapping[str, CaseResult]) -> Iterable[Finding]:
    """Those of each case, by its name."""
    for identifier, result in results.items():
        yield from (Finding(kind=kind, text=text, case=identifier) for kind, text in result.findings)


def all_findings(
    results: Mapping[str, CaseResult], description: DatasetDescription, num_cases: int
) -> Iterable[Finding]:
    """Those of each case, and those that only show when all are known."""
    yield from own_findings(results)
    if results:
        yield from _duplicates(results)
        yield from _unused_labels(description, results, num_cases=num_cases)


def _duplicates(results: Mapping[str, CaseResult]) -> Iterable[Finding]:
    seen: dict[str, tuple[str, str]] = {}
    for identifier, result in sorted(results.items()):
        for name, digest in result.digests.items():
            if digest in seen:
                other_case, other_name = seen[digest]
                text = f"{name} has the same voxels as {other_name} of case {other_case}"
                yield Finding(kind="duplicate_image", text=text, case=identifier)
            else:
                seen[digest] = (identifier, name)


def _unused_labels(
    description: DatasetDescription, results: Mapping[str, CaseResult], num_cases: int
) -> Iterable[Finding]:
    if len(results) < num_cases or any(not r.labels for r in results.values()):
        return  # a label may be in a file that could not be read
    used = {label for result in results.values() for label in result.labels}
    for name, value in description.labels.items():
        absent = sorted({value} - used) if isinstance(value, int) else sorted(set(value) - used)
        if absent:
            yield Finding(kind="unused_label", text=f'"{name}": {", ".join(map(str, absent))}')
