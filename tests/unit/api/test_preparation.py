"""What is prepared before a training, and what is left as it is."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from nnunet_pt.api import preparation
from nnunet_pt.api.preparation import Preparation
from nnunet_pt.core.errors import DatasetError, PlansError
from nnunet_pt.planning.presets import PLANNERS

Make = Callable[..., Preparation]


@pytest.fixture
def make(planned: Any) -> Make:
    """A preparation in this process."""

    def prepare(**options: Any) -> Preparation:
        standard = {
            "workspace": planned.workspace,
            "dataset": planned.name,
            "configuration": "3d_fullres",
            "plans_name": "nnUNetPlans",
            "num_workers": 0,
            "progress": False,
        }
        return Preparation(**{**standard, **options})

    return prepare


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Folders that were checked."""
    done: list[Any] = []
    original = preparation.verify_dataset_integrity

    def verify(folder: Any, **options: Any) -> Any:
        done.append(folder)
        return original(folder, **options)

    monkeypatch.setattr(preparation, "verify_dataset_integrity", verify)
    return done


def test_a_dataset_is_checked_once_and_again_when_it_has_changed(make: Make, planned: Any, checks: list[Any]) -> None:
    make(verify=False).check()
    assert checks == []
    for _ in range(3):
        make().check()
    assert len(checks) == 1
    later = time.time() + 10
    os.utime(planned.label("c"), (later, later))
    make().check()
    assert len(checks) == 2
    planned.image("e").unlink()
    for _ in range(2):
        with pytest.raises(DatasetError, match="e"):
            make().check()
    assert len(checks) == 4


def test_plans_of_a_planner_are_made(make: Make, planned: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    plans = make(plans_name="nnUNetResEncUNetMPlans", configuration="2d").plans()
    assert plans.experiment_planner_used == "nnUNetPlannerResEncM"
    assert "are made and used" not in caplog.text
    (planned.preprocessed / "nnUNetPlans.json").unlink()
    assert make(chosen=False).plans().plans_name == "nnUNetPlans"
    assert "has the plans nnUNetResEncUNetMPlans; nnUNetPlans are made and used" in caplog.text


def test_every_planner_has_plans_of_its_own_name() -> None:
    assert len({PLANNERS[name].plans_name for name in PLANNERS}) == len(list(PLANNERS))


def test_other_plans_must_be_there(make: Make, planned: Any) -> None:
    with pytest.raises(PlansError, match="these plans: nnUNetPlans") as error:
        make(plans_name="mine").plans()
    assert "nnUNetResEncUNetLPlans" in str(error.value)
    planned.plan("mine")
    assert make(plans_name="mine").plans().plans_name == "mine"


def test_the_first_stage_of_a_cascade_needs_the_data_of_the_second(make: Make, planned: Any) -> None:
    first = make(configuration="3d_lowres")
    first.data(first.plans())
    names = {path.name for path in planned.preprocessed.glob("nnUNetPlans_*") if path.is_dir()}
    assert names == {"nnUNetPlans_3d_lowres", "nnUNetPlans_3d_fullres"}


def test_data_are_kept_and_completed(make: Make, planned: Any) -> None:
    ready = make()
    ready.data(ready.plans())
    before = planned.times()
    ready.data(ready.plans())
    assert planned.times() == before
    planned.add("g", shape=(12, 14, 16))
    (planned.data / "a.b2nd").unlink()
    ready.data(ready.plans())
    after = planned.times()
    assert {name for name in after if after[name] != before.get(name)} == {
        f"{case}{end}" for case in "ag" for end in (".b2nd", "_seg.b2nd", ".pkl")
    }


def test_data_that_nnunet_made_are_used_if_they_are_complete(make: Make, planned: Any) -> None:
    ready = make()
    ready.data(ready.plans())
    manifest = planned.preprocessed / "nnUNetPlans_3d_fullres.manifest.jsonl"
    manifest.unlink()
    before = planned.times()
    ready.data(ready.plans())
    assert planned.times() == before and not manifest.exists()
    for path in planned.data.glob("f*"):
        path.unlink()
    ready.data(ready.plans())
    assert manifest.exists() and (planned.data / "f.pkl").is_file()


def test_a_preprocessed_dataset_needs_no_raw_one(make: Make, planned: Any, checks: list[Any]) -> None:
    ready = make()
    ready.data(ready.plans())
    before = planned.times()
    shutil.rmtree(planned.raw)
    ready.check()
    ready.data(ready.plans())
    assert planned.times() == before and checks == []


def test_data_of_other_plans_in_the_same_folder_are_left_alone(make: Make, planned: Any) -> None:
    ready = make()
    ready.data(ready.plans())
    before = planned.times()
    entry = planned.plans["configurations"]["3d_fullres"]
    larger = {"plans_name": "larger", "configurations": {"3d_fullres": {**entry, "patch_size": [12] * 3}}}
    (planned.preprocessed / "larger.json").write_text(json.dumps({**planned.plans, **larger}))
    other = make(plans_name="larger")
    other.data(other.plans())
    assert planned.times() == before
