"""Random states and deterministic computing."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_pt.training.determinism import (
    CUBLAS_WORKSPACE,
    random_states,
    restore_random_states,
    seed_everything,
    set_deterministic,
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    states = random_states()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    monkeypatch.setenv(CUBLAS_WORKSPACE, "set here so that it is restored")
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags
    restore_random_states(states)


def draws() -> list[float]:
    normal = float(np.random.normal())  # noqa: NPY002
    return [torch.rand(()).item(), torch.randn(()).item(), normal, random.random(), random.gauss(0, 1)]


@pytest.mark.parametrize("advance", [0, 1, 7])
def test_sequences_go_on_where_they_were(tmp_path: Path, advance: int) -> None:
    for _ in range(advance):
        draws()  # an odd number of normal numbers leaves one in store
    torch.save(random_states(), tmp_path / "states.pth")
    expected = [draws() for _ in range(3)]
    seed_everything(99)
    restore_random_states(torch.load(tmp_path / "states.pth", weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_unknown_states_stay() -> None:
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    restore_random_states({})
    assert draws() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 1, 2**70])
def test_seeds(seed: int) -> None:
    seed_everything(seed)
    first = draws()
    seed_everything(seed)
    assert draws() == first
    seed_everything(seed + 1)
    assert not set(draws()) & set(first)


def test_deterministic_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    set_deterministic(3)
    assert os.environ[CUBLAS_WORKSPACE] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    first = draws()
    set_deterministic(3)
    assert draws() == first
