from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, PlansError, UsageError
from nnunet_pt.core.settings import Workspace
from nnunet_pt.planning.move_plans import MovePlansRequest, move_plans
from nnunet_pt.planning.planner import PlanRequest, plan_experiment

MakeDataset = Callable[..., str]
SOURCE, TARGET = "Dataset001_Test", "Dataset002_Test"


@pytest.fixture
def move(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[dict[str, Any], str]]:
    """Move plans from dataset 1 to 2; returns the new file's content and what was printed."""

    def run(
        source_plans: str = "nnUNetPlans", target_plans: str | None = None, *, force: bool = False
    ) -> tuple[dict[str, Any], str]:
        caplog.clear()
        request = MovePlansRequest(
            source=1, target=2, source_plans=source_plans, target_plans=target_plans, force=force
        )
        with caplog.at_level(logging.INFO, logger="nnunet_pt"):
            path = move_plans(request, workspace)
        assert path == workspace.preprocessed / TARGET / f"{target_plans or source_plans}.json"
        return json.loads(path.read_text()), "\n".join(r.getMessage() for r in caplog.records)

    return run


def identifiers(data: dict[str, Any]) -> dict[str, Any]:
    return {k: v.get("data_identifier") for k, v in data["configurations"].items()}


def test_only_names_and_the_reader_change(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1, channels=["CT"], shapes=[(500, 500, 500)])
    make_dataset(2, channels=["CT"], overwrite_image_reader_writer="NibabelIO", percentiles=(0.0, 1.0))
    original = plan_experiment(PlanRequest(dataset=1), workspace).to_json()
    data, _ = move(target_plans="pretrainPlans")
    assert list(data) == list(original)
    assert data["dataset_name"] == TARGET
    assert data["plans_name"] == "pretrainPlans"
    assert data["image_reader_writer"] == "NibabelIO"
    assert identifiers(data) == {
        "2d": "pretrainPlans_2d",
        "3d_lowres": "pretrainPlans_3d_lowres",
        "3d_fullres": "pretrainPlans_3d_fullres",
        "3d_cascade_fullres": None,
    }
    changed = ("dataset_name", "plans_name", "image_reader_writer", "configurations")
    assert {k: v for k, v in data.items() if k not in changed} == {
        k: v for k, v in original.items() if k not in changed
    }
    for name, entries in data["configurations"].items():
        expected = original["configurations"][name]
        assert list(entries) == list(expected)
        assert {k: v for k, v in entries.items() if k != "data_identifier"} == {
            k: v for k, v in expected.items() if k != "data_identifier"
        }


def test_the_same_name_keeps_the_data_folders(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1)
    make_dataset(2)
    plan_experiment(PlanRequest(dataset=1), workspace)
    data, _ = move()
    assert data["plans_name"] == "nnUNetPlans"
    assert identifiers(data) == {"2d": "nnUNetPlans_2d", "3d_fullres": "nnUNetPlans_3d_fullres"}


def test_foreign_data_folders_get_a_prefix(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    """Names as nnU-Net 2.8.1 makes them: the beginning is replaced whatever follows, others get a prefix."""
    make_dataset(1)
    make_dataset(2)
    plan_experiment(PlanRequest(dataset=1), workspace)
    path = workspace.preprocessed / SOURCE / "nnUNetPlans.json"
    data = json.loads(path.read_text())
    folders = ["nnUNetPlansXX_b", "a_nnUNetPlans_b", "nnUNetPlans", "nnUNetPlans_nnUNetPlans_2d"]
    data["configurations"] |= {f"m{i}": {"inherits_from": "2d", "data_identifier": f} for i, f in enumerate(folders)}
    path.write_text(json.dumps(data))
    moved = identifiers(move(target_plans="pre")[0])
    assert [moved[f"m{i}"] for i in range(4)] == ["preXX_b", "pre_a_nnUNetPlans_b", "pre", "pre_nnUNetPlans_2d"]
    plan_experiment(PlanRequest(dataset=1, planner="nnUNetPlannerResEncM"), workspace)
    assert identifiers(move("nnUNetResEncUNetMPlans", "pre")[0])["2d"] == "pre_nnUNetPlans_2d"


def test_the_target_can_be_preprocessed_without_having_been_planned(
    make_dataset: MakeDataset, workspace: Workspace, move: Any
) -> None:
    make_dataset(1)
    make_dataset(2, spacings=None)
    plan_experiment(PlanRequest(dataset=1), workspace)
    _, text = move()
    copy = workspace.preprocessed / TARGET / "dataset.json"
    assert copy.read_bytes() == (workspace.raw / TARGET / "dataset.json").read_bytes()
    assert "What could not be compared" in text
    copy.write_text("{}")
    move()
    assert copy.read_text() == "{}"  # never replaced


def test_nothing_to_complain_about(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1, channels=["T1", "T2"])
    make_dataset(2, channels=["t1", "T2"], spacings=[(1.9, 1.0, 0.6)])
    plan_experiment(PlanRequest(dataset=1), workspace)
    _, text = move(target_plans="pre")
    assert "Nothing was found that will hurt." in text
    assert "pre for Dataset002_Test" in text
    assert "CT statistics" not in text


def test_a_different_number_of_channels_is_refused(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1, channels=["T1", "T2"])
    make_dataset(2, channels=["T1"])
    plan_experiment(PlanRequest(dataset=1), workspace)
    with pytest.raises(PlansError, match="different numbers of channels") as caught:
        move(target_plans="pre")
    assert "--force" in str(caught.value)
    assert not (workspace.preprocessed / TARGET / "pre.json").exists()
    assert not (workspace.preprocessed / TARGET / "dataset.json").exists()
    data, text = move(target_plans="pre", force=True)
    assert len(data["configurations"]["2d"]["normalization_schemes"]) == 2
    assert "The plans are made for 2 channels, but Dataset002_Test has 1." in text


def test_channels_and_normalisation_that_differ(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1, channels=["CT", "T1", "T2"], relative_size=1.0)
    make_dataset(2, channels=["T1", "T1", "FLAIR"], relative_size=0.5)
    plan_experiment(PlanRequest(dataset=1), workspace)
    _, text = move()
    assert "Channel 0 is 'CT' in Dataset001_Test, but 'T1' in Dataset002_Test." in text
    assert "Channel 0 (T1) will be normalised with CTNormalization; for its name it would be ZScore" in text
    assert "Channel 1 (T1) will be normalised over the whole image; by itself it would not be." in text
    assert "Channel 2 is 'T2' in Dataset001_Test, but 'FLAIR' in Dataset002_Test." in text
    assert "CT statistics of Dataset001_Test" in text
    assert "channel 0: clip to -100 .. 300, mean 100, standard deviation 120" in text


@pytest.mark.parametrize(("own", "hurts"), [((2.0, 1.0, 1.0), False), ((2.1, 1.0, 1.0), True), ((0.4, 1, 1), True)])
def test_spacing_that_differs(
    make_dataset: MakeDataset, workspace: Workspace, move: Any, own: Any, hurts: bool
) -> None:
    make_dataset(1, spacings=[(1.0, 1.0, 1.0)])
    make_dataset(2, spacings=[own])
    plan_experiment(PlanRequest(dataset=1), workspace)
    _, text = move()
    assert ("3d_fullres: spacing 1 x 1 x 1 mm" in text) == hurts
    assert "2d: spacing" not in text  # the 2d configuration does not resample along the first axis


def test_plans_that_leave_the_spacing_to_the_cases(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1)
    make_dataset(2, spacings=[(9.0, 9.0, 9.0)])
    plan_experiment(PlanRequest(dataset=1), workspace)
    (file,) = workspace.preprocessed.glob("Dataset001*/nnUNetPlans.json")
    plans = json.loads(file.read_text())
    for entry in plans["configurations"].values():
        entry["spacing"] = [None] * len(entry["spacing"])
    file.write_text(json.dumps(plans))
    assert "mm, but the median" not in move()[1]


def test_spacing_is_compared_along_the_axes_of_the_plans(
    make_dataset: MakeDataset, workspace: Workspace, move: Any
) -> None:
    """The plans' thick slices are the reader's last axis; the target's too, so that nothing differs."""
    make_dataset(1, spacings=[(1.0, 1.0, 5.0)], shapes=[(200, 200, 20)])
    make_dataset(2, spacings=[(1.0, 1.0, 5.0)], shapes=[(200, 200, 20)])
    plan_experiment(PlanRequest(dataset=1), workspace)
    assert "Nothing was found" in move()[1]


def test_missing_plans_and_missing_datasets(make_dataset: MakeDataset, workspace: Workspace, move: Any) -> None:
    make_dataset(1)
    with pytest.raises(DatasetError, match="number 2"):
        move()
    make_dataset(2)
    with pytest.raises(PlansError, match="There is no plans file"):
        move()
    plan_experiment(PlanRequest(dataset=1), workspace)
    with pytest.raises(PlansError, match="these plans: nnUNetPlans"):
        move("nnUNetPlan")
    with pytest.raises(UsageError, match="plans name"):
        move(target_plans="../pre")
