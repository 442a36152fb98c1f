"""Which connected components to remove, decided on the cross-validation, and the removal itself.

The decisions are nnU-Net's. It evaluates every label in a pass of its own; labels do not overlap, so here one pass
tries all of them at the same time. Regions overlap and are tried one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_pt.core.console import get_logger, table
from nnunet_pt.core.errors import PredictionError, UsageError
from nnunet_pt.core.files import copy_file, make_folder, remove_leftovers, storage_errors
from nnunet_pt.core.workers import CaseTask, InProcessExecutor, LocalExecutor, MapResult, map_cases
from nnunet_pt.dataset.cases import listed
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation.metrics import EvaluationSettings
from nnunet_pt.evaluation.postprocessing_cases import Cases, CaseWork, Variant, estimate_ram, segmentations, work
from nnunet_pt.evaluation.postprocessing_files import (
    JSON_FILE,
    PICKLE_FILE,
    KeepLargest,
    Steps,
    write_postprocessing,
)
from nnunet_pt.evaluation.summary import FILE_NAME, CaseMetrics, Summary
from nnunet_pt.plans.plans import Plans

OUTPUT_FOLDER = "postprocessed"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of removing the smaller components of something.

    Attributes:
        target: Labels or region.
        before: Mean Dice before; of the foreground if the target is the whole foreground.
        after: The same afterwards.
        accepted: Whether it is done from now on.
    """

    target: KeepLargest
    before: float
    after: float
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Postprocessing:
    """A postprocessing that was determined.

    Attributes:
        file: ``postprocessing.pkl``.
        steps: What is done.
        trials: What was tried.
        before: Metrics of the segmentations as they are.
        after: Metrics after the steps.
    """

    file: Path
    steps: Steps
    trials: tuple[Trial, ...]
    before: Summary
    after: Summary

    def summary(self) -> str:
        """What was tried, what helped, and where the files are."""
        rows = [
            (str(t.target), f"{t.before:.5f}", f"{t.after:.5f}", "kept" if t.accepted else "no improvement")
            for t in self.trials
        ]
        trials = table(rows, ("only the largest component of", "Dice before", "after", ""))
        return f"{trials}\nMean Dice {self.before.dice:.5f} -> {self.after.dice:.5f}. Written: {self.file}"


def determine_postprocessing(
    folder: Path,
    references: Path,
    plans: Plans,
    description: DatasetDescription,
    *,
    num_processes: int = 0,
    keep_files: bool = True,
    progress: bool = True,
) -> Postprocessing:
    """Find out whether removing all but the largest components improves segmentations, as nnU-Net does.

    Writes ``postprocessing.pkl`` and ``postprocessing.json`` into the folder, the segmentations to ``postprocessed``,
    and ``summary.json`` if there is none. The pickle is written last: with it, everything is complete.

    Args:
        folder: Segmentations of cases that were not trained on.
        references: Annotations of the same names.
        plans: Say how the files are read.
        description: Says what the labels are.
        num_processes: Worker processes; 0 works in this process.
        keep_files: Keep the postprocessed segmentations.
        progress: Show the progress.

    Raises:
        PredictionError: If there are no segmentations, or some have no reference.
        NnunetError: If a file cannot be read or written.
    """
    labels = Labels.from_description(description)
    settings = EvaluationSettings.of(labels, reader_name=plans.image_reader_writer, file_ending=description.file_ending)
    files = {case: (path, references / path.name) for case, path in segmentations(folder, settings.file_ending).items()}
    _require_references([reference for _, reference in files.values()], references)
    with contextlib.closing(LocalExecutor(num_processes) if num_processes else InProcessExecutor()) as executor:
        cases = Cases(files=files, settings=settings, executor=executor, progress=progress)
        before, trials = _search(cases, labels)
        steps = tuple(t.target for t in trials if t.accepted)
        _remove_results(folder)
        if not (folder / FILE_NAME).is_file():
            before.save(folder / FILE_NAME)
        after = _write_segmentations(folder, cases, steps, before) if keep_files else _evaluated(cases, steps, before)
    file = write_postprocessing(folder, steps, before, after)
    return Postprocessing(file=file, steps=steps, trials=tuple(trials), before=before, after=after)


def _require_references(paths: Sequence[Path], folder: Path) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise PredictionError(
            f"{len(missing)} of {len(paths)} segmentations have no reference in {folder}.",
            found=f"nothing called {listed(missing)}",
            expected="a reference of the same name for each segmentation",
            remedy="correct the folder of the references, or complete it",
        )


def _search(cases: Cases, labels: Labels) -> tuple[Summary, list[Trial]]:
    """What to do, as nnU-Net decides: first all foreground together, then every label or region."""
    whole = KeepLargest(labels_or_regions=list(labels.foreground_labels))
    before, together = cases.evaluate(Variant(), Variant(steps=(whole,)), description="Trying the whole foreground")
    accepted = _better_everywhere(before, together)
    trials = [Trial(target=whole, before=before.dice, after=together.dice, accepted=accepted)]
    source, steps = (together, (whole,)) if accepted else (before, ())
    targets = cases.settings.labels_or_regions
    if len(targets) < 2:
        return before, trials
    if not labels.has_regions:
        variant = Variant(steps=steps, each=labels.foreground_labels)
        (tried,) = cases.evaluate(variant, description="Trying each label")
        return before, trials + [_trial(label, source, tried) for label in targets]
    for region in targets:
        longer = (*steps, KeepLargest(labels_or_regions=region))
        (tried,) = cases.evaluate(Variant(steps=longer), description=f"Trying {longer[-1]}")
        trials.append(_trial(region, source, tried))
        if trials[-1].accepted:
            source, steps = tried, longer
    return before, trials


def _trial(label: LabelValue, before: Summary, after: Summary) -> Trial:
    old, new = before.mean[label]["Dice"], after.mean[label]["Dice"]
    return Trial(target=KeepLargest(labels_or_regions=label), before=old, after=new, accepted=new > old)


def _better_everywhere(before: Summary, after: Summary) -> bool:
    """Whether the foreground improves and no class gets worse; never if a class is in no case at all."""
    worse = any(after.mean[label]["Dice"] < before.mean[label]["Dice"] for label in before.mean)
    return after.dice > before.dice and not worse


def _remove_results(folder: Path) -> None:
    """Remove what an earlier run wrote, first what would make it look complete."""
    output = folder / OUTPUT_FOLDER
    with storage_errors(folder):
        remove_leftovers(folder)
        for path in (folder / PICKLE_FILE, folder / JSON_FILE, output / FILE_NAME):
            path.unlink(missing_ok=True)
        if output.is_dir():
            remove_leftovers(output)
            for path in output.iterdir():
                if path.is_file():
                    path.unlink()


def _write_segmentations(folder: Path, cases: Cases, steps: Steps, before: Summary) -> Summary:
    output = make_folder(folder / OUTPUT_FOLDER)
    if steps:
        variant = Variant(steps=steps)
        (after,) = cases.evaluate(variant, description="Postprocessing", output=output)
    else:  # as nnU-Net: the folder's own files
        for prediction, _ in cases.files.values():
            copy_file(prediction, output / prediction.name)
        for name in ("dataset.json", "plans.json"):
            if (folder / name).is_file():
                copy_file(folder / name, output / name)
        moved = tuple(replace(c, prediction_file=output / c.prediction_file.name) for c in before.cases)
        after = replace(before, cases=moved)
    after.save(output / FILE_NAME)
    return after


def _evaluated(cases: Cases, steps: Steps, before: Summary) -> Summary:
    return cases.evaluate(Variant(steps=steps), description="Postprocessing")[0] if steps else before


def apply_postprocessing(
    folder: Path,
    output: Path,
    steps: Steps,
    plans: Plans,
    description: DatasetDescription,
    *,
    num_processes: int = 0,
    on_failure: Literal["stop", "continue"] = "stop",
    progress: bool = True,
) -> MapResult[tuple[CaseMetrics, ...]]:
    """Postprocess all segmentations of a folder.

    Args:
        folder: The segmentations.
        output: Where to; files of the same names are replaced.
        steps: What to do, in this order.
        plans: Say how the files are read.
        description: Says what the labels and the ending of the files are.
        num_processes: Worker processes; 0 works in this process.
        on_failure: "continue" finishes the other cases when one fails.
        progress: Show the progress.

    Returns:
        The cases, and those that failed.

    Raises:
        UsageError: If input and output are the same folder.
        PredictionError: If there are no segmentations.
        NnunetError: With "stop", if a file cannot be read or written.
    """
    if folder.resolve() == output.resolve():
        raise UsageError(
            "The folder of the input cannot be that of the output: the segmentations would be replaced.",
            found=folder,
            remedy="choose another output folder",
        )
    labels = Labels.from_description(description)
    settings = EvaluationSettings.of(labels, reader_name=plans.image_reader_writer, file_ending=description.file_ending)
    _warn_of_unknown(steps, labels)
    variants = (Variant(steps=steps),)
    tasks = []
    for case, path in segmentations(folder, settings.file_ending).items():
        task = CaseWork(
            prediction=path, reference=None, output=output / path.name, settings=settings, variants=variants
        )
        tasks.append(CaseTask(case=case, argument=task, ram_bytes=estimate_ram(path, settings)))
    remove_leftovers(make_folder(output))
    return map_cases(
        work,
        tasks,
        num_workers=num_processes,
        description="Postprocessing",
        on_failure=on_failure,
        progress=progress,
    )


def _warn_of_unknown(steps: Steps, labels: Labels) -> None:
    unknown = sorted({label for step in steps for label in step.labels}.difference(labels.all_labels))
    if unknown:
        _log.warning(
            "The postprocessing names labels that the dataset does not have (%s): does it belong to another dataset?",
            ", ".join(map(str, unknown)),
        )
