"""How well predicted segmentations agree with annotations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, PredictionError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.core.wording import counted
from nnunet_pt.core.workers import CaseTask, Executor, map_cases
from nnunet_pt.dataset.cases import listed, shortened
from nnunet_pt.dataset.images.base import FloatImage, Properties, rounded
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation.counting import JointCounts, compute_metrics, rates
from nnunet_pt.evaluation.summary import CaseMetrics, Summary
from nnunet_pt.evaluation.surface import surface_metrics

__all__ = ["EvaluationSettings", "compute_metrics", "evaluate_files", "evaluate_folder", "rates"]

_BYTES_PER_VOXEL = 16
_BYTES_PER_VOXEL_SURFACE = 8  # in addition, if surfaces are compared
_MAX_VALUES = 10
_SAME_PLACE = 1e-2  # of a voxel: headers round

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is compared.

    Attributes:
        labels_or_regions: Labels, or tuples of labels that are taken as one.
        ignore_label: Value of voxels in the reference that do not count.
        reader_name: Name of the reader for references and predictions.
        file_ending: Ending of the files, with the dot.
        all_labels_known: Every value there may be is named here, so that others are worth a warning.
        nsd_tolerances_mm: Compare surfaces, too, see :mod:`nnunet_pt.evaluation.surface`: tolerances of the normalised
            surface Dice. By default they are not compared.
    """

    labels_or_regions: tuple[LabelValue, ...]
    ignore_label: int | None
    reader_name: str
    file_ending: str
    all_labels_known: bool = False
    nsd_tolerances_mm: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, labels: Labels, *, reader_name: str, file_ending: str, nsd_tolerances_mm: tuple[float, ...] = ()
    ) -> EvaluationSettings:
        """What a dataset is evaluated by: its regions, or its labels without background."""
        return cls(
            labels_or_regions=labels.regions if labels.has_regions else labels.foreground_labels,
            ignore_label=labels.ignore_label,
            reader_name=reader_name,
            file_ending=file_ending,
            all_labels_known=True,
            nsd_tolerances_mm=nsd_tolerances_mm,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is compared, and how."""

    reference: Path
    prediction: Path
    settings: EvaluationSettings

    @property
    def case(self) -> str:
        """Identifier of the case."""
        return self.prediction.name.removesuffix(self.settings.file_ending)


def evaluate_files(reference: Path, prediction: Path, settings: EvaluationSettings) -> CaseMetrics:
    """Compare two segmentation files.

    Raises:
        ImageError: If one of them cannot be read; if both, the text is about both.
        PredictionError: If their shapes differ.
    """
    return _evaluate(Pair(reference=reference, prediction=prediction, settings=settings))


def _evaluate(pair: Pair) -> CaseMetrics:
    reference, prediction, settings = pair.reference, pair.prediction, pair.settings
    (expected, place), (found, other_place) = _read_both(pair)
    if expected.shape != found.shape:
        raise PredictionError(
            f"The segmentation {prediction} does not have the shape of its reference.",
            found=found.shape[1:],
            expected=f"{expected.shape[1:]}, as {reference}",
            remedy="predict the case again, or correct the reference",
        )
    classes, ignored = settings.labels_or_regions, settings.ignore_label
    counts = JointCounts.of(expected, found, classes, ignored)
    metrics = counts.metrics(classes)
    if settings.nsd_tolerances_mm:
        surfaces = surface_metrics(
            expected[0],
            found[0],
            classes,
            place["spacing"],
            tolerances_mm=settings.nsd_tolerances_mm,
            ignore_label=ignored,
        )
        metrics = {label: {**metrics[label], **surfaces[label]} for label in classes}
    remarks = [f"{prediction}: {difference} in {reference}" for difference in _differences(place, other_place)]
    if settings.all_labels_known:
        for path, image, number in zip((reference, prediction), (expected, found), counts.others, strict=True):
            remarks += [f"{path}: {_odd_values(image, counts.values)} in {counted(number, 'voxel')}"] if number else []
    return CaseMetrics(reference_file=reference, prediction_file=prediction, metrics=metrics, remarks=tuple(remarks))


def _read_both(pair: Pair) -> list[tuple[FloatImage, Properties]]:
    reader = reader_writer_by_name(pair.settings.reader_name)
    images, errors = [], []
    for path in (pair.reference, pair.prediction):
        try:
            images.append(reader.read_segmentation(path))
        except NnunetError as error:
            errors.append(error)
    if errors:
        raise _combined(errors, "Both files of a case cannot be read.")
    return images


def _differences(expected: Properties, found: Properties) -> Iterator[str]:
    """In what the geometry of two files differs by more than rounding."""
    here, there = _geometry(found), _geometry(expected)
    tolerance = _SAME_PLACE * min(there["spacing"])
    for name in [name for name in here if name in there]:
        if here[name].shape != there[name].shape or not np.allclose(here[name], there[name], 1e-4, tolerance):
            yield f"the {name} is {rounded(here[name])}, but {rounded(there[name])}"


def _geometry(properties: Properties) -> dict[str, Any]:
    """Spacing, and what else the reader knows of where the voxels are."""
    parts = [part for part in properties.values() if isinstance(part, Mapping)]
    names = {"origin": "origin", "direction": "direction", "original_affine": "affine", "reoriented_affine": "affine"}
    found = {names[key]: np.asarray(value) for part in parts for key, value in part.items() if key in names}
    return {"spacing": np.asarray(properties["spacing"]), **found}


def _odd_values(image: FloatImage, known: Sequence[int]) -> str:
    odd = np.setdiff1d(image, np.asarray(known, image.dtype))
    more = "..." if len(odd) > _MAX_VALUES else ""
    return f"values that are no labels: {', '.join(f'{v:g}' for v in odd[:_MAX_VALUES])}{more}"


def _evaluate_pair(pair: Pair) -> CaseMetrics | NnunetError:
    try:
        return _evaluate(pair)
    except NnunetError as error:  # all of them are reported together
        return error


def evaluate_folder(
    reference_folder: Path,
    prediction_folder: Path,
    settings: EvaluationSettings,
    *,
    cases: Collection[str] | None = None,
    chill: bool = False,
    num_processes: int = 0,
    progress: bool = True,
    executor: Executor | None = None,
) -> Summary:
    """Compare all segmentations of a folder with the references of the same names.

    Args:
        reference_folder: Holds the annotations.
        prediction_folder: Holds the segmentations.
        settings: What is compared.
        cases: Only these; by default every file with the right ending.
        chill: Accept references without a prediction.
        num_processes: Worker processes; 0 works in this process.
        progress: Show the progress.
        executor: Where the cases are compared instead of in processes of this machine.

    Raises:
        PredictionError: If there is no prediction, or predictions or references are missing; all are named.
        NnunetError: If files cannot be read or do not fit together; all are named.
    """
    pairs = find_pairs(reference_folder, prediction_folder, settings, cases=cases, chill=chill)
    return Summary.of(compare_pairs(pairs, num_processes=num_processes, progress=progress, executor=executor))


def find_pairs(
    reference_folder: Path,
    prediction_folder: Path,
    settings: EvaluationSettings,
    *,
    cases: Collection[str] | None = None,
    chill: bool = False,
) -> list[Pair]:
    """What is to be compared, sorted by name; see :func:`evaluate_folder`."""
    predictions = segmentations(prediction_folder, settings.file_ending)
    references = segmentations(reference_folder, settings.file_ending)
    if cases is not None:
        names = {f"{case}{settings.file_ending}" for case in cases}
        predictions, references = predictions & names, references & names
        missing = names - predictions
    else:
        missing = set() if chill else references - predictions
    _require_pairs(predictions, predictions - references, missing, reference_folder, prediction_folder, settings)
    return [
        Pair(reference=reference_folder / name, prediction=prediction_folder / name, settings=settings)
        for name in sorted(predictions)
    ]


def compare_pairs(
    pairs: Sequence[Pair],
    *,
    num_processes: int = 0,
    progress: bool = True,
    on_result: Callable[[str, CaseMetrics], None] | None = None,
    executor: Executor | None = None,
) -> list[CaseMetrics]:
    """Compare segmentations with their references; see :func:`evaluate_folder`.

    Args:
        pairs: What is to be compared.
        num_processes: Worker processes; 0 works in this process.
        progress: Show the progress.
        on_result: Called in this process with the name of each case and its metrics.
        executor: Where the cases are compared instead of in processes of this machine.
    """

    def pass_on(case: str, result: CaseMetrics | NnunetError) -> None:
        if on_result is not None and isinstance(result, CaseMetrics):
            on_result(case, result)

    tasks = [CaseTask(case=pair.case, argument=pair, ram_bytes=_estimate_ram(pair)) for pair in pairs]
    outcome = map_cases(
        _evaluate_pair,
        tasks,
        num_workers=num_processes,
        description="Evaluating",
        progress=progress,
        executor=executor,
        on_result=pass_on,
    )
    errors = [r for r in outcome.results.values() if isinstance(r, NnunetError)]
    if errors:
        raise _combined(errors, f"{len(errors)} of {len(tasks)} cases cannot be evaluated.")
    done = [r for r in outcome.results.values() if isinstance(r, CaseMetrics)]
    if remarks := [f"  - {remark}" for case in done for remark in case.remarks]:
        _log.warning("These files were compared voxel by voxel all the same:\n%s", shortened(remarks))
    return done


def _combined(errors: Sequence[NnunetError], heading: str) -> NnunetError:
    """One error for all; of their class if they agree."""
    if len(errors) == 1:
        return errors[0]
    kinds = {type(e) for e in errors}
    kind = kinds.pop() if len(kinds) == 1 else PredictionError
    return kind("\n  ".join([heading, *(f"- {e.text()}".replace("\n", "\n    ") for e in errors)]))


def segmentations(folder: Path, file_ending: str) -> set[str]:
    """Names of the files of a folder that have the right ending."""
    with storage_errors(folder):
        return {p.name for p in folder.iterdir() if p.name.endswith(file_ending) and not p.name.startswith(".")}


def _require_pairs(
    predictions: Collection[str],
    without_reference: Collection[str],
    without_prediction: Collection[str],
    reference_folder: Path,
    prediction_folder: Path,
    settings: EvaluationSettings,
) -> None:
    findings = []
    if without_reference:
        findings.append(f"no reference in {reference_folder} for {listed(sorted(without_reference))}")
    if without_prediction:
        findings.append(f"no prediction for {listed(sorted(without_prediction))}")
    if not predictions and not without_prediction:
        findings.append(f"no file that ends with {settings.file_ending}")
    if findings:
        raise PredictionError(
            f"The predictions in {prediction_folder} cannot be evaluated.",
            found="; ".join(findings),
            expected="files of the same names in both folders",
            remedy="complete the folders, or allow references without a prediction with  --chill",
        )


def _estimate_ram(pair: Pair) -> int:
    """Bytes that a comparison needs; 0 for a file that the comparison itself will complain about."""
    try:
        header = reader_writer_by_name(pair.settings.reader_name).read_header(pair.reference)
    except NnunetError:
        return 0
    surfaces = _BYTES_PER_VOXEL_SURFACE if pair.settings.nsd_tolerances_mm else 0
    return header.num_voxels * (_BYTES_PER_VOXEL + surfaces)
