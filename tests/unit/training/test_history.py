"""Figures of epochs and the lists that checkpoints keep of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.training.history import LOGGING_KEYS, EpochFigures, History

# what nnU-Net 2.8.1 logged in three epochs
RECORDED: dict[str, Any] = {
    "mean_fg_dice": [np.float32(0.036045283), np.float32(0.04223547), np.float32(0.0464719)],
    "ema_fg_dice": [np.float32(0.036045283), np.float32(0.036664303), np.float32(0.037645064)],
    "dice_per_class_or_region": [
        [np.float32(0.04411419), np.float32(0.027976375)],
        [np.float32(0.051804222), np.float32(0.032666717)],
        [np.float32(0.050683953), np.float32(0.042259846)],
    ],
    "train_losses": [np.float32(1.0663079), np.float32(0.9508772), np.float32(0.8443606)],
    "val_losses": [np.float32(0.9725566), np.float32(0.8630842), np.float32(0.7844478)],
    "lrs": [0.01, 0.006942531626616071, 0.003720410580113015],
    "epoch_start_timestamps": [1795229590.5588143, 1795229607.4673634, 1795229625.7359874],
    "epoch_end_timestamps": [1795229606.732666, 1795229624.9065874, 1795229642.3326359],
}


def figures(epoch: int, **changes: Any) -> EpochFigures:
    values: dict[str, Any] = {
        "epoch": epoch,
        "lr": 0.01,
        "train_loss": -0.5,
        "val_loss": -0.4,
        "dice_per_class": (0.7, 0.8),
        "mean_fg_dice": 0.75,
        "ema_fg_dice": 0.6 + 0.01 * epoch,
        "seconds": 10.0,
        "started": 100.0 * epoch,
        "ended": 100.0 * epoch + 10,
    }
    return EpochFigures(**{**values, **changes})


def test_recorded_lists_survive_with_values_and_types() -> None:
    history = History.from_logging(RECORDED)
    again = history.to_logging()
    assert again == RECORDED
    assert list(again) == list(RECORDED)
    assert {k: type(v[0]) for k, v in again.items()} == {k: type(v[0]) for k, v in RECORDED.items()}
    assert type(again["dice_per_class_or_region"][0][0]) is np.float32
    assert history[1].seconds == pytest.approx(17.439224)


def test_the_moving_average_is_the_recorded_one_to_the_last_bit() -> None:
    history = History.from_logging(RECORDED)
    averages = History()
    for f in history:
        ema = averages.next_ema(f.mean_fg_dice)
        averages.append(
            EpochFigures(**{n: getattr(f, n) for n in EpochFigures.__slots__ if n != "ema_fg_dice"}, ema_fg_dice=ema)
        )
    assert averages.to_logging()["ema_fg_dice"] == RECORDED["ema_fg_dice"]
    assert averages.best_ema == averages.last_ema == float(np.float32(0.037645064))


def test_an_epoch_without_foreground_leaves_the_average() -> None:
    history = History()
    assert math.isnan(history.next_ema(math.nan))
    history.append(figures(0, ema_fg_dice=math.nan, mean_fg_dice=math.nan))
    assert history.best_ema is None
    assert history.next_ema(0.5) == 0.5
    history.append(figures(1, ema_fg_dice=0.5))
    assert history.next_ema(math.nan) == 0.5
    assert history.next_ema(1.0) == pytest.approx(0.55)


@given(st.integers(0, 3), st.sampled_from(sorted(LOGGING_KEYS)))
def test_lists_of_different_lengths_are_cut_to_whole_epochs(length: int, key: str) -> None:
    shorter = {**RECORDED, key: RECORDED[key][:length]}
    history = History.from_logging(shorter)
    if length == 0:  # not an interruption: the list is not there at all
        assert len(history) == 3
    else:
        assert history.to_logging() == {k: v[:length] for k, v in RECORDED.items()}


def test_number_of_epochs_of_the_checkpoint_decides() -> None:
    assert History.from_logging(RECORDED, epochs=2).to_logging() == {k: v[:2] for k, v in RECORDED.items()}
    longer = History.from_logging(RECORDED, epochs=5)
    assert [f.epoch for f in longer] == [0, 1, 2, 3, 4]
    assert math.isnan(longer[4].train_loss)
    assert len(longer[4].dice_per_class) == 2
    assert longer.best_ema == History.from_logging(RECORDED).best_ema
    assert len(History.from_logging({})) == 0
    assert len(History.from_logging({}, epochs=2)) == 2


def test_unknown_lists_are_given_back() -> None:
    assert History.from_logging({**RECORDED, "mine": [1, 2, 3]}).to_logging()["mine"] == [1, 2, 3]


def test_an_epoch_done_again_replaces_it_and_those_after_it() -> None:
    history = History(figures(e) for e in range(5))
    history.append(figures(2, train_loss=9.0))
    assert [f.train_loss for f in history] == [-0.5, -0.5, 9.0]
    with pytest.raises(ValueError, match="epoch 7 cannot be the next"):
        history.append(figures(7))


def test_continuing_from_a_checkpoint_changes_no_bit() -> None:
    one, other = History(), History()
    for epoch in range(20):
        for history in (one, History.from_logging(other.to_logging())):
            mean = 0.1 + 0.037 * epoch
            history.append(figures(epoch, mean_fg_dice=mean, ema_fg_dice=history.next_ema(mean)))
        other = history
    assert one.to_logging() == other.to_logging()


def test_json_has_every_figure_and_no_nan() -> None:
    f = figures(3, dice_per_class=(0.1, math.nan, 0.3), val_loss=math.inf, skipped_steps=2, data_wait_share=0.02)
    data = json.loads(json.dumps(f.to_json(("left", "right")), allow_nan=False))
    assert data["dice_per_class"] == {"left": 0.1, "right": None, "class_3": 0.3}
    assert data["val_loss"] is None
    assert data["peak_memory_gb"] is None
    assert (data["epoch"], data["skipped_steps"], data["train_loss"]) == (3, 2, -0.5)
    assert set(data) == set(EpochFigures.__slots__)
