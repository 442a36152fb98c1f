"""Which model or ensemble is the best."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError, PredictionError, UsageError
from nnunet_pt.evaluation import best_configuration
from nnunet_pt.evaluation.best_configuration import Selection, SelectionRequest, find_best_configuration
from nnunet_pt.evaluation.crossval import ModelName
from nnunet_pt.evaluation.instructions import inference_instructions

FOLDS = {0: ["a1"], 1: ["b2"], 2: ["c3"]}
ENSEMBLE = "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1_2"
MODELS = ("nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres")


def find(dataset: Any, **options: Any) -> Selection:
    request = SelectionRequest(dataset=7, **{"folds": (0, 1, 2), "progress": False, **options})
    return find_best_configuration(request, dataset.workspace)


def information(dataset: Any) -> Any:
    return json.loads((dataset.root / "results" / dataset.name / "inference_information.json").read_text())


def instructions(dataset: Any) -> list[str]:
    text = (dataset.root / "results" / dataset.name / "inference_instructions.txt").read_text()
    return [line for line in text.splitlines() if line.startswith("nnUNetv2_")]


@pytest.fixture
def models(three: Any, cross_validation: Any) -> Any:
    """A function that writes two models with so many wrong voxels and gives the dataset."""

    def make(first: float = 0.3, second: float = 0.1, **options: Any) -> Any:
        cross_validation(three, "2d", FOLDS, wrong=first, **options)
        cross_validation(three, "3d_fullres", FOLDS, wrong=second, **options)
        return three

    return make


def test_the_better_model_wins_and_everything_is_written_down(models: Any) -> None:
    dataset = models()
    found = find(dataset)
    results = dataset.root / "results" / dataset.name
    written = information(dataset)
    assert list(written["all_results"]) == [ENSEMBLE, *MODELS]
    assert written["all_results"] == {c.name: c.dice for c in found.candidates}
    folder = results / MODELS[1] / "crossval_results_folds_0_1_2"
    assert written["best_model_or_ensemble"] == {
        "postprocessing_file": str(folder / "postprocessing.pkl"),
        "result_on_crossval_post_pp": found.postprocessing.after.dice,
        "result_on_crossval_pre_pp": written["all_results"][MODELS[1]],
        "selected_model_or_models": [
            {"configuration": "3d_fullres", "plans_identifier": "nnUNetPlans", "trainer": "nnUNetTrainer"}
        ],
        "some_plans_file": str(folder / "plans.json"),
    }
    model = {"plans": "nnUNetPlans", "trainer": "nnUNetTrainer"}
    assert written["considered_models"] == [{"configuration": c, **model} for c in ("2d", "3d_fullres")]
    assert written["dataset_name_or_id"] == "Dataset007_Small"
    assert (written["ensembling_allowed"], written["folds"]) == (True, [0, 1, 2])
    assert len(written) == 6
    assert instructions(dataset) == [
        "nnUNetv2_predict -d Dataset007_Small -i INPUT_FOLDER -o OUTPUT_FOLDER -f 0 1 2 -tr nnUNetTrainer "
        "-c 3d_fullres -p nnUNetPlans",
        f"nnUNetv2_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_pkl_file {folder}/postprocessing.pkl "
        f"-np 8 -plans_json {folder}/plans.json",
    ]
    assert (folder / "postprocessed" / "a1.nii.gz").is_file()
    text = found.summary()
    assert f"Best: {MODELS[1]}, Dice" in text and "nnUNetv2_predict" in text


def test_an_ensemble_wins_if_it_is_better(models: Any) -> None:
    dataset = models(wrong_probabilities=0.0)
    find(dataset)
    best = information(dataset)["best_model_or_ensemble"]
    folder = dataset.root / "results" / dataset.name / "ensembles" / ENSEMBLE
    assert best["result_on_crossval_pre_pp"] == 1.0
    assert best["postprocessing_file"] == str(folder / "postprocessing.pkl")
    assert best["some_plans_file"] == str(folder / "plans.json")
    assert [m["configuration"] for m in best["selected_model_or_models"]] == ["2d", "3d_fullres"]
    names = {"a1.nii.gz", "b2.nii.gz", "c3.nii.gz", "dataset.json", "plans.json", "summary.json"}
    assert {p.name for p in folder.iterdir()} == names | {"postprocessed", "postprocessing.json", "postprocessing.pkl"}
    predict = "nnUNetv2_predict -d Dataset007_Small -i INPUT_FOLDER -o"
    model = "-f 0 1 2 -tr nnUNetTrainer -c"
    assert instructions(dataset)[:3] == [
        f"{predict} OUTPUT_FOLDER_MODEL_1 {model} 2d -p nnUNetPlans --save_probabilities",
        f"{predict} OUTPUT_FOLDER_MODEL_2 {model} 3d_fullres -p nnUNetPlans --save_probabilities",
        "nnUNetv2_ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER -np 8",
    ]


@pytest.mark.parametrize("configurations", [("2d", "3d_fullres"), ("3d_fullres", "2d")])
def test_the_first_of_equals_wins(models: Any, configurations: tuple[str, ...]) -> None:
    found = find(models(0.0, 0.0), configurations=configurations)
    assert [c.dice for c in found.candidates] == [1.0, 1.0, 1.0]
    assert [m.configuration for m in found.best.members] == [configurations[0]]


def test_all_combinations_are_compared_in_the_order_of_nnunet(three: Any, cross_validation: Any) -> None:
    three.plan("P")
    for trainer in ("nnUNetTrainer", "T"):
        for plans in ("nnUNetPlans", "P"):
            for configuration in ("2d", "3d_fullres"):
                cross_validation(three, configuration, FOLDS, trainer=trainer, plans=plans, probabilities=False)
    find(
        three,
        trainers=("T", "nnUNetTrainer"),
        plans_names=("nnUNetPlans", "P"),
        configurations=("3d_fullres", "2d"),
        ensembling=False,
    )
    considered = [
        tuple(m[k] for k in ("trainer", "configuration", "plans")) for m in information(three)["considered_models"]
    ]
    assert considered == [
        (t, c, p) for t in ("T", "nnUNetTrainer") for c in ("3d_fullres", "2d") for p in ("nnUNetPlans", "P")
    ]


def test_configurations_that_the_plans_do_not_have_are_skipped(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    dataset = models()
    with caplog.at_level(logging.INFO, logger=best_configuration.__name__):
        find(dataset, configurations=("3d_lowres", "2d"))
    assert "Configuration 3d_lowres is skipped: plans nnUNetPlans do not have it." in caplog.text
    assert [m["configuration"] for m in information(dataset)["considered_models"]] == ["2d"]
    with pytest.raises(UsageError, match=r"nothing to choose from(.|\n)*nnUNetPlans: 2d, 3d_fullres"):
        find(dataset, configurations=("3d_lowres", "4d"))


def test_missing_plans_are_named_and_those_of_a_model_will_do(models: Any) -> None:
    dataset = models()
    with pytest.raises(PlansError, match=r"no plans file .*Other\.json(.|\n)*nnUNetPlans"):
        find(dataset, plans_names=("Other",))
    (dataset.preprocessed / "nnUNetPlans.json").unlink()
    assert len(find(dataset).candidates) == 3


def test_all_that_is_missing_is_said_at_once_and_nothing_is_written(models: Any) -> None:
    dataset = models()
    results = dataset.root / "results" / dataset.name
    shutil.rmtree(results / MODELS[0])
    shutil.rmtree(results / MODELS[1] / "fold_2")
    (results / MODELS[1] / "fold_0" / "validation" / "summary.json").unlink()
    with pytest.raises(PredictionError, match=r"no .*2d in (.|\n)*no summary\.json(.|\n)*no fold_2"):
        find(dataset)
    assert not list(results.rglob("crossval*")) and not list(results.glob("inference*"))


def test_missing_probabilities_are_named_with_the_commands(models: Any) -> None:
    dataset = models(probabilities=False)
    with pytest.raises(PredictionError) as caught:
        find(dataset)
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1, 2):
            assert f"nnUNetv2_train Dataset007_Small {configuration} {fold} --val --npz" in str(caught.value)
    assert "--disable_ensembling" in str(caught.value)
    assert not list((dataset.root / "results").rglob("crossval*"))
    find(dataset, ensembling=False)
    written = information(dataset)
    assert written["ensembling_allowed"] is False and set(written["all_results"]) == set(MODELS)


def test_one_model_needs_no_probabilities(models: Any) -> None:
    assert len(find(models(probabilities=False), configurations=("2d",)).candidates) == 1


def test_models_of_other_cases_are_not_compared(three: Any, cross_validation: Any) -> None:
    three.add("d4")
    cross_validation(three, "2d", FOLDS)
    cross_validation(three, "3d_fullres", {0: ["a1"], 1: ["b2"], 2: ["d4"]})
    with pytest.raises(PredictionError, match=r"2d has cases that .*3d_fullres does not have: c3(.|\n)*: d4"):
        find(three)


def test_earlier_results_are_kept_if_asked_for(models: Any) -> None:
    dataset = models()
    first = find(dataset)
    results = dataset.root / "results" / dataset.name
    shutil.rmtree(results / MODELS[0])
    shutil.copytree(results / MODELS[1], results / MODELS[0], ignore=shutil.ignore_patterns("crossval*"))
    ensemble = results / "ensembles" / ENSEMBLE
    (ensemble / "summary.json").unlink()  # as if interrupted: one case is left to do
    (ensemble / "b2.nii.gz").unlink()
    before = (ensemble / "a1.nii.gz").stat().st_mtime_ns
    kept = find(dataset, overwrite=False)
    assert kept.candidates[1] == first.candidates[1]
    assert kept.candidates[0].dice == kept.candidates[1].dice
    assert (ensemble / "a1.nii.gz").stat().st_mtime_ns == before
    assert (ensemble / "summary.json").is_file()
    again = find(dataset)
    assert (ensemble / "a1.nii.gz").stat().st_mtime_ns > before
    assert again.candidates[2].dice == again.candidates[1].dice


def with_cascade(dataset: Any) -> None:
    entries = dataset.plans["configurations"]
    entries["3d_lowres"] = {**entries["3d_fullres"], "next_stage": "3d_cascade_fullres"}
    entries["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    dataset.plan()


def test_a_cascade_is_predicted_in_two_stages(three: Any, cross_validation: Any) -> None:
    with_cascade(three)
    cross_validation(three, "3d_cascade_fullres", FOLDS)
    find(three, configurations=("3d_cascade_fullres",))
    predict = "nnUNetv2_predict -d Dataset007_Small -i INPUT_FOLDER -o"
    model = "-f 0 1 2 -tr nnUNetTrainer -c"
    assert instructions(three)[:2] == [
        f"{predict} OUTPUT_FOLDER_PREV_STAGE {model} 3d_lowres -p nnUNetPlans",
        f"{predict} OUTPUT_FOLDER {model} 3d_cascade_fullres -p nnUNetPlans "
        "-prev_stage_predictions OUTPUT_FOLDER_PREV_STAGE",
    ]


def test_a_cascade_and_its_first_stage_are_predicted_once_each(three: Any, cross_validation: Any) -> None:
    with_cascade(three)
    for configuration in ("3d_cascade_fullres", "3d_lowres"):
        cross_validation(three, configuration, FOLDS, wrong=0.2, wrong_probabilities=0.0)
    find(three, configurations=("3d_cascade_fullres", "3d_lowres"))
    predict = "nnUNetv2_predict -d Dataset007_Small -i INPUT_FOLDER -o"
    model = "-f 0 1 2 -tr nnUNetTrainer -c"
    assert instructions(three)[:3] == [
        f"{predict} OUTPUT_FOLDER_MODEL_2 {model} 3d_lowres -p nnUNetPlans --save_probabilities",
        f"{predict} OUTPUT_FOLDER_MODEL_1 {model} 3d_cascade_fullres -p nnUNetPlans "
        "-prev_stage_predictions OUTPUT_FOLDER_MODEL_2 --save_probabilities",
        "nnUNetv2_ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER -np 8",
    ]


def test_a_label_that_is_in_no_case_leaves_nothing_to_compare(
    three: Any, cross_validation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    three.description["labels"]["never"] = 3
    three.describe()
    for configuration in ("2d", "3d_fullres"):
        cross_validation(three, configuration, FOLDS)
    with caplog.at_level(logging.WARNING, logger=best_configuration.__name__):
        found = find(three)
    assert "no mean Dice is defined" in caplog.text
    assert found.best is found.candidates[0]


def test_instructions_can_be_copied_whatever_the_folder_is_called() -> None:
    model = ModelName(trainer="nnUNetTrainer", plans="nnUNetPlans", configuration="2d")
    file = Path("/my results/model/postprocessing.pkl")
    words = shlex.split(inference_instructions("Dataset007_Small", [(model, None)], [0], file).splitlines()[-1])
    assert words[words.index("-pp_pkl_file") + 1] == str(file)
    assert words[words.index("-plans_json") + 1] == "/my results/model/plans.json"
