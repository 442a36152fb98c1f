"""Checkpoints that nnU-Net 2.8.1 wrote: they can be continued here, and ours have the same form.

The recorded models are in the folder CONFORMANCE_GOLDEN; what is there is listed; without them the tests are skipped.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Plans
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.optimizers import build_optimizer
from nnunet_pt.training.recipes import RECIPES
from nnunet_pt.training.state import KEY, TrainingState
from nnunet_pt.transfer.checkpoint import read_checkpoint, write_checkpoint
from nnunet_pt.transfer.safe_load import load_file

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "models"


def recorded_checkpoints() -> list[Any]:
    found = [
        pytest.param(path, id=f"{path.parents[2].name}-{path.parent.name}")
        for path in sorted(GOLDEN.glob("*/model/fold_*/checkpoint_final.pth"))
    ]
    reason = f"there are no recorded models in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


@pytest.fixture(scope="module", params=recorded_checkpoints())
def path(request: pytest.FixtureRequest) -> Path:
    result: Path = request.param
    return result


def network_and_optimizer(path: Path, content: dict[str, Any]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """As a training with the same plans and trainer builds them."""
    recipe = RECIPES[content["trainer_name"]]
    plans = Plans.load(path.parents[1] / "plans.json")
    configuration = plans.configuration(content["init_args"]["configuration"])
    description = DatasetDescription.load(path.parents[1] / "dataset.json")
    network = build_network(
        configuration.architecture,
        input_channels=description.num_channels,
        num_outputs=Labels.from_description(description).num_segmentation_heads,
        deep_supervision=recipe.deep_supervision,
        patch_size=configuration.patch_size,
    )
    return network, build_optimizer(recipe, network.parameters())


def train_a_little(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step with all losses but the last, which has no weight."""
    strides: Any = network.output_strides
    patch = [4 * max(stride[axis] for stride in strides) for axis in range(len(strides[0]))]
    channels = next(network.parameters()).shape[1]
    outputs = network(torch.randn(1, channels, *patch, generator=torch.Generator().manual_seed(0)))
    sum(output.float().square().mean() for output in outputs[:-1]).backward()
    optimizer.step()


@pytest.fixture(scope="module")
def ours(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint that a training here writes after an epoch, as anybody can read it."""
    content = load_file(path)
    network, optimizer = network_and_optimizer(path, content)
    train_a_little(network, optimizer)
    num_classes = len(content["logging"]["dice_per_class_or_region"][0])
    figures = EpochFigures(
        epoch=0, lr=0.01, train_loss=0.1, val_loss=0.2, dice_per_class=(0.5,) * num_classes, mean_fg_dice=0.5,
        ema_fg_dice=0.5, seconds=1.0, started=1.0, ended=2.0,
    )  # fmt: skip
    state = TrainingState(epoch=1, step=250, logging=History([figures]).to_logging(), best_ema=0.5, seed=1)
    checkpoint = state.capture(
        network,
        optimizer,
        init_args={**content["init_args"], "device": torch.device("cpu")},
        trainer_name=content["trainer_name"],
        mirroring_axes=(0, 1),
    )
    file = tmp_path_factory.mktemp("ours") / "checkpoint_final.pth"
    write_checkpoint(file, checkpoint)
    result: dict[str, Any] = torch.load(file, weights_only=True)
    return result


def layout(weights: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()]


def test_same_entries(path: Path, ours: dict[str, Any]) -> None:
    theirs = load_file(path)
    assert list(ours) == [*theirs, KEY]
    for key, value in theirs.items():
        kind = {"_best_ema": float}.get(key, type(value))  # nnU-Net leaves a numpy scalar there
        assert type(ours[key]) is kind, key
    assert type(ours["network_weights"]) is OrderedDict
    assert ours["grad_scaler_state"] is None
    assert list(ours["init_args"]) == list(theirs["init_args"])
    for key, value in theirs["init_args"].items():
        assert type(ours["init_args"][key]) is type(value), key
    assert ours["init_args"]["plans"] == theirs["init_args"]["plans"]
    assert ours["inference_allowed_mirroring_axes"] == (0, 1)


def test_same_weights(path: Path, ours: dict[str, Any]) -> None:
    assert layout(ours["network_weights"]) == layout(load_file(path)["network_weights"])


def test_same_lists_of_epochs(path: Path, ours: dict[str, Any]) -> None:
    theirs = load_file(path)
    assert list(ours["logging"]) == list(theirs["logging"])
    for key, values in ours["logging"].items():
        assert len(values) == ours["current_epoch"]
        assert len(theirs["logging"][key]) == theirs["current_epoch"]
        flat = values[0] if key == "dice_per_class_or_region" else values
        assert {type(v) for v in flat} == {float}


def test_same_parameters_in_the_same_order(path: Path, ours: dict[str, Any]) -> None:
    theirs, own = load_file(path)["optimizer_state"], ours["optimizer_state"]
    assert list(own) == list(theirs)
    assert [group["params"] for group in own["param_groups"]] == [group["params"] for group in theirs["param_groups"]]
    assert set(theirs["param_groups"][0]) <= {*own["param_groups"][0], "initial_lr"}
    names = ("momentum", "dampening", "weight_decay", "nesterov", "maximize", "differentiable")
    for name in names:
        assert own["param_groups"][0][name] == theirs["param_groups"][0][name], name
    for number, state in theirs["state"].items():
        assert list(own["state"][number]) == list(state)
        for key, value in state.items():
            assert own["state"][number][key].shape == value.shape
            assert own["state"][number][key].dtype == value.dtype


def test_training_is_continued(path: Path) -> None:
    """Weights, momentum of each parameter, epoch and history are those of the file."""
    content = load_file(path)
    network, optimizer = network_and_optimizer(path, content)
    shapes = {i: p.shape for i, p in enumerate(network.parameters())}
    assert {
        i: s["momentum_buffer"].shape for i, s in content["optimizer_state"]["state"].items()
    }.items() <= shapes.items()
    state = TrainingState.restore(read_checkpoint(path), path, network, optimizer)
    assert state.epoch == content["current_epoch"] and state.iteration == 0
    assert state.best_ema == pytest.approx(float(content["_best_ema"]))
    restored = optimizer.state_dict()
    for number, momentum in content["optimizer_state"]["state"].items():
        assert torch.equal(restored["state"][number]["momentum_buffer"], momentum["momentum_buffer"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, content["network_weights"][name])
    history = History.from_logging(state.logging, state.epoch)
    assert len(history) == state.epoch
    assert history.best_ema == pytest.approx(max(map(float, content["logging"]["ema_fg_dice"])))
    train_a_little(network, optimizer)
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
