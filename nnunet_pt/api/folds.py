"""The training of folds: begun, continued, only validated, or found finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from nnunet_pt.api.results import TrainingMetrics, metrics_of_fold
from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.evaluation.summary import FILE_NAME as SUMMARY_FILE
from nnunet_pt.networks.device import choose_device
from nnunet_pt.preprocessing.splits import SPLITS_FILE, load_splits
from nnunet_pt.training.fold_validation import checkpoint_to_validate
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.recipe_lookup import find_recipe
from nnunet_pt.training.request import Fold, TrainRequest
from nnunet_pt.training.run import train, with_flags
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.task import RECIPE_FILE, VALIDATION_FOLDER, prepare
from nnunet_pt.transfer.report_files import JSON_FILE as TRANSFER_FILE
from nnunet_pt.transfer.source import sha256_of

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedFold:
    """A fold that is trained and validated.

    Attributes:
        metrics: How good it is.
        is_new: Whether anything had to be done for it.
    """

    metrics: TrainingMetrics
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldTraining:
    """Folds of a model.

    Attributes:
        request: How to train, for any fold; ``dataset`` is the name of a folder.
        workspace: Where the three folders are.
        go_on: Continue what was interrupted.
    """

    request: TrainRequest
    workspace: Workspace
    go_on: bool = False

    def __post_init__(self) -> None:
        if self.go_on and self.request.validation_only:
            replace(self.request, continue_training=True)  # complains

    @property
    def recipe(self) -> TrainingRecipe:
        """How to train, with the values of the request.

        Raises:
            UnknownNameError: If there is no such trainer.
            TrainingError: If values do not go together.
        """
        return with_flags(find_recipe(self.request.trainer, self.workspace.settings).recipe, self.request)

    @property
    def model_folder(self) -> Path:
        """Folder of all folds."""
        name = f"{self.recipe.name}__{self.request.plans_name}__{self.request.configuration}"
        return self.workspace.results / str(self.request.dataset) / name

    def fold_folder(self, fold: Fold) -> Path:
        """Folder of a fold."""
        return self.model_folder / f"fold_{fold}"

    def check(self) -> None:
        """Complain about what cannot become a training, before a dataset is prepared for it.

        Raises:
            NnunetError: With what is wrong.
        """
        choose_device(self.request.device)
        folder = self.fold_folder(self.request.fold)
        if self.request.validation_only:
            checkpoint_to_validate(folder, best=self.request.validate_best)
        elif self._is_trained(folder) or self._is_to_be_continued(folder):
            self._check_same(folder)

    def is_finished(self, fold: Fold | Literal["cv"]) -> bool:
        """Whether nothing is left to do for a fold, or for all of a cross-validation."""
        if fold == "cv":
            return self._splits_file.is_file() and all(map(self.is_finished, self.folds()))
        folder = self.fold_folder(fold)
        return not self.request.validation_only and self._is_trained(folder) and self._is_validated(folder)

    def folds(self) -> tuple[int, ...]:
        """The folds of the cross-validation; they are made if that has not been done.

        Raises:
            NnunetError: If ``splits_final.json`` is damaged, or data are missing to make it.
        """
        if not self._splits_file.is_file():
            prepare(self.request, self.recipe, self.workspace)
        return tuple(range(len(load_splits(self._splits_file))))

    @property
    def _splits_file(self) -> Path:
        return self.workspace.preprocessed / str(self.request.dataset) / SPLITS_FILE

    def run(self, fold: Fold) -> FinishedFold:
        """Train and validate a fold as far as that is not done.

        Raises:
            UsageError: If the fold was trained in another way than is asked for.
            TrainingStopped: If a signal asked for it.
            NnunetError: Whatever training raises.
        """
        folder, request = self.fold_folder(fold), replace(self.request, fold=fold)
        # The weights that a training began with are in its checkpoints
        begun = replace(request, pretrained_weights=None, transfer=None, transfer_layers=(), keep_optimizer=False)
        if request.validation_only:
            todo = request
        elif self._is_trained(folder):
            self._check_same(folder)
            if self.is_finished(fold):
                _log.info("%s is trained and validated already.", folder)
                return FinishedFold(metrics=metrics_of_fold(folder), is_new=False)
            todo = replace(begun, validation_only=True)
        elif self._is_to_be_continued(folder):
            self._check_same(folder)
            todo = replace(begun, continue_training=True)
        else:
            todo = request
        result = train(todo, self.workspace)
        metrics = metrics_of_fold(folder, best=request.validate_best)
        if result is not None and result.validation is None:  # what may lie there is of an earlier training
            metrics = TrainingMetrics(dice=None, iou=None, validation_loss=metrics["validation_loss"])
        return FinishedFold(metrics=metrics, is_new=True)

    def _is_trained(self, folder: Path) -> bool:
        """Whether all epochs are done; when going on, those that are asked for."""
        if not (folder / FINAL).is_file():
            return False
        recorded, wanted = _recorded(folder), self.request.epochs
        return not self.go_on or wanted is None or recorded is None or recorded.num_epochs >= wanted

    def _is_to_be_continued(self, folder: Path) -> bool:
        return self.go_on and any((folder / name).is_file() for name in (FINAL, LATEST, BEST))

    def _is_validated(self, folder: Path) -> bool:
        """Whether the final validation is done with the last weights, and with probabilities if they are wanted."""
        validation = folder / VALIDATION_FOLDER
        if self.request.validate_best or not (validation / SUMMARY_FILE).is_file():
            return False
        cases = read_json(validation / SUMMARY_FILE).get("metric_per_case", [])
        return not self.request.save_probabilities or len(list(validation.glob("*.npz"))) >= len(cases)

    def _check_same(self, folder: Path) -> None:
        """Do not give back, or go on with, something else than what is asked for.

        Raises:
            UsageError: If the training in a folder began with other weights, or was done with other values.
        """
        findings = [*self._other_weights(folder), *(() if self.go_on else self._other_values(folder))]
        if findings:
            raise UsageError(
                f"{folder} holds another training than the one asked for.",
                found="\n            ".join(findings),
                remedy="ask for that one; or choose another trainer, whose results go to another folder; or move this "
                "folder away",
            )

    def _other_weights(self, folder: Path) -> Iterator[str]:
        weights, report = self.request.pretrained_weights, folder / TRANSFER_FILE
        source = read_json(report).get("source", {}) if report.is_file() else {}
        began = f"it began with the weights {source.get('path')}" if source else f"it has no {TRANSFER_FILE}"
        if weights is not None and source.get("sha256") != sha256_of(weights):
            yield f"{began}, and should have begun with {weights}"
        if weights is None and source and not self.go_on and not self.recipe.pretrained:
            yield f"{began}, and should have begun with random ones"

    def _other_values(self, folder: Path) -> Iterator[str]:
        """What is not done now as it was done then; a seed only counts if one is asked for."""
        recorded, wanted = _recorded(folder), self.recipe
        for field in () if recorded is None else fields(TrainingRecipe):
            there, asked = getattr(recorded, field.name), getattr(wanted, field.name)
            if there != asked and (field.name, asked) != ("seed", None):
                yield f"{field.name} is {there!r}, and should be {asked!r}"


def _recorded(folder: Path) -> TrainingRecipe | None:
    """How a fold was trained; None for trainings of nnU-Net."""
    path = folder / RECIPE_FILE
    return TrainingRecipe.from_json(read_json(path)) if path.is_file() else None
