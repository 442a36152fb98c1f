"""``nnUNetv2_finetune``: from somebody's weights and a raw dataset to a fine-tuned model, in one go.

What was given decides the way:

* a model of nnU-Net: its plans are moved to the dataset, which is preprocessed with them; then it is trained from the
  weights;
* a checkpoint of nnssl: the dataset is planned and preprocessed like the pre-training; then its network is trained;
* weights without a description: the network is that of the dataset's own plans, and takes what fits.

Every step is a command of its own; here they are only put together. Steps that were done before are recognised by what
they left behind, so the same request again goes on where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import TrainingStopped, UsageError
from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.training.finetune_source import find_weights
from nnunet_pt.training.finetune_steps import FinetuneRequest, Work, training_command
from nnunet_pt.training.finetune_ways import like_pretraining, no_plans, with_own_plans, with_plans_of
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.run import TrainResult, train
from nnunet_pt.training.state import FINAL
from nnunet_pt.training.task import RECIPE_FILE, VALIDATION_FOLDER
from nnunet_pt.transfer.report_files import JSON_FILE as REPORT_FILE

__all__ = ["FinetuneRequest", "FinetuneResult", "finetune"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What was done.

    Attributes:
        commands: The steps as commands, in their order.
        done_before: Those of them for which nothing was left to do.
        folder: Folder of the fold.
        training: Result of the training; None if it was finished before, or ran in other processes.
    """

    commands: tuple[str, ...]
    done_before: tuple[str, ...]
    folder: Path
    training: TrainResult | None

    def summary(self) -> str:
        """What was written and where."""
        if self.training is not None:
            return self.training.summary()
        return f"{self.folder}: {'finished before' if self.commands[-1] in self.done_before else 'trained'}"


def finetune(request: FinetuneRequest, workspace: Workspace) -> FinetuneResult:
    """Fine-tune weights on a dataset, beginning with whatever is not done yet.

    Raises:
        UsageError: If the request contradicts what is given, or the name or the fold belongs to other weights.
        CheckpointError: If the weights cannot be found or used.
        TrainingStopped: If a signal asked to stop; the same request goes on.
        NnunetError: Whatever the steps raise.
    """
    launch, asked = workspace.settings.launch, request.training
    if launch is not None and launch.world_size > 1:
        raise UsageError(
            "Preparing a dataset is the work of one process.",
            found=f"one of {launch.world_size} processes that {launch.launcher} started",
            remedy="start nnUNetv2_finetune alone, with -num_gpus for several GPUs; or type the last step that it "
            "shows under your launcher",
        )
    dataset = resolve_dataset_name(asked.dataset, workspace)
    if asked.trainer:
        find_recipe(asked.trainer, workspace.settings)  # complain now, not after hours of preprocessing
    given = find_weights(request.source, workspace.settings, progress=asked.progress)
    _log.info("%s", given.describe())
    work = Work(request=request, workspace=workspace, dataset=dataset, given=given)
    wanted = _prepared(work)
    folder, result = _train(work, wanted)
    steps = work.steps
    return FinetuneResult(commands=tuple(steps.commands), done_before=tuple(steps.done), folder=folder, training=result)


def _prepared(work: Work) -> TrainRequest:
    """Do what comes before the training; how to train."""
    if work.given.adaptation is not None:
        return like_pretraining(work)
    if work.request.training.plans_name:
        return with_own_plans(work)
    if work.given.plans is not None:
        return with_plans_of(work, work.given.plans)
    raise no_plans(work)


def _train(work: Work, wanted: TrainRequest) -> tuple[Path, TrainResult | None]:
    """Begin the training, or continue it, or find it finished."""
    folder = work.fold_folder(wanted)
    first = replace(wanted, dataset=work.number if work.number == work.dataset else int(work.number))
    if not work.has_begun(wanted):
        return folder, _train_as(work, first)
    _check_same_weights(work, folder, first)
    if _is_finished(folder, wanted):
        work.steps.skip(training_command(first), f"{folder / FINAL}")
        return folder, None
    return folder, _train_as(
        work, replace(first, continue_training=True, pretrained_weights=None, transfer=None, transfer_layers=())
    )


def _train_as(work: Work, request: TrainRequest) -> TrainResult | None:
    results: list[TrainResult | None] = []
    try:
        work.steps.do_quietly(training_command(request), lambda: results.append(train(request, work.workspace)))
    except TrainingStopped as stopped:
        raise TrainingStopped(
            stopped.problem,
            found=stopped.found,
            remedy="run the same command again: it goes on from there",
            exit_status=stopped.exit_status,
        ) from None
    return results[0]


def _check_same_weights(work: Work, folder: Path, wanted: TrainRequest) -> None:
    """Do not go on with a training that has begun from something else."""
    report = folder / REPORT_FILE
    source = read_json(report).get("source", {}) if report.is_file() else {}
    if source.get("sha256") == work.given.sha256:
        return
    others = "-n (another name for this pre-training)" if not work.request.training.plans_name else "-tr"
    raise UsageError(
        f"{folder} holds a training that did not begin with these weights.",
        found=f"it began with {source['path']}" if source.get("path") else f"no {REPORT_FILE} that says so",
        expected=f"the weights of {work.given.path}",
        remedy=f"choose another folder with {others}; or replace the training, which is kept beside the new one:  "
        f"{' '.join(training_command(wanted))}",
    )


def _is_finished(folder: Path, wanted: TrainRequest) -> bool:
    """Whether nothing is left to do; a larger number of epochs makes a training longer."""
    if not (folder / FINAL).is_file() or not (folder / VALIDATION_FOLDER / "summary.json").is_file():
        return False
    if wanted.epochs is None or not (folder / RECIPE_FILE).is_file():
        return True
    recorded = TrainingRecipe.from_json(read_json(folder / RECIPE_FILE))
    return recorded.num_epochs >= wanted.epochs
