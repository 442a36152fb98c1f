"""Several trainings side by side: what they are called, their common cases, and what they do differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.wording import counted
from nnunet_pt.report.training_record import TrainingRecord, read_training
from nnunet_pt.report.training_validation import Validation, mean_of_known
from nnunet_pt.transfer.account import percent

NUM_RESAMPLINGS: Final = 4000
INTERVAL_PERCENT: Final = (2.5, 97.5)
_VOXEL_TOLERANCE: Final = 0.5
_ENVIRONMENT: Final = ("device", "gpu_name", "precision", "torch_version", "hostname")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A training under the name that it has in the comparison."""

    name: str
    record: TrainingRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The results of validated trainings on the cases that all of them were validated on.

    Attributes:
        names: Names of the trainings; the others are compared with the first.
        cases: The common cases.
        class_names: The common classes.
        dice: Dice (trainings, cases, classes).
        all_cases_common: Whether no training has other cases.
        relabelled: Common cases whose annotations do not have the same size in all trainings.
    """

    names: tuple[str, ...]
    cases: tuple[str, ...]
    class_names: tuple[str, ...]
    dice: NDArray[np.float64]
    all_cases_common: bool
    relabelled: tuple[str, ...]

    def case_means(self) -> NDArray[np.float64]:
        """Mean Dice of the classes of each case (trainings, cases); nan where no class has one."""
        return np.array([[mean_of_known(case) for case in training] for training in self.dice.tolist()]).reshape(
            len(self.names), len(self.cases)
        )

    def class_means(self) -> NDArray[np.float64]:
        """Mean Dice of each class over the common cases (trainings, classes)."""
        columns = self.dice.transpose(0, 2, 1).tolist()
        return np.array([[mean_of_known(values) for values in training] for training in columns])

    def differences(self, index: int) -> NDArray[np.float64]:
        """By how much a training is better than the first, for each common case that both have a Dice of."""
        means = self.case_means()
        both = np.isfinite(means[0]) & np.isfinite(means[index])
        difference: NDArray[np.float64] = means[index][both] - means[0][both]
        return difference


def read_trainings(folders: Sequence[Path], names: Sequence[str] | None = None) -> tuple[Compared, ...]:
    """Read the trainings that are to be compared.

    Args:
        folders: Folders of folds, two at least.
        names: How to call them; by default what distinguishes their folders.

    Raises:
        UsageError: With every folder that does not hold a training; if one is given twice; or if there are not as
            many names.
    """
    if len(folders) < 2:
        raise UsageError("A comparison needs two trainings at least.", found=counted(len(folders), "folder"))
    places = [folder.expanduser().resolve() for folder in folders]
    twice = [str(place) for place, number in Counter(places).items() if number > 1]
    if twice:
        raise UsageError("A training cannot be compared with itself.", found=f"given twice: {', '.join(twice)}")
    if names is not None and (len(names) != len(folders) or len(set(names)) != len(names)):
        raise UsageError(
            "The names do not fit the trainings.",
            found=f"{len(names)} names ({', '.join(names)}) for {len(folders)} folders",
            expected="as many different names as folders",
        )
    records: list[TrainingRecord] = []
    errors: list[UsageError] = []
    for place in places:
        try:
            records.append(read_training(place))
        except UsageError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        found = "\n            ".join(error.problem for error in errors)
        raise UsageError("Not all folders hold a training.", found=found, expected=errors[0].expected)
    chosen = names if names is not None else distinguishing_names(places)
    return tuple(Compared(name=name, record=record) for name, record in zip(chosen, records, strict=True))


def distinguishing_names(folders: Sequence[Path]) -> list[str]:
    """For each folder the parts of its path in which they differ.

    Fold, trainer, plans, configuration and dataset are looked at first, and folders above them only if those are alike.
    """
    paths = [(*reversed(folder.parts),) for folder in folders]
    near = [(*path[1:2][0].split("__"), path[0], *path[2:3]) if len(path) > 1 else path for path in paths]
    depth = max(len(path) for path in paths)
    far = [(*path[3:], *([""] * (depth - len(path)))) for path in paths]
    width = max(len(parts) for parts in near)
    padded = [(*parts, *([""] * (width - len(parts)))) for parts in near]
    for rows in (padded, far):
        varying = [i for i in range(len(rows[0])) if len({row[i] for row in rows}) > 1]
        names = [" ".join(row[i] for i in varying if row[i]) for row in rows]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def pair_up(trainings: Sequence[Compared]) -> Pairing | None:
    """The results on common cases and classes; None without two validated trainings that have any."""
    validated = [(t.name, t.record.validation) for t in trainings if t.record.validation is not None]
    results = [validation for _, validation in validated]
    if len(results) < 2:
        return None
    by_case = [{case.case: case for case in validation.cases} for validation in results]
    cases = tuple(name for name in by_case[0] if all(name in others for others in by_case))
    classes = tuple(name for name in results[0].class_names if all(name in v.class_names for v in results))
    if not cases or not classes:
        return None
    columns = [[v.class_names.index(name) for name in classes] for v in results]

    def values(attribute: str) -> NDArray[np.float64]:
        return np.array(
            [
                [[getattr(found[case], attribute)[i] for i in chosen] for case in cases]
                for found, chosen in zip(by_case, columns, strict=True)
            ],
            np.float64,
        )

    voxels = np.nan_to_num(values("reference_voxels"))
    other = np.abs(voxels - voxels[:1]).max(axis=(0, 2)) > _VOXEL_TOLERANCE
    return Pairing(
        names=tuple(name for name, _ in validated),
        cases=cases,
        class_names=classes,
        dice=values("dice"),
        all_cases_common=all(len(found) == len(cases) for found in by_case),
        relabelled=tuple(case for case, differs in zip(cases, other, strict=True) if differs),
    )


def mean_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean (percentile method, Efron 1979): cases drawn again and again.

    Args:
        differences: One value for each case; nan for less than three of them.
    """
    if len(differences) < 3:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(0, len(differences), (NUM_RESAMPLINGS, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), INTERVAL_PERCENT)
    return float(low), float(high)


def settings_of(record: TrainingRecord) -> dict[str, dict[str, Any]]:
    """Everything in which trainings can differ, by topic."""
    configuration = record.configuration
    plans: dict[str, Any] = {}
    if record.plans is not None and configuration is not None:
        plans = dict(flattened(record.plans.entries(record.configuration_name)))
        plans["transpose_forward"] = record.plans.transpose_forward
        plans["image_reader_writer"] = record.plans.image_reader_writer
    start = {"weights from": "random values"}
    if record.transfer is not None:
        t = record.transfer
        start = {"weights from": t.source, "policy": t.policy, "share of the network": percent(t.share)}
    what = {"dataset": record.dataset, "configuration": record.configuration_name, "fold": record.fold}
    return {
        "Training": {**what, "trainer": record.trainer, "plans": record.plans_name},
        "Weights at the start": start,
        "Recipe": {name: value for name, value in record.settings.items() if name != "name"},
        "Plans": plans,
        "Environment": {key: record.debug[key] for key in _ENVIRONMENT if key in record.debug},
    }


def flattened(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under names with dots."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def validations(trainings: Sequence[Compared]) -> list[tuple[str, Validation]]:
    """The trainings that are validated."""
    return [(t.name, t.record.validation) for t in trainings if t.record.validation is not None]
