"""Datasets of other projects as raw datasets: Medical Segmentation Decathlon (MSD) and nnU-Net v1.

The new dataset is put together in a hidden folder beside its place and gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import DatasetError, UsageError
from nnunet_pt.core.files import TEMPORARY_PREFIX, copy_file, make_folder, read_json, storage_errors, write_json
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.workers import CaseTask, map_cases
from nnunet_pt.dataset.cases import DATASET_PREFIX, IMAGES_FOLDER, LABELS_FOLDER, dataset_folders
from nnunet_pt.dataset.description import FILE_NAME, V1_FILE_ENDING, DatasetDescription

MAX_PROCESSES = 8
MAX_ID = 999
MSD_KEYS_DROPPED = ("training", "test", "modality")
V1_KEYS_DROPPED = (*MSD_KEYS_DROPPED, "tensorImageSize", "numTest")
V1_FOLDERS = (IMAGES_FOLDER, LABELS_FOLDER, "imagesTs", "labelsTs", "imagesVal", "labelsVal")


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileJob:
    """One file to convert: a copy, or a 4D image to split."""

    source: Path
    folder: Path
    name: str  # without ending and channel number if the channels are to be split


def convert_msd_dataset(
    source: Path,
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    num_processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Convert a task of the Medical Segmentation Decathlon.

    3D images are copied, 4D images are split into one file for each channel (voxel type and geometry stay), labels are
    copied. Hidden files are left out.

    Args:
        source: The unpacked folder ``TaskXX_Name``.
        workspace: Where to put the new dataset, and where its number must be free.
        dataset_id: Its number; by default the XX.
        num_processes: Worker processes; by default as many as are useful.
        progress: Show the progress.

    Returns:
        The new folder ``nnUNet_raw/DatasetXXX_Name``.

    Raises:
        UsageError: If the folder's name or the number is unsuitable.
        DatasetError: If the folder is incomplete or the number is taken.
        ImageError: If a 4D image cannot be read.
        StorageError: If something cannot be written.
    """
    source = source.resolve()
    match = re.fullmatch("Task([0-9]+)_(.+)", source.name)
    if match is None:
        raise UsageError(
            f"{source} is not called like a task of the Decathlon.",
            expected="a folder called TaskXX_Name, for example Task04_Hippocampus",
            remedy="give the unpacked folder with its original name",
        )
    number = int(match[1]) if dataset_id is None else dataset_id
    if not 0 < number <= MAX_ID:
        raise UsageError("The dataset number is out of range.", found=number, expected=f"1 to {MAX_ID}")
    name = f"{DATASET_PREFIX}{number:03d}_{match[2]}"
    _require_free(number, name, workspace, remedy="give another number with -overwrite_id, or remove the other dataset")
    description = _old_description(source)
    images = [folder for folder in (IMAGES_FOLDER, "imagesTs") if (source / folder).is_dir()]
    with _complete_or_absent(workspace.raw / name) as target:
        jobs = [
            _FileJob(source=file, folder=target / folder, name=file.name[: -len(V1_FILE_ENDING)])
            for folder in images
            for file in _visible_files(source / folder, V1_FILE_ENDING)
        ]
        _run(_split_image, jobs, num_processes, progress, "Converting images")
        labels = _visible_files(source / LABELS_FOLDER, V1_FILE_ENDING)
        jobs = [_FileJob(source=file, folder=target / LABELS_FOLDER, name=file.name) for file in labels]
        _run(_copy, jobs, num_processes, progress, "Copying labels")
        _write_description(description, MSD_KEYS_DROPPED, ("file_ending", "channel_names"), target)
    return workspace.raw / name


def convert_old_nnunet_dataset(
    source: Path,
    name: str,
    workspace: Workspace,
    *,
    num_processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Convert a raw dataset of nnU-Net v1.

    Args:
        source: The folder ``TaskXXX_Name`` with imagesTr, labelsTr and dataset.json; imagesTs, labelsTs, imagesVal and
            labelsVal are copied, too, if they are there.
        name: Name of the new dataset, ``DatasetXXX_Name``.
        workspace: Where to put it.
        num_processes: Worker processes; by default as many as are useful.
        progress: Show the progress.

    Returns:
        The new folder ``nnUNet_raw/DatasetXXX_Name``.

    Raises:
        UsageError: If the name is unsuitable.
        DatasetError: If the source is incomplete or the name or its number is taken.
        StorageError: If something cannot be written.
    """
    match = re.fullmatch(f"{DATASET_PREFIX}([0-9]{{3}})_[^/\\\\]+", name)
    if match is None:
        raise UsageError(f"{name!r} is not a name for a dataset.", expected="DatasetXXX_Name with three digits XXX")
    _require_free(int(match[1]), name, workspace, remedy="choose another number, or remove the other dataset")
    source = source.resolve()
    description = _old_description(source)
    with _complete_or_absent(workspace.raw / name) as target:
        folders = [folder for folder in V1_FOLDERS if (source / folder).is_dir()]
        for folder in folders:
            make_folder(target / folder)  # also the empty ones
        jobs = [
            _FileJob(source=file, folder=target / folder, name=file.name)
            for folder in folders
            for file in _visible_files(source / folder, "")
        ]
        _run(_copy, jobs, num_processes, progress, "Copying files")
        _write_description(description, V1_KEYS_DROPPED, ("channel_names", "file_ending"), target)
    return workspace.raw / name


def _require_free(number: int, name: str, workspace: Workspace, remedy: str) -> None:
    root = workspace.raw  # complains if it is not set
    taken = [
        str(path)
        for other, paths in dataset_folders(workspace).items()
        if other == name or re.match(f"{DATASET_PREFIX}{number:03d}(?![0-9])", other)
        for path in paths
    ]
    if taken or (root / name).exists():
        raise DatasetError(
            f"The dataset number {number} is taken.", found=", ".join(taken) or str(root / name), remedy=remedy
        )


def _old_description(source: Path) -> DatasetDescription:
    if not source.is_dir():
        raise DatasetError(f"The folder {source} does not exist.", remedy="check the path")
    missing = [name for name in (IMAGES_FOLDER, LABELS_FOLDER) if not (source / name).is_dir()]
    missing += [FILE_NAME] if not (source / FILE_NAME).is_file() else []
    if missing:
        raise DatasetError(
            f"{source} is not a complete dataset.",
            found=f"no {', '.join(missing)}",
            expected=f"{IMAGES_FOLDER}, {LABELS_FOLDER} and {FILE_NAME}",
            remedy="unpack the archive completely and give the folder TaskXX_Name itself",
        )
    if not _visible_files(source / IMAGES_FOLDER, V1_FILE_ENDING):
        raise DatasetError(f"There are no {V1_FILE_ENDING} files in {source / IMAGES_FOLDER}.")
    path = source / FILE_NAME
    data = read_json(path)
    if isinstance(data, dict):
        data.setdefault("file_ending", V1_FILE_ENDING)
    return DatasetDescription.from_json(data, path)


def _visible_files(folder: Path, ending: str) -> list[Path]:
    with storage_errors(folder):
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.endswith(ending) and not path.name.startswith((".", "_")) and path.is_file()
        )


@contextlib.contextmanager
def _complete_or_absent(target: Path) -> Iterator[Path]:
    """Yield a hidden folder that gets its final name if the block ends well, and is removed if not."""
    make_folder(target.parent)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    with storage_errors(temporary):
        if temporary.exists():  # left by a process that was killed
            shutil.rmtree(temporary)
        temporary.mkdir()
    try:
        yield temporary
        with storage_errors(target):
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run(
    function: Callable[[_FileJob], None],
    jobs: Sequence[_FileJob],
    num_processes: int | None,
    progress: bool,
    description: str,
) -> None:
    map_cases(
        function,
        [CaseTask(case=f"{job.folder.name}/{job.source.name}", argument=job) for job in jobs],
        num_workers=default_num_processes(MAX_PROCESSES) if num_processes is None else num_processes,
        description=description,
        progress=progress,
    )


def _copy(job: _FileJob) -> None:
    copy_file(job.source, job.folder / job.name)


def _split_image(job: _FileJob) -> None:
    """Copy a 3D image as channel 0; write the volumes of a 4D image as channels."""
    from nnunet_pt.dataset.images.simpleitk_images import read_volumes, write

    volumes = read_volumes(job.source)
    if not volumes:
        copy_file(job.source, job.folder / f"{job.name}_0000{V1_FILE_ENDING}")
        return
    for channel, volume in enumerate(volumes):
        write(volume, job.folder / f"{job.name}_{channel:04d}{V1_FILE_ENDING}")


def _write_description(
    description: DatasetDescription, dropped: Sequence[str], last: Sequence[str], target: Path
) -> None:
    content = description.to_json()
    kept = {key: value for key, value in content.items() if key not in (*dropped, *last)}
    write_json(target / FILE_NAME, {**kept, **{key: content[key] for key in last}})
