"""Everything that the folder of a fold says about its training, read once.

Folders of this package and of nnU-Net are read alike; what is not there, or cannot be read, becomes a gap that the page
states.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from nnunet_pt.core.errors import NnunetError, UsageError
from nnunet_pt.core.files import read_json
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation.summary import FILE_NAME as SUMMARY_FILE
from nnunet_pt.inference.model_files import PLANS_FILE
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.plans import Plans
from nnunet_pt.report.training_history import LOG_PATTERN, TrainingHistory, read_history
from nnunet_pt.report.training_transfer import Transfer, read_transfer
from nnunet_pt.report.training_validation import Validation, read_validation
from nnunet_pt.training.debug_file import DEBUG_NAME
from nnunet_pt.training.history import names_of_classes
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.task import RECIPE_FILE, VALIDATION_FOLDER
from nnunet_pt.training.text_log import FIGURES_NAME
from nnunet_pt.transfer.report_files import JSON_FILE as TRANSFER_FILE

_DEBUG_SETTINGS: Final = {  # nnU-Net's name of a setting in debug.json -> the recipe's
    "num_epochs": "num_epochs",
    "num_iterations_per_epoch": "iterations_per_epoch",
    "num_val_iterations_per_epoch": "validation_iterations_per_epoch",
    "initial_lr": "initial_lr",
    "weight_decay": "weight_decay",
    "oversample_foreground_percent": "oversample_foreground",
    "probabilistic_oversampling": "probabilistic_oversampling",
    "enable_deep_supervision": "deep_supervision",
    "save_every": "save_every",
}
UNKNOWN: Final = "unknown"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """A training as its folder shows it.

    Attributes:
        folder: Folder of the fold.
        dataset: Name of the dataset.
        trainer: Name of the trainer.
        plans_name: Plans identifier.
        configuration_name: Name of the configuration.
        fold: Number of the fold, or "all".
        finished: Whether all epochs are done.
        planned_epochs: How many there were to be; None if it is not known.
        history: The epochs.
        class_names: Names of the foreground classes or regions.
        settings: The choices of the training under the recipe's names: all of a recorded recipe, else what nnU-Net's
            ``debug.json`` has of them.
        recipe: The recorded recipe; None if there is none.
        debug: Content of ``debug.json``.
        plans: The plans; None if they cannot be read.
        labels: The labels of the dataset; None if they cannot be read.
        validation: The final validation; None if there is none yet.
        transfer: What the training began with; None if it began from scratch or with nnU-Net's own transfer.
        gaps: What is missing or cannot be read, in words.
    """

    folder: Path
    dataset: str
    trainer: str
    plans_name: str
    configuration_name: str
    fold: str
    finished: bool
    planned_epochs: int | None
    history: TrainingHistory
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    recipe: TrainingRecipe | None
    debug: Mapping[str, str]
    plans: Plans | None
    labels: Labels | None
    validation: Validation | None
    transfer: Transfer | None
    gaps: tuple[str, ...]

    @property
    def title(self) -> str:
        """Trainer, configuration and fold."""
        return f"{self.trainer}, {self.configuration_name}, fold {self.fold}"

    @property
    def configuration(self) -> Configuration | None:
        """The configuration in the plans; None if they do not have it."""
        if self.plans is None or self.configuration_name not in self.plans.configurations:
            return None
        try:
            return self.plans.configuration(self.configuration_name)
        except NnunetError:
            return None

    @property
    def has_seen_validation_cases(self) -> bool:
        """Whether the cases of the validation were trained on, as with the fold "all"."""
        return self.fold == "all"


def read_training(fold_folder: Path) -> TrainingRecord:
    """Read the folder of a fold, also of a training that is still running.

    Raises:
        UsageError: If it is not such a folder.
    """
    folder = _require_fold_folder(fold_folder)
    gaps: list[str] = []
    history = read_history(folder, gaps.append)
    init_args: Mapping[str, Any] = {} if history.checkpoint is None else history.checkpoint.init_args
    debug: object = _file(folder / DEBUG_NAME, read_json, gaps)
    debug = debug if isinstance(debug, dict) else {}
    recipe = _file(folder / RECIPE_FILE, lambda path: TrainingRecipe.from_json(read_json(path)), gaps)
    plans = _plans(folder, init_args, gaps)
    description = _description(folder, init_args, gaps)
    labels = None if description is None else _attempt(lambda: Labels.from_description(description), gaps)
    ending = None if description is None else description.file_ending
    validation = _file(
        folder / VALIDATION_FOLDER / SUMMARY_FILE, lambda path: read_validation(path, labels, ending), gaps
    )
    settings = dict(recipe.to_json()) if recipe is not None else _settings_of_debug(debug)
    finished = (folder / FINAL).is_file()
    names = _names(folder, history, debug, plans)
    planned = settings.get("num_epochs")
    known = history.class_names or (() if labels is None else labels.class_names)
    return TrainingRecord(
        folder=folder,
        finished=finished,
        planned_epochs=planned if isinstance(planned, int) else len(history.epochs) if finished else None,
        history=history,
        class_names=_class_names(history, known),
        settings=settings,
        recipe=recipe,
        debug={str(key): str(value) for key, value in debug.items()},
        plans=plans,
        labels=labels,
        validation=validation,
        transfer=_file(folder / TRANSFER_FILE, read_transfer, gaps),
        gaps=(*gaps, *_missing(history, validation, finished)),
        **names,
    )


def _require_fold_folder(path: Path) -> Path:
    folder = path.expanduser().absolute()
    expected = "the folder of a fold: nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_0"
    if not folder.is_dir():
        there = _folds(folder.parent)
        raise UsageError(
            f"{folder} is not a folder." if folder.exists() else f"There is no folder {folder}",
            found=f"{', '.join(there)} beside it" if there else None,
            expected=expected,
            remedy=f"give {folder.parent}" if folder.is_file() and _is_fold(folder.parent) else "check the path",
        )
    if _is_fold(folder):
        return folder
    folds = _folds(folder)
    raise UsageError(
        f"{folder} does not hold a training.",
        found=f"a model with {', '.join(folds)}" if folds else "neither checkpoints nor logs nor a validation",
        expected=expected,
        remedy=f"choose one of its folds, such as {folder / folds[0]}" if folds else "check the path, or train first",
    )


def _is_fold(folder: Path) -> bool:
    files = (FINAL, LATEST, BEST, FIGURES_NAME, DEBUG_NAME, f"{VALIDATION_FOLDER}/{SUMMARY_FILE}")
    return any((folder / name).is_file() for name in files) or any(folder.glob(LOG_PATTERN))


def _folds(model_folder: Path) -> list[str]:
    return sorted(p.name for p in model_folder.glob("fold_*") if p.is_dir() and _is_fold(p))


def _file(path: Path, reader: Callable[[Path], _T], gaps: list[str]) -> _T | None:
    """The content of a file; None if it is not there or, which is a gap, cannot be used."""
    return _attempt(lambda: reader(path), gaps) if path.is_file() else None


def _attempt(reader: Callable[[], _T], gaps: list[str]) -> _T | None:
    try:
        return reader()
    except NnunetError as error:
        found = "" if error.found is None else f" Found: {' '.join(str(error.found).split())}."
        remedy = "" if error.remedy is None else f" To do: {error.remedy}."
        gaps.append(f"{error.problem.rstrip('.')}.{found}{remedy}")
        return None


def _plans(folder: Path, init_args: Mapping[str, Any], gaps: list[str]) -> Plans | None:
    """The plans of the model folder, else those in the checkpoint."""
    plans = _file(folder.parent / PLANS_FILE, Plans.load, gaps)
    if plans is None and "plans" in init_args:
        plans = _attempt(lambda: Plans.from_json(init_args["plans"], folder), gaps)
    return plans


def _description(folder: Path, init_args: Mapping[str, Any], gaps: list[str]) -> DatasetDescription | None:
    description = _file(folder.parent / DATASET_FILE, DatasetDescription.load, gaps)
    if description is None and "dataset_json" in init_args:
        description = _attempt(lambda: DatasetDescription.from_json(init_args["dataset_json"], folder), gaps)
    return description


def _names(folder: Path, history: TrainingHistory, debug: Mapping[str, Any], plans: Plans | None) -> dict[str, str]:
    """What is trained: as the checkpoint says, else ``debug.json``, else the names of the folders."""
    checkpoint = history.checkpoint
    said = {} if checkpoint is None else {**checkpoint.init_args, "trainer": checkpoint.trainer_name}
    parts = ([*folder.parent.name.split("__"), "", ""])[:3] if "__" in folder.parent.name else ["", "", ""]
    dataset = folder.parent.parent.name
    return {
        "dataset": plans.dataset_name if plans is not None else dataset if dataset.startswith("Dataset") else UNKNOWN,
        "trainer": str(said.get("trainer") or parts[0] or UNKNOWN),
        "plans_name": plans.plans_name if plans is not None else parts[1] or UNKNOWN,
        "configuration_name": str(said.get("configuration") or debug.get("configuration_name") or parts[2] or UNKNOWN),
        "fold": str(said.get("fold", debug.get("fold", folder.name.removeprefix("fold_")))),
    }


def _class_names(history: TrainingHistory, known: tuple[str, ...]) -> tuple[str, ...]:
    number = max((len(f.dice_per_class) for f in history.epochs), default=len(known))
    return names_of_classes(number, known)


def _settings_of_debug(debug: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values among those of ``debug.json``, which holds everything as text."""
    settings: dict[str, Any] = {}
    for theirs, ours in _DEBUG_SETTINGS.items():
        if theirs in debug:
            text = str(debug[theirs])
            try:
                settings[ours] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                settings[ours] = text
    return settings


def _missing(history: TrainingHistory, validation: Validation | None, finished: bool) -> list[str]:
    gaps = []
    if not history.epochs:
        gaps.append("No record of the epochs: neither progress.jsonl nor a checkpoint nor a text log has any.")
    if history.checkpoint is None and history.epochs:
        gaps.append("There is no checkpoint that can be read; the figures come from the logs.")
    if finished and validation is None:
        gaps.append("There is no result of the final validation (nnUNetv2_train ... --val makes it).")
    return gaps
