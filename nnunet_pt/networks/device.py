"""The device on which networks compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.resources import available_cpus


def choose_device(name: str | None) -> torch.device:
    """The device to compute on.

    Args:
        name: "cuda", "cpu" or "mps", or one of several GPUs such as "cuda:1"; None for the first of cuda, mps, cpu
            that there is.

    Raises:
        UsageError: If there is no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(n for n, available in there.items() if available)
    kind, _, number = name.partition(":")
    gpus = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind) or (number and not (number.isdigit() and int(number) < gpus)):
        raise UsageError(
            f"The device {name!r} cannot be used.",
            found="torch finds: " + ", ".join(n for n, available in there.items() if available),
            remedy="choose one of them with -device"
            + ("; for a GPU check nvidia-smi and that torch was installed with CUDA" if kind == "cuda" else ""),
        )
    return torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device(kind)


@contextlib.contextmanager
def all_cpus_for(device: torch.device) -> Iterator[None]:
    """Within this block networks on the CPU compute with as many threads as this process may use CPUs."""
    if device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(available_cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)
