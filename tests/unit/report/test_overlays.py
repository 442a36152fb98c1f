"""Pictures of cases with their annotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.io import imread

from nnunet_pt.core.errors import DatasetError, UnknownNameError, UsageError
from nnunet_pt.report.overlays import COLOURS, OverlayRequest, most_informative_slice, overlay, plot_overlays


def draw(small: Any, **options: Any) -> Any:
    request = OverlayRequest(
        dataset=7, output=small.root / "png", **{"num_processes": 0, "progress": False, "use_raw": True, **options}
    )
    return plot_overlays(request, small.workspace)


@pytest.mark.parametrize(
    ("slices", "chosen"),
    [
        # Voxels of the labels 1, 2... in each slice, and what nnU-Net 2.8.1 shows
        ([[64, 40, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], 0),
        ([[64, 40, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]], 5),
        ([[0, 16, 0, 32, 0, 0], [0, 0, 32, 0, 0, 0], [0, 0, 0, 0, 4, 0]], 2),
        ([[0, 4, 0], [2, 0, 7], [0, 5, 5], [0, 0, 2]], 2),
        ([[0, 0, 8, 8]], 2),
        ([[0, 0, 0]], 0),
        ([[0, 0, 4], [0, 4, 0]], 2),
    ],
)
def test_the_slice_is_that_of_nnunet(slices: list[list[int]], chosen: int) -> None:
    labels = np.zeros((len(slices[0]), 100), np.int32)
    for index, counts in enumerate(zip(*slices, strict=True)):
        values = np.repeat(np.arange(1, len(counts) + 1), counts)
        labels[index, : len(values)] = values
    assert most_informative_slice(labels.reshape(-1, 10, 10)) == chosen


def test_colours_are_those_of_nnunet() -> None:
    image, labels = np.zeros((1, 15)), np.arange(15)[None]
    image[0, 0] = 1
    made = overlay(image, labels, 1.0)
    assert made[0, 0].tolist() == [255, 255, 255]
    assert made[0, 1:].tolist() == COLOURS[1:].tolist()
    assert overlay(image, labels, 0.6)[0, :4].tolist() == [[255] * 3, [40, 59, 129], [147, 78, 29], [36, 108, 45]]
    assert overlay(image, labels, 3)[0, :2].tolist() == [[85] * 3, [67, 99, 216]]
    assert np.array_equal(overlay(image, labels * 7 + 3), overlay(image, labels))  # only the order counts


def test_more_classes_than_colours() -> None:
    image, labels = np.zeros((1, 40)), np.arange(40)[None]
    image[0, 0] = 1
    made = overlay(image, labels, 1.0)
    assert made[0, 15].tolist() == made[0, 1].tolist() == COLOURS[1].tolist()
    assert (made[0, 1:].max(1) > 0).all()


def test_constant_images_show_their_labels() -> None:
    made = overlay(np.full((4, 4), 7.0), np.arange(2).repeat(8).reshape(4, 4), 1.0)
    assert made[0, 0].tolist() == [0, 0, 0]
    assert made[3, 0].max() == 255
    assert not overlay(np.zeros((2, 2)), np.zeros((2, 2), np.int32)).any()


def test_raw_cases(small: Any) -> None:
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    label = np.zeros((5, 6, 7), np.uint8)
    label[3, 2:4, 2:5] = 1
    small.add("one", [image], label)
    small.add("two")
    result = draw(small)
    assert result.cases == ("one", "two")
    assert "2 overlays" in result.summary()
    picture = imread(small.root / "png" / "one.png")
    assert picture.shape == (6, 7, 4)
    assert (picture[..., 3] == 255).all()
    assert np.array_equal(picture[..., :3], overlay(image[3], label[3]))
    coloured = (picture[..., 0] != picture[..., 2]) | (picture[..., 0] != picture[..., 1])
    assert np.array_equal(coloured, label[3] == 1)


def test_preprocessed_cases_of_inherited_configurations(small: Any) -> None:
    small.add("one")
    small.preprocess("2d", "3d_fullres")
    small.plans["configurations"]["child"] = {"inherits_from": "2d", "batch_size": 3}
    small.plan()
    shapes = {}
    for name in (None, "2d", "3d_fullres", "child"):
        assert draw(small, use_raw=False, configuration=name).cases == ("one",)
        shapes[name] = imread(small.root / "png" / "one.png").shape
    assert shapes[None] == shapes["3d_fullres"]
    assert shapes["child"] == shapes["2d"]


def test_the_channel_that_is_asked_for(small: Any) -> None:
    small.begin(channels=("a", "b"))
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    small.add("one", list(images))
    pictures = []
    for channel in (0, 1):
        draw(small, channel=channel)
        pictures.append(imread(small.root / "png" / "one.png"))
    assert not np.array_equal(*pictures)
    with pytest.raises(UsageError, match="a number from 0 to 1"):
        draw(small, channel=2)


def test_one_bad_case_does_not_stop_the_others(small: Any) -> None:
    for name in ("good", "image", "label", "shape"):
        small.add(name)
    small.image("image").write_bytes(b"no image")
    small.label("label").write_bytes(b"no image")
    small.add("shape", [np.ones((4, 5, 6), np.float32)], np.ones((4, 5, 7), np.uint8))
    result = draw(small, num_processes=1)
    assert result.cases == ("good",)
    assert sorted(f.case for f in result.failures) == ["image", "label", "shape"]
    assert [p.name for p in (small.root / "png").iterdir()] == ["good.png"]
    assert next(f for f in result.failures if f.case == "shape").reason.endswith("do not have the same shape.")


def test_what_is_missing_is_named(small: Any) -> None:
    small.add("one")
    with pytest.raises(DatasetError, match="nnUNetv2_preprocess with -c 3d_fullres"):
        draw(small, use_raw=False)
    with pytest.raises(UnknownNameError, match="3d_lowres"):
        draw(small, use_raw=False, configuration="3d_lowres")


def test_colour_images_have_their_channels_in_one_file(small: Any) -> None:
    from skimage.io import imsave

    small.begin(channels=("r", "g", "b"), ending=".png")
    colours = np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)
    imsave(small.image("one"), colours, check_contrast=False)
    imsave(small.label("one"), np.eye(6, 7, dtype=np.uint8), check_contrast=False)
    assert json.loads((small.raw / "dataset.json").read_text())["file_ending"] == ".png"
    for path in small.raw.glob("imagesTr/*_000[12].png"):
        path.unlink()
    assert draw(small, channel=1).cases == ("one",)
    picture = imread(Path(small.root / "png" / "one.png"))
    assert np.array_equal(picture[..., :3], overlay(colours[..., 1], np.eye(6, 7)))
