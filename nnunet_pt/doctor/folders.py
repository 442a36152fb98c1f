"""Checks of the folders: set, there, writable, with room, on a fast disk, not mixed up."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_pt.core.settings import FOLDER_PURPOSES
from nnunet_pt.doctor.findings import Finding, Status, gigabytes
from nnunet_pt.doctor.system import Space, System

LITTLE_SPACE = 2 << 30  # a few checkpoints or small datasets
SOME_SPACE = 20 << 30
FEW_FILES = 10_000
TEMPORARY_SPACE = 100 << 20
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "fuse.ceph", "glusterfs"}
)


def check_folders(system: System) -> list[Finding]:
    """The three folders of nnU-Net, and the one for temporary files."""
    settings = system.settings
    paths = {
        "nnUNet_raw": settings.raw,
        "nnUNet_preprocessed": settings.preprocessed,
        "nnUNet_results": settings.results,
    }
    findings = [_folder(name, path, system) for name, path in paths.items()]
    return [*findings, *_mixed_up(paths), _temporary(system)]


def _folder(name: str, path: Path | None, system: System) -> Finding:
    def finding(status: Status, found: str, why: str = "", remedy: str = "", **values: Any) -> Finding:
        where = {"path": None if path is None else str(path), **values}
        return Finding(
            key=f"folders.{name}", title=name, status=status, found=found, why=why, remedy=remedy, values=where
        )

    purpose = f"{FOLDER_PURPOSES[name]} are kept there"
    if path is None:
        return finding("problem", "not set", purpose, f"export {name}=/path/to/folder   (add the line to ~/.bashrc)")
    if not path.exists():
        return finding(
            "problem", f"{path} does not exist", purpose, f"mkdir -p {shlex.quote(str(path))}   (or correct {name})"
        )
    if not path.is_dir():
        return finding("problem", f"{path} is not a folder", purpose, f"let {name} name a folder")
    if not _readable(path):
        return finding("problem", f"{path} cannot be read", purpose, "ask its owner for permission, or choose another")
    failure = system.write_failure(path)
    space = _space(path, system)
    values: dict[str, Any] = {"writable": failure is None, "free_bytes": None if space is None else space.free}
    if failure is not None:
        reason = failure.strerror or str(failure)
        if name == "nnUNet_raw":  # commands that only read do not mind
            return finding("ok", f"{path}, can only be read ({reason})", **values)
        remedy = f"chmod u+w {shlex.quote(str(path))}, free some space, or let {name} name another folder"
        return finding("problem", f"{path} cannot be written ({reason})", purpose, remedy, **values)
    found = str(path) if space is None else f"{path}, {gigabytes(space.free)} free"
    if space is not None and space.free < SOME_SPACE and name != "nnUNet_raw":
        little = space.free < LITTLE_SPACE
        why = "preprocessed data can take 4 bytes for each voxel, and each checkpoint some 100 MB"
        return finding("problem" if little else "note", found, why, "free some space, or choose another disk", **values)
    if space is not None and space.free_files is not None and space.free_files < FEW_FILES:
        why = "each case takes three files"
        found += f", but room for {space.free_files} files only"
        return finding("note", found, why, "remove files that are not needed", **values)
    kind = file_system(path, system)
    if name == "nnUNet_preprocessed" and kind in NETWORK_FILE_SYSTEMS:
        why = "patches are read from there all the time while a network is trained"
        return finding("note", f"{found}, on a network disk ({kind})", why, "use a local SSD if there is one", **values)
    return finding("ok", found, **values)


def _mixed_up(paths: Mapping[str, Path | None]) -> Iterator[Finding]:
    """Two variables that name one folder."""
    names: dict[Path, list[str]] = {}
    for name, path in paths.items():
        if path is not None and path.exists():
            names.setdefault(path.resolve(), []).append(name)
    for path, several in names.items():
        if len(several) > 1:
            yield Finding(
                key="folders.distinct",
                title="distinct folders",
                status="problem",
                found=f"{' and '.join(several)} are the same folder: {path}",
                why="files of the same names would overwrite each other (dataset.json)",
                remedy="use a folder for each, for example  raw  preprocessed  results  in one place",
                values={"path": str(path), "variables": several},
            )


def _temporary(system: System) -> Finding:
    folder = Path(tempfile.gettempdir())
    failure, space = system.write_failure(folder), _space(folder, system)
    full = space is not None and space.free < TEMPORARY_SPACE
    bad = failure is not None or full
    free = "" if space is None else f", {gigabytes(space.free)} free"
    return Finding(
        key="folders.temporary",
        title="temporary files",
        status="problem" if bad else "ok",
        found=f"{folder}{free}" if failure is None else f"{folder} cannot be written ({failure.strerror or failure})",
        why="workers keep notes there, and downloads are unpacked there" if bad else "",
        remedy="free some space there, or  export TMPDIR=/another/folder" if bad else "",
        values={"path": str(folder), "free_bytes": None if space is None else space.free},
    )


def file_system(path: Path, system: System) -> str:
    """The kind of file system that a folder is on; empty if that cannot be found out."""
    best, kind = -1, ""
    absolute = path.resolve()
    for line in system.text("proc/self/mountinfo").splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split()
        if len(fields) < 5 or not rest:
            continue
        point = Path(fields[4].replace("\\040", " "))
        if absolute.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def _readable(path: Path) -> bool:
    try:
        next(path.iterdir(), None)
    except OSError:
        return False
    return True


def _space(path: Path, system: System) -> Space | None:
    try:
        return system.space(path)
    except OSError:
        return None
