"""Models of recorded networks: from a model folder to the recorded logits.

The recorded networks are in CONFORMANCE_GOLDEN; without them the tests are skipped.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_pt.inference.model import TrainedModel, load_model

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
FROM_CALLER = ("input_channels", "num_classes", "deep_supervision")


def or_skip(found: list[Any]) -> list[Any]:
    reason = f"there are no recorded networks in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(*[None] * 3, marks=pytest.mark.skip(reason=reason))]


def numeric() -> list[Any]:
    """Networks as nnU-Net trains them: description, weights, input with output."""
    path = GOLDEN / "numeric" / "networks.json"
    networks = json.loads(path.read_text()) if path.is_file() else {}
    return or_skip(
        [
            pytest.param(described, path.with_name(f"net_{name}.pth"), path.with_name(f"net_{name}.npz"), id=name)
            for name, described in networks.items()
        ]
    )


def fine_tuned() -> list[Any]:
    """Networks as fine-tuning trains them: what was loaded, weights, input with output."""
    return or_skip(
        [
            pytest.param(
                load, case.with_name(load["full_state_dict"]), case.with_name(result), id=f"{case.parent.name}-{n}"
            )
            for case in sorted((GOLDEN / "nnssl").glob("*/case.json"))
            for n, load in json.loads(case.read_text()).get("loads", {}).items()
            if "full_state_dict" in load and (result := load.get("forward") or load.get("features"))
        ]
    )


def model_of(
    small: Any, architecture: dict[str, Any], patch: list[int], channels: int, classes: int, weights: Path, trainer: str
) -> TrainedModel:
    """A model folder as nnU-Net leaves it, loaded."""
    plans, folder = copy.deepcopy(small.plans), small.root / "model"
    name = "2d" if len(patch) == 2 else "3d_fullres"
    plans["configurations"][name].update(patch_size=patch, architecture=architecture)
    description = {
        "channel_names": {str(i): "MR" for i in range(channels)},
        "labels": {"background": 0, **{f"label {i}": i for i in range(1, classes)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    content = {
        "network_weights": torch.load(weights, weights_only=True),
        "optimizer_state": {},
        "trainer_name": trainer,
        "init_args": {"plans": plans, "configuration": name, "fold": 0, "dataset_json": description},
        "inference_allowed_mirroring_axes": tuple(range(len(patch))),
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return load_model(folder)


@pytest.mark.parametrize(("described", "weights", "recorded"), numeric())
def test_networks_of_the_plans(small: Any, described: dict[str, Any], weights: Path, recorded: Path) -> None:
    arguments = {k: v for k, v in described["arch_kwargs"].items() if k not in FROM_CALLER}
    architecture = {
        "network_class_name": described["network_class_name"],
        "arch_kwargs": arguments,
        "_kw_requires_import": [k for k in ("conv_op", "norm_op", "dropout_op", "nonlin") if k in arguments],
    }
    with np.load(recorded) as file:
        image, expected = torch.from_numpy(file["x"]), file["out0"]
    model = model_of(
        small, architecture, list(image.shape[2:]), image.shape[1], expected.shape[1], weights, "nnUNetTrainer"
    )
    with torch.inference_mode():
        made = model.network(image).numpy()
    np.testing.assert_allclose(made, expected, atol=2e-4)


@pytest.mark.parametrize(("load", "weights", "recorded"), fine_tuned())
def test_networks_of_fine_tuning(small: Any, load: dict[str, Any], weights: Path, recorded: Path) -> None:
    with np.load(recorded) as file:
        image, expected = torch.from_numpy(file["x"]), file["y"]
    trainer = f"PretrainedTrainer{'_Primusx' if 'Primus' in load['network']['network_class_name'] else ''}_150ep"
    model = model_of(
        small, load["network"], load["patch_size"], load["in_channels"], load["num_classes"], weights, trainer
    )
    with torch.inference_mode():
        made = model.network(image).numpy()
    np.testing.assert_allclose(made, expected, atol=2e-4)
