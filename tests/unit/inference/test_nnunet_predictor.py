"""The interface of nnU-Net's predictor: its arguments, results and files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.inference.model import TrainedModel
from nnunet_pt.inference.nnunet_predictor import nnUNetPredictor

PROPERTIES = {"spacing": [1.0, 1.0, 1.0]}


def image(seed: int = 0, shape: tuple[int, ...] = (7, 9, 11)) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 80, (1, *shape)).astype(np.float32)


def initialised(model: TrainedModel, **options: Any) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, precision="fp32", **options)
    predictor.manual_initialization(
        model.network,
        model.plans,
        model.configuration,
        list(model.fold_weights),
        model.dataset_json,
        "nnUNetTrainer",
        (0, 1),
    )
    return predictor


@pytest.fixture
def predictor(tiny_model: Callable[..., TrainedModel]) -> nnUNetPredictor:
    return initialised(tiny_model(folds=2))


@pytest.fixture
def files(tmp_path: Path) -> list[list[str]]:
    """Two cases."""
    paths = [tmp_path / "images" / f"{name}_0000.nii.gz" for name in "ab"]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        sitk.WriteImage(sitk.GetImageFromArray(image(seed)[0]), str(path))
    return [[str(path)] for path in paths]


def segmentation(predictor: nnUNetPredictor, seed: int) -> np.ndarray:
    made = predictor.predict_single_npy_array(image(seed), PROPERTIES)
    assert isinstance(made, np.ndarray)
    return made


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_one_array(tmp_path: Path, predictor: nnUNetPredictor) -> None:
    alone = segmentation(predictor, 0)
    assert alone.dtype == np.uint8
    assert alone.shape == (7, 9, 11)
    both = predictor.predict_single_npy_array(image(), PROPERTIES, None, None, True)
    assert isinstance(both, tuple)
    np.testing.assert_array_equal(both[0], alone)
    assert both[1].shape == (3, 7, 9, 11)
    stuff = {"sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": tuple(np.eye(3).ravel())}}
    given = predictor.predict_single_npy_array(image(), {**PROPERTIES, **stuff}, None, str(tmp_path / "x"), True)
    assert given is None
    assert names(tmp_path) >= {"x.nii.gz", "x.npz", "x.pkl"}


def test_several_arrays_and_iterators(tmp_path: Path, predictor: nnUNetPredictor) -> None:
    images, properties = [image(0), image(1)], [PROPERTIES, PROPERTIES]
    expected = [segmentation(predictor, seed) for seed in (0, 1)]
    made = predictor.predict_from_list_of_npy_arrays(images, None, properties, None)
    np.testing.assert_array_equal(made, expected)
    (single,) = predictor.predict_from_list_of_npy_arrays(images[0], None, properties[0], None, save_probabilities=True)
    assert isinstance(single, tuple)
    items = list(predictor.get_data_iterator_from_raw_npy_data(images, None, properties, None))
    assert all(isinstance(i["data"], torch.Tensor) and i["ofile"] is None for i in items)
    np.testing.assert_array_equal(predictor.predict_from_data_iterator(iter(items)), expected)
    # as other programs make them, and as nnU-Net stores large ones
    np.save(tmp_path / "large.npy", items[1]["data"].numpy())
    items[0] = {k: items[0][k] for k in ("data", "data_properties", "ofile")}
    items[1] = {**items[0], "data": str(tmp_path / "large.npy"), "data_properties": items[1]["data_properties"]}
    np.testing.assert_array_equal(predictor.predict_from_data_iterator(items), expected)
    assert names(tmp_path) & {"large.npy"} == set()
    items[0]["data"] = items[0]["data"] * -1  # what the caller changed is predicted
    assert (predictor.predict_from_data_iterator(items[:1])[0] != expected[0]).any()


def test_logits(predictor: nnUNetPredictor) -> None:
    (item,) = predictor.get_data_iterator_from_raw_npy_data(image(), None, PROPERTIES, None)
    mean = predictor.predict_logits_from_preprocessed_data(item["data"])
    last = predictor.predict_sliding_window_return_logits(item["data"])
    for logits in (mean, last):
        assert logits.dtype == torch.float16
        assert logits.shape == (3, *item["data"].shape[1:])
    assert not torch.equal(mean, last)  # one fold only


@pytest.mark.parametrize("workers", [(0, 0), (1, 1), (4, 4)])
def test_files_without_output(predictor: nnUNetPredictor, files: list[list[str]], workers: tuple[int, int]) -> None:
    made = predictor.predict_from_files(files, None, False, True, *workers)
    np.testing.assert_array_equal(made, [segmentation(predictor, seed) for seed in (0, 1)])
    (both,) = predictor.predict_from_files(files[:1], None, True) or []
    assert isinstance(both, tuple)
    np.testing.assert_array_equal(predictor.predict_from_files_sequential(files, None), made)


@pytest.mark.parametrize("source", ["lists", "folder"])
def test_files_to_a_folder(tmp_path: Path, predictor: nnUNetPredictor, files: list[list[str]], source: str) -> None:
    given = files if source == "lists" else str(tmp_path / "images")
    out = tmp_path / "out"
    assert predictor.predict_from_files(given, str(out), save_probabilities=True) == [None, None]
    beside = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}
    assert names(out) == {f"{n}{e}" for n in "ab" for e in (".nii.gz", ".npz", ".pkl")} | beside
    arguments = json.loads((out / "predict_from_raw_data_args.json").read_text())
    assert list(arguments) == sorted(arguments)
    assert arguments["list_of_lists_or_source_folder"] == given
    assert arguments["num_parts"] == 1
    (out / "b.nii.gz").unlink()
    before = (out / "a.nii.gz").stat().st_mtime_ns
    assert predictor.predict_from_files(given, str(out), overwrite=False) == [None]
    assert predictor.predict_from_files(given, str(out), overwrite=False) is None
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert "b.nii.gz" in names(out)
    (out / "b.npz").unlink()  # wanted, and not there
    assert predictor.predict_from_files(given, str(out), True, False) == [None]


def test_files_to_paths_and_parts(tmp_path: Path, predictor: nnUNetPredictor, files: list[list[str]]) -> None:
    targets = [str(tmp_path / "out" / name) for name in ("x.1", "y")]
    assert predictor.predict_from_files(files, targets, num_parts=2, part_id=1) == [None]
    assert names(tmp_path / "out") & {"x.1.nii.gz", "y.nii.gz"} == {"y.nii.gz"}
    assert predictor.predict_from_files_sequential(files, targets) == []
    assert names(tmp_path / "out") >= {"x.1.nii.gz", "y.nii.gz"}
    arguments = json.loads((tmp_path / "out" / "predict_from_raw_data_args.json").read_text())
    assert "num_parts" not in arguments


def test_a_failure_is_raised_after_the_others_are_done(
    tmp_path: Path, predictor: nnUNetPredictor, files: list[list[str]]
) -> None:
    Path(files[0][0]).write_bytes(b"no image")
    with pytest.raises(PredictionError, match="a: The image") as caught:
        predictor.predict_from_files(files, str(tmp_path / "out"))
    assert "1 case cannot" in str(caught.value)
    assert "b.nii.gz" in names(tmp_path / "out")


def test_a_cascade(tmp_path: Path, tiny_model: Callable[..., TrainedModel], files: list[list[str]]) -> None:
    predictor = initialised(tiny_model(previous_stage="3d_lowres"))
    previous = np.random.default_rng(0).integers(0, 3, (7, 9, 11)).astype(np.uint8)
    (tmp_path / "previous").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(previous), str(tmp_path / "previous" / "a.nii.gz"))
    (made,) = (
        predictor.predict_from_files(files[:1], None, folder_with_segs_from_prev_stage=tmp_path / "previous") or []
    )
    for form in (previous, previous[None]):
        np.testing.assert_array_equal(predictor.predict_single_npy_array(image(), PROPERTIES, form), made)
    with pytest.raises(PredictionError, match="previous stage's segmentation is missing"):
        predictor.predict_single_npy_array(image(), PROPERTIES)


def test_what_scripts_look_at(predictor: nnUNetPredictor) -> None:
    assert predictor.trainer_name == "nnUNetTrainer"
    assert predictor.allowed_mirroring_axes == (0, 1)
    assert len(predictor.list_of_parameters) == 2
    assert predictor.configuration_manager.patch_size == (8, 8, 8)
    assert predictor.plans_manager.plans_name == "nnUNetPlans"
    assert predictor.dataset_json["file_ending"] == ".nii.gz"
    assert predictor.label_manager.all_labels == (0, 1, 2)
    assert isinstance(predictor.network, torch.nn.Module)
    assert not predictor.perform_everything_on_device
    with pytest.raises(PredictionError, match="initialize_from_trained_model_folder"):
        _ = nnUNetPredictor(device="cpu").network


def test_plans_and_configurations_in_other_forms(tiny_model: Callable[..., TrainedModel]) -> None:
    class Holder:  # as nnU-Net's managers hold them
        def __init__(self, **content: Any) -> None:
            self.__dict__.update(content)

    model = tiny_model()
    content = model.plans.to_json()
    for plans in (content, Holder(plans=content)):
        for configuration in ("3d_fullres", Holder(configuration=content["configurations"]["3d_fullres"])):
            predictor = nnUNetPredictor(device="cpu", precision="fp32")
            predictor.manual_initialization(
                model.network, plans, configuration, None, model.dataset_json, "nnUNetTrainer", None
            )
            assert predictor.configuration_manager.patch_size == (8, 8, 8)
            assert segmentation(predictor, 0).shape == (7, 9, 11)


def test_the_package_offers_prediction_without_being_slow_to_import() -> None:
    code = (
        "import sys, nnunet_pt\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "assert 'Predictor' in dir(nnunet_pt)\n"
        "from nnunet_pt import CaseResult, InputCase, Prediction, PredictionOptions, Predictor, nnUNetPredictor\n"
        "assert Predictor.from_folder and nnUNetPredictor.predict_from_files\n"
        "try: nnunet_pt.Nothing\n"
        "except AttributeError as error: assert 'Nothing' in str(error)\n"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)
