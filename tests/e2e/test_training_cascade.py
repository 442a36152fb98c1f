"""A cascade from the images to the validation of its second stage, with the commands."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
from training_runs import DATASET, Fold

CASES = [f"case_{number}" for number in range(5)]


@pytest.fixture
def cascade(fold: Fold) -> Fold:
    """Plans with a cascade; nothing of it is preprocessed."""
    path = fold.data.parent / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    low = copy.deepcopy(plans["configurations"]["3d_fullres"])
    low |= {"data_identifier": "nnUNetPlans_3d_lowres", "spacing": [2.0, 2.0, 1.5], "next_stage": "3d_cascade_fullres"}
    second = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"] |= {"3d_lowres": low, "3d_cascade_fullres": second}
    path.write_text(json.dumps(plans))
    return fold


def run(fold: Fold, module: str, *arguments: str, status: int = 0) -> str:
    program = f"import sys; from nnunet_pt.cli.{module} import main; sys.exit(main())"
    return fold.finish(fold.start([sys.executable, "-c", program, *arguments]), status)


def train(fold: Fold, configuration: str, which: str, *more: str, status: int = 0) -> str:
    trainer = ("-tr", f"{fold.root / 'trainer.py'}:Short")
    return run(fold, "train", "7", configuration, which, *trainer, "-device", "cpu", "-seed", "1", *more, status=status)


def files(folder: Path, ending: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{ending}"))


@pytest.mark.slow
def test_both_stages(cascade: Fold) -> None:
    fold = cascade
    run(fold, "preprocess", "-d", "7", "-c", "3d_lowres", "3d_fullres", "-np", "1")
    output = train(fold, "3d_cascade_fullres", "0", status=1)
    assert "The previous stage of 3d_cascade_fullres has not predicted the training cases yet." in output
    assert "nnUNetv2_train 7 3d_lowres 0" in output

    train(fold, "3d_lowres", "0")
    low = fold.results / "Short__nnUNetPlans__3d_lowres"
    predicted = low / "predicted_next_stage" / "3d_cascade_fullres"
    assert len(files(predicted, ".b2nd")) == 1
    output = train(fold, "3d_cascade_fullres", "0", status=1)  # the other folds are missing
    missing = [case for case in CASES if f"{case}.b2nd" not in files(predicted, ".b2nd")]
    assert all(case in output for case in missing)

    train(fold, "3d_lowres", "all")
    assert files(predicted, ".b2nd") == [f"{case}.b2nd" for case in CASES]
    train(fold, "3d_cascade_fullres", "0", "--npz")
    second = fold.results / "Short__nnUNetPlans__3d_cascade_fullres" / "fold_0"
    summary = json.loads((second / "validation" / "summary.json").read_text())
    assert 0 < summary["foreground_mean"]["Dice"] <= 1
    assert len(files(second / "validation", ".npz")) == len(files(second / "validation", ".nii.gz")) == 1
    assert (second / "checkpoint_final.pth").exists()
    assert DATASET in str(second)
    before = (second / "validation" / "summary.json").read_bytes()
    train(fold, "3d_cascade_fullres", "0", "--val")
    after = json.loads((second / "validation" / "summary.json").read_text())
    assert after["foreground_mean"] == json.loads(before)["foreground_mean"]
