"""Checks of Python, torch, the compiler, and the versions of everything this package depends on."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nnunet_pt.doctor.findings import Finding, Status
from nnunet_pt.doctor.gpu import INSTALL_TORCH, TorchBuild
from nnunet_pt.doctor.system import System

PACKAGE = "nnunet-pt"
SLOW_TORCH = (2, 9)  # 3D convolutions in mixed precision are slow on GPUs; nnU-Net refuses these versions
COMPILERS = ("cc", "gcc", "clang")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?")
_OF_PYTHON = re.compile(r"""python_version\s*([<>=!]+)\s*['\"]([0-9.]+)['\"]""")

Version = Callable[[str], str | None]


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> tuple[str, ...]:
    """What this package says it needs; empty if it is not installed as a package."""
    try:
        return tuple(importlib.metadata.requires(PACKAGE) or ())
    except importlib.metadata.PackageNotFoundError:
        return ()


def python_bounds() -> str:
    """Versions of Python that this package says it runs with."""
    try:
        return importlib.metadata.metadata(PACKAGE).get("Requires-Python") or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_software(
    system: System,
    torch: TorchBuild,
    *,
    needed: Sequence[str] | None = None,
    version: Version = installed_version,
    python: str | None = None,
    bounds: str | None = None,
) -> list[Finding]:
    """Python, packages, torch and the compiler.

    Args:
        system: The machine.
        torch: What torch was built with.
        needed: Requirements as in ``pyproject.toml``; those of this package by default.
        version: Gives the version of an installed package.
        python: Version of Python; that of this process by default.
        bounds: Bounds of Python's version; those of this package by default.
    """
    return [
        _python(python or platform.python_version(), python_bounds() if bounds is None else bounds),
        *_packages(requirements() if needed is None else needed, version, python or platform.python_version()),
        _torch(system, torch),
        _compiler(system, torch),
    ]


def _finding(
    key: str, title: str, status: Status, found: str, why: str = "", remedy: str = "", **values: Any
) -> Finding:
    return Finding.of(f"software.{key}", title, status, found, why, remedy, **values)


def _python(version: str, bounds: str) -> Finding:
    bad = not satisfies(version, bounds)
    why = f"this package needs Python {bounds}"
    remedy = "make the environment with a newer Python:  python3.12 -m venv .venv"
    return _finding("python", "Python", "problem" if bad else "ok", version, why, remedy, bounds=bounds)


def _packages(needed: Sequence[str], version: Version, python: str) -> Iterator[Finding]:
    versions: dict[str, str | None] = {"nnunet-pt": version(PACKAGE)}
    wrong: list[Finding] = []
    for requirement in needed:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            continue
        name, bounds, condition = match[1], match[2].strip(), match[3] or ""
        of_python = _OF_PYTHON.search(condition)
        if of_python is not None and not satisfies(".".join(python.split(".")[:2]), of_python[1] + of_python[2]):
            continue
        found = version(name)
        optional = "extra" in condition
        if optional and (found is None or '"dev"' in condition or "'dev'" in condition):
            continue
        versions[name] = found
        if found is None or not satisfies(found, bounds):
            wrong.append(
                _finding(
                    f"package_{name}",
                    name,
                    "note" if optional else "problem",
                    "not installed" if found is None else found,
                    f"this package needs {name} {bounds}".rstrip(),
                    f'pip install "{name}{bounds.replace(" ", "")}"',
                    version=found,
                    bounds=bounds,
                )
            )
    shown = ", ".join(f"{name} {v}" for name, v in versions.items() if v is not None and name != "torch")
    status: Status = "ok" if needed else "note"
    yield _finding(
        "packages",
        "packages",
        status,
        shown or "versions are not known",
        "this package was not installed with pip, so what it needs is not known",
        "pip install -e .   (in the folder of the source code)",
        versions=versions,
    )
    yield from wrong


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version keeps bounds such as ``>=2.6,!=2.9.*``; local and pre-release parts are ignored."""
    own = _numbers(version)
    for bound in filter(None, (b.strip() for b in bounds.split(","))):
        match = re.fullmatch(r"(~=|[<>=!]=|[<>])\s*([0-9.]+?)(\.\*)?", bound)
        if match is None:
            continue
        operator, numbers = match[1], _numbers(match[2])
        if match[3]:  # 2.9.*
            same = own[: len(numbers)] == numbers
            if same is (operator == "!="):
                return False
            continue
        size = max(len(own), len(numbers))
        left, right = own + (0,) * (size - len(own)), numbers + (0,) * (size - len(numbers))
        kept = {
            ">=": left >= right,
            "<=": left <= right,
            ">": left > right,
            "<": left < right,
            "==": left == right,
            "!=": left != right,
            "~=": left >= right and own[: len(numbers) - 1] == numbers[:-1],
        }[operator]
        if not kept:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in match.group().split(".")) if match else ()


def _torch(system: System, torch: TorchBuild) -> Finding:
    """Builds that work, but slowly."""
    build = f"CUDA {torch.cuda}" if torch.cuda else "without CUDA"
    parts = [name for name, there in (("oneDNN", torch.onednn), ("MKL", torch.mkl), ("OpenMP", torch.openmp)) if there]
    found = f"{torch.version}, {build}" + (f"; with {', '.join(parts)}" if parts else "")
    on_cpu = not torch.gpus and not torch.mps
    # On other processors other libraries do the same
    intel_like = platform.machine().lower() in ("x86_64", "amd64") and system.platform != "darwin"
    complaints: list[tuple[Status, str, str]] = []
    if torch.debug:
        complaints.append(("problem", "this is a debug build, many times slower", "install a release of torch"))
    if torch.gpus and _numbers(torch.version)[:2] == SLOW_TORCH:
        reason = "3D convolutions in mixed precision are much slower in torch 2.9 than before and after"
        complaints.append(("problem", reason, 'pip install "torch>=2.10"   (or "torch<2.9")'))
    if torch.gpus and torch.cuda and not torch.cudnn:
        complaints.append(("problem", "without cuDNN convolutions on the GPU are slow", INSTALL_TORCH))
    if on_cpu and not torch.openmp:
        complaints.append(("problem", "without OpenMP only one CPU computes", "install torch with pip"))
    if on_cpu and not torch.onednn:
        complaints.append(("problem", "without oneDNN convolutions are several times slower", "install torch with pip"))
    if on_cpu and intel_like and not torch.mkl:
        complaints.append(("note", "without MKL matrix products (transformers) are slower", "install torch with pip"))
    worst: Status = "problem" if any(s == "problem" for s, _, _ in complaints) else "note" if complaints else "ok"
    return _finding(
        "torch",
        "torch",
        worst,
        found,
        "; ".join(why for _, why, _ in complaints),
        "; ".join(dict.fromkeys(remedy for _, _, remedy in complaints)),
        version=torch.version,
        cuda=torch.cuda,
        onednn=torch.onednn,
        mkl=torch.mkl,
        openmp=torch.openmp,
    )


def _compiler(system: System, torch: TorchBuild) -> Finding:
    """What torch.compile needs; it is used on CUDA only."""
    compiler = next((path for name in COMPILERS if (path := system.which(name))), None)
    headers = (system.include / "Python.h").is_file()
    values = {"compiler": compiler, "headers": headers, "triton": torch.triton}
    title = "torch.compile"
    if not torch.gpus or torch.cuda is None:
        return _finding("compile", title, "ok", "not used without an NVIDIA GPU", "", "", **values)
    if system.settings.compile is False:
        return _finding("compile", title, "ok", "turned off (nnUNet_compile)", "", "", **values)
    missing = {
        "triton": (torch.triton is None, "pip install triton"),
        "a C compiler": (compiler is None, "apt-get install gcc"),
        "Python's headers": (not headers, "apt-get install python3-dev"),
    }
    lacking = {name: remedy for name, (lacks, remedy) in missing.items() if lacks}
    found = f"triton {torch.triton}, {compiler}" if not lacking else f"lacks {', '.join(lacking)}"
    return _finding(
        "compile",
        title,
        "note" if lacking else "ok",
        found,
        "networks cannot be compiled, which makes training on this GPU slower",
        "; ".join([*lacking.values(), "or avoid the attempt:  export nnUNet_compile=0"]),
        **values,
    )
