"""The validation predictions of all folds of a model in one folder, and their evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import copy_file, make_folder, read_json, storage_errors
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.workers import map_in_threads
from nnunet_pt.dataset.cases import LABELS_FOLDER
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation.metrics import EvaluationSettings, evaluate_folder
from nnunet_pt.evaluation.summary import FILE_NAME, Summary
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.store import GT_FOLDER

PLANS_FILE = "plans.json"
VALIDATION_FOLDER = "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A trained model of a dataset.

    Attributes:
        trainer: Name of the trainer.
        plans: Name of the plans.
        configuration: Name of the configuration.
    """

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    def train_command(self, dataset: str, fold: int, options: str = "") -> str:
        """The command that trains a fold."""
        trainer = "" if self.trainer == "nnUNetTrainer" else f" -tr {self.trainer}"
        plans = "" if self.plans == "nnUNetPlans" else f" -p {self.plans}"
        return f"nnUNetv2_train {dataset} {self.configuration} {fold}{trainer}{plans}{options}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """The validation predictions of some folds of a model.

    Attributes:
        model: The model.
        folder: Its folder.
        predictions: Case -> segmentation.
        missing_probabilities: The folds in which cases have no probabilities.
        findings: What keeps them from being used.
    """

    model: ModelName
    folder: Path
    predictions: Mapping[str, Path]
    missing_probabilities: tuple[int, ...]
    findings: tuple[str, ...]

    @classmethod
    def survey(cls, dataset_folder: Path, model: ModelName, folds: Sequence[int]) -> Folds:
        """Look at a model's folds without judging.

        Args:
            dataset_folder: ``nnUNet_results/DatasetXXX_Name``.
            model: The model.
            folds: The folds that are wanted.

        Raises:
            NnunetError: If ``dataset.json`` of the model is missing or unusable.
        """
        folder = dataset_folder / str(model)
        if not folder.is_dir():
            missing = (_missing_model(dataset_folder, model),)
            return cls(model=model, folder=folder, predictions={}, missing_probabilities=(), findings=missing)
        ending = DatasetDescription.load(folder / DATASET_FILE).file_ending
        predictions: dict[str, Path] = {}
        findings: list[str] = []
        without: list[int] = []
        for fold in dict.fromkeys(folds):
            validation = folder / f"fold_{fold}" / VALIDATION_FOLDER
            found = _segmentations(validation, ending)
            finding = _finding(dataset_folder.name, model, folder, fold, len(found))
            twice = sorted(predictions.keys() & found.keys())
            findings += [finding] if finding else []
            findings += [f"{_also_in(name, predictions[name], fold)}" for name in twice]
            if any(not path.is_file() for p in found for path in probability_files(validation, p)):
                without.append(fold)
            predictions.update(found)
        return cls(
            model=model,
            folder=folder,
            predictions=dict(sorted(predictions.items())),
            missing_probabilities=tuple(without),
            findings=tuple(findings),
        )

    def require(self) -> None:
        """Complain if they cannot be used.

        Raises:
            PredictionError: With everything that is wrong.
        """
        raise_findings(f"The cross-validation of {self.folder} is not complete.", self.findings)


def raise_findings(problem: str, findings: Sequence[str]) -> None:
    """Raise one error with all findings, if there are any.

    Raises:
        PredictionError: If there are findings.
    """
    if findings:
        raise PredictionError(problem + "".join(f"\n  - {text}" for text in findings))


def probability_files(folder: Path, case: str) -> tuple[Path, Path]:
    """Probabilities and properties of a predicted case."""
    return folder / f"{case}.npz", folder / f"{case}.pkl"


def _segmentations(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    with storage_errors(folder):
        names = [p.name for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith(".")]
    return {name.removesuffix(ending): folder / name for name in names}


def _missing_model(dataset_folder: Path, model: ModelName) -> str:
    models = sorted(p.name for p in dataset_folder.glob("*__*__*") if p.is_dir())
    there = f"there are {', '.join(models)}" if models else "there is no trained model of this dataset"
    train = model.train_command(dataset_folder.name, 0)
    return f"there is no {model} in {dataset_folder} ({there}); train it ({train} ...), or leave it out"


def _finding(dataset: str, model: ModelName, folder: Path, fold: int, number: int) -> str | None:
    validation = folder / f"fold_{fold}" / VALIDATION_FOLDER
    if not validation.parent.is_dir():
        there = sorted(p.name for p in folder.glob("fold_*") if p.is_dir())
        note = "; fold_all was trained on all cases, so it says nothing about new ones" if "fold_all" in there else ""
        exist = f"there are {', '.join(there)}{note}" if there else "no fold is trained"
        return f"{model} has no fold_{fold} ({exist}); {model.train_command(dataset, fold)}"
    again = model.train_command(dataset, fold, " --val")
    if not number:
        return f"{validation} holds no segmentations; {again}"
    if not (validation / FILE_NAME).is_file():
        return f"{validation} has {number} segmentations but no {FILE_NAME}: the validation did not finish; {again}"
    return None


def _also_in(case: str, other: Path, fold: int) -> str:
    return f"case {case} is in {other.parent.parent.name} and in fold_{fold}; every case is validated in one fold only"


def references_folder(workspace: Workspace, dataset: str) -> Path:
    """Where the annotations of the training cases are: the raw dataset, else the copies of preprocessing.

    Raises:
        PredictionError: If there are none.
        SettingsError: If ``nnUNet_preprocessed`` is needed but not set.
    """
    raw = workspace.settings.raw
    if raw is not None and (raw / dataset / LABELS_FOLDER).is_dir():
        return raw / dataset / LABELS_FOLDER
    copies = workspace.preprocessed / dataset / GT_FOLDER
    if not copies.is_dir():
        raise PredictionError(
            f"The annotations of {dataset} are not there.",
            expected=f"{LABELS_FOLDER} in the raw dataset, or {copies}",
            remedy="set nnUNet_raw, or preprocess the dataset",
        )
    return copies


def crossval_folder_name(folds: Sequence[int]) -> str:
    """nnU-Net's name of the folder of accumulated folds."""
    return f"crossval_results_folds_{folds_text(folds)}"


def folds_text(folds: Sequence[int]) -> str:
    """Folds as nnU-Net joins them in names."""
    return "_".join(map(str, folds))


def accumulate(
    folds: Folds,
    output: Path,
    references: Path,
    *,
    overwrite: bool = True,
    num_processes: int = 0,
    progress: bool = True,
) -> float:
    """Copy the predictions of all folds into one folder and evaluate them. ``summary.json`` is written last.

    Args:
        folds: What to accumulate.
        output: Where to. Its content is removed first.
        references: The annotations.
        overwrite: Without it, a complete result of the same cases is kept.
        num_processes: Worker processes; 0 works in this process.
        progress: Show the progress.

    Returns:
        Mean Dice of the foreground.

    Raises:
        PredictionError: If predictions or references are missing, or a case is in several folds.
        NnunetError: If a file cannot be read or written.
    """
    folds.require()
    names = [path.name for path in folds.predictions.values()]
    if not overwrite and (dice := finished(output, names)) is not None:
        return dice
    clear(output)
    sources = [folds.folder / DATASET_FILE, folds.folder / PLANS_FILE, *folds.predictions.values()]
    map_in_threads(lambda path: copy_file(path, output / path.name), sources)
    cases = folds.predictions.keys()
    return evaluate(output, references, cases, num_processes=num_processes, progress=progress).dice


def finished(folder: Path, names: Sequence[str]) -> float | None:
    """The mean Dice of an earlier result, if it is complete and holds these segmentations."""
    path = folder / FILE_NAME
    if not path.is_file() or not all((folder / name).is_file() for name in names):
        return None
    content = read_json(path)
    try:
        evaluated = {Path(case["prediction_file"]).name for case in content["metric_per_case"]}
        return float(content["foreground_mean"]["Dice"]) if evaluated == set(names) else None
    except (KeyError, TypeError, ValueError):  # written by something else
        return None


def clear(folder: Path) -> None:
    """Empty a folder, ``summary.json`` first, so that what is left of an interrupted run does not look complete."""
    make_folder(folder)
    with storage_errors(folder):
        (folder / FILE_NAME).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def evaluate(
    folder: Path, references: Path, cases: Collection[str], *, num_processes: int = 0, progress: bool = True
) -> Summary:
    """Evaluate segmentations in a folder that has ``plans.json`` and ``dataset.json``, and write ``summary.json``.

    Raises:
        PredictionError: If predictions or references are missing.
        NnunetError: If a file cannot be read or written.
    """
    description = DatasetDescription.load(folder / DATASET_FILE)
    settings = EvaluationSettings.of(
        Labels.from_description(description),
        reader_name=Plans.load(folder / PLANS_FILE).image_reader_writer,
        file_ending=description.file_ending,
    )
    summary = evaluate_folder(references, folder, settings, cases=cases, num_processes=num_processes, progress=progress)
    summary.save(folder / FILE_NAME)
    return summary
