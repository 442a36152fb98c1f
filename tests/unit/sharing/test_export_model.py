"""Packing models: what goes into an archive, and what happens if something is missing."""

from __future__ import annotations

import hashlib
import logging
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.core.errors import ArchiveError, CheckpointError, StorageError, UsageError
from nnunet_pt.inference.orientation import ORIENTATION_FILE
from nnunet_pt.sharing import layout
from nnunet_pt.sharing.export_model import ExportRequest, ExportResult, export_model
from nnunet_pt.training.task import RECIPE_FILE
from nnunet_pt.transfer.checkpoint import read_checkpoint

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
TWO_D = "nnUNetTrainer__nnUNetPlans__2d"
FOLD_FILES = ["debug.json", "checkpoint_final.pth", "progress.png", "recipe.json", "validation/summary.json"]
MODEL_FILES = [
    *(f"fold_{k}/{name}" for k in (0, 1) for name in FOLD_FILES),
    *(f"crossval_results_folds_0_1/{name}" for name in ("summary.json", "postprocessing.pkl", "postprocessing.json")),
    *("plans.json", "dataset_fingerprint.json", "dataset.json", "orientation.json"),
]
INFORMATION = [f"Dataset007_Small/{name}" for name in ("inference_information.json", "inference_instructions.txt")]


def export(results: Any, output: Path, **options: Any) -> ExportResult:
    request = {"configurations": ("3d_fullres",), "folds": (0, 1), "progress": False, **options}
    return export_model(ExportRequest(dataset=7, output=output, **request), results.workspace)


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_archive_holds_the_files_of_nnunet_and_ours(model: Any, tmp_path: Path) -> None:
    result = export(model, tmp_path / "new" / "m.zip")
    assert names(result.path) == [*(f"Dataset007_Small/{MODEL}/{name}" for name in MODEL_FILES), *INFORMATION]
    assert result.models == (MODEL,)
    assert result.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert result.sha256 in result.summary()
    assert result.num_bytes == result.path.stat().st_size
    with zipfile.ZipFile(result.path) as archive:
        for info in archive.infolist():
            assert archive.read(info) == (model.root / info.filename).read_bytes()
            assert info.external_attr >> 16 == stat.S_IFREG | 0o644
            packed = info.filename.endswith((".png", ".gz"))
            assert info.compress_type == (zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED)


def test_names_of_files_of_other_rooms() -> None:
    assert RECIPE_FILE in layout.REPORT_FILES
    assert ORIENTATION_FILE in layout.MODEL_FILES


def test_everything_exported_can_be_installed(model: Any, tmp_path: Path) -> None:
    model.add(TWO_D)
    model.ensemble(MODEL, TWO_D)
    result = export(model, tmp_path / "m.zip", configurations=("2d", "3d_fullres"), with_predictions=True)
    kinds = {name: layout.kind_of(name) for name in names(result.path)}
    assert {kinds.pop(n) for n in names(result.path)} <= set(layout.Kind) - {layout.Kind.UNKNOWN, layout.Kind.LEFT_OUT}


def test_predictions_are_packed_when_asked_for(model: Any, tmp_path: Path) -> None:
    plain, full = (names(export(model, tmp_path / f"{flag}.zip", with_predictions=flag).path) for flag in (False, True))
    folder = f"Dataset007_Small/{MODEL}"
    assert not [name for name in plain if ".nii" in name]
    assert set(full) - set(plain) == {
        *(f"{folder}/fold_{k}/validation/a.nii.gz" for k in (0, 1)),
        *(f"{folder}/crossval_results_folds_0_1/{name}" for name in ("a.nii.gz", "plans.json", "dataset.json")),
    }


def test_everything_missing_is_listed_before_anything_is_written(model: Any, tmp_path: Path) -> None:
    output = tmp_path / "m.zip"
    output.write_text("old")
    with pytest.raises(ArchiveError) as caught:
        export(model, output, folds=(0, 2, "all"), configurations=("3d_fullres", "2d", "mine"))
    for expected in (
        f"{MODEL}/fold_2/checkpoint_final.pth",
        f"{MODEL}/fold_all/checkpoint_final.pth",
        f"{TWO_D}: not trained",
        "nnUNetTrainer__nnUNetPlans__mine: not trained",
        f"{MODEL} (fold 0, 1)",
        "--not_strict",
    ):
        assert expected in str(caught.value)
    assert output.read_text() == "old"


def test_not_strict_packs_what_there_is(model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model.add(TWO_D, folds=())
    (model.folder / TWO_D / "plans.json").unlink()
    with caplog.at_level(logging.WARNING):
        result = export(model, tmp_path / "m.zip", folds=(0, 1, 2), configurations=("3d_fullres", "2d"), strict=False)
    assert [name for name in names(result.path) if MODEL in name] == [
        f"Dataset007_Small/{MODEL}/{name}" for name in MODEL_FILES
    ]
    assert result.models == (MODEL,)
    for expected in (f"{MODEL}/fold_2/checkpoint_final.pth", f"{TWO_D}: plans.json"):
        assert expected in caplog.text


def test_nothing_there_is_an_error_in_any_case(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"Nothing that is asked for") as caught:
        export(model, tmp_path / "m.zip", folds=(3,), strict=False)
    assert f"{MODEL} (fold 0, 1)" in str(caught.value)
    assert not (tmp_path / "m.zip").exists()


def test_configurations_that_were_not_planned_are_not_missed(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.add(TWO_D)
    with caplog.at_level(logging.INFO):
        result = export_model(
            ExportRequest(dataset=7, output=tmp_path / "m.zip", folds=(0, 1), progress=False), model.workspace
        )
    assert set(result.models) == {MODEL, TWO_D}
    assert "3d_lowres: left out" in caplog.text
    assert "3d_cascade_fullres: left out" in caplog.text


def test_ensembles_go_along_if_all_their_members_do(results: Any, tmp_path: Path) -> None:
    other = "MyTrainer__myPlans__3d_fullres"
    for name in (MODEL, TWO_D, other):
        results.add(name)
    together = results.ensemble(MODEL, other).name
    results.ensemble(MODEL, TWO_D)
    (results.folder / "ensembles" / "ensemble___x").mkdir()
    result = export(
        results,
        tmp_path / "m.zip",
        trainers=("nnUNetTrainer", "MyTrainer"),
        plans_names=("nnUNetPlans", "myPlans"),
        strict=False,
    )
    assert result.models == (MODEL, other, f"ensembles/{together}")
    assert [name.split("/", 2)[2] for name in names(result.path) if "/ensembles/" in name] == [
        f"{together}/{name}" for name in ("summary.json", "postprocessing.pkl", "postprocessing.json")
    ]


def test_several_checkpoints(model: Any, tmp_path: Path) -> None:
    model.add(checkpoint="checkpoint_best")
    chosen = ("checkpoint_best.pth", "checkpoint_final.pth")
    result = export(model, tmp_path / "m.zip", checkpoints=chosen, folds=(0,))
    assert [Path(n).name for n in names(result.path) if n.endswith(".pth")] == list(chosen)


def test_small_archives_predict_and_finetune_but_do_not_continue(model: Any, tmp_path: Path) -> None:
    large, small = (export(model, tmp_path / f"{flag}.zip", small=flag) for flag in (False, True))
    assert names(large.path) == names(small.path)
    assert small.num_bytes < 0.6 * large.num_bytes
    with zipfile.ZipFile(small.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    name = f"Dataset007_Small/{MODEL}/fold_1/checkpoint_final.pth"
    before, after = read_checkpoint(model.root / name), read_checkpoint(tmp_path / "unpacked" / name)
    assert after.network_weights.keys() == before.network_weights.keys()
    assert all(torch.equal(after.network_weights[n], w) for n, w in before.network_weights.items())
    assert (after.optimizer_state, after.grad_scaler_state, after.extra) == (None, None, {})
    for same in ("init_args", "trainer_name", "mirroring_axes", "logging", "current_epoch"):
        assert getattr(after, same) == getattr(before, same)
    assert list(torch.load(tmp_path / "unpacked" / name, weights_only=True)) == [
        *("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch"),
        *("init_args", "trainer_name", "inference_allowed_mirroring_axes"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("reduced", [False, True])
def test_the_same_models_give_the_same_archive(model: Any, tmp_path: Path, reduced: bool) -> None:
    digests = {export(model, tmp_path / f"{number}.zip", small=reduced).sha256 for number in range(2)}
    assert len(digests) == 1


def test_damaged_checkpoint_is_named_when_it_is_reduced(model: Any, tmp_path: Path) -> None:
    path = model.folder / MODEL / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="fold_1"):
        export(model, tmp_path / "m.zip", small=True)
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".partial*"))


def test_old_archive_stays_if_the_disk_is_full(model: Any, tiny_disk: Path) -> None:
    output = tiny_disk / "m.zip"
    output.write_text("old")
    large = model.folder / MODEL / "fold_0" / "progress.png"
    large.write_bytes(b"x" * 200_000)
    with pytest.raises(StorageError, match="no space left"):
        export(model, output)
    assert [(path.name, path.read_text()) for path in tiny_disk.iterdir()] == [("m.zip", "old")]


def test_output_is_a_folder(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        export(model, tmp_path)
