"""The validation at the end of a training: whole cases, predicted, written as files and compared with the annotation.

While one case is predicted, the next one is read and the last one is resampled and written in threads, which spend
their time in compiled code and need no copy of the logits. Every file appears complete or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_pt.core.console import Progress, get_logger
from nnunet_pt.core.errors import NnunetError, StorageError, TrainingError
from nnunet_pt.core.files import make_folder, remove_leftovers, storage_errors
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.dataset.cases import listed
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation.metrics import EvaluationSettings, evaluate_folder
from nnunet_pt.evaluation.summary import FILE_NAME, Summary
from nnunet_pt.inference.export import export_for_next_stage, export_prediction
from nnunet_pt.inference.overlap import overlapped, tile_reporter
from nnunet_pt.inference.sliding_window import SlidingWindow
from nnunet_pt.networks.precision import Precision
from nnunet_pt.plans.plans import Configuration, Plans
from nnunet_pt.preprocessing.store import GT_FOLDER, load_properties
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.validation_progress import DoneCases, forget_done_cases, key_of

FOLDER = "validation"
NEXT_STAGE_FOLDER = "predicted_next_stage"
_MAX_EXPORT_THREADS = 4
_NOTE_INTERVAL_S = 0.5
_NUM_SHOWN = 20

_log = get_logger(__name__)

Properties = dict[str, Any]
Reasons = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRequest:
    """What to validate.

    Attributes:
        plans: The plans.
        configuration: The configuration that was trained, with the patch size of the training.
        labels: The labels of the dataset.
        file_ending: Ending of the dataset's files, with the dot.
        preprocessed: Folder of the preprocessed dataset.
        cases: The validation cases of the fold.
        fold_folder: Where the training writes to; predictions go to ``validation`` in it, those for a next stage of
            a cascade to ``predicted_next_stage`` beside it.
        mirror_axes: Axes of the patch along which predictions of the mirrored image are averaged.
        save_probabilities: Write probabilities, too.
        previous_stage_folder: In a cascade the folder with the previous stage's segmentations of the cases.
        data_folder: Where the cases are read from, if not from the preprocessed dataset.
        num_processes: How many cases may be written, and later compared, at the same time.
    """

    plans: Plans
    configuration: Configuration
    labels: Labels
    file_ending: str
    preprocessed: Path
    cases: tuple[str, ...]
    fold_folder: Path
    mirror_axes: tuple[int, ...] = ()
    save_probabilities: bool = False
    previous_stage_folder: Path | None = None
    data_folder: Path | None = None
    num_processes: int = 1

    @property
    def output(self) -> Path:
        """Where the predictions go."""
        return self.fold_folder / FOLDER

    def prediction(self, case: str) -> Path:
        """The predicted segmentation of a case."""
        return self.output / f"{case}{self.file_ending}"


def final_validation(
    network: nn.Module,
    request: ValidationRequest,
    *,
    device: torch.device,
    precision: Precision | None = None,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] | None = None,
    on_step: Callable[[], None] | None = None,
    progress: bool = True,
) -> Summary | None:
    """Predict the validation cases and evaluate them.

    A validation that was interrupted goes on: cases that were predicted with the same weights and settings are not
    predicted again. After one that was finished, all predictions are made anew. A case that fails does not keep the
    others from being predicted, but then there is no ``summary.json``, since it would pass for the result of all cases.

    Args:
        network: The trained network.
        request: What to validate.
        device: Where the network is.
        precision: Numerical precision of the network's operations.
        rank: Number of this process; it takes every ``world_size``-th case.
        world_size: Number of processes.
        barrier: Waits for all processes; needed if there are several. Called once by each.
        on_step: Called after each pass through the network. It may stop the validation by raising something that is
            not an ``Exception``, such as ``KeyboardInterrupt``.
        progress: Show the progress (of the first process).

    Returns:
        Metrics, also in ``validation/summary.json``; ``None`` in all processes but the first.

    Raises:
        TrainingError: If references are missing, or cases failed; names each with the reason.
        StorageError: If preprocessed cases are missing, or a folder cannot be written.
    """
    _check_references(request)
    make_folder(request.output)
    if rank == 0:
        remove_leftovers(request.output)
        with storage_errors(request.output):
            (request.output / FILE_NAME).unlink(missing_ok=True)
    own = request.cases[rank::world_size]
    show = progress and rank == 0
    wait_for_others = barrier or (lambda: None)
    try:
        done = DoneCases(request, key_of(network, request, device, precision), rank)
        left = [case for case in own if case not in done]
        if len(left) < len(own) and show:
            _log.info("%d of %d validation cases are predicted already.", len(own) - len(left), len(own))
        failures = _Validation(network, request, left, device, precision, on_step, done).run(show) if left else {}
    except Exception:  # the others must not wait for ever; an interruption reaches them, too
        wait_for_others()
        raise
    wait_for_others()
    if rank == 0:
        missing = [c for c in request.cases if c not in failures and not request.prediction(c).is_file()]
        failures |= dict.fromkeys(missing, "not predicted by the process that it was given to; see its messages")
    if failures:
        raise _failed(failures, request)
    if rank != 0:
        return None
    summary = _evaluate(request, show)
    forget_done_cases(request.output)
    return summary


def _evaluate(request: ValidationRequest, progress: bool) -> Summary:
    settings = EvaluationSettings.of(
        request.labels, reader_name=request.plans.image_reader_writer, file_ending=request.file_ending
    )
    summary = evaluate_folder(
        request.preprocessed / GT_FOLDER,
        request.output,
        settings,
        cases=request.cases,
        num_processes=min(request.num_processes, available_cpus()) if request.num_processes > 1 else 0,
        progress=progress,
    )
    summary.save(request.output / FILE_NAME)
    return summary


def _check_references(request: ValidationRequest) -> None:
    if not request.cases:
        raise TrainingError("There are no validation cases.", remedy="correct splits_final.json, or train another fold")
    folder = request.preprocessed / GT_FOLDER
    missing = [case for case in request.cases if not (folder / f"{case}{request.file_ending}").is_file()]
    if missing:
        raise TrainingError(
            f"{folder} lacks annotations that the final validation compares with.",
            found=f"no file for {listed(missing, _NUM_SHOWN)}",
            expected=f"one file ending in {request.file_ending} for each validation case",
            remedy="run nnUNetv2_preprocess again; it copies them, and keeps what is preprocessed already",
        )


def _failed(failures: Reasons, request: ValidationRequest) -> TrainingError:
    reasons = "\n  ".join(f"case {case}: {reason}" for case, reason in failures.items())
    return TrainingError(
        f"The final validation failed for {len(failures)} of {len(request.cases)} cases;"
        f" the others are in {request.output}.\n  {reasons}",
        remedy="solve this, then run the same command with  --val",
    )


class _Validation:
    """Predicts the cases of one process: reading ahead, predicting, and writing behind."""

    def __init__(
        self,
        network: nn.Module,
        request: ValidationRequest,
        cases: Sequence[str],
        device: torch.device,
        precision: Precision | None,
        on_step: Callable[[], None] | None,
        done: DoneCases,
    ) -> None:
        self._request = request
        self._done = done
        self._cases = cases
        self._configuration = request.configuration
        self._reader_writer = reader_writer_by_name(request.plans.image_reader_writer)
        self._source = PatchSource(
            request.data_folder or request.preprocessed / self._configuration.data_identifier,
            cases,
            previous_stage_folder=request.previous_stage_folder,
        )
        self._window = SlidingWindow(
            network,
            patch_size=self._configuration.patch_size,
            num_outputs=request.labels.num_segmentation_heads,
            device=device,
            mirror_axes=request.mirror_axes,
            precision=precision,
        )
        self._on_step = on_step
        cpus = available_cpus()
        self._num_exports = max(1, min(request.num_processes, cpus, _MAX_EXPORT_THREADS))
        self._threads = 1 if device.type == "cpu" else max(1, cpus // self._num_exports)

    def run(self, progress: bool) -> Reasons:
        """Predict everything; gives the reason for each case that failed."""
        failures: Reasons = {}
        with Progress(len(self._cases), "Validation", disable=not progress) as bar:

            def predict(case: str, loaded: tuple[Tensor, Properties]) -> tuple[Tensor, Properties]:
                image, properties = loaded
                report = tile_reporter(bar, case, on_step=self._on_step, interval_s=_NOTE_INTERVAL_S)
                return self._window.predict_logits(image, progress=report), properties

            outcomes = overlapped(
                self._cases,
                load=self._load,
                predict=predict,
                export=self._export,
                num_exporters=self._num_exports,
                on_wait=bar.refresh,
            )
            with contextlib.closing(outcomes):
                for case, error in outcomes:
                    bar.note("")
                    if error is not None:
                        failures[case] = self._fail(case, error)
                    bar.advance()
        return failures

    def _load(self, case: str) -> tuple[Tensor, Properties]:
        shape = self._source.shape(case)
        image, segmentations = self._source.read(case, (0,) * len(shape), shape)
        if self._source.previous_stage_folder is not None:
            previous = self._request.labels.one_hot(segmentations[1])
            image = torch.cat([image, previous.to(image.dtype)])
        return image, load_properties(self._source.folder / f"{case}.pkl")

    def _export(self, case: str, predicted: tuple[Tensor, Properties]) -> None:
        logits, properties = predicted
        request, scores = self._request, logits.numpy()
        export_prediction(
            scores,
            properties,
            plans=request.plans,
            configuration=self._configuration,
            labels=request.labels,
            reader_writer=self._reader_writer,
            output=request.output / case,
            file_ending=request.file_ending,
            save_probabilities=request.save_probabilities,
            threads=self._threads,
        )
        for name in self._configuration.next_stage:
            shape = self._shape_in(name, case)
            if shape is not None:
                export_for_next_stage(
                    scores,
                    shape,
                    properties,
                    plans=request.plans,
                    configuration=self._configuration,
                    labels=request.labels,
                    path=request.fold_folder.parent / NEXT_STAGE_FOLDER / name / f"{case}.b2nd",
                    threads=self._threads,
                )
        self._done.add(case)

    def _shape_in(self, name: str, case: str) -> tuple[int, ...] | None:
        """The extents of a case as it is preprocessed for the next stage; None if it is not."""
        try:
            folder = self._request.preprocessed / self._request.plans.configuration(name).data_identifier
            return PatchSource(folder, (case,)).shape(case)
        except StorageError as error:
            _log.warning("Case %s is not written for the next stage %s.\n%s", case, name, error)
            return None

    def _fail(self, case: str, error: Exception) -> str:
        """Tell the user, and remove what an earlier run has written for the case."""
        if isinstance(error, NnunetError):
            reason = error.text().replace("\n", "\n  ")
            _log.error("Case %s cannot be validated.\n%s", case, error)
        else:
            reason = f"{type(error).__name__}: {error}"
            _log.error("Case %s cannot be validated.", case, exc_info=error)
        for ending in (self._request.file_ending, ".npz", ".pkl"):
            with contextlib.suppress(OSError):
                (self._request.output / f"{case}{ending}").unlink()
        return reason
