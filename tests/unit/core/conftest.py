from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module with the functions for workers, importable there."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield importlib.import_module("worker_tasks")
