"""One command from somebody's weights to a fine-tuned model: what it finds out, does, skips, goes on with, refuses."""

from __future__ import annotations

import importlib
import json
import logging
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tiny_training import QUICK, TinyTraining

from nnunet_pt.core.errors import (
    CheckpointError,
    DatasetError,
    NnunetError,
    PlansError,
    TrainingError,
    TrainingStopped,
    UsageError,
)
from nnunet_pt.core.settings import Launch, Settings, Workspace
from nnunet_pt.planning import fingerprint_extractor
from nnunet_pt.training import finetune as finetuning
from nnunet_pt.training import finetune_steps, finetune_ways, run
from nnunet_pt.training.finetune import FinetuneRequest, FinetuneResult, finetune
from nnunet_pt.training.finetune_source import find_weights
from nnunet_pt.training.finetune_steps import training_command
from nnunet_pt.training.recipe_lookup import RecipeSource, find_recipe
from nnunet_pt.training.request import TrainRequest
from nnunet_pt.transfer.checkpoint import read_checkpoint

TARGET = "Dataset008_Target"
MOVED = "nnUNetPlans_from_Dataset007"
HEADS = "seg_layers"


class Finetuning:
    """Fine-tunes on a dataset whose raw images are all there is of it.

    Attributes:
        tiny: The dataset of the pre-training, with plans and preprocessed cases.
        root: Folder of the three folders.
    """

    def __init__(self, tiny: TinyTraining) -> None:
        self.tiny = tiny
        self.root: Path = tiny.dataset.root
        shutil.copytree(tiny.dataset.raw, self.raw)
        shutil.rmtree(self.root / "results")
        (self.root / "results").mkdir()

    @property
    def raw(self) -> Path:
        return self.root / "raw" / TARGET

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / TARGET

    def describe(self, **changes: Any) -> None:
        path = self.raw / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def model(self, fold: int | str = "all", **options: Any) -> Path:
        """Train a model to start from; gives its folder."""
        return self.tiny.run("3d_fullres", fold, **options).output_folder.parent

    def request(self, source: object, *, training: Mapping[str, Any] | None = None, **options: Any) -> FinetuneRequest:
        wanted: dict[str, Any] = {"dataset": 8, "configuration": "", "fold": 0, "trainer": "", "plans_name": ""}
        wanted |= {"device": "cpu", "progress": False, "save_every_minutes": 0.0, "precision": "fp32"}
        return FinetuneRequest(
            source=str(source), training=TrainRequest(**{**wanted, **(training or {})}), num_workers=0, **options
        )

    def run(self, source: object, **options: Any) -> FinetuneResult:
        return finetune(self.request(source, **options), self.tiny.workspace)

    def fold(self, trainer: str = "nnUNetTrainer", plans: str = MOVED, fold: int | str = 0) -> Path:
        return self.root / "results" / TARGET / f"{trainer}__{plans}__3d_fullres" / f"fold_{fold}"

    def everything(self) -> dict[str, int]:
        """When each file was written."""
        files = [p for p in self.root.rglob("*") if p.is_file()]
        return {str(p.relative_to(self.root)): p.stat().st_mtime_ns for p in files}


@pytest.fixture
def ft(tiny: TinyTraining, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finetuning]:
    """Fine-tuning with one epoch of two iterations."""

    def quick(name: str, settings: Settings | None = None) -> RecipeSource:
        found = find_recipe(name, settings)
        return replace(found, recipe=replace(found.recipe, warmup_epochs=0, head_epochs=0, **QUICK))

    for module in (finetuning, finetune_steps, run):
        monkeypatch.setattr(module, "find_recipe", quick)
    monkeypatch.setattr(fingerprint_extractor, "NUM_SAMPLES", 3000)
    with mock.patch("nnunet_pt.training.plots.draw_progress", lambda *_: None):
        yield Finetuning(tiny)


def names(commands: tuple[str, ...]) -> list[str]:
    return [line.split()[0].removeprefix("nnUNetv2_") for line in commands]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).network_weights)


def report(fold: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((fold / "transfer_report.json").read_text())
    return read


# models of nnU-Net


def test_from_a_model_to_another_dataset(ft: Finetuning) -> None:
    model = ft.model()
    result = ft.run(model)
    assert result.commands == (
        "nnUNetv2_extract_fingerprint -d 8 -np 0",
        f"nnUNetv2_move_plans_between_datasets -s {model}/fold_all/checkpoint_final.pth -t 8 -tp {MOVED} --fit",
        f"nnUNetv2_preprocess -d 8 -plans_name {MOVED} -c 3d_fullres -np 0",
        f"nnUNetv2_train 8 3d_fullres 0 -p {MOVED} -pretrained_weights {model}/fold_all/checkpoint_final.pth "
        "-device cpu -precision fp32 -save_every_minutes 0.0 --no_pbar",
    )
    assert result.done_before == ()
    assert result.folder == ft.fold() and (ft.fold() / "checkpoint_final.pth").is_file()
    assert result.training is not None and result.training.validation is not None
    account = report(ft.fold())
    assert account["policy"] == "strict"
    assert {t["action"] for t in account["tensors"] if t["part"] != "heads"} == {"copied"}
    assert not (ft.preprocessed / "nnUNetPlans.json").exists()


def test_the_same_again_does_nothing(ft: Finetuning, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ft.model()
    first = ft.run(model)
    before = ft.everything()
    monkeypatch.setattr(finetuning, "train", lambda *_: pytest.fail("trained again"))
    second = ft.run(model)
    assert second.commands == first.commands
    assert names(second.done_before) == ["extract_fingerprint", "move_plans_between_datasets", "train"]
    assert second.training is None and "finished before" in second.summary()
    assert {name for name, time in ft.everything().items() if before.get(name) != time} <= {
        name for name in before if name.endswith(".manifest.jsonl")
    }


class Killed(BaseException):
    """Stands for SIGKILL."""


STEPS = ("extract_fingerprint", "move_plans", "preprocess_dataset", "train")


@pytest.mark.parametrize("last", STEPS)
def test_going_on_after_having_been_killed(ft: Finetuning, last: str) -> None:
    model = ft.model()
    module = finetuning if last == "train" else finetune_ways

    def killed(*_: Any) -> None:
        raise Killed

    with mock.patch.object(module, last, killed), pytest.raises(Killed):
        ft.run(model)
    result = ft.run(model)
    order = ["extract_fingerprint", "move_plans_between_datasets", "preprocess", "train"]
    assert names(result.commands) == order
    assert names(result.done_before) == [n for n in order[: STEPS.index(last)] if n != "preprocess"]
    assert (ft.fold() / "checkpoint_final.pth").is_file()


def test_a_started_training_is_continued(ft: Finetuning) -> None:
    model = ft.model()
    ft.run(model)
    fold = ft.fold()
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    result = ft.run(model)
    assert result.commands[-1].endswith("--c --no_pbar") and "-pretrained_weights" not in result.commands[-1]
    assert (fold / "checkpoint_final.pth").is_file()
    assert not list(fold.glob("replaced_*"))


def test_a_finished_training_is_made_longer(ft: Finetuning) -> None:
    model = ft.model()
    ft.run(model, training={"epochs": 1})
    assert ft.run(model, training={"epochs": 1}).training is None
    longer = ft.run(model, training={"epochs": 2}).training
    assert longer is not None and longer.epochs == 2


def test_a_signal_says_how_to_go_on(ft: Finetuning, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise TrainingStopped("SIGTERM stopped the training.", exit_status=143)

    model = ft.model()
    monkeypatch.setattr(finetuning, "train", stopped)
    with pytest.raises(TrainingStopped, match="run the same command again") as caught:
        ft.run(model)
    assert caught.value.exit_status == 143


def test_other_channels_are_adapted_by_name(ft: Finetuning) -> None:
    model = ft.model()
    for image in sorted((ft.raw / "imagesTr").glob("*_0000.nii.gz")):
        shutil.copy(image, image.with_name(image.name.replace("_0000", "_0001")))
    ft.describe(channel_names={"0": "CT", "1": "mr"})
    result = ft.run(model)
    assert "-transfer adapt" in result.commands[-1]
    plans = json.loads((ft.preprocessed / f"{MOVED}.json").read_text())
    entry = plans["configurations"]["3d_fullres"]
    assert entry["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]
    theirs = ft.tiny.dataset.plans["foreground_intensity_properties_per_channel"]["0"]
    statistics = plans["foreground_intensity_properties_per_channel"]
    assert statistics["1"] == theirs and statistics["0"] != theirs
    adapted = [t for t in report(ft.fold())["tensors"] if t["action"] == "adapted" and t["part"] != "heads"]
    assert [t["target_shape"][1] for t in adapted] == [2]


def test_data_of_the_own_plans_are_used_where_they_are_the_same(ft: Finetuning) -> None:
    model = ft.model()
    shutil.copytree(ft.tiny.dataset.preprocessed, ft.preprocessed)
    shutil.rmtree(ft.preprocessed / "nnUNetPlans_2d")
    plans = {**ft.tiny.dataset.plans, "dataset_name": TARGET}
    (ft.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    ft.run(model)
    moved = json.loads((ft.preprocessed / f"{MOVED}.json").read_text())["configurations"]
    assert moved["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert not (ft.preprocessed / f"{MOVED}_3d_fullres").exists()


def test_edited_plans_are_kept(ft: Finetuning) -> None:
    model = ft.model()
    with mock.patch.object(finetuning, "train", lambda *_: None):
        ft.run(model)
        path = ft.preprocessed / f"{MOVED}.json"
        plans = json.loads(path.read_text())
        plans["configurations"]["3d_fullres"]["batch_size"] = 3
        path.write_text(json.dumps(plans))
        ft.run(model)
    assert json.loads(path.read_text()) == plans


def test_plans_of_another_network_are_not_used(ft: Finetuning) -> None:
    model = ft.model()
    with mock.patch.object(finetuning, "train", lambda *_: None):
        ft.run(model)
        path = ft.preprocessed / f"{MOVED}.json"
        plans = json.loads(path.read_text())
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 10]
        path.write_text(json.dumps(plans))
        with pytest.raises(UsageError, match=r"another network(.|\n)*-n"):
            ft.run(model)
        assert "-tp nnUNetPlans_from_Mine" in ft.run(model, name="Mine").commands[1]


def test_other_weights_for_a_trained_fold(ft: Finetuning) -> None:
    model = ft.model()
    ft.run(model)
    other = ft.model(0)
    with pytest.raises(UsageError, match=r"did not begin with these weights(.|\n)*fold_all(.|\n)*-n"):
        ft.run(other / "fold_0")
    (ft.fold() / "transfer_report.json").unlink()
    with pytest.raises(UsageError, match=r"no transfer_report\.json"):
        ft.run(model)


@pytest.mark.parametrize("given", ["", "fold_0", "fold_0/checkpoint_final.pth"])
def test_forms_of_giving_a_model(ft: Finetuning, given: str) -> None:
    model = ft.model(0)
    found = find_weights(str(model / given), ft.tiny.workspace.settings)
    assert found.path == model / "fold_0" / "checkpoint_final.pth"
    assert (found.kind, found.configuration, found.default_name) == ("nnunet", "3d_fullres", "Dataset007")


def test_the_fold_with_all_cases_is_preferred(ft: Finetuning, caplog: pytest.LogCaptureFixture) -> None:
    model = ft.model(0)
    shutil.copytree(model / "fold_0", model / "fold_1")
    with caplog.at_level(logging.INFO, logger="nnunet_pt"):
        assert find_weights(str(model), Settings()).path.parent.name == "fold_0"
    assert "has the folds 0, 1; fold_0 is taken" in caplog.text
    shutil.copytree(model / "fold_0", model / "fold_all")
    assert find_weights(str(model), Settings()).path.parent.name == "fold_all"


def test_plans_beside_bare_weights(ft: Finetuning) -> None:
    model = ft.model(0)
    path = model / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": weights(path)}, path)
    found = find_weights(str(model), Settings())
    assert found.plans is not None and found.plans.channel_names == ("MR",)
    assert found.configuration == "3d_fullres"


def test_another_configuration_needs_adaptation(ft: Finetuning) -> None:
    model = ft.model()
    with pytest.raises(UsageError, match=r"trained for the configuration 3d_fullres(.|\n)*-transfer adapt"):
        ft.run(model, training={"configuration": "2d"})
    result = ft.run(model, training={"configuration": "2d", "transfer": "adapt"})
    assert result.folder.parent.name == f"nnUNetTrainer__{MOVED}__2d"


def test_networks_of_trainers_go_on_with_their_trainer(ft: Finetuning) -> None:
    model = ft.model(trainer="nnUNetTrainerBN")
    assert ft.run(model).folder == ft.fold("nnUNetTrainerBN")


PRIMUS = {
    "network_class_name": "PrimusX",
    "arch_kwargs": {
        "embed_dim": 36,
        "patch_embed_size": [8, 8, 8],
        "encoder_eva_depth": 1,
        "encoder_eva_numheads": 2,
        "init_values": 0.1,
        "scale_attn_inner": True,
    },
    "_kw_requires_import": None,
}


def test_transformers_for_other_labels(ft: Finetuning) -> None:
    dataset = ft.tiny.dataset
    entry = dataset.plans["configurations"]["3d_fullres"]
    dataset.plans["configurations"]["3d_fullres"] = {**entry, "architecture": PRIMUS, "patch_size": [8, 16, 16]}
    dataset.plan()
    dataset.preprocess()
    model = ft.model(trainer="PretrainedTrainer_Primus", recipe={"pretrained": False, "warmup_epochs": 0})
    ft.describe(labels={"background": 0, "whole": [1, 2]}, regions_class_order=[1])
    result = ft.run(model)
    assert result.folder == ft.fold("PretrainedTrainer_Primus")
    assert "-transfer adapt" in result.commands[-1]
    assert report(result.folder)["encoder_share"] == 1


def test_weights_that_do_not_fit_are_refused_before_preprocessing(ft: Finetuning) -> None:
    model = ft.model()
    with mock.patch.object(finetune_ways, "preprocess_dataset", lambda *_: pytest.fail("preprocessed")):
        for _ in range(2):
            with pytest.raises(CheckpointError, match="weights of another network"):
                ft.run(model, training={"trainer": "nnUNetTrainerBN"})
        with pytest.raises(UsageError, match="No layer matches"):
            ft.run(model, name="Other", training={"transfer": "match", "transfer_layers": ("encoder.stage",)})


def test_values_that_do_not_go_together_are_refused_first(ft: Finetuning) -> None:
    path = ft.tiny.pretrained()
    with pytest.raises(TrainingError, match="warm-up"):
        ft.run(path, training={"epochs": 2, "warmup_epochs": 3})
    assert not ft.preprocessed.exists()


# checkpoints of nnssl


def test_from_a_checkpoint_of_nnssl(ft: Finetuning, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ft.tiny.pretrained()
    result = ft.run(path)
    assert names(result.commands) == ["plan_and_preprocess", "preprocess_like_nnssl", "train_pretrained"]
    name = find_weights(str(path), Settings()).default_name
    plans = f"ptPlans__{name}____Spacing__1.00_1.00_1.00___Norm__Z"
    assert name.startswith("pretraining-")
    assert f"-n {name} -pc {path} -am like_pretrained" in result.commands[1]
    assert result.commands[2].startswith(f"nnUNetv2_train_pretrained 8 3d_fullres 0 -p {plans} -device")
    assert result.folder == ft.fold("PretrainedTrainer", plans)
    assert report(result.folder)["encoder_share"] == 1
    before = ft.everything()
    monkeypatch.setattr(finetuning, "train", lambda *_: pytest.fail("trained again"))
    again = ft.run(path)
    assert names(again.done_before) == ["plan_and_preprocess", "train_pretrained"]
    changed = {name for name, time in ft.everything().items() if before.get(name) != time}
    assert changed <= {n for n in before if n.endswith((".manifest.jsonl", f"{plans}.json"))}


@pytest.mark.parametrize("last", ["plan_experiment", "preprocess_like_nnssl", "train"])
def test_going_on_with_nnssl_after_having_been_killed(ft: Finetuning, last: str) -> None:
    path = ft.tiny.pretrained()
    module = finetuning if last == "train" else finetune_ways

    def killed(*_: Any) -> None:
        raise Killed

    with mock.patch.object(module, last, killed), pytest.raises(Killed):
        ft.run(path)
    result = ft.run(path, name=None)
    assert names(result.done_before) == ([] if last == "plan_experiment" else ["plan_and_preprocess"])
    assert (result.folder / "checkpoint_final.pth").is_file()


def test_options_of_the_pretraining_reach_their_command(ft: Finetuning) -> None:
    path = ft.tiny.pretrained()
    with mock.patch.object(finetuning, "train", lambda *_: None):
        result = ft.run(
            path, name="MAE", mode="fixed", override_spacing=(1.0, 1.5, 2.0), normalization="default_nnunet"
        )
    assert "-n MAE" in result.commands[1]
    assert result.commands[1].endswith("-am fixed -os 1 1.5 2 -norm default_nnunet -np 0")
    assert "ptPlans__MAE____Spacing__1.00_1.50_2.00___Norm__Z" in result.commands[2]


def test_the_own_network_takes_what_fits_of_nnssl(ft: Finetuning) -> None:
    path = ft.tiny.pretrained()
    shutil.copytree(ft.tiny.dataset.preprocessed, ft.preprocessed)
    plans = {**ft.tiny.dataset.plans, "dataset_name": TARGET}
    (ft.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    result = ft.run(path, name="MAE", training={"plans_name": "nnUNetPlans"})
    assert names(result.commands) == ["plan_like_dynamic", "train_pretrained"]
    assert result.folder == ft.fold("DynamicPretrainedTrainer", "ptPlans_dynamic__MAE")


def test_two_dimensions_and_nnssl(ft: Finetuning) -> None:
    with pytest.raises(UsageError, match="three-dimensional"):
        ft.run(ft.tiny.pretrained(), training={"configuration": "2d"})


# weights alone


def test_bare_weights_need_plans(ft: Finetuning, tmp_path: Path) -> None:
    model = ft.model()
    bare = tmp_path / "bare.pth"
    torch.save(weights(model / "fold_all" / "checkpoint_final.pth"), bare)
    with pytest.raises(UsageError, match=r"neither plans of nnU-Net nor an adaptation(.|\n)*plan_and_preprocess -d 8"):
        ft.run(bare)
    with pytest.raises(PlansError, match=r"no plans nnUNetPlans(.|\n)*plan_and_preprocess -d 8"):
        ft.run(bare, training={"plans_name": "nnUNetPlans"})
    shutil.copytree(ft.tiny.dataset.preprocessed, ft.preprocessed)
    plans = {**ft.tiny.dataset.plans, "dataset_name": TARGET}
    (ft.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(UsageError, match="-p nnUNetPlans"):
        ft.run(bare)
    result = ft.run(bare, training={"plans_name": "nnUNetPlans"})
    assert names(result.commands) == ["inspect_weights", "preprocess", "train"]
    assert report(result.folder)["policy"] == "match"
    assert "-transfer match" in result.commands[2]


def test_weights_that_fit_badly_are_refused_before_preprocessing(ft: Finetuning, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pth"
    torch.save({"one.weight": torch.zeros(3, 3), "two.weight": torch.zeros(5)}, bare)
    ft.preprocessed.mkdir()
    (ft.preprocessed / "nnUNetPlans.json").write_text(json.dumps(ft.tiny.dataset.plans))
    shutil.copy(ft.raw / "dataset.json", ft.preprocessed)
    with pytest.raises(CheckpointError, match=r"fits this network badly(.|\n)*--allow_little_transfer"):
        ft.run(bare, training={"plans_name": "nnUNetPlans"})
    assert sorted(p.name for p in ft.preprocessed.iterdir()) == ["dataset.json", "nnUNetPlans.json"]


# what is refused


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nowhere/checkpoint_final.pth", "There is no checkpoint"),
        ("raw", "a folder without"),
        ("results", "There is no checkpoint"),
        ("raw/Dataset007_Small/dataset.json", "dataset.json"),
    ],
)
def test_what_is_no_checkpoint(ft: Finetuning, source: str, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        ft.run(ft.root / source)


def test_a_folder_of_models(ft: Finetuning) -> None:
    model = ft.model()
    with pytest.raises(CheckpointError, match=r"is no model(.|\n)*nnUNetTrainer__nnUNetPlans__3d_fullres"):
        ft.run(model.parent)


def test_unknown_dataset_and_trainer(ft: Finetuning) -> None:
    with pytest.raises(DatasetError, match="number 9"):
        ft.run("nowhere.pth", training={"dataset": 9})
    with pytest.raises(NnunetError, match="PretrainedTrainer_150ep"):
        ft.run("nowhere.pth", training={"trainer": "PretrainedTrainer_15ep"})


def test_a_checkpoint_of_nnssl_without_its_plan(ft: Finetuning) -> None:
    path = ft.tiny.pretrained()
    content = torch.load(path, weights_only=True)
    del content["nnssl_adaptation_plan"]
    torch.save({**content, "spark_weights": {}}, path)
    with pytest.raises(UsageError, match=r"adaptation_plan\.json beside it"):
        ft.run(path)


def test_a_network_that_is_not_known_is_refused_first(ft: Finetuning) -> None:
    path = ft.tiny.pretrained()
    content = torch.load(path, weights_only=True)
    content["nnssl_adaptation_plan"]["architecture_plans"]["arch_class_name"] = "SwinUNETR"
    torch.save(content, path)
    with pytest.raises(NnunetError, match="'SwinUNETR'") as caught:
        ft.run(path)
    assert "PrimusM" in str(caught.value) and not ft.preprocessed.exists()


def test_no_internet(ft: Finetuning, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    workspace = Workspace(replace(ft.tiny.workspace.settings, pretrained_models=tmp_path / "models"))
    with pytest.raises(CheckpointError, match=r"could not be downloaded(.|\n)*connection"):
        finetune(ft.request("https://huggingface.co/Somebody/Something"), workspace)
    with pytest.raises(UsageError, match="not the address of a checkpoint"):
        finetune(ft.request("https://example.org/checkpoint_final.pth"), workspace)


def test_one_of_several_processes(ft: Finetuning) -> None:
    launch = Launch(rank=0, world_size=2, local_rank=0, local_size=2, address="x", port=1, launcher="torchrun")
    with pytest.raises(UsageError, match="one process"):
        finetune(ft.request("x"), Workspace(replace(ft.tiny.workspace.settings, launch=launch)))


# what is shown


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze": ("encoder.stages.0-1", "decoder"), "freeze_epochs": 3, "lr_factors": ("encoder=0.1",)},
        {"of_plans": True, "trainer": "PretrainedTrainer"},
        {"of_plans": True, "trainer": "nnUNetTrainer", "transfer_layers": ("encoder",), "fix_token_axes": True},
        {"trainer": "nnUNetTrainerBN", "transfer": "adapt", "transfer_heads": "none", "epochs": 5, "lr": 1e-4},
        {"num_processes": 2, "save_probabilities": True, "seed": 3, "deterministic": True, "progress": False},
        {"continue_training": True, "save_every_minutes": 2.5, "tensorboard": True, "augment_on": "gpu"},
    ],
)
def test_the_command_shown_asks_for_what_is_done(options: dict[str, Any]) -> None:
    wanted = TrainRequest(dataset=8, configuration="3d_fullres", fold="all", **{"plans_name": "somePlans", **options})
    program, *arguments = shlex.split(shlex.join(training_command(wanted)))
    module = importlib.import_module(f"nnunet_pt.cli.{program.removeprefix('nnUNetv2_')}")
    assert module.request(module.build_parser().parse_args(arguments)) == wanted
    assert options or arguments == ["8", "3d_fullres", "all", "-p", "somePlans"]


def test_moved_plans_are_those_of_the_command_shown(ft: Finetuning, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_pt.cli import move_plans_between_datasets as command

    model = ft.model()
    with mock.patch.object(finetuning, "train", lambda *_: None):
        shown = ft.run(model).commands[1]
    path = ft.preprocessed / f"{MOVED}.json"
    made = path.read_bytes()
    path.unlink()
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(ft.root / folder))
    assert command.main(shlex.split(shown)[1:]) == 0
    assert path.read_bytes() == made
