"""The training loop.

A trainer is given its parts (network, loaders, monitor, ...) and runs epochs with them. Users who want another loss,
optimiser, augmentation or step derive from :class:`Trainer` and override the methods that are not marked as final; all
other choices are values of the recipe.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.wording import counted
from nnunet_pt.training.augmentation.base import Pipeline
from nnunet_pt.training.batches import Batch
from nnunet_pt.training.freezing import FACTOR, Layers, Stage, keep_state, stage_at
from nnunet_pt.training.history import EpochFigures
from nnunet_pt.training.losses import build_loss, deep_supervision_weights
from nnunet_pt.training.memory import peak_memory_gb
from nnunet_pt.training.online_metrics import OnlineDice
from nnunet_pt.training.optimizers import build_optimizer
from nnunet_pt.training.parts import Parts
from nnunet_pt.training.pipelines import augmented, training_pipelines
from nnunet_pt.training.recipe import DEFAULT, TrainingRecipe
from nnunet_pt.training.saving import Saver
from nnunet_pt.training.schedules import lr_at
from nnunet_pt.training.snapshot import Scaler
from nnunet_pt.training.state import BEST, FINAL, LATEST, TrainingState
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.training.update import Updater


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
        """The loss; it is called with the network's outputs and the targets, each a list with deep supervision.

        Args:
            num_outputs: Outputs of the network, one for each resolution.
        """
        supervised = self.parts.network.deep_supervision  # then even a single output is in a list
        distributed = self.parts.processes.are_several and not self.parts.network.is_compiled
        return build_loss(
            self.task.recipe.loss,
            labels=self.task.labels,
            batch_dice=self.task.configuration.batch_dice,
            deep_supervision_weights=deep_supervision_weights(num_outputs, distributed=distributed)
            if supervised
            else None,
        )

    def build_optimizer(self, network: nn.Module) -> Optimizer:
        """The optimiser of the parameters that want a gradient; its learning rate is set in each epoch.

        It is called again when other layers are to be trained.
        """
        return build_optimizer(self.task.recipe, self._layers.groups(network))

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
        self._connect_loss()
        state, recipe = self.state, self.task.recipe
        self._layers = Layers(parts.network.bare, recipe, new_input=state.input_adapted)
        stage = Stage.of(state.stage) if state.stage else stage_at(recipe, state.epoch)
        if stage != Stage():
            parts.network.train_only(self._layers.trained(stage))
            parts.monitor.log(self._layers.describe(stage))
        self.optimizer = self._optimizer_of(stage)
        self._updater = Updater(parts, self.optimizer, recipe.gradient_clip)
        self._saver = Saver(self.task, parts, self.optimizer, self.scaler)

    def _optimizer_of(self, stage: Stage) -> Optimizer:
        optimizer = self.build_optimizer(self.parts.network.bare)
        if self.task.recipe.lr_factors and not any(FACTOR in group for group in optimizer.param_groups):
            raise TrainingError(
                "-lr_factor has no effect with this trainer.",
                found=f"{type(self).__name__} makes its optimiser itself, in build_optimizer",
                remedy="leave -lr_factor out, or do not override build_optimizer",
            )
        self.parts.network.follow()
        self.state.stage = stage.key
        return optimizer

    def _enter(self, stage: Stage) -> None:
        """Train other layers from now on, unless they are the same."""
        before = Stage.of(self.state.stage)
        if stage == before:
            return
        parts, earlier = self.parts, self.optimizer
        parts.network.train_only(self._layers.trained(stage))
        self.optimizer = self._optimizer_of(stage)
        kept = stage.trains == before.trains
        if kept:
            keep_state(self.optimizer, earlier)
        parts.monitor.log(
            self._layers.describe(stage)
            + (
                " The optimiser keeps what it knows of the layers that were trained before, and starts afresh with the "
                "others."
                if kept
                else " The optimiser starts afresh."
            )
        )
        self._updater.use(self.optimizer)
        self._updater.keep()
        self._saver = Saver(self.task, parts, self.optimizer, self.scaler)

    @property
    def scaler(self) -> Scaler | None:
        """Scales the loss, if the precision needs it."""
        return self._updater.scaler

    def _connect_loss(self) -> None:
        network = self.parts.network
        self.loss = self.build_loss(len(network.output_strides) if network.deep_supervision else 1)
        self.loss.to(self.parts.device)

    @final
    def run(self) -> None:
        """Train to the last epoch, and save the result.

        Raises:
            TrainingStopped: If a signal asked for it; the state is saved.
            TrainingError: If the loss is not finite again and again.
        """
        recipe, state, parts = self.task.recipe, self.state, self.parts
        finished_before = state.epoch >= recipe.num_epochs and (self.task.output_folder / FINAL).is_file()
        self._updater.keep()
        try:
            if state.epoch < recipe.num_epochs:
                parts.train_loader.start(state.step)
                if recipe.validation_iterations_per_epoch:
                    parts.val_loader.start(state.epoch * recipe.validation_iterations_per_epoch)
            while state.epoch < recipe.num_epochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch(*self._validate_epoch())
        finally:
            parts.train_loader.close()
            parts.val_loader.close()
        if not finished_before and self.save(FINAL, required=True) and parts.processes.is_main:
            (self.task.output_folder / LATEST).unlink(missing_ok=True)

    def _out_of_patience(self) -> bool:
        patience = self.task.recipe.patience
        if patience is None or self.state.epochs_without_improvement < patience:
            return False
        since = counted(patience, "epoch")
        self.parts.monitor.log(f"The moving average of the Dice has not improved for {since}: training ends here.")
        return True

    @property
    def _rate(self) -> float:
        return lr_at(self.task.recipe, self.state.epoch) * self.state.rate_factor

    def _train_epoch(self) -> None:
        state, parts = self.state, self.parts
        self._enter(stage_at(self.task.recipe, state.epoch))
        self._started = time.time()
        self._clock = time.perf_counter() - state.epoch_elapsed_s
        parts.monitor.epoch_started(state.epoch, self._rate, done={"train": state.iteration})
        parts.network.train()
        while state.iteration < self.task.recipe.iterations_per_epoch:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate * group.get(FACTOR, 1.0)
            batch = next(parts.train_loader)
            state.epoch_waited_s += parts.train_loader.waited_s
            loss, requests = self.step(batch)
            state.step += 1
            state.iteration += 1
            state.train_losses.append(loss)
            parts.monitor.step(loss, phase="train")
            self._heed(requests)

    def step(self, batch: Batch) -> tuple[float, int]:
        """One update; gives the mean loss over all processes, and whether any of them was asked to save or stop."""
        data, targets = self._on_device(batch, training=True)
        return self._updater.step(
            lambda: self.train_step(data, targets),
            keys=batch.keys,
            state=self.state,
            request=self._saver.request,
            on_fallback=self._connect_loss,
        )

    def _validate_epoch(self) -> tuple[float, OnlineDice]:
        """Mean loss and Dice of the validation batches, over all processes; nan without batches."""
        parts, number = self.parts, self.task.recipe.validation_iterations_per_epoch
        dice = OnlineDice(self.task.labels, parts.device)
        total = 0.0
        parts.network.eval_mode()
        with torch.no_grad():
            for _ in range(number):
                batch = next(parts.val_loader)
                self.state.epoch_waited_s += parts.val_loader.waited_s
                data, targets = self._on_device(batch, training=False)
                loss, logits = parts.network.first_step_guard(
                    functools.partial(self.validation_step, data, targets), self._connect_loss
                )
                dice.update(logits, targets[0])
                total += float(loss)
                parts.monitor.step(float(loss), phase="val")
                # Validation is repeated as a whole when the training is continued
                self._heed(self._saver.agree(self._saver.request()))
        parts.processes.sum(dice.counts)
        total = float(parts.processes.sum(torch.tensor(total, device=parts.device)))
        return total / number / parts.processes.world_size if number else math.nan, dice

    def _end_epoch(self, val_loss: float, dice: OnlineDice) -> None:
        state, parts, epoch = self.state, self.parts, self.state.epoch
        mean = dice.mean_foreground_dice()
        ema = parts.monitor.history.next_ema(mean)
        # An average of nothing (nan) is kept as the first one, as in nnU-Net, but any number is better
        better = state.best_ema is None or ema > state.best_ema or (math.isnan(state.best_ema) and not math.isnan(ema))
        seconds = time.perf_counter() - self._clock
        finite = [loss for loss in state.train_losses if math.isfinite(loss)]
        figures = EpochFigures(
            epoch=epoch,
            lr=self._rate,
            train_loss=sum(finite) / len(finite) if finite else math.nan,
            val_loss=val_loss,
            dice_per_class=dice.dice_per_class(),
            mean_fg_dice=mean,
            ema_fg_dice=ema,
            seconds=seconds,
            data_wait_share=state.epoch_waited_s / max(seconds, 1e-9),
            peak_memory_gb=peak_memory_gb(parts.device),
            skipped_steps=state.skipped_steps,
            started=self._started,
            ended=time.time(),
        )
        parts.monitor.epoch_ended(figures, new_best=better)
        state.best_ema = ema if better else state.best_ema
        state.epochs_without_improvement = 0 if better else state.epochs_without_improvement + 1
        state.logging = parts.monitor.history.to_logging()
        self._updater.keep()
        if not state.skipped_steps:
            state.returns = 0
        state.begin_epoch(epoch + 1)
        if better:
            self.save(BEST)
        self._heed(self._saver.agree(self._saver.request_after_epoch(epoch)))

    def _on_device(self, batch: Batch, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        device, pipelines = self.parts.device, self.parts.gpu_pipelines
        data = batch.data.to(device, non_blocking=True)
        targets = [t.to(device, non_blocking=True) for t in batch.targets]
        if pipelines is not None and batch.generators:
            data, targets = augmented(pipelines[0 if training else 1], data, targets[0], batch.generators)
        return data, targets

    def _heed(self, requests: int) -> None:
        """Save or stop, if any process was asked to."""
        if requests and self.state.iteration:
            self.state.epoch_elapsed_s = time.perf_counter() - self._clock
        self._saver.heed(requests, self.state)

    @final
    def save(self, name: str, *, required: bool = False) -> bool:
        """Write a checkpoint, see :meth:`nnunet_pt.training.saving.Saver.save`."""
        return self._saver.save(self.state, name, required=required)
