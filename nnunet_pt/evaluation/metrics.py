"""How well predicted segmentations agree with annotations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import NnunetError, PredictionError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.core.workers import CaseTask, map_cases
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation.summary import CaseMetrics, Summary

_PIECE = 1 << 15  # voxels counted at once: small enough for the cache
_BYTES_PER_VOXEL = 16
_MAX_NAMES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is compared.

    Attributes:
        labels_or_regions: Labels, or tuples of labels that are taken as one.
        ignore_label: Value of voxels in the reference that do not count.
        reader_name: Name of the reader for references and predictions.
        file_ending: Ending of the files, with the dot.
    """

    labels_or_regions: tuple[LabelValue, ...]
    ignore_label: int | None
    reader_name: str
    file_ending: str

    @classmethod
    def of(cls, labels: Labels, *, reader_name: str, file_ending: str) -> EvaluationSettings:
        """What a dataset is evaluated by: its regions, or its labels without background."""
        return cls(
            labels_or_regions=labels.regions if labels.has_regions else labels.foreground_labels,
            ignore_label=labels.ignore_label,
            reader_name=reader_name,
            file_ending=file_ending,
        )


def compute_metrics(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    labels_or_regions: Sequence[LabelValue],
    ignore_label: int | None = None,
) -> dict[LabelValue, dict[str, float]]:
    """Compare two segmentations of the same shape.

    All labels are counted in one pass, however many there are.

    Args:
        reference: The annotation.
        prediction: The segmentation to judge.
        labels_or_regions: Labels, or tuples of labels that are taken as one.
        ignore_label: Voxels with this value in the reference do not count at all.

    Returns:
        Label or region -> :func:`rates`.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"segmentations of the shapes {reference.shape} and {prediction.shape} cannot be compared")
    members = {label: _members(label) for label in labels_or_regions}
    ignored = set() if ignore_label is None else {ignore_label}
    values = sorted(ignored.union(*members.values()))
    table = _joint_counts(reference, prediction, values)
    if ignore_label is not None:
        table[values.index(ignore_label)] = 0
    total = int(table.sum())
    result: dict[LabelValue, dict[str, float]] = {}
    for label, group in members.items():
        rows = [values.index(v) for v in group]
        true_positive = int(table[np.ix_(rows, rows)].sum())
        in_reference, in_prediction = int(table[rows].sum()), int(table[:, rows].sum())
        result[label] = rates(true_positive, in_reference, in_prediction, total)
    return result


def rates(true_positive: int, in_reference: int, in_prediction: int, total: int) -> dict[str, float]:
    """nnU-Net's metrics from numbers of voxels.

    Args:
        true_positive: Voxels of the class in both segmentations.
        in_reference: Its voxels in the reference.
        in_prediction: Its voxels in the prediction.
        total: All voxels that count.

    Returns:
        Dice = 2 TP / (2 TP + FP + FN) and IoU = TP / (TP + FP + FN), NaN if the class is in neither segmentation;
        FN, FP, TN, TP, n_pred and n_ref in voxels.
    """
    union = in_reference + in_prediction - true_positive
    return {
        "Dice": 2 * true_positive / (in_reference + in_prediction) if union else math.nan,
        "FN": in_reference - true_positive,
        "FP": in_prediction - true_positive,
        "IoU": true_positive / union if union else math.nan,
        "TN": total - union,
        "TP": true_positive,
        "n_pred": in_prediction,
        "n_ref": in_reference,
    }


def _members(label: LabelValue) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else tuple(sorted(set(label)))


def _joint_counts(reference: NDArray[Any], prediction: NDArray[Any], values: Sequence[int]) -> NDArray[np.int64]:
    """How many voxels have value i in the reference (rows) and j in the prediction; the last of each are all others."""
    number = len(values)
    codes = np.full(max(values, default=0) + 2, number, np.intp)
    codes[list(values)] = range(number)
    counts = np.zeros((number + 1) ** 2, np.int64)
    for first, second in zip(_pieces(reference), _pieces(prediction), strict=True):
        if not (first.any() or second.any()):  # most of most images
            counts[codes[0] * (number + 2)] += len(first)
            continue
        joint = _encode(first, codes) * (number + 1) + _encode(second, codes)
        counts += np.bincount(joint, minlength=len(counts))
    return counts.reshape(number + 1, number + 1)


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE]


def _encode(piece: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Position of each value in the table of counts; the last entry of ``codes`` is for everything unknown."""
    with np.errstate(invalid="ignore"):
        integers = piece.astype(np.intp)
    last = len(codes) - 1
    unknown = (integers < 0) | (integers > last)
    if piece.dtype.kind == "f":
        unknown |= integers != piece
    if unknown.any():
        integers[unknown] = last
    return codes.take(integers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    reference: Path
    prediction: Path
    settings: EvaluationSettings


def evaluate_files(reference: Path, prediction: Path, settings: EvaluationSettings) -> CaseMetrics:
    """Compare two segmentation files.

    Raises:
        ImageError: If one of them cannot be read.
        PredictionError: If their shapes differ.
    """
    reader = reader_writer_by_name(settings.reader_name)
    expected, _ = reader.read_segmentation(reference)
    found, _ = reader.read_segmentation(prediction)
    if expected.shape != found.shape:
        raise PredictionError(
            f"The segmentation {prediction} does not have the shape of its reference.",
            found=found.shape[1:],
            expected=f"{expected.shape[1:]}, as {reference}",
            remedy="predict the case again, or correct the reference",
        )
    metrics = compute_metrics(expected, found, settings.labels_or_regions, settings.ignore_label)
    return CaseMetrics(reference_file=reference, prediction_file=prediction, metrics=metrics)


def _evaluate_pair(pair: _Pair) -> CaseMetrics:
    return evaluate_files(pair.reference, pair.prediction, pair.settings)


def evaluate_folder(
    reference_folder: Path,
    prediction_folder: Path,
    settings: EvaluationSettings,
    *,
    cases: Collection[str] | None = None,
    chill: bool = False,
    num_processes: int = 0,
    progress: bool = True,
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

    Raises:
        PredictionError: If there is no prediction, or predictions or references are missing; all are named.
        NnunetError: If a file cannot be read.
    """
    predictions = _segmentations(prediction_folder, settings.file_ending)
    references = _segmentations(reference_folder, settings.file_ending)
    if cases is not None:
        names = {f"{case}{settings.file_ending}" for case in cases}
        predictions, references = predictions & names, references & names
        missing = names - predictions
    else:
        missing = set() if chill else references - predictions
    _require_pairs(predictions, predictions - references, missing, reference_folder, prediction_folder, settings)
    tasks = []
    for name in sorted(predictions):
        pair = _Pair(reference=reference_folder / name, prediction=prediction_folder / name, settings=settings)
        tasks.append(
            CaseTask(case=name.removesuffix(settings.file_ending), argument=pair, ram_bytes=_estimate_ram(pair))
        )
    outcome = map_cases(_evaluate_pair, tasks, num_workers=num_processes, description="Evaluating", progress=progress)
    return Summary.of(list(outcome.results.values()))


def _segmentations(folder: Path, file_ending: str) -> set[str]:
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
        findings.append(f"no reference in {reference_folder} for {_listed(without_reference)}")
    if without_prediction:
        findings.append(f"no prediction for {_listed(without_prediction)}")
    if not predictions and not without_prediction:
        findings.append(f"no file that ends with {settings.file_ending}")
    if findings:
        raise PredictionError(
            f"The predictions in {prediction_folder} cannot be evaluated.",
            found="; ".join(findings),
            expected="files of the same names in both folders",
            remedy="complete the folders, or allow references without a prediction with  --chill",
        )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else shown


def _estimate_ram(pair: _Pair) -> int:
    """Bytes that a comparison needs; 0 for a file that the comparison itself will complain about."""
    try:
        header = reader_writer_by_name(pair.settings.reader_name).read_header(pair.reference)
    except NnunetError:
        return 0
    return header.num_voxels * _BYTES_PER_VOXEL
