"""Labels: derived properties (values from recorded datasets) and predictions to segmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_pt.core.errors import DatasetError
from nnunet_pt.dataset.labels import Labels

PLAIN = Labels(labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
BRATS = Labels(
    labels={"background": 0, "whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": 4}, regions_class_order=(2, 1, 4)
)


def test_plain_labels_with_ignore_label() -> None:
    assert PLAIN.all_labels == (0, 1, 2)
    assert PLAIN.foreground_labels == (1, 2)
    assert not PLAIN.has_regions and PLAIN.regions == () and PLAIN.foreground_regions == ()
    assert PLAIN.ignore_label == 3 and PLAIN.has_ignore_label
    assert PLAIN.num_segmentation_heads == 3
    assert PLAIN.num_label_entries == 4
    assert PLAIN.class_location_keys == (1, 2, (-1, 0, 1, 2))


def test_regions() -> None:
    assert BRATS.all_labels == (0, 1, 2, 3, 4)
    assert BRATS.has_regions and BRATS.regions == ((1, 2, 3, 4), (1, 3, 4), 4)
    assert BRATS.num_segmentation_heads == 3
    assert BRATS.class_location_keys == ((1, 2, 3, 4), (1, 3, 4), 4)
    assert BRATS.ignore_label is None


def test_list_of_one_value_is_no_region() -> None:
    labels = Labels(labels={"background": 0, "a": (1,)})
    assert not labels.has_regions
    assert labels.class_location_keys == (1,)


def test_regions_with_ignore_label_skip_it() -> None:
    labels = Labels(labels={"background": 0, "ab": (1, 2), "b": 2, "ignore": 3}, regions_class_order=(1, 2))
    assert labels.class_location_keys == ((1, 2), 2, (-1, 0, 1, 2))


def test_contradictions_are_all_named() -> None:
    with pytest.raises(DatasetError, match=r"background.*ignore.*regions_class_order"):
        Labels(labels={"a": (1, 2), "ignore": 7})


def test_later_regions_lie_on_top() -> None:
    probabilities = np.array([[0.9, 0.9, 0.4], [0.6, 0.4, 0.1], [0.51, 0.2, 0.5]], np.float32).reshape(3, 3, 1, 1)
    result = BRATS.probabilities_to_segmentation(probabilities)
    assert result.dtype == np.uint16
    assert result.ravel().tolist() == [4, 2, 0]
    as_tensor = BRATS.probabilities_to_segmentation(torch.from_numpy(probabilities))
    assert as_tensor.dtype == torch.int16
    assert as_tensor.ravel().tolist() == [4, 2, 0]


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels for 3"):
        PLAIN.probabilities_to_segmentation(np.zeros((2, 1, 1, 1)))


logits = arrays.arrays(
    np.float32, st.tuples(st.just(3), *[st.integers(1, 4)] * 3), elements=st.floats(-90, 90, width=32)
)


@given(logits)
def test_labels_are_the_first_largest_channel(values: Any) -> None:
    expected = np.argmax(values, axis=0)
    for function in (PLAIN.logits_to_segmentation, PLAIN.probabilities_to_segmentation):
        result = function(values)
        assert result.dtype == np.int64
        assert np.array_equal(result, expected)
    chosen = PLAIN.logits_to_segmentation(torch.from_numpy(values)).numpy()
    assert np.array_equal(np.take_along_axis(values, chosen[None], 0)[0], values.max(0))


@given(logits)
def test_region_logits_go_through_the_sigmoid(values: Any) -> None:
    expected = BRATS.probabilities_to_segmentation(torch.from_numpy(values).sigmoid().numpy())
    clear = (np.abs(values) > 1e-5).all(0)  # at 0.5 the last bit decides
    assert np.array_equal(BRATS.logits_to_segmentation(values)[clear], expected[clear])
    assert np.array_equal(BRATS.logits_to_segmentation(torch.from_numpy(values)).numpy()[clear], expected[clear])


@settings(max_examples=30)
@given(arrays.arrays(np.int16, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 3)))
def test_one_hot_and_back(segmentation: Any) -> None:
    stacked = PLAIN.one_hot(segmentation)
    assert stacked.shape == (2, *segmentation.shape) and stacked.dtype == segmentation.dtype
    background = 1 - stacked.sum(0, keepdims=True)
    back = PLAIN.probabilities_to_segmentation(np.concatenate([background, stacked]))
    assert np.array_equal(back, np.where(segmentation == 3, 0, segmentation))
    assert np.array_equal(PLAIN.one_hot(torch.from_numpy(segmentation)).numpy(), stacked)
