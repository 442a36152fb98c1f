"""The validation predictions of all folds in one folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.evaluation import crossval
from nnunet_pt.evaluation.crossval import Folds, ModelName, accumulate, crossval_folder_name, references_folder

MODEL = ModelName(trainer="nnUNetTrainer", plans="nnUNetPlans", configuration="2d")
FOLDS = {0: ["a1"], 1: ["b2"], 2: ["c3"]}


@pytest.fixture
def model(three: Any, cross_validation: Any) -> Path:
    """A model folder with three validated folds."""
    folder: Path = cross_validation(three, "2d", FOLDS, wrong=0.1)
    return folder


def survey(model: Path, *folds: int, name: ModelName = MODEL) -> Folds:
    return Folds.survey(model.parent, name, folds or (0, 1, 2))


def test_folds_are_copied_and_evaluated_together(three: Any, model: Path) -> None:
    output = model / crossval_folder_name((0, 1, 2))
    dice = accumulate(survey(model), output, three.raw / "labelsTr", progress=False)
    assert output.name == "crossval_results_folds_0_1_2"
    names = {f"{case}.nii.gz" for case in ("a1", "b2", "c3")}
    assert {p.name for p in output.iterdir()} == names | {"dataset.json", "plans.json", "summary.json"}
    summary = json.loads((output / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == dice
    assert 0.5 < dice < 1
    for case, (fold, (identifier,)) in zip(summary["metric_per_case"], FOLDS.items(), strict=True):
        assert case["prediction_file"] == str(output / f"{identifier}.nii.gz")
        original = model / f"fold_{fold}" / "validation" / f"{identifier}.nii.gz"
        assert (output / original.name).read_bytes() == original.read_bytes()


def test_some_folds_are_enough(three: Any, model: Path) -> None:
    accumulate(survey(model, 2, 0), model / "out", three.raw / "labelsTr", progress=False)
    assert {p.name for p in (model / "out").glob("*.nii.gz")} == {"a1.nii.gz", "c3.nii.gz"}


def test_what_was_there_is_replaced(three: Any, model: Path) -> None:
    output = model / "out"
    (output / "postprocessed").mkdir(parents=True)
    for name in ("old.nii.gz", "postprocessing.pkl", "postprocessed/old.nii.gz"):
        (output / name).write_bytes(b"old")
    accumulate(survey(model, 0), output, three.raw / "labelsTr", progress=False)
    assert {p.name for p in output.iterdir()} == {"a1.nii.gz", "dataset.json", "plans.json", "summary.json"}


def test_a_complete_result_is_kept_if_nothing_is_to_be_overwritten(three: Any, model: Path) -> None:
    output = model / "out"
    dice = accumulate(survey(model), output, three.raw / "labelsTr", progress=False)
    before = {p: p.stat().st_mtime_ns for p in output.iterdir()}

    def again() -> float:
        return accumulate(survey(model), output, three.raw / "labelsTr", overwrite=False, progress=False)

    assert again() == dice
    assert {p: p.stat().st_mtime_ns for p in output.iterdir()} == before
    (output / "b2.nii.gz").unlink()
    assert again() == dice
    (output / "summary.json").write_text("{}")
    assert again() == dice
    assert json.loads((output / "summary.json").read_text())["foreground_mean"]["Dice"] == dice


def test_an_interrupted_run_has_no_summary(three: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = model / "out"
    accumulate(survey(model), output, three.raw / "labelsTr", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(crossval, "evaluate_folder", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            accumulate(survey(model), output, three.raw / "labelsTr", progress=False)
    assert not (output / "summary.json").exists()


def findings(model: Path, *folds: int, name: ModelName = MODEL) -> str:
    found = survey(model, *folds, name=name)
    with pytest.raises(PredictionError) as caught:
        found.require()
    return str(caught.value)


def test_a_missing_fold_is_named_with_those_that_exist_and_the_command(model: Path) -> None:
    shutil.rmtree(model / "fold_1")
    text = findings(model, 0, 1, 2, 3)
    assert "nnUNetTrainer__nnUNetPlans__2d has no fold_1 (there are fold_0, fold_2); nnUNetv2_train" in text
    assert "nnUNetv2_train Dataset007_Small 2d 3" in text
    assert "fold_all" not in text


def test_a_model_of_all_cases_says_nothing(model: Path) -> None:
    for fold in (0, 1, 2):
        shutil.move(model / f"fold_{fold}", model.parent / f"elsewhere_{fold}")
    (model / "fold_all").mkdir()
    assert "there are fold_all; fold_all was trained on all cases" in findings(model, 0)


def test_a_missing_model_is_named_with_those_that_exist(model: Path) -> None:
    text = findings(model, 0, name=replace(MODEL, configuration="3d_fullres", trainer="Other", plans="P"))
    assert "there is no Other__P__3d_fullres in" in text
    assert "there are nnUNetTrainer__nnUNetPlans__2d" in text
    assert "nnUNetv2_train Dataset007_Small 3d_fullres 0 -tr Other -p P" in text


def test_no_model_at_all(tmp_path: Path) -> None:
    assert "no trained model of this dataset" in findings(tmp_path / "model", 0)


def test_a_validation_that_did_not_finish_is_named(model: Path) -> None:
    (model / "fold_0" / "validation" / "summary.json").unlink()
    shutil.rmtree(model / "fold_2" / "validation")
    text = findings(model)
    assert "fold_0/validation has 1 segmentations but no summary.json" in text
    assert "fold_2/validation holds no segmentations; nnUNetv2_train Dataset007_Small 2d 2 --val" in text


def test_a_case_in_two_folds_is_named(model: Path) -> None:
    shutil.copy(model / "fold_0" / "validation" / "a1.nii.gz", model / "fold_2" / "validation")
    assert "case a1 is in fold_0 and in fold_2" in findings(model)


def test_the_same_fold_twice_is_once(model: Path) -> None:
    assert list(survey(model, 0, 0).predictions) == ["a1"]


def test_missing_probabilities_are_noticed(model: Path) -> None:
    assert survey(model).missing_probabilities == ()
    (model / "fold_1" / "validation" / "b2.npz").unlink()
    (model / "fold_2" / "validation" / "c3.pkl").unlink()
    assert survey(model).missing_probabilities == (1, 2)
    survey(model).require()


def test_missing_references_are_named(three: Any, model: Path) -> None:
    three.label("b2").unlink()
    with pytest.raises(PredictionError, match="b2"):
        accumulate(survey(model), model / "out", three.raw / "labelsTr", progress=False)


def test_annotations_are_those_of_the_raw_dataset_or_their_copies(three: Any) -> None:
    copies = three.preprocessed / "gt_segmentations"
    assert references_folder(three.workspace, three.name) == three.raw / "labelsTr"
    shutil.move(three.raw / "labelsTr", three.raw / "elsewhere")
    with pytest.raises(PredictionError, match="annotations of Dataset007_Small"):
        references_folder(three.workspace, three.name)
    copies.mkdir()
    assert references_folder(three.workspace, three.name) == copies
    alone = Workspace(Settings(preprocessed=three.preprocessed.parent))
    assert references_folder(alone, three.name) == copies
