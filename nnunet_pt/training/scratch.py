"""Training from a disk of this machine instead of a shared folder: ``-scratch`` and ``$SLURM_TMPDIR``.

Nothing but copies of preprocessed cases is written there, and they are only read, so results do not depend on it. The
annotations that the final validation compares with are not copied, since each is read once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_pt.core.console import Progress, duration
from nnunet_pt.core.errors import NnunetError, StorageError, TrainingStopped
from nnunet_pt.core.files import digest_of, make_folder, remove_leftovers, storage_errors
from nnunet_pt.core.resources import available_ram_bytes, is_in_memory
from nnunet_pt.core.settings import Settings
from nnunet_pt.core.wording import counted
from nnunet_pt.preprocessing.manifest import FileStamp, Manifest
from nnunet_pt.preprocessing.store import case_files
from nnunet_pt.training.copied_files import copy_all, look_at
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.monitor import Monitor
from nnunet_pt.training.patches import PatchSource, names_in
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.task import TrainingTask

PREFIX = "nnunet_pt-"
_MB, _GB = 10**6, 10**9
_Pair = tuple[Path, Path, tuple[Path, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where copies go.

    Attributes:
        folder: The folder.
        automatic: The cluster named it, not the user: if it cannot be used, training does without.
    """

    folder: Path
    automatic: bool

    def __str__(self) -> str:
        return f"{self.folder} ($SLURM_TMPDIR)" if self.automatic else str(self.folder)

    def copy_of(self, folder: Path) -> Path:
        """Where the copy of a folder is; those of other users, or of other folders of that name, are elsewhere."""
        return self.folder / f"{PREFIX}{digest_of([str(folder.resolve()), os.getuid()])[:12]}" / folder.name

    def free_bytes(self) -> int:
        """Space that copies may take; in memory, half of what the job may still use."""
        with storage_errors(self.folder):
            free = shutil.disk_usage(self.folder).free
        return min(free, available_ram_bytes() // 2) if is_in_memory(self.folder) else free


def place_of(request: TrainRequest, settings: Settings) -> Place | None:
    """Where copies go: as the request says, else to ``$SLURM_TMPDIR`` if there is one; None for no copies."""
    if request.scratch == "none":
        return None
    if request.scratch is not None:
        return Place(folder=Path(request.scratch).expanduser().absolute(), automatic=False)
    folder = settings.node_scratch
    return Place(folder=folder.absolute(), automatic=True) if folder is not None and folder.is_dir() else None


def read_from_scratch(
    task: TrainingTask, *, processes: Processes, signals: StopSignals, monitor: Monitor
) -> TrainingTask:
    """Copy the cases of a training to a disk of this machine, if that is wanted.

    One process of each machine copies while the others wait.

    Returns:
        The task with the folders to read from.

    Raises:
        StorageError: If the user wants copies and there cannot be any.
        TrainingStopped: If a signal asked for it.
    """
    place = place_of(task.request, task.workspace.settings)
    if task.recipe.synthetic_batch or (place is None and not processes.are_several):
        return task
    cases = sorted({*task.split.train, *task.split.val})
    PatchSource(task.data_folder, cases, previous_stage_folder=task.previous_stage_folder)  # complains of missing ones
    machine, told = os.uname().nodename, []
    if place is not None and processes.local_rank == 0:
        try:
            done = _copy(place, task, cases, processes, signals)
            told = [f"\t{machine}: {done}" if processes.are_several else f"\t{done}"]
        except TrainingStopped:
            raise
        except NnunetError as error:
            if not place.automatic:
                raise
            told = [f"{machine}\t{error}"]
    # Also where there is no place: nodes differ, and all processes must take part in this
    problems: dict[str, str] = {}
    for name, _, text in (outcome.partition("\t") for outcome in processes.collect(told)):
        if name:
            problems[name] = text
            monitor.warn(f"{name} reads from the shared folder.\n{text}")
        else:
            monitor.log(text)
    if place is None or machine in problems:
        return task
    previous = task.previous_stage_folder
    return replace(
        task,
        local_data_folder=place.copy_of(task.data_folder),
        previous_stage_folder=None if previous is None else place.copy_of(previous),
    )


def _copy(place: Place, task: TrainingTask, cases: Collection[str], processes: Processes, signals: StopSignals) -> str:
    """Copy what is missing; gives what is to be said about it."""
    make_folder(place.folder)
    pairs: list[_Pair] = []
    for folder in (task.data_folder, task.previous_stage_folder):
        if folder is not None:
            pairs += _pairs(folder, _own_folder(place.copy_of(folder)), cases, properties=folder == task.data_folder)
    files, there = look_at(pairs)
    where = f"to {place}, from where this training reads"
    if not files:
        return f"All {there} files of its cases were copied before {where}"
    needed, free = sum(file.needed_bytes() for file in files), place.free_bytes()
    if needed > free:
        raise StorageError(
            f"{place} has not enough space for the cases of this training.",
            found=f"{free / _GB:.2f} GB free",
            expected=f"{needed / _GB:.2f} GB for {counted(len(files), 'file')}",
            remedy=f"delete copies of other trainings there (the folders {PREFIX}...), ask SLURM for more space "
            "(--tmp), name another disk with -scratch, or train from the shared folder (-scratch none)",
        )
    started, size = time.monotonic(), sum(file.size for file in files)
    progress = Progress(
        -(-size // _MB), f"Copying to {place.folder}", "MB", disable=not (task.request.progress and processes.is_main)
    )
    copied = shown = 0
    with progress:

        def on_wait(number: int) -> None:
            nonlocal copied, shown
            copied += number
            progress.advance(copied // _MB - shown)
            shown = copied // _MB
            if signals.requested == "stop":
                raise TrainingStopped(
                    f"{signals.signal_name or 'A signal'} stopped the copying to {place}; what is copied is kept.",
                    remedy="run the same command again: it goes on from there",
                    exit_status=signals.exit_status or 130,
                )

        copy_all(files, _stamps(task.data_folder), on_wait)
    took = duration(time.monotonic() - started)
    return f"Copied {counted(len(files), 'file')} ({size / _MB:,.0f} MB in {took}; {there} were there) {where}"


def _own_folder(folder: Path) -> Path:
    """Make the folder of copies, which nobody else may read; disks of nodes are often open to all."""
    with storage_errors(folder):
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    return folder


def _pairs(source: Path, target: Path, cases: Collection[str], *, properties: bool) -> Iterator[_Pair]:
    """Original and copy of each file that is read of a folder; copies that would be read instead are removed."""
    there, copies = names_in(source), names_in(target)
    for case in cases:
        image, segmentation, pickled = case_files(case)
        archive, unpacked = f"{case}.npz", (f"{case}.npy", f"{case}_seg.npy")
        arrays = (image, segmentation) if properties else (image,)
        kind = next((names for names in (arrays, (archive,), unpacked) if there.issuperset(names)), arrays)
        derived = unpacked if kind == (archive,) else ()
        others = {image, segmentation, archive, *unpacked} - {*kind, *derived}
        for name in others & copies:
            (target / name).unlink(missing_ok=True)
        for name in (*kind, *([pickled] if properties else [])):
            yield source / name, target / name, tuple(target / n for n in derived) if name == archive else ()


def _stamps(folder: Path) -> dict[Path, FileStamp]:
    """What preprocessing has recorded about the files of a folder; nothing if that was nnU-Net."""
    records = Manifest(folder).records.values()
    return {folder / name: stamp for record in records for name, stamp in record.outputs.items()}
