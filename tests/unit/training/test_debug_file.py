"""What a training was made of, as text."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from nnunet_pt.training.debug_file import recipe_facts, tracker_config, write_debug_file
from nnunet_pt.training.recipe import TrainingRecipe

RECIPE = TrainingRecipe(num_epochs=6, initial_lr=0.02)


def test_everything_is_text_and_sorted(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    facts = {"network": network, "optimizer": optimizer, "fold": 0, "grad_scaler": None, "output_folder": tmp_path}
    path = write_debug_file(tmp_path, recipe=RECIPE, batch_size=4, device=torch.device("cpu"), facts=facts)
    data = json.loads(path.read_text())
    assert path.name == "debug.json"
    assert list(data) == sorted(data)
    assert all(isinstance(value, str) for value in data.values())
    expected = {
        "batch_size": "4",
        "device": "cpu",
        "fold": "0",
        "grad_scaler": "None",
        "initial_lr": "0.02",
        "network": "Linear",
        "num_epochs": "6",
        "num_iterations_per_epoch": "250",
        "output_folder": str(tmp_path),
        "oversample_foreground_percent": "0.33",
        "torch_version": torch.__version__,
    }
    assert expected.items() <= data.items()
    assert data["optimizer"].startswith("SGD (")
    assert "hostname" in data
    assert "gpu_name" not in data


def test_configuration_for_trackers_has_nnunets_entries() -> None:
    config = tracker_config(
        plans={"plans_name": "nnUNetPlans"},
        configuration="3d_fullres",
        fold="all",
        dataset={"numTraining": 4},
        recipe=RECIPE,
        batch_size=2,
    )
    assert json.loads(json.dumps(config)) == config
    assert set(config["hparas"]) == {
        "initial_lr",
        "weight_decay",
        "oversample_foreground_percent",
        "probabilistic_oversampling",
        "num_iterations_per_epoch",
        "num_val_iterations_per_epoch",
        "num_epochs",
        "enable_deep_supervision",
        "batch_size",
    }
    assert config["hparas"] == recipe_facts(RECIPE, 2)
    assert config["recipe"]["name"] == "nnUNetTrainer"
    assert (config["fold"], config["configuration"]) == ("all", "3d_fullres")
