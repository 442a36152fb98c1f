"""Loading trained models from their folders."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_pt.core.errors import CheckpointError, DatasetError, NnunetError, PlansError, PredictionError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.model import TrainedModel, available_folds, load_model
from nnunet_pt.inference.orientation import ORIENTATION_FILE, record_orientation
from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.trainer_networks import TrainerNetwork, network_of_trainer
from nnunet_pt.plans.plans import Plans
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
FINAL = "checkpoint_final.pth"
BN = "nnUNetTrainerBN"


def unet(name: str = "PlainConvUNet", dimensions: int = 3, features: tuple[int, ...] = (4, 6, 8)) -> dict[str, Any]:
    """A small network as plans describe it."""
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": len(features),
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * len(features),
            "strides": [[1] * dimensions, *([[2] * dimensions] * (len(features) - 1))],
            blocks: [1] * len(features),
            "n_conv_per_stage_decoder": [1] * (len(features) - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


PRIMUS_X = {
    "network_class_name": "PrimusX",
    "arch_kwargs": {
        "input_channels": 1, "embed_dim": 36, "patch_embed_size": [8, 8, 8], "output_channels": 1,
        "input_shape": [32, 32, 32], "encoder_eva_depth": 1, "encoder_eva_numheads": 2, "decoder_eva_depth": 0,
        "decoder_eva_numheads": 0, "patch_drop_rate": 0.0, "drop_path_rate": 0.2, "attn_drop_rate": 0.0,
        "init_values": [0.1], "scale_attn_inner": True,
    },
    "_kw_requires_import": [],
}  # fmt: skip


@dataclass
class Folder:
    """A model folder and what is to be in it."""

    path: Path
    plans: dict[str, Any]
    description: dict[str, Any]
    networks: dict[str, torch.nn.Module] = field(default_factory=dict)

    @property
    def network_entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = self.plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        return entries

    def write(self) -> Folder:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "plans.json").write_text(json.dumps(self.plans))
        (self.path / "dataset.json").write_text(json.dumps(self.description))
        return self

    def train(
        self,
        fold: int | str = 0,
        *,
        configuration: str = "3d_fullres",
        trainer: str = "nnUNetTrainer",
        changes: TrainerNetwork | None = None,
        name: str = FINAL,
        recipe: Mapping[str, Any] | None = None,
    ) -> Folder:
        """Write random weights as a training would leave them, with a state of the optimiser."""
        self.write()
        plans = Plans.load(self.path / "plans.json").configuration(configuration)
        description = DatasetDescription.load(self.path / "dataset.json")
        labels = Labels.from_description(description)
        changes = changes or network_of_trainer(trainer)
        cascaded = plans.previous_stage is not None
        torch.manual_seed(len(self.networks))
        network = build_network(
            changes.architecture(plans.architecture),
            input_channels=description.num_channels + cascaded * len(labels.foreground_labels),
            num_outputs=labels.num_segmentation_heads,
            deep_supervision=trainer != "nnUNetTrainerNoDeepSupervision",
            patch_size=changes.patch_size or plans.patch_size,
        )
        self.networks[str(fold)] = network
        mirror_axes = None if "NoMirroring" in trainer else tuple(range(len(plans.patch_size)))
        checkpoint = Checkpoint(
            network_weights=network.state_dict(),
            optimizer_state={"state": {0: torch.zeros(5)}, "param_groups": []},
            init_args={
                "plans": self.plans, "configuration": configuration, "fold": fold, "dataset_json": self.description,
                "device": torch.device("cpu"),
            },
            trainer_name=trainer,
            mirroring_axes=mirror_axes,
            extra={"nnunet_pt": {"format": 1, "recipe": dict(recipe)}} if recipe is not None else {},
        )  # fmt: skip
        write_checkpoint(self.path / f"fold_{fold}" / name, checkpoint)
        return self

    def load(self, **options: Any) -> TrainedModel:
        return load_model(self.path, **options)

    def change(self, fold: int | str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the content of a checkpoint."""
        path = self.path / f"fold_{fold}" / FINAL
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)


@pytest.fixture
def model(small: Any) -> Folder:
    """A folder with a small network in its plans, not written yet."""
    plans, description = copy.deepcopy(small.plans), copy.deepcopy(small.description)
    plans["configurations"]["3d_fullres"]["architecture"] = unet()
    plans["configurations"]["2d"]["architecture"] = unet(dimensions=2)
    return Folder(small.root / "results" / "any_name", plans, description)


def logits(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result = network.eval()(image)
    return result[0] if isinstance(result, list) else result


def same_network(model: TrainedModel, network: torch.nn.Module) -> bool:
    """Whether a network gives the logits that the model gives."""
    image = torch.randn(1, model.input_channels, *model.configuration.patch_size)
    made = logits(model.network, image)
    assert made.shape == (1, model.labels.num_segmentation_heads, *model.configuration.patch_size)
    return torch.equal(made, logits(network, image))


def test_a_model(model: Folder) -> None:
    loaded = model.train().load()
    assert loaded.folder == model.path
    assert loaded.configuration.name == "3d_fullres"
    assert loaded.trainer_name == "nnUNetTrainer"
    assert loaded.mirror_axes == (0, 1, 2)
    assert loaded.folds == ("0",)
    assert loaded.checkpoints == (model.path / "fold_0" / FINAL,)
    assert loaded.dataset_json == model.description
    assert loaded.labels.num_segmentation_heads == 3
    assert (loaded.input_channels, loaded.is_cascaded, loaded.orientation) == (1, False, None)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert same_network(loaded, model.networks["0"])


@pytest.mark.parametrize(
    ("trainer", "architecture"),
    [
        ("nnUNetTrainer_250epochs_NoMirroring", unet()),
        ("nnUNetTrainerNoDeepSupervision", unet()),
        (BN, unet()),
        ("nnUNetTrainerAdam3en4", unet("ResidualEncoderUNet")),
        ("PretrainedTrainer", unet("ResidualEncoderUNet")),
        ("PretrainedTrainer_sawtooth_150ep", unet("ResidualEncoderUNet")),
        ("DynamicPretrainedTrainer_adam_150ep_nomirroring", unet()),
        ("PretrainedTrainer_Primusx_150ep", PRIMUS_X),
        ("PretrainedTrainer_Primusx_150ep_small_debug", PRIMUS_X),
        ("MyTrainerFromSomewhere", unet("ResidualEncoderUNet")),
    ],
)
def test_models_of_all_trainers(model: Folder, trainer: str, architecture: dict[str, Any]) -> None:
    model.plans["configurations"]["3d_fullres"]["architecture"] = architecture
    loaded = model.train(trainer=trainer).load()
    assert loaded.trainer_name == trainer
    assert loaded.mirror_axes == (() if "NoMirroring" in trainer else (0, 1, 2))
    assert loaded.configuration.patch_size == ((48,) * 3 if "small_debug" in trainer else (8, 8, 8))
    assert same_network(loaded, model.networks["0"])


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["nnUNet_Primus_S_Trainer", "nnUNet_PrimusV2S_Trainer", "nnUNet_PrimusV3S_Trainer"])
def test_primus_models(model: Folder, trainer: str) -> None:
    model.plans["configurations"]["3d_fullres"]["patch_size"] = [16, 8, 16]
    assert same_network(model.train(trainer=trainer).load(), model.networks["0"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResEncL", "PrimusS"])
def test_networks_that_plans_only_name(model: Folder, name: str) -> None:
    """As plans for pre-trained networks do, with null for the arguments."""
    entry = model.plans["configurations"]["3d_fullres"]
    entry["architecture"] = {"network_class_name": name, "arch_kwargs": None, "_kw_requires_import": None}
    entry["patch_size"] = [64, 32, 32]
    assert same_network(model.train(trainer="PretrainedTrainer").load(), model.networks["0"])


def test_patch_size_of_a_trainer(model: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    model.plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    model.train(trainer="_Primus_L_48_BS1", changes=TrainerNetwork(patch_size=(16, 16, 16)))
    monkeypatch.setattr(
        "nnunet_pt.inference.model.network_of_trainer", lambda _: TrainerNetwork(patch_size=(16, 16, 16))
    )  # that trainer's network is large
    loaded = model.load()
    assert loaded.configuration.patch_size == (16, 16, 16)
    assert loaded.plans.configuration("3d_fullres").patch_size == (32, 32, 32)


def test_own_recipes(model: Folder) -> None:
    """What a recipe says counts more than the trainer's name."""
    recipe = {"name": "mine", "batch_norm": True, "network": None, "patch_size": [16, 8, 8]}
    changes = TrainerNetwork(batch_norm=True, patch_size=(16, 8, 8))
    loaded = model.train(trainer="mine", changes=changes, recipe=recipe).load()
    assert loaded.configuration.patch_size == (16, 8, 8)
    assert "BatchNorm3d" in loaded.configuration.architecture.arch_kwargs["norm_op"]
    assert same_network(loaded, model.networks["0"])
    plain = {"name": BN, "batch_norm": False, "network": None, "patch_size": None}
    model.train(trainer=BN, changes=TrainerNetwork(), recipe=plain)
    assert same_network(model.load(), model.networks["0"])


def test_recipes_that_name_a_network(model: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"name": "mine", "batch_norm": False, "network": "PrimusS", "patch_size": [8, 8, 8]}
    model.train(trainer="mine", recipe=recipe)
    asked = []
    monkeypatch.setattr(TrainerNetwork, "architecture", lambda self, planned: asked.append(self) or planned)
    assert same_network(model.load(), model.networks["0"])
    assert asked == [TrainerNetwork(network="PrimusS", patch_size=(8, 8, 8))]


def test_batch_norm_is_seen_in_the_weights(model: Folder) -> None:
    loaded = model.train(trainer="MyBatchNormTrainer", changes=TrainerNetwork(batch_norm=True)).load()
    assert same_network(loaded, model.networks["0"])
    model.network_entries.update(norm_op="torch.nn.modules.batchnorm.BatchNorm3d", norm_op_kwargs={"eps": 0.1})
    loaded = model.train(trainer="nnUNetTrainer").load()
    assert loaded.configuration.architecture.arch_kwargs["norm_op_kwargs"] == {"eps": 0.1}
    assert same_network(loaded, model.networks["0"])


def test_2d_and_older_plans(model: Folder) -> None:
    entry = model.plans["configurations"]["2d"]
    del entry["architecture"]
    entry.update(
        UNet_class_name="PlainConvUNet", UNet_base_num_features=4, unet_max_num_features=8,
        conv_kernel_sizes=[[3, 3]] * 3, pool_op_kernel_sizes=[[1, 1], [2, 2], [2, 2]], num_pool_per_axis=[2, 2],
        n_conv_per_stage_encoder=[1, 1, 1], n_conv_per_stage_decoder=[1, 1],
    )  # fmt: skip
    loaded = model.train(configuration="2d").load()
    assert loaded.configuration.patch_size == (8, 8)
    assert same_network(loaded, model.networks["0"])


def test_cascade_and_regions(model: Folder) -> None:
    model.plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    loaded = model.train(configuration="3d_cascade_fullres").load()
    assert (loaded.is_cascaded, loaded.input_channels) == (True, 3)
    assert same_network(loaded, model.networks["0"])
    model.description.update(labels={"background": 0, "all": [1, 2], "b": 2}, regions_class_order=[1, 2])
    assert model.train(configuration="3d_cascade_fullres").load().labels.num_segmentation_heads == 2


def test_the_name_of_the_folder_does_not_matter(model: Folder) -> None:
    model.train(configuration="2d", trainer="nnUNetTrainerDA5")
    renamed = model.path.rename(model.path.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres"))
    loaded = load_model(renamed)
    assert (loaded.configuration.name, loaded.trainer_name) == ("2d", "nnUNetTrainerDA5")


def test_folds(model: Folder) -> None:
    for fold in (10, 2, 0, "all"):
        model.train(fold)
    model.train(3, name="checkpoint_best.pth")
    for name in ("fold_07", "fold_x", "fold_4"):
        (model.path / name).mkdir()
    assert available_folds(model.path, FINAL) == ("0", "2", "10", "all")
    assert available_folds(model.path, "checkpoint_best.pth") == ("3",)
    assert model.load().folds == ("0", "2", "10")
    assert model.load(folds=["all"]).folds == ("all",)
    assert model.load(folds=("2", 0, 2)).folds == ("2", "0")
    assert model.load(checkpoint_name="checkpoint_best.pth").folds == ("3",)
    assert same_network(model.load(folds=("2", 0)), model.networks["2"])
    for fold in (0, 2, 10):
        shutil.rmtree(model.path / f"fold_{fold}")
    assert model.load().folds == ("all",)


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", BN])
def test_use_fold(model: Folder, trainer: str) -> None:
    for fold in range(3):
        model.train(fold, trainer=trainer)
    loaded = model.load()
    before = [{name: tensor.clone() for name, tensor in weights.items()} for weights in loaded.fold_weights]
    for index in (0, 2, 1, 1, 0):
        loaded.use_fold(index)
        assert same_network(loaded, model.networks[str(index)])
    for weights, was in zip(loaded.fold_weights, before, strict=True):
        assert all(torch.equal(weights[name], was[name]) for name in was)
    with pytest.raises(IndexError):
        loaded.use_fold(3)


def test_use_fold_keeps_place_and_type(model: Folder) -> None:
    loaded = model.train(0).train(1).load()
    loaded.network.to(torch.bfloat16)
    places = {p.data_ptr() for p in loaded.network.parameters()}
    loaded.use_fold(1)
    assert {p.data_ptr() for p in loaded.network.parameters()} == places
    assert {p.dtype for p in loaded.network.parameters()} == {torch.bfloat16}
    expected = model.networks["1"].to(torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.network.state_dict().items())
    assert {t.dtype for t in loaded.fold_weights[1].values()} == {torch.float32}


def test_a_single_fold_is_in_memory_once(model: Folder) -> None:
    loaded = model.train().load()
    used = {p.data_ptr() for p in loaded.network.parameters()}
    assert used == {t.data_ptr() for t in loaded.fold_weights[0].values()}


def test_weights_do_not_depend_on_the_file(model: Folder) -> None:
    loaded = model.train().load()
    path = loaded.checkpoints[0]
    path.write_bytes(b"\xff" * path.stat().st_size)  # in place, as a copying program would
    assert same_network(loaded, model.networks["0"])


def test_half_precision_weights_are_widened(model: Folder) -> None:
    model.train()
    model.change(0, lambda c: c["network_weights"].update({n: t.half() for n, t in c["network_weights"].items()}))
    loaded = model.load()
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}


def test_prefixed_weights(model: Folder) -> None:
    def wrap(content: dict[str, Any]) -> None:
        content["network_weights"] = {f"module._orig_mod.{n}": t for n, t in content["network_weights"].items()}

    model.train().change(0, wrap)
    assert same_network(model.load(), model.networks["0"])


def test_the_last_name_of_a_tensor_counts(model: Folder) -> None:
    """Where the names of one tensor hold different values, as after some pre-trainings."""
    for fold in (0, 1):
        model.train(fold).change(fold, stale_names)
    loaded = model.load()
    for index in (1, 0):
        loaded.use_fold(index)
        assert same_network(loaded, model.networks[str(index)])
    assert same_network(model.load(folds=[1]), model.networks["1"])


def stale_names(content: dict[str, Any]) -> None:
    weights = content["network_weights"]
    content["network_weights"] = {
        name: torch.zeros_like(t) if name.endswith((".conv.weight", ".norm.bias")) else t for name, t in weights.items()
    }


def test_orientation(model: Folder) -> None:
    model.train()
    record_orientation(model.path, "SPL", 3)
    assert model.load().orientation == "SPL"
    (model.path / ORIENTATION_FILE).write_text("[]")
    with pytest.raises(PredictionError, match=r"orientation\.json"):
        model.load()


# ---------------------------------------------------------------- what can be wrong


def failure(model: Folder, expected: type[NnunetError] = PredictionError, **options: Any) -> str:
    with pytest.raises(expected) as caught:
        model.load(**options)
    return str(caught.value)


def test_missing_folder(model: Folder) -> None:
    model.train()
    model.path.rename(model.path.with_name("nnUNetTrainer__nnUNetPlans__2d"))
    text = failure(model)
    assert str(model.path) in text
    assert "nnUNetTrainer__nnUNetPlans__2d" in text


@pytest.mark.parametrize("missing", [("plans.json",), ("dataset.json",), ("plans.json", "dataset.json")])
def test_incomplete_folder(model: Folder, missing: tuple[str, ...]) -> None:
    model.train()
    for name in missing:
        (model.path / name).unlink()
    text = failure(model)
    assert "incomplete" in text
    assert all((name in text) == (name in missing) for name in ("plans.json", "dataset.json"))


def test_folder_without_folds(model: Folder) -> None:
    assert "missing: fold_0" in failure(model.write())


def test_fold_instead_of_model(model: Folder) -> None:
    model.train(2).path /= "fold_2"
    text = failure(model)
    assert f"{model.path.parent}, and the fold with -f 2" in text


def test_dataset_instead_of_model(model: Folder) -> None:
    model.train().path = model.path.parent
    assert "any_name" in failure(model)


def test_missing_folds(model: Folder) -> None:
    text = failure(model.train(0), folds=[0, 1, 2, 3, 4])
    assert "fold 1, 2, 3, 4" in text
    assert f"fold_0: {FINAL}" in text
    assert text.endswith("-f 0")


def test_only_fold_all_is_there(model: Folder) -> None:
    assert failure(model.train("all"), folds=[0]).endswith("-f all")


def test_missing_checkpoint(model: Folder) -> None:
    model.train(0, name="checkpoint_best.pth").train(1, name="checkpoint_latest.pth")
    text = failure(model, folds=[0])
    assert "fold_0: checkpoint_best.pth; fold_1: checkpoint_latest.pth" in text
    assert text.endswith("-chk: checkpoint_best.pth")
    assert failure(model).endswith("-chk: checkpoint_best.pth, checkpoint_latest.pth")


def test_folds_that_were_not_trained_alike(model: Folder) -> None:
    model.train(0).train(1, trainer="nnUNetTrainerDA5").train(2, configuration="2d")
    text = failure(model, folds=[0, 1])
    assert "fold_0: nnUNetTrainer, configuration 3d_fullres" in text
    assert "fold_1: nnUNetTrainerDA5" in text
    assert "configuration 2d" in failure(model, folds=[0, 2])
    assert model.load(folds=[2]).configuration.name == "2d"


def test_damaged_checkpoint(model: Folder) -> None:
    path = model.train(0).train(1).path / "fold_1" / FINAL
    content = bytearray(path.read_bytes())
    weights = model.networks["1"].state_dict()["encoder.stages.2.0.convs.0.conv.weight"].numpy().tobytes()
    position = content.find(weights)
    assert position > 0
    content[position + 100] ^= 1
    path.write_bytes(content)
    assert str(path) in failure(model, CheckpointError)
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in failure(model, CheckpointError)
    path.write_bytes(b"")
    assert str(path) in failure(model, CheckpointError)
    assert model.load(folds=[0]).folds == ("0",)


def test_something_else_than_a_checkpoint(model: Folder) -> None:
    model.train()
    torch.save({"state_dict": {}}, model.path / "fold_0" / FINAL)
    assert "not a checkpoint of nnU-Net 2" in failure(model, CheckpointError)


def test_weights_that_are_not_finite(model: Folder) -> None:
    model.train().change(0, lambda c: c["network_weights"]["decoder.seg_layers.1.bias"].fill_(float("nan")))
    text = failure(model, CheckpointError)
    assert "NaN" in text
    assert "decoder.seg_layers.1.bias" in text


@pytest.mark.parametrize("architecture", [unet(), unet("ResidualEncoderUNet"), PRIMUS_X])
def test_labels_and_channels_of_another_dataset(model: Folder, architecture: dict[str, Any]) -> None:
    model.plans["configurations"]["3d_fullres"]["architecture"] = architecture
    model.train()
    before = copy.deepcopy(model.description)
    model.description["labels"]["c"] = 3
    text = failure(model.write())
    assert "3 outputs" in text
    assert "4 outputs" in text
    assert "dataset.json" in text
    model.description = {**before, "channel_names": {"0": "T1", "1": "T2"}}
    text = failure(model.write())
    assert "1 input channels" in text
    assert "2 input channels" in text


def test_networks_of_unknown_trainers(model: Folder) -> None:
    model.train(trainer="TrainerWithItsOwnNetwork")
    model.plans["configurations"]["3d_fullres"]["architecture"] = unet(features=(4, 6, 8, 8))
    text = failure(model.write())
    assert "TrainerWithItsOwnNetwork" in text
    assert "3d_fullres" in text
    assert str(model.path / "plans.json") in text
    assert "encoder.stages.3" in text


def test_plans_of_another_model(model: Folder) -> None:
    model.train(configuration="2d")
    del model.plans["configurations"]["2d"]
    assert "'2d'" in failure(model.write(), NnunetError)
    (model.path / "plans.json").write_text("{}")
    failure(model, PlansError)
    (model.path / "dataset.json").write_text("{}")
    failure(model, NnunetError)


def test_damaged_dataset_description(model: Folder) -> None:
    model.train()
    (model.path / "dataset.json").write_text('{"labels": {}}')
    assert "dataset.json" in failure(model, DatasetError)


# ---------------------------------------------------------------- models that nnU-Net trained


def recorded_models() -> list[Any]:
    found = [pytest.param(p, id=p.parent.name) for p in sorted((GOLDEN / "models").glob("*/model"))]
    reason = f"there are no recorded models in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


@pytest.mark.parametrize("folder", recorded_models())
def test_recorded_models(folder: Path) -> None:
    loaded = load_model(folder)
    content = torch.load(loaded.checkpoints[0], weights_only=False)
    assert loaded.mirror_axes == tuple(content["inference_allowed_mirroring_axes"])
    assert loaded.trainer_name == content["trainer_name"]
    own = loaded.network.state_dict()
    assert all(np.array_equal(own[name], tensor) for name, tensor in content["network_weights"].items())
    assert own.keys() == content["network_weights"].keys()
