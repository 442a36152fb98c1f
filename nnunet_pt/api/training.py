"""From a raw dataset to a trained and validated model with one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_pt.api.folds import FoldTraining
from nnunet_pt.api.options import TrainingOptions, check_names, check_values, of_preparation, of_training
from nnunet_pt.api.preparation import Preparation, number_of
from nnunet_pt.api.results import TrainingFailure, TrainingMetrics, TrainingOutcome, TrainingSuccess, finite, mean_of
from nnunet_pt.api.surroundings import surroundings_kept
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, TrainingStopped, UsageError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.evaluation.crossval_request import CrossvalRequest, accumulate_crossval
from nnunet_pt.training.finetune_source import weights_file
from nnunet_pt.training.request import Fold, TrainRequest
from nnunet_pt.training.task import previous_stage_folder

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_TRAINER = "nnUNetTrainer"
DEFAULT_PLANS = "nnUNetPlans"
_log = get_logger(__name__)


def nnunet_training(
    dataset_id: int | str,
    configuration: str = "3d_fullres",
    fold: int | str = "0",
    trainer: str | None = None,
    plans_identifier: str | None = None,
    num_gpus: int | None = None,
    device: str | None = None,
    pretrained_weights: str | Path | None = None,
    continue_training: bool = False,
    validation_only: bool = False,
    val_best: bool = False,
    disable_checkpointing: bool = False,
    npz: bool = False,
    use_compressed: bool = False,
    verify_dataset_integrity: bool = True,
    no_preprocessing: bool = False,
    *,
    raise_errors: bool = False,
    **options: Unpack[TrainingOptions],
) -> TrainingOutcome:
    """Prepare a dataset as far as that is missing, train a network on it, and validate the network.

    A training that is finished is not repeated: its result is given back. One that was interrupted goes on with
    ``continue_training``; without it, it starts anew, as the command does. The three folders are those that the
    environment variables name. For a cascade call it for ``3d_lowres`` and then for ``3d_cascade_fullres``.

    Nothing stays changed in the calling program: no signal handlers, no random states, no settings of torch. It works
    in any thread, one training at a time.

    Args:
        dataset_id: 50, "50", "050" or "Dataset050_Name".
        configuration: Name of the configuration: "2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres".
        fold: A number; "all" for one model trained on all cases; "cv" for the folds of the cross-validation one after
            the other (five, unless ``splits_final.json`` has others) and their common evaluation.
        trainer: Name of a trainer, or ``path/to/file.py:Name``; None for "nnUNetTrainer".
        plans_identifier: Name of plans. Those of a planner, such as "nnUNetResEncUNetLPlans", are made if they are
            missing; others must be there. None for "nnUNetPlans".
        num_gpus: Processes to train with, each with a GPU of its own; None for one.
        device: "cuda", "cpu" or "mps"; None for the first of cuda, mps and cpu that there is.
        pretrained_weights: What to start from: a checkpoint, the folder of a model or a fold, or
            ``https://huggingface.co/OWNER/REPO``. With ``continue_training``, a training that has begun goes on, if
            it began with these weights.
        continue_training: Go on from the newest checkpoint; where there is none, start.
        validation_only: Only do the final validation again.
        val_best: Do the final validation with the best weights instead of the last ones.
        disable_checkpointing: Write no checkpoints.
        npz: Keep the probabilities of the final validation, which ensembles need.
        use_compressed: No effect, here for programs written for nnU-Net version 1 and early version 2: data are
            always compressed, and read from there without being unpacked first.
        verify_dataset_integrity: Check the raw dataset, once; again if its files have changed.
        no_preprocessing: Neither check nor prepare anything; what is missing is an error.
        raise_errors: Raise errors instead of giving them back.
        **options: See :class:`~nnunet_pt.api.options.TrainingOptions`.

    Returns:
        The result, or what went wrong, see :mod:`nnunet_pt.api.results`.

    Raises:
        TrainingStopped: If Ctrl-C (in a notebook "interrupt the kernel") or SIGTERM stopped the training; its state is
            saved. This is raised in any case, so that a program does not go on with its next training.
        TypeError: If a keyword does not exist.
        NnunetError: With ``raise_errors``, whatever is wrong.
    """
    del use_compressed
    check_names(options)
    arguments: dict[str, Any] = {
        "configuration": configuration,
        "trainer": trainer,
        "plans_identifier": plans_identifier,
        "num_gpus": num_gpus,
        "device": device,
        "pretrained_weights": pretrained_weights,
    }
    try:
        check_values(arguments, options)
        asked: dict[str, Any] = {
            "configuration": configuration,
            "trainer": trainer or DEFAULT_TRAINER,
            "plans_name": plans_identifier or DEFAULT_PLANS,
            "num_processes": 1 if num_gpus is None else num_gpus,
            "device": device,
            "validation_only": validation_only,
            "validate_best": val_best,
            "disable_checkpointing": disable_checkpointing,
            "save_probabilities": npz,
            **of_training(options),
        }
        with surroundings_kept():
            which = _fold(fold)
            training = _training(dataset_id, which, pretrained_weights, go_on=continue_training, asked=asked)
            if not no_preprocessing and not training.is_finished(which):
                chosen = plans_identifier is not None
                _prepare(training, verify=verify_dataset_integrity, chosen=chosen, options=options)
            return _result(training, which, _train(training, which))
    except TrainingStopped as stopped:
        raise TrainingStopped(
            stopped.problem,
            found=stopped.found,
            remedy="call it again, and it will go on from there"
            if validation_only
            else "call it again with continue_training=True, and it will go on from there",
            exit_status=stopped.exit_status,
        ) from None
    except NnunetError as error:
        if raise_errors:
            raise
        return TrainingFailure(status="error", error=str(error))
    except Exception as error:
        if raise_errors:
            raise
        _log.error("nnunet_training failed", exc_info=True)
        return TrainingFailure(status="error", error=f"This is a bug in nnunet_pt: {type(error).__name__}: {error}")


def _fold(fold: int | str) -> Fold | Literal["cv"]:
    text = str(fold).strip()
    if text in ("all", "cv"):
        return "all" if text == "all" else "cv"
    if not text.isdecimal():
        raise UsageError(f"There is no fold {fold!r}.", expected='a number from 0, "all" or "cv"')
    return int(text)


def _training(
    dataset_id: int | str,
    fold: Fold | Literal["cv"],
    pretrained_weights: str | Path | None,
    *,
    go_on: bool,
    asked: Mapping[str, Any],
) -> FoldTraining:
    """What is asked for, and where."""
    workspace = Workspace.from_environment()
    launch = workspace.settings.launch
    if launch is not None and launch.world_size > 1:
        raise UsageError(
            "nnunet_training is called by one process.",
            found=f"one of {launch.world_size} processes that {launch.launcher} started",
            remedy="start one process, and choose num_gpus for several GPUs; or use nnUNetv2_train under a launcher",
        )
    weights = None
    if pretrained_weights is not None:
        weights = weights_file(str(pretrained_weights), workspace.settings, progress=asked.get("progress", True))
    request = TrainRequest(
        dataset=resolve_dataset_name(dataset_id, workspace),
        fold=0 if fold == "cv" else fold,
        pretrained_weights=weights,
        **asked,
    )
    return FoldTraining(request=request, workspace=workspace, go_on=go_on)


def _prepare(training: FoldTraining, *, verify: bool, chosen: bool, options: Mapping[str, Any]) -> None:
    """Do what comes before the training; what cannot become one is refused before time is spent on it."""
    training.check()
    request, workspace = training.request, training.workspace
    name = str(request.dataset)
    preparation = Preparation(
        workspace=workspace,
        dataset=name,
        configuration=request.configuration,
        plans_name=request.plans_name,
        chosen=chosen,
        verify=verify,
        **of_preparation(options),
    )
    preparation.check()
    plans = preparation.plans()
    previous_stage_folder(
        plans.configuration(request.configuration), training.recipe, plans, workspace.results / name, number_of(name)
    )
    preparation.data(plans)


def _train(training: FoldTraining, fold: Fold | Literal["cv"]) -> TrainingMetrics:
    """Do what is left to do."""
    if fold != "cv":
        return training.run(fold).metrics
    folds, done = training.folds(), []
    for number in folds:
        _log.info("Fold %d: %d of %d", number, number + 1, len(folds))
        done.append(training.run(number))
    request = training.request
    crossval = CrossvalRequest(
        dataset=request.dataset,
        configuration=request.configuration,
        trainer=training.recipe.name,
        plans_name=request.plans_name,
        folds=folds,
        overwrite=any(fold.is_new for fold in done),
        num_processes=training.workspace.settings.num_processes,
        progress=request.progress,
    )
    result = accumulate_crossval(crossval, training.workspace)
    _log.info(result.summary())
    means = result.foreground_mean
    loss = mean_of(fold.metrics["validation_loss"] for fold in done)
    return TrainingMetrics(dice=finite(means.get("Dice")), iou=finite(means.get("IoU")), validation_loss=loss)


def _result(training: FoldTraining, fold: Fold | Literal["cv"], metrics: TrainingMetrics) -> TrainingSuccess:
    number = number_of(str(training.request.dataset))
    return TrainingSuccess(
        status="success",
        model_path=str(training.model_folder),
        dataset_id=f"{number:03d}" if isinstance(number, int) else number,
        configuration=training.request.configuration,
        fold=str(fold),
        metrics=metrics,
    )
