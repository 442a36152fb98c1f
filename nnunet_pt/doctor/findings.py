"""What a check has found, why it matters, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Status = Literal["ok", "note", "problem"]

GROUPS: Final[Mapping[str, str]] = {
    "folders": "Folders",
    "machine": "Machine",
    "gpu": "GPU",
    "software": "Software",
    "dataset": "Dataset",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        key: Name for programs, "group.check"; the group is one of :data:`GROUPS`.
        title: Name for people.
        status: "ok", "note" (works, but could be better) or "problem" (something will fail, or be very slow).
        found: What there is.
        why: Why it matters; empty if all is well.
        remedy: What to do; empty if all is well.
        values: The same as numbers and words, for programs.
    """

    key: str
    title: str
    status: Status
    found: str
    why: str = ""
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, key: str, title: str, status: Status, found: str, why: str = "", remedy: str = "", **values: Any
    ) -> Finding:
        """A finding that says why and what to do only if something is not as it should be."""
        calm = status == "ok"
        return cls(
            key=key,
            title=title,
            status=status,
            found=found,
            why="" if calm else why,
            remedy="" if calm else remedy,
            values=values,
        )

    @property
    def group(self) -> str:
        """The group of the check."""
        return self.key.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """The JSON object; keys are part of the interface."""
        return {
            "key": self.key,
            "status": self.status,
            "found": self.found,
            "why": self.why,
            "remedy": self.remedy,
            "values": dict(self.values),
        }


def gigabytes(size: float) -> str:
    """A number of bytes in words: ``1.5 GB`` (1 GB = 2**30 bytes)."""
    value = size / 2**30
    if value >= 100:
        return f"{value:.0f} GB"
    return f"{value:.1f} GB" if value >= 0.95 else f"{size / 2**20:.0f} MB"
