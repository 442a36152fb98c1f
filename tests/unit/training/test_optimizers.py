"""Optimisers: the formulas they follow, and state that fits the parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from nnunet_pt.training.optimizers import OPTIMIZERS, Adan, build_optimizer
from nnunet_pt.training.recipe import DEFAULT, OPTIMIZER_NAMES
from nnunet_pt.training.recipes import RECIPES

Array = NDArray[np.float64]


def gradients(steps: int, seed: int = 0, size: int = 7) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(steps, size)))


def trained(optimizer_of: object, start: Array, steps: list[Array]) -> Array:
    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = optimizer_of([parameter])  # type: ignore[operator]
    for gradient in steps:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    return parameter.detach().numpy()


def adan_in_numpy(
    theta: Array, steps: list[Array], *, lr: float, betas: tuple[float, ...], eps: float, decay: float
) -> Array:
    """Algorithm 1 of Xie et al. 2022, line by line, without restarts."""
    beta1, beta2, beta3 = betas
    m, v, n = steps[0], np.zeros_like(theta), steps[0] ** 2
    previous = steps[0]
    for g in steps:
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - previous)
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * (g - previous)) ** 2
        eta = lr / (np.sqrt(n) + eps)
        theta = (theta - eta * (m + (1 - beta2) * v)) / (1 + decay * lr)
        previous = g
    return theta


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 12),
    lr=st.floats(1e-4, 0.3),
    betas=st.tuples(*[st.floats(0.001, 0.9)] * 3),
    decay=st.sampled_from([0.0, 3e-5, 0.1]),
)
def test_adan_follows_its_paper(
    seed: int, steps: int, lr: float, betas: tuple[float, float, float], decay: float
) -> None:
    start, todo = gradients(1, seed + 1)[0], gradients(steps, seed)
    expected = adan_in_numpy(start, todo, lr=lr, betas=betas, eps=1e-8, decay=decay)
    got = trained(lambda p: Adan(p, lr=lr, betas=betas, weight_decay=decay), start, todo)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_adan_leaves_gradients_alone_and_reaches_a_minimum() -> None:
    parameter = nn.Parameter(torch.full((5,), 3.0))
    optimizer = Adan([parameter], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (parameter - 1).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    first = optimizer.step(closure)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [4.0] * 5
    for _ in range(400):
        last = optimizer.step(closure)
    assert first == 20
    assert last is not None and last < first / 100


def test_sgd_is_nesterov_momentum_with_weight_decay() -> None:
    start, todo = gradients(1, 1)[0], gradients(6)
    theta, buffer = start, None
    for gradient in todo:
        g = gradient + DEFAULT.weight_decay * theta
        buffer = g if buffer is None else 0.99 * buffer + g
        theta = theta - DEFAULT.initial_lr * (g + 0.99 * buffer)
    got = trained(lambda p: build_optimizer(DEFAULT, p), start, todo)
    np.testing.assert_allclose(got, theta, rtol=1e-12)


def test_no_momentum_at_all() -> None:
    start, todo = gradients(1, 1)[0], gradients(2)
    recipe = replace(DEFAULT, momentum=0.0, weight_decay=0.0)
    got = trained(lambda p: build_optimizer(recipe, p), start, todo)
    np.testing.assert_allclose(got, start - 0.01 * sum(todo), rtol=1e-12)


def test_there_is_an_optimiser_for_every_name() -> None:
    assert set(OPTIMIZERS) == set(OPTIMIZER_NAMES)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [  # recorded from nnU-Net
        ("nnUNetTrainer", torch.optim.SGD, {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}),
        (
            "nnUNetTrainerAdam3en4",
            torch.optim.AdamW,
            {"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 3e-5, "amsgrad": True},
        ),
        (
            "nnUNetTrainerVanillaAdam",
            torch.optim.Adam,
            {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 3e-5, "amsgrad": False},
        ),
        (
            "nnUNet_Primus_M_Trainer",
            torch.optim.AdamW,
            {"lr": 3e-4, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.05, "amsgrad": False},
        ),
        ("nnUNetTrainerAdan1en1", Adan, {"lr": 0.1, "betas": (0.02, 0.08, 0.01), "weight_decay": 3e-5}),
    ],
)
def test_settings_of_nnunet(name: str, kind: type[torch.optim.Optimizer], expected: dict[str, object]) -> None:
    optimizer = build_optimizer(RECIPES[name], nn.Linear(2, 2).parameters())
    assert type(optimizer) is kind
    assert len(optimizer.param_groups) == 1
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_fixed_parameters_stay(optimizer: str) -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers[0].requires_grad_(False)
    before = [p.detach().clone() for p in layers.parameters()]
    built = build_optimizer(replace(DEFAULT, optimizer=optimizer), layers.parameters())
    layers(torch.ones(1, 2)).sum().backward()
    built.step()
    same = [torch.equal(a, b) for a, b in zip(before, layers.parameters(), strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_state_of_another_memory_layout_is_rearranged(optimizer: str) -> None:
    """Fused kernels go through memory and would otherwise combine elements that do not belong together."""

    def network(layout: torch.memory_format) -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv3d(4, 8, 3).to(memory_format=layout)

    recipe = replace(DEFAULT, optimizer=optimizer)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        first = network(torch.contiguous_format)
        second = network(layout)
        optimizers = [build_optimizer(recipe, n.parameters()) for n in (first, second)]
        data = torch.randn(2, 4, 5, 5, 5, generator=torch.Generator().manual_seed(1))
        for _ in range(2):
            optimizers[0].zero_grad()
            first(data).square().sum().backward()
            optimizers[0].step()
        second.load_state_dict(first.state_dict())
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        second(data).square().sum().backward()
        optimizers[1].step()
        assert second.weight.is_contiguous(memory_format=layout)
        results.append(second.weight.detach().contiguous())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_continuing_from_saved_state_changes_nothing(optimizer: str) -> None:
    recipe = replace(DEFAULT, optimizer=optimizer)
    start, todo = gradients(1, 1)[0], gradients(6)
    whole = trained(lambda p: build_optimizer(recipe, p), start, todo)

    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    state = None
    for part in (todo[:2], todo[2:]):
        built = build_optimizer(recipe, [parameter])
        if state is not None:
            built.load_state_dict(state)
        for gradient in part:
            parameter.grad = torch.from_numpy(gradient)
            built.step()
        state = built.state_dict()
    assert np.array_equal(parameter.detach().numpy(), whole)
