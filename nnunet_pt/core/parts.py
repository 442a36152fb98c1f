"""Cases shared out among processes that know of each other only by files: ``-num_parts`` and ``-part_id``.

The processes may run on several machines with a shared file system, at the same time or one after the other, may be
killed and repeated, and two may do the same part. So nothing here is locked: results appear under their names complete
or not at all, doing a case twice gives the same file, and whoever finds that all cases are there puts them together.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import StorageError, UsageError
from nnunet_pt.core.files import digest_of, make_folder, read_json, storage_error, temporary_folder, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of several equal shares of the cases; by default all of them.

    Attributes:
        number: Which one, counted from 0.
        total: How many there are.

    Raises:
        UsageError: If there is no such part.
    """

    number: int = 0
    total: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.total:
            raise UsageError(
                "There is no such part.",
                found=f"-part_id {self.number} with -num_parts {self.total}",
                expected=f"-part_id from 0 to {self.total - 1}" if self.total > 0 else "-num_parts 1 or more",
            )

    def __str__(self) -> str:
        return f"part {self.number} of {self.total}"

    @property
    def is_whole(self) -> bool:
        """Whether it is everything."""
        return self.total == 1

    def own(self, cases: Iterable[str]) -> list[str]:
        """The cases of this part: as in nnU-Net every ``total``-th of all, sorted by name."""
        return sorted(cases)[self.number :: self.total]

    def missing(self, cases: Iterable[str], is_done: Callable[[str], bool]) -> tuple[int, ...]:
        """Numbers of the parts that have cases still to be done."""
        ordered = sorted(cases)
        return tuple(sorted({i % self.total for i, case in enumerate(ordered) if not is_done(case)}))

    def waiting_for(self, missing: Iterable[int]) -> str:
        """What is to be said about parts that are missing."""
        numbers = [str(number) for number in missing]
        waited = f"{'part' if len(numbers) == 1 else 'parts'} {', '.join(numbers)}"
        return f"{self} ended; waiting for {waited}. The last one puts all parts together"

    def require_no_clean(self, clean: bool) -> None:
        """Complain about ``--clean``.

        Raises:
            UsageError: If it is given for one part of several.
        """
        if clean and not self.is_whole:
            raise UsageError(
                "--clean cannot be done by one of several parts, which would delete what the others did.",
                found=f"--clean with -num_parts {self.total}",
                remedy="delete the results yourself before you start the parts, and leave out --clean",
            )


WHOLE = Part()


class PartNotes:
    """Notes about the parts in a folder of their own: who began and finished which, and with which settings.

    They serve to find parts that do not belong together, and to inform people. What is done is only judged by results.

    Args:
        folder: Holds the notes, and whatever else is put together and then removed.
        part: The part of this process.
        settings: What has to be the same for all parts, by what people call it.
    """

    def __init__(self, folder: Path, part: Part, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.part = part
        self.settings = {name: digest_of(value) for name, value in settings.items()}

    def begin(self) -> None:
        """Note that this part was begun.

        Raises:
            UsageError: If other parts were begun that cannot be put together with this one.
        """
        retried(lambda: self._note("begun"), self.folder)

    def finish(self) -> None:
        """Note that this part is finished.

        This must come before the results of the others are looked for: a file system of a network may show an old
        list of a folder, but not to a machine that has just changed it.

        Raises:
            UsageError: As for :meth:`begin`.
        """
        retried(lambda: self._note("finished"), self.folder)

    def unfinished(self) -> tuple[int, ...]:
        """Parts that are not finished, for work of which results alone do not tell that it is all."""
        there = names_in(self.folder)
        return tuple(n for n in range(self.part.total) if self._name("finished", n) not in there)

    def overtaken(self) -> bool:
        """Whether other processes did this part, too, and all others, and removed the folder meanwhile.

        What this process has written since then is removed.
        """
        begun = self._begun()
        if any(path.name == self._name("begun") for path in begun):
            return False
        if not begun:
            self.remove()
        return True

    def remove(self) -> None:
        """Remove the folder at once, so that nobody takes the rest of it for something to go on with."""
        remove_at_once(self.folder)

    def _note(self, what: str) -> None:
        self._check()
        content = {
            "part_id": self.part.number,
            "num_parts": self.part.total,
            "settings": self.settings,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(self.folder / self._name(what), content)

    def _name(self, what: str, number: int | None = None) -> str:
        return f"part-{self.part.number if number is None else number}-of-{self.part.total}.{what}.json"

    def _check(self) -> None:
        conflicts = [text for path in self._begun() if (text := self._conflict(path)) is not None]
        if conflicts:
            raise UsageError(
                f"{self.part} cannot be put together with parts that were begun before.".capitalize(),
                found="; ".join(conflicts),
                expected=f"-num_parts {self.part.total} and the same settings for all parts",
                remedy="give all parts the same arguments. If no other part is running any more, run the command "
                f"without -num_parts and -part_id to finish, or delete {self.folder} to begin anew",
            )

    def _begun(self) -> list[Path]:
        return [self.folder / n for n in sorted(names_in(self.folder)) if n.startswith("part-") and ".begun." in n]

    def _conflict(self, path: Path) -> str | None:
        try:
            note = read_json(path)
        except StorageError:
            if path.exists():
                raise
            return None  # put together and removed by another process just now
        who = f"part {note['part_id']} of {note['num_parts']}, begun {note['time']} on {note['host']}"
        if note["num_parts"] != self.part.total:
            return who
        found = note["settings"]
        others = [name for name in sorted({*self.settings, *found}) if self.settings.get(name) != found.get(name)]
        return f"{who} with other {' and '.join(others)}" if others else None


def retried(action: Callable[[], None], folder: Path) -> None:
    """Write to a folder of parts, which another process may remove at any moment; it is made again then."""
    for attempts_left in (2, 1, 0):
        try:
            make_folder(folder)
            action()
        except StorageError as error:
            if not attempts_left or not isinstance(error.__cause__, FileNotFoundError):
                raise
        else:
            break


def remove_at_once(folder: Path) -> None:
    """Remove a folder of parts, if there is one; no other process sees a part of it."""
    if folder.is_dir():
        with temporary_folder(folder.parent) as rest, contextlib.suppress(FileNotFoundError):
            folder.rename(rest / folder.name)


def names_in(folder: Path) -> set[str]:
    """Names of all files in a folder of parts; none if it was removed."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise storage_error(error, folder) from error


def own_file_name(stem: str, ending: str) -> str:
    """A file name that no other process uses, on whatever machine."""
    return f"{stem}-{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}{ending}"
