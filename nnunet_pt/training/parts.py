"""The parts of a training: network, batches, and how they follow from plans and recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.precision import Precision
from nnunet_pt.networks.trainer_networks import TrainerNetwork
from nnunet_pt.training.augmentation.base import Pipeline
from nnunet_pt.training.batches import Batch
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.interruption import SavePolicy, StopSignals
from nnunet_pt.training.loader import BatchLoader, default_num_workers
from nnunet_pt.training.monitor import Monitor
from nnunet_pt.training.network import TrainedNetwork
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.pipelines import load_patch_size
from nnunet_pt.training.sampling import PatchSampler, process_share
from nnunet_pt.training.task import TrainingTask


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a trainer works with.

    Attributes:
        network: The network, on its device.
        device: The device.
        precision: How the network computes.
        processes: The processes of this training.
        train_loader: Batches for training.
        val_loader: Batches for validation.
        gpu_pipelines: Augmentation for training and validation, if it is computed where the network is.
        monitor: Shows and records the training.
        save_policy: When to save.
        signals: What signals ask for.
    """

    network: TrainedNetwork
    device: torch.device
    precision: Precision
    processes: Processes
    train_loader: BatchLoader
    val_loader: BatchLoader
    gpu_pipelines: tuple[Pipeline, Pipeline] | None
    monitor: Monitor
    save_policy: SavePolicy
    signals: StopSignals


def network_of(task: TrainingTask, device: torch.device, processes: Processes) -> nn.Module:
    """The network of a training with its initial weights, on its device.

    The weights are drawn on the CPU, so that the same state of torch's generator gives the same ones for every device.
    """
    changes = TrainerNetwork(network=task.recipe.network, batch_norm=task.recipe.batch_norm)
    network = build_network(
        changes.architecture(task.configuration.architecture),
        input_channels=task.input_channels,
        num_outputs=task.labels.num_segmentation_heads,
        deep_supervision=task.recipe.deep_supervision,
        patch_size=task.configuration.patch_size,
    ).to(device)
    if processes.are_several and device.type == "cuda":  # concerns batch normalisation only, wherever it is
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised
    return network


def loader_of(
    task: TrainingTask,
    purpose: str,
    pipeline: Pipeline | None,
    network: TrainedNetwork,
    *,
    seed: int,
    processes: Processes,
    pin_memory: bool,
) -> BatchLoader:
    """Batches for training ("train") or for the validation of each epoch ("val").

    Args:
        task: What is to be trained.
        purpose: "train" or "val".
        pipeline: The augmentation; None if it is computed elsewhere.
        network: The network, whose outputs the targets belong to.
        seed: The training's seed.
        processes: The processes of the training.
        pin_memory: Whether batches go to a GPU.
    """
    offset, size = process_share(task.configuration.batch_size, processes.world_size, processes.rank)
    if task.recipe.synthetic_batch:
        return SyntheticLoader(task, network, size)
    train = purpose == "train"
    final = task.configuration.patch_size
    cases = task.split.train if train else task.split.val or task.split.train
    return BatchLoader(
        PatchSource(task.reading_folder, cases, previous_stage_folder=task.previous_stage_folder),
        PatchSampler(
            load_patch=load_patch_size(task) if train else final,
            final_patch=final,
            annotated_key=task.labels.class_location_keys[-1] if task.labels.has_ignore_label else None,
            oversample_foreground=task.recipe.foreground_share(task.configuration.batch_size),
            probabilistic=task.recipe.probabilistic_oversampling,
        ),
        pipeline,
        batch_size=size,
        global_batch_size=task.configuration.batch_size,
        sample_offset=offset,
        seed=seed,
        purpose=purpose,
        num_workers=default_num_workers(purpose, task.workspace.settings),
        pin_memory=pin_memory,
    )


class SyntheticLoader(BatchLoader):
    """The same random batch again and again, to measure computation without the loading of data."""

    def __init__(self, task: TrainingTask, network: TrainedNetwork, batch_size: int) -> None:
        self.waited_s = 0.0
        self._next_step, self._last_step = 0, None
        patch = task.configuration.patch_size
        generator = torch.Generator().manual_seed(0)
        labels = task.labels
        channels = labels.num_segmentation_heads + labels.has_ignore_label if labels.has_regions else 1
        strides = network.output_strides if network.deep_supervision else [(1,) * len(patch)]
        shapes = [tuple(n // s for n, s in zip(patch, stride, strict=True)) for stride in strides]
        largest = 2 if labels.has_regions else labels.num_segmentation_heads
        self._batch = Batch(
            step=0,
            keys=("random numbers",) * batch_size,
            data=torch.randn(batch_size, task.input_channels, *patch, generator=generator),
            targets=[
                torch.randint(largest, (batch_size, channels, *shape), generator=generator).to(
                    torch.uint8 if labels.has_regions else torch.int16
                )
                for shape in shapes
            ],
        )

    def start(self, first_step: int = 0, num_steps: int | None = None) -> SyntheticLoader:
        self._next_step = first_step
        self._last_step = None if num_steps is None else first_step + num_steps
        return self

    def __next__(self) -> Batch:
        if self._next_step == self._last_step:
            raise StopIteration
        self._next_step += 1
        return self._batch

    def close(self) -> None:
        """Nothing to end."""
