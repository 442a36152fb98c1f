"""Which files belong to which case, and which folder to which dataset number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import DatasetError, UsageError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.description import DatasetDescription

IMAGES_FOLDER = "imagesTr"
LABELS_FOLDER = "labelsTr"
DATASET_PREFIX = "Dataset"
MAX_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The files of one subject.

    Attributes:
        identifier: Name of the case.
        images: One path for each channel (or one file that holds all channels).
        label: The segmentation, ``None`` if there is none.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.images if self.label is None else (*self.images, self.label)

    def state(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of each file that exists: something that changes with the files."""
        status = [(path.name, path.stat()) for path in self.files if path.exists()]
        return [(name, found.st_size, found.st_mtime_ns) for name, found in status]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found in the folders of a dataset.

    Attributes:
        cases: Usable cases, sorted by identifier, or in the order of a ``dataset`` table.
        missing: For a case that lacks files, what it lacks.
        foreign: Files with the right ending that belong to no case.
        without_images: Label files without an image.
    """

    cases: tuple[Case, ...]
    missing: Mapping[str, str]
    foreign: tuple[Path, ...]
    without_images: tuple[Path, ...] = ()


def dataset_id(name: str) -> int:
    """The number in ``Dataset004_Hippocampus``.

    Raises:
        DatasetError: If the name does not have that form.
    """
    digits = name[len(DATASET_PREFIX) : len(DATASET_PREFIX) + 3]
    if not name.startswith(DATASET_PREFIX) or not re.fullmatch("[0-9]{3}", digits):
        raise DatasetError(f"{name!r} is not the name of a dataset.", expected="DatasetXXX_Name with three digits XXX")
    return int(digits)


def dataset_folders(workspace: Workspace) -> dict[str, list[Path]]:
    """All dataset folders in the workspace: name to its paths in the three folders."""
    result: dict[str, list[Path]] = {}
    for root in workspace.existing_roots():
        with storage_errors(root), os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith(DATASET_PREFIX) and entry.is_dir():
                    result.setdefault(entry.name, []).append(Path(entry.path))
    return result


def resolve_dataset_name(dataset: int | str, workspace: Workspace) -> str:
    """The folder name of a dataset given by number or name.

    Args:
        dataset: ``4``, ``"4"``, ``"004"`` or ``"Dataset004_Hippocampus"``.
        workspace: Where to look: all three folders, as far as they exist.

    Raises:
        UsageError: If ``dataset`` is neither.
        DatasetError: If there is none or more than one of that number.
        SettingsError: If none of the three folders is set.
    """
    text = str(dataset).strip()
    folders = dataset_folders(workspace)
    if not workspace.existing_roots():
        root = workspace.raw  # complains if the variable is not set
        raise DatasetError(f"{root} does not exist.", remedy="create the folder, or correct nnUNet_raw")
    known = ", ".join(sorted(folders)) or "no datasets at all"
    where = ", ".join(map(str, workspace.existing_roots()))
    if text.startswith(DATASET_PREFIX):
        if text not in folders:
            raise DatasetError(f"There is no dataset called {text} in {where}.", found=known, remedy=_absent(workspace))
        return text
    if not re.fullmatch("[0-9]+", text):
        raise UsageError(f"{text!r} is no dataset.", expected="a number, or a name like Dataset004_Hippocampus")
    prefix = re.compile(f"{DATASET_PREFIX}{int(text):03d}(?![0-9])")
    names = [name for name in folders if prefix.match(name)]
    if not names:
        number = int(text)
        raise DatasetError(
            f"There is no dataset with the number {number} in {where}.", found=known, remedy=_absent(workspace)
        )
    if len(names) > 1:
        raise DatasetError(
            f"The dataset number {int(text)} is used more than once.",
            found=", ".join(str(path) for name in sorted(names) for path in folders[name]),
            expected="one name for each number",
            remedy="rename or move all but one, or give the full name",
        )
    return names[0]


def _absent(workspace: Workspace) -> str | None:
    """What to do about the raw folder if it is not there, which nobody looks for."""
    raw = workspace.settings.raw
    return None if raw is None or raw.is_dir() else f"{raw} does not exist: create the folder, or correct nnUNet_raw"


def training_cases(raw_dataset_folder: Path, description: DatasetDescription) -> tuple[Case, ...]:
    """The training cases of a raw dataset, sorted by identifier, or in the order of a ``dataset`` table.

    Args:
        raw_dataset_folder: ``nnUNet_raw/DatasetXXX_Name``.
        description: Its dataset.json.

    Raises:
        DatasetError: If there are none, or naming every case that lacks a channel or its label, and every image file
            whose name has no channel number.
    """
    discovery = discover_training_cases(raw_dataset_folder, description)
    _raise_for(discovery, raw_dataset_folder)
    if not discovery.cases:
        raise _no_cases(raw_dataset_folder / IMAGES_FOLDER, description.file_ending)
    return discovery.cases


def cases_in_folder(folder: Path, file_ending: str, num_channels: int | None) -> tuple[Case, ...]:
    """The cases of a folder of images, without labels, sorted by identifier.

    Args:
        folder: Holds ``<case>_<4-digit channel><ending>``.
        file_ending: With its dot.
        num_channels: Expected number of channels, ``None`` to accept what is there.

    Raises:
        DatasetError: As for :func:`training_cases`.
    """
    discovery = discover_images(files_in(folder), file_ending, num_channels)
    _raise_for(discovery, folder)
    if not discovery.cases:
        raise _no_cases(folder, file_ending)
    return discovery.cases


def discover_training_cases(raw_dataset_folder: Path, description: DatasetDescription) -> Discovery:
    """What there is, complete or not; raises only if a folder cannot be listed.

    Raises:
        DatasetError: If imagesTr or labelsTr is missing.
    """
    if description.cases is not None:
        return _explicit_cases(raw_dataset_folder, description)
    labels_folder = raw_dataset_folder / LABELS_FOLDER
    ending = description.file_ending
    found = discover_images(files_in(raw_dataset_folder / IMAGES_FOLDER), ending, description.num_channels)
    labels = {name[: -len(ending)] for name in _file_names(labels_folder) if name.endswith(ending)}
    images = {case.identifier: case.images for case in found.cases}
    known = sorted({*images, *found.missing})
    missing = {name: [found.missing[name]] for name in known if name in found.missing}
    for name in known:
        if name not in labels:
            missing.setdefault(name, []).append(f"no label {LABELS_FOLDER}/{name}{ending}")
    return Discovery(
        cases=tuple(
            Case(identifier=name, images=images[name], label=labels_folder / f"{name}{ending}")
            for name in known
            if name not in missing
        ),
        missing={name: ", ".join(texts) for name, texts in missing.items()},
        foreign=found.foreign,
        without_images=tuple(labels_folder / f"{name}{ending}" for name in sorted(labels.difference(known))),
    )


def unrelated_files(raw_dataset_folder: Path, file_ending: str) -> tuple[Path, ...]:
    """Files in imagesTr and labelsTr with another ending (but not the JSON files that belong to TIFF files)."""
    return tuple(
        raw_dataset_folder / folder / name
        for folder in (IMAGES_FOLDER, LABELS_FOLDER)
        for name in sorted(_file_names(raw_dataset_folder / folder))
        if not name.endswith(file_ending) and not (name.endswith(".json") and file_ending.startswith(".tif"))
    )


def files_in(folder: Path) -> list[Path]:
    """What is in a folder, but nothing hidden.

    Raises:
        DatasetError: If there is no such folder.
        StorageError: If it cannot be read.
    """
    return [folder / name for name in _file_names(folder)]


def discover_images(paths: Iterable[Path], file_ending: str, num_channels: int | None) -> Discovery:
    """Which images belong to which case, complete or not.

    Args:
        paths: Images ``<case>_<4-digit channel><ending>``, and other files. No two have the same name.
        file_ending: With its dot.
        num_channels: Expected number of channels, ``None`` to accept what is there.
    """
    channels: dict[str, dict[int, Path]] = {}
    foreign: list[Path] = []
    pattern = re.compile(f"(.+)_([0-9]{{4}}){re.escape(file_ending)}", re.DOTALL)
    for path in paths:
        if match := pattern.fullmatch(path.name):
            channels.setdefault(match[1], {})[int(match[2])] = path
        elif path.name.endswith(file_ending):
            foreign.append(path)
    # The channels that any case has: a dataset may keep several channels in one file, but then all cases do.
    seen = {channel for files in channels.values() for channel in files}
    allowed = set(range(num_channels if num_channels is not None else len(seen)))
    expected = range(max(seen & allowed, default=0) + 1)
    cases: list[Case] = []
    missing: dict[str, str] = {}
    for identifier, files in sorted(channels.items()):
        absent = [f"{identifier}_{c:04d}{file_ending}" for c in expected if c not in files]
        surplus = [files[c].name for c in sorted(files) if c not in allowed]
        if absent:
            folder = next(iter(files.values())).parent
            missing[identifier] = f"no image {', '.join(absent)} in {folder.name}"
        elif surplus and num_channels is not None:
            missing[identifier] = f"more images than the {counted(num_channels, 'channel')}: {', '.join(surplus)}"
        else:
            images = tuple(files[c] for c in sorted(files))
            cases.append(Case(identifier=identifier, images=images, label=None))
    return Discovery(cases=tuple(cases), missing=missing, foreign=tuple(sorted(foreign)))


def _explicit_cases(raw_dataset_folder: Path, description: DatasetDescription) -> Discovery:
    cases: list[Case] = []
    missing: dict[str, str] = {}
    for identifier, row in (description.cases or {}).items():  # in the order of the table, as in nnU-Net
        if row.label is None:
            missing[identifier] = 'no "label" in the "dataset" table'
            continue
        images = tuple(_resolve(path, raw_dataset_folder) for path in row.images)
        cases.append(Case(identifier=identifier, images=images, label=_resolve(row.label, raw_dataset_folder)))
    return Discovery(cases=tuple(cases), missing=missing, foreign=())


def _resolve(path: str, folder: Path) -> Path:
    # Part of the file format, not a setting: dataset.json may say "$DATA/case.nii.gz".
    return Path(os.path.abspath(folder / Path(os.path.expandvars(path)).expanduser()))  # noqa: PTH100 (keep links)


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DatasetError(f"The folder {folder} is missing.", remedy="create it, or correct the path")
    with storage_errors(folder), os.scandir(folder) as entries:
        # Hidden files (left by macOS, or by a killed process) are never cases.
        return [entry.name for entry in entries if not entry.name.startswith(".")]


def _raise_for(discovery: Discovery, folder: Path) -> None:
    findings = [f"case {name}: {text}" for name, text in discovery.missing.items()]
    findings += [f"{path}: no channel number" for path in discovery.foreign]
    if findings:
        raise DatasetError(
            f"Cases in {folder} are incomplete:\n" + shortened(f"  - {text}" for text in findings),
            expected="images <case>_0000<ending>, <case>_0001<ending>... for all channels, labels <case><ending>",
            remedy="add or rename the files, or move incomplete cases away",
        )


def _no_cases(folder: Path, ending: str) -> DatasetError:
    others = sorted({"".join(Path(name).suffixes[-2:]) for name in _file_names(folder)} - {ending})
    return DatasetError(
        f"There are no cases in {folder}.",
        found=f"files ending with {', '.join(others[:MAX_LISTED])}" if others else "no files",
        expected=f"files called <case>_0000{ending}",
        remedy="correct file_ending in dataset.json" if others else "put the images there",
    )


def shortened(lines: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Lines joined; after ``limit`` of them, how many more there are."""
    texts = list(lines)
    rest = [f"  ... and {len(texts) - limit} more"] if len(texts) > limit else []
    return "\n".join(texts[:limit] + rest)


def listed(names: Sequence[str], limit: int = MAX_LISTED) -> str:
    """Names in one line; after ``limit`` of them, how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
