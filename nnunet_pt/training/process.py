"""One process of a training, from the first line of its log to the last."""

from __future__ import annotations

import secrets
from pathlib import Path

import torch
from torch import nn

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.files import make_folder, remove_leftovers
from nnunet_pt.core.process_memory import keep_freed_memory
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.core.wording import counted
from nnunet_pt.evaluation.summary import Summary
from nnunet_pt.networks.precision import Precision, choose_precision
from nnunet_pt.training.debug_file import tracker_config
from nnunet_pt.training.determinism import seed_everything, set_deterministic
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.fold_validation import checkpoint_to_validate, validate_fold
from nnunet_pt.training.freezing import Layers
from nnunet_pt.training.history import History
from nnunet_pt.training.interruption import SavePolicy, StopSignals
from nnunet_pt.training.loader import default_num_workers
from nnunet_pt.training.model_folder import forget_transfer, set_aside, write_benchmark, write_model_files
from nnunet_pt.training.monitor import Monitor
from nnunet_pt.training.network import TrainedNetwork, should_compile
from nnunet_pt.training.parts import Parts, loader_of, network_of
from nnunet_pt.training.pretraining import Start, keep_optimizer_state, transfer_weights
from nnunet_pt.training.scratch import read_from_scratch
from nnunet_pt.training.state import (
    BEST,
    FINAL,
    LATEST,
    FoundCheckpoint,
    TrainingState,
    newest_valid_checkpoint,
    state_of,
)
from nnunet_pt.training.task import TrainingTask
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.transfer.checkpoint import read_checkpoint
from nnunet_pt.transfer.weights import load_weights

CITATION = (
    "Please cite nnU-Net when you publish results: Isensee, F., Jaeger, P. F., Kohl, S. A., Petersen, J., & "
    "Maier-Hein, K. H. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image "
    "segmentation. Nature Methods, 18(2), 203-211."
)
_log = get_logger(__name__)


class TrainingProcess:
    """One process of a training.

    Args:
        task: What is to be trained.
        trainer: The trainer, without its parts yet.
        device: Where this process computes.
        processes: The processes of the training.
        signals: What signals ask for.

    Attributes:
        state: Where the training is; afterwards, where it ended.
    """

    def __init__(
        self, task: TrainingTask, trainer: Trainer, device: torch.device, processes: Processes, signals: StopSignals
    ) -> None:
        self.task = task
        self.trainer = trainer
        self.device = device
        self.processes = processes
        self.signals = signals
        self.precision = choose_precision(device, task.recipe.precision)

    @property
    def state(self) -> TrainingState:
        return self.trainer.state

    def train(self) -> Summary | None:
        """Train to the end, from the beginning or from the newest checkpoint, then validate.

        Returns:
            Metrics of the final validation; None in helping processes, and for benchmarks.
        """
        task = self.task
        folder = task.output_folder
        found = newest_valid_checkpoint(folder) if task.request.continue_training else None
        self.set_up_machine()
        seed = self._seed(None if found is None else found.state.seed)
        network = network_of(task, self.device, self.processes)
        start = transfer_weights(task, network) if found is None else None
        reset = found if task.request.reset_optimizer else None
        if reset is not None:
            load_weights(network, reset.checkpoint.network_weights, reset.path)
            self.trainer.state.input_adapted = reset.state.input_adapted
            found = None
        Layers(network, task.recipe, new_input=False)  # complains about layers that do not exist
        self._prepare_folder(folder, start, fresh=found is None, again=reset is not None)
        history = History() if found is None else History.from_logging(found.state.logging, found.state.epoch)
        with self.monitor(history, continued=found is not None) as monitor:
            monitor.log(CITATION + "\n", timestamp=False, console=False)
            monitor.log(introduction(task, self.device, self.precision, self.processes) + f"\nSeed {seed}")
            if found is None or found.state.epoch < task.recipe.num_epochs:  # a validation reads each case only once
                self.task = read_from_scratch(task, processes=self.processes, signals=self.signals, monitor=monitor)
            self._begin(network, monitor, seed, found=found, start=start)
            if self.processes.is_main:  # not before: what does not fit the checkpoint must not be recorded
                write_model_files(task, device=self.device, precision=self.precision, processes=self.processes)
            if reset is not None:
                self._begin_again(reset, monitor)
            del found, start, reset  # their tensors are not needed any more
            try:
                self.trainer.run()
            except torch.OutOfMemoryError as error:
                raise out_of_memory(task, self.device) from error
            monitor.log("Training done.")
            if task.recipe.benchmark:
                if self.processes.is_main:
                    write_benchmark(task, history, device=self.device, processes=self.processes)
                return None
            if task.request.validate_best:
                path = checkpoint_to_validate(folder, best=True)
                load_weights(network, read_checkpoint(path).network_weights, path)
            return self._validate(network, monitor)

    def _begin(
        self, network: nn.Module, monitor: Monitor, seed: int, *, found: FoundCheckpoint | None, start: Start | None
    ) -> None:
        """Give the trainer its parts and the state to start from.

        Args:
            network: The network.
            monitor: Shows the training.
            seed: The training's seed.
            found: What to continue from.
            start: Weights from elsewhere, which the network has already.
        """
        keep = self.task.request.keep_optimizer
        if found is not None:
            self.trainer.state = found.state  # says which layers its optimiser is for
        elif start is not None:
            self.trainer.state.input_adapted = start.input_adapted
            monitor.log(start.describe())
        self.connect(network, monitor, seed)
        if found is not None:
            self._restore(found, network, monitor)
        elif start is not None and keep:
            number = keep_optimizer_state(self.trainer.optimizer, network, start)
            monitor.log(f"The optimiser goes on with what it knew of {counted(number, 'tensor')} of {start.plan.path}.")
        elif start is not None:
            monitor.log("Only weights are taken over: the optimiser is new, and epochs are counted from 0.")
        self.state.seed = seed
        self.state.recipe = self.task.recipe.to_json()

    def _prepare_folder(self, folder: Path, start: Start | None, *, fresh: bool, again: bool) -> None:
        """Make room for a training, once it is clear that it can begin.

        Args:
            folder: Folder of the fold.
            start: Weights that it begins with.
            fresh: Whether it begins at epoch 0.
            again: Whether it does so with the weights in this folder.
        """
        if self.processes.is_main:
            make_folder(folder)
            remove_leftovers(folder)
            if fresh and self.task.request.continue_training and not again:
                weights = "" if start is None else " from the pre-trained weights"
                _log.warning("There is no checkpoint in %s: a new training is started%s.", folder, weights)
            if fresh:
                set_aside(folder, keep_checkpoints=again)
            if start is not None:
                start.write(self.task)
            elif fresh and not again:
                forget_transfer(folder)
        self.processes.barrier()

    def validate(self) -> Summary | None:
        """Only do the final validation, with the last or the best weights."""
        path = checkpoint_to_validate(self.task.output_folder, best=self.task.request.validate_best)
        self.set_up_machine()
        network = network_of(self.task, self.device, self.processes)
        checkpoint = read_checkpoint(path)
        load_weights(network, checkpoint.network_weights, path)
        self.trainer.state = state_of(checkpoint, path)
        history = History.from_logging(self.state.logging, self.state.epoch)
        with self.monitor(history, continued=True) as monitor:
            return self._validate(network, monitor)

    def _validate(self, network: nn.Module, monitor: Monitor) -> Summary | None:
        return validate_fold(
            self.task,
            network,
            monitor,
            device=self.device,
            precision=self.precision,
            processes=self.processes,
            signals=self.signals,
        )

    def set_up_machine(self) -> None:
        """Settings of this process that make computing fast."""
        if self.device.type == "cpu":
            keep_freed_memory()
            torch.set_num_threads(max(1, available_cpus() // self.processes.on_this_machine))
        elif self.device.type == "cuda":
            torch.set_num_threads(1)
            torch.backends.cudnn.benchmark = True

    def _seed(self, recorded: int | None) -> int:
        """The seed of this training, the same in all processes."""
        wanted = self.task.recipe.seed if self.task.recipe.seed is not None else recorded
        own = (secrets.randbits(31) if wanted is None else wanted) if self.processes.is_main else 0
        seed = int(self.processes.sum(torch.tensor(own, device=self.device)))
        if self.task.recipe.deterministic:
            set_deterministic(seed)
        else:
            seed_everything(seed)
        return seed

    def connect(self, network: nn.Module, monitor: Monitor, seed: int) -> None:
        """Give the trainer its parts."""
        task, request, trainer = self.task, self.task.request, self.trainer
        compiled = should_compile(self.device, task.workspace.settings.compile)
        trained = TrainedNetwork(network, device=self.device, processes=self.processes, compiled=compiled)
        pipelines = trainer.build_augmentation(trained.output_strides if trained.deep_supervision else None)
        on_gpu = request.augment_on == "gpu" and self.device.type != "cpu"
        if request.augment_on == "gpu" and not on_gpu:
            monitor.warn("There is no GPU for -augment_on gpu; worker processes do the augmentation.")
        train_loader, val_loader = (
            loader_of(
                task,
                purpose,
                None if on_gpu else pipeline,
                trained,
                seed=seed,
                processes=self.processes,
                pin_memory=self.device.type == "cuda",
            )
            for purpose, pipeline in zip(("train", "val"), pipelines, strict=True)
        )
        trainer.connect(
            Parts(
                network=trained,
                device=self.device,
                precision=self.precision,
                processes=self.processes,
                train_loader=train_loader,
                val_loader=val_loader,
                gpu_pipelines=pipelines if on_gpu else None,
                monitor=monitor,
                save_policy=SavePolicy(minutes=request.save_every_minutes, every_epochs=task.recipe.save_every),
                signals=self.signals,
            )
        )
        # Initial weights are the same in all processes, but what is dropped out is not
        seed_everything(seed + self.processes.rank)

    def _begin_again(self, found: FoundCheckpoint, monitor: Monitor) -> None:
        """Replace the checkpoints that were reset; before that, the same command could still be repeated."""
        monitor.log(
            f"The weights are those of {found.path.name} ({counted(found.state.epoch, 'epoch')}); the optimiser is "
            "new, and epochs are counted from 0 again (-reset_optimizer)."
        )
        if self.trainer.save(LATEST) and self.processes.is_main:
            for name in (FINAL, BEST):
                (self.task.output_folder / name).unlink(missing_ok=True)
        self.processes.barrier()

    def _restore(self, found: FoundCheckpoint, network: nn.Module, monitor: Monitor) -> None:
        """Continue from a checkpoint."""
        trainer = self.trainer
        trainer.state = TrainingState.restore(found.checkpoint, found.path, network, trainer.optimizer, trainer.scaler)
        if not self.processes.is_main and trainer.state.seed is not None:
            seed_everything(trainer.state.seed + self.processes.rank + self.processes.world_size * self.state.step)
        monitor.log(f"Continuing from {found.path.name}: epoch {self.state.epoch}, iteration {self.state.iteration}.")

    def monitor(self, history: History, *, continued: bool) -> Monitor:
        """What shows and records this training."""
        task, request, recipe = self.task, self.task.request, self.task.recipe
        return Monitor(
            task.output_folder,
            history=history,
            num_epochs=recipe.num_epochs,
            iterations_per_epoch=recipe.iterations_per_epoch,
            validation_iterations_per_epoch=recipe.validation_iterations_per_epoch,
            settings=task.workspace.settings,
            is_main=self.processes.is_main,
            continued=continued,
            tracker_config=tracker_config(
                plans=task.plans.to_json(),
                configuration=task.configuration.name,
                fold=request.fold,
                dataset=task.dataset_json,
                recipe=recipe,
                batch_size=task.configuration.batch_size,
            ),
            class_names=task.labels.class_names,
            tensorboard=request.tensorboard,
            progress=request.progress,
        )


def out_of_memory(task: TrainingTask, device: torch.device) -> TrainingError:
    """What to tell the user if the GPU's memory does not suffice."""
    total = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0.0
    free = torch.cuda.mem_get_info(device)[0] / 2**30 if device.type == "cuda" else 0.0
    return TrainingError(
        f"The memory of the GPU does not suffice for patches of {list(task.configuration.patch_size)} in batches of "
        f"{task.configuration.batch_size}.",
        found=f"{total:.1f} GiB, of which {free:.1f} GiB are not used by any process",
        remedy="make sure that no other process uses this GPU (nvidia-smi), make plans for a smaller one "
        "(nnUNetv2_plan_experiment -gpu_memory_target GB -overwrite_plans_name NAME), or share the batch between GPUs "
        "(-num_gpus)",
    )


def introduction(task: TrainingTask, device: torch.device, precision: Precision, processes: Processes) -> str:
    """What is trained, how and where: the beginning of the log."""
    recipe, configuration = task.recipe, task.configuration
    several = f", {processes.world_size} processes" if processes.are_several else ""
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    workers = default_num_workers("train", task.workspace.settings)
    return (
        f"{task.plans.dataset_name}, {configuration.name}, fold {task.request.fold}: "
        f"{len(task.split.train)} training and {counted(len(task.split.val), 'validation case')}\n"
        f"Trainer {recipe.name}: {counted(recipe.num_epochs, 'epoch')} of "
        f"{counted(recipe.iterations_per_epoch, 'iteration')}, "
        f"patch size {list(configuration.patch_size)}, batch size {configuration.batch_size}\n"
        f"Device {device.type}{gpu}{several}, precision {precision.name}, {counted(workers, 'augmentation process')}\n"
        f"Results go to {task.output_folder}"
    )
