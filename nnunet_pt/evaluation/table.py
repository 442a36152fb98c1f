"""An evaluation as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_pt.core.console import table
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation.summary import NNUNET_METRICS, Summary

_NONE = "-"


def class_names(labels: Labels) -> dict[LabelValue, str]:
    """The name of each label or region that a dataset is evaluated by."""
    values = labels.regions if labels.has_regions else labels.foreground_labels
    return dict(zip(values, labels.class_names, strict=True))


def summary_table(summary: Summary, names: Mapping[LabelValue, str] | None = None) -> str:
    """One row for each class and one for their mean, with a note on what the numbers leave out.

    Args:
        summary: The evaluation.
        names: Names of the classes, as far as they are known.
    """
    extra = [name for name in summary.foreground_mean if name not in NNUNET_METRICS]
    header = ["class", "label", "cases", "Dice", "lowest Dice", "IoU", *map(_title, extra)]
    rows = [_row(summary, label, (names or {}).get(label, ""), extra) for label in summary.mean]
    if len(rows) > 1:
        means = summary.foreground_mean
        rows.append(["mean", "", "", _share(means["Dice"]), "", _share(means["IoU"]), *_extra_cells(means, extra)])
    if not names:
        header, rows = header[1:], [[*(row[1:2] if row[1] else row[:1]), *row[2:]] for row in rows]
    return "\n".join([table(rows, header), *_notes(summary, extra)])


def _row(summary: Summary, label: LabelValue, name: str, extra: Sequence[str]) -> list[str]:
    dice = {c.prediction_file.name: c.metrics[label]["Dice"] for c in summary.cases}
    defined = {case: value for case, value in dice.items() if not math.isnan(value)}
    means = summary.mean[label]
    value = str(label) if isinstance(label, int) else "+".join(map(str, label))
    if not defined:
        return [name, value, "0", _NONE, _NONE, _NONE, *_extra_cells(means, extra)]
    worst = min(defined, key=lambda case: defined[case])
    spread = f" ± {np.std(list(defined.values())):.3f}" if len(defined) > 1 else ""
    lowest = f"{_share(defined[worst])}  {worst.split('.')[0]}"
    iou = _share(means["IoU"])
    return [name, value, str(len(defined)), _share(means["Dice"]) + spread, lowest, iou, *_extra_cells(means, extra)]


def _extra_cells(means: Mapping[str, float], extra: Sequence[str]) -> list[str]:
    return [_distance(means[name]) if name.startswith("HD") else _share(means[name]) for name in extra]


def _title(metric: str) -> str:
    """``HD95_mm`` -> HD95 [mm], ``NSD_1mm`` -> NSD 1 mm."""
    name, _, unit = metric.partition("_")
    return f"{name} [mm]" if unit == "mm" else f"{name} {unit.removesuffix('mm')} mm"


def _share(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _distance(value_mm: float) -> str:
    return _NONE if math.isnan(value_mm) else f"{value_mm:6.2f}"


def _notes(summary: Summary, extra: Sequence[str]) -> list[str]:
    """What a reader of the means has to know."""
    notes = []
    never = [str(label) for label, means in summary.mean.items() if math.isnan(means["Dice"])]
    if never:
        notes.append(
            f"Neither annotated nor predicted in any case: {', '.join(never)}. nnU-Net's mean over classes is not "
            "defined then."
        )
    missed = sum(
        case.metrics[label]["Dice"] == 0 and not all(case.metrics[label][n] for n in ("n_ref", "n_pred"))
        for case in summary.cases
        for label in summary.mean
    )
    if any(name.startswith("HD") for name in extra) and missed:
        notes.append(
            f"In {counted(missed, 'comparison')} a class is only in one of the two segmentations: they count as 0 for "
            "Dice, IoU and NSD, and are left out of HD95."
        )
    return notes
