"""From a request to a trained and validated model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_pt.core.console import options_of_helpers
from nnunet_pt.core.errors import NnunetError, TrainingStopped
from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.evaluation.summary import Summary
from nnunet_pt.networks.device import choose_device
from nnunet_pt.training.agent import run_processes
from nnunet_pt.training.distributed import Processes, local_device, process_group
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.process import TrainingProcess
from nnunet_pt.training.recipe import TrainingRecipe, with_overrides
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.requeue import as_continued, job_of, queued_again
from nnunet_pt.training.sampling import process_share
from nnunet_pt.training.shared_folder import require_shared
from nnunet_pt.training.task import RECIPE_FILE, TrainingTask, TrainRequest, prepare
from nnunet_pt.training.trackers import check_trackers
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.training.users_code import users_error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training has made.

    Attributes:
        output_folder: Folder of the fold.
        epochs: Finished epochs.
        best_ema_dice: Best moving average of the pseudo Dice; None before the first epoch.
        validation: Result of the final validation; None if there was none.
    """

    output_folder: Path
    epochs: int
    best_ema_dice: float | None
    validation: Summary | None

    def summary(self) -> str:
        """What was written and where."""
        dice = "" if self.validation is None else f"; mean validation Dice {self.validation.dice:.4f}"
        return f"{self.output_folder}: {counted(self.epochs, 'epoch')}{dice}"


def train(request: TrainRequest, workspace: Workspace) -> TrainResult | None:
    """Train a network as nnU-Net does, and validate it.

    Args:
        request: What to train.
        workspace: Where the three folders are.

    Returns:
        The result; None in processes that were only started to help, and if several processes were started.

    Raises:
        NnunetError: With what is wrong and what to do about it.
        TrainingStopped: If a signal asked to stop; the state is saved.
    """
    source = find_recipe(request.trainer, workspace.settings)
    recipe = _start_of(source.recipe, request)
    job = job_of(workspace.settings.slurm_job) if request.requeue else None
    if job is not None and job.restarts:
        request = as_continued(request, prepare(request, recipe, workspace).output_folder)
    if request.continue_training or request.validation_only:
        recipe = _recorded_recipe(prepare(request, recipe, workspace), recipe)
    task = prepare(request, with_flags(recipe, request), workspace)
    check_trackers(workspace.settings, tensorboard=request.tensorboard)
    launch = workspace.settings.launch
    if request.num_processes > 1 and launch is None:
        process_share(task.configuration.batch_size, request.num_processes, 0)
        program = "train_pretrained" if request.of_plans else "train"
        run_processes(request.num_processes, [f"nnunet_pt.cli.{program}", *command_line(request)])
        return None
    wanted = choose_device(request.device)
    processes = Processes.of(launch)
    process_share(task.configuration.batch_size, processes.world_size, processes.rank)
    device = local_device(wanted, processes)
    watched = StopSignals(
        announce=processes.is_main,
        with_parent=launch is not None and launch.launcher == "torchrun",
        requeue=request.requeue,
    )
    try:
        again = queued_again(job if processes.is_main else None, watched)
        with watched as signals, again, process_group(launch, device) as processes:
            require_shared(task.output_folder, processes)
            process = TrainingProcess(task, (source.trainer_class or Trainer)(task), device, processes, signals)
            summary = process.validate() if request.validation_only else process.train()
    except KeyboardInterrupt:
        raise TrainingStopped("Stopped at once. Continue from the last saved state with --c.") from None
    except NnunetError:
        raise
    except Exception as error:
        blamed = users_error(error, source.trainer_class)
        if blamed is None:
            raise
        raise blamed from error
    if not processes.is_main:
        return None
    state = process.state
    return TrainResult(
        output_folder=task.output_folder, epochs=state.epoch, best_ema_dice=state.best_ema, validation=summary
    )


def command_line(request: TrainRequest) -> list[str]:
    """Arguments of ``nnUNetv2_train`` or ``..._pretrained`` for one of several processes with this request."""
    flags = {
        "--npz": request.save_probabilities,
        "--c": request.continue_training,
        "--val": request.validation_only,
        "--val_best": request.validate_best,
        "--disable_checkpointing": request.disable_checkpointing,
        "--deterministic": request.deterministic,
        "--tensorboard": request.tensorboard,
        "--from_scratch": request.from_scratch,
        "--fix_token_axes": request.fix_token_axes,
        "--allow_little_transfer": request.allow_little_transfer,
        "--keep_optimizer": request.keep_optimizer,
        "-reset_optimizer": request.reset_optimizer,
        "--requeue": request.requeue,
        "--no_pbar": not request.progress,
    }
    values = {
        "-tr": request.trainer,
        "-p": request.plans_name,
        "-pretrained_weights": request.pretrained_weights,
        "-overwrite_ckpt_path": request.checkpoint_path,
        "-transfer": request.transfer,
        "-transfer_heads": None if request.transfer_heads == "auto" else request.transfer_heads,
        "-freeze_epochs": request.freeze_epochs,
        "-device": request.device,
        "-epochs": request.epochs,
        "-lr": request.lr,
        "-iterations": request.iterations,
        "-warmup_epochs": request.warmup_epochs,
        "-patience": request.patience,
        "-seed": request.seed,
        "-precision": request.precision,
        "-augment_on": request.augment_on,
        "-save_every_minutes": request.save_every_minutes,
        "-scratch": request.scratch,
    }
    arguments = [str(request.dataset), request.configuration, str(request.fold)]
    for name, value in values.items():
        arguments += [] if value is None else [name, str(value)]
    lists = {
        "-transfer_layers": request.transfer_layers,
        "-freeze": request.freeze,
        "-lr_factor": request.lr_factors,
    }
    for name, texts in lists.items():
        arguments += [name, *texts] if texts else []
    return [*arguments, *(name for name, given in flags.items() if given), *options_of_helpers()]


def with_flags(recipe: TrainingRecipe, request: TrainRequest) -> TrainingRecipe:
    """A recipe with the values that a request gives instead of its own.

    Raises:
        TrainingError: If they do not go together.
    """
    return with_overrides(
        recipe,
        epochs=request.epochs,
        lr=request.lr,
        iterations=request.iterations,
        warmup_epochs=request.warmup_epochs,
        patience=request.patience,
        seed=request.seed,
        deterministic=request.deterministic,
        precision=request.precision,
        freeze=request.freeze,
        freeze_epochs=request.freeze_epochs,
        lr_factors=request.lr_factors,
    )


def _start_of(recipe: TrainingRecipe, request: TrainRequest) -> TrainingRecipe:
    """The recipe for a training with or without the weights that the plans name."""
    if request.from_scratch:
        return recipe.from_scratch()
    return replace(recipe, pretrained=True) if request.of_plans else recipe


def _recorded_recipe(task: TrainingTask, named: TrainingRecipe) -> TrainingRecipe:
    """The recipe that the training to be continued or validated was started with, if there is one."""
    if not (task.output_folder / RECIPE_FILE).is_file():
        return named
    recorded = TrainingRecipe.from_json(read_json(task.output_folder / RECIPE_FILE))
    return recorded if recorded.name == named.name else named
