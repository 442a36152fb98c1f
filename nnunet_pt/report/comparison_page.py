"""The report of several trainings side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from nnunet_pt.core.console import duration
from nnunet_pt.core.wording import counted
from nnunet_pt.report.comparison_figures import (
    colour_of,
    draw_cases,
    draw_curves,
    draw_differences,
    draw_pairs,
)
from nnunet_pt.report.comparison_record import (
    Compared,
    Pairing,
    mean_interval,
    pair_up,
    read_trainings,
    settings_of,
    validations,
)
from nnunet_pt.report.page import Cell, Section, details, figure, heading, legend, page, table, text, warning
from nnunet_pt.report.training_page import MAX_CLASS_COLUMNS, number_text, same_setting, setting_text

MAX_LISTED: Final = 6
MAX_SCATTERS: Final = 9


def comparison_report(fold_folders: Sequence[Path], names: Sequence[str] | None = None) -> str:
    """A self-contained HTML page that compares trainings; all are compared with the first one.

    Args:
        fold_folders: Folders of folds.
        names: What to call the trainings; by default what distinguishes their folders.

    Raises:
        UsageError: If they are less than two, if one of them does not hold a training, or if names do not fit.
    """
    trainings = read_trainings(fold_folders, names)
    pairing = pair_up(trainings)
    sections = [_overview(trainings, pairing)]
    if pairing is not None:
        sections += [_differences(pairing), _cases(pairing)]
    sections += _curves(trainings)
    sections.append(_settings(trainings))
    datasets = ", ".join(dict.fromkeys(t.record.dataset for t in trainings))
    return page(f"{len(trainings)} trainings compared", datasets, sections)


def _overview(trainings: Sequence[Compared], pairing: Pairing | None) -> Section:
    classes = _class_names(trainings)
    rows = [_result_row(t, classes) for t in trainings]
    header = ["training", "validation Dice", *classes, "cases", "best pseudo Dice", "epochs", "training time"]
    known = [(t.record.validation.dice, i) for i, t in enumerate(trainings) if t.record.validation is not None]
    same = pairing is not None and pairing.all_cases_common and len(known) == len(trainings)
    best = {max(known)[1]} if same and known else set()
    body = "".join(warning(w) for w in _warnings(trainings, pairing)) + table(rows, header, marked=best, decimals=4)
    if pairing is not None and not pairing.all_cases_common:
        means, by_class = np.nanmean(pairing.case_means(), axis=1), pairing.class_means()
        shown = pairing.class_names if len(pairing.class_names) <= MAX_CLASS_COLUMNS else ()
        common: list[list[Cell]] = [
            [name, float(means[i]), *(float(d) for d in by_class[i][: len(shown)])]
            for i, name in enumerate(pairing.names)
        ]
        body += heading(f"On the {len(pairing.cases)} cases that all of them have")
        body += table(common, ["training", "mean Dice", *shown], decimals=4)
    return Section("Overview", body, _lead(trainings, pairing))


def _lead(trainings: Sequence[Compared], pairing: Pairing | None) -> str:
    if pairing is None:
        return "No case was validated by all trainings, so only their curves and settings are compared."
    means = np.nanmean(pairing.case_means(), axis=1)
    best = int(np.argmax(means))
    others = "" if best == 0 else f", {means[best] - means[0]:.4f} more than “{pairing.names[0]}”"
    return (
        f"“{pairing.names[best]}” has the highest mean Dice on the {len(pairing.cases)} cases that "
        f"{'all' if len(pairing.names) == len(trainings) else 'the validated ones'} have in common: "
        f"{means[best]:.4f}{others}."
    )


def _class_names(trainings: Sequence[Compared]) -> list[str]:
    """The classes that get a column: those of all trainings unless they are too many."""
    found = dict.fromkeys(name for _, validation in validations(trainings) for name in validation.class_names)
    return list(found) if len(found) <= MAX_CLASS_COLUMNS else []


def _result_row(training: Compared, classes: Sequence[str]) -> list[Cell]:
    record = training.record
    history, validation = record.history, record.validation
    dice: dict[str, float] = {}
    if validation is not None:
        dice = dict(zip(validation.class_names, validation.class_dice, strict=True))
    seconds = history.total_seconds
    return [
        training.name,
        None if validation is None else validation.dice,
        *(dice.get(name) for name in classes),
        None if validation is None else len(validation.cases),
        history.best_ema,
        f"{len(history.epochs)} of {record.planned_epochs or '?'}" if history.epochs else None,
        None if math.isnan(seconds) else duration(seconds),
    ]


def _warnings(trainings: Sequence[Compared], pairing: Pairing | None) -> list[str]:
    found = []
    validated = validations(trainings)
    if pairing is not None and not pairing.all_cases_common:
        sizes = ", ".join(f"{name}: {len(validation.cases)}" for name, validation in validated)
        found.append(
            f"The trainings were not validated on the same cases ({sizes}; {len(pairing.cases)} in common), so their "
            "validation Dice cannot be compared. What follows is about the common cases only."
        )
    elif pairing is None and len(validated) > 1:
        found.append(
            "No cases and classes are common to the validations of all these trainings. Their validation Dice cannot "
            "be compared: differences between cases may well be larger than those between trainings. Compare fewer of "
            "them, or trainings of the same fold."
        )
    if pairing is not None and pairing.relabelled:
        found.append(
            f"The annotations of {_listed(pairing.relabelled)} are not the same in all validations: classes have other "
            "numbers of voxels. Validate the trainings again on the same annotations."
        )
    sets = {validation.class_names for _, validation in validated}
    if len(sets) > 1:
        found.append(f"The classes differ: {'; '.join(', '.join(names) for names in sorted(sets))}.")
    seen = [t.name for t in trainings if t.record.has_seen_validation_cases]
    if seen:
        found.append(
            f"{_listed(seen)}: trained with the fold “all”, that is on the cases of its validation. Its Dice is no "
            "measure of how good it is on cases that it has not seen."
        )
    waiting = [t.name for t in trainings if not t.record.finished and t.record.validation is None]
    if waiting:
        found.append(f"Not finished: {_listed(waiting)}.")
    gaps: dict[str, list[str]] = {}
    for training in trainings:
        for gap in training.record.gaps:
            gaps.setdefault(gap, []).append(training.name)
    return [*found, *(f"{_listed(names)}: {gap}" for gap, names in gaps.items())]


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {counted(rest, 'other')}" if rest > 0 else "")


def _differences(pairing: Pairing) -> Section:
    first, number = pairing.names[0], len(pairing.names)
    rows = [_difference_row(pairing, i) for i in range(1, number)]
    header = ["training", "mean difference", "95 % from", "to", "median", "better in", "worse in", "largest loss"]
    spread = "A dot for each case; boxes from the first to the third quartile with the median."
    about = f"Diamonds: mean difference from “{first}”; bars: its 95 % interval; dots: cases."
    body = figure(draw_cases(pairing), spread, f"Distribution of the Dice of {counted(len(pairing.cases), 'case')}")
    body += figure(draw_differences(pairing), about, f"Differences from “{first}” for each case")
    body += table(rows, header, decimals=4)
    body += text(
        "The interval is a bootstrap over the cases: how the mean difference would vary with other cases of the same "
        "kind. It says nothing about how trainings vary with their random seeds; for that, repeat them."
    )
    if number - 1 <= MAX_SCATTERS:
        body += figure(
            draw_pairs(pairing), "Cases above the dashed line are better than with the first training.",
            f"Dice of each case against that of {first}",
        )  # fmt: skip
    return Section("Differences", body, f"Mean Dice of each case, compared with “{first}”.")


def _difference_row(pairing: Pairing, index: int) -> list[Cell]:
    differences = pairing.differences(index)
    if not len(differences):
        return [pairing.names[index]]
    low, high = mean_interval(differences)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    median, lowest = float(np.median(differences)), float(differences.min())
    return [pairing.names[index], float(differences.mean()), low, high, median, better, worse, min(lowest, 0.0)]


def _cases(pairing: Pairing) -> Section:
    means = pairing.case_means()
    spread = np.nan_to_num(means[-1] - means[0] if len(means) == 2 else np.ptp(means, axis=0))
    order = np.argsort(-np.abs(spread), kind="stable")
    rows: list[list[Cell]] = [
        [pairing.cases[i], *(float(m) for m in means[:, i]), float(spread[i])] for i in order.tolist()
    ]
    last = "difference" if len(means) == 2 else "highest minus lowest"
    lead = "Mean Dice of the classes; the largest differences first, a click on a column title sorts by it."
    return Section("Cases", table(rows, ["case", *pairing.names, last], decimals=4), lead)


def _curves(trainings: Sequence[Compared]) -> list[Section]:
    if not any(t.record.history.epochs for t in trainings):
        return []
    names = legend((t.name, colour_of(i)) for i, t in enumerate(trainings))
    alt = "; ".join(f"{t.name}: best {number_text(t.record.history.best_ema or math.nan)}" for t in trainings)
    note = "" if len({t.record.fold for t in trainings}) == 1 else (
        "The folds differ, so the patches of the validation come from different cases."
    )  # fmt: skip
    return [Section("Curves", names + figure(draw_curves(trainings), note, f"Moving average of pseudo Dice: {alt}"))]


def _settings(trainings: Sequence[Compared]) -> Section:
    """Every setting that is not alike in all trainings, by topic."""
    all_settings = [settings_of(t.record) for t in trainings]
    body, same, different = "", 0, 0
    for topic in all_settings[0]:
        values = [settings[topic] for settings in all_settings]
        recorded = [v for v in values if v]
        names = list(dict.fromkeys(name for v in recorded for name in v))
        varying = [n for n in names if not all(_alike(recorded[0], other, n) for other in recorded[1:])]
        same, different = same + len(names) - len(varying), different + len(varying)
        if varying:
            rows: list[list[Cell]] = [[n, *(_setting(v, n) for v in values)] for n in varying]
            body += heading(topic) + table(rows, ["setting", *(t.name for t in trainings)], sortable=False)
        if len(recorded) < len(values):
            without = [t.name for t, v in zip(trainings, values, strict=True) if not v]
            body += text(f"{topic}: not recorded by {_listed(without)}.") if recorded else ""
    folders: list[list[Cell]] = [[t.name, str(t.record.folder)] for t in trainings]
    body += details("Folders", table(folders, ["training", "folder"]))
    return Section("What differs", body, f"{different} settings differ, {same} are the same.")


def _alike(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    return (name in one) == (name in other) and same_setting(_plain(one.get(name)), _plain(other.get(name)))


def _plain(value: object) -> object:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _setting(settings: dict[str, Any], name: str) -> str:
    shown = setting_text(settings.get(name))
    return shown.replace("/", "/\N{ZERO WIDTH SPACE}")  # long paths may be broken there
