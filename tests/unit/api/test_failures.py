"""Whatever goes wrong is given back as the text that a command prints, or raised on request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt import NnunetError
from nnunet_pt.api import folds
from nnunet_pt.cli import train as train_command

Call = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dataset_id": 50}, "There is no dataset with the number 50"),
        ({"dataset_id": "Dataset050_X"}, "There is no dataset called Dataset050_X"),
        ({"dataset_id": "fifty"}, "'fifty' is no dataset"),
        ({"configuration": "3d_fulres"}, "did you mean 3d_fullres"),
        ({"trainer": "nnUNetTrainer_250epoch"}, "did you mean nnUNetTrainer_250epochs"),
        ({"plans_identifier": "myPlans"}, "nnUNetv2_plan_experiment -d 7 -overwrite_plans_name myPlans"),
        ({"fold": "six"}, "There is no fold 'six'"),
        ({"fold": -1}, "There is no fold -1"),
        ({"num_gpus": 0}, "-num_gpus is 0"),
        ({"device": "tpu"}, "The device 'tpu' cannot be used"),
        ({"precision": "fp8"}, "'auto', 'fp32', 'bf16', 'fp16'"),
        ({"transfer": "exact"}, "There is no transfer 'exact'"),
        ({"lr_factors": "encoder"}, "lr_factors"),
        ({"save_every_minutes": -1.0}, "-save_every_minutes is -1"),
        ({"configuration": None}, "configuration=None, expected str"),
        ({"trainer": 3}, "trainer=3, expected str or None"),
        ({"num_gpus": "2"}, "num_gpus='2', expected int or None"),
        ({"device": 0}, "device=0, expected str or None"),
        ({"pretrained_weights": 5}, "pretrained_weights=5, expected str or pathlib.Path or None"),
        ({"freeze": 3, "max_ram_gb": "4"}, "freeze=3, expected str or a list of str or None"),
        ({"freeze": 3, "max_ram_gb": "4"}, "max_ram_gb='4', expected float or None"),
        ({"tensorboard": "yes"}, "tensorboard='yes', expected bool"),
        ({"precision": 16}, "precision=16, expected 'auto' or 'fp32' or 'bf16' or 'fp16' or None"),
        ({"pretrained_weights": "nowhere.pth"}, "nowhere.pth"),
        ({"validation_only": True}, "There is nothing to validate"),
        ({"validation_only": True, "continue_training": True}, "exclude each other: --c and --val"),
        ({"validation_only": True, "pretrained_weights": __file__}, "exclude each other: --val and -pretrained"),
        ({"disable_checkpointing": True, "val_best": True}, "exclude each other: --disable_checkpointing"),
    ],
)
def test_wrong_arguments_are_found_before_any_work(
    call: Call, planned: Any, arguments: dict[str, Any], expected: str
) -> None:
    before = {path for path in planned.preprocessed.rglob("*") if path.name != "integrity_report.json"}
    result = call(**arguments)
    assert result["status"] == "error"
    assert set(result) == {"status", "error"}
    assert expected in result["error"]
    assert before == {path for path in planned.preprocessed.rglob("*") if path.name != "integrity_report.json"}
    with pytest.raises(NnunetError) as raised:
        call(**arguments, raise_errors=True)
    assert str(raised.value) == result["error"]


def test_the_text_is_that_of_the_command(call: Call, planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(no_preprocessing=True)
    assert "There are no preprocessed cases" in result["error"]
    trainer = f"{planned.root / 'trainers.py'}:Short"
    assert train_command.main(["7", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"]) == 1
    assert capsys.readouterr().err == f"Error: {result['error']}\n"


def test_no_preprocessing_means_no_plans_either(call: Call, planned: Any) -> None:
    (planned.preprocessed / "nnUNetPlans.json").unlink()
    assert "nnUNetv2_plan_and_preprocess -d 7" in call(no_preprocessing=True)["error"]
    assert not (planned.preprocessed / "dataset_fingerprint.json").exists()


def test_a_damaged_dataset_is_reported_as_a_whole(call: Call, planned: Any) -> None:
    image = planned.image("b")
    image.write_bytes(image.read_bytes()[:2000])
    planned.label("d").unlink()
    error = call()["error"]
    assert "b_0000.nii.gz" in error and "d" in error and "integrity_report.json" in error
    report = json.loads((planned.preprocessed / "integrity_report.json").read_text())
    assert not report["passed"]
    assert not planned.data.exists()


def test_variables_that_are_not_set_are_named(call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned
    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in call()["error"]


def test_launchers_start_too_many_processes(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert "one of 2 processes that torchrun started" in call()["error"]


def test_an_error_in_somebodys_own_code_is_theirs(call: Call, planned: Any) -> None:
    result = call(trainer=f"{planned.root / 'trainers.py'}:Faulty")
    assert "an error in somebody's own code" in result["error"]
    assert "trainers.py" in result["error"] and "bug in nnunet_pt" not in result["error"]


def test_an_error_of_ours_is_called_so_and_logged(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(folds, "train", broken)
    with caplog.at_level(logging.ERROR):
        assert call() == {
            "status": "error",
            "error": "This is a bug in nnunet_pt: IndexError: list index out of range",
        }
    assert "Traceback" in caplog.text
    with pytest.raises(IndexError):
        call(raise_errors=True)


def test_a_keyword_that_does_not_exist_is_a_mistake_in_the_program(call: Call) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'; did you mean 'epochs'"):
        call(epoch=3)


def test_a_failing_fold_ends_a_cross_validation(call: Call, planned: Any) -> None:
    splits = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["a", "x"], "val": ["c"]}]
    (planned.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    error = call(fold="cv", epochs=1)["error"]
    assert "Fold 1 has cases that are not preprocessed: x" in error
    results = Path(planned.root) / "results"
    assert [path.parent.name for path in results.rglob("checkpoint_final.pth")] == ["fold_0"]
