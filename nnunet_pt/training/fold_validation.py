"""The final validation of a fold: with which weights, on which cases, and how it is shown."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nnunet_pt.core.errors import CheckpointError, TrainingStopped
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.evaluation.summary import Summary
from nnunet_pt.networks.precision import Precision
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.monitor import Monitor
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.training.validation import ValidationRequest, final_validation


def checkpoint_to_validate(folder: Path, *, best: bool) -> Path:
    """The checkpoint whose weights shall be validated.

    Args:
        folder: Folder of the fold.
        best: The best one instead of the last one.

    Raises:
        CheckpointError: If it does not exist.
    """
    path = folder / (BEST if best else FINAL)
    if path.is_file():
        return path
    there = [name for name in (FINAL, LATEST, BEST) if (folder / name).is_file()]
    remedies = {
        FINAL: "validate the last weights with --val alone",
        BEST: "continue the training with --c, or validate its best weights so far with --val --val_best",
        LATEST: "continue the training with --c",
    }
    raise CheckpointError(
        f"There is nothing to validate: {path} is missing.",
        found=f"a training that has not finished ({', '.join(there)})" if there and FINAL not in there else None,
        remedy=next((text for name, text in remedies.items() if name in there), "train first, without --val"),
    )


def validate_fold(
    task: TrainingTask,
    network: nn.Module,
    monitor: Monitor,
    *,
    device: torch.device,
    precision: Precision,
    processes: Processes,
    signals: StopSignals,
) -> Summary | None:
    """Predict and evaluate the validation cases of a fold.

    Args:
        task: What was trained.
        network: The trained network, without wrappers.
        monitor: Shows the result.
        device: Where the network is.
        precision: How it computes.
        processes: The processes, which share the cases.
        signals: A request to stop ends the validation at once; with ``--val`` or ``--c`` it goes on.

    Returns:
        Metrics; None in helping processes, and if the fold has no validation cases.

    Raises:
        TrainingStopped: If a signal asked for it.
    """
    if not task.split.val:
        monitor.warn("This fold has no validation cases, so there is no final validation.")
        return None

    def stop_if_asked() -> None:
        if signals.requested == "stop":
            raise KeyboardInterrupt

    supervised = bool(network.deep_supervision)
    network.deep_supervision = False  # type: ignore[assignment]
    network.eval()
    try:
        summary = final_validation(
            network,
            _request(task),
            device=device,
            precision=precision,
            rank=processes.rank,
            world_size=processes.world_size,
            barrier=processes.barrier,
            on_step=stop_if_asked,
            progress=task.request.progress,
        )
    except KeyboardInterrupt:
        how = signals.to_continue if signals.requeue else "the same command with --val (without --c) goes on"
        raise TrainingStopped(
            f"{signals.signal_name or 'Ctrl-C'} stopped the final validation. The training itself is finished and "
            f"saved; what is validated is kept, too: {how}.",
            exit_status=signals.exit_status or 130,
        ) from None
    finally:
        network.deep_supervision = supervised  # type: ignore[assignment]
    if summary is not None:
        monitor.final_validation(summary.dice, {label: m["Dice"] for label, m in summary.mean.items()})
    return summary


def _request(task: TrainingTask) -> ValidationRequest:
    wanted = task.workspace.settings.num_processes
    return ValidationRequest(
        plans=task.plans,
        configuration=task.configuration,
        labels=task.labels,
        file_ending=task.description.file_ending,
        preprocessed=task.dataset_folder,
        data_folder=task.reading_folder,
        cases=task.split.val,
        fold_folder=task.output_folder,
        mirror_axes=task.mirror_axes or (),
        save_probabilities=task.request.save_probabilities,
        previous_stage_folder=task.previous_stage_folder,
        num_processes=default_num_processes(8) if wanted is None else wanted,
    )
