from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # modules that several tests share, such as loader_cases

REGIONS = {"background": 0, "whole": [1, 2], "inner": 2}


@pytest.fixture(scope="session")
def _tiny_datasets(tmp_path_factory: pytest.TempPathFactory, small_dataset: Callable[[Path], Any]) -> Any:
    """Makes each kind of dataset once."""
    from tiny_training import make_dataset, with_cascade

    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            kinds: dict[str, tuple[Mapping[str, Any] | None, Sequence[int] | None]] = {
                "labels": (None, None),
                "regions": (REGIONS, (1, 2)),
                "ignore": ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
                "regions_ignore": ({**REGIONS, "ignore": 3}, (1, 2)),
            }
            dataset = small_dataset(tmp_path_factory.mktemp(kind))
            make_dataset(dataset, *kinds[kind])
            with_cascade(dataset)
            dataset.preprocess("2d", "3d_fullres", "3d_lowres")
            made[kind] = dataset
        return made[kind]

    return get


@pytest.fixture
def tiny_of(_tiny_datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A function that gives a small dataset, ready to train: "labels", "regions", "ignore", "regions_ignore"."""
    from tiny_training import TinyTraining

    from nnunet_pt.training import process

    monkeypatch.setattr(process, "available_cpus", lambda: 1)  # threads of a busy machine wait for each other
    monkeypatch.setattr(os, "fsync", lambda _: None)
    # Memory is given back after a test
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def get(kind: str) -> Any:
        original = _tiny_datasets(kind)
        shutil.copytree(original.root, tmp_path / kind, dirs_exist_ok=True)
        dataset = type(original)(
            tmp_path / kind, description=copy.deepcopy(original.description), plans=copy.deepcopy(original.plans)
        )
        return TinyTraining(dataset, monkeypatch)

    yield get
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.fixture
def tiny(tiny_of: Callable[[str], Any]) -> Any:
    """A small dataset with labels, ready to train."""
    return tiny_of("labels")
