"""Which cases of a dataset stand out, and in what; and which of all cases to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from nnunet_pt.report.dataset_cases import CaseFacts
from nnunet_pt.report.outliers import Outlier, find_outliers

GROUP_SHARE: Final = 0.1
LEAST_GROUP: Final = 5
LEAST_SIZE_DIFFERENCE: Final = 0.1  # shares of the usual: smaller differences are not worth a look
LEAST_VOLUME_DIFFERENCE: Final = 0.25
LEAST_INTENSITY_DIFFERENCE: Final = 0.25  # of the usual interquartile range


def dataset_outliers(
    cases: Sequence[CaseFacts],
    volumes: Mapping[str, Sequence[float]],
    volume_unit: str,
    channel_names: Sequence[str],
    *,
    flat: bool,
) -> list[Outlier]:
    """Cases with unusual geometry, intensities or volumes.

    Args:
        cases: All cases.
        volumes: Class -> volume in each case.
        volume_unit: Unit of the volumes.
        channel_names: Of the dataset.
        flat: Whether all cases are 2D images, which are compared in pixels.

    Returns:
        Outliers, strongest first.
    """
    names = [case.case for case in cases]
    found: list[Outlier] = []
    for axis in (1, 2) if flat else (0, 1, 2):
        if flat:
            shapes = {case.case: float(case.shape[axis]) for case in cases}
            found += find_outliers(shapes, f"pixels along axis {axis}", least=LEAST_SIZE_DIFFERENCE)
            continue
        spacings = {case.case: case.spacing[axis] for case in cases}
        found += find_outliers(spacings, f"spacing along axis {axis}", unit="mm", least=LEAST_SIZE_DIFFERENCE)
        extents = {case.case: case.extent[axis] for case in cases}
        found += find_outliers(extents, f"size along axis {axis}", unit="mm", least=LEAST_SIZE_DIFFERENCE)
    for index, channel in enumerate(channel_names):
        measured = {case.case: case.channels[index] for case in cases if index < len(case.channels)}
        spreads = {case: facts.spread for case, facts in measured.items()}
        usual = float(np.nanmedian(list(spreads.values()))) if np.isfinite(list(spreads.values())).any() else 0.0
        found += find_outliers(
            {case: facts.median for case, facts in measured.items()},
            f"median intensity of {channel}",
            ratio=False,
            least=LEAST_INTENSITY_DIFFERENCE * usual,
        )
        found += find_outliers(spreads, f"spread of intensities of {channel}", least=LEAST_VOLUME_DIFFERENCE)
    what, unit = ("area", "pixels") if flat else ("volume", volume_unit)
    for name, values in volumes.items():
        by_case = dict(zip(names, values, strict=True))
        found += find_outliers(by_case, f"{what} of {name}", unit=unit, least=LEAST_VOLUME_DIFFERENCE)
    return sorted(found, key=lambda outlier: -abs(outlier.score))


def groups(outliers: Sequence[Outlier], num_cases: int) -> dict[str, list[Outlier]]:
    """Quantities in which so many cases stand out that there seem to be two kinds of cases.

    Args:
        outliers: Of a dataset.
        num_cases: Of the dataset.

    Returns:
        Quantity -> its outliers.
    """
    by_quantity: dict[str, list[Outlier]] = {}
    for outlier in outliers:
        by_quantity.setdefault(outlier.quantity, []).append(outlier)
    limit = max(LEAST_GROUP, GROUP_SHARE * num_cases)
    return {quantity: members for quantity, members in by_quantity.items() if len(members) >= limit}


def cases_to_draw(names: Sequence[str], outliers: Sequence[Outlier], number: int | None) -> list[str]:
    """Outliers, of all kinds, but at most half of the pictures; the rest evenly spread over the dataset.

    Args:
        names: All cases.
        outliers: Strongest first.
        number: How many to choose; None for all.

    Returns:
        Cases in the order of the dataset.
    """
    if number is None or number >= len(names):
        return list(names)
    turns: dict[str, int] = {}
    ranked = []
    for outlier in outliers:  # the strongest of every kind come before the second of any
        turns[outlier.quantity] = turns.get(outlier.quantity, 0) + 1
        ranked.append((turns[outlier.quantity], outlier.case))
    chosen = set(list(dict.fromkeys(case for _, case in sorted(ranked, key=lambda r: r[0])))[: number // 2])
    others = [name for name in names if name not in chosen]
    places = np.linspace(0, len(others) - 1, number - len(chosen)).round().astype(int)
    chosen |= {others[place] for place in places.tolist()}
    return [name for name in names if name in chosen]
