"""The network in training: compiled where that works, and otherwise not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import TinyTraining, checkpoint
from torch import Tensor, nn

from nnunet_pt.training import process
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.network import TrainedNetwork, should_compile
from nnunet_pt.training.trainer import Trainer

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)
        self.deep_supervision = True
        self.output_strides = ((1, 1),)

    def forward(self, data: Tensor) -> list[Tensor]:
        return [self.layer(data)]


def failing(where: str, calls: list[str]) -> Callable[[nn.Module], Any]:
    """A ``torch.compile`` whose result fails: in a forward pass of training, in its backward pass, in evaluation."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            del gradient
            raise RuntimeError("no kernel for this\nand much more text")

    def compiled(network: nn.Module) -> Any:
        def call(data: Tensor) -> Any:
            mode = "training" if network.training else "evaluation"
            calls.append(mode)
            if mode == where:
                raise RuntimeError("C++ compiler not found\nand much more text")
            outputs = network(data)
            return [Fails.apply(o) for o in outputs] if where == "backward" and network.training else outputs

        return call

    return compiled


def wrapped(compiled: bool) -> TrainedNetwork:
    return TrainedNetwork(Small(), device=CPU, processes=Processes(), compiled=compiled)


@pytest.mark.parametrize(
    ("device", "asked", "expected"),
    [("cuda", None, True), ("cuda", True, True), ("cuda", False, False), ("cpu", None, False), ("mps", None, False)],
)
def test_where_to_compile(monkeypatch: pytest.MonkeyPatch, device: str, asked: bool | None, expected: bool) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert should_compile(torch.device(device), asked) is expected
    monkeypatch.setattr(sys, "platform", "win32")
    assert not should_compile(torch.device(device), asked)


@pytest.mark.parametrize("where", ["training", "backward", "evaluation", "nowhere"])
def test_compilation_that_fails_is_given_up(tiny: TinyTraining, caplog: pytest.LogCaptureFixture, where: str) -> None:
    calls: list[str] = []
    options: Any = {"recipe": {"num_epochs": 2, "iterations_per_epoch": 2}, "deterministic": True}
    tiny.run("2d", **options)
    eager = checkpoint(tiny.folder("2d")).network_weights
    caplog.clear()
    tiny.monkeypatch.setattr(torch, "compile", failing(where, calls))
    tiny.monkeypatch.setattr(process, "should_compile", lambda *_: True)
    built: list[bool] = []

    class Watching(Trainer):
        def build_loss(self, num_outputs: int) -> nn.Module:
            built.append(self.parts.network.is_compiled)
            return super().build_loss(num_outputs)

    with caplog.at_level(logging.WARNING):
        tiny.run("2d", trainer_class=Watching, **options)
    warnings = [r.getMessage() for r in caplog.records if "torch.compile" in r.getMessage()]
    assert len(warnings) == (where != "nowhere")
    assert all("nnUNet_compile=0" in w and "much more text" not in w for w in warnings)
    assert built == ([True] if where == "nowhere" else [True, False])
    expected = {"training": 1, "backward": 1, "evaluation": 3, "nowhere": 6}
    assert len(calls) == expected[where]
    weights = checkpoint(tiny.folder("2d")).network_weights
    assert all(torch.equal(eager[name], weights[name]) for name in eager)


def test_memory_that_does_not_suffice_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    network = wrapped(True)

    def step() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        network.first_step_guard(step)
    assert network.is_compiled


def test_an_error_that_has_other_reasons_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    with pytest.raises(ValueError, match="a bug in the loss"):
        wrapped(True).first_step_guard(_raise)


def _raise() -> Tensor:
    raise ValueError("a bug in the loss")


@pytest.mark.parametrize("compiled", [True, False])
def test_later_failures_are_not_the_compilers(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    network = wrapped(compiled)
    network.train()
    assert network.first_step_guard(lambda: 1) == 1
    with pytest.raises(ValueError, match="a bug"):
        network.first_step_guard(_raise)
    assert network.is_compiled is compiled


def test_what_the_wrapper_shows() -> None:
    network = wrapped(False)
    assert network.deep_supervision and network.output_strides == ((1, 1),)
    assert [p.shape for p in network.parameters()] == [(2, 1, 1, 1), (2,)]
    network.eval_mode()
    assert not network.bare.training
    network.train()
    assert network.bare.training
    assert torch.equal(network(torch.ones(1, 1, 2, 2))[0], network.bare(torch.ones(1, 1, 2, 2))[0])


# ---------------------------------------------------------------- other layers are trained


def test_new_wrappers_when_other_layers_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[bool]] = []

    def compiled(network: nn.Module) -> nn.Module:
        made.append([p.requires_grad for p in network.parameters()])
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    network = wrapped(True)
    network.train()
    assert network.first_step_guard(lambda: 1) == 1
    network.train_only({"layer.weight", "layer.bias"})
    network.follow()
    assert len(made) == 1
    network.train_only({"layer.bias"})
    network.follow()
    assert made == [[True, True], [False, True]]
    with pytest.raises(ValueError, match="a bug"):  # the first step of the new wrapper may fail, too
        network.first_step_guard(_raise)
    assert not network.is_compiled


def test_nothing_is_left_of_gradients_that_are_not_wanted_any_more() -> None:
    network = wrapped(False)
    network(torch.ones(1, 1, 2, 2))[0].sum().backward()
    network.train_only({"layer.weight"})
    assert [p.grad for p in network.parameters()] == [None, None]
    network(torch.ones(1, 1, 2, 2))[0].sum().backward()
    assert [p.grad is None for p in network.parameters()] == [False, True]


def test_statistics_of_fixed_layers_do_not_follow_the_data() -> None:
    bare = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    network = TrainedNetwork(bare, device=CPU, processes=Processes(), compiled=False)
    network.train_only({"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"})
    for _ in range(2):
        network.train()
        network(torch.rand(2, 1, 4, 4) + 3)
        network.eval_mode()
    assert bare[0].num_batches_tracked == 0 and not bare[0].running_mean.any()
    assert bare[1].num_batches_tracked == 2 and bare[1].running_mean.any()
