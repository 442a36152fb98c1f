"""Validating without training, weights from elsewhere, checkpoints of other networks, GPUs, memory."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import TinyTraining, checkpoint, figures, recorded_recipe, text_log, unet
from torch import Tensor

from nnunet_pt.core.errors import CheckpointError, TrainingError, UsageError
from nnunet_pt.networks.precision import choose_precision
from nnunet_pt.training import process
from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.batches import BatchMaker
from nnunet_pt.training.parts import Parts
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.pipelines import augmented, load_patch_size, training_pipelines
from nnunet_pt.training.sampling import PatchSampler
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.transfer.checkpoint import read_checkpoint, write_checkpoint

OUTPUTS = {"2d": [(1, 1), (2, 2)], "3d_fullres": [(1, 1, 1), (2, 2, 2)]}


def dice(tiny: TinyTraining) -> float:
    summary = json.loads((tiny.folder("2d") / "validation" / "summary.json").read_text())
    return float(summary["foreground_mean"]["Dice"])


# ---------------------------------------------------------------- only validating


def test_validation_only_gives_what_the_training_gave(tiny: TinyTraining) -> None:
    trained = tiny.run("2d", recipe={"iterations_per_epoch": 6})
    before = dice(tiny)
    weights = (tiny.folder("2d") / "checkpoint_final.pth").read_bytes()
    shutil.rmtree(tiny.folder("2d") / "validation")
    result = tiny.run("2d", validation_only=True, save_probabilities=True)
    assert trained.validation is not None and result.validation is not None
    assert dice(tiny) == before == trained.validation.dice == result.validation.dice
    assert result.epochs == 1 and result.best_ema_dice == trained.best_ema_dice
    assert {p.suffix for p in (tiny.folder("2d") / "validation").iterdir()} == {".gz", ".json", ".npz", ".pkl"}
    assert (tiny.folder("2d") / "checkpoint_final.pth").read_bytes() == weights
    assert not list(tiny.folder("2d").glob("replaced_*"))
    assert len(figures(tiny.folder("2d"))) == 1


class Worse(Trainer):
    """The last epoch spoils what the first one learnt."""

    def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        loss, logits = super().validation_step(data, targets)
        wrong = torch.full_like(logits, -1.0)
        wrong[:, 0] = 1
        right = torch.nn.functional.one_hot(targets[0][:, 0].long().clamp(0), logits.shape[1]).movedim(-1, 1)
        if self.state.epoch == 1:
            with torch.no_grad():
                for parameter in self.parts.network.parameters():
                    parameter.mul_(-3)
        return loss, wrong if self.state.epoch else right.to(logits.dtype)


@pytest.mark.parametrize("at_once", [True, False])
def test_validation_with_the_best_weights(tiny: TinyTraining, at_once: bool) -> None:
    tiny.run("2d", recipe={"num_epochs": 2, "iterations_per_epoch": 8}, trainer_class=Worse, validate_best=at_once)
    final = dice(tiny)
    best = tiny.run("2d", validation_only=True, validate_best=True)
    last = tiny.run("2d", validation_only=True)
    assert best.validation is not None and last.validation is not None
    assert best.validation.dice != last.validation.dice
    assert final == (best if at_once else last).validation.dice  # type: ignore[union-attr]
    assert (best.epochs, last.epochs) == (1, 2)


def test_validation_before_training(tiny: TinyTraining) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint_final.pth is missing.*\n.*train first") as caught:
        tiny.run("2d", validation_only=True)
    assert "finished" not in str(caught.value)
    assert not tiny.folder("2d").exists()


@pytest.mark.parametrize(
    ("there", "remedy"), [("best", "--val --val_best"), ("latest", "continue the training with --c")]
)
def test_validation_before_training_has_finished(tiny: TinyTraining, there: str, remedy: str) -> None:
    tiny.run("2d")
    folder = tiny.folder("2d")
    (folder / "checkpoint_final.pth").rename(folder / "kept")
    (folder / "checkpoint_best.pth").unlink()
    shutil.copy(folder / "kept", folder / f"checkpoint_{there}.pth")
    with pytest.raises(CheckpointError, match="a training that has not finished") as caught:
        tiny.run("2d", validation_only=True)
    assert remedy in str(caught.value)


def test_best_weights_missing(tiny: TinyTraining) -> None:
    tiny.run("2d")
    (tiny.folder("2d") / "checkpoint_best.pth").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint_best.pth is missing") as caught:
        tiny.run("2d", validation_only=True, validate_best=True)
    assert "--val alone" in str(caught.value)


def test_validation_uses_the_recorded_recipe(tiny: TinyTraining) -> None:
    tiny.run("2d", recipe={"mirroring": "none"})
    seen: list[Any] = []
    original = process.validate_fold
    tiny.monkeypatch.setattr(process, "validate_fold", lambda t, *a, **k: seen.append(t.recipe) or original(t, *a, **k))
    tiny.run("2d", validation_only=True)
    assert seen[0].mirroring == "none"


# ---------------------------------------------------------------- weights from elsewhere


def names_of_heads(weights: dict[str, Tensor]) -> set[str]:
    return {name for name in weights if ".seg_layers." in name}


def first_weights(tiny: TinyTraining, **options: Any) -> dict[str, Tensor]:
    """The weights with which a training begins."""
    seen: dict[str, Tensor] = {}

    class Watching(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            for name, tensor in self.parts.network.bare.state_dict().items():
                seen.setdefault(name, tensor.clone())
            return super().train_step(data, targets)

    tiny.run("2d", trainer_class=Watching, **options)
    return seen


def test_pretrained_weights_are_what_training_begins_with(tiny: TinyTraining) -> None:
    tiny.run("2d", "all")
    source = tiny.folder("2d", "all") / "checkpoint_final.pth"
    theirs = read_checkpoint(source).network_weights
    ours = first_weights(tiny, pretrained_weights=source, recipe={"seed": 99})
    heads = names_of_heads(ours)
    assert heads
    assert all(torch.equal(ours[name], theirs[name]) == (name not in heads) for name in ours if "weight" in name)
    assert str(source) in text_log(tiny.folder("2d"))
    assert checkpoint(tiny.folder("2d")).current_epoch == 1


@pytest.mark.parametrize("flag", ["pretrained_weights", "continue_training"])
def test_weights_of_another_network(tiny: TinyTraining, flag: str) -> None:
    tiny.run("2d")
    source = tiny.folder("2d") / "checkpoint_final.pth"
    tiny.dataset.plans["configurations"]["2d"]["architecture"] = unet(2, [[1, 1], [2, 2], [2, 2]], (5, 6, 8))
    tiny.dataset.plan()
    value: Any = source if flag == "pretrained_weights" else True
    fold = 1 if flag == "pretrained_weights" else 0
    before = source.read_bytes()
    with pytest.raises(CheckpointError, match="the weights of another network") as caught:
        tiny.run("2d", fold, **{flag: value})
    assert str(source) in str(caught.value) and "4 x 1 x 3 x 3" in str(caught.value)
    assert source.read_bytes() == before
    assert not list(tiny.folder("2d", fold).glob("replaced_*"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 nor this"])
def test_something_else_as_pretrained_weights(tiny: TinyTraining, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        tiny.run("2d", pretrained_weights=path)
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        tiny.run("2d", pretrained_weights=tmp_path / "missing.pth")


def test_wrong_pretrained_weights_leave_an_earlier_training_alone(tiny: TinyTraining, tmp_path: Path) -> None:
    tiny.run("2d")
    with pytest.raises(CheckpointError):
        tiny.run("2d", pretrained_weights=tmp_path / "missing.pth")
    assert (tiny.folder("2d") / "checkpoint_final.pth").is_file()


def test_truncated_checkpoint_is_skipped(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    tiny.run("2d")
    folder = tiny.folder("2d")
    final = folder / "checkpoint_final.pth"
    final.write_bytes(final.read_bytes()[:-1000])
    with caplog.at_level(logging.WARNING):
        tiny.run("2d", continue_training=True, epochs=2)
    assert "Skipped a checkpoint" in caplog.text and "checkpoint_final.pth" in caplog.text
    assert "Continuing from checkpoint_best.pth: epoch 1, iteration 0." in text_log(folder)
    assert checkpoint(folder).current_epoch == 2


def test_only_damaged_checkpoints(tiny: TinyTraining) -> None:
    tiny.run("2d")
    for path in tiny.folder("2d").glob("*.pth"):
        os.truncate(path, 2000)
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read"):
        tiny.run("2d", continue_training=True)
    assert len(list(tiny.folder("2d").glob("*.pth"))) == 2


def test_continues_what_nnunet_has_left(tiny: TinyTraining) -> None:
    tiny.run("2d", recipe={"num_epochs": 2})
    folder = tiny.folder("2d")
    final = checkpoint(folder)
    final.extra.clear()
    final.current_epoch = 1
    for values in final.logging.values():
        del values[1:]
    for path in folder.glob("*.pth"):
        path.unlink()
    (folder / "recipe.json").unlink()
    write_checkpoint(folder / "checkpoint_latest.pth", final)
    result = tiny.run("2d", recipe={"num_epochs": 2, "seed": None}, continue_training=True)
    assert result.epochs == 2
    assert not (folder / "checkpoint_latest.pth").exists()
    assert "Continuing from checkpoint_latest.pth: epoch 1, iteration 0." in text_log(folder)


@pytest.mark.parametrize("stop_at", [(0, 1), (1, 0), (1, 2)])
def test_a_training_that_was_left_ends_as_one_that_was_not(tiny: TinyTraining, stop_at: tuple[int, int]) -> None:
    class Left(BaseException):
        pass

    class Leaving(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            if (self.state.epoch, self.state.iteration) == stop_at:
                self.save("checkpoint_latest.pth")
                raise Left
            return super().train_step(data, targets)

    options: Any = {"recipe": {"num_epochs": 2, "iterations_per_epoch": 3}, "deterministic": True}
    tiny.run("2d", **options)
    whole = checkpoint(tiny.folder("2d"))
    with pytest.raises(Left):
        tiny.run("2d", trainer_class=Leaving, **options)
    tiny.run("2d", continue_training=True, **options)
    continued = checkpoint(tiny.folder("2d"))
    assert all(torch.equal(whole.network_weights[n], continued.network_weights[n]) for n in whole.network_weights)
    for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs"):
        assert whole.logging[key] == continued.logging[key]


# ---------------------------------------------------------------- the machine


def test_precision_that_the_device_cannot(tiny: TinyTraining) -> None:
    with pytest.raises(UsageError, match="Computing in fp16 is not possible on the device cpu"):
        tiny.run("2d", precision="fp16")


def test_bfloat16_is_recorded_and_trains(tiny: TinyTraining) -> None:
    tiny.run("2d", precision="bf16")
    assert recorded_recipe(tiny.folder("2d")).precision == "bf16"
    assert "precision bf16" in text_log(tiny.folder("2d"))
    weights = checkpoint(tiny.folder("2d")).network_weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_automatic_precision_is_said(tiny: TinyTraining) -> None:
    tiny.run("2d", precision=None)
    name = choose_precision(torch.device("cpu")).name
    assert f"Device cpu, precision {name}" in text_log(tiny.folder("2d"))
    assert json.loads((tiny.folder("2d") / "debug.json").read_text())["precision"] == name


def test_memory_that_does_not_suffice(tiny: TinyTraining) -> None:
    class Large(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            del data, targets
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="memory") as caught:
        tiny.run("2d", trainer_class=Large)
    assert "[12, 12]" in str(caught.value)


def test_augmentation_on_the_gpu_needs_one(tiny: TinyTraining) -> None:
    tiny.run("2d", augment_on="gpu")
    assert "There is no GPU for -augment_on gpu" in text_log(tiny.folder("2d"))


@pytest.mark.parametrize("kind", ["labels", "regions_ignore"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("augmentation", ["default", "da5", "none"])
def test_augmenting_where_the_network_is_gives_the_same(
    tiny_of: Callable[[str], TinyTraining], kind: str, configuration: str, augmentation: str
) -> None:
    task = tiny_of(kind).task(configuration, recipe={"augmentation": augmentation})
    pipelines = training_pipelines(task, OUTPUTS[configuration])

    def maker(pipeline: Pipeline | None) -> BatchMaker:
        return BatchMaker(
            source=PatchSource(task.data_folder, task.split.train),
            sampler=PatchSampler(load_patch=load_patch_size(task), final_patch=task.configuration.patch_size),
            pipeline=pipeline,
            batch_size=3,
            global_batch_size=3,
            sample_offset=0,
            seed=5,
            purpose="train",
        )

    for step in range(4):
        by_worker, raw = maker(pipelines[0]).make(step), maker(None).make(step)
        assert raw.keys == by_worker.keys
        data, targets = augmented(pipelines[0], raw.data, raw.targets[0], raw.generators)
        assert torch.equal(data, by_worker.data)
        assert len(targets) == len(by_worker.targets) == 2
        assert all(torch.equal(a, b) for a, b in zip(targets, by_worker.targets, strict=True))


def test_a_training_with_augmentation_where_the_network_is(tiny: TinyTraining) -> None:
    tiny.run("2d", recipe={"seed": 8})
    usual = checkpoint(tiny.folder("2d")).network_weights
    original = process.loader_of

    def raw(task: Any, purpose: str, pipeline: Any, *rest: Any, **options: Any) -> Any:
        del pipeline
        return original(task, purpose, None, *rest, **options)

    class OnDevice(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            assert len(targets) == 2
            return super().train_step(data, targets)

    tiny.monkeypatch.setattr(process, "loader_of", raw)
    tiny.monkeypatch.setattr(process, "Parts", lambda **p: _parts(tiny, p))
    tiny.run("2d", recipe={"seed": 8}, trainer_class=OnDevice)
    other = checkpoint(tiny.folder("2d")).network_weights
    assert all(torch.equal(usual[name], other[name]) for name in usual)


def _parts(tiny: TinyTraining, given: dict[str, Any]) -> Any:
    pipelines = training_pipelines(tiny.task("2d"), OUTPUTS["2d"])
    return Parts(**{**given, "gpu_pipelines": pipelines})


def test_a_batch_is_the_samples_side_by_side() -> None:
    class Double:
        def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> float:
            del shape
            return float(random.random())

        def apply(self, sample: Sample, parameters: float) -> Sample:
            return Sample(sample.image * parameters, sample.segmentation)

        def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return shape

    generators = [np.random.default_rng(i) for i in range(2)]
    data, targets = augmented(
        Pipeline([Double()]), torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3, dtype=torch.int16), generators
    )
    assert [float(d.mean()) for d in data] == pytest.approx([np.random.default_rng(i).random() for i in range(2)])
    assert [t.shape for t in targets] == [(2, 1, 3, 3)]


def test_loader_processes_make_the_same_training_and_end_with_it(tiny: TinyTraining) -> None:
    class Failing(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            if self.state.step == 1:
                raise ValueError("a bug of the user")
            return super().train_step(data, targets)

    def weights() -> dict[str, Tensor]:
        return checkpoint(tiny.folder("2d")).network_weights

    tiny.run("2d", deterministic=True)
    alone = weights()
    workers = {"num_augmentation_processes": 1}
    tiny.run("2d", deterministic=True, settings=workers)
    assert all(torch.equal(alone[name], tensor) for name, tensor in weights().items())
    assert not multiprocessing.active_children()
    with pytest.raises(TrainingError, match="a bug of the user"):
        tiny.run("2d", trainer_class=Failing, settings=workers)
    assert not multiprocessing.active_children()
