"""``debug.json``: what a training was made of, as text, and the configuration that trackers show."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.core.files import write_json
from nnunet_pt.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    import torch

DEBUG_NAME = "debug.json"


def recipe_facts(recipe: TrainingRecipe, batch_size: int) -> dict[str, Any]:
    """The hyper-parameters under nnU-Net's names.

    Args:
        recipe: The recipe.
        batch_size: Of the training, over all processes.
    """
    return {
        "initial_lr": recipe.initial_lr,
        "weight_decay": recipe.weight_decay,
        "oversample_foreground_percent": recipe.foreground_share(batch_size),
        "probabilistic_oversampling": recipe.probabilistic_oversampling,
        "num_iterations_per_epoch": recipe.iterations_per_epoch,
        "num_val_iterations_per_epoch": recipe.validation_iterations_per_epoch,
        "num_epochs": recipe.num_epochs,
        "enable_deep_supervision": recipe.deep_supervision,
        "batch_size": batch_size,
    }


def tracker_config(
    *,
    plans: Mapping[str, Any],
    configuration: str,
    fold: int | str,
    dataset: Mapping[str, Any],
    recipe: TrainingRecipe,
    batch_size: int,
) -> dict[str, Any]:
    """The configuration of a Weights & Biases run: nnU-Net's entries, and the whole recipe.

    Args:
        plans: Content of plans.json.
        configuration: Name of the configuration.
        fold: Number of the fold, or "all".
        dataset: Content of dataset.json.
        recipe: The recipe.
        batch_size: Of the training, over all processes.
    """
    return {
        "plans": dict(plans),
        "configuration": configuration,
        "fold": fold,
        "dataset": dict(dataset),
        "hparas": recipe_facts(recipe, batch_size),
        "recipe": recipe.to_json(),
    }


def write_debug_file(
    folder: Path, *, recipe: TrainingRecipe, batch_size: int, device: torch.device, facts: Mapping[str, object]
) -> Path:
    """Write ``debug.json``: everything as text, sorted by name, with nnU-Net's names where they fit.

    Args:
        folder: Folder of the fold.
        recipe: The recipe.
        batch_size: Of the training, over all processes.
        device: Where the network is.
        facts: More entries, e.g. ``network`` (a module is given by its class name), ``optimizer``, ``loss``,
            ``lr_scheduler``, ``plans_manager``, ``configuration_manager``, ``dataset_json``, ``output_folder``,
            ``dataloader_train.transform``, ``is_ddp``, ``local_rank``.

    Returns:
        Its path.

    Raises:
        StorageError: If it cannot be written.
    """
    import torch

    values: dict[str, object] = {
        **recipe_facts(recipe, batch_size),
        "save_every": recipe.save_every,
        "recipe": recipe.to_json(),
        "device": device,
        "hostname": socket.gethostname(),
        "torch_version": torch.__version__,
        "cudnn_version": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        **facts,
    }
    if device.type == "cuda":
        values["gpu_name"] = torch.cuda.get_device_name(device)
    if isinstance(values.get("network"), torch.nn.Module):
        values["network"] = type(values["network"]).__name__
    path = folder / DEBUG_NAME
    write_json(path, {key: str(value) for key, value in values.items()}, sort_keys=True)
    return path
