"""The training loop.

A trainer is given its parts (network, loaders, monitor, ...) and runs epochs with them. Users who want another loss,
optimiser, augmentation or step derive from :class:`Trainer` and override the methods that are not marked as final; all
other choices are values of the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import StorageError, TrainingError, TrainingStopped
from nnunet_pt.networks.precision import Precision
from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.batches import Batch
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.history import EpochFigures
from nnunet_pt.training.interruption import SavePolicy, StopSignals
from nnunet_pt.training.loader import BatchLoader
from nnunet_pt.training.losses import build_loss, deep_supervision_weights
from nnunet_pt.training.memory import peak_memory_gb
from nnunet_pt.training.monitor import Monitor
from nnunet_pt.training.network import TrainedNetwork
from nnunet_pt.training.online_metrics import OnlineDice
from nnunet_pt.training.optimizers import build_optimizer
from nnunet_pt.training.pipelines import training_pipelines
from nnunet_pt.training.recipe import DEFAULT, TrainingRecipe
from nnunet_pt.training.schedules import lr_at
from nnunet_pt.training.snapshot import Scaler, Snapshot
from nnunet_pt.training.state import BEST, FINAL, LATEST, TrainingState
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.transfer.checkpoint import write_checkpoint

MOST_NON_FINITE = 5  # losses in a row, before training returns to its last good state
MOST_RETURNS = 3
STOP = 1 << 20  # a request to stop, beside which requests to save (1 each) do not count
LOWEST_SCALE = 2.0**-10  # a gradient scaler below this is not calibrating any more


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


class Trainer:
    """Trains a network.

    Args:
        task: What is to be trained.

    Attributes:
        recipe: For users' own trainers: the recipe to start from.
        state: Where the training is.
        loss: The loss; available once :meth:`connect` was called, like the optimiser.
    """

    recipe: ClassVar[TrainingRecipe] = DEFAULT

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        self.state = TrainingState(recipe=task.recipe.to_json())

    # ------------------------------------------------------------------ what users may override

    def build_loss(self, num_outputs: int) -> nn.Module:
        """The loss; it is called with the network's outputs and the targets, each a list if there are several.

        Args:
            num_outputs: Outputs of the network, one for each resolution.
        """
        several = num_outputs > 1
        distributed = self.parts.processes.are_several and not self.parts.network.is_compiled
        return build_loss(
            self.task.recipe.loss,
            labels=self.task.labels,
            batch_dice=self.task.configuration.batch_dice,
            deep_supervision_weights=deep_supervision_weights(num_outputs, distributed=distributed)
            if several
            else None,
        )

    def build_optimizer(self, network: nn.Module) -> Optimizer:
        """The optimiser of the network's parameters; its learning rate is set in each epoch."""
        return build_optimizer(self.task.recipe, network.parameters())

    def build_augmentation(self, output_strides: Sequence[Sequence[int]] | None) -> tuple[Pipeline, Pipeline]:
        """The pipelines for training and for validation.

        Args:
            output_strides: Voxels of the patch for a voxel of each output of the network; None for a single output.
        """
        return training_pipelines(self.task, output_strides)

    def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
        """The loss of a batch; gradients and the optimiser's step are the loop's business.

        Args:
            data: (B,C,*spatial).
            targets: Highest resolution first, each (B,T,*spatial).
        """
        with self.parts.precision.autocast():
            outputs = self.parts.network(data)
            loss: Tensor = self.loss(outputs, targets)
        return loss

    def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of a batch and logits of the highest resolution; no gradients are needed.

        Args:
            data: (B,C,*spatial).
            targets: Highest resolution first, each (B,T,*spatial).
        """
        with self.parts.precision.autocast():
            outputs = self.parts.network(data)
            loss: Tensor = self.loss(outputs, targets)
        return loss, outputs[0] if isinstance(outputs, list | tuple) else outputs

    # ------------------------------------------------------------------ the loop

    @final
    def connect(self, parts: Parts) -> None:
        """Take the parts and build what depends on them."""
        self.parts = parts
        self.loss = self.build_loss(len(parts.network.output_strides) if parts.network.deep_supervision else 1)
        self.loss.to(parts.device)
        self.optimizer = self.build_optimizer(parts.network.bare)
        # cuda.amp scales the loss, so that small gradients do not vanish in float16
        self.scaler: Scaler | None = torch.amp.GradScaler() if parts.precision.needs_scaling else None
        self._snapshot = Snapshot(parts.network.bare, self.optimizer, self.scaler)
        self._culprits: list[str] = []

    @final
    def run(self) -> None:
        """Train to the last epoch, and save the result.

        Raises:
            TrainingStopped: If a signal asked for it; the state is saved.
            TrainingError: If the loss is not finite again and again.
        """
        recipe, state, parts = self.task.recipe, self.state, self.parts
        finished_before = state.epoch >= recipe.num_epochs and (self.task.output_folder / FINAL).is_file()
        if state.epoch < recipe.num_epochs:
            parts.train_loader.start(state.step)
            if recipe.validation_iterations_per_epoch:
                parts.val_loader.start(state.epoch * recipe.validation_iterations_per_epoch)
        self._snapshot.take()
        try:
            while state.epoch < recipe.num_epochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch(*self._validate_epoch())
        finally:
            parts.train_loader.close()
            parts.val_loader.close()
        if not self.task.request.disable_checkpointing and not recipe.benchmark and not finished_before:
            self.save(FINAL, required=True)
            if parts.processes.is_main:
                (self.task.output_folder / LATEST).unlink(missing_ok=True)

    def _out_of_patience(self) -> bool:
        patience = self.task.recipe.patience
        done = patience is not None and self.state.epochs_without_improvement >= patience
        if done:
            self.parts.monitor.log(
                f"The moving average of the Dice has not improved for {patience} epochs: training ends here."
            )
        return done

    def _train_epoch(self) -> None:
        state, parts, recipe = self.state, self.parts, self.task.recipe
        self._started = time.time()
        self._waited = 0.0
        self._epoch_clock = time.perf_counter() - state.epoch_elapsed_s
        rate = lr_at(recipe, state.epoch) * state.rate_factor
        parts.monitor.epoch_started(state.epoch, rate, done={"train": state.iteration})
        parts.network.train()
        while state.iteration < recipe.iterations_per_epoch:
            for group in self.optimizer.param_groups:
                group["lr"] = lr_at(recipe, state.epoch) * state.rate_factor
            batch = next(parts.train_loader)
            self._waited += parts.train_loader.waited_s
            loss, requests = self.step(batch)
            state.step += 1
            state.iteration += 1
            state.train_losses.append(loss)
            parts.monitor.step(loss, phase="train")
            self._heed(requests)

    def step(self, batch: Batch) -> tuple[float, int]:
        """One update; gives the mean loss over all processes, and whether any of them was asked to save or stop."""
        data, targets = self._on_device(batch, training=True)
        scaler = self.scaler

        def compute() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.train_step(data, targets)
            (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            return loss

        loss = self.parts.network.first_step_guard(compute)
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        limit = self.task.recipe.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.parts.network.parameters(), float("inf") if limit is None else limit)
        values = torch.stack([loss.detach().float(), norm.detach().float(), self._request(loss.device)])
        # Losses and requests of all processes in one message; a NaN anywhere is a NaN everywhere
        summed, norms, requests = self.parts.processes.sum(values).tolist()
        mean = summed / self.parts.processes.world_size
        calibrating = scaler is not None and float(scaler.get_scale()) > LOWEST_SCALE
        if abs(mean) < float("inf") and (calibrating or abs(norms) < float("inf")):
            if scaler is None:
                self.optimizer.step()
            else:
                scaler.step(self.optimizer)
            self.state.non_finite_in_a_row = 0
        else:
            self._skip(mean, batch)
        if scaler is not None:
            scaler.update()
        return mean, round(requests)

    def _request(self, device: torch.device) -> Tensor:
        """What this process was asked for, as a number that can be added to those of the others."""
        wanted = self.parts.signals.requested
        value = float(STOP) if wanted == "stop" else 0.0
        if wanted == "save" or (self.parts.processes.is_main and self.parts.save_policy.due_after_step()):
            value += 1.0
        return torch.tensor(value, device=device)

    def _heed(self, requests: int) -> None:
        """Save or stop, if any process was asked to."""
        if not requests:
            return
        saved = self.save(LATEST)
        self.parts.signals.saved()
        self.parts.save_policy.done()
        if requests >= STOP:
            state, signals = self.state, self.parts.signals
            where = f"epoch {state.epoch}, iteration {state.iteration}"
            kept = "Its state is saved; continue with --c." if saved else "Its state was NOT saved."
            raise TrainingStopped(
                f"{signals.signal_name or 'A signal to another process'} stopped the training in {where}. {kept}",
                exit_status=signals.exit_status or 130,
            )

    def _skip(self, loss: float, batch: Batch) -> None:
        """Leave out a step, and return to the last good state if there were too many of them."""
        state, monitor = self.state, self.parts.monitor
        state.skipped_steps += 1
        state.non_finite_in_a_row += 1
        cases = ", ".join(dict.fromkeys(batch.keys))
        what = f"loss {loss}" if not abs(loss) < float("inf") else "gradients that are not finite"
        self._culprits = [*self._culprits, *batch.keys][-20:]
        monitor.warn(
            f"The batch of the cases {cases} gave {what}; epoch {state.epoch}, iteration {state.iteration}. "
            "The step is skipped."
        )
        if state.non_finite_in_a_row < MOST_NON_FINITE:
            return
        if state.returns >= MOST_RETURNS:
            raise TrainingError(
                f"The loss was not finite in {MOST_NON_FINITE} steps in a row, "
                "and smaller learning rates did not help.",
                found=f"last batches with the cases {', '.join(dict.fromkeys(self._culprits))}",
                remedy="look at the images of these cases (extreme intensities?); train with a smaller learning rate "
                "(-lr) or in full precision (-precision fp32). The last good checkpoint is kept.",
            )
        self._snapshot.restore()
        state.returns += 1
        state.rate_factor /= 2
        state.non_finite_in_a_row = 0
        monitor.warn(
            f"{MOST_NON_FINITE} steps in a row had to be skipped: training returns to the weights of its last good "
            f"state, with {state.rate_factor:g} times the planned learning rate from now on."
        )

    def _validate_epoch(self) -> tuple[float, OnlineDice]:
        """Mean loss and Dice of the validation batches, over all processes."""
        parts, number = self.parts, self.task.recipe.validation_iterations_per_epoch
        dice = OnlineDice(self.task.labels, parts.device)
        total = torch.zeros((), dtype=torch.float64)
        parts.network.eval_mode()
        with torch.no_grad():
            for _ in range(number):
                batch = next(parts.val_loader)
                self._waited += parts.val_loader.waited_s
                data, targets = self._on_device(batch, training=False)
                loss, logits = self.validation_step(data, targets)
                dice.update(logits, targets[0])
                value = float(loss)
                total += value
                parts.monitor.step(value, phase="val")
                # Validation is repeated as a whole when the training is continued
                self._heed(round(float(parts.processes.sum(self._request(parts.device)))))
        parts.processes.sum(dice.counts)
        share = torch.tensor(float(total), device=parts.device, dtype=torch.float32)
        return float(parts.processes.sum(share)) / max(1, number) / parts.processes.world_size, dice

    def _end_epoch(self, val_loss: float, dice: OnlineDice) -> None:
        state, parts, recipe = self.state, self.parts, self.task.recipe
        mean = dice.mean_foreground_dice()
        ema = parts.monitor.history.next_ema(mean)
        better = state.best_ema is None or ema > state.best_ema
        seconds = time.perf_counter() - self._epoch_clock
        finite = [loss for loss in state.train_losses if abs(loss) < float("inf")]
        figures = EpochFigures(
            epoch=state.epoch,
            lr=lr_at(recipe, state.epoch) * state.rate_factor,
            train_loss=sum(finite) / len(finite) if finite else float("nan"),
            val_loss=val_loss,
            dice_per_class=dice.dice_per_class(),
            mean_fg_dice=mean,
            ema_fg_dice=ema,
            seconds=seconds,
            data_wait_share=self._waited / max(seconds, 1e-9),
            peak_memory_gb=peak_memory_gb(parts.device),
            skipped_steps=state.skipped_steps,
            started=self._started,
            ended=time.time(),
        )
        parts.monitor.epoch_ended(figures, new_best=better)
        state.best_ema = ema if better else state.best_ema
        state.epochs_without_improvement = 0 if better else state.epochs_without_improvement + 1
        state.logging = parts.monitor.history.to_logging()
        self._snapshot.take()
        if not state.skipped_steps:
            state.returns = 0
        epoch = state.epoch
        state.begin_epoch(epoch + 1)
        if better:
            self.save(BEST)
        wanted = torch.tensor(0.0, device=parts.device)
        if parts.processes.is_main and parts.save_policy.due_after_epoch(epoch, recipe.num_epochs):
            wanted += 1
        self._heed(round(float(parts.processes.sum(wanted + self._request(parts.device)))))

    def _on_device(self, batch: Batch, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        device, pipelines = self.parts.device, self.parts.gpu_pipelines
        data = batch.data.to(device, non_blocking=True)
        targets = [t.to(device, non_blocking=True) for t in batch.targets]
        if pipelines is not None:
            data, targets = augmented(pipelines[0 if training else 1], data, targets[0], batch.generators)
        return data, targets

    # ------------------------------------------------------------------ state

    @final
    def save(self, name: str, *, required: bool = False) -> bool:
        """Write a checkpoint; the main process does.

        A failure is a warning, because the next attempt may succeed and the earlier checkpoint is still there.

        Args:
            name: Name of the file.
            required: Raise an error instead of a warning.

        Returns:
            Whether it was written (or is another process's business).
        """
        if self.task.request.disable_checkpointing or self.task.recipe.benchmark:
            return False
        if not self.parts.processes.is_main:
            return True
        self.state.epoch_elapsed_s = (
            time.perf_counter() - self._epoch_clock if self.state.iteration and hasattr(self, "_epoch_clock") else 0.0
        )
        checkpoint = self.state.capture(
            self.parts.network.bare,
            self.optimizer,
            self.scaler,
            init_args=self.task.init_args(torch.device(self.parts.device.type)),
            trainer_name=self.task.recipe.name,
            mirroring_axes=self.task.mirror_axes,
        )
        try:
            write_checkpoint(self.task.output_folder / name, checkpoint)
        except (StorageError, TrainingError) as error:
            if required:
                raise
            self.parts.monitor.warn(f"The state could not be saved, training goes on.\n{error}")
            return False
        return True


def augmented(
    pipeline: Pipeline, data: Tensor, segmentations: Tensor, generators: Sequence[np.random.Generator]
) -> tuple[Tensor, list[Tensor]]:
    """Augment patches as they were read, on their device.

    Args:
        pipeline: The augmentation.
        data: (B,C,*load_patch).
        segmentations: (B,S,*load_patch).
        generators: Each sample's random generator.

    Returns:
        Data (B,C,*patch) and targets, as worker processes deliver them.
    """
    samples = [
        pipeline(Sample(image, segmentation), random)
        for image, segmentation, random in zip(data, segmentations, generators, strict=True)
    ]
    targets = [sample.targets or [sample.segmentation] for sample in samples]
    return torch.stack([sample.image for sample in samples]), [
        torch.stack(level) for level in zip(*targets, strict=True)
    ]
