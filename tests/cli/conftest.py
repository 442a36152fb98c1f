"""A small phantom workspace for tests of the commands."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
        make_phantom.make_dataset(phantom, raw, seed=2024)
    return raw


@pytest.fixture
def phantom_workspace(tmp_path: Path, phantom_raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with copies of the phantom datasets; its three folders are in the environment."""
    shutil.copytree(phantom_raw, tmp_path / "nnUNet_raw")
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setenv(folder, str(tmp_path / folder))
    monkeypatch.setenv("nnUNet_def_n_proc", "2")
    return tmp_path
