"""Losses that are not finite: named, skipped, returned from, given up; weights that are not finite are never saved."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny_training import CASES, TinyTraining, checkpoint, figures, history, text_log
from torch import Tensor

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.networks.precision import Precision
from nnunet_pt.preprocessing.store import load_case, save_case
from nnunet_pt.training import update
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.transfer.weights import non_finite_tensors


class Spoilt(Trainer):
    """Steps in ``bad`` have a loss that is not finite; notes what happens."""

    bad: ClassVar[set[int]] = set()
    value: ClassVar[float] = math.nan
    rates: ClassVar[list[float]] = []
    weights: ClassVar[list[float]] = []
    calls: ClassVar[int] = 0

    def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
        loss = super().train_step(data, targets)
        type(self).rates.append(self.optimizer.param_groups[0]["lr"])
        type(self).weights.append(sum(float(p.detach().double().sum()) for p in self.parts.network.parameters()))
        type(self).calls += 1
        return loss * self.value if type(self).calls - 1 in self.bad else loss


@pytest.fixture
def spoilt() -> Callable[..., type[Spoilt]]:
    """A function that makes a trainer with its own bad steps."""

    def make(*bad: int, value: float = math.nan) -> type[Spoilt]:
        return type("Spoilt", (Spoilt,), {"bad": set(bad), "value": value, "rates": [], "weights": []})

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_is_skipped_and_its_cases_named(tiny: TinyTraining, spoilt: Any, value: float) -> None:
    trainer = spoilt(1, value=value)
    tiny.run("2d", trainer_class=trainer, recipe={"iterations_per_epoch": 4})
    log = text_log(tiny.folder("2d"))
    warning = next(line for line in log.splitlines() if "WARNING" in line)
    assert f"gave loss {value}" in warning and "epoch 0, iteration 1. The step is skipped" in warning
    named = warning.split("of the cases ")[1].split(" gave")[0].split(", ")
    assert set(named) <= set(CASES)
    weights = trainer.weights
    assert weights[1] == weights[2] and weights[0] != weights[1] and weights[2] != weights[3]
    (line,) = figures(tiny.folder("2d"))
    assert line["skipped_steps"] == 1
    assert math.isfinite(line["train_loss"])
    state = checkpoint(tiny.folder("2d")).extra["nnunet_pt"]
    assert state["returns"] == 0 and state["rate_factor"] == 1.0


def test_the_cases_are_those_of_the_batch(tiny: TinyTraining) -> None:
    image, segmentation, properties = load_case(tiny.task("2d").data_folder, "a")
    broken = np.asarray(image).copy()
    broken[:] = np.nan
    save_case(tiny.task("2d").data_folder, "a", broken, np.asarray(segmentation), properties, (1, 12, 12))
    splits = tiny.task("2d").split
    assert "a" in splits.train
    tiny.run("2d", recipe={"iterations_per_epoch": 12, "augmentation": "none", "batch_size": 1})
    warnings = [line for line in text_log(tiny.folder("2d")).splitlines() if "WARNING" in line]
    assert 0 < len(warnings) < 12
    assert all("of the cases a gave loss nan" in line for line in warnings if "in a row" not in line)


def test_five_in_a_row_return_to_the_last_good_state(tiny: TinyTraining, spoilt: Any) -> None:
    trainer = spoilt(*range(9, 14))
    recipe = {"iterations_per_epoch": 8, "num_epochs": 2, "schedule": "constant"}
    tiny.run("2d", trainer_class=trainer, recipe=recipe)
    weights, rates = trainer.weights, trainer.rates
    assert weights[14] == weights[8]  # as at the end of the first epoch
    assert weights[14] != weights[13]
    assert rates == pytest.approx([0.01] * 14 + [0.005] * 2)
    log = text_log(tiny.folder("2d"))
    assert "5 steps in a row had to be skipped" in log and "0.5 times the planned learning rate" in log
    assert [line["skipped_steps"] for line in figures(tiny.folder("2d"))] == [0, 5]
    assert [f.lr for f in history(tiny.folder("2d"))] == pytest.approx([0.01, 0.005])


def test_gives_up_with_an_explanation(tiny: TinyTraining, spoilt: Any) -> None:
    trainer = spoilt(*range(1, 1000))
    with pytest.raises(TrainingError, match="smaller learning rates did not help") as caught:
        tiny.run("2d", trainer_class=trainer, recipe={"iterations_per_epoch": 40})
    found = str(caught.value.found)
    assert found.startswith("last batches with the cases ") and set(found.split("cases ")[1].split(", ")) <= set(CASES)
    assert "-lr" in (caught.value.remedy or "")
    assert trainer.calls == 1 + update.MOST_NON_FINITE * (update.MOST_RETURNS + 1)
    assert trainer.rates[-1] == pytest.approx(0.01 / 2**update.MOST_RETURNS)
    assert not list(tiny.folder("2d").glob("*.pth"))


def test_an_epoch_without_trouble_forgives(tiny: TinyTraining, spoilt: Any) -> None:
    trainer = spoilt(*range(5), *range(15, 20))
    tiny.run("2d", trainer_class=trainer, recipe={"iterations_per_epoch": 10, "num_epochs": 3})
    state = checkpoint(tiny.folder("2d")).extra["nnunet_pt"]
    assert state["returns"] == 0
    assert state["rate_factor"] == 0.25


def test_huge_values_do_not_spoil_the_weights(tiny: TinyTraining) -> None:
    class Huge(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            return super().train_step(data * 1e30, targets) * 1e38

    with pytest.raises(TrainingError, match="not finite"):
        tiny.run("2d", trainer_class=Huge, recipe={"iterations_per_epoch": 40})
    assert not list(tiny.folder("2d").glob("*.pth"))


def test_gradients_that_are_not_finite_count_too(tiny: TinyTraining) -> None:
    class Hidden(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            loss = super().train_step(data, targets)
            if self.state.iteration == 1:
                loss.register_hook(lambda gradient: gradient * math.inf)
            return loss

    tiny.run("2d", trainer_class=Hidden, recipe={"iterations_per_epoch": 3})
    assert "gave gradients that are not finite" in text_log(tiny.folder("2d"))
    assert not non_finite_tensors(checkpoint(tiny.folder("2d")).network_weights)


def test_statistics_of_batch_normalisation_recover(tiny: TinyTraining) -> None:
    class Once(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            return super().train_step(data * math.nan if self.state.step == 1 else data, targets)

    tiny.run("2d", trainer="nnUNetTrainerBN", trainer_class=Once, recipe={"iterations_per_epoch": 4})
    folder = tiny.folder("2d", trainer="nnUNetTrainerBN")
    weights = checkpoint(folder).network_weights
    assert any("running_mean" in name for name in weights)
    assert not non_finite_tensors(weights)
    assert "could not be saved" not in text_log(folder)
    assert math.isfinite(figures(folder)[0]["val_loss"])


def test_weights_that_are_not_finite_are_not_saved(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Trainer):
        def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
            result = super().validation_step(data, targets)
            if self.state.epoch == 1:
                with torch.no_grad():
                    next(iter(self.parts.network.parameters())).fill_(math.nan)
            return result

    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError):
        tiny.run("2d", trainer_class=Broken, recipe={"num_epochs": 2, "save_every": 1})
    assert not (tiny.folder("2d") / "checkpoint_final.pth").exists()
    for kept in tiny.folder("2d").glob("*.pth"):
        assert not non_finite_tensors(checkpoint(tiny.folder("2d"), kept.stem.split("_")[1]).network_weights)
    assert (tiny.folder("2d") / "checkpoint_latest.pth").is_file()


def test_broken_weights_between_epochs_are_returned_from(tiny: TinyTraining) -> None:
    class Broken(Trainer):
        def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
            result = super().validation_step(data, targets)
            if self.state.epoch == 1:
                with torch.no_grad():
                    next(iter(self.parts.network.parameters())).fill_(math.nan)
            return result

    recipe = {"num_epochs": 3, "iterations_per_epoch": 8}
    result = tiny.run("2d", trainer_class=Broken, recipe=recipe)
    assert result.epochs == 3
    assert not non_finite_tensors(checkpoint(tiny.folder("2d")).network_weights)
    assert [line["skipped_steps"] for line in figures(tiny.folder("2d"))] == [0, 0, 5]


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gradient scaler, as in float16 on a GPU."""
    original = torch.amp.GradScaler
    monkeypatch.setattr(Precision, "needs_scaling", property(lambda _: True))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda: original("cpu"))


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerAdam", "nnUNetTrainerAdan"])
def test_overflow_at_the_beginning_calibrates_the_scaler(tiny: TinyTraining, name: str) -> None:
    class Overflow(Trainer):
        weights: ClassVar[list[list[Tensor]]] = []

        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            self.weights.append([p.detach().clone() for p in self.parts.network.parameters()])
            loss = super().train_step(data, targets)
            if self.state.step < 2:
                loss.register_hook(lambda gradient: gradient * math.inf)
            return loss

    recipe = {"iterations_per_epoch": 4, "gradient_clip": 12.0, "initial_lr": 1e-3}
    tiny.run("2d", trainer=name, trainer_class=Overflow, recipe=recipe)
    final = checkpoint(tiny.folder("2d", trainer=name))
    assert final.grad_scaler_state is not None
    assert final.grad_scaler_state["scale"] == 2.0**16 / 4
    assert figures(tiny.folder("2d", trainer=name))[0]["skipped_steps"] == 0  # it looks for its scale
    assert not non_finite_tensors(final.network_weights)
    at = [torch.cat([p.flatten() for p in weights]) for weights in Overflow.weights]
    assert torch.equal(at[0], at[2])
    # No more than the learning rate allows: momentum was not made of what happened to be in memory
    assert 0 < float((at[3] - at[2]).norm()) <= 2 * 1e-3 * (12 if name == "nnUNetTrainer" else len(at[0]) ** 0.5)


@pytest.mark.usefixtures("scaled")
def test_with_a_gradient_scaler_nan_losses_give_up(tiny: TinyTraining, spoilt: Any) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        tiny.run("2d", trainer_class=spoilt(*range(1000)), recipe={"iterations_per_epoch": 40})


@pytest.mark.usefixtures("scaled")
def test_a_scale_that_does_not_end_to_fall_gives_up(tiny: TinyTraining) -> None:
    class Overflow(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            loss = super().train_step(data, targets)
            loss.register_hook(lambda gradient: gradient * math.inf)
            return loss

    with pytest.raises(TrainingError, match="not finite"):
        tiny.run("2d", trainer_class=Overflow, recipe={"iterations_per_epoch": 400})
    assert "gradients that are not finite" in text_log(tiny.folder("2d"))


def test_only_processes_with_a_bad_loss_name_their_cases(tiny: TinyTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def collect(_: Processes, texts: Any) -> list[str]:
        asked.append(tuple(texts))
        return [*texts, "case_of_another_process"]

    def total(_: Processes, values: Tensor) -> Tensor:  # another process has a loss that is not finite
        return values + torch.tensor([math.nan, 0.0, 0.0]) if values.shape == (3,) else values

    monkeypatch.setattr(Processes, "collect", collect)
    monkeypatch.setattr(Processes, "sum", total)
    monkeypatch.setattr(update, "MOST_NON_FINITE", 99)
    tiny.run("2d")
    assert asked == [(), ()]
    assert "of the cases case_of_another_process gave loss nan" in text_log(tiny.folder("2d"))


def test_a_step_reports_the_loss_it_was_made_with(tiny: TinyTraining) -> None:
    class Watching(Trainer):
        losses: ClassVar[list[float]] = []

        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            loss = super().train_step(data, targets)
            self.losses.append(float(loss.detach()))
            return loss

    tiny.run("2d", trainer_class=Watching, recipe={"iterations_per_epoch": 3})
    assert figures(tiny.folder("2d"))[0]["train_loss"] == pytest.approx(np.mean(Watching.losses), rel=1e-5)
