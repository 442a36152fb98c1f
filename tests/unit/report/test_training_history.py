from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from fold_folders import CLASSES, checkpoint, history, write_text_log

from nnunet_pt.report.training_history import epochs_of_log, read_history
from nnunet_pt.training.history import History
from nnunet_pt.training.text_log import FiguresFile
from nnunet_pt.transfer.checkpoint import write_checkpoint


def never(text: str) -> None:
    raise AssertionError(text)


def test_progress_file_has_every_figure(tmp_path: Path) -> None:
    FiguresFile(tmp_path, CLASSES).start(history(5))
    found = read_history(tmp_path, never)
    assert found.epochs == tuple(history(5))
    assert found.class_names == CLASSES
    assert found.sources == ("progress.jsonl",)
    assert found.total_seconds == pytest.approx(5 * 3.5)
    assert found.data_wait_share == pytest.approx(0.02)


def test_a_checkpoint_of_nnunet_is_enough(tmp_path: Path) -> None:
    figures = history(6)
    write_checkpoint(tmp_path / "checkpoint_final.pth", checkpoint(figures))
    found = read_history(tmp_path, never)
    assert [f.val_loss for f in found.epochs] == [f.val_loss for f in figures]
    assert found.best_ema == pytest.approx(figures.best_ema)
    assert math.isnan(found.data_wait_share)
    assert found.checkpoint is not None and found.checkpoint.init_args["configuration"] == "3d_fullres"


def test_the_checkpoint_that_got_farthest_counts(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_best.pth", checkpoint(history(5)))
    write_checkpoint(tmp_path / "checkpoint_latest.pth", checkpoint(history(3)))
    found = read_history(tmp_path, never)
    assert found.checkpoint_name == "checkpoint_best.pth" and len(found.epochs) == 5


def test_the_text_log_goes_on_where_the_checkpoint_ends(tmp_path: Path) -> None:
    """nnU-Net writes its latest checkpoint every 50 epochs; the log is complete."""
    figures = history(7)
    write_checkpoint(tmp_path / "checkpoint_latest.pth", checkpoint(History(list(figures)[:4])))
    write_text_log(tmp_path, list(figures))
    found = read_history(tmp_path, never)
    assert len(found.epochs) == 7
    assert found.sources == ("checkpoint_latest.pth", "the text log")
    assert found.epochs[-1].ema_fg_dice == pytest.approx(figures[6].ema_fg_dice, abs=1e-3)
    assert found.epochs[-1].dice_per_class == pytest.approx(figures[6].dice_per_class, abs=1e-4)


NNUNET_LOG = """
2025-03-01 10:00:00.000000: Using torch.compile... 
2025-03-01 10:00:01.500000:  
2025-03-01 10:00:01.500000: Epoch 0 
2025-03-01 10:00:01.500000: Current learning rate: 0.01 
2025-03-01 10:01:01.500000: train_loss 0.1234 
2025-03-01 10:01:01.500000: val_loss -0.2 
2025-03-01 10:01:01.500000: Pseudo dice [np.float32(0.5), np.float64(nan), 0.25] 
2025-03-01 10:01:01.500000: Epoch time: 60.0 s 
2025-03-01 10:01:01.500000: Yayy! New best EMA pseudo Dice: 0.375 
2025-03-01 10:01:02: Epoch 1 
2025-03-01 10:01:02: train_loss nan 
"""  # noqa: W291


def test_lines_of_nnunet_are_understood() -> None:
    (epoch,) = epochs_of_log(NNUNET_LOG.splitlines())  # the second one has not finished
    assert (epoch.lr, epoch.train_loss, epoch.val_loss) == pytest.approx((0.01, 0.1234, -0.2))
    assert epoch.dice_per_class[0] == 0.5 and math.isnan(epoch.dice_per_class[1]) and epoch.dice_per_class[2] == 0.25
    assert epoch.mean_fg_dice == 0.375
    assert epoch.seconds == 60.0 and epoch.ended - epoch.started == pytest.approx(60.0)


def test_a_later_start_replaces_the_epochs_of_an_earlier_one(tmp_path: Path) -> None:
    old = NNUNET_LOG.replace("Epoch 0", "Epoch 0") + NNUNET_LOG.replace("Epoch 0", "Epoch 1")
    (tmp_path / "training_log_2025_9_30_08_00_00.txt").write_text(old)
    (tmp_path / "training_log_2025_10_1_08_00_00.txt").write_text(NNUNET_LOG.replace("0.1234", "0.5"))
    found = read_history(tmp_path, never)
    assert [f.train_loss for f in found.epochs] == [0.5]


def test_damaged_lines_and_checkpoints_are_named(tmp_path: Path) -> None:
    FiguresFile(tmp_path, CLASSES).start(history(3))
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lr": "high"}\n{"epo\n[]\n')
    (tmp_path / "checkpoint_final.pth").write_bytes(b"nothing")
    notes: list[str] = []
    assert len(read_history(tmp_path, notes.append).epochs) == 3
    assert len(notes) == 2
    assert "3 lines of progress.jsonl" in notes[0] and "checkpoint_final.pth" in notes[1]


def test_a_progress_file_of_another_training_is_not_used(tmp_path: Path) -> None:
    FiguresFile(tmp_path, CLASSES).start(history(8, gain=0.02))
    write_checkpoint(tmp_path / "checkpoint_final.pth", checkpoint(history(5)))
    notes: list[str] = []
    found = read_history(tmp_path, notes.append)
    assert len(found.epochs) == 5 and found.sources == ("checkpoint_final.pth",)
    assert "belongs to another training" in notes[0]
