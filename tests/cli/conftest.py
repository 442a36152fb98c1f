"""A small phantom workspace for tests of the commands."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_pt.cli import extract_fingerprint, plan_experiment

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def _load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Imports a file of the scripts folder by its name."""
    return _load_script


@pytest.fixture(scope="session")
def phantom_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two phantom datasets; not to be changed by tests."""
    raw = tmp_path_factory.mktemp("phantom")
    make_phantom = _load_script("make_phantom")
    for phantom in make_phantom.PHANTOMS:
        make_phantom.make_dataset(make_phantom.small(phantom), raw, seed=2024)
    return raw


@pytest.fixture
def phantom_workspace(tmp_path: Path, phantom_raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with copies of the phantom datasets; its three folders are in the environment."""
    shutil.copytree(phantom_raw, tmp_path / "nnUNet_raw")
    _enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="session")
def measured_phantom(tmp_path_factory: pytest.TempPathFactory, phantom_raw: Path) -> Path:
    """Both phantom datasets with fingerprints, 902 with default plans; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("measured")
    shutil.copytree(phantom_raw, folder / "nnUNet_raw")
    with pytest.MonkeyPatch.context() as environment:
        _enter(folder, environment)
        assert extract_fingerprint.main(["-d", "901", "902", "--no_pbar"]) == 0
        assert plan_experiment.main(["-d", "902"]) == 0
    return folder


@pytest.fixture
def measured_workspace(tmp_path: Path, measured_phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a copy of the measured phantom datasets; its three folders are in the environment."""
    shutil.copytree(measured_phantom, tmp_path, dirs_exist_ok=True)
    _enter(tmp_path, monkeypatch)
    return tmp_path


def _enter(workspace: Path, environment: pytest.MonkeyPatch) -> None:
    for folder in FOLDERS:
        (workspace / folder).mkdir(exist_ok=True)
        environment.setenv(folder, str(workspace / folder))
    environment.setenv("nnUNet_def_n_proc", "2")
