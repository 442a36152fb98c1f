"""What a model folder holds beside weights and logs."""

from __future__ import annotations

import shutil
import socket
import time
from itertools import count
from pathlib import Path

import torch

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.files import copy_file, make_folder, read_json, write_json
from nnunet_pt.networks.precision import Precision
from nnunet_pt.training.debug_file import write_debug_file
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.history import History
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.task import RECIPE_FILE, TrainingTask

_log = get_logger(__name__)


def write_model_files(task: TrainingTask, *, device: torch.device, precision: Precision, processes: Processes) -> None:
    """Plans, dataset description and fingerprint for the model; recipe and ``debug.json`` for the fold."""
    write_json(task.model_folder / "dataset.json", task.dataset_json)
    write_json(task.model_folder / "plans.json", task.plans.to_json())
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


def set_aside(folder: Path) -> None:
    """Keep the checkpoints of an earlier training of the same fold, which a new one would overwrite."""
    names = [name for name in (FINAL, LATEST, BEST) if (folder / name).is_file()]
    if not names:
        return
    stamp = time.strftime("replaced_%Y-%m-%d_%H-%M-%S")
    free = (path for n in count(1) if not (path := folder / (stamp if n == 1 else f"{stamp}_{n}")).exists())
    kept = make_folder(next(free))
    for name in [*names, RECIPE_FILE, "progress.jsonl", "progress.png"]:
        if (folder / name).is_file():
            shutil.move(folder / name, kept / name)
    _log.warning(
        "%s has been trained before. Its checkpoints are kept in %s; delete them if you do not need them. "
        "(To continue a training use --c.)",
        folder,
        kept.name,
    )


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
