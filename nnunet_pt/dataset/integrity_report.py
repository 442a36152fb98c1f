"""What an integrity check found, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nnunet_pt.core.parts import WHOLE, Part
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import shortened

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
        part: The cases that it is about.
    """

    dataset: str
    num_cases: int
    findings: tuple[Finding, ...]
    part: Part = WHOLE

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
        name = self.dataset if self.part.is_whole else f"{self.dataset}, {self.part}"
        head = f"Integrity of {name}: {counted(self.num_cases, 'case')}"
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
