"""The fine-tuning trainers against what was measured from live objects of nnU-Net and its fine-tuning fork."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_pt.networks.trainer_networks import network_of_trainer
from nnunet_pt.training.freezing import stage_at
from nnunet_pt.training.optimizers import build_optimizer
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.recipes import RECIPES
from nnunet_pt.training.schedules import learning_rates, phases

SHARED = Path(__file__).parents[3] / "shared"
FOLDER = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "nnssl" / "g_trainers"
RECORDED = FOLDER / "pretraining_trainers.json"
SCRATCH = FOLDER / "primus_from_scratch_trainers.json"
MASTER = "nnU-Net master"
RTOL = 1e-9


@lru_cache
def recorded(path: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def cases() -> list[tuple[str, str]]:
    return [(origin, name) for origin, trainers in recorded(RECORDED).items() for name in trainers]


pytestmark = pytest.mark.skipif(not RECORDED.is_file(), reason=f"there is no {RECORDED} (CONFORMANCE_GOLDEN)")


def facts_of(origin: str, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = recorded(RECORDED)[origin][name]
    return facts


def assert_curve(recipe: TrainingRecipe, facts: dict[str, Any]) -> None:
    rates = learning_rates(recipe)
    assert recipe.initial_lr == pytest.approx(facts["initial_lr"], rel=RTOL)
    assert [rates[e] for e in facts["epochs"]] == pytest.approx(facts["lr"], rel=RTOL)
    if "lr_sum_over_all_epochs" in facts:
        assert sum(rates) == pytest.approx(facts["lr_sum_over_all_epochs"], rel=RTOL)
    if "lr_first_110_epochs" in facts:
        assert rates[:110] == pytest.approx(facts["lr_first_110_epochs"], rel=RTOL)
        assert rates[-5:] == pytest.approx(facts["lr_last_5_epochs"], rel=RTOL)


@pytest.mark.parametrize(("origin", "name"), cases())
def test_learning_rates(origin: str, name: str) -> None:
    facts, recipe = facts_of(origin, name), RECIPES[name]
    assert_curve(recipe, facts["with_weights"])
    if "from_scratch" in facts:
        assert_curve(recipe.from_scratch(), facts["from_scratch"])


@pytest.mark.parametrize(("origin", "name"), cases())
def test_optimiser(origin: str, name: str) -> None:
    expected, recipe = facts_of(origin, name)["optimizer"], RECIPES[name]
    optimizer = build_optimizer(recipe, nn.Linear(2, 2).parameters())
    assert type(optimizer).__name__ == expected["type"]
    assert len(optimizer.param_groups) == expected["n_param_groups"]
    settings = ("momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "amsgrad")
    for setting in set(settings) & set(expected):
        value = optimizer.param_groups[0][setting]
        assert (list(value) if isinstance(value, tuple) else value) == expected[setting], setting


@pytest.mark.parametrize(("origin", "name"), cases())
def test_other_values(origin: str, name: str) -> None:
    facts, recipe = facts_of(origin, name), RECIPES[name]
    axes = len(facts["patch_size"])
    assert recipe.weight_decay == facts["weight_decay"]
    assert recipe.num_epochs == facts["num_epochs"]
    assert recipe.warmup_epochs == facts["warmup_epochs"]
    assert recipe.head_epochs == facts.get("warmup_duration_decoder", 0)
    assert [recipe.gradient_clip] == facts["gradient_clip_norm"]
    assert recipe.deep_supervision == facts["deep_supervision"]
    assert recipe.foreground_share(facts["batch_size"]) == facts["oversample_foreground_percent"]
    assert recipe.iterations_per_epoch == facts["num_iterations_per_epoch"]
    assert recipe.validation_iterations_per_epoch == facts["num_val_iterations_per_epoch"]
    assert recipe.save_every == facts["save_every"]
    mirrored = None if facts["mirror_axes"] is None else tuple(facts["mirror_axes"])
    assert recipe.mirror_axes(axes) == mirrored
    assert facts["inference_allowed_mirroring_axes"] == facts["mirror_axes"]
    usual = facts_of(origin, "PretrainedTrainer")["patch_size"]
    assert list(recipe.patch_size or usual) == facts["patch_size"]
    assert network_of_trainer(name).patch_size == recipe.patch_size
    # The fork takes the batch size of the plans, nnU-Net always 2; where both have the trainer, nnU-Net decides
    if origin == MASTER or name not in recorded(RECORDED)[MASTER]:
        assert (recipe.batch_size or facts["batch_size_in_plan"]) == facts["batch_size"]
    assert facts["loss"] == "DC_and_CE_loss" and recipe.loss == "default"


@pytest.mark.parametrize(("origin", "name"), cases())
def test_stages(origin: str, name: str) -> None:
    """When what begins. What the optimiser was given in the fork's decoder phases is a defect of it."""
    recipe = RECIPES[name]
    for facts in (facts_of(origin, name)["with_weights"], facts_of(origin, name).get("from_scratch")):
        if facts is None:
            continue
        found = phases(recipe)
        assert [phase.start for phase in found] == [stage["first_epoch"] for stage in facts["stages"]]
        assert [phase.fresh_optimizer for phase in found] == [stage["new_optimizer"] for stage in facts["stages"]]
        kinds = ["heads" if stage["stage"].endswith("_decoder") else "all" for stage in facts["stages"]]
        assert [phase.trains for phase in found] == [stage_at(recipe, p.start).trains for p in found] == kinds
        assert all(stage["all_parameters"] for stage, kind in zip(facts["stages"], kinds, strict=True) if kind == "all")


def scratch_cases() -> list[tuple[str, str]]:
    """Trainers, without the base class of some of them."""
    everything = [(origin, name) for origin, trainers in recorded(SCRATCH).items() for name in trainers]
    return [(origin, name) for origin, name in everything if not name.startswith("Abstract")]


@pytest.mark.parametrize(("origin", "name"), scratch_cases())
def test_primus_from_scratch(origin: str, name: str) -> None:
    facts: dict[str, Any] = recorded(SCRATCH)[origin][name]
    recipe = RECIPES[name]
    assert_curve(recipe, facts)
    assert recipe.weight_decay == facts["weight_decay"]
    assert recipe.num_epochs == facts["num_epochs"]
    assert recipe.warmup_epochs == (facts.get("warmup_epochs") or 0)
    assert recipe.deep_supervision == facts["deep_supervision"]
    kind = getattr(torch.optim, facts["optimizer"]["type"])
    assert isinstance(build_optimizer(recipe, nn.Linear(2, 2).parameters()), kind)
