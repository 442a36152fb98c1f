"""The precision that a device is fast in, as far as it says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nnunet_pt.core.errors import UsageError
from nnunet_pt.networks.precision import Precision, PrecisionName, choose_precision, cpu_has_bfloat16

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu sse avx512f {}\nbugs\t: amx_bf16_is_not_here\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd {}\nCPU implementer\t: 0x41\n"


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    cpu_has_bfloat16.cache_clear()
    yield
    cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        (INTEL.format(""), False),
        (INTEL.format("avx512_bf16"), True),
        (INTEL.format("amx_bf16 amx_tile"), True),
        (INTEL.format("amx_tile amx_int8"), False),
        (ARM.format(""), False),
        (ARM.format("bf16"), True),
        ("", False),
        (None, False),
    ],
)
def test_cpus(monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, fast: bool) -> None:
    def read_text(path: Path, **_: object) -> str:
        assert str(path) == "/proc/cpuinfo"
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu_has_bfloat16() is fast
    assert choose_precision(torch.device("cpu")).name == ("bf16" if fast else "fp32")


@pytest.mark.parametrize(("device", "name"), [("cuda", "fp16"), ("mps", "fp32"), ("xpu", "fp32")])
def test_other_devices(device: str, name: str) -> None:
    precision = choose_precision(torch.device(device))
    assert (precision.name, precision.device_type) == (name, device)
    assert precision.needs_scaling == (name == "fp16")


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_wanted_on_cuda(wanted: PrecisionName) -> None:
    assert choose_precision(torch.device("cuda"), wanted).name == wanted


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "fp16"), ("mps", "fp16"), ("mps", "bf16")])
def test_impossible(device: str, wanted: PrecisionName) -> None:
    with pytest.raises(UsageError, match=f"Computing in {wanted} is not possible on the device {device}") as caught:
        choose_precision(torch.device(device), wanted)
    assert str(caught.value.expected).startswith("auto or fp32")


def test_autocast() -> None:
    a = torch.ones(2, 2)
    with Precision(name="bf16", device_type="cpu").autocast():
        assert (a @ a).dtype == torch.bfloat16
    with Precision(name="fp32", device_type="cpu").autocast():
        assert (a @ a).dtype == torch.float32
    assert Precision(name="fp16", device_type="cuda").dtype == torch.float16
