"""Foreground intensities of a whole dataset, from as many samples as nnU-Net takes, in little memory.

nnU-Net draws 10^8 / cases voxels with replacement from each case's foreground, puts those of all cases into one array
and takes mean, standard deviation and percentiles of it. The same numbers follow from *how often* each distinct value
was drawn: a case is reduced to its distinct values and their counts, and percentiles are found in two passes over these
- which of 65,536 intervals the wanted rank falls into, then which value within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.plans.fingerprint import IntensityProperties

SEED = 1234
_DRAWS_AT_ONCE = 1 << 20
_INTERVALS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCounts:
    """Distinct values in ascending order and how often each was drawn.

    Attributes:
        values: float32.
        counts: int64, above zero.
    """

    values: NDArray[np.float32]
    counts: NDArray[np.int64]


def draw_foreground(channels: Iterable[NDArray[np.float32]], num_draws: int) -> list[ValueCounts]:
    """Draw from the foreground of one case as nnU-Net does: one random stream, channel after channel.

    Args:
        channels: Foreground values of each channel in C order, shape (n,).
        num_draws: Number of draws, with replacement.

    Returns:
        For each channel the values drawn; empty if there is no foreground.
    """
    random = np.random.RandomState(SEED)
    result = []
    for values in channels:
        if not len(values):
            result.append(ValueCounts(values=np.empty(0, np.float32), counts=np.empty(0, np.int64)))
        elif len(values) <= num_draws:
            result.append(_counted(values, _draw_counts(random, len(values), num_draws)))
        else:
            drawn = values[random.randint(0, len(values), size=num_draws)]
            result.append(_counted(drawn, np.ones(num_draws, dtype=np.int64)))
    return result


def _draw_counts(random: np.random.RandomState, population: int, num_draws: int) -> NDArray[np.int64]:
    """How often each of ``population`` elements comes up; the stream does not depend on the size of the portions."""
    counts = np.zeros(population, dtype=np.int64)
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        indices = random.randint(0, population, size=min(_DRAWS_AT_ONCE, num_draws - start))
        counts += np.bincount(indices, minlength=population)
    return counts


def _counted(values: NDArray[np.float32], counts: NDArray[np.int64]) -> ValueCounts:
    values = values + np.float32(0)  # makes -0 the same as 0 in its bits, too
    order = np.argsort(values)
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    totals = np.add.reduceat(counts, starts)
    drawn = totals > 0
    return ValueCounts(values=values[starts][drawn], counts=totals[drawn])


def summarize(load: Callable[[int], ValueCounts], num_cases: int) -> IntensityProperties | None:
    """Statistics over the draws of all cases.

    Args:
        load: Gives the draws of a case by index; called three times for each case.
        num_cases: Number of cases.

    Returns:
        The statistics, rounded to float32 as nnU-Net's are; None if no case has foreground.
    """
    total, weighted = 0, 0.0
    low, high = math.inf, -math.inf
    histogram = np.zeros(_INTERVALS, dtype=np.int64)
    for index in range(num_cases):
        case = load(index)
        if not len(case.values):
            continue
        total += int(case.counts.sum())
        weighted += float(case.values.astype(np.float64) @ case.counts)
        low, high = min(low, float(case.values[0])), max(high, float(case.values[-1]))
        histogram += np.bincount(_interval(case.values), weights=case.counts, minlength=_INTERVALS).astype(np.int64)
    if total == 0:
        return None
    mean = weighted / total
    variance = 0.0
    for case in map(load, range(num_cases)):
        variance += float(((case.values.astype(np.float64) - mean) ** 2) @ case.counts)
    median, low_percentile, high_percentile = _percentiles(load, num_cases, histogram, (50.0, 0.5, 99.5))
    return IntensityProperties(
        max=_single(high),
        mean=_single(mean),
        median=_single(median),
        min=_single(low),
        percentile_00_5=_single(low_percentile),
        percentile_99_5=_single(high_percentile),
        std=_single(math.sqrt(variance / total)),
    )


def _single(value: float) -> float:
    return float(np.float32(value))


def _interval(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of the interval of each value; intervals are in ascending order and share the upper half of their bits."""
    bits = values.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> 16).astype(np.int64)


def _percentiles(
    load: Callable[[int], ValueCounts], num_cases: int, histogram: NDArray[np.int64], percents: Sequence[float]
) -> list[float]:
    """Percentiles with linear interpolation between the two nearest ranks."""
    cumulated = np.cumsum(histogram)
    positions = [percent / 100 * (int(cumulated[-1]) - 1) for percent in percents]
    ranks = sorted({rank for p in positions for rank in (math.floor(p), math.ceil(p))})
    interval_of = {rank: int(np.searchsorted(cumulated, rank, side="right")) for rank in ranks}
    wanted = sorted(set(interval_of.values()))
    values, counts = [], []
    for case in map(load, range(num_cases)):
        chosen = np.isin(_interval(case.values), wanted)
        values.append(case.values[chosen])
        counts.append(case.counts[chosen])
    pooled = _counted(np.concatenate(values), np.concatenate(counts))
    intervals = _interval(pooled.values)
    value_at = {}
    for rank, interval in interval_of.items():
        inside = intervals == interval
        before = int(cumulated[interval - 1]) if interval else 0
        within = np.searchsorted(np.cumsum(pooled.counts[inside]), rank - before, side="right")
        value_at[rank] = float(pooled.values[inside][within])
    result = []
    for position in positions:
        below, above = value_at[math.floor(position)], value_at[math.ceil(position)]
        result.append(below + (above - below) * (position - math.floor(position)))
    return result
