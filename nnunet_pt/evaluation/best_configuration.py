"""Which model, or which ensemble of two models, is the best in the cross-validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from nnunet_pt.core.console import get_logger, table
from nnunet_pt.core.errors import PredictionError, UsageError
from nnunet_pt.core.files import copy_file, remove_leftovers, write_json, write_text
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.dataset.cases import listed, resolve_dataset_name
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.evaluation.crossval import (
    PLANS_FILE,
    Folds,
    ModelName,
    accumulate,
    clear,
    crossval_folder_name,
    evaluate,
    finished,
    folds_text,
    probability_files,
    raise_findings,
    references_folder,
)
from nnunet_pt.evaluation.ensemble import EnsembleCase, EnsembleSettings, ensemble_cases
from nnunet_pt.evaluation.instructions import inference_instructions
from nnunet_pt.evaluation.postprocessing import Postprocessing, determine_postprocessing
from nnunet_pt.plans.plans import Plans

INFORMATION_FILE = "inference_information.json"
INSTRUCTIONS_FILE = "inference_instructions.txt"
ENSEMBLES_FOLDER = "ensembles"
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRequest:
    """Which models to choose from.

    Attributes:
        dataset: Id or name.
        configurations: Those the plans do not have are skipped.
        trainers: Names of trainers.
        plans_names: Names of plans.
        folds: The folds of the cross-validation.
        ensembling: Try all pairs of models, too.
        overwrite: Without it, complete results of an earlier run are kept.
        num_processes: Worker processes; 0 works in this process.
        progress: Show the progress.
    """

    dataset: int | str
    configurations: tuple[str, ...] = CONFIGURATIONS
    trainers: tuple[str, ...] = ("nnUNetTrainer",)
    plans_names: tuple[str, ...] = ("nnUNetPlans",)
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    ensembling: bool = True
    overwrite: bool = True
    num_processes: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model, or an ensemble.

    Attributes:
        name: Folder name of the model or the ensemble.
        members: The models.
        folder: Its accumulated and evaluated predictions.
        dice: Mean Dice of the foreground.
    """

    name: str
    members: tuple[ModelName, ...]
    folder: Path
    dice: float

    @property
    def label(self) -> str:
        """What people call it."""
        return " + ".join(map(str, self.members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was chosen.

    Attributes:
        candidates: All models and ensembles.
        best: The winner.
        postprocessing: Determined for the winner.
        instructions: The commands to run next.
        information_file: ``inference_information.json``.
    """

    candidates: tuple[Candidate, ...]
    best: Candidate
    postprocessing: Postprocessing
    instructions: str
    information_file: Path

    def summary(self) -> str:
        """Table of candidates, the winner, its postprocessing, and the commands to run next."""
        rows = [(c.label, f"{c.dice:.5f}", "best" if c is self.best else "") for c in self.candidates]
        return "\n\n".join(
            (
                table(rows, ("model or ensemble", "mean Dice", "")),
                f"Best: {self.best.label}, Dice {self.best.dice:.5f}",
                f"Postprocessing of the best:\n{self.postprocessing.summary()}",
                self.instructions,
                f"These instructions are in {self.information_file.with_name(INSTRUCTIONS_FILE)}, "
                f"all figures in {self.information_file}",
            )
        )


def find_best_configuration(request: SelectionRequest, workspace: Workspace) -> Selection:
    """Compare models and ensembles of two, determine the postprocessing of the best, and write down what to do next.

    Raises:
        UsageError: If the plans have none of the configurations.
        PredictionError: If folds, predictions, probabilities or annotations are missing; with everything that is.
        NnunetError: If a file cannot be read or written.
    """
    dataset = resolve_dataset_name(request.dataset, workspace)
    results = workspace.results / dataset
    plans = {name: _plans(name, dataset, workspace) for name in request.plans_names}
    models = [Folds.survey(results, model, request.folds) for model in _models(request, plans)]
    _check(models, dataset, request)
    references = references_folder(workspace, dataset)
    candidates = [_accumulated(model, references, request) for model in models]
    if request.ensembling:
        candidates += [_ensembled(pair, results, references, request) for pair in combinations(models, 2)]
    best = max(candidates, key=lambda c: -math.inf if math.isnan(c.dice) else c.dice)  # the first of equals
    if math.isnan(best.dice):
        _log.warning("A label is in no case at all, so that no mean Dice is defined; the first model was taken.")
    postprocessing = determine_postprocessing(
        best.folder,
        references,
        Plans.load(best.folder / PLANS_FILE),
        DatasetDescription.load(best.folder / DATASET_FILE),
        num_processes=request.num_processes,
        progress=request.progress,
    )
    instructions = inference_instructions(
        dataset,
        [(m, plans[m.plans].configuration(m.configuration).previous_stage) for m in best.members],
        request.folds,
        postprocessing.file,
        num_processes=workspace.settings.num_processes,
    )
    selection = Selection(
        candidates=tuple(candidates),
        best=best,
        postprocessing=postprocessing,
        instructions=instructions,
        information_file=results / INFORMATION_FILE,
    )
    write_text(results / INSTRUCTIONS_FILE, instructions)
    considered = [model.model for model in models]
    write_json(selection.information_file, _information(selection, considered, request, dataset), sort_keys=True)
    return selection


def _plans(name: str, dataset: str, workspace: Workspace) -> Plans:
    """The plans of the preprocessed dataset; if they are gone, those that a model was trained with."""
    preprocessed = workspace.settings.preprocessed
    usual = None if preprocessed is None else preprocessed / dataset / f"{name}.json"
    kept = sorted((workspace.results / dataset).glob(f"*__{name}__*/{PLANS_FILE}"))
    if kept and (usual is None or not usual.is_file()):
        return Plans.load(kept[0])
    return Plans.load(workspace.preprocessed / dataset / f"{name}.json")


def _models(request: SelectionRequest, plans: Mapping[str, Plans]) -> list[ModelName]:
    """All combinations in nnU-Net's order."""
    result = []
    for trainer in dict.fromkeys(request.trainers):
        for configuration in dict.fromkeys(request.configurations):
            for name in plans:
                if configuration in plans[name].configurations:
                    result.append(ModelName(trainer=trainer, plans=name, configuration=configuration))
                elif trainer == request.trainers[0]:
                    _log.info("Configuration %s is skipped: plans %s do not have it.", configuration, name)
    if not result:
        raise UsageError(
            "There is nothing to choose from: the plans have none of the configurations.",
            found=", ".join(request.configurations),
            expected="; ".join(f"{name}: {', '.join(p.configurations)}" for name, p in plans.items()),
        )
    return result


def _check(models: Sequence[Folds], dataset: str, request: SelectionRequest) -> None:
    """Find everything that is missing before anything is written."""
    findings = [text for model in models for text in model.findings]
    raise_findings(f"The cross-validation of {dataset} is not complete.", findings)
    first = models[0]
    for other in models[1:]:
        for one, two in ((first, other), (other, first)):
            surplus = sorted(one.predictions.keys() - two.predictions.keys())
            if surplus:
                findings.append(f"{one.model} has cases that {two.model} does not have: {listed(surplus)}")
    raise_findings("The models were not validated on the same cases, so they cannot be compared.", findings)
    if request.ensembling and len(models) > 1:
        for model in models:
            for fold in model.missing_probabilities:
                command = model.model.train_command(dataset, fold, " --val --npz")
                findings.append(f"{model.model}, fold {fold}: {command}")
        if findings:
            raise PredictionError(
                "There are no probabilities (.npz and .pkl files) for ensembles. Validate these folds again:"
                + "".join(f"\n  - {text}" for text in findings),
                remedy="run these commands, or go on without ensembles: --disable_ensembling",
            )


def _accumulated(model: Folds, references: Path, request: SelectionRequest) -> Candidate:
    folder = model.folder / crossval_folder_name(request.folds)
    dice = accumulate(
        model,
        folder,
        references,
        overwrite=request.overwrite,
        num_processes=request.num_processes,
        progress=request.progress,
    )
    return Candidate(name=str(model.model), members=(model.model,), folder=folder, dice=dice)


def _ensembled(pair: tuple[Folds, Folds], results: Path, references: Path, request: SelectionRequest) -> Candidate:
    first, second = pair
    name = f"ensemble___{first.model}___{second.model}___{folds_text(request.folds)}"
    folder = results / ENSEMBLES_FOLDER / name
    dice = None if request.overwrite else finished(folder, [p.name for p in first.predictions.values()])
    if dice is None:
        if request.overwrite:
            clear(folder)
        dice = _make_ensemble(first, second, folder, references, request)
    return Candidate(name=name, members=(first.model, second.model), folder=folder, dice=dice)


def _make_ensemble(first: Folds, second: Folds, folder: Path, references: Path, request: SelectionRequest) -> float:
    for file in (PLANS_FILE, DATASET_FILE):
        copy_file(first.folder / file, folder / file)
    remove_leftovers(folder)
    cases = []
    for case, segmentation in first.predictions.items():
        if (folder / segmentation.name).is_file():  # complete, as all files are
            continue
        probabilities, properties = probability_files(segmentation.parent, case)
        other, _ = probability_files(second.predictions[case].parent, case)
        cases.append(
            EnsembleCase(name=case, probabilities=(probabilities, other), properties=properties, output=folder / case)
        )
    ensemble_cases(cases, EnsembleSettings.of(folder), num_processes=request.num_processes, progress=request.progress)
    names = first.predictions.keys()
    return evaluate(folder, references, names, num_processes=request.num_processes, progress=request.progress).dice


def _information(
    selection: Selection, models: Sequence[ModelName], request: SelectionRequest, dataset: str
) -> dict[str, Any]:
    """The content of ``inference_information.json``."""
    best, postprocessing = selection.best, selection.postprocessing
    return {
        "all_results": {c.name: c.dice for c in selection.candidates},
        "best_model_or_ensemble": {
            "postprocessing_file": str(postprocessing.file),
            "result_on_crossval_post_pp": postprocessing.after.dice,
            "result_on_crossval_pre_pp": best.dice,
            "selected_model_or_models": [
                {"configuration": m.configuration, "plans_identifier": m.plans, "trainer": m.trainer}
                for m in best.members
            ],
            "some_plans_file": str(best.folder / PLANS_FILE),
        },
        "considered_models": [
            {"configuration": m.configuration, "plans": m.plans, "trainer": m.trainer} for m in models
        ],
        "dataset_name_or_id": dataset,
        "ensembling_allowed": request.ensembling,
        "folds": list(request.folds),
    }
