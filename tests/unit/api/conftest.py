from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "training")]  # small_training, tiny_training

TRAINERS = """
import os
import signal

from nnunet_pt import Trainer, TrainingRecipe

Short = TrainingRecipe(name="Short", num_epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1, seed=3)


class Stopped(Trainer):
    recipe = TrainingRecipe(name="Stopped", num_epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1)

    def train_step(self, data, targets):
        if self.state.step == 2 and "STOP" in os.environ:
            os.kill(os.getpid(), getattr(signal, os.environ.pop("STOP")))
        return super().train_step(data, targets)


class Faulty(Trainer):
    recipe = TrainingRecipe(name="Faulty", num_epochs=1, iterations_per_epoch=1, validation_iterations_per_epoch=1)

    def build_loss(self, num_outputs):
        raise ValueError("an error in somebody's own code")
"""


@pytest.fixture(scope="session")
def _planned(tmp_path_factory: pytest.TempPathFactory, small_dataset: Callable[[Path], Any]) -> Any:
    """Six raw cases, and plans with tiny networks and a cascade; no fingerprint, nothing preprocessed."""
    from tiny_training import make_dataset, with_cascade

    dataset = small_dataset(tmp_path_factory.mktemp("planned"))
    make_dataset(dataset)
    with_cascade(dataset)
    (dataset.root / "trainers.py").write_text(TRAINERS)
    dataset.description["numTraining"] = 6
    dataset.describe()
    return dataset


@pytest.fixture
def planned(_planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The dataset, its folders in the environment, and a process in which trainings take a moment."""
    from nnunet_pt.planning import fingerprint_extractor
    from nnunet_pt.training import plots, process

    shutil.copytree(_planned.root, tmp_path, dirs_exist_ok=True)
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / folder))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setattr(fingerprint_extractor, "NUM_SAMPLES", 3000)
    monkeypatch.setattr(process, "available_cpus", lambda: 1)  # threads of a busy machine wait for each other
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(plots, "draw_progress", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield type(_planned)(tmp_path, description=_planned.description, plans=_planned.plans)
    torch.set_num_threads(threads)


@pytest.fixture
def call(planned: Any) -> Callable[..., Any]:
    """``nnunet_training`` with the dataset and a trainer of two epochs of two iterations, in this process."""
    from nnunet_pt import nnunet_training

    standard = {
        "dataset_id": 7,
        "trainer": f"{planned.root / 'trainers.py'}:Short",
        "device": "cpu",
        "precision": "fp32",
        "progress": False,
        "num_workers": 0,
        "save_every_minutes": 0.0,
    }

    def run(**arguments: Any) -> Any:
        return nnunet_training(**{**standard, **arguments})

    return run
