"""Lines of the text log as nnU-Net writes them, and the figures for programs."""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import StorageError
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.text_log import FiguresFile, TextLog, end_lines, start_lines


def figures(epoch: int, **changes: Any) -> EpochFigures:
    values: dict[str, Any] = {
        "epoch": epoch,
        "lr": 0.006942531626616071,
        "train_loss": 0.9508772,
        "val_loss": 0.8630842,
        "dice_per_class": (0.051804222, 0.032666717),
        "mean_fg_dice": 0.04223547,
        "ema_fg_dice": 0.036664303,
        "seconds": 17.439224,
    }
    return EpochFigures(**{**values, **changes})


def test_lines_of_an_epoch_are_those_nnunet_wrote() -> None:
    """Recorded with nnU-Net 2.8.1 and numpy 2; how numbers look in the list of Dice depends on numpy."""
    assert start_lines(1, 0.006942531626616071) == ("", "Epoch 1", "Current learning rate: 0.00694")
    dice = repr([np.float32(0.0518), np.float32(0.0327)])
    assert end_lines(figures(1), new_best=True) == (
        "train_loss 0.9509",
        "val_loss 0.8631",
        f"Pseudo dice {dice}",
        "Epoch time: 17.44 s",
        "Yayy! New best EMA pseudo Dice: 0.03669999912381172",
    )
    assert end_lines(figures(1, seconds=16.6), new_best=False)[-1] == "Epoch time: 16.6 s"


def test_figures_without_a_value_are_written_as_nan() -> None:
    lines = end_lines(figures(0, val_loss=math.nan, dice_per_class=(math.nan,)), new_best=False)
    assert lines[1] == "val_loss nan"
    assert "nan" in lines[2]


def test_name_and_form_of_the_log(tmp_path: Path) -> None:
    log = TextLog(tmp_path, datetime.datetime(2026, 3, 7, 4, 5, 6))
    assert log.path.name == "training_log_2026_3_7_04_05_06.txt"
    log.write("one", "two")
    log.write("heading", timestamp=False)
    lines = log.path.read_text().split("\n")
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?: "
    assert re.fullmatch(stamp + "one ", lines[0])
    assert re.fullmatch(stamp + "two ", lines[1])
    assert lines[2:] == ["heading ", ""]


def test_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    log = TextLog(tmp_path / "missing")
    with pytest.raises(StorageError, match="training_log"):
        log.write("text")


def epochs_in(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "progress.jsonl").read_text().splitlines()]


def test_figures_file_grows_by_one_line_each_epoch(tmp_path: Path) -> None:
    history = History()
    file = FiguresFile(tmp_path, ("left", "right"))
    file.start(history)
    for epoch in range(3):
        history.append(figures(epoch))
        file.append(history[epoch], history)
        assert epochs_in(tmp_path) == list(range(epoch + 1))
    assert json.loads(file.path.read_text().splitlines()[1])["dice_per_class"] == {
        "left": 0.051804222,
        "right": 0.032666717,
    }


def test_continuing_removes_later_lines_keeps_earlier_ones_and_repairs(tmp_path: Path) -> None:
    history = History(figures(e, data_wait_share=0.5) for e in range(5))
    FiguresFile(tmp_path).start(history)
    path = tmp_path / "progress.jsonl"
    path.write_text(path.read_text()[:-30])  # killed while writing epoch 4
    known = History.from_logging(history.to_logging(), epochs=3)  # without data_wait_share
    FiguresFile(tmp_path).start(known)
    assert epochs_in(tmp_path) == [0, 1, 2]
    assert all(json.loads(line)["data_wait_share"] == 0.5 for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    "damage", ["", '{"epoch": 0', "[1]\n", '{"lr": 1}\n', '{"epoch": []}\n', "\x00\xff\n", '{"epoch": 9}\n']
)
def test_damaged_lines_are_made_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "progress.jsonl").write_text(damage, encoding="latin-1")
    FiguresFile(tmp_path).start(History([figures(0), figures(1)]))
    assert epochs_in(tmp_path) == [0, 1]


def test_an_epoch_done_again_has_one_line_with_the_new_figures(tmp_path: Path) -> None:
    history = History(figures(e) for e in range(4))
    file = FiguresFile(tmp_path)
    file.start(history)
    history.append(figures(2, train_loss=7.0))
    file.append(history[2], history)
    assert epochs_in(tmp_path) == [0, 1, 2]
    assert json.loads(file.path.read_text().splitlines()[2])["train_loss"] == 7.0


def test_after_a_failed_write_the_file_is_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_pt.training import text_log

    history = History([figures(0)])
    file = FiguresFile(tmp_path)
    file.start(history)

    def half(path: Path, text: str) -> None:
        path.write_text(path.read_text() + text[:20])
        raise StorageError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(text_log, "_append", half)
        history.append(figures(1))
        with pytest.raises(StorageError):
            file.append(history[1], history)
    history.append(figures(2))
    file.append(history[2], history)
    assert epochs_in(tmp_path) == [0, 1, 2]
