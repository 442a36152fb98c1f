"""What a training changes in its process, and a program that goes on afterwards wants to have back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nnunet_pt.training.determinism import random_states, restore_random_states


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """After this block random generators, torch's threads and its choice of algorithms are what they were before.

    Signal handlers need no care here: a training gives them back itself.
    """
    states, threads = random_states(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    try:
        yield
    finally:
        restore_random_states(states)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
