"""A few passes of a network and the export of a case, run in a worker process of their own."""

from __future__ import annotations

import time
from math import ceil, prod
from typing import Any

import torch

from nnunet_pt.core.process_memory import keep_freed_memory
from nnunet_pt.doctor.case_jobs import peak_memory, timed
from nnunet_pt.doctor.costs import PredictionCost, TrainingJob
from nnunet_pt.doctor.network_jobs import (
    limited_memory,
    memory_errors,
    peak_gpu_memory,
    seconds_of_steps,
    task_of,
    typical,
)
from nnunet_pt.inference.export import segmented
from nnunet_pt.inference.sliding_window import SlidingWindow
from nnunet_pt.networks.device import all_cpus_for
from nnunet_pt.networks.precision import choose_precision
from nnunet_pt.networks.prediction import prepare_for_prediction
from nnunet_pt.preprocessing.resample import compute_new_shape
from nnunet_pt.preprocessing.store import load_properties
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.parts import network_of
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.task import TrainingTask

MOST_EXPORTED_VALUES = 1 << 27


def measure_prediction(job: TrainingJob) -> PredictionCost:
    """Predict some tiles with random weights, and export a case.

    Raises:
        MemoryError: If the memory does not suffice.
        NnunetError: If trainer or plans cannot be used.
    """
    started = time.perf_counter()
    task = task_of(job, find_recipe(job.trainer, job.settings).recipe)
    device = torch.device(job.device)
    if device.type == "cpu":
        keep_freed_memory()
    with limited_memory(job), memory_errors(), all_cpus_for(device):
        network = network_of(task, device, Processes())
        prepare_for_prediction(network)
        axes = task.mirror_axes or ()
        flips = 2 ** len(axes)
        patch = task.configuration.patch_size
        options: dict[str, Any] = {
            "patch_size": patch,
            "num_outputs": task.labels.num_segmentation_heads,
            "device": device,
            "precision": choose_precision(device),
        }
        window = SlidingWindow(network, mirror_axes=axes, **options)
        together = window.tiles_per_batch
        if together == 1:  # mirrored tiles take the same time, so one is enough
            window = SlidingWindow(network, **options)
        tiles = ceil(together / len(window.flips))
        image = torch.randn(task.input_channels, *_image_of(tiles, patch))
        times = seconds_of_steps(lambda: window.predict_logits(image), device, started + job.seconds * 0.8, most=3)
        return PredictionCost(
            pass_s=typical(times) / (tiles * len(window.flips)),
            flips=flips,
            memory_bytes=peak_memory(),
            gpu_bytes=peak_gpu_memory(device),
            export_s=_export_time(task, job),
            outputs=task.labels.num_segmentation_heads,
        )


def _image_of(tiles: int, patch: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image that has so many tiles."""
    if len(patch) == 2:
        return (tiles, *patch)
    return (patch[0] + (tiles - 1) * ceil(patch[0] / 2), *patch[1:])


def _export_time(task: TrainingTask, job: TrainingJob) -> float | None:
    """Seconds for each value of the logits of a case; None if there is no case, or it is very large."""
    properties = load_properties(task.data_folder / f"{job.cases[0]}.pkl")
    before = properties["shape_after_cropping_and_before_resampling"]
    spacing = [float(properties["spacing"][a]) for a in task.plans.transpose_forward]
    shape = compute_new_shape(before, spacing, task.configuration.spacing_for(spacing))
    outputs = task.labels.num_segmentation_heads
    if outputs * prod(shape) > MOST_EXPORTED_VALUES:
        return None
    coarse = torch.randn(1, outputs, 4, 4, 4)
    logits = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0].numpy()
    arguments: dict[str, Any] = {"plans": task.plans, "configuration": task.configuration, "labels": task.labels}
    return timed(lambda: segmented(logits, properties, **arguments)) / logits.size
