"""Random states, seeds, and computing the same bits twice."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python, which initialise networks and drop out units.

    Batches do not depend on them: each of their random choices follows from the training's seed and its own position.

    Args:
        seed: Any whole number that is not negative.
    """
    torch.manual_seed(seed % 2**63)  # of all devices
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' own trainers may draw from it
    random.seed(seed)


def set_deterministic(seed: int) -> None:
    """Make this process compute the same bits every time, on the same machine with the same number of threads.

    What it costs: nothing measurable on the CPU. On a GPU cuDNN may not choose the fastest algorithm by trying, and
    some operations fall back to slower ones; the cross-entropy loss and interpolation have no deterministic form on
    some devices, torch then warns once and goes on. Call it before anything is computed on a GPU: cuBLAS reads its
    setting when it starts.

    Args:
        seed: The training's seed.
    """
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs 5 %
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    seed_everything(seed)


def random_states() -> dict[str, Any]:
    """States of this process's generators as plain values and tensors."""
    kind, words, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), [int(w) for w in words], int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Continue the sequences of :func:`random_states`; what is not in ``states`` stays as it is."""
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "numpy" in states:
        kind, words, position, has_gauss, gauss = states["numpy"]
        np.random.set_state((kind, np.array(words, np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    if "python" in states:
        version, words, gauss = states["python"]
        random.setstate((version, tuple(words), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
