"""Trainings record how their images lie in the arrays, for prediction."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CASES, TinyTraining

from nnunet_pt.inference.model import load_model
from nnunet_pt.inference.orientation import ORIENTATION_FILE, read_orientation, record_orientation
from nnunet_pt.networks.precision import choose_precision
from nnunet_pt.training import model_folder
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.model_folder import write_model_files
from nnunet_pt.training.task import TrainingTask

SPL: Any = {"sitk_stuff": {"direction": (1.0, 0, 0, 0, 1, 0, 0, 0, 1)}}
SPR: Any = {"sitk_stuff": {"direction": (-1.0, 0, 0, 0, 1, 0, 0, 0, 1)}}
PICTURE: Any = {"spacing": [999, 1, 1]}


def begin(task: TrainingTask) -> str | None:
    """What is recorded after a training has begun."""
    cpu = torch.device("cpu")
    task.output_folder.mkdir(parents=True, exist_ok=True)
    write_model_files(task, device=cpu, precision=choose_precision(cpu, "fp32"), processes=Processes())
    return read_orientation(task.model_folder)


def store(task: TrainingTask, cases: Sequence[Any]) -> None:
    """Replace the preprocessed cases; bytes are the content of a damaged file."""
    for path in task.data_folder.glob("*.pkl"):
        path.unlink()
    for number, case in enumerate(cases):
        content = case if isinstance(case, bytes) else pickle.dumps(case)
        (task.data_folder / f"case_{number:05d}.pkl").write_bytes(content)


def trained(task: TrainingTask, fold: int) -> None:
    """Leave a checkpoint in another fold."""
    folder = task.model_folder / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_final.pth").touch()


def test_trainings_record_the_orientation(tiny: TinyTraining) -> None:
    tiny.run()
    task = tiny.task()
    record = json.loads((task.model_folder / ORIENTATION_FILE).read_text())
    assert (record["orientation"], record["num_cases"]) == ("SPL", len(CASES))
    assert load_model(task.model_folder).orientation == "SPL"


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([SPL] * 3, "SPL"),
        ([SPR], "SPR"),
        ([SPL, b"damaged", SPL], "SPL"),
        ([PICTURE] * 3, None),
        ([SPL, SPR, SPL], None),
        ([SPL, PICTURE], None),
        ([b"damaged", b""], None),
        ([{"sitk_stuff": {"direction": "nonsense"}}], None),
    ],
)
def test_only_what_all_cases_have_is_recorded(tiny: TinyTraining, cases: Sequence[Any], expected: str | None) -> None:
    task = tiny.task()
    store(task, cases)
    assert begin(task) == expected
    assert (task.model_folder / ORIENTATION_FILE).exists() == (expected is not None)


def test_disagreement_is_told(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    task = tiny.task()
    store(task, [SPL, SPR])
    with caplog.at_level(logging.INFO):
        begin(task)
    assert [m for m in caplog.messages if "SPL, SPR" in m]


def test_many_cases(tiny: TinyTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them are looked at, from the whole range."""
    task = tiny.task()
    store(task, [SPL] * 203)
    seen: list[Path] = []
    load = model_folder.load_properties
    monkeypatch.setattr(model_folder, "load_properties", lambda path: seen.append(path) or load(path))
    assert begin(task) == "SPL"
    numbers = [int(path.stem.removeprefix("case_")) for path in seen]
    assert len(numbers) == len(set(numbers)) == 50
    assert numbers[0] == 0
    assert max(b - a for a, b in zip(numbers, [*numbers[1:], 203], strict=True)) <= 5
    assert json.loads((task.model_folder / ORIENTATION_FILE).read_text())["num_cases"] == 50


def test_continuing_keeps_the_record(tiny: TinyTraining) -> None:
    task = tiny.task(continue_training=True)
    store(task, [SPL])
    assert begin(task) == "SPL"
    store(task, [SPR])
    assert begin(task) == "SPL"


def test_other_folds_and_the_record_agree(tiny: TinyTraining) -> None:
    """A record is for all folds: images that lie in another way are a reason for none, unless there is one fold."""
    task = tiny.task()
    store(task, [SPL])
    begin(task)
    trained(task, 0)  # this fold, which is trained again
    store(task, [SPR])
    assert begin(task) == "SPR"
    trained(task, 1)
    assert begin(task) == "SPR"
    store(task, [SPL])
    assert begin(task) is None


def test_unreadable_cases_leave_the_record_of_other_folds(tiny: TinyTraining) -> None:
    task = tiny.task()
    trained(task, 1)
    record_orientation(task.model_folder, "SPL", 1)
    store(task, [b"damaged"])
    assert begin(task) == "SPL"


def test_damaged_record_is_made_anew(tiny: TinyTraining) -> None:
    task = tiny.task()
    task.model_folder.mkdir(parents=True)
    for content in ("{", '{"orientation": 3}'):
        (task.model_folder / ORIENTATION_FILE).write_text(content)
        assert begin(task) == "SPL"


def test_plans_hold_the_sizes_of_the_trainer(tiny: TinyTraining) -> None:
    """nnU-Net predicts with the plans in the model's folder."""
    task = tiny.task(recipe={"patch_size": (4, 8, 8), "batch_size": 3})
    begin(task)
    plans = json.loads((task.model_folder / "plans.json").read_text())["configurations"]
    assert (plans["3d_fullres"]["patch_size"], plans["3d_fullres"]["batch_size"]) == ([4, 8, 8], 3)
    assert plans["2d"] == task.plans.to_json()["configurations"]["2d"]
    assert task.plans.configuration("3d_fullres").patch_size != (4, 8, 8)
    task = tiny.task()
    begin(task)
    assert json.loads((task.model_folder / "plans.json").read_text()) == task.plans.to_json()
