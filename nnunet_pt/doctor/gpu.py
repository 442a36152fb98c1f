"""Checks of GPUs: are there any, can torch use them, do driver, torch and card fit together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from nnunet_pt.core.settings import Settings
from nnunet_pt.doctor.findings import Finding, Status, gigabytes
from nnunet_pt.doctor.system import System

NVIDIA = "0x10de"
# Oldest Linux driver for the CUDA version that torch was built with (NVIDIA's table of CUDA compatibility)
OLDEST_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
PLANNED_MEMORY = 8 << 30  # GPU memory that the default plans are made for
TENSOR_CORES = (7, 0)
INSTALL_TORCH = "install a build with CUDA:  https://pytorch.org/get-started/locally"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it.

    Attributes:
        name: Its name.
        total: Memory in bytes.
        free: Memory in bytes that no process uses.
        capability: Compute capability.
    """

    name: str
    total: int
    free: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """What torch was built with and can use here.

    Attributes:
        version: Its version.
        cuda: CUDA version of the build; None without CUDA.
        gpus: GPUs that it can use.
        architectures: Those that it has code for ("sm_80").
        cudnn: Whether cuDNN is there.
        mps: Whether Apple's GPU can be used.
        onednn: Whether oneDNN is there.
        mkl: Whether Intel's MKL is there.
        openmp: Whether it computes with several threads.
        debug: Whether it is a debug build.
        triton: Version of triton; None if it is not installed.
    """

    version: str
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    architectures: tuple[str, ...] = ()
    cudnn: bool = True
    mps: bool = False
    onednn: bool = True
    mkl: bool = True
    openmp: bool = True
    debug: bool = False
    triton: str | None = None

    @classmethod
    def of_this_process(cls) -> TorchBuild:
        """Ask torch."""
        import importlib.metadata
        import importlib.util

        import torch

        gpus = []
        with warnings.catch_warnings():  # an old driver is told about below, in other words
            warnings.simplefilter("ignore")
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                properties = torch.cuda.get_device_properties(index)
                try:
                    free = int(torch.cuda.mem_get_info(index)[0])
                except RuntimeError:  # not even room for a context
                    free = 0
                capability = (properties.major, properties.minor)
                gpus.append(Gpu(name=properties.name, total=properties.total_memory, free=free, capability=capability))
        has_triton = importlib.util.find_spec("triton") is not None
        return cls(
            version=torch.__version__,
            cuda=torch.version.cuda,
            gpus=tuple(gpus),
            architectures=tuple(torch.cuda.get_arch_list()),
            cudnn=torch.backends.cudnn.is_available(),  # type: ignore[no-untyped-call]
            mps=torch.backends.mps.is_available(),
            onednn=torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
            mkl=torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
            openmp=torch.backends.openmp.is_available(),  # type: ignore[no-untyped-call]
            debug=bool(torch.version.debug),
            triton=importlib.metadata.version("triton") if has_triton else None,
        )


def check_gpus(system: System, torch: TorchBuild) -> list[Finding]:
    """One finding for each GPU that can be used, or one that says why there is none; and the driver."""
    findings = [_gpu(index, gpu, torch, system.settings) for index, gpu in enumerate(torch.gpus)]
    if not findings:
        findings = [_none(system, torch)]
    return [*findings, *_driver(system, torch)]


def cards(system: System) -> int:
    """NVIDIA's graphics cards on the bus, whether or not there is a driver for them."""
    folder = system.root / "sys/bus/pci/devices"
    if not folder.is_dir():
        return 0
    devices = [f"sys/bus/pci/devices/{path.name}" for path in folder.iterdir()]
    nvidia = [d for d in devices if system.text(f"{d}/vendor").strip() == NVIDIA]
    return sum(system.text(f"{d}/class").startswith("0x03") for d in nvidia)


def driver(system: System) -> str | None:
    """Version of NVIDIA's driver, if it is loaded."""
    match = re.search(r"^NVRM version:.*?\s(\d{3,}\.\d+(?:\.\d+)*)", system.text("proc/driver/nvidia/version"), re.M)
    return match[1] if match else None


def _gpu(index: int, gpu: Gpu, torch: TorchBuild, settings: Settings) -> Finding:
    status: Status = "ok"
    why = remedy = ""
    if not _has_code_for(gpu, torch):
        status, why = "problem", f"this torch has code for {', '.join(torch.architectures)} only: nothing can run"
        remedy = "install another torch:  https://pytorch.org/get-started/previous-versions"
    elif gpu.free < gpu.total / 2:
        status, why = "note", "other processes use its memory; trainings may not fit beside them"
        remedy = "nvidia-smi  shows them; CUDA_VISIBLE_DEVICES chooses another GPU"
    elif gpu.total < PLANNED_MEMORY * 0.9:
        target = max(1, int(gpu.total / 2**30) - 1)
        status, why = "note", "plans are made for 8 GB by default"
        remedy = f"nnUNetv2_plan_experiment -d ID -gpu_memory_target {target} -overwrite_plans_name smallPlans"
    elif gpu.capability < TENSOR_CORES:
        status, why = "note", "it has no tensor cores: half precision is not faster, and networks are not compiled"
        remedy = "train with  -precision fp32  and  export nnUNet_compile=0"
    major, minor = gpu.capability
    return Finding(
        key=f"gpu.{index}",
        title=f"GPU {index}",
        status=status,
        found=f"{gpu.name}, {gigabytes(gpu.free)} free of {gigabytes(gpu.total)}, compute capability {major}.{minor}",
        why=why,
        remedy=remedy,
        values={
            "name": gpu.name,
            "total_bytes": gpu.total,
            "free_bytes": gpu.free,
            "compute_capability": f"{major}.{minor}",
            "compiled": settings.compile is not False,
        },
    )


def _has_code_for(gpu: Gpu, torch: TorchBuild) -> bool:
    """Binary code runs on cards of the same generation, from its own minor version on; PTX on all later ones."""
    for name in torch.architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name)
        if match is None:
            return True  # not NVIDIA's (ROCm)
        kind, major, minor = match[1], int(match[2]), int(match[3])
        if (major, minor) <= gpu.capability and (kind == "compute" or major == gpu.capability[0]):
            return True
    return not torch.architectures


def _none(system: System, torch: TorchBuild) -> Finding:
    number, version = cards(system), driver(system)
    status: Status = "ok"
    why = remedy = ""
    if torch.mps:
        found = "Apple GPU (mps), computes in float32"
    elif not number and version is None:
        found = "none: networks compute on the CPU"
        status, why = "note", "training a 3D network takes days on a CPU"
        remedy = "fine for trying things out, small 2D data and prediction; train and fine-tune where there is a GPU"
    else:
        status = "problem"
        found = f"{number or 'an'} NVIDIA card{'s' if number > 1 else ''}, but torch {torch.version} cannot use it"
        why = "everything would run on the CPU, which takes 10 to 100 times as long"
        if torch.cuda is None:
            found, remedy = f"{found}: it was built without CUDA", INSTALL_TORCH
        elif version is None:
            remedy = "no driver is loaded: install NVIDIA's, or start the container with  --gpus all"
        else:
            remedy = "see what  nvidia-smi  says; is CUDA_VISIBLE_DEVICES empty, or the driver too old (below)?"
    return Finding(
        key="gpu.none",
        title="GPU",
        status=status,
        found=found,
        why=why,
        remedy=remedy,
        values={"cards": number, "mps": torch.mps},
    )


def _driver(system: System, torch: TorchBuild) -> Iterator[Finding]:
    version = driver(system)
    if version is None:
        return
    values = {"driver": version, "cuda": torch.cuda}
    if torch.cuda is None:
        yield Finding(key="gpu.driver", title="driver", status="ok", found=version, values=values)
        return
    oldest = OLDEST_DRIVERS.get(int(torch.cuda.partition(".")[0]))
    own = tuple(int(n) for n in version.split(".")[:2])
    old = oldest is not None and own < oldest
    yield Finding(
        key="gpu.driver",
        title="driver",
        status="problem" if old else "ok",
        found=f"{version}, torch was built for CUDA {torch.cuda}",
        why=f"CUDA {torch.cuda} needs driver {oldest[0]}.{oldest[1]} or newer" if old and oldest else "",
        remedy="update the driver, or install torch for an older CUDA:  "
        "https://pytorch.org/get-started/previous-versions"
        if old
        else "",
        values=values,
    )
