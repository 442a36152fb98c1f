from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_pt.transfer.checkpoint import Checkpoint

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each recorded checkpoint, whichever and however many there are."""
    patterns = {"golden_model": "models/*/model/fold_*/*.pth", "golden_nnssl": "nnssl/**/checkpoint*.pth"}
    for name in set(patterns) & set(metafunc.fixturenames):
        files = sorted(GOLDEN.glob(patterns[name]))
        metafunc.parametrize(name, files, ids=lambda f: str(f.relative_to(GOLDEN)))


class Block(nn.Module):
    """A convolution whose parts have two names, as in nnU-Net's networks."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm)


class Decoder(nn.Module):
    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.seg_layers = nn.ModuleList([nn.Conv2d(4, classes, 1)])


class SmallUNet(nn.Module):
    """As few tensors as show all kinds of names: aliases, an encoder inside the decoder, segmentation layers."""

    def __init__(self, channels: int = 1, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Block(channels, width), Block(width, 4))
        self.decoder = Decoder(self.encoder, classes)


@pytest.fixture
def small_unet() -> Callable[..., SmallUNet]:
    """A function that makes a network with random weights."""
    return SmallUNet


def write_raw(path: Path, content: Any, **options: Any) -> Path:
    """Save without any checks."""
    torch.save(content, path, **options)
    return path


@pytest.fixture
def raw_writer() -> Callable[..., Path]:
    """``write_raw`` for modules that cannot import it."""
    return write_raw


@pytest.fixture
def checkpoint() -> Checkpoint:
    """A checkpoint in the middle of a training."""
    network = SmallUNet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return Checkpoint(
        network_weights=OrderedDict(network.state_dict()),
        optimizer_state=optimizer.state_dict(),
        logging={"mean_fg_dice": [0.5, 0.25], "dice_per_class_or_region": [[0.5, float("nan")], [0.25, 0.25]]},
        best_ema=0.5,
        current_epoch=2,
        init_args={
            "plans": {"plans_name": "nnUNetPlans"},
            "configuration": "2d",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0}},
            "device": torch.device("cpu"),
        },
        trainer_name="nnUNetTrainer",
        mirroring_axes=(0, 1),
    )
