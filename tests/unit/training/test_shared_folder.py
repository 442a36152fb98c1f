from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training import shared_folder
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.shared_folder import require_shared

MAIN, OTHER = Processes(world_size=2), Processes(rank=1, world_size=2)


def others_say(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """What is collected from the other process, one answer after the other."""
    left = list(answers)
    monkeypatch.setattr(Processes, "collect", lambda _, texts: [*texts, *left.pop(0)])
    monkeypatch.setattr(shared_folder, "PATIENCE_S", 0.0)


def test_a_folder_that_all_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fold_0"
    others_say(monkeypatch, [], [])
    require_shared(folder, MAIN)
    assert not list(folder.iterdir())
    (folder / "mark").touch()
    others_say(monkeypatch, ["mark"], [])
    require_shared(folder, OTHER)


def test_a_folder_that_another_machine_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fold_0"
    others_say(monkeypatch, [], ["node7"])
    with pytest.raises(TrainingError, match="on node7 it does not hold"):
        require_shared(folder, MAIN)
    assert not list(folder.iterdir())
    others_say(monkeypatch, ["mark"], [])
    with pytest.raises(TrainingError, match=f"on {os.uname().nodename} it does not hold"):
        require_shared(folder, OTHER)


def test_one_machine_sees_its_own_disk(tmp_path: Path) -> None:
    require_shared(tmp_path / "fold_0", Processes(world_size=2, on_this_machine=2))
    require_shared(tmp_path / "fold_0", Processes())
    assert not (tmp_path / "fold_0").exists()
