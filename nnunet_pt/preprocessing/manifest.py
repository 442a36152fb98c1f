"""What has been preprocessed from what: the memory that makes preprocessing resumable.

Beside each data folder lies ``<data_identifier>.manifest.jsonl``, one line for each finished case with digests of its
raw files, of the settings and of the files written. It cannot lie inside the folder, because nnU-Net infers the storage
format from the file endings there. A line is appended when a case is complete; a process killed at any moment loses at
most the line being written, and its case is done again.

Processes that share the cases of a folder each append to a file of their own in ``<data_identifier>.parts``, since
lines that two machines append to one file over a network can overwrite each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import checksum, storage_errors, write_text
from nnunet_pt.core.parts import names_in, own_file_name, retried
from nnunet_pt.preprocessing.store import case_files


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """Enough to recognise a file's content.

    Attributes:
        size: Bytes.
        mtime_ns: Modification time; an equal size and time are trusted without reading the file.
        checksum: Digest of the content.
    """

    size: int
    mtime_ns: int
    checksum: str

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Read a file and stamp it."""
        with storage_errors(path):
            status = path.stat()
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns, checksum=checksum(path))

    def matches(self, path: Path, *, read: bool = False) -> bool:
        """Whether the file still has this content; with ``read`` the content decides in any case."""
        try:
            status = path.stat()
        except OSError:
            return False
        if status.st_size != self.size:
            return False
        if not read and status.st_mtime_ns == self.mtime_ns:
            return True
        return checksum(path) == self.checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """A finished case.

    Attributes:
        case: Case identifier.
        settings: Digest of everything in the plans that determines the result.
        inputs: Stamps of the raw files, see :func:`stamp_inputs`.
        outputs: Name in the data folder to stamp.
    """

    case: str
    settings: str
    inputs: Mapping[str, FileStamp]
    outputs: Mapping[str, FileStamp]

    def is_current(self, settings: Container[str], inputs: Sequence[Path]) -> bool:
        """Whether it was made with one of these settings, from the same raw files."""
        return (
            self.settings in settings
            and list(self.inputs) == _input_names(inputs)
            and all(stamp.matches(path) for path, stamp in zip(inputs, self.inputs.values(), strict=True))
        )

    def is_intact(self, folder: Path, *, read: bool = False) -> bool:
        """Whether all files written are there, by size and time, or with ``read`` by their content."""
        return set(self.outputs) == set(case_files(self.case)) and all(
            stamp.matches(folder / name, read=read) for name, stamp in self.outputs.items()
        )

    def to_line(self) -> str:
        """One line of the manifest."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> CaseRecord | None:
        """Parse a line; None for one that was cut off or is of another kind."""
        try:
            data = json.loads(line)
            stamps = {
                key: {name: FileStamp(**stamp) for name, stamp in data[key].items()} for key in ("inputs", "outputs")
            }
            return cls(case=str(data["case"]), settings=str(data["settings"]), **stamps)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def stamp_inputs(paths: Sequence[Path]) -> dict[str, FileStamp]:
    """Stamp raw files under their position and name; folders are left out, since a dataset may be moved."""
    return dict(zip(_input_names(paths), map(FileStamp.of, paths), strict=True))


def _input_names(paths: Sequence[Path]) -> list[str]:
    return [f"{index}:{path.name}" for index, path in enumerate(paths)]


def parts_folder(data_folder: Path) -> Path:
    """What there is beside a data folder as long as it is made in parts and some are missing."""
    return data_folder.with_name(f"{data_folder.name}.parts")


class Manifest:
    """The records of one data folder.

    Args:
        data_folder: The folder.
        shared: Other processes work on the folder, too: write to a file of our own.
    """

    def __init__(self, data_folder: Path, *, shared: bool = False) -> None:
        self.path = data_folder.with_name(f"{data_folder.name}.manifest.jsonl")
        self.parts = parts_folder(data_folder)
        self._target = self.parts / own_file_name("cases", ".jsonl") if shared else self.path
        # The parts come first: who puts them together removes them after the records are in the manifest itself
        of_parts = [
            record
            for name in sorted(names_in(self.parts))
            if name.endswith(".jsonl")
            for record in _read(self.parts / name)
        ]
        self.records = {record.case: record for record in _read(self.path)}
        self._others: dict[str, list[CaseRecord]] = {}
        for record in of_parts:
            self._others.setdefault(record.case, []).append(record)
            self.records.setdefault(record.case, record)

    def candidates(self, case: str) -> list[CaseRecord]:
        """All that was ever recorded about a case, if parts were done twice or after other settings."""
        found = [self.records[case]] if case in self.records else []
        return found + [record for record in self._others.get(case, ()) if record not in found]

    def clear(self) -> None:
        """Forget all cases."""
        self.records.clear()
        self._others.clear()

    def keep(self, cases: Iterable[str]) -> None:
        """Forget all other cases and write the file anew, one line a case in sorted order."""
        wanted = set(cases)
        self.records = {case: self.records[case] for case in sorted(self.records) if case in wanted}
        self._others.clear()
        write_text(self.path, "".join(r.to_line() for r in self.records.values()))

    def add(self, record: CaseRecord) -> None:
        """Remember a finished case for good."""
        self.records[record.case] = record
        retried(lambda: self._append(record.to_line()), self._target.parent)

    def _append(self, line: str) -> None:
        with storage_errors(self._target), self._target.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> list[CaseRecord]:
    try:
        with storage_errors(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except StorageError:
        if path.exists():
            raise
        return []
    return [record for line in lines if (record := CaseRecord.from_line(line)) is not None]
