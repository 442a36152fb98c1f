"""Versions against bounds, slow builds of torch, and what torch.compile needs."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from nnunet_pt.doctor.software import check_software, requirements, satisfies

NEEDED = ("torch>=2.6", "numpy>=1.26", 'tensorboard; extra == "tensorboard"', 'ruff; extra == "dev"', "scipy>=1.11")
VERSIONS = {"nnunet-pt": "0.1.0", "torch": "2.8.0", "numpy": "2.1.0", "scipy": "1.14", "ruff": "0.1"}


def found_with(machine: Any, build: Any, by_key: Any, **options: Any) -> Any:
    standard = {"needed": NEEDED, "version": VERSIONS.get, "python": "3.12.1", "bounds": ">=3.10"}
    env = options.pop("env", {})
    system = machine.system(env, **options.pop("system", {}))
    return by_key(check_software(system, build, **{**standard, **options}))


@pytest.mark.parametrize(
    ("version", "bounds", "kept"),
    [
        ("2.6", ">=2.6", True),
        ("2.6.0", "==2.6", True),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("2.9.1", ">=2.6,!=2.9.*", False),
        ("2.90", ">=2.6,!=2.9.*", True),
        ("2.9.1", "==2.9.*", True),
        ("3.0", "<3", False),
        ("2.10", ">2.9", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("2026.3.3", ">=2023.7", True),
        ("1.0", "", True),
        ("2.0rc1", ">=2.0", True),
    ],
)
def test_versions_and_bounds(version: str, bounds: str, kept: bool) -> None:
    assert satisfies(version, bounds) is kept


def test_good_versions_are_ok(machine: Any, torch_build: Any, by_key: Any) -> None:
    found = found_with(machine, torch_build(), by_key)
    assert {f.status for f in found.values()} == {"ok"}
    assert found["packages"].found == "nnunet-pt 0.1.0, numpy 2.1.0, scipy 1.14"
    assert found["packages"].values["versions"]["torch"] == "2.8.0"


def test_what_is_missing_or_old_comes_with_the_command_to_install_it(
    machine: Any, torch_build: Any, by_key: Any
) -> None:
    found = found_with(machine, torch_build(), by_key, version={**VERSIONS, "numpy": "1.20", "scipy": None}.get)
    assert (found["package_numpy"].status, found["package_numpy"].found) == ("problem", "1.20")
    assert found["package_numpy"].remedy == 'pip install "numpy>=1.26"'
    assert (found["package_scipy"].status, found["package_scipy"].found) == ("problem", "not installed")


def test_optional_packages_may_be_missing_but_not_old(machine: Any, torch_build: Any, by_key: Any) -> None:
    needed = ('huggingface_hub>=0.34; extra == "hub"',)
    assert "package_huggingface_hub" not in found_with(machine, torch_build(), by_key, needed=needed)
    old = found_with(machine, torch_build(), by_key, needed=needed, version={"huggingface_hub": "0.20"}.get)
    assert old["package_huggingface_hub"].status == "note"


@pytest.mark.parametrize(("python", "wanted"), [("3.10.4", True), ("3.11.7", False), ("3.14.0", False)])
def test_packages_for_other_versions_of_python_may_be_missing(
    machine: Any, torch_build: Any, by_key: Any, python: str, wanted: bool
) -> None:
    needed = ('tomli>=2; python_version < "3.11"',)
    found = found_with(machine, torch_build(), by_key, needed=needed, python=python, version={}.get)
    assert ("package_tomli" in found) is wanted


def test_old_python(machine: Any, torch_build: Any, by_key: Any) -> None:
    assert found_with(machine, torch_build(), by_key, python="3.9.2")["python"].status == "problem"


def test_unknown_requirements_are_noted(machine: Any, torch_build: Any, by_key: Any) -> None:
    assert found_with(machine, torch_build(), by_key, needed=())["packages"].status == "note"


def test_the_requirements_of_this_package_are_known() -> None:
    assert any(r.startswith("torch") for r in requirements())


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({}, "ok", ""),
        ({"onednn": False}, "problem", "oneDNN"),
        ({"openmp": False}, "problem", "OpenMP"),
        ({"debug": True}, "problem", "debug"),
        ({"version": "2.9.1"}, "ok", ""),  # slow on GPUs only
    ],
)
def test_slow_builds_for_the_cpu(
    machine: Any, torch_build: Any, by_key: Any, changes: dict[str, Any], status: str, word: str
) -> None:
    finding = found_with(machine, torch_build(**changes), by_key)["torch"]
    assert finding.status == status
    assert word in finding.why
    assert bool(finding.remedy) is (status != "ok")


@pytest.mark.parametrize(("processor", "status"), [("x86_64", "note"), ("aarch64", "ok")])
def test_mkl_is_for_intel_like_processors(
    machine: Any, torch_build: Any, by_key: Any, monkeypatch: pytest.MonkeyPatch, processor: str, status: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: processor)
    assert found_with(machine, torch_build(mkl=False), by_key)["torch"].status == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"version": "2.9.0+cu128"}, "problem"),
        ({"version": "2.10.0"}, "ok"),
        ({"cudnn": False}, "problem"),
        ({"onednn": False}, "ok"),
    ],
)
def test_slow_builds_for_gpus(
    machine: Any, torch_build: Any, gpu: Any, by_key: Any, changes: dict[str, Any], status: str
) -> None:
    build = torch_build(**{"cuda": "12.8", "gpus": (gpu(),), "triton": "3.4", **changes})
    assert found_with(machine, build, by_key)["torch"].status == status


def test_compilation_needs_a_compiler_headers_and_triton(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    build = torch_build(cuda="12.8", gpus=(gpu(),), triton="3.4")
    assert found_with(machine, build, by_key)["compile"].found == "triton 3.4, /usr/bin/cc"
    lacking = {"which": lambda _: None, "include": machine.root}
    finding = found_with(machine, build, by_key, system=lacking)["compile"]
    assert finding.status == "note"
    assert finding.found == "lacks a C compiler, Python's headers"
    assert "python3-dev" in finding.remedy
    finding = found_with(machine, torch_build(cuda="12.8", gpus=(gpu(),)), by_key)["compile"]
    assert "pip install triton" in finding.remedy


def test_compilation_that_is_not_wanted_needs_nothing(machine: Any, torch_build: Any, gpu: Any, by_key: Any) -> None:
    build = torch_build(cuda="12.8", gpus=(gpu(),))
    assert found_with(machine, build, by_key, env={"nnUNet_compile": "0"})["compile"].status == "ok"
    assert found_with(machine, torch_build(), by_key)["compile"].status == "ok"
