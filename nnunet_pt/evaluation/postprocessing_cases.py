"""Segmentations that are postprocessed in several ways, compared with their references, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_pt.core.errors import NnunetError, PredictionError
from nnunet_pt.core.files import copy_file, storage_errors
from nnunet_pt.core.workers import CaseTask, Executor, map_cases
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.evaluation.components import Segmentation, keep_largest_of_each
from nnunet_pt.evaluation.metrics import EvaluationSettings, compute_metrics
from nnunet_pt.evaluation.postprocessing_files import Steps, apply_steps
from nnunet_pt.evaluation.summary import CaseMetrics, Metrics, Summary

_BYTES_PER_VOXEL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to postprocess a segmentation.

    Attributes:
        steps: What is done.
        each: Labels of each of which the largest component is kept afterwards.
    """

    steps: Steps = ()
    each: tuple[int, ...] = ()

    def apply(self, segmentation: Segmentation) -> Segmentation:
        """The postprocessed segmentation; the same object if nothing changes."""
        result = apply_steps(segmentation, self.steps)
        return keep_largest_of_each(result, self.each) if self.each else result


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseWork:
    """A case to be postprocessed: compared with its reference, or written, or both.

    Attributes:
        prediction: Its segmentation.
        reference: Its annotation, to compare with.
        output: Where to write the postprocessed segmentation; there is one variant then.
        settings: What is compared.
        variants: Ways to postprocess it.
    """

    prediction: Path
    reference: Path | None
    output: Path | None
    settings: EvaluationSettings
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """All cases of a folder.

    Attributes:
        files: Case -> prediction and reference.
        settings: What is compared.
        executor: Where to work.
        progress: Show the progress.
    """

    files: Mapping[str, tuple[Path, Path]]
    settings: EvaluationSettings
    executor: Executor
    progress: bool

    def evaluate(self, *variants: Variant, description: str, output: Path | None = None) -> list[Summary]:
        """Metrics of each variant. With ``output`` there is one variant, and its segmentations are written there."""
        tasks = []
        for case, (prediction, reference) in self.files.items():
            target = None if output is None else output / prediction.name
            task = CaseWork(
                prediction=prediction,
                reference=reference,
                output=target,
                settings=self.settings,
                variants=variants,
            )
            tasks.append(CaseTask(case=case, argument=task, ram_bytes=estimate_ram(prediction, self.settings)))
        found = map_cases(
            work, tasks, num_workers=0, executor=self.executor, description=description, progress=self.progress
        ).results
        return [Summary.of([metrics[i] for metrics in found.values()]) for i in range(len(variants))]


def work(task: CaseWork) -> tuple[CaseMetrics, ...]:
    """Postprocess, compare and write one case.

    Returns:
        Metrics of each variant; nothing without a reference.

    Raises:
        ImageError: If a file cannot be read.
        PredictionError: If segmentation and reference differ in shape.
        StorageError: If the result cannot be written.
    """
    reader = reader_writer_by_name(task.settings.reader_name)
    read, properties = reader.read_segmentation(task.prediction)
    original = read[0].astype(np.int32)
    results = []
    previous: Segmentation | None = None
    metrics: Mapping[LabelValue, Metrics] = {}
    reference = None if task.reference is None else reader.read_segmentation(task.reference)[0][0]
    if reference is not None and reference.shape != original.shape:
        raise PredictionError(
            f"The segmentation {task.prediction} does not have the shape of its reference.",
            found=original.shape,
            expected=f"{reference.shape}, as {task.reference}",
            remedy="predict the case again, or correct the reference",
        )
    del read
    for variant in task.variants:
        segmentation = variant.apply(original)
        if reference is not None and task.reference is not None:
            if segmentation is not previous:
                labels, ignored = task.settings.labels_or_regions, task.settings.ignore_label
                metrics = compute_metrics(reference, segmentation, labels, ignored)
            results.append(
                CaseMetrics(
                    reference_file=task.reference, prediction_file=task.output or task.prediction, metrics=metrics
                )
            )
        previous = segmentation
        if task.output is not None and segmentation is original:
            copy_file(task.prediction, task.output)
        elif task.output is not None:
            reader.write_segmentation(segmentation, task.output, properties)
    return tuple(results)


def estimate_ram(path: Path, settings: EvaluationSettings) -> int:
    """Bytes that a case needs; 0 for a file that reading itself will complain about."""
    try:
        return reader_writer_by_name(settings.reader_name).read_header(path).num_voxels * _BYTES_PER_VOXEL
    except NnunetError:
        return 0


def segmentations(folder: Path, file_ending: str) -> dict[str, Path]:
    """Case -> file, sorted.

    Raises:
        PredictionError: If there are none.
        StorageError: If the folder cannot be listed.
    """
    with storage_errors(folder):
        names = sorted(p.name for p in folder.iterdir() if p.name.endswith(file_ending) and p.name[0] != ".")
    if not names:
        raise PredictionError(
            f"There are no segmentations in {folder}.",
            expected=f"files that end with {file_ending}",
            remedy="check the path, and file_ending in dataset.json",
        )
    return {name.removesuffix(file_ending): folder / name for name in names}
