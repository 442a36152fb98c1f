"""What a user sees of a training."""

from __future__ import annotations

import json
import math
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core import console
from nnunet_pt.core.console import get_logger, setup_console
from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.json_log import JsonLog
from nnunet_pt.core.settings import Settings
from nnunet_pt.training import monitor as monitor_module
from nnunet_pt.training import plots, trackers
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.monitor import Monitor, epoch_summary


def figures(epoch: int, **changes: Any) -> EpochFigures:
    values: dict[str, Any] = {
        "epoch": epoch,
        "lr": 0.00849,
        "train_loss": -0.5,
        "val_loss": -0.25,
        "dice_per_class": (0.75, 0.5),
        "mean_fg_dice": 0.625,
        "ema_fg_dice": 0.5,
        "seconds": 100.0,
        "data_wait_share": 0.012,
        "peak_memory_gb": 10.25,
    }
    return EpochFigures(**{**values, **changes})


@pytest.fixture(autouse=True)
def on_console(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plots, "draw_progress", lambda history, path: path.write_text(str(len(history))))
    logger = get_logger()
    before = (list(logger.handlers), logger.level)
    setup_console()
    yield
    logger.handlers[:], level = before
    logger.setLevel(level)


def start(folder: Path, **changes: Any) -> Monitor:
    values: dict[str, Any] = {
        "history": History(),
        "num_epochs": 6,
        "iterations_per_epoch": 4,
        "validation_iterations_per_epoch": 2,
        "settings": Settings(),
        "class_names": ("left", "right"),
    }
    return Monitor(folder, **{**values, **changes})


def run_epoch(monitor: Monitor, epoch: int, **changes: Any) -> None:
    monitor.epoch_started(epoch, 0.00849)
    for _ in range(4):
        monitor.step(-0.5)
    for _ in range(2):
        monitor.step(phase="val")
    monitor.epoch_ended(figures(epoch, **changes), new_best=epoch == 1)


def text_of(monitor: Monitor) -> list[str]:
    """Lines of the text log without their times."""
    lines = monitor.log_path.read_text().split("\n")[:-1]
    assert all(line.endswith(" ") for line in lines)
    return [re.sub(r"^[\d-]{10} [\d:.]+: ", "", line[:-1]) for line in lines]


def test_records_of_two_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fold_0"
    with start(folder) as monitor:
        monitor.log("This split has 88 training and 22 validation cases.")
        run_epoch(monitor, 0)
        run_epoch(monitor, 1)
        monitor.log("Training done.")
    lines = text_of(monitor)
    assert [line for line in lines if not line.startswith("Pseudo")] == [
        "This split has 88 training and 22 validation cases.",
        *("", "Epoch 0", "Current learning rate: 0.00849", "train_loss -0.5", "val_loss -0.25", "Epoch time: 100.0 s"),
        *("", "Epoch 1", "Current learning rate: 0.00849", "train_loss -0.5", "val_loss -0.25", "Epoch time: 100.0 s"),
        "Yayy! New best EMA pseudo Dice: 0.5",
        "Training done.",
    ]
    assert [json.loads(line)["epoch"] for line in (folder / "progress.jsonl").read_text().splitlines()] == [0, 1]
    assert (folder / "progress.png").read_text() == "2"
    assert len(monitor.history) == 2
    out, err = capsys.readouterr()
    assert out == (
        "This split has 88 training and 22 validation cases.\n"
        "Epoch 0 (1/6)   loss -0.5000   validation -0.2500   learning rate 0.00849\n"
        "  Dice 0.6250   average 0.5000   left 0.7500   right 0.5000\n"
        "  100.0 s   waited for data 1.2%   memory 10.2 GiB   about 8:20 left\n"
        "Epoch 1 (2/6)   loss -0.5000   validation -0.2500   learning rate 0.00849\n"
        "  Dice 0.6250   average 0.5000, new best   left 0.7500   right 0.5000\n"
        "  100.0 s   waited for data 1.2%   memory 10.2 GiB   about 6:40 left\n"
        "Training done.\n"
    )
    assert err == ""


def test_the_log_is_complete_at_every_moment(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    monitor.epoch_started(0, 0.01)
    assert text_of(monitor) == ["", "Epoch 0", "Current learning rate: 0.01"]
    monitor.close()


def test_headings_have_no_time_and_may_stay_off_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as monitor:
        monitor.log("\nThis is the configuration:\n {}", timestamp=False, console=False)
    assert monitor.log_path.read_text() == "\nThis is the configuration:\n {} \n"
    assert capsys.readouterr().out == ""


def test_warnings_are_in_the_log_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as monitor:
        monitor.warn("the loss is not finite")
    assert text_of(monitor) == ["WARNING: the loss is not finite"]
    assert capsys.readouterr().out == "Warning: the loss is not finite\n"


def test_epochs_and_the_final_validation_are_events_with_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with JsonLog() as log:
        setup_console(json_log=log)
        with start(tmp_path) as monitor:
            monitor.epoch_started(0, 0.00849)
            monitor.epoch_ended(figures(0, dice_per_class=(0.75, math.nan)), new_best=True)
            monitor.final_validation(0.7, {1: 0.8, 2: math.nan})
    setup_console()
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["event"] for e in entries} == {"progress", "epoch", "message", "validation"}
    epoch, validation = (e for e in entries if e["event"] in ("epoch", "validation"))
    recorded = json.loads((tmp_path / "progress.jsonl").read_text())
    assert epoch["data"] == {**recorded, "num_epochs": 6, "new_best": True, "seconds_left": 500.0}
    assert epoch["data"]["dice_per_class"] == {"left": 0.75, "right": None}
    assert validation["data"] == {"mean_dice": 0.7, "dice_per_class": {"left": 0.8, "right": None}}


def test_other_processes_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path / "fold_0", is_main=False) as monitor:
        monitor.log("text")
        monitor.warn("warning")
        run_epoch(monitor, 0)
        monitor.final_validation(0.5, {1: 0.5})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    assert len(monitor.history) == 1


def test_a_training_continued_at_an_earlier_epoch(tmp_path: Path) -> None:
    with start(tmp_path) as monitor:
        for epoch in range(4):
            run_epoch(monitor, epoch)
    history = History.from_logging(monitor.history.to_logging(), epochs=2)
    with start(tmp_path, history=history, continued=True) as monitor:
        run_epoch(monitor, 2, train_loss=-0.75)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [line["train_loss"] for line in lines] == [-0.5, -0.5, -0.75]
    assert lines[0]["data_wait_share"] == 0.012


def test_the_history_may_have_the_epoch_already(tmp_path: Path) -> None:
    history = History([figures(0)])
    with start(tmp_path, history=history) as monitor:
        history.append(figures(1))
        monitor.epoch_ended(figures(1), new_best=False)
    assert len(history) == 2


def test_final_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as monitor:
        monitor.final_validation(0.8123456789, {"1": 0.8, "2": 0.82})
    assert text_of(monitor) == ["Validation complete", "Mean Validation Dice:  0.8123456789"]
    assert "Mean validation Dice 0.8123   left 0.8000   right 0.8200" in capsys.readouterr().out


def test_a_full_disk_is_one_warning_for_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = start(tmp_path / "fold_0")
    (tmp_path / "fold_0").rename(tmp_path / "gone")
    (tmp_path / "fold_0").write_text("a file where the folder should be")

    def no_space(history: Any, path: Path) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "draw_progress", no_space)
    for epoch in range(3):
        run_epoch(monitor, epoch)
    monitor.close()
    out = capsys.readouterr().out
    assert out.count("Warning") == 3
    for name in ("The text log", "progress.jsonl", "progress.png"):
        assert out.count(f"Warning: {name} is not up to date") == 1


def test_on_a_tiny_disk_training_goes_on_and_recovers(tiny_disk: Path) -> None:
    monitor = start(tiny_disk)
    run_epoch(monitor, 0)
    filler = tiny_disk / "filler"
    with pytest.raises(OSError, match="space"):
        filler.write_bytes(bytes(1 << 20))
    for epoch in range(1, 60):
        run_epoch(monitor, epoch)
    filler.unlink()
    run_epoch(monitor, 60)
    monitor.close()
    assert [json.loads(line)["epoch"] for line in (tiny_disk / "progress.jsonl").read_text().splitlines()] == list(
        range(61)
    )


def test_missing_package_ends_it_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_is_installed", lambda _: False)
    with pytest.raises(TrainingError, match="pip install"):
        start(tmp_path / "fold_0", settings=Settings(wandb_enabled=True))
    assert list(tmp_path.iterdir()) == []


def test_trackers_get_epochs_validation_and_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Recorder:
        name = "Recorder"

        def __init__(self, *_: Any, **keywords: Any) -> None:
            calls.append(sorted(keywords))

        def epoch(self, figures: EpochFigures) -> None:
            calls.append(figures.epoch)

        def final_validation(self, foreground_dice: float, dice_per_class: dict[str, float]) -> None:
            calls.append((foreground_dice, dice_per_class))

        def close(self, *, failed: bool) -> None:
            calls.append(failed)

    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setattr(monitor_module, "WandbTracker", Recorder)
    with pytest.raises(KeyboardInterrupt), start(tmp_path, settings=Settings(wandb_enabled=True)) as monitor:
        run_epoch(monitor, 0)
        monitor.final_validation(0.5, {(1, 2): 0.5})
        raise KeyboardInterrupt
    assert calls == [["config", "continued", "history", "settings", "warn"], 0, (0.5, {"(1, 2)": 0.5}), True]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_plain_progress_lines_within_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(monitor_module, "time", clock)
    with start(tmp_path, iterations_per_epoch=100, validation_iterations_per_epoch=40) as monitor:
        monitor.epoch_started(2, 0.01, done={"train": 20})
        for i in range(80):
            clock.now += 1
            monitor.step(math.nan if i == 5 else -float(i % 2))
        for _ in range(40):
            clock.now += 1
            monitor.step(phase="val")
        monitor.epoch_started(3, 0.01)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Epoch 2 (3/6) training: 30/80, 1.00 it/s, ETA 0:50, loss -0.4828",
        "Epoch 2 (3/6) training: 60/80, 1.00 it/s, ETA 0:20, loss -0.4915",
        "Epoch 2 (3/6) validation: 30/40, 1.00 it/s, ETA 0:10",
    ]


def test_summary_of_many_classes_shows_the_worst() -> None:
    dice = (math.nan, *(0.9 - 0.01 * i for i in range(61)))
    text = epoch_summary(figures(5, dice_per_class=dice), 6, new_best=False, left_s=0)
    lines = text.splitlines()
    assert len(lines) == 3
    assert "worst of 62: class_62 0.3000   class_61 0.3100" in lines[1]
    assert lines[1].count("class_") == 8
    assert "nan" not in text
    assert "left" not in lines[2]


def test_summary_says_what_is_out_of_the_ordinary() -> None:
    unknown = figures(0, skipped_steps=3, data_wait_share=math.nan, peak_memory_gb=math.nan)
    assert epoch_summary(unknown, 900, new_best=False, left_s=100_000).splitlines()[2] == (
        "  100.0 s   3 steps skipped   about 1 d 3 h left"
    )
    nothing = epoch_summary(figures(0, dice_per_class=(math.nan,) * 9), 2, new_best=False, left_s=1)
    assert nothing.splitlines()[1] == "  Dice 0.6250   average 0.5000"
