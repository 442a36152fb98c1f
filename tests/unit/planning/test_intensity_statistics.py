"""Statistics of foreground intensities equal those of nnU-Net's sample, of which only the counts are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_pt.planning import intensity_statistics
from nnunet_pt.planning.intensity_statistics import ValueCounts, draw_foreground, summarize
from nnunet_pt.plans.fingerprint import IntensityProperties

FIELDS = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")


def nnunet_draws(channels: Sequence[np.ndarray], num_draws: int) -> list[np.ndarray]:
    """The sample of one case as nnU-Net takes it."""
    random = np.random.RandomState(1234)
    return [random.choice(c, num_draws, replace=True) if len(c) else np.empty(0, np.float32) for c in channels]


def nnunet_statistics(values: np.ndarray) -> dict[str, float]:
    values = values.astype(np.float64)
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    return {
        "max": values.max(),
        "mean": values.mean(),
        "median": median,
        "min": values.min(),
        "percentile_00_5": low,
        "percentile_99_5": high,
        "std": values.std(),
    }


def assert_equal(properties: IntensityProperties | None, values: np.ndarray) -> None:
    assert properties is not None
    wanted = nnunet_statistics(values)
    scale = max(abs(wanted["min"]), abs(wanted["max"]))
    step = float(np.finfo(np.float32).smallest_subnormal)  # the tiniest numbers have no more digits than that
    for name in FIELDS:
        exact = 0 if name in ("max", "min") else 1e-6 * scale + step
        assert getattr(properties, name) == pytest.approx(wanted[name], rel=0, abs=exact), name


def as_sample(counts: ValueCounts) -> np.ndarray:
    assert counts.values.dtype == np.float32 and counts.counts.dtype == np.int64
    assert (np.diff(counts.values) > 0).all() and (counts.counts > 0).all()
    return np.repeat(counts.values, counts.counts)


KINDS = {
    "continuous": lambda random, n: random.normal(0, 1000, n),
    "integers": lambda random, n: random.integers(-1024, 1500, n),
    "few values": lambda random, n: random.choice([-1.5, 0, 0, 2, 7], n),
    "negative": lambda random, n: -random.uniform(1, 9, n),
    "tiny": lambda random, n: random.normal(0, 1e-39, n),
    "huge": lambda random, n: random.normal(0, 1e37, n),
    "constant": lambda _, n: np.full(n, 3.25),
    "zeros of both signs": lambda random, n: random.choice([-0.0, 0.0], n),
}


def values_of(kind: str, number: int, seed: int) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), number).astype(np.float32)


@settings(deadline=None, max_examples=120)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3),
    number=st.integers(0, 60),
    num_draws=st.integers(1, 120),
    seed=st.integers(0, 999),
)
def test_draws_are_nnunets(kinds: list[str], number: int, num_draws: int, seed: int) -> None:
    channels = [values_of(kind, number, seed + i) for i, kind in enumerate(kinds)]
    for drawn, wanted in zip(draw_foreground(channels, num_draws), nnunet_draws(channels, num_draws), strict=True):
        np.testing.assert_array_equal(as_sample(drawn), np.sort(wanted))


def test_channels_share_one_stream() -> None:
    values = values_of("continuous", 50, 0)
    first, second = draw_foreground([values, values], 20)
    assert not np.array_equal(as_sample(first), as_sample(second))


@pytest.mark.parametrize("portion", [1, 7, 64, 1000])
def test_portions_do_not_show(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = [values_of("continuous", n, n) for n in (30, 31, 64)]
    monkeypatch.setattr(intensity_statistics, "_DRAWS_AT_ONCE", portion)
    for drawn, wanted in zip(draw_foreground(channels, 500), nnunet_draws(channels, 500), strict=True):
        np.testing.assert_array_equal(as_sample(drawn), np.sort(wanted))


def test_channels_are_drawn_one_after_another() -> None:
    """Only one channel's foreground needs to be in memory at a time."""
    seen = []

    def channels() -> object:
        for index in range(3):
            seen.append(index)
            yield values_of("integers", 10, index)

    assert len(draw_foreground(channels(), 5)) == 3 and seen == [0, 1, 2]


@settings(deadline=None, max_examples=150)
@given(
    cases=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 40)), min_size=1, max_size=5),
    num_draws=st.integers(1, 90),
    seed=st.integers(0, 999),
)
def test_summary_equals_statistics_of_all_draws(cases: list[tuple[str, int]], num_draws: int, seed: int) -> None:
    foreground = [values_of(kind, number, seed + i) for i, (kind, number) in enumerate(cases)]
    drawn = [draw_foreground([values], num_draws)[0] for values in foreground]
    properties = summarize(drawn.__getitem__, len(drawn))
    everything = np.concatenate([nnunet_draws([values], num_draws)[0] for values in foreground])
    if not len(everything):
        assert properties is None
    else:
        assert_equal(properties, everything)


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
        min_size=1,
        max_size=40,
    ),
    cut=st.integers(0, 40),
)
def test_any_finite_values(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    parts = [intensity_statistics._counted(p, np.ones(len(p), np.int64)) for p in np.split(array, [cut]) if len(p)]
    assert_equal(summarize(parts.__getitem__, len(parts)), array)


def test_zeros_of_both_signs_are_one_value() -> None:
    """They lie in different intervals by their bits; an image multiplied by -1 has both."""
    parts = [
        intensity_statistics._counted(np.array(values, np.float32), np.ones(len(values), np.int64))
        for values in ([-0.0, -0.0, 5.0], [0.0, 0.0, -5.0], [0.0, -0.0])
    ]
    properties = summarize(parts.__getitem__, 3)
    assert properties is not None and properties.median == 0
    assert_equal(properties, np.concatenate([as_sample(p) for p in parts]))


def test_mean_and_deviation_of_many_large_values_stay_exact() -> None:
    values = np.array([1e6, 1e6 + 1, 1e6 + 2], np.float32)
    case = ValueCounts(values=values, counts=np.array([10**12, 10**12, 10**12]))
    properties = summarize(lambda _: case, 4)
    assert properties is not None
    assert properties.mean == 1e6 + 1 and properties.median == 1e6 + 1
    assert properties.std == pytest.approx(np.sqrt(2 / 3), rel=1e-6)


def test_numbers_are_those_that_float32_can_hold() -> None:
    case = ValueCounts(values=np.array([0.1, 0.7], np.float32), counts=np.array([1, 2]))
    properties = summarize(lambda _: case, 1)
    assert properties is not None
    for name in FIELDS:
        value = getattr(properties, name)
        assert type(value) is float and value == float(np.float32(value))


def test_no_foreground_anywhere() -> None:
    nothing = ValueCounts(values=np.empty(0, np.float32), counts=np.empty(0, np.int64))
    assert summarize(lambda _: nothing, 3) is None
