"""Distances between surfaces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.evaluation.surface import nsd_name, surface_metrics


def surface_points(labels: np.ndarray, group: Sequence[int], known: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels of a class with a known neighbour that is not of it, or beyond the border, one voxel at a time."""
    inside = {tuple(p) for p in np.argwhere(np.isin(labels, group) & known).tolist()}
    found = []
    for point in sorted(inside):
        for axis, step in itertools.product(range(labels.ndim), (-1, 1)):
            neighbour = tuple(v + step * (a == axis) for a, v in enumerate(point))
            beyond = not all(0 <= v < size for v, size in zip(neighbour, labels.shape, strict=True))
            if beyond or (neighbour not in inside and known[neighbour]):
                found.append(point)
                break
    return found


def by_pairs(
    reference: np.ndarray,
    prediction: np.ndarray,
    label: LabelValue,
    spacing: Sequence[float],
    tolerance: float,
    ignore: int | None,
) -> dict[str, float]:
    group = [label] if isinstance(label, int) else list(label)
    known = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    first, second = (surface_points(a, group, known) for a in (reference, prediction))
    name = nsd_name(tolerance)
    if not first or not second:
        return {"HD95_mm": math.nan, name: 0.0 if first or second else math.nan}
    directed = []
    for start, target in ((first, second), (second, first)):
        scaled = [tuple(v * s for v, s in zip(p, spacing, strict=True)) for p in target]
        directed.append(
            [min(math.dist([v * s for v, s in zip(p, spacing, strict=True)], q) for q in scaled) for p in start]
        )
    within = sum(d <= tolerance + 1e-9 for ds in directed for d in ds)
    return {
        "HD95_mm": max(float(np.percentile(d, 95)) for d in directed),
        name: within / (len(first) + len(second)),
    }


@given(
    data=st.data(),
    shape=st.sampled_from([(4, 5, 6), (1, 5, 6), (7, 6), (3, 1, 4), (1, 1, 1), (2, 2, 2)]),
    ignore=st.sampled_from([None, 4]),
    kind=st.sampled_from([np.float32, np.uint8]),
)
@settings(deadline=None, max_examples=80)
def test_figures_are_those_of_comparing_every_pair_of_points(
    data: st.DataObject, shape: tuple[int, ...], ignore: int | None, kind: type
) -> None:
    values = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])
    reference, prediction = (data.draw(hnp.arrays(kind, shape, elements=values)) for _ in range(2))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.7, 1.0, 3.0])] * len(shape)))
    tolerance = data.draw(st.sampled_from([0.5, 1.0, 2.2]))
    labels: Sequence[LabelValue] = (1, 2, (1, 2), (2, 3), 9)
    made = surface_metrics(reference, prediction, labels, spacing, tolerances_mm=(tolerance,), ignore_label=ignore)
    flat = [size != 1 for size in shape] if max(shape) > 1 else [True] + [False] * (len(shape) - 1)
    squeezed = [size for size, kept in zip(shape, flat, strict=True) if kept]
    mm = [s for s, kept in zip(spacing, flat, strict=True) if kept]
    for label in labels:
        expected = by_pairs(reference.reshape(squeezed), prediction.reshape(squeezed), label, mm, tolerance, ignore)
        assert made[label] == pytest.approx(expected, nan_ok=True), label


def ball(radius: float, centre: Sequence[float], size: int = 24) -> np.ndarray:
    grid = np.indices((size, size, size)) - np.reshape(centre, (3, 1, 1, 1))
    return (np.square(grid).sum(0) <= radius**2).astype(np.uint8)


def test_shifts_along_an_axis_are_measured_in_mm_of_that_axis() -> None:
    slab, moved = np.zeros((2, 20, 8, 8), np.uint8)
    slab[5:10], moved[8:13] = 1, 1
    made = surface_metrics(slab, moved, (1,), (2.5, 1.0, 1.0), tolerances_mm=(7.4, 7.6))[1]
    assert made["HD95_mm"] == 7.5
    assert made["NSD_7.4mm"] < 1
    assert made["NSD_7.6mm"] == 1


def test_equal_structures_have_no_distance() -> None:
    made = surface_metrics(ball(6, (11, 12, 12)), ball(6, (11, 12, 12)), (1,), (1, 1, 1))[1]
    assert made == {"HD95_mm": 0.0, "NSD_1mm": 1.0}


def test_the_worse_direction_counts() -> None:
    """A few far voxels in the prediction: all of the reference is matched, the prediction is not."""
    reference = ball(6, (12, 12, 12))
    prediction = reference.copy()
    prediction[0, :10, :20] = 1
    made = surface_metrics(reference, prediction, (1,), (1, 1, 1))[1]
    swapped = surface_metrics(prediction, reference, (1,), (1, 1, 1))[1]
    assert made == swapped
    assert made["HD95_mm"] > 6


@pytest.mark.parametrize(("in_reference", "in_prediction"), [(True, False), (False, True), (False, False)])
def test_missing_structures(in_reference: bool, in_prediction: bool) -> None:
    reference, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    reference[1, 1, 1], prediction[2, 2, 2] = in_reference, in_prediction
    made = surface_metrics(reference, prediction, (1,), (1, 1, 1), tolerances_mm=(1, 2))[1]
    assert math.isnan(made["HD95_mm"])
    share = 0.0 if in_reference or in_prediction else math.nan
    assert [made["NSD_1mm"], made["NSD_2mm"]] == pytest.approx([share, share], nan_ok=True)


def test_voxels_nobody_annotated_make_no_surface() -> None:
    """Only slice 2 is annotated: the prediction agrees there, and nobody knows about the rest."""
    prediction = ball(6, (12, 12, 12))
    reference = np.full_like(prediction, 9)
    reference[10] = prediction[10]
    made = surface_metrics(reference, prediction, (1,), (1, 1, 1), ignore_label=9)[1]
    assert made == {"HD95_mm": 0.0, "NSD_1mm": 1.0}
    reference[10, 12, 8:17] = 0
    assert surface_metrics(reference, prediction, (1,), (1, 1, 1), ignore_label=9)[1]["NSD_1mm"] < 1


def test_rounded_spacings_do_not_decide() -> None:
    one, other = np.zeros((2, 9, 9, 9), np.uint8)
    one[3:6, 3:6, 3:6], other[4:7, 3:6, 3:6] = 1, 1
    for spacing in (0.9999998, 1.0, 1.0000002):
        assert surface_metrics(one, other, (1,), (spacing,) * 3)[1]["NSD_1mm"] == 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        surface_metrics(np.zeros((2, 3)), np.zeros((3, 2)), (1,), (1, 1))
    with pytest.raises(ValueError, match="2 spacings for 3 axes"):
        surface_metrics(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), (1,), (1, 1))
