"""Predicting a folder of images with a trained model: what ``nnUNetv2_predict`` does."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.core.console import Progress, get_logger
from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import make_folder, remove_leftovers, write_json
from nnunet_pt.core.process_memory import keep_freed_memory
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import MAX_LISTED, resolve_dataset_name, shortened
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.inference.cases import Outputs, Work, find_work
from nnunet_pt.inference.model_files import PLANS_FILE, chosen_folds, require_model_folder
from nnunet_pt.inference.report import PredictionReport, earlier_reports, outdated_cases, report_path
from nnunet_pt.inference.request import ARGUMENTS_FILE, PredictRequest, nnunet_arguments

if TYPE_CHECKING:
    from nnunet_pt.inference.model import TrainedModel
    from nnunet_pt.inference.predictor import CaseResult, InputCase, Predictor

__all__ = ["PredictRequest", "model_folder_of", "predict_folder"]

_log = get_logger(__name__)
_MAKE_A_DIFFERENCE = ("step_size", "mirror_axes", "orientation")  # of the settings in a report


def predict_folder(request: PredictRequest) -> PredictionReport:
    """Predict all cases of a folder. A case that fails does not keep the others from being predicted.

    Beside the predictions there will be ``prediction_report.json``, and as nnU-Net writes them ``dataset.json``,
    ``plans.json`` and ``predict_from_raw_data_args.json``.

    Args:
        request: What to predict.

    Returns:
        What became of each case.

    Raises:
        PredictionError: If there are no usable images, or the model's folder lacks something.
        CheckpointError: If a checkpoint is missing or damaged.
        StorageError: If the output folder cannot be written.
    """
    require_model_folder(request.model_folder)
    chosen_folds(request.model_folder, request.folds, request.checkpoint)
    description = DatasetDescription.load(request.model_folder / DATASET_FILE)
    outputs = Outputs(
        folder=request.output, file_ending=description.file_ending, probabilities=request.save_probabilities
    )
    earlier = earlier_reports(request.output)
    outdated = outdated_cases(earlier)
    work = find_work(
        request.inputs,
        outputs,
        num_channels=description.num_channels,
        num_parts=request.num_parts,
        part_id=request.part_id,
        skip_existing=request.continue_prediction,
        outdated=outdated,
    )
    _announce(work, request)
    make_folder(request.output)
    remove_leftovers(request.output)
    write_json(request.output / ARGUMENTS_FILE, nnunet_arguments(request), sort_keys=True)
    report = _begin_report(request, work, outputs)
    if not work.cases:
        report.finish(completely=True)
        return report
    predictor = _load(request, report)
    _warn_of_mixture(earlier, report, work)
    cases = _input_cases(request, work, outputs, predictor.model, report)
    _write_model_files(request.output, predictor.model)
    report.save()
    if request.num_parts > 1:  # not before: of two that begin together one must see the other
        _warn_of_other_parts(request, report)
    completely = False
    try:
        _predict(request, predictor, cases, report)
        completely = True
    finally:
        report.finish(completely=completely)
    return report


def model_folder_of(
    workspace: Workspace, dataset: int | str, configuration: str, *, trainer: str, plans_name: str
) -> Path:
    """Where a training keeps its model.

    Args:
        workspace: Knows nnUNet_results.
        dataset: Number or name.
        configuration: Its name.
        trainer: Name of the trainer, or ``file.py:Name``.
        plans_name: Name of the plans.

    Raises:
        SettingsError: If nnUNet_results is not set.
        DatasetError: If there is no such dataset.
    """
    results = workspace.results
    return (
        results
        / resolve_dataset_name(dataset, workspace)
        / (f"{trainer.rpartition(':')[2]}__{plans_name}__{configuration}")
    )


def _announce(work: Work, request: PredictRequest) -> None:
    part = f", part {request.part_id} of {request.num_parts}" if request.num_parts > 1 else ""
    skipped = f"; {len(work.finished)} are predicted already" if work.finished else ""
    _log.info("Found %s in %s%s%s", counted(work.size, "case"), " ".join(map(str, request.inputs)), part, skipped)
    if work.ignored:
        lines = shortened(f"  - {path.name}" for path in work.ignored)
        _log.warning("Images without a channel number in their name are not predicted:\n%s", lines)


def _begin_report(request: PredictRequest, work: Work, outputs: Outputs) -> PredictionReport:
    facts = {
        "input": [str(path) for path in request.inputs],
        "output": str(request.output),
        "part_id": request.part_id,
        "num_parts": request.num_parts,
        "ignored_images": [path.name for path in work.ignored],
    }
    path = report_path(request.output, num_parts=request.num_parts, part_id=request.part_id)
    report = PredictionReport(path, facts)
    for name in work.finished:
        report.skipped(name, "its prediction exists")
    for case in work.cases:
        report.expect(case.identifier, outdated=outputs.segmentation(case.identifier).is_file())
    for name, reason in work.unusable.items():
        _fail(report, name, reason)
    return report


def _load(request: PredictRequest, report: PredictionReport) -> Predictor:
    """The model, ready to predict; the report learns about it."""
    started = time.monotonic()
    import torch

    from nnunet_pt.inference.predictor import PredictionOptions, Predictor

    options = PredictionOptions(
        step_size=request.step_size,
        mirroring=request.mirroring,
        device=request.device,
        precision=request.precision,
        results_on_device=request.results_on_device,
        tiles_per_batch=request.tiles_per_batch,
        keep_orientation=request.keep_orientation,
    )
    predictor = Predictor.from_folder(
        request.model_folder, folds=request.folds, checkpoint_name=request.checkpoint, options=options
    )
    if predictor.device.type == "cpu":
        keep_freed_memory()  # every tile needs the same large tensors again
    model = predictor.model
    report.facts |= {
        "model": _model_facts(model, request),
        "settings": {
            "step_size": request.step_size,
            "mirror_axes": list(model.mirror_axes) if request.mirroring else [],
            "device": str(predictor.device),
            "precision": predictor.precision.name,
            "orientation": None if request.keep_orientation else model.orientation,
        },
        "versions": {
            "nnunet-pt": version("nnunet-pt"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seconds_loading_the_model": round(time.monotonic() - started, 2),
    }
    return predictor


def _model_facts(model: TrainedModel, request: PredictRequest) -> dict[str, Any]:
    return {
        "folder": str(request.model_folder.resolve()),
        "dataset": model.plans.dataset_name,
        "trainer": model.trainer_name,
        "plans": model.plans.plans_name,
        "configuration": model.configuration.name,
        "folds": list(model.folds),
        "checkpoint": request.checkpoint,
    }


def _warn_of_mixture(earlier: Sequence[Mapping[str, Any]], report: PredictionReport, work: Work) -> None:
    """Continuing with another model leaves predictions of two models in a folder."""
    if not work.finished:
        return
    model = report.facts["model"]
    for content in earlier:
        other = content.get("model")
        if isinstance(other, dict) and other != model:
            _log.warning(
                "Predictions in %s were made with another model, and are kept: %s",
                report.path.parent,
                ", ".join(f"{key} {value}" for key, value in other.items() if model.get(key) != value),
            )
            return


def _warn_of_other_parts(request: PredictRequest, report: PredictionReport) -> None:
    """Parts with another model, other settings or another number of parts do not make one prediction."""
    own = report.facts
    found = []
    for other in earlier_reports(request.output):
        if (other.get("part_id"), other.get("num_parts")) == (request.part_id, request.num_parts):
            continue
        total = other.get("num_parts")
        differences = {} if total in (1, request.num_parts) else {"-num_parts": total}
        for facts, names in (("model", own.get("model", {})), ("settings", _MAKE_A_DIFFERENCE)):
            values = other.get(facts)
            if isinstance(values, dict):
                differences |= {name: values.get(name) for name in names if values.get(name) != own[facts].get(name)}
        if differences:
            which = f"part {other.get('part_id')} of {total}, begun {other.get('started')}"
            found.append(f"  - {which}: {', '.join(f'{name} {value}' for name, value in differences.items())}")
    if found:
        _log.warning(
            "In %s there are parts that do not belong together with this one, part %d of %d. Give all parts the same "
            "arguments, or delete what is of an earlier prediction.\n%s",
            request.output,
            request.part_id,
            request.num_parts,
            "\n".join(found),
        )


def _input_cases(
    request: PredictRequest, work: Work, outputs: Outputs, model: TrainedModel, report: PredictionReport
) -> list[InputCase]:
    """The cases for the predictor; in a cascade those that have a segmentation of the previous stage."""
    from nnunet_pt.inference.predictor import InputCase

    cases = [
        InputCase(name=case.identifier, images=case.images, output=request.output / case.identifier)
        for case in work.cases
    ]
    folder = request.previous_stage
    if not model.is_cascaded:
        if folder is not None:
            _log.warning("%s is no cascade; -prev_stage_predictions is not used.", model.configuration.name)
        return cases
    stage = f"-c {model.configuration.previous_stage}"
    if folder is None or not folder.is_dir():
        raise PredictionError(
            f"The configuration {model.configuration.name} needs the predictions of its previous stage.",
            found="no -prev_stage_predictions" if folder is None else f"no folder {folder}",
            remedy=f"first predict the same images with  {stage},  then give its output folder: "
            "-prev_stage_predictions FOLDER",
        )
    paths = {case.name: folder / f"{case.name}{outputs.file_ending}" for case in cases}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if len(missing) == len(cases):
        raise PredictionError(
            f"{folder} holds no prediction of the previous stage for any of the cases.",
            found=", ".join(sorted(path.name for path in folder.iterdir())[:MAX_LISTED]) or "no files",
            expected=", ".join(path.name for path in list(paths.values())[:MAX_LISTED]),
            remedy=f"first predict the same images with  {stage}",
        )
    for name in missing:
        _fail(report, name, f"no prediction of the previous stage {paths[name]}")
    return [replace(case, previous_segmentation=paths[case.name]) for case in cases if case.name not in missing]


def _write_model_files(output: Path, model: TrainedModel) -> None:
    write_json(output / DATASET_FILE, dict(model.dataset_json))
    write_json(output / PLANS_FILE, model.plans.to_json())


def _predict(
    request: PredictRequest, predictor: Predictor, cases: Sequence[InputCase], report: PredictionReport
) -> None:
    with contextlib.closing(_results(request, predictor, cases)) as results:
        for result in results:  # the reason of a failure is on the screen already
            if result.error is None:
                report.done(result.case.name, result.seconds)
            else:
                report.failed(result.case.name, result.error, result.seconds)


def _results(
    request: PredictRequest, predictor: Predictor, cases: Sequence[InputCase]
) -> Generator[CaseResult, None, None]:
    if request.is_sequential:
        with Progress(len(cases), "Predicting", disable=not request.progress) as bar:
            for case in cases:
                yield from predictor.predict_cases(
                    [case], save_probabilities=request.save_probabilities, progress=False
                )
                bar.advance()
        return
    cpus = available_cpus()  # more threads than these would only take memory
    yield from predictor.predict_cases(
        cases,
        total=len(cases),
        save_probabilities=request.save_probabilities,
        num_readers=max(1, min(request.num_readers, cpus)),
        num_exporters=max(1, min(request.num_exporters, cpus)),
        progress=request.progress,
    )


def _fail(report: PredictionReport, case: str, reason: str) -> None:
    """Say at once that a case failed, and note it."""
    report.failed(case, reason)
    _log.error("Case %s cannot be predicted.\n  found:    %s", case, reason)
