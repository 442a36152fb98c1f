"""Saving the state of a training: at the right moments, by one process, and without ending the training."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from nnunet_pt.core.errors import StorageError, TrainingError, TrainingStopped
from nnunet_pt.training.parts import Parts
from nnunet_pt.training.snapshot import Scaler
from nnunet_pt.training.state import LATEST, TrainingState
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.transfer.checkpoint import write_checkpoint

STOP = 1 << 20  # a request to stop, beside which requests to save (1 each) do not count
REQUEUE = 1 << 40  # a request to stop and to queue the job again, beside which the others do not count


class Saver:
    """Writes checkpoints, and does what signals and the clock ask for.

    Args:
        task: What is trained.
        parts: What the trainer works with.
        optimizer: The optimiser.
        scaler: The gradient scaler, if there is one.
    """

    def __init__(self, task: TrainingTask, parts: Parts, optimizer: Optimizer, scaler: Scaler | None) -> None:
        self._task = task
        self._parts = parts
        self._optimizer = optimizer
        self._scaler = scaler
        self._is_off = task.request.disable_checkpointing or task.recipe.benchmark

    def request(self) -> float:
        """What this process was asked for, as a number that can be added to those of the others."""
        wanted = self._parts.signals.requested
        save = wanted == "save" or (self._parts.processes.is_main and self._parts.save_policy.due_after_step())
        return float(REQUEUE * self._parts.signals.requeue + STOP * (wanted == "stop") + save)

    def request_after_epoch(self, epoch: int) -> float:
        """The same at the end of an epoch."""
        policy, recipe = self._parts.save_policy, self._task.recipe
        due = self._parts.processes.is_main and policy.due_after_epoch(epoch, recipe.num_epochs)
        return self.request() + due

    def agree(self, request: float) -> int:
        """Sum of the requests of all processes."""
        return round(float(self._parts.processes.sum(torch.tensor(request, device=self._parts.device))))

    def heed(self, requests: int, state: TrainingState) -> None:
        """Save or stop, if any process was asked to.

        Args:
            requests: Sum of the requests of all processes.
            state: Where the training is.

        Raises:
            TrainingStopped: If a process was asked to stop; the state is saved.
        """
        if not requests:
            return
        saved = self.save(state, LATEST)
        self._parts.signals.saved()
        self._parts.save_policy.done()
        if requests >= STOP:
            self._parts.processes.barrier()  # the end of one would end the others before the state is saved
            signals = self._parts.signals
            where = f"epoch {state.epoch}, iteration {state.iteration}"
            signals.requeue = saved and requests >= REQUEUE
            kept = f"Its state is saved; {signals.to_continue}." if saved else "Its state was NOT saved."
            raise TrainingStopped(
                f"{signals.signal_name or 'A signal to another process'} stopped the training in {where}. {kept}",
                exit_status=signals.exit_status or 130,
            )

    def save(self, state: TrainingState, name: str, *, required: bool = False) -> bool:
        """Write a checkpoint; the main process does.

        A failure is a warning, because the next attempt may succeed and the earlier checkpoint is still there.

        Args:
            state: Where the training is.
            name: Name of the file.
            required: Raise an error instead of a warning.

        Returns:
            Whether it was written (or is another process's business).
        """
        if self._is_off:
            return False
        if not self._parts.processes.is_main:
            return True
        checkpoint = state.capture(
            self._parts.network.bare,
            self._optimizer,
            self._scaler,
            init_args=self._task.init_args(torch.device(self._parts.device.type)),
            trainer_name=self._task.recipe.name,
            mirroring_axes=self._task.mirror_axes,
        )
        try:
            write_checkpoint(self._task.output_folder / name, checkpoint)
        except (StorageError, TrainingError) as error:
            if required:
                raise
            self._parts.monitor.warn(f"The state could not be saved, training goes on.\n{error}")
            return False
        return True
