"""What measurements with a network have in common."""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.doctor.case_jobs import timed
from nnunet_pt.doctor.costs import TrainingJob
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.splits import Split
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.task import TrainingTask

MOST_STEPS = 8
GPU_CONTEXT_BYTES = 500 << 20  # what CUDA takes beside the tensors


def task_of(job: TrainingJob, recipe: TrainingRecipe) -> TrainingTask:
    """What is to be trained, without anything that a training of this name has left behind."""
    plans = Plans.load(job.preprocessed / f"{job.plans_name}.json")
    configuration = plans.configuration(job.configuration)
    description = DatasetDescription.load(job.preprocessed / DATASET_FILE)
    own = replace(job.settings, results=job.scratch, wandb_enabled=False, compile=False, launch=None)
    return TrainingTask(
        request=TrainRequest(
            dataset=job.preprocessed.name,
            configuration=job.configuration,
            fold="all",
            trainer=job.trainer,
            plans_name=job.plans_name,
            disable_checkpointing=True,
            device=job.device,
            save_every_minutes=0.0,
            progress=False,
        ),
        recipe=replace(recipe, benchmark=False, synthetic_batch=False),
        plans=plans,
        configuration=replace(
            configuration,
            batch_size=recipe.batch_size or configuration.batch_size,
            patch_size=recipe.patch_size or configuration.patch_size,
        ),
        description=description,
        dataset_json=read_json(job.preprocessed / DATASET_FILE),
        labels=Labels.from_description(description),
        dataset_folder=job.data,
        output_folder=job.scratch / "fold_all",
        split=Split(train=job.cases, val=job.cases),
        previous_stage_folder=None,
        workspace=Workspace(own),
    )


@contextlib.contextmanager
def limited_memory(job: TrainingJob) -> Iterator[None]:
    """Let allocations beyond the limit fail: better here than in a program of somebody else."""
    if sys.platform != "linux" or job.device != "cpu":  # CUDA reserves address space without end
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = job.memory_bytes if before[1] < 0 else min(job.memory_bytes, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """What torch raises if memory does not suffice, as Python's error."""
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError of CUDA is one, too
        text = str(error).lower()
        if "out of memory" in text or "allocate memory" in text or "not enough memory" in text:
            raise MemoryError(str(error).splitlines()[0]) from error
        raise


def seconds_of_steps(
    run: Callable[[], object], device: torch.device, deadline: float, most: int | None = None
) -> list[float]:
    """Seconds of each step: one at least, and more until a time on the clock."""

    def step() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = [timed(step)]
    while len(times) < (most or MOST_STEPS) and time.perf_counter() + times[-1] < deadline:
        times.append(timed(step))
    return times


def typical(times: list[float]) -> float:
    """The median; the first step is slower than all others."""
    return statistics.median(times[1:] or times)


def peak_gpu_memory(device: torch.device) -> int | None:
    """Largest memory of this process on the GPU so far in bytes; None on the CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_reserved(device)) + GPU_CONTEXT_BYTES
