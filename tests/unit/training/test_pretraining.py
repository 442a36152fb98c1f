"""Weights from a pre-training: what training begins with, what it leaves behind, what is needed later."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_training import PRETRAINED_PLANS, TinyTraining, checkpoint, recorded_recipe, text_log, unet
from torch import Tensor

from nnunet_pt.core.errors import CheckpointError, NnunetError, PlansError, UsageError
from nnunet_pt.training.recipes import RECIPES
from nnunet_pt.training.trainer import Trainer
from nnunet_pt.transfer.account import TransferPlan
from nnunet_pt.transfer.source import PretrainedSource, sha256_of

TRAINER = "PretrainedTrainer"
STEM = "encoder.stages.0.0.convs.0.conv.weight"
SHORT: dict[str, Any] = {"warmup_epochs": 0, "patch_size": (8, 12, 12)}


class First(Trainer):
    """Notes the weights and the learning rate with which training begins."""

    weights: ClassVar[dict[str, Tensor]]
    rates: ClassVar[list[float]]

    def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
        if not self.weights:
            self.weights.update({n: t.clone() for n, t in self.parts.network.bare.state_dict().items()})
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return super().train_step(data, targets)


def run(tiny: TinyTraining, *, recipe: dict[str, Any] | None = None, **options: Any) -> type[First]:
    """Fine-tune as ``nnUNetv2_train_pretrained`` does; gives what it began with."""
    first = type("First", (First,), {"weights": {}, "rates": []})
    standard: dict[str, Any] = {"trainer": TRAINER, "plans_name": PRETRAINED_PLANS, "of_plans": True}
    tiny.run("3d_fullres", 0, trainer_class=first, recipe={**SHORT, **(recipe or {})}, **{**standard, **options})
    return first


def folder(tiny: TinyTraining, plans: str = PRETRAINED_PLANS) -> Path:
    return tiny.folder("3d_fullres", trainer=TRAINER, plans=plans)


def weights_in(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["network_weights"]
    return weights


def names(weights: dict[str, Tensor], part: str) -> set[str]:
    return {n for n in weights if n.startswith(part) and n.endswith("conv.weight")}


# ---------------------------------------------------------------- what training begins with


def test_the_encoder_comes_from_the_pretraining(tiny: TinyTraining) -> None:
    theirs = weights_in(tiny.pretrained())
    first = run(tiny)
    assert names(first.weights, "encoder.")
    assert all(torch.equal(first.weights[n], theirs[n]) for n in names(first.weights, "encoder."))
    assert not any(torch.equal(first.weights[n], theirs[n]) for n in names(first.weights, "decoder.stages"))
    assert first.rates[0] == pytest.approx(1e-3)
    recipe = recorded_recipe(folder(tiny))
    assert (recipe.batch_size, recipe.deep_supervision, recipe.pretrained) == (2, False, True)


def test_what_a_training_leaves_behind(tiny: TinyTraining) -> None:
    path = tiny.pretrained()
    run(tiny)
    report = json.loads((folder(tiny) / "transfer_report.json").read_text())
    assert report["encoder_share"] == 1.0 and report["source"]["sha256"] == sha256_of(path)
    assert "<table" in (folder(tiny) / "transfer_report.html").read_text()
    log = text_log(folder(tiny))
    assert str(path) in log and "encoder.stages.0" in log and "segmentation layers" in log
    assert "Somebody (2020). Something." in log
    assert "the optimiser is new, and epochs are counted from 0" in log
    assert "Somebody (2020). Something." in (folder(tiny).parent / "citations.txt").read_text()
    plans = json.loads((folder(tiny).parent / "plans.json").read_text())
    assert plans["pretrain_info"]["checkpoint_path"] == str(path)


@pytest.mark.parametrize("channels", [2, 3])
def test_other_channels(tiny: TinyTraining, channels: int) -> None:
    """The sum over the channels is kept, so that the response to equal channels is."""
    theirs = weights_in(tiny.pretrained(channels))
    first = run(tiny)
    assert first.weights[STEM].shape[1] == 1
    assert torch.allclose(first.weights[STEM].sum(1), theirs[STEM].sum(1), atol=1e-6)


@pytest.mark.parametrize(("channels", "adapted"), [(1, False), (2, True)])
def test_an_adapted_input_layer_is_trained_with_the_heads(tiny: TinyTraining, channels: int, adapted: bool) -> None:
    tiny.pretrained(channels)
    first = run(tiny, trainer="PretrainedTrainer_sawtooth", recipe={"head_epochs": 1})
    path = tiny.folder("3d_fullres", trainer="PretrainedTrainer_sawtooth", plans=PRETRAINED_PLANS)
    final = checkpoint(path)
    changed = {
        n for n in names(first.weights, "encoder.") if not torch.equal(first.weights[n], final.network_weights[n])
    }
    assert changed == ({STEM} if adapted else set())
    assert final.extra["nnunet_pt"]["input_adapted"] is adapted
    assert ("and the input layer" in text_log(path)) == adapted


def test_a_transformer_for_another_patch_size_and_other_channels(tiny: TinyTraining) -> None:
    """Decoder and input layer first; positions are resized; the file is not needed to continue or to validate."""
    path = tiny.pretrained(2, primus=(16, 16, 16))
    theirs = weights_in(path)
    trainer = "PretrainedTrainer_Primus_sawtooth"
    recipe = {"num_epochs": 2, "head_epochs": 1, "warmup_epochs": 0, "patch_size": None}
    first = run(tiny, trainer=trainer, recipe={**recipe, "num_epochs": 1})
    blocks = {n for n in theirs if n.startswith("eva.blocks")}
    assert blocks and all(torch.equal(first.weights[n], theirs[n]) for n in blocks)
    assert first.weights["eva.pos_embed"].shape == (1, 4, 24)
    ended = tiny.folder("3d_fullres", trainer=trainer, plans=PRETRAINED_PLANS)
    after = checkpoint(ended)
    changed = {n for n, t in first.weights.items() if not torch.equal(t, after.network_weights[n])}
    assert {n for n in changed if not n.startswith("up_projection.")} == {
        "down_projection.proj.weight",
        "down_projection.proj.bias",
    }
    assert first.rates == pytest.approx([1e-6] * 2)
    path.unlink()
    run(tiny, trainer=trainer, continue_training=True, epochs=2, recipe=recipe)
    assert any(not torch.equal(checkpoint(ended).network_weights[n], theirs[n]) for n in blocks)
    run(tiny, trainer=trainer, validation_only=True, recipe=recipe)


def test_everything_is_adapted_if_asked_for(tiny: TinyTraining) -> None:
    theirs = weights_in(tiny.pretrained())
    first = run(tiny, transfer="adapt")
    assert all(torch.equal(first.weights[n], theirs[n]) for n in names(first.weights, "decoder.stages"))


def test_chosen_layers(tiny: TinyTraining) -> None:
    theirs = weights_in(tiny.pretrained())
    first = run(tiny, transfer_layers=("encoder.stages.0-1", "decoder.stages"))
    taken = {n for n in first.weights if n.endswith("conv.weight") and torch.equal(first.weights[n], theirs[n])}
    own = {n for n in taken if not n.startswith("decoder.encoder.")}
    assert own == {
        n for n in names(theirs, "") if n.startswith(("encoder.stages.0", "encoder.stages.1", "decoder.stages"))
    }
    with pytest.raises(UsageError, match="-transfer_layers"):
        run(tiny, transfer_layers=("encodre",))


def test_also_by_the_usual_command(tiny: TinyTraining) -> None:
    """``nnUNetv2_train -tr PretrainedTrainer``: the trainer says that the plans' weights are wanted."""
    theirs = weights_in(tiny.pretrained())
    first = run(tiny, of_plans=False)
    assert torch.equal(first.weights[STEM], theirs[STEM])


def test_another_trainer_with_the_weights_of_the_plans(tiny: TinyTraining) -> None:
    theirs = weights_in(tiny.pretrained())
    first = run(tiny, trainer="nnUNetTrainer")
    assert torch.equal(first.weights[STEM], theirs[STEM])
    assert first.rates[0] == pytest.approx(0.01)
    path = tiny.folder("3d_fullres", plans=PRETRAINED_PLANS)
    assert recorded_recipe(path).pretrained


@pytest.mark.parametrize("transfer", [None, "strict", "match", "adapt"])
def test_weights_of_another_training(tiny: TinyTraining, transfer: Any) -> None:
    """``-pretrained_weights`` takes the decoder, too, with each policy."""
    source = tiny.pretrained()
    theirs = weights_in(source)
    usual: dict[str, Any] = {"of_plans": False, "trainer": "nnUNetTrainer", "plans_name": "nnUNetPlans"}
    first = run(tiny, transfer=transfer, pretrained_weights=source, **usual)
    assert torch.equal(first.weights[STEM], theirs[STEM])
    part = names(first.weights, "decoder.stages")
    assert part and all(torch.equal(first.weights[n], theirs[n]) for n in part)


def test_heads_of_labels_with_the_same_name(tiny: TinyTraining) -> None:
    tiny.run("2d", "all", recipe={"iterations_per_epoch": 3})
    source = tiny.folder("2d", "all") / "checkpoint_final.pth"
    theirs = checkpoint(tiny.folder("2d", "all")).network_weights
    heads = [n for n in theirs if ".seg_layers." in n]
    for wanted in ("auto", "none"):
        first = type("First", (First,), {"weights": {}, "rates": []})
        tiny.run(
            "2d",
            trainer_class=first,
            pretrained_weights=source,
            transfer="adapt",
            transfer_heads=wanted,
            recipe={"seed": 9},
        )
        kept = [torch.equal(first.weights[n], theirs[n]) for n in heads if n.endswith("weight")]
        assert heads and set(kept) == {wanted == "auto"}


# ---------------------------------------------------------------- the comparison


def test_from_scratch(tiny: TinyTraining) -> None:
    path = tiny.pretrained()
    theirs = weights_in(path)
    path.unlink()
    first = run(tiny, from_scratch=True)
    assert not torch.equal(first.weights[STEM], theirs[STEM])
    assert first.rates[0] == pytest.approx(1e-2)
    own = folder(tiny, f"{PRETRAINED_PLANS}__from_scratch")
    assert (own / "checkpoint_final.pth").is_file() and not folder(tiny).exists()
    plans = json.loads((own.parent / "plans.json").read_text())
    assert plans["plans_name"] == f"{PRETRAINED_PLANS}__from_scratch"
    assert plans["pretrain_info"]["checkpoint_path"] is None
    assert not (own / "transfer_report.json").exists()


def test_from_scratch_with_another_checkpoint_or_rate(tiny: TinyTraining) -> None:
    path = tiny.pretrained()
    assert run(tiny, from_scratch=True, checkpoint_path=path).rates[0] == pytest.approx(1e-2)
    assert run(tiny, from_scratch=True, lr=0.5).rates[0] == pytest.approx(0.5)
    more = run(tiny, from_scratch=True, continue_training=True, epochs=2, recipe={"schedule": "constant"})
    assert 0.2 < more.rates[0] < 0.5  # of the recorded rate


def test_sawtooth_has_one_rate() -> None:
    recipe = RECIPES["PretrainedTrainer_sawtooth"]
    assert recipe.from_scratch().initial_lr == recipe.initial_lr == 1e-3


# ---------------------------------------------------------------- the file is needed once


def test_the_file_is_not_needed_later(tiny: TinyTraining) -> None:
    path = tiny.pretrained()
    run(tiny)
    shutil.rmtree(path.parent)
    before = checkpoint(folder(tiny)).network_weights
    run(tiny, validation_only=True)
    first = run(tiny, continue_training=True, epochs=2)
    assert all(torch.equal(before[n], first.weights[n]) for n in before)
    run(tiny, continue_training=True, reset_optimizer=True)
    assert "transfer_report.json" in {p.name for p in folder(tiny).iterdir()}


def test_what_was_read_is_not_kept_in_memory(tiny: TinyTraining) -> None:
    """Neither the file's tensors nor the functions that make new values from them."""

    class Looking(First):
        alive: ClassVar[list[TransferPlan]]

        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            gc.collect()
            self.alive.extend(o for o in gc.get_objects() if type(o) in (TransferPlan, PretrainedSource))
            return super().train_step(data, targets)

    tiny.pretrained()
    looking = type("Looking", (Looking,), {"weights": {}, "rates": [], "alive": []})
    options: dict[str, Any] = {"trainer": TRAINER, "plans_name": PRETRAINED_PLANS, "of_plans": True}
    tiny.run("3d_fullres", 0, trainer_class=looking, recipe=SHORT, **options)
    assert looking.rates and looking.alive == []


def test_options_change_the_recorded_recipe(tiny: TinyTraining) -> None:
    """The trainer's own warm-up would not fit into so few epochs."""
    tiny.pretrained()
    run(tiny, recipe={"warmup_epochs": 50, "num_epochs": 60}, epochs=1, warmup_epochs=1)
    run(tiny, recipe={"warmup_epochs": 50, "num_epochs": 60}, epochs=2, continue_training=True)
    assert checkpoint(folder(tiny)).current_epoch == 2
    assert recorded_recipe(folder(tiny)).warmup_epochs == 1


def test_continuing_before_there_is_a_checkpoint(tiny: TinyTraining, caplog: pytest.LogCaptureFixture) -> None:
    """It begins with the pre-trained weights, not with random ones."""
    theirs = weights_in(tiny.pretrained())
    with caplog.at_level(logging.WARNING):
        first = run(tiny, continue_training=True)
    assert torch.equal(first.weights[STEM], theirs[STEM])
    assert "a new training is started from the pre-trained weights" in caplog.text


def test_the_file_is_gone(tiny: TinyTraining) -> None:
    path = tiny.pretrained()
    path.unlink()
    for options in ({}, {"continue_training": True}):
        with pytest.raises(CheckpointError, match="is not where it was") as caught:
            run(tiny, **options)
        assert str(path) in str(caught.value) and "-overwrite_ckpt_path" in (caught.value.remedy or "")
    assert not folder(tiny).exists()


def test_the_file_was_moved(tiny: TinyTraining, tmp_path: Path) -> None:
    path = tiny.pretrained()
    theirs = weights_in(path)
    moved = path.rename(tmp_path / "other.pth")
    first = run(tiny, checkpoint_path=moved)
    assert torch.equal(first.weights[STEM], theirs[STEM])
    plans = json.loads((folder(tiny).parent / "plans.json").read_text())
    assert plans["pretrain_info"]["checkpoint_path"] == str(moved)


def test_the_file_was_moved_to_the_downloaded_ones(tiny: TinyTraining, tmp_path: Path) -> None:
    path = tiny.pretrained()
    theirs, digest = weights_in(path), sha256_of(path)
    tiny.pretrained(checkpoint_sha256=digest)
    models = tmp_path / "models"
    (models / "owner_repo").mkdir(parents=True)
    torch.save({"other": torch.zeros(1)}, models / "owner_repo" / "another.pth")
    path.rename(models / "owner_repo" / "renamed.pth")
    first = run(tiny, settings={"pretrained_models": models})
    assert torch.equal(first.weights[STEM], theirs[STEM])


# ---------------------------------------------------------------- what cannot be


def refused(tiny: TinyTraining, **options: Any) -> NnunetError:
    with pytest.raises(NnunetError) as caught:
        run(tiny, **options)
    assert not list(folder(tiny).glob("*.pth"))
    return caught.value


@pytest.mark.parametrize("of_plans", [True, False])
def test_plans_without_a_pretraining(tiny: TinyTraining, of_plans: bool) -> None:
    error = refused(tiny, plans_name="nnUNetPlans", of_plans=of_plans)
    assert isinstance(error, PlansError) and "pretrain_info" in str(error.found)
    assert "nnUNetv2_preprocess_like_nnssl -d 7" in (error.remedy or "")
    assert "-pretrained_weights" in (error.remedy or "")


def test_plans_of_another_dataset(tiny: TinyTraining) -> None:
    tiny.pretrained()
    file = tiny.dataset.preprocessed / f"{PRETRAINED_PLANS}.json"
    plans = json.loads(file.read_text())
    file.write_text(json.dumps({**plans, "dataset_name": "Dataset015_BraTS"}))
    error = refused(tiny)
    assert isinstance(error, PlansError) and "belongs to another dataset" in str(error)
    assert "Dataset015_BraTS" in str(error.found) and "-d 7 -n Tiny" in (error.remedy or "")


def test_too_little_fits(tiny: TinyTraining) -> None:
    tiny.pretrained()
    entry = tiny.dataset.plans["configurations"]["3d_fullres"]
    file = tiny.dataset.preprocessed / f"{PRETRAINED_PLANS}.json"
    plans = json.loads(file.read_text())
    entry["architecture"] = unet(3, [[1] * 3, [2] * 3, [2] * 3], (9, 11, 13))
    plans["configurations"]["3d_fullres"]["architecture"] = entry["architecture"]
    file.write_text(json.dumps(plans))
    error = refused(tiny)
    assert isinstance(error, CheckpointError) and "at least half" in str(error.expected)
    run(tiny, allow_little_transfer=True)
    assert (folder(tiny) / "checkpoint_final.pth").is_file()


def test_strict_lists_every_difference(tiny: TinyTraining) -> None:
    source = tiny.pretrained(channels=2)
    with pytest.raises(CheckpointError, match="weights of another network") as caught:
        tiny.run(pretrained_weights=source)
    assert "4 x 2 x 3 x 3 x 3" in str(caught.value) and "-transfer" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep_optimizer": True}, "needs -pretrained_weights"),
        ({"validation_only": True, "reset_optimizer": True}, "no effect with --val"),
        (
            {"pretrained_weights": Path("x.pth"), "keep_optimizer": True, "reset_optimizer": True},
            "--keep_optimizer and -reset_optimizer",
        ),
    ],
)
def test_options_that_do_not_go_together(tiny: TinyTraining, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny.request(**options)
    assert text in str(caught.value)


def test_recipes_of_fine_tuning_say_so() -> None:
    """What starts from the plans' weights is told by the recipe, and taken back without them."""
    for name in RECIPES:
        recipe = RECIPES[name]
        assert recipe.pretrained == ("Pretrained" in name)
        assert not recipe.from_scratch().pretrained
        assert replace(recipe.from_scratch(), pretrained=recipe.pretrained, initial_lr=recipe.initial_lr) == recipe
