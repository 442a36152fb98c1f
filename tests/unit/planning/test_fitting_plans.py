"""Plans from elsewhere are made to fit a dataset's channels, and share its data where these are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.settings import Workspace
from nnunet_pt.planning.fit_plans import channel_origins
from nnunet_pt.planning.move_plans import GivenPlans, MovePlansRequest, move_plans
from nnunet_pt.planning.planner import PlanRequest, plan_experiment
from nnunet_pt.plans.plans import Plans

MakeDataset = Callable[..., str]


@pytest.mark.parametrize(
    ("source", "target", "origins"),
    [
        (["T1"], ["T1"], (0,)),
        (["CT"], ["MR"], (0,)),  # one for one, whatever they are called, as in nnU-Net
        (["T1", "T2"], ["FLAIR", "T2"], (0, 1)),
        (["T1", "T2"], ["T2", "T1"], (1, 0)),
        (["T1", "T2"], ["t2", "FLAIR"], (1, None)),
        (["T1"], ["T2", "T1"], (None, 0)),
        (["t1_ce", "T2"], ["T1-CE"], (0,)),
        (["MR", "MR"], ["MR", "MR", "MR"], (0, 1, None)),
        (None, ["T1", "T2"], (None, None)),
    ],
)
def test_corresponding_channels(source: list[str] | None, target: list[str], origins: tuple[int | None, ...]) -> None:
    count = 1 if source is None else len(source)
    assert channel_origins(source, count, target) == origins


def test_unknown_names_of_as_many_channels_are_in_order() -> None:
    assert channel_origins(None, 2, ["T1", "T2"]) == (0, 1)


def moved(workspace: Workspace, source: Any = 1, name: str = "pre", **options: Any) -> dict[str, Any]:
    wanted = {"source_plans": "nnUNetPlans"} if source == 1 else {}
    path = move_plans(
        MovePlansRequest(source=source, target=2, target_plans=name, fit=True, **wanted, **options), workspace
    )
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_each_channel_gets_a_normalisation(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(1, channels=["CT", "T1"], relative_size=1.0, percentiles=(-5.0, 7.0))
    make_dataset(2, channels=["T1", "noNorm", "CT"], relative_size=0.5, percentiles=(-50.0, 70.0))
    original = plan_experiment(PlanRequest(dataset=1), workspace).to_json()
    plans = moved(workspace)
    entry = plans["configurations"]["3d_fullres"]
    assert entry["normalization_schemes"] == ["ZScoreNormalization", "NoNormalization", "CTNormalization"]
    assert entry["use_mask_for_norm"] == [False, False, False]  # T1 as in dataset 1, though 2 is mostly empty
    statistics = plans["foreground_intensity_properties_per_channel"]
    theirs = original["foreground_intensity_properties_per_channel"]
    assert statistics["2"] == theirs["0"] and statistics["0"] == theirs["1"]
    assert statistics["1"]["percentile_00_5"] == -50.0
    kept = ("patch_size", "spacing", "architecture", "batch_size")
    assert {k: entry[k] for k in kept} == {k: original["configurations"]["3d_fullres"][k] for k in kept}


def test_data_that_are_the_same_are_shared(make_dataset: MakeDataset, workspace: Workspace) -> None:
    make_dataset(1)
    name = make_dataset(2)
    plan_experiment(PlanRequest(dataset=1), workspace)
    own = Plans.load(workspace.preprocessed / "Dataset001_Test" / "nnUNetPlans.json").to_json()
    own["configurations"]["3d_fullres"]["batch_size"] = 7  # of no importance for the data
    own["configurations"]["2d"]["spacing"] = [9.0, 9.0]
    path = workspace.preprocessed / name / "nnUNetPlans.json"
    path.write_text(json.dumps({**own, "dataset_name": name}))
    (path.parent / "brokenPlans.json").write_text("{}")
    plans = moved(workspace)["configurations"]
    assert plans["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert plans["2d"]["data_identifier"] == "pre_2d"


def test_plans_that_come_with_a_model(make_dataset: MakeDataset, workspace: Workspace, tmp_path: Path) -> None:
    make_dataset(1, channels=["T1"])
    make_dataset(2, channels=["T1", "T2"])
    plan_experiment(PlanRequest(dataset=1), workspace)
    path = workspace.preprocessed / "Dataset001_Test" / "nnUNetPlans.json"
    plans = Plans.load(path)
    path.unlink()
    by_name = moved(workspace, GivenPlans(plans=plans, channel_names=("T1",)))
    assert len(by_name["configurations"]["2d"]["normalization_schemes"]) == 2
    assert (by_name["plans_name"], by_name["dataset_name"]) == ("pre", "Dataset002_Test")
    assert not list(tmp_path.rglob(".partial-*"))
