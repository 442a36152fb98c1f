"""What the command asks for that puts the validation of all folds together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import StorageError, UsageError
from nnunet_pt.core.files import read_json
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.evaluation.crossval import Folds, ModelName, accumulate, crossval_folder_name, references_folder
from nnunet_pt.evaluation.summary import FILE_NAME

DEFAULT_PROCESSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossvalRequest:
    """Put the validation of several folds of a model into one folder and evaluate it.

    Attributes:
        dataset: Number or name of the dataset.
        configuration: Of the model.
        trainer: Of the model.
        plans_name: Of the model.
        folds: The folds.
        output: Where to; it must be empty. By default a folder of the model, whose content is replaced.
        overwrite: Without it, a complete result of the same cases is kept.
        num_processes: Worker processes; None for the default, at most 8.
        progress: Show the progress.

    Raises:
        UsageError: If there are no folds.
    """

    dataset: int | str
    configuration: str
    trainer: str = "nnUNetTrainer"
    plans_name: str = "nnUNetPlans"
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    output: Path | None = None
    overwrite: bool = True
    num_processes: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.folds:
            raise UsageError("There are no folds to put together.", expected="numbers of folds, for example 0 1 2 3 4")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossvalResult:
    """The validation of several folds.

    Attributes:
        model: The model.
        folds: The folds.
        folder: Where the segmentations and ``summary.json`` are.
        num_cases: Their number.
        dice: Mean Dice of the foreground.
    """

    model: ModelName
    folds: tuple[int, ...]
    folder: Path
    num_cases: int
    dice: float

    @property
    def foreground_mean(self) -> Mapping[str, float]:
        """Metric -> mean over cases and labels, as in ``summary.json``."""
        means: dict[str, float] = read_json(self.folder / FILE_NAME)["foreground_mean"]
        return means

    def summary(self) -> str:
        """The mean Dice, and where everything is."""
        folds = f"{'fold' if len(self.folds) == 1 else 'folds'} {', '.join(map(str, self.folds))}"
        return (
            f"{self.model}: mean Dice {self.dice:.5f} in {counted(self.num_cases, 'case')} of {folds}. "
            f"Written: {self.folder}"
        )


def accumulate_crossval(request: CrossvalRequest, workspace: Workspace) -> CrossvalResult:
    """Copy the validation predictions of all folds into one folder and evaluate them.

    Raises:
        PredictionError: If folds, predictions or references are missing, or a case is in several folds.
        StorageError: If the output folder that was named is not empty.
        NnunetError: If a file cannot be read or written.
    """
    dataset = resolve_dataset_name(request.dataset, workspace)
    model = ModelName(trainer=request.trainer, plans=request.plans_name, configuration=request.configuration)
    folds = Folds.survey(workspace.results / dataset, model, request.folds)
    folds.require()
    output = request.output
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(
            f"The output folder {output} is not empty.",
            remedy="choose another folder, or remove it: nothing in it is overwritten",
        )
    output = output or folds.folder / crossval_folder_name(request.folds)
    processes = request.num_processes
    dice = accumulate(
        folds,
        output,
        references_folder(workspace, dataset),
        overwrite=request.overwrite,
        num_processes=default_num_processes(DEFAULT_PROCESSES) if processes is None else processes,
        progress=request.progress,
    )
    return CrossvalResult(model=model, folds=request.folds, folder=output, num_cases=len(folds.predictions), dice=dice)
