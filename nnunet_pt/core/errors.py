"""Errors a user can meet: what is wrong, where, what was found, what was expected, what to do.

Everything a command can fail with because of its input derives from :class:`NnunetError`. The command line prints the
text and no traceback; the exit status is the class attribute ``exit_status``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY_NAMES = 30


class NnunetError(Exception):
    """A problem the user can solve.

    Args:
        problem: One sentence: what is wrong, naming the file or case.
        found: What was found.
        expected: What was expected instead.
        remedy: What to do about it.
    """

    exit_status = 1

    def __init__(
        self, problem: str, *, found: object = None, expected: object = None, remedy: str | None = None
    ) -> None:
        self.problem = problem
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(self.text())

    def text(self) -> str:
        """The message over several lines, without a traceback."""
        lines = [self.problem]
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.remedy is not None:
            lines.append(f"  to do:    {self.remedy}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments survive the way back from a worker
        return (_rebuild, (type(self), self.problem, self.found, self.expected, self.remedy))


def _rebuild(cls: type[NnunetError], problem: str, found: object, expected: object, remedy: str | None) -> NnunetError:
    return cls(problem, found=found, expected=expected, remedy=remedy)


class UsageError(NnunetError):
    """Arguments that cannot be meant (exit status 2)."""

    exit_status = 2


class SettingsError(NnunetError):
    """An environment variable is missing or unusable."""


class DatasetError(NnunetError):
    """The raw dataset is incomplete or contradicts itself."""


class ImageError(NnunetError):
    """An image file cannot be read, or does not fit the others of its case."""


class PlansError(NnunetError):
    """A plans or fingerprint file is missing, damaged, or asks for something that does not exist."""


class StorageError(NnunetError):
    """A file or folder cannot be written or read: no space, no permission, damaged."""


class WorkerError(NnunetError):
    """A worker process raised or was killed while it worked on a case."""


class TrainingError(NnunetError):
    """A training cannot start, go on or be continued."""


class TrainingStopped(NnunetError):
    """A signal asked a training to stop; its state is saved. The exit status is 128 plus the number of the signal."""

    exit_status = 130

    def __init__(
        self,
        problem: str,
        *,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
        exit_status: int = 130,
    ) -> None:
        super().__init__(problem, found=found, expected=expected, remedy=remedy)
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__()[:2], {"exit_status": self.exit_status})


class CheckpointError(NnunetError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class PredictionError(NnunetError):
    """An image cannot be predicted, or its prediction cannot be evaluated."""


class ArchiveError(NnunetError):
    """A model archive cannot be made or installed: incomplete, damaged, dangerous, or something else."""


class UnknownNameError(NnunetError):
    """A name that is not in a registry.

    Args:
        kind: What the name should name, e.g. "planner".
        name: The unknown name.
        known: All names there are.
        remedy: Overrides the default advice.
    """

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], remedy: str | None = None) -> UnknownNameError:
        """Build the error with the most similar known names as suggestions; very many others are not listed then."""
        names = sorted(known)
        lowered = {n.lower(): n for n in names}
        similar = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.5)]
        advice = remedy or (f"did you mean {' or '.join(similar)}?" if similar else "use one of the expected names")
        too_many = bool(similar) and remedy is None and len(names) > MANY_NAMES
        listed = None if too_many else ", ".join(names) or "(none)"
        return cls(f"There is no {kind} called {name!r}.", expected=listed, remedy=advice)
