"""A small model for tests of prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.model import TrainedModel
from nnunet_pt.plans.plans import Plans


def tiny_network(channels: int, outputs: int, dimensions: int, seed: int) -> nn.Module:
    """Two layers of random weights: what it gives depends on the direction in which it sees things."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    network = nn.Sequential(conv(channels, 4, 3, padding=1), nn.LeakyReLU(), conv(4, outputs, 3, padding=1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture
def tiny_model(small: Any) -> Callable[..., TrainedModel]:
    """A function that makes a model of the small dataset."""

    def make(
        name: str = "3d_fullres",
        *,
        folds: int = 1,
        network: nn.Module | None = None,
        orientation: str | None = None,
        mirror_axes: tuple[int, ...] = (),
        **configuration: Any,
    ) -> TrainedModel:
        plans = Plans.from_json(small.plans, "plans")
        description = DatasetDescription.from_json(small.description, "dataset.json")
        labels = Labels.from_description(description)
        chosen = replace(plans.configuration(name), **configuration)
        channels = description.num_channels
        cascaded = chosen.previous_stage is not None
        inputs = channels + (len(labels.foreground_labels) if cascaded else 0)
        made = [
            network or tiny_network(inputs, labels.num_segmentation_heads, len(chosen.patch_size), seed)
            for seed in range(folds)
        ]
        return TrainedModel(
            folder=Path("model"),
            plans=plans,
            configuration=chosen,
            description=description,
            dataset_json=small.description,
            labels=labels,
            trainer_name="nnUNetTrainer",
            mirror_axes=mirror_axes,
            folds=tuple(map(str, range(folds))),
            checkpoints=tuple(Path(f"fold_{i}/checkpoint_final.pth") for i in range(folds)),
            network=made[0],
            fold_weights=tuple({k: v.clone() for k, v in n.state_dict().items()} for n in made),
            orientation=orientation,
            input_channels=inputs,
            is_cascaded=cascaded,
        )

    return make
