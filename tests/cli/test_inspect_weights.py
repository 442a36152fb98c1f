"""``nnUNetv2_inspect_weights``: what is in a file, and what a dataset's network would get from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.cli import inspect_weights
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Plans

CONFIGURATION = "3d_fullres"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = inspect_weights.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def phantom_weights(measured_workspace: Path) -> Path:
    """Bare weights of the phantom's own network, with one input channel more and other labels."""
    folder = next((measured_workspace / "nnUNet_preprocessed").glob("Dataset902*"))
    plans = Plans.load(folder / "nnUNetPlans.json").configuration(CONFIGURATION)
    description = DatasetDescription.load(folder / "dataset.json")
    torch.manual_seed(0)
    network = build_network(
        plans.architecture,
        input_channels=description.num_channels + 1,
        num_outputs=Labels.from_description(description).num_segmentation_heads + 2,
        deep_supervision=False,
    )
    torch.save({"module." + n: t for n, t in network.state_dict().items()}, measured_workspace / "weights.pth")
    return measured_workspace / "weights.pth"


def test_file_alone(phantom_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name)
    status, out, _ = run(capsys, phantom_weights)
    assert status == 0
    assert all(text in out for text in (str(phantom_weights), "weights without a description", "encoder.stages.0"))
    status, out, _ = run(capsys, phantom_weights, "--json")
    content = json.loads(out)
    assert status == 0 and content["kind"] == "weights" and content["transfer"] is None
    assert content["parameters"] == sum(s["parameters"] for s in content["stages"]) > 0
    assert content["tensors"] == sum(s["tensors"] for s in content["stages"])


def test_what_a_network_would_get(phantom_weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, phantom_weights, "-d", 902, "-c", CONFIGURATION)
    assert status == 0 and "Transfer (adapt)" in out and "100 % of the encoder" in out
    status, out, err = run(capsys, phantom_weights, "-d", 902, "--json", "-o", tmp_path / "report")
    assert status == 0 and err == ""
    plan: dict[str, Any] = json.loads(out)["transfer"]
    adapted = [t for t in plan["tensors"] if t["action"] == "adapted"]
    assert [t["target"] for t in adapted] == ["encoder.stages.0.0.convs.0.conv.weight"]
    assert all(t["action"] == "skipped" for t in plan["tensors"] if t["part"] == "heads")
    assert json.loads((tmp_path / "report" / "transfer_report.json").read_text()) == plan
    assert (tmp_path / "report" / "transfer_report.html").is_file()


def test_options_reach_the_transfer(phantom_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, phantom_weights, "-d", 902, "-transfer_layers", "encoder.stages.1", "--json")
    stages = {s["stage"]: s["share"] for s in json.loads(out)["transfer"]["stages"]}
    assert status == 0 and [s for s, share in stages.items() if share] == ["encoder.stages.1"]
    status, _, err = run(capsys, phantom_weights, "-d", 902, "-transfer", "strict")
    assert status == 1 and "encoder.stages.0.0.convs.0.conv.weight: checkpoint" in err


def test_plans_that_follow_a_pretraining(phantom_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next((phantom_weights.parent / "nnUNet_preprocessed").glob("Dataset902*"))
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["pretrain_info"] = {
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stages.0",
        "keys_to_in_proj": ["encoder.stages.0.0.convs.0.conv"],
        "key_to_lpe": None,
        "pt_used_patchsize": [160, 160, 160],
    }
    (folder / "ptPlans.json").write_text(json.dumps(plans))
    shares = []
    for options in ([], ["-transfer", "adapt"]):
        status, out, _ = run(capsys, phantom_weights, "-d", 902, "-p", "ptPlans", "--json", *options)
        assert status == 0
        shares.append({p["stage"]: p["share"] for p in json.loads(out)["transfer"]["parts"]})
    assert [(s["encoder"], s["decoder"]) for s in shares] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["missing.pth"], 1, "missing.pth"),
        (["WEIGHTS", "-d", "902", "-p", "otherPlans"], 1, "nnUNetPlans"),
        (["WEIGHTS", "-d", "902", "-c", "4d"], 1, "3d_fullres"),
        (["WEIGHTS", "-d", "902", "-transfer_layers", "enc"], 2, "encoder"),
        (["WEIGHTS", "-o", "x"], 2, "-d"),
        (["WEIGHTS", "-d", "902", "--fix_token_axes"], 2, "fix_token_axes"),
    ],
)
def test_bad_input(
    phantom_weights: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, expected: str
) -> None:
    found, out, err = run(capsys, *(phantom_weights if a == "WEIGHTS" else a for a in arguments))
    assert (found, out) == (status, "")
    assert expected in err and "Traceback" not in err


def test_not_a_checkpoint(phantom_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_weights.write_bytes(phantom_weights.read_bytes()[:-100])
    status, _, err = run(capsys, phantom_weights)
    assert status == 1 and "truncated" in err
    phantom_weights.write_text("hello")
    status, _, err = run(capsys, phantom_weights)
    assert status == 1 and "not a checkpoint" in err
