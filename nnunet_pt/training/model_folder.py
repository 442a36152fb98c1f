"""What a model folder holds beside weights and logs."""

from __future__ import annotations

import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.files import copy_file, make_folder, read_json, write_json
from nnunet_pt.inference.model_files import FOLD_PREFIX, checkpoints_of_folds
from nnunet_pt.inference.orientation import ORIENTATION_FILE, orientation_of, read_orientation, record_orientation
from nnunet_pt.networks.precision import Precision
from nnunet_pt.preprocessing.store import load_properties
from nnunet_pt.training.debug_file import write_debug_file
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.history import History
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.task import RECIPE_FILE, TrainingTask
from nnunet_pt.transfer.report_files import HTML_FILE as TRANSFER_PAGE
from nnunet_pt.transfer.report_files import JSON_FILE as TRANSFER_JSON

_log = get_logger(__name__)

_CASES_LOOKED_AT = 50
_TRANSFER_FILES = (TRANSFER_JSON, TRANSFER_PAGE)


def write_model_files(task: TrainingTask, *, device: torch.device, precision: Precision, processes: Processes) -> None:
    """Plans, dataset, fingerprint and orientation for the model; recipe and ``debug.json`` for the fold."""
    write_json(task.model_folder / "dataset.json", task.dataset_json)
    write_json(task.model_folder / "plans.json", _plans_as_trained(task))
    _record_orientation(task)
    fingerprint = task.dataset_folder / "dataset_fingerprint.json"
    if fingerprint.is_file():
        copy_file(fingerprint, task.model_folder / fingerprint.name)
    write_json(task.output_folder / RECIPE_FILE, task.recipe.to_json())
    write_debug_file(
        task.output_folder,
        recipe=task.recipe,
        batch_size=task.configuration.batch_size,
        device=device,
        facts={
            "configuration_name": task.configuration.name,
            "configuration_manager": task.configuration,
            "dataset_json": dict(task.dataset_json),
            "disable_checkpointing": task.request.disable_checkpointing,
            "fold": task.request.fold,
            "inference_allowed_mirroring_axes": task.mirror_axes,
            "is_cascaded": task.is_cascaded,
            "is_ddp": processes.are_several,
            "label_manager": task.labels,
            "local_rank": processes.local_rank,
            "num_input_channels": task.input_channels,
            "output_folder": task.output_folder,
            "plans_manager": task.plans.plans_name,
            "precision": precision.name,
            "preprocessed_dataset_folder": task.data_folder,
        },
    )


def _plans_as_trained(task: TrainingTask) -> dict[str, Any]:
    """The plans with the recipe's batch and patch size, which nnU-Net needs to predict with the model."""
    plans = task.plans.to_json()
    sizes = {"batch_size": task.recipe.batch_size, "patch_size": task.recipe.patch_size}
    plans["configurations"][task.configuration.name] |= {key: size for key, size in sizes.items() if size is not None}
    return plans


def _record_orientation(task: TrainingTask) -> None:
    """Write down how the training images lie in their arrays, if all that are looked at lie alike.

    The record is for all folds, so all preprocessed cases are looked at, not those of the fold. If other folds were
    trained with images that lay in another way, there is no record.
    """
    folder = task.model_folder
    try:
        recorded = read_orientation(folder)
    except NnunetError:  # a damaged record is made anew
        recorded = None
    if recorded is not None and task.request.continue_training:
        return
    found = Counter(_orientations(task.data_folder))
    checkpoints = checkpoints_of_folds(folder)
    if any(files for fold, files in checkpoints.items() if f"{FOLD_PREFIX}{fold}" != task.output_folder.name):
        found.update([recorded] if recorded else [])
    if len(found) > 1:
        (folder / ORIENTATION_FILE).unlink(missing_ok=True)
        _log.info(
            "The training images do not all lie alike in their arrays (%s), so no orientation is recorded: prediction "
            "will leave images as they lie.",
            ", ".join(sorted(str(orientation or "unknown") for orientation in found)),
        )
    elif orientation := next(iter(found), None):
        record_orientation(folder, orientation, found[orientation])


def _orientations(folder: Path) -> Iterator[str | None]:
    """The orientations of preprocessed cases, spread evenly over all of them."""
    files = sorted(folder.glob("*.pkl"))
    number = min(len(files), _CASES_LOOKED_AT)
    for i in range(number):
        try:
            yield orientation_of(load_properties(files[i * len(files) // number]))
        except NnunetError:  # training will name what is damaged if it needs it
            continue


def set_aside(folder: Path, *, keep_checkpoints: bool = False) -> None:
    """Keep the checkpoints of an earlier training of the same fold, which a new one would overwrite.

    Args:
        folder: Folder of the fold.
        keep_checkpoints: Leave them where they are, too.
    """
    names = [name for name in (FINAL, LATEST, BEST) if (folder / name).is_file()]
    if not names:
        return
    stamp = time.strftime("replaced_%Y-%m-%d_%H-%M-%S")
    free = (path for n in count(1) if not (path := folder / (stamp if n == 1 else f"{stamp}_{n}")).exists())
    kept = make_folder(next(free))
    weights = [*names, *_TRANSFER_FILES]
    for name in [*weights, RECIPE_FILE, "progress.jsonl", "progress.png"]:
        if (folder / name).is_file():
            move = shutil.copy2 if keep_checkpoints and name in weights else shutil.move
            move(folder / name, kept / name)
    _log.warning(
        "%s has been trained before. Its checkpoints are kept in %s; delete them if you do not need them. "
        "(To continue a training use --c.)",
        folder,
        kept.name,
    )


def forget_transfer(folder: Path) -> None:
    """Remove the account of an earlier training's weights from the folder of one that starts from nothing."""
    for name in _TRANSFER_FILES:
        (folder / name).unlink(missing_ok=True)


def write_benchmark(task: TrainingTask, history: History, *, device: torch.device, processes: Processes) -> None:
    """``benchmark_result.json`` as nnU-Net's benchmark trainers write it: the fastest epoch on each machine."""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    number = processes.world_size
    path = task.output_folder / "benchmark_result.json"
    results = read_json(path) if path.is_file() else {}
    key = f"{socket.gethostname()}__{cudnn}__{torch.__version__}__{gpu}__num_gpus_{number}"
    results[key] = {
        "torch_version": torch.__version__,
        "cudnn_version": cudnn,
        "gpu_name": gpu,
        "fastest_epoch": min(figures.seconds for figures in history),
        "num_gpus": number,
    }
    write_json(path, results)
