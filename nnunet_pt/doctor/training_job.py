"""A few steps of a training, run in a worker process of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from dataclasses import replace
from math import ceil
from pathlib import Path

import torch

from nnunet_pt.core.settings import Workspace
from nnunet_pt.doctor.case_jobs import peak_memory, timed
from nnunet_pt.doctor.costs import Interim, TrainingCost, TrainingJob
from nnunet_pt.doctor.network_jobs import (
    limited_memory,
    memory_errors,
    peak_gpu_memory,
    seconds_of_steps,
    task_of,
    typical,
)
from nnunet_pt.preprocessing.splits import NUM_FOLDS
from nnunet_pt.training.batches import Batch
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.parts import loader_of, network_of
from nnunet_pt.training.patches import MOST_OPEN_CASES, PatchSource
from nnunet_pt.training.pipelines import load_patch_size
from nnunet_pt.training.plots import PLOT_NAME, draw_progress
from nnunet_pt.training.process import TrainingProcess
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.snapshot import Snapshot
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.training.trainer import Trainer

PARTS_OF_A_BATCH = 8
VALIDATION_SHARE = 1 / 3  # of the time of a training step, until it is measured
STATE_BYTES_PER_WEIGHT = 8  # gradient and momentum, whatever the size of the batch is
OPENED_CASES = 8
SETTLED_S, MOST_SETTLING_S = 0.4, 10.0


def measure_training(job: TrainingJob) -> TrainingCost:
    """Train for a few steps as ``nnUNetv2_train`` does, with its worker processes.

    Raises:
        MemoryError: If the memory does not suffice.
        NnunetError: If trainer, plans or data cannot be used.
    """
    started = time.perf_counter()
    source = find_recipe(job.trainer, job.settings)
    task = task_of(job, source.recipe)
    device = torch.device(job.device)
    trainer = (source.trainer_class or Trainer)(task)
    process = TrainingProcess(task, trainer, device, Processes(), StopSignals())
    each_case = _memory_of_an_open_case(task)
    process.set_up_machine()
    with limited_memory(job), memory_errors(), process.monitor(History(), continued=False) as monitor:
        network = network_of(task, device, Processes())
        process.connect(network, monitor, seed=1)
        for group in trainer.optimizer.param_groups:
            group["lr"] = 1e-3
        _draw_progress(job.scratch)
        batch_s = _batch_time(task, trainer) if device.type == "cuda" else 0.0
        with trainer.parts.train_loader.start(0), trainer.parts.val_loader.start(0):
            workers, in_workers = _settled_workers(each_case, job.num_cases)
            recipe = task.recipe
            known = TrainingCost(
                parameters=sum(p.numel() for p in network.parameters()),
                workers=workers,
                epochs=recipe.num_epochs,
                iterations=recipe.iterations_per_epoch,
                validation_iterations=recipe.validation_iterations_per_epoch,
            )
            steps = _Steps(trainer, known, in_workers=in_workers, started=started, job=job)
            cost = steps.measure()
        return replace(cost, step_s=max(cost.step_s, batch_s / max(1, workers)))


class _Steps:
    """Time and memory of training and validation iterations.

    Args:
        trainer: The trainer; its loaders are at work.
        known: What is known already.
        in_workers: Memory of the workers.
        started: When the measurement began.
        job: What is measured.
    """

    def __init__(
        self, trainer: Trainer, known: TrainingCost, *, in_workers: int, started: float, job: TrainingJob
    ) -> None:
        self._trainer = trainer
        self._known = known
        self._in_workers = in_workers
        self._started = started
        self._job = job

    def measure(self) -> TrainingCost:
        """On a CPU a part of a batch comes first. Its figures are scaled if there is no time for a whole one."""
        trainer, parts, device = self._trainer, self._trainer.parts, self._trainer.parts.device
        network, seconds = parts.network, self._job.seconds
        network.train()
        first = next(parts.train_loader)
        part = _part_of(first, PARTS_OF_A_BATCH) if device.type == "cpu" else None
        cost, part_s = (self._known, 0.0) if part is None else self._from_parts(first, part)
        whole = part is None or self._in_time(cost.step_s, seconds)
        if whole:
            self._note(cost)
            deadline = self._started + 0.75 * seconds
            times = seconds_of_steps(lambda: trainer.step(next(parts.train_loader)), device, deadline)
            cost = self._cost(typical(times), len(times), whole=True)
            self._note(cost)
        Snapshot(network.bare, trainer.optimizer, trainer.scaler).take()  # is kept all the time
        network.eval_mode()
        batch = next(parts.val_loader)
        checked = batch if whole else _part_of(batch, PARTS_OF_A_BATCH) or batch
        checks = seconds_of_steps(lambda: _validate(trainer, checked), device, self._started + seconds, most=3)
        share = typical(checks) / (cost.step_s if whole else part_s)
        memory = max(cost.memory_bytes, peak_memory() + self._in_workers)
        return replace(cost, validation_s=share * cost.step_s, memory_bytes=memory)

    def _from_parts(self, batch: Batch, part: Batch) -> tuple[TrainingCost, float]:
        """What whole batches take, from two parts of one, and the time of the smaller part.

        Beside other work a step takes long however small it is, so its time is not proportional to its size.
        """
        factor = len(batch.keys) / len(part.keys)
        state = STATE_BYTES_PER_WEIGHT * self._known.parameters
        before = peak_memory()
        self._note(self._known)
        first = timed(lambda: self._trainer.step(part))  # takes several times as long as all others
        own = max(0, peak_memory() - before - state)
        memory = round(before + state + factor * own + self._in_workers)
        self._note(replace(self._cost(factor * first, 1), memory_bytes=memory))
        part_s = timed(lambda: self._trainer.step(part))
        cost = replace(self._cost(factor * part_s, 1), memory_bytes=memory)
        self._note(cost)
        larger = _part_of(batch, factor / 2) or batch
        larger_s = timed(lambda: self._trainer.step(larger))
        more, rest = len(larger.keys) - len(part.keys), len(batch.keys) - len(larger.keys)
        step_s = larger_s + rest * max(0.0, larger_s - part_s) / max(1, more)
        cost = replace(self._cost(step_s, 2), memory_bytes=memory)
        self._note(cost)
        return cost, part_s

    def _cost(self, step_s: float, steps: int, *, whole: bool = False) -> TrainingCost:
        return replace(
            self._known,
            step_s=step_s,
            validation_s=step_s * VALIDATION_SHARE,
            memory_bytes=peak_memory() + self._in_workers,
            gpu_bytes=peak_gpu_memory(self._trainer.parts.device),
            whole_batch=whole,
            steps=steps,
        )

    def _note(self, cost: TrainingCost) -> None:
        Interim(cost=cost, begun=time.monotonic()).save(self._job.scratch)

    def _in_time(self, seconds: float, limit_s: float) -> bool:
        return time.perf_counter() - self._started + seconds < limit_s


def _part_of(batch: Batch, parts: float) -> Batch | None:
    """One of several parts of a batch; None if that would be all of it."""
    size = ceil(len(batch.keys) / parts)
    if size == len(batch.keys):
        return None
    return Batch(batch.step, batch.keys[:size], batch.data[:size], [t[:size] for t in batch.targets])


def _draw_progress(folder: Path) -> None:
    """The plot of each epoch: what it needs stays in memory."""
    figures = EpochFigures(
        epoch=0,
        lr=0.01,
        train_loss=0.0,
        val_loss=0.0,
        dice_per_class=(0.5,),
        mean_fg_dice=0.5,
        ema_fg_dice=0.5,
        seconds=1.0,
        started=0.0,
        ended=1.0,
    )
    draw_progress((figures,), folder / PLOT_NAME)


def _validate(trainer: Trainer, batch: Batch) -> object:
    device = trainer.parts.device
    with torch.no_grad():
        return trainer.validation_step(batch.data.to(device), [t.to(device) for t in batch.targets])


def _batch_time(task: TrainingTask, trainer: Trainer) -> float:
    """CPU time of one worker for one batch."""
    network = trainer.parts.network
    pipeline, _ = trainer.build_augmentation(network.output_strides if network.deep_supervision else None)
    alone = replace(task.workspace.settings, num_augmentation_processes=0)
    one = replace(task, workspace=Workspace(alone))
    with loader_of(one, "train", pipeline, network, seed=1, processes=Processes(), pin_memory=False) as loader:
        loader.start(0)
        next(loader)
        return min(timed(lambda: next(loader)) for _ in range(2))


def _memory_of_an_open_case(task: TrainingTask) -> float:
    """What a worker keeps for each case that it has taken a patch from, in bytes."""
    folder, cases = task.data_folder, task.split.train
    patch = load_patch_size(task)

    def opened(case: str) -> PatchSource:
        source = PatchSource(folder, (case,))
        source.class_locations(case)
        source.read(case, (0, 0, 0), patch)
        return source

    kept = [opened(cases[0])]  # the first one takes what all others share
    before = _resident_memory()
    kept += [opened(cases[i % len(cases)]) for i in range(1, OPENED_CASES + 1)]
    return max(0.0, (_resident_memory() - before) / OPENED_CASES)


def _settled_workers(each_case: float, num_cases: int) -> tuple[int, int]:
    """How many workers there are for training, and the memory of all that is theirs alone in the end.

    It is measured once they have made all batches that may wait; after that they open more and more cases.

    Args:
        each_case: Bytes for an open case.
        num_cases: Cases of the dataset.
    """
    workers = multiprocessing.active_children()
    pids = [p.pid for p in workers if p.pid is not None]
    deadline = time.monotonic() + MOST_SETTLING_S
    now, before = sum(map(_private_memory, pids)), -1
    while now > 1.01 * before and time.monotonic() < deadline:
        time.sleep(SETTLED_S)
        now, before = sum(map(_private_memory, pids)), now
    training = sum("train" in p.name for p in workers)
    val_cases = ceil(num_cases / NUM_FOLDS)
    to_open = training * min(num_cases - val_cases, MOST_OPEN_CASES)
    to_open += (len(workers) - training) * min(val_cases, MOST_OPEN_CASES)
    return training, round(now + each_case * to_open)


def _private_memory(pid: int) -> int:
    """Memory of a process in bytes that it shares with no other."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # not Linux, or gone
        return 0
    return sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+) kB", text, re.MULTILINE)) << 10


def _resident_memory() -> int:
    """Memory of this process now, in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
