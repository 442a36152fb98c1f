"""From a checkpoint of nnssl to plans and preprocessed data of a small dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_pt.core.errors import CheckpointError, NnunetError, PlansError, UnknownNameError, UsageError
from nnunet_pt.core.settings import Settings
from nnunet_pt.inference.prediction import PredictRequest, predict_folder
from nnunet_pt.plans.plans import Plans, PretrainInfo
from nnunet_pt.preprocessing.store import load_case
from nnunet_pt.transfer.checkpoint_files import checkpoint_file, find_checkpoint
from nnunet_pt.transfer.nnssl_plans import (
    LikeDynamicRequest,
    LikeNnsslRequest,
    PretrainedPlansResult,
    plan_like_dynamic,
    preprocess_like_nnssl,
)
from nnunet_pt.transfer.source import sha256_of

CASES = ("a1", "b2", "c3")
KWARGS = {
    "n_stages": 2,
    "features_per_stage": [4, 6],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 2,
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_blocks_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "nonlin": "torch.nn.modules.activation.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
Write = Callable[..., Path]


def adaptation_plan(
    *, spacing: Any = (1.5, 1.5, 1.5), patch: Any = (8, 8, 8), name: str = "ResidualEncoderUNet"
) -> Any:
    return {
        "architecture_plans": {
            "arch_class_name": name,
            "arch_kwargs": KWARGS if name == "ResidualEncoderUNet" else None,
            "arch_kwargs_requiring_import": ["conv_op", "norm_op", "nonlin"],
        },
        "pretrain_plan": {"configurations": {"x": {"spacing": spacing, "patch_size": (32, 32, 32)}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ("encoder.stem.convs.0.conv",),
        "key_to_lpe": None,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a checkpoint; its weights depend on its name."""

    def make(name: str = "first.pth", plan: Any = None, **changes: Any) -> Path:
        content = {
            "network_weights": {"encoder.stem.weight": torch.full((3,), float(len(name)))},
            "nnssl_adaptation_plan": adaptation_plan() if plan is None else plan,
            "citations": [{"type": "Framework", "name": "nnssl", "apa_citations": ["A. (2025)."]}],
        } | changes
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(exist_ok=True)
        torch.save({k: v for k, v in content.items() if v is not None}, path)
        return path

    return make


def adapt(dataset: Any, checkpoint: Path | str, name: str = "mae", **options: Any) -> PretrainedPlansResult:
    request = LikeNnsslRequest(
        dataset=dataset.name,
        name=name,
        checkpoint=str(checkpoint),
        **{"mode": "like_pretrained", "num_processes": 0, "progress": False, **options},
    )
    return preprocess_like_nnssl(request, dataset.workspace)


def dynamic(dataset: Any, checkpoint: Path, name: str = "mae", **options: Any) -> PretrainedPlansResult:
    request = LikeDynamicRequest(
        dataset=dataset.name, name=name, checkpoint=str(checkpoint), num_processes=0, progress=False, **options
    )
    return plan_like_dynamic(request, dataset.workspace)


def made(result: PretrainedPlansResult) -> tuple[str, ...]:
    return result.preprocessing.configurations[0].made


def test_plans_and_data(three: Any, write: Write) -> None:
    checkpoint = write()
    result = adapt(three, checkpoint)
    assert result.path.name == "ptPlans__mae____Spacing__1.50_1.50_1.50___Norm__Z.json"
    info = Plans.load(result.path).pretrain_info
    assert info is not None and info.checkpoint_path == str(checkpoint)
    assert info.checkpoint_sha256 == sha256_of(checkpoint) and info.checkpoint_name == "mae"
    assert (info.pt_used_patchsize, info.pt_recommended_downstream_patchsize) == ((32, 32, 32), (8, 8, 8))
    assert info.citations[0]["name"] == "nnssl"
    assert list(json.loads(result.path.read_text())) == sorted(json.loads(result.path.read_text()))
    folder = three.preprocessed / "Spacing__1.50_1.50_1.50___Norm__Z"
    assert made(result) == CASES and load_case(folder, "a1")[0].shape == (1, 3, 5, 7)
    assert sorted(p.name for p in (three.preprocessed / "gt_segmentations").iterdir()) == [f"{c}.nii.gz" for c in CASES]
    assert "nnUNetv2_train_pretrained 7 3d_fullres 0 -p ptPlans__mae____" in result.summary()


def test_relative_paths_become_absolute(three: Any, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write().parent)
    info = adapt(three, "first.pth").plans.pretrain_info
    assert info is not None and info.checkpoint_path == str(Path.cwd() / "first.pth")


def test_second_run_does_nothing_and_an_aborted_one_is_finished(three: Any, write: Write) -> None:
    result = adapt(three, write())
    assert made(adapt(three, write())) == ()
    folder = three.preprocessed / "Spacing__1.50_1.50_1.50___Norm__Z"
    (folder / "b2.pkl").unlink()
    assert made(adapt(three, write())) == ("b2",)
    (folder / "a1.b2nd").write_bytes(b"half")
    assert made(adapt(three, write())) == ("a1",)
    assert made(adapt(three, write(), overwrite_preprocessed=True)) == CASES
    assert result.failures == ()


def test_data_are_shared_by_pretrainings_of_other_patch_sizes(three: Any, write: Write) -> None:
    assert made(adapt(three, write())) == CASES
    larger = write("larger.pth", adaptation_plan(patch=(16, 16, 16)))
    assert made(adapt(three, larger, "larger")) == ()
    assert made(adapt(three, write())) == ()


def test_spacing_of_the_dataset_and_of_the_pretraining_may_be_the_same_numbers(three: Any, write: Write) -> None:
    three.plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
    three.plan()
    checkpoint = write("ints.pth", adaptation_plan(spacing=(2, 2, 2)))
    assert made(adapt(three, checkpoint)) == CASES
    assert made(adapt(three, checkpoint, mode="default_nnunet")) == ()


def test_folder_that_other_plans_use_for_other_data(three: Any, write: Write) -> None:
    adapt(three, write())
    three.plans["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"]["order"] = 1
    three.plan()
    before = three.contents()
    with pytest.raises(PlansError, match=r"ptPlans__mae____.* for other data") as caught:
        adapt(three, write("second.pth"), "other")
    assert "resampling" in str(caught.value) and three.contents() == before
    assert made(adapt(three, write("second.pth"), "other", force=True)) == CASES


def test_a_name_belongs_to_one_checkpoint(three: Any, write: Write) -> None:
    adapt(three, write())
    before = three.contents()
    other = write("second.pth")
    for options in ({}, {"mode": "no_resample"}):
        with pytest.raises(UsageError, match="mae was used before") as caught:
            adapt(three, other, **options)
        assert "first.pth" in str(caught.value) and "second.pth" in str(caught.value)
    assert three.contents() == before
    result = adapt(three, other, force=True)
    assert result.plans.pretrain_info is not None
    assert result.plans.pretrain_info.checkpoint_path == str(other) and made(result) == ()
    other.rename(other.with_name("moved.pth"))
    assert adapt(three, other.with_name("moved.pth")).path == result.path  # the same checkpoint elsewhere


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_edited_plans_are_kept(three: Any, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = write()
    path = adapt(three, checkpoint).path
    assert not caplog.records
    written = path.read_text()
    edit(path, lambda plans: plans["configurations"]["3d_fullres"].update(batch_size=5))
    edit(path, lambda plans: plans["pretrain_info"].update(pt_used_patchsize=[24, 24, 24]))
    moved = checkpoint.rename(checkpoint.with_name("moved.pth"))
    result = adapt(three, moved)
    assert "configurations.3d_fullres.batch_size, pretrain_info.pt_used_patchsize" in caplog.text
    assert "--force" in caplog.text and str(path) in caplog.text
    there = Plans.load(path)
    assert there == result.plans and there.configuration("3d_fullres").batch_size == 5
    assert there.pretrain_info is not None and there.pretrain_info.pt_used_patchsize == (24, 24, 24)
    assert there.pretrain_info.checkpoint_path == str(moved)
    moved.rename(checkpoint)
    adapt(three, checkpoint, force=True)
    assert path.read_text() == written


def test_damaged_plans_are_written_anew(three: Any, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = adapt(three, write()).path
    written = path.read_text()
    path.write_text("{")
    assert adapt(three, write()).path.read_text() == written and not caplog.records


def test_plans_for_another_network_are_not_kept(three: Any, write: Write) -> None:
    """A name of plans that keep the dataset's own network does not say which plans they were made from."""
    path = dynamic(three, write()).path
    network = "configurations.3d_fullres.architecture.arch_kwargs.n_stages"
    edit(path, lambda plans: plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(n_stages=9))
    with pytest.raises(UsageError, match="for another network") as caught:
        dynamic(three, write())
    assert network in str(caught.value) and "--force" in (caught.value.remedy or "")
    assert made(dynamic(three, write(), force=True)) == made(dynamic(three, write()))


def test_dynamic_plans_share_the_datasets_own_data(three: Any, write: Write) -> None:
    three.preprocess()
    result = dynamic(three, write())
    assert result.path.name == "ptPlans_dynamic__mae.json" and made(result) == ()
    assert "-tr DynamicPretrainedTrainer" in result.training_command()
    with pytest.raises(UsageError, match="mae was used before"):
        dynamic(three, write("second.pth"))
    adapt(three, write("second.pth"))  # other plans, another name for them
    with pytest.raises(PlansError, match="nnUNetv2_plan_and_preprocess -d 7 -pl nnUNetPlannerResEncM --no_pp"):
        dynamic(three, write(), base_plans="nnUNetResEncUNetMPlans")


def test_plan_beside_the_checkpoint(three: Any, write: Write) -> None:
    checkpoint = write("fold_all/checkpoint_final.pth".replace("/", "_"), nnssl_adaptation_plan=None)
    (checkpoint.parent / "adaptation_plan.json").write_text(json.dumps(adaptation_plan(spacing=[3, 3, 3])))
    assert adapt(three, checkpoint).plans.configuration("3d_fullres").spacing == (3, 3, 3)


def refused(three: Any, kind: type[NnunetError], text: str, *args: Any, **options: Any) -> str:
    before = three.contents()
    with pytest.raises(kind, match=text) as caught:
        adapt(three, *args, **options)
    assert three.contents() == before
    return str(caught.value)


def test_nothing_is_written_if_something_is_wrong(three: Any, write: Write) -> None:
    no_plan = write("none.pth", nnssl_adaptation_plan=None)
    assert "adaptation_plan.json" in refused(three, CheckpointError, "no adaptation plan", no_plan)
    unknown = write("unknown.pth", adaptation_plan(name="NoSkipResEncL"))
    assert "ResEncL" in refused(three, UnknownNameError, "NoSkipResEncL", unknown)
    odd = write("odd.pth", adaptation_plan(patch=(8, 9, 8)))
    assert "[8, 9, 8]" in refused(three, CheckpointError, "cannot be built for", odd)
    refused(three, CheckpointError, "no checkpoint", write().with_name("missing.pth"))
    refused(three, CheckpointError, "without checkpoint_final.pth", write().parent)
    refused(three, UsageError, "fixed needs a spacing", write(), mode="fixed")
    refused(three, UsageError, "fixed needs a spacing", write(), mode="fixed", override_spacing=(1.0, 1.0))
    for name in ("", "a/b", "..", ".hidden"):
        refused(three, UsageError, "part of a file name", write(), name)
    refused(three, UsageError, "not the address", "https://example.org/a.pth")
    (three.preprocessed / "nnUNetPlans.json").unlink()
    refused(three, PlansError, "nnUNetv2_plan_and_preprocess -d 7 --no_pp", write())


def test_wrong_arguments_are_found_before_a_download(three: Any) -> None:
    with pytest.raises(UsageError, match="fixed needs a spacing"):
        adapt(three, "https://huggingface.co/Some-One/Model", mode="fixed")


def test_pretraining_without_resampling(three: Any, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = write("own.pth", adaptation_plan(spacing=None))
    result = adapt(three, checkpoint)
    assert result.plans.configuration("3d_fullres").spacing == (1.3, 1.2, 0.9)
    assert "-am no_resample" in caplog.text
    caplog.clear()
    adapt(three, checkpoint, override_spacing=(1.0, 1.0, 1.0))
    assert "-os is ignored" in caplog.text


SPACINGS = {"a1": (1.0, 1.0, 1.0), "b2": (0.5, 0.75, 4.0), "c3": (2.0, 2.0, 0.25)}  # x, y, z as in the file


@pytest.fixture
def own_spacings(small: Any) -> Any:
    """Three cases of different spacings and shapes, with axes reordered by the plans."""
    small.plans |= {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    small.plan()
    for number, (case, spacing) in enumerate(SPACINGS.items()):
        small.add(case, shape=(9 + number, 12, 15 - number), spacing=spacing)
    return small


def test_without_resampling_each_case_keeps_its_own_spacing(own_spacings: Any, write: Write) -> None:
    result = adapt(own_spacings, write(), mode="no_resample")
    assert result.plans.configuration("3d_fullres").spacing == (None, None, None)
    folder = own_spacings.preprocessed / "Spacing__None_None_None___Norm__Z"
    for number, case in enumerate(SPACINGS):
        image, segmentation = load_case(folder, case)[:2]
        assert image.shape == (1, 10, 7 + number, 13 - number)  # a border of zeros is cropped
        assert segmentation.shape[1:] == image.shape[1:]
        raw = sitk.GetArrayFromImage(sitk.ReadImage(str(own_spacings.image(case)))).transpose(1, 0, 2)
        inside = raw[1:-1, 1:-1, 1:-1]
        np.testing.assert_allclose(image[0][inside != 0], _zscore(inside)[inside != 0], atol=1e-5)


def _zscore(values: np.ndarray) -> np.ndarray:
    inside = values[values != 0]
    return (values - inside.mean()) / inside.std()


def test_prediction_without_resampling(own_spacings: Any, tiny_model_folder: Callable[..., Path]) -> None:
    own_spacings.plans["configurations"]["3d_fullres"] |= {"spacing": [None, None, None], "patch_size": [8, 8, 8]}
    model = tiny_model_folder(own_spacings)
    out = own_spacings.root / "out"
    images = [own_spacings.image(case) for case in SPACINGS]
    report = predict_folder(
        PredictRequest(
            model_folder=model,
            inputs=(own_spacings.raw / "imagesTr",),
            output=out,
            folds=(0,),
            device="cpu",
            precision="fp32",
            mirroring=False,
            save_probabilities=True,
            num_readers=1,
            num_exporters=1,
            progress=False,
        )
    )
    assert report.names("done") == sorted(SPACINGS)
    for case, path in zip(SPACINGS, images, strict=True):
        image, predicted = sitk.ReadImage(str(path)), sitk.ReadImage(str(out / f"{case}.nii.gz"))
        assert predicted.GetSize() == image.GetSize() and predicted.GetSpacing() == pytest.approx(SPACINGS[case])
        segmentation = sitk.GetArrayFromImage(predicted)
        with np.load(out / f"{case}.npz") as file:
            differ = file["probabilities"].argmax(0) != segmentation  # they are rounded, and some are equal
        assert differ.mean() < 0.01
        assert len(np.unique(segmentation)) > 1


def info_of(path: Path, **changes: Any) -> PretrainInfo:
    return PretrainInfo(**{"checkpoint_path": str(path), "checkpoint_sha256": sha256_of(path)} | changes)


def test_checkpoint_where_it_was(write: Write) -> None:
    path = write()
    assert find_checkpoint(info_of(path), Settings()) == path
    assert find_checkpoint(info_of(path, checkpoint_sha256=None), Settings()) == path


def test_moved_checkpoint_is_found_by_its_checksum(write: Write, tmp_path: Path) -> None:
    path = write()
    info = info_of(path)
    folder = tmp_path / "models"
    (folder / "somewhere").mkdir(parents=True)
    write("other.pth").rename(folder / "first.pth")
    moved = path.rename(folder / "somewhere" / "renamed.pth")
    assert find_checkpoint(info, Settings(pretrained_models=folder)) == moved
    write("first.pth", plan=adaptation_plan(patch=(16, 16, 16)))  # another file where it was
    assert find_checkpoint(info, Settings(pretrained_models=folder)) == moved


def test_moved_checkpoint_of_nnunets_plans_is_found_by_its_name(write: Write, tmp_path: Path) -> None:
    path = write()
    info = info_of(path, checkpoint_sha256=None)
    folder = tmp_path / "models"
    (folder / "checkpoints").mkdir(parents=True)
    moved = path.rename(folder / "checkpoints" / "first.pth")
    assert find_checkpoint(info, Settings(pretrained_models=folder)) == moved


def test_the_users_path_comes_first(write: Write) -> None:
    path, other = write(), write("other.pth")
    assert find_checkpoint(info_of(path), Settings(), overwrite=other) == other
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(info_of(path), Settings(), overwrite=other.with_name("missing.pth"))


def test_lost_checkpoint_says_where_was_looked(write: Write, tmp_path: Path) -> None:
    path = write()
    info = info_of(path, checkpoint_name="mae")
    path.unlink()
    with pytest.raises(CheckpointError, match="-overwrite_ckpt_path") as caught:
        find_checkpoint(info, Settings())
    assert str(path) in str(caught.value) and "nnssl_pretrained_models is not set" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(info, Settings(pretrained_models=tmp_path / "models"))
    assert str(tmp_path / "models") in str(caught.value) and str(info.checkpoint_sha256) in str(caught.value)
    write("first.pth", plan=adaptation_plan(patch=(16, 16, 16)))
    with pytest.raises(CheckpointError, match="another file now"):
        find_checkpoint(info, Settings())
    with pytest.raises(CheckpointError, match="not where it was"):
        find_checkpoint(PretrainInfo(), Settings())


def test_folders_stand_for_the_checkpoint_in_them(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "SparkMAETrainer__nnsslPlans__onemmiso"
    (folder / "fold_all").mkdir(parents=True)
    path = write().rename(folder / "fold_all" / "checkpoint_final.pth")
    assert checkpoint_file(str(folder), Settings()) == path == checkpoint_file(str(path.parent), Settings())
