"""What a model folder holds beside weights and logs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tiny_training import TinyTraining

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.training import model_folder
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.memory import peak_memory_gb
from nnunet_pt.training.model_folder import set_aside, write_benchmark

CPU = torch.device("cpu")


def epochs(*seconds: float) -> History:
    return History(
        EpochFigures(
            epoch=i, lr=0.1, train_loss=1, val_loss=1, dice_per_class=(), mean_fg_dice=0, ema_fg_dice=0, seconds=s
        )
        for i, s in enumerate(seconds)
    )


def test_benchmarks_of_other_machines_are_kept(tiny: TinyTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task()
    task.output_folder.mkdir(parents=True)
    for host, world_size, seconds in (("one", 1, 3.0), ("two", 1, 5.0), ("one", 4, 2.0), ("one", 1, 2.5)):
        monkeypatch.setattr(model_folder.socket, "gethostname", lambda host=host: host)
        write_benchmark(task, epochs(seconds + 1, seconds), device=CPU, processes=Processes(0, world_size))
    results = json.loads((task.output_folder / "benchmark_result.json").read_text())
    found = {(key.split("__")[0], entry["num_gpus"]): entry["fastest_epoch"] for key, entry in results.items()}
    assert found == {("one", 1): 2.5, ("two", 1): 5.0, ("one", 4): 2.0}


def test_damaged_benchmark_is_named(tiny: TinyTraining) -> None:
    task = tiny.task()
    task.output_folder.mkdir(parents=True)
    (task.output_folder / "benchmark_result.json").write_text("{")
    with pytest.raises(NnunetError, match=r"benchmark_result\.json"):
        write_benchmark(task, epochs(1.0), device=CPU, processes=Processes())


def test_nothing_is_set_aside_without_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "training_log_1.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        set_aside(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"recipe.json", "training_log_1.txt"}
    assert not caplog.text


def test_every_earlier_training_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder.time, "strftime", lambda _: "replaced_now")  # within the same second
    for content in ("first", "second", "third"):
        (tmp_path / "checkpoint_latest.pth").write_text(content)
        (tmp_path / "progress.png").write_text(content)
        set_aside(tmp_path)
    kept = sorted(p.read_text() for p in tmp_path.rglob("checkpoint_latest.pth"))
    assert kept == ["first", "second", "third"]
    assert not (tmp_path / "progress.png").exists()


def test_peak_memory() -> None:
    before = peak_memory_gb(CPU)
    block = torch.ones(2**25)  # 128 MiB, all of them touched
    assert before <= peak_memory_gb(CPU) < before + 1
    assert peak_memory_gb(CPU) > float(block[0]) * 2**27 / 2**30
