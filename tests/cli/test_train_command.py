"""``nnUNetv2_train`` before it trains: what it refuses, how it says so, and how fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_pt.cli import train

PLANNED = "Dataset902_PhantomFinetune"


@dataclass(frozen=True)
class Ended:
    status: int
    err: str


Train = Callable[[str], Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Train:
    """Runs the command in this process and makes sure that nobody sees a traceback."""

    def execute(line: str) -> Ended:
        try:
            status = train.main(line.split())
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.err)

    return execute


@pytest.fixture
def planned(measured_workspace: Path) -> Path:
    """A workspace in which Dataset902 has plans, but no preprocessed cases."""
    return measured_workspace


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--c --val", "--c and --val"),
        ("--c -pretrained_weights x.pth", "--c and -pretrained_weights"),
        ("--val -pretrained_weights x.pth", "--val and -pretrained_weights"),
        ("--val_best --disable_checkpointing", "--disable_checkpointing and --val_best"),
    ],
)
def test_options_that_exclude_each_other(run: Train, options: str, named: str) -> None:
    ended = run(f"902 2d 0 {options}")
    assert ended.status == 2
    assert named in ended.err and "to do:" in ended.err


@pytest.mark.parametrize(
    "line",
    [
        "902 2d",
        "902 2d first",
        "902 2d -1",
        "902 2d 0 -num_gpus 0",
        "902 2d 0 -epochs 0",
        "902 2d 0 -iterations 2.5",
        "902 2d 0 -lr 0",
        "902 2d 0 -lr nan",
        "902 2d 0 -warmup_epochs -1",
        "902 2d 0 -patience 0",
        "902 2d 0 -seed minus",
        "902 2d 0 -save_every_minutes -1",
        "902 2d 0 -device tpu",
        "902 2d 0 -precision int8",
        "902 2d 0 --unknown",
        "0902x 2d 0",
    ],
)
def test_arguments_that_cannot_be_meant(run: Train, line: str) -> None:
    ended = run(line)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 2 and "nnUNetv2_train --help" in ended.err


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("name", "suggested"),
    [("nnUNetTrainer_1epochs", "nnUNetTrainer_1epoch"), ("nnunettrainerDA5", "nnUNetTrainerDA5")],
)
def test_unknown_trainer_is_answered_with_similar_names(run: Train, name: str, suggested: str) -> None:
    ended = run(f"902 2d 0 -tr {name}")
    assert ended.status == 1
    assert f"There is no trainer called '{name}'" in ended.err
    assert suggested in ended.err.partition("did you mean")[2]


@pytest.mark.usefixtures("planned")
def test_trainer_of_a_missing_file(run: Train) -> None:
    ended = run("902 2d 0 -tr nowhere.py:Mine")
    assert ended.status == 1 and "nowhere.py" in ended.err


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("901 2d 0", "nnUNetv2_plan_and_preprocess -d 901"),
        ("902 2d 0", "nnUNetv2_preprocess -d 902 -plans_name nnUNetPlans -c 2d"),
        ("902 2d 0 -p otherPlans", "these plans: nnUNetPlans"),
    ],
)
def test_missing_plans_and_data_come_with_the_command_that_makes_them(run: Train, line: str, command: str) -> None:
    ended = run(line)
    assert ended.status == 1
    assert command in ended.err


@pytest.mark.usefixtures("planned")
def test_unknown_configuration_is_answered_with_those_there_are(run: Train) -> None:
    ended = run("902 3d_full 0")
    assert ended.status == 1
    assert "3d_full" in ended.err and "3d_fullres" in ended.err


@pytest.mark.usefixtures("planned")
def test_impossible_recipe_is_named_before_anything_else(run: Train) -> None:
    ended = run("902 2d 0 -epochs 3 -warmup_epochs 5")
    assert ended.status == 1
    assert "5 epochs of warm-up do not fit into 3" in ended.err


def test_nothing_is_left_behind_by_a_refused_training(run: Train, planned: Path) -> None:
    run("902 2d 0")
    assert not list((planned / "nnUNet_results").rglob("*"))


def test_missing_folder_variable_is_named(run: Train, planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (planned / "nnUNet_preprocessed" / PLANNED).is_dir()
    monkeypatch.delenv("nnUNet_preprocessed")
    ended = run("902 2d 0")
    assert ended.status == 1 and "export nnUNet_preprocessed=" in ended.err


def test_help_imports_nothing_heavy() -> None:
    """So that it comes at once; nnU-Net takes seconds for it."""
    program = "import sys; from nnunet_pt.cli.train import build_parser; build_parser().format_help(); "
    program += "print(sorted({'torch', 'numpy', 'scipy', 'SimpleITK', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
