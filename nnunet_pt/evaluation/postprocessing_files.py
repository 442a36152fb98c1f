"""``postprocessing.pkl`` and ``postprocessing.json``: what is done to segmentations after prediction.

nnU-Net keeps functions in a pickle. Such a file can ask for any function to be called, so it is read by an unpickler
that knows the one function nnU-Net writes (as a name: it is not imported) and plain numbers, and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import NnunetError, PredictionError
from nnunet_pt.core.files import read_json, storage_errors, write_bytes, write_json
from nnunet_pt.evaluation.components import Segmentation, keep_largest
from nnunet_pt.evaluation.summary import Summary
from nnunet_pt.preprocessing.store import PlainUnpickler

PICKLE_FILE = "postprocessing.pkl"
JSON_FILE = "postprocessing.json"
FUNCTION = "remove_all_but_largest_component_from_segmentation"
MODULE = "nnunetv2.postprocessing.remove_connected_components"

_LABELS_KEY = "labels_or_regions"
_BACKGROUND_KEY = "background_label"
_MAX_PICKLE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepLargest:
    """A step of the postprocessing: keep the largest component of a label or region.

    Attributes:
        labels_or_regions: As nnU-Net writes it: a label, the tuple of a region's labels, or a list of several labels.
            Several labels always count as one.
    """

    labels_or_regions: int | tuple[int, ...] | list[int]

    @property
    def labels(self) -> tuple[int, ...]:
        """All the labels that count as one."""
        value = self.labels_or_regions
        return (value,) if isinstance(value, int) else tuple(value)

    def apply(self, segmentation: Segmentation) -> Segmentation:
        """The segmentation with other components set to 0."""
        return keep_largest(segmentation, self.labels)

    def __str__(self) -> str:
        labels = self.labels
        return f"label {labels[0]}" if len(labels) == 1 else f"labels {', '.join(map(str, labels))} together"


Steps = tuple[KeepLargest, ...]


def apply_steps(segmentation: Segmentation, steps: Iterable[KeepLargest]) -> Segmentation:
    """Do the steps one after the other."""
    for step in steps:
        segmentation = step.apply(segmentation)
    return segmentation


def write_postprocessing(folder: Path, steps: Steps, before: Summary, after: Summary) -> Path:
    """Write both files, the pickle last.

    Args:
        folder: Where to.
        steps: What to do, in this order.
        before: Metrics of the segmentations as they are.
        after: Metrics after the steps.

    Returns:
        Path of ``postprocessing.pkl``.
    """
    means = [{key: summary.to_json()[key] for key in ("foreground_mean", "mean")} for summary in (before, after)]
    content = {
        "input_folder": means[0],
        "postprocessed": means[1],
        "postprocessing_fns": [FUNCTION] * len(steps),
        "postprocessing_kwargs": [{_LABELS_KEY: step.labels_or_regions} for step in steps],
    }
    write_json(folder / JSON_FILE, content, sort_keys=True)
    write_bytes(folder / PICKLE_FILE, _pickled(steps))
    return folder / PICKLE_FILE


def _pickled(steps: Steps) -> bytes:
    """Pickle a list of functions and a list of keyword arguments.

    The function is nnU-Net's, which need not be installed, so its name is put in by hand: pickle would import it.
    """
    arguments = pickle.dumps([{_LABELS_KEY: step.labels_or_regions} for step in steps], protocol=2)
    function = pickle.GLOBAL + f"{MODULE}\n{FUNCTION}\n".encode()
    functions = pickle.EMPTY_LIST + pickle.MARK + function * len(steps) + pickle.APPENDS
    return arguments[:2] + functions + arguments[2:-1] + pickle.TUPLE2 + pickle.STOP


def read_postprocessing(path: Path) -> Steps:
    """Read a ``postprocessing.pkl``, or the ``postprocessing.json`` beside it if it is missing; nothing is executed.

    Args:
        path: One of the two files.

    Raises:
        PredictionError: If there is neither, or the file holds anything but nnU-Net's postprocessing.
        StorageError: If it cannot be accessed.
    """
    beside = path.with_suffix(".json")
    if not path.is_file() and beside.is_file():
        path = beside
    if not path.is_file():
        raise PredictionError(
            f"There is no postprocessing {path}.",
            expected=f"a file {PICKLE_FILE} or {JSON_FILE}",
            remedy="nnUNetv2_find_best_configuration or nnUNetv2_determine_postprocessing writes it",
        )
    functions, arguments = _from_json(path) if path.suffix == ".json" else _from_pickle(path)
    try:
        if isinstance(functions, str) or len(functions) != len(arguments):
            raise ValueError(f"{len(functions)} functions for {len(arguments)} sets of arguments")
        return tuple(_step(f, a) for f, a in zip(functions, arguments, strict=True))
    except (TypeError, ValueError) as error:
        raise _refused(path, str(error)) from error


def _from_json(path: Path) -> tuple[Any, Any]:
    content = read_json(path)
    if not isinstance(content, Mapping) or not {"postprocessing_fns", "postprocessing_kwargs"} <= content.keys():
        raise _refused(path, "no entries postprocessing_fns and postprocessing_kwargs")
    return content["postprocessing_fns"], content["postprocessing_kwargs"]


def _from_pickle(path: Path) -> tuple[Any, Any]:
    with storage_errors(path):
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MAX_PICKLE_BYTES else b""
    if size > _MAX_PICKLE_BYTES:
        raise _refused(path, f"{size:,} bytes; such a file has some hundred")
    try:
        functions, arguments = _StepUnpickler(io.BytesIO(content)).load()
    except NnunetError:
        raise
    except Exception as error:  # a damaged pickle can fail in every way there is
        raise _refused(path, str(error) or type(error).__name__) from error
    return functions, arguments


class _StepUnpickler(PlainUnpickler):
    """Reads plain values; nnU-Net's function becomes its name, any other is refused."""

    _ALLOWED = frozenset((module, name) for module, name in PlainUnpickler._ALLOWED if name in ("dtype", "scalar"))

    def find_class(self, module: str, name: str) -> Any:
        """Look up the function, or a constructor of numpy's numbers."""
        return FUNCTION if (module, name) == (MODULE, FUNCTION) else super().find_class(module, name)


def _step(function: object, arguments: object) -> KeepLargest:
    if function != FUNCTION:
        raise ValueError(f"the unknown function {str(function)[:100]!r}")
    if not isinstance(arguments, Mapping) or _LABELS_KEY not in arguments:
        raise ValueError(f"no argument {_LABELS_KEY}")
    surplus = [key for key in arguments if key not in (_LABELS_KEY, _BACKGROUND_KEY)]
    if surplus or arguments.get(_BACKGROUND_KEY, 0) != 0:
        raise ValueError(f"arguments that are not supported: {dict(arguments)}")
    return KeepLargest(labels_or_regions=_labels(arguments[_LABELS_KEY]))


def _labels(value: object) -> int | tuple[int, ...] | list[int]:
    if isinstance(value, (list, tuple)):
        return type(value)(_flat(value))
    return _label(value)


def _flat(values: Sequence[object]) -> list[int]:
    """The labels of labels and regions."""
    result: list[int] = []
    for value in values:
        result += _flat(value) if isinstance(value, (list, tuple)) else [_label(value)]
    return result


def _label(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
        raise ValueError(f"{value!r} is no label")
    return int(value)


def _refused(path: Path, found: str) -> PredictionError:
    return PredictionError(
        f"{path} is not a postprocessing of nnU-Net, or is damaged; nothing of it was executed.",
        found=found,
        expected=f"the function {FUNCTION} with labels, any number of times",
        remedy="make it again with  nnUNetv2_determine_postprocessing",
    )
