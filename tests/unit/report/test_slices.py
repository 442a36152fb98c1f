from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.report.slices import (
    CT_WINDOW,
    IGNORED_COLOUR,
    class_colour,
    class_map,
    class_members,
    css_colour,
    intensity_window,
    spread_sample,
    three_planes,
)


def test_neighbouring_classes_have_different_colours() -> None:
    colours = np.array([class_colour(i) for i in range(100)], int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60
    assert css_colour((255, 0, 10)) == "#ff000a"


def test_labels_are_drawn_as_they_are() -> None:
    labels = Labels(labels={"background": 0, "b": 2, "a": 1, "ignore": 3})
    drawn = class_map(np.array([[[0, 1, 2, 3, 9]]]), labels)
    assert drawn.tolist() == [[[0, 1, 2, 3, 0]]]
    assert labels.class_names == ("a", "b")


def test_of_regions_the_smaller_ones_lie_on_top_whatever_their_order() -> None:
    regions = {"whole": (1, 2, 4), "core": (2, 4), "enhancing": 4}
    for names in permutations(regions):
        labels = Labels(labels={"background": 0, **{n: regions[n] for n in names}}, regions_class_order=(1, 2, 4))
        drawn = class_map(np.array([[[0, 1, 2, 4]]]), labels)[0, 0]
        assert [labels.class_names[i - 1] for i in drawn[1:]] == ["whole", "core", "enhancing"]
        assert class_members(labels)[labels.class_names.index("core")] == (2, 4)


def test_window() -> None:
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8] = np.linspace(100, 200, 600, dtype=np.float32).reshape(6, 10, 10)
    low, high = intensity_window(image, "MR")
    assert low == 0  # the background stays black
    assert 195 < high <= 200
    assert intensity_window(image, "ct") == CT_WINDOW
    low, high = intensity_window(np.full((3, 3, 3), np.nan), "MR")
    assert low < high
    low, high = intensity_window(np.full((3, 3, 3), 5.0), "MR")
    assert low < high


def test_a_sample_is_spread_over_all_columns() -> None:
    columns = np.tile(np.arange(512), (512, 8, 1))
    assert len(np.unique(spread_sample(columns, 10_000))) == 512
    assert spread_sample(columns, 10**9).size == columns.size


LETTERS = ["".join(letters) for order in permutations(("SI", "AP", "RL")) for letters in product(*order)]


@pytest.mark.parametrize("orientation", LETTERS)
def test_every_orientation_gives_the_same_picture(orientation: str) -> None:
    """An image that is stored differently, with an orientation that says so, looks the same."""
    random = np.random.default_rng(0)
    upright = random.random((1, 6, 7, 8)).astype(
        np.float32
    )  # superior -> inferior, anterior -> posterior, right -> left
    classes = (random.random((6, 7, 8)) > 0.8).astype(np.uint16)
    spacing = [3.0, 2.0, 1.0]
    order = [next(i for i, pair in enumerate(("SI", "AP", "RL")) if letter in pair) for letter in orientation]
    flips = tuple(slice(None, None, 1 if letter in "IPL" else -1) for letter in orientation)
    stored = upright.transpose(0, *(a + 1 for a in order))[(slice(None), *flips)]
    stored_classes = classes.transpose(order)[flips]
    stored_spacing = [spacing[a] for a in order]
    expected = three_planes(upright, classes, spacing, (0, 1), num_classes=1, orientation="IPL")
    shown = three_planes(stored, stored_classes, stored_spacing, (0, 1), num_classes=1, orientation=orientation)
    assert np.array_equal(shown, expected)


def test_the_planes_go_through_the_foreground_in_true_proportions() -> None:
    image = np.zeros((1, 10, 20, 40), np.float32)
    classes = np.zeros((10, 20, 40), np.uint16)
    classes[8, 15, 5] = 1
    shown = three_planes(image, classes, (4.0, 2.0, 1.0), (0, 1), num_classes=1, max_width=132)
    assert shown.shape == (40, 132, 3)  # 40 x 40, 40 x 40 and 40 x 40 mm with two gaps, one pixel for a mm
    colour = np.array(class_colour(0))
    for left in (0, 46, 92):
        assert (shown[:, left : left + 40] == colour).all(axis=-1).any()


def test_what_is_not_annotated_is_grey_and_what_is_not_finite_does_no_harm() -> None:
    image = np.full((1, 4, 4, 4), np.nan, np.float32)
    image[0, 0] = np.inf
    classes = np.full((4, 4, 4), 2, np.uint16)
    classes[:, :2] = 1
    shown = three_planes(image, classes, (1, 1, 1), (0, 1), num_classes=1)
    assert (shown == np.array(IGNORED_COLOUR)).all(axis=-1).any()
    assert (shown == np.array(class_colour(0))).all(axis=-1).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_2d_image_is_shown_as_it_is(channels: int) -> None:
    image = np.zeros((channels, 1, 30, 50), np.float32)
    image[0] = 1
    shown = three_planes(image, np.zeros((1, 30, 50), np.uint16), (999, 1, 1), (0, 1), num_classes=1)
    assert shown.shape == (120, 200, 3)
    assert shown[0, 0].tolist() == ([255, 0, 0] if channels == 3 else [255, 255, 255])
