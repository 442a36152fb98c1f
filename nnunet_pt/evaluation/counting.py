"""Voxels that two segmentations have in common, and the metrics that follow from their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.dataset.labels import LabelValue

_PIECE = 1 << 15  # voxels counted at once: small enough for the cache


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
    return JointCounts.of(reference, prediction, labels_or_regions, ignore_label).metrics(labels_or_regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCounts:
    """How often each pair of label values meets in two segmentations.

    Attributes:
        values: The label values that are told apart, ascending; background, classes and the ignore label.
        ignore_label: Voxels with this value in the reference do not count.
        table: Row i, column j: voxels with value i in the reference and j in the prediction. The last row and
            column are for every other value.
    """

    values: tuple[int, ...]
    ignore_label: int | None
    table: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        reference: NDArray[Any],
        prediction: NDArray[Any],
        labels_or_regions: Sequence[LabelValue],
        ignore_label: int | None = None,
    ) -> JointCounts:
        """Count in one pass; see :func:`compute_metrics`."""
        if reference.shape != prediction.shape:
            raise ValueError(f"segmentations of the shapes {reference.shape} and {prediction.shape} cannot be compared")
        special = {0} if ignore_label is None else {0, ignore_label}
        values = tuple(sorted(special.union(*map(members, labels_or_regions))))
        return cls(values=values, ignore_label=ignore_label, table=_joint_table(reference, prediction, values))

    @property
    def others(self) -> tuple[int, int]:
        """Voxels of reference and prediction whose value is none of :attr:`values`."""
        return int(self.table[-1].sum()), int(self.table[:, -1].sum())

    def metrics(self, labels_or_regions: Sequence[LabelValue]) -> dict[LabelValue, dict[str, float]]:
        """Label or region -> :func:`rates`."""
        table = self.table.copy()
        if self.ignore_label is not None:
            table[self.values.index(self.ignore_label)] = 0
        total = int(table.sum())
        result: dict[LabelValue, dict[str, float]] = {}
        for label in labels_or_regions:
            rows = [self.values.index(v) for v in members(label)]
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


def members(label: LabelValue) -> tuple[int, ...]:
    """The values that a label or region unites, ascending."""
    return (label,) if isinstance(label, int) else tuple(sorted(set(label)))


def label_codes(segmentation: NDArray[Any], values: Sequence[int]) -> NDArray[np.uint16]:
    """A segmentation of any data type in small whole numbers: 1 for the first of ``values``..., 0 for all others."""
    table = _code_table(values, range(1, len(values) + 1), 0)
    result = np.empty(segmentation.size, np.uint16)
    for start, piece in zip(range(0, result.size, _PIECE), _pieces(segmentation), strict=True):
        result[start : start + _PIECE] = _encode(piece, table)
    return result.reshape(segmentation.shape)


def _joint_table(reference: NDArray[Any], prediction: NDArray[Any], values: Sequence[int]) -> NDArray[np.int64]:
    number = len(values)
    codes = _code_table(values, range(number), number)
    counts = np.zeros((number + 1) ** 2, np.int64)
    for first, second in zip(_pieces(reference), _pieces(prediction), strict=True):
        if not (first.any() or second.any()):  # most of most images
            counts[codes[0] * (number + 2)] += len(first)
            continue
        joint = _encode(first, codes) * (number + 1) + _encode(second, codes)
        counts += np.bincount(joint, minlength=len(counts))
    return counts.reshape(number + 1, number + 1)


def _code_table(values: Sequence[int], codes: Sequence[int], others: int) -> NDArray[np.intp]:
    """Code of each value; the last entry is for everything unknown."""
    table = np.full(max(values, default=0) + 2, others, np.intp)
    table[list(values)] = codes
    return table


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE]


def _encode(piece: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """The code of each voxel; see :func:`_code_table`."""
    with np.errstate(invalid="ignore"):
        integers = piece.astype(np.intp)
    last = len(codes) - 1
    unknown = (integers < 0) | (integers > last)
    if piece.dtype.kind == "f":
        unknown |= integers != piece
    if unknown.any():
        integers[unknown] = last
    return codes.take(integers)
