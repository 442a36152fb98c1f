"""Numerical precision of a network's operations, chosen by what the device does fast."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from nnunet_pt.core.errors import UsageError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How a network computes on a device.

    Attributes:
        name: "fp32", or "bf16" or "fp16" for automatic mixed precision with this type.
        device_type: Type of the device, e.g. "cuda".
    """

    name: Literal["fp32", "bf16", "fp16"]
    device_type: str

    @property
    def dtype(self) -> torch.dtype:
        """The type in which convolutions and matrix products are computed."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    @property
    def needs_scaling(self) -> bool:
        """Whether gradients are so small in this type that the loss has to be scaled."""
        return self.name == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Within this context operations choose their precision."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)


def choose_precision(device: torch.device, wanted: PrecisionName = "auto") -> Precision:
    """The precision for a device.

    Args:
        device: Where the network is.
        wanted: "auto" for mixed precision where it is fast: float16 on CUDA (as nnU-Net), bfloat16 on CPUs with
            instructions for it, float32 elsewhere.

    Raises:
        UsageError: If the device cannot compute in the wanted precision.
    """
    if wanted == "auto":
        fast = {"cuda": "fp16", "cpu": "bf16" if cpu_has_bfloat16() else "fp32"}.get(device.type, "fp32")
        return Precision(name=fast, device_type=device.type)  # type: ignore[arg-type]
    possible = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}.get(device.type, ("fp32",))
    if wanted not in possible:
        raise UsageError(
            f"Computing in {wanted} is not possible on the device {device.type}.",
            expected=" or ".join(("auto", *possible)),
        )
    return Precision(name=wanted, device_type=device.type)


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AVX512-BF16, AMX or ARM's BF16 extension)."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return False
    flags = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.partition(":")[2].split())
