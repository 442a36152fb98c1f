"""Two processes train in phases like one: parameters that are frozen or unused wait for nobody's gradients."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import Fold

from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Plans
from nnunet_pt.training.state import FINAL
from nnunet_pt.transfer.checkpoint import read_checkpoint

TOLERANCE = 1e-4
RECIPES = """
from nnunet_pt.training.recipe import TrainingRecipe

SHORT = dict(iterations_per_epoch=3, validation_iterations_per_epoch=1, precision="fp32", deep_supervision=False)
Heads = TrainingRecipe(num_epochs=3, head_epochs=1, warmup_epochs=1, pretrained=True, **SHORT)
Plain = TrainingRecipe(num_epochs=3, pretrained=True, **SHORT)
"""
PLANS = "ptPlans"
KINDS = {"Heads": [], "Plain": ["-freeze", "encoder", "-freeze_epochs", "1", "-lr_factor", "encoder=0.5"]}


def prepare(fold: Fold) -> Path:
    """Plans that follow a pre-training, without dropout, which is different in each process."""
    (fold.root / "phases.py").write_text(RECIPES)
    path = fold.data.parent / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    entry = plans["configurations"]["3d_fullres"]
    arguments = entry["architecture"]["arch_kwargs"]
    arguments["dropout_op"] = arguments["dropout_op_kwargs"] = None
    path.write_text(json.dumps(plans))
    torch.manual_seed(1)
    architecture = Plans.load(path).configuration("3d_fullres").architecture
    network = build_network(architecture, input_channels=1, num_outputs=1, deep_supervision=False)
    checkpoint = fold.root / "pretrained.pth"
    torch.save({"network_weights": network.state_dict()}, checkpoint)
    info = {
        "checkpoint_path": str(checkpoint),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stages.0",
        "keys_to_in_proj": ["encoder.stages.0.0.convs.0.conv"],
    }
    own = {**plans, "plans_name": PLANS, "pretrain_info": info}
    own["configurations"] = {"3d_fullres": {**entry, "data_identifier": "nnUNetPlans_3d_fullres"}}
    (fold.data.parent / f"{PLANS}.json").write_text(json.dumps(own))
    return checkpoint


def train(fold: Fold, kind: str, *more: str) -> str:
    where = ["-d", "7", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "-tr", f"{fold.root / 'phases.py'}:{kind}"]
    options = [*where, "-device", "cpu", "-seed", "5", "--deterministic", *KINDS[kind], *more]
    return fold.finish(fold.start([sys.executable, "-m", "nnunet_pt.cli.train_pretrained", *options]))


def result(fold: Fold, kind: str) -> dict[str, Any]:
    folder = fold.results / f"{kind}__{PLANS}__3d_fullres" / "fold_0"
    checkpoint = read_checkpoint(folder / FINAL)
    assert checkpoint.current_epoch == 3
    assert checkpoint.optimizer_state is not None
    sizes = [len(group["params"]) for group in checkpoint.optimizer_state["param_groups"]]
    return {"weights": checkpoint.network_weights, "sizes": sizes, "folder": folder}


@pytest.mark.parametrize("kind", ["Heads", pytest.param("Plain", marks=pytest.mark.slow)])
def test_two_processes_train_in_phases_like_one(new_fold: Callable[[], Fold], kind: str) -> None:
    one, two = new_fold(), new_fold()
    for fold, more in ((one, ()), (two, ("-num_gpus", "2"))):
        prepare(fold)
        output = train(fold, kind, *more)
        assert "The optimiser" in output
    expected, got = result(one, kind), result(two, kind)
    assert expected["sizes"] == got["sizes"]
    differences = [float((expected["weights"][n] - t).abs().max()) for n, t in got["weights"].items()]
    assert max(differences) <= TOLERANCE
    reports = [(r["folder"] / "transfer_report.json").is_file() for r in (expected, got)]
    assert reports == [True, True]
