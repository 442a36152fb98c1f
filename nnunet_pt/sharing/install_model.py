"""Unpacks model archives into nnUNet_results: looked at first, staged, renamed when complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import ArchiveError, StorageError
from nnunet_pt.core.files import make_folder, remove_leftovers, storage_errors, temporary_folder
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.dataset.cases import dataset_folders, shortened
from nnunet_pt.sharing import layout
from nnunet_pt.sharing.archive import (
    GIGABYTE,
    Limits,
    byte_progress,
    checked_members,
    extract,
    open_archive,
    sha256,
    size_text,
)
from nnunet_pt.sharing.layout import Kind
from nnunet_pt.sharing.model_content import check_content, predict_commands
from nnunet_pt.sharing.replace_folder import move_into_place, restore_replaced

_log = get_logger(__name__)
_FREE_RESERVE_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What to install.

    Attributes:
        archive: The ZIP file.
        sha256: The digest it must have; ``None``: any.
        force: Replace models that are there.
        max_gb: Size that the content may have unpacked, and then with any ratio to the packed size; ``None``: 50 GB.
        progress: Show progress.
    """

    archive: Path
    sha256: str | None = None
    force: bool = False
    max_gb: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def limits(self) -> Limits:
        """The limits for the archive's content."""
        return Limits() if self.max_gb is None else Limits(total_bytes=round(self.max_gb * GIGABYTE), ratio=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """What was installed.

    Attributes:
        folder: nnUNet_results.
        sha256: Digest of the archive.
        units: Models, ensembles and files that are new, relative to ``folder``.
        commands: How to predict with the models.
    """

    folder: Path
    sha256: str
    units: tuple[str, ...]
    commands: tuple[str, ...]

    def summary(self) -> str:
        """What was written and where."""
        lines = [f"installed in {self.folder}:", *(f"  {unit}" for unit in self.units)]
        lines += [f"SHA-256 of the archive: {self.sha256}", "predict with:", *(f"  {c}" for c in self.commands)]
        return "\n".join(lines)


def install_model(request: InstallRequest, workspace: Workspace) -> InstallResult:
    """Install the models of an archive; each of them completely or not at all.

    Raises:
        ArchiveError: If the archive is damaged, dangerous, too large or no model, if its digest is another one, or if
            a model of that name exists.
        StorageError: If the archive cannot be read, or nnUNet_results not be written.
    """
    path = request.archive
    results = make_folder(workspace.results)
    clean(results)
    with contextlib.ExitStack() as stack:
        with storage_errors(path):
            file = stack.enter_context(path.open("rb"))
        digest = _digest(request, file)
        archive = stack.enter_context(open_archive(path, file))
        members = _wanted(path, checked_members(archive, path, request.limits()))
        units = tuple(dict.fromkeys(layout.unit_of(info.filename) for info in members))
        _check_targets(results, units, members, force=request.force)
        check_space(results, sum(info.file_size for info in members))
        staged = {d: stack.enter_context(temporary_folder(_near(results, d))) for d in {u.split("/")[0] for u in units}}
        unpacked = _unpack(request, archive, members, staged)
        models = [m for m in (staged[unit.split("/")[0]] / unit for unit in units) if _is_model(m)]
        check_content(path, unpacked, models, tuple(staged.values()))
        commands = [command for model in models for command in predict_commands(model.parent.name, model)]
        for unit in units:
            move_into_place(staged[unit.split("/")[0]] / unit, results / unit, force=request.force)
    _warn_of_same_number({unit.split("/")[0] for unit in units}, workspace)
    return InstallResult(folder=results, sha256=digest, units=units, commands=tuple(commands))


def clean(results: Path) -> None:
    """Remove, or finish, what an install that was killed left.

    Args:
        results: nnUNet_results.
    """
    with storage_errors(results):
        restore_replaced(results)
        for folder in (results, *results.glob("Dataset*/")):
            remove_leftovers(folder)


def _near(results: Path, dataset: str) -> Path:
    """Where to stage: on the disk where the models will be, which may be another one if the dataset is a link."""
    return results / dataset if (results / dataset).is_dir() else results


def _is_model(path: Path) -> bool:
    return path.is_dir() and path.parent.name != layout.ENSEMBLES_FOLDER


def _digest(request: InstallRequest, file: BinaryIO) -> str:
    with byte_progress(request.archive.stat().st_size, "Reading", enabled=request.progress) as count:
        digest = sha256(file, count)
    if request.sha256 is not None and digest != request.sha256.strip().lower():
        raise ArchiveError(
            f"{request.archive} is not the archive it should be. Nothing of it was written.",
            found=f"SHA-256 {digest}",
            expected=request.sha256,
            remedy="download it again, and compare the digest with that of its maker",
        )
    return digest


def _wanted(path: Path, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files to write: only those that a model folder of nnU-Net holds."""
    kinds = {info.filename: layout.kind_of(info.filename) for info in members}
    unknown = [name for name, kind in kinds.items() if kind is Kind.UNKNOWN]
    if not any(kind is Kind.CHECKPOINT for kind in kinds.values()):
        checkpoint = any(name.endswith("/data.pkl") for name in kinds)
        raise ArchiveError(
            f"{path} holds no model of nnU-Net.",
            found="a checkpoint" if checkpoint else shortened(kinds) or "no files",
            expected="DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION/fold_X/checkpoint_final.pth and what belongs to it",
            remedy="choose an archive that nnUNetv2_export_model_to_zip made",
        )
    if unknown:
        raise ArchiveError(
            f"The archive {path} was refused. Nothing of it was written.",
            found="files that do not belong to a model of nnU-Net:\n" + shortened(map(repr, unknown)),
            expected="the files of nnUNet_results/DatasetXXX_Name",
            remedy="if you trust its source: zip -d ARCHIVE NAME removes a file from an archive",
        )
    left_out = [name for name, kind in kinds.items() if kind in (Kind.JUNK, Kind.LEFT_OUT)]
    if left_out:
        _log.info("Not unpacked, because a model does not need them:\n%s", shortened(left_out))
    return [info for info in members if kinds[info.filename] not in (Kind.JUNK, Kind.LEFT_OUT)]


def _check_targets(results: Path, units: Sequence[str], members: Sequence[zipfile.ZipInfo], *, force: bool) -> None:
    there = [unit for unit in units if os.path.lexists(results / unit)]
    if not there or force:
        return
    lines = []
    for unit in there:
        new = _folds(info.filename.removeprefix(f"{unit}/") for info in members if info.filename.startswith(f"{unit}/"))
        old = _folds(f"{path.name}/" for path in (results / unit).glob("fold_*"))
        lines.append(f"{results / unit}" + (f" (fold {old}; in the archive: fold {new})" if new and old else ""))
    raise ArchiveError(
        "Some of what this archive holds is installed already. Nothing was written.",
        found=shortened(lines),
        remedy="--force replaces it as a whole: of a model all folds, also those that the archive does not have",
    )


def _folds(names: Iterable[str]) -> str:
    folds = {name.partition("/")[0].removeprefix("fold_") for name in names if name.startswith("fold_")}
    return ", ".join(sorted(folds))


def check_space(results: Path, needed: int) -> None:
    """Complain about a full disk before anything is written.

    Args:
        results: A folder on the disk.
        needed: Bytes to be written.

    Raises:
        StorageError: If there is less space, with a little to spare.
    """
    with storage_errors(results):
        free = shutil.disk_usage(results).free
    if free < needed + _FREE_RESERVE_BYTES:
        raise StorageError(
            f"There is not enough space in {results}. Nothing was written.",
            found=f"{size_text(free)} free",
            expected=f"{size_text(needed + _FREE_RESERVE_BYTES)}",
            remedy="free some space, or let nnUNet_results name a folder on another disk",
        )


def _unpack(
    request: InstallRequest, archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], staged: Mapping[str, Path]
) -> list[tuple[Path, Kind]]:
    total = sum(info.file_size for info in members)
    files = []
    with byte_progress(total, "Unpacking", enabled=request.progress) as count:
        for info in members:
            target = staged[info.filename.split("/")[0]] / info.filename
            extract(archive, request.archive, info, target, count)
            files.append((target, layout.kind_of(info.filename)))
    return files


def _warn_of_same_number(datasets: Iterable[str], workspace: Workspace) -> None:
    known = dataset_folders(workspace)
    for name in sorted(datasets):
        others = [other for other in known if other != name and other[:10] == name[:10]]
        if others:
            _log.warning(
                "The number of %s is also that of %s; name it in full: -d %s", name, ", ".join(sorted(others)), name
            )
