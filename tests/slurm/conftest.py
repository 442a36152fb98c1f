"""Jobs on a real SLURM of two nodes: that of ``scripts/slurm_local.sh``, or another one that shares ``/tmp``."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).parent))  # modules that several tests share

from slurm_jobs import MEMORY, PROJECT, TRAINERS, World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = _missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.xdist_group("slurm"))  # the nodes have few CPUs
            if missing is not None:
                item.add_marker(pytest.mark.skip(reason=missing))


def _missing() -> str | None:
    """Why there is no SLURM to test with."""
    hint = "see scripts/slurm_local.sh"
    if shutil.which("sbatch") is None:
        return f"no SLURM on this machine; {hint}"
    done = subprocess.run(
        ["sinfo", "--noheader", "--responding", "--states=idle,alloc,mix", "--format=%D"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or sum(map(int, done.stdout.split())) < 2:
        return f"no SLURM with two nodes runs here, or SLURM_CONF does not name it; {hint}"
    return None


def _load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _commands() -> Mapping[str, str]:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^(nnUNetv2_\w+) = "([\w.]+):main"$', text, re.MULTILINE))


@pytest.fixture(scope="session")
def _raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    make_phantom = _load_script("make_phantom")
    for phantom in make_phantom.PHANTOMS:
        small = replace(phantom, extent_mm=(40.0, 50.0, 50.0))
        make_phantom.make_dataset(small, folder / "nnUNet_raw", seed=2024)
    (folder / "bin").mkdir()
    for name, module in _commands().items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/bash\nexec {sys.executable} -m {module} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    (folder / "trainers.py").write_text(TRAINERS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def _planned(_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned") / "world"
    shutil.copytree(_raw, folder)
    planned = World(folder)
    planned.run("nnUNetv2_extract_fingerprint", "-d", "902")
    planned.run("nnUNetv2_plan_experiment", "-d", "902", *MEMORY)
    planned.run("nnUNetv2_preprocess", "-d", "902", "-c", "2d")
    return folder


@pytest.fixture
def world(_raw: Path, tmp_path: Path) -> Iterator[World]:
    """A workspace with the two phantom datasets, smaller than usual."""
    yield from _copy(_raw, tmp_path / "world")


@pytest.fixture
def planned(_planned: Path, tmp_path: Path) -> Iterator[World]:
    """The same; dataset 902 is planned and preprocessed for 2d."""
    yield from _copy(_planned, tmp_path / "planned")


def _copy(source: Path, folder: Path) -> Iterator[World]:
    shutil.copytree(source, folder)
    world = World(folder)
    try:
        yield world
    finally:  # of this test only
        queue = world.run("squeue", "--noheader", "--format=%A|%Z")
        own = [line.split("|")[0] for line in queue.splitlines() if str(folder) in line]
        if own:
            world.run("scancel", *own)
