"""Every argument reaches the request it belongs to."""

from __future__ import annotations

import importlib
from typing import Any

from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest
from nnunet_pt.planning.move_plans import MovePlansRequest
from nnunet_pt.planning.planner import PlanRequest
from nnunet_pt.preprocessing.pipeline import PreprocessRequest


def requests(module: str, arguments: str) -> Any:
    loaded = importlib.import_module(f"nnunet_pt.cli.{module}")
    return loaded.requests(loaded.build_parser().parse_args(arguments.split()))


def test_fingerprint_without_options_asks_for_the_defaults() -> None:
    assert requests("extract_fingerprint", "-d 4") == (FingerprintRequest(dataset=4),)


def test_fingerprint_options_are_passed_on() -> None:
    arguments = (
        "-d 4 Dataset015_B -fpe Other -np 3 --verify_dataset_integrity --clean --max_ram_gb 2.5 --continue_on_error "
        "--no_pbar"
    )
    expected = tuple(
        FingerprintRequest(
            dataset=dataset,
            num_processes=3,
            verify_integrity=True,
            clean=True,
            max_ram_gb=2.5,
            progress=False,
            on_failure="continue",
            extractor="Other",
        )
        for dataset in (4, "Dataset015_B")
    )
    assert requests("extract_fingerprint", arguments) == expected


def test_planning_without_options_asks_for_the_defaults() -> None:
    (request,) = requests("plan_experiment", "-d 4")
    assert (request.dataset, request.planner, request.preprocessor_name) == (
        4,
        "ExperimentPlanner",
        "DefaultPreprocessor",
    )
    assert (request.gpu_memory_target_gb, request.overwrite_target_spacing, request.plans_name) == (None, None, None)


def test_planning_options_are_passed_on() -> None:
    arguments = (
        "-d 4 -pl nnUNetPlannerResEncL -gpu_memory_target 11 -preprocessor_name Other "
        "-overwrite_target_spacing 3 1 0.5 -overwrite_plans_name mine"
    )
    assert requests("plan_experiment", arguments) == (
        PlanRequest(
            dataset=4,
            planner="nnUNetPlannerResEncL",
            gpu_memory_target_gb=11.0,
            preprocessor_name="Other",
            overwrite_target_spacing=(3.0, 1.0, 0.5),
            plans_name="mine",
        ),
    )


def test_preprocessing_without_options_asks_for_the_defaults() -> None:
    assert requests("preprocess", "-d 4") == (PreprocessRequest(dataset=4),)


def test_preprocessing_options_are_passed_on() -> None:
    arguments = (
        "-d 4 -plans_name mine -c 2d 3d_fullres -np 3 2 --clean --verify --max_ram_gb 8 --continue_on_error --no_pbar"
    )
    assert requests("preprocess", arguments) == (
        PreprocessRequest(
            dataset=4,
            plans_name="mine",
            configurations=("2d", "3d_fullres"),
            num_processes=(3, 2),
            clean=True,
            verify=True,
            max_ram_gb=8.0,
            progress=False,
            on_failure="continue",
        ),
    )


def test_plans_may_be_named_as_in_training() -> None:
    assert requests("preprocess", "-d 4 -p mine") == requests("preprocess", "-d 4 -plans_name mine")


def test_moving_plans_passes_everything_on() -> None:
    loaded = importlib.import_module("nnunet_pt.cli.move_plans_between_datasets")
    arguments = "-s 16 -t Dataset015_B -sp nnUNetPlans -tp mine --force"
    args = loaded.build_parser().parse_args(arguments.split())
    assert loaded.request(args) == MovePlansRequest(
        source=16, target="Dataset015_B", source_plans="nnUNetPlans", target_plans="mine", force=True
    )
