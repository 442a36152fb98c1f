"""What is to be trained: the request of a user, and everything that follows from it before training begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import PlansError, StorageError, TrainingError
from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.planning.presets import EXPERIMENT_PLANNER, planners_of_plans
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.manifest import parts_folder
from nnunet_pt.preprocessing.splits import SPLITS_FILE, Split, load_or_make_splits, random_split
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.request import Fold, TrainRequest

if TYPE_CHECKING:
    import torch

__all__ = ["Fold", "TrainRequest", "TrainingTask", "prepare"]

VALIDATION_FOLDER = "validation"
RECIPE_FILE = "recipe.json"
PREDICTED_NEXT_STAGE = "predicted_next_stage"
FROM_SCRATCH = "__from_scratch"  # end of the plans' name


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """Everything that is known about a training before it begins, and does not change.

    Attributes:
        request: What the user asked for.
        recipe: How to train.
        plans: The plans.
        configuration: The configuration, with the recipe's batch and patch size.
        description: The dataset.
        dataset_json: The dataset description as in its file.
        labels: The labels.
        dataset_folder: Preprocessed dataset.
        output_folder: Folder of the fold.
        split: Cases for training and validation.
        previous_stage_folder: In a cascade: the previous stage's segmentations of the training cases.
        workspace: Where the three folders are, and the other settings.
        local_data_folder: Copy of the preprocessed cases on a disk of this machine, if there is one.
    """

    request: TrainRequest
    recipe: TrainingRecipe
    plans: Plans
    configuration: Configuration
    description: DatasetDescription
    dataset_json: Mapping[str, Any]
    labels: Labels
    dataset_folder: Path
    output_folder: Path
    split: Split
    previous_stage_folder: Path | None
    workspace: Workspace
    local_data_folder: Path | None = None

    @property
    def model_folder(self) -> Path:
        """Folder of all folds."""
        return self.output_folder.parent

    @property
    def data_folder(self) -> Path:
        """Preprocessed cases of the configuration."""
        return self.dataset_folder / self.configuration.data_identifier

    @property
    def reading_folder(self) -> Path:
        """Where these cases are read from."""
        return self.local_data_folder or self.data_folder

    @property
    def input_channels(self) -> int:
        """Channels of the network's input: those of the image, and in a cascade one for each foreground label."""
        previous = len(self.labels.foreground_labels) if self.is_cascaded else 0
        return self.description.num_channels + previous

    @property
    def is_cascaded(self) -> bool:
        """Whether the segmentation of a previous stage is an input, too."""
        return self.configuration.previous_stage is not None

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Spatial axes that are mirrored."""
        return self.recipe.mirror_axes(len(self.configuration.patch_size))

    def init_args(self, device: torch.device) -> dict[str, Any]:
        """What nnU-Net's checkpoints say about the training."""
        return {
            "plans": self.plans.to_json(),
            "configuration": self.configuration.name,
            "fold": self.request.fold,
            "dataset_json": dict(self.dataset_json),
            "device": device,
        }


def prepare(request: TrainRequest, recipe: TrainingRecipe, workspace: Workspace) -> TrainingTask:
    """Collect what a training needs.

    Args:
        request: What the user asked for.
        recipe: How to train.
        workspace: Where the three folders are.

    Raises:
        PlansError: If the plans or the configuration are missing or damaged.
        StorageError: If the preprocessed data is missing.
        TrainingError: If the fold does not exist, or the previous stage of a cascade was not trained.
    """
    name = resolve_dataset_name(request.dataset, workspace)
    dataset_folder = workspace.preprocessed / name
    number = int(name[7:10]) if name[7:10].isdigit() else name
    plans_file = dataset_folder / f"{request.plans_name}.json"
    if not plans_file.is_file():
        there = sorted(p.stem for p in dataset_folder.glob("*lans*.json"))
        command = f"nnUNetv2_plan_and_preprocess -d {number}{_planner_option(request.plans_name)}"
        raise PlansError(
            f"There is no plans file {plans_file}.",
            found=f"these plans: {', '.join(there)}" if there else "no plans at all",
            remedy=f"choose one of them with -p, or make it with  {command}" if there else f"make them with  {command}",
        )
    plans = _with_pretraining(Plans.load(plans_file), plans_file, request, recipe, name)
    configuration = _with_sizes(plans.configuration(request.configuration), recipe)
    description = DatasetDescription.load(dataset_folder / DATASET_FILE)
    cases = _preprocessed_cases(dataset_folder / configuration.data_identifier, configuration, request, number)
    model = f"{recipe.name}__{plans.plans_name}__{configuration.name}"
    results = workspace.results / name
    return TrainingTask(
        request=request,
        recipe=recipe,
        plans=plans,
        configuration=configuration,
        description=description,
        dataset_json=read_json(dataset_folder / DATASET_FILE),
        labels=Labels.from_description(description),
        dataset_folder=dataset_folder,
        output_folder=results / model / f"fold_{request.fold}",
        split=_split(request.fold, dataset_folder, cases, expected=description.num_training),
        previous_stage_folder=previous_stage_folder(configuration, recipe, plans, results, number),
        workspace=workspace,
    )


def _planner_option(plans_name: str) -> str:
    """How to ask for plans of a name; the default planner needs no option."""
    planner = planners_of_plans().get(plans_name)
    if planner is None:
        return f" -overwrite_plans_name {plans_name}"
    return "" if planner == EXPERIMENT_PLANNER.name else f" -pl {planner}"


def _with_pretraining(plans: Plans, file: Path, request: TrainRequest, recipe: TrainingRecipe, dataset: str) -> Plans:
    """The plans with the checkpoint and the name that this training wants, if it starts from the plans' weights.

    Raises:
        PlansError: If the plans do not follow a pre-training, or follow it for another dataset.
    """
    if not request.of_plans and (not recipe.pretrained or request.pretrained_weights is not None):
        return plans
    info, number = plans.pretrain_info, int(dataset[7:10]) if dataset[7:10].isdigit() else dataset
    if info is None:
        raise PlansError(
            f"{file} says nothing about pre-trained weights, which the trainer {recipe.name} starts from.",
            found="no entry pretrain_info",
            remedy="make plans for a pre-trained network:  nnUNetv2_preprocess_like_nnssl"
            f" -d {number} -n NAME -pc CHECKPOINT  (or nnUNetv2_plan_like_dynamic); weights of a model of nnU-Net are"
            " used with  nnUNetv2_train ... -pretrained_weights CHECKPOINT",
        )
    if plans.dataset_name != dataset:
        raise PlansError(
            f"{file} belongs to another dataset.",
            found=f"plans for {plans.dataset_name}",
            expected=f"plans for {dataset}",
            remedy="make plans for this dataset from the same checkpoint:  nnUNetv2_preprocess_like_nnssl"
            f" -d {number} -n {info.checkpoint_name or 'NAME'} -pc CHECKPOINT",
        )
    if request.checkpoint_path is not None:
        info = replace(info, checkpoint_path=str(request.checkpoint_path.expanduser().absolute()))
    if request.from_scratch:
        return replace(
            plans, plans_name=plans.plans_name + FROM_SCRATCH, pretrain_info=replace(info, checkpoint_path=None)
        )
    return replace(plans, pretrain_info=info)


def _with_sizes(configuration: Configuration, recipe: TrainingRecipe) -> Configuration:
    """The configuration with the recipe's batch and patch size, if it has any."""
    planned = configuration.patch_size
    patch_size = recipe.patch_size or planned
    if len(patch_size) != len(planned):
        raise TrainingError(
            f"The trainer {recipe.name} does not fit the configuration {configuration.name}.",
            found=f"its patches have {len(patch_size)} axes",
            expected=f"{len(planned)} axes, as the patches of this configuration have",
        )
    return replace(configuration, batch_size=recipe.batch_size or configuration.batch_size, patch_size=patch_size)


def _preprocessed_cases(
    folder: Path, configuration: Configuration, request: TrainRequest, number: int | str
) -> tuple[str, ...]:
    cases = {p.stem for p in folder.glob("*.pkl")} if folder.is_dir() else set()
    command = f"nnUNetv2_preprocess -d {number} -plans_name {request.plans_name}"
    of = "3d_fullres" if configuration.name == "3d_cascade_fullres" else configuration.name
    if not cases:
        raise StorageError(
            f"There are no preprocessed cases in {folder}.",
            remedy=f"make them with  {command} -c {of}",
        )
    parts = parts_folder(folder)
    if parts.is_dir() and not (request.continue_training or request.validation_only):
        raise StorageError(
            f"{folder} is preprocessed in parts, not all of which have ended.",
            found=f"{len(cases)} cases, and the notes of the parts in {parts}",
            remedy=f"wait for the other parts; if none is running any more, do the rest with  {command} -c {of}",
        )
    return tuple(sorted(cases))


def _split(fold: Fold, dataset_folder: Path, cases: tuple[str, ...], *, expected: int | None) -> Split:
    """The cases of a fold, as nnU-Net chooses them."""
    file = dataset_folder / SPLITS_FILE
    if len(cases) < (expected or 0) and (fold == "all" or not file.is_file()):
        get_logger(__name__).warning(
            "Of %d training cases in dataset.json %d are preprocessed, and only these are used%s. If the others are "
            "still to come, stop, preprocess them%s and train again.",
            expected,
            len(cases),
            "" if fold == "all" else f", now and in all folds that are recorded in {file}",
            "" if fold == "all" else ", delete that file",
        )
    if fold == "all":
        return Split(train=cases, val=cases)
    splits = load_or_make_splits(dataset_folder, cases)
    split = splits[fold] if 0 <= fold < len(splits) else None
    if split is None and fold >= 0 and len(cases) > 1:
        get_logger(__name__).warning(
            "Fold %d is not one of the %d folds in %s. As in nnU-Net a random split is used: 80 %% of the cases for "
            "training, the others for validation.",
            fold,
            len(splits),
            dataset_folder / SPLITS_FILE,
        )
        return random_split(cases, fold)
    if split is None or not split.train:
        raise TrainingError(
            f"Fold {fold} cannot be trained.",
            found=f"{counted(len(splits), 'fold')} in {dataset_folder / SPLITS_FILE}"
            + ("" if split is None else f"; fold {fold} has no training cases"),
            expected=f"a fold from 0 to {len(splits) - 1}, or all",
        )
    missing = sorted({*split.train, *split.val} - set(cases))
    if missing:
        raise TrainingError(
            f"Fold {fold} has cases that are not preprocessed: {', '.join(missing[:10])}"
            + (f" and {counted(len(missing) - 10, 'other')}." if len(missing) > 10 else "."),
            found=f"{counted(len(cases), 'preprocessed case')}; the folds are in {dataset_folder / SPLITS_FILE}",
            remedy="preprocess them (nnUNetv2_preprocess), or correct the splits file",
        )
    return split


def previous_stage_folder(
    configuration: Configuration, recipe: TrainingRecipe, plans: Plans, results: Path, number: int | str
) -> Path | None:
    """Where the previous stage of a cascade has predicted the training cases.

    Args:
        configuration: The second stage.
        recipe: Of both stages.
        plans: Of both stages.
        results: Folder of the dataset's models.
        number: How to name the dataset in a command.

    Returns:
        The folder; None if the configuration follows no other.

    Raises:
        TrainingError: If there is none.
    """
    previous = configuration.previous_stage
    if previous is None:
        return None
    model = results / f"{recipe.name}__{plans.plans_name}__{previous}"
    folder = model / PREDICTED_NEXT_STAGE / configuration.name
    if not folder.is_dir():
        raise TrainingError(
            f"The previous stage of {configuration.name} has not predicted the training cases yet.",
            found=f"no folder {folder}",
            remedy=f"train all five folds of it first, with the same trainer and plans: "
            f" nnUNetv2_train {number} {previous} 0  (then 1, 2, 3 and 4)",
        )
    return folder
