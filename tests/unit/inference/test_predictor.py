"""Prediction of files and arrays: the same everywhere, in every orientation, and whatever happens to other cases."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import ImageError, PredictionError, UsageError
from nnunet_pt.dataset.cases import Case
from nnunet_pt.inference.model import TrainedModel
from nnunet_pt.inference.orientation import Reorientation, orientation_of
from nnunet_pt.inference.predictor import CaseResult, InputCase, PredictionOptions, Predictor
from nnunet_pt.inference.sliding_window import SlidingWindow
from nnunet_pt.preprocessing.case import CaseSettings, preprocess_arrays, read_case

OPTIONS = PredictionOptions(device="cpu", precision="fp32")
Make = Callable[..., TrainedModel]


def predictor(model: TrainedModel, **options: Any) -> Predictor:
    return Predictor(model, replace(OPTIONS, **options))


def random_image(shape: tuple[int, ...] = (7, 9, 11), seed: int = 0, channels: int = 1) -> np.ndarray:
    """With a margin of zeros of another width on each side."""
    image = np.zeros((channels, *shape), np.float32)
    inside = tuple(slice(min(1, n - 1), max(1, n - i)) for i, n in enumerate(shape, 1))
    part = image[(slice(None), *inside)]
    part[...] = np.random.default_rng(seed).normal(50, 80, part.shape)
    return image


def write(array: np.ndarray, path: Path, spacing: tuple[float, ...] = (0.8, 1.0, 2.5), turned: float = 0.0) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((5.0, 6.0, 7.0))
    c, s = np.cos(turned), np.sin(turned)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


def case(folder: Path, name: str, image: np.ndarray | None = None, **options: Any) -> InputCase:
    """A case with its files."""
    image = random_image(seed=len(name)) if image is None else image
    paths = []
    for channel, voxels in enumerate(image):
        paths.append(folder / f"{name}_{channel:04d}.nii.gz")
        write(voxels, paths[-1])
    return InputCase(name=name, images=tuple(paths), **options)


def cases(folder: Path, names: str, **options: Any) -> list[InputCase]:
    return [case(folder, n, random_image(seed=i), output=folder / "out" / n, **options) for i, n in enumerate(names)]


def run(model: Predictor, inputs: Any, **options: Any) -> list[CaseResult]:
    return list(model.predict_cases(inputs, **{"progress": False, **options}))


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("nnunet_pt-")]


@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
@pytest.mark.parametrize("workers", [(0, 0), (1, 1), (3, 2)])
def test_files_in_files_out(tmp_path: Path, tiny_model: Make, name: str, workers: tuple[int, int]) -> None:
    model = predictor(tiny_model(name))
    inputs = cases(tmp_path, "abcd")
    results = run(model, iter(inputs), num_readers=workers[0], num_exporters=workers[1])
    assert [r.case for r in results] == inputs
    assert all(r.error is None and r.seconds > 0 and r.prediction is None for r in results)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{n}.nii.gz" for n in "abcd"]
    for seed, result in enumerate(results):
        alone = model.predict_array(random_image(seed=seed), {"spacing": [2.5, 1.0, 0.8]})
        np.testing.assert_array_equal(read(Path(f"{result.case.output}.nii.gz")), alone.segmentation)
        assert alone.segmentation.dtype == np.uint8
        assert len(np.unique(alone.segmentation)) == 3
    assert no_threads_left()


def test_arrays_are_given_if_there_is_no_output(tmp_path: Path, tiny_model: Make) -> None:
    model = predictor(tiny_model())
    image = random_image(seed=3)
    (result,) = run(model, [case(tmp_path, "a", image)], save_probabilities=True)
    assert result.prediction is not None
    alone = model.predict_array(image, {"spacing": [2.5, 1.0, 0.8]}, probabilities=True)
    np.testing.assert_array_equal(result.prediction.segmentation, alone.segmentation)
    assert alone.probabilities is not None
    assert result.prediction.probabilities is not None
    np.testing.assert_array_equal(result.prediction.probabilities, alone.probabilities)
    assert alone.probabilities.shape == (3, *image.shape[1:])
    assert alone.probabilities.dtype == np.float32
    assert result.prediction.properties["sitk_stuff"]["origin"] == (5.0, 6.0, 7.0)
    assert [p.name for p in tmp_path.iterdir()] == ["a_0000.nii.gz"] or not list(tmp_path.glob("*.npz"))


def test_arrays_one_after_another(tiny_model: Make) -> None:
    model = predictor(tiny_model())
    spacing = {"spacing": (2.5, 1.0, 0.8)}

    def images() -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for seed in range(4):
            yield random_image(seed=seed), spacing

    for seed, made in enumerate(model.predict_arrays(images())):
        np.testing.assert_array_equal(
            made.segmentation, model.predict_array(random_image(seed=seed), spacing).segmentation
        )
        assert made.probabilities is None

    broken = model.predict_arrays([(random_image(), spacing), (random_image(channels=2), spacing)])
    next(broken)
    with pytest.raises(PredictionError, match="2 channels instead of the 1"):
        next(broken)
    stopped = model.predict_arrays(images())
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]  it is a generator
    assert no_threads_left()


def test_the_given_image_is_not_changed(tiny_model: Make) -> None:
    image, properties = random_image(), {"spacing": [1.3, 1.2, 0.9]}
    before = image.copy()
    predictor(tiny_model()).predict_array(image, properties)
    np.testing.assert_array_equal(image, before)
    assert properties == {"spacing": [1.3, 1.2, 0.9]}


def test_integers_and_reversed_arrays_are_images_too(tiny_model: Make) -> None:
    model = predictor(tiny_model())
    image = random_image().round()
    expected = model.predict_array(image, {"spacing": [1, 1, 1]}).segmentation
    for other in (image.astype(np.int16), np.ascontiguousarray(image[:, ::-1])[:, ::-1], image.astype(np.float64)):
        np.testing.assert_array_equal(model.predict_array(other, {"spacing": [1, 1, 1]}).segmentation, expected)


@pytest.mark.parametrize(
    ("image", "properties", "text"),
    [
        (np.zeros((5, 5, 5)), {"spacing": (1, 1, 1)}, r"shape \(5, 5, 5\) instead of \(channels, x, y, z\)"),
        (np.zeros((2, 5, 5, 5)), {"spacing": (1, 1, 1)}, "2 channels instead of the 1"),
        (np.zeros((1, 5, 0, 5)), {"spacing": (1, 1, 1)}, "empty"),
        (np.full((1, 5, 5, 5), np.nan), {"spacing": (1, 1, 1)}, "NaN"),
        (np.full((1, 5, 5, 5), np.inf), {"spacing": (1, 1, 1)}, "infinite"),
        (np.ones((1, 5, 5, 5)), {}, "spacing None"),
        (np.ones((1, 5, 5, 5)), {"spacing": (1, 1)}, r"spacing \(1, 1\)"),
        (np.ones((1, 5, 5, 5)), {"spacing": (1, -1, 1)}, r"spacing \(1, -1, 1\)"),
        (np.ones((1, 1, 5, 5)), {"spacing": (999, 1, 1)}, "is 2D, but the model predicts volumes"),
    ],
)
def test_unsuitable_arrays(tiny_model: Make, image: np.ndarray, properties: dict[str, Any], text: str) -> None:
    with pytest.raises(PredictionError, match=text):
        predictor(tiny_model()).predict_array(image, properties)


@pytest.mark.parametrize("shape", [(1, 9, 11), (3, 4, 5), (7, 1, 20)])
@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
def test_images_smaller_than_a_patch(tiny_model: Make, name: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    made = predictor(tiny_model(name)).predict_array(image, {"spacing": (5.0, 1.0, 1.0)})
    assert made.segmentation.shape == shape


def test_an_empty_image_is_predicted(tiny_model: Make) -> None:
    made = predictor(tiny_model()).predict_array(np.zeros((1, 5, 6, 7)), {"spacing": (1.0, 1.0, 1.0)})
    assert made.segmentation.shape == (5, 6, 7)


def test_unknown_devices_are_refused(tiny_model: Make) -> None:
    for device in ("tpu", "cuda:99", "cuda:x"):
        with pytest.raises(UsageError, match="cannot be used"):
            predictor(tiny_model(), device=device)


# Folds


def test_folds_are_averaged(tiny_model: Make) -> None:
    model = tiny_model(folds=3)
    image, _ = predictor(model).preprocess(random_image(), {"spacing": [1.0, 1.0, 1.0]})
    made = predictor(model).predict_logits(image)
    of_folds = []
    for fold in range(3):
        alone = tiny_model(folds=3)
        alone.use_fold(fold)
        window = predictor(alone).window
        of_folds.append(window.predict_logits(image))
    assert not torch.equal(of_folds[0], of_folds[1])
    torch.testing.assert_close(made, torch.stack(of_folds).mean(0), rtol=1e-5, atol=1e-4)


def test_progress_covers_all_folds(tiny_model: Make) -> None:
    calls: list[tuple[int, int]] = []
    model = predictor(tiny_model(folds=2), tiles_per_batch=1)
    model.predict_logits(random_image((1, 8, 8)), progress=lambda *numbers: calls.append(numbers))
    assert calls[-1][0] == calls[-1][1] == len(calls)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_no_more_than_two_copies_of_logits(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    original = SlidingWindow.predict_logits

    def noted(self: SlidingWindow, image: Any, **options: Any) -> Tensor:
        nonlocal most
        made = original(self, image, **options)
        alive.append(weakref.ref(made))
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))
        return made

    monkeypatch.setattr(SlidingWindow, "predict_logits", noted)
    predictor(tiny_model(folds=5)).predict_logits(random_image())
    assert len(alive) == 5
    assert most == 2


def test_large_half_precision_logits_do_not_overflow(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SlidingWindow, "predict_logits", lambda *_, **__: torch.full((3, 2, 2, 2), 60000.0, dtype=torch.float16)
    )
    made = predictor(tiny_model(folds=5)).predict_logits(random_image())
    assert made.dtype == torch.float16
    assert torch.isfinite(made).all()
    assert made.min() > 59000


# Orientation

CODES = ["".join(pair) for order in itertools.permutations(("LR", "PA", "IS")) for pair in itertools.product(*order)]


def in_orientation(path: Path, code: str, target: Path) -> None:
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code), str(target))


@pytest.mark.parametrize(
    ("order", "turned"), [((0, 1, 2), 0.3), ((2, 0, 1), 0.0)], ids=["oblique", "transposed by the plans"]
)
def test_all_48_orientations_give_the_same_mask(
    tmp_path: Path, small: Any, tiny_model: Make, order: tuple[int, ...], turned: float
) -> None:
    small.plans["transpose_forward"] = list(order)
    small.plans["transpose_backward"] = [order.index(a) for a in range(3)]
    base = tmp_path / "base.nii.gz"
    write(random_image((9, 11, 14))[0], base, turned=turned)
    assert len(set(CODES)) == 48
    inputs = []
    for code in CODES:
        path = tmp_path / f"{code}_0000.nii.gz"
        in_orientation(base, code, path)
        inputs.append(InputCase(name=code, images=(path,), output=tmp_path / "out" / code))
    model = predictor(tiny_model(orientation="SPL", mirror_axes=(0,)))
    masks = []
    for result in run(model, inputs, save_probabilities=True):
        assert result.error is None
        written, given = Path(f"{result.case.output}.nii.gz"), sitk.ReadImage(str(result.case.images[0]))
        mask = sitk.ReadImage(str(written))
        np.testing.assert_allclose(mask.GetOrigin(), given.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(mask.GetDirection(), given.GetDirection(), atol=1e-5)
        back = sitk.DICOMOrient(mask, "LPS")
        np.testing.assert_allclose(back.GetOrigin(), (5, 6, 7), atol=1e-4)
        masks.append(sitk.GetArrayFromImage(back))
        check_probabilities(result.case, read(written), given)
    assert len(np.unique(masks[0])) == 3
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def check_probabilities(done: InputCase, mask: np.ndarray, given: sitk.Image) -> None:
    with np.load(f"{done.output}.npz") as archive:
        probabilities = archive["probabilities"]
    assert probabilities.shape == (3, *mask.shape)
    clear = np.sort(probabilities, 0)[-2] < np.sort(probabilities, 0)[-1]
    np.testing.assert_array_equal(probabilities.argmax(0)[clear], mask[clear])
    properties = pickle.loads(Path(f"{done.output}.pkl").read_bytes())
    np.testing.assert_allclose(properties["spacing"], given.GetSpacing()[::-1])


def test_models_without_a_record_and_users_who_want_it_keep_the_orientation(
    tmp_path: Path, tiny_model: Make, caplog: pytest.LogCaptureFixture
) -> None:
    base, other = tmp_path / "base.nii.gz", tmp_path / "other.nii.gz"
    write(random_image()[0], base)
    in_orientation(base, "RAS", other)
    inputs = [InputCase(name="x", images=(other,))]

    def mask(model: Predictor) -> np.ndarray:
        (result,) = run(model, inputs)
        assert result.prediction is not None
        return result.prediction.segmentation

    unrecorded = mask(predictor(tiny_model()))
    kept = mask(predictor(tiny_model(orientation="SPL"), keep_orientation=True))
    assert not caplog.records
    with caplog.at_level("INFO"):
        turned = mask(predictor(tiny_model(orientation="SPL")))
    np.testing.assert_array_equal(kept, unrecorded)
    assert (turned != kept).any()
    assert "SPL; x is SAR" in caplog.text


def test_turning_is_told_once(tmp_path: Path, tiny_model: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(predictor(tiny_model(orientation="IAR")), cases(tmp_path, "abc"))
    assert len([r for r in caplog.records if "turned" in r.getMessage()]) == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
@pytest.mark.parametrize("orientation", ["SAR", "LIA", "PRS"])
def test_notes_about_cropping_are_those_of_the_image_itself(
    tmp_path: Path, small: Any, tiny_model: Make, order: tuple[int, ...], orientation: str
) -> None:
    small.plans["transpose_forward"] = list(order)
    small.plans["transpose_backward"] = [order.index(a) for a in range(3)]
    inputs = [case(tmp_path, "a", random_image((9, 11, 14)))]
    (turned,) = run(predictor(tiny_model(orientation=orientation)), inputs)
    (kept,) = run(predictor(tiny_model()), inputs)
    assert turned.prediction is not None
    assert kept.prediction is not None
    assert turned.prediction.properties == kept.prediction.properties


# Cascades


@pytest.mark.parametrize("orientation", [None, "RIP"])
def test_a_previous_segmentation_is_an_input(tmp_path: Path, tiny_model: Make, orientation: str | None) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x[:, :3]

    model = predictor(
        tiny_model(previous_stage="3d_lowres", network=Spy(), orientation=orientation, patch_size=(24, 24, 24))
    )
    image = random_image((9, 11, 14))
    labels = np.random.default_rng(5).integers(0, 3, image.shape[1:]).astype(np.uint8)
    done = case(tmp_path, "a", image, previous_segmentation=tmp_path / "previous.nii.gz")
    write(labels, tmp_path / "previous.nii.gz")
    (result,) = run(model, [done])
    assert result.error is None
    assert result.prediction is not None
    assert result.prediction.segmentation.shape == labels.shape
    assert "class_locations" not in result.prediction.properties

    files = Case(identifier="a", images=done.images, label=done.previous_segmentation)
    settings = CaseSettings.of(model.model.plans, "3d_fullres", model.model.labels, ("MR",))
    voxels, previous, properties = read_case(files, "SimpleITKIO", model.model.labels)
    if orientation is not None:
        turn = Reorientation.between(str(orientation_of(properties)), orientation)
        voxels, previous, properties = turn.apply(voxels), turn.apply(previous), turn.properties(properties)
    voxels, previous, _ = preprocess_arrays(voxels, previous, properties, settings)
    (tile,) = seen[0]
    start = [(24 - n) // 2 for n in voxels.shape[1:]]
    inner = tuple(slice(s, s + n) for s, n in zip(start, voxels.shape[1:], strict=True))
    np.testing.assert_array_equal(tile[0][inner], voxels[0])
    for channel, label in ((1, 1), (2, 2)):
        np.testing.assert_array_equal(tile[channel][inner], previous[0] == label)
    by_array = model.predict_array(
        image,
        {"spacing": [2.5, 1.0, 0.8], "sitk_stuff": properties["sitk_stuff"]},
        previous_segmentation=labels[None],
    )
    np.testing.assert_array_equal(by_array.segmentation, result.prediction.segmentation)


def test_unsuitable_previous_segmentations(tmp_path: Path, tiny_model: Make) -> None:
    model = predictor(tiny_model(previous_stage="3d_lowres"))
    paths = {n: tmp_path / f"{n}.nii.gz" for n in ("small", "coarse", "unknown", "half")}
    write(np.zeros((3, 4, 5), np.uint8), paths["small"])
    write(np.zeros((7, 9, 11), np.uint8), paths["coarse"], spacing=(1.0, 1.0, 2.5))
    write(np.full((7, 9, 11), 9, np.uint8), paths["unknown"])
    write(np.full((7, 9, 11), 0.5, np.float32), paths["half"])
    results = run(model, [case(tmp_path, n, previous_segmentation=p) for n, p in paths.items()])
    results += run(model, [case(tmp_path, "none")])
    results += run(predictor(tiny_model()), [case(tmp_path, "many", previous_segmentation=paths["unknown"])])
    texts = {r.case.name: str(r.error) for r in results}
    for name, kind in (
        ("small", ImageError),
        ("coarse", ImageError),
        ("unknown", ImageError),
        ("none", PredictionError),
    ):
        assert isinstance(next(r.error for r in results if r.case.name == name), kind)
    assert str(paths["small"]) in texts["small"]
    assert str(tmp_path / "small_0000.nii.gz") in texts["small"]
    assert "(3, 4, 5)" in texts["small"]
    assert "(7, 9, 11)" in texts["small"]
    assert "spacing" in texts["coarse"]
    assert "9" in texts["unknown"]
    assert "0.5" in texts["half"]
    assert "3d_lowres" in texts["none"]
    assert "too many" in texts["many"] or "no labels" in texts["many"]


# Failures


def test_a_case_that_fails_costs_only_itself(
    tmp_path: Path, tiny_model: Make, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = cases(tmp_path, "abcdefg")
    inputs[1].images[0].write_bytes(b"not an image")
    inputs[2].images[0].unlink()
    inputs[3] = case(tmp_path, "d", random_image(channels=2), output=tmp_path / "out" / "d")
    nan = random_image()
    nan[0, 3, 3, 3] = np.nan
    inputs[4] = case(tmp_path, "e", nan, output=tmp_path / "out" / "e")
    sitk.WriteImage(sitk.GetImageFromArray(random_image()[0, 3]), str(inputs[5].images[0]))
    results = run(predictor(tiny_model()), inputs)
    assert [r.case.name for r in results if r.error is None] == ["a", "g"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "g.nii.gz"]
    texts = [str(r.error) for r in results]
    assert "b_0000.nii.gz" in texts[1]
    assert "no such file" in texts[2]
    assert "another number of channels" in texts[3]
    assert "2 in d_0000.nii.gz, d_0001.nii.gz" in texts[3]
    assert "1 NaN" in texts[4]
    assert "is 2D, but the model predicts volumes" in texts[5]
    for name, text in zip("bcdef", texts[1:6], strict=True):
        assert f"Case {name} cannot be predicted.\n{text}" in caplog.text


def test_nan_that_the_reader_hides_is_found(tmp_path: Path, tiny_model: Make) -> None:
    """ITK turns NaN into 0 in NIfTI files with a scale factor."""
    voxels = np.full((9, 8, 7), 5.0, np.float32)
    voxels[4, 4, 4] = np.nan
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(2.0, 0.0)
    path = tmp_path / "x_0000.nii.gz"
    nibabel.save(image, path)
    (result,) = run(predictor(tiny_model()), [InputCase(name="x", images=(path,))])
    assert isinstance(result.error, ImageError)
    assert "1 NaN" in str(result.error)


@pytest.mark.parametrize("where", ["network", "export"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("odd")], ids=["memory", "other"])
def test_errors_beyond_input(
    tmp_path: Path,
    tiny_model: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    error: Exception,
) -> None:
    model = predictor(tiny_model())
    owner, name = (model, "predict_logits") if where == "network" else (model, "write")
    original, calls = getattr(owner, name), []

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        calls.append(True)
        if len(calls) == 2:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, sometimes)
    results = run(model, cases(tmp_path, "abc"))
    assert [r.error is None for r in results] == [True, False, True]
    if isinstance(error, MemoryError):
        assert isinstance(results[1].error, PredictionError)
        assert "Memory does not suffice for case b" in str(results[1].error)
    else:
        assert results[1].error is error
        assert "Traceback" in caplog.text


def test_an_interruption_leaves_no_threads_and_no_halves(
    tmp_path: Path, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = predictor(tiny_model())
    original, calls = model.predict_logits, []

    def interrupted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(True)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "predict_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, cases(tmp_path, "abcdef"), num_readers=2, num_exporters=2)
    assert no_threads_left()
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written <= {"a.nii.gz", "b.nii.gz"}
    for name in written:
        read(tmp_path / "out" / name)


def test_a_caller_that_stops_early_leaves_no_threads(tmp_path: Path, tiny_model: Make) -> None:
    results = predictor(tiny_model()).predict_cases(cases(tmp_path, "abcdef"), progress=False)
    next(results)
    results.close()  # type: ignore[attr-defined]  it is a generator
    assert no_threads_left()


def test_progress_is_shown(
    tmp_path: Path, tiny_model: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnunet_pt.core.console.PLAIN_INTERVAL_S", 0.0)
    inputs = cases(tmp_path, "abc")
    run(predictor(tiny_model()), inputs, progress=True)
    assert "Predicting: 3/3" in capsys.readouterr().err
    run(predictor(tiny_model()), iter(inputs), total=3, progress=True)
    assert "Predicting: 3/3" in capsys.readouterr().err
