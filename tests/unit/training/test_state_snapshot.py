"""The last good state in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_pt.training.snapshot import Snapshot, copied


def a_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.ones(2, 3, 4)).square().sum().backward()
    optimizer.step()


def everything(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = copy.deepcopy([network.state_dict(), optimizer.state_dict()["state"]])
    tensors = list(state[0].values())
    return tensors + [t for entry in state[1].values() for t in entry.values()]


@pytest.fixture(params=["sgd", "adam"])
def parts(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.optim.Optimizer, Snapshot, torch.amp.GradScaler]:
    network = nn.Sequential(nn.Conv1d(3, 2, 1), nn.BatchNorm1d(2), nn.Conv1d(2, 2, 1))
    parameters = network.parameters()
    optimizer = (
        torch.optim.SGD(parameters, 0.1, momentum=0.9) if request.param == "sgd" else torch.optim.Adam(parameters, 0.1)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(1))  # it sets itself up on first use
    return network, optimizer, Snapshot(network, optimizer, scaler), scaler


Parts = tuple[nn.Module, torch.optim.Optimizer, Snapshot, torch.amp.GradScaler]


def test_returns_to_the_last_good_state_as_often_as_needed(parts: Parts) -> None:
    network, optimizer, snapshot, scaler = parts
    for _ in range(2):
        a_step(network, optimizer)
        good = everything(network, optimizer)
        assert snapshot.take()
        outcomes = []
        for _ in range(2):  # the snapshot must not be changed by training from it
            for _ in range(3):
                a_step(network, optimizer)
            scaler.update(2.0)
            outcomes.append(everything(network, optimizer))
            snapshot.restore()
            assert all(map(torch.equal, good, everything(network, optimizer)))
            assert scaler.get_scale() == 8.0
        assert all(map(torch.equal, *outcomes))


@pytest.mark.parametrize("where", ["weights", "buffers", "optimizer"])
def test_non_finite_states_are_not_taken(parts: Parts, where: str) -> None:
    network, optimizer, snapshot, _ = parts
    a_step(network, optimizer)
    assert snapshot.take()
    good = everything(network, optimizer)
    a_step(network, optimizer)
    with torch.no_grad():
        if where == "weights":
            next(network.parameters())[0, 0, 0] = float("nan")
        elif where == "buffers":
            network.get_buffer("1.running_mean")[0] = float("inf")
        else:
            entry: dict[str, Any] = next(iter(optimizer.state.values()))
            entry.get("momentum_buffer", entry.get("exp_avg")).view(-1)[0] = float("inf")
    assert not snapshot.take()
    snapshot.restore()
    assert all(map(torch.equal, good, everything(network, optimizer)))


def test_without_a_snapshot_nothing_happens(parts: Parts) -> None:
    network, optimizer, snapshot, _ = parts
    before = everything(network, optimizer)
    snapshot.restore()
    assert all(map(torch.equal, before, everything(network, optimizer)))


def test_memory_is_used_again() -> None:
    first = copied({"a": torch.ones(3), "b": [1, (torch.zeros(2), None)]})
    again = copied({"a": torch.zeros(3), "b": [2, (torch.ones(2), None)]}, first)
    assert again["a"].data_ptr() == first["a"].data_ptr()
    assert again["a"].tolist() == [0, 0, 0]
    assert again["b"][1][0].tolist() == [1, 1]
    assert copied({"a": torch.ones(4)}, first)["a"].tolist() == [1, 1, 1, 1]
