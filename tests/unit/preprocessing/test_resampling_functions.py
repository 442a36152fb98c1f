"""The resampling functions that plans name: nnU-Net's decisions, shapes and numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from nnunet_pt.core.errors import PlansError, UnknownNameError
from nnunet_pt.preprocessing.label_resampling import nearest_labels, vote_labels
from nnunet_pt.preprocessing.resample import (
    RESAMPLERS,
    compute_new_shape,
    no_resampling_hack,
    resample_data_or_seg_to_shape,
    resample_scores_to_labels,
    separate_axis,
)

ISO = (1.0, 1.0, 1.0)
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))
RECORDED = GOLDEN / "numeric" / "resampling.json"


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((3, 1, 1), (1, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((0.24, 1.25, 1.25), (1, 1, 1), None),
        ((1, 1, 1), (1, 1, 5), 2),
        ((1, 4, 1), (5, 1, 1), 1),
        ((1, 1, 1), (4, 4, 1), None),
        ((5, 5, 5), (5, 5, 5), None),
        ((999, 1, 1), (999, 0.5, 0.5), 0),
    ],
)
def test_which_axis_is_treated_separately(current: tuple, new: tuple, axis: int | None) -> None:
    assert separate_axis(current, new, None) == axis
    assert separate_axis(current, new, False) is None


def test_forced_separation_takes_the_coarsest_axis_of_the_image() -> None:
    assert separate_axis((1, 1, 1.1), (9, 1, 1), True) == 2
    assert separate_axis((2, 2, 1), (9, 1, 1), True) is None
    assert separate_axis((3, 1, 1), ISO, None, threshold=2.9) == 0


def test_new_shapes_round_halves_to_even() -> None:
    assert compute_new_shape((35, 161, 146), (4, 1, 1), (4.3, 1, 1)) == (33, 161, 146)
    assert compute_new_shape((5, 7, 9), (1, 1, 1), (2, 2, 2)) == (2, 4, 4)
    assert all(type(n) is int for n in compute_new_shape((5, 7, 9), (1, 1, 1), (2, 2, 2)))


def test_no_axis_disappears() -> None:
    assert compute_new_shape((1, 2, 60), (1, 1, 1), (3, 5, 200)) == (1, 1, 1)


def image(shape: tuple[int, ...] = (2, 6, 9, 8), dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("name", list(RESAMPLERS))
@pytest.mark.parametrize("is_seg", [False, True])
def test_array_of_the_right_shape_is_returned_as_it_is(name: str, is_seg: bool) -> None:
    array = image().astype(np.int16) if is_seg else image()
    assert RESAMPLERS[name](array, [6, 9, 8], (5, 1, 1), ISO, is_seg=is_seg, threads=1) is array


def slow_image(array: np.ndarray, new_shape: tuple[int, ...], axis: int | None, order: int, order_z: int) -> np.ndarray:
    """Channel by channel and slice by slice with scikit-image, in float64, clipped to the range of what was resized."""
    result = []
    for volume in array.astype(np.float64):
        if axis is None:
            result.append(resize(volume, new_shape, order, mode="edge", anti_aliasing=False, clip=True))
            continue
        plane = tuple(n for a, n in enumerate(new_shape) if a != axis)
        slices = [
            resize(s, plane, order, mode="edge", anti_aliasing=False, clip=True) for s in np.moveaxis(volume, axis, 0)
        ]
        stack = np.stack(slices, axis)
        result.append(resize(stack, new_shape, order_z, mode="edge", anti_aliasing=False, clip=False))
    return np.stack(result)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 2), *[st.integers(1, 9)] * 3),
    new_shape=st.tuples(*[st.integers(1, 11)] * 3),
    axis=st.sampled_from([None, 0, 1, 2]),
    order=st.sampled_from([0, 1, 3]),
    order_z=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_images_equal_scikit_image_slice_by_slice(
    shape: tuple[int, ...], new_shape: tuple[int, ...], axis: int | None, order: int, order_z: int, dtype: type
) -> None:
    array = image(shape, dtype)
    spacing = tuple(9.0 if a == axis else 1.0 for a in range(3))
    got = resample_data_or_seg_to_shape(
        array, new_shape, spacing, ISO, order=order, order_z=order_z, force_separate_z=axis is not None
    )
    assert got.dtype == dtype and got.shape == (shape[0], *new_shape)
    wanted = array if shape[1:] == new_shape else slow_image(array, new_shape, axis, order, order_z)
    tolerance = {np.float16: 2e-3, np.float32: 5e-6, np.float64: 1e-6}[dtype]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


def test_overshoot_is_clipped_in_each_slice_not_in_the_volume() -> None:
    steps = np.zeros((1, 2, 4, 4), np.float32)
    steps[0, :, 2:], steps[0, 1] = 1, steps[0, 1] * 100 + 5
    steps[0, 1, 2:] = 105
    apart = resample_data_or_seg_to_shape(steps, (2, 9, 4), (9, 1, 1), ISO, order=3, force_separate_z=True)
    assert apart[0, 0].min() == 0 and apart[0, 0].max() == 1
    assert apart[0, 1].min() == 5 and apart[0, 1].max() == 105
    together = resample_data_or_seg_to_shape(steps, (2, 9, 4), ISO, ISO, order=3)
    assert together.min() == 0 and together.max() == 105
    assert together[0, 0].max() > 1


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("is_seg", [False, True])
def test_number_of_threads_changes_no_bit(threads: int, is_seg: bool) -> None:
    array = image((1, 70, 81, 90))
    array = np.round(array * 2).astype(np.int16) if is_seg else array
    arguments = ((50, 100, 60), ISO, ISO)
    options = {"is_seg": is_seg, "order": 1 if is_seg else 3}
    alone = resample_data_or_seg_to_shape(array, *arguments, **options)
    np.testing.assert_array_equal(resample_data_or_seg_to_shape(array, *arguments, **options, threads=threads), alone)


# ---------------------------------------------------------------------------- label maps


def labels(shape: tuple[int, ...] = (1, 5, 8, 9), dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(1).integers(-1, 4, shape).astype(dtype)


def test_labels_together_and_apart() -> None:
    source = labels()
    got = resample_data_or_seg_to_shape(source, (9, 5, 12), ISO, ISO, is_seg=True, order=1)
    np.testing.assert_array_equal(got[0], vote_labels(source[0], (9, 5, 12)))
    got = resample_data_or_seg_to_shape(source, (9, 5, 12), (5, 1, 1), ISO, is_seg=True, order=1, force_separate_z=None)
    planes = np.stack([vote_labels(plane, (5, 12)) for plane in source[0]])
    np.testing.assert_array_equal(got[0], nearest_labels(planes, (9, 5, 12)))
    got = resample_data_or_seg_to_shape(source, (9, 5, 12), ISO, ISO, is_seg=True, order=0)
    np.testing.assert_array_equal(got[0], nearest_labels(source[0], (9, 5, 12)))


def test_order_z_takes_labels_above_one_half_and_leaves_ties_to_the_background() -> None:
    source = np.array([3, 3, 7, 7], np.int16).reshape(1, 4, 1, 1)
    options = {"is_seg": True, "order": 1, "order_z": 1, "force_separate_z": True}
    got = resample_data_or_seg_to_shape(source, (3, 1, 1), (9, 1, 1), ISO, **options)
    assert got.ravel().tolist() == [3, 0, 7]  # the middle lies half way between 3 and 7
    source[0, 1] = 7
    got = resample_data_or_seg_to_shape(source, (3, 1, 1), (9, 1, 1), ISO, **options)
    assert got.ravel().tolist() == [3, 7, 7]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int8])
@pytest.mark.parametrize("order_z", [0, 1])
def test_labels_of_any_type(dtype: type, order_z: int) -> None:
    source = np.abs(labels())
    options = {"is_seg": True, "order": 1, "order_z": order_z, "force_separate_z": None}
    wanted = resample_data_or_seg_to_shape(source, (9, 5, 12), (5, 1, 1), ISO, **options)
    got = resample_data_or_seg_to_shape(source.astype(dtype), (9, 5, 12), (5, 1, 1), ISO, **options)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wanted)


def test_several_label_maps_at_once() -> None:
    source = labels((3, 5, 8, 9))
    got = resample_data_or_seg_to_shape(source, (9, 5, 12), ISO, ISO, is_seg=True, order=1)
    for channel, volume in zip(got, source, strict=True):
        np.testing.assert_array_equal(channel, vote_labels(volume, (9, 5, 12)))


def test_splines_make_no_sense_for_labels() -> None:
    with pytest.raises(PlansError, match="with order 0"):
        resample_data_or_seg_to_shape(labels(), (9, 5, 12), ISO, ISO, is_seg=True, order=3)


# ---------------------------------------------------------------------------- class scores


@settings(deadline=None, max_examples=40)
@given(
    current=st.sampled_from([ISO, (5.0, 1.0, 1.0), (1.0, 1.0, 6.0)]),
    new_shape=st.tuples(*[st.integers(1, 14)] * 3),
    num_classes=st.integers(1, 5),
    dtype=st.sampled_from([np.float16, np.float64]),
)
def test_scores_to_labels_equal_resampling_then_the_best_class(
    current: tuple, new_shape: tuple[int, ...], num_classes: int, dtype: type
) -> None:
    scores = image((num_classes, 5, 7, 6), dtype)
    resampled = resample_data_or_seg_to_shape(scores, new_shape, current, ISO, order=1, force_separate_z=None)
    got = resample_scores_to_labels(scores, new_shape, current, ISO)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, resampled.argmax(axis=0))


def test_score_types_and_orders() -> None:
    scores = image((300, 2, 2, 2))
    assert resample_scores_to_labels(scores, (2, 2, 2), ISO, ISO).dtype == np.uint16
    with pytest.raises(PlansError, match="order 3"):
        resample_scores_to_labels(scores, (3, 3, 3), ISO, ISO, order=3)


# ---------------------------------------------------------------------------- the other functions


def test_no_resampling() -> None:
    array = image()
    assert no_resampling_hack(array, (1, 2, 3), ISO, ISO, is_seg=True, anything=1) is array


def test_unknown_function_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="resample_torch_fornnunet"):
        RESAMPLERS["resample_torch_for_nnunet"]


def torch_resample(array: np.ndarray, new_shape: tuple[int, ...], current: tuple = ISO, **options: Any) -> np.ndarray:
    return RESAMPLERS["resample_torch_fornnunet"](array, new_shape, current, ISO, threads=1, **options)


def test_torch_images_are_linear_and_nearest_along_a_separate_axis() -> None:
    array = image()
    wanted = resample_data_or_seg_to_shape(array, (9, 5, 12), ISO, ISO, order=1)
    got = torch_resample(array, (9, 5, 12))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    for axis, current in enumerate([(5, 1, 1), (1, 5, 1), (1, 1, 5)]):
        wanted = resample_data_or_seg_to_shape(array, (9, 5, 12), current, ISO, order=1, force_separate_z=True)
        got = torch_resample(array, (9, 5, 12), current, force_separate_z=None)
        np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=f"axis {axis}")


@pytest.mark.parametrize("memory_efficient", [False, True])
def test_torch_labels_agree_where_it_is_clear(memory_efficient: bool) -> None:
    source = np.zeros((1, 8, 10, 12), np.int16)
    source[0, 2:6, 3:8, 2:9], source[0, 3:5, 4:6, 5:8] = 1, 130
    source[0, 0] = -1
    got = torch_resample(
        source, (16, 15, 18), is_seg=True, memefficient_seg_resampling=memory_efficient, force_separate_z=False
    )
    wanted = resample_data_or_seg_to_shape(source, (16, 15, 18), ISO, ISO, is_seg=True, order=1)
    assert got.dtype == np.int16 and got.shape == (1, 16, 15, 18)
    assert set(np.unique(got)) <= {-1, 0, 1, 130}
    assert (got == wanted).mean() > 0.98
    small = torch_resample(
        np.minimum(source, 2), (16, 15, 18), is_seg=True, memefficient_seg_resampling=memory_efficient
    )
    assert small.dtype == np.int8


def test_torch_resampling_restores_the_number_of_threads() -> None:
    import torch

    before = torch.get_num_threads()
    RESAMPLERS["resample_torch_fornnunet"](image(), (3, 3, 3), ISO, ISO, threads=before + 1)
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------------------- recorded results of nnU-Net


def recorded_cases() -> list[Any]:
    if not RECORDED.is_file():
        reason = f"there are no recorded results in {RECORDED.parent} (CONFORMANCE_GOLDEN)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(case, id=case["id"]) for case in json.loads(RECORDED.read_text())]


@pytest.mark.parametrize("case", recorded_cases())
def test_recorded_results(case: dict[str, Any]) -> None:
    with np.load(RECORDED.with_suffix(".npz")) as arrays:
        source, wanted = arrays[f"{case['id']}_in"], arrays[f"{case['id']}_out"]
    got = resample_data_or_seg_to_shape(
        source, case["new_shape"], case["current_spacing"], case["new_spacing"], **case["kwargs"]
    )
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    if case["kwargs"]["is_seg"]:
        np.testing.assert_array_equal(got, wanted)
    else:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
