from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, PlansError, UnknownNameError, UsageError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.planning.plan_and_preprocess import plan_and_show
from nnunet_pt.planning.planner import PlanRequest, plan_experiment
from nnunet_pt.planning.summary import plan_summary

MakeDataset = Callable[..., str]


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_what_is_written(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset(7)
    plans = plan_experiment(PlanRequest(dataset=7), workspace)
    folder = workspace.preprocessed / name
    assert files(folder) == {"dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json"}
    assert (folder / "dataset.json").read_bytes() == (workspace.raw / name / "dataset.json").read_bytes()
    assert json.loads((folder / "nnUNetPlans.json").read_text()) == plans.to_json()
    assert plans.image_reader_writer == "SimpleITKIO"
    assert plans.dataset_name == name


def test_gpu_memory_scales_patches(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(shapes=[(300, 300, 300)])
    voxels = {}
    for memory in (4, None, 16):
        plans = plan_experiment(PlanRequest(dataset=1, gpu_memory_target_gb=memory), workspace)
        a, b, c = plans.configuration("3d_fullres").patch_size
        voxels[memory] = a * b * c
    assert voxels[4] < voxels[None] < voxels[16]


def test_a_preset_away_from_its_memory_warns(
    make_dataset: MakeDataset, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset()
    with caplog.at_level(logging.WARNING, logger="nnunet_pt"):
        plan_experiment(PlanRequest(dataset=1, planner="nnUNetPlannerResEncL", gpu_memory_target_gb=24), workspace)
        plan_experiment(PlanRequest(dataset=1, gpu_memory_target_gb=24), workspace)
        assert not caplog.records
        plan_experiment(PlanRequest(dataset=1, planner="nnUNetPlannerResEncL", gpu_memory_target_gb=11), workspace)
    assert "nnUNetPlannerResEncL is made for 24 GB" in caplog.text


def test_a_target_spacing_is_taken_verbatim(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(spacings=[(1.0, 1.0, 3.0)], shapes=[(60, 70, 30)])
    plans = plan_experiment(PlanRequest(dataset=1, overwrite_target_spacing=(0.5, 2.0, 1.5)), workspace)
    assert plans.transpose_forward == (1, 0, 2)
    assert plans.configuration("3d_fullres").spacing == (2.0, 0.5, 1.5)
    assert plans.configuration("3d_fullres").median_image_size_in_voxels == (35, 120, 60)
    assert plans.configuration("2d").spacing == (0.5, 1.5)
    assert plans.original_median_spacing_after_transp == (1.0, 1.0, 3.0)


@pytest.mark.parametrize("spacing", [(1.5,), (1, 1, 1, 1), (), (1, 0, 1), (1, float("nan"), 1)])
def test_an_impossible_target_spacing(make_dataset: MakeDataset, workspace: Workspace, spacing: Any) -> None:
    name = make_dataset()
    with pytest.raises(UsageError, match="three numbers above 0"):
        plan_experiment(PlanRequest(dataset=1, overwrite_target_spacing=spacing), workspace)
    assert files(workspace.preprocessed / name) == {"dataset_fingerprint.json"}


@pytest.mark.parametrize("memory", [0, -3, float("nan")])
def test_an_impossible_memory(make_dataset: MakeDataset, workspace: Workspace, memory: float) -> None:
    make_dataset()
    with pytest.raises(UsageError, match="GPU memory"):
        plan_experiment(PlanRequest(dataset=1, gpu_memory_target_gb=memory), workspace)


@pytest.mark.parametrize("name", ["", "a/b"])
def test_an_impossible_plans_name(make_dataset: MakeDataset, workspace: Workspace, name: str) -> None:
    make_dataset()
    with pytest.raises(UsageError, match="plans name"):
        plan_experiment(PlanRequest(dataset=1, plans_name=name), workspace)


def test_another_plans_name(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(shapes=[(500, 500, 500)])
    plain = plan_experiment(PlanRequest(dataset=1, plans_name="mine"), workspace)
    assert plain.configuration("2d").data_identifier == "mine_2d"
    residual = plan_experiment(PlanRequest(dataset=1, planner="nnUNetPlannerResEncM", plans_name="res"), workspace)
    assert residual.configuration("2d").data_identifier == "nnUNetPlans_2d"
    assert residual.configuration("3d_fullres").data_identifier == "nnUNetPlans_3d_fullres"
    assert residual.configuration("3d_lowres").data_identifier == "res_3d_lowres"


def test_unknown_names_come_with_suggestions(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset()
    with pytest.raises(UnknownNameError, match="did you mean nnUNetPlannerResEncL"):
        plan_experiment(PlanRequest(dataset=1, planner="nnUNetPlanerResEncL"), workspace)
    with pytest.raises(UnknownNameError, match="did you mean DefaultPreprocessor"):
        plan_experiment(PlanRequest(dataset=1, preprocessor_name="DefaultPreprocesor"), workspace)


def test_other_configurations_survive(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset(shapes=[(500, 500, 500)])
    plan_experiment(PlanRequest(dataset=1), workspace)
    path = workspace.preprocessed / name / "nnUNetPlans.json"
    data = json.loads(path.read_text())
    data["configurations"] = {"own": {"inherits_from": "3d_fullres", "batch_size": 5}} | data["configurations"]
    data["configurations"]["2d"]["batch_size"] = 1
    path.write_text(json.dumps(data))

    again = plan_experiment(PlanRequest(dataset=1, overwrite_target_spacing=(5, 5, 5)), workspace)
    assert list(again.configurations) == ["2d", "3d_fullres", "own", "3d_lowres", "3d_cascade_fullres"]
    assert again.configuration("own").batch_size == 5
    assert again.configuration("2d").batch_size > 1


def test_a_damaged_old_file_is_not_replaced(make_dataset: MakeDataset, workspace: Workspace) -> None:
    path = workspace.preprocessed / make_dataset() / "nnUNetPlans.json"
    path.write_text('{"configurations": ')
    with pytest.raises(PlansError, match="correct or delete the file"):
        plan_experiment(PlanRequest(dataset=1), workspace)
    assert path.read_text() == '{"configurations": '


def test_masks_for_mostly_empty_images(make_dataset: MakeDataset, workspace: Workspace) -> None:
    channels = ["T1", "CT", "zScore", "noNorm", "rescale_to_0_1", "rgb_to_0_1"]
    make_dataset(1, channels=channels, relative_size=0.7)
    make_dataset(2, channels=channels, relative_size=0.75)
    cropped = plan_experiment(PlanRequest(dataset=1), workspace).configuration("2d")
    whole = plan_experiment(PlanRequest(dataset=2), workspace).configuration("2d")
    assert cropped.use_mask_for_norm == (True, False, True, False, False, False)
    assert whole.use_mask_for_norm == (False,) * 6
    assert cropped.normalization_schemes[1:4] == ("CTNormalization", "ZScoreNormalization", "NoNormalization")


def test_a_missing_fingerprint(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(12, spacings=None)
    with pytest.raises(PlansError, match="nnUNetv2_extract_fingerprint -d 12"):
        plan_experiment(PlanRequest(dataset=12), workspace)


def test_a_fingerprint_of_other_channels(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset(channels=["T1"])
    path = workspace.raw / name / "dataset.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"channel_names": {"0": "T1", "1": "T2"}}))
    with pytest.raises(PlansError, match="1 channel and 1 case in the fingerprint"):
        plan_experiment(PlanRequest(dataset=1), workspace)


def fold(train: str, val: str) -> dict[str, list[str]]:
    return {"train": list(train), "val": list(val)}


def test_splits_of_the_raw_dataset_are_copied(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset()
    text = json.dumps([fold("abc", "d")])
    (workspace.raw / name / "splits_final.json").write_text(text)
    plan_experiment(PlanRequest(dataset=1), workspace)
    assert (workspace.preprocessed / name / "splits_final.json").read_text() == text


def test_splits_in_use_may_have_another_order_and_more_folds(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset()
    (workspace.raw / name / "splits_final.json").write_text(json.dumps([fold("abc", "d")]))
    used = json.dumps([fold("cab", "d"), fold("bcd", "a")])
    (workspace.preprocessed / name / "splits_final.json").write_text(used)
    plan_experiment(PlanRequest(dataset=1), workspace)
    assert (workspace.preprocessed / name / "splits_final.json").read_text() == used


@pytest.mark.parametrize("used", [[fold("ab", "d")], [fold("abc", "d")], []])
def test_splits_that_contradict_each_other(make_dataset: MakeDataset, workspace: Workspace, used: Any) -> None:
    name = make_dataset()
    raw, copy = workspace.raw / name / "splits_final.json", workspace.preprocessed / name / "splits_final.json"
    raw.write_text(json.dumps([fold("abc", "d"), fold("bcd", "a")]))
    copy.write_text(json.dumps(used))
    with pytest.raises(DatasetError, match="contradict each other") as caught:
        plan_experiment(PlanRequest(dataset=1), workspace)
    assert str(raw) in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "3 / 1 cases" in str(caught.value)
    assert not (workspace.preprocessed / name / "nnUNetPlans.json").exists()


def test_a_file_that_holds_no_splits(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset()
    for root in (workspace.raw, workspace.preprocessed):
        (root / name / "splits_final.json").write_text('{"a": 1}')
    with pytest.raises(DatasetError, match="is not a splits file"):
        plan_experiment(PlanRequest(dataset=1), workspace)


def test_two_dimensional_data(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(spacings=[(999.0, 1.0, 1.0)], shapes=[(1, 138, 146)])
    plans = plan_experiment(PlanRequest(dataset=1), workspace)
    assert plans.configuration_names == ("2d",)
    assert plans.configuration("2d").spacing == (1.0, 1.0)


def test_the_number_of_cases_is_counted_if_it_is_not_given(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset(num_training=1)
    told = plan_experiment(PlanRequest(dataset=1), workspace)
    path = workspace.raw / name / "dataset.json"
    description = json.loads(path.read_text())
    del description["numTraining"]
    path.write_text(json.dumps(description))
    assert plan_experiment(PlanRequest(dataset=1), workspace) == told


def test_the_summary_names_what_matters(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(channels=["CT", "T1"], relative_size=0.5, spacings=[(1.0, 1.0, 3.0)], shapes=[(512, 512, 300)])
    plans = plan_experiment(PlanRequest(dataset=1), workspace)
    text = plan_summary(plans)
    full = plans.configuration("3d_fullres")
    for name in plans.configuration_names:
        assert name in text
    assert " x ".join(map(str, full.patch_size)) in text
    assert "3 x 1 x 1" in text
    assert "CTNormalization, ZScoreNormalization (masked)" in text
    assert f"PlainConvUNet, {full.architecture.arch_kwargs['n_stages']} stages" in text
    assert "reordered to 2, 0, 1" in text
    memory = [float(line.split(" GB")[0].split()[-1]) for line in text.splitlines() if " GB" in line]
    assert len(memory) == 4
    assert all(4 < gb < 9 for gb in memory)  # planned for 8


def test_the_summary_bears_a_damaged_configuration(make_dataset: MakeDataset, workspace: Workspace) -> None:
    name = make_dataset()
    path = workspace.preprocessed / name / "nnUNetPlans.json"
    plan_experiment(PlanRequest(dataset=1), workspace)
    data = json.loads(path.read_text())
    data["configurations"] |= {
        "broken": {"inherits_from": "2d", "spacing": None},
        "foreign": {"inherits_from": "2d", "architecture": {"network_class_name": "Primus", "arch_kwargs": {}}},
    }
    path.write_text(json.dumps(data))
    rows = {
        line.split()[0]: line for line in plan_summary(plan_experiment(PlanRequest(dataset=1), workspace)).splitlines()
    }
    assert "configurations.broken.spacing: is null" in rows["broken"]
    assert "Primus, ? stages" in rows["foreign"]


def test_images_too_small_for_a_network_are_told_before_their_data_are_made(
    make_dataset: MakeDataset, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    name = make_dataset(shapes=((5, 7, 6),) * 3, spacings=((1.0, 1.0, 1.0),) * 3)
    make_dataset(2)
    plan_and_show([PlanRequest(dataset=1), PlanRequest(dataset=2)], workspace)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith(f"2d, 3d_fullres of {name} cannot be trained: the images have too few voxels")
