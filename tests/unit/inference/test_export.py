"""The way back: from logits on the network's grid to files in the geometry of the images."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit, softmax

from nnunet_pt.core.errors import StorageError
from nnunet_pt.dataset.images.simpleitk_images import SimpleITKIO
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference import export
from nnunet_pt.inference.export import (
    Regridding,
    export_for_next_stage,
    export_prediction,
    resampled_segmentation,
    to_probabilities,
    uncropped,
)
from nnunet_pt.plans.plans import Configuration, Plans, ResamplingSpec
from nnunet_pt.preprocessing.resample import RESAMPLERS

LABELS = Labels(labels={"background": 0, "a": 1, "b": 2})
REGIONS = Labels(labels={"background": 0, "whole": (1, 2, 3), "core": (2, 3), "c": 3}, regions_class_order=(1, 2, 3))

DEFAULT = ResamplingSpec(
    name="resample_data_or_seg_to_shape", kwargs={"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
)
CUBIC = replace(DEFAULT, kwargs={**DEFAULT.kwargs, "order": 3})
TORCH = ResamplingSpec(
    name="resample_torch_fornnunet",
    kwargs={"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False},
)


def logits(channels: int = 3, shape: tuple[int, ...] = (6, 8, 10), dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (channels, *shape)).astype(dtype)


def grid(spec: ResamplingSpec = DEFAULT, shape: tuple[int, ...] = (9, 7, 13), spacing: float = 1.0) -> Regridding:
    return Regridding(shape=shape, current_spacing=(spacing, 1.0, 1.0), new_spacing=(spacing, 1.1, 0.9), spec=spec)


def resampled(scores: np.ndarray, to: Regridding) -> np.ndarray:
    return RESAMPLERS[to.spec.name](scores, to.shape, to.current_spacing, to.new_spacing, **to.spec.kwargs)


SPECS = {
    "linear": DEFAULT,
    "nearest": replace(DEFAULT, kwargs={**DEFAULT.kwargs, "order": 0}),
    "cubic": CUBIC,
    "linear slices": replace(DEFAULT, kwargs={**DEFAULT.kwargs, "order_z": 1}),
    "cubic slices": replace(CUBIC, kwargs={**CUBIC.kwargs, "order_z": 3}),
    "slices by force": replace(DEFAULT, kwargs={**DEFAULT.kwargs, "force_separate_z": True}),
    "torch": TORCH,
    "torch slices": replace(TORCH, kwargs={**TORCH.kwargs, "force_separate_z": None}),
}


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("spacing", [1.0, 5.0], ids=["isotropic", "thick slices"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_streamed_segmentation_equals_resampling_everything_first(
    labels: Labels, spec: ResamplingSpec, spacing: float, dtype: type, ties: bool
) -> None:
    scores = logits(dtype=dtype)
    if ties:  # few different values, many equal to zero
        scores = scores.clip(-1, 1).round()
    for shape in ((9, 7, 13), (6, 11, 5), (6, 8, 10)):  # the second one as in 2D, the last one as it is
        to = grid(spec, shape, spacing=spacing)
        made = resampled_segmentation(scores, to, labels)
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, labels.logits_to_segmentation(resampled(scores, to)))


def test_of_equal_classes_the_first_wins() -> None:
    scores = np.ones((3, 4, 5, 6), np.float32)
    scores[0, :2] = 0
    for spec in SPECS.values():
        made = resampled_segmentation(scores, grid(spec, (8, 5, 6)), LABELS)
        assert set(np.unique(made)) == {0, 1}


def test_a_region_needs_more_than_half() -> None:
    """The sigmoid of the smallest logits is 0.5 in float32."""
    scores = np.array([0, 1e-9, 5e-8, 1e-7, 2e-7, 1e-6], np.float32).reshape(1, 1, 1, 6)
    labels = Labels(labels={"background": 0, "a": (1, 2)}, regions_class_order=(1,))
    made = resampled_segmentation(scores, grid(shape=(1, 1, 6)), labels)
    np.testing.assert_array_equal(made, labels.logits_to_segmentation(scores))
    np.testing.assert_array_equal(made.ravel(), [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_nothing_changes_if_the_grid_is_the_same(labels: Labels) -> None:
    scores = logits()
    before = scores.copy()
    to = grid(shape=scores.shape[1:])
    np.testing.assert_array_equal(resampled_segmentation(scores, to, labels), labels.logits_to_segmentation(scores))
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("labels", "activation"), [(LABELS, lambda x: softmax(x, axis=0)), (REGIONS, expit)], ids=["labels", "regions"]
)
def test_probabilities(labels: Labels, activation: Any, dtype: type) -> None:
    scores = logits(dtype=dtype)
    before = scores.copy()
    made = to_probabilities(scores, labels)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, activation(scores.astype(np.float32)), rtol=5e-3, atol=1e-6)
    rounded = scores.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(made, activation(rounded), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scores, before)


def test_huge_logits_are_certain() -> None:
    made = to_probabilities(np.array([-1e6, 1e6, 0], np.float32).reshape(3, 1, 1, 1), LABELS)
    np.testing.assert_array_equal(made.ravel(), [0, 1, 0])


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels for 3 labels"):
        resampled_segmentation(logits(2), grid(), LABELS)


@pytest.mark.parametrize("shape", [(6, 8, 10), (9, 7, 13)], ids=["same grid", "other grid"])
def test_many_labels_need_and_get_two_bytes(shape: tuple[int, ...]) -> None:
    labels = Labels(labels={"background": 0, **{str(i): i for i in range(1, 301)}})
    scores = np.zeros((301, 6, 8, 10), np.float32)
    scores[300] = 1
    made = resampled_segmentation(scores, grid(shape=shape), labels)
    assert made.dtype == np.uint16
    assert (made == 300).all()


def transposed(small: Any, order: tuple[int, ...]) -> Plans:
    small.plans["transpose_forward"] = list(order)
    small.plans["transpose_backward"] = [order.index(a) for a in range(3)]
    return Plans.from_json(small.plans, "plans")


def image_properties(shape: tuple[int, ...], spacing: tuple[float, ...], order: tuple[int, ...]) -> dict[str, Any]:
    """Of an image (x, y, z) with a margin of zeros, as reader and preprocessing note them."""
    after = [shape[a] for a in order]
    box = [[1, n - 2] for n in after]
    direction = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    return {
        "spacing": list(spacing),
        "sitk_stuff": {"spacing": spacing[::-1], "origin": (5.0, 6.0, 7.0), "direction": direction},
        "shape_before_cropping": tuple(after),
        "bbox_used_for_cropping": box,
        "shape_after_cropping_and_before_resampling": tuple(high - low for low, high in box),
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_uncropping_puts_every_voxel_back(small: Any, order: tuple[int, ...]) -> None:
    plans, shape = transposed(small, order), (9, 11, 14)
    properties = image_properties(shape, (1.0, 1.0, 1.0), order)
    image = np.random.default_rng(0).integers(1, 9, (2, *shape)).astype(np.uint8)
    turned = image.transpose(0, *(a + 1 for a in order))
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    back = uncropped(turned[(slice(None), *box)], properties, plans, background=(7, 0))
    kept = np.zeros_like(turned, dtype=bool)
    kept[(slice(None), *box)] = True
    kept = kept.transpose(0, *(a + 1 for a in plans.transpose_backward))
    np.testing.assert_array_equal(back[kept], image[kept])
    assert (back[0][~kept[0]] == 7).all()
    assert (back[1][~kept[1]] == 0).all()
    np.testing.assert_array_equal(uncropped(turned[0][box], properties, plans), np.where(kept[0], image[0], 0))


def run_export(
    folder: Path, plans: Plans, configuration: Configuration, labels: Labels, *, probabilities: bool
) -> tuple[np.ndarray, dict[str, Any], Path]:
    order = plans.transpose_forward
    properties = image_properties((9, 11, 14), (1.5, 1.0, 0.8), order)
    scores = logits(labels.num_segmentation_heads, (5, 8, 10))
    if len(configuration.spacing) == 2:
        slices = properties["shape_after_cropping_and_before_resampling"][0]
        scores = logits(labels.num_segmentation_heads, (slices, 8, 10))
    export_prediction(
        scores,
        properties,
        plans=plans,
        configuration=configuration,
        labels=labels,
        reader_writer=SimpleITKIO(),
        output=folder / "case.1",
        file_ending=".nii.gz",
        save_probabilities=probabilities,
    )
    return scores, properties, folder / "case.1"


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_files_of_a_case(
    tmp_path: Path, small: Any, order: tuple[int, ...], name: str, labels: Labels, probabilities: bool
) -> None:
    plans = transposed(small, order)
    configuration = plans.configuration(name)
    scores, properties, output = run_export(tmp_path, plans, configuration, labels, probabilities=probabilities)
    spacing = [properties["spacing"][a] for a in order]
    current = configuration.spacing if name != "2d" else (spacing[0], *configuration.spacing)
    inner = properties["shape_after_cropping_and_before_resampling"]
    probability_grid = Regridding(
        shape=inner, current_spacing=current, new_spacing=tuple(spacing), spec=configuration.resampling_probabilities
    )
    expected = labels.logits_to_segmentation(resampled(scores, probability_grid))

    image = sitk.ReadImage(f"{output}.nii.gz")
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetOrigin() == (5.0, 6.0, 7.0)
    np.testing.assert_allclose(image.GetSpacing(), (0.8, 1.0, 1.5), rtol=1e-6)
    written = sitk.GetArrayFromImage(image)
    assert written.shape == (9, 11, 14)
    box = tuple(slice(1, n - 2) for n in properties["shape_before_cropping"])
    turned = written.transpose(order)
    np.testing.assert_array_equal(turned[box], expected)
    assert np.count_nonzero(turned) == np.count_nonzero(expected)

    names = {"case.1.nii.gz"} | ({"case.1.npz", "case.1.pkl"} if probabilities else set())
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == names
    if probabilities:
        with np.load(f"{output}.npz") as archive:
            assert archive.files == ["probabilities"]
            stored = archive["probabilities"]
        assert stored.dtype == np.float32
        assert stored.shape == (labels.num_segmentation_heads, 9, 11, 14)
        assert (labels.probabilities_to_segmentation(stored) == written).mean() > 0.99
        if not labels.has_regions:
            np.testing.assert_allclose(stored.sum(0), 1, rtol=1e-5)
        assert pickle.loads(Path(f"{output}.pkl").read_bytes()) == properties


def test_a_writer_that_fails_leaves_no_segmentation(
    tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = Plans.from_json(small.plans, "plans")
    old = tmp_path / "case.1.nii.gz"
    old.write_bytes(b"from an earlier run")

    def fail(_image: object, path: str, _compress: bool) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(StorageError, match=r"case\.1\.nii\.gz"):
        run_export(tmp_path, plans, plans.configuration("3d_fullres"), LABELS, probabilities=False)
    assert old.read_bytes() == b"from an earlier run"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [old.name]


@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_input_of_the_next_stage(tmp_path: Path, small: Any, labels: Labels, name: str) -> None:
    plans = Plans.from_json(small.plans, "plans")
    configuration = plans.configuration(name)
    scores, path = logits(), tmp_path / "next" / "case.b2nd"
    properties = image_properties((9, 11, 14), (5.0, 1.0, 0.8), (0, 1, 2))
    export_for_next_stage(
        scores, (12, 17, 19), properties, plans=plans, configuration=configuration, labels=labels, path=path
    )
    stored = blosc2.open(str(path), mode="r")
    spacing = configuration.spacing if name != "2d" else (5.0, *configuration.spacing)
    to = Regridding(
        shape=(12, 17, 19), current_spacing=spacing, new_spacing=spacing, spec=configuration.resampling_probabilities
    )
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[...], labels.logits_to_segmentation(resampled(scores, to)))
    assert stored.schunk.cparams.codec == blosc2.Codec.ZSTD
    if name == "2d":
        assert stored.chunks[0] == stored.blocks[0] == 1


def test_resamplers_get_one_channel_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    for name in (DEFAULT.name, TORCH.name):
        original = export.RESAMPLERS[name]

        def note(scores: np.ndarray, *args: Any, original: Any = original, **kwargs: Any) -> np.ndarray:
            sizes.append(len(scores))
            return original(scores, *args, **kwargs)

        monkeypatch.setitem(export.RESAMPLERS._entries, name, note)
    for labels, spec in ((REGIONS, DEFAULT), (REGIONS, TORCH), (LABELS, CUBIC), (LABELS, TORCH)):
        resampled_segmentation(logits(), grid(spec), labels)
    assert sizes == [1] * 12


@pytest.mark.parametrize("shape", [(64, 40, 52), (20, 25, 22), (32, 40, 36)], ids=["finer", "coarser", "same"])
@pytest.mark.parametrize(
    ("spec", "dtype"),
    [(DEFAULT, np.float32), (DEFAULT, np.float16), (CUBIC, np.float32)],
    ids=["linear", "half", "cubic"],
)
@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_memory_does_not_grow_with_the_number_of_classes(
    regions: bool, spec: ResamplingSpec, shape: tuple[int, ...], dtype: type
) -> None:
    def peak(classes: int) -> int:
        values = range(1, classes)
        labels = Labels(
            labels={"background": 0, **{str(v): (v, v + 1) if regions else v for v in values}},
            regions_class_order=tuple(values) if regions else None,
        )
        scores = logits(labels.num_segmentation_heads, (32, 40, 36), dtype)
        resampled_segmentation(scores[:, :2, :2, :2], grid(spec, (3, 3, 3)), labels)  # imports and caches
        tracemalloc.start()
        resampled_segmentation(scores, grid(spec, shape), labels)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(4), peak(24)
    channel = 8 * max(32 * 40 * 36, int(np.prod(shape)))
    assert many < few + 0.5 * channel  # 20 classes more
    assert many < 5 * channel
