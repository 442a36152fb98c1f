"""``prediction_report.json``: what became of every case, kept beside the predictions while they are made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_pt.core.console import duration
from nnunet_pt.core.errors import NnunetError, StorageError
from nnunet_pt.core.files import read_json, write_json
from nnunet_pt.core.wording import counted

STEM = "prediction_report"
SAVE_INTERVAL_S = 5.0

WAITING = "waiting"
OUTDATED = "outdated"  # waiting, and there is a prediction of an earlier run
DONE = "done"
FAILED = "failed"
SKIPPED = "skipped"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """What became of a case.

    Attributes:
        status: "waiting", "outdated", "done", "failed" or "skipped".
        reason: Why it failed or was skipped.
        seconds: How long its prediction took, without reading and writing, which happen beside it.
    """

    status: str
    reason: str | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as it is written."""
        result: dict[str, Any] = {"status": self.status}
        if self.reason is not None:
            result["reason"] = self.reason
        if self.seconds is not None:
            result["seconds"] = round(self.seconds, 3)
        return result


class PredictionReport:
    """The cases of one run, on disk at any time.

    Args:
        path: The file, see :func:`report_path`.
        facts: What is worth knowing about the run: model, settings, versions.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts = dict(facts)
        self.cases: dict[str, CaseRecord] = {}
        self._status = "running"
        self._started = self._saved = time.monotonic()
        self.facts["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")

    def expect(self, case: str, *, outdated: bool) -> None:
        """A case is going to be predicted; ``outdated`` if an earlier run's prediction of it is there until then."""
        self.cases[case] = CaseRecord(status=OUTDATED if outdated else WAITING)

    def done(self, case: str, seconds: float) -> None:
        """A case is predicted and written."""
        self.cases[case] = CaseRecord(status=DONE, seconds=seconds)
        self._save_sometimes()

    def failed(self, case: str, reason: Exception | str, seconds: float | None = None) -> None:
        """A case cannot be predicted."""
        before = self.cases.get(case)
        text = reason_text(reason)
        if before is not None and before.status == OUTDATED:
            text += "\nThe prediction that is there is of an earlier run."
        self.cases[case] = CaseRecord(status=FAILED, reason=text, seconds=seconds)
        self._save_sometimes()

    def skipped(self, case: str, reason: str) -> None:
        """A case is not predicted, because it need not."""
        self.cases[case] = CaseRecord(status=SKIPPED, reason=reason)

    def names(self, status: str) -> list[str]:
        """The cases of a status."""
        return [case for case, record in self.cases.items() if record.status == status]

    @property
    def failures(self) -> dict[str, str]:
        """Failed cases: name to reason."""
        return {case: r.reason or "" for case, r in self.cases.items() if r.status == FAILED}

    def finish(self, *, completely: bool) -> None:
        """Write the last state of the report.

        Args:
            completely: Whether everything was tried. If not, there is a better reason to complain than the report.

        Raises:
            StorageError: If it cannot be written.
        """
        self._status = "finished" if completely else _INTERRUPTED
        with contextlib.nullcontext() if completely else contextlib.suppress(StorageError):
            self.save()

    def save(self) -> None:
        """Write the report.

        Raises:
            StorageError: If it cannot be written.
        """
        statuses = (DONE, FAILED, SKIPPED, WAITING, OUTDATED)
        counts = {status: len(self.names(status)) for status in statuses}
        content = {
            "status": self._status,
            **self.facts,
            "seconds": round(time.monotonic() - self._started, 1),
            "num_cases": {status: number for status, number in counts.items() if number or status != OUTDATED},
            "cases": {case: record.to_json() for case, record in sorted(self.cases.items())},
        }
        write_json(self.path, content)
        self._saved = time.monotonic()

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._saved >= SAVE_INTERVAL_S:
            with contextlib.suppress(StorageError):  # predictions matter more; the last report will tell
                self.save()

    def summary(self) -> str:
        """What was predicted and where, and each failed case with its reason."""
        done, skipped, failures = self.names(DONE), self.names(SKIPPED), self.failures
        took = time.monotonic() - self._started
        each = f", {_short(took / len(done))} per case" if done else ""
        parts = [f"{counted(len(done), 'case')} predicted"]
        parts += [f"{len(skipped)} skipped (predicted before)"] if skipped else []
        parts += [f"{len(failures)} failed"] if failures else []
        lines = [f"{', '.join(parts)}{each}: {self.path.parent} (details: {self.path.name})"]
        lines += [f"  - {case}: {reason}".replace("\n", "\n    ") for case, reason in failures.items()]
        return "\n".join(lines)


def report_path(folder: Path, *, num_parts: int = 1, part_id: int = 0) -> Path:
    """The report of a run, or of one of the runs that share the cases of a folder."""
    part = f"_part_{part_id}_of_{num_parts}" if num_parts > 1 else ""
    return folder / f"{STEM}{part}.json"


def earlier_reports(folder: Path) -> list[dict[str, Any]]:
    """The readable reports in a folder, the newest last."""
    found: list[tuple[float, dict[str, Any]]] = []
    for path in folder.glob(f"{STEM}*.json"):
        try:
            content = read_json(path)
            if isinstance(content, dict) and isinstance(content.get("cases"), dict):
                found.append((path.stat().st_mtime, content))
        except (NnunetError, OSError):  # a damaged report keeps nobody from predicting
            continue
    return [content for _, content in sorted(found, key=lambda item: item[0])]


def outdated_cases(reports: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Cases whose prediction, if there is one, is older than the run that was to replace it."""
    status: dict[str, object] = {}
    for report in reports:
        status |= {case: r.get("status") for case, r in report["cases"].items() if isinstance(r, dict)}
    return frozenset(case for case, value in status.items() if value in (OUTDATED, FAILED))


def reason_text(error: Exception | str) -> str:
    """Why a case failed."""
    if isinstance(error, str):
        return error
    return error.text() if isinstance(error, NnunetError) else f"{type(error).__name__}: {error}"


def _short(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
