"""The picture of a training's progress."""

from __future__ import annotations

import math
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from nnunet_pt.training import plots
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.plots import ProgressPlot, draw_progress


def figures(epoch: int, num_classes: int = 2, **changes: Any) -> EpochFigures:
    values: dict[str, Any] = {
        "epoch": epoch,
        "lr": 0.01 * (1 - epoch / 2000) ** 0.9,
        "train_loss": -0.5 - 0.001 * epoch,
        "val_loss": -0.4,
        "dice_per_class": (0.7,) * num_classes,
        "mean_fg_dice": 0.7,
        "ema_fg_dice": 0.6,
        "seconds": 10.0 + epoch % 3,
    }
    return EpochFigures(**{**values, **changes})


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.mark.parametrize(
    "history",
    [
        [figures(0)],
        [figures(0, mean_fg_dice=math.nan, ema_fg_dice=math.nan, val_loss=math.nan)],
        [figures(e, train_loss=math.inf if e == 1 else -0.5, seconds=math.nan) for e in range(3)],
        [figures(e, num_classes=62) for e in range(1000)],
    ],
    ids=["one epoch", "nan", "infinite", "1000 epochs x 62 classes"],
)
def test_every_history_can_be_drawn(tmp_path: Path, history: list[EpochFigures]) -> None:
    draw_progress(history, tmp_path / "progress.png")
    assert size_of_png(tmp_path / "progress.png") == (1000, 1800)
    assert [p.name for p in tmp_path.iterdir()] == ["progress.png"]


def test_panels_show_the_figures_of_nnunets_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    history = [figures(e, mean_fg_dice=0.1 * e, ema_fg_dice=0.05 * e) for e in range(4)]
    draw_progress(history, tmp_path / "progress.png")
    panels = [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in drawn[0].axes]
    losses = {"loss_tr": [f.train_loss for f in history], "loss_val": [f.val_loss for f in history]}
    dice = {
        "pseudo dice": [f.mean_fg_dice for f in history],
        "pseudo dice (mov. avg.)": [f.ema_fg_dice for f in history],
    }
    durations = {"epoch duration": [10.0, 11.0, 12.0, 10.0]}
    assert panels == [losses, durations, {"learning rate": [f.lr for f in history]}, dice]
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss", "time [s]", "learning rate", "pseudo dice"]
    assert drawn[0].axes[1].get_ylim()[0] == 0
    raw, average = drawn[0].axes[3].lines
    assert (raw.get_linestyle(), average.get_linestyle()) == (":", "-")


class Pencil:
    """Stands in for the drawing; holds it until it is let go."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.threads: list[threading.Thread] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, history: tuple[EpochFigures, ...], path: Path) -> None:  # noqa: ARG002 - as the real one
        self.threads.append(threading.current_thread())
        assert self.go.wait(5)
        self.drawn.append(len(history))


@pytest.fixture
def pencil(monkeypatch: pytest.MonkeyPatch) -> Pencil:
    pencil = Pencil()
    monkeypatch.setattr(plots, "draw_progress", pencil)
    return pencil


def no_error(error: Exception) -> None:
    raise AssertionError(error)


def test_training_does_not_wait_for_a_drawing_and_the_latest_is_drawn_at_the_end(
    tmp_path: Path, pencil: Pencil
) -> None:
    pencil.go.clear()
    plot = ProgressPlot(tmp_path, no_error)
    history = History()
    for epoch in range(5):
        history.append(figures(epoch))
        plot.update(history)
    assert pencil.drawn == []
    pencil.go.set()
    plot.close()
    plot.close()
    assert pencil.drawn == [1, 5]
    assert pencil.threads[0] is not threading.main_thread()


def test_drawing_takes_a_small_share_of_the_time(
    tmp_path: Path, pencil: Pencil, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(plots, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))

    def slow(history: tuple[EpochFigures, ...], path: Path) -> None:
        now[0] += 2
        pencil(history, path)

    monkeypatch.setattr(plots, "draw_progress", slow)
    plot = ProgressPlot(tmp_path, no_error)
    history = History()
    for epoch in range(300):  # of 1 s each
        history.append(figures(epoch))
        plot.update(history)
        if plot._thread is not None:
            plot._thread.join()
        now[0] += 1
    assert 3 <= len(pencil.drawn) <= 4  # 2 s each 100 s


def test_errors_are_handed_over(tmp_path: Path) -> None:
    errors: list[Exception] = []
    blocked = tmp_path / "file"
    blocked.write_text("")
    plot = ProgressPlot(blocked, errors.append)
    plot.update(History([figures(0)]))
    plot.close()
    assert len(errors) == 1
    assert "progress.png" in str(errors[0]) or str(blocked) in str(errors[0])


def test_nothing_is_drawn_before_the_first_epoch(tmp_path: Path) -> None:
    plot = ProgressPlot(tmp_path, no_error)
    plot.update(History())
    plot.close()
    assert list(tmp_path.iterdir()) == []


def test_one_drawing_is_quick(tmp_path: Path) -> None:
    history = [figures(e) for e in range(1000)]
    draw_progress(history[:1], tmp_path / "progress.png")
    started = time.process_time()
    draw_progress(history, tmp_path / "progress.png")
    assert time.process_time() - started < 2
