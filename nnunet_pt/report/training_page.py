"""The report of one training: how it went, how good it is, where it fails, and what it was made of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from nnunet_pt.core.console import duration
from nnunet_pt.core.wording import counted
from nnunet_pt.report.page import (
    Cell,
    Section,
    details,
    facts,
    figure,
    heading,
    legend,
    page,
    picture,
    sizes,
    table,
    text,
    warning,
)
from nnunet_pt.report.training_cases import CaseImages, slices_of
from nnunet_pt.report.training_figures import (
    MAX_BOXES,
    MAX_NAMED_CLASSES,
    draw_classes,
    draw_losses,
    draw_pace,
    draw_transfer,
    draw_validation,
    epochs_per_point,
    phase_starts,
    transfer_legend,
)
from nnunet_pt.report.training_overlays import draw_slice, outlines_of
from nnunet_pt.report.training_record import TrainingRecord, read_training
from nnunet_pt.report.training_transfer import Transfer
from nnunet_pt.report.training_validation import ValidatedCase, Validation
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.transfer.account import ACTIONS, percent

NUM_WORST: Final = 4
MAX_CLASS_COLUMNS: Final = 10
SLOW_DATA_SHARE: Final = 0.15


def training_report(fold_folder: Path, *, preprocessed: Path | None = None, raw: Path | None = None) -> str:
    """A self-contained HTML page about a training, also one that is still running or that nnU-Net has done.

    Args:
        fold_folder: Folder of the fold.
        preprocessed: nnUNet_preprocessed or the dataset's folder in it, for the images of validation cases; by
            default where the training had its data.
        raw: nnUNet_raw or the dataset's folder in it; if given, images are taken from there.

    Raises:
        UsageError: If the folder is not that of a fold.
    """
    record = read_training(fold_folder)
    sections = [_overview(record), *_curves(record)]
    if record.validation is not None and record.validation.cases:
        sections += [_quality(record.validation), _cases(record.validation)]
        sections += _pictures(record, record.validation, CaseImages.find(record, preprocessed, raw))
    sections += [_transfer(record.transfer)] if record.transfer is not None else []
    sections += _recipe(record)
    return page(record.title, f"{record.dataset}, plans {record.plans_name}: {record.folder}", sections)


def _overview(record: TrainingRecord) -> Section:
    warnings = "".join(warning(text) for text in (*_findings(record), *record.gaps))
    return Section("Overview", facts(key_facts(record)) + warnings, _lead(record))


def _lead(record: TrainingRecord) -> str:
    done, planned = len(record.history.epochs), record.planned_epochs
    epochs = counted(done, "epoch") if planned is None else f"{done} of {counted(planned, 'epoch')}"
    sentence = f"{epochs} {'is' if done == 1 else 'are'} done"
    if record.finished:
        sentence = "The only epoch is done" if done == 1 else f"All {done} epochs are done"
    if not done:
        sentence = "Nothing is known about the epochs"
    if record.validation is None:
        return f"{sentence}; there is no final validation{'' if record.finished else ' yet'}."
    number = len(record.validation.cases)
    dice = number_text(record.validation.dice)
    return f"{sentence}; the mean Dice of {counted(number, 'validation case')}, predicted as a whole, is {dice}."


def key_facts(record: TrainingRecord) -> dict[str, str]:
    """The figures that one looks for first, as texts."""
    history, validation, debug = record.history, record.validation, record.debug
    done = len(history.epochs)
    seconds = [f.seconds for f in history.epochs if math.isfinite(f.seconds)]
    memory = [f.peak_memory_gb for f in history.epochs if math.isfinite(f.peak_memory_gb)]
    waited = history.data_wait_share
    found = {
        "Validation Dice": "" if validation is None else number_text(validation.dice),
        "Best pseudo Dice": "" if history.best_ema is None else number_text(history.best_ema),
        "Epochs": f"{done} of {record.planned_epochs}" if record.planned_epochs else str(done) if done else "",
        "Training time": duration(history.total_seconds) if seconds else "",
        "Median epoch": f"{statistics.median(seconds):.3g} s" if seconds else "",
        "Waiting for data": percent(waited) if math.isfinite(waited) else "",
        "Peak memory": f"{max(memory):.3g} GiB" if memory else "",
        "Device": debug.get("gpu_name") or debug.get("device", ""),
        "Precision": debug.get("precision", ""),
        "Transferred weights": "" if record.transfer is None else percent(record.transfer.share),
    }
    return {name: value for name, value in found.items() if value}


def number_text(value: float) -> str:
    """A Dice with four digits; a dash if there is none."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4f}"


def _findings(record: TrainingRecord) -> list[str]:
    """What the reader should know before anything else."""
    findings = []
    if record.has_seen_validation_cases:
        findings.append(
            "This is the fold “all”: the network was trained on the cases that it is validated on. Its Dice says that "
            "the training went well, not how good the network is on cases that it has not seen."
        )
    share = record.history.data_wait_share
    if share > SLOW_DATA_SHARE:
        findings.append(
            f"Training waited for data during {percent(share)} of the time. More processes for augmentation "
            "(export nnUNet_n_proc_DA=N), a faster disk for nnUNet_preprocessed or augmentation on the GPU would help."
        )
    if skipped := sum(f.skipped_steps for f in record.history.epochs):
        findings.append(f"{skipped} steps were left out because the loss or the gradients were not finite.")
    return findings


def _curves(record: TrainingRecord) -> list[Section]:
    epochs = record.history.epochs
    if not epochs:
        return []
    last = epochs[-1]
    phases = ""
    if phase_starts(record.recipe, len(epochs)):
        phases = "Dotted lines: layers that were fixed begin to be trained, or the learning rate has risen."
    parts = [
        figure(
            draw_losses(record),
            "Pseudo Dice is that of random patches of the validation cases, a quick estimate during training; its "
            f"moving average decides which checkpoint is the best. {phases}",
            f"Losses after {counted(len(epochs), 'epoch')}: training {last.train_loss:.3f}, "
            f"validation {last.val_loss:.3f}; moving average of the pseudo Dice {last.ema_fg_dice:.3f}",
        )
    ]
    if len(record.class_names) > 1:
        each = epochs_per_point(record)
        note = f"Each point is the mean of {each} epochs. " if each > 1 else ""
        if len(record.class_names) > MAX_NAMED_CLASSES:
            note += "Those that are lowest at the end are named, the others grey."
        parts.append(figure(draw_classes(record), note, "Pseudo Dice of each class over the epochs"))
    parts.append(
        figure(draw_pace(record), "", f"Learning rate, now {last.lr:.3g}, and duration of each epoch in seconds")
    )
    lead = f"From {' and '.join(record.history.sources)}."
    return [Section("Curves", "".join(parts), lead)]


def _quality(validation: Validation) -> Section:
    dice = validation.dice_of_cases()
    rows = [_class_row(i, validation, dice[:, i]) for i in range(len(validation.class_names))]
    header = ["class", "mean Dice", "standard deviation", "median", "lowest", "highest", "cases", "missed", "invented"]
    number = len(validation.class_names)
    plot = figure(
        draw_validation(validation),
        "A dot for each case; boxes from the first to the third quartile with the median."
        + (f" The {MAX_BOXES} classes with the lowest median of {number}." if number > MAX_BOXES else ""),
        f"Distribution of the Dice of {counted(len(validation.cases), 'case')} for {counted(number, 'class')}",
    )
    explanation = text(
        "“Cases” are those with a Dice for the class: it is annotated or predicted. “Missed”: annotated, and "
        "nothing of it was found. “Invented”: predicted, but not annotated at all."
    )
    lead = f"{counted(len(validation.cases), 'whole case')}, predicted by the trained network."
    return Section("Validation", plot + table(rows, header, decimals=4) + explanation, lead)


def _class_row(index: int, validation: Validation, dice: Any) -> list[Cell]:
    known = dice[np.isfinite(dice)]
    pairs = [(c.reference_voxels[index], c.predicted_voxels[index], c.dice[index]) for c in validation.cases]
    missed = sum(truth > 0 and value == 0 for truth, _, value in pairs)
    invented = sum(truth == 0 and predicted > 0 for truth, predicted, _ in pairs)
    figures: list[Cell] = [None] * 4
    if len(known):
        spread = float(known.std(ddof=1)) if len(known) > 1 else None
        figures = [spread, float(np.median(known)), float(known.min()), float(known.max())]
    return [validation.class_names[index], validation.class_dice[index], *figures, len(known), missed, invented]


def _cases(validation: Validation) -> Section:
    ranked = [*validation.worst_first()]
    ranked += [c for c in validation.cases if math.isnan(c.mean_dice)]
    many = len(validation.class_names) > MAX_CLASS_COLUMNS
    names = ["lowest class", "its Dice"] if many else list(validation.class_names)
    rows = [[c.case, c.mean_dice, *(_lowest(c, validation) if many else c.dice), *_volumes(c)] for c in ranked]
    header = ["case", "mean Dice", *names, "annotated voxels", "predicted voxels"]
    return Section("Cases", table(rows, header, decimals=4), "The lowest first; a click on a column title sorts by it.")


def _lowest(case: ValidatedCase, validation: Validation) -> list[Cell]:
    known = [(dice, name) for dice, name in zip(case.dice, validation.class_names, strict=True) if not math.isnan(dice)]
    return [min(known)[1], min(known)[0]] if known else [None, None]


def _volumes(case: ValidatedCase) -> list[Cell]:
    sums = (sum(case.reference_voxels), sum(case.predicted_voxels))
    return [None if math.isnan(s) else round(s) for s in sums]


def _pictures(record: TrainingRecord, validation: Validation, images: CaseImages) -> list[Section]:
    ranked = validation.worst_first()
    chosen = list(ranked[:NUM_WORST])
    remarks = {case.case: f"number {i + 1} from below" for i, case in enumerate(chosen)}
    if len(ranked) >= 2 * NUM_WORST:
        for case, remark in ((ranked[len(ranked) // 2], "for comparison: an average case"), (ranked[-1], "the best")):
            chosen.append(case)
            remarks[case.case] = remark
    slices, problems = slices_of(images, chosen)
    present = {int(v) for s in slices.values() for labels in (s.annotation, s.prediction) for v in np.unique(labels)}
    outlines = outlines_of(record.labels, present)
    channels = [] if record.plans is None else [c.channel for c in slices.values()]
    parts = [legend((o.name, o.colour) for o in outlines)] if slices else []
    for case in chosen:
        if case.case not in slices:
            continue
        shown = slices[case.case]
        where = f"slice {shown.index + 1} of {shown.number}" + (f", channel {shown.channel}" if any(channels) else "")
        caption = f"{case.case}: Dice {number_text(case.mean_dice)} ({remarks[case.case]}); {where}"
        each = ", ".join(f"{n} {number_text(d)}" for n, d in zip(validation.class_names, case.dice, strict=True))
        parts.append(picture(draw_slice(shown, outlines), caption, f"{caption}. {each}"))
    parts += [warning(problem) for problem in problems.values()]
    lead = "The slice in which annotation and prediction differ in most voxels."
    return [Section("Worst cases", "".join(parts), lead)]


def _transfer(transfer: Transfer) -> Section:
    shares = {
        "Of the whole network": percent(transfer.share),
        "Of the encoder": percent(transfer.encoder_share),
        "Policy": transfer.policy,
        "Kind of file": transfer.kind,
    }
    rows: list[list[Cell]] = [
        [s.stage, *(s.tensors[a] or None for a in ACTIONS), s.parameters, percent(s.share), "; ".join(s.notes)]
        for s in transfer.stages
    ]
    header = ["stage", *ACTIONS, "parameters", "from the file", "notes"]
    origin = f"{transfer.source} (SHA-256 {transfer.sha256})"
    plot = figure(
        draw_transfer(transfer), f"From {origin}", f"{percent(transfer.share)} of the parameters from {origin}"
    )
    body = facts(shares) + "".join(text(note) for note in transfer.notes) + legend(transfer_legend()) + plot
    body += details("Tensors of each stage", table(rows, header))
    if transfer.num_unused:
        body += text(f"{transfer.num_unused} tensors of the file have no place in this network.")
    return Section("Transferred weights", body, "What the training began with; all else began with random values.")


def _recipe(record: TrainingRecord) -> list[Section]:
    standard = DEFAULT.to_json()
    settings = {k: v for k, v in record.settings.items() if k != "name"}
    if not settings and record.configuration is None:
        return []
    changed: list[list[Cell]] = [
        [name, setting_text(value), setting_text(standard.get(name))]
        for name, value in settings.items()
        if not same_setting(value, standard.get(name))
    ]
    header = ["setting", "here", "nnUNetTrainer"]
    body, lead = "", "The settings of the training are not recorded: there is neither recipe.json nor debug.json."
    if settings:
        lead = f"{len(changed)} settings differ from those of nnUNetTrainer, nnU-Net's standard trainer."
        body = table(changed, header) if changed else ""
        rows: list[list[Cell]] = [[k, setting_text(v), setting_text(standard.get(k))] for k, v in settings.items()]
        body += details("All settings", table(rows, header))
        body += "" if record.recipe else text("From debug.json; only these settings are recorded there.")
    body += heading("Network and data") + facts(_plan_facts(record)) if record.configuration else ""
    return [Section("Recipe", body, lead)]


def setting_text(value: object) -> str:
    """A setting as a text: lists with commas, nothing as a dash."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "\N{EN DASH}"
    if value is None:
        return "\N{EN DASH}"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def same_setting(one: object, other: object) -> bool:
    """Whether two settings are equal, numbers up to rounding."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other


def _plan_facts(record: TrainingRecord) -> dict[str, str]:
    configuration = record.configuration
    if configuration is None:
        return {}
    patch = record.settings.get("patch_size") or configuration.patch_size
    features = configuration.architecture.arch_kwargs.get("features_per_stage")
    found: dict[str, Callable[[], str]] = {
        "Network": lambda: configuration.architecture.short_name,
        "Patch size": lambda: sizes(patch),
        "Batch size": lambda: str(record.settings.get("batch_size") or configuration.batch_size),
        "Spacing": lambda: sizes(configuration.spacing) + " mm",
        "Features": lambda: ", ".join(map(str, features)) if isinstance(features, (list, tuple)) else "",
        "Normalisation": lambda: ", ".join(
            s.removesuffix("Normalization") for s in configuration.normalization_schemes
        ),
    }
    return {name: value() for name, value in found.items() if value()}
