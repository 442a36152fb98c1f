"""What becomes of a case: against an independent reference, and for unusual images."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import CaseSettings
from nnunet_pt.preprocessing.pipeline import estimate_ram
from nnunet_pt.preprocessing.store import load_case


def reference(
    image: np.ndarray,
    label: np.ndarray,
    *,
    forward: Sequence[int] = (0, 1, 2),
    spacing: Sequence[float],
    target: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Transpose, crop, z-score inside the mask, resample: the steps of nnU-Net in float64, one library call each."""
    image = image.astype(np.float64).transpose(0, *(a + 1 for a in forward))
    label = label.astype(int).transpose(forward)
    spacing = [spacing[a] for a in forward]
    target = [spacing[0], *target] if len(target) == 2 else list(target)
    mask = ndimage.binary_fill_holes((image != 0).any(axis=0))
    corners = np.argwhere(mask) if mask.any() else np.argwhere(np.ones_like(mask))
    box = tuple(slice(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True))
    image, mask = image[(slice(None), *box)].copy(), mask[box]
    label = np.where((label[box] == 0) & ~mask, -1, label[box])
    for channel in image:
        inside = label >= 0
        channel[inside] = (channel[inside] - channel[inside].mean()) / max(channel[inside].std(), 1e-8)
    shape = [max(1, round(o / n * s)) for o, n, s in zip(spacing, target, label.shape, strict=True)]
    thick = max(spacing) / min(spacing) > 3
    axis = int(np.argmax(spacing)) if thick and sorted(spacing)[-1] != sorted(spacing)[-2] else None
    image = np.stack([resample(c, shape, axis, 3) for c in image])
    values, shares = np.unique(label), []
    for value in values:  # of equal shares that of the nearest voxel counts
        mask = (label == value).astype(float)
        shares.append(resample(mask, shape, axis, 1) + 1e-9 * resample(mask, shape, axis, 0))
    return image, values[np.argmax(np.stack(shares), axis=0)]


def resample(volume: np.ndarray, shape: Sequence[int], axis: int | None, order: int) -> np.ndarray:
    """As a whole, or slice by slice and then to the nearest slice."""
    if axis is None:
        return resize(volume, shape, order, mode="edge", anti_aliasing=False)
    plane = [n for a, n in enumerate(shape) if a != axis]
    slices = [resize(s, plane, order, mode="edge", anti_aliasing=False) for s in np.moveaxis(volume, axis, 0)]
    return resize(np.stack(slices, axis), shape, 0, mode="edge", anti_aliasing=False)


def smooth_case(shape: Sequence[int], channels: int = 1) -> tuple[list[np.ndarray], np.ndarray]:
    """Images with a border of zeros and holes, and a label of large pieces that reaches into the border."""
    random = np.random.default_rng(7)
    images = [random.normal(100, 40, shape).astype(np.float32) for _ in range(channels)]
    for image in images:
        image[:1], image[:, :2], image[..., -1:] = 0, 0, 0
        image[tuple(n // 2 for n in shape)] = 0
    label = (ndimage.gaussian_filter(random.normal(size=shape), 2) > 0).astype(np.uint8)
    label[: shape[0] // 2] *= 2
    return images, label


@pytest.mark.parametrize(
    ("spacing", "target", "forward"),
    [
        ((1.0, 1.0, 1.0), [1.3, 1.2, 0.9], [0, 1, 2]),
        ((5.0, 1.0, 1.0), [4.0, 1.2, 0.8], [0, 1, 2]),
        ((1.0, 1.0, 4.5), [4.5, 1.3, 0.9], [2, 0, 1]),
        ((2.0, 0.7, 0.8), [1.0, 0.7, 0.8], [1, 2, 0]),
        ((1.0, 1.0, 1.0), [1.3, 0.8], [0, 1, 2]),
        ((1.1, 0.9, 3.0), [1.4, 0.7], [2, 0, 1]),
    ],
    ids=["isotropic", "thick slices", "transposed", "other transposition", "2d", "2d transposed"],
)
def test_equals_the_reference(small: Any, spacing: tuple, target: list[float], forward: list[int]) -> None:
    small.begin(channels=("A", "B"))
    images, label = smooth_case((9, 14, 13), 2)
    small.add("case", images, label, spacing=spacing[::-1])
    small.plans["transpose_forward"] = forward
    small.plans["transpose_backward"] = np.argsort(forward).tolist()
    entry = small.plans["configurations"]["3d_fullres"]
    entry["spacing"], entry["patch_size"] = target, [8] * len(target)
    small.plan()
    small.preprocess()
    image, segmentation, properties = load_case(small.data, "case")
    wanted, wanted_label = reference(np.stack(images), label, forward=forward, spacing=spacing, target=target)
    np.testing.assert_allclose(image, wanted, atol=2e-5)
    np.testing.assert_array_equal(segmentation[0], wanted_label)
    assert properties["spacing"] == pytest.approx(list(spacing))
    for key, locations in properties["class_locations"].items():
        assert len(locations) == (segmentation == key).sum()
        assert (segmentation[tuple(locations.T)] == key).all()


def test_regions_and_ignore_label(small: Any) -> None:
    small.begin(labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3})
    small.description["regions_class_order"] = [1, 2]
    small.describe()
    small.plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    small.plan()
    label = np.zeros((7, 10, 12), np.uint8)
    label[2:5, 3:7, 3:9], label[3, 4:6, 4:8], label[5] = 1, 2, 3
    small.add("case", label=label)
    small.preprocess()
    _, segmentation, properties = load_case(small.data, "case")
    assert list(properties["class_locations"]) == [(1, 2), (2,), (-1, 0, 1, 2)]
    for key, locations in properties["class_locations"].items():
        members = np.isin(segmentation, key)
        assert len(locations) == members.sum() > 0
        assert members[tuple(locations.T)].all()
    assert (segmentation == 3).any()


def test_ct_uses_the_intensities_of_the_plans(small: Any) -> None:
    small.begin(channels=("CT",))
    small.plans["configurations"]["3d_fullres"] |= {
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "spacing": [1.0, 1.0, 1.0],
    }
    small.plan()
    image = np.random.default_rng(0).normal(0, 300, (6, 7, 8)).astype(np.float32)
    small.add("case", [image], np.zeros((6, 7, 8), np.uint8))
    small.preprocess()
    np.testing.assert_allclose(load_case(small.data, "case")[0][0], (np.clip(image, -80, 350) - 60) / 75, atol=1e-5)


# ---------------------------------------------------------------------------- unusual images


def run(small: Any, *configurations: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    small.preprocess(*configurations)
    folder = small.preprocessed / f"nnUNetPlans_{configurations[0] if configurations else '3d_fullres'}"
    return load_case(folder, "case")


def test_single_voxel(small: Any) -> None:
    small.add("case", [np.full((1, 1, 1), 5, np.float32)], np.ones((1, 1, 1), np.uint8))
    image, segmentation, properties = run(small)
    assert image.shape == (1, 1, 1, 1) and image.item() == 0 and segmentation.item() == 1
    assert properties["class_locations"][1].tolist() == [[0, 0, 0, 0]] and properties["class_locations"][2] == []


def test_axis_that_would_vanish_keeps_one_voxel(small: Any) -> None:
    small.plans["configurations"]["3d_fullres"]["spacing"] = [5.0, 1.0, 1.0]
    small.plan()
    small.add("case", [np.ones((2, 9, 9), np.float32)], np.ones((2, 9, 9), np.uint8))
    assert run(small)[0].shape == (1, 1, 9, 9)


def test_image_of_zeros(small: Any) -> None:
    label = np.zeros((5, 6, 7), np.uint8)
    label[2, 2:4, 2:4] = 1
    small.plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    small.plan()
    small.add("case", [np.zeros((5, 6, 7), np.float32)], label)
    image, segmentation, properties = run(small)
    assert not image.any() and image.shape == (1, 5, 6, 7)
    np.testing.assert_array_equal(segmentation[0], np.where(label == 1, 1, -1))
    assert properties["bbox_used_for_cropping"] == [[0, 5], [0, 6], [0, 7]]


@pytest.mark.parametrize("value", [0, 1])
def test_label_of_one_value(small: Any, value: int) -> None:
    small.add("case", [np.ones((5, 6, 7), np.float32)], np.full((5, 6, 7), value, np.uint8))
    _, segmentation, properties = run(small)
    assert (segmentation == value).all()
    assert len(properties["class_locations"][1]) == value * segmentation.size


def test_image_without_any_zero_is_not_cropped(small: Any) -> None:
    small.add("case", [np.ones((5, 6, 7), np.float32)])
    assert run(small)[2]["bbox_used_for_cropping"] == [[0, 5], [0, 6], [0, 7]]


def test_two_dimensional_nifti(small: Any) -> None:
    plane = np.random.default_rng(0).normal(50, 9, (20, 16)).astype(np.float32)
    small.add("case", [plane], (plane > 50).astype(np.uint8), spacing=(0.9, 1.2))
    image, segmentation, properties = run(small, "2d")
    assert image.shape == segmentation.shape == (1, 1, 20, 16)
    assert properties["spacing"] == pytest.approx([999 * 1.2, 1.2, 0.9])
    assert properties["sitk_stuff"]["spacing"] == pytest.approx((0.9, 1.2))


@pytest.mark.parametrize("colour", [False, True])
def test_png(small: Any, colour: bool, image_writer: Any) -> None:
    from skimage.io import imsave

    small.begin(channels=("R", "G", "B") if colour else ("grey",), ending=".png")
    small.plans["image_reader_writer"] = "NaturalImage2DIO"
    small.plans["configurations"]["2d"]["spacing"] = [1.0, 1.0]
    small.plan()
    pixels = np.random.default_rng(0).integers(1, 255, (20, 16, 3) if colour else (20, 16)).astype(np.uint8)
    imsave(small.image("case"), pixels, check_contrast=False)
    image_writer((np.arange(320).reshape(20, 16) % 3).astype(np.uint8), small.label("case"))
    image, segmentation, properties = run(small, "2d")
    assert image.shape == (3 if colour else 1, 1, 20, 16) and segmentation.shape == (1, 1, 20, 16)
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    assert properties["spacing"] == (999, 1, 1)
    assert [p.name for p in (small.preprocessed / "gt_segmentations").iterdir()] == ["case.png"]


def test_labels_above_127_and_255(small: Any) -> None:
    small.begin(labels={"background": 0, **{f"l{i}": i for i in range(1, 301)}})
    label = (np.arange(840).reshape(7, 10, 12) % 301).astype(np.uint16)
    small.plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    small.plan()
    small.add("case", [np.ones((7, 10, 12), np.float32)], label)
    _, segmentation, properties = run(small)
    np.testing.assert_array_equal(segmentation[0], label)
    assert len(properties["class_locations"]) == 300 and len(properties["class_locations"][300]) == 2


def test_largest_label_that_can_be_stored(small: Any) -> None:
    small.begin(labels={"background": 0, "a": 32_767})
    label = np.zeros((7, 10, 12), np.uint16)
    label[3:] = 32_767
    small.add("case", [np.ones((7, 10, 12), np.float32)], label)
    assert set(np.unique(run(small)[1])) == {0, 32_767}


def test_labels_stored_as_floats(small: Any) -> None:
    label = (np.arange(840).reshape(7, 10, 12) % 3).astype(np.float32)
    small.plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    small.plan()
    small.add("case", [np.ones((7, 10, 12), np.float32)], label)
    np.testing.assert_array_equal(run(small)[1][0], label)


def test_properties_hold_plain_types_only(three: Any) -> None:
    three.preprocess()
    allowed = (int, float, str, bool, tuple, list, dict, np.ndarray, type(None))

    def check(value: Any) -> None:
        assert type(value) in allowed, type(value)
        if isinstance(value, dict):
            for key, inner in value.items():
                check(key)
                check(inner)
        elif isinstance(value, (tuple, list)):
            for inner in value:
                check(inner)

    check(pickle.loads((three.data / "a1.pkl").read_bytes()))


# ---------------------------------------------------------------------------- memory


def settings_of(small: Any) -> CaseSettings:
    plans = Plans.load(small.preprocessed / "nnUNetPlans.json")
    return CaseSettings.of(plans, "3d_fullres", Labels(labels=small.description["labels"]), ("MR",))


def case_of(small: Any, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Any:
    from nnunet_pt.dataset.cases import Case

    small.add("case", [np.zeros(shape, np.float32)], np.zeros(shape, np.uint8), spacing=spacing)
    return Case(identifier="case", images=(small.image("case"),), label=small.label("case"))


def test_estimate_grows_with_the_image_and_with_the_resampled_image(small: Any) -> None:
    settings = settings_of(small)
    base = estimate_ram(case_of(small, (10, 40, 50), (0.9, 1.2, 1.3)), settings)
    fine = estimate_ram(case_of(small, (10, 40, 50), (9.0, 12.0, 1.3)), settings)
    large = estimate_ram(case_of(small, (10, 80, 100), (0.9, 1.2, 1.3)), settings)
    voxels = 10 * 40 * 50
    assert fine - base > 99 * voxels * (4 + 4 + 2)  # a hundred times as many voxels afterwards, read and written
    assert 3 * voxels * 20 < large - base < 3 * voxels * 80


def test_estimate_leaves_unreadable_files_to_the_worker(small: Any) -> None:
    case = case_of(small, (4, 4, 4), (1, 1, 1))
    case.images[0].write_bytes(b"no image")
    assert estimate_ram(case, settings_of(small)) > 0
    case.images[0].unlink()
    assert estimate_ram(case, settings_of(small)) > 0
