"""Whole trainings of a moment: the files they leave, kinds of datasets and configurations, flags, wrong requests."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import blosc2
import numpy as np
import pytest
import torch
from tiny_training import (
    PRETRAINED_PLANS,
    QUICK,
    TinyTraining,
    checkpoint,
    figures,
    history,
    recorded_recipe,
    text_log,
    unet,
)
from torch import Tensor

from nnunet_pt.core.errors import TrainingError, UnknownNameError, UsageError
from nnunet_pt.networks.device import choose_device
from nnunet_pt.training import process
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.pipelines import augmentation_settings
from nnunet_pt.training.recipes import RECIPES
from nnunet_pt.training.run import command_line
from nnunet_pt.training.schedules import lr_at
from nnunet_pt.training.task import TrainRequest
from nnunet_pt.training.trainer import Trainer

OURS = {"recipe.json", "progress.jsonl"}  # files that nnU-Net does not have


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- what a training leaves


def test_files_are_those_of_nnunet(tiny: TinyTraining) -> None:
    result = tiny.run(recipe={"num_epochs": 2}, plot=True)
    folder = tiny.folder()
    assert result.output_folder == folder
    assert names(folder.parent) - names(folder.parent / "fold_0") >= {"dataset.json", "plans.json"}
    found = names(folder)
    logs = {n for n in found if re.fullmatch(r"training_log_\d{4}_\d{1,2}_\d{1,2}_\d\d_\d\d_\d\d\.txt", n)}
    assert len(logs) == 1
    cases = {"d.nii.gz", "f.nii.gz", "summary.json"}
    assert found - logs - OURS == {
        "checkpoint_best.pth",
        "checkpoint_final.pth",
        "debug.json",
        "progress.png",
        *(f"validation/{name}" for name in cases),
    }
    assert result.epochs == 2
    assert result.validation is not None
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == result.validation.dice
    assert f"2 epochs; mean validation Dice {result.validation.dice:.4f}" in result.summary()


def test_model_folder_describes_the_model(tiny: TinyTraining) -> None:
    (tiny.dataset.preprocessed / "dataset_fingerprint.json").write_text('{"spacings": []}')
    tiny.run()
    model = tiny.folder().parent
    assert names(model) - {f"fold_0/{n}" for n in names(model / "fold_0")} == {
        "dataset.json",
        "plans.json",
        "dataset_fingerprint.json",
        "orientation.json",
    }
    assert json.loads((model / "dataset.json").read_text()) == tiny.dataset.description
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"] == tiny.dataset.plans["configurations"]
    debug = json.loads((model / "fold_0" / "debug.json").read_text())
    assert (debug["fold"], debug["configuration_name"], debug["is_ddp"]) == ("0", "3d_fullres", "False")
    assert debug["hostname"] and debug["torch_version"] == torch.__version__


def test_checkpoint_says_what_nnunet_says(tiny: TinyTraining) -> None:
    tiny.run("2d", recipe={"num_epochs": 2})
    final = checkpoint(tiny.folder("2d"))
    assert final.trainer_name == "nnUNetTrainer"
    assert final.current_epoch == 2
    assert final.mirroring_axes == (0, 1)
    assert final.init_args["configuration"] == "2d"
    assert final.init_args["fold"] == 0
    assert final.init_args["dataset_json"] == tiny.dataset.description
    assert final.init_args["plans"]["plans_name"] == "nnUNetPlans"
    assert final.grad_scaler_state is None
    assert {len(v) for k, v in final.logging.items()} == {2}
    best = checkpoint(tiny.folder("2d"), "best")
    assert best.best_ema == max(float(v) for v in final.logging["ema_fg_dice"])


def test_learning_rate_of_each_epoch(tiny: TinyTraining) -> None:
    class Watching(Trainer):
        seen: ClassVar[list[tuple[int, float]]] = []

        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            self.seen.append((self.state.epoch, self.optimizer.param_groups[0]["lr"]))
            return super().train_step(data, targets)

    recipe = {"num_epochs": 4, "warmup_epochs": 2, "initial_lr": 0.008}
    tiny.run(recipe=recipe, trainer_class=Watching)
    expected = [0.004, 0.008, 0.008, 0.008 * 0.5**0.9]
    assert [rate for _, rate in Watching.seen] == pytest.approx(np.repeat(expected, 2))
    assert [f.lr for f in history(tiny.folder())] == pytest.approx(expected)
    log = text_log(tiny.folder())
    assert [float(x) for x in re.findall(r"Current learning rate: (\S+)", log)] == pytest.approx(expected, abs=1e-5)


def test_an_easy_task_is_learnt(tiny: TinyTraining) -> None:
    recipe = {"num_epochs": 4, "iterations_per_epoch": 15, "validation_iterations_per_epoch": 4, "initial_lr": 0.02}
    result = tiny.run(recipe=recipe)
    losses = [f.train_loss for f in history(tiny.folder())]
    assert losses[-1] < losses[0] - 0.5
    assert [f.mean_fg_dice for f in history(tiny.folder())][-1] > 0.6
    assert result.validation is not None and result.validation.dice > 0.6


def test_figures_are_plausible(tiny: TinyTraining) -> None:
    tiny.run(recipe={"num_epochs": 2})
    lines = figures(tiny.folder())
    assert [line["epoch"] for line in lines] == [0, 1]
    for line in lines:
        assert 0 < line["data_wait_share"] < 1  # batches are made in this process, so training does wait
        assert 0.05 < line["peak_memory_gb"] < 64
        assert 0 < line["seconds"] < 60
        assert line["ended"] - line["started"] == pytest.approx(line["seconds"], abs=0.05)
        assert line["skipped_steps"] == 0
        assert set(line["dice_per_class"]) == {"a", "b"}
        assert all(math.isfinite(line[key]) for key in ("train_loss", "val_loss", "mean_fg_dice"))


def test_same_seed_same_training(tiny: TinyTraining) -> None:
    tiny.run(seed=3, deterministic=True)
    first = checkpoint(tiny.folder()).network_weights
    tiny.run(seed=3, deterministic=True)
    second = checkpoint(tiny.folder()).network_weights
    tiny.run(seed=4, deterministic=True)
    third = checkpoint(tiny.folder()).network_weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_without_a_seed_a_fresh_one_is_drawn_and_kept(tiny: TinyTraining) -> None:
    tiny.run(recipe={"seed": None})
    first = checkpoint(tiny.folder()).extra["nnunet_pt"]["seed"]
    tiny.run(recipe={"seed": None})
    second = checkpoint(tiny.folder()).extra["nnunet_pt"]["seed"]
    assert isinstance(first, int) and isinstance(second, int) and first != second
    assert recorded_recipe(tiny.folder()).seed is None


def test_earlier_checkpoints_are_set_aside(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    tiny.run(recipe={"seed": 1})
    folder = tiny.folder()
    before = (folder / "checkpoint_final.pth").read_bytes()
    with caplog.at_level(logging.WARNING):
        tiny.run(recipe={"seed": 2})
    (kept,) = folder.glob("replaced_*")
    assert (kept / "checkpoint_final.pth").read_bytes() == before
    assert names(kept) >= {"checkpoint_best.pth", "recipe.json", "progress.jsonl"}
    assert recorded_recipe(kept).seed == 1
    assert kept.name in caplog.text and "--c" in caplog.text
    assert (folder / "checkpoint_final.pth").read_bytes() != before


def test_disabled_checkpointing_leaves_none(tiny: TinyTraining) -> None:
    result = tiny.run(disable_checkpointing=True)
    assert not list(tiny.folder().rglob("*.pth"))
    assert result.validation is not None


def test_patience_ends_a_training_that_does_not_improve(tiny: TinyTraining) -> None:
    class Same(Trainer):
        def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
            loss, logits = super().validation_step(data, targets)
            return loss, torch.zeros_like(logits).index_fill(1, torch.tensor(1), 1.0)

    result = tiny.run(recipe={"num_epochs": 9, "patience": 2}, trainer_class=Same)
    # the first epoch is the best; its validation patches differ, so the average moves, but not for long
    assert result.epochs < 9
    assert "has not improved for 2 epochs" in text_log(tiny.folder())
    assert checkpoint(tiny.folder()).current_epoch == result.epochs
    emas = [f.ema_fg_dice for f in history(tiny.folder())]
    assert int(np.argmax(emas)) == result.epochs - 3


def test_without_validation_iterations_there_is_no_dice(tiny: TinyTraining) -> None:
    result = tiny.run(recipe={"num_epochs": 2, "validation_iterations_per_epoch": 0})
    assert all(math.isnan(f.val_loss) and math.isnan(f.mean_fg_dice) for f in history(tiny.folder()))
    assert result.validation is not None
    assert (tiny.folder() / "checkpoint_best.pth").is_file()


def test_a_first_epoch_without_foreground_does_not_stay_the_best(tiny: TinyTraining) -> None:
    class Late(Trainer):
        def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
            loss, logits = super().validation_step(data, targets)
            if self.state.epoch == 0:
                targets[0].zero_()
                logits = torch.zeros_like(logits).index_fill(1, torch.tensor(0), 1.0)
            return loss, logits

    result = tiny.run(recipe={"num_epochs": 2}, trainer_class=Late)
    first, second = history(tiny.folder())
    assert math.isnan(first.ema_fg_dice) and not math.isnan(second.ema_fg_dice)
    assert result.best_ema_dice == pytest.approx(second.ema_fg_dice)
    assert checkpoint(tiny.folder(), "best").current_epoch == 2


# ---------------------------------------------------------------- datasets and configurations


@pytest.mark.parametrize("kind", ["regions", "ignore", "regions_ignore"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_kinds_of_labels(tiny_of: Callable[[str], TinyTraining], kind: str, configuration: str) -> None:
    tiny = tiny_of(kind)
    result = tiny.run(configuration)
    (line,) = figures(tiny.folder(configuration))
    assert math.isfinite(line["train_loss"]) and math.isfinite(line["val_loss"])
    assert set(line["dice_per_class"]) == ({"whole", "inner"} if "regions" in kind else {"a", "b"})
    assert result.validation is not None
    assert len(result.validation.mean) == 2


def test_fold_all_trains_and_validates_on_everything(tiny: TinyTraining) -> None:
    result = tiny.run("2d", "all")
    assert result.output_folder.name == "fold_all"
    assert checkpoint(result.output_folder).init_args["fold"] == "all"
    assert result.validation is not None and len(result.validation.cases) == 6


def test_fold_beyond_the_splits_is_random(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = tiny.run("2d", 7)
    assert "Fold 7 is not one of the 5 folds" in caplog.text
    assert result.output_folder.name == "fold_7"
    assert result.validation is not None and len(result.validation.cases) == 2  # 80 % of six cases are four


def test_fold_without_validation_cases(tiny: TinyTraining) -> None:
    splits = [{"train": ["a", "b"], "val": []}]
    (tiny.dataset.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    result = tiny.run("2d", 0)
    assert result.validation is None
    assert (tiny.folder("2d") / "checkpoint_final.pth").is_file()
    assert "no validation cases" in text_log(tiny.folder("2d"))


def test_anisotropic_patches_are_rotated_within_slices(tiny: TinyTraining) -> None:
    entry = tiny.dataset.plans["configurations"]["3d_fullres"]
    entry["patch_size"] = [4, 16, 16]
    entry["architecture"] = unet(3, [[1, 1, 1], [1, 2, 2], [2, 2, 2]])
    tiny.dataset.plan()
    assert augmentation_settings(tiny.task(), None).dummy_2d
    assert not augmentation_settings(tiny.task(recipe={"dummy_2d": False}), None).dummy_2d
    tiny.run()
    assert math.isfinite(figures(tiny.folder())[0]["train_loss"])


def test_cascade(tiny: TinyTraining) -> None:
    with pytest.raises(TrainingError, match="3d_lowres 0"):
        tiny.run("3d_cascade_fullres")
    for fold in (0, 1):
        tiny.run("3d_lowres", fold)
    stage = tiny.folder("3d_lowres").parent / "predicted_next_stage" / "3d_cascade_fullres"
    predicted = {p.stem for p in stage.glob("*.b2nd")}
    splits = json.loads((tiny.dataset.preprocessed / "splits_final.json").read_text())
    assert predicted == {case for fold in (0, 1) for case in splits[fold]["val"]}
    with pytest.raises(Exception, match="lacks predictions of the previous stage") as caught:
        tiny.run("3d_cascade_fullres")
    assert "all folds" in str(caught.value)
    for fold in (2, 3, 4):
        tiny.run("3d_lowres", fold)
    source = PatchSource(tiny.task("3d_cascade_fullres").data_folder, "a", previous_stage_folder=stage)
    assert np.asarray(blosc2.open(str(stage / "a.b2nd"))).shape == source.shape("a")
    result = tiny.run("3d_cascade_fullres")
    weights = checkpoint(tiny.folder("3d_cascade_fullres")).network_weights
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 3  # the image, and a channel for each label
    assert result.validation is not None


def recipes() -> Iterator[Any]:
    """Every recipe with a configuration it can be tried with; the large networks take their time."""
    for name, recipe in RECIPES.items():
        slow = recipe.network is not None and recipe.network not in ("PrimusS", "PrimusV2S")
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", list(recipes()))
def test_every_recipe_runs(tiny: TinyTraining, name: str) -> None:
    recipe = RECIPES[name]
    changes: dict[str, Any] = {"iterations_per_epoch": 1, "warmup_epochs": min(1, recipe.warmup_epochs)}
    configuration = "2d"
    if recipe.network is not None:  # transformers, which are three-dimensional and cut the patch into cubes of 8
        configuration = "3d_fullres"
        changes |= {"patch_size": (8, 16, 16), "batch_size": 1}
    if recipe.benchmark:
        changes["validation_iterations_per_epoch"] = 0
    plans = "nnUNetPlans"
    if recipe.pretrained:
        configuration, plans = "3d_fullres", PRETRAINED_PLANS
        tiny.pretrained()
        epochs = {"num_epochs": 3, "head_epochs": 1} if recipe.head_epochs else {}
        changes |= {"batch_size": 1, "patch_size": (8, 12, 12), **epochs}
    tiny.monkeypatch.setattr(process, "validate_fold", lambda *_, **__: None)
    large = recipe.network is not None
    tiny.run(configuration, trainer=name, plans_name=plans, recipe=changes, disable_checkpointing=large)
    folder = tiny.folder(configuration, trainer=name, plans=plans)
    assert recorded_recipe(folder) == replace(recipe, **{**QUICK, **changes, "precision": "fp32"})
    assert all(math.isfinite(line["train_loss"]) for line in figures(folder))
    if recipe.benchmark or large:
        assert (folder / "benchmark_result.json").is_file() == recipe.benchmark
        assert not list(folder.glob("*.pth"))
        return
    final = checkpoint(folder)
    assert final.trainer_name == name
    axes = {"all": (0, 1, 2), "first": (0, 1), "none": None}[recipe.mirroring]
    assert final.mirroring_axes == (axes if axes is None or configuration != "2d" else axes[:-1])


def test_benchmark_result(tiny: TinyTraining) -> None:
    name = "nnUNetTrainerBenchmark_5epochs"
    tiny.run(trainer=name, recipe={"num_epochs": 2})
    folder = tiny.folder(trainer=name)
    (key, result) = next(iter(json.loads((folder / "benchmark_result.json").read_text()).items()))
    assert key.endswith("__cpu__num_gpus_1")
    assert result["gpu_name"] == "cpu" and result["num_gpus"] == 1 and result["torch_version"] == torch.__version__
    assert result["fastest_epoch"] == min(line["seconds"] for line in figures(folder))
    assert not (folder / "validation").exists()


@pytest.mark.parametrize("kind", ["labels", "regions", "ignore", "regions_ignore"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_synthetic_batches_fit_the_loss(tiny_of: Callable[[str], TinyTraining], kind: str, configuration: str) -> None:
    tiny, name = tiny_of(kind), "nnUNetTrainerBenchmark_5epochs_noDataLoading"
    tiny.run(configuration, trainer=name)
    (line,) = figures(tiny.folder(configuration, trainer=name))
    assert math.isfinite(line["train_loss"]) and line["data_wait_share"] == 0


# ---------------------------------------------------------------- flags


def test_flags_are_recorded_and_kept(tiny: TinyTraining) -> None:
    flags = {"lr": 0.003, "iterations": 3, "warmup_epochs": 1, "patience": 5, "seed": 11, "deterministic": True}
    tiny.run("2d", epochs=2, **flags)
    folder = tiny.folder("2d")
    recipe = recorded_recipe(folder)
    assert (recipe.num_epochs, recipe.initial_lr, recipe.iterations_per_epoch) == (2, 0.003, 3)
    assert (recipe.warmup_epochs, recipe.patience, recipe.seed, recipe.deterministic) == (1, 5, 11, True)
    assert recipe.precision == "fp32"
    # Continued with more epochs: the other flags stay
    result = tiny.run("2d", epochs=3, continue_training=True, precision=None)
    assert result.epochs == 3
    after = recorded_recipe(folder)
    assert (after.num_epochs, after.initial_lr, after.iterations_per_epoch, after.seed) == (3, 0.003, 3, 11)
    assert after.precision == "fp32"
    rates = [f.lr for f in history(folder)]
    assert rates == pytest.approx([lr_at(recipe, 0), lr_at(recipe, 1), lr_at(after, 2)])
    assert len(figures(folder)) == 3
    assert "Continuing from checkpoint_final.pth: epoch 2, iteration 0." in text_log(folder)


def test_continuing_without_a_checkpoint_starts_anew(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = tiny.run("2d", continue_training=True)
    assert "There is no checkpoint in" in caplog.text
    assert result.epochs == 1


def test_continuing_a_finished_training_changes_nothing(tiny: TinyTraining) -> None:
    tiny.run("2d")
    final = tiny.folder("2d") / "checkpoint_final.pth"
    before = final.read_bytes(), final.stat().st_mtime_ns
    result = tiny.run("2d", continue_training=True)
    assert (final.read_bytes(), final.stat().st_mtime_ns) == before
    assert result.validation is not None


def test_command_line_of_helping_processes_asks_for_the_same() -> None:
    request = TrainRequest(
        dataset="Dataset007_Small",
        configuration="2d",
        fold="all",
        trainer="nnUNetTrainer_5epochs",
        plans_name="Own",
        save_probabilities=True,
        device="cpu",
        epochs=3,
        lr=1e-05,
        iterations=2,
        warmup_epochs=0,
        patience=4,
        seed=0,
        deterministic=True,
        precision="bf16",
        augment_on="gpu",
        save_every_minutes=0.0,
        tensorboard=True,
        progress=False,
    )
    from nnunet_pt.cli.train import build_parser
    from nnunet_pt.cli.train import request as parsed

    assert parsed(build_parser().parse_args(command_line(request))) == request
    for other in (
        {"continue_training": True},
        {"scratch": Path("a b")},
        {"scratch": "none"},
        {"requeue": True},
        {"validation_only": True},
        {"pretrained_weights": Path("x y.pth")},
    ):
        changed = replace(request, **other)
        assert parsed(build_parser().parse_args(command_line(changed))) == changed


# ---------------------------------------------------------------- users' own trainers


OWN = """
from dataclasses import replace
import torch
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.trainer import Trainer


class Twice(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, outputs, targets):
        return 2 * self.inner(outputs, targets)


class MyTrainer(Trainer):
    recipe = replace(DEFAULT, num_epochs=1, initial_lr=0.002)

    def build_loss(self, num_outputs):
        return Twice(super().build_loss(num_outputs))

    def build_optimizer(self, network):
        return torch.optim.RMSprop(network.parameters(), lr=1.0)

    def build_augmentation(self, output_strides):
        training, validation = super().build_augmentation(output_strides)
        return validation, validation
"""


@pytest.mark.parametrize("where", ["file", "folder"])
def test_own_trainer(tiny: TinyTraining, tmp_path: Path, where: str) -> None:
    file = tmp_path / "own" / f"my_trainers_{where}.py"
    file.parent.mkdir()
    file.write_text(OWN)
    tiny.monkeypatch.setattr("sys.path", [*sys.path])
    tiny.monkeypatch.setattr("sys.dont_write_bytecode", True)
    name = f"{file}:MyTrainer" if where == "file" else "MyTrainer"
    recipe = {"augmentation": "none"}  # so that what is read fits the augmentation
    tiny.run("2d", trainer=name, settings={"trainer_folders": (file.parent,)}, recipe=recipe)
    final = checkpoint(tiny.folder("2d", trainer="MyTrainer"))
    assert final.trainer_name == "MyTrainer"
    assert final.optimizer_state is not None
    group = final.optimizer_state["param_groups"][0]
    assert "alpha" in group and group["lr"] == pytest.approx(0.002)
    assert float(final.logging["train_losses"][0]) > 1.5  # twice the usual one


def test_unknown_trainer_is_suggested(tiny: TinyTraining) -> None:
    with pytest.raises(UnknownNameError, match="nnUNetTrainer_5epochs"):
        tiny.run("2d", trainer="nnUNetTrainer_5epoch")


def test_unknown_device() -> None:
    with pytest.raises(UsageError, match=r"torch finds: .*cpu"):
        choose_device("tpu")
    assert choose_device("cpu").type == "cpu"
    assert choose_device(None).type in ("cuda", "mps", "cpu")
