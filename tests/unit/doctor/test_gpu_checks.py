"""GPUs: what fits together, what does not, and why there is none."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.doctor.gpu import TorchBuild, cards, check_gpus, driver

GB = 1 << 30
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90")


def test_a_gpu_that_works(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    machine.driver("550.54.14")
    build = torch_build(cuda="12.4", gpus=(gpu(),), architectures=ARCHITECTURES)
    found = by_key(check_gpus(machine.system(), build))
    assert {key: f.status for key, f in found.items()} == {"0": "ok", "driver": "ok"}
    assert found["0"].found == "Some GPU, 23.0 GB free of 24.0 GB, compute capability 8.6"
    assert found["driver"].found == "550.54.14, torch was built for CUDA 12.4"


@pytest.mark.parametrize(
    ("changes", "status", "advice"),
    [
        ({"free": 4 * GB}, "note", "nvidia-smi"),
        ({"total": 6 * GB, "free": 6 * GB}, "note", "-gpu_memory_target 5"),
        ({"capability": (7, 5)}, "ok", ""),
        ({"capability": (8, 9)}, "ok", ""),  # runs what was made for 8.6
        ({"capability": (6, 1)}, "problem", "previous-versions"),
        ({"capability": (12, 0)}, "problem", "previous-versions"),  # newer than the build, and no PTX in it
    ],
)
def test_gpus_with_limits(
    machine: Any, torch_build: Any, gpu: Any, by_key: Any, changes: dict[str, Any], status: str, advice: str
) -> None:
    build = torch_build(cuda="12.4", gpus=(gpu(**changes),), architectures=ARCHITECTURES)
    finding = by_key(check_gpus(machine.system(), build))["0"]
    assert finding.status == status
    assert advice in finding.remedy
    assert bool(finding.why) is (status != "ok")


def test_ptx_runs_on_later_gpus(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    build = torch_build(cuda="12.4", gpus=(gpu(capability=(12, 0)),), architectures=("sm_80", "compute_90"))
    assert by_key(check_gpus(machine.system(), build))["0"].status == "ok"


def test_old_gpus_have_no_tensor_cores(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    build = torch_build(cuda="12.4", gpus=(gpu(capability=(6, 1)),), architectures=("sm_60",))
    finding = by_key(check_gpus(machine.system(), build))["0"]
    assert finding.status == "note"
    assert "nnUNet_compile=0" in finding.remedy


def test_each_gpu_has_a_finding(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    build = torch_build(cuda="12.4", gpus=(gpu(), gpu(free=GB)), architectures=ARCHITECTURES)
    found = by_key(check_gpus(machine.system(), build))
    assert {key: f.status for key, f in found.items()} == {"0": "ok", "1": "note"}


@pytest.mark.parametrize(
    ("cuda", "version", "status"),
    [
        ("12.4", "525.60.13", "ok"),
        ("12.4", "470.82.01", "problem"),
        ("11.8", "470.82.01", "ok"),
        ("13.0", "575.10", "problem"),
        ("13.0", "580.65.06", "ok"),
        ("99.0", "580.65.06", "ok"),  # not in the table
    ],
)
def test_driver_and_torch(machine: Any, torch_build: Any, by_key: Any, cuda: str, version: str, status: str) -> None:
    machine.driver(version)
    finding = by_key(check_gpus(machine.system(), torch_build(cuda=cuda)))["driver"]
    assert finding.status == status
    assert version in finding.found
    if status == "problem":
        assert "needs driver" in finding.why


def test_no_gpu_at_all_is_a_note(machine: Any, torch_build: Any, by_key: Any) -> None:
    machine.card(vendor="0x8086")
    machine.card("0000:02:00.0", kind="0x040300")  # the sound of a card of NVIDIA's
    assert cards(machine.system()) == 0
    assert driver(machine.system()) is None
    found = by_key(check_gpus(machine.system(), torch_build()))
    assert found["none"].status == "note"
    assert list(found) == ["none"]


def test_a_cpu_build_beside_a_gpu_is_a_problem(machine: Any, torch_build: Any, by_key: Any) -> None:
    machine.card()
    machine.driver("550.54.14")
    found = by_key(check_gpus(machine.system(), torch_build(version="2.8.0+cpu")))
    assert found["none"].status == "problem"
    assert found["none"].found == "1 NVIDIA card, but torch 2.8.0+cpu cannot use it: it was built without CUDA"
    assert "pytorch.org" in found["none"].remedy
    assert found["driver"].status == "ok"


@pytest.mark.parametrize(("loaded", "advice"), [(True, "nvidia-smi"), (False, "--gpus all")])
def test_a_gpu_that_torch_does_not_see(machine: Any, torch_build: Any, by_key: Any, loaded: bool, advice: str) -> None:
    machine.card()
    machine.card("0000:02:00.0")
    if loaded:
        machine.driver("550.54.14")
    finding = by_key(check_gpus(machine.system(), torch_build(cuda="12.4")))["none"]
    assert finding.status == "problem"
    assert finding.found.startswith("2 NVIDIA cards, but torch")
    assert advice in finding.remedy


def test_the_open_kernel_module_has_its_version_elsewhere(machine: Any) -> None:
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (root@host)  now\n"
    machine.write("proc/driver/nvidia/version", line)
    assert driver(machine.system()) == "570.124.06"


def test_a_mac_computes_on_its_own_gpu(machine: Any, torch_build: Any, by_key: Any) -> None:
    finding = by_key(check_gpus(machine.system(), torch_build(mps=True)))["none"]
    assert finding.status == "ok"
    assert "mps" in finding.found


def test_torch_of_this_process_can_be_asked() -> None:
    import torch

    build = TorchBuild.of_this_process()
    assert build.version == torch.__version__
    assert len(build.gpus) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
