"""The commands of model selection: from validated models to postprocessed ensembles."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.cli import (
    accumulate_crossval_results,
    apply_postprocessing,
    determine_postprocessing,
    ensemble,
    find_best_configuration,
)
from nnunet_pt.evaluation.best_configuration import SelectionRequest

COMMANDS = {
    "nnUNetv2_accumulate_crossval_results": accumulate_crossval_results,
    "nnUNetv2_apply_postprocessing": apply_postprocessing,
    "nnUNetv2_determine_postprocessing": determine_postprocessing,
    "nnUNetv2_ensemble": ensemble,
    "nnUNetv2_find_best_configuration": find_best_configuration,
}
FOLDS = {0: ["a1"], 1: ["b2", "c3"]}
MODEL = "nnUNetTrainer__nnUNetPlans__"


def run(line: str) -> int:
    """Run a command line."""
    program, *arguments = shlex.split(line)
    status: int = COMMANDS[program].main([*arguments, "--no_pbar"])
    return status


@pytest.fixture
def dataset(three: Any, cross_validation: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two validated models of which the ensemble is the best, and their folders in the environment."""
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(three.root / folder))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    for configuration in ("2d", "3d_fullres"):
        cross_validation(three, configuration, FOLDS, wrong=0.3, wrong_probabilities=0.02)
    return three


def results(dataset: Any) -> Path:
    return Path(dataset.root / "results" / dataset.name)


def image(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_the_commands_it_prints_do_what_was_evaluated(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nnUNetv2_find_best_configuration 7 -f 0 1 -np 1 -c 2d 3d_fullres 3d_lowres") == 0
    shown = capsys.readouterr().out
    assert "3d_lowres is skipped" in shown
    assert re.search(r"2d \+ \S+3d_fullres +0\.\d{5} +best", shown)
    best = json.loads((results(dataset) / "inference_information.json").read_text())["best_model_or_ensemble"]
    assert len(best["selected_model_or_models"]) == 2
    printed = [line for line in shown.splitlines() if line.startswith("nnUNetv2_")]
    assert printed == [
        line
        for line in (results(dataset) / "inference_instructions.txt").read_text().splitlines()
        if line.startswith("nnUNetv2_")
    ]
    places = {name: dataset.root / name for name in ("OUTPUT_FOLDER_MODEL_1", "OUTPUT_FOLDER_MODEL_2")}
    for place, configuration in zip(places.values(), ("2d", "3d_fullres"), strict=True):  # as if predicted
        place.mkdir()
        for path in (results(dataset) / f"{MODEL}{configuration}").glob("fold_*/validation/*"):
            shutil.copy(path, place)
        for name in ("dataset.json", "plans.json"):
            shutil.copy(results(dataset) / f"{MODEL}{configuration}" / name, place)
    for line in printed[2:]:
        words = [str(dataset.root / w) if w.startswith("OUTPUT_FOLDER") else w for w in shlex.split(line)]
        words[words.index("-np") + 1] = "1"
        assert run(shlex.join(words)) == 0, capsys.readouterr().err
    expected = Path(best["postprocessing_file"]).parent / "postprocessed"
    for case in ("a1", "b2", "c3"):
        found = dataset.root / "OUTPUT_FOLDER_PP" / f"{case}.nii.gz"
        np.testing.assert_array_equal(image(found), image(expected / found.name))


def test_accumulated_folds_are_postprocessed(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"nnUNetv2_accumulate_crossval_results {dataset.name} -c 2d -f 0 1 -np 1") == 0
    output = results(dataset) / f"{MODEL}2d" / "crossval_results_folds_0_1"
    assert re.search(rf"2d: mean Dice 0\.\d+ in 3 cases of folds 0, 1\. Written: {output}", capsys.readouterr().out)
    assert run(f"nnUNetv2_determine_postprocessing -i {output} -ref {dataset.raw / 'labelsTr'} -np 1") == 0
    assert re.search(r"labels 1, 2 together +0\.\d+", capsys.readouterr().out)
    target = dataset.root / "out"
    line = f"nnUNetv2_apply_postprocessing -i {output} -o {target} -pp_pkl_file {output / 'postprocessing.pkl'} -np 1"
    assert run(line) == 0
    for path in target.iterdir():
        np.testing.assert_array_equal(image(path), image(output / "postprocessed" / path.name))
    # Predictions that came without descriptions: those of the model do
    for name in ("dataset.json", "plans.json"):
        (target / name).unlink(missing_ok=True)
    again = dataset.root / "again"
    assert run(f"nnUNetv2_apply_postprocessing -i {target} -o {again} -pp_pkl_file {output}/postprocessing.json") == 0
    assert {p.name for p in again.iterdir()} == {"a1.nii.gz", "b2.nii.gz", "c3.nii.gz"}


def test_plans_and_labels_can_be_elsewhere(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = results(dataset) / f"{MODEL}2d"
    folder = model / "fold_1" / "validation"
    line = f"nnUNetv2_determine_postprocessing -i {folder} -ref {dataset.raw / 'labelsTr'} -np 1"
    assert run(line) == 1
    assert "validation/plans.json" in capsys.readouterr().err
    line += f" -plans_json {model / 'plans.json'} -dataset_json {model / 'dataset.json'} --remove_postprocessed"
    assert run(line) == 0
    assert (folder / "postprocessing.pkl").is_file()
    assert not (folder / "postprocessed").exists()


def test_an_output_folder_that_was_named_must_be_empty(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output = dataset.root / "out"
    line = f"nnUNetv2_accumulate_crossval_results 7 -c 2d -f 0 1 -np 1 -o {output}"
    output.mkdir()
    assert run(line) == 0
    assert (output / "summary.json").is_file()
    assert run(line) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("nnUNetv2_accumulate_crossval_results 7 -c 2d", 1, r"no fold_2 \(there are fold_0, fold_1\)"),
        ("nnUNetv2_accumulate_crossval_results 7 -c 4d -f 0", 1, "there are nnUNetTrainer__nnUNetPlans__2d, "),
        ("nnUNetv2_accumulate_crossval_results 8 -c 2d -f 0", 1, "no dataset with the number 8"),
        ("nnUNetv2_find_best_configuration 7 -c 2d", 1, "nnUNetv2_train Dataset007_Small 2d 2"),
        ("nnUNetv2_find_best_configuration 7 -c 9d -f 0", 2, "none of the configurations"),
        ("nnUNetv2_find_best_configuration 7 -c 2d -f 0 -p Other", 1, r"Other\.json"),
        ("nnUNetv2_ensemble -i nowhere -o out", 1, "nowhere"),
        ("nnUNetv2_determine_postprocessing -i nowhere -ref labels", 1, "nowhere/plans.json"),
        ("nnUNetv2_apply_postprocessing -i nowhere -o out -pp_pkl_file none.pkl", 1, "no postprocessing none.pkl"),
    ],
)
def test_what_is_wrong_is_said(
    dataset: Any, capsys: pytest.CaptureFixture[str], line: str, status: int, message: str
) -> None:
    assert run(line) == status
    assert re.search(message, capsys.readouterr().err)
    assert not list(results(dataset).rglob("crossval*"))


@pytest.mark.parametrize("fold", ["all", "-1", "x"])
def test_folds_are_numbers(fold: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("nnUNetv2_find_best_configuration 7 -f", "nnUNetv2_accumulate_crossval_results 7 -c 2d -f"):
        with pytest.raises(SystemExit) as stop:
            run(f"{line} {fold}")
        assert stop.value.code == 2
    assert fold != "all" or "trained on all cases" in capsys.readouterr().err


def test_a_damaged_case_costs_only_itself(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for configuration in ("2d", "3d_fullres"):
        model = results(dataset) / f"{MODEL}{configuration}"
        folders.append(model / "fold_1" / "validation")
        for name in ("dataset.json", "plans.json"):
            shutil.copy(model / name, folders[-1])
    (folders[1] / "b2.npz").write_bytes(b"damaged")
    output = dataset.root / "out"
    assert run(f"nnUNetv2_ensemble -i {folders[0]} {folders[1]} -o {output} -np 1 --save_npz") == 1
    assert "1 case failed: b2" in capsys.readouterr().err
    assert {p.name for p in output.iterdir()} == {"dataset.json", "c3.nii.gz", "c3.npz", "c3.pkl"}


class Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def test_a_malicious_postprocessing_is_refused(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results(dataset) / f"{MODEL}2d" / "fold_0" / "validation"
    path, trap = dataset.root / "postprocessing.pkl", dataset.root / "trap"
    path.write_bytes(pickle.dumps(([Touch(trap)], [{"labels_or_regions": 1}])))
    assert run(f"nnUNetv2_apply_postprocessing -i {folder} -o {dataset.root / 'out'} -pp_pkl_file {path}") == 1
    assert "nothing of it was executed" in capsys.readouterr().err
    assert not trap.exists() and not (dataset.root / "out").exists()


def test_arguments_reach_the_request() -> None:
    parse = find_best_configuration.build_parser().parse_args
    line = "7 -p A B -c 2d -tr T U -np 3 -f 1 0 --disable_ensembling --no_overwrite --no_pbar"
    assert find_best_configuration.request(parse(line.split())) == SelectionRequest(
        dataset=7,
        plans_names=("A", "B"),
        configurations=("2d",),
        trainers=("T", "U"),
        num_processes=3,
        folds=(1, 0),
        ensembling=False,
        overwrite=False,
        progress=False,
    )
    defaults = find_best_configuration.request(parse(["Dataset007_Small", "-np", "5"]))
    assert defaults == SelectionRequest(dataset="Dataset007_Small", num_processes=5)
