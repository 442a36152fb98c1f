"""What an evaluation found: metrics of cases and their means, as ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_pt.core.files import write_json
from nnunet_pt.dataset.labels import LabelValue

FILE_NAME = "summary.json"

Metrics = Mapping[str, float]

NNUNET_METRICS = frozenset(("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMetrics:
    """The metrics of one case.

    Attributes:
        reference_file: The annotation.
        prediction_file: What was compared with it.
        metrics: Label or region -> name of the metric -> value; see :func:`~nnunet_pt.evaluation.counting.rates`.
        remarks: What is odd about the files. Not part of ``summary.json``.
    """

    reference_file: Path
    prediction_file: Path
    metrics: Mapping[LabelValue, Metrics]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Metrics of all cases and their means.

    Attributes:
        cases: Ordered by file name.
        mean: Label or region -> metric -> mean over the cases in which it is defined; NaN if there is none.
        foreground_mean: Metric -> mean over the labels except background. Of nnU-Net's metrics NaN if it is NaN for
            any of them; other metrics leave such labels out.
    """

    cases: tuple[CaseMetrics, ...]
    mean: Mapping[LabelValue, Metrics]
    foreground_mean: Metrics

    @classmethod
    def of(cls, cases: Sequence[CaseMetrics]) -> Summary:
        """Average over cases that all have the same labels."""
        mean: dict[LabelValue, Metrics] = {}
        for label, metrics in cases[0].metrics.items():
            mean[label] = {name: _mean_of_defined([c.metrics[label][name] for c in cases]) for name in metrics}
        foreground = [metrics for label, metrics in mean.items() if label != 0]
        names = next(iter(mean.values()), {})
        return cls(
            cases=tuple(cases),
            mean=mean,
            foreground_mean={
                n: (_mean if n in NNUNET_METRICS else _mean_of_defined)([m[n] for m in foreground]) for n in names
            },
        )

    @property
    def dice(self) -> float:
        """Mean Dice of the foreground."""
        return self.foreground_mean.get("Dice", math.nan)

    def to_json(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        return {
            "foreground_mean": dict(self.foreground_mean),
            "mean": _with_text_keys(self.mean),
            "metric_per_case": [
                {
                    "metrics": _with_text_keys(case.metrics),
                    "prediction_file": str(case.prediction_file),
                    "reference_file": str(case.reference_file),
                }
                for case in self.cases
            ],
        }

    def save(self, path: Path) -> None:
        """Write ``summary.json``."""
        write_json(path, self.to_json(), sort_keys=True)


def _with_text_keys(metrics: Mapping[LabelValue, Metrics]) -> dict[str, Metrics]:
    return {str(label): dict(values) for label, values in metrics.items()}


def _mean_of_defined(values: Sequence[float]) -> float:
    return math.nan if all(math.isnan(v) for v in values) else float(np.nanmean(values))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
