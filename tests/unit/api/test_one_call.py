"""``nnunet_training`` from a raw dataset to its result: what it does, gives back, and leaves as it was."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_training import losses, model, nothing_left_to_do, summary

Call = Callable[..., Any]
MODEL = "Short__nnUNetPlans__"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def test_raw_images_become_a_validated_model(call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (planned.preprocessed / "nnUNetPlans.json").unlink()
    wanted = {"plans_identifier": "nnUNetPlans", "configuration": "2d", "epochs": 1}
    result = call(**wanted)
    folder = model(planned, "2d")
    means = summary(folder / "fold_0" / "validation")
    assert result == {
        "status": "success",
        "model_path": str(folder),
        "dataset_id": "007",
        "configuration": "2d",
        "fold": "0",
        "metrics": {
            "dice": means["Dice"],
            "iou": means["IoU"],
            "validation_loss": losses(folder / "fold_0")[-1],
        },
    }
    assert json.loads(json.dumps(result)) == result
    for name in ("integrity_report.json", "dataset_fingerprint.json", "nnUNetPlans.json", "splits_final.json"):
        assert (planned.preprocessed / name).is_file()
    nothing_left_to_do(monkeypatch)
    for dataset in ("7", "007", planned.name):
        assert call(**wanted, dataset_id=dataset, fold=0) == result


def test_a_program_goes_on_as_it_was(call: Call) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - somebody's program may
    random.seed(1)

    def surroundings() -> list[Any]:
        cudnn = torch.backends.cudnn
        return [
            [signal.getsignal(number) for number in SIGNALS],
            torch.get_rng_state().tolist(),
            [np.random.get_state()[i] for i in (0, 2)],  # noqa: NPY002
            random.getstate(),
            (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
            (cudnn.deterministic, cudnn.benchmark),
        ]

    before = surroundings()
    assert call(deterministic=True)["status"] == "success"
    assert surroundings() == before
    assert call(trainer="nnUNetTrainerX")["status"] == "error"
    assert surroundings() == before


def test_it_works_outside_of_the_main_thread(call: Call) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(fold="all", epochs=1)))
    thread.start()
    thread.join()
    assert (results[0]["status"], results[0]["fold"]) == ("success", "all")


def test_a_cross_validation_is_evaluated_as_a_whole(call: Call, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ["a", "b", "c", "d", "e", "f"]
    splits = [{"train": cases[:3], "val": cases[3:]}, {"train": cases[3:], "val": cases[:3]}]
    (planned.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    result = call(fold="cv", epochs=1)
    folder = model(planned)
    assert (result["fold"], result["model_path"]) == ("cv", str(folder))
    means = summary(folder / "crossval_results_folds_0_1")
    each = [losses(folder / f"fold_{i}")[-1] for i in (0, 1)]
    assert result["metrics"] == {"dice": means["Dice"], "iou": means["IoU"], "validation_loss": sum(each) / 2}
    assert len(list((folder / "crossval_results_folds_0_1").glob("*.nii.gz"))) == 6
    nothing_left_to_do(monkeypatch)
    assert call(fold="cv", epochs=1) == result


def test_the_usual_cross_validation_has_five_folds(call: Call, planned: Any) -> None:
    assert call(fold="cv", epochs=1, iterations=1, configuration="2d")["status"] == "success"
    assert (model(planned, "2d") / "crossval_results_folds_0_1_2_3_4" / "summary.json").is_file()


def test_a_cascade_is_two_calls(call: Call, planned: Any) -> None:
    second = {"configuration": "3d_cascade_fullres", "fold": "all", "epochs": 1}
    early = call(**second)
    assert "previous stage" in early["error"] and "nnUNetv2_train 7 3d_lowres" in early["error"]
    assert not planned.data.exists()  # it is said before anything is preprocessed
    assert call(configuration="3d_lowres", fold="all", epochs=1)["status"] == "success"
    result = call(**second)
    assert (result["status"], result["configuration"]) == ("success", "3d_cascade_fullres")
    assert result["model_path"].endswith(f"{MODEL}3d_cascade_fullres")


def test_nothing_is_written_for_a_training_without_checkpoints(call: Call, planned: Any) -> None:
    result = call(disable_checkpointing=True, use_compressed=True, num_gpus=1)
    assert result["status"] == "success"
    assert not list(model(planned).rglob("checkpoint_*"))
    assert result["metrics"]["dice"] == summary(model(planned) / "fold_0" / "validation")["Dice"]


def test_a_fold_without_validation_cases_has_no_dice(call: Call, planned: Any) -> None:
    splits = [{"train": ["a", "b", "c", "d", "e", "f"], "val": []}]
    (planned.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    first = call(epochs=1)
    assert first["metrics"]["dice"] is None and first["metrics"]["iou"] is None
    assert call(epochs=1) == first
