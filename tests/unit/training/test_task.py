"""What a training needs before it begins: every missing thing names the command that makes it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CASES, TinyTraining

from nnunet_pt.core.errors import NnunetError, PlansError, StorageError, TrainingError, UnknownNameError, UsageError
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.task import TrainRequest, prepare


def refused(tiny: TinyTraining, *where: Any, **options: Any) -> NnunetError:
    with pytest.raises(NnunetError) as caught:
        tiny.task(*where, **options)
    return caught.value


def test_plans_missing(tiny: TinyTraining) -> None:
    (tiny.dataset.preprocessed / "nnUNetPlans.json").unlink()
    error = refused(tiny)
    assert isinstance(error, PlansError)
    assert "nnUNetv2_plan_and_preprocess -d 7" in str(error) and "no plans at all" in str(error)


@pytest.mark.parametrize(
    ("plans_name", "command"),
    [
        ("nnUNetPlans", "nnUNetv2_plan_and_preprocess -d 7"),
        ("nnUNetResEncUNetMPlans", "nnUNetv2_plan_and_preprocess -d 7 -pl nnUNetPlannerResEncM"),
        ("myPlans", "nnUNetv2_plan_and_preprocess -d 7 -overwrite_plans_name myPlans"),
    ],
)
def test_the_command_that_makes_missing_plans(tiny: TinyTraining, plans_name: str, command: str) -> None:
    (tiny.dataset.preprocessed / "nnUNetPlans.json").unlink()
    assert str(refused(tiny, plans_name=plans_name).remedy).endswith(f"  {command}")


def test_other_plans_are_named(tiny: TinyTraining) -> None:
    error = refused(tiny, plans_name="nnUNetResEncUNetLPlans")
    assert "these plans: nnUNetPlans" in str(error) and "-p" in str(error)


def test_unknown_configuration(tiny: TinyTraining) -> None:
    error = refused(tiny, "3d_fulres")
    assert isinstance(error, UnknownNameError)
    assert "did you mean 3d_fullres" in str(error)


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
@pytest.mark.parametrize("empty", [True, False])
def test_preprocessed_data_missing(tiny: TinyTraining, configuration: str, empty: bool) -> None:
    folder = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    shutil.rmtree(folder)
    if empty:
        folder.mkdir()
    error = refused(tiny, configuration)
    assert isinstance(error, StorageError)
    assert "nnUNetv2_preprocess -d 7 -plans_name nnUNetPlans -c 3d_fullres" in str(error)


def test_preprocessing_in_parts_that_is_not_complete(tiny: TinyTraining) -> None:
    parts = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres.parts"
    parts.mkdir()
    error = refused(tiny)
    assert isinstance(error, StorageError) and str(parts) in str(error)
    assert "nnUNetv2_preprocess -d 7 -plans_name nnUNetPlans -c 3d_fullres" in str(error)
    assert not (tiny.dataset.preprocessed / "splits_final.json").exists()
    tiny.task(continue_training=True)


def test_folds_of_less_cases_than_there_are(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    tiny.task(fold="all")
    assert not caplog.records
    path = tiny.dataset.preprocessed / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numTraining": len(CASES) + 3}))
    for fold in ("all", 0):
        caplog.clear()
        tiny.task(fold=fold)
        assert f"Of {len(CASES) + 3} training cases in dataset.json {len(CASES)} are preprocessed" in caplog.text
    assert "splits_final.json" in caplog.text
    caplog.clear()
    tiny.task(fold=1)  # the folds are what they are
    assert not caplog.records


def test_incomplete_case_is_named(tiny: TinyTraining) -> None:
    (tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres" / "a_seg.b2nd").unlink()
    with pytest.raises(StorageError, match="incomplete or missing: a\n") as caught:
        tiny.run()
    assert "nnUNetv2_preprocess" in str(caught.value)


def test_unknown_dataset(tiny: TinyTraining) -> None:
    with pytest.raises(NnunetError, match="99"):
        prepare(replace(tiny.request(), dataset=99), DEFAULT, tiny.workspace)


@pytest.mark.parametrize("fold", [-1, -5])
def test_negative_fold(tiny: TinyTraining, fold: int) -> None:
    error = refused(tiny, fold=fold)
    assert isinstance(error, TrainingError)
    assert f"Fold {fold} cannot be trained" in str(error) and "a fold from 0 to 4, or all" in str(error)


def test_splits_are_made_at_first_use(tiny: TinyTraining) -> None:
    path = tiny.dataset.preprocessed / "splits_final.json"
    assert not path.exists()
    split = tiny.task(fold=3).split
    assert json.loads(path.read_text())[3] == split.to_json()
    assert tiny.task(fold="all").split.to_json() == {"train": list(CASES), "val": list(CASES)}


def test_fold_with_cases_that_are_not_there(tiny: TinyTraining) -> None:
    path = tiny.dataset.preprocessed / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a", "x"], "val": ["b"]}]))
    error = refused(tiny)
    assert "not preprocessed: x." in str(error) and "splits_final.json" in str(error)
    path.write_text(json.dumps([{"train": [], "val": ["b"]}]))
    assert "has no training cases" in str(refused(tiny))


def test_patches_with_other_axes_are_refused(tiny: TinyTraining) -> None:
    error = refused(tiny, "2d", recipe={"patch_size": (96, 96, 96)})
    assert isinstance(error, TrainingError)
    assert "its patches have 3 axes" in str(error)


def test_recipe_changes_patch_and_batch(tiny: TinyTraining) -> None:
    configuration = tiny.task(recipe={"patch_size": (16, 8, 8), "batch_size": 3}).configuration
    assert (configuration.patch_size, configuration.batch_size) == ((16, 8, 8), 3)


def test_more_processes_than_samples(tiny: TinyTraining) -> None:
    with pytest.raises(TrainingError, match="-num_gpus 2 or fewer"):
        tiny.run(num_processes=3)
    assert not tiny.folder().exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"continue_training": True, "pretrained_weights": Path("x.pth")}, "starts a new training; --c continues one"),
        ({"validation_only": True, "pretrained_weights": Path("x.pth")}, "-pretrained_weights"),
        ({"continue_training": True, "validation_only": True}, "--c and --val"),
        ({"disable_checkpointing": True, "validate_best": True}, "--disable_checkpointing and --val_best"),
        ({"num_processes": 0}, "-num_gpus is 0"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        TrainRequest(dataset=7, configuration="2d", fold=0, **options)


def test_cascade_without_previous_stage(tiny: TinyTraining) -> None:
    error = refused(tiny, "3d_cascade_fullres")
    assert "nnUNetv2_train 7 3d_lowres 0" in str(error) and "with the same trainer and plans" in str(error)


def test_input_channels(tiny: TinyTraining) -> None:
    (tiny.folder("3d_lowres").parent / "predicted_next_stage" / "3d_cascade_fullres").mkdir(parents=True)
    assert tiny.task().input_channels == 1
    task = tiny.task("3d_cascade_fullres")
    assert task.is_cascaded and task.input_channels == 3
    assert task.data_folder.name == "nnUNetPlans_3d_fullres"
