"""Every argument reaches the request it belongs to."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest
from nnunet_pt.planning.move_plans import MovePlansRequest
from nnunet_pt.planning.planner import PlanRequest
from nnunet_pt.preprocessing.pipeline import PreprocessRequest
from nnunet_pt.training.task import TrainRequest


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


def train_request(arguments: str) -> TrainRequest:
    loaded = importlib.import_module("nnunet_pt.cli.train")
    request: TrainRequest = loaded.request(loaded.build_parser().parse_args(arguments.split()))
    return request


def test_training_without_options_asks_for_the_defaults() -> None:
    assert train_request("4 3d_fullres 0") == TrainRequest(dataset=4, configuration="3d_fullres", fold=0)


TRAIN_OPTIONS: dict[str, Any] = {
    "-tr file.py:Mine": {"trainer": "file.py:Mine"},
    "-p mine": {"plans_name": "mine"},
    "-pretrained_weights a/b.pth": {"pretrained_weights": Path("a/b.pth")},
    "-transfer match": {"transfer": "match"},
    "-transfer_layers encoder.stages.0-2 decoder": {"transfer_layers": ("encoder.stages.0-2", "decoder")},
    "-transfer_heads none": {"transfer_heads": "none"},
    "--fix_token_axes": {"fix_token_axes": True},
    "--allow_little_transfer": {"allow_little_transfer": True},
    "--keep_optimizer -pretrained_weights x": {"keep_optimizer": True, "pretrained_weights": Path("x")},
    "-reset_optimizer": {"reset_optimizer": True},
    "--reset_optimizer": {"reset_optimizer": True},
    "-freeze encoder.stem encoder.stages.0": {"freeze": ("encoder.stem", "encoder.stages.0")},
    "-freeze_epochs 10": {"freeze_epochs": 10},
    "-lr_factor encoder=0.1 decoder=2": {"lr_factors": ("encoder=0.1", "decoder=2")},
    "-num_gpus 2": {"num_processes": 2},
    "--npz": {"save_probabilities": True},
    "--c": {"continue_training": True},
    "--val": {"validation_only": True},
    "--val_best": {"validate_best": True},
    "--disable_checkpointing": {"disable_checkpointing": True},
    "-device mps": {"device": "mps"},
    "-epochs 7": {"epochs": 7},
    "-lr 0.001": {"lr": 0.001},
    "-iterations 8": {"iterations": 8},
    "-warmup_epochs 0": {"warmup_epochs": 0},
    "-patience 30": {"patience": 30},
    "-seed 0": {"seed": 0},
    "--deterministic": {"deterministic": True},
    "-precision bf16": {"precision": "bf16"},
    "-augment_on gpu": {"augment_on": "gpu"},
    "-save_every_minutes 2.5": {"save_every_minutes": 2.5},
    "-save_every_minutes 0": {"save_every_minutes": 0.0},
    "-scratch x": {"scratch": Path("x")},
    "-scratch none": {"scratch": "none"},
    "--requeue": {"requeue": True},
    "--tensorboard": {"tensorboard": True},
    "--no_pbar": {"progress": False},
}


@pytest.mark.parametrize("option", TRAIN_OPTIONS)
def test_training_options_are_passed_on(option: str) -> None:
    default = TrainRequest(dataset="Dataset004_A", configuration="2d", fold="all")
    assert train_request(f"Dataset004_A 2d all {option}") == replace(default, **TRAIN_OPTIONS[option])


def test_every_value_of_a_training_request_has_an_argument() -> None:
    reached = {name for values in TRAIN_OPTIONS.values() for name in values}
    of_fine_tuning = {"of_plans", "from_scratch", "checkpoint_path"}  # arguments of nnUNetv2_train_pretrained
    positional = {"dataset", "configuration", "fold"}
    assert {field.name for field in fields(TrainRequest)} == reached | positional | of_fine_tuning
