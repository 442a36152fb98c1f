"""The validation of a training with whole cases, read from ``validation/summary.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import read_json
from nnunet_pt.dataset.labels import Labels

NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedCase:
    """What the validation found in one case.

    Attributes:
        case: Name of the case.
        prediction: The predicted segmentation, where it was when it was evaluated.
        reference: The annotation, likewise.
        dice: Dice of each class; nan if the class is neither there nor predicted.
        reference_voxels: Voxels of each class in the annotation; nan if not known.
        predicted_voxels: The same of the prediction.
    """

    case: str
    prediction: Path
    reference: Path
    dice: tuple[float, ...]
    reference_voxels: tuple[float, ...]
    predicted_voxels: tuple[float, ...]

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that have a Dice; nan if none has."""
        return mean_of_known(self.dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The validation of a fold.

    Attributes:
        class_names: Names of the foreground classes or regions.
        cases: In the order of the file.
        class_dice: Mean Dice of each class.
        dice: Mean Dice of the foreground.
    """

    class_names: tuple[str, ...]
    cases: tuple[ValidatedCase, ...]
    class_dice: tuple[float, ...]
    dice: float

    def dice_of_cases(self) -> NDArray[np.float64]:
        """Dice (cases, classes), nan where it is not defined."""
        return np.array([c.dice for c in self.cases], np.float64).reshape(len(self.cases), len(self.class_names))

    def worst_first(self) -> tuple[ValidatedCase, ...]:
        """The cases that have a Dice by their mean, ascending."""
        return tuple(sorted((c for c in self.cases if math.isfinite(c.mean_dice)), key=lambda c: c.mean_dice))


def mean_of_known(values: Sequence[float]) -> float:
    """Mean without nan; nan if there is nothing else."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else NAN


def read_validation(path: Path, labels: Labels | None, file_ending: str | None) -> Validation:
    """Read ``summary.json``.

    Args:
        path: The file.
        labels: Labels of the dataset, for the names of classes; without them their numbers are shown.
        file_ending: Ending of the dataset's files, which is not a part of the names of cases.

    Raises:
        StorageError: If it is missing, damaged or not the summary of an evaluation.
    """
    data = read_json(path)
    try:
        keys = [key for key in data["mean"] if key != "0"]
        cases = [_case(entry, keys, file_ending) for entry in data["metric_per_case"]]
        return Validation(
            class_names=tuple(_class_name(key, labels) for key in keys),
            cases=tuple(cases),
            class_dice=tuple(_number(data["mean"][key], "Dice") for key in keys),
            dice=_number(data["foreground_mean"], "Dice"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path} is not the summary of an evaluation.",
            found=f"{type(error).__name__}: {error}",
            expected="foreground_mean, mean and metric_per_case, as the final validation writes them",
            remedy="validate again:  nnUNetv2_train DATASET CONFIGURATION FOLD --val",
        ) from error


def _case(entry: Mapping[str, Any], keys: Sequence[str], file_ending: str | None) -> ValidatedCase:
    metrics = [entry["metrics"][key] for key in keys]
    prediction = Path(entry["prediction_file"])
    return ValidatedCase(
        case=case_name(prediction, file_ending),
        prediction=prediction,
        reference=Path(entry["reference_file"]),
        dice=tuple(_number(m, "Dice") for m in metrics),
        reference_voxels=tuple(_number(m, "n_ref") for m in metrics),
        predicted_voxels=tuple(_number(m, "n_pred") for m in metrics),
    )


def case_name(file: Path, file_ending: str | None) -> str:
    """The name of a case from that of its segmentation."""
    if file_ending and file.name.endswith(file_ending):
        return file.name.removesuffix(file_ending)
    return file.name.removesuffix(".gz").rpartition(".")[0] or file.name


def _number(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics.get(name)
    return NAN if value is None else float(value)


def _class_name(key: str, labels: Labels | None) -> str:
    """The name that dataset.json has for a key of ``mean``: ``"2"``, or ``"(1, 2)"`` for a region."""
    for name, value in () if labels is None else labels.labels.items():
        if key in (str(value), str(value[0]) if isinstance(value, tuple) and len(value) == 1 else None):
            return name
    return f"class {key}"
