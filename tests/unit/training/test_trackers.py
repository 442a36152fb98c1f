"""Weights & Biases and TensorBoard, with stand-ins for their packages."""

from __future__ import annotations

import importlib.machinery
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import SettingsError, TrainingError
from nnunet_pt.core.settings import Settings
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.trackers import (
    TensorboardTracker,
    TrackerGroup,
    WandbTracker,
    check_trackers,
    previous_run_id,
)

ON = Settings(wandb_enabled=True, wandb_project="hippocampus", job_id="77")


def figures(epoch: int, **changes: Any) -> EpochFigures:
    values: dict[str, Any] = {
        "epoch": epoch,
        "lr": 0.01,
        "train_loss": -0.5,
        "val_loss": -0.25,
        "dice_per_class": (0.5, math.nan),
        "mean_fg_dice": 0.5,
        "ema_fg_dice": 0.375,
        "seconds": 10.0,
        "started": 1.0,
        "ended": 11.0,
    }
    return EpochFigures(**{**values, **changes})


class Run:
    """A run as wandb hands it out."""

    def __init__(self, step: int, offline: bool) -> None:
        self.step = step
        self.offline = offline
        self.summary: dict[str, Any] = {}
        self.config_values: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.exit_code: int | None = None
        self.config = types.SimpleNamespace(update=lambda v, **_: self.config_values.update(v))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


class Wandb(types.ModuleType):
    """The part of wandb that is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.calls: list[dict[str, Any]] = []
        self.runs: list[Run] = []
        self.stored_step = 0
        self.reachable = True

    def init(self, **arguments: Any) -> Run:
        self.calls.append(arguments)
        if not self.reachable and arguments["mode"] == "online":
            raise ConnectionError("no route to host.\nMore about it.")
        if arguments["mode"] == "broken":
            raise ValueError("broken")
        self.runs.append(Run(self.stored_step, arguments["mode"] == "offline"))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def warnings() -> list[str]:
    return []


def track(folder: Path, warnings: list[str], **changes: Any) -> WandbTracker:
    values: dict[str, Any] = {"history": History(), "settings": ON, "continued": False, "config": {"fold": 0}}
    return WandbTracker(folder, warn=warnings.append, **{**values, **changes})


def test_run_has_nnunets_settings_and_names(tmp_path: Path, wandb: Wandb, warnings: list[str]) -> None:
    tracker = track(tmp_path, warnings)
    tracker.epoch(figures(0))
    tracker.final_validation(0.8, {"1": 0.7, "(1, 2)": 0.9})
    tracker.close(failed=False)
    (run,) = wandb.runs
    assert wandb.calls == [
        {"project": "hippocampus", "dir": str(tmp_path), "id": None, "mode": "online", "resume": "never"}
    ]
    assert run.config_values == {"JobID": "77", "fold": 0}
    ((step, values),) = run.logged
    assert step == 0
    nnunets = {
        "mean_fg_dice": 0.5,
        "ema_fg_dice": 0.375,
        "dice_per_class_or_region/class_1": 0.5,
        "train_losses": -0.5,
        "val_losses": -0.25,
        "lrs": 0.01,
        "epoch_start_timestamps": 1.0,
        "epoch_end_timestamps": 11.0,
    }
    assert nnunets.items() <= values.items()
    assert math.isnan(values["dice_per_class_or_region/class_2"])
    assert run.summary == {
        "current_epoch": 0,
        "final_val/class_1_dice": 0.7,
        "final_val/class_(1, 2)_dice": 0.9,
        "final_val/foreground_dice": 0.8,
    }
    assert run.exit_code == 0
    assert warnings == []


def earlier_run(folder: Path, name: str = "offline-run-20260101_000000-k5fg-v26") -> Path:
    files = folder / "wandb" / name
    files.mkdir(parents=True)
    (files / f"run-{name.partition('_')[2].partition('-')[2]}.wandb").write_text("")
    (folder / "wandb" / "latest-run").symlink_to(name)
    return files


def test_a_fresh_training_deletes_the_files_of_an_earlier_run(
    tmp_path: Path, wandb: Wandb, warnings: list[str]
) -> None:
    earlier_run(tmp_path)
    track(tmp_path, warnings)
    assert not (tmp_path / "wandb").exists()
    assert (wandb.calls[0]["id"], wandb.calls[0]["resume"]) == (None, "never")


def test_a_continued_training_sends_what_the_run_lacks(tmp_path: Path, wandb: Wandb, warnings: list[str]) -> None:
    earlier_run(tmp_path)
    wandb.stored_step = 3
    tracker = track(tmp_path, warnings, continued=True, history=History(figures(e) for e in range(5)))
    assert (wandb.calls[0]["id"], wandb.calls[0]["resume"]) == ("k5fg-v26", "allow")
    tracker.epoch(figures(5))
    tracker.epoch(figures(4))  # done again; what was sent stays
    tracker.epoch(figures(6))
    assert [step for step, _ in wandb.runs[0].logged] == [3, 4, 5, 6]
    assert (tmp_path / "wandb").exists()


def test_tracking_may_begin_in_the_middle_of_a_training(tmp_path: Path, wandb: Wandb, warnings: list[str]) -> None:
    track(tmp_path, warnings, continued=True, history=History(figures(e) for e in range(3)))
    assert (wandb.calls[0]["id"], wandb.calls[0]["resume"]) == (None, "allow")
    assert [step for step, _ in wandb.runs[0].logged] == [0, 1, 2]


def test_run_id_is_read_from_the_file_name(tmp_path: Path) -> None:
    assert previous_run_id(tmp_path) is None
    earlier_run(tmp_path)
    assert previous_run_id(tmp_path) == "k5fg-v26"


def test_without_network_the_run_is_kept_on_disk(tmp_path: Path, wandb: Wandb, warnings: list[str]) -> None:
    wandb.reachable = False
    tracker = track(tmp_path, warnings)
    tracker.epoch(figures(0))
    assert [run.offline for run in wandb.runs] == [True]
    assert wandb.runs[0].logged
    assert "no route to host" in warnings[0]
    assert "More about it" not in warnings[0]
    assert "wandb sync" in warnings[0]


def test_missing_packages_are_one_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    check_trackers(Settings())
    with pytest.raises(TrainingError, match=r"pip install 'nnunet-pt\[wandb\]'"):
        check_trackers(ON)
    with pytest.raises(TrainingError, match=r"pip install 'nnunet-pt\[wandb,tensorboard\]'"):
        check_trackers(ON, tensorboard=True)


@pytest.mark.usefixtures("wandb")
def test_unknown_mode_is_an_error_before_training() -> None:
    check_trackers(ON)
    with pytest.raises(SettingsError, match=r"nnUNet_wandb_mode(.|\n)*'onlin'(.|\n)*online, offline"):
        check_trackers(Settings(wandb_enabled=True, wandb_mode="onlin"))
    check_trackers(Settings(wandb_enabled=False, wandb_mode="onlin"))


class Broken:
    name = "Broken"

    def __init__(self) -> None:
        self.calls = 0

    def fail(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        raise OSError("network down")

    epoch = final_validation = close = fail


def test_a_failing_tracker_is_one_warning_and_is_tried_again(wandb: Wandb, tmp_path: Path, warnings: list[str]) -> None:
    group = TrackerGroup(warnings.append)
    broken = Broken()
    group.start("Broken", lambda: broken)
    group.start(WandbTracker.name, lambda: track(tmp_path, warnings))
    for epoch in range(3):
        group.epoch(figures(epoch))
    group.final_validation(0.5, {})
    group.close(failed=True)
    group.close(failed=True)
    assert broken.calls == 5
    assert len(warnings) == 1
    assert "Broken failed" in warnings[0]
    assert "network down" in warnings[0]
    assert len(wandb.runs[0].logged) == 3
    assert wandb.runs[0].exit_code == 1


def test_a_tracker_that_cannot_start_is_a_warning(warnings: list[str]) -> None:
    group = TrackerGroup(warnings.append)

    def fail() -> Any:
        raise RuntimeError("login needed")

    group.start("Tracker", fail)
    group.epoch(figures(0))
    assert len(warnings) == 1
    assert "login needed" in warnings[0]


class Writer:
    """The part of TensorBoard's writer that is used."""

    written: list[tuple[str, float, int | None]]
    purged: int | None

    def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
        Path(log_dir).mkdir(exist_ok=True)
        type(self).written = []
        type(self).purged = purge_step

    def add_scalar(self, name: str, value: float, step: int | None = None, walltime: float | None = None) -> None:  # noqa: ARG002
        self.written.append((name, value, step))

    def flush(self) -> None:
        pass

    close = flush


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer


def test_tensorboard_gets_every_finite_figure(tmp_path: Path, writer: type[Writer]) -> None:
    tracker = TensorboardTracker(tmp_path, history=History(), continued=False, class_names=("left", "right"))
    tracker.epoch(figures(0))
    tracker.final_validation(0.8, {"1": math.nan, "2": 0.9})
    tracker.close(failed=False)
    written = {name: value for name, value, _ in writer.written}
    assert written["loss/train"] == -0.5
    assert written["dice_per_class/left"] == 0.5
    assert "dice_per_class/right" not in written
    assert written["final_validation/foreground"] == 0.8
    assert "final_validation/1" not in written
    assert writer.purged is None


def test_tensorboard_continues_or_starts_anew(tmp_path: Path, writer: type[Writer]) -> None:
    old = tmp_path / "tensorboard" / "events"
    old.parent.mkdir()
    old.write_text("")
    history = History(figures(e) for e in range(2))
    TensorboardTracker(tmp_path, history=history, continued=True)
    assert old.exists()
    assert (writer.purged, writer.written) == (2, [])
    TensorboardTracker(tmp_path, history=History(), continued=False)
    assert not old.exists()
    old.parent.rmdir()
    TensorboardTracker(tmp_path, history=history, continued=True)
    assert {step for _, _, step in writer.written} == {0, 1}
