from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # modules that several tests share
pytest.register_assert_rewrite("training_runs")

from training_runs import ARCHITECTURE, TRAINER, Fold, end_started, is_alive, wait_until  # noqa: E402


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory, small_dataset: Callable[[Path], Any]) -> Any:
    dataset = small_dataset(tmp_path_factory.mktemp("prepared"))
    for configuration in dataset.plans["configurations"].values():
        configuration["architecture"] = ARCHITECTURE
    dataset.plan()
    for number in range(5):
        dataset.add(f"case_{number}", shape=(18, 20, 22))
    dataset.preprocess()
    (dataset.root / "trainer.py").write_text(TRAINER)
    return dataset


@pytest.fixture(scope="session")
def new_fold(_prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Fold]:
    """A function that gives a preprocessed dataset of five cases, whose fold 0 has not been trained yet."""

    def make() -> Fold:
        root = tmp_path_factory.mktemp("fold")
        shutil.copytree(_prepared.root, root, dirs_exist_ok=True)
        return Fold(root)

    return make


@pytest.fixture
def fold(new_fold: Callable[[], Fold]) -> Fold:
    """A preprocessed dataset of five cases, whose fold 0 has not been trained yet."""
    return new_fold()


@pytest.fixture(scope="session")
def undisturbed(new_fold: Callable[[], Fold]) -> Fold:
    """A training that nobody disturbed."""
    fold = new_fold()
    fold.finish(fold.train())
    return fold


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture
def nothing_left_running() -> Iterator[list[int]]:
    """Processes put into this list must have ended a few seconds after the test."""
    pids: list[int] = []
    yield pids
    wait_until(lambda: not any(map(is_alive, pids)), seconds=30)
    assert not [pid for pid in pids if is_alive(pid)]
