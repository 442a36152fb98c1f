"""``nnUNetv2_train_pretrained``: both forms of its arguments, what it asks for, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.cli import train_pretrained
from nnunet_pt.core.errors import UsageError
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.training.run import command_line

PLANS = "ptPlans__Name____Spacing__1.00_1.00_1.00___Norm__Z"
DEFAULT = TrainRequest(
    dataset=4, configuration="3d_fullres", fold=0, trainer="PretrainedTrainer", plans_name=PLANS, of_plans=True
)


def request(line: str) -> TrainRequest:
    return train_pretrained.request(train_pretrained.build_parser().parse_args(line.split()))


@dataclass(frozen=True)
class Ended:
    status: int
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Ended]:
    """Runs the command in this process and makes sure that nobody sees a traceback."""

    def execute(line: str) -> Ended:
        try:
            status = train_pretrained.main(line.split())
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.err)

    return execute


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    "line",
    [
        f"4 3d_fullres 0 -p {PLANS}",
        f"-d 4 -c 3d_fullres -f 0 -p {PLANS}",
        f"-p {PLANS} -f 0 -c 3d_fullres -d 4",
        f"-p {PLANS} 4 3d_fullres 0",
        f"-d 004 -c 3d_fullres -f 0 -p {PLANS}",
    ],
)
def test_both_forms_ask_for_the_same(line: str) -> None:
    assert request(line) == DEFAULT


def test_d_is_not_taken_for_device() -> None:
    assert request(f"-d 4 -c 3d_fullres -f all -p {PLANS} -device cpu") == replace(DEFAULT, fold="all", device="cpu")
    assert request(f"-d 4 -c 3d_fullres -f 0 -p {PLANS} --c") == replace(DEFAULT, continue_training=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "-tr PretrainedTrainer_150ep": {"trainer": "PretrainedTrainer_150ep"},
    "--from_scratch": {"from_scratch": True},
    "-overwrite_ckpt_path a/b.pth": {"checkpoint_path": Path("a/b.pth")},
    "-num_gpus 2": {"num_processes": 2},
    "--npz": {"save_probabilities": True},
    "--val": {"validation_only": True},
    "--val_best": {"validate_best": True},
    "--disable_checkpointing": {"disable_checkpointing": True},
    "-transfer strict": {"transfer": "strict"},
    "-transfer_layers encoder.stages.0-2 decoder": {"transfer_layers": ("encoder.stages.0-2", "decoder")},
    "-transfer_heads none": {"transfer_heads": "none"},
    "--fix_token_axes": {"fix_token_axes": True},
    "--allow_little_transfer": {"allow_little_transfer": True},
    "-freeze encoder.stem encoder.stages.0 -freeze_epochs 10": {
        "freeze": ("encoder.stem", "encoder.stages.0"),
        "freeze_epochs": 10,
    },
    "-lr_factor encoder=0.1": {"lr_factors": ("encoder=0.1",)},
    "-epochs 3 -lr 0.1 -iterations 2 -warmup_epochs 0 -seed 1": {
        "epochs": 3,
        "lr": 0.1,
        "iterations": 2,
        "warmup_epochs": 0,
        "seed": 1,
    },
    "--c -reset_optimizer": {"continue_training": True, "reset_optimizer": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_passed_on_also_to_helping_processes(option: str) -> None:
    wanted = request(f"4 3d_fullres 0 -p {PLANS} {option}")
    assert wanted == replace(DEFAULT, **OPTIONS[option])
    arguments = command_line(replace(wanted, num_processes=1))
    parsed = train_pretrained.request(train_pretrained.build_parser().parse_args(arguments))
    assert replace(parsed, device=wanted.device) == replace(wanted, num_processes=1)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "DATASET (-d), CONFIGURATION (-c), FOLD (-f) missing"),
        ("4 3d_fullres", "FOLD (-f) missing"),
        ("-d 4 -f 0", "CONFIGURATION (-c) missing"),
        ("4 3d_fullres 0 -d 5", "DATASET (-d) given twice"),
        ("4 -d 5 -c 3d_fullres", "FOLD (-f) missing; DATASET (-d) given twice"),
    ],
)
def test_what_to_train_must_be_said_once(line: str, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        request(f"{line} -p {PLANS}")
    assert found in str(caught.value) and "-d DATASET -c CONFIGURATION -f FOLD" in str(caught.value.expected)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "line",
    [
        "4 3d_fullres 0",  # no plans
        f"4 3d_fullres first -p {PLANS}",
        f"4 3d_fullres 0 -p {PLANS} -dev cpu",  # no abbreviations
        f"4 3d_fullres 0 -p {PLANS} -pretrained_weights x.pth",
        f"4 3d_fullres 0 -p {PLANS} -transfer all",
        f"4 3d_fullres 0 -p {PLANS} -lr_factor encoder",
        f"4 3d_fullres 0 -p {PLANS} -lr_factor encoder=0",
        f"4 3d_fullres 0 -p {PLANS} -freeze_epochs 0",
    ],
)
def test_arguments_that_cannot_be_meant(run: Callable[[str], Ended], line: str) -> None:
    ended = run(line)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 2 and "nnUNetv2_train_pretrained --help" in ended.err


@pytest.mark.usefixtures("measured_workspace")
def test_plans_that_follow_no_pretraining(run: Callable[[str], Ended]) -> None:
    ended = run("902 2d 0 -p nnUNetPlans")
    assert ended.status == 1
    assert "pretrain_info" in ended.err and "nnUNetv2_preprocess_like_nnssl -d 902" in ended.err


@pytest.mark.usefixtures("measured_workspace")
def test_options_that_exclude_each_other(run: Callable[[str], Ended]) -> None:
    ended = run("902 2d 0 -p nnUNetPlans --c --val")
    assert ended.status == 2 and "--c and --val" in ended.err
    ended = run("902 2d 0 -p nnUNetPlans -freeze_epochs 3")
    assert ended.status == 1 and "freeze_epochs without freeze" in ended.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nnunet_pt.cli.train_pretrained import build_parser; build_parser().format_help();"
        "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
