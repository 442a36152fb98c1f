"""What the commands ask for that compare two folders of segmentations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, PredictionError, UsageError
from nnunet_pt.core.executor import Executor
from nnunet_pt.core.files import storage_errors
from nnunet_pt.core.parts import WHOLE, Part
from nnunet_pt.core.resources import default_num_processes
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.registry import choose_by_examples, reader_writer_by_name, reader_writers
from nnunet_pt.dataset.labels import Labels, LabelValue
from nnunet_pt.evaluation.metrics import EvaluationSettings, evaluate_folder
from nnunet_pt.evaluation.shared import SharedEvaluation
from nnunet_pt.evaluation.summary import FILE_NAME, Summary
from nnunet_pt.evaluation.table import class_names, summary_table
from nnunet_pt.plans.plans import Plans

DEFAULT_PROCESSES = 8

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """Compare the segmentations of two folders.

    Attributes:
        references: Folder of annotations.
        predictions: Folder of segmentations with the same names.
        settings: What is compared.
        names: Names of the classes, as far as they are known.
        output: The file to write; ``summary.json`` in the folder of predictions by default.
        chill: Accept references without a prediction.
        num_processes: Worker processes; None for the default, at most 8.
        progress: Show the progress.
        num_parts: Number of processes that share the cases, see :mod:`nnunet_pt.core.parts`.
        part_id: Number of this process.
        executor: Where the cases are compared instead of in ``num_processes`` processes of this machine.

    Raises:
        UsageError: If the output is not called ``.json``, or there is no such part.
    """

    references: Path
    predictions: Path
    settings: EvaluationSettings
    names: Mapping[LabelValue, str] = field(default_factory=dict)
    output: Path | None = None
    chill: bool = False
    num_processes: int | None = None
    progress: bool = True
    num_parts: int = 1
    part_id: int = 0
    executor: Executor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        Part(number=self.part_id, total=self.num_parts)  # complains if there is no such part
        if self.output is not None and self.output.suffix != ".json":
            raise UsageError("The output of an evaluation is a JSON file.", found=self.output, expected="*.json")

    @property
    def part(self) -> Part:
        """The cases of this process."""
        return Part(number=self.part_id, total=self.num_parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation gave.

    Attributes:
        result: Metrics of all cases and their means; None if parts are missing, or another process put all
            together.
        path: Where they are written.
        names: Names of the classes.
        part: Which of the cases.
        missing_parts: Parts that have to be done before all are put together.
    """

    result: Summary | None
    path: Path
    names: Mapping[LabelValue, str]
    part: Part = WHOLE
    missing_parts: tuple[int, ...] = ()

    def text(self) -> str:
        """A table, and where the file is."""
        if self.result is None and not self.missing_parts:
            return f"Evaluation, {self.part} ended. It was done twice, and all parts are put together: {self.path}"
        if self.result is None:
            return f"Evaluation, {self.part.waiting_for(self.missing_parts)}: {self.path}"
        cases = counted(len(self.result.cases), "case")
        return f"{summary_table(self.result, self.names)}\nMetrics of {cases} and their means: {self.path}"


def evaluate(request: EvaluateRequest) -> Evaluation:
    """Compare two folders and write ``summary.json``; it is not written if anything cannot be compared.

    Raises:
        NnunetError: As :func:`~nnunet_pt.evaluation.metrics.evaluate_folder`.
        StorageError: If the file cannot be written.
    """
    path = request.output or request.predictions / FILE_NAME
    shared = SharedEvaluation(
        request.references,
        request.predictions,
        request.settings,
        summary=path,
        part=request.part,
        chill=request.chill,
    )
    processes = request.num_processes
    processes = default_num_processes(DEFAULT_PROCESSES) if processes is None else processes
    if request.part.is_whole and not shared.folder.is_dir():
        summary = evaluate_folder(
            request.references,
            request.predictions,
            request.settings,
            chill=request.chill,
            num_processes=processes,
            progress=request.progress,
            executor=request.executor,
        )
    else:
        found = shared.run(num_processes=processes, progress=request.progress, executor=request.executor)
        if not isinstance(found, Summary):
            return Evaluation(result=None, path=path, names=request.names, part=request.part, missing_parts=found)
        summary = found
    summary.save(path)
    shared.remove()
    return Evaluation(result=summary, path=path, names=request.names, part=request.part)


def dataset_settings(
    dataset_json: Path, plans_json: Path, references: Path, *, nsd_tolerances_mm: tuple[float, ...] = ()
) -> tuple[EvaluationSettings, dict[LabelValue, str]]:
    """How the predictions of a model are evaluated, and the names of its classes.

    Files are read as the plans say; where that is not possible, as dataset.json says or their ending.

    Raises:
        NnunetError: If one of the two files cannot be used, or if no reader knows the files.
    """
    description, plans = DatasetDescription.load(dataset_json), Plans.load(plans_json)
    labels = Labels.from_description(description)
    name, ending = plans.image_reader_writer, description.file_ending
    if name not in reader_writers or ending.lower() not in reader_writer_by_name(name).file_endings:
        name = choose_by_examples(description, _files(references, ending)).name
    settings = EvaluationSettings.of(labels, reader_name=name, file_ending=ending, nsd_tolerances_mm=nsd_tolerances_mm)
    return settings, class_names(labels)


def label_settings(
    labels: Sequence[int],
    ignore_label: int | None,
    references: Path,
    predictions: Path,
    *,
    nsd_tolerances_mm: tuple[float, ...] = (),
) -> EvaluationSettings:
    """How segmentations are evaluated of which only the labels are known.

    The format is found out from the files that are in both folders, or in that of the references. If there are files
    of several formats, those of the first name count, as in nnU-Net, with a warning.

    Raises:
        PredictionError: If there are no images.
    """
    names = [path.name for path in _files(references, "")]
    endings = list(dict.fromkeys(map(_ending, names)))
    in_both = [e for e in endings if any(_files(predictions, e))] if predictions.is_dir() else []
    for ending in in_both or endings:
        reader = _reader_for(references, ending)
        if reader is not None:
            others = [e for e in in_both if e != ending and e in _known_endings()]
            if others:
                _log.warning("Only the files that end with %s are compared, not %s.", ending, ", ".join(others))
            return EvaluationSettings(
                labels_or_regions=tuple(dict.fromkeys(labels)),
                ignore_label=ignore_label,
                reader_name=reader.name,
                file_ending=ending,
                nsd_tolerances_mm=nsd_tolerances_mm,
            )
    raise PredictionError(
        f"There are no segmentations in {references} that can be read.",
        found=f"files ending with {', '.join(endings)}" if endings else "no files",
        expected=f"files ending with {', '.join(_known_endings())}",
    )


def _reader_for(folder: Path, ending: str) -> ImageReaderWriter | None:
    """The reader for files of an ending, also where the ending is not known to any reader."""
    try:
        return choose_by_examples(ending, _files(folder, ending), allow_nonmatching=True)
    except DatasetError:
        return None


def _ending(name: str) -> str:
    """The ending of a file name: one that a reader knows (``.nii.gz``), else what follows the last dot."""
    known = [ending for ending in _known_endings() if name.lower().endswith(ending)]
    return name[-max(map(len, known)) :] if known else Path(name).suffix


def _known_endings() -> list[str]:
    return sorted({ending for name in reader_writers for ending in reader_writer_by_name(name).file_endings})


def _files(folder: Path, ending: str) -> list[Path]:
    with storage_errors(folder):
        paths = sorted(p for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith("."))
        return [p for p in paths if p.is_file()]
