"""``nnUNetv2_finetune`` as a user meets it: a whole run, killed and started again, and what it says when it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.cli import finetune, train
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.configuration import Architecture

TARGET = "Dataset902_PhantomFinetune"
QUICK = """
from dataclasses import replace
from nnunet_pt.training.recipe import DEFAULT
Quick = replace(DEFAULT, num_epochs=1, iterations_per_epoch=2, validation_iterations_per_epoch=1, seed=1)
"""
PATCH = [32, 32, 32]
NETWORK: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
CLASSES = ["conv_op", "norm_op", "dropout_op", "nonlin"]


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process and makes sure that nobody sees a traceback."""

    def execute(*arguments: object) -> Ended:
        try:
            status = finetune.main([*map(str, arguments), "--no_pbar"])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.out, captured.err)

    return execute


@pytest.fixture
def workspace(measured_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both phantom datasets, and a file with a short trainer."""
    (measured_workspace / "quick.py").write_text(QUICK)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return measured_workspace


@pytest.fixture
def options(workspace: Path) -> list[str]:
    return ["-tr", f"{workspace}/quick.py:Quick", "-device", "cpu", "-precision", "fp32"]


@pytest.fixture
def pretrained(workspace: Path) -> Path:
    """A checkpoint as nnssl writes it."""
    network = build_network(
        Architecture(network_class_name="PlainConvUNet", arch_kwargs=NETWORK, requires_import=tuple(CLASSES)),
        input_channels=1,
        num_outputs=1,
        deep_supervision=False,
    )
    plan = {
        "architecture_plans": {
            "arch_class_name": "PlainConvUNet",
            "arch_kwargs": NETWORK,
            "arch_kwargs_requiring_import": CLASSES,
        },
        "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": PATCH, "spacing": [4, 3, 3]}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": PATCH,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stages.0",
        "keys_to_in_proj": ["encoder.stages.0.0.convs.0.conv", "encoder.stages.0.0.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    path = workspace / "MAE" / "checkpoint_final.pth"
    path.parent.mkdir()
    torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan}, path)
    return path


def model_to_start_from(workspace: Path, pretrained: Path, run: Run) -> Path:
    """A model of 902, made by fine-tuning; here it stands for somebody's model of nnU-Net."""
    assert run("-d", 902, "-from", pretrained, "-n", "MAE", "-tr", f"{workspace}/quick.py:Quick", "-f", 1).status == 0
    return next((workspace / "nnUNet_results" / TARGET).iterdir())


def test_with_a_checkpoint_of_nnssl_twice(workspace: Path, pretrained: Path, run: Run, options: list[str]) -> None:
    first = run("-d", 902, "-from", pretrained, "-n", "MAE", "-np", 1, *options)
    assert first.status == 0, first.err
    plans = "ptPlans__MAE____Spacing__4.00_3.00_3.00___Norm__Z"
    shown = [line for line in first.out.splitlines() if line.startswith("Step ")]
    assert [line.split()[2] for line in shown] == [
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_preprocess_like_nnssl",
        "nnUNetv2_train_pretrained",
    ]
    fold = workspace / "nnUNet_results" / TARGET / f"Quick__{plans}__3d_fullres" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
    assert json.loads((fold / "transfer_report.json").read_text())["encoder_share"] == 1
    checkpoint = (fold / "checkpoint_final.pth").stat().st_mtime_ns
    second = run("-d", 902, "-from", pretrained, "-n", "MAE", "-np", 1, *options)
    assert second.status == 0
    assert "0 preprocessed, 5 already there" in second.out and "finished before" in second.out
    assert (fold / "checkpoint_final.pth").stat().st_mtime_ns == checkpoint
    assert not list(fold.glob("replaced_*"))


def test_killed_between_its_steps(workspace: Path, pretrained: Path, run: Run, options: list[str]) -> None:
    model = model_to_start_from(workspace, pretrained, run)
    command = ["-d", "901", "-from", str(model), *options, "--no_pbar"]
    for step in ("Step 2", "Step 3", "Step 4"):
        process = subprocess.Popen(
            [sys.executable, "-m", "nnunet_pt.cli.finetune", *command], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(step):
                os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
    ended = run(*command[:-1])
    assert ended.status == 0, ended.err
    plans = f"{model.name.split('__', 1)[1].rpartition('__')[0]}_from_Dataset902"
    fold = workspace / "nnUNet_results" / "Dataset901_PhantomPretrain" / f"Quick__{plans}__3d_fullres" / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["-d", "902", "-from", "nowhere.pth"], 1, "There is no checkpoint"),
        (["-d", "902", "-from", "quick.py"], 1, "is not a checkpoint"),
        (["-d", "902", "-from", "https://example.org/x.pth"], 2, "not the address of a checkpoint"),
        (["-d", "903", "-from", "nowhere.pth"], 1, "no dataset with the number 903"),
        (["-d", "902", "-from", "bare.pth"], 2, "-p nnUNetPlans"),
        (["-d", "902", "-from", "bare.pth", "-p", "nnUNetPlan"], 1, "no plans nnUNetPlan"),
        (["-d", "902", "-from", "bare.pth", "-p", "nnUNetPlans"], 1, "fits this network badly"),
        (["-d", "902", "-from", "MAE", "-am", "fixed", "-os", "1"], 2, "-os with three positive numbers"),
        (["-d", "902", "-from", "MAE", "-c", "2d"], 2, "three-dimensional"),
        (["-d", "902"], 2, "-from"),
        (["-d", "902", "-from", "x", "-f", "first"], 2, "neither a number nor all"),
    ],
)
def test_bad_input(
    workspace: Path,
    pretrained: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    text: str,
) -> None:
    assert pretrained.is_file()
    torch.save({"some.weight": torch.zeros(3)}, workspace / "bare.pth")
    monkeypatch.chdir(workspace)
    ended = run(*arguments)
    assert (ended.status, text in ended.err) == (status, True), ended.err
    assert not list((workspace / "nnUNet_results").iterdir())


OPTIONS: dict[str, dict[str, Any]] = {
    "-n MAE": {"name": "MAE"},
    "-am no_resample": {"mode": "no_resample"},
    "-am fixed -os 1 2 3": {"mode": "fixed", "override_spacing": (1.0, 2.0, 3.0)},
    "-norm default_nnunet": {"normalization": "default_nnunet"},
    "-np 3": {"num_workers": 3},
    "--max_ram_gb 2.5": {"max_ram_gb": 2.5},
}
OF_TRAINING = ("-transfer adapt", "-freeze encoder -freeze_epochs 3", "-lr_factor encoder=0.1", "-epochs 3 -lr 0.1")


def test_arguments_are_passed_on() -> None:
    def asked(line: str) -> Any:
        return finetune.request(finetune.build_parser().parse_args(f"-d 4 -from x {line}".split()))

    usual = asked("")
    assert (usual.source, usual.mode, usual.training.fold) == ("x", "like_pretrained", 0)
    assert (usual.training.configuration, usual.training.trainer, usual.training.plans_name) == ("", "", "")
    for line, values in OPTIONS.items():
        assert asked(line) == replace(usual, **values)
    for line in OF_TRAINING:
        of_train = train.request(train.build_parser().parse_args(f"4 2d 0 -tr T -p P {line}".split()))
        training = asked(f"-c 2d -tr T -p P {line}").training
        assert training == of_train
